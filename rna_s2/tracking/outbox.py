"""What a run has to send to its tracking server: sent at once, or kept in order while the server is away."""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path
from rna_s2.tracking.client import STORE_ERRORS, is_outage, store_error, tracking_store

UNSENT_FOLDER = Path("outputs/unsent")
"""Where a run keeps what it could not send, relative to the current folder."""
RESUMED_AT = "rna_s2.resumed_at"
"""Tag of a resumed run: when it was resumed last, in milliseconds since 1970."""

logger = logging.getLogger(__name__)

_BATCHES: dict[str, tuple[Callable[..., Any], int]] = {"metrics": (Metric, 1000), "params": (Param, 100), "tags": (RunTag, 100)}
"""What the entries of these actions are to MLflow, and how many a request may hold."""
_RETRY_SECONDS = 30.0
_RETRY_SECONDS_MOST = 300.0


class Outbox:
    """Sends the actions of one run (:func:`perform`), in order.

    While the tracking server cannot be reached, actions wait, and are sent when the server is back. Nothing raises, so that
    training goes on; a file that waits and that the disk takes no copy of is named in the log as lost. What is left at the end
    goes to a file, which is sent when the run is resumed (:func:`resend_kept`) or by ``python -m rna_s2.commands.resend``. A
    request that the server refuses is a :class:`UserError`. One that had to wait, and that the server refuses when it is back,
    is named in the log, and the others are sent.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        self._unsent: list[dict[str, Any]] = []
        self._kept_as = UNSENT_FOLDER / f"{run_id}-{uuid.uuid4().hex[:8]}"  # another one where the run is resumed
        self._kept_files = self._kept_as.with_suffix(".files")  # copies of files that wait to be sent
        self._retry_at = 0.0
        self._retry_after = _RETRY_SECONDS

    def send(self, action: dict[str, Any], at_once: bool = False) -> None:
        """Sends an action after those that wait; keeps it where the server is away."""
        if self._unsent and not at_once and time.monotonic() < self._retry_at:
            self._keep(action)
            return
        waiting = [*self._unsent, action]
        for done, each in enumerate(waiting):
            try:
                perform(self.client, self.run_id, each)
            except STORE_ERRORS as error:
                if not is_outage(error):
                    if each is not action:
                        _say_refused(self.run_id, each, error)
                        continue
                    self._all_sent()
                    raise store_error(error) from error
                if not self._unsent:
                    logger.warning("%s; going on, and sending later", store_error(error))
                self._unsent = self._unsent[done:]
                self._keep(action)
                self._retry_at = time.monotonic() + self._retry_after
                self._retry_after = min(2 * self._retry_after, _RETRY_SECONDS_MOST)
                return
        self._all_sent()

    def _all_sent(self) -> None:
        """Nothing waits any more."""
        if self._unsent:
            logger.warning("the tracking server is back: the entries that waited are sent")
            shutil.rmtree(self._kept_files, ignore_errors=True)
        self._unsent = []
        self._retry_after = _RETRY_SECONDS

    def _keep(self, action: dict[str, Any]) -> None:
        if action["action"] == "artifact":
            path = Path(action["path"])
            copy = (self._kept_files / uuid.uuid4().hex[:8] / path.name).resolve()
            try:
                copy.parent.mkdir(parents=True)
                if path.is_dir():
                    shutil.copytree(path, copy)
                else:
                    shutil.copy2(path, copy)
            except OSError as error:  # shutil.Error is one too
                shutil.rmtree(copy.parent, ignore_errors=True)
                logger.error("run %s: %s cannot be kept until the tracking server is back, and is lost (%s)",
                             self.run_id, path.name, error.strerror or error)
                return
            action = {**action, "path": str(copy)}
        self._unsent.append(action)

    def keep_unsent(self) -> None:
        """Writes what still waits to a file, and says in the log how to send it."""
        if not self._unsent:
            return
        path = self._kept_as.with_suffix(".jsonl")
        try:
            write_unsent(path, self.run_id, self._unsent)
        except UserError as error:
            logger.error(
                "the tracking server is away: %d entries of run %s are lost (%s)", len(self._unsent), self.run_id, error
            )
            return
        logger.warning(
            "the tracking server is away: %d entries of run %s are kept in %s; "
            "send them later with: python -m rna_s2.commands.resend %s",
            len(self._unsent), self.run_id, path, shlex.quote(str(path)),
        )


def _say_refused(run_id: str, action: Mapping[str, Any], error: BaseException) -> None:
    """Names an action in the log: what it is, and the names or the file that it is about."""
    about = action.get("path") or ", ".join(map(str, action.get("values", ()))) or action.get("status", "")
    logger.error("refused and left out of run %s: %s %s (%s)", run_id, action["action"], about, store_error(error))


_FIELDS = {
    "metrics": {"values", "step", "timestamp"},
    "params": {"values"},
    "tags": {"values"},
    "dataset": {"values"},
    "artifact": {"path", "folder"},
    "end": {"status", "timestamp"},
}
"""The actions, and the fields that each has."""


def perform(client: MlflowClient, run_id: str, action: Mapping[str, Any]) -> None:
    """Sends one kept action to a run.

    Raises:
        MlflowException, SQLAlchemyError, OSError: the store cannot be reached, or refuses it.
    """
    match action["action"]:
        case "metrics" | "params" | "tags" as kind:
            entity, per_batch = _BATCHES[kind]
            when = (action["timestamp"], action["step"]) if kind == "metrics" else ()
            entities: Any = [entity(k, v, *when) for k, v in action["values"].items()]
            for start in range(0, len(entities), per_batch):
                client.log_batch(run_id, **{kind: entities[start : start + per_batch]})
        case "dataset":
            values = action["values"]
            dataset = Dataset(values["name"], values["digest"], "local", values["source"], profile=values["profile"])
            _log_input(client, run_id, DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, values["context"])]))
        case "artifact":
            path = Path(action["path"])
            folder = action["folder"] or None
            if path.is_dir():
                client.log_artifacts(run_id, str(path), f"{folder}/{path.name}" if folder else path.name)
            else:
                client.log_artifact(run_id, str(path), folder)
        case "end":
            client.set_terminated(run_id, action["status"], action["timestamp"])


def _log_input(client: MlflowClient, run_id: str, dataset: DatasetInput) -> None:
    """An input of a run. Where another process enters the same dataset at the same moment, the store refuses one of the two;
    asked again, it finds the dataset."""
    try:
        client.log_inputs(run_id, [dataset])
    except STORE_ERRORS as error:
        if not re.search("unique|duplicate", str(error), re.IGNORECASE):
            raise
        client.log_inputs(run_id, [dataset])


def write_unsent(path: Path, run_id: str, actions: list[dict[str, Any]]) -> None:
    """Keeps actions that could not be sent as JSON lines, the run's id in the first.

    Raises:
        UserError: the file cannot be written.
    """
    lines = [json.dumps({"run_id": run_id}), *(json.dumps(action) for action in actions)]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def resend_kept(run_id: str) -> None:
    """Sends all that earlier parts of a run could not send (below :data:`UNSENT_FOLDER`), the oldest first.

    Where that fails, the log says why, and the file stays for ``python -m rna_s2.commands.resend``.
    """
    for path in sorted(UNSENT_FOLDER.glob(f"{run_id}-*.jsonl"), key=lambda path: path.stat().st_mtime_ns):
        try:
            logger.info("%d entries that waited in %s are sent", resend(path), path)
        except UserError as error:
            logger.warning("%s; it waits in %s", error, path)


def resend(path: Path) -> int:
    """Sends the entries of a file that :class:`Outbox` left, and removes it.

    Where the server goes away again in between, the file keeps what is still to be sent. An entry that the store refuses is
    left out and named in the log, as in a run. How the run ended is not sent where it has been resumed since: that is for
    the later part to say. A file whose copy is gone is named in the log.

    Returns:
        Number of entries sent.

    Raises:
        UserError: the file cannot be read; the store cannot be reached or does not have the run.
    """
    try:
        head, *actions = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        run_id = head["run_id"]
        if any(not _FIELDS[action["action"]] <= action.keys() for action in actions):
            raise ValueError("an entry lacks a field")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the file that the run named") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is not a file of unsent entries; give the .jsonl file that the run named") from error
    with tracking_store() as client:
        client.get_run(run_id)
    sent = 0
    for done, action in enumerate(actions):
        try:
            if action["action"] == "artifact" and not Path(action["path"]).exists():
                logger.error("%s: is gone and cannot be sent", action["path"])
                continue
            if action["action"] == "end" and int(client.get_run(run_id).data.tags.get(RESUMED_AT, 0)) > action["timestamp"]:
                logger.info("run %s was resumed since; it keeps its status", run_id)
                continue
            perform(client, run_id, action)
            sent += 1
        except STORE_ERRORS as error:
            if not is_outage(error):
                _say_refused(run_id, action, error)
                continue
            write_unsent(path, run_id, actions[done:])
            raise store_error(error) from error
    path.unlink()
    shutil.rmtree(path.with_suffix(".files"), ignore_errors=True)
    return sent
