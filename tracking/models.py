"""Trained models in MLflow: logged without pickles, registered, and found again through the alias ``champion``."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType, Array, DataType

from entry.errors import UserError
from tracking.client import STORE_ERRORS, open_client, store_error
from tracking.runs import PROJECT_ROOT, MlflowTracker

CHAMPION = "champion"
CHAMPION_METRIC = "val/auroc"

_VERSION_TAG = "val_auroc"
_CODE_ROOMS = ("entry", "rna", "boxtables", "s2")
_INFERENCE_PACKAGES = frozenset({"mlflow", "numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "safetensors", "torch"})

S2_SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.string, "seq"),
            ColSpec(AnyType(), "bb_stem", required=False),
            ColSpec(AnyType(), "bb_iloop", required=False),
            ColSpec(AnyType(), "bb_hloop", required=False),
        ]
    ),
    outputs=Schema([ColSpec(Array(DataType.double), "probabilities")]),
)
"""Columns of the pruned table in, one list of probabilities per row out.

The box lists are of any type for MLflow, because S1 tables hold ``None``, ``NaN`` and ``[]`` for "no boxes", whole and
floating-point numbers, and boxes with further keys, all of which a typed column refuses; the model itself checks them.
"""


@dataclass(frozen=True)
class LoggedModel:
    """Where a model is found: its MLflow id and address; registered version and whether it is the champion now."""

    model_id: str
    uri: str
    version: str | None
    is_champion: bool


def log_s2_model(
    tracker: MlflowTracker,
    folder: Path,
    *,
    name: str,
    registered_name: str | None,
    input_example: pd.DataFrame,
    metrics: Mapping[str, float],
    step: int = 0,
    tags: Mapping[str, str] = {},
) -> LoggedModel:
    """Logs an S2 model with a run; registers it where it has a name for that.

    The model is code (this project's modules for inference travel with it) and weights in safetensors: no pickle is
    stored, and it loads where the repository has never been.

    Args:
        tracker: the run that trained it.
        folder: what ``s2.scorer.Scorer`` saved: ``model.json`` and ``weights.safetensors``.
        name: name of the logged model.
        registered_name: name in the registry (``s2-baseline``); None registers nothing. The alias ``champion`` moves to
            the new version where its ``val/auroc`` is better than the present champion's.
        input_example: rows with ``seq``, ``bb_stem``, ``bb_iloop``, ``bb_hloop``; kept with the model.
        metrics: figures of the epoch that these weights are from; ``val/auroc`` decides about the alias.
        step: that epoch.
        tags: tags of the logged model.

    Raises:
        UserError: the tracking store cannot be reached, or refuses the model.
    """
    client = tracker.client
    finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
    example = input_example[[column.name for column in S2_SIGNATURE.inputs.inputs]].reset_index(drop=True)
    try:
        info = Model.log(
            artifact_path=None,
            name=name,
            flavor=mlflow.pyfunc,
            run_id=tracker.run_id,
            step=step,
            tags={"stage": "train", **tags},
            python_model=str(Path(__file__).with_name("s2_model_code.py")),
            artifacts={"s2": str(folder)},
            code_paths=[str(PROJECT_ROOT / room) for room in _CODE_ROOMS],
            signature=S2_SIGNATURE,
            input_example=example,
            pip_requirements=inference_requirements(PROJECT_ROOT / "requirements.txt"),
        )
        now = mlflow.utils.time.get_current_time_millis()
        client.log_batch(
            tracker.run_id, metrics=[Metric(k, v, now, step, model_id=info.model_id) for k, v in finite.items()]
        )
        if registered_name is None:
            return LoggedModel(info.model_id, info.model_uri, None, False)
        version, is_champion = _register(client, info, tracker.run_id, registered_name, finite.get(CHAMPION_METRIC))
    except STORE_ERRORS as error:
        raise store_error(error) from error
    return LoggedModel(info.model_id, info.model_uri, version, is_champion)


def _register(client: MlflowClient, info, run_id: str, name: str, auroc: float | None) -> tuple[str, bool]:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {} if auroc is None else {_VERSION_TAG: repr(auroc)}
    version = str(client.create_model_version(name, info.model_uri, run_id, tags=tags, model_id=info.model_id).version)
    if auroc is None:
        return version, False
    best = champion_auroc(client, name)
    if best is not None and auroc <= best:
        return version, False
    client.set_registered_model_alias(name, CHAMPION, version)
    return version, True


def champion_auroc(client: MlflowClient, name: str) -> float | None:
    """Validation au-ROC (per-row mean) of a registered model's champion; None where it has none."""
    alias = client.get_registered_model(name).aliases.get(CHAMPION)
    if alias is None:
        return None
    value = client.get_model_version(name, alias).tags.get(_VERSION_TAG)
    return None if value is None else float(value)


def load_champion(name: str) -> PyFuncModel:
    """The best version of a registered model, ready for ``predict``.

    Raises:
        UserError: no such model is registered, it has no champion, or the tracking store cannot be reached.
    """
    client = open_client()
    try:
        client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise store_error(error) from error
        names = ", ".join(sorted(model.name for model in client.search_registered_models())) or "none yet"
        raise UserError(f"no champion of a model '{name}' is registered; registered models: {names}") from error
    except STORE_ERRORS as error:
        raise store_error(error) from error
    return mlflow.pyfunc.load_model(f"models:/{name}@{CHAMPION}")


def inference_requirements(requirements: Path, packages: Collection[str] = _INFERENCE_PACKAGES) -> list[str]:
    """The lines of a requirements file that pin the given packages (lower-case names).

    Raises:
        ValueError: one of them is not pinned there.
    """
    pins = {}
    for line in requirements.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==\S+", line.strip())
        if match:
            pins[match[1].lower()] = line.strip()
    missing = sorted(set(packages) - set(pins))
    if missing:
        raise ValueError(f"{requirements} does not pin {', '.join(missing)}")
    return [pins[name] for name in sorted(packages)]
