"""The entry point ``main``: the whole comparison, from transcripts or from an S1 table to a report on four models."""

from __future__ import annotations

from collections.abc import Sequence

from rna_s2.options.command_line import Command, parse
from rna_s2.options.errors import run_command
from rna_s2.pipeline.compare_models import CompareOptions, CompareReport, run_compare

COMMAND = Command("main", CompareOptions, "Train four models on the same rows, and report how they compare.")


def main(argv: Sequence[str] | None = None) -> CompareReport:
    """Runs the command."""
    return run_compare(parse(COMMAND, argv))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
