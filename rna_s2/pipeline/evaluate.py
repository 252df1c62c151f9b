"""Predicted beside known structures, and beside what other programs predict for them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from pydantic import Field
from tqdm import tqdm

from rna_s2.engine.tracker import Tracker
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.known_structures import entry_unit, read_known, sampled, within
from rna_s2.pipeline.open_models import ModelOptions, open_models
from rna_s2.pipeline.tools import TOOL_NAMES, Tool, ToolName, fold_all, own_tool, rnafold, tool
from rna_s2.reports.evaluation import ALL, MEASURES, Evaluation, by_length, compared, summarise
from rna_s2.reports.evaluation_report import family_plot, markdown, time_plot
from rna_s2.rna import formats

logger = logging.getLogger(__name__)


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
    """Compare tools on known structures.

    Every tool folds every sequence. Metrics are of the sequences that all tools could fold, so that they can be compared;
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


def run_evaluate(options: EvaluateOptions, tracker: Tracker, progress: bool = True) -> Evaluation:
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
    counts = {
        "records": len(found.records), "rejected": len(found.rejected), "over_max_len": len(found.records) - len(known)
    }
    if found.rejected:
        first = found.rejected[0]
        logger.warning("%s: %d records cannot be used, the first at %s %d (%s); failures.csv has them all",
                       options.known, len(found.rejected), entry_unit(options.known), first.line, first.reason)
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

    def bar(steps: Iterator) -> Iterator:
        return tqdm(steps, desc="evaluate", unit=" sequences", total=total, disable=None if progress else True)

    evaluation = evaluate(known, tools, options.seed, bar)
    place = entry_unit(options.known)
    unusable = pd.DataFrame([("", r.name, f"{place} {r.line}: {r.reason}") for r in found.rejected],
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
    with tempfile.TemporaryDirectory() as temporary:
        for name, text in texts.items():
            (Path(temporary) / name).write_text(text, encoding="utf-8")
            tracker.artifact(Path(temporary) / name)
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
