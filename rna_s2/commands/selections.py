"""The command ``selections``: stage 1's selections of proposals compared."""

from rna_s2.commands import main_in_run
from rna_s2.options.command_line import Command
from rna_s2.options.errors import run_command
from rna_s2.pipeline.selections import SelectionsOptions, check_selections_paths, run_selections

COMMAND = Command(
    "selections", SelectionsOptions, "Compare selections of proposals: boxes per row against the target boxes found."
)
main = main_in_run(COMMAND, run_selections, "in_file", check=check_selections_paths)

if __name__ == "__main__":
    raise SystemExit(run_command(main))
