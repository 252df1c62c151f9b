"""Predicted against known base pairs: sensitivity, PPV, F1, MCC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from rna_s2.rna.boxes import among

_SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Where the counterpart of a pair may lie with one position of slack: one of the two bases, not both, is moved by one."""


class Comparison(NamedTuple):
    """How a predicted structure agrees with the known one.

    Where one of the two has no pairs, a ratio would be 0 / 0: sensitivity is 0 where the known structure has none, PPV is 0
    where the predicted one has none, F1 and MCC are 0 with either. Where both have none they agree, and all four are 1.

    Attributes:
        predicted, known: numbers of pairs.
        right: predicted pairs that stand in the known structure.
        found: known pairs that stand in the predicted structure (with slack not always as many as ``right``).
        sensitivity, ppv, f1: ``found / known``, ``right / predicted``, and the harmonic mean of the two.
        mcc: Matthews correlation coefficient over all ``L (L - 1) / 2`` cells of the map.
    """

    predicted: int
    known: int
    right: int
    found: int
    sensitivity: float
    ppv: float
    f1: float
    mcc: float


def compare_many(
    predicted: Sequence[np.ndarray], known: Sequence[np.ndarray], lengths: Sequence[int], slack: int = 0
) -> pd.DataFrame:
    """Compare predicted with known structures, row by row; pairs may cross.

    With ``slack`` 1 a pair ``(i, j)`` also has its counterpart in ``(i + 1, j)``, ``(i - 1, j)``, ``(i, j + 1)`` or
    ``(i, j - 1)`` of the other structure (Mathews et al. 2004): known structures come from comparative analysis and leave
    a pair's exact place open.

    The MCC is ``sqrt(PPV * TPR * TNR * NPV) - sqrt(FDR * FNR * FPR * FOR)``, which for ``slack`` 0 equals
    ``(TP * TN - FP * FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN))``; with slack, PPV and TPR are those with slack,
    false positives the predicted pairs and false negatives the known pairs without a counterpart.

    Args:
        predicted, known: one ``(k, 2)`` int array of pairs ``i < j``, 0-based, per sequence.
        lengths: bases of each sequence.
        slack: 0 or 1.

    Returns:
        one row per sequence, columns as the fields of :class:`Comparison`.

    Raises:
        ValueError: the lists differ in length, a pair lies outside of its sequence, or ``slack`` is not 0 or 1.
    """
    if not len(predicted) == len(known) == len(lengths):
        raise ValueError(f"{len(predicted)} predicted, {len(known)} known structures and {len(lengths)} lengths")
    if slack not in (0, 1):
        raise ValueError(f"slack must be 0 or 1, got {slack}")
    length = np.asarray(lengths, np.int64)
    a, b = _Pairs(predicted, length), _Pairs(known, length)
    right, found = a.with_counterpart(b, slack), b.with_counterpart(a, slack)
    cells = length * (length - 1) / 2
    neither = (a.count == 0) & (b.count == 0)
    sensitivity = np.where(neither, 1.0, _share(found, b.count))
    ppv = np.where(neither, 1.0, _share(right, a.count))
    f1 = _share(2.0 * sensitivity * ppv, sensitivity + ppv)
    false_positive, false_negative = a.count - right, b.count - found
    true_negative = np.maximum(cells - a.count - false_negative, 0)
    specificity = _share(true_negative, true_negative + false_positive)
    npv = _share(true_negative, true_negative + false_negative)
    mcc = np.sqrt(ppv * sensitivity * specificity * npv) - np.sqrt(
        (1 - ppv) * (1 - sensitivity) * (1 - specificity) * (1 - npv)
    )
    mcc[(a.count == 0) | (b.count == 0)] = 0.0
    mcc[(right == a.count) & (found == b.count)] = 1.0
    columns = (a.count, b.count, right, found, sensitivity, ppv, f1, mcc)
    return pd.DataFrame(dict(zip(Comparison._fields, columns, strict=True)))


class _Pairs:
    """The pairs of many sequences as numbers, each sequence with a range of its own that leaves room for the shifts."""

    def __init__(self, structures: Sequence[np.ndarray], lengths: np.ndarray) -> None:
        self.count = np.array([len(pairs) for pairs in structures], np.int64)
        self.row = np.repeat(np.arange(len(lengths)), self.count)
        pairs = np.concatenate([np.zeros((0, 2), np.int64), *(np.asarray(p, np.int64).reshape(-1, 2) for p in structures)])
        outside = (pairs[:, 0] < 0) | (pairs[:, 1] >= lengths[self.row]) | (pairs[:, 0] >= pairs[:, 1])
        if outside.any():
            n = int(np.argmax(outside))
            raise ValueError(
                f"row {self.row[n]}: ({pairs[n, 0]}, {pairs[n, 1]}) is no pair of a sequence of {lengths[self.row[n]]} bases"
            )
        side = lengths + 2
        start = np.cumsum(side * side) - side * side
        self.side = side[self.row]
        self.code = start[self.row] + (pairs[:, 0] + 1) * self.side + pairs[:, 1] + 1

    def with_counterpart(self, other: _Pairs, slack: int) -> np.ndarray:
        """``(rows,)`` int64: how many pairs of each sequence have a counterpart in the other structure."""
        has = np.zeros(len(self.code), bool)
        for i, j in _SHIFTS if slack else _SHIFTS[:1]:
            has |= among(self.code + i * self.side + j, other.code)
        return np.bincount(self.row[has], minlength=len(self.count)).astype(np.int64)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, 0 where ``whole`` is 0."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
