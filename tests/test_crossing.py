"""Decoding with crossing stems: against every subset of stems, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rna_s2.rna.boxes import HLOOP, ILOOP, STEM, Boxes
from rna_s2.rna.pairs import as_pairs, from_dot_bracket, to_dot_bracket
from rna_s2.structures.candidates import DecodeOptions
from tests.structure_reference import all_crossing_structures, decode, k_best
from tests.test_decode import columns, proposals

options = st.builds(
    DecodeOptions, crossing=st.just(True), crossing_stem=st.sampled_from([-2.0, 0.0, -0.7]),
    min_hairpin=st.sampled_from([3, 0]), missing_loop=st.sampled_from([-2.0, 0.0, 0.7]), threshold=st.sampled_from([0.5, 0.15]),
)


@settings(max_examples=30, deadline=None)
@given(proposals(most_stems=7), options)
def test_the_best_structures_are_the_best_of_all_subsets(row, chosen):
    scored, length = row
    boxes, scores = columns([scored])
    every = all_crossing_structures(
        scored, length, crossing_stem=chosen.crossing_stem, min_hairpin=chosen.min_hairpin, missing_loop=chosen.missing_loop,
        less=math.log(chosen.threshold / (1 - chosen.threshold)),
    )
    found = k_best(boxes, scores, length, 3, chosen)
    assert [f.score for f in found] == pytest.approx(sorted(every.values(), reverse=True)[:3], abs=1e-6)
    of_pairs = [tuple(map(tuple, f.pairs.tolist())) for f in found]
    assert len(set(of_pairs)) == len(found)
    for f, pairs in zip(found, of_pairs, strict=True):
        assert f.score == pytest.approx(every[pairs], abs=1e-6)
        assert from_dot_bracket(to_dot_bracket(as_pairs(*f.pairs.T, length=length), length)).tolist() == f.pairs.tolist()


#          0         1         2
#          012345678901234567890123
KNOT = "(((((..[[[.)))))...]]].."
ROW = [((STEM, 0, 15, 5, 5), 3.0), ((STEM, 7, 21, 3, 3), 3.0), ((HLOOP, 4, 11, 8, 8), 1.0)]
PLAIN = DecodeOptions(threshold=0.5, crossing=True, crossing_stem=-2.0)


def test_a_pseudoknot_by_hand():
    boxes, scores = columns([ROW])
    found = decode(boxes, scores, 24, PLAIN)
    assert to_dot_bracket(found.pairs, 24) == KNOT
    assert (found.score, found.boxes.tolist(), found.missing_loops) == (5.0, [0, 1, 2], 0)
    for changes in ({"crossing_stem": -3.5}, {"crossing": False}, {"crossing_max_stems": 1}):
        other = decode(boxes, scores, 24, PLAIN.model_copy(update=changes))
        assert to_dot_bracket(other.pairs, 24) == "(((((......)))))........"


def test_three_kinds_of_brackets():
    row = [((STEM, 0, 30, 2, 2), 5.0), ((STEM, 10, 40, 2, 2), 5.0), ((STEM, 20, 50, 2, 2), 5.0)]
    found = decode(*columns([row]), 60, PLAIN)
    assert to_dot_bracket(found.pairs, 60) == "((........[[........{{.......))........]]........}}........."


def test_without_crossing_proposals_it_is_the_nested_optimum():
    rng = np.random.default_rng(5)
    row, x = [], 0
    for _ in range(6):
        n, u = int(rng.integers(2, 6)), int(rng.integers(3, 8))
        y = x + 2 * n + u + 5
        row += [(STEM, x, y, 2, 2), (STEM, x + 3, y - 4, n - 1, n - 1), (ILOOP, x + 1, y - 1, 3, 4)]
        row += [(HLOOP, x + n + 1, y - n - 2, y - x - 2 * n - 2, y - x - 2 * n - 2)]
        x = y + 1
    boxes = Boxes.from_rows([row])
    scores = rng.normal(1.0, 2.0, len(boxes))
    nested = decode(boxes, scores, x)
    crossed = decode(boxes, scores, x, DecodeOptions(crossing=True))
    assert crossed.pairs.tolist() == nested.pairs.tolist()
    assert crossed.boxes.tolist() == nested.boxes.tolist()
    assert crossed.score == pytest.approx(nested.score)
    assert crossed.missing_loops == nested.missing_loops


def test_nothing_to_choose_from():
    assert [len(f.pairs) for f in k_best(Boxes.empty(1), np.zeros(0), 10, 3, PLAIN)] == [0]


def test_branches_are_not_counted_with_crossing():
    with pytest.raises(ValidationError, match="branch must be 0 with crossing"):
        DecodeOptions(crossing=True, branch=-1.0)


def test_a_loop_box_leaves_no_room_for_another_nested_stem():
    row = [((STEM, 0, 29, 2, 2), 3.0), ((STEM, 3, 8, 1, 1), 2.0), ((STEM, 10, 20, 2, 2), 3.0), ((ILOOP, 1, 28, 10, 9), 4.0)]
    boxes, scores = columns([row])
    for crossing in (False, True):
        found = decode(boxes, scores, 30, DecodeOptions(threshold=0.5, crossing=crossing))
        assert (found.score, found.boxes.tolist()) == (pytest.approx(9.0), [0, 2, 3])


@pytest.mark.parametrize("between", [(STEM, 1, 19, 3, 3), (HLOOP, 1, 19, 3, 3)])
def test_only_an_internal_loop_stands_between_two_stems(between):
    row = [((STEM, 0, 20, 2, 2), 3.0), ((STEM, 3, 17, 2, 2), 3.0), (between, 1.5)]
    boxes, scores = columns([row])
    for crossing in (False, True):
        found = decode(boxes, scores, 21, DecodeOptions(threshold=0.5, crossing=crossing))
        assert (found.score, found.missing_loops) == (pytest.approx(4.0), 2)
