"""Files that come with the project, and where they lie on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import PlainSerializer

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the package, ``configs/``, ``data/`` and ``notebooks/``."""


def in_project(path: str) -> str:
    """The absolute path of a file that comes with the project, from whatever folder it is asked for."""
    return str(PROJECT_ROOT / path)


def from_project(path: str) -> str:
    """A path relative to the project where it is an absolute one inside of it; else as it is."""
    absolute = Path(path)
    inside = absolute.is_absolute() and absolute.is_relative_to(PROJECT_ROOT)
    return str(absolute.relative_to(PROJECT_ROOT)) if inside else path


ProjectPath = Annotated[str, PlainSerializer(from_project)]
"""A path whose default is a file of the project (:func:`in_project`). What is kept with runs and models names such a file
relative to the project, so that it means the same on every machine."""
