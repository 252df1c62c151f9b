"""What CONTRIBUTING, CHANGELOG and CITATION say is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

from rna_s2.pipeline import predict_file, structure_prediction
from rna_s2.s1 import model
from rna_s2.s2.dataset import FORMAT_VERSION
from tests.test_steps import STEPS

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_room_is_described_with_an_existing_folder():
    described = {Path(name).name for name in re.findall(r"`([a-z0-9_/]+)/`", text("CONTRIBUTING.md")) if name != "rna_s2"}
    rooms = {path.parent.name for path in (ROOT / "rna_s2").glob("*/__init__.py")}
    assert rooms and described == rooms


def test_the_changelog_names_the_versions_of_the_formats():
    lines = text("CHANGELOG.md").splitlines()
    rows = {cells[1]: cells[2] for cells in ([c.strip() for c in line.split("|")] for line in lines) if len(cells) == 5}
    assert rows["encoded dataset"] == str(FORMAT_VERSION)
    assert rows["cached steps below `.cache`"] == ", ".join(f"{name} {step.version}" for name, step in STEPS.items())
    for written in (model.FORMAT, structure_prediction.FORMAT, predict_file.FORMAT):
        assert f"`{written}`" in rows.values()
    assert f"## {PROJECT['version']}" in lines


def test_the_citation_is_of_this_version_and_licence():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["authors"] == [{"name": "The RNA S2 developers"}]
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
