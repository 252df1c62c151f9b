"""Files of runs: what a run kept, brought back to disk."""

from __future__ import annotations

from pathlib import Path

from mlflow.exceptions import MlflowException

from tracking.client import STORE_ERRORS, open_client, store_error


def fetch_artifact(run_id: str, artifact: str, folder: Path) -> Path | None:
    """A file that a run kept, copied into ``folder``; None where the run has no such file.

    Raises:
        UserError: the run is unknown, or the tracking store cannot be reached.
    """
    client = open_client()
    try:
        parent = str(Path(artifact).parent)
        listed = client.list_artifacts(run_id, None if parent == "." else parent)
        if artifact not in {entry.path for entry in listed}:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        return Path(client.download_artifacts(run_id, artifact, str(folder)))
    except (MlflowException, *STORE_ERRORS) as error:
        raise store_error(error) from error


def metric_history(run_id: str, names: list[str]) -> dict[str, list[tuple[int, float]]]:
    """The figures of a run over its epochs: per name the (step, value) pairs, the newest value of each step.

    Raises:
        UserError: the run is unknown, or the tracking store cannot be reached.
    """
    client = open_client()
    try:
        return {
            name: sorted({m.step: m.value for m in client.get_metric_history(run_id, name)}.items()) for name in names
        }
    except (MlflowException, *STORE_ERRORS) as error:
        raise store_error(error) from error
