"""Structures from a training's probabilities, against targets and boxes written down by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.write import write_table
from rna_s2.pipeline.train_s2 import Prepared, boxes_of, structure_metrics, target_pairs
from rna_s2.rna.boxes import keys
from rna_s2.s2.config import FeatureConfig
from rna_s2.s2.features import featurize
from rna_s2.s2.training import Evaluation, evaluation
from rna_s2.s2.views import view
from rna_s2.structures.candidates import DecodeOptions
from tests.reference import table_of


def a_box(x: int, y: int, siz_x: int, siz_y: int) -> dict:
    return {"bb_x": x, "bb_y": y, "siz_x": siz_x, "siz_y": siz_y, "prob_sm": [0.5], "prob_sl": []}


#       0         1         2
#       0123456789012345678901
SEQ = "GGGAAAACCCAGGCAAAAGCC"
STEMS = [(0, 9, 3, 3), (11, 20, 3, 3), (0, 20, 2, 2)]
HLOOPS = [(2, 7, 6, 6), (13, 18, 6, 6)]
TARGET = [("stem", 0, 9, 3, 3), ("hloop", 2, 7, 6, 6), ("stem", 11, 20, 3, 3), ("hloop", 13, 18, 6, 6)]


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    row = {
        "seq": SEQ, "bb_stem": [a_box(*b) for b in STEMS], "bb_iloop": [], "bb_hloop": [a_box(*b) for b in HLOOPS],
        "target": TARGET,
    }
    none = {"seq": SEQ, "bb_stem": [], "bb_iloop": [], "bb_hloop": [], "target": []}
    table = table_of([row, none, row])
    path = tmp_path / "pruned.parquet"
    write_table(table, path, with_targets=True)
    return Prepared(featurize(read_table(path).table, "relational"), path)


def scored(prepared: Prepared, *logits: list[float]) -> Evaluation:
    return evaluation(prepared.data, np.arange(len(logits)), np.array(logits, np.float32).ravel())


def test_right_boxes_give_the_target_and_missing_ones_cost_their_pairs(prepared):
    found = structure_metrics(prepared, scored(prepared, [5, 5, -5, 5, 5], [5, -5, -5, 5, -5]))
    assert found.rows["exact"].tolist() == [True, False]
    assert found.rows["sensitivity"].tolist() == [1.0, 0.5] and found.rows["ppv"].tolist() == [1.0, 1.0]
    assert found.metrics == pytest.approx({"sensitivity": 0.75, "ppv": 1.0, "f1": (1 + 2 / 3) / 2, "exact_rows": 0.5})


def test_boxes_that_exclude_each_other_do_not_stand_together(prepared):
    plain = DecodeOptions(threshold=0.5, missing_loop=-2.0)
    found = structure_metrics(prepared, scored(prepared, [1, 1, 9, 1, 1], [5, 5, 4, 5, 5]), plain)
    assert found.rows["exact"].tolist() == [False, True]
    assert found.rows["f1"].tolist() == [0.0, 1.0]


def test_rows_come_in_the_order_of_the_evaluation(prepared):
    backwards = evaluation(prepared.data, np.array([1, 0]), np.array([5, 5, -5, 5, 5, -5, -5, -5, -5, -5], np.float32))
    assert structure_metrics(prepared, backwards).rows["exact"].tolist() == [True, False]


def test_boxes_are_those_of_the_table(prepared):
    table = read_table(prepared.pruned).table
    boxes = boxes_of(prepared.data, np.array([1, 0]))
    np.testing.assert_array_equal(keys(boxes), keys(table.proposals.take_rows(np.array([2, 0]))))
    alone = replace(prepared, data=view(prepared.data, FeatureConfig(kind="relational", without=("place",))))
    assert boxes_of(alone.data, np.array([0])) is None
    assert structure_metrics(alone, scored(prepared, [5, 5, -5, 5, 5])) is None


def test_targets_are_the_pairs_of_the_table_or_of_its_target_boxes(prepared):
    wanted = [[0, 9], [1, 8], [2, 7], [11, 20], [12, 19], [13, 18]]
    assert target_pairs(prepared, np.array([1]))[0].tolist() == wanted
    frame = pd.read_parquet(prepared.pruned)
    frame["one_idx"] = [[[0], [9]], [[], []], [[20, 1, 0], [11, 8, 9]]]
    frame.to_parquet(prepared.pruned)
    assert [pairs.tolist() for pairs in target_pairs(prepared, np.array([1, 0]))] == [[[0, 9], [1, 8], [11, 20]], [[0, 9]]]
