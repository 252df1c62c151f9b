"""What earlier versions wrote is still of use: models, checkpoints, datasets; and what is written now loads anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from rna_s2.boxtables.read import read_table
from rna_s2.engine.tracker import MemoryTracker
from rna_s2.options.base import load_yaml, validate
from rna_s2.options.errors import UserError
from rna_s2.pipeline.frames import predict_frame
from rna_s2.pipeline.register_model import EXAMPLE
from rna_s2.pipeline.structure_prediction import load_pipeline
from rna_s2.pipeline.study_config import StudyConfig
from rna_s2.pipeline.train_config import TrainConfig
from rna_s2.pipeline.train_s1 import TrainS1Config
from rna_s2.pruning.rules import REFERENCE_RULES, prune
from rna_s2.s1 import training as s1_training
from rna_s2.s1.config import S1Config
from rna_s2.s2 import training as s2_training
from rna_s2.s2.dataset import load
from rna_s2.s2.features import featurize
from rna_s2.tracking.models import S1_MODEL, S2_MODEL, STRUCTURE_MODEL
from rna_s2.tracking.registry import log_model
from rna_s2.tracking.runs import start_run

ROOT = Path(__file__).resolve().parent.parent
BEFORE = Path(__file__).parent / "data" / "before_one_package"
MODELS = ("s2", "s1", "structure")
KINDS = ("baseline", "s1_features", "sequence_encoding", "shuffle_label", "relational", "relational_shuffle_label")
TOP_LEVEL_BEFORE = (
    "entry", "rna", "boxtables", "energies", "fitting", "pruning", "s1", "s2", "structures", "tracking", "pipeline"
)
"""Top-level modules of the version before."""
ONE_TRAINING = {"train/loss", "val/loss", "val/auroc"}


def unpacked(name: str, folder: Path) -> Path:
    """An archive of :data:`BEFORE`, unpacked into ``folder``; the folder that it holds."""
    with tarfile.open(BEFORE / f"{name}.tar.xz") as archive:
        filtered = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 and newer
        archive.extractall(folder, **filtered)
    return folder / name


def recorded(name: str) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Rows given to a model of the version before, and what it answered."""
    kept = json.loads((BEFORE / f"model_{name}.json").read_text(encoding="utf-8"))
    return pd.DataFrame(kept["input"]), kept["output"]


def assert_close(found: Any, wanted: Any) -> None:
    """Equal values in equal places, numbers up to the last digits of float32."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict) and found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_close(found[key], value)
    elif isinstance(wanted, list):
        assert isinstance(found, list) and len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_close(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    else:
        assert found == wanted


def answers(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of an answer as plain values."""
    return json.loads(frame.to_json(orient="records", double_precision=15))


# models


@pytest.fixture
def modules_kept() -> Iterator[None]:
    """What a model of before brings along at the top level is gone after the test."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in TOP_LEVEL_BEFORE:
            del sys.modules[name]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_before_predicts_the_same_beside_the_code_of_today(name, tmp_path, modules_kept):
    rows, wanted = recorded(name)
    assert wanted and all(wanted)
    assert_close(answers(mlflow.pyfunc.load_model(str(unpacked(f"model_{name}", tmp_path))).predict(rows)), wanted)


LOADS = """
import json, sys
import pandas as pd
for stub in sys.argv[2:]:
    __import__(stub)
import mlflow
models = json.loads(sys.argv[1])
for name, folder, rows, out in models:
    model = mlflow.pyfunc.load_model(folder)
    model.predict(pd.DataFrame(json.load(open(rows))["input"])).to_json(out, orient="records", double_precision=15)
    package = sys.modules.get("rna_s2")
    assert package is None or any(package.__file__.startswith(known) for _, known, _, _ in models), package.__file__
for stub in sys.argv[2:]:
    assert sys.modules[stub].STUB == stub, stub
"""


def in_a_process_without_the_repository(folders: dict[str, Path], place: Path, stubs: tuple[str, ...] = ()) -> None:
    """Loads models in one fresh process, after foreign modules of the names ``stubs``; they must answer as recorded."""
    place.mkdir()
    for stub in stubs:
        (place / f"{stub}.py").write_text(f"STUB = {stub!r}\n", encoding="utf-8")
    (place / "loads.py").write_text(LOADS, encoding="utf-8")
    models = [
        (name, str(folder), str(BEFORE / f"model_{name}.json"), str(place / f"{name}.answer.json"))
        for name, folder in folders.items()
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "loads.py", json.dumps(models), *stubs], cwd=place, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in folders:
        assert_close(json.loads((place / f"{name}.answer.json").read_text(encoding="utf-8")), recorded(name)[1])


def test_models_of_before_predict_the_same_where_the_repository_has_never_been(tmp_path):
    folders = {name: unpacked(f"model_{name}", tmp_path) for name in MODELS}
    in_a_process_without_the_repository(folders, tmp_path / "elsewhere")


def test_a_model_logged_now_is_one_package_and_loads_beside_modules_of_any_name(tracking_uri, tmp_path):
    types = {"s2": (S2_MODEL, "val/auroc"), "s1": (S1_MODEL, "val/auroc"), "structure": (STRUCTURE_MODEL, "f1")}
    folders = {}
    for name, (model_type, metric) in types.items():
        network = unpacked(f"model_{name}", tmp_path / "before") / "artifacts" / "model"
        example = EXAMPLE if name == "structure" else recorded(name)[0].head(1)
        with start_run(model_type.stage, f"log {name}") as tracker:
            logged = log_model(
                tracker, network, model_type, name=name, registered_name=None, input_example=example, metrics={metric: 0.5}
            )
        folders[name] = Path(mlflow.artifacts.download_artifacts(logged.uri, dst_path=str(tmp_path / f"logged_{name}")))
        code = folders[name] / "code"
        assert [path.name for path in code.iterdir()] == ["rna_s2"]
        assert (code / "rna_s2" / "s2" / "network.py").is_file() and (code / "rna_s2" / "pruning" / "rules.py").is_file()
        assert not [path for path in code.rglob("*") if path.is_symlink() or path.name == "__pycache__"]
    in_a_process_without_the_repository(folders, tmp_path / "elsewhere", stubs=TOP_LEVEL_BEFORE)


def test_a_saved_chain_of_before_predicts_the_same():
    rows, wanted = recorded("structure")
    assert_close(answers(predict_frame(rows, *load_pipeline(BEFORE / "chain"))), wanted)


# checkpoints


def assert_goes_on(tracker: MemoryTracker, metrics: Path) -> None:
    """The epochs after the checkpoint give the metrics that were recorded, all of them."""
    wanted = json.loads(metrics.read_text(encoding="utf-8"))
    assert wanted.keys() >= ONE_TRAINING
    for name, values in wanted.items():
        found = tracker.metric_values[name]
        assert [step for step, _ in found] == [step for step, _ in values], name
        np.testing.assert_allclose([v for _, v in found], [v for _, v in values], rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_stage_2_checkpoint_of_before_resumes(tmp_path):
    folder = unpacked("train_s2", tmp_path)
    config = s2_training.S2Config.model_validate_json((folder / "config.json").read_text(encoding="utf-8"))
    config = config.model_copy(update={"training": config.training.model_copy(update={"epoch": 4})})
    data, tracker = load(folder / "dataset"), MemoryTracker()
    result = s2_training.train(
        config, data, seed=3, folder=folder / "checkpoints", tracker=tracker, progress=False
    )
    assert (result.fit.epochs, result.fit.trained) == (4, 2)
    assert_goes_on(tracker, folder / "metrics_of_epochs_3_and_4.json")


def test_a_stage_2_checkpoint_of_before_is_refused_in_one_line_where_it_does_not_fit(tmp_path):
    folder = unpacked("train_s2", tmp_path)
    config = s2_training.S2Config.model_validate_json((folder / "config.json").read_text(encoding="utf-8"))
    with pytest.raises(UserError, match=r"made with another seed; .*start a new run") as refused:
        s2_training.train(
            config, load(folder / "dataset"), seed=4, folder=folder / "checkpoints", tracker=MemoryTracker(), progress=False
        )
    assert len(str(refused.value).splitlines()) == 1


def test_a_stage_1_checkpoint_of_before_resumes_or_is_refused_in_one_line(tmp_path):
    folder = unpacked("train_s1", tmp_path)
    config = S1Config.model_validate_json((folder / "config.json").read_text(encoding="utf-8"))
    table, tracker = read_table(folder / "segments.parquet", require_proposals=False).table, MemoryTracker()
    try:
        result = s1_training.train(config, table, seed=1, folder=folder / "checkpoints", tracker=tracker, progress=False)
    except UserError as refused:
        assert len(str(refused).splitlines()) == 1 and "start a new run" in str(refused)
        assert not tracker.metric_values
    else:
        assert (result.fit.epochs, result.fit.trained) == (3, 1)
        assert_goes_on(tracker, folder / "metrics_of_epoch_3.json")


# datasets and configs


@pytest.mark.parametrize("kind", KINDS)
def test_a_dataset_of_before_loads_and_is_what_the_table_gives_today(kind, tmp_path):
    before = load(unpacked("datasets", tmp_path) / kind)
    assert before.meta.kind == kind and len(before) == 3
    table = prune(read_table(BEFORE / "s1_table.parquet").table, REFERENCE_RULES).table
    today = featurize(table, kind, seed=1)
    assert today.meta.feature_names == before.meta.feature_names
    arrays = today.arrays()
    assert arrays.keys() == before.arrays().keys()
    for name, wanted in before.arrays().items():
        np.testing.assert_allclose(arrays[name], wanted, rtol=1e-5, atol=1e-6, err_msg=name)


def config_type(values: dict[str, Any], name: str) -> type:
    """What a file of ``configs/`` configures."""
    if "variants" in values:
        return StudyConfig
    return TrainS1Config if name.startswith("s1") and "batches_per_epoch" in values.get("training", {}) else TrainConfig


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_validates(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    values = load_yaml(path)
    config = validate(config_type(values, path.name), values, str(path))
    assert config.name == values["name"]


# the package


def test_the_wheel_holds_one_package_with_the_linked_folders_in_it(tmp_path):
    source = tmp_path / "source"
    for name in ("rna_s2", "s2", "pruning"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-w", "../wheels"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "unpacked")
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"rna_s2"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rna_s2").glob("**/*.py")}
    modules |= {f"rna_s2/{path.relative_to(ROOT)}" for linked in ("s2", "pruning") for path in (ROOT / linked).glob("**/*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    for linked in ("s2", "pruning"):
        folder = tmp_path / "unpacked" / "rna_s2" / linked
        assert folder.is_dir() and not folder.is_symlink()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "unpacked")}
    check = "import rna_s2.s2.network as network; print(network.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tmp_path / "unpacked" / "rna_s2" / "s2" / "network.py")
