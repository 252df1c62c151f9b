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
from mlflow.tracking import MlflowClient

from rna_s2.options.errors import UserError
from rna_s2.options.places import PROJECT_ROOT
from rna_s2.tracking.client import NOT_THERE, all_pages, store_errors, tracking_store
from rna_s2.tracking.runs import MlflowTracker

CHAMPION = "champion"
PACKAGE = "rna_s2"
"""The one folder of code that travels with a model."""

_INFERENCE_PACKAGES = {"filelock", "mlflow", "numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "safetensors", "torch"}


@dataclass(frozen=True)
class ModelType:
    """What models of one type have in common.

    Attributes:
        stage: tag ``stage`` of the logged model.
        code: the module that MLflow keeps with the model and runs when it is loaded, in this folder.
        artifact: name under which that code finds the folder with the weights.
        signature: columns in and out.
        champion_metric: the metric whose highest value makes a version the champion.
        packages: what its code needs beside what every model does, as pinned in requirements.txt (lower-case names).
    """

    stage: str
    code: str
    artifact: str
    signature: ModelSignature
    champion_metric: str
    packages: tuple[str, ...] = ()

    @property
    def version_tag(self) -> str:
        """The tag in which a registered version keeps its :attr:`champion_metric`."""
        return self.champion_metric.replace("/", "_")


@dataclass(frozen=True)
class LoggedModel:
    """Where a model is found: its MLflow id and address; registered version and whether it is the champion now."""

    model_id: str
    uri: str
    version: str | None
    is_champion: bool


def log_model(
    tracker: MlflowTracker, folder: Path, model_type: ModelType, *, name: str, registered_name: str | None,
    input_example: pd.DataFrame, metrics: Mapping[str, float], step: int = 0, tags: Mapping[str, str] = {}
) -> LoggedModel:
    """Logs a model with a run; registers it where it has a name for that.

    The model is code (this project's modules for inference travel with it) and weights in safetensors: no pickle is
    stored, and it loads where the repository has never been.

    Args:
        tracker: the run that trained it.
        folder: its weights and what describes them.
        model_type: what it is.
        name: name of the logged model.
        registered_name: name in the registry (``s2-baseline``); None registers nothing. The alias ``champion`` moves to
            the new version where its metric is better than the present champion's.
        input_example: rows as a user would give them; kept with the model.
        metrics: metrics of the epoch that these weights are from, the model type's ``champion_metric`` among them.
        step: that epoch.
        tags: further tags of the logged model.

    Raises:
        UserError: the tracking store cannot be reached, or refuses the model.
    """
    client = tracker.client
    finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
    example = input_example[[column.name for column in model_type.signature.inputs.inputs]].reset_index(drop=True)
    with store_errors():
        info = Model.log(
            artifact_path=None, name=name, flavor=mlflow.pyfunc, run_id=tracker.run_id, step=step,
            tags={"stage": model_type.stage, **tags},
            python_model=str(Path(__file__).with_name(model_type.code)), code_paths=[str(PROJECT_ROOT / PACKAGE)],
            artifacts={model_type.artifact: str(folder)},
            signature=model_type.signature, input_example=example,
            pip_requirements=_pinned(_INFERENCE_PACKAGES.union(model_type.packages)),
        )
        now = mlflow.utils.time.get_current_time_millis()
        logged = [Metric(k, v, now, step, model_id=info.model_id) for k, v in finite.items()]
        client.log_batch(tracker.run_id, metrics=logged)
        if registered_name is None:
            return LoggedModel(info.model_id, info.model_uri, None, False)
        version, is_champion = _register(client, info, tracker.run_id, registered_name, model_type, finite)
    return LoggedModel(info.model_id, info.model_uri, version, is_champion)


def _register(
    client: MlflowClient, info, run_id: str, name: str, model_type: ModelType, metrics: Mapping[str, float]
) -> tuple[str, bool]:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    value = metrics.get(model_type.champion_metric)
    tags = {} if value is None else {model_type.version_tag: repr(value)}
    version = str(client.create_model_version(name, info.model_uri, run_id, tags=tags, model_id=info.model_id).version)
    return version, _choose_champion(client, name, model_type) == version


def _choose_champion(client: MlflowClient, name: str, model_type: ModelType) -> str | None:
    """Moves the alias to the version with the best metric, of equal ones the first; None where none has one.

    Another process may register a version at the same time, and whoever sets the alias last may not have seen it: so each
    looks again after it has set it.
    """
    champion = None
    while True:
        found = all_pages(client.search_model_versions, f"name = '{name}'")
        metrics = {int(v.version): float(v.tags[model_type.version_tag]) for v in found if model_type.version_tag in v.tags}
        best = str(min(metrics, key=lambda version: (-metrics[version], version))) if metrics else None
        if best is None or best == champion:
            return best
        if client.get_registered_model(name).aliases.get(CHAMPION) != best:
            client.set_registered_model_alias(name, CHAMPION, best)
        champion = best


def champion_uri(name: str) -> str:
    """The address of the best version of a registered model.

    Raises:
        UserError: no such model is registered, it has no champion, or the tracking store cannot be reached.
    """
    with tracking_store() as client:
        try:
            client.get_model_version_by_alias(name, CHAMPION)
        except MlflowException as error:
            if error.error_code not in NOT_THERE:
                raise
            names = ", ".join(sorted(model.name for model in client.search_registered_models())) or "none yet"
            raise UserError(f"no champion of a model '{name}' is registered; registered models: {names}") from error
    return f"models:/{name}@{CHAMPION}"


def _pinned(packages: Collection[str]) -> list[str]:
    """The lines of requirements.txt that pin the given packages (lower-case names).

    Raises:
        ValueError: one of them is not pinned there.
    """
    requirements = PROJECT_ROOT / "requirements.txt"
    lines = map(str.strip, requirements.read_text(encoding="utf-8").splitlines())
    pins = {line.partition("==")[0].lower(): line for line in lines if re.fullmatch(r"[A-Za-z0-9._-]+==\S+", line)}
    missing = sorted(set(packages) - set(pins))
    if missing:
        raise ValueError(f"{requirements} does not pin {', '.join(missing)}")
    return [pins[name] for name in sorted(packages)]
