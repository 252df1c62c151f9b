"""Stage 1's selections of proposals compared, boxes per row against the target boxes found.

Every selection is pruned as the reference experiment's dataset was, and with ``drop_unclosed_loops`` where asked.
The network runs once, whatever their number.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field, field_validator
from tqdm import tqdm

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.table import BoxTable
from rna_s2.engine.tracker import Tracker
from rna_s2.fitting.devices import chosen_device, warn_of_slow
from rna_s2.options.base import check_outputs
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path
from rna_s2.options.places import ProjectPath
from rna_s2.pipeline.model_folders import SHIPPED_S1, open_network
from rna_s2.pruning.rules import REFERENCE_RULES, PruningRules, prune
from rna_s2.rna.boxes import BOX_TYPES, is_in
from rna_s2.rna.sequence import encode
from rna_s2.s1.network import ProposalNetwork
from rna_s2.s1.predict import table_of_proposals
from rna_s2.s1.proposals import propose_selections
from rna_s2.s1.selection import InferenceOptions, Selection, SelectionOptions

logger = logging.getLogger(__name__)

ALL_LENGTHS = "all"
AS_GIVEN = "as given"
"""Name of the curve of the table's own proposals."""
THRESHOLDS = {
    "on_threshold": ("on_threshold", "both", "union"),
    "n_proposal_threshold": ("n_proposal", "both", "union"),
    "min_support": ("support",),
}
"""The thresholds, and the selections that have them."""


OnThreshold, NProposalThreshold, MinSupport = (
    Annotated[float, *SelectionOptions.model_fields[name].metadata] for name in THRESHOLDS
)
"""A threshold within the bounds that a selection sets it."""


class SelectionsOptions(InferenceOptions):
    """What to compare, and on which sequences."""

    in_file: str = Field(description="table of sequences with target structures that the network was not trained on")
    model: ProjectPath = Field(SHIPPED_S1, min_length=1, description="folder of a trained network, or models:/NAME")
    out_file: str = Field("", description="CSV to write the comparison to as well")
    selections: tuple[Selection, ...] = Field(
        ("on_threshold", "n_proposal", "both", "union", "support"), min_length=1, description="selections, at commas"
    )
    on_thresholds: tuple[OnThreshold, ...] = Field(
        (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5), min_length=1, description="thresholds on p_on, at commas"
    )
    n_proposal_thresholds: tuple[NProposalThreshold, ...] = Field(
        (0.05, 0.1, 0.2, 0.3, 0.5), min_length=1, description="thresholds on proposals over area, at commas"
    )
    min_supports: tuple[MinSupport, ...] = Field(
        (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3, 0.5, 1.0), min_length=1,
        description="least sums of a box's probabilities, at commas",
    )
    drop_unclosed_loops: bool = Field(
        False, description="prune loops that lack a stem at one of their closing pairs as well"
    )
    length_edges: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (50, 75, 100, 150), description="lengths that divide the rows into groups, in bases, ascending, at commas"
    )
    budgets: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (112, 223), description="boxes per row at most, for which the best setting of each selection is told, at commas"
    )
    max_rows: int = Field(0, ge=0, description="rows to compare on, drawn at random; 0: all")
    seed: int = Field(0, ge=0, description="seed of the drawing")
    chunk: int = Field(200, ge=1, description="rows that are held in memory with all their proposals at a time")
    experiment: str = Field("rna-s2", min_length=1, description="MLflow experiment of the run")

    @field_validator("length_edges")
    @classmethod
    def _edges_ascend(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(a >= b for a, b in pairwise(value)):
            raise ValueError(f"must ascend, and none may stand twice (got {', '.join(map(str, value))})")
        return value

    @field_validator("budgets")
    @classmethod
    def _budgets_differ(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"none may stand twice (got {', '.join(map(str, value))})")
        return value


def settings(options: SelectionsOptions) -> list[SelectionOptions]:
    """Every selection at each of the thresholds that it has."""
    out = []
    for name in options.selections:
        if name == "support":
            out.extend(SelectionOptions(selection=name, min_support=least) for least in options.min_supports)
            continue
        on_thresholds = options.on_thresholds if name != "n_proposal" else options.on_thresholds[:1]
        n_thresholds = options.n_proposal_thresholds if name != "on_threshold" else options.n_proposal_thresholds[:1]
        out.extend(
            SelectionOptions(selection=name, on_threshold=on, n_proposal_threshold=n)
            for on in on_thresholds for n in n_thresholds
        )
    return out


def length_group(lengths: np.ndarray, edges: Sequence[int]) -> tuple[np.ndarray, list[str]]:
    """``(rows,)`` group number of each length, and the names of the groups (``20-50``, ``51-75``, ...)."""
    least, longest = int(lengths.min()), int(lengths.max())
    inner = [e for e in edges if least <= e < longest]
    starts, ends = [least, *(e + 1 for e in inner)], [*inner, longest]
    return np.searchsorted(inner, lengths), [f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]


def row_counts(table: BoxTable, rules: PruningRules) -> np.ndarray:
    """``(rows, 8)`` int64 after pruning: proposed boxes; target boxes found by type; target boxes by type; whether all
    were found."""
    pruned = prune(table, rules).table
    target = pruned.targets.counts()
    found = pruned.targets.select(is_in(pruned.targets, pruned.proposals)).counts()
    full = (found == target).all(axis=1)
    return np.column_stack([np.diff(pruned.proposals.offsets), found, target, full])


def summary(counts: np.ndarray) -> dict[str, float]:
    """Boxes per row, sensitivity by type, and share of rows with 100 % sensitivity, from :func:`row_counts`."""
    total = counts.sum(axis=0)
    shares = np.divide(total[1:4], total[4:7], out=np.full(3, np.nan), where=total[4:7] > 0)
    return {
        "rows": len(counts),
        "boxes_per_row": total[0] / len(counts),
        **{f"sensitivity_{name}": share for name, share in zip(BOX_TYPES, shares, strict=True)},
        "full_share": total[7] / len(counts),
    }


def compare(
    table: BoxTable,
    network: ProposalNetwork,
    options: SelectionsOptions,
    progress: bool = True,
) -> pd.DataFrame:
    """Each setting's figures over all rows and by length.

    Returns:
        One entry per setting and group of lengths: ``selection``, ``on_threshold``, ``n_proposal_threshold``,
        ``min_support`` (NaN where the selection has no such threshold), ``lengths``, ``rows``, ``boxes_per_row``,
        ``sensitivity_TYPE``, ``full_share``. Where the table has proposals of its own, they are one more setting,
        :data:`AS_GIVEN`.
    """
    chosen = settings(options)
    rules = REFERENCE_RULES.model_copy(update={"drop_unclosed_loops": options.drop_unclosed_loops})
    inference = InferenceOptions(**{name: getattr(options, name) for name in InferenceOptions.model_fields})
    counts: list[list[np.ndarray]] = [[] for _ in chosen]
    starts = range(0, table.rows, options.chunk)
    for start in tqdm(starts, desc="selections", unit=" chunks", disable=None if progress else True):
        part = table.take_rows(np.arange(start, min(start + options.chunk, table.rows)))
        codes = [encode(seq) for seq in part.frame["seq"]]
        for k, proposed in enumerate(propose_selections(network, codes, chosen, inference)):
            counts[k].append(row_counts(table_of_proposals(part, proposed), rules))
    group, names = length_group(table.lengths, options.length_edges)
    entries = [
        {"selection": setting.selection}
        | {name: getattr(setting, name) if setting.selection in used_by else np.nan for name, used_by in THRESHOLDS.items()}
        for setting in chosen
    ]
    measured = [np.concatenate(parts) for parts in counts]
    if len(table.proposals):
        entries.append({"selection": AS_GIVEN} | dict.fromkeys(THRESHOLDS, np.nan))
        measured.append(row_counts(table, rules))
    lines = []
    for entry, values in zip(entries, measured, strict=True):
        lines.append({**entry, "lengths": ALL_LENGTHS, **summary(values)})
        lines.extend({**entry, "lengths": name, **summary(values[group == g])}
                     for g, name in enumerate(names) if (group == g).any())
    return pd.DataFrame(lines)


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


def best_sentences(best: pd.DataFrame, comparison: pd.DataFrame, budgets: Sequence[int]) -> list[str]:
    """One line per selection from :func:`best_within`."""
    lines = []
    for name in comparison["selection"].unique():
        mine = best[best["selection"] == name].set_index("budget")
        said = [
            f"<= {budget} boxes per row: {_share(mine.loc[budget]) if budget in mine.index else 'no setting'}"
            for budget in budgets
        ]
        lines.append(f"{name}: {'; '.join(said)}")
    return lines


def _share(entry: pd.Series) -> str:
    names = [name for name in THRESHOLDS if np.isfinite(entry[name])]
    at = "".join(f", {name} {entry[name]:g}" for name in names)
    return f"{100 * entry['full_share']:.1f} % of rows with 100 % sensitivity ({entry['boxes_per_row']:.0f} boxes{at})"


def length_figure(comparison: pd.DataFrame) -> Figure:
    """Share of rows with 100 % sensitivity over boxes per row, a panel for each group of lengths, a line per selection."""
    names = [name for name in comparison["lengths"].unique() if name != ALL_LENGTHS]
    figure = Figure(figsize=(4 * len(names), 4), layout="constrained")
    for axes, lengths in zip(figure.subplots(1, len(names), squeeze=False, sharey=True).flat, names, strict=True):
        for name, rows in comparison.groupby("selection", sort=False):
            line = frontier(rows, lengths)
            marker, size = ("*", 14) if name == AS_GIVEN else ("o", 3)
            axes.plot(line["boxes_per_row"], line["full_share"], marker=marker, markersize=size, linewidth=1, label=name)
        axes.set(title=f"{lengths} nt", xlabel="boxes per row after pruning", xscale="log")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("rows with 100 % box sensitivity")
    figure.axes[0].legend(frameon=False)
    return figure


def tradeoff_figure(comparison: pd.DataFrame) -> Figure:
    """Share of rows with 100 % sensitivity, and the sensitivity of each type, over boxes per row.

    One line per selection, through its settings that no other of its settings beats.
    """
    figure = Figure(figsize=(11, 8), layout="constrained")
    panels = {"full_share": "rows with 100 % box sensitivity"}
    panels |= {f"sensitivity_{name}": f"target boxes found: {name}" for name in BOX_TYPES}
    for axes, (column, label) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        for name, rows in comparison.groupby("selection", sort=False):
            line = frontier(rows)
            marker, size = ("*", 14) if name == AS_GIVEN else ("o", 3)
            axes.plot(line["boxes_per_row"], line[column], marker=marker, markersize=size, linewidth=1, label=name)
        axes.set(xlabel="boxes per row after pruning", ylabel=label, xscale="log")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False)
    return figure


@dataclass(frozen=True)
class SelectionsReport:
    """What a comparison gave.

    Attributes:
        comparison: of :func:`compare`.
        best: of :func:`frontier`.
        within: of :func:`best_within`.
    """

    comparison: pd.DataFrame
    best: pd.DataFrame
    within: pd.DataFrame


def check_selections_paths(options: SelectionsOptions) -> None:
    """To be called before any work.

    Raises:
        UserError: ``out_file`` is a folder or the input.
    """
    check_outputs({"out_file": options.out_file}, {"in_file": options.in_file})


def run_selections(options: SelectionsOptions, tracker: Tracker, progress: bool = True) -> SelectionsReport:
    """Compare the selections on a table, and log the comparison as a table and a figure.

    Raises:
        UserError: the table, the network or the output path cannot be used.
    """
    check_selections_paths(options)
    tracker.params(options.model_dump(mode="json", exclude={"experiment"}))
    warn_of_slow(options.precision, chosen_device(options.device))
    network = open_network(options.model)
    read = read_table(options.in_file, require_proposals=False)
    table = read.table
    if not table.rows:
        raise UserError(f"{options.in_file}: has no row that can be used; give a table of folded segments")
    profile = {"rows": table.rows, "rejects": len(read.rejects)}
    tracker.dataset(Path(options.in_file).name, table.digest, options.in_file, "selections", profile)
    if 0 < options.max_rows < table.rows:
        rows = np.random.default_rng(options.seed).choice(table.rows, options.max_rows, replace=False)
        table = table.take_rows(np.sort(rows))
    comparison = compare(table, network, options, progress=progress)
    report = SelectionsReport(comparison, frontier(comparison), best_within(comparison, options.budgets))
    tracker.figure(tradeoff_figure(comparison), "tradeoff.png")
    tracker.figure(length_figure(comparison), "tradeoff_by_length.png")
    with tempfile.TemporaryDirectory() as folder:
        for name, frame in (
            ("selections.csv", comparison), ("frontier.csv", report.best), ("within_budgets.csv", report.within)
        ):
            frame.to_csv(Path(folder) / name, index=False)
            tracker.artifact(Path(folder) / name)
    if options.out_file:
        with atomic_path(options.out_file) as temporary:
            comparison.to_csv(temporary, index=False)
    for step, line in enumerate(report.best.to_dict("records")):
        tracker.metrics({name: line[name] for name in ("boxes_per_row", "full_share")}, step=step)
    logger.info("settings that no other beats, of %d:\n%s", comparison["lengths"].eq(ALL_LENGTHS).sum(),
                report.best.drop(columns="lengths").to_string(index=False, float_format="{:.3f}".format))
    for line in best_sentences(report.within, comparison, options.budgets):
        logger.info("%s", line)
    tracker.metrics({
        f"full_share_within_{entry['budget']}/{entry['selection'].replace(' ', '_')}": entry["full_share"]
        for entry in report.within.to_dict("records")
    })
    return report
