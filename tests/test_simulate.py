"""The simulated stand-in for S1's proposals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boxtables.read import read_table
from pipeline.config import SAMPLE
from rna.boxes import HLOOP, ILOOP, STEM, Boxes, inside_map, is_in, keys
from rna.pairs import from_dot_bracket, loop_boxes, target_boxes
from rna.sequence import encode
from s1.simulate import DECIMALS, Simulation, simulate_proposals, with_simulated_proposals

CANONICAL = {"AU", "UA", "GC", "CG", "GU", "UG"}
RNG = np.random.default_rng(0)
SEQS = ["GGGCGAAAGCCC", "A", "A" * 40, *("".join(RNG.choice(list("ACGU"), n)) for n in (30, 60, 120, 20, 90))]
STRUCTURES = ["((((....))))", ".", "." * 40, *("((((.(((....)))))))".ljust(n, ".") for n in (30, 60, 120, 20, 90))]
TARGETS = target_boxes(from_dot_bracket(s) for s in STRUCTURES)
CODES = [encode(s) for s in SEQS]


def test_no_box_is_proposed_twice_and_each_has_a_proposing_pixel():
    boxes, sm, sl = simulate_proposals(CODES, TARGETS, seed=0)
    assert boxes.rows == len(SEQS) and len(sm) == len(sl) == len(boxes)
    assert len(np.unique(keys(boxes), axis=0)) == len(boxes)
    assert ((sm.lengths > 0) | (sl.lengths > 0)).all()
    pixels = np.where(boxes.type == HLOOP, boxes.siz_x * (boxes.siz_x - 1) // 2, boxes.siz_x * boxes.siz_y)
    for ragged in (sm, sl):
        assert ((ragged.values > 0) & (ragged.values <= 1)).all()
        assert np.array_equal(np.round(ragged.values, DECIMALS), ragged.values)
        assert (ragged.lengths <= np.maximum(pixels, 1)).all()
    assert (boxes.siz_x >= 1).all() and (boxes.siz_y >= 1).all()
    square = boxes.type != ILOOP
    assert (boxes.siz_x == boxes.siz_y)[square].all()
    on_diagonal = boxes.bb_y - boxes.bb_x + 1 == boxes.siz_x
    assert on_diagonal[boxes.type == HLOOP].all()


def test_chance_boxes_are_what_the_sequence_allows():
    simulation = Simulation(found=(0, 0, 0), near_misses=0)
    boxes, _, _ = simulate_proposals(CODES, TARGETS, 1, simulation)
    assert not is_in(boxes, TARGETS).any()
    assert inside_map(boxes, np.array([len(s) for s in SEQS])).all()
    assert (boxes.counts()[3:] > 0).all()
    assert boxes.counts()[1].sum() == boxes.counts()[2].sum() == 0, "a sequence without a pairable pair gets none"
    for row, seq in enumerate(SEQS):
        for kind, x, y, siz_x, siz_y in boxes.row_boxes(row):
            inner = {STEM: siz_x - 1, ILOOP: siz_x - 1, HLOOP: 0}[kind]
            pairs = [(x, y), (x + inner, y - (siz_y - 1 if kind == ILOOP else inner))]
            if kind == STEM:
                pairs = [(x + k, y - k) for k in range(siz_x)]
                assert siz_x >= 2
            assert all(seq[i] + seq[j] in CANONICAL and j - i > 3 for i, j in pairs), (row, kind, x, y, siz_x, siz_y)
            if kind == ILOOP:
                assert 4 < siz_x + siz_y and max(siz_x, siz_y) <= 10


def test_their_number_grows_with_the_length():
    simulation = Simulation(found=(0, 0, 0), near_misses=0, stems_per_base=0.5, hloops_per_base=0.1)
    boxes, _, _ = simulate_proposals(CODES[3:6], TARGETS.take_rows(np.arange(3, 6)), 1, simulation)
    # of up to 15, 30 and 60 stems, some are drawn twice (a cut one like another)
    assert (boxes.counts()[:, STEM] <= [15, 30, 60]).all() and (boxes.counts()[:, STEM] > [6, 20, 40]).all()
    assert boxes.counts()[:, HLOOP].tolist() == [3, 6, 12]


def test_true_boxes_are_found_as_often_as_asked():
    everything, _, _ = simulate_proposals(CODES, TARGETS, 0, Simulation(found=(1, 1, 1)))
    assert is_in(TARGETS, everything).all()
    half = Simulation(found=(0.5, 1.0, 0.0), stems_per_base=0, iloops_per_base=0, hloops_per_base=0)
    many = target_boxes([from_dot_bracket("((((.(((....)))))))")] * 400)
    boxes, _, _ = simulate_proposals([encode("G" * 19)] * 400, many, 0, half)
    share = [is_in(many, boxes)[many.type == kind].mean() for kind in (STEM, ILOOP, HLOOP)]
    assert share[1:] == [1.0, 0.0]
    assert abs(share[0] - 0.5) < 4 * 0.5 / np.sqrt(800)


def test_near_misses_are_off_by_one():
    only_near = Simulation(found=(0, 0, 0), near_misses=3, stems_per_base=0, iloops_per_base=0, hloops_per_base=0)
    target = Boxes.from_rows([loop_boxes(from_dot_bracket("..((((.(((....)))))))..".ljust(30, ".")))])
    boxes, _, _ = simulate_proposals([encode("G" * 30)], target, 3, only_near)
    assert len(boxes) > 5
    for kind, *near in boxes.row_boxes(0):
        changes = [np.abs(np.subtract(near, true)) for k, *true in target.row_boxes(0) if k == kind]
        assert any(1 <= change.sum() <= 3 and change.max() == 1 for change in changes)


@pytest.fixture(scope="module")
def sample():
    """The sample's segments with simulated proposals in place of the network's."""
    return with_simulated_proposals(read_table(Path(__file__).parent.parent / SAMPLE).table, seed=0)


def test_true_boxes_have_higher_but_overlapping_confidences(sample):
    true = is_in(sample.proposals, sample.targets)
    largest = sample.prob_sm.max()
    for kind in (STEM, ILOOP, HLOOP):
        of_true, of_others = (largest[(sample.proposals.type == kind) & y & (largest > 0)] for y in (true, ~true))
        assert np.median(of_true) > 3 * np.median(of_others)
        assert np.quantile(of_true, 0.1) < np.quantile(of_others, 0.9)


def test_a_row_depends_on_the_seed_and_its_place_alone():
    one = simulate_proposals(CODES, TARGETS, 5)[0]
    first = simulate_proposals(CODES[:4], TARGETS.take_rows(np.arange(4)), 5)[0]
    assert np.array_equal(keys(one.take_rows(np.arange(4))), keys(first))
    other = simulate_proposals(CODES[:4], TARGETS.take_rows(np.arange(4)), 6)[0]
    assert not np.array_equal(keys(first), keys(other))
