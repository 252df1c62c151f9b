"""Jobs on several processes, each with its share of the cores.

A process that works on a job is interrupted (Ctrl-C) and terminated in order, like a command: the job can clean up and end its
run. A process without a job takes no notice of Ctrl-C, so that it does not take the others down with it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

from rna_s2.engine.processes import end_with_parent, interrupts_ignored, own_code_first
from rna_s2.options.errors import UserError

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


def run_each(
    work: Callable[..., Answer], jobs: Mapping[str, tuple[Any, ...]], workers: int, threads: int, advice: str
) -> Iterator[tuple[int, Answer]]:
    """``work(*job)`` of every job, each in one of so many fresh processes.

    Args:
        work: a function of a module; what it raises is raised here, after the jobs that had begun.
        jobs: its arguments, by a name that stands before each message of the job.
        workers: processes.
        threads: of each process, for PyTorch.
        advice: what to do when a process is killed, as the end of a sentence.

    Yields:
        index of a job and its answer, as they come.

    Raises:
        UserError: a process was killed.
    """
    with _inherited("OMP_NUM_THREADS", str(threads)):  # read when PyTorch is loaded; this process has its threads already
        context = multiprocessing.get_context("spawn")
        stopped = context.Event()
        pool = ProcessPoolExecutor(workers, context, _start, (threads, stopped))
        running: dict[Future[Answer], tuple[int, str]] = {}
        try:
            waiting = enumerate(jobs.items())
            while True:
                # No job waits within the pool: after Ctrl-C, which ends the running ones, a process would go on with it.
                for k, (name, job) in islice(waiting, workers - len(running)):
                    with own_code_first(), interrupts_ignored():  # inherited by a process that this starts, until it has a job
                        running[pool.submit(_named, name, work, job)] = k, name
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    k, name = running.pop(future)
                    yield k, _answer(future, name, running)
        except BrokenProcessPool as error:
            raise UserError(f"a worker process was killed (for want of memory?); {advice}") from error
        except (KeyboardInterrupt, SystemExit, GeneratorExit) as stop:
            stopped.set()
            _stop_children(signal.SIGTERM if isinstance(stop, SystemExit) else signal.SIGINT)
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _answer(future: Future[Answer], name: str, others: Collection[Future[Answer]]) -> Answer:
    """The answer of a job that has ended; its fault is raised when the others have ended too."""
    try:
        return future.result()
    except BrokenProcessPool:
        raise
    except Exception as error:
        if others:
            logger.error("%s failed (%s); waiting for what had begun", name, error)
            wait(others)  # not within the pool's shutdown, which a signal must not break into
        raise


def _stop_children(number: signal.Signals) -> None:
    """Pass a signal on, which came to this process alone; a child that had it too takes no second one."""
    for child in multiprocessing.active_children():
        if child.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(child.pid, number)


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


_stopped: Event | None = None
"""Set when no job may begin any more: a process that was starting when the others were stopped has not noticed."""


def _start(threads: int, stopped: Event) -> None:
    global _stopped
    _stopped = stopped
    end_with_parent()
    import torch

    torch.set_num_threads(threads)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)


def _named(name: str, work: Callable[..., Answer], job: tuple[Any, ...]) -> Answer:
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter(name.replace("%", "%%") + ": %(message)s"))
    try:
        with _stopped_in_order():
            if _stopped is not None and _stopped.is_set():
                raise KeyboardInterrupt
            return work(*job)
    except (KeyboardInterrupt, SystemExit):
        # Not back to the pool: a process without a job may have died of the same signal with the queue's lock in its hands.
        sys.stderr.flush()
        os._exit(1)


@contextmanager
def _stopped_in_order() -> Iterator[None]:
    """Ctrl-C raises :class:`KeyboardInterrupt` and SIGTERM :class:`SystemExit` in the block, whichever comes first; what comes
    after it does nothing there, so that it cannot break into the cleaning up (Lightning puts the handlers back before that)."""
    came = False

    def leave(number: int, frame: object) -> None:
        nonlocal came
        if not came:
            came = True
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
