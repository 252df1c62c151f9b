"""The command ``compact_s1``: a stage 1 network with fewer hidden channels that says the same."""

from rna_s2.commands import main_in_run
from rna_s2.options.command_line import Command
from rna_s2.options.errors import run_command
from rna_s2.pipeline.compact_network import CompactOptions, check_compact_paths, run_compact

COMMAND = Command("compact_s1", CompactOptions, "Make a stage 1 network smaller that says the same.")
main = main_in_run(COMMAND, run_compact, "out_dir", check=check_compact_paths)

if __name__ == "__main__":
    raise SystemExit(run_command(main))
