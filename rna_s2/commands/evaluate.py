"""The command ``evaluate``: predicted beside known structures, and beside what other programs predict for them."""

from rna_s2.commands import main_in_run
from rna_s2.options.command_line import Command
from rna_s2.options.errors import run_command
from rna_s2.pipeline.evaluate import EvaluateOptions, run_evaluate

COMMAND = Command(
    "evaluate", EvaluateOptions,
    "Compare predicted with known structures, and with what other programs predict for them.", config=""
)
main = main_in_run(COMMAND, run_evaluate, "known")

if __name__ == "__main__":
    raise SystemExit(run_command(main))
