"""Statistics of an evaluation, by family, by length, and beside RNAfold's; its summary in Markdown, and plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rna_s2.reports.intervals import bootstrap_interval
from rna_s2.reports.plots import colours
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
    """One entry per structure, as in :attr:`Evaluation.sequences`: the tool's name, and for each structure its base pairs as
    predicted (``(k, 2)``) and the seconds of the prediction."""
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


def markdown(evaluation: Evaluation) -> str:
    """The summary as Markdown: every metric of every tool, then F1 by family."""
    summary = evaluation.summary
    names = {"f1": "F1", "mcc": "MCC", "ppv": "PPV", "sensitivity": "sensitivity"}
    heads = [*(names[f] for f in METRICS), *(f"{names[f]}, slack 1" for f in METRICS), "exact structures", "s per sequence"]
    lines = _table(["tool", "sequences", *heads], [
        [row["tool"], row["sequences"], *(f"{row[c]:.3f}" for c in MEASURES[:-1]), f"{row['seconds']:.3g}"]
        for row in summary[summary["family"] == ALL].to_dict("records")
    ])
    tools = list(dict.fromkeys(summary["tool"]))
    families = [(name, rows.set_index("tool")) for name, rows in summary.groupby("family", sort=False)]
    lines += ["", *_table(["F1 by family", "sequences", *tools], [
        [family, rows["sequences"].iloc[0], *(_with_interval(rows.loc[name], "f1", ".3f") for name in tools)]
        for family, rows in families
    ])]
    others = [name for name in tools if name != RNAFOLD and RNAFOLD in tools]
    if others:
        lines += ["", *_table([f"F1 less {RNAFOLD}'s", *others], [
            [family, *(_with_interval(rows.loc[name], "f1_difference", "+.3f") for name in others)] for family, rows in families
        ])]
    lengths = [(name, rows.set_index("tool")) for name, rows in by_length(evaluation.sequences).groupby("length", sort=False)]
    lines += ["", *_table(["F1 by length (nt)", "sequences", *tools], [
        [length, rows["sequences"].iloc[0], *(f"{rows.loc[name, 'f1']:.3f}" for name in tools)] for length, rows in lengths
    ])]
    lines += ["", "Intervals: 95 %, bootstrap over sequences; differences are paired by sequence.",
              "Slack 1: a pair may be displaced by one position."]
    lines += [f"Not compared: {name}, {why}." for name, why in evaluation.absent.items()]
    failures = evaluation.failures
    of_tools, unusable = failures[failures["tool"] != ""], failures[failures["tool"] == ""]
    if len(of_tools):
        lines.append(f"Left out, because a tool failed: {of_tools['name'].nunique()} sequences (failures.csv).")
    if len(unusable):
        lines.append(f"Left out, because the file's record cannot be used: {len(unusable)} (failures.csv).")
    return "\n".join(lines) + "\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (heads, *rows)]
    return [lines[0], "| --- |" + " ---: |" * (len(heads) - 1), *lines[1:]]


def _with_interval(row: pd.Series, metric: str, form: str) -> str:
    """A metric and its interval, where there is one, as text."""
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return f"{row[metric]:{form}}" + ("" if np.isnan(low) else f" ({low:{form}} to {high:{form}})")


def family_plot(summary: pd.DataFrame) -> Figure:
    """F1 of each tool by family as bars, with 95 % intervals."""
    families = list(dict.fromkeys(summary["family"]))
    tools = list(dict.fromkeys(summary["tool"]))
    figure = Figure(figsize=(max(5.0, 1.2 + 0.35 * len(families) * (len(tools) + 1)), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(tools)
    colour = colours(tools)
    for k, name in enumerate(tools):
        rows = summary[summary["tool"] == name].set_index("family").reindex(families)
        at = np.arange(len(families)) + (k - (len(tools) - 1) / 2) * width
        errors = np.nan_to_num(np.abs(rows[["f1_low", "f1_high"]].to_numpy().T - rows["f1"].to_numpy()))
        axes.bar(at, rows["f1"], width, yerr=errors, error_kw={"linewidth": 0.8}, label=name, color=colour[name])
    counts = summary.drop_duplicates("family").set_index("family")["sequences"]
    labels = [f"{f}\n{counts[f]}" for f in families]
    axes.set_xticks(np.arange(len(families)), labels, rotation=30, ha="right", parse_math=False)
    axes.set(ylabel="F1 (mean over sequences)", ylim=(0, 1))
    axes.legend(frameon=False, ncols=min(len(tools), 4))
    return figure


def time_plot(sequences: pd.DataFrame) -> Figure:
    """Seconds per sequence over its length, a point per sequence, for each tool."""
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    colour = colours(sequences["tool"].unique())
    for name, rows in sequences.groupby("tool", sort=False):
        axes.plot(rows["length"], rows["seconds"], ".", markersize=4, alpha=0.5, label=name, color=colour[name])
    axes.set(xlabel="length (nt)", ylabel="seconds per sequence", xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, markerscale=2)
    return figure
