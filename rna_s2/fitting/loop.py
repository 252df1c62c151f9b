"""Fit a network: seeded, resumable after a kill at any moment, its metrics logged to a tracker once per epoch."""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar

from rna_s2.engine.processes import keep_freed_memory
from rna_s2.engine.tracker import Tracker
from rna_s2.fitting.checkpoints import BEST, CHECKPOINTS, LAST, AtomicCheckpoints, finished_epochs, load_checkpoint
from rna_s2.fitting.devices import Precision, chosen_device, warn_of_slow
from rna_s2.fitting.module import MONITOR, TrackedModule
from rna_s2.fitting.precision import faster_precision
from rna_s2.options.errors import UserError

logger = logging.getLogger(__name__)

COMPUTED = "computed"
"""Key under which a checkpoint keeps in which precision and on how many threads it was trained."""

HISTORY = "history"
"""Key under which a checkpoint keeps the metrics of each epoch so far."""

_SEED_STRIDE = 1_000_003  # keeps the seeds of neighbouring training seeds' epochs apart

History = Mapping[str, list[tuple[int, float]]]
"""Per metric the (epoch, value) pairs."""


class EpochDataset(Protocol):
    """Training batches whose order depends on a seed and the epoch alone."""

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next pass is."""

    def __iter__(self) -> Any: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class FitOptions:
    """How a network is fitted.

    Attributes:
        epochs: passes over the training batches in all, those before a resume included.
        seed: of everything random in training.
        precision: ``32``, ``bf16``, or ``auto`` for :func:`rna_s2.fitting.precision.faster_precision`.
        early_stopping: epochs without a better monitored metric until training stops; 0 for never.
        progress: show a progress bar, where stderr is a terminal.
        mirror_every: epochs between copies of the last checkpoint to the tracker.
        max_seconds: stop after the epoch in which this much time has passed since the call; None for no limit.
    """

    epochs: int
    seed: int
    precision: Precision = "32"
    early_stopping: int = 0
    progress: bool = True
    mirror_every: int = 10
    max_seconds: float | None = None


@dataclass(frozen=True)
class FitResult:
    """What came of a fit.

    Attributes:
        best_epoch: epoch (from 0) with the best monitored metric.
        best_value: that metric.
        epochs: epochs trained, those before a resume included.
        trained: epochs trained now.
        metrics: all metrics of the last epoch.
        seconds: wall seconds of this fit (of the last part, when resumed).
        checkpoint: the best checkpoint; None if no epoch had the metric.
        precision: ``32`` or ``bf16``.
        history: per metric the (epoch, value) pairs of all epochs, those before a resume included.
    """

    best_epoch: int
    best_value: float
    epochs: int
    metrics: Mapping[str, float]
    seconds: float
    checkpoint: Path | None
    precision: str
    trained: int
    history: History = field(default_factory=dict)


class _Epochs(pl.Callback):
    """Seeds each epoch, steps the data's epoch, and logs the metrics; checkpoints say how they were computed, and hold the
    metrics so far. Ends the training after the epoch in which ``deadline`` (seconds of the monotonic clock) passes."""

    def __init__(
        self, dataset: EpochDataset, seed: int, tracker: Tracker, computed: Mapping[str, Any], history: History, deadline: float
    ) -> None:
        self.dataset, self.seed, self.tracker, self.computed, self.deadline = dataset, seed, tracker, computed, deadline
        self.history = {name: [(int(epoch), float(value)) for epoch, value in pairs] for name, pairs in history.items()}
        self.started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        # A training that had stopped early has nothing left to do when it is resumed.
        if any(stopping.wait_count >= stopping.patience for stopping in trainer.early_stopping_callbacks):
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        torch.manual_seed(self.seed * _SEED_STRIDE + trainer.current_epoch)
        self.started = time.perf_counter()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[COMPUTED] = dict(self.computed)
        checkpoint[HISTORY] = {name: list(pairs) for name, pairs in self.history.items()}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        metrics = dict(pl_module.epoch_metrics)
        for name, value in metrics.items():
            self.history.setdefault(name, []).append((trainer.current_epoch, float(value)))
        metrics["epoch_seconds"] = time.perf_counter() - self.started
        self.tracker.metrics(metrics, step=trainer.current_epoch)
        names = [name for name in ("train/loss", "val/loss", MONITOR) if name in metrics]
        logger.info(
            "epoch %d of %d: %s  (%.1f s)", trainer.current_epoch + 1, trainer.max_epochs,
            "  ".join(f"{name} {metrics[name]:.4f}" for name in names), metrics["epoch_seconds"],
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.dataset.set_epoch(trainer.current_epoch + 1)
        if time.monotonic() >= self.deadline:
            trainer.should_stop = True


class _MirrorCheckpoint(pl.Callback):
    """Keeps a copy of the checkpoints with the run, and takes them over where they lie in another folder than before."""

    def __init__(self, folder: Path, tracker: Tracker, every: int) -> None:
        self.folder, self.tracker, self.every = folder, tracker, every

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch and trainer.current_epoch % self.every == 0:
            for name in (BEST, LAST):
                if (self.folder / name).is_file():
                    self.tracker.artifact(self.folder / name, CHECKPOINTS)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if state is None or not isinstance(callback, ModelCheckpoint):
                continue
            folder = str(callback.dirpath)
            if not (Path(folder) / Path(state["best_model_path"]).name).is_file():
                del checkpoint["callbacks"][callback.state_key]  # that epoch is lost; the best of the others is sought
                continue
            for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
                state[name] = _moved(state[name], folder)
            state["best_k_models"] = {_moved(path, folder): value for path, value in state["best_k_models"].items()}
            state["dirpath"] = folder


class _EarlyStopping(EarlyStopping):
    """Early stopping whose patience is the one that is given now, not that of the checkpoint."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})


def _moved(path: str, folder: str) -> str:
    return str(Path(folder) / Path(path).name) if path else path


def fit(
    module: TrackedModule, train: EpochDataset, val: Iterable[Any], options: FitOptions, *, folder: Path, tracker: Tracker
) -> FitResult:
    """Train ``module`` and leave ``best.ckpt`` and ``last.ckpt`` in ``folder``.

    When ``folder`` holds a ``last.ckpt``, training goes on from there; the result is that of an unbroken training,
    because the order of the data and all random numbers of an epoch depend only on the seed and the epoch's number.

    The network trains on a CUDA device where there is one. The process keeps the memory of freed arrays from then on
    (:func:`rna_s2.engine.processes.keep_freed_memory`): every step makes and frees the same ones.

    Every epoch must have the same number of batches: Lightning asks for ``len(train)`` once, before the first epoch, and
    ends every epoch there.

    Args:
        module: the network.
        train: training batches, one item per optimiser step; as many in each epoch.
        val: validation batches.
        options: how it is fitted.
        folder: for the checkpoints.
        tracker: the metrics of each epoch are logged to it.

    Raises:
        UserError: the checkpoint in ``folder`` cannot be used or written, or has had more epochs than it may; the loss is
            not finite; or a CUDA device's memory is out.
    """
    keep_freed_memory()
    deadline = math.inf if options.max_seconds is None else time.monotonic() + options.max_seconds
    folder.mkdir(parents=True, exist_ok=True)
    before = _last_checkpoint(folder, options.epochs)
    start_epoch = finished_epochs(before)
    train.set_epoch(start_epoch)
    computed = _computed(
        options.precision, before.get(COMPUTED, {}), lambda device: faster_precision(module, train, device, folder.parent)
    )
    tracker.tags({name: str(value) for name, value in computed.items()})
    epochs = _Epochs(train, options.seed, tracker, computed, before.get(HISTORY, {}), deadline)
    best = ModelCheckpoint(folder, filename="best", monitor=MONITOR, mode="max", save_top_k=1, enable_version_counter=False)
    last = ModelCheckpoint(folder, filename="last", every_n_epochs=1, save_top_k=1, enable_version_counter=False)
    mirror = _MirrorCheckpoint(folder, tracker, options.mirror_every)
    trainer = _trainer(options, computed, folder, [epochs, mirror, best, last])
    started = time.perf_counter()
    with _plain_ending():
        trainer.fit(
            module, _loader(train), _loader(val), ckpt_path=str(folder / LAST) if before else None, weights_only=True
        )
    path = Path(best.best_model_path) if best.best_model_path and Path(best.best_model_path).is_file() else None
    return FitResult(
        best_epoch=finished_epochs(load_checkpoint(path)) - 1 if path else -1,
        best_value=math.nan if best.best_model_score is None else float(best.best_model_score),
        epochs=trainer.current_epoch, trained=trainer.current_epoch - start_epoch,
        metrics=dict(module.epoch_metrics), history=epochs.history,
        seconds=time.perf_counter() - started, checkpoint=path, precision=computed["precision"],
    )


def _last_checkpoint(folder: Path, epochs: int) -> dict[str, Any]:
    """The checkpoint from which a training of so many epochs goes on; empty where there is none.

    Raises:
        UserError: the checkpoint cannot be used, or has had more epochs.
    """
    checkpoint = load_checkpoint(folder / LAST) if (folder / LAST).is_file() else {}
    trained = finished_epochs(checkpoint)
    if trained > epochs:
        raise UserError(f"the training has had {trained} epochs already; resume it with as many or more, not {epochs}")
    return checkpoint


def _computed(
    precision: Precision, before: Mapping[str, Any], faster: Callable[[torch.device], Precision]
) -> dict[str, Any]:
    """How a training is computed from now on: precision, threads and device; warns where it was computed otherwise before.

    ``faster`` chooses the precision of a training that begins, where it is ``auto``.
    """
    device = chosen_device()
    warn_of_slow(precision, device)
    if precision == "auto":
        precision = before.get("precision") or faster(device)  # the same to the end
    computed = {"precision": precision, "threads": torch.get_num_threads(), "device": device.type}
    if before and before != computed:
        now, then = (", ".join(f"{name} {value}" for name, value in values.items()) for values in (computed, before))
        logger.warning(
            "training goes on with %s, after %s: metrics are not those of an unbroken one to the last digit", now, then
        )
    return computed


def _trainer(options: FitOptions, computed: Mapping[str, Any], folder: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    if options.early_stopping:
        callbacks = [*callbacks, _EarlyStopping(MONITOR, mode="max", patience=options.early_stopping, check_finite=False)]
    progress = options.progress and sys.stderr.isatty()
    if progress:
        callbacks = [*callbacks, TQDMProgressBar(leave=False)]
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return pl.Trainer(
        accelerator=computed["device"], devices=1, use_distributed_sampler=False, num_sanity_val_steps=0,
        precision="bf16-mixed" if computed["precision"] == "bf16" else "32-true", max_epochs=options.epochs,
        callbacks=callbacks, plugins=[AtomicCheckpoints()], default_root_dir=folder,
        logger=False, enable_progress_bar=progress, enable_model_summary=False,
    )


@contextmanager
def _plain_ending() -> Iterator[None]:
    """Lightning's hints are left out of the log, and what ends a training from outside is raised as our own errors."""
    try:
        with warnings.catch_warnings():
            for message in (".*does not have many workers.*", ".*Checkpoint directory.*is not empty.*", ".*IterableDataset.*"):
                warnings.filterwarnings("ignore", message=message)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the memory of the CUDA device is out; make batches smaller (batch_size, or batch_pixels of stage 1), or train"
            " fewer models at a time (workers)"
        ) from error
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning makes a SystemExit of it
            raise KeyboardInterrupt from error
        raise


def _loader(batches: Any) -> torch.utils.data.DataLoader:
    """A loader that takes its own seed from a generator of its own: a number from the default one, which is taken in some
    epochs before they are seeded and in others after, would make a resumed training differ from an unbroken one."""
    return torch.utils.data.DataLoader(batches, batch_size=None, generator=torch.Generator())
