"""Rows per second and peak memory of pruning and featurizing on one core, beside the slow references of the tests.

    python benchmarks/bench_data.py --table TABLE

Every measurement is a process of its own, on one core, and starts from a loaded table. The table is pruned as the
reference experiment was. A fast path is timed on the whole table, the best of several times; a reference once, on
rows spread over the table; both in CPU time, so that other work on the machine counts little. Peak memory is that of
the whole process, with Python, its libraries and the loaded table.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.table import BoxTable
from rna_s2.boxtables.write import write_table
from rna_s2.pruning.rules import REFERENCE_RULES, prune
from rna_s2.s2.features import featurize
from tests.reference import features_row, is_trained_on, prune_row, rows_of

KINDS = ("baseline", "s1_features", "sequence_encoding", "shuffle_label")
REPEATS = 5
REFERENCE_ROWS = 1000
RAW, PRUNED = "raw.parquet", "pruned.parquet"
STEPS = ("prepare", "read", "prune", *KINDS)


def measure(step: str, path: Path, reference_rows: int, folder: Path) -> dict[str, float]:
    """Run one step in this process; ``reference_rows`` above 0 runs the reference on so many rows.

    The step ``prepare`` writes what the others read to ``folder``.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if step == "prepare":
        table = read_table(path).table
        write_table(table, folder / RAW)
        write_table(prune(table, REFERENCE_RULES).table, folder / PRUNED, with_targets=True)
        return {}
    if step == "read":
        start = time.process_time()
        rows = read_table(path).table.rows
        return _result(rows, time.process_time() - start)
    table = read_table(path).table
    loaded = _peak_mib()
    if reference_rows:
        table = table.take_rows(np.linspace(0, table.rows - 1, min(reference_rows, table.rows)).astype(np.int64))
        rows = list(rows_of(table))
        work: Callable[[], object] = (
            (lambda: [prune_row(row, REFERENCE_RULES) for row in rows])
            if step == "prune"
            else (lambda: [features_row(row, step) for row in rows if is_trained_on(row, keep_partial=False)])
        )
        seconds = _seconds(work)
    else:
        work = _fast(step, table)
        seconds = min(_seconds(work) for _ in range(REPEATS))
    return _result(table.rows, seconds) | {"loaded": loaded}


def _fast(step: str, table: BoxTable) -> Callable[[], object]:
    if step == "prune":
        return lambda: prune(table, REFERENCE_RULES)
    return lambda: featurize(table, step)


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _peak_mib() -> float:
    """Peak resident memory of this process so far, in MiB (Linux counts it in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _result(rows: int, seconds: float) -> dict[str, float]:
    return {"rows": rows, "seconds": seconds, "peak": _peak_mib()}


def _in_process(step: str, path: Path, *arguments: object) -> dict[str, float]:
    """A step in a process of its own. This process stays small: on Linux a child's peak begins with its parent's."""
    command = [sys.executable, __file__, "--table", path, "--step", step, *arguments]
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(path: Path, reference_rows: int) -> None:
    """Measure everything and print the Markdown table."""
    with tempfile.TemporaryDirectory() as folder:
        raw, pruned = Path(folder) / RAW, Path(folder) / PRUNED
        _in_process("prepare", path, "--folder", folder)
        print("| step | rows/s | reference, rows/s | times | peak MiB | of these after loading | reference, peak MiB |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for name, source in (("read " + "".join(path.suffixes), path), ("read .parquet", raw)):
            result = _in_process("read", source)
            print(f"| {name} | {result['rows'] / result['seconds']:,.0f} | | | {result['peak']:,.0f} | | |", flush=True)
        for step in ("prune", *KINDS):
            source = raw if step == "prune" else pruned
            fast, slow = _in_process(step, source), _in_process(step, source, "--reference-rows", reference_rows)
            rate, slow_rate = fast["rows"] / fast["seconds"], slow["rows"] / slow["seconds"]
            name = step if step == "prune" else f"featurize {step}"
            print(
                f"| {name} | {rate:,.0f} | {slow_rate:,.0f} | {rate / slow_rate:,.0f} | {fast['peak']:,.0f} | "
                f"{fast['loaded']:,.0f} | {slow['peak']:,.0f} |",
                flush=True,
            )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help="S1 prediction table (.parquet, .pkl, .pkl.gz)")
    parser.add_argument("--reference-rows", type=int, default=0, help=f"rows for the slow references [{REFERENCE_ROWS}]")
    parser.add_argument("--step", choices=STEPS, help="measure this step alone, in this process, and print it as JSON")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the step prepare writes")
    given = parser.parse_args()
    if given.step:
        print(json.dumps(measure(given.step, given.table, given.reference_rows, given.folder)))
    else:
        compare(given.table, given.reference_rows or REFERENCE_ROWS)


if __name__ == "__main__":
    main()
