"""The command ``segments``: a table of sequences with structures, from transcripts or from known structures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rna_s2.options.command_line import Command, parse
from rna_s2.options.errors import run_command
from rna_s2.pipeline.steps.segments import SegmentsOptions, SegmentsResult, check_segments_paths, run_segments
from rna_s2.tracking.names import run_name

COMMAND = Command(
    "segments", SegmentsOptions,
    "Cut segments from transcripts and fold them, or read known structures, into a table for stage 1."
)


def main(argv: Sequence[str] | None = None) -> SegmentsResult:
    """Runs the command."""
    options = parse(COMMAND, argv)
    check_segments_paths(options)
    from rna_s2.tracking.runs import start_run  # here: its import takes seconds

    name = run_name(COMMAND.name, Path(options.transcripts or options.structures))
    with start_run(COMMAND.name, name, experiment=options.experiment) as tracker:
        return run_segments(options, tracker)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
