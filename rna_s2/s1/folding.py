"""Folding sequences with ViennaRNA, on several processes.

Imports little, for every worker process imports it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from rna_s2.engine.processes import end_with_parent, own_code_first
from rna_s2.options.errors import UserError
from rna_s2.rna.sequence import decode, encode

FOLD_CHUNK = 32
"""Sequences that a worker process folds at a time."""


class Folded(NamedTuple):
    """What ViennaRNA says of a sequence.

    Attributes:
        structure: minimum-free-energy structure in dot-bracket.
        fe: its free energy in kcal/mol.
        mfe_freq: its frequency in the Boltzmann ensemble, 0..1.
        ens_div: ensemble diversity: mean base-pair distance between two structures sampled from the ensemble.
    """

    structure: str
    fe: float
    mfe_freq: float
    ens_div: float


def fold(seq: str) -> Folded:
    """Fold one sequence with ViennaRNA at its default parameters (37 degrees, Turner 2004, dangles 2).

    Ambiguous bases pair with nothing.

    Raises:
        ValueError: a character outside the alphabet.
        UserError: ViennaRNA is not installed.
    """
    try:
        import RNA
    except ImportError as error:
        raise UserError("folding needs ViennaRNA, which is not installed; pip install ViennaRNA") from error
    compound = RNA.fold_compound(decode(encode(seq), rna=True))
    structure, energy = compound.mfe()
    compound.exp_params_rescale(energy)
    compound.pf()
    return Folded(structure, float(energy), float(compound.pr_structure(structure)), float(compound.mean_bp_distance()))


def _fold_chunk(seqs: Sequence[str]) -> list[Folded]:
    return [fold(seq) for seq in seqs]


def fold_all(seqs: Sequence[str], workers: int, progress: Callable[[Iterable], Iterable] = iter) -> list[Folded]:
    """Fold sequences on ``workers`` processes (1: in this one); the results come in order and do not depend on it.

    Args:
        seqs: sequences over the alphabet of :mod:`rna_s2.rna.sequence`.
        workers: number of processes.
        progress: wraps the stream of results (one item per sequence), to show a progress bar.
    """
    if workers <= 1 or len(seqs) <= FOLD_CHUNK:
        return list(progress(map(fold, seqs)))
    workers = min(workers, -(-len(seqs) // FOLD_CHUNK))
    with own_code_first(), multiprocessing.get_context("spawn").Pool(workers, end_with_parent) as pool:
        chunks = pool.imap(_fold_chunk, [seqs[k: k + FOLD_CHUNK] for k in range(0, len(seqs), FOLD_CHUNK)])
        return list(progress(folded for chunk in chunks for folded in chunk))
