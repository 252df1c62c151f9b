"""Which rows of a dataset train a network and which validate it."""

from __future__ import annotations

import numpy as np


def split_by_order(rows: int, train_share: float) -> tuple[np.ndarray, np.ndarray]:
    """The first rows train, the rest validates: the reference experiment's split.

    Args:
        rows: number of rows.
        train_share: share that trains, in (0, 1).

    Returns:
        Row numbers of the training and of the validation part; the training part holds ``floor(rows * train_share)``.
    """
    cut = int(rows * train_share)
    return np.arange(cut), np.arange(cut, rows)


def split_by_group(group: np.ndarray, train_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole groups train or validate, so that rows which may overlap stand on one side.

    Groups are taken in a seeded random order, and each goes to the training part while that still has room.

    Args:
        group: ``(rows,)`` int; the group of each row.
        train_share: share of the rows that trains, in (0, 1); met as closely as whole groups allow.
        seed: of the order of the groups.

    Returns:
        Row numbers of the training and of the validation part, each ascending.
    """
    _, of_row, sizes = np.unique(group, return_inverse=True, return_counts=True)
    room = round(len(of_row) * train_share)
    trains = np.zeros(len(sizes), dtype=bool)
    for k in np.random.default_rng(seed).permutation(len(sizes)):
        if sizes[k] <= room:
            trains[k] = True
            room -= sizes[k]
    return np.flatnonzero(trains[of_row]), np.flatnonzero(~trains[of_row])
