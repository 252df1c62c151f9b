"""Stage 1 networks in MLflow: logged as code and safetensors, registered, found again through their alias."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType, DataType

from entry.errors import UserError
from rna.boxes import BOX_COLUMNS
from tracking.client import STORE_ERRORS, open_client, store_error
from tracking.models import CHAMPION, LoggedModel, inference_requirements
from tracking.runs import PROJECT_ROOT, MlflowTracker

CHAMPION_METRIC = "val/box_sensitivity"
ARTIFACT = "s1"
"""Name of the network's folder among the artifacts of the logged model."""

NETWORK_FOLDER = "model"
"""Name of the folder given to :func:`log_s1_model`; MLflow keeps it under this name."""

_VERSION_TAG = "val_box_sensitivity"
_CODE_ROOMS = ("entry", "rna", "boxtables", "s1")

S1_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "seq")]),
    outputs=Schema([ColSpec(AnyType(), name) for name in BOX_COLUMNS]),
)
"""Sequences in, the three lists of proposed boxes out."""


def log_s1_model(
    tracker: MlflowTracker,
    folder: Path,
    *,
    name: str,
    registered_name: str | None,
    input_example: pd.DataFrame,
    metrics: Mapping[str, float],
    step: int = 0,
) -> LoggedModel:
    """Logs a stage 1 network with a run; registers it where it has a name for that.

    Args:
        tracker: the run that trained it.
        folder: what ``s1.model.save_network`` wrote; called ``model``.
        name: name of the logged model.
        registered_name: name in the registry (``s1-proposals``); None registers nothing. The alias ``champion`` moves
            to the new version where its ``val/box_sensitivity`` is better than the present champion's.
        input_example: rows with ``seq``; kept with the model.
        metrics: figures of these weights.
        step: their epoch.

    Raises:
        UserError: the tracking store cannot be reached, or refuses the model.
    """
    client = tracker.client
    finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
    try:
        info = Model.log(
            artifact_path=None,
            name=name,
            flavor=mlflow.pyfunc,
            run_id=tracker.run_id,
            step=step,
            tags={"stage": "train_s1"},
            python_model=str(Path(__file__).with_name("s1_model_code.py")),
            artifacts={ARTIFACT: str(folder)},
            code_paths=[str(PROJECT_ROOT / room) for room in _CODE_ROOMS],
            signature=S1_SIGNATURE,
            input_example=input_example,
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
    return LoggedModel(info.model_id, info.model_uri, str(version), is_champion)


def _register(client: MlflowClient, info, run_id: str, name: str, figure: float | None) -> tuple[str, bool]:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {} if figure is None else {_VERSION_TAG: repr(figure)}
    version = client.create_model_version(name, info.model_uri, run_id, tags=tags, model_id=info.model_id).version
    alias = client.get_registered_model(name).aliases.get(CHAMPION)
    best = None if alias is None else client.get_model_version(name, alias).tags.get(_VERSION_TAG)
    if figure is None or (best is not None and figure <= float(best)):
        return version, False
    client.set_registered_model_alias(name, CHAMPION, version)
    return version, True


def fetch_champion_folder(name: str) -> Path:
    """The folder of the best version of a registered stage 1 network, copied to a temporary folder.

    Raises:
        UserError: no such model is registered, it has no champion, or the tracking store cannot be reached.
    """
    client = open_client()
    try:
        client.get_model_version_by_alias(name, CHAMPION)
        folder = mlflow.artifacts.download_artifacts(
            f"models:/{name}@{CHAMPION}", dst_path=tempfile.mkdtemp(prefix=f"{ARTIFACT}-")
        )
        return Path(folder) / "artifacts" / NETWORK_FOLDER
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise store_error(error) from error
        names = ", ".join(sorted(model.name for model in client.search_registered_models())) or "none yet"
        raise UserError(f"no champion of a model '{name}' is registered; registered models: {names}") from error
    except STORE_ERRORS as error:
        raise store_error(error) from error
