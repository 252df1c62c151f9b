"""Sequences per second of decoding in one process, over sequence lengths, with synthetic proposals.

    python benchmarks/bench_decode.py

A sequence has a hidden nested structure whose boxes score well, and proposals that compete with it: random stems, shorter
versions of stems, and loops between them, about 2 boxes per base as a first-stage network makes. CPU time, the best of
several times.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from rna_s2.rna.boxes import HLOOP, ILOOP, STEM, Boxes
from rna_s2.rna.pairs import Box, loop_boxes
from rna_s2.structures.candidates import DecodeOptions, log_odds
from rna_s2.structures.decode import decode_batch, k_best_batch
from rna_s2.structures.pairing import base_pair_probabilities, maximum_expected_accuracy

LENGTHS = (50, 100, 200, 500, 1000, 2000)
BASES_PER_LENGTH = 6_000
REPEATS = 2
STEMS_PER_BASE, LOOPS_PER_BASE = 1.0, 3.0
MIN_CONFIDENCE = 0.05
K = 10


def hidden_structure(rng: np.random.Generator, first: int, last: int) -> list[tuple[int, int]]:
    """Random nested pairs on bases ``first .. last``: stems of 3 to 9 pairs, hairpin loops of 3 bases or more."""
    pairs = []
    while last - first > 30:
        span = int(rng.integers(20, min(last - first, 400)))
        n = int(min(rng.integers(3, 10), (span - 4) // 2))
        x = first + int(rng.integers(0, 5))
        pairs += [(x + k, x + span - k) for k in range(n)]
        gap = int(rng.integers(1, 5))
        pairs += hidden_structure(rng, x + n + gap, x + span - n - int(rng.integers(0, 4)))
        first = x + span + 1
    return pairs


def proposals(rng: np.random.Generator, length: int) -> tuple[list[Box], np.ndarray]:
    """Boxes of one sequence and their probabilities."""
    pairs = np.array(sorted(hidden_structure(rng, 0, length - 6)), np.int64).reshape(-1, 2)
    right = set(loop_boxes(pairs))
    stems = {box for box in right if box[0] == STEM}
    for _, x, y, n, _ in list(stems):
        cut = int(rng.integers(0, n))
        stems |= {(STEM, x, y, n - cut, n - cut), (STEM, x + cut, y - cut, n - cut, n - cut)}
    count = int(STEMS_PER_BASE * length)
    ends = np.sort(rng.integers(0, length, (2, count)), axis=0)
    for x, y, n in zip(*ends, rng.integers(2, 8, count), strict=True):
        if x + 2 * n + 4 < y:
            stems.add((STEM, int(x), int(y), int(n), int(n)))
    outer = [(x + n - 1, y - n + 1) for _, x, y, n, _ in stems]
    inner = [(x, y) for _, x, y, _, _ in stems]
    loops = {(HLOOP, x, y, y - x + 1, y - x + 1) for x, y in outer if y - x < 30}
    for _ in range(int(LOOPS_PER_BASE * length)):
        (x, y), (p, q) = outer[rng.integers(len(outer))], inner[rng.integers(len(inner))]
        if x < p and q < y and p - x + y - q > 2:
            loops.add((ILOOP, x, y, p - x + 1, y - q + 1))
    boxes = sorted(stems | loops | right)
    is_right = np.array([box in right for box in boxes])
    return boxes, np.where(is_right, rng.beta(4, 3, len(boxes)), rng.beta(0.6, 6, len(boxes)))


def rate(rows: int, run: Callable[[], object]) -> float:
    """Sequences per second of CPU time, the best of several runs."""
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return rows / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crossing_max_length", type=int, default=100, help="no integer programming for longer ones")
    args = parser.parse_args()
    print("| nt | boxes | stems | decode | decode, min_confidence | 10 best | MEA | crossing |")
    print("| ---: " * 8 + "|")
    for length in LENGTHS:
        rows = max(2, BASES_PER_LENGTH // length)
        rng = np.random.default_rng(args.seed)
        made = [proposals(rng, length) for _ in range(rows)]
        boxes = Boxes.from_rows([row for row, _ in made])
        p = np.concatenate([probability for _, probability in made])
        scores, lengths = log_odds(p), np.full(rows, length)

        def mea(boxes: Boxes = boxes, p: np.ndarray = p, rows: int = rows, length: int = length) -> None:
            for row in range(rows):
                maximum_expected_accuracy(base_pair_probabilities(boxes, p, length, row=row), "N" * length)

        few = min(rows, 10)
        figures = [
            rate(rows, lambda: decode_batch(boxes, scores, lengths)),  # noqa: B023 - called at once
            rate(rows, lambda: decode_batch(boxes, scores, lengths, DecodeOptions(min_confidence=MIN_CONFIDENCE))),  # noqa: B023
            rate(rows, lambda: k_best_batch(boxes, scores, lengths, K)),  # noqa: B023
            rate(rows, mea),
        ]
        if length <= args.crossing_max_length:
            part = boxes.take_rows(np.arange(few))
            crossing = DecodeOptions(crossing=True, min_confidence=MIN_CONFIDENCE)
            figures.append(rate(few, lambda: decode_batch(part, scores[: len(part)], lengths[:few], crossing)))  # noqa: B023
        cells = [f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in figures]
        per_row = (len(boxes) / rows, (boxes.type == STEM).sum() / rows)
        print(f"| {length} | {per_row[0]:.0f} | {per_row[1]:.0f} | {' | '.join(cells)} |" + " |" * (5 - len(cells)), flush=True)


if __name__ == "__main__":
    main()
