"""How well scores rank the true boxes of each row: au-ROC and average precision per row, without a loop over rows."""

from __future__ import annotations

import numpy as np

from rna_s2.rna.boxes import BOX_TYPES


def group_auroc(group: np.ndarray, scores: np.ndarray, labels: np.ndarray, n_groups: int) -> np.ndarray:
    """Area under the ROC curve within each group, ties counted half (Mann-Whitney's U over the product of the counts).

    Args:
        group: ``(n,)`` int; the group of each entry, in ``0 .. n_groups - 1``.
        scores: ``(n,)`` float; higher means more likely positive.
        labels: ``(n,)``; 1 (or True) for positives, 0 for negatives.
        n_groups: number of groups.

    Returns:
        ``(n_groups,)`` float64; NaN for a group that lacks one of the classes.

    Raises:
        ValueError: a score is NaN.
    """
    group, scores, positive, _ = _sorted(group, scores, labels)
    if not len(group):
        return np.full(n_groups, np.nan)
    first = np.flatnonzero(_starts(group, scores))  # first entry of each run of ties
    last = np.append(first[1:], len(group)) - 1
    rank = np.repeat((first + last) / 2, last - first + 1)  # mean position of the ties, over all groups
    count = np.bincount(group, minlength=n_groups)
    rank -= np.repeat(np.cumsum(count) - count, count)  # within the group, from 0
    positives = np.bincount(group, weights=positive, minlength=n_groups)
    negatives = count - positives
    u = np.bincount(group, weights=rank * positive, minlength=n_groups) - positives * (positives - 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((positives > 0) & (negatives > 0), u / (positives * negatives), np.nan)


def group_average_precision(group: np.ndarray, scores: np.ndarray, labels: np.ndarray, n_groups: int) -> np.ndarray:
    """Average precision within each group: the sum over thresholds of precision times the gain in recall.

    The same definition as scikit-learn's ``average_precision_score``. Arguments and errors as :func:`group_auroc`.

    Returns:
        ``(n_groups,)`` float64; NaN for a group without positives or without negatives.
    """
    group, scores, positive, _ = _sorted(group, -np.asarray(scores, dtype=np.float64), labels)
    if not len(group):
        return np.full(n_groups, np.nan)
    count = np.bincount(group, minlength=n_groups)
    before = np.cumsum(count) - count
    true_so_far = np.cumsum(positive)
    true_so_far = true_so_far - np.concatenate([[0], true_so_far])[before[group]]
    position = np.arange(len(group)) - before[group] + 1
    first = np.flatnonzero(_starts(group, scores))
    last = np.append(first[1:], len(group)) - 1
    gain = np.add.reduceat(positive, first)
    area = np.bincount(group[last], weights=gain * true_so_far[last] / position[last], minlength=n_groups)
    positives = np.bincount(group, weights=positive, minlength=n_groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((positives > 0) & (count > positives), area / positives, np.nan)


def _sorted(group: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    group, scores = np.asarray(group, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    order = np.lexsort((scores, group))
    return group[order], scores[order], np.asarray(labels, dtype=np.float64)[order], order


def _starts(group: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Whether each entry (sorted by group and score) begins a run of equal scores within its group."""
    return np.concatenate([[True], (group[1:] != group[:-1]) | (scores[1:] != scores[:-1])])


def ranking_metrics(
    row: np.ndarray, box_type: np.ndarray, scores: np.ndarray, labels: np.ndarray, rows: int
) -> dict[str, float]:
    """Every metric of a scored set of rows.

    Args:
        row: ``(boxes,)`` int; the row of each box.
        box_type: ``(boxes,)`` codes into :data:`rna_s2.rna.boxes.BOX_TYPES`.
        scores: ``(boxes,)`` float.
        labels: ``(boxes,)`` 0 or 1.
        rows: number of rows.

    Returns:
        ``auroc`` (mean over the rows with both classes), ``auroc_undefined_rows`` (the rows left out), ``auroc_pooled``
        (over all boxes at once), ``average_precision`` (mean over the same rows), ``average_precision_pooled``, and the
        same per box type as ``stem/auroc`` and so on. NaN where no row has both classes.
    """
    metrics = _metrics(row, scores, labels, rows)
    for code, name in enumerate(BOX_TYPES):
        of_type = np.asarray(box_type) == code
        inner = _metrics(np.asarray(row)[of_type], np.asarray(scores)[of_type], np.asarray(labels)[of_type], rows)
        metrics |= {f"{name}/{key}": value for key, value in inner.items()}
    return metrics


def _metrics(row: np.ndarray, scores: np.ndarray, labels: np.ndarray, rows: int) -> dict[str, float]:
    per_row = group_auroc(row, scores, labels, rows)
    everything = np.zeros(len(row), dtype=np.int64)
    return {
        "auroc": _mean(per_row),
        "auroc_undefined_rows": float(np.isnan(per_row).sum()),
        "auroc_pooled": float(group_auroc(everything, scores, labels, 1)[0]),
        "average_precision": _mean(group_average_precision(row, scores, labels, rows)),
        "average_precision_pooled": float(group_average_precision(everything, scores, labels, 1)[0]),
    }


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
