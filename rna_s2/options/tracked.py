"""The option of every command that is followed by a run."""

from __future__ import annotations

from pydantic import Field

from rna_s2.options.base import Options


class TrackedOptions(Options):
    """Where the command's run stands."""

    experiment: str = Field(
        "", description="MLflow experiment of the run; without one, that of mlflow run or MLFLOW_EXPERIMENT_NAME, else rna-s2"
    )
