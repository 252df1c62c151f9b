"""What stage 2 sees of a box: groups of columns, and the kinds of features that are made of them.

To add a group, write how it is computed, put it into :data:`GROUPS`, and name it in a kind of :data:`KINDS`. The names that a
config gives to ``features.without``, the columns of an encoded dataset and the inputs of the relational network follow from
the entry. Imports no torch: options are checked without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.energies.boxes import box_energies, end_energies
from rna_s2.energies.ensemble import ENSEMBLE, box_probabilities
from rna_s2.rna.boxes import BOX_TYPES, STEM, Boxes, inside_map
from rna_s2.s2.neighbours import COUNTS, PATHS, neighbour_counts, path_energies

TYPE: tuple[str, ...] = tuple(f"type_{name}" for name in BOX_TYPES)
PLACE: tuple[str, ...] = ("bb_x", "bb_y")
SIZE: tuple[str, ...] = ("siz_x", "siz_y")
GEOMETRY = TYPE + PLACE + SIZE
"""Which box it is: one-hot type, top-right corner (0-based), size in bases."""

CONFIDENCES: tuple[str, ...] = ("prob_sm_median", "prob_sm_per_cell", "prob_sl_median", "prob_sl_per_cell")
"""What S1 thought of a box. For the softmax (``sm``) and the scalar (``sl``) size output: the median probability of the cells
that propose the box, and how many these are over the cells that it covers."""

ENERGY: tuple[str, ...] = ("energy", "end_energy")
"""A box's own free energy and what a stem's outer end adds (:mod:`rna_s2.energies.boxes`), kcal/mol, at most
:data:`HIGHEST_ENERGY`."""

HIGHEST_ENERGY = 30.0
"""kcal/mol; stands for everything above it and for what cannot form."""

_KCAL_SCALE, _PATH_SCALE, _LOWEST_PATH = 5.0, 10.0, -60.0  # kcal/mol
_LEAST_P = 1e-3  # added to a probability and to what it lacks, before their log-odds


class BoxContext:
    """What groups are computed from; what several groups need is computed once.

    Args:
        table: a pruned table.
        workers: processes for the expensive groups.
    """

    def __init__(self, table: BoxTable, workers: int = 1) -> None:
        self.table, self.workers = table, workers
        self.boxes = table.proposals

    @cached_property
    def seqs(self) -> list[str]:
        """``(rows,)`` sequences."""
        return self.table.frame["seq"].tolist()

    @cached_property
    def energies(self) -> np.ndarray:
        """``(boxes,)`` float64 free energies of the boxes, kcal/mol."""
        return box_energies(self.boxes, self.seqs)

    @cached_property
    def end_energies(self) -> np.ndarray:
        """``(boxes,)`` float64 energies of the outer ends of stems, kcal/mol."""
        return end_energies(self.boxes, self.seqs)


Columns = Mapping[str, Any]
"""Columns by name, ``(boxes,)`` tensors each."""


@dataclass(frozen=True)
class FeatureGroup:
    """Columns that are computed, scaled and left out together.

    Attributes:
        columns: their names.
        compute: ``(boxes, columns)`` float32 of all boxes of a table.
        inputs: what the relational network is given of them: a list of ``(boxes,)`` tensors, from the columns and the lengths
            of the boxes' sequences.
        away_with: names in ``features.without`` that take it away.
        needs: names in :data:`NEEDS` of what a box must be to have these features.
        libraries: packages whose numbers the columns are.
        expensive: computed only where one of its columns is used.
        unit: bases that ``coordinates: scaled`` makes 1; None for what is no coordinate.
    """

    columns: tuple[str, ...]
    compute: Callable[[BoxContext], np.ndarray]
    inputs: Callable[[Columns, Any], list[Any]]
    away_with: tuple[str, ...]
    needs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    expensive: bool = False
    unit: float | None = None


def _cells(boxes: Boxes, lengths: np.ndarray) -> np.ndarray:
    return boxes.siz_x.astype(np.int64) * boxes.siz_y > 0


def _square_stems(boxes: Boxes, lengths: np.ndarray) -> np.ndarray:
    return (boxes.type != STEM) | (boxes.siz_x == boxes.siz_y)


NEEDS: dict[str, tuple[Callable[[Boxes, np.ndarray], np.ndarray], str]] = {
    "cells": (_cells, "covers no cell of the map"),
    "map": (inside_map, "runs out of the map of the sequence"),
    "square": (_square_stems, "is not square"),
}
"""What a box must be: a function of the boxes and the ``(rows,)`` lengths that gives ``(boxes,)`` bool, and the complaint."""

IN_THE_MAP = ("map", "square")


def _as_they_are(given: Columns, length: Any) -> list[Any]:
    return list(given.values())


def _type(context: BoxContext) -> np.ndarray:
    return np.eye(len(BOX_TYPES), dtype=np.float32)[context.boxes.type]


def _place(context: BoxContext) -> np.ndarray:
    return np.stack([context.boxes.bb_x, context.boxes.bb_y], axis=1).astype(np.float32)


def _size(context: BoxContext) -> np.ndarray:
    return np.stack([context.boxes.siz_x, context.boxes.siz_y], axis=1).astype(np.float32)


def _place_inputs(given: Columns, length: Any) -> list[Any]:
    x, y = given.values()
    span = y - x + 1
    return [x / length, y / length, span / length, *(v.clamp(min=0).log1p() for v in (x, length - 1 - y, span))]


def _size_inputs(given: Columns, length: Any) -> list[Any]:
    siz_x, siz_y = given.values()
    return [*(v.clamp(min=0).log1p() for v in (siz_x, siz_y, (siz_x - siz_y).abs())), length.log() / 2]


def confidences(boxes: Boxes, prob_sm: Ragged, prob_sl: Ragged) -> np.ndarray:
    """``(boxes, 4)`` float32: the columns :data:`CONFIDENCES`; the median of an empty list is 0."""
    cells = boxes.siz_x.astype(np.float64) * boxes.siz_y
    columns = [c for prob in (prob_sm, prob_sl) for c in (ragged_median(prob), prob.lengths / cells)]
    return np.stack(columns, axis=1).astype(np.float32)


def ragged_median(values: Ragged) -> np.ndarray:
    """``(entries,)`` float64: the median of each entry (the mean of the middle two of an even number), 0 if empty.

    Entries of one length are sorted together as a matrix, so that the work in Python is one step per length.
    """
    median = np.zeros(len(values))
    filled = np.flatnonzero(values.lengths)
    order = filled[np.argsort(values.lengths[filled], kind="stable")]
    present, first = np.unique(values.lengths[order], return_index=True)
    for length, start, end in zip(present.tolist(), first, [*first[1:], len(order)], strict=False):
        entries = order[start:end]
        block = np.sort(values.values[values.offsets[entries][:, None] + np.arange(length)], axis=1)
        median[entries] = (block[:, (length - 1) // 2] + block[:, length // 2]) / 2
    return median


def _confidence(context: BoxContext) -> np.ndarray:
    return confidences(context.boxes, context.table.prob_sm, context.table.prob_sl)


def _bounded(energies: np.ndarray) -> np.ndarray:
    return np.minimum(energies, HIGHEST_ENERGY).astype(np.float32)


def _energy(context: BoxContext) -> np.ndarray:
    return _bounded(np.stack([context.energies, context.end_energies], axis=1))


def _energy_inputs(given: Columns, length: Any) -> list[Any]:
    energy, end = given.values()
    return [energy / _KCAL_SCALE, (energy >= HIGHEST_ENERGY).float(), end]


def _counts(context: BoxContext) -> np.ndarray:
    return neighbour_counts(context.boxes)


def _counts_inputs(given: Columns, length: Any) -> list[Any]:
    return [count.log1p() for count in given.values()]


def _paths(context: BoxContext) -> np.ndarray:
    return _bounded(path_energies(context.boxes, context.energies, context.end_energies))


def _paths_inputs(given: Columns, length: Any) -> list[Any]:
    parts = [part.clamp(min=_LOWEST_PATH) for part in given.values()]
    inside, outside, rival = parts
    total = (inside + outside).clamp(max=HIGHEST_ENERGY)
    return [
        *(part / _PATH_SCALE for part in (*parts, total)), *((part >= HIGHEST_ENERGY).float() for part in parts),
        (total - rival) / _PATH_SCALE,
    ]


def _ensemble(context: BoxContext) -> np.ndarray:
    return box_probabilities(context.boxes, context.seqs, context.workers).astype(np.float32)


def _ensemble_inputs(given: Columns, length: Any) -> list[Any]:
    return [*given.values(), *((p + _LEAST_P).log() - (1 - p + _LEAST_P).log() for p in given.values())]


GROUPS: dict[str, FeatureGroup] = {
    "type": FeatureGroup(TYPE, _type, _as_they_are, ("type",)),
    "place": FeatureGroup(PLACE, _place, _place_inputs, ("place",), unit=100.0),
    "size": FeatureGroup(SIZE, _size, _size_inputs, ("size",), unit=10.0),
    "confidence": FeatureGroup(CONFIDENCES, _confidence, _as_they_are, ("confidence",), ("cells",)),
    "energy": FeatureGroup(ENERGY, _energy, _energy_inputs, ("energy",), IN_THE_MAP, ("ViennaRNA",)),
    "counts": FeatureGroup(COUNTS, _counts, _counts_inputs, ("neighbours",), IN_THE_MAP),
    "paths": FeatureGroup(PATHS, _paths, _paths_inputs, ("energy", "neighbours"), IN_THE_MAP, ("ViennaRNA",)),
    "ensemble": FeatureGroup(
        ENSEMBLE, _ensemble, _ensemble_inputs, ("energy", "neighbours", "ensemble"), IN_THE_MAP, ("ViennaRNA",),
        expensive=True,
    ),
}
"""The groups, in the order of their columns. The unit of a place is half of the longest segment of the reference experiment,
that of a size the largest that the first stage distinguishes."""


@dataclass(frozen=True)
class FeatureKind:
    """A choice of groups.

    Attributes:
        groups: names in :data:`GROUPS`, in the order of their columns.
        bases: what is held beside the columns: nothing, the bases of each box, or whole sequences.
        shuffled: whether labels are permuted within each row, as a control.
    """

    groups: tuple[str, ...]
    bases: Literal["none", "boxes", "sequences"] = "none"
    shuffled: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(name for group in self.groups for name in GROUPS[group].columns)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names in :data:`NEEDS` of what a box must be, in their order."""
        wanted = {need for group in self.groups for need in GROUPS[group].needs} | set(IN_THE_MAP * (self.bases != "none"))
        return tuple(need for need in NEEDS if need in wanted)


_GEOMETRY_GROUPS = ("type", "place", "size")
_RELATIONAL_GROUPS = (*_GEOMETRY_GROUPS, "confidence", "energy", "counts", "paths", "ensemble")

KINDS: dict[str, FeatureKind] = {
    "baseline": FeatureKind(_GEOMETRY_GROUPS),
    "s1_features": FeatureKind((*_GEOMETRY_GROUPS, "confidence")),
    "sequence_encoding": FeatureKind(_GEOMETRY_GROUPS, bases="boxes"),
    "shuffle_label": FeatureKind(_GEOMETRY_GROUPS, shuffled=True),
    "relational": FeatureKind(_RELATIONAL_GROUPS, bases="sequences"),
    "relational_shuffle_label": FeatureKind(_RELATIONAL_GROUPS, bases="sequences", shuffled=True),
}
"""The kinds of features by name."""

WITHOUT: tuple[str, ...] = tuple(dict.fromkeys(name for group in GROUPS.values() for name in group.away_with))
"""What ``features.without`` can name."""

SCALED, RELATIVE = "_scaled", "_relative"
"""Endings of the names of columns that are computed from a coordinate."""

COORDINATES: dict[str, str] = {"raw": "", "scaled": SCALED, "relative": RELATIVE}
"""How coordinates are given, and the ending of their columns: in bases; over the group's unit; over the sequence's length."""

UNITS: dict[str, float] = {name: group.unit for group in GROUPS.values() if group.unit for name in group.columns}
"""The unit of each coordinate, in bases."""

if TYPE_CHECKING:
    Kind = str
    Without = str
    Coordinates = str
else:
    Kind, Without, Coordinates = Literal[tuple(KINDS)], Literal[WITHOUT], Literal[tuple(COORDINATES)]


def column_names(kind: Kind, without: Collection[str] = (), coordinates: Coordinates = "raw") -> tuple[str, ...]:
    """Names of the columns of a kind, without some, coordinates as asked for."""
    groups = [GROUPS[name] for name in KINDS[kind].groups if not set(GROUPS[name].away_with) & set(without)]
    ending = COORDINATES[coordinates]
    return tuple(name + (ending if name in UNITS else "") for group in groups for name in group.columns)


def foreign_to(kind: Kind, without: Sequence[str]) -> str:
    """The first name in ``without`` that takes nothing away from a kind; empty where there is none."""
    has = {name for group in KINDS[kind].groups for name in GROUPS[group].away_with}
    return next((name for name in without if name not in has), "")


def libraries_of(kind: Kind) -> tuple[str, ...]:
    """Packages whose numbers the features of a kind are."""
    return tuple(dict.fromkeys(library for group in KINDS[kind].groups for library in GROUPS[group].libraries))


def compute_columns(context: BoxContext, kind: Kind, used: Collection[str]) -> np.ndarray:
    """``(boxes, columns)`` float32: the columns of a kind; those of an expensive group without a used column are NaN."""
    parts = []
    for group in (GROUPS[name] for name in KINDS[kind].groups):
        wanted = not group.expensive or set(group.columns) & set(used)
        shape = len(context.boxes), len(group.columns)
        parts.append(group.compute(context) if wanted else np.full(shape, np.nan, np.float32))
    return np.concatenate(parts, axis=1)
