"""Sends what a run kept while its tracking server was away: ``python -m rna_s2.commands.resend FILE``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rna_s2.options.errors import UserError, run_command
from rna_s2.tracking.outbox import resend

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UserError("usage: python -m rna_s2.commands.resend FILE")
    logger.info("%d entries sent", resend(Path(arguments[0])))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
