"""Groups of rows that may overlap, by hand and against plain loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rna_s2.s2.groups import SHARED_BASES, row_groups

RNG = np.random.default_rng(11)
TRANSCRIPT = "".join(RNG.choice(list("ACGU"), 400))
OTHER = "".join(RNG.choice(list("ACGU"), 400))


def test_rows_of_one_transcript_share_a_group() -> None:
    ids = pd.Series(["t2", "t1", "t2", "t3", "t1"])
    assert row_groups([TRANSCRIPT] * 5, ids).tolist() == [0, 1, 0, 2, 1]


def test_without_ids_overlapping_rows_share_a_group() -> None:
    seqs = [TRANSCRIPT[:60], OTHER[:60], TRANSCRIPT[40:100], TRANSCRIPT[200:260], TRANSCRIPT[80:140].lower()]
    assert row_groups(seqs).tolist() == [0, 1, 0, 2, 0]  # 0 and 4 only through 2


def test_an_overlap_needs_20_bases() -> None:
    assert row_groups([TRANSCRIPT[:60], TRANSCRIPT[40:100]]).tolist() == [0, 0]
    assert row_groups([TRANSCRIPT[:60], TRANSCRIPT[41:100]]).tolist() == [0, 1]


def test_t_is_u_and_n_is_nothing() -> None:
    piece = TRANSCRIPT[:SHARED_BASES]
    assert row_groups([piece, piece.replace("U", "T").lower()]).tolist() == [0, 0]
    masked = piece[:10] + "N" + piece[11:]
    assert row_groups(["C" + masked, "G" + masked]).tolist() == [0, 1]


@pytest.mark.parametrize("repeat", ["A" * 30, "CA" * 15])
def test_simple_repeats_relate_nobody(repeat: str) -> None:
    assert row_groups([TRANSCRIPT[:40] + repeat, OTHER[:40] + repeat]).tolist() == [0, 1]


def test_a_row_without_an_id_joins_the_transcripts_that_it_overlaps() -> None:
    bridge = TRANSCRIPT[:30] + OTHER[:30]
    seqs = [TRANSCRIPT[:100], OTHER[:100], bridge, TRANSCRIPT[:100]]
    assert row_groups(seqs, pd.Series(["t1", "t2", None, "t3"])).tolist() == [0, 0, 0, 0]
    # rows with ids are told apart by these alone
    assert row_groups(seqs, pd.Series(["t1", "t2", "t4", "t3"])).tolist() == [0, 1, 2, 3]


def test_short_rows_share_a_group_when_they_are_equal() -> None:
    assert row_groups(["ACGU", "acgt", "ACG", "ACGUA", ""]).tolist() == [0, 0, 1, 2, 3]


def test_no_rows() -> None:
    assert row_groups([]).tolist() == []
    assert row_groups([], pd.Series([], dtype=object)).tolist() == []


def _slow_groups(seqs: list[str], ids: list[str | None]) -> list[int]:
    plain = [s.upper().replace("U", "T") for s in seqs]

    def related(a: int, b: int) -> bool:
        if ids[a] is not None and ids[b] is not None:
            return ids[a] == ids[b]
        words = {plain[a][k:k + SHARED_BASES] for k in range(len(plain[a]) - SHARED_BASES + 1)}
        useful = [w for w in words if "N" not in w and len(set(w)) >= 3]
        equal_and_short = plain[a] == plain[b] and len(plain[a]) < SHARED_BASES
        return equal_and_short or any(w in plain[b] for w in useful)

    group = list(range(len(seqs)))
    for _ in seqs:
        for a in range(len(seqs)):
            for b in range(len(seqs)):
                if related(a, b):
                    group[a] = group[b] = min(group[a], group[b])
    order = list(dict.fromkeys(group))
    return [order.index(g) for g in group]


@st.composite
def _pieces(draw: st.DrawFn) -> list[str]:
    """Pieces of two transcripts and of a simple repeat, some changed in one place."""
    pool = [TRANSCRIPT[:120], OTHER[:80], "CA" * 30]
    pieces = []
    for _ in range(draw(st.integers(0, 6))):
        whole = draw(st.sampled_from(pool))
        start = draw(st.integers(0, len(whole) - 1))
        piece = whole[start:start + draw(st.integers(1, 60))]
        at = draw(st.integers(0, len(piece) - 1))
        pieces.append(piece[:at] + draw(st.sampled_from(["", "N", "g", "T"])) + piece[at:])
    return pieces


@settings(max_examples=100, deadline=None)
@given(_pieces(), st.data())
def test_agrees_with_plain_loops(seqs: list[str], data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.sampled_from([None, None, "t1", "t2"]), min_size=len(seqs), max_size=len(seqs)))
    assert row_groups(seqs, pd.Series(ids, dtype=object)).tolist() == _slow_groups(seqs, ids)


def test_rows_with_an_id_are_not_linked_by_what_they_share() -> None:
    seqs = [TRANSCRIPT[:60], TRANSCRIPT[20:80], OTHER[:60]]
    assert row_groups(seqs, pd.Series(["t1", "t2", None])).tolist() == [0, 1, 2]


def test_equal_rows_share_a_group_whatever_they_are_made_of() -> None:
    masked = "N".join([TRANSCRIPT[:15], TRANSCRIPT[20:35], OTHER[:10]])
    for seq in (masked, "A" * 30):
        assert row_groups([seq, TRANSCRIPT[100:150], seq.lower()]).tolist() == [0, 1, 0]
        assert row_groups([seq] * 3, pd.Series(["t1", "t2", None])).tolist() == [0, 0, 0]
        assert row_groups([seq] * 2, pd.Series(["t1", "t2"])).tolist() == [0, 1]
