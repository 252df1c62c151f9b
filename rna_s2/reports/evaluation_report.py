"""The report of an evaluation: a summary in Markdown, and plots."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rna_s2.reports.evaluation import ALL, MEASURES, METRICS, RNAFOLD, Evaluation, by_length
from rna_s2.reports.plots import colours


def markdown(evaluation: Evaluation) -> str:
    """The summary as Markdown: every metric of every tool, then F1 by family."""
    summary = evaluation.summary
    names = {"f1": "F1", "mcc": "MCC", "ppv": "PPV", "sensitivity": "sensitivity"}
    heads = [*(names[f] for f in METRICS), *(f"{names[f]}, slack 1" for f in METRICS), "exact structures", "s per sequence"]
    lines = [f"| tool | sequences | {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) + 1)}"]
    for row in summary[summary["family"] == ALL].to_dict("records"):
        cells = [f"{row[c]:.3f}" for c in MEASURES[:-1]] + [f"{row['seconds']:.3g}"]
        lines.append(f"| {row['tool']} | {row['sequences']} | {' | '.join(cells)} |")
    tools = list(dict.fromkeys(summary["tool"]))
    lines += ["", f"| F1 by family | sequences | {' | '.join(tools)} |", f"| --- | ---: |{' ---: |' * len(tools)}"]
    for family, rows in summary.groupby("family", sort=False):
        of_tool = rows.set_index("tool")
        cells = [_with_interval(of_tool.loc[name], "f1", ".3f") for name in tools]
        lines.append(f"| {family} | {of_tool['sequences'].iloc[0]} | {' | '.join(cells)} |")
    others = [name for name in tools if name != RNAFOLD and RNAFOLD in tools]
    if others:
        lines += ["", f"| F1 less {RNAFOLD}'s | {' | '.join(others)} |", f"| --- |{' ---: |' * len(others)}"]
        for family, rows in summary.groupby("family", sort=False):
            of_tool = rows.set_index("tool")
            cells = [_with_interval(of_tool.loc[name], "f1_difference", "+.3f") for name in others]
            lines.append(f"| {family} | {' | '.join(cells)} |")
    lines += ["", f"| F1 by length (nt) | sequences | {' | '.join(tools)} |", f"| --- | ---: |{' ---: |' * len(tools)}"]
    for length, rows in by_length(evaluation.sequences).groupby("length", sort=False):
        of_tool = rows.set_index("tool")
        cells = [f"{of_tool.loc[name, 'f1']:.3f}" for name in tools]
        lines.append(f"| {length} | {of_tool['sequences'].iloc[0]} | {' | '.join(cells)} |")
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
