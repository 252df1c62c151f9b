"""Which proposals stay, and how the maps are computed: the options, and the selections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from rna_s2.fitting.devices import PRECISION_HELP, Device, Precision, chosen_device
from rna_s2.options.base import Options

Selection = Literal["on_threshold", "n_proposal", "both", "union", "support"]

SUPPORT_ON_THRESHOLD = 0.005
"""p_on that a cell must exceed to propose for the selection ``support``: what lies below adds next to nothing to a box."""

SCALAR_SUPPORT = 0.2
"""What a proposal of the scalar size counts in a box's support, beside one of the softmax size. Its probability lacks the
factor for the size, so it is too high."""

HLOOP_AREA_SHARE = 0.5
"""Share of an hloop's square that lies above the diagonal, about; its threshold on n_proposal shrinks by it."""


class Evidence(NamedTuple):
    """What the proposals of each box add up to.

    Attributes:
        density: ``(boxes,)`` proposals over area, of the size output that has more; of an hloop, over
            :data:`HLOOP_AREA_SHARE` of its area.
        on: ``(boxes,)`` bool: a cell whose p_on exceeds ``on_threshold`` proposes the box.
        support: ``(boxes,)`` sum of the proposals' probabilities, those of the scalar size times :data:`SCALAR_SUPPORT`.
    """

    density: np.ndarray
    on: np.ndarray
    support: np.ndarray


@dataclass(frozen=True)
class SelectionRule:
    """A selection of proposals.

    Attributes:
        description: what it does, for the help.
        thresholds: options of :class:`SelectionOptions` that it depends on.
        least_on: p_on that a cell must exceed to propose; None: every cell proposes.
        stays: ``(boxes,)`` bool: which boxes stay.
    """

    description: str
    thresholds: tuple[str, ...]
    least_on: Callable[[SelectionOptions], float | None]
    stays: Callable[[SelectionOptions, Evidence], np.ndarray]


def _is_dense(options: SelectionOptions, boxes: Evidence) -> np.ndarray:
    return boxes.density > options.n_proposal_threshold


SELECTIONS: dict[Selection, SelectionRule] = {
    "on_threshold": SelectionRule(
        "only cells whose p_on exceeds on_threshold propose", ("on_threshold",),
        lambda options: options.on_threshold, lambda options, boxes: np.ones(len(boxes.on), bool),
    ),
    "n_proposal": SelectionRule(
        "all cells propose, and boxes are kept whose number of proposals over their area exceeds n_proposal_threshold",
        ("n_proposal_threshold",), lambda options: None, _is_dense,
    ),
    "both": SelectionRule(
        "the second after the first", ("on_threshold", "n_proposal_threshold"),
        lambda options: options.on_threshold, _is_dense,
    ),
    "union": SelectionRule(
        "boxes that either keeps, with the proposals of all cells", ("on_threshold", "n_proposal_threshold"),
        lambda options: None, lambda options, boxes: boxes.on | _is_dense(options, boxes),
    ),
    "support": SelectionRule(
        "boxes whose proposals' probabilities add up to min_support or more", ("min_support",),
        lambda options: SUPPORT_ON_THRESHOLD, lambda options, boxes: boxes.support >= options.min_support,
    ),
}
"""Every selection. A new one is an entry here and its name in :data:`Selection`."""

THRESHOLDS = {
    "on_threshold": "p_on above {:g}",
    "n_proposal_threshold": "proposals over area above {:g}",
    "min_support": "probabilities that add up to {:g}",
}
"""The thresholds of the selections, and what they are called in a sentence."""


class SelectionOptions(Options):
    """Which of the proposed boxes are kept."""

    selection: Selection = Field(
        "support", description="; ".join(f"{name}: {rule.description}" for name, rule in SELECTIONS.items())
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
    def rule(self) -> SelectionRule:
        """The selection's entry in :data:`SELECTIONS`."""
        return SELECTIONS[self.selection]

    @property
    def least_on(self) -> float | None:
        """p_on that a cell must exceed to propose at all; None where every cell does."""
        return self.rule.least_on(self)


class InferenceOptions(Options):
    """How the maps are computed: memory and speed, not the result (but for rounding)."""

    batch_pixels: int = Field(49152, ge=1, description="map cells in a batch: rows times the square of the longest")
    patch: int = Field(512, ge=16, description="longest map computed whole; longer ones in patches of this side")
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
