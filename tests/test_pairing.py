"""Base-pair probabilities, maximum expected accuracy and confidence: by hand, and against plain loops."""

from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rna_s2.energies.ensemble import RT
from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import HLOOP, STEM, Boxes
from rna_s2.rna.pairs import from_dot_bracket
from rna_s2.structures.candidates import log_odds
from rna_s2.structures.pairing import (
    PairProbabilities,
    base_confidence,
    base_pair_probabilities,
    least_energy,
    maximum_expected_accuracy,
    structure_confidence,
)
from tests.energy_reference import energy, foldable, structures
from tests.structure_reference import crossing, is_stem, pairs_of

PROBABILITIES = st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.8, 1.0])


@st.composite
def scored(draw: st.DrawFn) -> tuple[list[tuple[tuple[int, int, int, int, int], float]], int]:
    length = draw(st.integers(2, 12))
    box = st.tuples(
        st.sampled_from([STEM, STEM, STEM, HLOOP]), st.integers(-1, length), st.integers(-1, length), st.integers(1, 3)
    )
    boxes = draw(st.lists(st.tuples(box, st.integers(0, 5), PROBABILITIES), max_size=10))
    return sorted(((*b, b[3] + (odd == 0)), p) for b, odd, p in boxes), length


@settings(max_examples=120, deadline=None)
@given(scored())
def test_probabilities_against_plain_loops(row):
    boxes, length = row
    found = base_pair_probabilities(Boxes.from_rows([[b for b, _ in boxes]]), np.array([p for _, p in boxes]), length)
    stems: dict = {}
    for box, p in boxes:
        if is_stem(box, length):
            stems[box] = max(p, stems.get(box, 0))
    of_pair: dict = {}
    for box, p in stems.items():
        for pair in pairs_of(box):
            of_pair.setdefault(pair, []).append(p)
    joined = {pair: sum(ps) for pair, ps in of_pair.items() if any(ps)}
    most = [max(1, sum(p for pair, p in joined.items() if base in pair)) for base in range(length)]
    expected = {(i, j): p / max(most[i], most[j]) for (i, j), p in joined.items()}
    assert list(zip(found.i.tolist(), found.j.tolist(), strict=True)) == sorted(expected)
    assert found.p == pytest.approx([expected[pair] for pair in sorted(expected)])
    assert (found.paired() <= 1 + 1e-12).all()
    matrix = np.zeros((length, length))
    matrix[found.i, found.j] = found.p
    assert matrix.sum() == pytest.approx(found.p.sum())
    assert found.paired() == pytest.approx(matrix.sum(0) + matrix.sum(1))


def test_known_answer():
    boxes = Boxes.from_rows([[(STEM, 0, 9, 3, 3), (STEM, 0, 9, 2, 2), (STEM, 0, 8, 1, 1)]])
    found = base_pair_probabilities(boxes, np.array([0.6, 0.3, 0.3]), 10)
    # base 0: 0.9 with base 9 and 0.3 with base 8, together 1.2; base 8: 0.9 with base 1 and 0.3 with base 0
    assert list(zip(found.i, found.j, strict=True)) == [(0, 8), (0, 9), (1, 8), (2, 7)]
    assert found.p == pytest.approx([0.25, 0.75, 0.75, 0.6])
    asked = np.array([[0, 9], [2, 7], [3, 6]])
    assert found.of(asked) == pytest.approx([0.75, 0.6, 0.0])
    assert structure_confidence(asked, found) == pytest.approx(0.45)
    confidence = base_confidence(asked[:2], found)
    assert confidence == pytest.approx([0.75, 0.25, 0.6, 1, 1, 1, 1, 0.6, 0, 0.75])


def test_the_row_asked_for_is_used():
    boxes = Boxes.from_rows([[(STEM, 0, 9, 1, 1)], [], [(STEM, 1, 8, 1, 1), (HLOOP, 1, 8, 8, 8)]])
    p = np.array([0.1, 0.2, 0.3])
    assert [len(base_pair_probabilities(boxes, p, 10, row=r)) for r in range(3)] == [1, 0, 1]
    assert base_pair_probabilities(boxes, p, 10, row=2).p.tolist() == [0.2]


def test_no_pairs():
    nothing = base_pair_probabilities(Boxes.empty(1), np.zeros(0), 4)
    none = np.zeros((0, 2), np.int32)
    assert (len(nothing), nothing.paired().tolist(), nothing.of(np.array([[0, 3]])).tolist()) == (0, [0] * 4, [0])
    assert structure_confidence(none, nothing) == 1.0
    assert structure_confidence(none, PairProbabilities(0, *np.zeros((2, 0), np.int32), np.zeros(0))) == 1.0
    half = PairProbabilities(4, np.array([0]), np.array([3]), np.array([0.5]))
    assert structure_confidence(none, half) == 0.75


@pytest.mark.parametrize("p", [[-0.1], [1.1], [float("nan")], [0.5, 0.5]])
def test_wrong_probabilities_are_refused(p):
    with pytest.raises(ValueError, match="probabilit"):
        base_pair_probabilities(Boxes.from_rows([[(STEM, 0, 9, 1, 1)]]), np.array(p), 10)


def best_accuracy(p: dict[tuple[int, int], float], length: int, gamma: float) -> float:
    """The largest expected accuracy of any nested set of pairs, over all of them."""
    unpaired = [1 - sum(v for pair, v in p.items() if base in pair) for base in range(length)]
    best = 0.0
    for size in range(len(p) + 1):
        for pairs in combinations(p, size):
            bases = {base for pair in pairs for base in pair}
            if len(bases) == 2 * size and not any(crossing(a, b) for a, b in combinations(pairs, 2)):
                value = sum(2 * gamma * p[pair] for pair in pairs)
                best = max(best, value + sum(u for base, u in enumerate(unpaired) if base not in bases))
    return best


@settings(max_examples=60, deadline=None)
@given(scored(), st.sampled_from([0.3, 1.0, 4.0]))
def test_maximum_expected_accuracy_is_the_maximum(row, gamma):
    pytest.importorskip("RNA")
    boxes, length = row
    pairing = base_pair_probabilities(Boxes.from_rows([[b for b, _ in boxes]]), np.array([p for _, p in boxes]), length)
    p = {(i, j): v for (i, j, v) in zip(pairing.i.tolist(), pairing.j.tolist(), pairing.p.tolist(), strict=True) if j - i > 3}
    if len(p) > 9:
        return
    pairs, accuracy = maximum_expected_accuracy(pairing, "N" * length, gamma)
    assert accuracy == pytest.approx(best_accuracy(p, length, gamma), abs=1e-5)
    assert {tuple(pair) for pair in pairs.tolist()} <= set(p)
    unpaired = np.delete(1 - PairProbabilities(length, *np.array([*p], int).reshape(-1, 2).T, np.array([*p.values()])).paired(),
                         pairs.reshape(-1))
    assert accuracy == pytest.approx(2 * gamma * sum(p[tuple(q)] for q in pairs.tolist()) + unpaired.sum(), abs=1e-5)


def test_gamma_weighs_pairs_against_unpaired_bases():
    pytest.importorskip("RNA")
    pairing = base_pair_probabilities(Boxes.from_rows([[(STEM, 0, 9, 3, 3)]]), np.array([0.3]), 10)
    # a pair at 2 * gamma * 0.3 against two unpaired bases at 0.7 each: worth it above gamma 7 / 3
    assert len(maximum_expected_accuracy(pairing, "GGGAAAACCC", 2.3)[0]) == 0
    pairs, _ = maximum_expected_accuracy(pairing, "gggaaaaccc", 2.4)
    assert pairs.tolist() == from_dot_bracket("(((....)))").tolist()


def test_mea_refuses_what_does_not_fit(monkeypatch):
    pairing = PairProbabilities(4, *np.zeros((2, 0), np.int32), np.zeros(0))
    with pytest.raises(ValueError, match="3 bases for probabilities of 4"):
        maximum_expected_accuracy(pairing, "ACG")
    with pytest.raises(ValueError, match="gamma must be above 0"):
        maximum_expected_accuracy(pairing, "ACGU", 0)
    monkeypatch.setitem(sys.modules, "RNA", None)
    with pytest.raises(UserError, match="pip install ViennaRNA"):
        maximum_expected_accuracy(pairing, "ACGU")


@settings(max_examples=60, deadline=None)
@given(foldable(), st.data(), st.sampled_from([0.0, 0.2, 1.0]))
def test_least_energy_counts_the_log_odds_of_every_pair(case, data, evidence):
    """Against the enumeration of every structure of the pairs."""
    seq, pairs = case
    p = data.draw(st.lists(st.sampled_from([0.01, 0.3, 0.9, 1.0]), min_size=len(pairs), max_size=len(pairs)))
    i, j = np.array(pairs, np.int32).reshape(-1, 2).T
    found = least_energy(PairProbabilities(len(seq), i, j, np.array(p)), seq, evidence)
    odds = dict(zip(pairs, log_odds(np.array(p)), strict=True))

    def cost(structure: list[tuple[int, int]]) -> float:
        return energy(seq, structure) - RT * evidence * sum(odds[pair] for pair in structure)

    assert cost([tuple(pair) for pair in found.tolist()]) == pytest.approx(min(map(cost, structures(pairs))), abs=0.05)


def test_least_energy_with_pairs_that_were_not_proposed():
    """Nothing is proposed: with ``unproposed`` it is plain folding, dearer by the evidence; without, nothing pairs."""
    seq = "GGGGGAAAACCCCC"
    nothing = PairProbabilities(len(seq), *np.zeros((2, 0), np.int32), np.zeros(0))
    assert len(least_energy(nothing, seq, 0.2)) == 0
    assert len(least_energy(nothing, seq, 0.0, 0.02)) == len(least_energy(nothing, seq, 0.1, 0.02)) == 5
    assert len(least_energy(nothing, seq, 10.0, 0.02)) == 0
    unlikely = PairProbabilities(len(seq), np.array([0], np.int32), np.array([13], np.int32), np.array([1e-5]))
    assert least_energy(unlikely, seq, 0.1, 0.02).tolist() == least_energy(nothing, seq, 0.1, 0.02).tolist()


def test_a_proposed_pair_is_never_worth_less_than_one_that_was_not():
    """Four pairs of probability 1e-6 would cost more than the helix gains; as unproposed ones of 0.02 they do not."""
    seq = "GGGGAAAACCCC"
    i = np.arange(4, dtype=np.int32)
    doubted = PairProbabilities(len(seq), i, 11 - i, np.full(4, 1e-6))
    assert len(least_energy(doubted, seq, 0.1, 0.02)) == 4
    assert len(least_energy(doubted, seq, 0.5, 0.0)) == 0


def test_least_energy_refuses_another_length():
    with pytest.raises(ValueError, match="5 bases for probabilities of 9"):
        least_energy(PairProbabilities(9, *np.zeros((2, 0), np.int32), np.zeros(0)), "GGGGG", 0.2)
