"""From transcripts or known structures to a table: cutting, folding, what is left out, and the command."""

from __future__ import annotations

import gzip
import http.server
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rna_s2.boxtables.read import read_table
from rna_s2.commands import segments as segments_command
from rna_s2.engine.tracker import MemoryTracker
from rna_s2.options.errors import UserError, run_command
from rna_s2.pipeline.steps import segments as segments_main
from rna_s2.rna.boxes import HLOOP, STEM
from rna_s2.rna.formats import SequenceRecord, StructureRecord
from rna_s2.rna.pairs import as_pairs, from_dot_bracket, loop_boxes
from rna_s2.s1.config import SegmentRule
from rna_s2.s1.folding import FOLD_CHUNK, Folded, fold, fold_all
from rna_s2.s1.segments import (
    LOW_FREQUENCY,
    NO_STRUCTURE,
    OVER_LIMIT,
    TOO_SHORT,
    Segment,
    cut_segments,
    keep_folded,
    segment_table,
    structure_table,
)
from tests.real_data import PARQUET_TABLES, name_of

KT = 0.0019872 * 310.15
"""kcal/mol at 37 degrees."""


def random_seq(rng, length):
    return "".join(rng.choice(list("ACGU"), length))


# cutting


def cut_rule(min_len: int, max_len: int, min_step: int, max_step: int, limit: int, seed: int) -> SegmentRule:
    return SegmentRule(
        min_len=min_len, max_len=max_len, min_step=min_step, max_step=max_step, max_per_transcript=limit, seed=seed
    )


@given(
    st.integers(0, 400), st.integers(1, 50), st.integers(0, 60), st.integers(1, 40), st.integers(0, 60),
    st.integers(0, 3), st.integers(0, 5),
)  # fmt: skip
def test_segments_obey_the_rule(length, min_len, more_len, min_step, more_step, limit, seed):
    seq = random_seq(np.random.default_rng(seed), length)
    rule = cut_rule(min_len, min_len + more_len, min_step, min_step + more_step, limit, seed)
    segments, left = cut_segments([SequenceRecord("t", seq)], rule)
    if length < min_len:
        assert (segments, [(x.length, x.reason) for x in left]) == ([], [(length, TOO_SHORT)])
        return
    assert segments, "a transcript that is long enough gives at least one segment"
    for segment in segments:
        assert segment.seq == seq[segment.start: segment.start + len(segment.seq)]
        assert min_len <= len(segment.seq) <= min_len + more_len
    starts = sorted([s.start for s in segments] + [x.start for x in left])
    assert starts[0] < min_step + more_step
    assert all(min_step <= step <= min_step + more_step for step in np.diff(starts))
    assert starts[-1] + min_step + more_step > length - min_len, "nothing is left uncut at the end"
    assert [s.start for s in segments] == sorted(s.start for s in segments)
    if limit:
        assert len(segments) <= limit
        assert not left or len(segments) == limit
    assert {x.reason for x in left} <= {OVER_LIMIT}


def test_lengths_and_steps_fill_their_ranges():
    seq = random_seq(np.random.default_rng(0), 20_000)
    segments, _ = cut_segments([SequenceRecord("t", seq)], cut_rule(5, 8, 2, 4, 0, 0))
    assert {len(s.seq) for s in segments} == {5, 6, 7, 8}
    assert set(np.diff([s.start for s in segments]).tolist()) == {2, 3, 4}


def test_draws_depend_on_seed_and_name_alone():
    rng = np.random.default_rng(0)
    a, b = (SequenceRecord(name, random_seq(rng, 500)) for name in "ab")
    rule = cut_rule(20, 60, 10, 50, 0, 7)
    both, _ = cut_segments([a, b], rule)
    alone, _ = cut_segments([b], rule)
    assert [s for s in both if s.transcript_id == "b"] == alone
    assert cut_segments([b], rule)[0] == alone
    assert cut_segments([b], cut_rule(20, 60, 10, 50, 0, 8))[0] != alone
    assert [s.start for s in both if s.transcript_id == "a"] != [s.start for s in alone]


# folding


def test_a_hairpin_folds_as_expected():
    folded = fold("ggggAAAAcccc")
    assert folded.structure == "((((....))))"
    assert 0.5 < folded.mfe_freq <= 1


@pytest.mark.parametrize("seq", ["GGGGAAAACCCC", "GCAUCUAUGGCAAUGC", "GGGAAAUCCGCAAAGCC"])
def test_frequency_and_diversity_are_those_of_all_structures_counted(seq):
    import RNA

    everything = RNA.fold_compound(seq).subopt(100_00)  # every structure up to 100 kcal/mol above the best
    energies = np.array([s.energy for s in everything])
    weights = np.exp(-energies / KT)
    weights /= weights.sum()
    folded = fold(seq)
    best = [s.structure for s in everything].index(folded.structure)
    assert energies[best] == energies.min() == pytest.approx(folded.fe, abs=1e-3)
    assert folded.mfe_freq == pytest.approx(weights[best], rel=0.01)
    present = np.zeros((len(everything), len(seq), len(seq)), bool)
    for n, s in enumerate(everything):
        i, j = from_dot_bracket(s.structure).T
        present[n, i, j] = True
    p = np.einsum("n,nij->ij", weights, present)
    # two structures sampled at random differ in a pair that one of them has and the other has not
    assert folded.ens_div == pytest.approx(2 * (p * (1 - p)).sum(), rel=0.01)


def test_t_is_u_case_means_nothing_and_ambiguous_bases_do_not_pair():
    assert fold("GGGGTTTTcccc") == fold("GGGGUUUUCCCC")
    assert fold("GGGGAAAANNNN").structure == "." * 12
    assert fold("RRGGGGAAAACCCC").structure == "..((((....))))"


def test_the_number_of_workers_changes_nothing():
    rng = np.random.default_rng(0)
    seqs = [random_seq(rng, int(rng.integers(20, 40))) for _ in range(2 * FOLD_CHUNK + 3)]
    shown = []

    def progress(stream):
        for item in stream:
            shown.append(item)
            yield item

    one = fold_all(seqs, 1)
    assert fold_all(seqs, 2, progress) == one
    assert shown == one
    assert one[5] == fold(seqs[5])


@pytest.mark.parametrize("path", PARQUET_TABLES, ids=name_of)
def test_folds_are_those_of_a_real_table(path):
    table = pd.read_parquet(path).iloc[:50]
    assert len(table) >= 36
    for seq, one_idx, energy in zip(table["seq"], table["one_idx"], table["fe"], strict=True):
        folded = fold(seq)
        assert np.array_equal(from_dot_bracket(folded.structure), as_pairs(*one_idx))
        assert folded.fe == pytest.approx(energy, abs=1e-4)


# tables


def test_what_has_no_structure_or_too_rare_a_one_is_left_out_with_its_reason():
    segments = [Segment("t", start, "GGAAACC") for start in (0, 5, 9, 12)]
    folded = [
        Folded("((...))", -1.0, 0.02, 1.0), Folded(".......", 0.0, 0.9, 1.0), Folded("((...))", -1.0, 0.0199, 1.0),
        Folded("((...))", -1.0, 0.5, 1.0),
    ]  # fmt: skip
    kept, left = keep_folded(segments, folded, 0.02)
    assert kept == [0, 3]
    assert [(x.start, x.length, x.reason) for x in left] == [(5, 7, NO_STRUCTURE), (9, 7, LOW_FREQUENCY)]


def test_table_of_segments():
    table = segment_table([Segment("t", 4, "GgRAACC")], [Folded("((...))", -1.5, 0.25, 3.0)])
    row = table.frame.iloc[0]
    assert (row["seq"], row["transcript_id"], row["start"]) == ("GgNAACC", "t", 4)
    assert (row["fe"], row["mfe_freq"], row["ens_div"]) == (-1.5, 0.25, 3.0)
    assert [list(half) for half in row["one_idx"]] == [[0, 1], [6, 5]]
    assert list(table.targets.row_boxes(0)) == [(STEM, 0, 6, 2, 2), (HLOOP, 1, 5, 5, 5)]
    assert len(table.proposals) == 0 and table.proposals.rows == 1


def test_pseudoknots_stay_in_one_idx_and_leave_the_boxes():
    pairs = from_dot_bracket("((.[..)).]")
    table = structure_table([StructureRecord("k", "GGACAACCAG", pairs, "tRNA"), StructureRecord("u", "ACGU", pairs[:0])])
    assert [list(half) for half in table.frame["one_idx"][0]] == [[0, 1, 3], [7, 6, 9]]
    assert table.frame["pseudoknot_pairs"].tolist() == [1, 0]
    assert table.frame["id"].tolist() == ["k", "u"] and table.frame["family"].tolist() == ["tRNA", ""]
    assert list(table.targets.row_boxes(0)) == loop_boxes(from_dot_bracket("((....)).."))
    assert list(table.targets.row_boxes(1)) == []


# the command

FASTA = ">t1 of a gene\n{a}\n>bad\nAC-GU\n>t1\nACGU\n>short\nACGU\n>t2\n{b}\n"


@pytest.fixture
def fasta(tmp_path):
    rng = np.random.default_rng(3)
    path = tmp_path / "tx.fa.gz"
    path.write_bytes(gzip.compress(FASTA.format(a=random_seq(rng, 400), b=random_seq(rng, 300)).encode()))
    return path


def options(**values):
    return segments_main.SegmentsOptions(**{"max_len": 60, "max_step": 60, "workers": 1, **values})


def test_everything_cut_is_in_the_table_or_among_the_rejects(fasta, tmp_path):
    out = tmp_path / "out" / "segments.parquet"
    tracker = MemoryTracker()
    result = segments_main.run_segments(
        options(transcripts=str(fasta), out_file=str(out), min_mfe_freq=0.2, max_per_transcript=6), tracker
    )
    counts = result.counts
    assert (counts["records"], counts["rejected_records"]) == (3, 2)
    assert counts["cut"] == counts["rows"] + sum(
        counts.get(f"left_out.{reason}", 0) for reason in (NO_STRUCTURE, LOW_FREQUENCY)
    )
    assert counts["rows"] > 0 and counts[f"left_out.{LOW_FREQUENCY}"] > 0 and counts[f"left_out.{OVER_LIMIT}"] > 0
    assert counts[f"left_out.{TOO_SHORT}"] == 1
    rejects = pd.read_csv(tmp_path / "out" / "segments.rejects.csv")
    left_out = {name.removeprefix("left_out."): n for name, n in counts.items() if name.startswith("left_out.")}
    assert rejects["reason"].iloc[2:].value_counts().to_dict() == left_out
    assert rejects[["name", "line"]].iloc[:2].values.tolist() == [["bad", 3], ["t1", 5]]

    read = read_table(out, require_proposals=False)
    assert len(read.rejects) == 0
    frame = read.table.frame
    assert (frame["mfe_freq"] >= 0.2).all()
    assert set(frame["transcript_id"]) == {"t1", "t2"}
    for row, (seq, one_idx) in enumerate(zip(frame["seq"], frame["one_idx"], strict=True)):
        pairs = from_dot_bracket(fold(seq).structure)
        assert np.array_equal(as_pairs(*one_idx, len(seq)), pairs)
        assert list(read.table.targets.row_boxes(row)) == loop_boxes(pairs)

    assert tracker.metric_values["count.rows"] == [(0, float(len(frame)))]
    assert tracker.datasets[0]["digest"] == result.digest
    assert tracker.artifacts == [("segments.rejects.csv", "rejects")]


def test_the_command_makes_a_tracked_run(fasta, tmp_path, tracking_uri):
    from mlflow.tracking import MlflowClient

    argv = ["--transcripts", str(fasta), "--out_file", "s.parquet", "--max_len", "40", "--workers", "1", "--seed", ""]
    segments_command.main(argv)
    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name("rna-s2")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "segments tx.fa.gz"
    assert run.data.params["max_len"] == "40" and run.data.params["seed"] == "0"
    assert run.data.metrics["count.rows"] == read_table("s.parquet", require_proposals=False).table.rows
    assert run.inputs.dataset_inputs[0].dataset.name == "tx.fa.gz"


def test_known_structures_become_a_table(tmp_path):
    path = tmp_path / "known.dbn"
    path.write_text(">k\nGGACAACCAG\n((.[..)).]\n>bad\nGGA\n(((\n>plain\nGGAAACC\n((...))\n")
    out = tmp_path / "known.pkl.gz"
    result = segments_main.run_segments(options(structures=str(path), out_file=str(out)), MemoryTracker())
    assert result.counts["rows_with_pseudoknot"] == 1 and result.counts["pairs_out_of_the_boxes"] == 1
    table = read_table(out, require_proposals=False).table
    assert table.frame["id"].tolist() == ["k", "plain"]
    assert table.targets.counts().tolist() == result.table.targets.counts().tolist() == [[1, 0, 1], [1, 0, 1]]
    rejects = pd.read_csv(tmp_path / "known.rejects.csv")
    assert rejects[["name", "line"]].values.tolist() == [["bad", 4]]


class Handler(http.server.BaseHTTPRequestHandler):
    content = b""

    def do_GET(self):
        if "missing" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content) + (100 if "cut" in self.path else 0)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(fasta):
    Handler.content = fasta.read_bytes()
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_transcripts_from_a_url_are_those_of_the_file(fasta, server):
    from_file = segments_main.segments(options(transcripts=str(fasta), out_file="unused.parquet"))
    from_url = segments_main.segments(options(transcripts=f"{server}/tx.fa.gz?v=1", out_file="unused.parquet"))
    assert from_url.table.frame["seq"].tolist() == from_file.table.frame["seq"].tolist()
    assert from_url.digest == from_file.digest


def test_a_url_that_cannot_be_fetched_is_one_clear_line(server):
    for path, said in (("missing.fa", "the server answers 404"), ("cut.fa", "the connection broke after")):
        with pytest.raises(UserError, match=said):
            segments_main.segments(options(transcripts=f"{server}/{path}", out_file="unused.parquet"))
    with pytest.raises(UserError, match="cannot be fetched"):
        segments_main.segments(options(transcripts="http://127.0.0.1:9/x.fa", out_file="unused.parquet"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--transcripts", "none.fa", "--out_file", "o.parquet"], "none.fa: cannot be read"),
        (["--transcripts", "empty.fa", "--out_file", "o.parquet"], "empty.fa: has no record that can be used"),
        (["--transcripts", "bad.fa", "--out_file", "o.parquet"], "(line 1: character '-' at position 2"),
        (["--transcripts", "short.fa", "--out_file", "o.parquet"], "1 transcript_shorter_than_min_len"),
        (["--transcripts", "cut.fa.gz", "--out_file", "o.parquet"], "cut.fa.gz: the gzip file is broken"),
        (["--structures", "short.fa", "--out_file", "o.parquet"], "must end in one of"),
        (["--transcripts", "short.fa", "--out_file", "o.txt"], "o.txt: a table is written as"),
        (["--out_file", "o.parquet"], "give either transcripts or structures"),
        (["--transcripts", "short.fa"], "'out_file' must be given"),
        (["--transcripts", "a", "--out_file", "o.parquet", "--min_len", "9", "--max_len", "8"], "min_len 9 is above"),
        (["--transcripts", "a", "--out_file", "o.parquet", "--min_step", "0"], "'min_step'"),
        (["--transcripts", "a", "--out_file", "o.parquet", "--min_mfe_freq", "2"], "'min_mfe_freq'"),
        (["--transcript", "a"], "parameters are: min_len, max_len"),
        (["--transcripts", "short.fa", "--out_file", "."], ".: is a folder; choose another out_file"),
        (["--transcripts", "short.fa", "--out_file", "d.parquet"], "d.parquet: is a folder; choose another out_file"),
        (["--transcripts", "short.fa", "--out_file", "f.pkl.gz"], "f.rejects.csv: is a folder; choose another out_file"),
        (["--transcripts", "t.parquet", "--out_file", "t.parquet"], "t.parquet: is both transcripts and out_file"),
        (["--structures", "s.rejects.csv", "--out_file", "s.pkl"], "both structures and the rejects of out_file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_output(argv, said, tracking_uri, tmp_path, capsys):
    Path("empty.fa").write_text("")
    for folder in ("d.parquet", "f.rejects.csv"):
        Path(folder).mkdir()
    Path("bad.fa").write_text(">a\nA-C\n")
    Path("short.fa").write_text(">a\nACGU\n")
    Path("cut.fa.gz").write_bytes(gzip.compress(b">a\nACGU\n" * 99)[:-5])
    assert run_command(segments_command.main, argv) == 1
    error = capsys.readouterr().err
    assert error.count("error:") == 1
    assert said in error.partition("error:")[2]
    assert not list(tmp_path.glob("o.*"))
