"""The fast paths against the slow references on the table of 5,000 rows, one row at a time in the reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from rna_s2.boxtables.read import read_table
from rna_s2.pruning.rules import REFERENCE_RULES, PruningRules, prune
from rna_s2.s2.dataset import Kind
from tests import test_features, test_pruning

TABLE = (
    Path(__file__).resolve().parents[2] / "shared" / "data"
    / "human_transcriptome_segment_high_mfe_freq_s1_pred_len20_200_5000.pkl.gz"
)
KINDS: tuple[Kind, ...] = ("baseline", "s1_features", "sequence_encoding", "shuffle_label")


@pytest.mark.slow
def test_pruning_and_features_agree_with_the_references_on_every_row() -> None:
    if not TABLE.exists():
        pytest.skip(f"the real table {TABLE.name} is not here")
    table = read_table(TABLE).table
    assert table.rows == 5000
    test_pruning.assert_agrees(table, REFERENCE_RULES)
    strict = PruningRules(discard_ns_stem=True, drop_lower_triangle=True, drop_isolated_loops=True, max_len=150)
    test_pruning.assert_agrees(table, strict)

    result = prune(table, REFERENCE_RULES)
    # figures that come with the table
    assert result.table.proposals.counts().mean(axis=0).round().tolist() == [62, 150, 11]
    assert int(result.sensitivity.full.sum()) == 1932
    shares = {name: round(100 * share, 1) for name, share in result.sensitivity.shares.items()}
    assert (shares["stem"], shares["iloop"], shares["hloop"]) == (86.5, 81.3, 90.4)
    for kind in KINDS:
        test_features.assert_agrees(result.table, kind, keep_partial=False)
