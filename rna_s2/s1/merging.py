"""Proposed boxes: equal proposals made one box, and a selection of the boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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
    boxes = Boxes(
        np.concatenate([[0], np.cumsum(counts)]), *(column[firsts] for column in columns[1:])
    )
    box_of = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(order))))
    softmax, on = proposals.softmax[order], proposals.on[order]
    prob = proposals.prob[order].astype(np.float64)
    n_sm = np.bincount(box_of[softmax], minlength=len(starts))
    n_sl = np.bincount(box_of[~softmax], minlength=len(starts))
    prob_sm = Ragged(prob[softmax], np.concatenate([[0], np.cumsum(n_sm)]))
    prob_sl = Ragged(prob[~softmax], np.concatenate([[0], np.cumsum(n_sl)]))

    share = np.where(boxes.type == HLOOP, HLOOP_AREA_SHARE, 1.0)
    weight = np.where(softmax, 1.0, SCALAR_SUPPORT)
    evidence = Evidence(
        density=np.maximum(n_sm, n_sl) / area(boxes) / share,
        on=np.bincount(box_of[on], minlength=len(starts)) > 0,
        support=np.bincount(box_of, prob * weight, minlength=len(starts)),
    )
    stays = options.rule.stays(options, evidence)
    if stays.all():
        return ProposedBoxes(boxes, prob_sm, prob_sl)
    kept = np.flatnonzero(stays)
    return ProposedBoxes(boxes.select(stays), prob_sm.take(kept), prob_sl.take(kept))


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


def possible_boxes(
    proposed: ProposedBoxes, codes: Sequence[np.ndarray], selection: SelectionOptions
) -> ProposedBoxes:
    """The boxes without impossible stems, where the selection drops these."""
    if not selection.drop_impossible_stems:
        return proposed
    offsets = np.concatenate([[0], np.cumsum([len(c) for c in codes], dtype=np.int64)])
    flat = np.concatenate([np.zeros(0, np.uint8), *codes])
    keep = ~impossible_stems(proposed.boxes, flat, offsets)
    index = np.flatnonzero(keep)
    return ProposedBoxes(proposed.boxes.select(keep), proposed.prob_sm.take(index), proposed.prob_sl.take(index))


def in_row_order(parts: Sequence[tuple[np.ndarray, ProposedBoxes]], rows: int) -> ProposedBoxes:
    """Joins parts, each with the sequences that its rows are; in the order of sequences, types, corners and sizes."""
    row = np.concatenate([np.zeros(0, np.int64), *(index[part.boxes.row] for index, part in parts)])
    columns = [
        np.concatenate([np.zeros(0, np.int64), *(getattr(part.boxes, name) for _, part in parts)]).astype(np.int64)
        for name in ("type", "bb_x", "bb_y", "siz_x", "siz_y")
    ]
    order, _ = group([row, *columns])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))])
    boxes = Boxes(offsets, *(column[order] for column in columns))
    lists = []
    for name in ("prob_sm", "prob_sl"):
        ragged = [getattr(part, name) for _, part in parts]
        lengths = np.concatenate([np.zeros(0, np.int64), *(r.lengths for r in ragged)])
        whole = Ragged(np.concatenate([np.zeros(0), *(r.values for r in ragged)]),
                       np.concatenate([[0], np.cumsum(lengths)]))
        lists.append(whole.take(order))
    return ProposedBoxes(boxes, *lists)
