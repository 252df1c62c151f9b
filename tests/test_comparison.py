"""The checks of the comparison, the notebook run for real, and MLproject beside the options of its commands."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml

from entry.errors import UserError
from entry.options import leaf_fields
from pipeline.comparison import CheckFailed, check_control, compare_rows
from pipeline.notebook import run_notebook
from tracking.runs import start_run

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "compare_runs.ipynb"


def rows_of(auroc: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"source_row": np.arange(len(auroc)), "auroc": auroc})


def test_control_passes_near_one_half_and_fails_away_from_it():
    values = np.array([0.4, 0.6, 0.5, 0.45, 0.55, np.nan])
    assert "0.500 on 5 validation rows" in check_control(values)
    with pytest.raises(CheckFailed, match="more than 3 standard errors"):
        check_control(values + 0.2)
    with pytest.raises(CheckFailed, match="at least 2"):
        check_control(np.array([0.5, np.nan]))


def test_two_models_are_compared_on_the_rows_of_both():
    first, second = rows_of(np.linspace(0.7, 0.9, 50)), rows_of(np.linspace(0.6, 0.8, 50))
    result = compare_rows(first, second.iloc[:40], "the LSTM", "the baseline")
    assert result.rows == 40
    assert result.difference == pytest.approx(0.1)
    assert "0.100 higher" in result.sentence and "ranks the boxes better" in result.sentence
    assert "ranks the boxes worse" in compare_rows(second, first, "a", "b").sentence
    noise = rows_of(first["auroc"].to_numpy() + np.where(np.arange(50) % 2, 0.05, -0.05))
    assert "do not tell the two apart" in compare_rows(noise, first, "a", "b").sentence
    with pytest.raises(CheckFailed, match="share no validation row"):
        compare_rows(first, second.assign(source_row=second["source_row"] + 100), "a", "b")


def fake_run(folder: Path, model: str, auroc: np.ndarray) -> None:
    with start_run("train", f"train {model}", tags={"model": model, "features": model}) as tracker:
        tracker.params({"data": {"in_file": "data/sample_simulated_s1.parquet"}})
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


@pytest.mark.parametrize("control", [0.5, 0.7])
def test_notebook_reports_and_fails_loudly_when_the_control_does(tmp_path, tracking_uri, control):
    rng = np.random.default_rng(0)
    for model, level in (("baseline", 0.8), ("lstm_attn", 0.85), ("s1_features", 0.9), ("shuffle_label", control)):
        fake_run(tmp_path, model, level + rng.normal(0, 0.03, 40))
    page = tmp_path / "report.html"
    environment = {"MLFLOW_TRACKING_URI": tracking_uri}
    if control == 0.5:
        run_notebook(NOTEBOOK, page, environment=environment)
        text = page.read_text(encoding="utf-8")
        assert "within 3 standard errors of 0.5" in text and "the LSTM ranks the boxes better" in text
        assert len(re.findall("data:image/png;base64|<svg", text)) >= 2
    else:
        with pytest.raises(UserError, match="more than 3 standard errors"):
            run_notebook(NOTEBOOK, page, environment=environment)
        assert page.is_file()


def test_notebook_is_committed_without_outputs():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_mlproject_and_options_do_not_drift(name):
    entry = ENTRY_POINTS[name]
    words = entry["command"].split()
    module = importlib.import_module(words[2])
    assert name == module.COMMAND
    pairs = dict(re.findall(r"--(\w+) \{(\w+)\}", entry["command"]))
    assert all(option == parameter for option, parameter in pairs.items()) and set(pairs) == set(entry["parameters"])
    leaves = leaf_fields(module.OPTIONS)
    names = dict(getattr(module, "OVERRIDES", None) or {leaf: leaf for leaf in leaves})
    config = getattr(module, "CONFIG_OPTION", None)
    assert set(pairs) == set(names) | ({config} if config else set())
    for option, dotted in names.items():
        given, field = entry["parameters"][option].get("default"), leaves[dotted]
        if field.is_required():
            assert given is None or (config and given == "")
        elif given:
            default = field.get_default(call_default_factory=True)
            shown = ",".join(map(str, default)) if isinstance(default, (tuple, list)) else str(default)
            assert given == (shown.lower() if isinstance(default, bool) else shown)
        else:
            assert config or field.get_default(call_default_factory=True) in ("", None)
