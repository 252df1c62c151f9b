"""What runs are called. Imports no MLflow, so that steps can name their runs without it."""

from __future__ import annotations

from pathlib import Path

VERBS = {"register_structure_model": "register", "study_child": "score"}
"""First word of a run's name where it is not its stage."""


def run_name(stage: str, *subject: str | Path, seed: int | None = None) -> str:
    """The readable name of every run: what is done, to what, with which seed (``train lstm_attn hid20x4 seed0``).

    Args:
        stage: what is done: ``prune``, ``train``, ...
        subject: words; of a path, the name of its last part. Empty ones are left out.
        seed: of a run that depends on one.
    """
    words = [VERBS.get(stage, stage), *(each.name if isinstance(each, Path) else each for each in subject)]
    return " ".join(filter(None, [*words, "" if seed is None else f"seed{seed}"]))
