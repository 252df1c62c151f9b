"""Predicted beside known structures, and beside what other programs predict for them."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field
from tqdm import tqdm

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.write import PARQUET_SUFFIX, PICKLE_SUFFIXES
from rna_s2.engine.tracker import Tracker
from rna_s2.options.downloads import local_copy
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path, file_digest
from rna_s2.pipeline.open_models import ModelOptions, open_models
from rna_s2.pipeline.structure_prediction import Models, PipelineOptions, failure_reason, predict_each
from rna_s2.pipeline.tools import RNAFOLD, TOOL_NAMES, Tool, ToolName, rnafold, tool
from rna_s2.reports.intervals import bootstrap_interval
from rna_s2.rna import formats
from rna_s2.rna.pairs import as_pairs, to_dot_bracket
from rna_s2.structures.compare import compare_many
from rna_s2.structures.prediction import Failure

logger = logging.getLogger(__name__)

OURS = "rna-s2"
"""What the own predictions are called in tables and pictures."""

FIGURES = ("sensitivity", "ppv", "f1", "mcc")
SLACK = "_slack"
"""Ending of a figure's name where a pair may be displaced by one position."""

ALL, MEAN_OF_FAMILIES, NO_FAMILY = "all", "mean of families", "(none)"
RESAMPLES = 2000
"""Bootstrap samples of an interval."""

LENGTHS = (50, 75, 100, 150, 200, 500, 1000)
"""Longest sequences of the classes of length that the summary tells apart, in bases."""


class EvaluateOptions(ModelOptions):
    """What to compare, and with whom."""

    known: str = Field(
        description="known structures: .dbn, .ct, .bpseq, .csv (each also .gz; a path or URL), or a table with one_idx"
    )
    out_dir: str = Field("", description="folder to write the tables and pictures to as well")
    tools: tuple[ToolName, ...] = Field(
        TOOL_NAMES, description="programs beside RNAfold, at commas; those that are not installed are left out"
    )
    max_rows: int = Field(0, ge=0, description="structures to compare, drawn at random; 0: all")
    seed: int = Field(0, ge=0, description="seed of the drawing and of the intervals")
    experiment: str = Field("rna-s2", min_length=1, description="MLflow experiment of the run")


@dataclass(frozen=True)
class Evaluation:
    """What a comparison gave.

    Attributes:
        sequences: one entry per tool and sequence: ``tool, name, family, length, known_pairs, predicted_pairs``, the four
            figures exact and with slack, ``exact`` (the whole structure is as known), ``seconds``, ``structure``.
        summary: one entry per tool and family, and for all sequences (:func:`summarise`).
        failures: sequences that a tool could not fold: ``tool, name, reason``; with an empty ``tool``, records of the file
            that could not be used.
        absent: tools that are not installed, and why.
    """

    sequences: pd.DataFrame
    summary: pd.DataFrame
    failures: pd.DataFrame
    absent: dict[str, str]


def read_known(path: str) -> tuple[formats.Structures, str]:
    """Known structures from a structure file, or from an S1 table's ``one_idx``; and the file's SHA-256.

    Raises:
        UserError: the file cannot be read, or holds no structure.
    """
    with local_copy(path) as local:
        if _place(path) == "row":
            found = _structures_of_table(local)
        else:
            try:
                found = formats.read_structures(local)
            except formats.FileError as error:
                raise UserError(f"{str(error).replace(str(local), path)}; check the file") from error
        digest = file_digest(local)
    if not found.records:
        first = f" ({_place(path)} {found.rejected[0].line}: {found.rejected[0].reason})" if found.rejected else ""
        raise UserError(f"{path}: has no structure that can be used{first}")
    return found, digest


def _place(path: str) -> str:
    """What the entries of a file of known structures are counted in: ``row`` of a table, ``line`` of a text."""
    return "row" if path.endswith((PARQUET_SUFFIX, *PICKLE_SUFFIXES)) else "line"


def _structures_of_table(path: Path) -> formats.Structures:
    read = read_table(path, require_targets=False, require_proposals=False)
    frame = read.table.frame
    if "one_idx" not in frame.columns:
        raise UserError(f"{path}: has no column one_idx, the base pairs of the known structure")
    out = formats.Structures([], [formats.Rejected(str(r.index), int(r.row), r.reason) for r in read.rejects.itertuples()])
    families = frame["family"].fillna("").astype(str) if "family" in frame.columns else [""] * len(frame)
    names = frame["id"].astype(str) if "id" in frame.columns else [f"row {n}" for n in range(len(frame))]
    for row, (name, seq, cell, family) in enumerate(zip(names, frame["seq"], frame["one_idx"], families, strict=True)):
        try:
            if cell is None:
                raise ValueError("one_idx is missing")
            out.records.append(formats.StructureRecord(name, seq, as_pairs(*cell, length=len(seq)), family))
        except ValueError as error:
            out.rejected.append(formats.Rejected(name, row, str(error)))
    return out


def within(known: list[formats.StructureRecord], max_len: int, path: str) -> list[formats.StructureRecord]:
    """The structures of ``max_len`` bases at most; 0: all.

    Raises:
        UserError: none is left.
    """
    kept = [s for s in known if not max_len or len(s.seq) <= max_len]
    if not kept:
        raise UserError(f"{path}: every structure is longer than max_len {max_len}; raise it")
    return kept


def drawn(known: list[formats.StructureRecord], most: int, seed: int) -> list[formats.StructureRecord]:
    """At most so many of the structures, drawn at random, in their order; 0: all."""
    if not 0 < most < len(known):
        return known
    chosen = np.random.default_rng(seed).choice(len(known), most, replace=False)
    return [known[n] for n in np.sort(chosen)]


def own_tool(models: Models, options: PipelineOptions) -> Tool:
    """The chain as one tool among others: a sequence at a time, so that the seconds can be compared."""

    def fold(seq: str) -> str:
        result = next(predict_each([formats.SequenceRecord("sequence", seq)], models, options))
        if isinstance(result, Failure):
            raise UserError(result.reason)
        return result.dot_bracket()

    return Tool(OURS, "", fold)


def evaluate(
    known: Sequence[formats.StructureRecord], tools: Sequence[Tool], seed: int = 0,
    progress: Callable[[Iterator], Iterator] = iter,
) -> Evaluation:
    """Compare tools on known structures.

    Every tool folds every sequence. Figures are of the sequences that all tools could fold, so that they can be compared;
    a tool that can fold none of them is left out as absent.

    Args:
        known: one or more structures with names of their own; pairs may cross.
        tools: those that are absent are only named.
        seed: of the intervals.
        progress: wraps the stream of folded sequences (one item per tool and sequence), to show a progress bar.

    Raises:
        UserError: no sequence is left that all tools could fold.
    """
    absent = {t.name: t.absent for t in tools if t.absent}
    present = [t for t in tools if not t.absent]
    folded, failures = _fold_all(known, present, progress)
    for t in present:
        if t.name not in folded:
            absent[t.name] = f"failed on every sequence ({next(f[2] for f in failures if f[0] == t.name)})"
    common = [n for n in range(len(known)) if all(n in results for results in folded.values())]
    failed = pd.DataFrame(failures, columns=["tool", "name", "reason"])
    if not common or not folded:
        raise UserError(f"no sequence was folded by every tool; the first failure: {failed.iloc[0].to_dict()}")
    parts = [
        _compared(name, [known[n] for n in common], [results[n][0] for n in common], [results[n][1] for n in common])
        for name, results in folded.items()
    ]
    sequences = pd.concat(parts, ignore_index=True)
    return Evaluation(sequences, summarise(sequences, seed), failed, absent)


def _fold_all(
    known: Sequence[formats.StructureRecord], tools: Sequence[Tool], progress: Callable[[Iterator], Iterator]
) -> tuple[dict[str, dict[int, tuple[np.ndarray, float]]], list[tuple[str, str, str]]]:
    """Pairs and seconds by tool and number of the structure; tools without any result are not in it."""
    folded: dict[str, dict[int, tuple[np.ndarray, float]]] = {}
    failures = []

    def steps() -> Iterator[tuple[Tool, int]]:
        for each in tools:
            for n in range(len(known)):
                yield each, n

    warm: set[str] = set()
    for each, n in progress(steps()):
        try:
            if each.name not in warm:  # what is loaded with the first sequence is not part of a sequence's time
                warm.add(each.name)
                each.pairs(known[n].seq)
            start = time.perf_counter()
            pairs = each.pairs(known[n].seq)
            folded.setdefault(each.name, {})[n] = (pairs, time.perf_counter() - start)
        except Exception as error:
            reason = failure_reason(error)
            if not reason:
                raise
            failures.append((each.name, known[n].name, reason))
    return folded, failures


def _compared(
    name: str, known: Sequence[formats.StructureRecord], predicted: Sequence[np.ndarray], seconds: Sequence[float]
) -> pd.DataFrame:
    lengths = [len(s.seq) for s in known]
    exact, slack = (compare_many(predicted, [s.pairs for s in known], lengths, s) for s in (0, 1))
    return pd.DataFrame({
        "tool": name,
        "name": [s.name for s in known],
        "family": [f"{s.family} (family)" if s.family in (ALL, MEAN_OF_FAMILIES) else s.family or NO_FAMILY for s in known],
        "length": lengths,
        "known_pairs": exact["known"],
        "predicted_pairs": exact["predicted"],
        **{figure: exact[figure] for figure in FIGURES},
        **{figure + SLACK: slack[figure] for figure in FIGURES},
        "exact": [np.array_equal(p, s.pairs) for p, s in zip(predicted, known, strict=True)],
        "seconds": seconds,
        "structure": [to_dot_bracket(p, n) for p, n in zip(predicted, lengths, strict=True)],
    })


def summarise(sequences: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Means of the figures by tool and family, over all sequences, and over the families' means.

    Returns:
        Columns ``tool, family, sequences``, each figure exact and with slack, ``exact`` (share of whole structures),
        ``seconds`` (mean per sequence), ``f1_low`` and ``f1_high`` (95 % bootstrap interval over sequences; NaN for fewer
        than two, and for the mean of families), ``f1_difference`` with its own ``_low`` and ``_high`` (the mean over
        sequences of F1 less RNAfold's; NaN for RNAfold itself, and without it). The tools stand in the order of
        ``sequences``, families by name.
    """
    columns = [*FIGURES, *(figure + SLACK for figure in FIGURES), "exact", "seconds"]
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
    """The summary as Markdown: every figure of every tool, then F1 by family."""
    summary = evaluation.summary
    names = {"f1": "F1", "mcc": "MCC", "ppv": "PPV", "sensitivity": "sensitivity"}
    heads = [*(names[f] for f in FIGURES), *(f"{names[f]}, slack 1" for f in FIGURES), "exact structures", "s per sequence"]
    columns = [*FIGURES, *(f + SLACK for f in FIGURES), "exact", "seconds"]
    lines = [f"| tool | sequences | {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) + 1)}"]
    for row in summary[summary["family"] == ALL].to_dict("records"):
        cells = [f"{row[c]:.3f}" for c in columns[:-1]] + [f"{row['seconds']:.3g}"]
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


def _with_interval(row: pd.Series, figure: str, form: str) -> str:
    """A figure and its interval, where there is one, as text."""
    low, high = row[f"{figure}_low"], row[f"{figure}_high"]
    return f"{row[figure]:{form}}" + ("" if np.isnan(low) else f" ({low:{form}} to {high:{form}})")


def family_figure(summary: pd.DataFrame) -> Figure:
    """F1 of each tool by family as bars, with 95 % intervals."""
    families = list(dict.fromkeys(summary["family"]))
    tools = list(dict.fromkeys(summary["tool"]))
    figure = Figure(figsize=(max(5.0, 1.2 + 0.35 * len(families) * (len(tools) + 1)), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(tools)
    for k, name in enumerate(tools):
        rows = summary[summary["tool"] == name].set_index("family").reindex(families)
        at = np.arange(len(families)) + (k - (len(tools) - 1) / 2) * width
        errors = np.nan_to_num(np.abs(rows[["f1_low", "f1_high"]].to_numpy().T - rows["f1"].to_numpy()))
        axes.bar(at, rows["f1"], width, yerr=errors, error_kw={"linewidth": 0.8}, label=name)
    counts = summary.drop_duplicates("family").set_index("family")["sequences"]
    labels = [f"{f}\n{counts[f]}" for f in families]
    axes.set_xticks(np.arange(len(families)), labels, rotation=30, ha="right", parse_math=False)
    axes.set(ylabel="F1 (mean over sequences)", ylim=(0, 1))
    axes.legend(frameon=False, ncols=min(len(tools), 4))
    return figure


def time_figure(sequences: pd.DataFrame) -> Figure:
    """Seconds per sequence over its length, a point per sequence, for each tool."""
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, rows in sequences.groupby("tool", sort=False):
        axes.plot(rows["length"], rows["seconds"], ".", markersize=4, alpha=0.5, label=name)
    axes.set(xlabel="length (nt)", ylabel="seconds per sequence", xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, markerscale=2)
    return figure


def run_evaluate(options: EvaluateOptions, tracker: Tracker, progress: bool = True) -> Evaluation:
    """Compare on the known structures of a file, and log tables and pictures.

    Raises:
        UserError: the file or a model cannot be used.
    """
    if options.out_dir and Path(options.out_dir).exists() and not Path(options.out_dir).is_dir():
        raise UserError(f"{options.out_dir}: is no folder; give another out_dir")
    found, digest = read_known(options.known)
    models, chain = open_models(options)
    tracker.params(options.model_copy(update={"chain": chain}).model_dump(mode="json", exclude={"experiment"}))
    known = within(found.records, chain.max_len, options.known)
    counts = {
        "records": len(found.records), "rejected": len(found.rejected), "over_max_len": len(found.records) - len(known)
    }
    if found.rejected:
        first = found.rejected[0]
        logger.warning("%s: %d records cannot be used, the first at %s %d (%s); failures.csv has them all",
                       options.known, len(found.rejected), _place(options.known), first.line, first.reason)
    if counts["over_max_len"]:
        logger.warning("%s: %d structures are longer than max_len %d and left out", options.known, counts["over_max_len"],
                       chain.max_len)
    tracker.dataset(Path(options.known).name, digest, options.known, "evaluate", counts)
    known = drawn(known, options.max_rows, options.seed)
    tools = [own_tool(models, chain), rnafold(), *(tool(name) for name in options.tools)]
    for each in tools:
        if each.absent:
            logger.info("%s: %s; it is left out", each.name, each.absent)
    total = len(known) * sum(not each.absent for each in tools)

    def bar(steps: Iterator) -> Iterator:
        return tqdm(steps, desc="evaluate", unit=" sequences", total=total, disable=None if progress else True)

    evaluation = evaluate(known, tools, options.seed, bar)
    place = _place(options.known)
    unusable = pd.DataFrame([("", r.name, f"{place} {r.line}: {r.reason}") for r in found.rejected],
                            columns=evaluation.failures.columns)
    evaluation = replace(evaluation, failures=pd.concat([unusable, evaluation.failures], ignore_index=True))
    _log(options, evaluation, counts, tracker)
    return evaluation


def _log(options: EvaluateOptions, evaluation: Evaluation, counts: dict[str, int], tracker: Tracker) -> None:
    summary = evaluation.summary
    figures = {"f1_by_family.png": family_figure(summary), "seconds_by_length.png": time_figure(evaluation.sequences)}
    texts = {
        "summary.md": markdown(evaluation),
        "sequences.csv": evaluation.sequences.to_csv(index=False),
        "summary.csv": summary.to_csv(index=False),
        "by_length.csv": by_length(evaluation.sequences).to_csv(index=False),
        "failures.csv": evaluation.failures.to_csv(index=False),
    }
    with tempfile.TemporaryDirectory() as temporary:
        for name, text in texts.items():
            (Path(temporary) / name).write_text(text, encoding="utf-8")
            tracker.artifact(Path(temporary) / name)
        for name, figure in figures.items():
            tracker.figure(figure, name)
    if options.out_dir:
        for name, text in texts.items():
            with atomic_path(Path(options.out_dir) / name) as path:
                path.write_text(text, encoding="utf-8")
        for name, figure in figures.items():
            with atomic_path(Path(options.out_dir) / name) as path:
                figure.savefig(path, format="png", dpi=120)
    tracker.metrics({f"count.{name}": value for name, value in counts.items()})
    columns = [*FIGURES, *(f + SLACK for f in FIGURES), "exact", "seconds"]
    for row in summary.to_dict("records"):
        where = row["tool"] if row["family"] == ALL else f"{row['tool']}/{row['family']}"
        tracker.metrics({f"{where}/{column}": row[column] for column in columns})
    logger.info("%s", texts["summary.md"])
