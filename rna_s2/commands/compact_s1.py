"""The command ``compact_s1``: a stage 1 network with fewer hidden channels that says the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rna_s2.options.command_line import Command, parse
from rna_s2.options.errors import run_command
from rna_s2.pipeline.compact_network import CompactOptions, CompactReport, check_compact_paths, run_compact
from rna_s2.tracking.names import run_name

COMMAND = Command("compact_s1", CompactOptions, "Make a stage 1 network smaller that says the same.")


def main(argv: Sequence[str] | None = None) -> CompactReport:
    """Runs the command."""
    options = parse(COMMAND, argv)
    check_compact_paths(options)
    from rna_s2.tracking.runs import start_run  # here: its import takes seconds

    name = run_name(COMMAND.name, Path(options.out_dir))
    with start_run(COMMAND.name, name, experiment=options.experiment) as tracker:
        return run_compact(options, tracker)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
