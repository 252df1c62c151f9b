"""Free energy of each box on its own, from ViennaRNA's nearest-neighbour parameters (its default, Turner 2004).

A structure's free energy is the sum over its loops (Zuker and Stiegler 1981). A stem stands for the stacked pairs in it, an
iloop for an internal loop or bulge, an hloop for a hairpin loop; what remains of a structure are its multiloops and its
exterior loop, which have no box.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from rna_s2.rna.boxes import HLOOP, ILOOP, STEM, Boxes, inner_pair, ragged_positions
from rna_s2.rna.sequence import BASES, CAN_PAIR, decode, encode_many

KCAL_PER_UNIT = 0.01
"""ViennaRNA counts energies of loops in units of 10 cal/mol."""

_IMPOSSIBLE = 10_000_000  # ViennaRNA's energy of what cannot be, in its own units


def box_energies(boxes: Boxes, seqs: Sequence[str]) -> np.ndarray:
    """Free energy of every box in kcal/mol; what its ends add to the exterior loop is left out (:func:`end_energies`).

    Stems are summed from a table for all boxes at once; each loop is one call of ViennaRNA (about a microsecond), because
    the energies of small loops are tabled by their bases.

    Args:
        boxes: the boxes of all rows, inside the map; stems square.
        seqs: ``(rows,)`` the sequences.

    Returns:
        ``(boxes,)`` float64; ``inf`` where no such box can form: a pair that is not canonical, a hairpin of fewer than three
        unpaired bases, a loop that reaches the diagonal.
    """
    codes, starts = encode_many(seqs)
    energies = np.full(len(boxes), np.inf)
    of_stem = np.flatnonzero(boxes.type == STEM)
    energies[of_stem] = _stem_energies(boxes, of_stem, codes, starts[:-1])
    loops = np.flatnonzero((boxes.type != STEM) & _closing_pairs_form(boxes, codes, starts[:-1]))
    energies[loops] = _loop_energies(boxes, loops, codes, starts)
    return energies


def end_energies(boxes: Boxes, seqs: Sequence[str]) -> np.ndarray:
    """What the end of a stem adds to the exterior loop: terminal penalty, dangling ends or mismatch, kcal/mol.

    It depends on the outer pair and the bases beside it (ViennaRNA's ``dangles=2``, its default); the energy of a hairpin on
    its own is that of its boxes and of this end.

    Returns:
        ``(boxes,)`` float64; ``inf`` for a stem whose outer pair is not canonical, 0 for loops.
    """
    codes, starts = encode_many(seqs)
    start, end = starts[:-1][boxes.row], starts[1:][boxes.row]
    i, j = start + boxes.bb_x, start + boxes.bb_y
    stem = np.flatnonzero(boxes.type == STEM)
    i, j, start, end = i[stem], j[stem], start[stem], end[stem]
    five_prime = np.where(i > start, codes[np.maximum(i - 1, 0)], _NO_BASE)
    three_prime = np.where(j + 1 < end, codes[np.minimum(j + 1, len(codes) - 1)], _NO_BASE)
    energies = np.zeros(len(boxes))
    energies[stem] = _end_table()[len(BASES) * codes[i].astype(np.int64) + codes[j], five_prime, three_prime]
    return energies


def _compound(codes: Sequence[int] | np.ndarray) -> Any:
    """What ViennaRNA evaluates loops of a sequence with."""
    import RNA

    return RNA.fold_compound(decode(np.asarray(codes), rna=True), RNA.md(), RNA.OPTION_EVAL_ONLY)


_NO_BASE = len(BASES)


@cache
def _end_table() -> np.ndarray:
    """``(25, 6, 6)`` kcal/mol: an outer pair ``5 * i + j``, the base before it and the base behind it, or none."""
    table = np.full((len(BASES) ** 2, _NO_BASE + 1, _NO_BASE + 1), np.inf)
    for (i, j), before, behind in product(np.argwhere(CAN_PAIR), range(_NO_BASE + 1), range(_NO_BASE + 1)):
        bases = [before] * (before != _NO_BASE) + [i, 0, 0, 0, j] + [behind] * (behind != _NO_BASE)
        first = 1 + (before != _NO_BASE)
        partners = [len(bases)] + [0] * len(bases)  # ViennaRNA's pair table: the length, then each base's partner
        partners[first], partners[first + 4] = first + 4, first
        table[len(BASES) * i + j, before, behind] = _compound(bases).eval_loop_pt(0, partners) * KCAL_PER_UNIT
    return table


@cache
def stacking_table() -> np.ndarray:
    """``(25, 25)`` float64, kcal/mol: a pair of bases ``5 * i + j`` and the pair ``5 * (i+1) + (j-1)`` stacked inside it.

    ``inf`` where one of the two cannot pair. It is kept: change a copy only.
    """
    table = np.full((len(BASES) ** 2,) * 2, np.inf)
    for (i, j), (k, m) in product(np.argwhere(CAN_PAIR), repeat=2):
        compound = _compound([i, k, 0, 0, 0, m, j])
        table[len(BASES) * i + j, len(BASES) * k + m] = compound.eval_int_loop(1, 7, 2, 6) * KCAL_PER_UNIT
    return table


def _stem_energies(boxes: Boxes, stems: np.ndarray, codes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sum of the stacking energies of the given stems; 0 for one pair, ``inf`` with a pair that is not canonical."""
    start = starts[boxes.row[stems]]
    box, k = ragged_positions(boxes.siz_x[stems])
    i, j = codes[(start + boxes.bb_x[stems])[box] + k], codes[(start + boxes.bb_y[stems])[box] - k]
    pair = len(BASES) * i.astype(np.int64) + j
    stacked = np.flatnonzero(np.diff(box, append=-1) == 0)
    energy = np.bincount(box[stacked], stacking_table()[pair[stacked], pair[stacked + 1]], minlength=len(stems))
    wrong = np.bincount(box, ~CAN_PAIR[i, j], minlength=len(stems)) > 0
    return np.where(wrong, np.inf, energy)


def _closing_pairs_form(boxes: Boxes, codes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Whether the closing pairs of each loop are canonical and, of an iloop, one inside the other."""
    start = starts[boxes.row]
    inner_i, inner_j = inner_pair(boxes)
    inner = (boxes.type == HLOOP) | (
        (boxes.bb_x < inner_i) & (inner_i < inner_j) & (inner_j < boxes.bb_y)
        & CAN_PAIR[codes[start + inner_i], codes[start + inner_j]]
    )
    return inner & (boxes.bb_x < boxes.bb_y) & CAN_PAIR[codes[start + boxes.bb_x], codes[start + boxes.bb_y]]


def _loop_energies(boxes: Boxes, loops: np.ndarray, codes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Energies of the given loops, whose closing pairs must form."""
    inner_i, inner_j = inner_pair(boxes)
    row = boxes.row[loops]
    ends = np.cumsum(np.bincount(row, minlength=boxes.rows))
    columns = [c[loops] + 1 for c in (boxes.bb_x, boxes.bb_y, inner_i, inner_j)]  # ViennaRNA counts from 1
    inside = (boxes.type[loops] == ILOOP).tolist()
    i, j, k, m = (c.tolist() for c in columns)
    found = []
    for r in np.unique(row).tolist():
        compound = _compound(codes[starts[r] : starts[r + 1]])
        hairpin, internal = compound.eval_hp_loop, compound.eval_int_loop
        for n in range(int(ends[r - 1]) if r else 0, int(ends[r])):
            found.append(internal(i[n], j[n], k[n], m[n]) if inside[n] else hairpin(i[n], j[n]))
    energies = np.array(found, dtype=np.float64)
    return np.where(energies >= _IMPOSSIBLE, np.inf, energies * KCAL_PER_UNIT)
