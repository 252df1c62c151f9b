"""Fit a network: seeded, resumable after a kill at any moment, its figures told to a tracker once per epoch."""

from __future__ import annotations

import io
import logging
import math
import sys
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from rna_s2.engine.processes import keep_freed_memory
from rna_s2.engine.tracker import Tracker
from rna_s2.fitting.devices import Precision, chosen_device, chosen_precision, warn_of_slow
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path

logger = logging.getLogger(__name__)

LAST = "last.ckpt"
BEST = "best.ckpt"
CHECKPOINTS = "checkpoints"
"""Folder of a run's artifacts that holds copies of both; and of the cache that holds those of each run."""

COMPUTED = "computed"
"""Key under which a checkpoint keeps in which precision and on how many threads it was trained."""

HISTORY = "history"
"""Key under which a checkpoint keeps the figures of each epoch so far."""

_LOCK = "training.lock"
_NO_FIGURE = -1.0  # stands for an undefined figure where the best epoch is chosen: worse than any real one
_SEED_STRIDE = 1_000_003  # keeps the seeds of neighbouring training seeds' epochs apart


class EpochDataset(Protocol):
    """Training batches whose order depends on a seed and the epoch alone."""

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next pass is."""

    def __iter__(self) -> Any: ...

    def __len__(self) -> int: ...


class TrackedModule(pl.LightningModule):
    """A network with its loss and figures; subclasses say what a step is and how an epoch is summed up.

    Attributes:
        monitor: the figure whose highest value marks the best epoch.
        epoch_figures: all figures of the epoch that ended last.
    """

    monitor = "val/auroc"

    @abstractmethod
    def step(self, batch: Any) -> tuple[Tensor, Any, int]:
        """The loss of a batch (mean over its examples), what :meth:`summarise` needs, and the number of examples."""

    @abstractmethod
    def summarise(self, part: str, outputs: list[Any]) -> dict[str, float]:
        """Figures of an epoch from its steps' outputs; ``part`` is ``train`` or ``val``."""

    def on_fit_start(self) -> None:
        self._collected: dict[str, list[tuple[Tensor, Any, int]]] = {"train": [], "val": []}
        self.epoch_figures: dict[str, float] = {}

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss, output, examples = self.step(batch)
        self._collected["train"].append((loss.detach(), output, examples))
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        loss, output, examples = self.step(batch)
        self._collected["val"].append((loss.detach(), output, examples))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def on_validation_epoch_end(self) -> None:
        # Lightning validates within the training epoch, so both parts are complete here.
        self.epoch_figures = {}
        for part, collected in self._collected.items():
            if not collected:
                continue
            losses = torch.stack([loss for loss, _, _ in collected]).double().cpu()
            examples = torch.tensor([n for _, _, n in collected], dtype=torch.float64)
            loss = float((losses * examples).sum() / examples.sum())
            if not math.isfinite(loss):
                raise UserError(
                    f"the {part} loss is {loss} in epoch {self.current_epoch}; use a lower learning rate (lr)"
                )
            figures = {"loss": loss} | self.summarise(part, [output for _, output, _ in collected])
            self.epoch_figures |= {f"{part}/{name}": value for name, value in figures.items()}
        for collected in self._collected.values():
            collected.clear()
        value = self.epoch_figures.get(self.monitor, math.nan)
        self.log(self.monitor, value if math.isfinite(value) else _NO_FIGURE, prog_bar=True, batch_size=1)


@dataclass(frozen=True)
class FitResult:
    """What came of a fit.

    Attributes:
        best_epoch: epoch (from 0) with the best monitored figure.
        best_value: that figure.
        epochs: epochs trained, those before a resume included.
        trained: epochs trained now.
        figures: all figures of the last epoch.
        seconds: wall seconds of this fit (of the last part, when resumed).
        checkpoint: the best checkpoint; None if no epoch had a figure.
        precision: ``32`` or ``bf16``.
        history: per figure the (epoch, value) pairs of all epochs, those before a resume included.
    """

    best_epoch: int
    best_value: float
    epochs: int
    figures: Mapping[str, float]
    seconds: float
    checkpoint: Path | None
    precision: str
    trained: int
    history: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)


def checkpoint_folder(cache_dir: str | Path, run_id: str) -> Path:
    """Where the checkpoints of a run lie."""
    return Path(cache_dir) / CHECKPOINTS / run_id


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds the checkpoints in ``folder`` for this process, so that no other trains into them at the same time.

    Raises:
        UserError: another process holds them, or the folder cannot be written.
    """
    lock = FileLock(folder / _LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{folder}: another process is training there; wait until it ends, or stop it") from error
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another cache_dir") from error
    try:
        yield
    finally:
        lock.release()


class _AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are never half written; Lightning's own are moved from the folder for temporary files, which copies
    them where that lies on another file system."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        buffer = io.BytesIO()  # what torch.save says of a full disk is no OSError
        torch.save(checkpoint, buffer)
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())


class _Epochs(pl.Callback):
    """Seeds each epoch, steps the data's epoch, and tells the tracker the figures; checkpoints say how they were computed, and
    hold the figures so far. Ends the training after the epoch in which ``deadline`` (seconds of the monotonic clock) passes."""

    def __init__(
        self, dataset: EpochDataset, seed: int, tracker: Tracker, computed: Mapping[str, Any],
        history: Mapping[str, list[tuple[int, float]]], deadline: float,
    ) -> None:
        self.dataset, self.seed, self.tracker, self.computed, self.deadline = dataset, seed, tracker, computed, deadline
        self.history = {name: [(int(epoch), float(value)) for epoch, value in pairs] for name, pairs in history.items()}
        self.started = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: TrackedModule) -> None:
        # A training that had stopped early has nothing left to do when it is resumed.
        if any(stopping.wait_count >= stopping.patience for stopping in trainer.early_stopping_callbacks):
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: pl.Trainer, module: TrackedModule) -> None:
        torch.manual_seed(self.seed * _SEED_STRIDE + trainer.current_epoch)
        self.started = time.perf_counter()

    def on_save_checkpoint(self, trainer: pl.Trainer, module: TrackedModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[COMPUTED] = dict(self.computed)
        checkpoint[HISTORY] = {name: list(pairs) for name, pairs in self.history.items()}

    def on_validation_end(self, trainer: pl.Trainer, module: TrackedModule) -> None:
        figures = dict(module.epoch_figures)
        for name, value in figures.items():
            self.history.setdefault(name, []).append((trainer.current_epoch, float(value)))
        figures["epoch_seconds"] = time.perf_counter() - self.started
        self.tracker.metrics(figures, step=trainer.current_epoch)
        names = [name for name in ("train/loss", "val/loss", module.monitor) if name in figures]
        logger.info(
            "epoch %d of %d: %s  (%.1f s)", trainer.current_epoch + 1, trainer.max_epochs,
            "  ".join(f"{name} {figures[name]:.4f}" for name in names), figures["epoch_seconds"],
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, module: TrackedModule) -> None:
        self.dataset.set_epoch(trainer.current_epoch + 1)
        if time.monotonic() >= self.deadline:
            trainer.should_stop = True


class _MirrorCheckpoint(pl.Callback):
    """Keeps a copy of the checkpoints with the run, and takes them over where they lie in another folder than before."""

    def __init__(self, folder: Path, tracker: Tracker, every: int) -> None:
        self.folder, self.tracker, self.every = folder, tracker, every

    def on_train_epoch_start(self, trainer: pl.Trainer, module: TrackedModule) -> None:
        if trainer.current_epoch and trainer.current_epoch % self.every == 0:
            for name in (BEST, LAST):
                if (self.folder / name).is_file():
                    self.tracker.artifact(self.folder / name, CHECKPOINTS)

    def on_load_checkpoint(self, trainer: pl.Trainer, module: TrackedModule, checkpoint: dict[str, Any]) -> None:
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if state is None:
                continue
            if not (Path(callback.dirpath) / Path(state["best_model_path"]).name).is_file():
                del checkpoint["callbacks"][callback.state_key]  # that epoch is lost; the best of the others is sought
                continue
            for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
                state[name] = _moved(state[name], callback.dirpath)
            state["best_k_models"] = {_moved(p, callback.dirpath): value for p, value in state["best_k_models"].items()}
            state["dirpath"] = callback.dirpath


def _moved(path: str, folder: str) -> str:
    return str(Path(folder) / Path(path).name) if path else path


def fit(
    module: TrackedModule,
    train: EpochDataset,
    val: Iterable[Any],
    *,
    epochs: int,
    seed: int,
    folder: Path,
    tracker: Tracker,
    precision: Precision = "32",
    early_stopping: int = 0,
    monitor: str = "val/auroc",
    progress: bool = True,
    mirror_every: int = 10,
    max_seconds: float | None = None,
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
        epochs: passes over ``train`` in all, those before a resume included.
        seed: of everything random in training.
        folder: for the checkpoints.
        tracker: is told the figures of each epoch.
        precision: :func:`rna_s2.fitting.devices.chosen_precision`.
        early_stopping: epochs without a better monitored figure until training stops; 0 for never.
        monitor: the figure whose highest value marks the best epoch.
        progress: show a progress bar, where stderr is a terminal.
        mirror_every: epochs between copies of the last checkpoint to the tracker.
        max_seconds: stop after the epoch in which this much time has passed since the call; None for no limit.

    Raises:
        UserError: the checkpoint in ``folder`` cannot be used or written, or has had more epochs than ``epochs``; the loss is
            not finite; or a CUDA device's memory is out.
    """
    keep_freed_memory()
    device = chosen_device()
    folder.mkdir(parents=True, exist_ok=True)
    resume = folder / LAST
    deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
    start_epoch, before, history = 0, {}, {}
    if resume.is_file():
        start_epoch, before, history = _begun(resume)
        if start_epoch > epochs:
            raise UserError(f"the training has had {start_epoch} epochs already; resume it with as many or more, not {epochs}")
    warn_of_slow(precision, device)
    if precision == "auto":
        precision = before.get("precision", precision)  # the same to the end
    computed = {"precision": chosen_precision(precision, device), "threads": torch.get_num_threads(), "device": device.type}
    if before and before != computed:
        logger.warning("training goes on with %s, after %s: figures are not those of an unbroken one to the last digit",
                       _told(computed), _told(before))
    tracker.tags({name: str(value) for name, value in computed.items()})
    train.set_epoch(start_epoch)
    best = ModelCheckpoint(
        folder, filename="best", monitor=monitor, mode="max", save_top_k=1, enable_version_counter=False
    )
    last = ModelCheckpoint(folder, filename="last", every_n_epochs=1, save_top_k=1, enable_version_counter=False)
    module.monitor = monitor
    told = _Epochs(train, seed, tracker, computed, history, deadline)
    callbacks: list[pl.Callback] = [
        told,
        _MirrorCheckpoint(folder, tracker, mirror_every),
    ]
    if early_stopping:
        callbacks.append(EarlyStopping(monitor, mode="max", patience=early_stopping, check_finite=False))
    progress = progress and sys.stderr.isatty()
    if progress:
        callbacks.append(TQDMProgressBar(leave=False))
    _quiet()
    trainer = pl.Trainer(
        accelerator=device.type,
        devices=1,
        precision="bf16-mixed" if computed["precision"] == "bf16" else "32-true",
        max_epochs=epochs,
        callbacks=[*callbacks, best, last],
        plugins=[_AtomicCheckpoints()],
        logger=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory.*exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*IterableDataset.*")
        warnings.filterwarnings("ignore", category=FutureWarning)
        try:
            trainer.fit(
                module,
                _loader(train),
                _loader(val),
                ckpt_path=str(resume) if resume.is_file() else None,
                weights_only=True,
            )
        except torch.OutOfMemoryError as error:
            raise UserError(
                "the memory of the CUDA device is out; make batches smaller (batch_size, or batch_pixels of stage 1), or train"
                " fewer models at a time (workers)"
            ) from error
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning makes a SystemExit of it
                raise KeyboardInterrupt from error
            raise
    path = Path(best.best_model_path) if best.best_model_path else None
    value = float(best.best_model_score) if best.best_model_score is not None else math.nan
    return FitResult(
        best_epoch=checkpoint_epoch(path) - 1 if path and path.is_file() else -1,
        best_value=value,
        epochs=trainer.current_epoch,
        figures=dict(getattr(module, "epoch_figures", {})),
        seconds=time.perf_counter() - started,
        checkpoint=path if path and path.is_file() else None,
        precision=computed["precision"],
        trained=trainer.current_epoch - start_epoch,
        history=told.history,
    )


def _begun(path: Path) -> tuple[int, dict[str, Any], dict[str, list[tuple[int, float]]]]:
    """How many epochs the training of a checkpoint had finished, how they were computed and what their figures were; the last
    two empty where that is not known."""
    checkpoint = load_checkpoint(path)
    return int(checkpoint["epoch"]) + 1, checkpoint.get(COMPUTED, {}), checkpoint.get(HISTORY, {})


def _told(computed: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in computed.items())


def _loader(batches: Any) -> torch.utils.data.DataLoader:
    """A loader that draws its own seed from a generator of its own: a draw from the default one, which happens in some
    epochs before they are seeded and in others after, would make a resumed training differ from an unbroken one."""
    return torch.utils.data.DataLoader(batches, batch_size=None, generator=torch.Generator())


def checkpoint_epoch(path: Path) -> int:
    """How many epochs the training of a checkpoint had finished.

    Raises:
        UserError: the file is no checkpoint of ours.
    """
    return int(load_checkpoint(path)["epoch"]) + 1


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; only tensors and plain values are read, nothing in it is executed.

    Raises:
        UserError: the file cannot be read as a checkpoint.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        raise UserError(
            f"{path}: is no usable checkpoint ({type(error).__name__}); remove it to start from the beginning"
        ) from error
    if not isinstance(loaded, dict) or "state_dict" not in loaded or "epoch" not in loaded:
        raise UserError(f"{path}: is no checkpoint of a training; remove it to start from the beginning")
    return loaded


def _quiet() -> None:
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
