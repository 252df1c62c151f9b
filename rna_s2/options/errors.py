"""Errors for people: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import atexit
import errno
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a command that SIGTERM ended."""


class UserError(Exception):
    """Something the user can mend. Its text is one line: what is wrong, in which file and row, what to do."""


@contextmanager
def signal_handled(number: signal.Signals, handler: Any) -> Iterator[None]:
    """``handler`` gets a signal in the block. Only the main thread can change that; in another one the block has no effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _one_line(error: BaseException) -> str:
    """What an error means to the user: its text, or what the machine has too little of and what to do; empty for a fault."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full; make room and run the same command again ({text})"
    if isinstance(error, MemoryError) or "allocate memory" in text:  # what PyTorch says is a RuntimeError
        return f"the memory is out; make networks, batches or tables smaller, or the number of workers ({text})"
    return ""


def run_command(main: Callable[[Sequence[str] | None], object], argv: Sequence[str] | None = None) -> int:
    """Run ``main(argv)`` as a command: a :class:`UserError` becomes one line on stderr and exit status 1.

    So do a full disk and memory that is out, wherever they are met.

    Environment variable ``RNA_S2_TRACEBACK=1`` shows the traceback as well, for reports of defects. SIGTERM, by which batch
    systems and containers end a process, ends the command in order: temporary files are removed, and its run ends.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    atexit.register(gc.freeze)  # Python looks for garbage when it ends, which takes most of a second with torch and MLflow
    try:
        with signal_handled(signal.SIGTERM, _leave):
            main(argv)
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        said = _one_line(error)
        if os.environ.get("RNA_S2_TRACEBACK") == "1" or not (said or isinstance(error, UserError)):
            raise
        print(f"error: {said}", file=sys.stderr)
        return 1
    except SystemExit as error:
        if error.code == TERMINATED:
            print("terminated", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("stopped by the user", file=sys.stderr)
        return 130
    return 0
