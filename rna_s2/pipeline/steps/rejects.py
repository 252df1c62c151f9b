"""Rows and records that a step leaves out: where their table goes, and how many are allowed."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from rna_s2.boxtables.write import PARQUET_SUFFIX, PICKLE_SUFFIXES, write_rejects
from rna_s2.engine.tracker import Tracker
from rna_s2.options.errors import UserError

logger = logging.getLogger(__name__)

ANY_NUMBER = -1
"""Value of ``max_rejects`` that allows any number of unusable rows."""


def rejects_path(out_file: str | Path) -> Path:
    """Where the rejects of a table go: beside it, ``NAME.rejects.csv``."""
    path = Path(out_file)
    suffixes = (PARQUET_SUFFIX, *sorted(PICKLE_SUFFIXES, key=len, reverse=True))
    suffix = next((s for s in suffixes if path.name.endswith(s)), "")
    return path.with_name(f"{path.name.removesuffix(suffix)}.rejects.csv")


def keep_rejects(rejects: pd.DataFrame, path: Path, tracker: Tracker, folder: str = "") -> None:
    """Writes the rejects where there are any, and over those that are left from an earlier run; the tracker keeps them.

    Args:
        rejects: one line per row or record that is left out.
        path: where to.
        tracker: keeps a copy.
        folder: of the tracker's artifacts.
    """
    if len(rejects) or path.exists():
        write_rejects(rejects, path)
    if len(rejects):
        tracker.artifact(path, folder)


def check_rejects(unusable: pd.DataFrame, rows: int, max_rejects: int, source: str, path: Path) -> None:
    """Stops where more rows cannot be used than are allowed; else says how many are left out.

    Args:
        unusable: the rows that cannot be used (``row``, ``index``, ``column``, ``reason``).
        rows: rows in all.
        max_rejects: how many are allowed; :data:`ANY_NUMBER` for any number.
        source: the file they are of.
        path: the table that lists them.

    Raises:
        UserError: there are more.
    """
    count = len(unusable)
    if not count:
        return
    first = unusable.iloc[0]
    what = (
        f"{source}: {count} of {rows} rows cannot be used; the first is row {first['row']} (index {first['index']}), column "
        f"{first['column']}: {first['reason']}; all are listed in {path}"
    )
    if max_rejects != ANY_NUMBER and count > max_rejects:
        raise UserError(f"{what}; mend them, or leave them out with max_rejects={count}")
    logger.warning("%s", what)
