"""A suite of trainings that answers one question: a base config, variants of it, seeds. Checked whole before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from rna_s2.options.base import Options, load_yaml, unknown_keys, validate
from rna_s2.options.command_line import CONFIG_ONLY
from rna_s2.options.errors import UserError
from rna_s2.options.files import content_key, file_digest
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.open_models import open_model
from rna_s2.pipeline.train_config import TrainConfig
from rna_s2.s2.naive_scorers import NAIVE_SCORERS

OF_THE_STUDY = {
    "name": "the name of a variant is beside its overrides", "registered_name": "its runs are not registered",
    "seed": "give seeds beside the overrides", "experiment": "give the experiment of the study",
    "resume": "it goes on with unfinished runs by itself",
}
"""Keys of a training that a study sets itself, and what to do instead."""


NETWORK = "network"
"""Value of ``scorer`` that trains a network."""


class StudyVariant(Options):
    """One line of the study's table."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="name of the line; letters, digits, _")
    about: str = Field("", description="what it is, in words")
    scorer: Literal[(NETWORK, *NAIVE_SCORERS)] = Field(  # type: ignore[valid-type]
        NETWORK, description="network, or a naive scorer; "
        + "; ".join(f"{name}: {scorer.description}" for name, scorer in NAIVE_SCORERS.items())
    )
    overrides: dict[str, Any] = Field(default_factory=dict, description="what differs from the study's, as in a config file")
    seeds: tuple[int, ...] | None = Field(None, min_length=1, description="in place of the study's seeds")
    against: str = Field("", description="name of the variant that it is compared with, row by row")


class StudyConfig(TrackedOptions):
    """A study: a base config, variants, seeds, and how to go about it."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="name of the study", json_schema_extra=CONFIG_ONLY)
    base: str = Field(
        min_length=1, description="config file of a training, relative to the study's file", json_schema_extra=CONFIG_ONLY
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="what differs from the base in all variants", json_schema_extra=CONFIG_ONLY
    )
    seeds: tuple[int, ...] = Field(
        (0,), min_length=1, description="of split, weights and order; every variant runs with each",
        json_schema_extra=CONFIG_ONLY,
    )
    variants: tuple[StudyVariant, ...] = Field(
        min_length=1, description="lines of the table, the most informative first", json_schema_extra=CONFIG_ONLY
    )
    in_file: str = Field("", description="S1 table, in place of the base's")
    epochs: int | None = Field(None, ge=1, description="passes over the training rows, in place of the variants'")
    max_rejects: int | None = Field(None, ge=-1, description="unusable rows to go on without, in place of the base's")
    cache_dir: str = Field("", description="folder for tables, datasets and checkpoints, in place of the base's")
    workers: int = Field(0, ge=0, description="trainings at a time, each with its share of the cores; 0: one per core")
    max_minutes: float = Field(
        0, ge=0, description="start no training after so many minutes and report on those there are; 0: no limit"
    )

    @model_validator(mode="after")
    def _names_fit(self) -> StudyConfig:
        names = [variant.name for variant in self.variants]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"variants: the name {min(twice)} stands twice")
        for variant in self.variants:
            if variant.against and (variant.against not in names or variant.against == variant.name):
                raise ValueError(f"variants: {variant.name} is against '{variant.against}', which is no other variant")
        for seeds in (self.seeds, *(variant.seeds or () for variant in self.variants)):
            if len(set(seeds)) < len(seeds):
                raise ValueError("a seed stands twice")
        return self


@dataclass(frozen=True, eq=False)
class Child:
    """One run of a study.

    Attributes:
        variant: the line of the table that it counts for.
        seed: its seed.
        config: the whole training.
        digest: stands for what decides its result: config, scorer, content of the table and of the model it starts from;
            names and paths have no part in it.
    """

    variant: StudyVariant
    seed: int
    config: TrainConfig
    digest: str


def resolve(study: StudyConfig, source: Path) -> list[Child]:
    """Every run of a study, checked: all variants with their first seed, then all with their second, and so on.

    ``source`` is the study's file, for messages and for the base's path.

    Raises:
        UserError: a config cannot be used, two variants are the same, or the table cannot be read.
    """
    base_path = source.parent / study.base
    base = load_yaml(base_path)
    wrong = [
        unknown_keys(TrainConfig, base, str(base_path)),
        unknown_keys(TrainConfig, study.overrides, f"{source}: overrides"),
        *(unknown_keys(TrainConfig, v.overrides, f"{source}: variant {v.name}: overrides") for v in study.variants),
    ]
    if any(wrong):
        raise UserError("; ".join(filter(None, wrong)))
    everywhere = {"overrides": study.overrides} | {f"variant {v.name}: overrides": v.overrides for v in study.variants}
    for where, overrides in everywhere.items():
        for key in sorted(OF_THE_STUDY.keys() & overrides.keys()):
            raise UserError(f"{source}: {where}: '{key}' is set by the study; {OF_THE_STUDY[key]}")
    given: dict[str, dict[str, Any]] = {
        "data": {"in_file": study.in_file, "max_rejects": study.max_rejects, "cache_dir": study.cache_dir},
        "training": {"epoch": study.epochs},
    }
    given = {section: {k: v for k, v in values.items() if v not in ("", None)} for section, values in given.items()}
    given = {section: values for section, values in given.items() if values}
    ordered: list[tuple[int, StudyVariant, TrainConfig]] = []
    for variant in study.variants:
        values = merged(merged(merged(base, study.overrides), variant.overrides), given)
        for position, seed in enumerate(variant.seeds or study.seeds):
            fixed = {"name": variant.name, "registered_name": None, "seed": seed, "experiment": study.experiment, "resume": ""}
            config = validate(TrainConfig, values | fixed, f"{source}: variant {variant.name}: overrides")
            if config.data.transcripts:
                raise UserError(f"{source}: variant {variant.name}: a study needs an S1 table (in_file), not transcripts")
            if variant.scorer != NETWORK:
                lacking = NAIVE_SCORERS[variant.scorer].complaint(config.features.columns)
                if lacking:
                    raise UserError(f"{source}: variant {variant.name}: the scorer {variant.scorer} {lacking}")
            ordered.append((position, variant, config))
    digest_of_model = cache(lambda where: open_model(where, file_digest))
    children: dict[str, Child] = {}
    for _, variant, config in sorted(ordered, key=lambda entry: entry[0]):
        decisive = config.model_dump(mode="json", exclude={"name", "registered_name", "experiment", "resume", "data"})
        if not config.training.batch_boxes:  # an option that runs of earlier versions had not
            del decisive["training"]["batch_boxes"]
        decisive["start"] = digest_of_model(config.start) if config.start else ""
        source_digest = file_digest(config.data.in_file)
        digest = content_key(version=1, step="study", scorer=variant.scorer, source=source_digest, config=decisive)
        child = Child(variant, config.seed, config, digest)
        other = children.setdefault(digest, child)
        if other is not child:
            raise UserError(f"{source}: the variants {other.variant.name} and {variant.name} are the same; take one away")
    return list(children.values())


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``changes``, section by section."""
    result = dict(values)
    for key, change in changes.items():
        old = result.get(key)
        result[key] = merged(old, change) if isinstance(old, Mapping) and isinstance(change, Mapping) else change
    return result
