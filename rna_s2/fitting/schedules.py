"""Learning-rate schedules by name: the share of the largest learning rate at each step of a training.

To add one, write a function and name it in :data:`SCHEDULES`; the option ``lr_schedule`` and its help follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator

WARMUP_SHARE = 0.05
"""Share of the steps in which a rate rises, where no option says it."""

Schedule = Callable[[int, int, float], float]
"""The share (0..1) at ``step`` (from 0) of ``steps``, of which ``warmup_share`` (0..1) have a rising rate."""


def constant(step: int, steps: int, warmup_share: float) -> float:
    """the same learning rate at each step"""
    return 1.0


def cosine(step: int, steps: int, warmup_share: float) -> float:
    """the learning rate rises for warmup_share of the steps (a twentieth where there is no such option) and then falls to 0"""
    # Loshchilov and Hutter 2017, without restarts
    rise = max(1, int(steps * warmup_share + 1e-9))
    if step < rise:
        return (step + 1) / rise
    return _falling((step - rise) / max(1, steps - rise))


def cosine_by_progress(step: int, steps: int, warmup_share: float) -> float:
    """the same, but the rise may end between two steps"""
    progress = step / steps
    if progress < warmup_share:
        return progress / warmup_share + 1e-3
    return _falling((progress - warmup_share) / (1 - warmup_share))


def _falling(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine, "cosine_by_progress": cosine_by_progress}

SCHEDULE_HELP = "; ".join(f"{name}: {schedule.__doc__}" for name, schedule in SCHEDULES.items())


def _known(name: str) -> str:
    if name not in SCHEDULES:
        raise ValueError(f"must be one of {', '.join(SCHEDULES)}")
    return name


ScheduleName = Annotated[str, AfterValidator(_known)]
"""Type of an option that names a schedule."""
