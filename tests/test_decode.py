"""Decoding: against every subset of stems, on small random inputs; known answers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rna.boxes import HLOOP, ILOOP, STEM, Boxes
from structures.candidates import DecodeOptions, log_odds
from structures.decode import decode
from tests.structure_reference import all_structures

SCORES = st.floats(-6, 6, allow_nan=False).map(lambda v: round(v, 3))


@st.composite
def stems(draw: st.DrawFn, length: int) -> tuple[int, int, int, int, int]:
    x = draw(st.integers(0, length - 3))
    y = draw(st.integers(x + 1, length - 1))
    n = draw(st.integers(1, 4))
    return (STEM, x, y, n, n)


@st.composite
def proposals(draw: st.DrawFn, most_stems: int = 8) -> tuple[list[tuple[tuple, float]], int]:
    """Scored boxes of one sequence: stems, and loops of which many lie between them; some boxes fit nowhere."""
    length = draw(st.integers(5, 26))
    found = draw(st.lists(stems(length), max_size=most_stems))
    loops = []
    for _, x, y, n, _ in found:
        i, j = x + n - 1, y - n + 1
        if draw(st.booleans()):
            loops.append((HLOOP, i, j, j - i + 1, j - i + 1))
        for _, p, q, _, _ in found:
            if draw(st.integers(0, 2)) and i < p and q < j:
                loops.append((ILOOP, i, j, p - i + 1, j - q + 1))
    odd = st.tuples(st.integers(0, 2), *[st.integers(-1, length)] * 2, *[st.integers(1, 5)] * 2)
    boxes = [b for b in found + loops + draw(st.lists(odd, max_size=2)) if min(b[3:]) >= 1]
    return [(box, draw(SCORES)) for box in draw(st.permutations(boxes))], length


options = st.builds(
    DecodeOptions, min_hairpin=st.sampled_from([3, 3, 0, 1]), min_stem=st.sampled_from([1, 1, 2]),
    missing_loop=st.sampled_from([-2.0, 0.0, -5.5, 0.7]), branch=st.sampled_from([0.0, -0.6, 0.3]),
    min_confidence=st.sampled_from([0.0, 0.0, 0.3]),
)


def columns(rows: list[list[tuple[tuple, float]]]) -> tuple[Boxes, np.ndarray]:
    """Boxes of each row and their scores, in the order in which ``Boxes`` has them."""
    in_order = [sorted(row, key=lambda scored: scored[0][0]) for row in rows]
    return Boxes.from_rows([[b for b, _ in row] for row in in_order]), np.array(
        [score for row in in_order for _, score in row], float
    )


def slow(row: list[tuple[tuple, float]], length: int, chosen: DecodeOptions) -> list:
    """All structures, best first."""
    threshold = float(log_odds(chosen.min_confidence)) if chosen.min_confidence else float("-inf")
    found = all_structures(
        row, length, min_hairpin=chosen.min_hairpin, missing_loop=chosen.missing_loop, branch=chosen.branch,
        min_stem=chosen.min_stem, min_score=threshold,
    )
    return sorted(found, key=lambda entry: -entry[0])


@settings(max_examples=300, deadline=None)
@given(proposals(), options)
def test_the_best_structure_is_the_best_of_all_subsets(row, chosen):
    scored, length = row
    boxes, scores = columns([scored])
    found = decode(boxes, scores, length, chosen)
    every = slow(scored, length, chosen)
    assert found.score == pytest.approx(every[0][0], abs=1e-9)
    of_pairs = {pairs: (score, kept, missing) for score, pairs, kept, missing in every}
    score, kept, missing = of_pairs[tuple(map(tuple, found.pairs.tolist()))]
    assert score == pytest.approx(found.score, abs=1e-9)
    assert missing == found.missing_loops
    all_boxes = list(boxes.row_boxes(0))
    assert sorted(all_boxes[k] for k in found.boxes) == sorted(kept)
    assert sum(scores[found.boxes]) == pytest.approx(sum(max(s for b, s in scored if b == box) for box in kept), abs=1e-9)
