"""The rules that thin out the boxes S1 proposes, over a whole table at once.

A rule is a method of :class:`PruningRules` below its own parameters. To add one, write both there, at the place where it is to
apply: options, counts and :func:`prune` follow.

Imports no files, no MLflow, no torch: numpy and pandas only, and pydantic for the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import Field

from rna_s2.boxtables.sensitivity import Sensitivity, box_sensitivity
from rna_s2.boxtables.table import BoxTable
from rna_s2.options.base import Options
from rna_s2.rna.boxes import BOX_TYPES, HLOOP, ILOOP, STEM, Boxes, among, bounds, inner_pair, inside_map, outer_pair
from rna_s2.rna.pairs import impossible_stems
from rna_s2.rna.sequence import encode_many

_Method = Callable[["PruningRules", BoxTable, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Rule:
    """One step of pruning.

    Attributes:
        name: what it is called in the counts. Where a parameter of this name is 0 or False, the rule is off.
        drops: what it drops of a table, given the parameters, the table and the boxes that the rules before it kept
            (``(boxes,)`` bool; these lie in the map once ``out_of_range`` has applied): ``(boxes,)`` bool.
        of_rows: it drops whole rows, and ``drops`` gives ``(rows,)`` bool.
    """

    name: str
    drops: _Method
    of_rows: bool = False


RULES: list[Rule] = []
"""The rules in the order in which they apply."""


def _rule(name: str, of_rows: bool = False) -> Callable[[_Method], _Method]:
    """Registers a method of :class:`PruningRules` as the next rule."""

    def register(method: _Method) -> _Method:
        RULES.append(Rule(name, method, of_rows))
        return method

    return register


class PruningRules(Options):
    """The rules in the order in which they apply, each below its parameters."""

    max_len: int = Field(0, ge=0, description="skip rows whose sequence is longer, in bases; 0 for no limit")

    @_rule("max_len", of_rows=True)
    def _longer_rows(self, table: BoxTable, kept: np.ndarray) -> np.ndarray:
        return table.lengths > self.max_len

    min_pixel_pred: int = Field(
        3, ge=0, description="keep a box that at least so many pixels propose with one output; 0 keeps every box"
    )
    min_prob: float = Field(
        0.5, ge=0, le=1, description="or that one pixel proposes with at least this probability"
    )

    @_rule("min_pixel_pred_or_min_prob")
    def _proposed_badly(self, table: BoxTable, kept: np.ndarray) -> np.ndarray:
        """Neither output proposes the box from enough pixels, or from one with enough probability.

        An empty list has no maximum: it passes by its length alone, that is with ``min_pixel_pred`` 0.
        """
        good = (table.prob_sm.lengths >= self.min_pixel_pred) | (table.prob_sl.lengths >= self.min_pixel_pred)
        if not good.all():  # a comparison with NaN, the maximum of an empty list, is false
            good |= (table.prob_sm.max() >= self.min_prob) | (table.prob_sl.max() >= self.min_prob)
        return ~good

    @_rule("out_of_range")
    def _out_of_map(self, table: BoxTable, kept: np.ndarray) -> np.ndarray:
        return ~inside_map(table.proposals, table.lengths)

    discard_ns_stem: bool = Field(False, description="drop stems with a pair other than A-U, G-C, G-U")

    @_rule("discard_ns_stem")
    def _impossible_stems(self, table: BoxTable, kept: np.ndarray) -> np.ndarray:
        return impossible_stems(table.proposals, *encode_many(table.frame["seq"].tolist()))

    min_hloop_size: int = Field(
        1, ge=1, description="drop hairpin loops of a smaller size; the size counts both closing bases"
    )

    @_rule("min_hloop_size")
    def _small_hloops(self, table: BoxTable, kept: np.ndarray) -> np.ndarray:
        return (table.proposals.type == HLOOP) & (table.proposals.siz_x < self.min_hloop_size)

    drop_lower_triangle: bool = Field(
        False, description="drop stems and internal loops that reach the diagonal, and hairpin loops that are not on it"
    )

    @_rule("drop_lower_triangle")
    def _below_diagonal(self, table: BoxTable, kept: np.ndarray) -> np.ndarray:
        """A stem or iloop any of whose cells ``(i, j)`` has ``i >= j``: its bottom-left cell, with the largest ``i`` and the
        smallest ``j``, decides. An hloop that is not on the diagonal: not square with ``siz_x = bb_y - bb_x + 1``."""
        boxes = table.proposals
        _, last_row, first_col, _ = bounds(boxes)
        off_diagonal = (boxes.siz_x != boxes.siz_y) | (boxes.siz_x != boxes.bb_y - boxes.bb_x + 1)
        return np.where(boxes.type == HLOOP, off_diagonal, last_row >= first_col)

    drop_isolated_loops: bool = Field(False, description="drop loops that no remaining stem ends in")

    @_rule("drop_isolated_loops")
    def _isolated_loops(self, table: BoxTable, kept: np.ndarray) -> np.ndarray:
        """A loop none of whose closing pairs is the end of a stem that faces it."""
        outside, inside = _faced_by_stems(table.proposals, table.lengths, kept)
        return (table.proposals.type != STEM) & ~outside & ~inside

    drop_unclosed_loops: bool = Field(
        False, description="drop loops that lack a remaining stem at any of their closing pairs"
    )

    @_rule("drop_unclosed_loops")
    def _unclosed_loops(self, table: BoxTable, kept: np.ndarray) -> np.ndarray:
        """A loop with a closing pair that is not the end of a stem that faces it.

        A structure has a stem at each closing pair of each of its loops, so the loops of a row whose stems were all proposed
        stay.
        """
        outside, inside = _faced_by_stems(table.proposals, table.lengths, kept)
        box_type = table.proposals.type
        return ((box_type != STEM) & ~outside) | ((box_type == ILOOP) & ~inside)


REFERENCE_RULES = PruningRules(discard_ns_stem=True, min_hloop_size=3, min_pixel_pred=0, min_prob=0.0)
"""How the dataset of the reference experiment was pruned."""


@dataclass(frozen=True)
class PruneResult:
    """A pruned table, and what each rule did.

    Attributes:
        table: the rows that were not skipped, with the proposals that every rule kept.
        counts: one entry per rule and box type, rules in the order in which they applied: columns ``rule``, ``type``,
            ``before``, ``after``, ``dropped``. A rule that is off dropped 0.
        skipped_rows: ``(skipped,)`` int64; positions in the input of the rows that ``max_len`` skipped.
        sensitivity: target boxes found among the kept proposals, per row and per type; ``None`` where the table has no
            targets.
    """

    table: BoxTable
    counts: pd.DataFrame
    skipped_rows: np.ndarray
    sensitivity: Sensitivity | None


def prune(table: BoxTable, rules: PruningRules) -> PruneResult:
    """Apply :data:`RULES` to every row of a table, one after the other.

    The order and index of rows, and the order of boxes within a row, stay.
    """
    rows = np.arange(table.rows)
    kept = np.ones(len(table.proposals), bool)
    steps = [_by_type(table.proposals, kept)]
    left = rows
    for rule in RULES:
        if getattr(rules, rule.name, True):
            stays = ~rule.drops(rules, table, kept)
            if not rule.of_rows:
                kept &= stays
            elif not stays.all():
                kept = kept[stays[table.proposals.row]]
                left, table = left[stays], table.take_rows(np.flatnonzero(stays))
        steps.append(_by_type(table.proposals, kept))
    pruned = table if kept.all() else table.select_proposals(kept)
    return PruneResult(
        table=pruned,
        counts=_count_table(np.array(steps)),
        skipped_rows=np.setdiff1d(rows, left),
        sensitivity=box_sensitivity(pruned),
    )


def _by_type(boxes: Boxes, kept: np.ndarray) -> np.ndarray:
    """``(3,)`` int64: kept boxes of each type."""
    return np.bincount(boxes.type[kept], minlength=len(BOX_TYPES))


def _faced_by_stems(boxes: Boxes, lengths: np.ndarray, remaining: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loops whose outer pair a stem ends in, and iloops whose inner pair a stem starts from.

    Neighbouring boxes share a corner cell, so the outer pair of a loop (the only closing pair of an hloop) must be the
    inner (bottom-left) pair of a stem, or the inner pair of an iloop the outer (top-right) pair of a stem. A stem that
    starts at the same outer pair as a loop covers the loop's place and does not close it.

    Args:
        boxes, lengths: the boxes and the ``(rows,)`` lengths of all rows.
        remaining: ``(boxes,)`` bool; only these loops are judged and only these stems count. They must lie in the map.

    Returns:
        ``(boxes,)`` bool each.
    """
    base = np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64) ** 2)])[:-1][boxes.row]
    width = np.asarray(lengths, np.int64)[boxes.row]
    outer, inner = (base + i * width + j for i, j in (outer_pair(boxes), inner_pair(boxes)))
    stem = remaining & (boxes.type == STEM)
    loops, iloops = remaining & (boxes.type != STEM), remaining & (boxes.type == ILOOP)
    outside, inside = loops.copy(), iloops.copy()
    outside[loops] = among(outer[loops], inner[stem])
    inside[iloops] = among(inner[iloops], outer[stem])
    return outside, inside


def _count_table(steps: np.ndarray) -> pd.DataFrame:
    """Counts from ``(rules + 1, types)`` boxes before the first rule and after each."""
    before, after = steps[:-1], steps[1:]
    return pd.DataFrame({
        "rule": np.repeat([rule.name for rule in RULES], len(BOX_TYPES)),
        "type": np.tile(BOX_TYPES, len(RULES)),
        "before": before.ravel(),
        "after": after.ravel(),
        "dropped": (before - after).ravel(),
    })
