"""MFE structure and ensemble of a sequence whose base pairs are limited to those of the proposed stems.

ViennaRNA folds by the nearest-neighbour model (Zuker and Stiegler 1981; McCaskill 1990; Lorenz et al. 2011). Base pairs that no
proposed stem contains are forbidden; :func:`fold_within` can make them expensive instead. The limit is on base pairs, not on
boxes: a structure may have a part of a proposed stem, or two parts joined to a longer stem, and loops that were not proposed.

:func:`fold_within` gives the structure of the lowest free energy, :func:`pair_probabilities` the probability of each pair in
the Boltzmann ensemble, and :func:`box_probabilities` what these say about each box.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from multiprocessing import get_context

import numpy as np

from rna_s2.engine.processes import end_with_parent, own_code_first
from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import ILOOP, STEM, Boxes, inner_pair, ragged_positions, stems_that_pair
from rna_s2.rna.pairs import from_dot_bracket
from rna_s2.rna.sequence import decode, encode, pairable

ENSEMBLE: tuple[str, ...] = ("pairs_least", "pairs_mean", "pair_beyond", "unpaired_least")
"""Names of the columns of :func:`box_probabilities`."""

RT = 0.61632
"""Gas constant times temperature at 37 degrees, kcal/mol: so much more energy makes a structure ``e`` times as rare."""

ROWS_PER_WORKER = 200
"""Rows from which a process more is worth the seconds that it takes to start."""

LEAST_HAIRPIN = 3
"""Unpaired bases of the smallest hairpin loop that the model knows."""

_ROUNDED_UNFOLDED = 0.01  # kcal/mol, the unfolded chain's energy of 0 with rounding
_RESCALE_FROM = 4000  # bases from which the partition function hardly stays within double precision by ViennaRNA's own scale


def stem_pairs(boxes: Boxes, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The base pairs of the proposed stems, each once per row.

    Args:
        boxes: the proposals of all rows. Stems that are not square, leave the map or reach its diagonal are passed over.
        lengths: ``(rows,)`` bases.

    Returns:
        ``(pairs, 2)`` int64 ``i < j``, by row, ``i`` and ``j``; ``(rows + 1,)`` int64 where those of each row begin.
    """
    stems = np.flatnonzero(stems_that_pair(boxes, lengths))
    stem, step = ragged_positions(boxes.siz_x[stems])
    stem = stems[stem]
    cells = np.unique(np.stack([boxes.row[stem], boxes.bb_x[stem] + step, boxes.bb_y[stem] - step], axis=1), axis=0)
    return cells[:, 1:].astype(np.int64), np.searchsorted(cells[:, 0], np.arange(boxes.rows + 1))


def fold_within(
    seq: str, pairs: np.ndarray, bonus: np.ndarray | float = 0.0, others: float | None = None,
    min_hairpin: int = LEAST_HAIRPIN,
) -> np.ndarray:
    """The structure of the lowest free energy that consists of the given pairs; others are forbidden, or cost something.

    Args:
        pairs: ``(k, 2)`` the given pairs, ``i < j``, 0-based.
        bonus: ``(k,)`` kcal/mol, added to a structure's energy for each of them that it holds; negative favours a pair.
        others: kcal/mol, the same for every pair that is not given; None forbids them.
        min_hairpin: unpaired bases of a hairpin loop; below :data:`LEAST_HAIRPIN` the model has none.

    Returns:
        ``(m, 2)`` int32 pairs, sorted by ``i``.

    Raises:
        ValueError: a character outside the alphabet, or a bonus that is not finite.
        UserError: ViennaRNA is not installed.
    """
    if not len(pairs) and others is None:
        return np.zeros((0, 2), np.int32)
    structure, _ = _compound(seq, pairs, bonus, others, min_hairpin).mfe()
    return from_dot_bracket(structure)


def pair_probabilities(seq: str, pairs: np.ndarray) -> np.ndarray:
    """``(k,)`` float64 in 0..1: probability of each pair in the ensemble of the structures that the pairs can form.

    Arguments and errors as for :func:`fold_within`.
    """
    if not len(pairs):
        return np.zeros(0)
    compound = _compound(seq, pairs, 0.0, None, LEAST_HAIRPIN)
    if len(seq) >= _RESCALE_FROM or not _in_range(compound.pf()[1]):
        compound.exp_params_rescale(compound.mfe()[1])  # the scale at which it is in range; to find it is to fold once more
        compound.pf()
    matrix = np.array(compound.bpp())  # from 1, above the diagonal
    return np.clip(matrix[pairs[:, 0] + 1, pairs[:, 1] + 1], 0.0, 1.0)


def _in_range(energy: float) -> bool:
    """Whether a partition function stayed within double precision: the unfolded chain is in it, so its energy is 0 or less."""
    return energy < _ROUNDED_UNFOLDED


def _compound(seq: str, pairs: np.ndarray, bonus: np.ndarray | float, others: float | None, min_hairpin: int):
    if not (np.isfinite(bonus).all() and (others is None or np.isfinite(others))):
        raise ValueError("the bonus of a pair is not finite")
    try:
        import RNA
    except ImportError as error:
        raise UserError("energies need ViennaRNA, which is not installed; pip install ViennaRNA") from error
    model = RNA.md()
    model.min_loop_size = max(min_hairpin, LEAST_HAIRPIN)
    codes = encode(seq)
    compound = RNA.fold_compound(decode(codes, rna=True), model)
    if others is None:
        # A pair that cannot form is passed over; one that merely costs much is computed with all its loops.
        unwanted = np.triu(pairable(codes), k=model.min_loop_size + 1)
        unwanted[pairs[:, 0], pairs[:, 1]] = False
        forbid, nothing = compound.hc_add_bp, RNA.CONSTRAINT_CONTEXT_NO_REMOVE
        for i, j in np.argwhere(unwanted).tolist():
            forbid(i + 1, j + 1, nothing)
    if others is not None or np.any(bonus):
        cost = np.full((len(seq) + 1, len(seq) + 1), others or 0.0)
        first, second = pairs[:, 0] + 1, pairs[:, 1] + 1
        cost[first, second] = cost[second, first] = bonus
        compound.sc_set_bp(cost.tolist())
    return compound


def box_probabilities(boxes: Boxes, seqs: Sequence[str], workers: int = 1) -> np.ndarray:
    """How likely each box is in the ensemble of what its row's stems can form.

    ==================  ===============================================================================================
    ``pairs_least``     the smallest probability of the pairs that the box claims: all of a stem, the closing ones of a loop
    ``pairs_mean``      their mean
    ``pair_beyond``     the larger probability of the two pairs that would make a stem longer; 0 for a loop
    ``unpaired_least``  the smallest probability of being unpaired among a loop's unpaired bases; 1 for a stem
    ==================  ===============================================================================================

    Args:
        boxes: the proposals of all rows, inside the map; stems square.
        seqs: ``(rows,)`` the sequences.
        workers: processes to compute on, fewer where there are few rows; the result does not depend on it.

    Returns:
        ``(boxes, 4)`` float64, the columns :data:`ENSEMBLE`.

    Raises:
        UserError: ViennaRNA is not installed.
    """
    lengths = np.array([len(seq) for seq in seqs], np.int64)
    pairs, offsets = stem_pairs(boxes, lengths)
    columns = np.zeros((len(boxes), len(ENSEMBLE)))
    of_row = [pairs[start:end] for start, end in pairwise(offsets.tolist())]
    for row, p in enumerate(_each_row(seqs, of_row, min(workers, len(seqs) // ROWS_PER_WORKER))):
        part = slice(int(boxes.offsets[row]), int(boxes.offsets[row + 1]))
        if part.start < part.stop:
            columns[part] = _row_probabilities(boxes, part, of_row[row], p, len(seqs[row]))
    return columns


def _each_row(seqs: Sequence[str], pairs: Sequence[np.ndarray], workers: int) -> Iterable[np.ndarray]:
    """:func:`pair_probabilities` of each row."""
    if workers <= 1:
        return map(pair_probabilities, seqs, pairs)
    with own_code_first(), get_context("spawn").Pool(workers, end_with_parent) as pool:
        return pool.starmap(pair_probabilities, zip(seqs, pairs, strict=True), chunksize=16)


def _row_probabilities(boxes: Boxes, part: slice, pairs: np.ndarray, p: np.ndarray, length: int) -> np.ndarray:
    """The columns of one row. A frame of zeros around the matrix answers for pairs that would leave the sequence."""
    matrix = np.zeros((length + 2, length + 2))
    matrix[pairs[:, 0] + 1, pairs[:, 1] + 1] = p
    unpaired = np.clip(1.0 - matrix.sum(axis=0) - matrix.sum(axis=1), 0.0, 1.0)[1:-1]
    box_type, x, y = boxes.type[part], boxes.bb_x[part].astype(np.int64), boxes.bb_y[part].astype(np.int64)
    siz_x = boxes.siz_x[part].astype(np.int64)
    inner_i, inner_j = (c[part].astype(np.int64) for c in inner_pair(boxes))
    stem, loop = box_type == STEM, box_type == ILOOP
    outer = matrix[x + 1, y + 1]
    columns = np.stack([outer, outer, np.zeros(len(x)), np.ones(len(x))], axis=1)
    index = np.flatnonzero(stem)
    if len(index):
        of, step = ragged_positions(siz_x[index])
        values = matrix[x[index][of] + step + 1, y[index][of] - step + 1]
        starts = np.flatnonzero(step == 0)
        columns[index, 0] = np.minimum.reduceat(values, starts)
        columns[index, 1] = np.add.reduceat(values, starts) / siz_x[index]
        columns[index, 2] = np.maximum(matrix[x[index], y[index] + 2], matrix[inner_i[index] + 2, inner_j[index]])
    inner = matrix[inner_i[loop] + 1, inner_j[loop] + 1]
    columns[loop, 0] = np.minimum(outer[loop], inner)
    columns[loop, 1] = (outer[loop] + inner) / 2
    index = np.flatnonzero(~stem)
    first = _least_between(unpaired, x[index] + 1, inner_i[index])
    second = _least_between(unpaired, inner_j[index] + 1, y[index])
    columns[index, 3] = np.minimum(first, np.where(loop[index], second, 1.0))
    return columns


def _least_between(values: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The smallest of ``values[start:end]`` for each entry; 1 where that is empty."""
    least = np.ones(len(start))
    filled = np.flatnonzero(end > start)
    if len(filled):
        bounds = np.stack([start[filled], end[filled]], axis=1).reshape(-1)
        least[filled] = np.minimum.reduceat(np.append(values, 1.0), bounds)[::2]
    return least
