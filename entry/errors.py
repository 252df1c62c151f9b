"""Errors for people: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence


class UserError(Exception):
    """Something the user can mend. Its text is one line: what is wrong, in which file and row, what to do."""


def run_command(main: Callable[[Sequence[str] | None], object], argv: Sequence[str] | None = None) -> int:
    """Run ``main(argv)`` as a command: a :class:`UserError` becomes one line on stderr and exit status 1.

    Environment variable ``RNA_S2_TRACEBACK=1`` shows the traceback as well, for reports of defects.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        main(argv)
    except UserError as error:
        if os.environ.get("RNA_S2_TRACEBACK") == "1":
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped by the user", file=sys.stderr)
        return 130
    return 0
