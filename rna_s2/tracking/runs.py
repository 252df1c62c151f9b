"""Runs in MLflow: readable names, inputs with digests, figures per epoch, and patience with a server that goes away."""

from __future__ import annotations

import functools
import getpass
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunStatus, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from rna_s2.engine.tracker import Step, flatten
from rna_s2.options.errors import TERMINATED, UserError
from rna_s2.options.files import atomic_path
from rna_s2.options.places import PROJECT_ROOT
from rna_s2.tracking.client import STORE_ERRORS, is_outage, open_client, store_error

DEFAULT_EXPERIMENT = "rna-s2"
CONTINUED_AS = "rna_s2.continued_as"
"""Tag of a run that ``mlflow run`` made in another experiment: the run that took its place."""

USED = "used."
"""What the tags of parameters in force begin with (:meth:`MlflowTracker.params`)."""
RESUMED_AT = "rna_s2.resumed_at"
"""Tag of a run that was gone on with: when, in milliseconds since 1970."""

UNSENT_FOLDER = Path("outputs/unsent")
"""Where a run keeps what it could not send, relative to the current folder."""

logger = logging.getLogger(__name__)

_DEFAULT_MLFLOW_EXPERIMENT_ID = "0"
_GENERATED_NAME = re.compile(r"[a-z]+-[a-z]+-\d{1,4}")
_REFUSED_IN_NAMES = re.compile(r"[^\w\-. /]", re.ASCII)
_METRICS_PER_BATCH = 1000
_ITEMS_PER_BATCH = 100
_PARAM_LENGTH = 6000
_NAME_LENGTH = 250
_TAG_LENGTH = 8000
_DIGEST_LENGTH = 36
_RETRY_SECONDS = 30.0
_RETRY_SECONDS_MOST = 300.0


class MlflowTracker:
    """The :class:`rna_s2.engine.tracker.Tracker` that writes to one MLflow run.

    While the tracking server cannot be reached, everything told to the tracker is kept in order and sent when the
    server is back; nothing raises, so that training goes on: also where the disk takes no copy of a file that waits, which the
    log then says is lost. What is left when the run ends goes to a file for ``python -m rna_s2.commands.resend``. A request that the
    server refuses is a :class:`UserError`; one that had to wait, and that the server refuses when it is back, is named in the
    log, and the others are sent.
    """

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self.client = client
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.has_figures = False
        """Whether figures were told to this tracker."""
        self.was_finished = False
        """Whether the run had finished before it was gone on with."""
        self._params = dict(run.data.params)
        self._used = {name for name in run.data.tags if name.startswith(USED)}
        self._unsent: list[dict[str, Any]] = []
        self._kept_as = UNSENT_FOLDER / f"{self.run_id}-{uuid.uuid4().hex[:8]}"  # another one where the run is resumed
        self._retry_at = 0.0
        self._retry_after = _RETRY_SECONDS

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
            self._send({"action": "params", "values": new})
        if used:
            self.tags(used)

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags of the run."""
        self._send({"action": "tags", "values": {_name(k): _cut(str(v), _TAG_LENGTH) for k, v in values.items()}})

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Figures at a step, in one request; NaN and infinite ones are left out, ``%`` in a name is ``percent``."""
        finite = {_name(name): float(value) for name, value in values.items() if math.isfinite(value)}
        if finite:
            self.has_figures = True
            self._send({"action": "metrics", "values": finite, "step": int(step), "timestamp": _now()})

    def dataset(self, name: str, digest: str, source: str, context: str, profile: Mapping[str, Any]) -> None:
        """An input of the run: where it lies, what it is for (``train``, ``prune``, ...), and its counts.

        MLflow shows 36 characters of the digest; the whole one is in the profile and in the tag ``digest.CONTEXT``.
        """
        values = {
            "name": name,
            "digest": digest[:_DIGEST_LENGTH] or "unknown",
            "source": json.dumps({"uri": str(source)}),
            "context": context,
            "profile": json.dumps({**profile, "digest": digest}, default=str),
        }
        self._send({"action": "dataset", "values": values})
        self.tags({f"digest.{context}": digest})

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file or folder kept with the run, in ``folder`` of its artifacts.

        Raises:
            UserError: there is no such file.
        """
        path = Path(path)
        if not path.exists():
            raise UserError(f"{path}: is not there, so it cannot be kept with the run")
        self._send({"action": "artifact", "path": str(path), "folder": folder})

    def figure(self, figure: Any, name: str) -> None:
        """A matplotlib figure kept with the run as the PNG ``name`` (``figures/roc`` or ``figures/roc.png``)."""
        target = Path(name if name.endswith(".png") else f"{name}.png")
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / target.name
            figure.savefig(path, format="png", dpi=120, bbox_inches="tight")
            self.artifact(path, "" if str(target.parent) == "." else target.parent.as_posix())

    def text(self, text: str, name: str) -> None:
        """A text kept with the run as the file ``name`` (``environment.txt``, ``reports/summary.md``)."""
        target = Path(name)
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / target.name
            path.write_text(text, encoding="utf-8")
            self.artifact(path, "" if str(target.parent) == "." else target.parent.as_posix())

    def end(self, status: str) -> None:
        """Marks the run as ended (``FINISHED``, ``FAILED``, ``KILLED``), and keeps in a file what could not be sent."""
        self._send({"action": "end", "status": status, "timestamp": _now()}, at_once=True)
        if self._unsent:
            path = self._kept_as.with_suffix(".jsonl")
            try:
                write_unsent(path, self.run_id, self._unsent)
            except UserError as error:
                logger.error("the tracking server is away: %d entries of run %s are lost (%s)",
                             len(self._unsent), self.run_id, error)
                return
            logger.warning(
                "the tracking server is away: %d entries of run %s are kept in %s; "
                "send them later with: python -m rna_s2.commands.resend %s",
                len(self._unsent), self.run_id, path, shlex.quote(str(path)),
            )  # fmt: skip

    def _send(self, action: dict[str, Any], at_once: bool = False) -> None:
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
                        logger.error("refused and left out of run %s: %s (%s)", self.run_id, _said(each), store_error(error))
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
            shutil.rmtree(self._kept_files(), ignore_errors=True)
        self._unsent = []
        self._retry_after = _RETRY_SECONDS

    def _kept_files(self) -> Path:
        """Where copies of files lie that wait to be sent."""
        return self._kept_as.with_suffix(".files")

    def _keep(self, action: dict[str, Any]) -> None:
        if action["action"] == "artifact":
            path = Path(action["path"])
            copy = (self._kept_files() / uuid.uuid4().hex[:8] / path.name).resolve()
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


def _said(action: Mapping[str, Any]) -> str:
    """An action in a few words: what it is, and the names or the file that it is about."""
    about = action.get("path") or ", ".join(map(str, action.get("values", ()))) or action.get("status", "")
    return f"{action['action']} {about}"


def perform(client: MlflowClient, run_id: str, action: Mapping[str, Any]) -> None:
    """Sends one kept action to a run.

    Raises:
        MlflowException, SQLAlchemyError, OSError: the store cannot be reached, or refuses it.
    """
    match action["action"]:
        case "metrics":
            metrics = [Metric(k, v, action["timestamp"], action["step"]) for k, v in action["values"].items()]
            for start in range(0, len(metrics), _METRICS_PER_BATCH):
                client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])
        case "params":
            params = [Param(k, v) for k, v in action["values"].items()]
            for start in range(0, len(params), _ITEMS_PER_BATCH):
                client.log_batch(run_id, params=params[start : start + _ITEMS_PER_BATCH])
        case "tags":
            tags = [RunTag(k, v) for k, v in action["values"].items()]
            for start in range(0, len(tags), _ITEMS_PER_BATCH):
                client.log_batch(run_id, tags=tags[start : start + _ITEMS_PER_BATCH])
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


@contextmanager
def start_run(
    stage: str,
    name: str,
    *,
    experiment: str = DEFAULT_EXPERIMENT,
    tags: Mapping[str, str] = {},
    parent_run_id: str | None = None,
    run_id: str | None = None,
) -> Iterator[MlflowTracker]:
    """A run for the length of a block: FINISHED when it ends, FAILED when it raises, KILLED when the user or SIGTERM stops it.

    ``mlflow run`` makes a run of its own before it starts the command, and puts it into MLflow's experiment ``Default``
    (number 0) unless its command line or environment says otherwise; an MLproject file has no say in that, a run cannot
    move to another experiment, and ``mlflow run`` fails at its end when its run has been deleted. What was done should
    be one run, in ``rna-s2``. So:

    * In a SQLite file whose experiment 0 has no other runs yet, that experiment is renamed to ``rna-s2``: the run of
      ``mlflow run``, this one and all later ones, stands where it should, and becomes this run.
    * The run of ``mlflow run`` becomes this run also where it stands in an experiment that the user chose.
    * Elsewhere (a server whose ``Default`` is everybody's, ``-P experiment=...``) this run is made in its experiment
      with the tags of the first one (entry point, source). The first one stays as a pointer: its name says so and a tag
      names its successor (:func:`resolve_run_id` follows it); the next run started from there deletes ended pointers.

    The experiment is: the parent's, for a child; ``experiment`` where it is not the default; the experiment that the
    user gave to ``mlflow run`` or in ``MLFLOW_EXPERIMENT_NAME`` or ``MLFLOW_EXPERIMENT_ID``; ``rna-s2``. A name given
    with ``--run-name`` is kept.

    Args:
        stage: what is done: ``prune``, ``featurize``, ``train``, ...; kept as the tag ``stage``.
        name: readable name of the run.
        experiment: name of the experiment; made where it is not there yet.
        tags: further tags. Git commit and whether files were changed since then are added.
        parent_run_id: makes this run a child.
        run_id: an existing run of the same stage to go on with. Where that fails or is stopped before any figure is told, a
            run that had finished stays so.

    Raises:
        UserError: the tracking store cannot be reached, or refuses the run; or the run to go on with is of another stage.
    """
    client = open_client()
    tags = {"stage": stage, **git_tags(), **tags}
    try:
        was_finished = run_id is not None and _is_finished(client, run_id, tags["stage"])
        run = _open_run(client, name, experiment, parent_run_id, run_id)
    except STORE_ERRORS as error:
        raise store_error(error) from error
    tracker = MlflowTracker(client, run)
    tracker.was_finished = was_finished
    tracker.tags(tags)
    if run_id is None:
        tracker.text(environment_text(), "environment.txt")
    logger.info("run %s: %s", tracker.run_id, name)
    try:
        yield tracker
    except BaseException as error:
        if was_finished and not tracker.has_figures:
            _end(tracker, "FINISHED")
        elif isinstance(error, KeyboardInterrupt) or getattr(error, "code", None) == TERMINATED:
            _end(tracker, "KILLED")
        elif isinstance(error, SystemExit):
            _end(tracker, "FAILED" if error.code else "FINISHED")
        else:
            _end(tracker, "FAILED", {"error": " ".join(f"{type(error).__name__}: {error}".split())})
        raise
    tracker.end("FINISHED")


def _is_finished(client: MlflowClient, run_id: str, stage: str) -> bool:
    """Whether a run of a stage has finished.

    Raises:
        UserError: the run is of another stage.
    """
    run = client.get_run(run_id)
    found = run.data.tags.get("stage", stage)
    if found != stage:
        raise UserError(f"run {run_id} is a run of {found}, not of {stage}; give the id of one that can be gone on with")
    return run.info.status == RunStatus.to_string(RunStatus.FINISHED)


def _end(tracker: MlflowTracker, status: str, tags: Mapping[str, str] = {}) -> None:
    """Ends a run because of an error, which is what the user must see, even where the store refuses this."""
    for say in (lambda: tracker.tags(tags) if tags else None, lambda: tracker.end(status)):
        try:
            say()
        except UserError as error:
            logger.error("run %s: %s", tracker.run_id, error)


def child_runs(parent_run_id: str) -> Step:
    """A :data:`rna_s2.engine.tracker.Step` whose runs are children of the given one."""

    def step(stage: str, name: str) -> AbstractContextManager[MlflowTracker]:
        return start_run(stage, name, parent_run_id=parent_run_id)

    return step


def resolve_run_id(run_id: str) -> str:
    """The run that took the place of ``run_id`` (see :func:`start_run`), or ``run_id`` itself.

    Raises:
        UserError: there is no such run, or the store cannot be reached.
    """
    client = open_client()
    try:
        return client.get_run(run_id).data.tags.get(CONTINUED_AS, run_id)
    except STORE_ERRORS as error:
        if getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise UserError(f"there is no run '{run_id}' in the tracking store; copy its id from mlflow ui") from error
        raise store_error(error) from error


def _open_run(client: MlflowClient, name: str, experiment: str, parent_run_id: str | None, run_id: str | None) -> Run:
    if run_id is not None:
        run = client.get_run(run_id)
        client.update_run(run_id, status="RUNNING")
        client.set_tag(run_id, RESUMED_AT, str(_now()))
        outer = _outer_run(client)
        if outer is not None and outer.info.run_id != run_id:
            _leave_pointer(client, outer, run)
        return run
    if parent_run_id is not None:
        parent = client.get_run(parent_run_id)
        return client.create_run(parent.info.experiment_id, run_name=name, tags={MLFLOW_PARENT_RUN_ID: parent_run_id})

    outer = _outer_run(client)
    experiment_id = _experiment_id(client, experiment, outer)
    tags = {MLFLOW_SOURCE_NAME: PROJECT_ROOT.name, MLFLOW_SOURCE_TYPE: "LOCAL", MLFLOW_USER: _user()}
    if outer is not None:
        if outer.info.run_name and not _GENERATED_NAME.fullmatch(outer.info.run_name):
            name = outer.info.run_name
        if outer.info.experiment_id == experiment_id:
            client.update_run(outer.info.run_id, name=name)
            return client.get_run(outer.info.run_id)
        tags = {k: v for k, v in outer.data.tags.items() if k != MLFLOW_RUN_NAME}
        parent = tags.get(MLFLOW_PARENT_RUN_ID)
        if parent is not None and client.get_run(parent).info.experiment_id != experiment_id:
            del tags[MLFLOW_PARENT_RUN_ID]
    run = client.create_run(experiment_id, run_name=name, tags=tags)
    if outer is not None:
        _leave_pointer(client, outer, run)
    return run


def _leave_pointer(client: MlflowClient, outer: Run, run: Run) -> None:
    """Marks the run of ``mlflow run`` as a pointer to its successor, and deletes earlier pointers that have ended."""
    for earlier in client.search_runs([outer.info.experiment_id], f"tags.`{CONTINUED_AS}` LIKE '%'"):
        if RunStatus.is_terminated(RunStatus.from_string(earlier.info.status)):
            client.delete_run(earlier.info.run_id)
    client.set_tag(outer.info.run_id, CONTINUED_AS, run.info.run_id)
    client.update_run(outer.info.run_id, name=f"see run {run.info.run_id[:8]} of experiment {run.info.experiment_id}")


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
    if name == DEFAULT_EXPERIMENT:
        chosen_id = os.environ.get("MLFLOW_EXPERIMENT_ID") if outer is None else outer.info.experiment_id
        if outer is not None and chosen_id != _DEFAULT_MLFLOW_EXPERIMENT_ID:
            return chosen_id
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or name
        if name == DEFAULT_EXPERIMENT and chosen_id and chosen_id != _DEFAULT_MLFLOW_EXPERIMENT_ID:
            return client.get_experiment(chosen_id).experiment_id
    found = client.get_experiment_by_name(name)
    if found is None and name == DEFAULT_EXPERIMENT and _is_ours_to_rename(client, outer):
        client.rename_experiment(_DEFAULT_MLFLOW_EXPERIMENT_ID, name)
        return _DEFAULT_MLFLOW_EXPERIMENT_ID
    if found is None:
        try:
            return client.create_experiment(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        raise UserError(
            f"experiment '{name}' was deleted; restore it with `mlflow experiments restore --experiment-id "
            f"{found.experiment_id}` or give another name"
        )
    return found.experiment_id


def _is_ours_to_rename(client: MlflowClient, outer: Run | None) -> bool:
    """Whether MLflow's experiment 0 lies in a SQLite file and holds no run but that of ``mlflow run``."""
    if not client.tracking_uri.startswith("sqlite:"):
        return False
    default = client.get_experiment(_DEFAULT_MLFLOW_EXPERIMENT_ID)
    if default.name != "Default" or default.lifecycle_stage != "active":
        return False
    runs = client.search_runs([default.experiment_id], run_view_type=ViewType.ALL, max_results=2)
    return all(outer is not None and run.info.run_id == outer.info.run_id for run in runs)


@functools.cache
def git_tags() -> dict[str, str]:
    """Commit of the project's folder and whether files differ from it; ``unknown`` where it is no clone."""
    commit = _git("rev-parse", "HEAD")
    if commit is None or _git("rev-parse", "--show-prefix"):  # a copy without its history within another repository
        return {"git_commit": "unknown", "git_dirty": "unknown"}
    status = _git("status", "--porcelain")
    return {
        "git_commit": commit,
        "git_dirty": "unknown" if status is None else str(bool(status)).lower(),
        MLFLOW_GIT_COMMIT: commit,
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(PROJECT_ROOT), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@functools.cache
def environment_text() -> str:
    """Interpreter, system, what PyTorch computes with (sums depend on the number of threads, in their last digits), and the
    exact version of every installed package, in the form of a requirements file."""
    packages = {f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions() if d.metadata["Name"]}
    head = [f"# Python {platform.python_version()}", f"# {platform.platform()}"]
    if "torch" in sys.modules:
        import torch

        head.append(f"# PyTorch: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    return "\n".join([*head, *sorted(packages, key=str.lower)]) + "\n"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in some containers
        return "unknown"


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
    return time.time_ns() // 1_000_000
