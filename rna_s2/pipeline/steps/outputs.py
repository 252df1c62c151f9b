"""What steps write: outputs that are made once and found again by what decides their content, rejects, files of a run."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from rna_s2.boxtables.write import PARQUET_SUFFIX, PICKLE_SUFFIXES, write_rejects
from rna_s2.engine.tracker import Tracker
from rna_s2.options.errors import UserError
from rna_s2.options.files import content_key, creation_lock, file_digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedStep:
    """A step whose output is kept in the cache.

    Attributes:
        name: the step.
        version: raise it when the step gives another output for the same input; ``tests/test_steps.py`` fails until then.
        folder: where its outputs lie in the cache.
        suffix: of their names.
        libraries: packages whose numbers are in the output; another version of one makes another key.
    """

    name: str
    version: int
    folder: str
    suffix: str = ""
    libraries: tuple[str, ...] = ()

    def path(self, cache_dir: str | Path, *, libraries: Collection[str] = (), **decisive: object) -> Path:
        """Where an output lies.

        Args:
            cache_dir: folder of the cache.
            libraries: packages beside :attr:`libraries`.
            decisive: all options and the digests of all inputs.
        """
        versions = {name: version(name) for name in sorted({*self.libraries, *libraries})}
        key = content_key(step=self.name, version=self.version, libraries=versions, **decisive)
        return Path(cache_dir) / self.folder / f"{key}{self.suffix}"


def make_or_find(path: Path, tracker: Tracker, make: Callable[[], object]) -> bool:
    """Calls ``make``, which writes ``path``, unless it is there; of several processes that want it, one makes it.

    The tracker is given the tag ``reused`` and, where the output is found, its digest.

    Returns:
        whether it was there.

    Raises:
        UserError: the folder cannot be written; and what ``make`` raises.
    """
    with creation_lock(path):
        found = path.exists()
        tracker.tags({"reused": str(found).lower()})
        if found:
            logger.info("found in %s", path)
            tracker.tags({"digest.out_file": file_digest(path)})
        else:
            make()
    return found


def log_files(tracker: Tracker, files: Mapping[str, str | pd.DataFrame], folder: str = "") -> None:
    """Keeps texts and tables (as CSV) with a run, each as the file of its name in a folder of its artifacts."""
    with tempfile.TemporaryDirectory() as temporary:
        for name, content in files.items():
            path = Path(temporary) / name
            path.write_text(content if isinstance(content, str) else content.to_csv(index=False), encoding="utf-8")
            tracker.artifact(path, folder)


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

    ``folder`` is that of the tracker's artifacts.
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
        max_rejects: how many are allowed, or :data:`ANY_NUMBER`.
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
