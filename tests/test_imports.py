"""Which room may import what: the walls of the house."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("entry", "rna", "boxtables", "energies", "fitting", "pruning", "s1", "s2", "structures", "tracking", "pipeline")

MAY_IMPORT = {
    "entry": set(),
    "rna": set(),
    "boxtables": {"rna", "entry"},
    "energies": {"rna", "entry"},
    "fitting": {"entry"},
    "pruning": {"boxtables", "rna", "entry"},
    "s1": {"boxtables", "rna", "entry", "fitting"},
    "s2": {"boxtables", "rna", "energies", "entry", "fitting"},
    "structures": {"boxtables", "rna", "energies", "entry"},
    "tracking": {"boxtables", "rna", "entry", "fitting", "s1", "s2"},
    "pipeline": set(ROOMS),
}
TORCH = {"torch", "pytorch_lightning", "torchmetrics"}
REFUSED_LIBRARIES = {room: {"mlflow"} for room in ROOMS if room != "tracking"}
REFUSED_LIBRARIES["pruning"] |= TORCH
REFUSED_LIBRARIES["boxtables"] |= TORCH
REFUSED_LIBRARIES["structures"] |= TORCH
REFUSED_LIBRARIES["energies"] |= TORCH


def imported(source: str) -> set[str]:
    """Top-level names of everything a module imports, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute in this project"
            names.add(node.module.partition(".")[0])
    return names


def is_entry_point(source: str) -> bool:
    """Whether a module defines ``main``."""
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in ast.parse(source).body)


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


MODEL_CODE = "_model_code.py"
"""Ending of the modules that MLflow keeps with a model and runs where it is loaded: they may import what goes with it."""


def wrong_imports(room: str, source: str, name: str = "") -> set[str]:
    names = imported(source)
    rooms = names & set(ROOMS) - {room} - MAY_IMPORT[room]
    if name.endswith(MODEL_CODE):
        rooms &= {room, "tracking"}
    if is_entry_point(source):
        rooms -= {"tracking"}
    libraries = names & REFUSED_LIBRARIES.get(room, set())
    if room == "rna":
        libraries |= names - set(ROOMS) - {"numpy"} - sys.stdlib_module_names
    return rooms | libraries


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room):
    assert modules(room), f"the room {room} is empty"
    found = {
        str(path.relative_to(ROOT)): wrong_imports(room, path.read_text(), path.name) for path in modules(room)
    }
    assert {path: sorted(names) for path, names in found.items() if names} == {}


def test_every_room_is_known():
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize(
    ("room", "source", "wrong"),
    [
        ("rna", "import pandas as pd", {"pandas"}),
        ("rna", "import numpy, json", set()),
        ("pruning", "def rule():\n    import torch", {"torch"}),
        ("s2", "from rna_s2.s1.network import Maps", {"s1"}),
        ("s2", "from rna_s2.tracking.runs import start_run", {"tracking"}),
        ("s2", "from rna_s2.tracking.runs import start_run\ndef main(argv): ...", set()),
        ("s2", "import mlflow\ndef main(argv): ...", {"mlflow"}),
        ("structures", "def energy():\n    import RNA", set()),
        ("structures", "from rna_s2.s2.scorer import Scorer\nimport torch", {"s2", "torch"}),
        ("pipeline", "import mlflow.pyfunc", {"mlflow"}),
        ("entry", "from rna import boxes", {"rna"}),
    ],
)
def test_the_check_itself(room, source, wrong):
    assert wrong_imports(room, source) == wrong


@pytest.mark.parametrize("kind", ["S1_MODEL", "S2_MODEL", "STRUCTURE_MODEL"])
def test_the_code_of_a_model_imports_only_rooms_that_go_with_it(kind):
    """Whatever is reached from it, at whatever depth: nothing else is there when the model is loaded elsewhere."""
    from rna_s2.tracking import models

    kept = getattr(models, kind)
    reached, todo = set(), [ROOT / "tracking" / kept.code]
    while todo:
        path = todo.pop()
        if path in reached or not path.is_file():
            continue
        reached.add(path)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in ROOMS:
                assert node.module.partition(".")[0] in kept.rooms, f"{path.name} imports {node.module}"
                todo.append(ROOT / Path(*node.module.split(".")).with_suffix(".py"))
                todo += [ROOT / Path(*node.module.split("."), f"{alias.name}.py") for alias in node.names]
    assert len(reached) > 5
