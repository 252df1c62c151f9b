"""The report of compared selections: the settings that no other beats, sentences, and plots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rna_s2.reports.plots import colours
from rna_s2.rna.boxes import BOX_TYPES

ALL_LENGTHS = "all"
AS_GIVEN = "as given"
"""Name of the curve of the table's own proposals."""


def frontier(comparison: pd.DataFrame, lengths: str = ALL_LENGTHS) -> pd.DataFrame:
    """The settings that no other beats over some lengths: none has as few boxes per row and as large a full share."""
    rows = comparison[comparison["lengths"] == lengths].sort_values(
        ["boxes_per_row", "full_share"], ascending=[True, False], kind="stable"
    )
    best_before = rows["full_share"].cummax().shift(fill_value=-1.0)
    return rows[rows["full_share"] > best_before]


def best_within(comparison: pd.DataFrame, budgets: Sequence[int]) -> pd.DataFrame:
    """For each selection and number of boxes per row, over all lengths: its setting of largest full share within that.

    Returns:
        The entries of those settings, and ``budget``; a selection without a setting within a budget has no entry for it.
    """
    rows = comparison[comparison["lengths"] == ALL_LENGTHS]
    parts = []
    for budget in budgets:
        within = rows[rows["boxes_per_row"] <= budget].sort_values("full_share", ascending=False, kind="stable")
        parts.append(within.drop_duplicates("selection").assign(budget=budget))
    best = pd.concat(parts) if parts else rows.iloc[:0].assign(budget=0)
    place = {name: k for k, name in enumerate(rows["selection"].unique())}
    return best.sort_values(["selection", "budget"], key=lambda c: c.map(place) if c.name == "selection" else c)


def best_sentences(
    best: pd.DataFrame, comparison: pd.DataFrame, budgets: Sequence[int], thresholds: Sequence[str]
) -> list[str]:
    """One line per selection from :func:`best_within`; ``thresholds`` are the columns that describe a setting."""
    lines = []
    for name in comparison["selection"].unique():
        mine = best[best["selection"] == name].set_index("budget")
        said = [
            f"<= {budget} boxes per row: {_share(mine.loc[budget], thresholds) if budget in mine.index else 'no setting'}"
            for budget in budgets
        ]
        lines.append(f"{name}: {'; '.join(said)}")
    return lines


def _share(entry: pd.Series, thresholds: Sequence[str]) -> str:
    names = [name for name in thresholds if np.isfinite(entry[name])]
    at = "".join(f", {name} {entry[name]:g}" for name in names)
    return f"{100 * entry['full_share']:.1f} % of rows with 100 % sensitivity ({entry['boxes_per_row']:.0f} boxes{at})"


def length_plot(comparison: pd.DataFrame) -> Figure:
    """Share of rows with 100 % sensitivity over boxes per row, a panel for each group of lengths, a line per selection."""
    names = [name for name in comparison["lengths"].unique() if name != ALL_LENGTHS]
    figure = Figure(figsize=(4 * len(names), 4), layout="constrained")
    for axes, lengths in zip(figure.subplots(1, len(names), squeeze=False, sharey=True).flat, names, strict=True):
        _lines(axes, comparison, "full_share", lengths)
        axes.set_title(f"{lengths} nt")
    figure.axes[0].set_ylabel("rows with 100 % box sensitivity")
    figure.axes[0].legend(frameon=False)
    return figure


def tradeoff_plot(comparison: pd.DataFrame) -> Figure:
    """Share of rows with 100 % sensitivity, and the sensitivity of each type, over boxes per row, a line per selection."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    panels = {"full_share": "rows with 100 % box sensitivity"}
    panels |= {f"sensitivity_{name}": f"target boxes found: {name}" for name in BOX_TYPES}
    for axes, (column, label) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        _lines(axes, comparison, column, ALL_LENGTHS)
        axes.set_ylabel(label)
    figure.axes[0].legend(frameon=False)
    return figure


def _lines(axes: Axes, comparison: pd.DataFrame, column: str, lengths: str) -> None:
    """A line per selection, through its settings that no other of its settings beats."""
    colour = colours(comparison["selection"].unique())
    for name, rows in comparison.groupby("selection", sort=False):
        line = frontier(rows, lengths)
        marker, size = ("*", 14) if name == AS_GIVEN else ("o", 3)
        axes.plot(
            line["boxes_per_row"], line[column], marker=marker, markersize=size, linewidth=1, label=name, color=colour[name]
        )
    axes.set(xlabel="boxes per row after pruning", xscale="log")
    axes.grid(alpha=0.3)
