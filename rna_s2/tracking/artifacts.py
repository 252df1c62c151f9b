"""What a run kept, brought back: files, tables, metrics.

Every function raises :class:`UserError` where the run is unknown, or the tracking store cannot be reached.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

import pandas as pd

from rna_s2.fitting.checkpoints import BEST, CHECKPOINTS, LAST
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path
from rna_s2.tracking.client import tracking_store

logger = logging.getLogger(__name__)


def fetch_artifact(run_id: str, artifact: str, folder: Path) -> Path | None:
    """A file that a run kept, copied into ``folder``; None where the run has no such file."""
    with tracking_store() as client:
        listed = client.list_artifacts(run_id, artifact.rpartition("/")[0] or None)
        if artifact not in {entry.path for entry in listed}:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        return Path(client.download_artifacts(run_id, artifact, str(folder)))


def run_table(run_id: str, name: str, remedy: str) -> pd.DataFrame:
    """A CSV table that a run kept.

    Raises:
        UserError: the run keeps no such table; ``remedy`` says what to do.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = fetch_artifact(run_id, name, Path(folder))
        if path is None:
            raise UserError(f"run {run_id} keeps no {name}; {remedy}")
        return pd.read_csv(path)


def fetch_checkpoints(run_id: str, folder: Path) -> None:
    """Bring the copies of a run's checkpoints to where its training looks for them, unless they are there; says where there
    are none.

    Raises:
        UserError: ``folder`` cannot be written.
    """
    if (folder / LAST).is_file():
        return
    fetched_to = folder / "fetched"
    for name in (BEST, LAST):  # a training goes by the last one, so that comes when the other is there
        fetched = fetch_artifact(run_id, f"{CHECKPOINTS}/{name}", fetched_to)
        if fetched is not None:
            with atomic_path(folder / name) as temporary:
                shutil.move(fetched, temporary)
    shutil.rmtree(fetched_to, ignore_errors=True)
    if not (folder / LAST).is_file():
        logger.warning("run %s has no checkpoint yet; it starts from the beginning", run_id)


def metric_history(run_id: str, names: list[str]) -> dict[str, list[tuple[int, float]]]:
    """The metrics of a run over its epochs: per name the (step, value) pairs, the newest value of each step."""
    with tracking_store() as client:
        return {name: sorted({m.step: m.value for m in client.get_metric_history(run_id, name)}.items()) for name in names}
