"""Which rows of a table train a network, which validate it, and which are put aside to test it."""

from __future__ import annotations

import math

import numpy as np


def split_by_order(rows: int, train_share: float, test_share: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first rows train, the next validate, the last are put aside; with no test part the reference experiment's split.

    Args:
        rows: number of rows.
        train_share: share that trains of the rows that are not put aside, in (0, 1).
        test_share: share put aside, in [0, 1).

    Returns:
        Row numbers of the training, the validation and the test part; the test part holds ``round(rows * test_share)``
        rows, the training part ``floor(train_share * the others)``.
    """
    rest = rows - round(rows * test_share)
    cut = int(rest * train_share + 1e-9)  # 100 * 0.29 is a little less than 29
    return np.arange(cut), np.arange(cut, rest), np.arange(rest, rows)


def split_by_group(
    group: np.ndarray, share: float, seed: int | np.random.Generator, *, at_least: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of whole groups, so that rows which may overlap stand on one side.

    Groups are taken in a seeded random order, and each goes to the first part while that still has room.

    Args:
        group: ``(rows,)`` int; the group of each row.
        share: share of the rows in the first part, in [0, 1): ``round(rows * share)`` of them, or as many fewer as it
            takes to keep groups whole.
        seed: of the order of the groups; or a generator that goes on from here.
        at_least: the first part holds ``share`` of the rows, or as many more as it takes to keep groups whole.

    Returns:
        Row numbers of the first and of the second part, each ascending.
    """
    _, of_row, sizes = np.unique(group, return_inverse=True, return_counts=True)
    room = math.ceil(len(of_row) * share) if at_least else round(len(of_row) * share)
    first = np.zeros(len(sizes), dtype=bool)
    for k in np.random.default_rng(seed).permutation(len(sizes)):
        if (room > 0) if at_least else sizes[k] <= room:
            first[k] = True
            room -= sizes[k]
    return np.flatnonzero(first[of_row]), np.flatnonzero(~first[of_row])


def sampled_share(rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """``(k,)`` a random part of the rows (``(n,)``), in their order: ``share`` (0..1) of their number, rounded up. Of one seed,
    smaller shares are parts of larger ones."""
    if share == 1:
        return rows
    chosen = np.random.default_rng(seed).permutation(len(rows))[: math.ceil(share * len(rows))]
    return rows[np.sort(chosen)]
