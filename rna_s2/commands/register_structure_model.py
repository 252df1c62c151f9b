"""The command ``register_structure_model``: both stages and the decoder as one registered model."""

from rna_s2.commands import main_of
from rna_s2.options.command_line import Command
from rna_s2.options.errors import run_command
from rna_s2.pipeline.register_model import RegisterOptions, run_register

COMMAND = Command("register_structure_model", RegisterOptions, "Register both stages and the decoder as one model.", config="")
main = main_of(COMMAND, run_register)

if __name__ == "__main__":
    raise SystemExit(run_command(main))
