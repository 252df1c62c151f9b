"""The rules that thin out the boxes S1 proposes, over a whole table at once.

Imports no files, no MLflow, no torch: numpy and pandas only, and pydantic for the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import Field

from rna_s2.boxtables.sensitivity import Sensitivity, box_sensitivity
from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.options.base import Options
from rna_s2.rna.boxes import (
    BOX_TYPES,
    HLOOP,
    ILOOP,
    STEM,
    Boxes,
    among,
    bounds,
    inner_pair,
    inside_map,
    outer_pair,
)
from rna_s2.rna.pairs import impossible_stems
from rna_s2.rna.sequence import encode_many


class PruningRules(Options):
    """Parameters of the rules, in the order in which the rules apply."""

    max_len: int = Field(0, ge=0, description="skip rows whose sequence is longer, in bases; 0 for no limit")
    min_pixel_pred: int = Field(
        3, ge=0, description="keep a box that at least so many pixels propose with one output; 0 keeps every box"
    )
    min_prob: float = Field(
        0.5, ge=0, le=1, description="or that one pixel proposes with at least this probability"
    )
    discard_ns_stem: bool = Field(False, description="drop stems with a pair other than A-U, G-C, G-U")
    min_hloop_size: int = Field(
        1, ge=1, description="drop hairpin loops of a smaller size; the size counts both closing bases"
    )
    drop_lower_triangle: bool = Field(
        False, description="drop stems and internal loops that reach the diagonal, and hairpin loops that are not on it"
    )
    drop_isolated_loops: bool = Field(False, description="drop loops that no remaining stem ends in")
    drop_unclosed_loops: bool = Field(
        False, description="drop loops that lack a remaining stem at any of their closing pairs"
    )


REFERENCE_RULES = PruningRules(discard_ns_stem=True, min_hloop_size=3, min_pixel_pred=0, min_prob=0.0)
"""How the dataset of the reference experiment was pruned."""

RULE_NAMES: tuple[str, ...] = (
    "max_len",
    "min_pixel_pred_or_min_prob",
    "out_of_range",
    "discard_ns_stem",
    "min_hloop_size",
    "drop_lower_triangle",
    "drop_isolated_loops",
    "drop_unclosed_loops",
)
"""The rules in the order in which they apply, as they are called in the counts."""


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
    """Apply the rules to every row of a table.

    In this order (only the second and third can never be switched off):

    1. ``max_len``: longer rows are skipped.
    2. ``min_pixel_pred``, ``min_prob``: :func:`proposed_well`.
    3. out of range: a box whose rows or columns leave ``0 .. L-1`` is dropped (:func:`rna_s2.rna.boxes.inside_map`).
    4. ``discard_ns_stem``: :func:`rna_s2.rna.pairs.impossible_stems` are dropped.
    5. ``min_hloop_size``: an hloop with a smaller ``siz_x`` is dropped.
    6. ``drop_lower_triangle``: :func:`below_diagonal` boxes are dropped.
    7. ``drop_isolated_loops``: :func:`isolated_loops` are dropped, judged by the stems that rules 1-6 kept.
    8. ``drop_unclosed_loops``: :func:`unclosed_loops` are dropped, judged in the same way. A structure has a stem at each
       closing pair of each of its loops, so the loops of a row whose stems were all proposed stay.

    The order and index of rows, and the order of boxes within a row, stay.
    """
    steps = [np.bincount(table.proposals.type, minlength=len(BOX_TYPES))]
    skipped = np.zeros(table.rows, bool) if rules.max_len == 0 else table.lengths > rules.max_len
    if skipped.any():
        table = table.take_rows(np.flatnonzero(~skipped))
    boxes, lengths = table.proposals, table.lengths
    keep = np.ones(len(boxes), bool)

    def drop(which: np.ndarray | None) -> None:
        """Drop boxes of ``keep`` and note how many of each type remain; None for a rule that is off."""
        if which is not None:
            keep[which] = False
        steps.append(np.bincount(boxes.type[keep], minlength=len(BOX_TYPES)))

    drop(None)
    drop(~proposed_well(table.prob_sm, table.prob_sl, rules.min_pixel_pred, rules.min_prob))
    drop(~inside_map(boxes, lengths))
    drop(impossible_stems(boxes, *encode_many(table.frame["seq"].tolist())) if rules.discard_ns_stem else None)
    drop((boxes.type == HLOOP) & (boxes.siz_x < rules.min_hloop_size))
    drop(below_diagonal(boxes) if rules.drop_lower_triangle else None)
    drop(isolated_loops(boxes, lengths, keep) if rules.drop_isolated_loops else None)
    drop(unclosed_loops(boxes, lengths, keep) if rules.drop_unclosed_loops else None)

    pruned = table if keep.all() else table.select_proposals(keep)
    return PruneResult(
        table=pruned,
        counts=_count_table(np.array(steps)),
        skipped_rows=np.flatnonzero(skipped),
        sensitivity=box_sensitivity(pruned),
    )


def proposed_well(prob_sm: Ragged, prob_sl: Ragged, min_pixel_pred: int, min_prob: float) -> np.ndarray:
    """Whether enough pixels propose each box, or one with enough probability, judged for each output on its own.

    ``len(prob_sm) >= min_pixel_pred or max(prob_sm) >= min_prob``, or the same of ``prob_sl``. An empty list has no
    maximum: it passes by its length alone, that is with ``min_pixel_pred`` 0. Returns ``(boxes,)`` bool.
    """
    good = (prob_sm.lengths >= min_pixel_pred) | (prob_sl.lengths >= min_pixel_pred)
    if not good.all():  # a comparison with NaN, the maximum of an empty list, is false
        good |= (prob_sm.max() >= min_prob) | (prob_sl.max() >= min_prob)
    return good


def below_diagonal(boxes: Boxes) -> np.ndarray:
    """Boxes that cannot be what they are called because of where they lie. Returns ``(boxes,)`` bool.

    A stem or iloop any of whose cells ``(i, j)`` has ``i >= j``: its bottom-left cell, with the largest ``i`` and the
    smallest ``j``, decides. An hloop that is not on the diagonal: not square with ``siz_x = bb_y - bb_x + 1``.
    """
    _, last_row, first_col, _ = bounds(boxes)
    off_diagonal = (boxes.siz_x != boxes.siz_y) | (boxes.siz_x != boxes.bb_y - boxes.bb_x + 1)
    return np.where(boxes.type == HLOOP, off_diagonal, last_row >= first_col)


def isolated_loops(boxes: Boxes, lengths: np.ndarray, remaining: np.ndarray) -> np.ndarray:
    """Loops none of whose closing pairs is the end of a stem that faces them.

    Neighbouring boxes share a corner cell, so the outer pair of a loop (the only closing pair of an hloop) must be the
    inner (bottom-left) pair of a stem, or the inner pair of an iloop the outer (top-right) pair of a stem. A stem that
    starts at the same outer pair as a loop covers the loop's place and does not close it.

    Args:
        boxes: the boxes of all rows.
        lengths: ``(rows,)`` length of each sequence.
        remaining: ``(boxes,)`` bool; only these are judged and only these stems count. They must lie in the map.

    Returns:
        ``(boxes,)`` bool.
    """
    outside, inside = _faced_by_stems(boxes, lengths, remaining)
    return remaining & (boxes.type != STEM) & ~outside & ~inside


def unclosed_loops(boxes: Boxes, lengths: np.ndarray, remaining: np.ndarray) -> np.ndarray:
    """Loops with a closing pair that is not the end of a stem that faces them; arguments as for :func:`isolated_loops`."""
    outside, inside = _faced_by_stems(boxes, lengths, remaining)
    return remaining & (((boxes.type != STEM) & ~outside) | ((boxes.type == ILOOP) & ~inside))


def _faced_by_stems(boxes: Boxes, lengths: np.ndarray, remaining: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(boxes,)`` bool each: loops whose outer pair a stem ends in, iloops whose inner pair a stem starts from."""
    base = np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64) ** 2)])[:-1][boxes.row]
    width = np.asarray(lengths, np.int64)[boxes.row]
    outer, inner = (base + i * width + j for i, j in (outer_pair(boxes), inner_pair(boxes)))
    stem = remaining & (boxes.type == STEM)
    sides = []
    for loops, pair, facing_end in (
        (remaining & (boxes.type != STEM), outer, inner),
        (remaining & (boxes.type == ILOOP), inner, outer),
    ):
        faced = np.zeros(len(boxes), bool)
        faced[loops] = among(pair[loops], facing_end[stem])
        sides.append(faced)
    return sides[0], sides[1]


def _count_table(steps: np.ndarray) -> pd.DataFrame:
    """Counts from ``(rules + 1, types)`` boxes before the first rule and after each."""
    before, after = steps[:-1], steps[1:]
    return pd.DataFrame({
        "rule": np.repeat(RULE_NAMES, len(BOX_TYPES)),
        "type": np.tile(BOX_TYPES, len(RULE_NAMES)),
        "before": before.ravel(),
        "after": after.ravel(),
        "dropped": (before - after).ravel(),
    })
