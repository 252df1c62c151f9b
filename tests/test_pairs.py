"""Base pairs, dot-bracket, loop decomposition, pseudoknots."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rna_s2.rna.boxes import HLOOP, ILOOP, STEM, TARGET_TYPE_CODES
from rna_s2.rna.pairs import (
    as_pairs,
    from_dot_bracket,
    loop_boxes,
    pair_table,
    pairs_of_boxes,
    remove_pseudoknots,
    stems,
    target_boxes,
    to_dot_bracket,
)
from tests.real_data import KNOWN_STRUCTURES, PARQUET_TABLES, SHIPPED, name_of

NESTED = st.recursive(
    st.text(".", max_size=4),
    lambda inner: st.lists(st.one_of(inner, inner.map(lambda s: f"({s})"), inner.map(lambda s: f"(({s}))")), max_size=3)
    .map("".join),
    max_leaves=12,
)
"""Dot-brackets without pseudoknots, hairpins without unpaired bases included."""


@st.composite
def matchings(draw, max_pairs=7):
    """Any pairing of bases, crossing or not."""
    count = draw(st.integers(0, max_pairs))
    length = 2 * count + draw(st.integers(0, 4))
    bases = draw(st.permutations(range(length)))
    return as_pairs(bases[:count], bases[count: 2 * count]), length


def slow_boxes(pairs):
    """Loop decomposition by walking along the loop that each pair closes."""
    partner = {}
    for i, j in pairs.tolist():
        partner[i], partner[j] = j, i
    boxes = []
    for i, j in pairs.tolist():
        if partner.get(i - 1) != j + 1 or i == 0:
            n = 1
            while partner.get(i + n) == j - n and i + n < j - n:
                n += 1
            boxes.append((STEM, i, j, n, n))
        inside, position = [], i + 1
        while position < j:
            if position in partner:
                inside.append((position, partner[position]))
                position = partner[position]
            position += 1
        if not inside:
            boxes.append((HLOOP, i, j, j - i + 1, j - i + 1))
        elif len(inside) == 1 and inside[0] != (i + 1, j - 1):
            p, q = inside[0]
            boxes.append((ILOOP, i, j, p - i + 1, j - q + 1))
    return sorted(boxes)


def crossing(a, b):
    (i, j), (k, m) = sorted([tuple(a), tuple(b)])
    return i < k < j < m


# dot-bracket


def test_brackets_of_each_kind_are_matched_among_themselves():
    assert from_dot_bracket("(.[.).]").tolist() == [[0, 4], [2, 6]]
    assert from_dot_bracket("({<A[.]a>})").tolist() == [[0, 10], [1, 9], [2, 8], [3, 7], [4, 6]]
    assert from_dot_bracket("...").shape == (0, 2)
    assert from_dot_bracket("").shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("((.)", r"'\(' at position 1 is never closed"),
        (".)", r"'\)' at position 2 closes nothing"),
        ("(]", r"'\]' at position 2 closes nothing"),
        ("(.[.)", r"'\[' at position 3 is never closed"),
        ("(.?)", r"'\?' at position 3 is neither"),
    ],
)
def test_a_wrong_bracket_is_named_with_its_position(text, said):
    with pytest.raises(ValueError, match=said):
        from_dot_bracket(text)


def test_crossing_pairs_are_written_with_the_next_kind_of_brackets():
    assert to_dot_bracket(as_pairs([0, 1, 3], [7, 6, 9]), 10) == "((.[..)).]"
    assert to_dot_bracket(as_pairs([], []), 3) == "..."


@given(matchings())
def test_dot_bracket_round_trip_with_pseudoknots(case):
    pairs, length = case
    text = to_dot_bracket(pairs, length)
    assert len(text) == length
    assert np.array_equal(from_dot_bracket(text), pairs)


def test_a_structure_that_needs_too_many_kinds_of_brackets_is_refused():
    n = 31
    with pytest.raises(ValueError, match="more than 30 types"):
        to_dot_bracket(as_pairs(range(n), range(n, 2 * n)), 2 * n)


# pairs


def test_pairs_come_in_either_order_and_once():
    assert as_pairs([5, 1, 0], [1, 5, 3]).tolist() == [[0, 3], [1, 5]]
    assert as_pairs([], []).shape == (0, 2)


@pytest.mark.parametrize(
    ("i", "j", "said"),
    [
        ([2], [2], "base 3 is paired with itself"),
        ([0, 0], [3, 4], "base 1 is in more than one pair"),
        ([0, 3], [3, 5], "base 4 is in more than one pair"),
        ([0], [10], "base 11 of a pair is outside the sequence of 10"),
        ([-1], [3], "base 0 of a pair is outside"),
        ([0, 1], [5], "2 bases against 1 partners"),
    ],
)
def test_wrong_pairs_are_named(i, j, said):
    with pytest.raises(ValueError, match=said):
        as_pairs(i, j, 10)


@given(matchings())
def test_the_pair_table_points_both_ways(case):
    pairs, length = case
    table = pair_table(pairs, length)
    want = [-1] * length
    for i, j in pairs.tolist():
        want[i], want[j] = j, i
    assert table.tolist() == want


def test_stems_are_maximal_runs_of_stacked_pairs():
    assert stems(from_dot_bracket("((.((..)).((...))))")).tolist() == [[0, 18, 2], [3, 8, 2], [10, 16, 2]]
    assert stems(from_dot_bracket("((.))()")).tolist() == [[0, 4, 2], [5, 6, 1]]


# loop decomposition


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("......", []),
        # a hairpin of 3 unpaired bases
        ("((...))", [(STEM, 0, 6, 2, 2), (HLOOP, 1, 5, 5, 5)]),
        # hairpins of 0 and 1 unpaired bases
        ("()", [(STEM, 0, 1, 1, 1), (HLOOP, 0, 1, 2, 2)]),
        ("(.)", [(STEM, 0, 2, 1, 1), (HLOOP, 0, 2, 3, 3)]),
        # bulges: 2 on the side without unpaired bases
        ("(.(...))", [(STEM, 0, 7, 1, 1), (STEM, 2, 6, 1, 1), (ILOOP, 0, 7, 3, 2), (HLOOP, 2, 6, 5, 5)]),
        ("((...)..)", [(STEM, 0, 8, 1, 1), (STEM, 1, 5, 1, 1), (ILOOP, 0, 8, 2, 4), (HLOOP, 1, 5, 5, 5)]),
        # an internal loop of 1 and 2 unpaired bases, closed by the inner pair of a stem of 2
        (
            ".((.(...)..)).",
            [(STEM, 1, 12, 2, 2), (STEM, 4, 8, 1, 1), (ILOOP, 2, 11, 3, 4), (HLOOP, 4, 8, 5, 5)],
        ),
        # a multiloop has no box, nor has the exterior loop
        (
            "((...).(...)).(...)",
            [
                (STEM, 0, 12, 1, 1), (STEM, 1, 5, 1, 1), (STEM, 7, 11, 1, 1), (STEM, 14, 18, 1, 1),
                (HLOOP, 1, 5, 5, 5), (HLOOP, 7, 11, 5, 5), (HLOOP, 14, 18, 5, 5),
            ],
        ),
    ],
)  # fmt: skip
def test_boxes_worked_out_by_hand(text, boxes):
    assert loop_boxes(from_dot_bracket(text)) == boxes


@given(NESTED)
def test_decomposition_agrees_with_a_walk_along_the_loops_and_has_a_way_back(text):
    pairs = from_dot_bracket(text)
    boxes = loop_boxes(pairs)
    assert boxes == slow_boxes(pairs)
    assert np.array_equal(pairs_of_boxes(boxes), pairs)


def random_structure(rng, length):
    """A dot-bracket that a random walk draws; stacked pairs are likely."""
    text, waiting = [], 0
    for left in range(length, 0, -1):
        options = [c for c, ok in (("(", waiting < left - 1), (")", waiting), (".", waiting < left)) if ok]
        same = text[-1] if text and text[-1] in options and rng.random() < 0.6 else None
        text.append(same or options[rng.integers(len(options))])
        waiting += {"(": 1, ")": -1, ".": 0}[text[-1]]
    return "".join(text)


def test_thousands_of_random_structures_make_the_round_trip():
    rng = np.random.default_rng(0)
    seen = {STEM: 0, ILOOP: 0, HLOOP: 0}
    for _ in range(3000):
        text = random_structure(rng, int(rng.integers(1, 120)))
        pairs = from_dot_bracket(text)
        boxes = loop_boxes(pairs)
        assert boxes == slow_boxes(pairs)
        assert to_dot_bracket(pairs_of_boxes(boxes), len(text)) == text
        for box in boxes:
            seen[box[0]] += 1
    assert min(seen.values()) > 3000


def test_structures_folded_by_viennarna_make_the_round_trip():
    import RNA

    rng = np.random.default_rng(1)
    for _ in range(100):
        seq = "".join(rng.choice(list("ACGU"), 90))
        structure, _ = RNA.fold(seq)
        assert to_dot_bracket(pairs_of_boxes(loop_boxes(from_dot_bracket(structure))), len(seq)) == structure


@pytest.mark.parametrize("path", PARQUET_TABLES, ids=name_of)
def test_decomposition_gives_the_bounding_boxes_of_a_real_table(path):
    table = pd.read_parquet(path)
    assert len(table) >= 36
    for one_idx, given_boxes in zip(table["one_idx"], table["bounding_boxes"], strict=True):
        want = sorted(
            (TARGET_TYPE_CODES[b["type"]], b["x"], b["y"] + b["siz_y"] - 1, b["siz_x"], b["siz_y"]) for b in given_boxes
        )
        assert loop_boxes(as_pairs(*one_idx)) == want


@pytest.mark.parametrize("path", KNOWN_STRUCTURES, ids=name_of)
def test_known_structures_make_the_round_trip_without_their_pseudoknots(path):
    knotted = 0
    for text in pd.read_csv(path)["structure"]:
        pairs = from_dot_bracket(text)
        kept, removed = remove_pseudoknots(pairs)
        knotted += len(removed) > 0
        assert len(kept) + len(removed) == len(pairs)
        assert loop_boxes(kept) == slow_boxes(kept)
        assert np.array_equal(pairs_of_boxes(loop_boxes(kept)), kept)
        assert np.array_equal(from_dot_bracket(to_dot_bracket(pairs, len(text))), pairs)
    assert knotted > (12 if path.parent == SHIPPED else 400)


def test_a_pseudoknot_has_no_decomposition():
    with pytest.raises(ValueError, match=r"pair \(3, 10\) crosses pair \(2, 7\)"):
        loop_boxes(from_dot_bracket("(([...).)]"))


def test_many_structures_become_the_rows_of_columns():
    structures = [from_dot_bracket(t) for t in ("((...))", "...", "(.(...))")]
    boxes = target_boxes(structures)
    assert boxes.rows == 3
    assert [list(boxes.row_boxes(r)) for r in range(3)] == [loop_boxes(p) for p in structures]


def test_boxes_that_pair_a_base_twice_have_no_pairs():
    with pytest.raises(ValueError, match="base 1 is in more than one pair"):
        pairs_of_boxes([(STEM, 0, 9, 1, 1), (HLOOP, 0, 7, 8, 8)])


# pseudoknots


def slow_best_nested(pairs):
    """Most pairs without crossing, over all subsets."""
    for size in range(len(pairs), -1, -1):
        for subset in combinations(pairs.tolist(), size):
            if not any(crossing(a, b) for a, b in combinations(subset, 2)):
                return size
    return 0


@given(matchings())
def test_as_many_pairs_are_kept_as_any_set_without_crossings_has(case):
    pairs, _ = case
    kept, removed = remove_pseudoknots(pairs)
    assert not any(crossing(a, b) for a, b in combinations(kept.tolist(), 2))
    assert sorted([*kept.tolist(), *removed.tolist()]) == pairs.tolist()
    assert len(kept) == slow_best_nested(pairs)


def test_the_longer_stem_stays_and_of_equal_ones_the_first():
    kept, removed = remove_pseudoknots(from_dot_bracket("(.[[.).]]"))
    assert (kept.tolist(), removed.tolist()) == ([[2, 8], [3, 7]], [[0, 5]])
    kept, removed = remove_pseudoknots(from_dot_bracket("(.[.).]"))
    assert (kept.tolist(), removed.tolist()) == ([[0, 4]], [[2, 6]])
    # a stem of two pairs that crosses two stems of one pair each, which do not cross each other
    kept, removed = remove_pseudoknots(from_dot_bracket("(.[[.).<.]].>"))
    assert (kept.tolist(), removed.tolist()) == ([[0, 5], [7, 12]], [[2, 10], [3, 9]])
