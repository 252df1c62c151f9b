"""Intervals of means: on cases worked out by hand, and against a bootstrap written as a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rna_s2.reports.intervals import MeanInterval, bootstrap_interval, t_half_width


def looped(values: np.ndarray, group: np.ndarray, samples: int, seed: int) -> tuple[float, float]:
    """The ends of the 95 % interval, one bootstrap sample after the other: the values of resampled groups, one by one."""
    rng = np.random.default_rng(seed)
    names = sorted(set(group))
    means = []
    for _ in range(samples):
        sample = [value for k in rng.integers(0, len(names), len(names)) for value in values[group == names[k]]]
        means.append(sum(sample) / len(sample))
    means.sort()
    return means[round(0.025 * (samples - 1))], means[round(0.975 * (samples - 1))]


def test_blocks_of_groups_against_the_loop():
    """Groups of 1 to 9 values that differ by group and lie in any order: the mean of a sample weighs groups by their size."""
    rng = np.random.default_rng(3)
    group = rng.permutation(np.repeat(np.arange(30), rng.integers(1, 10, 30)))
    values = rng.normal(0, 0.1, len(group)) + rng.normal(0, 1, 30)[group]
    found = bootstrap_interval(values, group, samples=4000, seed=1)
    low, high = looped(values, group, 4000, 2)
    assert found.mean == pytest.approx(values.mean()) and (found.values, found.groups) == (len(group), 30)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))
    by_itself = bootstrap_interval(values, samples=4000, seed=1)
    assert by_itself.high - by_itself.low < 0.7 * (high - low), "the groups must matter in this case"


def test_a_constant_has_no_width():
    found = bootstrap_interval(np.array([0.125, 0.125, np.nan, 0.125]), samples=50)
    assert found == MeanInterval(0.125, 0.125, 0.125, 3, 3)


def test_two_values_by_hand():
    # Values 0 and 1: a sample's mean is 0, 0.5 or 1 with probability 1/4, 1/2, 1/4; so the interval of
    # coverage 0.4 (quantiles 0.3 and 0.7) is a point, and that of coverage 0.9 is everything.
    narrow = bootstrap_interval(np.array([0.0, 1.0]), samples=2000, level=0.4)
    wide = bootstrap_interval(np.array([0.0, 1.0]), samples=2000, level=0.9)
    assert narrow == MeanInterval(0.5, 0.5, 0.5, 2, 2)
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_the_interval_is_that_of_the_normal_law_and_seeded():
    values = np.random.default_rng(5).normal(0.02, 0.1, 400)
    found = bootstrap_interval(values, samples=4000, seed=1)
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert found == bootstrap_interval(values, samples=4000, seed=1)
    assert found != bootstrap_interval(values, samples=4000, seed=2)


def test_samples_that_do_not_fit_at_once_give_the_same(monkeypatch):
    values = np.random.default_rng(6).normal(0, 1, 10)
    at_once = bootstrap_interval(values, samples=500)
    monkeypatch.setattr("rna_s2.reports.intervals.RESAMPLED_AT_A_TIME", 70)
    assert bootstrap_interval(values, samples=500) == pytest.approx(at_once)


def test_no_value_one_group_and_groups_that_do_not_fit():
    assert np.isnan(bootstrap_interval(np.full(2, np.nan))[:3]).all() and bootstrap_interval(np.zeros(0))[3:] == (0, 0)
    assert bootstrap_interval(np.array([0.0, 1.0]), np.array([7, 7])) == MeanInterval(0.5, 0.5, 0.5, 2, 1)
    with pytest.raises(ValueError, match="3 values, but the groups of 2"):
        bootstrap_interval(np.zeros(3), np.zeros(2))


def test_values_of_one_group_do_not_narrow_the_interval():
    one_each = np.random.default_rng(0).normal(0, 1, 30)
    repeated, group = np.repeat(one_each, 20), np.repeat(np.arange(30), 20)
    single = bootstrap_interval(one_each, samples=2000)
    together = bootstrap_interval(repeated, group, samples=2000)
    blind = bootstrap_interval(repeated, samples=2000)
    assert (together.values, together.groups) == (600, 30)
    assert (together.low, together.high) == pytest.approx((single.low, single.high))
    assert blind.high - blind.low < 0.5 * (together.high - together.low)


def test_the_t_interval_of_three_values():
    assert t_half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)  # t of 2 degrees, 97.5 %
    assert math.isnan(t_half_width([1.0]))
