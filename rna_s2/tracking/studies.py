"""Runs of a study as MLflow keeps them: found again by digest, moved under one parent, read back as tables.

Every function raises :class:`UserError` where the run is unknown, or the tracking store cannot be reached.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from mlflow.entities import RunStatus
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from rna_s2.options.errors import UserError
from rna_s2.tracking.artifacts import run_table
from rna_s2.tracking.client import newest_runs, tracking_store

STUDY = "study"
"""Tag of a study's runs: its name."""
DIGEST = "study.digest"
"""Tag of a study's child runs: a digest of what decides its result."""
PARENT_STAGE, CHILD_STAGE = "study", "study_child"
"""Values of the tag ``stage``; that of a child keeps it out of comparisons of the trainings of an experiment."""


@dataclass(frozen=True)
class FoundRun:
    """A child run of an earlier call of a study."""

    run_id: str
    finished: bool
    parent_run_id: str


def find_children(experiment_id: str, study: str) -> dict[str, FoundRun]:
    """The child runs of a study by digest; where several have one, the finished one, else the newest."""
    found: dict[str, FoundRun] = {}
    with tracking_store() as client:
        for run in newest_runs(client, experiment_id, f"tags.stage = '{CHILD_STAGE}' and tags.{STUDY} = '{study}'"):
            each = FoundRun(
                run.info.run_id, run.info.status == RunStatus.to_string(RunStatus.FINISHED),
                run.data.tags.get(MLFLOW_PARENT_RUN_ID, ""),
            )
            known = found.get(run.data.tags[DIGEST])
            if known is None or (each.finished and not known.finished):
                found[run.data.tags[DIGEST]] = each
    return found


def adopt(run_id: str, parent_run_id: str) -> None:
    """Makes a run the child of another parent."""
    with tracking_store() as client:
        client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, parent_run_id)


def run_metrics(run_id: str) -> tuple[dict[str, float], str]:
    """The newest value of every metric of a run, and the git commit that it was made at (``unknown`` outside git)."""
    with tracking_store() as client:
        data = client.get_run(run_id).data
    return dict(data.metrics), data.tags.get("git_commit", "unknown")


def newest_study(experiment: str) -> str:
    """Run id of the newest finished study of an experiment.

    Raises:
        UserError: there is none.
    """
    wanted = f"tags.stage = '{PARENT_STAGE}' and attributes.status = 'FINISHED'"
    with tracking_store() as client:
        found = client.get_experiment_by_name(experiment)
        newest = found and next(newest_runs(client, found.experiment_id, wanted, page_size=1), None)
    if not newest:
        raise UserError(f"experiment '{experiment}' has no finished study; run: mlflow run . -e study")
    return newest.info.run_id


def study_table(run_id: str, name: str) -> pd.DataFrame:
    """A CSV table that a study kept (``study.csv``, ``runs.csv``, ...).

    Raises:
        UserError: the run keeps no such table.
    """
    return run_table(run_id, name, "run the study again")
