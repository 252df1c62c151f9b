"""The commands prune and featurize on files: what they write, what they track, and what they refuse."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.write import write_table
from rna_s2.commands import featurize as featurize_command
from rna_s2.commands import propose as propose_command
from rna_s2.commands import prune as prune_command
from rna_s2.engine.tracker import MemoryTracker
from rna_s2.options.errors import run_command
from rna_s2.pipeline.steps.featurize import FeaturizeOptions, run_featurize
from rna_s2.pipeline.steps.prune import PruneOptions, run_prune
from rna_s2.pruning.rules import REFERENCE_RULES, RULES, prune
from rna_s2.rna.boxes import BOX_COLUMNS
from rna_s2.s2.architectures import build_network
from rna_s2.s2.config import NetworkConfig
from rna_s2.s2.dataset import load
from rna_s2.s2.feature_groups import KINDS as FEATURE_KINDS
from rna_s2.s2.features import featurize
from rna_s2.s2.scorer import ModelCard, Scorer
from tests.reference import rows_of

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ["--discard_ns_stem", "true", "--min_hloop_size", "3", "--min_pixel_pred", "0", "--min_prob", "0"]


def box(x: int, y: int, siz_x: int, siz_y: int) -> dict:
    return {
        "bb_x": x, "bb_y": y, "siz_x": siz_x, "siz_y": siz_y, "prob_sm": [0.2, 0.4], "prob_sl": [],
        "n_proposal_norm_sm": 0.25,
    }


def raw_frame() -> pd.DataFrame:
    """Three rows as in the field: a hairpin found, one whose stem is missed, one for which nothing is proposed."""
    hairpin = [((0, 8), (3, 3), "stem"), ((2, 2), (7, 7), "hairpin_loop")]
    pairs = [[0, 1, 2], [10, 9, 8]]
    impossible = box(0, 9, 2, 2)
    return pd.DataFrame(
        {
            "seq": ["GGCAAAAAGCC", "GGCAAAAAGCCA", "ACGUACGU"],
            "one_idx": [pairs, pairs, [[], []]],
            "bounding_boxes": [hairpin, hairpin, []],
            "transcript_id": ["t1", "t2", "t3"],
            "bb_stem": [[box(0, 10, 3, 3), impossible], [impossible], None],
            "bb_iloop": [[box(0, 10, 2, 99)], None, float("nan")],
            "bb_hloop": [[box(2, 8, 7, 7), box(3, 4, 2, 2)], [box(2, 8, 7, 7)], []],
        },
        index=[10, 20, 30],
    )


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw_s1_pred.pkl.gz"
    raw_frame().to_pickle(path)
    return path


def run(module: object, *argv: object) -> int:
    return run_command(module.main, [str(a) for a in argv])


def only_run(experiment: str = "rna-s2"):
    client = MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return found


@pytest.mark.parametrize("name", ["pruned.parquet", "pruned.pkl.gz"])
def test_prune_writes_the_pruned_table(tracking_uri: str, raw: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "new" / name
    assert run(prune_command, "--in_file", raw, "--out_file", out, *REFERENCE) == 0
    frame = pd.read_parquet(out) if name.endswith("parquet") else pd.read_pickle(out)  # noqa: S301 - written here
    assert frame.index.tolist() == [10, 20, 30]
    assert set(frame.columns) == {*raw_frame().columns, "df_target", "n_bb_found"}
    assert frame["n_bb_found"].tolist() == [2, 1, 0]
    assert [len(boxes) for boxes in frame["bb_stem"]] == [1, 0, 0]
    assert [len(boxes) for boxes in frame["bb_iloop"]] == [0, 0, 0]
    assert [len(boxes) for boxes in frame["bb_hloop"]] == [1, 1, 0]
    (kept,) = frame["bb_stem"].iloc[0]
    assert {name: kept[name] for name in ("bb_x", "bb_y", "siz_x", "siz_y", "n_proposal_norm_sm")} == {
        "bb_x": 0, "bb_y": 10, "siz_x": 3, "siz_y": 3, "n_proposal_norm_sm": 0.25
    }
    assert list(kept["prob_sm"]) == [0.2, 0.4]
    assert [dict(target) for target in frame["df_target"].iloc[0]] == [
        {"bb_x": 0, "bb_y": 10, "siz_x": 3, "siz_y": 3, "bb_type": "stem"},
        {"bb_x": 2, "bb_y": 8, "siz_x": 7, "siz_y": 7, "bb_type": "hloop"},
    ]
    assert [p.name for p in out.parent.iterdir()] == [name]


def test_your_own_sequences_are_proposed_pruned_and_scored(tracking_uri: str, tmp_path: Path, capsys) -> None:
    sequences, proposed, pruned = (tmp_path / name for name in ("my.fa", "proposed.parquet", "pruned.parquet"))
    sequences.write_text(">a\nGGGGGCUUCGGCCCCCAAGR\n>b\nACG\n")
    assert run(propose_command, "--in_file", sequences, "--out_file", proposed, "--model", ROOT / "data" / "s1_compact") == 0
    assert run(prune_command, "--in_file", proposed, "--out_file", pruned) == 1
    assert "column bounding_boxes missing" in capsys.readouterr().err and not pruned.exists()
    assert run(prune_command, "--in_file", proposed, "--out_file", pruned, "--require_targets", "false") == 0
    frame = pd.read_parquet(pruned)
    assert frame["seq"].tolist() == ["GGGGGCUUCGGCCCCCAAGN", "ACG"] and len(frame["bb_stem"].iloc[0])
    assert not {"df_target", "n_bb_found", "bounding_boxes"} & set(frame)
    config = NetworkConfig(n_dim=4, n_attn_layer=1, n_heads=1, n_ff=4, n_hid=2)
    card = ModelCard(kind="baseline", feature_names=FEATURE_KINDS["baseline"].columns, network=config)
    scores = Scorer(build_network(config, card.feature_names, {}), card).score_frame(frame)
    assert [len(row) for row in scores] == [sum(len(frame[c].iloc[k]) for c in BOX_COLUMNS) for k in range(2)]


def test_the_written_table_is_the_pruned_one(raw: Path, tmp_path: Path) -> None:
    options = PruneOptions(in_file=str(raw), out_file=str(tmp_path / "p.parquet"), **REFERENCE_RULES.model_dump())
    done = run_prune(options, MemoryTracker())
    assert list(rows_of(read_table(tmp_path / "p.parquet").table)) == list(rows_of(done.result.table))
    assert done.rejects.empty


def test_what_a_prune_run_tracks(tracking_uri: str, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "pruned.parquet"
    assert run(prune_command, "--in_file", raw, "--out_file", out, "--max_len", 11, *REFERENCE) == 0
    found = only_run()
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "prune raw_s1_pred.pkl.gz"
    params, metrics = found.data.params, found.data.metrics
    assert params["min_hloop_size"] == "3"
    assert params["in_file"] == str(raw)
    assert metrics["prune/max_len/hloop/before"] == 3
    assert metrics["prune/max_len/hloop/after"] == 2
    assert metrics["prune/out_of_range/iloop/after"] == 0
    assert metrics["prune/discard_ns_stem/stem/before"] == 2
    assert metrics["prune/discard_ns_stem/stem/after"] == 1
    assert metrics["prune/min_hloop_size/hloop/after"] == 1
    assert (metrics["rows/read"], metrics["rows/skipped"], metrics["rows/written"]) == (3, 1, 2)
    assert metrics["full_sensitivity_share"] == 1
    assert metrics["sensitivity/stem"] == metrics["sensitivity/all"] == 1
    assert "sensitivity/iloop" not in metrics  # there is no iloop to find
    assert {"seconds/read", "seconds/prune", "seconds/write"} <= set(metrics)
    (dataset,) = found.inputs.dataset_inputs
    assert read_table(raw).table.digest.startswith(dataset.dataset.digest)
    client = MlflowClient()
    artifacts = {a.path for a in client.list_artifacts(found.info.run_id)}
    assert artifacts >= {"prune_counts.csv", "pruned.rejects.csv", "table"}
    counts = pd.read_csv(client.download_artifacts(found.info.run_id, "prune_counts.csv", str(tmp_path)))
    assert counts.columns.tolist() == ["rule", "type", "before", "after", "dropped"]
    assert len(counts) == len(RULES) * 3  # types


def test_skipped_rows_are_listed(raw: Path, tmp_path: Path) -> None:
    options = PruneOptions(in_file=str(raw), out_file=str(tmp_path / "p.parquet"), max_len=11)
    done = run_prune(options, MemoryTracker())
    rejects = pd.read_csv(tmp_path / "p.rejects.csv")
    assert rejects.to_dict("records") == [
        {"row": 1, "index": 20, "column": "seq", "reason": "longer than max_len (12 > 11 bases)"}
    ]
    assert done.result.table.frame.index.tolist() == [10, 30]


def test_rejects_of_an_earlier_run_do_not_stay(raw: Path, tmp_path: Path) -> None:
    files = {"in_file": str(raw), "out_file": str(tmp_path / "p.parquet")}
    run_prune(PruneOptions(max_len=11, **files), MemoryTracker())
    run_prune(PruneOptions(**files), MemoryTracker())
    assert pd.read_csv(tmp_path / "p.rejects.csv").empty


def spoiled(tmp_path: Path) -> Path:
    """The raw table, with the first row unusable and a too long row after it."""
    frame = raw_frame()
    frame["seq"] = ["GGCAAXAAGCC", *frame["seq"].iloc[1:]]
    path = tmp_path / "spoiled.pkl.gz"
    frame.to_pickle(path)
    return path


def test_unusable_rows_stop_the_run(
    tracking_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.parquet"
    out.write_text("from before")
    assert run(prune_command, "--in_file", spoiled(tmp_path), "--out_file", out) == 1
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error:")]
    assert "1 of 3 rows cannot be used" in line
    assert "row 0 (index 10), column seq" in line
    assert "p.rejects.csv" in line and "max_rejects=1" in line
    assert out.read_text() == "from before"
    assert pd.read_csv(tmp_path / "p.rejects.csv")["index"].tolist() == [10]
    assert only_run().info.status == "FAILED"
    assert only_run().data.metrics["rows/rejected"] == 1


@pytest.mark.parametrize("max_rejects", [1, 5, -1])
def test_unusable_rows_can_be_left_out(tmp_path: Path, max_rejects: int) -> None:
    options = PruneOptions(
        in_file=str(spoiled(tmp_path)), out_file=str(tmp_path / "p.parquet"), max_rejects=max_rejects, max_len=11,
        rejects_file=str(tmp_path / "left_out.csv"),
    )
    done = run_prune(options, MemoryTracker())
    assert done.rows_read == 3
    rejects = pd.read_csv(tmp_path / "left_out.csv")
    assert rejects[["row", "index"]].to_numpy().tolist() == [[0, 10], [1, 20]]  # row numbers of the file
    assert pd.read_parquet(tmp_path / "p.parquet").index.tolist() == [30]


def _truncated(path: Path) -> None:
    raw_frame().to_pickle(path, compression="gzip")
    path.write_bytes(path.read_bytes()[:-40])


class _Malicious:
    def __reduce__(self) -> tuple:
        return os.system, ("echo executed > executed",)


def _malicious(path: Path) -> None:
    import pickle

    path.write_bytes(gzip.compress(pickle.dumps(_Malicious())))


@pytest.mark.parametrize(("make", "complaint"), [
    (lambda path: None, "no such file"),
    (lambda path: raw_frame().iloc[:0].to_pickle(path), "no rows"),
    (lambda path: raw_frame().drop(columns="seq").to_pickle(path), "seq"),
    (lambda path: raw_frame().drop(columns="bb_hloop").to_pickle(path), "bb_hloop"),
    (lambda path: raw_frame().drop(columns="bounding_boxes").to_pickle(path), "bounding_boxes"),
    (lambda path: raw_frame().assign(seq=[1, 2, 3]).to_pickle(path), "column seq"),
    (lambda path: raw_frame().assign(bb_stem="boxes").to_pickle(path), "column bb_stem"),
    (lambda path: raw_frame().assign(bb_stem=[[box(0, 9, -2, 2)]] * 3).to_pickle(path), "siz_x is -2"),
    (lambda path: path.write_text("not a table"), "in.pkl.gz"),
    (_truncated, "truncated"),
    (_malicious, "system"),
])
def test_bad_input_is_one_line_and_leaves_nothing(
    tracking_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: object, complaint: str
) -> None:
    path, out = tmp_path / "in.pkl.gz", tmp_path / "out"
    make(path)
    assert run(prune_command, "--in_file", path, "--out_file", out / "p.parquet") == 1
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error:")]
    assert complaint in line
    assert not (tmp_path / "executed").exists()
    assert {p.name for p in out.iterdir()} <= {"p.rejects.csv"} if out.exists() else True


@pytest.mark.parametrize(("argv", "complaint"), [
    (["--min_hloop_sise", "3"], "min_hloop_sise"),
    (["--min_prob", "2"], "'min_prob'"),
    (["--min_pixel_pred", "few"], "'min_pixel_pred'"),
    (["--out_file", "p.csv"], "p.csv"),
    (["--out_file", "raw_s1_pred.pkl.gz"], "both in_file and out_file"),
    (["--rejects_file", "p.parquet"], "both out_file and rejects_file"),
    (["--out_file", "folder.parquet"], "folder.parquet: is a folder; choose another out_file"),
    (["--out_file", "."], ".: is a folder; choose another out_file"),
    (["--rejects_file", "folder.parquet"], "folder.parquet: is a folder; choose another rejects_file"),
    (["--out_file", ""], "'out_file' must be given"),
    (["--max_len", "1"], "no row is left"),
])
def test_prune_refuses_wrong_options(
    tracking_uri: str, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], complaint: str
) -> None:
    before = raw.read_bytes()
    (tmp_path / "folder.parquet").mkdir()
    files = {"--in_file": raw.name, "--out_file": "p.parquet"} | dict(zip(argv[::2], argv[1::2], strict=True))
    assert run(prune_command, *[text for pair in files.items() for text in pair]) == 1
    assert complaint in capsys.readouterr().err
    assert raw.read_bytes() == before
    assert not (tmp_path / "p.parquet").exists()


@pytest.fixture
def pruned(raw: Path, tmp_path: Path) -> Path:
    path = tmp_path / "pruned.parquet"
    result = prune(read_table(raw).table, REFERENCE_RULES)
    write_table(result.table, path, added={"n_bb_found": result.sensitivity.n_found}, with_targets=True)
    return path


@pytest.mark.parametrize("kind", ["baseline", "s1_features", "sequence_encoding", "shuffle_label"])
def test_featurize_writes_what_the_function_gives(
    tracking_uri: str, pruned: Path, tmp_path: Path, kind: str
) -> None:
    argv = ["--in_file", pruned, "--out_file", "enc", "--kind", kind, "--keep_partial", "true", "--seed", 3]
    assert run(featurize_command, *argv) == 0
    written = load(tmp_path / "enc")
    expected = featurize(read_table(pruned).table, kind, keep_partial=True, seed=3)
    assert written.meta.model_copy(update={"source": ""}) == expected.meta.model_copy(update={"source": ""})
    assert written.digest == expected.digest
    for name, array in expected.arrays().items():
        np.testing.assert_array_equal(written.arrays()[name], array)
    assert written.meta.source_digest == read_table(pruned).table.digest
    assert (written.meta.rows_read, written.meta.rows_kept, written.meta.rows_without_boxes) == (3, 2, 1)

    found = only_run()
    assert found.info.run_name == f"featurize {kind} pruned.parquet"
    assert found.data.params["kind"] == kind
    assert found.data.tags["digest.out_file"] == expected.digest
    metrics = found.data.metrics
    assert (metrics["rows/read"], metrics["rows/kept"], metrics["rows/full_sensitivity"]) == (3, 2, 2)
    assert (metrics["boxes/all"], metrics["boxes/hloop"], metrics["positives/hloop"]) == (3, 2, 2)
    assert metrics["groups"] == 2
    artifacts = {a.path for a in MlflowClient().list_artifacts(found.info.run_id)}
    assert "dataset" in artifacts


def test_featurize_keeps_rows_with_full_sensitivity(pruned: Path, tmp_path: Path) -> None:
    data = run_featurize(FeaturizeOptions(in_file=str(pruned), out_file=str(tmp_path / "enc")), MemoryTracker())
    assert data.source_row.tolist() == [0]
    assert data.labels.tolist() == [1, 1]


@pytest.mark.parametrize(("argv", "complaint"), [
    (["--kind", "basline"], "'kind'"),
    (["--in_file", "nothing.parquet"], "no such file"),
    (["--out_file", "pruned.parquet"], "no encoded dataset"),
    (["--in_file", "raw_s1_pred.pkl.gz", "--kind", "sequence_encoding"], "row 0 (index 10): the iloop"),
    (["--in_file", "spoiled.pkl.gz"], "1 rows cannot be used"),
    (["--in_file", "hopeless.parquet"], "none of its 1 rows can be trained on"),
])
def test_featurize_refuses(
    tracking_uri: str, pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], complaint: str
) -> None:
    spoiled(tmp_path)
    write_table(read_table(pruned).table.take_rows(np.array([1])), tmp_path / "hopeless.parquet")
    before = pruned.read_bytes()
    files = {"--in_file": pruned.name, "--out_file": "enc"} | dict(zip(argv[::2], argv[1::2], strict=True))
    assert run(featurize_command, *[text for pair in files.items() for text in pair]) == 1
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error:")]
    assert complaint in line
    assert pruned.read_bytes() == before
    assert not (tmp_path / "enc").exists()


def test_both_commands_in_processes_of_their_own(tracking_uri: str, raw: Path, tmp_path: Path) -> None:
    def command(module: str, *argv: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", module, *argv], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    done = command("rna_s2.commands.prune", "--in_file", raw.name, "--out_file", "p.parquet", "--rejects_file", "", *REFERENCE)
    assert done.returncode == 0, done.stderr
    done = command("rna_s2.commands.featurize", "--in_file", "p.parquet", "--out_file", "enc", "--kind", "s1_features")
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "enc").features.shape == (2, 11)
    failed = command("rna_s2.commands.featurize", "--in_file", "q.parquet", "--out_file", "enc2")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert "error: q.parquet: no such file" in failed.stderr
