"""Which rows of a table may overlap, so that a split can keep them on one side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rna_s2.rna.sequence import N_CODE, encode_many

SHARED_BASES = 20
"""Rows with a common substring of so many bases overlap. Two unrelated sequences of 200 bases have one by chance in one
pair of 30 million (200 * 200 / 4 ** 20)."""

MIN_DIFFERENT_BASES = 3
"""A common substring counts only if it has so many different bases: poly-A tails and repeats of two bases relate
nobody."""


def row_groups(seqs: Sequence[str], transcript_id: pd.Series | None = None) -> np.ndarray:
    """Group number of each row; rows that may overlap share one.

    Rows with the same ``transcript_id`` share a group. A row without one shares a group with every row, with or without
    a ``transcript_id``, with which it has a common substring of :data:`SHARED_BASES` bases made of at least
    :data:`MIN_DIFFERENT_BASES` different ones, T and U taken as equal, N as equal to nothing; and with every row
    of the same sequence. Sharing is passed on (single linkage): a row that links two transcripts joins
    their groups.

    Args:
        seqs: the sequence of each row.
        transcript_id: ``(rows,)``, missing values where unknown; ``None`` where no row has one.

    Returns:
        ``(rows,)`` int64, numbered from 0 in the order of first appearance.
    """
    rows = len(seqs)
    if transcript_id is None:
        known = np.full(rows, -1)
    else:
        known = pd.factorize(transcript_id)[0]  # -1 where missing
    links = [_links(known, np.flatnonzero(known >= 0))]
    if (known < 0).any():
        links.append(_overlap_links(seqs, known < 0))
    left, right = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(rows, rows))
    _, component = connected_components(graph, directed=False)
    return pd.factorize(component)[0].astype(np.int64)


def _links(key: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``(2, links)``: links between neighbours among those ``rows`` that have equal keys (``key`` is indexed by row)."""
    order = rows[np.argsort(key[rows], kind="stable")]
    equal = key[order[:-1]] == key[order[1:]]
    return np.stack([order[:-1][equal], order[1:][equal]])


def _overlap_links(seqs: Sequence[str], loose: np.ndarray) -> np.ndarray:
    """``(2, links)``: for every substring that counts of a ``loose`` row, and for its whole sequence, links between all rows
    that have it.

    ``loose`` is ``(rows,)`` bool.
    """
    codes, offsets = encode_many(seqs)
    row = np.repeat(np.arange(len(seqs)), np.diff(offsets))
    start = np.flatnonzero(np.arange(len(codes)) + SHARED_BASES <= offsets[1:][row])
    word = np.zeros(len(start), np.int64)
    seen = np.zeros(len(start), np.uint8)  # one bit for each base in the word, and one for all that is no known base
    for k in range(SHARED_BASES):
        base = np.minimum(codes[start + k], N_CODE)
        word = word * N_CODE + base
        seen |= np.left_shift(np.uint8(1), base)
    different = np.unpackbits(seen[:, None], axis=1).sum(axis=1)
    useful = (seen < 1 << N_CODE) & (different >= MIN_DIFFERENT_BASES)
    word, row = word[useful], row[start[useful]]
    wanted = np.isin(word, word[loose[row]])
    links = _links(word, np.flatnonzero(wanted))

    whole = pd.factorize(np.array([s.upper().replace("U", "T") for s in seqs], dtype=object))[0]
    same = _links(whole, np.flatnonzero(np.isin(whole, whole[loose])))
    return np.concatenate([row[links], same], axis=1)
