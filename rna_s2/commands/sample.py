"""The command ``sample``: the repository's own S1 table, from the transcripts and the network in ``data/``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rna_s2.options.command_line import Command, parse
from rna_s2.options.errors import run_command
from rna_s2.pipeline.sample import SampleOptions, SampleReport, check_sample_paths, run_sample
from rna_s2.tracking.names import run_name

COMMAND = Command("sample", SampleOptions, "Make the sample from transcripts and the network.")


def main(argv: Sequence[str] | None = None) -> SampleReport:
    """Runs the command."""
    options = parse(COMMAND, argv)
    check_sample_paths(options)
    from rna_s2.tracking.runs import (  # here: its import takes seconds
        child_runs,
        start_run,
    )

    name = run_name(COMMAND.name, Path(options.out_file))
    with start_run(COMMAND.name, name, experiment=options.experiment) as tracker:
        return run_sample(options, tracker, child_runs(tracker.run_id))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
