"""The command train on a slice of the sample: what stands in the run, what is found again, and what survives a kill."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from sklearn.metrics import roc_auc_score

import rna_s2.pipeline.steps.featurize
import rna_s2.pipeline.train_s2
import rna_s2.tracking.outbox
from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.write import write_table
from rna_s2.commands.train import COMMAND, main
from rna_s2.fitting.checkpoints import BEST, LAST, training_lock
from rna_s2.options.command_line import parse_with_config
from rna_s2.options.errors import UserError, run_command
from rna_s2.pipeline.steps.featurize import encoded_dataset
from rna_s2.pipeline.steps.prune import pruned_table
from rna_s2.pipeline.train_config import SAMPLE, DataConfig, TrainConfig
from rna_s2.pruning.rules import PruningRules
from rna_s2.reports.plots import mean_roc
from rna_s2.s2.config import FeatureConfig
from rna_s2.s2.training import Evaluation, S2Module

ROOT = Path(__file__).resolve().parents[1]
DEBUG = ROOT / "configs" / "debug.yaml"
ROWS = 36
WALL_CLOCK = {"epoch_seconds", "fit_seconds"}


@pytest.fixture(scope="module")
def sliced(tmp_path_factory) -> Path:
    table = read_table(ROOT / SAMPLE).table
    shortest = np.sort(np.argsort(table.lengths, kind="stable")[:ROWS])
    path = tmp_path_factory.mktemp("slice") / "slice.parquet"
    write_table(table.take_rows(shortest), path)
    return path


def arguments(sliced: Path, *more: str) -> list[str]:
    return ["--config", str(DEBUG), "--in_file", str(sliced), "--batch_size", "4", "--epochs", "2", *more]


def metrics_of(run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Every metric of a run by epoch, the newest of each, but for wall seconds."""
    client = MlflowClient()
    names = client.get_run(run_id).data.metrics.keys() - WALL_CLOCK
    return {n: sorted({m.step: m.value for m in client.get_metric_history(run_id, n)}.items()) for n in names}


def files(run_id: str, folder: str | None = None) -> set[str]:
    return {entry.path for entry in MlflowClient().list_artifacts(run_id, folder)}


def test_a_run_has_everything_that_describes_it(tracking_uri, sliced, caplog):
    report = main(arguments(sliced, "--registered_name", "tiny", "--seed", "3"))
    client = MlflowClient()
    run = client.get_run(report.run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "train debug seed3"
    assert run.data.params["training.epoch"] == "2" and run.data.params["network.n_dim"] == "20"
    assert run.data.params["pruning.min_hloop_size"] == "3" and run.data.params["seed"] == "3"
    assert run.data.tags["features"] == "baseline" and run.data.tags["stage"] == "train"
    logged = metrics_of(report.run_id)
    for name in ("train/loss", "train/auroc_pooled", "val/loss", "val/average_precision", "val/stem/auroc_undefined_rows"):
        assert [epoch for epoch, _ in logged[name]] == [0, 1], name
    ((best_epoch, best),) = logged["best/val/auroc"]
    assert best == pytest.approx(max(value for _, value in logged["val/auroc"]), abs=1e-5)
    assert best_epoch == logged["best/epoch"][0][1] == report.result.fit.best_epoch
    assert {d.dataset.name for d in run.inputs.dataset_inputs} == {"slice.parquet", "baseline features"}
    assert files(report.run_id) >= {
        "config.yaml", "environment.txt", "learning_curves.png", "roc_curves.png", "rows", "pruning"
    }
    assert files(report.run_id, "rows") == {
        f"rows/{part}_{what}.csv" for part in ("train", "val") for what in ("rows", "roc")
    } | {"rows/val_structures.csv"}

    kept = yaml.safe_load(Path(client.download_artifacts(report.run_id, "config.yaml")).read_text())
    assert TrainConfig.model_validate(kept).training.batch_size == 4
    tables = {p: pd.read_csv(client.download_artifacts(report.run_id, f"rows/{p}_rows.csv")) for p in ("train", "val")}
    data = report.prepared.data
    assert sorted(pd.concat(tables.values())["source_row"]) == sorted(data.source_row)
    assert not set(tables["train"]["group"]) & set(tables["val"]["group"])
    assert tables["val"]["auroc"].mean() == pytest.approx(best, abs=1e-5)
    assert pd.concat(tables.values())["boxes"].sum() == data.meta.boxes

    frame = pd.read_parquet(report.prepared.pruned)
    with caplog.at_level(logging.ERROR):
        scores = mlflow.pyfunc.load_model(report.model_uri).predict(frame[["seq", "bb_stem", "bb_iloop", "bb_hloop"]])
    row = report.result.val.rows[0]
    own = report.result.val.probability[report.result.val.row == 0]
    np.testing.assert_allclose(scores["probabilities"].iloc[data.source_row[row]], own, rtol=1e-4)
    assert str(client.get_model_version_by_alias("tiny", "champion").version) == report.model_version == "1"


def test_a_run_logs_its_test_part_once(tracking_uri, sliced, tmp_path):
    config = tmp_path / "tested.yaml"
    config.write_text(DEBUG.read_text().replace("by: group", "by: group\n  test_share: 0.2"))
    report = main(["--config", str(config), *arguments(sliced)[2:]])
    logged = metrics_of(report.run_id)
    assert logged["test/auroc"] == [(report.result.fit.best_epoch, pytest.approx(report.result.test.metrics["auroc"]))]
    rows = pd.read_csv(MlflowClient().download_artifacts(report.run_id, "rows/test_rows.csv"))
    structures = pd.read_csv(MlflowClient().download_artifacts(report.run_id, "rows/test_structures.csv"))
    assert structures["source_row"].tolist() == rows["source_row"].tolist()
    assert logged["test/f1"][0][1] == pytest.approx(structures["f1"].mean())
    assert logged["val/exact_rows"][0][0] == report.result.fit.best_epoch
    assert len(rows) == len(report.result.test.rows) > 0 and rows["auroc"].mean() == pytest.approx(logged["test/auroc"][0][1])


def test_a_second_run_finds_what_the_first_prepared(tracking_uri, sliced, monkeypatch):
    first = main(arguments(sliced))
    for step in ("prune.run_prune", "featurize.run_featurize"):
        monkeypatch.setattr(f"rna_s2.pipeline.steps.{step}", lambda *a, **k: pytest.fail("is made again"))
    second = main(arguments(sliced))
    assert first.run_id != second.run_id and first.prepared.data.digest == second.prepared.data.digest
    assert metrics_of(first.run_id) == metrics_of(second.run_id)
    assert [len(list(Path(".cache", name).glob("[!.]*"))) for name in ("encoded", "checkpoints")] == [1, 2]


def test_a_cached_table_does_not_let_rejects_pass(tracking_uri, sliced):
    frame = pd.read_parquet(sliced)
    frame.loc[frame.index[3], "seq"] = "GG!"
    frame.to_parquet("spoilt.parquet")
    main(arguments(Path("spoilt.parquet"), "--max_rejects", "1", "--epochs", "1"))
    with pytest.raises(UserError, match=r"spoilt\.parquet: 1 of 36 rows cannot be used"):
        main(arguments(Path("spoilt.parquet"), "--epochs", "1"))


KILLED_IN_EPOCH_1 = """
import os, signal, sys
from rna_s2.commands.train import main
from rna_s2.s2.training import S2Module
real = S2Module.training_step
def step(self, batch, index):
    if self.current_epoch == 1 and index == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, batch, index)
S2Module.training_step = step
main(sys.argv[1:])
"""


def test_a_killed_training_is_resumed_to_the_metrics_of_an_unbroken_one(tracking_uri, sliced):
    whole = main(arguments(sliced, "--epochs", "3"))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN_EPOCH_1, *arguments(sliced, "--epochs", "3")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    client = MlflowClient()
    runs = client.search_runs([client.get_run(whole.run_id).info.experiment_id])
    (broken,) = [run for run in runs if run.info.run_id != whole.run_id]
    assert broken.info.status == "RUNNING" and [e for e, _ in metrics_of(broken.info.run_id)["val/loss"]] == [0]

    resumed = main(["--resume", broken.info.run_id])  # its config comes from the run
    assert resumed.run_id == broken.info.run_id
    assert client.get_run(resumed.run_id).info.status == "FINISHED"
    assert metrics_of(resumed.run_id) == metrics_of(whole.run_id)
    for a, b in zip(whole.result.network.parameters(), resumed.result.network.parameters(), strict=True):
        assert a.equal(b)


def test_a_training_is_resumed_from_the_runs_own_copy(tracking_uri, sliced, monkeypatch):
    whole = main(arguments(sliced, "--epochs", "12"))
    real = S2Module.training_step

    def failing(self, batch, index):
        if self.current_epoch == 11:
            raise RuntimeError("the machine is gone")
        return real(self, batch, index)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(S2Module, "training_step", failing)
        main(arguments(sliced, "--epochs", "12"))
    client = MlflowClient()
    (broken,) = client.search_runs([client.get_run(whole.run_id).info.experiment_id], "attributes.status = 'FAILED'")
    assert files(broken.info.run_id, "checkpoints") == {f"checkpoints/{BEST}", f"checkpoints/{LAST}"}
    shutil.rmtree(".cache")
    resumed = main(["--resume", broken.info.run_id])
    assert metrics_of(resumed.run_id) == metrics_of(whole.run_id)


def test_a_finished_run_is_gone_on_with_only_for_more_epochs(tracking_uri, sliced, caplog):
    client = MlflowClient()
    run_id = main(arguments(sliced, "--registered_name", "tiny")).run_id
    before = metrics_of(run_id)
    with caplog.at_level(logging.INFO):
        again = main(["--resume", run_id])
    assert "nothing is logged again" in caplog.text and again.model_version is None and metrics_of(run_id) == before
    with pytest.raises(UserError, match="another seed"):
        main(["--resume", run_id, "--seed", "7"])
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and not [name for name in run.data.tags if name.startswith("used.")]

    longer = main(["--resume", run_id, "--epochs", "3"])
    run = client.get_run(run_id)
    assert longer.model_version == "2" and run.info.status == "FINISHED"
    assert run.data.params["training.epoch"] == "2" and run.data.tags["used.training.epoch"] == "3"
    config = yaml.safe_load(Path(client.download_artifacts(run_id, "config.yaml")).read_text())
    assert config["training"]["epoch"] == 3
    assert metrics_of(run_id)["val/loss"] == longer.result.fit.history["val/loss"]


def test_a_server_that_stays_away_costs_no_training(tracking_uri, sliced, monkeypatch, capsys):
    whole = main(arguments(sliced, "--registered_name", "tiny"))
    real, away = rna_s2.tracking.outbox.perform, "connection refused"

    def perform(client, run_id, action):
        if action["action"] == "metrics":
            raise ConnectionError(away)
        real(client, run_id, action)

    def refused(*_, **__):
        raise UserError(away)

    with monkeypatch.context() as patch:
        patch.setattr(rna_s2.tracking.outbox, "perform", perform)
        patch.setattr(rna_s2.pipeline.train_s2, "log_model", refused)
        said = error_of(capsys, *arguments(sliced, "--registered_name", "tiny"))
    run_id = re.search(r"connection refused; the training itself is done .* resume=(\w+) logs the model", said)[1]
    resumed = main(["--resume", run_id])
    assert (resumed.run_id, resumed.model_version) == (run_id, "2")
    assert not list(Path("outputs/unsent").glob("*.jsonl")), "one command brings the run to what it would have been"
    assert MlflowClient().get_run(run_id).info.status == "FINISHED"
    assert metrics_of(run_id) == metrics_of(whole.run_id)
    assert resumed.result.fit.history["val/loss"] == whole.result.fit.history["val/loss"] == metrics_of(run_id)["val/loss"]


def test_a_run_is_trained_by_one_process_at_a_time(tracking_uri, sliced, capsys):
    run_id = main(arguments(sliced)).run_id
    with training_lock(Path(".cache/checkpoints") / run_id):
        assert "another process is training there" in error_of(capsys, "--resume", run_id)
    assert MlflowClient().get_run(run_id).info.status == "FINISHED"


def test_of_several_processes_one_encodes_a_dataset(tracking_uri, sliced, monkeypatch):
    calls, real = [], rna_s2.pipeline.steps.featurize.featurize

    def slow(*args, **kwargs):
        calls.append(None)
        time.sleep(0.3)
        return real(*args, **kwargs)

    monkeypatch.setattr(rna_s2.pipeline.steps.featurize, "featurize", slow)
    data = DataConfig(in_file=str(sliced))
    pruned = pruned_table(data.in_file, PruningRules(), data.cache_dir)

    def digest(_: int) -> str:
        return encoded_dataset(pruned.path, FeatureConfig(), 0, data.cache_dir, data.in_file).digest

    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(digest, range(3)))
    assert len(calls) == 1 and len(set(made)) == 1


def test_a_training_starts_from_a_registered_model(tracking_uri, sliced, capsys):
    first = main(arguments(sliced, "--registered_name", "tiny"))
    again = main(arguments(sliced, "--start", "models:/tiny", "--epochs", "1", "--seed", "1"))
    assert MlflowClient().get_run(again.run_id).data.params["start"] == "models:/tiny"
    fresh = main(arguments(sliced, "--epochs", "1", "--seed", "1"))
    before, after, other = (run.result.network.state_dict() for run in (first, again, fresh))
    away = [sum(float((state[name] - before[name]).abs().sum()) for name in before) for state in (after, other)]
    assert 0 < away[0] < away[1] / 5
    said = error_of(capsys, *arguments(sliced, "--start", "nowhere"))
    assert "nowhere: no such folder" in said


def test_a_resumed_run_refuses_another_config(tracking_uri, sliced):
    run_id = main(arguments(sliced, "--epochs", "1")).run_id
    with pytest.raises(UserError, match="another config"):
        main(["--resume", run_id, "--batch_size", "3"])
    with pytest.raises(UserError, match="there is no run 'absent'"):
        main(["--resume", "absent"])


def error_of(capsys, *argv: str) -> str:
    """The one line on stderr of a command that fails, without what it logged before."""
    assert run_command(main, argv) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_bad_input_is_one_line_and_leaves_nothing(tracking_uri, sliced, capsys, tmp_path):
    assert "absent.parquet" in error_of(capsys, *arguments(Path("absent.parquet")))
    Path("misspelt.yaml").write_text("training: {epocs: 3}\n")
    assert "unknown key 'epocs'" in error_of(capsys, "--config", "misspelt.yaml")
    pd.read_parquet(sliced).iloc[:0].to_parquet("empty.parquet")
    assert "empty.parquet" in error_of(capsys, *arguments(Path("empty.parquet")))
    Path("noise.parquet").write_bytes(b"PAR1 and then noise")
    assert "noise.parquet" in error_of(capsys, *arguments(Path("noise.parquet")))
    pd.read_parquet(sliced).iloc[:1].to_parquet("one.parquet")
    assert "one.parquet" in error_of(capsys, *arguments(Path("one.parquet"), "--cache_dir", "other"))
    assert not Path(".cache").exists()


def test_a_config_may_be_given_either_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("name: a\n", encoding="utf-8")
    for arguments in (["--config", "a.yaml"], ["--config=a.yaml"]):
        config, path = parse_with_config(COMMAND, arguments)
        assert (config.name, path) == ("a", "a.yaml")
    for arguments in (["--seed", "1", "--config", ""], []):
        config, path = parse_with_config(COMMAND, arguments)
        assert config.name == "baseline" and path == str(ROOT / "configs" / "baseline.yaml"), "found from any folder"


def test_the_mean_roc_curve_has_the_mean_area():
    rng = np.random.default_rng(0)
    row = np.repeat([0, 1, 2], [60, 80, 5])
    label = np.where(row == 2, 0, rng.random(145) < 0.4).astype(np.uint8)
    probability = 0.3 * label + 0.7 * rng.random(145)
    curve = mean_roc(Evaluation(np.arange(3), np.zeros(3), row, np.zeros(145, int), probability, label, {}))
    rate = curve["false_positive_rate"].to_numpy()

    def area(column: str) -> float:
        return float(np.trapezoid(curve[column], rate))

    mean = np.mean([roc_auc_score(label[row == k], probability[row == k]) for k in (0, 1)])
    assert area("true_positive_rate") == pytest.approx(mean, abs=0.01)
    assert area("true_positive_rate_pooled") == pytest.approx(roc_auc_score(label, probability), abs=0.01)
