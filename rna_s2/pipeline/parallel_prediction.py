"""Structure prediction on several worker processes.

This process hands out chunks of sequences and gives the predictions in the order of the sequences. Each worker has one thread
and a copy of both networks. At most two chunks per worker and one more are under way or wait to be read, so memory does not
grow with the number of sequences. How many workers there are does not change the predictions.
"""

from __future__ import annotations

import gc
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import torch

from rna_s2.engine.processes import (
    default_workers,
    end_with_parent,
    interrupts_ignored,
    keep_freed_memory,
    own_code_first,
)
from rna_s2.options.errors import UserError
from rna_s2.pipeline.structure_prediction import Models, PipelineOptions, chunks, predict_each
from rna_s2.rna import formats
from rna_s2.structures.prediction import Failure, Prediction

CELLS_PER_WORKER = 2_000_000
"""Map cells (200 sequences of 100 bases) from which a process more is worth the seconds that it takes to start."""

MOST_ON_CUDA = 8
"""Processes that share a CUDA device unless more are asked for: each has a CUDA context and both networks there."""

CHUNKS_PER_WORKER = 4
"""Chunks that each process is given at least, so that all end at about the same time."""

LARGEST_CHUNK = 16
"""Sequences that a process is given at a time, at most, for the same reason; more together are not faster."""

_Answer = tuple[list[Prediction | Failure], dict[str, float]]


def workers_for(sequences: Sequence[formats.SequenceRecord], workers: int, device: torch.device) -> int:
    """Number of processes to predict on.

    Args:
        sequences: what is to be predicted.
        workers: how many are asked for; 0: one per core, fewer where there is little work (:data:`CELLS_PER_WORKER`), and at
            most :data:`MOST_ON_CUDA` on a CUDA device.
        device: where the networks run.

    Returns:
        1 or more; at most one per sequence.
    """
    if workers:
        return min(workers, max(len(sequences), 1))
    cells = sum(len(record.seq) ** 2 for record in sequences)
    most = min(default_workers(), MOST_ON_CUDA) if device.type == "cuda" else default_workers()
    return max(1, min(most, cells // CELLS_PER_WORKER))


def predict_on(
    workers: int, sequences: Sequence[formats.SequenceRecord], models: Models, options: PipelineOptions,
    seconds: dict[str, float],
) -> Iterator[Prediction | Failure]:
    """:func:`rna_s2.pipeline.structure_prediction.predict_each` on worker processes; 1: this process, with all its threads.

    Each worker has a copy of the models. ``seconds`` are summed over processes.

    Raises:
        UserError: a worker was killed.
    """
    if workers <= 1:
        yield from predict_each(sequences, models, options, seconds)
        return
    most = max(1, min(options.chunk, LARGEST_CHUNK, -(-len(sequences) // (CHUNKS_PER_WORKER * workers))))
    parts = chunks(sequences, most)
    waiting: deque[Future[_Answer]] = deque()
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (models, options))
    try:
        for part in parts:
            with own_code_first(), interrupts_ignored():  # inherited by the processes that this starts, until _start
                waiting.append(pool.submit(_predict, part))
            if len(waiting) > 2 * workers:
                yield from _collected(waiting.popleft(), seconds)
        while waiting:
            yield from _collected(waiting.popleft(), seconds)
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed (for want of memory?); take fewer workers, or a smaller chunk") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _collected(answer: Future[_Answer], seconds: dict[str, float]) -> list[Prediction | Failure]:
    results, spent = answer.result()
    for name, value in spent.items():
        seconds[name] = seconds.get(name, 0.0) + value
    return results


_of_process: tuple[Models, PipelineOptions] | None = None
"""What a worker process works with."""


def _start(models: Models, options: PipelineOptions) -> None:
    global _of_process
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once; the traceback is the parent's to spare
    end_with_parent()
    torch.set_num_threads(1)
    keep_freed_memory()
    _of_process = models, options
    gc.freeze()  # the garbage collector need not look through all that was imported, again and again


def _predict(part: list[formats.SequenceRecord]) -> _Answer:
    assert _of_process is not None
    seconds: dict[str, float] = {}
    return list(predict_each(part, *_of_process, seconds)), seconds
