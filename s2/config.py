"""The S2 network's and its training's configuration, as typed sections of a config file.

Names are those of the reference experiment where it had one (``n_dim``, ``n_attn_layer``, ``lstm_hid``, ...).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rna_s2.fitting.devices import PRECISION_HELP, Precision
from rna_s2.fitting.schedules import SCHEDULE_HELP, ScheduleName
from rna_s2.options.base import Options
from rna_s2.options.command_line import called
from rna_s2.s2.architectures import ARCHITECTURE_HELP, ArchitectureName
from rna_s2.s2.feature_groups import KINDS, WITHOUT, Coordinates, Kind, Without, column_names, foreign_to


class FeatureConfig(Options):
    """What goes into S2 for each box."""

    kind: Kind = Field("baseline", description="features of a box: " + ", ".join(KINDS))
    keep_partial: bool = Field(False, description="keep rows whose target boxes were not all proposed")
    without: tuple[Without, ...] = Field(
        (), description="columns that are taken away, by group (the LSTMs are one per type all the same): " + ", ".join(WITHOUT)
    )
    coordinates: Coordinates = Field(
        "raw", description="places and sizes: raw in bases; scaled to about 1; relative to the sequence's length"
    )
    shuffle_bases: Literal["none", "box", "row"] = Field(
        "none", description="a control: bases permuted within each box, or over a row's boxes of one type"
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are asked for, in order."""
        return column_names(self.kind, self.without, self.coordinates)

    @model_validator(mode="after")
    def _something_is_left(self) -> FeatureConfig:
        foreign = foreign_to(self.kind, self.without)
        if foreign:
            raise ValueError(f"without names {foreign}, which the kind {self.kind} does not have")
        if KINDS[self.kind].bases == "none" and not self.columns:
            raise ValueError(f"without takes all columns of the kind {self.kind} away; leave one group")
        if self.shuffle_bases != "none" and KINDS[self.kind].bases != "boxes":
            with_bases = " or ".join(name for name, kind in KINDS.items() if kind.bases == "boxes")
            raise ValueError(f"shuffle_bases needs the kind {with_bases}, not {self.kind}")
        return self


class SplitConfig(Options):
    """Which rows train the network, which validate it, and which are put aside to test it once."""

    by: Literal["order", "group"] = Field(
        "group", description="order: the first rows train; group: no transcript on both sides, and of rows without"
        " transcript_id no similar sequence", json_schema_extra=called("split"),
    )
    train_share: float = Field(0.8, gt=0, lt=1, description="share that trains of the rows that are not put aside")
    test_share: float = Field(0.0, ge=0, lt=1, description="share of the rows put aside: they neither train nor validate")
    test_seed: int = Field(0, ge=0, description="of the groups put aside; the training's seed has no part in it")
    partial_rows: Literal["as_others", "train"] = Field(
        "as_others", description="rows whose target boxes were not all proposed: as_others splits them like any row, "
        "train keeps them out of validation and test, which are those of a training without them"
    )


class RelationalConfig(Options):
    """What the relational network has beyond the self-attention network (:mod:`rna_s2.s2.relational`)."""

    relation_bias: bool = Field(True, description="attention knows how two boxes stand to each other")
    sequence: bool = Field(True, description="convolutions read the whole sequence")
    channels: int = Field(48, ge=1, description="width of the convolutions over the sequence")
    dilations: tuple[int, ...] = Field((1, 2, 4, 8), description="dilation of each convolution, in bases")

    @model_validator(mode="after")
    def _dilations_fit(self) -> RelationalConfig:
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"dilations must be one or more numbers from 1 on, got {list(self.dilations)}")
        return self


class NetworkConfig(Options):
    """Architecture and size of the network; the defaults are the reference experiment's."""

    architecture: ArchitectureName = Field("boxes", description=ARCHITECTURE_HELP)
    n_dim: int = Field(100, ge=1, description="width of a box's embedding")
    n_attn_layer: int = Field(5, ge=0, description="encoder layers; 0 scores each box alone")
    attention: bool = Field(True, description="boxes of a row attend to each other; without, the layers see each box alone")
    n_heads: int = Field(5, ge=1, description="attention heads; must divide n_dim")
    n_ff: int = Field(2048, ge=1, description="width of the feed-forward layers")
    n_hid: int = Field(20, ge=1, description="width of the hidden layer before the output")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of embedding, attention and feed-forward layers")
    lstm_hid: int = Field(20, ge=1, description="hidden units of the LSTMs over a box's bases")
    lstm_layer: int = Field(4, ge=1, description="layers of the LSTMs over a box's bases")
    relational: RelationalConfig = Field(
        default_factory=RelationalConfig, description="what the relational architecture has beyond the other"
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> NetworkConfig:
        if self.n_dim % self.n_heads:
            raise ValueError(
                f"n_dim {self.n_dim} must be divisible by n_heads {self.n_heads}; "
                f"e.g. n_dim {self.n_heads * max(1, round(self.n_dim / self.n_heads))}"
            )
        return self


class AugmentationConfig(Options):
    """Changes to the training rows that leave their labels as they are."""

    bb_augmentation_shift: bool = Field(False, description="shift all boxes of a row by the same random offset")
    bb_shift: int = Field(0, ge=0, description="largest offset, in bases, in either direction; never below position 0")


class TrainingConfig(Options):
    """How the network is trained; the defaults are the reference experiment's."""

    epoch: int = Field(50, ge=1, description="passes over the training rows", json_schema_extra=called("epochs"))
    batch_size: int = Field(2, ge=1, description="rows in a batch")
    batch_boxes: int = Field(
        0, ge=0, description="boxes in a batch, each row padded to the longest, in place of batch_size rows; 0: batch_size rows"
    )
    max_boxes: int = Field(
        0, ge=0, description="rows with more boxes do not train a network (rules of a study learn from them all the same); "
        "0: no limit"
    )
    row_share: float = Field(
        1.0, gt=0, le=1, description="share of the training rows that train, sampled, for learning curves; a smaller "
        "share is a part of a larger one"
    )
    n_length_groups: int = Field(
        20, ge=1, description="groups of rows with a similar number of boxes, from which batches are sampled"
    )
    lr: float = Field(1e-4, gt=0, description="Adam's learning rate")
    betas: tuple[float, float] = Field((0.9, 0.98), description="Adam's decay rates")
    lr_schedule: ScheduleName = Field("constant", description=SCHEDULE_HELP)
    precision: Precision = Field("32", description=PRECISION_HELP)
    early_stopping: int = Field(0, ge=0, description="stop after so many epochs without a better val/auroc; 0: never")
    dropout_off_after_first_epoch: bool = Field(
        False, description="train without dropout from the second epoch, as the reference's baseline did by mistake"
    )

    @model_validator(mode="after")
    def _betas_in_range(self) -> TrainingConfig:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {list(self.betas)}")
        return self
