"""MLproject is what the options of the commands give."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml
from pydantic import Field

from rna_s2.commands.mlproject import all_commands, entry_point, main, mlproject
from rna_s2.options.base import Options
from rna_s2.options.command_line import CONFIG_ONLY, Command, called, option_keys, parse, shown
from rna_s2.options.errors import UserError
from rna_s2.options.places import PROJECT_ROOT, ProjectPath, in_project

FILE = PROJECT_ROOT / "MLproject"
COMMANDS = {command.name: (module, command) for module, command in all_commands()}


def test_the_file_is_what_the_generator_gives():
    assert FILE.read_text(encoding="utf-8") == mlproject(), "run: python -m rna_s2.commands.mlproject"


def test_every_command_has_an_entry_point_of_its_name():
    entries = yaml.safe_load(FILE.read_text(encoding="utf-8"))["entry_points"]
    assert set(entries) == set(COMMANDS) >= {"main", "prune", "train", "predict"}
    for name, (module, command) in COMMANDS.items():
        assert module == f"rna_s2.commands.{'compare' if name == 'main' else name}"
        assert callable(importlib.import_module(module).main)
        words = entries[name]["command"].split()
        assert words[:3] == ["python", "-m", module]
        passed = dict(re.findall(r"--(\w+) \{(\w+)\}", entries[name]["command"]))
        assert all(option == parameter for option, parameter in passed.items())
        assert set(passed) == set(entries[name]["parameters"])
        assert set(passed) - {"config"} == set(option_keys(command.options))


class Inner(Options):
    size: int = Field(3, description="a size", json_schema_extra=called("n"))
    hidden: int = Field(4, description="another")


class Outer(Options):
    name: str = Field("x", description="a name", json_schema_extra=CONFIG_ONLY)
    path: ProjectPath = Field(in_project("data/README.md"), description="a file")
    flags: tuple[bool, ...] = Field((True, False), description="flags")
    out: str = Field(description="an output")
    inner: Inner = Field(Inner(), description="a section", json_schema_extra=shown("n"))
    other: Inner = Field(Inner(), description="a section without options")


def test_options_are_declared_on_their_fields():
    assert option_keys(Outer) == {"path": "path", "flags": "flags", "out": "out", "n": "inner.size"}
    entry = yaml.safe_load(entry_point("a.b", Command("do", Outer, "does")))["do"]
    assert {name: given.get("default") for name, given in entry["parameters"].items()} == {
        "path": "data/README.md", "flags": "true,false", "out": None, "n": "3",
    }
    assert entry["command"] == "python -m a.b --path {path} --flags {flags} --out {out} --n {n}"
    with_config = yaml.safe_load(entry_point("a.b", Command("do", Outer, "does", config="configs/x.yaml")))["do"]
    assert with_config["parameters"]["config"]["default"] == "configs/x.yaml"
    assert {given["default"] for name, given in with_config["parameters"].items() if name != "config"} == {""}


def test_two_options_of_one_name_and_sections_without_what_they_show_are_refused():
    class Twice(Outer):
        n: int = Field(1, description="as the section's")

    with pytest.raises(ValueError, match="two options n"):
        option_keys(Twice)

    class Lacking(Options):
        inner: Inner = Field(Inner(), description="a section", json_schema_extra=shown("size"))

    with pytest.raises(ValueError, match="shows options that it does not have"):
        option_keys(Lacking)


def test_files_of_the_project_are_found_from_any_folder_and_kept_relative_to_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = parse(Command("do", Outer, "does"), ["--out", "o"])
    assert Path(options.path).is_file()
    assert options.model_dump()["path"] == options.model_dump(mode="json")["path"] == "data/README.md"
    given = parse(Command("do", Outer, "does"), ["--out", "o", "--path", "data/README.md"])
    assert given.path == "data/README.md", "a given path is the user's, from the current folder"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_option(name, capsys):
    _, command = COMMANDS[name]
    with pytest.raises(SystemExit):
        parse(command, ["--help"])
    said = capsys.readouterr().out
    assert all(f"--{option} " in said for option in option_keys(command.options)) and str(PROJECT_ROOT) not in said


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_refused_in_one_line(name):
    with pytest.raises(UserError, match="unrecognized arguments: --nothing") as raised:
        parse(COMMANDS[name][1], ["--nothing", "1"])
    assert "\n" not in str(raised.value)


def test_it_takes_no_arguments():
    with pytest.raises(UserError, match="without arguments"):
        main(["--help"])
