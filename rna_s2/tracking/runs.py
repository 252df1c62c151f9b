"""Runs in MLflow: where they stand, how they begin and end, and what is logged of them."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mlflow.entities import Run, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import (
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_PROJECT_ENTRY_POINT,
    MLFLOW_RUN_NAME,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from rna_s2.engine.processes import is_running, machine_name
from rna_s2.engine.tracker import StartRun, flatten
from rna_s2.options.errors import TERMINATED, UserError
from rna_s2.options.places import PROJECT_ROOT
from rna_s2.tracking.client import NOT_THERE, all_pages, is_outage, tracking_store
from rna_s2.tracking.outbox import RESUMED_AT, Outbox, resend_kept
from rna_s2.tracking.provenance import environment_text, git_tags, user_name

DEFAULT_EXPERIMENT = "rna-s2"
"""The experiment where nobody names one."""
CONTINUED_AS = "rna_s2.continued_as"
"""Tag of a run that ``mlflow run`` made in another experiment: the run that took its place."""
MACHINE, PROCESS = "rna_s2.machine", "rna_s2.process"
"""Tags of a run: where it was computed last, and by which process."""
USED = "used."
"""What the tags of parameters in force begin with (:meth:`MlflowTracker.params`)."""

logger = logging.getLogger(__name__)

_GENERATED_NAME = re.compile(r"[a-z]+-[a-z]+-\d{1,4}")
_REFUSED_IN_NAMES = re.compile(r"[^\w\-. /]", re.ASCII)
_PARAM_LENGTH = 6000
_NAME_LENGTH = 250
_TAG_LENGTH = 8000
_DIGEST_LENGTH = 36


class MlflowTracker:
    """The :class:`rna_s2.engine.tracker.Tracker` that writes to one MLflow run, through an :class:`Outbox`.

    Attributes:
        has_metrics: whether metrics were logged through this tracker.
        was_finished: whether the run had finished before it was resumed.
    """

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self.client = client
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.has_metrics = False
        self.was_finished = False
        self._params = dict(run.data.params)
        self._used = {name for name in run.data.tags if name.startswith(USED)}
        self._outbox = Outbox(client, self.run_id)

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters of the run; nested mappings become dotted names, sequences ``a, b``.

        A parameter cannot change in MLflow. One that the run already has with another value (from ``mlflow run``, or
        from the run that is resumed) keeps it, and the value in force stands in the tag ``used.NAME``.
        """
        new, used = {}, {}
        for name, value in flatten(values).items():
            key, text = _name(name), _cut(param_text(value), _PARAM_LENGTH)
            old = self._params.get(key)
            if old is None:
                new[key] = text
            elif text not in (old, _unquoted(old)) or f"{USED}{key}" in self._used:
                used[f"{USED}{key}"] = text
        self._params.update(new)
        self._used |= used.keys()
        if new:
            self._outbox.send({"action": "params", "values": new})
        if used:
            self.tags(used)

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags of the run."""
        self._outbox.send({"action": "tags", "values": {_name(k): _cut(str(v), _TAG_LENGTH) for k, v in values.items()}})

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Metrics at a step, in one request; NaN and infinite ones are left out, ``%`` in a name is ``percent``."""
        finite = {_name(name): float(value) for name, value in values.items() if math.isfinite(value)}
        if finite:
            self.has_metrics = True
            self._outbox.send({"action": "metrics", "values": finite, "step": int(step), "timestamp": _now()})

    def dataset(self, name: str, digest: str, source: str, context: str, profile: Mapping[str, Any]) -> None:
        """An input of the run: where it lies, what it is for (``train``, ``prune``, ...), and its counts.

        MLflow shows 36 characters of the digest; the whole one is in the profile and in the tag ``digest.CONTEXT``.
        """
        values = {
            "name": name, "digest": digest[:_DIGEST_LENGTH] or "unknown", "source": json.dumps({"uri": str(source)}),
            "context": context, "profile": json.dumps({**profile, "digest": digest}, default=str),
        }
        self._outbox.send({"action": "dataset", "values": values})
        self.tags({f"digest.{context}": digest})

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file or folder kept with the run, in ``folder`` of its artifacts.

        Raises:
            UserError: there is no such file.
        """
        path = Path(path)
        if not path.exists():
            raise UserError(f"{path}: is not there, so it cannot be kept with the run")
        self._outbox.send({"action": "artifact", "path": str(path), "folder": folder})

    def plot(self, figure: Any, name: str) -> None:
        """A matplotlib ``Figure`` kept with the run as the PNG ``name`` (``plots/roc`` or ``plots/roc.png``)."""
        with self._file(f"{name.removesuffix('.png')}.png") as path:
            figure.savefig(path, format="png", dpi=120, bbox_inches="tight")

    def text(self, text: str, name: str) -> None:
        """A text kept with the run as the file ``name`` (``environment.txt``, ``reports/summary.md``)."""
        with self._file(name) as path:
            path.write_text(text, encoding="utf-8")

    @contextmanager
    def _file(self, name: str) -> Iterator[Path]:
        """Where the block writes the artifact ``name``, which is then kept with the run."""
        folder, _, last = name.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary) / last
            self.artifact(Path(temporary) / last, folder)

    def end(self, status: str) -> None:
        """Marks the run as ended (``FINISHED``, ``FAILED``, ``KILLED``), and keeps in a file what could not be sent."""
        self._outbox.send({"action": "end", "status": status, "timestamp": _now()}, at_once=True)
        self._outbox.keep_unsent()


@contextmanager
def start_run(
    stage: str, name: str, *, experiment: str = "", tags: Mapping[str, str] = {}, parent_run_id: str | None = None,
    run_id: str | None = None
) -> Iterator[MlflowTracker]:
    """A run for the length of a block: FINISHED when it ends, FAILED when it raises, KILLED when the user or SIGTERM stops it.

    The experiment is: the parent's, for a child; ``experiment``, where one is given; the one that ``mlflow run`` chose; the one
    that ``MLFLOW_EXPERIMENT_NAME`` or ``MLFLOW_EXPERIMENT_ID`` names; :data:`DEFAULT_EXPERIMENT`.

    ``mlflow run`` makes a run of its own before it starts the command. That run becomes this one, and takes its name unless
    ``--run-name`` gave one. Where this run must stand in another experiment, a run is made there: a run cannot move. The
    first one stays as a pointer: its name says so, and a tag names its successor (:func:`resolve_run_id` follows it). No
    experiment is renamed, no run that the user made is, and nothing is deleted. Runs of this machine whose process was
    killed are marked as KILLED first.

    Args:
        stage: what is done: ``prune``, ``featurize``, ``train``, ...; kept as the tag ``stage``.
        name: of :func:`rna_s2.tracking.names.run_name`.
        experiment: name of the experiment, made where it is not there yet; empty: see above.
        tags: further tags. Git commit and whether files were changed since then are added.
        parent_run_id: makes this run a child.
        run_id: an existing run of the same stage to resume; what it could not send is sent first. Where that fails or is
            stopped before any metric is logged, a run that had finished stays so.

    Raises:
        UserError: the tracking store cannot be reached, or refuses the run; or the run to resume is of another stage.
    """
    tags = {"stage": stage, MACHINE: machine_name(), PROCESS: str(os.getpid()), **git_tags(), **tags}
    with tracking_store() as client:
        if parent_run_id is None:
            _end_dead_runs(client)
        if run_id is not None:
            resend_kept(run_id)
        was_finished = run_id is not None and _is_finished(client, run_id, tags["stage"])
        run = _open_run(client, name, experiment, parent_run_id, run_id)
    tracker = MlflowTracker(client, run)
    tracker.was_finished = was_finished
    tracker.tags(tags)
    if run_id is None:
        tracker.text(environment_text(), "environment.txt")
    logger.info("run %s: %s", tracker.run_id, name)
    try:
        yield tracker
    except BaseException as error:
        if was_finished and not tracker.has_metrics:
            _end(tracker, "FINISHED")
        elif isinstance(error, KeyboardInterrupt) or getattr(error, "code", None) == TERMINATED:
            _end(tracker, "KILLED")
        elif isinstance(error, SystemExit):
            _end(tracker, "FAILED" if error.code else "FINISHED")
        else:
            _end(tracker, "FAILED", {"error": " ".join(f"{type(error).__name__}: {error}".split())})
        raise
    tracker.end("FINISHED")


def _end_dead_runs(client: MlflowClient) -> None:
    """Marks runs as KILLED whose process ended without a word, as SIGKILL and lack of memory end one, on this machine."""
    experiments = [each.experiment_id for each in all_pages(client.search_experiments)]
    wanted = f"attributes.status = 'RUNNING' and tags.`{MACHINE}` = '{machine_name()}'"
    for run in list(all_pages(client.search_runs, experiments, wanted)):
        process = run.data.tags.get(PROCESS, "")
        if process.isdecimal() and not is_running(int(process)):
            client.set_terminated(run.info.run_id, "KILLED")
            logger.warning("run %s: its process has ended without saying how; it is marked as KILLED", run.info.run_id)


def _is_finished(client: MlflowClient, run_id: str, stage: str) -> bool:
    """Whether a run of a stage has finished.

    Raises:
        UserError: the run is of another stage.
    """
    run = client.get_run(run_id)
    found = run.data.tags.get("stage", stage)
    if found != stage:
        raise UserError(f"run {run_id} is a run of {found}, not of {stage}; give the id of one that can be resumed")
    return run.info.status == RunStatus.to_string(RunStatus.FINISHED)


def _end(tracker: MlflowTracker, status: str, tags: Mapping[str, str] = {}) -> None:
    """Ends a run because of an error, which is what the user must see, even where the store refuses this."""
    for say in (lambda: tracker.tags(tags) if tags else None, lambda: tracker.end(status)):
        try:
            say()
        except UserError as error:
            logger.error("run %s: %s", tracker.run_id, error)


def child_runs(parent_run_id: str) -> StartRun:
    """A :data:`rna_s2.engine.tracker.StartRun` whose runs are children of the given one."""
    return partial(start_run, parent_run_id=parent_run_id)


def resolve_run_id(run_id: str) -> str:
    """The run that took the place of ``run_id`` (see :func:`start_run`), or ``run_id`` itself.

    Raises:
        UserError: there is no such run, or the store cannot be reached.
    """
    with tracking_store() as client:
        try:
            return client.get_run(run_id).data.tags.get(CONTINUED_AS, run_id)
        except MlflowException as error:
            if error.error_code not in NOT_THERE:
                raise
            raise UserError(f"there is no run '{run_id}' in the tracking store; copy its id from mlflow ui") from error


def _open_run(client: MlflowClient, name: str, experiment: str, parent_run_id: str | None, run_id: str | None) -> Run:
    if run_id is not None:
        run = client.get_run(run_id)
        for tag, value in ((MACHINE, machine_name()), (PROCESS, os.getpid()), (RESUMED_AT, _now())):
            client.set_tag(run_id, tag, str(value))
        client.update_run(run_id, status="RUNNING")
        outer = _outer_run(client)
        if outer is not None and outer.info.run_id != run_id:
            _leave_pointer(client, outer, run)
        return run
    if parent_run_id is not None:
        parent = client.get_run(parent_run_id)
        return client.create_run(parent.info.experiment_id, run_name=name, tags={MLFLOW_PARENT_RUN_ID: parent_run_id})

    outer = _outer_run(client)
    experiment_id = _experiment_id(client, experiment, outer)
    tags = {MLFLOW_SOURCE_NAME: PROJECT_ROOT.name, MLFLOW_SOURCE_TYPE: "LOCAL", MLFLOW_USER: user_name()}
    if outer is not None:
        if outer.info.run_name and not (_is_of_mlflow_run(outer) and _GENERATED_NAME.fullmatch(outer.info.run_name)):
            name = outer.info.run_name
        if outer.info.experiment_id == experiment_id:
            client.update_run(outer.info.run_id, name=name)
            return client.get_run(outer.info.run_id)
        tags = {k: v for k, v in outer.data.tags.items() if k != MLFLOW_RUN_NAME}
        parent_of_outer = tags.get(MLFLOW_PARENT_RUN_ID)
        if parent_of_outer is not None and client.get_run(parent_of_outer).info.experiment_id != experiment_id:
            del tags[MLFLOW_PARENT_RUN_ID]
    run = client.create_run(experiment_id, run_name=name, tags=tags)
    if outer is not None:
        _leave_pointer(client, outer, run)
    return run


def _leave_pointer(client: MlflowClient, outer: Run, run: Run) -> None:
    """Marks the run of this process as a pointer to its successor; one that the user made keeps its name."""
    client.set_tag(outer.info.run_id, CONTINUED_AS, run.info.run_id)
    if _is_of_mlflow_run(outer):
        client.update_run(outer.info.run_id, name=f"see run {run.info.run_id[:8]} of experiment {run.info.experiment_id}")


def _is_of_mlflow_run(run: Run) -> bool:
    """Whether ``mlflow run`` made a run, not a user who named it in ``MLFLOW_RUN_ID``."""
    return MLFLOW_PROJECT_ENTRY_POINT in run.data.tags


def _outer_run(client: MlflowClient) -> Run | None:
    """The run that ``mlflow run`` made for this process.

    It is given once, so that further runs and processes that are started from here do not take it too.
    """
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if is_outage(error):
            raise
        logger.warning(
            "run %s of `mlflow run` is not in this tracking store (a relative sqlite:/// address means another file in "
            "another folder); making a run here", run_id,
        )  # fmt: skip
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _experiment_id(client: MlflowClient, name: str, outer: Run | None) -> str:
    """The experiment of a run without a parent (:func:`start_run`)."""
    if not name and outer is not None:
        return outer.info.experiment_id
    if not name and not os.environ.get("MLFLOW_EXPERIMENT_NAME") and os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return client.get_experiment(os.environ["MLFLOW_EXPERIMENT_ID"]).experiment_id
    name = name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found is None:
        raise UserError(f"experiment '{name}' cannot be made; give another name")
    if found.lifecycle_stage != "active":
        raise UserError(
            f"experiment '{name}' was deleted; restore it with `mlflow experiments restore --experiment-id "
            f"{found.experiment_id}` or give another name"
        )
    return found.experiment_id


def param_text(value: Any) -> str:
    """A parameter's value as the UI shows it: ``none``, ``true``, ``0.9, 0.98``."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(param_text(v) for v in (value if isinstance(value, (list, tuple)) else sorted(value)))
    return str(value)


def _unquoted(text: str) -> str:
    """A parameter as ``mlflow run`` logs it (quoted for the shell), as it was given."""
    try:
        return " ".join(shlex.split(text))
    except ValueError:
        return text


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    mark = f"... ({len(text)} characters)"
    return text[: limit - len(mark)] + mark


def _name(name: str) -> str:
    """A name that MLflow takes: no other characters than it allows, no part that a path would not keep, not too long."""
    parts = _REFUSED_IN_NAMES.sub("_", name.replace("%", "percent")).split("/")
    return "/".join(part if part.strip(".") else "_" * max(len(part), 1) for part in parts)[:_NAME_LENGTH].rstrip("/")


def _now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return time.time_ns() // 1_000_000
