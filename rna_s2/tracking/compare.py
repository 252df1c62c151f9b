"""Trained models as tables, read through the MLflow API: for notebooks.

Every function raises :class:`UserError` where the run is unknown, or the tracking store cannot be reached.
"""

from __future__ import annotations

import pandas as pd
from mlflow.entities import Run

from rna_s2.options.errors import UserError
from rna_s2.tracking.artifacts import run_table
from rna_s2.tracking.client import newest_runs, tracking_store
from rna_s2.tracking.runs import USED


def training_runs(experiment: str, parent_run_id: str = "") -> pd.DataFrame:
    """The newest finished training of each model.

    Args:
        experiment: name of the experiment; not used where a parent run is given.
        parent_run_id: only the children of this run.

    Returns:
        One row per model, index ``model``: ``run_id``, ``name``, ``features``, ``in_file`` (the table, or the transcripts),
        every parameter in force (``network.n_dim``, text) and every metric (``best/val/auroc``).

    Raises:
        UserError: there is no such experiment or no such run in it.
    """
    with tracking_store() as client:
        if parent_run_id:
            experiment_id = client.get_run(parent_run_id).info.experiment_id
        else:
            found = client.get_experiment_by_name(experiment)
            if found is None:
                raise UserError(f"there is no experiment '{experiment}'; train models in it first")
            experiment_id = found.experiment_id
        wanted = "tags.stage = 'train' and attributes.status = 'FINISHED' and tags.model LIKE '%'"
        if parent_run_id:
            wanted += f" and tags.`mlflow.parentRunId` = '{parent_run_id}'"
        runs = list(newest_runs(client, experiment_id, wanted))
    rows: dict[str, dict[str, object]] = {}
    for run in runs:
        rows.setdefault(run.data.tags["model"], {
            "run_id": run.info.run_id, "name": run.info.run_name, "features": run.data.tags.get("features", ""),
            "in_file": _params(run).get("data.in_file") or _params(run).get("data.transcripts", ""),
            **_params(run), **run.data.metrics,
        })
    if not rows:
        raise UserError(f"experiment '{experiment}' has no finished training; run: mlflow run .")
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def run_parameters(run_id: str) -> dict[str, str]:
    """The parameters in force of a run, as text."""
    with tracking_store() as client:
        return _params(client.get_run(run_id))


def _params(run: Run) -> dict[str, str]:
    """The parameters in force: a tag ``used.NAME`` stands for one that could not be changed."""
    used = {k.removeprefix(USED): v for k, v in run.data.tags.items() if k.startswith(USED)}
    return {**run.data.params, **used}


def run_rows(run_id: str, part: str, what: str = "rows") -> pd.DataFrame:
    """A table that a training kept: ``rows`` (metrics per row) or ``roc`` (a curve) of ``train`` or ``val``.

    Raises:
        UserError: the run keeps no such table.
    """
    return run_table(run_id, f"rows/{part}_{what}.csv", "train the model again")
