"""The sample that comes with the repository: what it was made from, and that the command makes it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.sensitivity import box_sensitivity
from rna_s2.commands.sample import main
from rna_s2.engine.tracker import MemoryTracker
from rna_s2.options.errors import UserError
from rna_s2.options.files import file_digest
from rna_s2.pipeline.open_models import SHIPPED_S1, TRAINED_S1
from rna_s2.pipeline.sample import DECIMALS, NETWORK_COLUMN, SEGMENTS, SampleOptions, run_sample
from rna_s2.pipeline.train_config import SAMPLE
from rna_s2.pruning.rules import REFERENCE_RULES, prune
from rna_s2.rna.boxes import keys
from rna_s2.rna.formats import read_fasta
from rna_s2.s1.model import WEIGHTS_FILE, load_network

ROOT = Path(__file__).resolve().parent.parent
TRANSCRIPTS = ROOT / "data" / "transcripts.fa.gz"
NETWORK = ROOT / SHIPPED_S1


@pytest.fixture(scope="module")
def sample():
    result = read_table(ROOT / SAMPLE)
    assert len(result.rejects) == 0
    return result.table


def test_it_is_large_enough_to_train_on_and_small_enough_to_ship(sample):
    assert sample.rows >= 300
    assert (ROOT / SAMPLE).stat().st_size < 2_000_000
    assert sample.frame["mfe_freq"].min() >= SEGMENTS.min_mfe_freq
    assert sample.lengths.min() >= SEGMENTS.min_len and sample.lengths.max() <= SEGMENTS.max_len
    assert (np.diff(sample.targets.offsets) > 0).all()
    assert box_sensitivity(prune(sample, REFERENCE_RULES).table).full_share > 0.2


def test_its_segments_are_cut_from_the_transcripts(sample):
    transcripts = {record.name: record.seq for record in read_fasta(TRANSCRIPTS).records}
    assert len(transcripts) == 14
    for seq, name, start in zip(*(sample.frame[c] for c in ("seq", "transcript_id", "start")), strict=True):
        assert transcripts[name][start: start + len(seq)] == seq


def test_the_network_that_proposed_it_ships_and_has_not_seen_its_transcripts(sample):
    assert set(sample.frame[NETWORK_COLUMN]) == {file_digest(NETWORK / WEIGHTS_FILE)}
    for about in (load_network(NETWORK)[1]["from"], load_network(ROOT / TRAINED_S1)[1]):
        assert about["excluded"]["files"] == ["data/transcripts.fa.gz"] and about["excluded"]["transcripts"] == 14


def test_a_folder_is_no_output(tmp_path):
    (tmp_path / "there.parquet").mkdir()
    for path in (tmp_path / "there.parquet", tmp_path):
        with pytest.raises(UserError, match="is a folder; choose another out_file"):
            main(["--out_file", str(path)])


def test_the_command_makes_its_first_rows_again(sample, tmp_path):
    pytest.importorskip("RNA", reason="folding needs ViennaRNA")
    first = read_fasta(TRANSCRIPTS).records[:1]
    (tmp_path / "first.fa").write_text("".join(f">{r.name} {r.description}\n{r.seq}\n" for r in first))
    options = SampleOptions(
        transcripts=str(tmp_path / "first.fa"), model=str(NETWORK), out_file=str(tmp_path / "again.parquet"),
        cache_dir=str(tmp_path / "cache"),
    )
    run_sample(options, MemoryTracker())
    again = read_table(options.out_file).table
    rows = np.flatnonzero(sample.frame["transcript_id"] == first[0].name)
    assert len(rows) == again.rows > 10
    want = sample.take_rows(rows)
    assert again.frame["seq"].tolist() == want.frame["seq"].tolist()
    assert np.array_equal(keys(again.targets), keys(want.targets))
    mine, theirs = ({tuple(k) for k in keys(t.proposals)} for t in (again, want))
    assert len(mine ^ theirs) <= 0.001 * len(theirs)  # another CPU rounds another way
    if mine == theirs:
        assert np.allclose(np.sort(again.prob_sm.values), np.sort(want.prob_sm.values), atol=10 * 10.0**-DECIMALS)
