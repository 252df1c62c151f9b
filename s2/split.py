"""Which rows of a dataset train a network, which validate it, and which are put aside to test it."""

from __future__ import annotations

import numpy as np


def split_by_order(
    rows: int, train_share: float, test_share: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def split_by_group(group: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of whole groups, so that rows which may overlap stand on one side.

    Groups are taken in a seeded random order, and each goes to the first part while that still has room.

    Args:
        group: ``(rows,)`` int; the group of each row.
        share: share of the rows in the first part, in [0, 1): ``round(rows * share)`` of them, or as many fewer as it
            takes to keep groups whole.
        seed: of the order of the groups.

    Returns:
        Row numbers of the first and of the second part, each ascending.
    """
    _, of_row, sizes = np.unique(group, return_inverse=True, return_counts=True)
    room = round(len(of_row) * share)
    first = np.zeros(len(sizes), dtype=bool)
    for k in np.random.default_rng(seed).permutation(len(sizes)):
        if sizes[k] <= room:
            first[k] = True
            room -= sizes[k]
    return np.flatnonzero(first[of_row]), np.flatnonzero(~first[of_row])
