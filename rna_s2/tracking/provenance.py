"""What is recorded with a run of its code and its environment."""

from __future__ import annotations

import functools
import getpass
import importlib.metadata
import platform
import subprocess
import sys

from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from rna_s2.options.places import PROJECT_ROOT


@functools.cache
def git_tags() -> dict[str, str]:
    """Commit of the project's folder and whether files differ from it; ``unknown`` where it is no clone."""
    commit = _git("rev-parse", "HEAD")
    if commit is None or _git("rev-parse", "--show-prefix"):  # a copy without its history within another repository
        return {"git_commit": "unknown", "git_dirty": "unknown"}
    status = _git("status", "--porcelain")
    return {
        "git_commit": commit,
        "git_dirty": "unknown" if status is None else str(bool(status)).lower(),
        MLFLOW_GIT_COMMIT: commit,
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(PROJECT_ROOT), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@functools.cache
def environment_text() -> str:
    """Interpreter, system, what PyTorch computes with (sums depend on the number of threads, in their last digits), and the
    exact version of every installed package, in the form of a requirements file."""
    packages = {f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions() if d.metadata["Name"]}
    head = [f"# Python {platform.python_version()}", f"# {platform.platform()}"]
    if "torch" in sys.modules:
        import torch

        head.append(f"# PyTorch: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    return "\n".join([*head, *sorted(packages, key=str.lower)]) + "\n"


def user_name() -> str:
    """Who runs this; ``unknown`` for a user id without a name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in some containers
        return "unknown"
