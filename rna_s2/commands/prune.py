"""The command ``prune``: thin out the boxes that stage 1 proposes."""

from rna_s2.commands import main_in_run
from rna_s2.options.command_line import Command
from rna_s2.options.errors import run_command
from rna_s2.pipeline.steps.prune import PruneOptions, check_prune_paths, run_prune

COMMAND = Command("prune", PruneOptions, "Thin out the boxes that stage 1 proposes, rule by rule.")
main = main_in_run(COMMAND, run_prune, "in_file", check=check_prune_paths, kept="table")

if __name__ == "__main__":
    raise SystemExit(run_command(main))
