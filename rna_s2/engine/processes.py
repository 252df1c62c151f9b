"""Processes: how many there are, how they end, and how they keep their memory."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rna_s2.options.errors import signal_handled
from rna_s2.options.places import PROJECT_ROOT


def default_workers() -> int:
    """One process for each core this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_name() -> str:
    """A name under which process numbers mean the same: the host's, and on Linux that of its boot and of the container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(os.readlink("/proc/self/ns/pid")))
    return " ".join(parts)


def is_running(process: int) -> bool:
    """Whether a process of this machine has not ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def end_with_parent() -> None:
    """Ends this process as soon as its parent has ended, for whatever reason. Otherwise it would wait for ever.

    Raises:
        ValueError: this process was not started by :mod:`multiprocessing`.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise ValueError("the main process has no parent to end with")

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def interrupts_ignored() -> AbstractContextManager[None]:
    """Ctrl-C does nothing in the block, in the main thread."""
    return signal_handled(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables in the block, for this process and for those that are started there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def own_code_first() -> Iterator[None]:
    """Processes that are started in the block import the code of this one.

    They search where this process does, and a logged model that was loaded here has put its own copy of the code in front.
    """
    path = str(PROJECT_ROOT)
    sys.path.insert(0, path)
    try:
        yield
    finally:
        sys.path.remove(path)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of ``mallopt`` in glibc's ``malloc.h``."""
LARGEST_KEPT = 32 << 20
"""Bytes of the largest array whose memory is kept; glibc takes no more."""
KEPT = 256 << 20
"""Bytes of free memory that are kept, at most."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed arrays for the next ones.

    glibc gives that of large arrays back to the system, which fills it with zeros before it gives it out again; a loop that
    makes and frees maps of some MB each loses time with that. Elsewhere nothing is done.

    Returns:
        whether anything changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(M_TRIM_THRESHOLD, KEPT))
