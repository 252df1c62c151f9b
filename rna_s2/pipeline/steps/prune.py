"""The step ``prune``: thin out the proposals of an S1 table by the rules of :mod:`rna_s2.pruning.rules`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pydantic import Field

from rna_s2.boxtables.columns import REJECT_COLUMNS
from rna_s2.boxtables.read import ReadResult, read_table
from rna_s2.boxtables.schema import SEQ
from rna_s2.boxtables.write import check_table_path, write_table
from rna_s2.engine.tracker import StartRun, Tracker, timed, untracked
from rna_s2.options.base import check_outputs
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path, file_digest
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.steps.outputs import CachedStep, check_rejects, keep_rejects, log_files, make_or_find, rejects_path
from rna_s2.pruning.rules import PruneResult, PruningRules, prune
from rna_s2.tracking.names import run_name

logger = logging.getLogger(__name__)

PRUNE = CachedStep("prune", version=2, folder="pruned", suffix=".parquet")

COUNTS_FILE = "prune_counts.csv"
"""Artifact that holds the counts before and after each rule."""

SKIPPED = "longer than max_len"
"""How the reason begins of a row that can be used and that ``max_len`` skips."""


class PruneOptions(TrackedOptions, PruningRules):
    """Options of the entry point: files, limits, and every rule."""

    in_file: str = Field(min_length=1, description="S1 prediction table (.parquet, .pkl, .pkl.gz)")
    out_file: str = Field(min_length=1, description="pruned table to write (.parquet, .pkl, .pkl.gz)")
    rejects_file: str = Field("", description="CSV of the rows left out; by default beside out_file, as .rejects.csv")
    max_rejects: int = Field(0, ge=-1, description="go on with so many rows that cannot be used left out; -1 for any number")
    require_targets: bool = Field(True, description="false: the structures are not known, so there is no box sensitivity")

    @property
    def rejects_path(self) -> Path:
        """Where the rejects table goes."""
        return Path(self.rejects_file) if self.rejects_file else rejects_path(self.out_file)


@dataclass(frozen=True)
class PrunedTable:
    """A pruned table of the cache: its path, and the SHA-256 of the S1 table's file."""

    path: Path
    source_digest: str

    @property
    def counts_file(self) -> Path:
        """Where the counts before and after each rule lie."""
        return self.path.with_suffix(".counts.csv")


@dataclass(frozen=True)
class PruneRun:
    """What a run of the entry point did.

    Attributes:
        result: the pruned table and its counts.
        rejects: one line per row that was left out: ``row`` (0-based place in the file), ``index``, ``column``,
            ``reason``; unusable rows, and rows that ``max_len`` skipped.
        rows_read: rows of the file.
    """

    result: PruneResult
    rejects: pd.DataFrame
    rows_read: int


def run_prune(options: PruneOptions, tracker: Tracker, counts_file: Path | None = None) -> PruneRun:
    """Prune a table file into another.

    The pruned table has the input's columns, and ``df_target`` and ``n_bb_found`` where the structures are known. Rows that
    cannot be used and rows that ``max_len`` skips go to the rejects table, which is written whenever there are such rows (and
    over one that is left from an earlier run). The tracker gets parameters, counts, box sensitivity and timings.

    ``counts_file`` is a CSV to write the counts to as well.

    Raises:
        UserError: a file cannot be read or written; more than ``max_rejects`` rows cannot be used (the rejects table is
            written then, the pruned one not); no row is left.
    """
    check_prune_paths(options)
    seconds: dict[str, float] = {}
    tracker.params(options.model_dump(exclude={"experiment"}))
    with timed(seconds, "read"):
        read = read_table(options.in_file, require_targets=options.require_targets)
    table = read.table
    rows_read = table.rows + len(read.rejects)
    tracker.dataset(
        Path(options.in_file).name, table.digest, options.in_file, "prune",
        {"rows": rows_read, "rows_rejected": len(read.rejects), "boxes": len(table.proposals)},
    )
    keep_rejects(read.rejects, options.rejects_path, tracker)
    tracker.metrics({"rows/read": rows_read, "rows/rejected": len(read.rejects)})
    check_rejects(read.rejects, rows_read, options.max_rejects, options.in_file, options.rejects_path)

    with timed(seconds, "prune"):
        result = prune(table, options)
    rejects = _with_skipped(read, result, options.max_len)
    if len(result.skipped_rows):
        keep_rejects(rejects, options.rejects_path, tracker)
    if not result.table.rows:
        raise UserError(
            f"{options.in_file}: no row is left ({len(read.rejects)} cannot be used, {len(result.skipped_rows)} are "
            f"longer than max_len {options.max_len}); nothing is written but {options.rejects_path}"
        )
    log_files(tracker, {COUNTS_FILE: result.counts})
    if counts_file is not None:
        with atomic_path(counts_file) as temporary:
            result.counts.to_csv(temporary, index=False)
    sensitivity, added = result.sensitivity, {}
    metrics: dict[str, float] = {"rows/skipped": len(result.skipped_rows), "rows/written": result.table.rows}
    if sensitivity is not None:
        added = {"n_bb_found": sensitivity.n_found}
        metrics |= {"rows/full_sensitivity": int(sensitivity.full.sum()), "full_sensitivity_share": sensitivity.full_share}
        metrics |= {f"sensitivity/{name}": share for name, share in sensitivity.shares.items()}
    with timed(seconds, "write"):
        write_table(result.table, options.out_file, added=added, with_targets=sensitivity is not None)
    metrics |= {f"seconds/{name}": value for name, value in seconds.items()}
    for line in result.counts.itertuples():
        metrics |= {f"prune/{line.rule}/{line.type}/{when}": getattr(line, when) for when in ("before", "after")}
    tracker.metrics(metrics)
    tracker.tags({"out_file": options.out_file, "digest.out_file": file_digest(options.out_file)})
    run = PruneRun(result, rejects, rows_read)
    logger.info("%s", _summary(run, options))
    return run


def pruned_table(
    in_file: str, rules: PruningRules, cache_dir: str, max_rejects: int = 0, step: StartRun = untracked
) -> PrunedTable:
    """The pruned table of an S1 table, made now or found in the cache.

    Its structures must be known. Rows that cannot be used are counted against ``max_rejects`` every time.

    Raises:
        UserError: the table cannot be used.
    """
    digest = file_digest(in_file)
    path = PRUNE.path(cache_dir, source=digest, rules=rules.model_dump())
    pruned = PrunedTable(path, digest)
    with step("prune", run_name("prune", Path(in_file))) as tracker:
        options = PruneOptions(in_file=in_file, out_file=str(path), max_rejects=max_rejects, **rules.model_dump())
        if make_or_find(path, tracker, lambda: run_prune(options, tracker, pruned.counts_file)):
            tracker.params(options.model_dump(exclude={"experiment"}))
            tracker.dataset(Path(in_file).name, digest, in_file, "prune", {})
            tracker.artifact(pruned.counts_file)
            if options.rejects_path.is_file():
                rejects = pd.read_csv(options.rejects_path)
                tracker.artifact(options.rejects_path)
                unusable = rejects[~rejects["reason"].str.startswith(SKIPPED)]
                rows = pq.read_metadata(path).num_rows + len(rejects)
                check_rejects(unusable, rows, max_rejects, in_file, options.rejects_path)
    return pruned


def check_prune_paths(options: PruneOptions) -> None:
    """To be called before any work.

    Raises:
        UserError: an output is a folder or an input, or has a name that says no table format.
    """
    inputs = {"in_file": options.in_file}
    check_outputs({"out_file": options.out_file}, inputs)
    check_table_path(options.out_file)
    check_outputs({"rejects_file": options.rejects_path}, inputs | {"out_file": options.out_file})


def _with_skipped(read: ReadResult, result: PruneResult, max_len: int) -> pd.DataFrame:
    """The rejects, and the rows that ``max_len`` skipped, in the order of the file."""
    if not len(result.skipped_rows):
        return read.rejects
    table = read.table
    usable = np.setdiff1d(np.arange(table.rows + len(read.rejects)), read.rejects["row"].to_numpy(np.int64))
    skipped = pd.DataFrame({
        "row": usable[result.skipped_rows],
        "index": table.frame.index[result.skipped_rows],
        "column": SEQ,
        "reason": [f"{SKIPPED} ({n} > {max_len} bases)" for n in table.lengths[result.skipped_rows]],
    }).astype({"index": object})
    both = [part for part in (read.rejects, skipped) if len(part)]
    return pd.concat(both).sort_values("row", ignore_index=True)[list(REJECT_COLUMNS)]


def _summary(run: PruneRun, options: PruneOptions) -> str:
    """Counts for the terminal: boxes of each type before the first rule and after the last, and what was found."""
    counts, sensitivity = run.result.counts, run.result.sensitivity
    before, after = counts.groupby("type")["before"].first(), counts.groupby("type")["after"].last()
    boxes = ", ".join(
        f"{name} {before[name]} -> {after[name]}"
        + (f" ({sensitivity.shares[name]:.1%} of the targets found)" if sensitivity else "")
        for name in counts["type"].unique()
    )
    left_out = f"; {len(run.rejects)} rows left out, listed in {options.rejects_path}" if len(run.rejects) else ""
    found = "the structures are not known: no box sensitivity" if sensitivity is None else (
        f"{int(sensitivity.full.sum())} rows ({sensitivity.full_share:.1%}) with 100 % box sensitivity"
    )
    return f"{options.out_file}: {run.result.table.rows} of {run.rows_read} rows{left_out}\n{boxes}\n{found}"

