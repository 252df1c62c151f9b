"""What neighbours say of a box: against plain loops over boxes, and chains worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rna_s2.rna.boxes import HLOOP, ILOOP, STEM, Boxes
from rna_s2.rna.relations import APART, INSIDE, OUTSIDE, is_conflict, relation
from rna_s2.s2.neighbours import COUNTS, PATHS, continuations, neighbour_counts, path_energies

ENERGIES = [-3.0, -1.5, 0.0, 0.5, 2.0, math.inf]


@st.composite
def box(draw) -> tuple[int, int, int, int, int]:
    kind = draw(st.sampled_from([STEM, ILOOP, HLOOP]))
    x, y = draw(st.integers(0, 9)), draw(st.integers(5, 14))
    siz_x, siz_y = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    if kind == STEM:
        siz_y = siz_x
    if kind == HLOOP:
        siz_x = siz_y = max(1, y - x + 1)
    return kind, x, y, siz_x, siz_y


rows = st.lists(st.lists(box(), max_size=9, unique=True), max_size=3).map(Boxes.from_rows)


def inner(b: tuple[int, ...]) -> tuple[int, int]:
    return b[1] + b[3] - 1, b[2] - b[4] + 1


def goes_on(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether ``b`` begins at the pair at which ``a`` ends."""
    return a[0] != HLOOP and (a[0] == STEM) != (b[0] == STEM) and inner(a) == (b[1], b[2])


def best_inside(boxes: list, energy: list, k: int) -> float:
    if boxes[k][0] == HLOOP:
        return energy[k]
    following = [n for n in range(len(boxes)) if goes_on(boxes[k], boxes[n])]
    return energy[k] + min((best_inside(boxes, energy, n) for n in following), default=math.inf)


def best_outside(boxes: list, energy: list, end: list, k: int) -> float:
    before = [n for n in range(len(boxes)) if goes_on(boxes[n], boxes[k])]
    free = [end[k]] if boxes[k][0] == STEM else []
    return min(free + [energy[n] + best_outside(boxes, energy, end, n) for n in before], default=math.inf)


def is_sound(boxes: list) -> bool:
    """No loop of one cell or below the diagonal, so that a chain always goes inwards."""
    return all(inner(b)[0] <= inner(b)[1] and (b[0] != ILOOP or inner(b) != (b[1], b[2])) for b in boxes if b[0] != HLOOP)


@settings(max_examples=150, deadline=None)
@given(rows, st.data())
def test_counts_and_chains_are_those_of_plain_loops(boxes, data):
    boxes = boxes.select(np.array([is_sound([b]) for r in range(boxes.rows) for b in boxes.row_boxes(r)], bool))
    energies = np.array(data.draw(st.lists(st.sampled_from(ENERGIES), min_size=len(boxes), max_size=len(boxes))))
    ends = np.array(data.draw(st.lists(st.sampled_from([-0.5, 0.0, 0.5]), min_size=len(boxes), max_size=len(boxes))))
    counts, chains = neighbour_counts(boxes), path_energies(boxes, energies, ends)
    assert counts.shape == (len(boxes), len(COUNTS)) and chains.shape == (len(boxes), len(PATHS))
    links = []
    for row in range(boxes.rows):
        start = int(boxes.offsets[row])
        own = list(boxes.row_boxes(row))
        energy = energies[start : start + len(own)].tolist()
        how = [[int(relation(a, b)) for b in own] for a in own]
        end = ends[start : start + len(own)].tolist()
        total = [best_inside(own, energy, k) + best_outside(own, energy, end, k) for k in range(len(own))]
        for k, a in enumerate(own):
            excluded = [n for n in range(len(own)) if is_conflict(how[k][n])]
            assert counts[start + k].tolist() == [
                len(excluded), sum(own[n][0] == STEM for n in excluded),
                how[k].count(INSIDE), how[k].count(OUTSIDE), how[k].count(APART),
                sum(goes_on(b, a) for b in own), sum(goes_on(a, b) for b in own),
            ]
            wanted = [
                best_inside(own, energy, k), best_outside(own, energy, end, k),
                min((total[n] for n in excluded), default=math.inf),
            ]
            assert chains[start + k].tolist() == pytest.approx(wanted)
        links += [(start + k, start + n) for k, n in itertools.product(range(len(own)), repeat=2) if goes_on(own[k], own[n])]
    assert sorted(zip(*(c.tolist() for c in continuations(boxes)), strict=True)) == sorted(links)


def test_a_hairpin_with_an_internal_loop_by_hand():
    boxes = Boxes.from_rows([[
        (STEM, 0, 20, 3, 3), (STEM, 4, 16, 4, 4), (STEM, 1, 12, 2, 2), (ILOOP, 2, 18, 3, 3), (HLOOP, 7, 13, 7, 7),
        (HLOOP, 2, 11, 10, 10),
    ]])
    energies = np.array([-4.0, -6.0, -1.0, 1.5, 5.0, 4.0])
    ends = np.array([-0.5, 0.5, 0.25, 0.0, 0.0, 0.0])
    inside, outside, rival = path_energies(boxes, energies, ends).T.tolist()
    assert inside == [-3.5, -1.0, 3.0, 0.5, 5.0, 4.0]
    assert outside == [-0.5, -3.0, 0.25, -4.5, -9.0, -0.75]
    assert rival == [3.25, 3.25, -4.0, 3.25, 3.25, -4.0]


def test_no_boxes_at_all():
    assert neighbour_counts(Boxes.empty(2)).shape == (0, len(COUNTS))
    assert path_energies(Boxes.empty(2), np.zeros(0), np.zeros(0)).shape == (0, len(PATHS))
