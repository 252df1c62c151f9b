"""The tracked run of a training, of either stage: its lock, its config, its checkpoints, and what is logged at its end."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import yaml

from rna_s2.engine.tracker import MemoryTracker, Tracker
from rna_s2.fitting.checkpoints import checkpoint_folder, training_lock
from rna_s2.fitting.loop import FitResult
from rna_s2.options.base import Options
from rna_s2.options.errors import UserError
from rna_s2.tracking.artifacts import fetch_checkpoints
from rna_s2.tracking.registry import LoggedModel
from rna_s2.tracking.runs import MlflowTracker, resolve_run_id, start_run

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
"""The artifact of a run that holds its config."""


class Fitted(Protocol):
    """What came of a training."""

    @property
    def fit(self) -> FitResult:
        """What the training loop reported."""
        ...


Data = TypeVar("Data")
Result = TypeVar("Result", bound=Fitted)


@dataclass(frozen=True)
class TrainingSteps(Generic[Data, Result]):
    """What is particular to a stage, in the order in which it is done.

    Attributes:
        prepare: makes what the training needs, given the run's id and the tracker of its inputs.
        train: trains, given the data, the folder for checkpoints and the tracker.
        log_result: logs what came of it.
        log_model: logs the model; returns None where none is kept.
    """

    prepare: Callable[[str, Tracker], Data]
    train: Callable[[Data, Path, MlflowTracker], Result]
    log_result: Callable[[Data, Result, MlflowTracker], None]
    log_model: Callable[[Data, Result, MlflowTracker], LoggedModel | None]


@dataclass(frozen=True)
class TrackedResult(Generic[Data, Result]):
    """What a tracked training gave; ``model`` is None where none was logged."""

    run_id: str
    data: Data
    result: Result
    model: LoggedModel | None


def run_training(
    config: Options,
    steps: TrainingSteps[Data, Result],
    *,
    stage: str,
    name: str,
    experiment: str,
    resume: str,
    cache_dir: str,
    tags: Mapping[str, str] = {},
    parent_run_id: str | None = None,
) -> TrackedResult[Data, Result]:
    """Train in a new run, or go on with the one to resume, and log everything that the config describes.

    A run that had finished and has no epoch left to train stays as it is.

    Args:
        config: the whole training.
        steps: what is done.
        stage: the command, ``train`` or ``train_s1``.
        name: readable name of the run.
        experiment: name of the MLflow experiment.
        resume: id of the run to go on with; empty for a new one.
        cache_dir: folder whose subfolder holds the checkpoints.
        tags: tags of the run.
        parent_run_id: makes the run a child of that one.

    Raises:
        UserError: a step fails, or the run to resume or the tracking store cannot be used.
    """
    run_id = resolve_run_id(resume) if resume else None
    with ExitStack() as stack:
        if run_id is not None:
            stack.enter_context(training_lock(checkpoint_folder(cache_dir, run_id)))
        tracker = stack.enter_context(
            start_run(stage, name, experiment=experiment, tags=tags, parent_run_id=parent_run_id, run_id=run_id)
        )
        folder = checkpoint_folder(cache_dir, tracker.run_id)
        if run_id is None:
            log_config(config, tracker)
        inputs = MemoryTracker() if tracker.was_finished else tracker  # those of a finished run stand there already
        data = steps.prepare(tracker.run_id, inputs)
        if run_id is None:
            stack.enter_context(training_lock(folder))
        else:
            fetch_checkpoints(run_id, folder)
        result = steps.train(data, folder, tracker)
        if tracker.was_finished and not result.fit.trained:
            logger.info("run %s had finished and has no epoch left to train: nothing is logged again", run_id)
            return TrackedResult(tracker.run_id, data, result, None)
        if run_id is not None:
            log_config(config, tracker)
        steps.log_result(data, result, tracker)
        try:
            model = steps.log_model(data, result, tracker)
        except UserError as error:
            raise UserError(
                f"{error}; the training itself is done and its checkpoints are kept in {folder}: when that is mended, "
                f"{stage} with resume={tracker.run_id} logs the model"
            ) from error
        return TrackedResult(tracker.run_id, data, result, model)


def log_config(config: Options, tracker: Tracker) -> None:
    """Logs all options but ``resume``, as parameters and as :data:`CONFIG_FILE`."""
    values = config.model_dump(mode="json", exclude={"resume"})
    tracker.params(values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG_FILE
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        tracker.artifact(path)
