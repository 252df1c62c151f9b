"""What a step logs about itself while it runs: a narrow protocol, so that everything runs without MLflow too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Where the parameters, metrics and files of one run go. ``tracking`` has the one that writes to MLflow."""

    run_id: str

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters of the run; nested mappings become dotted names."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags of the run."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Metrics at a step (an epoch); a NaN is left out."""

    def dataset(self, name: str, digest: str, source: str, context: str, profile: Mapping[str, Any]) -> None:
        """An input of the run: its name, content digest, where it lies, what it is for, and its counts."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file or folder kept with the run."""

    def plot(self, figure: Any, name: str) -> None:
        """A matplotlib ``Figure`` kept with the run as the picture ``name``."""


class MemoryTracker:
    """Keeps everything in lists and dicts: for tests, and for steps that nobody follows."""

    def __init__(self) -> None:
        self.run_id = "memory"
        self.param_values: dict[str, Any] = {}
        self.tag_values: dict[str, str] = {}
        self.metric_values: dict[str, list[tuple[int, float]]] = {}
        self.datasets: list[dict[str, Any]] = []
        self.artifacts: list[tuple[str, str]] = []
        self.plots: dict[str, Any] = {}

    def params(self, values: Mapping[str, Any]) -> None:
        self.param_values.update(flatten(values))

    def tags(self, values: Mapping[str, str]) -> None:
        self.tag_values.update(values)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        for name, value in values.items():
            if value == value:
                self.metric_values.setdefault(name, []).append((step, float(value)))

    def dataset(self, name: str, digest: str, source: str, context: str, profile: Mapping[str, Any]) -> None:
        self.datasets.append({"name": name, "digest": digest, "source": source, "context": context, "profile": profile})

    def artifact(self, path: Path, folder: str = "") -> None:
        self.artifacts.append((Path(path).name, folder))

    def plot(self, figure: Any, name: str) -> None:
        self.plots[name] = figure


StartRun = Callable[[str, str], AbstractContextManager[Tracker]]
"""Starts the run of a step, given its stage and its readable name; the caller decides whose child it is."""


@contextmanager
def untracked(stage: str, name: str) -> Iterator[Tracker]:
    """A :data:`StartRun` that nobody follows."""
    yield MemoryTracker()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


@contextmanager
def timed(seconds: dict[str, float], name: str):
    """Adds the wall seconds of the block to ``seconds[name]``."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
