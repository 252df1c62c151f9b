"""Predicted beside known structures (from structure files or S1 tables), and beside what other programs predict for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field
from tqdm import tqdm

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.write import PARQUET_SUFFIX, PICKLE_SUFFIXES
from rna_s2.engine.tracker import Tracker
from rna_s2.options.downloads import local_copy
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path, file_digest
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.open_models import ModelOptions, open_models
from rna_s2.pipeline.steps.outputs import log_files
from rna_s2.pipeline.tools import TOOL_NAMES, Tool, ToolName, fold_all, own_tool, rnafold, tool
from rna_s2.reports.evaluation import (
    ALL,
    MEASURES,
    Evaluation,
    by_length,
    compared,
    family_plot,
    markdown,
    summarise,
    time_plot,
)
from rna_s2.rna import formats
from rna_s2.rna.pairs import as_pairs

logger = logging.getLogger(__name__)


def read_known(path: str) -> tuple[formats.Structures, str]:
    """Known structures from a structure file, or from an S1 table's ``one_idx``; and the file's SHA-256.

    Raises:
        UserError: the file cannot be read, or holds no structure.
    """
    with local_copy(path) as local:
        if entry_unit(path) == "row":
            found = _structures_of_table(local)
        else:
            try:
                found = formats.read_structures(local)
            except formats.FileError as error:
                raise UserError(f"{str(error).replace(str(local), path)}; check the file") from error
        digest = file_digest(local)
    if not found.records:
        first = f" ({entry_unit(path)} {found.rejected[0].line}: {found.rejected[0].reason})" if found.rejected else ""
        raise UserError(f"{path}: has no structure that can be used{first}")
    return found, digest


def entry_unit(path: str) -> str:
    """What the entries of a file of known structures are counted in: ``row`` of a table, ``line`` of a text."""
    return "row" if path.endswith((PARQUET_SUFFIX, *PICKLE_SUFFIXES)) else "line"


def _structures_of_table(path: Path) -> formats.Structures:
    read = read_table(path, require_targets=False, require_proposals=False)
    frame = read.table.frame
    if "one_idx" not in frame.columns:
        raise UserError(f"{path}: has no column one_idx, the base pairs of the known structure")
    rejected = [formats.Rejected(str(r.index), int(r.row), r.reason) for r in read.rejects.itertuples()]
    out: formats.Structures = formats.Found([], rejected)
    families = frame["family"].fillna("").astype(str) if "family" in frame.columns else [""] * len(frame)
    names = frame["id"].astype(str) if "id" in frame.columns else [f"row {n}" for n in range(len(frame))]
    for row, (name, seq, cell, family) in enumerate(zip(names, frame["seq"], frame["one_idx"], families, strict=True)):
        try:
            if cell is None:
                raise ValueError("one_idx is missing")
            i, j = cell
            out.records.append(formats.StructureRecord(name, seq, as_pairs(i, j, len(seq)), family))
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


def sampled(known: list[formats.StructureRecord], most: int, seed: int) -> list[formats.StructureRecord]:
    """At most so many of the structures, sampled at random, in their order; 0: all."""
    if not 0 < most < len(known):
        return known
    chosen = np.random.default_rng(seed).choice(len(known), most, replace=False)
    return [known[n] for n in np.sort(chosen)]


class EvaluateOptions(TrackedOptions, ModelOptions):
    """What to compare, and with whom."""

    known: str = Field(
        description="known structures: .dbn, .ct, .bpseq, .csv (each also .gz; a path or URL), or a table with one_idx"
    )
    out_dir: str = Field("", description="folder to write the tables and plots to as well")
    tools: tuple[ToolName, ...] = Field(
        TOOL_NAMES, description="programs beside RNAfold, at commas; those that are not installed are left out"
    )
    max_rows: int = Field(0, ge=0, description="structures to compare, sampled at random; 0: all")
    seed: int = Field(0, ge=0, description="seed of the sampling and of the intervals")


def evaluate(
    known: Sequence[formats.StructureRecord], tools: Sequence[Tool], seed: int = 0,
    progress: Callable[[Iterator], Iterator] = iter,
) -> Evaluation:
    """Compare tools on known structures, one or more with names of their own; pairs may cross.

    Every tool folds every sequence. Metrics are of the sequences that all tools could fold, so that they can be compared;
    a tool that can fold none of them is left out as absent, and one that is absent is only named. ``seed`` is that of the
    intervals; ``progress`` wraps the stream of folded sequences (one item per tool and sequence), to show a progress bar.

    Raises:
        UserError: no sequence is left that all tools could fold.
    """
    absent = {t.name: t.absent for t in tools if t.absent}
    present = [t for t in tools if not t.absent]
    folded, failures = fold_all(known, present, progress)
    for t in present:
        if t.name not in folded:
            absent[t.name] = f"failed on every sequence ({next(f[2] for f in failures if f[0] == t.name)})"
    common = [n for n in range(len(known)) if all(n in results for results in folded.values())]
    failed = pd.DataFrame(failures, columns=["tool", "name", "reason"])
    if not common or not folded:
        raise UserError(f"no sequence was folded by every tool; the first failure: {failed.iloc[0].to_dict()}")
    parts = [
        compared(name, [known[n] for n in common], [results[n][0] for n in common], [results[n][1] for n in common])
        for name, results in folded.items()
    ]
    sequences = pd.concat(parts, ignore_index=True)
    return Evaluation(sequences, summarise(sequences, seed), failed, absent)


def run_evaluate(options: EvaluateOptions, tracker: Tracker) -> Evaluation:
    """Compare on the known structures of a file, and log tables and plots.

    Raises:
        UserError: the file or a model cannot be used.
    """
    if options.out_dir and Path(options.out_dir).exists() and not Path(options.out_dir).is_dir():
        raise UserError(f"{options.out_dir}: is no folder; give another out_dir")
    found, digest = read_known(options.known)
    models, chain = open_models(options)
    tracker.params(options.model_copy(update={"chain": chain}).model_dump(mode="json", exclude={"experiment"}))
    known = within(found.records, chain.max_len, options.known)
    counts = {"records": len(found.records), "rejected": len(found.rejected), "over_max_len": len(found.records) - len(known)}
    unit = entry_unit(options.known)
    if found.rejected:
        first = found.rejected[0]
        logger.warning("%s: %d records cannot be used, the first at %s %d (%s); failures.csv has them all",
                       options.known, len(found.rejected), unit, first.line, first.reason)
    if counts["over_max_len"]:
        logger.warning("%s: %d structures are longer than max_len %d and left out", options.known, counts["over_max_len"],
                       chain.max_len)
    tracker.dataset(Path(options.known).name, digest, options.known, "evaluate", counts)
    known = sampled(known, options.max_rows, options.seed)
    tools = [own_tool(models, chain), rnafold(), *(tool(name) for name in options.tools)]
    for each in tools:
        if each.absent:
            logger.info("%s: %s; it is left out", each.name, each.absent)
    total = len(known) * sum(not each.absent for each in tools)
    bar = partial(tqdm, desc="evaluate", unit=" sequences", total=total, disable=None)
    evaluation = evaluate(known, tools, options.seed, bar)
    unusable = pd.DataFrame([("", r.name, f"{unit} {r.line}: {r.reason}") for r in found.rejected],
                            columns=evaluation.failures.columns)
    evaluation = replace(evaluation, failures=pd.concat([unusable, evaluation.failures], ignore_index=True))
    _log(options, evaluation, counts, tracker)
    return evaluation


def _log(options: EvaluateOptions, evaluation: Evaluation, counts: dict[str, int], tracker: Tracker) -> None:
    summary = evaluation.summary
    plots = {"f1_by_family.png": family_plot(summary), "seconds_by_length.png": time_plot(evaluation.sequences)}
    texts = {
        "summary.md": markdown(evaluation),
        "sequences.csv": evaluation.sequences.to_csv(index=False),
        "summary.csv": summary.to_csv(index=False),
        "by_length.csv": by_length(evaluation.sequences).to_csv(index=False),
        "failures.csv": evaluation.failures.to_csv(index=False),
    }
    log_files(tracker, texts)
    for name, plot in plots.items():
        tracker.plot(plot, name)
    if options.out_dir:
        for name, text in texts.items():
            with atomic_path(Path(options.out_dir) / name) as path:
                path.write_text(text, encoding="utf-8")
        for name, plot in plots.items():
            with atomic_path(Path(options.out_dir) / name) as path:
                plot.savefig(path, format="png", dpi=120)
    tracker.metrics({f"count.{name}": value for name, value in counts.items()})
    for row in summary.to_dict("records"):
        where = row["tool"] if row["family"] == ALL else f"{row['tool']}/{row['family']}"
        tracker.metrics({f"{where}/{column}": row[column] for column in MEASURES})
    logger.info("%s", texts["summary.md"])
