"""A simulated stand-in for S1's proposals, for a sample that needs no trained network.

What it makes is *not* the output of any network. It has the statistics that matter downstream: most true boxes are
among the proposals and some are missing, true boxes have near misses beside them, and there are many boxes that the
sequence allows and the structure does not have, with confidences that overlap those of the true ones.

Per sequence of L bases, with the numbers of :class:`Simulation`:

1. Each target box is proposed with the probability ``found`` of its type.
2. Each target box has a Poisson number of near misses: one of its corner coordinates or sizes is off by one.
   They may hold impossible pairs or run out of the map, as real proposals do.
3. Chance stems: pieces of maximal runs of pairable bases, long runs preferred; ``stems_per_base`` * L of them.
4. Chance iloops: from the inner pair of one proposed stem to the outer pair of another inside it, with at most
   ``MAX_LOOP_SIDE - 2`` unpaired bases on a side; ``iloops_per_base`` * L of them, where there are so many.
5. Chance hloops: closing a pairable pair, ``hloops_per_base`` * L of them.
6. Each box has a confidence c, normal on the logit scale, with a mean for true boxes and one for others; near misses
   lie between. Every pixel of the box (for an hloop: above the diagonal) proposes it through the softmax size with
   probability sigmoid(``COVER_SLOPE`` * c + ``COVER_OFFSET``), with joint probability sigmoid(c - |noise|); the same
   for the scalar size output, which is surer by ``scalar_gain``. A box that no pixel proposes gets one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from boxtables.table import BoxTable, Ragged
from rna.boxes import HLOOP, ILOOP, STEM, Boxes
from rna.pairs import Box
from rna.sequence import encode, pairable

PROPOSALS_COLUMN = "proposals_from"
"""Column of a table with simulated proposals that says so in every row."""

MIN_STEM = 2
"""Stacked pairs of the shortest chance stem."""
MIN_HAIRPIN = 3
"""Unpaired bases of the smallest chance hairpin: the least that ViennaRNA allows."""
MAX_HAIRPIN = 14
"""Unpaired bases of the largest chance hairpin."""
MAX_LOOP_SIDE = 10
"""Rows and columns of the largest chance iloop: the largest size that S1's softmax names."""
COVER_SLOPE, COVER_OFFSET = 1.45, 2.4
"""Confidence on the logit scale to the share of a box's pixels that propose it, fitted by eye to real tables."""
PIXEL_NOISE = 0.6
"""Standard deviation of a pixel's confidence below that of its box, on the logit scale."""
DECIMALS = 2
"""Decimals of the probabilities."""
LEAST = 10.0**-DECIMALS
"""Smallest probability."""


class Confidence(NamedTuple):
    """Distribution of a box type's confidence on the logit scale, fitted by eye to real tables."""

    true_mean: float
    other_mean: float
    deviation: float
    scalar_gain: float


@dataclass(frozen=True)
class Simulation:
    """What the stand-in draws; per type in the order stem, iloop, hloop."""

    found: tuple[float, float, float] = (0.94, 0.91, 0.94)
    near_misses: float = 1.0
    stems_per_base: float = 0.75
    iloops_per_base: float = 1.05
    hloops_per_base: float = 0.12
    confidence: tuple[Confidence, Confidence, Confidence] = (
        Confidence(0.2, -2.5, 1.5, 0.4),
        Confidence(-0.4, -3.4, 1.5, 1.2),
        Confidence(0.4, -2.1, 1.7, 0.7),
    )


def with_simulated_proposals(table: BoxTable, seed: int) -> BoxTable:
    """The table with simulated proposals, and a column that says so in every row."""
    codes = [encode(seq) for seq in table.frame["seq"]]
    proposals, prob_sm, prob_sl = simulate_proposals(codes, table.targets, seed)
    frame = table.frame.assign(**{PROPOSALS_COLUMN: "simulated"})
    return BoxTable(frame, proposals, table.targets, prob_sm, prob_sl, source=table.source)


def simulate_proposals(
    codes: list[np.ndarray], targets: Boxes, seed: int, simulation: Simulation | None = None
) -> tuple[Boxes, Ragged, Ragged]:
    """Simulated proposals of many sequences.

    Args:
        codes: ``(L,)`` base codes of each sequence (:func:`rna.sequence.encode`).
        targets: target boxes of each sequence.
        seed: row ``r`` depends on the seed, ``r`` and its own sequence and targets alone.
        simulation: the numbers to draw with.

    Returns:
        The boxes, within a row and type by corner and size, no two identical; and ``prob_sm`` and ``prob_sl`` of each.
    """
    simulation = simulation or Simulation()
    rows: list[list[Box]] = []
    softmax: list[np.ndarray] = []
    scalar: list[np.ndarray] = []
    for row, sequence in enumerate(codes):
        rng = np.random.default_rng([seed, row])
        closeness = _proposed_boxes(rng, sequence, list(targets.row_boxes(row)), simulation)
        boxes = sorted(closeness)
        rows.append(boxes)
        for box in boxes:
            sm, sl = _probabilities(rng, box, closeness[box], simulation.confidence[box[0]])
            softmax.append(sm)
            scalar.append(sl)
    return Boxes.from_rows(rows), _ragged(softmax), _ragged(scalar)


def _ragged(lists: list[np.ndarray]) -> Ragged:
    offsets = np.concatenate([[0], np.cumsum([len(v) for v in lists], dtype=np.int64)]).astype(np.int64)
    return Ragged(np.concatenate([np.zeros(0), *lists]), offsets)


def _proposed_boxes(
    rng: np.random.Generator, codes: np.ndarray, target: list[Box], simulation: Simulation
) -> dict[Box, float]:
    """Boxes to how close each is to a true one: 1 for a true box, 0.5 for a near miss, 0 for a chance box."""
    length = len(codes)
    true = [box for box in target if rng.random() < simulation.found[box[0]]]
    near = [
        _near_miss(rng, box) for box in target for _ in range(rng.poisson(simulation.near_misses))
    ]
    near = [box for box in near if min(box[3:]) >= (1 if box[0] == STEM else 2)]
    pair_map = pairable(codes)
    stems = _chance_stems(rng, pair_map, round(simulation.stems_per_base * length))
    proposed_stems = sorted({box for box in [*true, *stems] if box[0] == STEM})
    chance = [
        *stems,
        *_chance_iloops(rng, proposed_stems, round(simulation.iloops_per_base * length)),
        *_chance_hloops(rng, pair_map, round(simulation.hloops_per_base * length)),
    ]
    closeness = {box: 0.0 for box in chance} | {box: 0.5 for box in near}
    for box in target:
        closeness.pop(box, None)
    return closeness | {box: 1.0 for box in true}


def _near_miss(rng: np.random.Generator, box: Box) -> Box:
    """The box with one coordinate or size off by one; what a type ties together (square stems, hloops on the diagonal)
    stays so."""
    kind, x, y, siz_x, siz_y = box
    off = int(rng.choice([-1, 1]))
    change = int(rng.integers(4))
    if kind == HLOOP:
        x, y = (x + off, y) if change % 2 else (x, y + off)
        return kind, x, y, y - x + 1, y - x + 1
    if change == 0:
        return kind, x + off, y, siz_x, siz_y
    if change == 1:
        return kind, x, y + off, siz_x, siz_y
    if kind == STEM:
        return kind, x, y, siz_x + off, siz_y + off
    return (kind, x, y, siz_x + off, siz_y) if change == 2 else (kind, x, y, siz_x, siz_y + off)


def _chance_stems(rng: np.random.Generator, pair_map: np.ndarray, count: int) -> list[Box]:
    """Stems from maximal runs of pairable cells along the antidiagonals, each base pair more making a run twice as
    likely; half of them are cut at a random place."""
    inward = np.zeros_like(pair_map)
    inward[:-1, 1:] = pair_map[1:, :-1]
    outward = np.zeros_like(pair_map)
    outward[1:, :-1] = pair_map[:-1, 1:]
    x, y = np.nonzero(pair_map & ~outward & inward)  # outer pairs of runs of at least two
    size = np.ones(len(x), np.int64)
    going = np.ones(len(x), bool)
    while going.any():
        going &= inward[x + (size - 1) * going, y - (size - 1) * going]
        size += going
    size = np.minimum(size, (y - x - MIN_HAIRPIN + 1) // 2)  # leave room for a hairpin
    fits = size >= MIN_STEM
    x, y, size = x[fits], y[fits], size[fits]
    chosen = _weighted_choice(rng, 2.0**size, count)
    boxes = []
    for k in chosen.tolist():
        n, skip = int(size[k]), 0
        if n > MIN_STEM and rng.random() < 0.5:
            n = int(rng.integers(MIN_STEM, n, endpoint=True))
            skip = int(rng.integers(0, int(size[k]) - n, endpoint=True))
        boxes.append((STEM, int(x[k]) + skip, int(y[k]) - skip, n, n))
    return boxes


def _chance_iloops(rng: np.random.Generator, stems: list[Box], count: int) -> list[Box]:
    """Iloops from the inner pair of one stem to the outer pair of another."""
    if not stems:
        return []
    _, x, y, n, _ = np.array(stems).T
    siz_x = x[None, :] - (x + n - 1)[:, None] + 1
    siz_y = (y - n + 1)[:, None] - y[None, :] + 1
    outer, inner = np.nonzero(
        (siz_x >= 2) & (siz_y >= 2) & (siz_x + siz_y > 4) & (siz_x <= MAX_LOOP_SIDE) & (siz_y <= MAX_LOOP_SIDE)
    )
    chosen = _weighted_choice(rng, 1.0 / (siz_x + siz_y)[outer, inner], count)
    return [
        (ILOOP, int(x[a] + n[a] - 1), int(y[a] - n[a] + 1), int(siz_x[a, b]), int(siz_y[a, b]))
        for a, b in zip(outer[chosen], inner[chosen], strict=True)
    ]


def _chance_hloops(rng: np.random.Generator, pair_map: np.ndarray, count: int) -> list[Box]:
    """Hloops closed by a pairable pair with another stacked on it outside; small ones preferred."""
    stacked = np.zeros_like(pair_map)
    stacked[1:, :-1] = pair_map[:-1, 1:]
    x, y = np.nonzero(pair_map & stacked)
    unpaired = y - x - 1
    fits = (unpaired >= MIN_HAIRPIN) & (unpaired <= MAX_HAIRPIN)
    x, y = x[fits], y[fits]
    chosen = _weighted_choice(rng, 1.0 / (y - x), count)
    return [(HLOOP, int(x[k]), int(y[k]), int(y[k] - x[k] + 1), int(y[k] - x[k] + 1)) for k in chosen]


def _weighted_choice(rng: np.random.Generator, weight: np.ndarray, count: int) -> np.ndarray:
    """Up to ``count`` different indices, drawn one after the other in proportion to their weights."""
    count = min(count, len(weight))
    if not count:
        return np.zeros(0, np.int64)
    return rng.choice(len(weight), count, replace=False, p=weight / weight.sum())


def _probabilities(
    rng: np.random.Generator, box: Box, closeness: float, confidence: Confidence
) -> tuple[np.ndarray, np.ndarray]:
    """``prob_sm`` and ``prob_sl`` of a box; at least one of them has an entry."""
    kind, _, _, siz_x, siz_y = box
    pixels = siz_x * (siz_x - 1) // 2 if kind == HLOOP else siz_x * siz_y
    mean = confidence.other_mean + closeness * (confidence.true_mean - confidence.other_mean)
    centre = rng.normal(mean, confidence.deviation)
    counts = rng.binomial(pixels, _sigmoid(COVER_SLOPE * centre + COVER_OFFSET), size=2)
    if not counts.any():
        counts[rng.integers(2)] = 1
    softmax, scalar = (
        _pixel_probabilities(rng, centre + gain, count)
        for count, gain in zip(counts.tolist(), (0.0, confidence.scalar_gain), strict=True)
    )
    return softmax, scalar


def _pixel_probabilities(rng: np.random.Generator, centre: float, count: int) -> np.ndarray:
    """``(count,)`` joint probabilities of the pixels that propose a box, the largest first."""
    below = np.sort(np.abs(rng.normal(0.0, PIXEL_NOISE, size=count)))
    return np.maximum(np.round(_sigmoid(centre - below), DECIMALS), LEAST)


def _sigmoid(value: np.ndarray | float) -> np.ndarray | float:
    return 1.0 / (1.0 + np.exp(-value))
