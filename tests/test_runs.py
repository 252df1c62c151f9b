"""Runs: what stands in MLflow afterwards, whose run it is, and a server that goes away."""

from __future__ import annotations

import ast
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.tracking import MlflowClient

import rna_s2
from rna_s2.commands import resend as resend_command
from rna_s2.options.errors import TERMINATED, UserError, run_command
from rna_s2.tracking import client as client_module
from rna_s2.tracking import outbox, provenance, runs
from rna_s2.tracking.names import run_name
from rna_s2.tracking.provenance import environment_text
from rna_s2.tracking.runs import CONTINUED_AS, resolve_run_id, start_run

KILLED = """
import os, signal, sys
from rna_s2.tracking.runs import start_run
with start_run("train", "killed") as tracker:
    print(tracker.run_id, flush=True)
    {end}
"""


def test_a_killed_run_is_marked_when_the_next_one_starts(tracking_uri, caplog, monkeypatch):
    def started(end: str) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(Path(rna_s2.__file__).parents[1])}
        return subprocess.Popen([sys.executable, "-c", KILLED.format(end=end)], env=environment, text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def status(run_id: str) -> str:
        return MlflowClient().get_run(run_id).info.status

    dead, living = started("os.kill(os.getpid(), signal.SIGKILL)"), started("sys.stdin.read()")
    killed, working = (process.stdout.readline().strip() for process in (dead, living))
    assert dead.wait() == -signal.SIGKILL
    assert status(killed) == status(working) == "RUNNING"
    with monkeypatch.context() as patch:
        patch.setattr(runs, "machine_name", lambda: "another machine")
        with start_run("train", "elsewhere") as tracker:
            assert status(killed) == "RUNNING", "what runs on another machine is not to be known here"
    with start_run("train", "next", parent_run_id=tracker.run_id):
        assert status(killed) == "RUNNING", "children do not ask"
    with start_run("train", "next"):
        assert (status(killed), status(working)) == ("KILLED", "RUNNING")
    assert f"run {killed}: its process has ended without saying how" in caplog.text and working not in caplog.text
    living.communicate("")
    assert status(working) == "FINISHED"


def runs_of(experiment: str) -> list:
    client = MlflowClient()
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else client.search_runs([found.experiment_id])


def test_a_run_holds_what_was_logged(tracking_uri, tmp_path):
    import matplotlib.pyplot as plt

    table = tmp_path / "folder" / "table.txt"
    table.parent.mkdir()
    table.write_text("x")
    with start_run("train", "train baseline seed0", tags={"preset": "debug"}) as tracker:
        tracker.params(
            {"network": {"n_dim": 20, "betas": (0.9, 0.98)}, "resume": None, "bf16": False, "long": "x" * 9000}
        )
        tracker.metrics({"val/auroc": 0.5, "% kept": 3.0, "undefined": float("nan"), "inf": float("inf")}, step=1)
        tracker.metrics({"val/auroc": 0.75}, step=2)
        tracker.metrics({}, step=3)
        tracker.dataset("sample", "ab" * 32, "data/sample.parquet", "train", {"rows": 5})
        tracker.artifact(table)
        tracker.artifact(table.parent, "inputs")
        figure, _ = plt.subplots()
        tracker.plot(figure, "figures/roc")
        plt.close(figure)

    client = MlflowClient()
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "train baseline seed0"
    assert client.get_experiment(run.info.experiment_id).name == "rna-s2"
    assert run.data.tags["stage"] == "train"
    assert run.data.tags["preset"] == "debug"
    assert run.data.tags["git_dirty"] in ("true", "false", "unknown")
    assert run.data.tags["digest.train"] == "ab" * 32
    long = run.data.params.pop("long")
    assert len(long) <= 6000 and long.endswith("x... (9000 characters)")
    assert run.data.params == {
        "network.n_dim": "20",
        "network.betas": "0.9, 0.98",
        "resume": "none",
        "bf16": "false",
    }
    assert run.data.metrics == {"val/auroc": 0.75, "percent kept": 3.0}
    history = client.get_metric_history(tracker.run_id, "val/auroc")
    assert [(m.step, m.value) for m in history] == [(1, 0.5), (2, 0.75)]
    (dataset_input,) = run.inputs.dataset_inputs
    assert dataset_input.dataset.digest == ("ab" * 32)[:36]
    assert json.loads(dataset_input.dataset.profile) == {"rows": 5, "digest": "ab" * 32}
    assert dataset_input.tags[0].value == "train"
    assert {a.path for a in client.list_artifacts(tracker.run_id)} == {
        "environment.txt",
        "figures",
        "inputs",
        "table.txt",
    }
    assert [a.path for a in client.list_artifacts(tracker.run_id, "inputs/folder")] == ["inputs/folder/table.txt"]
    picture = Path(client.download_artifacts(tracker.run_id, "figures/roc.png"))
    assert picture.read_bytes().startswith(b"\x89PNG")
    environment = Path(client.download_artifacts(tracker.run_id, "environment.txt")).read_text()
    assert "\nmlflow==" in environment and environment.startswith("# Python 3.")


def test_the_environment_says_what_pytorch_computes_with():
    import torch

    line = environment_text.__wrapped__().splitlines()[2]
    assert line.startswith(f"# PyTorch: {torch.get_num_threads()} threads, ")


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("bad"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(2), "FAILED"),
     (SystemExit(TERMINATED), "KILLED"), (SystemExit(0), "FINISHED")]
)
def test_a_run_that_does_not_end_well_says_so(tracking_uri, error, status):
    with pytest.raises(type(error)), start_run("prune", "prune") as tracker:
        raise error
    assert MlflowClient().get_run(tracker.run_id).info.status == status


def test_a_missing_artifact_is_named(tracking_uri):
    with pytest.raises(UserError, match=r"nowhere\.txt"), start_run("prune", "prune") as tracker:
        tracker.artifact(Path("nowhere.txt"))


def test_children_stand_below_their_parent_and_in_its_experiment(tracking_uri):
    with (
        start_run("main", "comparison", experiment="other") as parent,
        start_run("train", "child", parent_run_id=parent.run_id) as child,
    ):
        pass
    run = MlflowClient().get_run(child.run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.info.experiment_id == parent.experiment_id
    assert len(runs_of("other")) == 2


def test_a_run_can_be_resumed(tracking_uri):
    with start_run("train", "first") as first:
        first.params({"epoch": 2, "seed": 0})
    with start_run("train", "first", run_id=first.run_id) as again:
        again.params({"epoch": 4, "seed": 0})
        assert MlflowClient().get_run(first.run_id).info.status == "RUNNING"
    run = MlflowClient().get_run(first.run_id)
    assert again.run_id == first.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == {"epoch": "2", "seed": "0"}
    assert run.data.tags["used.epoch"] == "4"
    assert "used.seed" not in run.data.tags


def outer_run(monkeypatch, experiment_id: str, name: str = "bold-snake-391") -> str:
    """A run as `mlflow run` makes it before it starts the command."""
    tags = {"mlflow.source.type": "PROJECT", "mlflow.project.entryPoint": "train"}
    client = MlflowClient()
    outer = client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
    client.log_param(outer, "in_file", "'a b.parquet'")
    client.log_param(outer, "epochs", "''")
    monkeypatch.setenv("MLFLOW_RUN_ID", outer)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment_id)
    return outer


def test_the_run_of_mlflow_run_becomes_ours_where_it_stands(tracking_uri, monkeypatch):
    outer = outer_run(monkeypatch, "0")
    with start_run("train", "train baseline") as tracker:
        tracker.params({"in_file": "a b.parquet", "epochs": 50})
        assert "MLFLOW_RUN_ID" not in os.environ
        with start_run("prune", "second") as second:
            pass
    assert tracker.run_id == outer
    assert second.run_id != outer
    run = MlflowClient().get_run(outer)
    assert run.info.run_name == "train baseline"
    assert run.data.tags["used.epochs"] == "50"
    assert "used.in_file" not in run.data.tags
    assert {r.info.run_id for r in runs_of("Default")} == {outer, second.run_id}, "no experiment is renamed"
    assert runs_of("rna-s2") == []


def test_the_experiment_that_the_user_chose_is_kept(tracking_uri, monkeypatch):
    outer = outer_run(monkeypatch, MlflowClient().create_experiment("mine"), name="my own name")
    with start_run("train", "train baseline") as tracker:
        pass
    assert tracker.run_id == outer
    assert [r.info.run_name for r in runs_of("mine")] == ["my own name"]


def test_in_another_experiment_a_pointer_stays(tracking_uri, monkeypatch):
    client = MlflowClient()
    first = outer_run(monkeypatch, "0")
    with start_run("train", "one", experiment="rna-s2") as one:
        pass
    client.set_terminated(first)  # what `mlflow run` does at its end
    second = outer_run(monkeypatch, "0")
    with start_run("train", "two", experiment="rna-s2") as two:
        pass
    assert {r.info.run_id for r in runs_of("rna-s2")} == {one.run_id, two.run_id}
    assert all(r.data.tags["mlflow.project.entryPoint"] == "train" for r in runs_of("rna-s2"))
    assert {r.info.run_id for r in runs_of("Default")} == {first, second}, "nothing is deleted"
    assert client.get_run(first).info.run_name.startswith(f"see run {one.run_id[:8]}")
    assert client.get_run(second).data.tags[CONTINUED_AS] == two.run_id
    assert resolve_run_id(first) == one.run_id
    assert resolve_run_id(one.run_id) == one.run_id


@pytest.mark.parametrize("experiment", ["", "other"])
@pytest.mark.parametrize(
    ("name", "is_of_mlflow_run"), [("my own", True), ("bold-snake-391", False), ("my own", False), ("bold-snake-391", True)]
)
def test_a_name_that_the_user_gave_is_kept(tracking_uri, monkeypatch, name, is_of_mlflow_run, experiment):
    outer = outer_run(monkeypatch, MlflowClient().create_experiment("mine"), name)
    if not is_of_mlflow_run:
        MlflowClient().delete_tag(outer, "mlflow.project.entryPoint")
    with start_run("train", "train baseline", experiment=experiment) as tracker:
        pass
    made_up = is_of_mlflow_run and name == "bold-snake-391"
    assert MlflowClient().get_run(tracker.run_id).info.run_name == ("train baseline" if made_up else name)
    if experiment:
        pointer = f"see run {tracker.run_id[:8]} of experiment {tracker.experiment_id}"
        assert MlflowClient().get_run(outer).info.run_name == (pointer if is_of_mlflow_run else name)
    assert resolve_run_id(outer) == tracker.run_id


def test_names_of_runs():
    assert run_name("prune", Path("a/table.parquet")) == "prune table.parquet"
    assert run_name("train", "lstm_attn", "hid20x4", seed=0) == "train lstm_attn hid20x4 seed0"
    assert run_name("train", "baseline", "", seed=3) == "train baseline seed3"
    assert run_name("register_structure_model", "rna-structure") == "register rna-structure"
    assert run_name("study_child", "trees", seed=1) == "score trees seed1"


def names_of_starts() -> list[tuple[str, ast.expr]]:
    """Where each run and step of the package starts, and what its name is made of, a variable of the function followed."""
    package = Path(rna_s2.__file__).parent
    found = []
    for folder, _, names in os.walk(package, followlinks=True):  # s2 and pruning are links
        for path in (Path(folder) / name for name in names if name.endswith(".py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
                nodes = list(ast.walk(function))
                values = {
                    target.id: node.value for node in nodes if isinstance(node, ast.Assign)
                    for target in node.targets if isinstance(target, ast.Name)
                }
                for node in nodes:
                    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1):
                        continue
                    if node.func.id in ("start_run", "step"):
                        name = node.args[1]
                        made_of = values.get(name.id, name) if isinstance(name, ast.Name) else name
                        found.append((f"{path.relative_to(package)}:{node.lineno}", made_of))
    return found


def test_every_name_of_a_run_comes_from_one_function():
    found = names_of_starts()
    assert len(found) > 10
    for where, name in found:  # a bare variable is a parameter
        made = isinstance(name, ast.Call) and isinstance(name.func, ast.Name) and name.func.id == "run_name"
        assert made or isinstance(name, ast.Name), f"{where}: give the run a name of rna_s2.tracking.names.run_name"


def test_only_a_run_of_the_same_stage_is_resumed(tracking_uri):
    with start_run("predict", "first") as first:
        pass
    with pytest.raises(UserError, match=f"run {first.run_id} is a run of predict, not of train"), \
            start_run("train", "x", run_id=first.run_id):
        pass
    run = MlflowClient().get_run(first.run_id)
    assert run.data.tags["stage"] == "predict" and run.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("changed"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(1), "FAILED")]
)
@pytest.mark.parametrize("logged", [False, True])
def test_a_run_keeps_its_status_where_resuming_fails_before_any_metric(tracking_uri, logged, error, status):
    with start_run("train", "first") as first:
        pass
    with pytest.raises(type(error)), start_run("train", "x", run_id=first.run_id) as again:
        if logged:
            again.metrics({"loss": 1.0})
        raise error
    run = MlflowClient().get_run(first.run_id)
    assert run.info.status == (status if logged else "FINISHED")
    assert ("error" in run.data.tags) == (logged and isinstance(error, UserError))


def test_all_runs_are_found_however_many_there_are(tracking_uri):
    started = []
    for name in "abcde":
        with start_run("prune" if name == "b" else "train", name) as tracker:
            started.append(tracker.run_id)
    found = client_module.newest_runs(tracker.client, tracker.experiment_id, "tags.stage = 'train'", page_size=2)
    assert [run.info.run_id for run in found] == [started[4], started[3], started[2], started[0]]


def test_a_copy_within_another_repository_has_no_commit(tmp_path, monkeypatch):
    outer = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*outer, "init", "-q"], check=True)
    subprocess.run([*outer, "commit", "-q", "--allow-empty", "-m", "outer"], check=True)
    (tmp_path / "copy").mkdir()
    for folder, known in ((tmp_path, True), (tmp_path / "copy", False)):
        monkeypatch.setattr(provenance, "PROJECT_ROOT", folder)
        assert (provenance.git_tags.__wrapped__()["git_commit"] != "unknown") == known


@pytest.mark.parametrize("name", ["tool/../../f1", "a//b", "x" * 300 + "/f1", "50 %/f1", "tool/$x_{$/f1", "./a"])
def test_every_name_of_a_metric_is_taken(tracking_uri, name):
    with start_run("evaluate", "x") as tracker:
        tracker.metrics({name: 1.0})
    assert list(MlflowClient().get_run(tracker.run_id).data.metrics.values()) == [1.0]


def test_a_resumed_run_is_pointed_to(tracking_uri, monkeypatch):
    with start_run("train", "first") as first:
        pass
    outer = outer_run(monkeypatch, "0")
    with start_run("train", "first", run_id=first.run_id):
        assert "MLFLOW_RUN_ID" not in os.environ
    assert resolve_run_id(outer) == first.run_id
    assert MlflowClient().get_run(outer).info.run_name.startswith(f"see run {first.run_id[:8]}")


def test_an_explicit_experiment_wins(tracking_uri, monkeypatch):
    outer_run(monkeypatch, MlflowClient().create_experiment("mine"))
    with start_run("train", "one", experiment="other"):
        pass
    assert [r.info.run_name for r in runs_of("other")] == ["one"]


def test_the_environment_names_an_experiment(tracking_uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "named")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", MlflowClient().create_experiment("numbered"))
    with start_run("train", "one"):
        pass
    assert len(runs_of("named")) == 1
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    with start_run("train", "one"):
        pass
    assert len(runs_of("numbered")) == 1


def test_unknown_runs_and_deleted_experiments_are_one_line(tracking_uri):
    with pytest.raises(UserError, match="no run 'abc'"):
        resolve_run_id("abc")
    client = MlflowClient()
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(UserError, match="'gone' was deleted"), start_run("train", "x", experiment="gone"):
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def at_address(monkeypatch):
    """Sets the address of the tracking store for a test."""
    import mlflow

    def set_address(uri: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield set_address
    mlflow.set_tracking_uri(None)


def test_an_unreachable_server_is_one_line(at_address, capsys):
    address = f"http://user:secret@127.0.0.1:{free_port()}"
    at_address(address)

    def main(argv):
        with start_run("train", "x"):
            raise AssertionError("the block must not start")

    assert run_command(main) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert "cannot be reached" in line and "MLFLOW_TRACKING_URI" in line
    assert "secret" not in line


@pytest.mark.parametrize("uri", ["nonsense://x", "sqlite:////proc/none/mlflow.db", "mysql://u:p@h:abc/x", "http://["])
def test_an_unusable_store_is_one_line(at_address, uri):
    at_address(uri)
    with pytest.raises(UserError, match="tracking store"), start_run("train", "x"):
        pass


class Outage:
    """Stands before the client's requests and refuses them while the server is ``down``."""

    def __init__(self, monkeypatch) -> None:
        self.down = False
        real = outbox.perform

        def perform(client, run_id, action):
            if self.down:
                raise MlflowException("API request failed with exception: connection refused")
            real(client, run_id, action)

        monkeypatch.setattr(outbox, "perform", perform)


@pytest.fixture
def outage(monkeypatch) -> Outage:
    return Outage(monkeypatch)


def test_what_a_server_missed_is_sent_when_it_is_back(tracking_uri, outage, monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(outbox.time, "monotonic", lambda: now[0])
    with start_run("train", "x") as tracker:
        tracker.metrics({"loss": 3.0}, step=1)
        outage.down = True
        tracker.metrics({"loss": 2.0}, step=2)
        tracker.text("report", "reports/report.txt")
        outage.down = False
        tracker.metrics({"loss": 1.5}, step=3)  # too soon to try again
        assert len(MlflowClient().get_metric_history(tracker.run_id, "loss")) == 1
        now[0] += 31.0
        tracker.metrics({"loss": 1.0}, step=4)
        history = MlflowClient().get_metric_history(tracker.run_id, "loss")
        assert [(m.step, m.value) for m in history] == [(1, 3.0), (2, 2.0), (3, 1.5), (4, 1.0)]
    assert Path(MlflowClient().download_artifacts(tracker.run_id, "reports/report.txt")).read_text() == "report"
    assert MlflowClient().get_run(tracker.run_id).info.status == "FINISHED"
    assert not list(Path("outputs/unsent").glob("*.jsonl"))
    assert sum("cannot be reached" in r.getMessage() for r in caplog.records) == 1


def test_what_could_not_be_sent_is_kept_and_sent_later(tracking_uri, outage, caplog):
    with start_run("train", "x") as tracker:
        outage.down = True
        tracker.metrics({"loss": 2.0}, step=1)
        tracker.params({"epoch": 1})
        tracker.dataset("d", "e" * 64, "s", "train", {})
        tracker.text("report", "report.txt")
    (kept,) = Path("outputs/unsent").glob("*.jsonl")
    assert f"python -m rna_s2.commands.resend {kept}" in caplog.text
    assert MlflowClient().get_run(tracker.run_id).info.status == "RUNNING"

    with pytest.raises(UserError, match="cannot be reached"):
        resend_command.main([str(kept)])
    outage.down = False
    resend_command.main([str(kept)])
    run = MlflowClient().get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"loss": 2.0}
    assert run.data.params == {"epoch": "1"}
    assert run.inputs.dataset_inputs[0].dataset.name == "d"
    assert Path(MlflowClient().download_artifacts(tracker.run_id, "report.txt")).read_text() == "report"
    assert list(Path("outputs/unsent").iterdir()) == []


def test_two_outages_of_a_resumed_run_lose_nothing(tracking_uri, outage):
    with pytest.raises(ZeroDivisionError), start_run("train", "x") as tracker:
        run_id = tracker.run_id
        outage.down = True
        tracker.text("first", "first.txt")
        raise ZeroDivisionError
    outage.down = False
    with start_run("train", "x", run_id=run_id) as tracker:
        assert list(Path("outputs/unsent").iterdir()) == [], "what the first part could not send is sent"
        run = MlflowClient().get_run(run_id)
        assert run.info.status == "RUNNING", "it is for the last part to say how the run ended"
        outage.down = True
        tracker.text("passing", "passing.txt")
        outage.down = False
        tracker._retry_at = 0.0
        tracker.metrics({"loss": 1.0}, step=1)
    with start_run("train", "x", run_id=run_id) as tracker:
        outage.down = True
        tracker.text("third", "third.txt")
        tracker.metrics({"loss": 0.5}, step=2)
    outage.down = False
    (third,) = Path("outputs/unsent").glob("*.jsonl")
    resend_command.main([str(third)])
    run = MlflowClient().get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"loss": 0.5}
    for name in ("first", "passing", "third"):
        assert Path(MlflowClient().download_artifacts(run_id, f"{name}.txt")).read_text() == name
    assert list(Path("outputs/unsent").iterdir()) == []


def test_a_resumed_run_sends_what_waits_oldest_first_and_no_other_runs(tracking_uri, outage, caplog):
    with start_run("train", "x") as other:
        outage.down = True
        other.metrics({"loss": 9.0})
    outage.down = False
    with start_run("train", "x") as tracker:
        run_id = tracker.run_id
    for number in (1, 2):
        path = outbox.UNSENT_FOLDER / f"{run_id}-{2 - number}.jsonl"  # names do not give the order
        outbox.write_unsent(path, run_id, [{"action": "tags", "values": {"said": str(number)}}])
        os.utime(path, (number, number))
    (outbox.UNSENT_FOLDER / f"{run_id}-broken.jsonl").write_text("damaged")
    with start_run("train", "x", run_id=run_id):
        pass
    assert MlflowClient().get_run(run_id).data.tags["said"] == "2"
    assert "is not a file of unsent entries" in caplog.text
    left = {path.name.partition("-")[0] for path in outbox.UNSENT_FOLDER.glob("*.jsonl")}
    assert left == {other.run_id, run_id}, "the other run's entries, and the damaged file, stay"


def test_a_copy_that_is_gone_does_not_stop_the_rest(tracking_uri, outage, caplog):
    with start_run("train", "x") as tracker:
        outage.down = True
        tracker.text("report", "report.txt")
        tracker.metrics({"loss": 2.0})
    outage.down = False
    (kept,) = Path("outputs/unsent").glob("*.jsonl")
    shutil.rmtree(kept.with_suffix(".files"))
    resend_command.main([str(kept)])
    assert "report.txt: is gone" in caplog.text
    assert MlflowClient().get_run(tracker.run_id).data.metrics == {"loss": 2.0}


def test_without_room_for_what_waits_the_run_goes_on(tracking_uri, outage, caplog):
    Path("outputs").write_text("a file where the folder should be")
    with start_run("train", "x") as tracker:
        outage.down = True
        tracker.text("report", "report.txt")
        tracker.metrics({"loss": 2.0})
    assert "report.txt cannot be kept" in caplog.text
    assert f"2 entries of run {tracker.run_id} are lost" in caplog.text


def test_what_waited_and_is_then_refused_costs_nothing_else(tracking_uri, outage, monkeypatch, caplog):
    sent = outbox.perform

    def refusing(client, run_id, action):
        if not outage.down and "bad" in action.get("values", ()):
            raise MlflowException("no such metric", error_code=INVALID_PARAMETER_VALUE)
        sent(client, run_id, action)

    monkeypatch.setattr(outbox, "perform", refusing)
    with start_run("train", "x") as tracker:
        outage.down = True
        tracker.text("report", "report.txt")
        tracker.metrics({"bad": 1.0})
        tracker.metrics({"good": 2.0})
        outage.down = False
    run = MlflowClient().get_run(tracker.run_id)
    assert run.info.status == "FINISHED" and run.data.metrics == {"good": 2.0}
    assert f"left out of run {tracker.run_id}: metrics bad" in caplog.text
    assert Path(MlflowClient().download_artifacts(tracker.run_id, "report.txt")).read_text() == "report"
    assert not list(Path("outputs/unsent").iterdir()), "nothing waits, so no copy is kept"


def test_an_error_is_reported_even_where_the_store_refuses_its_run(tracking_uri, caplog):
    with pytest.raises(ZeroDivisionError), start_run("train", "x") as tracker:
        MlflowClient().delete_run(tracker.run_id)
        raise ZeroDivisionError
    assert "refuses" in caplog.text


def test_resend_leaves_out_what_the_store_refuses_and_sends_the_rest(tracking_uri, tmp_path, caplog):
    with start_run("train", "x") as tracker:
        tracker.params({"seed": 0})
    path = tmp_path / "kept.jsonl"
    entries = [
        {"action": "params", "values": {"seed": "77"}},
        {"action": "metrics", "values": {"loss": 1.5}, "step": 0, "timestamp": 1},
    ]
    outbox.write_unsent(path, tracker.run_id, entries)
    assert outbox.resend(path) == 1 and not path.exists()
    run = MlflowClient().get_run(tracker.run_id)
    assert (run.data.params, run.data.metrics["loss"]) == ({"seed": "0"}, 1.5)
    assert "refused and left out" in caplog.text

    outbox.write_unsent(path, "0" * 32, entries)
    with pytest.raises(UserError, match="refuses"):
        outbox.resend(path)
    assert path.exists(), "nothing is lost where the run is not in this store"


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read"), ("[1]\n", "not a file of unsent"), ("", "not a"),
     ('{"run_id": "x"}\n{"a": 1}\n', "not a file"), ('{"run_id": "x"}\n3\n', "not a file"),
     ('{"run_id": "x"}\n{"action": "dance"}\n', "not a file"), ('{"run_id": "x"}\n{"action": "end"}\n', "not a file")]
)
def test_resend_refuses_other_files(tmp_path, content, said):
    path = tmp_path / "kept.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=said):
        outbox.resend(path)
    with pytest.raises(UserError, match="usage"):
        resend_command.main([])


def test_a_request_that_the_store_refuses_is_an_error_at_once(tracking_uri):
    with pytest.raises(UserError, match="refuses"), start_run("train", "x") as tracker:
        MlflowClient().delete_run(tracker.run_id)
        try:
            tracker.metrics({"loss": 1.0})
        finally:
            MlflowClient().restore_run(tracker.run_id)


@pytest.mark.parametrize("said", [
    "(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id", "duplicate key value", "is not valid"
])
def test_two_processes_may_enter_a_dataset_at_the_same_moment(tracking_uri, monkeypatch, said):
    real, asked = MlflowClient.log_inputs, []

    def refused_once(client, *arguments):
        asked.append(arguments)
        if len(asked) == 1:
            raise MlflowException(said, error_code=INVALID_PARAMETER_VALUE)
        real(client, *arguments)

    monkeypatch.setattr(MlflowClient, "log_inputs", refused_once)
    if said == "is not valid":
        with pytest.raises(UserError, match="is not valid"), start_run("train", "x") as tracker:
            tracker.dataset("d", "e" * 64, "s", "train", {})
        assert len(asked) == 1
        return
    with start_run("train", "x") as tracker:
        tracker.dataset("d", "e" * 64, "s", "train", {})
    (entry,) = MlflowClient().get_run(tracker.run_id).inputs.dataset_inputs
    assert entry.dataset.name == "d" and len(asked) == 2


def test_a_server_that_never_answers_is_reported_in_time(at_address, monkeypatch):
    """The settings for the first request are tight; those for later ones are looser; the user's own are kept."""
    seen = []

    class Broken(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])
            self.send_response(503)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *args):
            pass

    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        at_address(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(UserError, match="cannot be reached"):
            client_module.open_client()
    finally:
        server.shutdown()
        server.server_close()
    assert seen == ["5"]
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
