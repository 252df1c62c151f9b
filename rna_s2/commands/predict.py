"""The command ``predict``: from a FASTA file to secondary structures, drawings, and a page that shows them."""

from __future__ import annotations

from rna_s2.commands import main_in_run
from rna_s2.engine.processes import keep_freed_memory
from rna_s2.options.command_line import Command
from rna_s2.options.errors import run_command
from rna_s2.pipeline.predict_file import PredictOptions, check_out_dir, run_predict

COMMAND = Command(
    "predict", PredictOptions, "From a FASTA file to secondary structures, drawings, and a page that shows them.", config=""
)


def prepare(options: PredictOptions) -> None:
    """What comes before the run."""
    check_out_dir(options.out_dir)
    keep_freed_memory()


main = main_in_run(COMMAND, run_predict, "sequences", check=prepare)

if __name__ == "__main__":
    raise SystemExit(run_command(main))
