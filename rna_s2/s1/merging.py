"""Proposed boxes: equal proposals made one box, and a selection of the boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rna_s2.boxtables.columns import concatenate_ragged, offsets_of
from rna_s2.boxtables.table import Ragged
from rna_s2.rna.boxes import HLOOP, Boxes
from rna_s2.rna.pairs import impossible_stems
from rna_s2.s1.cells import Proposals
from rna_s2.s1.selection import HLOOP_AREA_SHARE, SCALAR_SUPPORT, Evidence, SelectionOptions


class ProposedBoxes(NamedTuple):
    """Merged boxes of some sequences, with the probabilities of their proposals."""

    boxes: Boxes
    prob_sm: Ragged
    prob_sl: Ragged

    def select(self, keep: np.ndarray) -> ProposedBoxes:
        """Only the boxes where ``keep`` (``(boxes,)`` bool) is true; all rows stay."""
        kept = np.flatnonzero(keep)
        return ProposedBoxes(self.boxes.select(keep), self.prob_sm.take(kept), self.prob_sl.take(kept))


def merge(proposals: Proposals, rows: int, options: SelectionOptions) -> ProposedBoxes:
    """Makes equal proposals one box, and keeps the boxes that the selection lets stay.

    Args:
        proposals: of one batch or band.
        rows: sequences of the batch.
        options: the selection.

    Returns:
        The boxes of each sequence in the order of type, corner and size. The probabilities of a box are in no particular
        order: it depends on the patches.
    """
    columns = (proposals.row, proposals.type, proposals.bb_x, proposals.bb_y, proposals.siz_x, proposals.siz_y)
    order, starts = group(columns)
    firsts = order[starts]
    counts = np.bincount(proposals.row[firsts], minlength=rows)
    boxes = Boxes(offsets_of(counts), *(column[firsts] for column in columns[1:]))
    box_of = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(order))))
    softmax, on = proposals.softmax[order], proposals.on[order]
    prob = proposals.prob[order].astype(np.float64)
    n_sm = np.bincount(box_of[softmax], minlength=len(starts))
    n_sl = np.bincount(box_of[~softmax], minlength=len(starts))
    merged = ProposedBoxes(boxes, Ragged(prob[softmax], offsets_of(n_sm)), Ragged(prob[~softmax], offsets_of(n_sl)))

    share = np.where(boxes.type == HLOOP, HLOOP_AREA_SHARE, 1.0)
    weight = np.where(softmax, 1.0, SCALAR_SUPPORT)
    evidence = Evidence(
        density=np.maximum(n_sm, n_sl) / area(boxes) / share,
        on=np.bincount(box_of[on], minlength=len(starts)) > 0,
        support=np.bincount(box_of, prob * weight, minlength=len(starts)),
    )
    stays = options.rule.stays(options, evidence)
    return merged if stays.all() else merged.select(stays)


def area(boxes: Boxes) -> np.ndarray:
    """``(boxes,)`` int64 cells that each box covers, those of an hloop below the diagonal included."""
    return boxes.siz_x.astype(np.int64) * boxes.siz_y


def group(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sorts entries by their ``(n,)`` int columns: ``(n,)`` a stable order, and where in it each group of equal ones starts."""
    if not len(columns[0]):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    low = [int(column.min()) for column in columns]
    span = [int(column.max()) - least + 1 for column, least in zip(columns, low, strict=True)]
    if np.prod([float(s) for s in span]) < 2.0**62:
        code = columns[0] - low[0]
        for column, least, width in zip(columns[1:], low[1:], span[1:], strict=True):
            code = code * width + (column - least)
        order = np.argsort(code, kind="stable")
        new = np.diff(code[order], prepend=-1) != 0
    else:
        order = np.lexsort(columns[::-1])
        new = np.ones(len(order), bool)
        new[1:] = np.any([np.diff(column[order]) != 0 for column in columns], axis=0)
    return order, np.flatnonzero(new)


def possible_boxes(proposed: ProposedBoxes, codes: Sequence[np.ndarray], selection: SelectionOptions) -> ProposedBoxes:
    """The boxes without impossible stems, where the selection drops these."""
    if not selection.drop_impossible_stems:
        return proposed
    flat = np.concatenate([np.zeros(0, np.uint8), *codes])
    return proposed.select(~impossible_stems(proposed.boxes, flat, offsets_of(np.array([len(c) for c in codes], np.int64))))


def in_row_order(parts: Sequence[tuple[np.ndarray, ProposedBoxes]], rows: int) -> ProposedBoxes:
    """Joins parts, each with the sequences that its rows are; in the order of sequences, types, corners and sizes."""
    nothing = ProposedBoxes(Boxes.empty(), Ragged.empty(0), Ragged.empty(0))
    parts = [(np.zeros(0, np.int64), nothing), *parts]
    row = np.concatenate([index[part.boxes.row] for index, part in parts])
    columns = [
        np.concatenate([getattr(part.boxes, name) for _, part in parts]).astype(np.int64)
        for name in ("type", "bb_x", "bb_y", "siz_x", "siz_y")
    ]
    order, _ = group([row, *columns])
    boxes = Boxes(offsets_of(np.bincount(row, minlength=rows)), *(column[order] for column in columns))
    lists = (concatenate_ragged(ragged).take(order) for ragged in zip(*(part[1:] for _, part in parts), strict=True))
    return ProposedBoxes(boxes, *lists)
