"""The command ``propose``: an S1 prediction table from sequences, with a trained stage 1 network."""

from rna_s2.commands import main_in_run
from rna_s2.options.command_line import Command
from rna_s2.options.errors import run_command
from rna_s2.pipeline.steps.propose import ProposeOptions, check_propose_paths, run_propose

COMMAND = Command("propose", ProposeOptions, "Propose boxes for sequences with the stage 1 network.")
main = main_in_run(COMMAND, run_propose, "in_file", check=check_propose_paths)

if __name__ == "__main__":
    raise SystemExit(run_command(main))
