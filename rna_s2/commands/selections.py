"""The command ``selections``: stage 1's selections of proposals compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rna_s2.options.command_line import Command, parse
from rna_s2.options.errors import run_command
from rna_s2.pipeline.selections import SelectionsOptions, SelectionsReport, check_selections_paths, run_selections
from rna_s2.tracking.names import run_name

COMMAND = Command(
    "selections", SelectionsOptions, "Compare selections of proposals: boxes per row against the target boxes found."
)


def main(argv: Sequence[str] | None = None) -> SelectionsReport:
    """Runs the command."""
    options = parse(COMMAND, argv)
    check_selections_paths(options)
    from rna_s2.tracking.runs import start_run  # here: its import takes seconds

    name = run_name(COMMAND.name, Path(options.in_file))
    with start_run(COMMAND.name, name, experiment=options.experiment) as tracker:
        return run_selections(options, tracker)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
