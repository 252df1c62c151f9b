"""How two boxes stand to each other: by hand, by what their bases say, and the codes that saved weights rely on."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given

from rna_s2.rna.boxes import HLOOP, ILOOP, STEM, inner_corner
from rna_s2.rna.pairs import from_dot_bracket, target_boxes
from rna_s2.rna.relations import (
    APART,
    CLOSED_BY,
    CLOSES,
    CROSSING,
    INSIDE,
    OUTSIDE,
    OVERLAP,
    RELATIONS,
    SAME,
    SAME_CORNER,
    conditions,
    is_conflict,
    relation,
    relation_matrix,
)
from tests.test_pairs import NESTED, crossing


def test_the_codes_keep_the_order_that_saved_weights_rely_on():
    assert RELATIONS == ("same_corner", "overlap", "crossing", "same", "apart", "outside", "inside", "closes", "closed_by")
    codes = [SAME_CORNER, OVERLAP, CROSSING, SAME, APART, OUTSIDE, INSIDE, CLOSES, CLOSED_BY]
    assert codes == list(range(9)) and is_conflict(np.arange(9)).tolist() == [True] * 3 + [False] * 6


def test_tensors_and_arrays_meet_the_same_conditions():
    """Of any boxes, also of such as cannot be: the network gives a code to whatever stage 1 proposes."""
    rng = np.random.default_rng(0)
    columns = [rng.integers(low, high, 60) for low, high in ((0, 3), (-2, 30), (-2, 30), (-1, 8), (-1, 8))]
    sides = [(*columns[:3], *inner_corner(*columns[1:]))] * 2
    arrays = conditions([c[:, None] for c in sides[0]], [c[None] for c in sides[1]])
    tensors = [[torch.tensor(c, dtype=torch.int16) for c in side] for side in sides]
    found = conditions([c[:, None] for c in tensors[0]], [c[None] for c in tensors[1]])
    assert list(found) == list(arrays) and CROSSING not in found
    for code, where in arrays.items():
        assert where.any() and found[code].numpy().tolist() == where.tolist(), RELATIONS[code]


def every_box(length):
    """Every stem, iloop (of at least one unpaired base) and hloop of a map."""
    for x in range(length):
        for y in range(x + 1, length):
            yield HLOOP, x, y, y - x + 1, y - x + 1
            for n in range(1, (y - x + 1) // 2 + 1):
                yield STEM, x, y, n, n
            for p in range(x + 1, y):
                for q in range(p + 1, y):
                    if (p - x, y - q) != (1, 1):
                        yield ILOOP, x, y, p - x + 1, y - q + 1


def statement(box):
    """What a box says of each of its bases: its partner, or None for an unpaired one."""
    box_type, x, y, siz_x, siz_y = box
    if box_type == STEM:
        pairs = [(x + k, y - k) for k in range(siz_x)]
        unpaired = []
    elif box_type == ILOOP:
        p, q = x + siz_x - 1, y - siz_y + 1
        pairs = [(x, y), (p, q)]
        unpaired = [*range(x + 1, p), *range(q + 1, y)]
    else:
        pairs = [(x, y)]
        unpaired = list(range(x + 1, y))
    said = dict.fromkeys(unpaired)
    for i, j in pairs:
        said[i], said[j] = j, i
    return said, pairs


def test_conflict_is_what_the_bases_say_for_every_two_boxes_of_a_map():
    boxes = list(every_box(8))
    columns = np.array(boxes).T
    fast = is_conflict(relation([c[:, None] for c in columns], [c[None, :] for c in columns]))
    said = [statement(box) for box in boxes]
    slow = np.zeros_like(fast)
    for a, (bases_a, pairs_a) in enumerate(said):
        for b, (bases_b, pairs_b) in enumerate(said):
            contradict = any(bases_b[base] != partner for base, partner in bases_a.items() if base in bases_b)
            cross = any(crossing(p, q) for p in pairs_a for q in pairs_b)
            one_stem = a != b and boxes[a][0] == boxes[b][0] == STEM and bool(set(pairs_a) & set(pairs_b))
            slow[a, b] = contradict or cross or one_stem
    assert 0 < fast.mean() < 1
    assert np.array_equal(fast, slow)


def test_each_relation_on_boxes_worked_out_by_hand():
    outer = (STEM, 0, 30, 3, 3)
    cases = [
        (outer, outer, SAME),
        (outer, (STEM, 31, 40, 2, 2), APART),
        (outer, (STEM, 5, 20, 3, 3), OUTSIDE),
        ((STEM, 5, 20, 3, 3), outer, INSIDE),
        (outer, (ILOOP, 2, 28, 3, 4), CLOSES),
        ((ILOOP, 2, 28, 3, 4), (STEM, 4, 25, 2, 2), CLOSES),
        ((ILOOP, 2, 28, 3, 4), outer, CLOSED_BY),
        ((HLOOP, 5, 10, 6, 6), (STEM, 4, 11, 2, 2), CLOSED_BY),
        ((ILOOP, 2, 28, 3, 4), (ILOOP, 4, 25, 2, 3), CLOSES),
        (outer, (STEM, 2, 28, 2, 2), OVERLAP),  # would be one stem
        (outer, (STEM, 1, 29, 2, 2), SAME_CORNER),  # a piece of it
        ((HLOOP, 5, 15, 11, 11), (STEM, 7, 12, 1, 1), OVERLAP),  # paired inside a hairpin loop
        ((STEM, 0, 10, 2, 2), (STEM, 5, 20, 2, 2), CROSSING),  # crossing
        ((ILOOP, 0, 30, 6, 4), (STEM, 2, 3, 1, 1), OVERLAP),  # inside a side of the loop
    ]
    a, b, want = zip(*cases, strict=True)
    assert relation(np.array(a).T, np.array(b).T).tolist() == list(want)


@given(NESTED)
def test_boxes_of_one_structure_do_not_conflict_and_relations_are_mutual(text):
    boxes = target_boxes([from_dot_bracket(""), from_dot_bracket(text)])
    matrix = relation_matrix(boxes, 1)
    assert matrix.shape == (len(boxes), len(boxes))
    assert not is_conflict(matrix).any()
    assert (matrix.diagonal() == SAME).all()
    reverse = np.array([SAME_CORNER, OVERLAP, CROSSING, SAME, APART, INSIDE, OUTSIDE, CLOSED_BY, CLOSES])
    assert np.array_equal(reverse[matrix], matrix.T)
