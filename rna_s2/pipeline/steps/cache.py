"""Outputs of steps that are made once, and found again by what decides their content."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rna_s2.engine.tracker import Tracker
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
