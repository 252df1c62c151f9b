"""Scores without a network, beside plain loops and answers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from s2_data import random_dataset

from rna_s2.rna.boxes import BOX_TYPES, HLOOP, ILOOP, STEM, Boxes
from rna_s2.rna.relations import is_conflict, relation
from rna_s2.s2.features import encode_boxes
from rna_s2.s2.metrics import group_auroc
from rna_s2.s2.naive_scorers import compatible_boxes, composition, dataset_boxes, naive_scores, target_share
from tests.reference import table_of

COUNTS = [(6, 4, 3), (0, 0, 0), (2, 0, 5), (1, 0, 0)]


def test_compatible_boxes_of_a_hairpin():
    """A stem, the hairpin loop that it closes, a stem that needs the same bases, and one that lies behind."""
    boxes = Boxes.from_rows([[(STEM, 0, 20, 3, 3), (STEM, 1, 20, 2, 2), (STEM, 30, 50, 4, 4), (HLOOP, 2, 18, 17, 17)]])
    assert compatible_boxes(boxes).tolist() == [2, 1, 3, 2]


def test_compatible_boxes_agree_with_a_loop_over_pairs():
    boxes = dataset_boxes(random_dataset(COUNTS, seed=3))
    rows = [list(boxes.row_boxes(row)) for row in range(boxes.rows)]
    slow = [sum(not is_conflict(relation(a, b)) for b in row) - 1 for row in rows for a in row]
    assert compatible_boxes(boxes).tolist() == slow


def test_shares_are_counted_on_the_given_boxes_alone():
    keys = np.array([[0, 1], [0, 1], [0, 1], [0, 2], [1, 1]])
    labels = np.array([1, 0, 1, 1, 1])
    share = target_share(keys, labels, np.array([0, 1, 3]))  # average 2/3, counted as one more box of each key
    assert share == pytest.approx([(1 + 2 / 3) / 3] * 3 + [(1 + 2 / 3) / 2, 2 / 3])


def test_simple_rules():
    data = random_dataset(COUNTS, seed=1)
    boxes = dataset_boxes(data)
    np.testing.assert_array_equal(naive_scores("size", data, np.array([0])), data.features[:, 5] + data.features[:, 6])
    by_type = naive_scores("type_share", data, np.arange(4))
    assert [len(np.unique(by_type[boxes.type == code])) for code in (STEM, ILOOP, HLOOP)] == [1, 1, 1]
    seqs = ["G" * 200, "A", "C" * 200, "A" * 200]
    assert (naive_scores("energy", data, np.arange(4), seqs=seqs) == -np.inf).all(), "no box can form where nothing pairs"


def test_the_box_of_the_best_chain_comes_first():
    row = {"seq": "GGGAAAACCCAGCAAAAGC", "bb_iloop": [], "target": [], **{
        name: [{"bb_x": x, "bb_y": y, "siz_x": n, "siz_y": n, "prob_sm": [0.5], "prob_sl": []} for x, y, n in of]
        for name, of in (("bb_stem", [(0, 9, 3), (11, 18, 2), (0, 9, 1)]), ("bb_hloop", [(2, 7, 6), (12, 17, 6)]))
    }}
    data = encode_boxes(table_of([row]), "relational")
    scores = naive_scores("chain", data, np.arange(1))
    assert scores.argsort()[::-1][:2].tolist() in ([0, 3], [3, 0]) and scores[0] == pytest.approx(scores[3])
    assert scores[1] == pytest.approx(scores[4]) and scores[2] == scores.min()


def test_the_likeliest_box_of_the_ensemble_comes_first():
    """A strong hairpin and its loop; a stem that is only a part of the strong one, and a loop in which the strong one lies."""
    row = {"seq": "GGGGGAAAACCCCCAUAUAAAAAUAU", "bb_iloop": [], "target": [], **{
        name: [{"bb_x": x, "bb_y": y, "siz_x": n, "siz_y": n, "prob_sm": [0.5], "prob_sl": []} for x, y, n in of]
        for name, of in (
            ("bb_stem", [(0, 13, 5), (1, 12, 3), (14, 25, 3)]), ("bb_hloop", [(4, 9, 6), (16, 23, 8), (0, 13, 14)])
        )
    }}
    data = encode_boxes(table_of([row]), "relational")
    scores = naive_scores("ensemble", data, np.arange(1))
    assert (scores[[0, 3]] > 0.9).all(), "the strong stem and the hairpin loop that it closes"
    assert (scores[[1, 2, 4, 5]] < 0.3).all()


def test_trees_find_what_there_is_and_are_seeded():
    data = random_dataset([(8, 6, 4)] * 60, seed=2, signal=0.9)
    train = np.arange(40)
    scores = naive_scores("trees", data, train, seed=5)
    np.testing.assert_array_equal(scores, naive_scores("trees", data, train, seed=5))
    row = np.repeat(np.arange(60), 18)
    assert group_auroc(row, scores, data.labels, 60)[40:].mean() > 0.8


def test_composition_counts_every_box_once():
    data = random_dataset(COUNTS, seed=4)
    counted = composition(data)
    assert counted["boxes"].sum() == data.meta.boxes and counted["targets"].sum() == data.meta.positives
    first = (counted["type"][0], counted["siz_x"][0], counted["siz_y"][0])
    same = (data.box_type == BOX_TYPES.index(first[0])) & (data.features[:, 5:] == first[1:]).all(axis=1)
    assert counted["boxes"][0] == same.sum() and counted["targets"][0] == data.labels[same].sum()


def test_the_share_of_a_size_is_counted_by_type_and_size():
    data = random_dataset([(6, 4, 3), (0, 0, 0), (2, 0, 5), (1, 0, 0)], seed=1)
    boxes = dataset_boxes(data)
    keys = np.stack([boxes.type, boxes.siz_x, boxes.siz_y], axis=1)
    expected = target_share(keys, np.asarray(data.labels), np.arange(len(boxes)))
    np.testing.assert_array_equal(naive_scores("size_share", data, np.arange(4)), expected)
    by_type = target_share(keys[:, :1], np.asarray(data.labels), np.arange(len(boxes)))
    np.testing.assert_array_equal(naive_scores("type_share", data, np.arange(4)), by_type)
