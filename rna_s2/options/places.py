"""Where the project lies on disk."""

from __future__ import annotations

from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the package, ``configs/``, ``data/`` and ``notebooks/``."""
