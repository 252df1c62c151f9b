"""Jobs on several processes, each with its share of the cores."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeVar

from entry.errors import UserError
from entry.processes import default_workers, end_with_parent

Answer = TypeVar("Answer")


def run_each(
    work: Callable[..., Answer], jobs: Mapping[str, tuple[Any, ...]], workers: int, advice: str
) -> Iterator[tuple[int, Answer]]:
    """``work(*job)`` of every job, each in one of so many fresh processes.

    Args:
        work: a function of a module; what it raises is raised here.
        jobs: its arguments, by a name that stands before each message of the job.
        workers: processes, two or more; the cores are divided among them.
        advice: what to do when a process is killed, as the end of a sentence.

    Yields:
        index of a job and its answer, as they come.

    Raises:
        UserError: a process was killed.
    """
    threads = max(1, default_workers() // workers)
    with _inherited("OMP_NUM_THREADS", str(threads)):  # read when PyTorch is loaded; this process has its threads already
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (threads,))
        try:
            waiting = enumerate(jobs.items())
            running: dict[Future[Answer], int] = {}
            while True:
                # No job waits within the pool: after Ctrl-C, which ends the running ones, a process would go on with it.
                for k, (name, job) in islice(waiting, workers - len(running)):
                    running[pool.submit(_named, name, work, job)] = k
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise UserError(f"a worker process was killed (for want of memory?); {advice}") from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _inherited(name: str, value: str) -> Iterator[None]:
    """An environment variable for the processes that are started in the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _start(threads: int) -> None:
    end_with_parent()
    import torch

    torch.set_num_threads(threads)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)


def _named(name: str, work: Callable[..., Answer], job: tuple[Any, ...]) -> Answer:
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter(name.replace("%", "%%") + ": %(message)s"))
    return work(*job)
