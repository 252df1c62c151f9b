"""The command ``propose``: an S1 prediction table from sequences, with a trained stage 1 network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rna_s2.options.command_line import Command, parse
from rna_s2.options.errors import run_command
from rna_s2.pipeline.steps.propose import ProposeOptions, ProposeResult, check_propose_paths, run_propose
from rna_s2.tracking.names import run_name

COMMAND = Command("propose", ProposeOptions, "Propose boxes for sequences with the stage 1 network.")


def main(argv: Sequence[str] | None = None) -> ProposeResult:
    """Runs the command."""
    options = parse(COMMAND, argv)
    check_propose_paths(options)
    from rna_s2.tracking.runs import start_run  # here: its import takes seconds

    name = run_name(COMMAND.name, Path(options.in_file))
    with start_run(COMMAND.name, name, experiment=options.experiment) as tracker:
        return run_propose(options, tracker)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
