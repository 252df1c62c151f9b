"""Statistics of an evaluation: the metrics of each predicted structure, by family, by length, and beside RNAfold's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from rna_s2.reports.intervals import bootstrap_interval
from rna_s2.rna.formats import StructureRecord
from rna_s2.rna.pairs import to_dot_bracket
from rna_s2.structures.compare import compare_many

RNAFOLD = "RNAfold"
"""The tool that the others are compared with, sequence by sequence."""

METRICS = ("sensitivity", "ppv", "f1", "mcc")
SLACK = "_slack"
"""Ending of a metric's name where a pair may be displaced by one position."""

MEASURES = (*METRICS, *(name + SLACK for name in METRICS), "exact", "seconds")
"""All that is averaged over sequences."""

ALL, MEAN_OF_FAMILIES, NO_FAMILY = "all", "mean of families", "(none)"

RESAMPLES = 2000
"""Bootstrap samples of an interval."""

LENGTHS = (50, 75, 100, 150, 200, 500, 1000)
"""Longest sequences of the classes of length in the summary, in bases."""


@dataclass(frozen=True)
class Evaluation:
    """What a comparison gave.

    Attributes:
        sequences: one entry per tool and sequence: ``tool, name, family, length, known_pairs, predicted_pairs``, the four
            metrics exact and with slack, ``exact`` (the whole structure is as known), ``seconds``, ``structure``.
        summary: one entry per tool and family, and for all sequences (:func:`summarise`).
        failures: sequences that a tool could not fold: ``tool, name, reason``; with an empty ``tool``, records of the file
            that could not be used.
        absent: tools that are not installed, and why.
    """

    sequences: pd.DataFrame
    summary: pd.DataFrame
    failures: pd.DataFrame
    absent: dict[str, str]


def compared(
    name: str, known: Sequence[StructureRecord], predicted: Sequence[np.ndarray], seconds: Sequence[float]
) -> pd.DataFrame:
    """One entry per structure, as in :attr:`Evaluation.sequences`.

    Args:
        name: of the tool.
        known: the known structures.
        predicted: ``(k, 2)`` base pairs of each.
        seconds: of each prediction.
    """
    lengths = [len(s.seq) for s in known]
    exact, slack = (compare_many(predicted, [s.pairs for s in known], lengths, s) for s in (0, 1))
    return pd.DataFrame({
        "tool": name,
        "name": [s.name for s in known],
        "family": [f"{s.family} (family)" if s.family in (ALL, MEAN_OF_FAMILIES) else s.family or NO_FAMILY for s in known],
        "length": lengths,
        "known_pairs": exact["known"],
        "predicted_pairs": exact["predicted"],
        **{metric: exact[metric] for metric in METRICS},
        **{metric + SLACK: slack[metric] for metric in METRICS},
        "exact": [np.array_equal(p, s.pairs) for p, s in zip(predicted, known, strict=True)],
        "seconds": seconds,
        "structure": [to_dot_bracket(p, n) for p, n in zip(predicted, lengths, strict=True)],
    })


def summarise(sequences: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Means of the metrics by tool and family, over all sequences, and over the families' means.

    Returns:
        Columns ``tool, family, sequences``, each metric exact and with slack, ``exact`` (share of whole structures),
        ``seconds`` (mean per sequence), ``f1_low`` and ``f1_high`` (95 % bootstrap interval over sequences; NaN for fewer
        than two, and for the mean of families), ``f1_difference`` with its own ``_low`` and ``_high`` (the mean over
        sequences of F1 less RNAfold's; NaN for RNAfold itself, and without it). The tools stand in the order of
        ``sequences``, families by name.
    """
    columns = list(MEASURES)
    position = sequences.groupby("tool").cumcount()  # every tool folded the same sequences in the same order
    yardstick = pd.Series(sequences.loc[sequences["tool"] == RNAFOLD, "f1"].to_numpy())
    lines = []
    for name, of_tool in sequences.groupby("tool", sort=False):
        difference = of_tool["f1"] - position[of_tool.index].map(yardstick) if name != RNAFOLD else of_tool["f1"] * np.nan
        families = list(of_tool.groupby("family"))
        groups = [*families, (ALL, of_tool)]
        for family, rows in groups:
            low, high = interval(rows["f1"], seed)
            of_group = difference[rows.index]
            less, more = interval(of_group, seed)
            lines.append({
                "tool": name, "family": family, "sequences": len(rows), **rows[columns].mean(), "f1_low": low, "f1_high": high,
                "f1_difference": of_group.mean(), "f1_difference_low": less, "f1_difference_high": more,
            })
        if len(families) > 1:
            means = pd.DataFrame(lines[-len(groups):-1])[[*columns, "f1_difference"]].mean()
            lines.append({"tool": name, "family": MEAN_OF_FAMILIES, "sequences": len(of_tool), **means})
    return pd.DataFrame(lines)


def by_length(sequences: pd.DataFrame) -> pd.DataFrame:
    """Means by tool and class of length: columns ``tool, length`` (such as ``51-75``), ``sequences, f1, exact, seconds``."""
    place = np.searchsorted(LENGTHS, sequences["length"])
    names = [f"{low + 1}-{high}" for low, high in pairwise((0, *LENGTHS))] + [f"{LENGTHS[-1] + 1}-"]
    grouped = sequences.groupby(["tool", place], sort=False)
    means = grouped[["f1", "exact", "seconds"]].mean().assign(sequences=grouped.size()).reset_index(names=["tool", "length"])
    means = means.sort_values("length", kind="stable").assign(length=[names[k] for k in np.sort(means["length"])])
    return means[["tool", "length", "sequences", "f1", "exact", "seconds"]].reset_index(drop=True)


def interval(values: pd.Series, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the mean; NaN for fewer than two values."""
    found = bootstrap_interval(values, samples=RESAMPLES, seed=seed)
    return (found.low, found.high) if found.values > 1 else (float("nan"), float("nan"))
