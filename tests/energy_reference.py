"""Sequences with pairs that may form, and the slow way to fold them: every structure, with ViennaRNA's energy of each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import RNA
from hypothesis import strategies as st

from rna_s2.rna.pairs import to_dot_bracket

CANONICAL = {"AU", "UA", "GC", "CG", "GU", "UG"}


def structures(pairs: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Every nested set of the pairs, each base in one at most."""
    if not pairs:
        yield []
        return
    first, *rest = pairs
    yield from structures(rest)
    i, j = first
    fitting = [(k, m) for k, m in rest if len({i, j, k, m}) == 4 and (i < k < j) == (i < m < j)]
    for others in structures(fitting):
        yield [first, *others]


def energy(seq: str, pairs: list[tuple[int, int]]) -> float:
    return RNA.fold_compound(seq).eval_structure(to_dot_bracket(np.array(sorted(pairs)).reshape(-1, 2), len(seq)))


def every_pair(seq: str) -> list[tuple[int, int]]:
    return [(i, j) for i in range(len(seq)) for j in range(i + 4, len(seq)) if seq[i] + seq[j] in CANONICAL]


@st.composite
def foldable(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]]]:
    seq = draw(st.text("ACGU", min_size=9, max_size=26))
    can = every_pair(seq)
    chosen = draw(st.lists(st.sampled_from(can), max_size=9, unique=True)) if can else []
    return seq, sorted(chosen)
