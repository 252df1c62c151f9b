"""The command ``synthetic``: random sequences with the composition of transcripts."""

from rna_s2.commands import main_in_run
from rna_s2.options.command_line import Command
from rna_s2.options.errors import run_command
from rna_s2.pipeline.steps.segments import SyntheticOptions, fasta_path, run_synthetic

COMMAND = Command("synthetic", SyntheticOptions, "Write random sequences with the composition of transcripts as FASTA.")
main = main_in_run(COMMAND, run_synthetic, "out_file", check=lambda options: fasta_path(options.out_file))

if __name__ == "__main__":
    raise SystemExit(run_command(main))
