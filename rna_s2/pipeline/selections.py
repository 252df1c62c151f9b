"""Stage 1's selections of proposals compared, boxes per row against the target boxes found.

Every selection is pruned as the reference experiment's dataset was, and with ``drop_unclosed_loops`` where asked.
The network runs once, whatever their number.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
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
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.open_models import SHIPPED_S1, open_network
from rna_s2.pipeline.steps.outputs import log_files
from rna_s2.pruning.rules import REFERENCE_RULES, PruningRules, prune
from rna_s2.reports.selections import (
    ALL_LENGTHS,
    AS_GIVEN,
    best_sentences,
    best_within,
    frontier,
    length_plot,
    tradeoff_plot,
)
from rna_s2.rna.boxes import BOX_TYPES, is_in
from rna_s2.rna.sequence import encode
from rna_s2.s1.network import ProposalNetwork
from rna_s2.s1.predict import table_of_proposals
from rna_s2.s1.proposals import propose_selections
from rna_s2.s1.selection import SELECTIONS, THRESHOLDS, InferenceOptions, Selection, SelectionOptions

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    OnThreshold = float
    NProposalThreshold = float
    MinSupport = float
else:  # thresholds within the bounds that a selection sets them
    OnThreshold, NProposalThreshold, MinSupport = (
        Annotated[float, *SelectionOptions.model_fields[name].metadata] for name in THRESHOLDS
    )


class SelectionsOptions(TrackedOptions, InferenceOptions):
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
    drop_unclosed_loops: bool = Field(False, description="prune loops that lack a stem at one of their closing pairs as well")
    length_edges: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (50, 75, 100, 150), description="lengths that divide the rows into groups, in bases, ascending, at commas"
    )
    budgets: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (112, 223), description="boxes per row at most, for which the best setting of each selection is reported, at commas"
    )
    max_rows: int = Field(0, ge=0, description="rows to compare on, sampled at random; 0: all")
    seed: int = Field(0, ge=0, description="seed of the sampling")
    chunk: int = Field(200, ge=1, description="rows that are held in memory with all their proposals at a time")

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
    """Every selection at each combination of the thresholds that it has."""
    return [
        SelectionOptions.model_validate({"selection": selection, **dict(zip(rule.thresholds, values, strict=True))})
        for selection, rule in ((name, SELECTIONS[name]) for name in options.selections)
        for values in product(*(getattr(options, f"{name}s") for name in rule.thresholds))
    ]


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
    assert pruned.targets is not None  # a table without them is refused
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


def compare(table: BoxTable, network: ProposalNetwork, options: SelectionsOptions) -> pd.DataFrame:
    """Each setting's metrics over all rows and by length.

    Returns:
        One entry per setting and group of lengths: ``selection``, ``on_threshold``, ``n_proposal_threshold``,
        ``min_support`` (NaN where the selection has no such threshold), ``lengths``, ``rows``, ``boxes_per_row``,
        ``sensitivity_TYPE``, ``full_share``. Where the table has proposals of its own, they are one more setting,
        :data:`AS_GIVEN`.
    """
    chosen = settings(options)
    rules = REFERENCE_RULES.model_copy(update={"drop_unclosed_loops": options.drop_unclosed_loops})
    counts: list[list[np.ndarray]] = [[] for _ in chosen]
    for start in tqdm(range(0, table.rows, options.chunk), desc="selections", unit=" chunks", disable=None):
        part = table.take_rows(np.arange(start, min(start + options.chunk, table.rows)))
        codes = [encode(seq) for seq in part.frame["seq"]]
        for k, proposed in enumerate(propose_selections(network, codes, chosen, options)):
            counts[k].append(row_counts(table_of_proposals(part, proposed), rules))
    group, names = length_group(table.lengths, options.length_edges)
    entries = [
        {"selection": setting.selection}
        | {name: getattr(setting, name) if name in setting.rule.thresholds else np.nan for name in THRESHOLDS}
        for setting in chosen
    ]
    measured = [np.concatenate(parts) for parts in counts]
    if len(table.proposals):
        entries.append({"selection": AS_GIVEN} | dict.fromkeys(THRESHOLDS, np.nan))
        measured.append(row_counts(table, rules))
    groups = {ALL_LENGTHS: np.ones(len(group), bool)} | {name: group == g for g, name in enumerate(names)}
    return pd.DataFrame([
        {**entry, "lengths": name, **summary(values[rows])}
        for entry, values in zip(entries, measured, strict=True)
        for name, rows in groups.items() if rows.any()
    ])


@dataclass(frozen=True)
class SelectionsReport:
    """What a comparison gave: of :func:`compare`, and its entries of ``frontier`` and ``best_within``
    (:mod:`rna_s2.reports.selections`)."""

    comparison: pd.DataFrame
    best: pd.DataFrame
    within: pd.DataFrame


def check_selections_paths(options: SelectionsOptions) -> None:
    """To be called before any work.

    Raises:
        UserError: ``out_file`` is a folder or the input.
    """
    check_outputs({"out_file": options.out_file}, {"in_file": options.in_file})


def run_selections(options: SelectionsOptions, tracker: Tracker) -> SelectionsReport:
    """Compare the selections on a table, and log the comparison as tables and plots.

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
    comparison = compare(table, network, options)
    report = SelectionsReport(comparison, frontier(comparison), best_within(comparison, options.budgets))
    tracker.plot(tradeoff_plot(comparison), "tradeoff.png")
    tracker.plot(length_plot(comparison), "tradeoff_by_length.png")
    log_files(tracker, {"selections.csv": comparison, "frontier.csv": report.best, "within_budgets.csv": report.within})
    if options.out_file:
        with atomic_path(options.out_file) as temporary:
            comparison.to_csv(temporary, index=False)
    for step, line in enumerate(report.best.to_dict("records")):
        tracker.metrics({name: line[name] for name in ("boxes_per_row", "full_share")}, step=step)
    logger.info("settings that no other beats, of %d:\n%s", comparison["lengths"].eq(ALL_LENGTHS).sum(),
                report.best.drop(columns="lengths").to_string(index=False, float_format="{:.3f}".format))
    for line in best_sentences(report.within, comparison, options.budgets, list(THRESHOLDS)):
        logger.info("%s", line)
    tracker.metrics({
        f"full_share_within_{entry['budget']}/{entry['selection'].replace(' ', '_')}": entry["full_share"]
        for entry in report.within.to_dict("records")
    })
    return report
