"""Comparing predicted with known pairs: answers worked out by hand, and plain loops over the whole map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rna_s2.rna.pairs import from_dot_bracket
from rna_s2.structures.compare import Comparison, compare_many
from tests.structure_reference import comparison


@st.composite
def structures(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Two structures of one sequence, crossing pairs included; the second has much of the first, some of it moved."""
    length = draw(st.integers(0, 14))

    def random_pairs() -> list[tuple[int, int]]:
        bases = draw(st.permutations(range(length)))
        count = draw(st.integers(0, length // 2))
        return [tuple(sorted(bases[2 * k: 2 * k + 2])) for k in range(count)]

    first = random_pairs()
    second, used = [], set()
    for i, j in first + random_pairs():
        i, j = sorted((i + draw(st.integers(-1, 1)), j + draw(st.sampled_from([0, 0, 1]))))
        if 0 <= i < j < length and not {i, j} & used:
            second.append((i, j))
            used |= {i, j}
    return *(np.array(sorted(p), int).reshape(-1, 2) for p in (first, second)), length


def compare(predicted, known, length, slack=0):
    """The comparison of one sequence."""
    table = compare_many([predicted], [known], [length], slack)
    return Comparison(*(table[name].tolist()[0] for name in Comparison._fields))


@settings(max_examples=100, deadline=None)
@given(st.lists(structures(), max_size=4), st.sampled_from([0, 1]))
def test_against_plain_loops(rows, slack):
    table = compare_many([a for a, _, _ in rows], [b for _, b, _ in rows], [n for _, _, n in rows], slack)
    assert list(table.columns) == list(Comparison._fields)
    assert len(table) == len(rows)
    for n, (a, b, length) in enumerate(rows):
        expected = comparison([tuple(p) for p in a.tolist()], [tuple(p) for p in b.tolist()], length, slack)
        row = table.iloc[n]
        assert (row["predicted"], row["known"]) == (len(a), len(b))
        for name in ("right", "found", "sensitivity", "ppv", "f1"):
            assert row[name] == pytest.approx(expected[name]), name
        if slack == 0 or row["right"] == row["found"]:  # else the formula has no one number of true positives
            assert row["mcc"] == pytest.approx(expected["mcc"], abs=1e-9)


def test_known_answer():
    known = from_dot_bracket("((((....))))........")
    predicted = from_dot_bracket("(((......))).(...)..")
    found = compare(predicted, known, 20)
    assert found[:4] == (4, 4, 3, 3)
    assert (found.sensitivity, found.ppv, found.f1) == (0.75, 0.75, 0.75)
    # TP 3, FP 1, FN 1, TN 190 - 5 = 185
    assert found.mcc == pytest.approx((3 * 185 - 1) / (4 * 4 * 186 * 186) ** 0.5)


def test_one_position_of_slack_moves_one_base_not_both():
    known = np.array([[2, 12]])
    for pair, right in [((2, 13), 1), ((2, 11), 1), ((1, 12), 1), ((3, 12), 1), ((3, 13), 0), ((1, 13), 0), ((2, 14), 0)]:
        assert compare(np.array([pair]), known, 20, slack=1).right == right, pair
        assert compare(np.array([pair]), known, 20).right == 0


def test_slack_does_not_reach_the_next_sequence_or_around_the_end():
    first, last = np.array([[0, 4]]), np.array([[3, 4]])
    table = compare_many([last, first], [first, last], [5, 5], slack=1)
    assert table["right"].tolist() == [0, 0]


def test_one_predicted_pair_may_stand_for_two_known_ones():
    found = compare(np.array([[3, 10]]), np.array([[2, 10], [3, 11]]), 15, slack=1)
    assert (found.right, found.found, found.ppv, found.sensitivity) == (1, 2, 1.0, 1.0)
    assert found.mcc == 1.0


@pytest.mark.parametrize(
    ("predicted", "known", "expected"),
    [([], [], (1, 1, 1, 1)), ([], [(0, 5)], (0, 0, 0, 0)), ([(0, 5)], [], (0, 0, 0, 0)), ([(0, 5)], [(0, 5)], (1, 1, 1, 1))],
)
def test_structures_without_pairs(predicted, known, expected):
    assert compare(np.array(predicted, int).reshape(-1, 2), np.array(known, int).reshape(-1, 2), 8)[4:] == expected


def test_long_sequences_do_not_overflow():
    pairs = np.array([[0, 29_999]])
    table = compare_many([pairs] * 50, [pairs] * 49 + [np.array([[1, 29_998]])], [30_000] * 50)
    assert table["found"].tolist() == [1] * 49 + [0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([np.array([[0, 8]])], [np.zeros((0, 2), int)], [8]), r"row 0: \(0, 8\) is no pair of a sequence of 8 bases"),
        (([np.array([[4, 2]])], [np.zeros((0, 2), int)], [8]), r"\(4, 2\) is no pair"),
        (([], [np.zeros((0, 2), int)], [8]), "0 predicted, 1 known"),
        (([], [], [], 2), "slack must be 0 or 1"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        compare_many(*arguments)


def test_a_pair_before_the_sequence_is_refused():
    with pytest.raises(ValueError, match="is no pair"):
        compare(np.array([[-1, 5]]), np.zeros((0, 2), int), 10)
