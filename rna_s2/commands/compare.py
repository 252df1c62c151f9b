"""The entry point ``main``: the whole comparison, from transcripts or from an S1 table to a report on four models."""

from rna_s2.commands import main_of
from rna_s2.options.command_line import Command
from rna_s2.options.errors import run_command
from rna_s2.pipeline.compare_models import CompareOptions, run_compare

COMMAND = Command("main", CompareOptions, "Train four models on the same rows, and report how they compare.")
main = main_of(COMMAND, run_compare)

if __name__ == "__main__":
    raise SystemExit(run_command(main))
