"""Which precision trains a network faster on this processor: measured once, and remembered."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from rna_s2.fitting.devices import has_bfloat16
from rna_s2.fitting.module import TrackedModule
from rna_s2.options.files import atomic_path, content_key

logger = logging.getLogger(__name__)

PRECISIONS = "precision.json"
"""File beside the checkpoint folders that remembers what was measured."""

_BATCHES = 3
_ROUNDS = 3

Measured = Literal["32", "bf16"]


def faster_precision(module: TrackedModule, batches: Iterable[Any], device: torch.device, folder: Path) -> Measured:
    """The precision in which a network's training steps take less time.

    On CUDA it is ``bf16`` where the device has it, and without instructions for bfloat16 it is ``32``; nothing is measured
    then. Instructions alone do not decide: small products leave them waiting for the conversion of numbers.

    Args:
        module: the network; its weights, gradients and mode, and the state of the random numbers, are afterwards as before.
        batches: some batches that it trains on; the first few are taken.
        device: what it is trained on.
        folder: holds what was measured earlier, for the same training with any seed, processor, number of threads and PyTorch.
    """
    if device.type != "cpu" or not has_bfloat16(device):
        return "bf16" if has_bfloat16(device) else "32"
    key = content_key(
        identity={name: value for name, value in module.identity.items() if name != "seed"},
        processor=[platform.machine(), torch.cpu.get_capabilities()],
        threads=torch.get_num_threads(), torch=torch.__version__,
    )
    known = _read(folder / PRECISIONS)
    if key not in known:
        measured = _measured(module, list(islice(batches, _BATCHES)))
        known = {**_read(folder / PRECISIONS), key: measured}  # others may have measured meanwhile
        with atomic_path(folder / PRECISIONS) as temporary:
            temporary.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return "bf16" if known[key]["bf16"] < known[key]["32"] else "32"


def _read(path: Path) -> dict[str, dict[str, float]]:
    """What was measured so far; nothing where the file is missing or damaged."""
    try:
        known = json.loads(path.read_bytes())
        return {str(key): {name: float(seconds[name]) for name in ("32", "bf16")} for key, seconds in known.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _measured(module: TrackedModule, batches: list[Any]) -> dict[str, float]:
    """Seconds of forward and backward pass over some batches by precision: the best of some rounds, in turns."""
    seconds: dict[str, list[float]] = {"32": [], "bf16": []}
    was_training = module.training
    module.train()
    with torch.random.fork_rng(devices=[]):
        for _ in range(_ROUNDS + 1):  # the first one warms up
            for name, own in seconds.items():
                start = time.perf_counter()
                for batch in batches:
                    with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
                        loss, _, _ = module.step(batch)
                    loss.backward()
                own.append(time.perf_counter() - start)
    module.train(was_training)
    module.zero_grad()
    best = {name: min(own[1:]) for name, own in seconds.items()}
    logger.info("precision auto: %.3f s in single precision, %.3f s in bfloat16 for %d steps", *best.values(), len(batches))
    return best
