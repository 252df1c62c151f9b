"""The config of a training of S2: its sections, as typed objects."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from rna_s2.options.base import MODEL_NAME, Options
from rna_s2.options.command_line import CONFIG_ONLY, shown
from rna_s2.options.places import ProjectPath, in_project
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.open_models import SHIPPED_S1
from rna_s2.pruning.rules import REFERENCE_RULES, PruningRules
from rna_s2.s1.config import SegmentRule
from rna_s2.s1.selection import SelectionOptions
from rna_s2.s2.architectures import complaint
from rna_s2.s2.config import FeatureConfig
from rna_s2.s2.training import S2Config

SAMPLE = in_project("data/sample_s1.parquet")
"""The S1 table that comes with the repository."""


class SourceOptions(Options):
    """Where the rows come from: an S1 table, or transcripts that one is made of; the sample where neither is named."""

    in_file: ProjectPath = Field(
        "", description="S1 table: Parquet or a field pickle (.pkl.gz); without it and without transcripts the sample in data/"
    )
    transcripts: str = Field(
        "", description="instead: FASTA file, plain or gzip, a path or URL; is cut, folded, and given to stage 1"
    )
    model: ProjectPath = Field(
        SHIPPED_S1, min_length=1, description="stage 1 for transcripts: folder of a network, or models:/NAME"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if values.get("in_file") and values.get("transcripts"):
            raise ValueError("give either in_file or transcripts, not both")
        return values if values.get("in_file") or values.get("transcripts") else {**values, "in_file": SAMPLE}


class DataConfig(SourceOptions):
    """Where the rows come from, and how an S1 table is made of transcripts."""

    segments: SegmentRule = Field(default_factory=SegmentRule, description="how transcripts are cut, what is kept")
    selection: SelectionOptions = Field(
        default_factory=lambda: SelectionOptions(), description="which proposals of stage 1 are kept"
    )
    max_rejects: int = Field(0, ge=-1, description="unusable rows to go on without; -1: any number")
    cache_dir: str = Field(".cache", description="folder for pruned tables, encoded datasets and checkpoints")


class TrainConfig(TrackedOptions, S2Config):
    """A whole training: data, pruning, features, network, split, augmentation, training."""

    name: str = Field(
        "baseline", pattern=MODEL_NAME, description="name of the model, for runs and plots", json_schema_extra=CONFIG_ONLY
    )
    registered_name: str | None = Field(
        None, pattern=MODEL_NAME, description="name in the model registry; none registers nothing"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of everything random")
    start: str = Field(
        "", description="stage 2 whose weights the training begins with, of the same features and sizes: folder, or "
        "models:/NAME; empty: fresh weights"
    )
    resume: str = Field("", description="id of a run to go on with after an interruption")
    data: DataConfig = Field(default_factory=DataConfig, description="where the rows come from", json_schema_extra=shown())
    pruning: PruningRules = Field(REFERENCE_RULES, description="how proposals are pruned")
    features: FeatureConfig = Field(default_factory=FeatureConfig, description="what goes into S2 for each box")
    decode: bool = Field(
        True, description="compare the best structure of each validation and test row with its target",
        json_schema_extra=CONFIG_ONLY,
    )

    @model_validator(mode="after")
    def _features_fit(self) -> TrainConfig:
        if self.augmentation.bb_augmentation_shift and (
            self.features.coordinates != "raw" or {"place", "size"} & set(self.features.without)
        ):
            raise ValueError("augmentation.bb_augmentation_shift needs raw places and sizes among the features")
        wrong = complaint(self.network.architecture, self.features.kind, self.augmentation.bb_augmentation_shift)
        if wrong:
            raise ValueError(wrong)
        return self
