"""The command line of a command: made from its options model, and read into it.

Each field of the model is an option ``--name value``. What differs from that is declared on the field, in
``json_schema_extra``:

* :func:`called` gives an option another name (``--epochs`` for the key ``epoch``);
* :data:`CONFIG_ONLY` keeps a field to the config file;
* :func:`shown` says which options of a section (a nested model) the command line has; without it, none.

An empty value on the command line means "not given": that is how an MLproject passes a parameter that the user left out.
"""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

from pydantic import BaseModel

from rna_s2.options.base import Model, leaf_fields, load_yaml, section_of, unknown_keys, validate
from rna_s2.options.errors import UserError
from rna_s2.options.places import from_project, in_project

CONFIG = "config"
"""Name of the option that holds the path of a config file."""

CONFIG_ONLY: dict[str, Any] = {"config_only": True}
"""Mark of a field that only a config file sets."""


def called(name: str) -> dict[str, Any]:
    """Mark of a field whose option has another name than its key."""
    return {"option": name}


def shown(*names: str, but: Sequence[str] = ()) -> dict[str, Any]:
    """Mark of a section: the options that the command line has of it; without ``names`` all, ``but`` some."""
    return {"shown": names, "but": tuple(but)}


@dataclass(frozen=True)
class Command(Generic[Model]):
    """What a command is called and what it takes.

    Attributes:
        name: the entry point.
        options: its options.
        about: one sentence for ``--help``.
        config: the config file it reads where none is given, relative to the project; ``""``: none, but one can be given;
            None: it takes no config file.
        instead: for an option, dotted keys of the config file whose place it takes (``{"in_file": ["data.transcripts"]}``):
            they are forgotten where it is given, and cannot be given on the command line as well.
        find_config: the config file in place of :attr:`config`, from the options that were given.
    """

    name: str
    options: type[Model]
    about: str
    config: str | None = None
    instead: Mapping[str, Sequence[str]] = field(default_factory=dict)
    find_config: Callable[[Mapping[str, str]], str] | None = None


def option_keys(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """The options that the command line has of a model, each with its dotted key.

    Raises:
        ValueError: two options have the same name, or a section lacks one that it shows.
    """
    keys: dict[str, str] = {}
    for name, info in model.model_fields.items():
        extra: dict[str, Any] = dict(info.json_schema_extra) if isinstance(info.json_schema_extra, dict) else {}
        section = section_of(info.annotation)
        if section is None:
            own = {} if extra.get("config_only") else {str(extra.get("option", name)): prefix + name}
        elif "shown" in extra:
            inner = option_keys(section, f"{prefix}{name}.")
            names = [n for n in extra["shown"] or inner if n not in extra["but"]]
            if not set(names) <= set(inner):
                raise ValueError(f"{model.__name__}.{name} shows options that it does not have: {set(names) - set(inner)}")
            own = {n: inner[n] for n in names}
        else:
            own = {}
        if own.keys() & keys.keys():
            raise ValueError(f"{model.__name__} has two options {min(own.keys() & keys.keys())}")
        keys |= own
    return keys


def shown_default(default: Any) -> str:
    """A default as one types it: ``true``, ``a,b``, a file of the project relative to it; empty for None."""
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, (tuple, list)):
        return ",".join(map(shown_default, default))
    return from_project(str(default))


def parse(command: Command[Model], argv: Sequence[str] | None) -> Model:
    """Options of a command from its command line, and from a config file where there is one.

    The command line wins over the file, the file over the defaults.

    Args:
        command: what it takes.
        argv: the arguments after the program's name; ``None`` takes them from ``sys.argv``.

    Raises:
        UserError: an unknown option, a value that does not fit, a config file that cannot be used.
    """
    return parse_with_config(command, argv)[0]


def parse_with_config(command: Command[Model], argv: Sequence[str] | None) -> tuple[Model, str]:
    """As :func:`parse`; and the path of the config file, empty where there is none."""
    leaves = leaf_fields(command.options)
    keys = option_keys(command.options)
    given = _given(command, keys, leaves, argv)
    path = _config_path(command, given)
    values: dict[str, Any] = {}
    source = f"command {command.name}"
    if path:
        source = path
        values = load_yaml(path)
        unknown = unknown_keys(command.options, values, source)
        if unknown:
            raise UserError(unknown)
    origins: dict[str, str] = {}
    for option, dotted in keys.items():
        if given[option] == "":
            continue
        _put(values, dotted, _from_text(given[option], leaves[dotted].annotation), source)
        for other in command.instead.get(option, ()):
            if other in origins:
                (first,) = (name for name, key in keys.items() if key == other)
                raise UserError(f"command {command.name}: give either {first} or {option}, not both")
            _forget(values, other)
        origins[dotted] = f"command {command.name}, parameter {option}"
    return validate(command.options, values, source, origins), path


def _given(command: Command, keys: Mapping[str, str], leaves: Mapping[str, Any], argv: Sequence[str] | None) -> dict[str, str]:
    """The text of every option, empty where it is not given."""
    parser = _Parser(prog=f"mlflow run . -e {command.name}", description=command.about, allow_abbrev=False)
    if command.config is not None:
        default_config = from_project(_config_path(command, dict.fromkeys((CONFIG, *keys), "")))
        parser.add_argument(f"--{CONFIG}", default="", metavar="YAML", help=f"config file [{default_config or 'not set'}]")
    for option, dotted in keys.items():
        info = leaves[dotted]
        default = "" if info.is_required() else info.get_default(call_default_factory=True)
        without = ("the config's, else " if command.config is not None else "") + (shown_default(default) or "not set")
        text = (info.description or "") + ("" if info.is_required() else f" [{without}]")
        parser.add_argument(f"--{option}", default="", metavar="VALUE", help=text.replace("%", "%%"))
    parser.allowed = [*([CONFIG] if command.config is not None else []), *keys]
    return vars(parser.parse_args(None if argv is None else list(argv)))


def _config_path(command: Command, given: Mapping[str, str]) -> str:
    if command.config is None:
        return ""
    if given[CONFIG]:
        return given[CONFIG]
    if command.find_config is not None:
        return command.find_config(given)
    return in_project(command.config) if command.config else ""


def _put(values: dict[str, Any], dotted: str, value: Any, source: str) -> None:
    """Sets a (nested) value of a config."""
    *sections, leaf = dotted.split(".")
    for section in sections:
        inner = values.get(section)
        if inner is not None and not isinstance(inner, dict):
            raise UserError(f"{source}: '{section}' must hold keys and values, not {type(inner).__name__}")
        values[section] = dict(inner or {})
        values = values[section]
    values[leaf] = value


def _forget(values: dict[str, Any], dotted: str) -> None:
    """Takes a (nested) value of a config out."""
    *sections, leaf = dotted.split(".")
    inner: Any = values
    for section in sections:
        inner = inner.get(section) if isinstance(inner, dict) else None
    if isinstance(inner, dict):
        inner.pop(leaf, None)


class _Parser(argparse.ArgumentParser):
    allowed: list[str]

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{self.prog}: {message}; parameters are: {', '.join(self.allowed)}")


def _from_text(text: str, annotation: Any) -> Any:
    """A command-line text as pydantic should see it: lists split at commas, ``none`` as None where allowed."""
    options = typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else ()
    if type(None) in options and text.lower() == "none":
        return None
    base = next((o for o in options if o is not type(None)), annotation)
    if typing.get_origin(base) in (list, tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text
