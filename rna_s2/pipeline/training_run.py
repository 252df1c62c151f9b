"""The tracked run of a training, of either stage: its lock, its config, its checkpoints, and what is logged at its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from rna_s2.engine.tracker import MemoryTracker, Tracker
from rna_s2.fitting.checkpoints import checkpoint_folder, training_lock
from rna_s2.fitting.loop import FitResult
from rna_s2.options.errors import UserError
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.steps.outputs import log_files
from rna_s2.tracking.artifacts import fetch_checkpoints
from rna_s2.tracking.runs import MlflowTracker, resolve_run_id, start_run

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
"""The artifact of a run that holds its config."""


@dataclass(frozen=True)
class TrainingRun:
    """The run of a training; :func:`training_run` makes it.

    Attributes:
        stage: the command.
        folder: for its checkpoints; to be had from :meth:`open_checkpoints`.
        is_resumed: whether the run was there before.
    """

    config: TrackedOptions
    stage: str
    tracker: MlflowTracker
    folder: Path
    is_resumed: bool
    _stack: ExitStack

    @property
    def inputs(self) -> Tracker:
        """The tracker of the inputs; those of a run that had finished stand there already."""
        return MemoryTracker() if self.tracker.was_finished else self.tracker

    def open_checkpoints(self) -> Path:
        """The folder for the checkpoints, which this process holds until the run ends; with those that a resumed run kept."""
        if self.is_resumed:
            fetch_checkpoints(self.tracker.run_id, self.folder)
        else:
            self._stack.enter_context(training_lock(self.folder))
        return self.folder

    def has_results(self, fit: FitResult) -> bool:
        """Whether results are to be logged: not where the run had finished and had no epoch left to train. The config of a
        resumed run is logged first, as it is now."""
        if self.tracker.was_finished and not fit.trained:
            logger.info("run %s had finished and has no epoch left to train: nothing is logged again", self.tracker.run_id)
            return False
        if self.is_resumed:
            log_config(self.config, self.tracker)
        return True

    @contextmanager
    def logs_model(self) -> Iterator[None]:
        """A block that logs the model; where it fails, the error says how to log it later."""
        try:
            yield
        except UserError as error:
            raise UserError(
                f"{error}; the training itself is done and its checkpoints are kept in {self.folder}: when that is mended, "
                f"{self.stage} with resume={self.tracker.run_id} logs the model"
            ) from error


@contextmanager
def training_run(
    config: TrackedOptions, *, stage: str, name: str, resume: str, cache_dir: str, tags: Mapping[str, str],
    parent_run_id: str | None = None,
) -> Iterator[TrainingRun]:
    """A new run for the length of a block, with its config; or the one to resume, whose checkpoints this process then holds.

    Args:
        config: the whole training.
        stage: the command, ``train`` or ``train_s1``.
        name: readable name of the run.
        resume: id of the run to go on with; empty for a new one.
        cache_dir: folder whose subfolder holds the checkpoints.
        tags: of the run.
        parent_run_id: makes the run a child of that one.

    Raises:
        UserError: the run to resume or the tracking store cannot be used.
    """
    run_id = resolve_run_id(resume) if resume else None
    with ExitStack() as stack:
        if run_id is not None:
            stack.enter_context(training_lock(checkpoint_folder(cache_dir, run_id)))
        tracker = stack.enter_context(
            start_run(stage, name, experiment=config.experiment, tags=tags, parent_run_id=parent_run_id, run_id=run_id)
        )
        if run_id is None:
            log_config(config, tracker)
        folder = checkpoint_folder(cache_dir, tracker.run_id)
        yield TrainingRun(config, stage, tracker, folder, run_id is not None, stack)


def log_config(config: TrackedOptions, tracker: Tracker) -> None:
    """Logs all options but ``resume``, as parameters and as :data:`CONFIG_FILE`."""
    values = config.model_dump(mode="json", exclude={"resume"})
    tracker.params(values)
    log_files(tracker, {CONFIG_FILE: yaml.safe_dump(values, sort_keys=False)})
