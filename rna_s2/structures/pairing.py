"""Base-pair probabilities from box probabilities, structures of maximum expected accuracy and of least energy, confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rna_s2.energies.ensemble import RT, fold_within
from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import Boxes, ragged_positions, stems_that_pair
from rna_s2.rna.pairs import from_dot_bracket
from rna_s2.rna.sequence import decode, encode
from rna_s2.structures.candidates import log_odds


@dataclass(frozen=True)
class PairProbabilities:
    """Base-pair probabilities of one sequence: those above 0.

    Attributes:
        length: bases.
        i, j: ``(pairs,)`` int32, ``i < j``, 0-based, sorted by ``i``, then ``j``; each pair once.
        p: ``(pairs,)`` float64 in 0..1; those of the pairs of one base sum to 1 at most.
    """

    length: int
    i: np.ndarray
    j: np.ndarray
    p: np.ndarray

    def __len__(self) -> int:
        return len(self.p)

    def paired(self) -> np.ndarray:
        """``(length,)`` float64: probability that each base is paired."""
        return _row_sums(self.i, self.j, self.p, self.length)

    def of(self, pairs: np.ndarray) -> np.ndarray:
        """``(k,)`` float64: the probability of each of the given pairs (``(k, 2)`` int, ``i < j``); 0 where it has none."""
        if not len(self):
            return np.zeros(len(pairs))
        known = self.i.astype(np.int64) * self.length + self.j
        wanted = pairs[:, 0].astype(np.int64) * self.length + pairs[:, 1]
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[place] == wanted, self.p[place], 0.0)


def base_pair_probabilities(
    boxes: Boxes, probability: np.ndarray, length: int, row: int = 0
) -> PairProbabilities:
    """Base-pair probabilities from the probabilities of the proposed stems.

    A stem is a maximal run of stacked pairs, so a structure has one stem at most that contains a pair, and the probability of
    the pair is the **sum** over the stems that contain it. A network that scores each box by itself does not keep to that, so
    the probabilities are brought down where they exceed what a base can have: ``p[i, j] / max(1, s[i], s[j])``, where ``s[i]``
    is the sum over all pairs of base ``i``. What no stem contains has probability 0; loops say nothing here.

    Args:
        boxes: proposals; only the stems count. A stem that is not square, leaves the map or reaches its diagonal, is passed
            over. Identical stems count once, with their highest probability.
        probability: ``(boxes,)`` in 0..1.
        length: bases.
        row: the sequence among those of ``boxes``.

    Raises:
        ValueError: a probability outside of 0..1, or another number of them than of boxes.
    """
    probability = np.asarray(probability, np.float64)
    if probability.shape != (len(boxes),):
        raise ValueError(f"{probability.shape} probabilities for {len(boxes)} boxes")
    own, p = boxes.take_rows(np.array([row])), probability[boxes.offsets[row]: boxes.offsets[row + 1]]
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a probability is outside of 0..1")
    size = own.siz_x.astype(np.int64)
    index = np.flatnonzero(stems_that_pair(own, np.array([length])) & (p > 0))
    index = index[np.lexsort((-p[index], size[index], own.bb_y[index], own.bb_x[index]))]
    stem = np.stack([own.bb_x[index], own.bb_y[index], size[index]], axis=1)
    index = index[np.concatenate([[True], (np.diff(stem, axis=0) != 0).any(axis=1)])[: len(index)]]
    of_stem, step = ragged_positions(size[index])
    cell = (own.bb_x[index][of_stem] + step) * length + own.bb_y[index][of_stem] - step
    cells, place = np.unique(cell, return_inverse=True)
    i, j = np.divmod(cells, length)
    joined = np.bincount(place, p[index][of_stem], minlength=len(cells))
    most = np.maximum(_row_sums(i, j, joined, length), 1.0)
    return PairProbabilities(length, i.astype(np.int32), j.astype(np.int32), joined / np.maximum(most[i], most[j]))


def _row_sums(i: np.ndarray, j: np.ndarray, p: np.ndarray, length: int) -> np.ndarray:
    return np.bincount(i, p, minlength=length) + np.bincount(j, p, minlength=length)


def maximum_expected_accuracy(
    pairing: PairProbabilities, seq: str, gamma: float = 1.0, min_hairpin: int = 3
) -> tuple[np.ndarray, float]:
    """The nested structure that is expected to have most bases right, by ViennaRNA (``RNA.MEA_from_plist``).

    It maximises the sum of ``2 * gamma * p[i, j]`` over its pairs and of ``1 - sum_j p[i, j]`` over its unpaired bases
    (Do, Woods and Batzoglou 2006; Lu, Gloor and Mathews 2009). Above 1, ``gamma`` favours pairs (sensitivity), below 1
    unpaired bases (precision). The pairs are not bound to whole stems here.

    Args:
        pairing, seq: base-pair probabilities, and the sequence of ``pairing.length`` bases.
        gamma: weight of pairs, above 0.
        min_hairpin: pairs that enclose fewer bases are left out.

    Returns:
        ``(k, 2)`` int32 pairs and the expected accuracy, the value of the maximum.

    Raises:
        ValueError: a character outside the alphabet, another length, or ``gamma`` not above 0.
        UserError: ViennaRNA is not installed.
    """
    if len(seq) != pairing.length:
        raise ValueError(f"a sequence of {len(seq)} bases for probabilities of {pairing.length}")
    if not gamma > 0:
        raise ValueError(f"gamma must be above 0, got {gamma}")
    try:
        import RNA
    except ImportError as error:
        raise UserError("maximum expected accuracy needs ViennaRNA, which is not installed; pip install ViennaRNA") from error
    wide = pairing.j - pairing.i > min_hairpin
    entries = [
        RNA.ep(i + 1, j + 1, p, RNA.PLIST_TYPE_BASEPAIR)
        for i, j, p in zip(pairing.i[wide].tolist(), pairing.j[wide].tolist(), pairing.p[wide].tolist(), strict=True)
    ]
    structure, accuracy = RNA.MEA_from_plist(entries, decode(encode(seq), rna=True), gamma)
    return from_dot_bracket(structure), float(accuracy)


def least_energy(
    pairing: PairProbabilities, seq: str, evidence: float, unproposed: float = 0.0, min_hairpin: int = 3
) -> np.ndarray:
    """The structure of the lowest free energy, in which the probabilities of its pairs are counted.

    Minimised is ``G / RT - evidence * sum ln(p / (1 - p))``: the free energy ``G`` by ViennaRNA, and the log-odds of each
    pair of the structure. With ``evidence`` 1 a pair's log-odds count in full, though the pairs of a stem, which come
    together, say the same thing many times over; with 0 and ``unproposed`` 0, probabilities say only which pairs are allowed,
    and with 0 and ``unproposed`` above 0 nothing at all. Pseudo-energies per pair are how probing data enter such models
    as well (Deigan et al. 2009).

    Args:
        pairing, seq: as for :func:`maximum_expected_accuracy`.
        evidence: weight of the log-odds, 0 or more.
        unproposed: least probability of a pair, that of those without one included; 0: pairs without one are forbidden.
        min_hairpin: unpaired bases of a hairpin loop; the model has none below 3.

    Returns:
        ``(m, 2)`` int32 pairs, sorted by ``i``.

    Raises:
        ValueError: a character outside the alphabet, or another length.
        UserError: ViennaRNA is not installed.
    """
    if len(seq) != pairing.length:
        raise ValueError(f"a sequence of {len(seq)} bases for probabilities of {pairing.length}")
    pairs = np.stack([pairing.i, pairing.j], axis=1)
    bonus = -RT * evidence * log_odds(np.maximum(pairing.p, unproposed))
    others = -RT * evidence * float(log_odds(np.array(unproposed))) if unproposed else None
    return fold_within(seq, pairs, bonus, others, min_hairpin)


def base_confidence(pairs: np.ndarray, pairing: PairProbabilities) -> np.ndarray:
    """``(length,)`` float64 in 0..1: probability that what a structure says of each base is right.

    Of a paired base, the probability of its pair; of an unpaired one, that it is unpaired.

    ``pairs`` are those of the structure, ``(k, 2)`` int.
    """
    confidence = np.clip(1.0 - pairing.paired(), 0.0, 1.0)
    confidence[pairs.reshape(-1)] = np.repeat(pairing.of(pairs), 2)
    return confidence


def structure_confidence(pairs: np.ndarray, pairing: PairProbabilities) -> float:
    """How far a structure as a whole can be trusted, 0..1: the mean probability of its pairs (its expected PPV).

    Of a structure without pairs it is the mean of :func:`base_confidence`, 1 for an empty sequence.
    """
    if len(pairs):
        return float(pairing.of(pairs).mean())
    return float(base_confidence(pairs, pairing).mean()) if pairing.length else 1.0
