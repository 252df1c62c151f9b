"""Jobs on several processes, each with its share of the cores.

Ctrl-C and SIGTERM end a running job in order, like a command: the job can clean up and record how its run ended. A process
without a job ignores Ctrl-C, so that the others are not lost with it.
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

from rna_s2.engine.processes import end_with_parent, environment, interrupts_ignored, own_code_first
from rna_s2.options.errors import UserError

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


def run_each(
    work: Callable[..., Answer], jobs: Mapping[str, tuple[Any, ...]], workers: int, threads: int, advice: str
) -> Iterator[tuple[int, Answer]]:
    """Calls ``work(*job)`` for every job, in ``workers`` new processes.

    Args:
        work: a function at the top of a module. What it raises is raised here, once the other running jobs have ended.
        jobs: the arguments of each job, by its name, which stands before each of its messages.
        workers: number of processes.
        threads: PyTorch's threads in each process.
        advice: what to do when a process is killed, as the end of a sentence.

    Yields:
        the index of a job and its answer, in the order in which jobs end.

    Raises:
        UserError: a process was killed.
    """
    with environment({"OMP_NUM_THREADS": str(threads)}):  # read when PyTorch is loaded; this process has its threads already
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
    """The answer of a job that has ended. An error of the job is raised once the others have ended too."""
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
    """Passes a signal on to the children. One that has received it already ignores the second."""
    for child in multiprocessing.active_children():
        if child.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(child.pid, number)


_stopped: Event | None = None
"""Set when no job may begin any more, for a process that was still starting when the others were stopped."""


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
        # Not back to the pool: a process without a job may have died of the same signal while it held the queue's lock.
        sys.stderr.flush()
        os._exit(1)


@contextmanager
def _stopped_in_order() -> Iterator[None]:
    """The first signal raises in the block: :class:`KeyboardInterrupt` for Ctrl-C, :class:`SystemExit` for SIGTERM.

    Later signals do nothing there, so that they cannot interrupt the clean-up. (Lightning restores the handlers before that.)
    """
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
