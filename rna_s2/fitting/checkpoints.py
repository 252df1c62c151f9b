"""Checkpoints of a training: where they lie, who may write them, and how they are read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pytorch_lightning.plugins.io import TorchCheckpointIO

from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path

LAST = "last.ckpt"
BEST = "best.ckpt"
CHECKPOINTS = "checkpoints"
"""Folder of a run's artifacts that holds copies of both; and of the cache that holds those of each run."""

_LOCK = "training.lock"


def checkpoint_folder(cache_dir: str | Path, run_id: str) -> Path:
    """Where the checkpoints of a run lie."""
    return Path(cache_dir) / CHECKPOINTS / run_id


@contextmanager
def training_lock(folder: Path) -> Iterator[None]:
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


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are never half written; Lightning's own are moved from the folder for temporary files, which copies
    them where that lies on another file system."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        buffer = io.BytesIO()  # what torch.save says of a full disk is no OSError
        torch.save(checkpoint, buffer)
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())


def finished_epochs(checkpoint: dict[str, Any]) -> int:
    """How many epochs the training of a checkpoint had finished; of an empty one none."""
    return int(checkpoint.get("epoch", -1)) + 1


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; only tensors and plain values are read, nothing in it is executed.

    Raises:
        UserError: the file cannot be read as a checkpoint.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many exceptions for a damaged or foreign file
        raise UserError(
            f"{path}: is no usable checkpoint ({type(error).__name__}); remove it to start from the beginning"
        ) from error
    if not isinstance(loaded, dict) or "state_dict" not in loaded or "epoch" not in loaded:
        raise UserError(f"{path}: is no checkpoint of a training; remove it to start from the beginning")
    return loaded
