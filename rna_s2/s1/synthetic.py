"""Random sequences with the composition of transcripts: as many training sequences as one wants, from a seed alone.

A first-order Markov chain over A, C, G, U. Human transcripts differ from independent bases mostly in two ways, and the
chain has both: the share of G + C varies along and between transcripts (isochores, untranslated regions), and some
neighbours are rare (CpG, UpA) or frequent (CpA, UpG, GpG).
"""

from __future__ import annotations

import numpy as np

BASES = np.frombuffer(b"ACGU", np.uint8)

DINUCLEOTIDE_ODDS = np.array(
    #  A     C     G     U   <- second base
    [
        [1.05, 0.88, 1.16, 0.90],  # A
        [1.20, 1.12, 0.40, 1.18],  # C
        [1.08, 1.00, 1.14, 0.84],  # G
        [0.72, 1.00, 1.25, 1.10],  # U
    ]
)
"""Observed over expected frequency of neighbours, rounded, of vertebrate transcripts (CpG and UpA are rare)."""

REGION_LENGTH = 300
"""Bases after which the share of G + C changes: about the length of an exon or an untranslated region."""


def random_transcripts(n_transcripts: int, length: int, seed: int, gc_mean: float = 0.5, gc_sd: float = 0.1) -> list[str]:
    """Random sequences over A, C, G, U.

    The next base b after a is sampled with probability proportional to ``frequency(b) * DINUCLEOTIDE_ODDS[a, b]``; the
    frequencies come from a share of G + C that is sampled from a beta distribution for every :data:`REGION_LENGTH` bases.
    All sequences advance together, so the cost is one small array operation per position.

    Args:
        n_transcripts: how many.
        length: bases of each.
        seed: seed of the generator; the same seed gives the same sequences.
        gc_mean, gc_sd: mean and standard deviation of the share of G + C of a region.
    """
    rng = np.random.default_rng(seed)
    concentration = gc_mean * (1 - gc_mean) / gc_sd**2 - 1
    out = np.empty((n_transcripts, length), np.uint8)
    base = rng.integers(4, size=n_transcripts)
    for start in range(0, length, REGION_LENGTH):
        stop = min(start + REGION_LENGTH, length)
        gc = rng.beta(gc_mean * concentration, (1 - gc_mean) * concentration, size=(n_transcripts, 1))
        frequency = np.concatenate([1 - gc, gc, gc, 1 - gc], axis=1) / 2  # (transcripts, 4)
        transition = frequency[:, None, :] * DINUCLEOTIDE_ODDS  # (transcripts, from, to)
        cumulative = np.cumsum(transition / transition.sum(axis=2, keepdims=True), axis=2)
        cumulative[:, :, -1] = 1.0
        draws = rng.random((stop - start, n_transcripts))
        every = np.arange(n_transcripts)
        for k in range(stop - start):
            base = (draws[k][:, None] >= cumulative[every, base]).sum(axis=1)
            out[:, start + k] = base
    return [row.tobytes().decode("ascii") for row in BASES[out]]
