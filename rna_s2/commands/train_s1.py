"""The command ``train_s1``: train the stage 1 network on folded segments, tracked, and register it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from rna_s2.options.command_line import Command, parse
from rna_s2.options.errors import run_command
from rna_s2.pipeline.train_s1 import TrainS1Config, TrainS1Report, run_train_s1

COMMAND = Command(
    "train_s1", TrainS1Config, "Train the stage 1 network on folded segments, and register it.", config="configs/s1.yaml",
    instead={"in_file": ["transcripts"], "transcripts": ["in_file"]},
)


def main(argv: Sequence[str] | None = None) -> TrainS1Report:
    """Runs the command."""
    return run_train_s1(parse(COMMAND, argv), command=command_line(sys.argv[1:] if argv is None else argv))


def command_line(argv: Sequence[str]) -> str:
    """The command as one would type it to train from the beginning: without empty options and without ``--resume``."""
    arguments = [part for argument in argv for part in (argument.split("=", 1) if argument[:2] == "--" else [argument])]
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    given = [part for name, value in options.items() if value and name != "--resume" for part in (name, value)]
    return shlex.join(["python", "-m", __spec__.name if __spec__ else __name__, *given])


if __name__ == "__main__":
    raise SystemExit(run_command(main))
