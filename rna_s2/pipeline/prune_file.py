"""Entry point ``prune``: thin out the proposals of an S1 table by the rules of :mod:`rna_s2.pruning.rules`."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from rna_s2.boxtables.read import ReadResult, read_table
from rna_s2.boxtables.schema import REJECT_COLUMNS, SEQ
from rna_s2.boxtables.sensitivity import Sensitivity
from rna_s2.boxtables.write import PARQUET_SUFFIX, PICKLE_SUFFIXES, check_table_path, write_rejects, write_table
from rna_s2.engine.tracker import Tracker, timed
from rna_s2.options.base import check_outputs, parse
from rna_s2.options.errors import UserError, run_command
from rna_s2.options.files import file_digest
from rna_s2.pruning.rules import PruneResult, PruningRules, prune
from rna_s2.tracking.runs import DEFAULT_EXPERIMENT, start_run

COMMAND = "prune"

ANY_NUMBER = -1
"""Value of ``max_rejects`` that allows any number of unusable rows."""

logger = logging.getLogger(__name__)


class PruneOptions(PruningRules):
    """Options of the entry point: files, limits, and every rule."""

    in_file: str = Field(min_length=1, description="S1 prediction table (.parquet, .pkl, .pkl.gz)")
    out_file: str = Field(min_length=1, description="pruned table to write (.parquet, .pkl, .pkl.gz)")
    rejects_file: str = Field("", description="CSV of the rows left out; by default beside out_file, as .rejects.csv")
    max_rejects: int = Field(
        0, ge=ANY_NUMBER, description="go on with so many rows that cannot be used left out; -1 for any number"
    )
    require_targets: bool = Field(True, description="false: the structures are not known, so there is no box sensitivity")
    experiment: str = Field(DEFAULT_EXPERIMENT, min_length=1, description="MLflow experiment")

    @property
    def rules(self) -> PruningRules:
        """The rules alone."""
        return PruningRules(**{name: getattr(self, name) for name in PruningRules.model_fields})

    @property
    def rejects_path(self) -> Path:
        """Where the rejects table goes."""
        if self.rejects_file:
            return Path(self.rejects_file)
        out = Path(self.out_file)
        suffix = next((s for s in (PARQUET_SUFFIX, *PICKLE_SUFFIXES) if out.name.endswith(s)), "")
        return out.with_name(f"{out.name.removesuffix(suffix)}.rejects.csv")


OPTIONS = PruneOptions


@dataclass(frozen=True)
class PruneRun:
    """What a run of the entry point did.

    Attributes:
        result: the pruned table and its counts.
        rejects: one line per row that was left out: ``row`` (0-based place in the file), ``index``, ``column``,
            ``reason``; unusable rows, and rows that ``max_len`` skipped.
        rows_read: rows of the file.
        out_digest: SHA-256 of the written table.
        seconds: wall time of ``read``, ``prune`` and ``write``.
    """

    result: PruneResult
    rejects: pd.DataFrame
    rows_read: int
    out_digest: str
    seconds: dict[str, float]


def run_prune(options: PruneOptions, tracker: Tracker) -> PruneRun:
    """Prune a table file into another.

    The pruned table has the input's columns, and ``df_target`` and ``n_bb_found`` where the structures are known. Rows that
    cannot be used and rows that ``max_len`` skips go to the rejects table, which is written whenever there are such rows (and
    over one that is left from an earlier run). The tracker gets parameters, counts, box sensitivity, timings, and both tables.

    Raises:
        UserError: a file cannot be read or written; more than ``max_rejects`` rows cannot be used (the rejects table is
            written then, the pruned one not); no row is left.
    """
    _check_paths(options)
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
    _check_rejects(read, rows_read, options, tracker)

    with timed(seconds, "prune"):
        result = prune(table, options.rules)
    rejects = _with_skipped(read, result, options.max_len)
    _keep_rejects(rejects, options, tracker)
    if not result.table.rows:
        raise UserError(
            f"{options.in_file}: no row is left ({len(read.rejects)} cannot be used, {len(result.skipped_rows)} are "
            f"longer than max_len {options.max_len}); nothing is written but {options.rejects_path}"
        )
    sensitivity = result.sensitivity
    added = {} if sensitivity is None else {"n_bb_found": sensitivity.n_found}
    with timed(seconds, "write"):
        write_table(result.table, options.out_file, added=added, with_targets=sensitivity is not None)
    out_digest = file_digest(options.out_file)

    tracker.metrics(
        {
            "rows/read": rows_read,
            "rows/rejected": len(read.rejects),
            "rows/skipped": len(result.skipped_rows),
            "rows/written": result.table.rows,
        }
        | ({} if sensitivity is None else _sensitivity_figures(sensitivity))
        | {f"seconds/{name}": value for name, value in seconds.items()}
        | {
            f"prune/{line.rule}/{line.type}/{when}": getattr(line, when)
            for line in result.counts.itertuples()
            for when in ("before", "after")
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        counts_file = Path(folder) / "prune_counts.csv"
        result.counts.to_csv(counts_file, index=False)
        tracker.artifact(counts_file)
    tracker.artifact(Path(options.out_file), "table")
    tracker.tags({"out_file": options.out_file, "digest.out_file": out_digest})
    return PruneRun(result, rejects, rows_read, out_digest, seconds)


def _sensitivity_figures(sensitivity: Sensitivity) -> dict[str, float]:
    figures = {"rows/full_sensitivity": int(sensitivity.full.sum()), "full_sensitivity_share": sensitivity.full_share}
    return figures | {f"sensitivity/{name}": share for name, share in sensitivity.shares.items()}


def _check_paths(options: PruneOptions) -> None:
    inputs = {"in_file": options.in_file}
    check_outputs({"out_file": options.out_file}, inputs)
    check_table_path(options.out_file)
    check_outputs({"rejects_file": options.rejects_path}, inputs | {"out_file": options.out_file})


def _check_rejects(read: ReadResult, rows_read: int, options: PruneOptions, tracker: Tracker) -> None:
    """Stop, after the rejects table is written, where more rows cannot be used than are allowed."""
    count = len(read.rejects)
    if options.max_rejects == ANY_NUMBER or count <= options.max_rejects:
        return
    _keep_rejects(read.rejects, options, tracker)
    tracker.metrics({"rows/read": rows_read, "rows/rejected": count})
    first = read.rejects.iloc[0]
    raise UserError(
        f"{options.in_file}: {count} of {rows_read} rows cannot be used; the first is row {first['row']} (index "
        f"{first['index']}), column {first['column']}: {first['reason']}; all are listed in {options.rejects_path}; "
        f"mend them, or leave them out with max_rejects={count}"
    )


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
        "reason": [f"longer than max_len ({n} > {max_len} bases)" for n in table.lengths[result.skipped_rows]],
    }).astype({"index": object})
    both = [part for part in (read.rejects, skipped) if len(part)]
    return pd.concat(both).sort_values("row", ignore_index=True)[list(REJECT_COLUMNS)]


def _keep_rejects(rejects: pd.DataFrame, options: PruneOptions, tracker: Tracker) -> None:
    if len(rejects) or options.rejects_path.exists():
        write_rejects(rejects, options.rejects_path)
    if len(rejects):
        tracker.artifact(options.rejects_path)


def main(argv: Sequence[str] | None = None) -> PruneRun:
    """The command. Raises UserError as :func:`run_prune` does."""
    options = parse(
        PruneOptions, argv, command=COMMAND, description="Thin out the boxes that stage 1 proposes, rule by rule."
    )
    _check_paths(options)
    with start_run("prune", f"prune {Path(options.in_file).name}", experiment=options.experiment) as tracker:
        run = run_prune(options, tracker)
    logger.info("%s", _summary(run, options))
    return run


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


if __name__ == "__main__":
    raise SystemExit(run_command(main))
