"""Metrics per row against scikit-learn row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from rna_s2.rna.boxes import BOX_TYPES
from rna_s2.s2.metrics import group_auroc, group_average_precision, ranking_metrics

SCORES = st.one_of(
    st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]),  # ties
    st.floats(-1e6, 1e6, allow_nan=False, width=32),
)


@st.composite
def scored_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Row, score and label of some boxes in any order; rows may be empty or have one class."""
    rows = draw(st.integers(1, 5))
    boxes = draw(st.lists(st.tuples(st.integers(0, rows - 1), SCORES, st.booleans()), max_size=30))
    row, score, label = zip(*boxes, strict=True) if boxes else ((), (), ())
    return np.array(row, dtype=np.int64), np.array(score, dtype=float), np.array(label, dtype=np.uint8), rows


@given(scored_rows())
def test_each_row_has_scikit_learns_figures(case):
    row, score, label, rows = case
    area = group_auroc(row, score, label, rows)
    precision = group_average_precision(row, score, label, rows)
    assert area.shape == precision.shape == (rows,)
    for k in range(rows):
        own = label[row == k]
        if len(set(own.tolist())) == 2:
            assert area[k] == pytest.approx(roc_auc_score(own, score[row == k]), abs=1e-12)
            assert precision[k] == pytest.approx(average_precision_score(own, score[row == k]), abs=1e-12)
        else:
            assert np.isnan(area[k]) and np.isnan(precision[k])


@given(scored_rows(), st.integers(0, 2**16))
def test_the_figures_are_means_over_defined_rows_and_count_the_others(case, seed):
    row, score, label, rows = case
    box_type = np.random.default_rng(seed).integers(0, len(BOX_TYPES), len(row))
    metrics = ranking_metrics(row, box_type, score, label, rows)
    everything = np.ones(len(row), dtype=bool)
    for prefix, chosen in [("", everything), *((f"{t}/", box_type == code) for code, t in enumerate(BOX_TYPES))]:
        areas, precisions = [], []
        for k in range(rows):
            own = label[chosen & (row == k)]
            if len(set(own.tolist())) == 2:
                areas.append(roc_auc_score(own, score[chosen & (row == k)]))
                precisions.append(average_precision_score(own, score[chosen & (row == k)]))
        assert metrics[f"{prefix}auroc_undefined_rows"] == rows - len(areas)
        assert metrics[f"{prefix}auroc"] == pytest.approx(np.mean(areas) if areas else np.nan, nan_ok=True)
        assert metrics[f"{prefix}average_precision"] == pytest.approx(
            np.mean(precisions) if areas else np.nan, nan_ok=True
        )
        pooled = np.nan if len(set(label[chosen].tolist())) < 2 else roc_auc_score(label[chosen], score[chosen])
        assert metrics[f"{prefix}auroc_pooled"] == pytest.approx(pooled, nan_ok=True)


def test_by_hand():
    # Row 0: positives 3 and 1, negatives 2 and 1. Pairs: 3>2, 3>1, 1<2, 1=1 -> (1 + 1 + 0 + 0.5) / 4.
    # Precision: at 3: 1/1, gain 1/2; at 2: no gain; at 1: 2/4, gain 1/2 -> 0.75. Row 1 is empty, row 2 has one class.
    row = np.array([2, 0, 0, 0, 0])
    score = np.array([9.0, 3.0, 1.0, 2.0, 1.0])
    label = np.array([1, 1, 1, 0, 0])
    np.testing.assert_array_equal(group_auroc(row, score, label, 3), [0.625, np.nan, np.nan])
    np.testing.assert_array_equal(group_average_precision(row, score, label, 3), [0.75, np.nan, np.nan])
    assert ranking_metrics(row, np.zeros(5), score, label, 3)["auroc_undefined_rows"] == 2


def test_equal_infinite_scores_are_ties():
    row, score, label = np.zeros(4, dtype=int), np.array([np.inf, np.inf, -np.inf, -np.inf]), np.array([1, 0, 1, 0])
    assert group_auroc(row, score, label, 1) == 0.5
    assert group_average_precision(row, score, label, 1) == 0.5


@pytest.mark.parametrize("metric", [group_auroc, group_average_precision])
def test_a_score_that_is_nan_is_an_error(metric):
    with pytest.raises(ValueError, match="NaN"):
        metric(np.zeros(2, dtype=int), np.array([0.1, np.nan]), np.array([0, 1]), 1)
