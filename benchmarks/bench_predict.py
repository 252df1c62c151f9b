"""Seconds per sequence from sequence to structure, over sequence lengths, with trained networks.

    python benchmarks/bench_predict.py --s1_model data/s1_compact --s2_model data/s2_model --figure predict_time.png

Random sequences; a chunk at a time, as the command does it; nothing is written or drawn. CPU time and wall time. Two columns
say what cannot be saved: the arithmetic of stage 1's convolutions, at the rate of a large matrix product in the same run, and
what ViennaRNA takes for folding and for partition functions.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import RNA
import torch
from matplotlib.figure import Figure

from rna_s2.engine.processes import keep_freed_memory
from rna_s2.pipeline.open_models import ModelOptions, open_models
from rna_s2.pipeline.structure_prediction import Models, PipelineOptions, predict_each
from rna_s2.rna import formats
from rna_s2.rna.sequence import decode

LENGTHS = (50, 100, 200, 500, 1000, 2000)
BASES_PER_LENGTH = 3_000
PARTS = ("proposals", "scores", "decoding")
VIENNA = ("mfe", "pf")


def timed_viennarna(seconds: dict[str, float]) -> None:
    """From now on, the seconds of ViennaRNA's foldings and partition functions are added to ``viennarna``."""
    def wrapped(method):
        def call(self, *arguments):
            start = time.perf_counter()
            try:
                return method(self, *arguments)
            finally:
                seconds["viennarna"] += time.perf_counter() - start
        return call

    for name in VIENNA:
        setattr(RNA.fold_compound, name, wrapped(getattr(RNA.fold_compound, name)))


def flops_per_second() -> float:
    """The rate of a large single-precision matrix product."""
    a = torch.randn(2048, 2048)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds)


def flops_of_convolutions(models: Models, length: int) -> float:
    """Of stage 1's blocks, at each cell above the diagonal: a multiplication and an addition for each weight."""
    weights = sum(weight.numel() for name, weight in models.s1.named_parameters() if name.startswith("blocks."))
    return 2 * weights * length * (length - 1) / 2


def measured(
    models: Models, options: PipelineOptions, length: int, rng: np.random.Generator, spent: dict[str, float]
) -> dict[str, float]:
    """Seconds per sequence of one length (CPU, wall, wall of each part), and boxes per sequence."""
    count = max(BASES_PER_LENGTH // length, 1)
    records = [formats.SequenceRecord(str(n), decode(rng.integers(0, 4, length), rna=True)) for n in range(count)]
    next(predict_each(records[:1], models, options))  # warm up
    seconds: dict[str, float] = {}
    spent["viennarna"] = 0.0
    wall, cpu = time.perf_counter(), time.process_time()
    found = list(predict_each(records, models, options, seconds))
    return {
        "cpu": (time.process_time() - cpu) / count,
        "wall": (time.perf_counter() - wall) / count,
        **{part: seconds[part] / count for part in PARTS},
        "viennarna": spent["viennarna"] / count,
        "boxes": sum(len(p.boxes) + p.boxes_left_out for p in found) / count,
    }


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--s1_model", required=True)
    parser.add_argument("--s2_model", required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--figure", default="", help="PNG of the seconds over the length")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models, options = open_models(ModelOptions(s1_model=arguments.s1_model, s2_model=arguments.s2_model))
    keep_freed_memory()
    rng, rate = np.random.default_rng(0), flops_per_second()
    spent: dict[str, float] = {"viennarna": 0.0}
    timed_viennarna(spent)
    rows = {length: measured(models, options, length, rng, spent) for length in arguments.lengths}
    print(f"{rate / 1e9:.0f} GFLOP/s by a matrix product\n")
    print(
        "| nt | boxes | sequences per s of CPU | CPU s | wall s | proposals | scores | decoding | convolutions need "
        "| ViennaRNA |"
    )
    print("| ---: |" + " ---: |" * 9)
    for length, row in rows.items():
        parts = " | ".join(f"{row[part]:.4f}" for part in PARTS)
        parts += f" | {flops_of_convolutions(models, length) / rate:.4f} | {row['viennarna']:.4f}"
        print(f"| {length} | {row['boxes']:.0f} | {1 / row['cpu']:.1f} | {row['cpu']:.4f} | {row['wall']:.4f} | {parts} |")
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    if arguments.figure:
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for name in ("cpu", *PARTS):
            axes.plot(list(rows), [row[name] for row in rows.values()], "o-", label="all (CPU)" if name == "cpu" else name)
        axes.set(xlabel="length (nt)", ylabel="seconds per sequence", xscale="log", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        figure.savefig(arguments.figure, dpi=120)


if __name__ == "__main__":
    main()
