"""The command ``predict``: from a FASTA file to secondary structures, drawings, and a page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rna_s2.engine.processes import keep_freed_memory
from rna_s2.options.command_line import Command, parse
from rna_s2.options.errors import run_command
from rna_s2.pipeline.predict_file import PredictOptions, PredictReport, check_out_dir, run_predict
from rna_s2.tracking.names import run_name

COMMAND = Command(
    "predict", PredictOptions, "From a FASTA file to secondary structures, drawings, and a page that shows them.", config=""
)


def main(argv: Sequence[str] | None = None) -> PredictReport:
    """Runs the command."""
    options = parse(COMMAND, argv)
    check_out_dir(options.out_dir)
    keep_freed_memory()
    from rna_s2.tracking.runs import start_run  # here: its import takes seconds

    name = run_name(COMMAND.name, Path(options.sequences))
    with start_run(COMMAND.name, name, experiment=options.experiment) as tracker:
        return run_predict(options, tracker)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
