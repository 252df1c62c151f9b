"""Errors for people: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a command that SIGTERM ended."""


class UserError(Exception):
    """Something the user can mend. Its text is one line: what is wrong, in which file and row, what to do."""


@contextmanager
def _terminated_in_order() -> Iterator[None]:
    """SIGTERM raises :class:`SystemExit` in the block, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _lacking(error: BaseException) -> str:
    """What the machine has too little of, as far as an error says so, and what to do; else empty."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; make room and run the same command again"
    if isinstance(error, MemoryError) or "allocate memory" in str(error):  # what PyTorch says is a RuntimeError
        return "the memory is out; make networks, batches or tables smaller, or the number of workers"
    return ""


def run_command(main: Callable[[Sequence[str] | None], object], argv: Sequence[str] | None = None) -> int:
    """Run ``main(argv)`` as a command: a :class:`UserError` becomes one line on stderr and exit status 1.

    So do a full disk and memory that is out, wherever they are met.

    Environment variable ``RNA_S2_TRACEBACK=1`` shows the traceback as well, for reports of defects. SIGTERM, by which batch
    systems and containers end a process, ends the command in order: temporary files are removed, and its run ends.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        with _terminated_in_order():
            main(argv)
    except UserError as error:
        if os.environ.get("RNA_S2_TRACEBACK") == "1":
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except (OSError, MemoryError, RuntimeError) as error:
        lacking = _lacking(error)
        if not lacking or os.environ.get("RNA_S2_TRACEBACK") == "1":
            raise
        print(f"error: {lacking} ({' '.join(str(error).split())})", file=sys.stderr)
        return 1
    except SystemExit as error:
        if error.code == TERMINATED:
            print("terminated", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("stopped by the user", file=sys.stderr)
        return 130
    return 0
