"""What the other proposals of a row say about a box: how many exclude it, which continue it, and the energy of the paths of
stems and loops that it can be part of."""

from __future__ import annotations

import numpy as np

from rna_s2.rna.boxes import HLOOP, STEM, Boxes, inner_pair, ragged_positions
from rna_s2.rna.relations import APART, INSIDE, OUTSIDE, is_conflict, relation

COUNTS: tuple[str, ...] = (
    "n_conflicts", "n_stem_conflicts", "n_outside", "n_inside", "n_apart", "n_closing_it", "n_closed_by_it",
)
"""Names of the columns of :func:`neighbour_counts`."""

PATHS: tuple[str, ...] = ("chain_inside", "chain_outside", "chain_rival")
"""Names of the columns of :func:`path_energies`."""


def continuations(boxes: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of boxes of which one goes on where the other ends: the inner pair of ``a`` is the outer pair of ``b``.

    One of the two is a stem and the other a loop. (Two loops also share a pair, where a stem of one pair lies between them;
    that stem is a box of its own.)

    Returns:
        ``(links,)`` int64 each, the boxes ``a`` and ``b``; ordered by ``a``.
    """
    inner_i, inner_j = inner_pair(boxes)
    row = boxes.row
    span = int(max(boxes.bb_x.max(initial=0), boxes.bb_y.max(initial=0), inner_i.max(initial=0))) + 1
    outer_key = (row * span + boxes.bb_x) * span + boxes.bb_y
    inner_key = (row * span + inner_i) * span + np.maximum(inner_j, 0)
    order = np.argsort(outer_key, kind="stable")
    first = np.searchsorted(outer_key[order], inner_key, side="left")
    many = np.searchsorted(outer_key[order], inner_key, side="right") - first
    many[(boxes.type == HLOOP) | (inner_j < 0)] = 0
    a, k = ragged_positions(many)
    b = order[first[a] + k]
    mixed = (boxes.type[a] == STEM) != (boxes.type[b] == STEM)
    return a[mixed], b[mixed]


def neighbour_counts(boxes: Boxes) -> np.ndarray:
    """``(boxes, 7)`` float32, the columns :data:`COUNTS`: how many boxes of the row stand to each box in which way.

    Boxes and stems that exclude it, boxes around it, between its strands and beside it (:mod:`rna_s2.rna.relations`), and
    boxes of the other type (stem or loop) that end at its outer pair and that begin at its inner pair
    (:func:`continuations`).
    """
    counts = np.zeros((len(boxes), len(COUNTS)), np.float32)
    for part, how in _relations(boxes):
        excluded = is_conflict(how)
        counts[part, 0] = excluded.sum(axis=1)
        counts[part, 1] = (excluded & (boxes.type[part] == STEM)).sum(axis=1)
        for column, code in enumerate((INSIDE, OUTSIDE, APART), start=2):
            counts[part, column] = (how == code).sum(axis=1)
    a, b = continuations(boxes)
    counts[:, 5] = np.bincount(b, minlength=len(boxes))
    counts[:, 6] = np.bincount(a, minlength=len(boxes))
    return counts


def path_energies(boxes: Boxes, energies: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The lowest energies of paths of stems and loops through each box, kcal/mol.

    A path is what a hairpin with its internal loops is made of: stem, iloop, stem, ..., hloop, each going on where the last
    one ended. Multiloops are not in it, so a path may begin with any stem.

    ================  =================================================================================================
    ``chain_inside``  the box and what follows it, down to a hairpin loop
    ``chain_outside`` what comes before it, from the end of the outermost stem
    ``chain_rival``   the whole path (inside and outside) of the best box that excludes this one
    ================  =================================================================================================

    Args:
        boxes: the boxes of all rows.
        energies: ``(boxes,)`` kcal/mol (:func:`rna_s2.energies.boxes.box_energies`).
        ends: ``(boxes,)`` kcal/mol, what a stem adds that begins a path (:func:`rna_s2.energies.boxes.end_energies`).

    Returns:
        ``(boxes, 3)`` float64, the columns :data:`PATHS`; ``inf`` where there is no such path or box.
    """
    a, b = continuations(boxes)
    inside = np.where(boxes.type == HLOOP, energies, np.inf)
    outside = np.where(boxes.type == STEM, ends, np.inf)
    inside = _relaxed(inside, a, b, energies[a])
    order = np.argsort(b, kind="stable")
    outside = _relaxed(outside, b[order], a[order], energies[a[order]])
    total = inside + outside
    rival = np.full(len(boxes), np.inf)
    for part, how in _relations(boxes):
        rival[part] = np.where(is_conflict(how), total[part], np.inf).min(axis=1, initial=np.inf)
    return np.stack([inside, outside, rival], axis=1)


def _relaxed(best: np.ndarray, to: np.ndarray, source: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """``best[to]`` lowered to ``cost + best[source]`` along every link until nothing changes; ``to`` rises.

    A link leads from a stem to a loop or back and never to a wider box, so this ends after as many rounds as the longest path
    has boxes.
    """
    if not len(to):
        return best
    starts = np.flatnonzero(np.diff(to, prepend=-1))
    while True:
        lowered = best.copy()
        lowered[to[starts]] = np.minimum(best[to[starts]], np.minimum.reduceat(cost + best[source], starts))
        if np.array_equal(lowered, best):
            return best
        best = lowered


def _relations(boxes: Boxes):
    """For each row with boxes, the slice of its boxes and the ``(n, n)`` relation of each to each."""
    columns = (boxes.type, boxes.bb_x, boxes.bb_y, boxes.siz_x, boxes.siz_y)
    for row in np.flatnonzero(np.diff(boxes.offsets)):
        part = slice(int(boxes.offsets[row]), int(boxes.offsets[row + 1]))
        yield part, relation([c[part, None] for c in columns], [c[None, part] for c in columns])
