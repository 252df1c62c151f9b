"""Writes the file MLproject from the options of the commands: ``python -m rna_s2.commands.mlproject``."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from rna_s2 import commands
from rna_s2.options.base import leaf_fields
from rna_s2.options.command_line import CONFIG, Command, option_keys, shown_default
from rna_s2.options.errors import UserError, run_command
from rna_s2.options.files import atomic_path
from rna_s2.options.places import PROJECT_ROOT

WIDTH = 120
HEAD = """\
# Made by `python -m rna_s2.commands.mlproject` from the options of the commands; change those, not this file.
name: rna-s2

python_env: python_env.yaml

entry_points:
"""


def all_commands() -> list[tuple[str, Command]]:
    """Every module of :mod:`rna_s2.commands` that has a ``COMMAND``, and that; ``main`` first."""
    found = []
    for info in pkgutil.iter_modules(commands.__path__, f"{commands.__name__}."):
        command = getattr(importlib.import_module(info.name), "COMMAND", None)
        if command is not None:
            found.append((info.name, command))
    return sorted(found, key=lambda each: (each[1].name != "main", each[1].name))


def parameters(command: Command) -> dict[str, str | None]:
    """The parameters of an entry point with their defaults; None: must be given. Where there is a config file, it has the
    defaults."""
    leaves = leaf_fields(command.options)
    found: dict[str, str | None] = {} if command.config is None else {CONFIG: command.config}
    for option, dotted in option_keys(command.options).items():
        info = leaves[dotted]
        default = None if info.is_required() else shown_default(info.get_default(call_default_factory=True))
        found[option] = default if command.config is None else ""
    return found


def entry_point(module: str, command: Command) -> str:
    """The lines of one entry point."""
    lines = [f"  {command.name}:", "    parameters:"]
    options = parameters(command)
    for name, default in options.items():
        value = "" if default is None else f', default: "{default}"'
        lines.append(f"      {name}: {{type: string{value}}}")
    words = ["python", "-m", module, *(f"--{name}\0{{{name}}}" for name in options)]
    command_lines = textwrap.wrap(" ".join(words), WIDTH, break_long_words=False, break_on_hyphens=False)
    lines.append("    command: >-")
    lines += [f"      {line}".replace("\0", " ") for line in command_lines]
    return "\n".join(lines) + "\n"


def mlproject() -> str:
    """The text of the file."""
    return HEAD + "".join(entry_point(module, command) for module, command in all_commands())


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the file."""
    if sys.argv[1:] if argv is None else argv:
        raise UserError("usage: python -m rna_s2.commands.mlproject, without arguments")
    with atomic_path(PROJECT_ROOT / "MLproject") as path:
        Path(path).write_text(mlproject(), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
