"""The command ``register_structure_model``: both stages and the decoder as one registered model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rna_s2.options.command_line import Command, parse
from rna_s2.options.errors import run_command
from rna_s2.pipeline.register_model import RegisterOptions, run_register

if TYPE_CHECKING:  # MLflow takes seconds to import
    from rna_s2.tracking.registry import LoggedModel

COMMAND = Command(
    "register_structure_model", RegisterOptions, "Register both stages and the decoder as one model.", config=""
)


def main(argv: Sequence[str] | None = None) -> LoggedModel:
    """Runs the command."""
    return run_register(parse(COMMAND, argv))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
