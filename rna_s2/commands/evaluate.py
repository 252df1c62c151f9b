"""The command ``evaluate``: predicted beside known structures, and beside what other programs predict for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rna_s2.options.command_line import Command, parse
from rna_s2.options.errors import run_command
from rna_s2.pipeline.evaluate import EvaluateOptions, Evaluation, run_evaluate
from rna_s2.tracking.names import run_name

COMMAND = Command(
    "evaluate", EvaluateOptions,
    "Compare predicted with known structures, and with what other programs predict for them.", config=""
)


def main(argv: Sequence[str] | None = None) -> Evaluation:
    """Runs the command."""
    options = parse(COMMAND, argv)
    from rna_s2.tracking.runs import start_run  # here: its import takes seconds

    name = run_name(COMMAND.name, Path(options.known))
    with start_run(COMMAND.name, name, experiment=options.experiment) as tracker:
        return run_evaluate(options, tracker)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
