"""The fast paths against the slow references on whole real tables, one row at a time in the reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from rna_s2.boxtables.read import read_table
from rna_s2.pruning.rules import REFERENCE_RULES, PruningRules, prune
from rna_s2.s2.feature_groups import Kind
from tests import test_features, test_pruning
from tests.real_data import LARGE_TABLE, PICKLED_TABLES, name_of

KINDS: tuple[Kind, ...] = ("baseline", "s1_features", "sequence_encoding", "shuffle_label")
COUNTED = {
    PICKLED_TABLES[0]: (36, [28, 59, 8], 16, (88.8, 77.8, 90.4)),
    LARGE_TABLE: (5000, [62, 150, 11], 1932, (86.5, 81.3, 90.4)),
}
"""Rows of a table; pruned as the reference was: boxes per row by type, rows with all target boxes, percent of them found."""
PATHS = [PICKLED_TABLES[0], *([pytest.param(LARGE_TABLE, marks=pytest.mark.slow)] if LARGE_TABLE.is_file() else [])]


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_pruning_and_features_agree_with_the_references_on_every_row(path: Path) -> None:
    rows, boxes_per_row, full_rows, found = COUNTED[path]
    table = read_table(path).table
    assert table.rows == rows
    test_pruning.assert_agrees(table, REFERENCE_RULES)
    strict = PruningRules(discard_ns_stem=True, drop_lower_triangle=True, drop_isolated_loops=True, max_len=150)
    test_pruning.assert_agrees(table, strict)

    result = prune(table, REFERENCE_RULES)
    assert result.table.proposals.counts().mean(axis=0).round().tolist() == boxes_per_row
    assert int(result.sensitivity.full.sum()) == full_rows
    shares = {name: round(100 * share, 1) for name, share in result.sensitivity.shares.items()}
    assert (shares["stem"], shares["iloop"], shares["hloop"]) == found
    for kind in KINDS:
        test_features.assert_agrees(result.table, kind, keep_partial=False)
