"""The command ``prune``: thin out the boxes that stage 1 proposes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rna_s2.options.command_line import Command, parse
from rna_s2.options.errors import run_command
from rna_s2.pipeline.steps.prune import PruneOptions, PruneRun, check_prune_paths, run_prune
from rna_s2.tracking.names import run_name

COMMAND = Command("prune", PruneOptions, "Thin out the boxes that stage 1 proposes, rule by rule.")


def main(argv: Sequence[str] | None = None) -> PruneRun:
    """Runs the command."""
    options = parse(COMMAND, argv)
    check_prune_paths(options)
    from rna_s2.tracking.runs import start_run  # here: its import takes seconds

    name = run_name(COMMAND.name, Path(options.in_file))
    with start_run(COMMAND.name, name, experiment=options.experiment) as tracker:
        run = run_prune(options, tracker)
        tracker.artifact(Path(options.out_file), "table")
        return run


if __name__ == "__main__":
    raise SystemExit(run_command(main))
