"""The command ``synthetic``: random sequences with the composition of transcripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rna_s2.options.command_line import Command, parse
from rna_s2.options.errors import run_command
from rna_s2.pipeline.steps.segments import SyntheticOptions, fasta_path, run_synthetic
from rna_s2.tracking.names import run_name

COMMAND = Command("synthetic", SyntheticOptions, "Write random sequences with the composition of transcripts as FASTA.")


def main(argv: Sequence[str] | None = None) -> Path:
    """Runs the command."""
    options = parse(COMMAND, argv)
    fasta_path(options.out_file)
    from rna_s2.tracking.runs import start_run  # here: its import takes seconds

    name = run_name(COMMAND.name, Path(options.out_file))
    with start_run(COMMAND.name, name, experiment=options.experiment) as tracker:
        return run_synthetic(options, tracker)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
