"""Which room may import what: the walls of the house."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rna_s2"
BELOW_ALL = {"options", "engine"}
DOMAIN = {"rna", "boxtables", "energies", *BELOW_ALL}

MAY_IMPORT = {
    "options": set(),
    "engine": {"options"},
    "rna": set(),
    "boxtables": {"rna", *BELOW_ALL},
    "energies": {"rna", *BELOW_ALL},
    "fitting": BELOW_ALL,
    "pruning": {"boxtables", "rna", *BELOW_ALL},
    "s1": {"boxtables", "rna", "fitting", *BELOW_ALL},
    "s2": {*DOMAIN, "fitting"},
    "structures": DOMAIN,
    "reports": {*DOMAIN, "structures", "s2"},
    "tracking": {"rna", "fitting", *BELOW_ALL},
    "pipeline": {*DOMAIN, "fitting", "pruning", "s1", "s2", "structures", "reports", "tracking"},
}
MAY_IMPORT["commands"] = set(MAY_IMPORT)
ROOMS = set(MAY_IMPORT)

TORCH = {"torch", "pytorch_lightning", "torchmetrics"}
REFUSED_LIBRARIES = {room: {"mlflow"} for room in ROOMS if room != "tracking"}
for without_torch in ("pruning", "boxtables", "structures", "energies"):
    REFUSED_LIBRARIES[without_torch] |= TORCH

MODEL_CODE = "_model_code.py"
"""Ending of the modules that MLflow keeps with a model and runs where it is loaded: they are commands of a kind."""


def imported(source: str) -> set[str]:
    """Dotted names of everything a module imports, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute in this project"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules(room: str) -> list[Path]:
    return sorted((PACKAGE / room).resolve().rglob("*.py"))


def wrong_imports(room: str, source: str, name: str = "") -> set[str]:
    names = imported(source)
    rooms = {each.split(".")[1] for each in names if each.startswith("rna_s2.")} & ROOMS
    wrong = rooms - {room} - MAY_IMPORT[room]
    if name.endswith(MODEL_CODE):
        wrong &= {"commands"}
    top = {each.partition(".")[0] for each in names}
    libraries = top & REFUSED_LIBRARIES.get(room, set())
    if room == "rna":
        libraries |= top - {"rna_s2", "numpy"} - sys.stdlib_module_names
    return wrong | libraries | (top & ROOMS)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_it_may(room):
    assert modules(room), f"the room {room} is empty"
    found = {
        str(path.relative_to(ROOT)): wrong_imports(room, path.read_text(), path.name) for path in modules(room)
    }
    assert {path: sorted(names) for path, names in found.items() if names} == {}


def test_every_room_is_known():
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()} == ROOMS
    assert {path.name for path in PACKAGE.iterdir() if path.is_symlink()} == {"s2", "pruning"}
    for room in ("s2", "pruning"):
        assert (PACKAGE / room).readlink() == Path("..", room)


def test_nothing_is_imported_but_below_the_package():
    """A module that is imported under two names exists twice in a process, and ``s2/`` lies at the top level too."""
    files = [*ROOT.glob("*.py"), *(p for f in ("tests", "benchmarks", "docs") for p in (ROOT / f).rglob("*.py"))]
    for path in files:
        wrong = {name.partition(".")[0] for name in imported(path.read_text())} & ROOMS
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}; begin with rna_s2"
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        for room in ROOMS:
            assert f"from {room}." not in notebook.read_text(encoding="utf-8")


@pytest.mark.parametrize("script", sorted(p.relative_to(ROOT) for f in ("benchmarks", "docs") for p in (ROOT / f).glob("*.py")))
def test_a_script_finds_what_it_imports(script):
    runpy.run_path(str(ROOT / script), run_name="not main")


@pytest.mark.parametrize(
    ("room", "source", "wrong"),
    [
        ("rna", "import pandas as pd", {"pandas"}),
        ("rna", "import numpy, json", set()),
        ("pruning", "def rule():\n    import torch", {"torch"}),
        ("s2", "from rna_s2.s1.network import Maps", {"s1"}),
        ("s2", "from rna_s2 import s1", {"s1"}),
        ("s2", "from rna_s2.tracking.runs import start_run", {"tracking"}),
        ("s2", "from rna_s2.tracking.runs import start_run\ndef main(argv): ...", {"tracking"}),
        ("s2", "import mlflow\ndef main(argv): ...", {"mlflow"}),
        ("s2", "from s2.network import BoxNetwork", {"s2"}),
        ("structures", "def energy():\n    import RNA", set()),
        ("structures", "from rna_s2.s2.scorer import Scorer\nimport torch", {"s2", "torch"}),
        ("pipeline", "import mlflow.pyfunc", {"mlflow"}),
        ("pipeline", "from rna_s2.commands.train import main", {"commands"}),
        ("tracking", "from rna_s2.s2.scorer import Scorer", {"s2"}),
        ("options", "from rna_s2.rna import boxes", {"rna"}),
    ],
)
def test_the_check_itself(room, source, wrong):
    assert wrong_imports(room, source) == wrong
