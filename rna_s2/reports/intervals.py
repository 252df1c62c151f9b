"""Intervals of means: how sure a mean over sequences, rows or seeds is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap
from scipy.stats import t as student

LEVEL = 0.95
"""Coverage of all intervals."""

RESAMPLED_AT_A_TIME = 1 << 22
"""Groups of the bootstrap samples that are in memory together, about."""


class MeanInterval(NamedTuple):
    """A mean with its bootstrap interval.

    Attributes:
        mean, low, high: the mean and the ends of its interval; NaN where there is no value.
        values: values that are defined.
        groups: groups that these belong to.
    """

    mean: float
    low: float
    high: float
    values: int
    groups: int


def bootstrap_interval(
    values: np.ndarray, group: np.ndarray | None = None, *, samples: int = 10_000, level: float = LEVEL, seed: int = 0
) -> MeanInterval:
    """The mean of some values with its percentile bootstrap interval.

    Whole groups are resampled, so that values which are alike (rows of one transcript) do not count as independent ones.
    To compare two models on the same rows, give the differences of their metric.

    Args:
        values: ``(n,)`` float; NaN are left out.
        group: ``(n,)``; values with the same entry are resampled together. None: each value by itself.
        samples: bootstrap samples.
        level: coverage of the interval.
        seed: of the resampling.

    Returns:
        The mean and its interval. The interval of a single group has no width.

    Raises:
        ValueError: ``group`` has another length than ``values``.
    """
    values = np.asarray(values, dtype=np.float64)
    group = np.arange(len(values)) if group is None else np.asarray(group)
    if len(values) != len(group):
        raise ValueError(f"{len(values)} values, but the groups of {len(group)}")
    defined = ~np.isnan(values)
    values = values[defined]
    _, group_of_value, size = np.unique(group[defined], return_inverse=True, return_counts=True)
    if not len(values):
        return MeanInterval(math.nan, math.nan, math.nan, 0, 0)
    mean = float(values.mean())
    if len(size) == 1:
        return MeanInterval(mean, mean, mean, len(values), 1)
    found = bootstrap(
        (np.bincount(group_of_value, weights=values), size),
        lambda total, count, axis: total.sum(axis) / count.sum(axis),
        paired=True, vectorized=True, n_resamples=samples, batch=max(1, RESAMPLED_AT_A_TIME // len(size)),
        confidence_level=level, method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval
    return MeanInterval(mean, float(found.low), float(found.high), len(values), len(size))


def t_half_width(values: Sequence[float]) -> float:
    """Half the width of the t interval of the mean of some values; NaN for fewer than two."""
    if len(values) < 2:
        return math.nan
    quantile = student.ppf((1 + LEVEL) / 2, len(values) - 1)
    return float(quantile * np.std(values, ddof=1) / math.sqrt(len(values)))
