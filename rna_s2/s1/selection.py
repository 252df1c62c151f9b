"""Parameters of inference: which proposals are kept, and how the maps are computed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from rna_s2.fitting.devices import PRECISION_HELP, Device, Precision, chosen_device
from rna_s2.options.base import Options

Selection = Literal["on_threshold", "n_proposal", "both", "union", "support"]

SUPPORT_ON_THRESHOLD = 0.005
"""p_on that a cell must exceed to propose for the selection ``support``: what lies below adds next to nothing to a box."""

SCALAR_SUPPORT = 0.2
"""What a proposal of the scalar size counts in a box's support, beside one of the softmax size. Its probability lacks the
factor for the size, so it is too high."""


class SelectionOptions(Options):
    """Which of the proposed boxes are kept."""

    selection: Selection = Field(
        "support",
        description="on_threshold: only cells whose p_on exceeds on_threshold propose; n_proposal: all cells propose,"
        " and boxes are kept whose number of proposals over their area exceeds n_proposal_threshold; both: the second"
        " after the first; union: boxes that either keeps, with the proposals of all cells; support: boxes whose"
        " proposals' probabilities add up to min_support or more",
    )
    on_threshold: float = Field(
        0.1, ge=0, lt=1, description="p_on that a cell must exceed to propose, with on_threshold, both and union"
    )
    n_proposal_threshold: float = Field(
        0.2, ge=0, description="proposals per cell of the box that a box must exceed, with n_proposal, both and union;"
        " half of it for hloops"
    )
    min_support: float = Field(
        0.02, ge=0, description="with support: least sum of the probabilities of a box's proposals, those of the scalar"
        " size counting a fifth"
    )
    mask_lower_triangle: bool = Field(
        True, description="mask location and size classes that would put the box outside of the map's upper triangle"
    )
    drop_impossible_stems: bool = Field(False, description="drop stems with a pair other than A-U, G-C, G-U")

    @property
    def least_on(self) -> float | None:
        """p_on that a cell must exceed to propose at all; None where every cell does."""
        if self.selection in ("n_proposal", "union"):
            return None
        return SUPPORT_ON_THRESHOLD if self.selection == "support" else self.on_threshold


class InferenceOptions(Options):
    """How the maps are computed: memory and speed, not the result (but for rounding)."""

    batch_pixels: int = Field(49152, ge=1, description="map cells in a batch: rows times the square of the longest")
    patch: int = Field(384, ge=16, description="longest map computed whole; longer ones in patches of this side")
    precision: Precision = Field("32", description=PRECISION_HELP)
    device: Device = Field(
        "auto", description="where the networks run; auto: on a CUDA device where there is one, else on the CPU"
    )

    @field_validator("device")
    @classmethod
    def _there(cls, device: Device) -> Device:
        if device == "cuda":
            chosen_device(device)
        return device
