"""The checks of the comparison, the notebook run for real, and MLproject beside the options of its commands."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest

import rna_s2.reports.notebook
from rna_s2.options.errors import UserError
from rna_s2.reports.comparison import CheckFailed, check_control, compare_rows, observations, reference_figures, summary_table
from rna_s2.reports.notebook import run_notebook
from rna_s2.tracking.compare import run_rows, training_runs
from rna_s2.tracking.runs import start_run

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "compare_runs.ipynb"


def rows_of(auroc: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"source_row": np.arange(len(auroc)), "group": np.arange(len(auroc)), "auroc": auroc})


def test_control_passes_near_one_half_and_fails_away_from_it():
    values = np.array([0.4, 0.6, 0.5, 0.45, 0.55, np.nan])
    assert "0.500 on 5 validation rows" in check_control(values)
    with pytest.raises(CheckFailed, match="more than 3 standard errors"):
        check_control(values + 0.2)
    with pytest.raises(CheckFailed, match="at least 2"):
        check_control(np.array([0.5, np.nan]))


def test_two_models_are_compared_on_the_rows_of_both():
    first, second = rows_of(np.linspace(0.7, 0.9, 50)), rows_of(np.linspace(0.6, 0.8, 50))
    result = compare_rows(first, second.iloc[:40], "the LSTM", "the baseline", "the sequence")
    assert result.rows == 40
    assert result.difference == pytest.approx(0.1)
    assert "0.100 higher" in result.sentence and result.sentence.endswith("the sequence helps.")
    assert compare_rows(second, first, "a", "b", "it").sentence.endswith("it does harm.")
    slightly = rows_of(first["auroc"].to_numpy() + 0.01)
    assert compare_rows(slightly, first, "a", "b", "it").sentence.endswith("it helps a little.")
    noise = rows_of(first["auroc"].to_numpy() + np.where(np.arange(50) % 2, 0.05, -0.05))
    assert "these rows do not show whether it helps" in compare_rows(noise, first, "a", "b", "it").sentence
    with pytest.raises(CheckFailed, match="share no validation row"):
        compare_rows(first, second.assign(source_row=second["source_row"] + 100), "a", "b", "it")


SIZE = {"n_dim": 100, "n_attn_layer": 5, "n_heads": 5, "n_ff": 2048, "n_hid": 20, "lstm_hid": 100, "lstm_layer": 10}


@pytest.mark.parametrize(
    ("features", "changed", "expected"),
    [
        ("baseline", {}, (0.93, 0.87)),
        ("s1_features", {}, (0.98, 0.96)),
        ("sequence_encoding", {}, (0.889, 0.886)),
        ("sequence_encoding", {"training.epoch": "100"}, (0.9, 0.886)),
        ("sequence_encoding", {"training.epoch": "60"}, None),
        ("sequence_encoding", {"network.lstm_hid": "20", "network.lstm_layer": "4"}, (0.878, 0.87)),
        ("sequence_encoding", {"network.lstm_hid": "5"}, None),
        ("baseline", {"network.n_dim": "20"}, None),
    ],
)
def test_reference_figures_stand_only_beside_runs_of_their_features_and_size(features, changed, expected):
    run = {"features": features, "training.epoch": "50", **{f"network.{k}": str(v) for k, v in SIZE.items()}, **changed}
    found = reference_figures(run)
    assert found == expected if expected else np.isnan(found).all()


def fake_run(folder: Path, model: str, auroc: np.ndarray, parent: str | None = None) -> str:
    features = "sequence_encoding" if model == "lstm_attn" else model
    tags = {"model": model, "features": features}
    with start_run("train", f"train {model}", tags=tags, parent_run_id=parent) as tracker:
        tracker.params({"data": {"in_file": "data/sample_s1.parquet"}, "network": SIZE, "training": {"epoch": 50}})
        for epoch in range(3):
            tracker.metrics({f"{p}/{n}": 0.5 + epoch / 10 for p in ("train", "val") for n in ("loss", "auroc")}, step=epoch)
        figures = {f"best/{p}/{n}": float(np.nanmean(auroc)) for p in ("train", "val")
                   for n in ("auroc", "auroc_pooled", "average_precision", "stem/auroc", "iloop/auroc", "hloop/auroc")}
        tracker.metrics(figures | {"best/epoch": 2})
        for part in ("train", "val"):
            path = folder / f"{part}_rows.csv"
            rows_of(auroc).to_csv(path, index=False)
            tracker.artifact(path, "rows")
            path = folder / f"{part}_roc.csv"
            grid = np.linspace(0, 1, 5)
            pd.DataFrame({"false_positive_rate": grid, "true_positive_rate": grid**0.5}).to_csv(path, index=False)
            tracker.artifact(path, "rows")
    return tracker.run_id


MODELS = {"baseline": 0.8, "lstm_attn": 0.85, "s1_features": 0.9, "shuffle_label": 0.5}


def fake_experiment(folder: Path, parent: str | None = None, **levels: float) -> dict[str, str]:
    """Runs with au-ROC around a level each; one of level 0 is left out."""
    rng = np.random.default_rng(0)
    levels = {model: level for model, level in (MODELS | levels).items() if level}
    return {model: fake_run(folder, model, level + rng.normal(0, 0.03, 40), parent) for model, level in levels.items()}


def test_training_runs_are_the_newest_of_each_model_or_a_parents_children(tmp_path, tracking_uri):
    with start_run("compare", "parent") as parent:
        children = fake_experiment(tmp_path, parent.run_id)
    newer = fake_run(tmp_path, "baseline", np.full(5, 0.6))
    with start_run("train", "a training without a model's name"):
        pass
    with pytest.raises(RuntimeError), start_run("train", "failed", tags={"model": "baseline"}):
        raise RuntimeError
    assert dict(training_runs("rna-s2")["run_id"]) == children | {"baseline": newer}
    of_parent = training_runs("ignored", parent.run_id)
    assert dict(of_parent["run_id"]) == children
    assert list(run_rows(newer, "val")["auroc"]) == [0.6] * 5
    with pytest.raises(UserError, match="keeps no rows/val_other"):
        run_rows(newer, "val", "other")
    with pytest.raises(UserError, match="no experiment 'none'"):
        training_runs("none")


def test_the_table_and_what_it_shows(tmp_path, tracking_uri):
    fake_experiment(tmp_path)
    table = summary_table(training_runs("rna-s2"))
    assert list(table.index) == ["s1_features", "lstm_attn", "baseline", "shuffle_label"]
    assert list(table["reference validation"]) == [0.96, 0.886, 0.87, 0.5]
    assert set(table["kept epoch"]) == {3}
    table.loc["baseline", ["training", "validation"]] = 0.93, 0.87
    said = observations(table, dict.fromkeys(table.index, 3))
    assert said[2] == "baseline: training 0.930 against validation 0.870 (a gap of 0.060), with the weights of epoch 3 of 3."


@pytest.mark.parametrize("folder", [".", "notebooks"])
def test_notebook_reports_from_mlflows_default_store(tmp_path, tracking_uri, monkeypatch, folder):
    """In the current folder, or one above when the notebook is run where it lies."""
    fake_experiment(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / folder).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / folder)
    page = tmp_path / "report.html"
    run_notebook(NOTEBOOK, page, environment={})
    text = page.read_text(encoding="utf-8")
    assert "within 3 standard errors of 0.5" in text
    assert re.search(r"the LSTM \(lstm_attn\) is 0\.0\d+ higher.*: the sequence helps\.", text)
    assert len(re.findall('<img[^>]+src="data:image/png;base64', text)) == 2
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.https?:", text), "the page loads nothing from the network"
    assert "import os" not in text, "the code is hidden"
    assert "application/vnd.jupyter.stderr" not in re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL), "no warnings"


@pytest.mark.parametrize(("control", "said"), [(0.7, "more than 3 standard errors"), (0, "no run has shuffled labels")])
def test_notebook_fails_loudly_when_the_control_does(tmp_path, tracking_uri, control, said):
    with start_run("compare", "parent") as parent:
        fake_experiment(tmp_path, parent.run_id, shuffle_label=control)
    page = tmp_path / "report.html"
    with pytest.raises(UserError, match=f"^compare_runs.ipynb: .*{said}") as raised:
        run_notebook(NOTEBOOK, page, environment={"RNA_S2_PARENT_RUN": parent.run_id})
    assert "\n" not in str(raised.value)
    assert "the sequence helps" in page.read_text(encoding="utf-8"), "the report is written all the same"


@pytest.mark.parametrize(
    ("code", "said"),
    [("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "its Python process ended"),
     ("import time; time.sleep(60)", "a cell took more than 2 s")],
)
def test_a_kernel_that_ends_or_takes_too_long_leaves_a_page(tmp_path, monkeypatch, code, said):
    monkeypatch.setattr(rna_s2.reports.notebook, "CELL_SECONDS", 2)
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("the text"), nbformat.v4.new_code_cell(code)])
    nbformat.write(notebook, tmp_path / "bad.ipynb")
    with pytest.raises(UserError, match=f"^bad.ipynb: {said}"):
        run_notebook(tmp_path / "bad.ipynb", tmp_path / "page.html", environment={})
    assert "the text" in (tmp_path / "page.html").read_text()
    assert not [child for child in psutil.Process().children() if "ipykernel" in " ".join(child.cmdline())]


def test_notebook_is_committed_without_outputs():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
