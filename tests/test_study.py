"""The command study on a slice of the sample: end to end, found again, resumed after a kill, and what it refuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.write import write_table
from rna_s2.commands.study import main
from rna_s2.options.base import load_yaml, validate
from rna_s2.options.errors import UserError
from rna_s2.pipeline.study import NOTEBOOKS
from rna_s2.pipeline.study_config import StudyConfig, resolve
from rna_s2.pipeline.train_config import SAMPLE
from rna_s2.tracking.studies import find_children, newest_study, study_table

ROOT = Path(__file__).resolve().parents[1]
FULL = ROOT / "configs" / "study_baseline.yaml"
ROWS = 40
TINY = {
    "name": "tiny",
    "base": str(ROOT / "configs" / "debug.yaml"),
    "overrides": {
        "network": {"n_dim": 10, "n_attn_layer": 1, "n_heads": 2, "n_ff": 8},
        "training": {"epoch": 2, "batch_size": 8},
        "split": {"test_share": 0.2},
        "decode": False,
    },
    "variants": [
        {"name": "scaled", "overrides": {"features": {"coordinates": "scaled"}}},
        {"name": "no_type", "overrides": {"features": {"coordinates": "scaled", "without": ["type"]}}, "against": "scaled"},
    ],
}
RULES = [
    {"name": name, "scorer": scorer, "against": "size_share"}
    for name, scorer in (("trees", "trees"), ("energy_rule", "energy"), ("compatible_rule", "compatible"))
]


@pytest.fixture(scope="module")
def sliced(tmp_path_factory) -> Path:
    table = read_table(ROOT / SAMPLE).table
    shortest = np.sort(np.argsort(table.lengths, kind="stable")[:ROWS])
    path = tmp_path_factory.mktemp("slice") / "slice.parquet"
    write_table(table.take_rows(shortest), path)
    return path


def written(**changes: object) -> Path:
    """A study's file in the current folder."""
    path = Path("suite.yaml")
    path.write_text(yaml.safe_dump(TINY | changes), encoding="utf-8")
    return path


def arguments(suite: Path, sliced: Path, *more: str) -> list[str]:
    return ["--config", str(suite), "--in_file", str(sliced), "--workers", "1", *more]


def children_of(run_id: str) -> dict[str, str]:
    """Names and run ids of a run's children."""
    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    return {r.info.run_name: r.info.run_id for r in client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run_id}'")}


def test_a_study_keeps_its_runs_tables_and_report_and_runs_nothing_twice(tracking_uri, sliced, monkeypatch):
    variants = [*TINY["variants"], {"name": "size_share", "scorer": "size_share"}]
    suite = written(name="why_is_the_baseline_high", variants=variants)
    report = main(arguments(suite, sliced))
    client = MlflowClient()
    assert client.get_run(report.run_id).info.status == "FINISHED" and report.started == 3
    children = children_of(report.run_id)
    assert set(children) == {"train scaled seed0", "train no_type seed0", "score size_share seed0"}
    assert set(children.values()) == set(report.runs.values())
    kept = {entry.path for entry in client.list_artifacts(report.run_id)}
    assert kept >= {
        "study.yaml", "study.csv", "study.md", "runs.csv", "rows.csv", "composition.csv", "why_is_the_baseline_high.html"
    }
    assert newest_study("rna-s2") == report.run_id
    table = study_table(report.run_id, "study.csv").set_index("variant")
    assert list(table.index) == ["scaled", "no_type", "size_share"]
    for name, child in (("no_type", "train no_type seed0"), ("size_share", "score size_share seed0")):
        metrics = client.get_run(children[child]).data.metrics
        assert table.loc[name, "val"] == pytest.approx(metrics["best/val/auroc"])
        assert table.loc[name, "test"] == pytest.approx(metrics["test/auroc"])
        assert client.get_run(children[child]).data.tags["stage"] == "study_child"
    assert table.loc["no_type", "test_difference"] == pytest.approx(table.loc["no_type", "test"] - table.loc["scaled", "test"])
    (commit,) = set(study_table(report.run_id, "runs.csv")["git_commit"])
    assert f"Runs by commit: {commit[:7]} (3)." in Path(client.download_artifacts(report.run_id, "study.md")).read_text()
    rows = study_table(report.run_id, "rows.csv")
    assert set(rows["part"]) == {"train", "val", "test"} and len(set(rows.groupby("variant").size())) == 1
    tests = [set(own["source_row"]) for _, own in rows[rows["part"] == "test"].groupby("variant")]
    assert tests[0] == tests[1] == tests[2]

    page = Path(client.download_artifacts(report.run_id, "why_is_the_baseline_high.html")).read_text(encoding="utf-8")
    assert "The network that sees type, place and size of all boxes of a row scores" in page
    assert len(re.findall('<img[^>]+src="data:image/png;base64', page)) >= 3
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.https?:", page), "the page loads nothing from the network"
    assert "application/vnd.jupyter.stderr" not in re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL), "no warnings"

    monkeypatch.setattr("rna_s2.pipeline.study.work", lambda *a: pytest.fail("is run again"))
    monkeypatch.setattr("rna_s2.pipeline.study.NOTEBOOKS", {})
    again = main(arguments(suite, sliced))
    assert again.started == 0 and again.runs == report.runs and again.run_id != report.run_id
    assert children_of(again.run_id) == children, "the newest parent has the children"
    pd.testing.assert_frame_equal(again.table, report.table)


KILLED_IN_THE_SECOND_RUN = """
import os, signal, sys
from rna_s2.commands.study import main
from rna_s2.s2.training import S2Module
real = S2Module.training_step
def step(self, batch, index):
    if "type_stem" not in self.identity["features"] and self.current_epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, batch, index)
S2Module.training_step = step
main(sys.argv[1:])
"""


def test_a_killed_run_is_gone_on_with(tracking_uri, sliced):
    suite = written()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN_THE_SECOND_RUN, *arguments(suite, sliced)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    client = MlflowClient()
    experiment = client.get_experiment_by_name("rna-s2").experiment_id
    before = find_children(experiment, "tiny")
    assert sorted(run.finished for run in before.values()) == [False, True]
    resumed = main(arguments(suite, sliced))
    assert resumed.started == 1
    assert set(resumed.runs.values()) == {run.run_id for run in before.values()} == set(children_of(resumed.run_id).values())
    history = client.get_metric_history(resumed.runs["no_type", 0], "val/loss")
    assert [figure.step for figure in history] == [0, 1], "the epoch before the kill was not run again"


def test_workers_share_the_work_and_a_failure_stops_no_other(tracking_uri, sliced, monkeypatch):
    """Two processes; the first variant's learning rate drives its loss to infinity."""
    variants = [
        {"name": "too_fast", "overrides": {"training": {"lr": 1e30}}}, {"name": "size_share", "scorer": "size_share"}, *RULES,
    ]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(UserError, match=r"1 of 5 runs failed, the first: too_fast seed 0: .*lower learning rate"):
        main([*arguments(written(variants=variants), sliced), "--workers", "2"])
    client = MlflowClient()
    (experiment,) = (e.experiment_id for e in client.search_experiments() if e.name == "rna-s2")
    (parent,) = client.search_runs([experiment], "tags.stage = 'study'")
    assert parent.info.status == "FAILED"
    table = study_table(parent.info.run_id, "study.csv").set_index("variant")
    assert list(table.index) == ["size_share", "trees", "energy_rule", "compatible_rule"], "the others are reported"


def test_no_run_is_started_after_the_given_minutes(tracking_uri, sliced):
    variants = [{"name": "size_rule", "scorer": "size"}]
    done = main(arguments(written(variants=variants), sliced))
    assert done.started == 1
    variants += [{"name": "type_share", "scorer": "type_share"}]
    later = main(arguments(written(variants=variants), sliced, "--max_minutes", "1e-9"))
    assert later.started == 0 and list(later.table.index) == ["size_rule"]


def refused(sliced: Path, **changes: object) -> str:
    with pytest.raises(UserError) as caught:
        main(arguments(written(**changes), sliced))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def variant(**fields: object) -> dict[str, object]:
    return {"variants": [{"name": "one", **fields}]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sedes": [1]}, r"suite\.yaml: unknown key 'sedes'"),
        ({"seeds": ["x"]}, r"suite\.yaml: 'seeds\.0': .*integer"),
        ({"seeds": []}, r"suite\.yaml: 'seeds'"),
        ({"seeds": [1, 1]}, r"suite\.yaml: .*a seed stands twice"),
        (variant(overides={}), r"suite\.yaml: unknown key 'variants\.0\.overides'"),
        (variant(overrides={"features": {"witout": ["type"]}}), r"suite\.yaml: variant one: overrides: features: .*'witout'"),
        (variant(overrides={"training": {"lr": "fast"}}), r"suite\.yaml: variant one: overrides: 'training\.lr': .*number"),
        (variant(overrides={"features": {"without": ["colour"]}}), r"variant one: overrides: 'features\.without\.0'"),
        (variant(overrides={"training": 3}), r"variant one: overrides: 'training'"),
        (variant(scorer="oracle"), r"suite\.yaml: 'variants\.0\.scorer"),
        (variant(scorer="size", overrides={"features": {"without": ["size"]}}), r"the scorer size needs raw type, place"),
        (variant(scorer="chain"), r"the scorer chain needs the kind relational, with energies"),
        (variant(against="two"), r"one is against 'two', which is no other variant"),
        ({"variants": [{"name": "one"}, {"name": "one"}]}, r"the name one stands twice"),
        ({"variants": [{"name": "one"}, {"name": "two"}]}, r"the variants one and two are the same"),
        ({"variants": []}, r"suite\.yaml: 'variants'"),
        ({"overrides": {"netwrok": {}}}, r"suite\.yaml: overrides: unknown key 'netwrok'"),
        ({"base": "absent.yaml"}, r"absent\.yaml: cannot be read"),
        (variant(overrides={"seed": 5}), r"suite\.yaml: variant one: overrides: 'seed' is set by the study; give seeds"),
        ({"overrides": {"resume": "abc"}}, r"suite\.yaml: overrides: 'resume' is set by the study"),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_any_work(tracking_uri, sliced, changes, said):
    assert re.search(said, refused(sliced, **changes))
    assert not Path(".cache").exists() and not MlflowClient().search_runs(["0"])


def test_a_study_needs_a_table(tracking_uri):
    with pytest.raises(UserError, match=r"absent\.parquet: cannot be read"):
        main(arguments(written(), Path("absent.parquet")))
    with pytest.raises(UserError, match=r"needs an S1 table \(in_file\), not transcripts"):
        main(["--config", str(written(overrides={"data": {"transcripts": "a.fa", "in_file": ""}}))])


def test_the_shipped_study_holds_together(tmp_path):
    study = validate(StudyConfig, load_yaml(FULL) | {"in_file": str(ROOT / SAMPLE)}, str(FULL))
    children = resolve(study, FULL)
    assert study.name in NOTEBOOKS and len({child.digest for child in children}) == len(children)
    first_round = [child.variant.name for child in children[: len(study.variants)]]
    assert first_round == [v.name for v in study.variants], "every variant once before any of them twice"
    assert all(child.config.split.test_share == 0.1 and child.config.registered_name is None for child in children)
    moved = validate(StudyConfig, load_yaml(FULL) | {"in_file": str(ROOT / SAMPLE), "cache_dir": "elsewhere"}, str(FULL))
    assert [child.digest for child in resolve(moved, FULL)] == [child.digest for child in children]


def test_a_run_is_known_by_the_weights_it_begins_with_and_not_by_their_place(tmp_path):
    def digests(start: Path) -> list[str]:
        values = load_yaml(FULL) | {"in_file": str(ROOT / SAMPLE)}
        values["overrides"]["start"] = str(start)
        return [child.digest for child in resolve(validate(StudyConfig, values, str(FULL)), FULL)]

    for name, weights in (("one", b"1"), ("same", b"1"), ("other", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_bytes(weights)
    one, same, other = (digests(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same and not set(one) & set(other)
    with pytest.raises(UserError, match="absent: no such folder"):
        digests(tmp_path / "absent")


def test_the_notebook_is_committed_without_outputs():
    for notebook in NOTEBOOKS.values():
        for cell in nbformat.read(notebook, as_version=4).cells:
            assert not cell.get("outputs") and cell.get("execution_count") is None
