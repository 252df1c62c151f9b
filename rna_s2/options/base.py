"""Options: declared once, as the fields of a pydantic model; read from YAML and from plain values.

A model's fields are the options, with their defaults and descriptions. A model may hold further models (a config file's
sections). What the command line shows of a model is declared on its fields as well; see :mod:`rna_s2.options.command_line`.
"""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from rna_s2.options.errors import UserError
from rna_s2.options.files import is_special


class Options(BaseModel):
    """Base of every options and config model: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name and not _takes_bool(cls.model_fields[info.field_name].annotation):
            raise ValueError("must not be true or false")
        return value


def _takes_bool(annotation: Any) -> bool:
    """Whether a field of this annotation may be true or false."""
    return annotation is bool or annotation is Any or any(_takes_bool(inner) for inner in typing.get_args(annotation))


Model = TypeVar("Model", bound=Options)

MODEL_NAME = r"^[A-Za-z0-9_-][A-Za-z0-9_ -]*$"
"""Names of models that MLflow takes in every place: without / : . % and quotes, and not blank."""


def check_outputs(outputs: Mapping[str, str | Path], inputs: Mapping[str, str | Path] = {}) -> None:
    """Refuse output files that are folders or devices, an input, or another output as well; to be called before any work.

    Args:
        outputs: path of each, under what it is, which ends in the name of its option (``the rejects of out_file``);
            an empty one is not given.
        inputs: likewise, what is read.

    Raises:
        UserError: there is such a path.
    """
    seen = {os.path.realpath(path): name for name, path in inputs.items() if str(path)}
    for name, path in outputs.items():
        if not str(path):
            continue
        another = f"choose another {name.split()[-1]}"
        if os.path.isdir(path):
            raise UserError(f"{path}: is a folder; {another}")
        if is_special(path):
            raise UserError(f"{path}: is neither a file nor a folder, and would be replaced; {another}")
        other = seen.setdefault(os.path.realpath(path), name)
        if other != name:
            raise UserError(f"{path}: is both {other} and {name}; {another}")


def leaf_fields(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every leaf of a (nested) model: dotted name to its pydantic ``FieldInfo``."""
    leaves: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        section = section_of(info.annotation)
        leaves |= {prefix + name: info} if section is None else leaf_fields(section, f"{prefix}{name}.")
    return leaves


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model that a field of this annotation holds, if it holds one (optionally)."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return section_of(inner[0]) if len(inner) == 1 else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def load_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file as a dict.

    Raises:
        UserError: the file is missing, is not YAML, repeats a key, or does not hold a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML config file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not a text file in UTF-8; give the path of a YAML config file") from error
    try:
        loaded = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - derives from SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{path}{where}: is not valid YAML ({problem})") from error
    except RecursionError as error:
        raise UserError(f"{path}: is not valid YAML (too many brackets within each other)") from error
    except ValueError as error:  # a date or a number that cannot be
        raise UserError(f"{path}: holds a value that cannot be read ({error}); put it in quotes") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: must hold keys and values, not {type(loaded).__name__}")
    return loaded


_MERGE = "tag:yaml.org,2002:merge"


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML, where a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:  # <<: whose keys give way to those that stand here
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict, set)):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain value", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def validate(model: type[Model], values: Mapping[str, Any], source: str, origins: Mapping[str, str] = {}) -> Model:
    """Typed options from plain values.

    Args:
        model: the options, possibly nested.
        values: plain values, nested likewise.
        source: where they come from, for messages.
        origins: for dotted fields that come from elsewhere, where they come from.

    Raises:
        UserError: one line that names every wrong key, its source and what is allowed.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise UserError("; ".join(_explain(model, source, origins, e) for e in _own_errors(error))) from error


def _own_errors(error: ValidationError) -> list[Any]:
    """The errors, without those that only say that a list lacks the items that are wrong themselves."""
    errors = error.errors()
    holders = {e["loc"][:n] for e in errors for n in range(len(e["loc"]))}
    return [e for e in errors if e["type"] != "too_short" or e["loc"] not in holders]


def _explain(model: type[BaseModel], source: str, origins: Mapping[str, str], error: Any) -> str:
    keys = [".".join(str(part) for part in error["loc"][:n]) for n in range(len(error["loc"]), 0, -1)]
    key = keys[0] if keys else ""
    source = next((origins[k] for k in keys if k in origins), source)  # an item comes from where its list does
    if error["type"] == "extra_forbidden":
        holder: Any = model
        for part in error["loc"][:-1]:
            holder = section_of(holder.model_fields[part].annotation) if holder and part in holder.model_fields else None
        allowed = f"; allowed here: {', '.join(holder.model_fields)}" if holder else ""
        return f"{source}: unknown key '{key}'{allowed}"
    if error["type"] == "missing":
        return f"{source}: '{key}' must be given"
    message = error["msg"].removeprefix("Value error, ")
    where = f"'{key}'" if key else "the values do not fit together"
    value = error.get("input")
    shown = f" (got {value!r})" if isinstance(value, (str, int, float, bool, type(None))) else ""
    return f"{source}: {where}: {message}{shown}"


def unknown_keys(model: type[BaseModel], values: Mapping[str, Any], source: str) -> str:
    """One line naming every key of ``values`` that ``model`` does not know; empty when all are known."""
    wrong = []
    for key, value in values.items():
        if key not in model.model_fields:
            wrong.append(f"{source}: unknown key '{key}'; allowed here: {', '.join(model.model_fields)}")
        elif isinstance(value, Mapping) and (section := section_of(model.model_fields[key].annotation)):
            wrong.append(unknown_keys(section, value, f"{source}: {key}"))
    return "; ".join(filter(None, wrong))
