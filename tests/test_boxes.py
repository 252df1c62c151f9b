"""Boxes as columns: the corner convention, membership, and ragged indices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rna_s2.rna.boxes import (
    HLOOP,
    ILOOP,
    STEM,
    Boxes,
    among,
    bounds,
    inner_corner,
    inner_pair,
    inside_map,
    is_in,
    outer_pair,
    ragged_positions,
    ragged_take,
    top_left,
    top_right,
)

small = st.integers(-2, 4)
box_rows = st.lists(st.lists(st.tuples(st.integers(0, 2), small, small, small, small), max_size=5), max_size=4)


def test_the_corner_convention() -> None:
    # an internal loop: rows 3..5, columns 16..20; pairs (3, 20) outside and (5, 16) inside
    boxes = Boxes.from_rows([[(ILOOP, 3, 20, 3, 5)]])
    assert [int(edge[0]) for edge in bounds(boxes)] == [3, 5, 16, 20]
    assert [int(end[0]) for end in outer_pair(boxes)] == [3, 20]
    assert [int(end[0]) for end in inner_pair(boxes)] == [5, 16]
    assert inner_corner(3, 20, 3, 5) == (5, 16)
    assert top_left(3, 20, 5) == (3, 16) and top_right(3, 16, 5) == (3, 20)


def test_rows_are_ordered_by_type_and_keep_the_order_within() -> None:
    boxes = Boxes.from_rows([[(HLOOP, 1, 5, 5, 5), (STEM, 9, 9, 1, 1), (STEM, 0, 6, 2, 2)], []])
    assert list(boxes.row_boxes(0)) == [(STEM, 9, 9, 1, 1), (STEM, 0, 6, 2, 2), (HLOOP, 1, 5, 5, 5)]
    assert boxes.counts().tolist() == [[2, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(("box", "inside"), [
    ((0, 4, 5, 5), True), ((0, 4, 6, 5), False), ((0, 4, 5, 6), False), ((-1, 4, 2, 2), False), ((0, 5, 2, 2), False),
    ((4, 4, 1, 1), True), ((2, 2, 0, 1), False), ((2, 2, 1, 0), False), ((5, 4, 0, 1), False),
])
def test_inside_the_map_of_five_bases(box: tuple[int, int, int, int], inside: bool) -> None:
    assert inside_map(Boxes.from_rows([[(STEM, *box)]]), np.array([5])).tolist() == [inside]


@given(box_rows, st.data())
def test_membership_is_by_row_type_corner_and_size(rows: list, data: st.DataObject) -> None:
    others = [
        data.draw(st.lists(st.sampled_from(row), max_size=3) if row else st.just([]))
        + data.draw(st.lists(st.tuples(st.integers(0, 2), small, small, small, small), max_size=2))
        for row in rows
    ]
    boxes, other_boxes = Boxes.from_rows(rows), Boxes.from_rows(others)
    expected = [box in others[r] for r in range(len(rows)) for box in boxes.row_boxes(r)]
    assert is_in(boxes, other_boxes).tolist() == expected


def test_membership_beyond_one_int64() -> None:
    far = 2**31 - 1
    boxes = Boxes.from_rows([[(0, far, -far, far, far), (0, -far, far, far, far)]])
    assert is_in(boxes, Boxes.from_rows([[(0, -far, far, far, far), (2, 0, 0, 1, 1)]])).tolist() == [False, True]


@given(st.lists(st.integers(-3, 9)), st.lists(st.integers(-3, 9)))
def test_among_is_numpy_isin(values: list[int], others: list[int]) -> None:
    values, others = np.array(values, np.int64), np.array(others, np.int64)
    assert among(values, others).tolist() == np.isin(values, others).tolist()


@given(st.lists(st.integers(0, 4), max_size=6), st.data())
def test_ragged_take_and_positions(lengths: list[int], data: st.DataObject) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=5)) if lengths else []
    index, new_offsets = ragged_take(offsets, np.array(rows, np.int64))
    assert index.tolist() == [k for r in rows for k in range(offsets[r], offsets[r + 1])]
    assert np.diff(new_offsets).tolist() == [lengths[r] for r in rows]
    entry, position = ragged_positions(np.array(lengths, np.int64))
    assert list(zip(entry.tolist(), position.tolist(), strict=True)) == [
        (e, k) for e, length in enumerate(lengths) for k in range(length)
    ]
