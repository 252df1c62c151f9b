"""Setting up: what is replaced, and what is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bootstrap

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ["thesis.txt", "pyvenv.cfg"])
def test_a_folder_of_the_users_own_is_left_alone(tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    for folder in ("mine", "link", f"mine/{name}"):
        done = subprocess.run(
            [sys.executable, ROOT / "bootstrap.py", "--setup-only"], env={**os.environ, "RNA_S2_VENV": str(tmp_path / folder)},
            capture_output=True, text=True, check=False,
        )
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert "not made by this script" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [name]
    assert (tmp_path / "mine" / name).read_text() == "mine" and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("mark", [bootstrap.OWN, bootstrap.STAMP])
def test_what_an_interrupted_set_up_left_is_replaced(tmp_path, monkeypatch, mark):
    def made(command, check):
        (Path(command[-1]) / "made").write_text("")

    monkeypatch.setattr(bootstrap, "VENV", tmp_path / "venv")
    monkeypatch.setattr(bootstrap, "python_version", lambda python: "3.11")
    monkeypatch.setattr(bootstrap.subprocess, "run", made)
    (tmp_path / "venv").mkdir()
    for name in (mark, "half of something"):
        (tmp_path / "venv" / name).write_text("")
    bootstrap.make_venv()
    assert {path.name for path in (tmp_path / "venv").iterdir()} == {bootstrap.OWN, "made"}
