"""The alphabet: bases, their codes, which of them pair.

T and U are the same base, and case means nothing. The IUPAC ambiguity codes are read as N: a base that is there but
not known. Every other character is illegal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BASES = "ACGTN"
"""Bases in the order of their codes: A 0, C 1, G 2, T (and U) 3, N 4."""

N_CODE = 4
AMBIGUITY_CODES = "RYSWKMBDHV"
"""IUPAC-IUB codes for two or three possible bases (Cornish-Bowden 1985); they are read as N."""

ILLEGAL = 255
"""What :func:`codes_of` gives for a character outside the alphabet."""

_CODE_OF_BYTE = np.full(256, ILLEGAL, np.uint8)
for _code, _letters in enumerate(("A", "C", "G", "TU", "N" + AMBIGUITY_CODES)):
    for _letter in _letters + _letters.lower():
        _CODE_OF_BYTE[ord(_letter)] = _code

_MASK = str.maketrans(
    AMBIGUITY_CODES + AMBIGUITY_CODES.lower(), "N" * len(AMBIGUITY_CODES) + "n" * len(AMBIGUITY_CODES)
)

CAN_PAIR = np.zeros((5, 5), bool)
"""``(5, 5)`` bool over base codes: A-U, G-C and the wobble pair G-U, in either order; N pairs with nothing."""
for _i, _j in ("AT", "CG", "GT"):
    CAN_PAIR[BASES.index(_i), BASES.index(_j)] = CAN_PAIR[BASES.index(_j), BASES.index(_i)] = True


def codes_of(text: str) -> np.ndarray:
    """``(L,)`` uint8 base code of each character; :data:`ILLEGAL` for a character outside the alphabet."""
    return _CODE_OF_BYTE[np.frombuffer(text.encode("latin-1", "replace"), np.uint8)]


def encode(seq: str) -> np.ndarray:
    """``(L,)`` uint8 base codes of a sequence (see :data:`BASES`).

    Raises:
        ValueError: a character outside the alphabet; says which and where.
    """
    codes = codes_of(seq)
    problem = illegal_characters(seq, codes)
    if problem:
        raise ValueError(problem)
    return codes


def encode_many(seqs: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Base codes of many sequences, one after the other.

    Returns:
        ``(total,)`` uint8 codes, :data:`ILLEGAL` for a character outside the alphabet, and ``(len(seqs) + 1,)`` int64
        offsets: sequence ``r`` is ``codes[offsets[r]:offsets[r + 1]]``.
    """
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in seqs], dtype=np.int64)]).astype(np.int64)
    return codes_of("".join(seqs)), offsets


def illegal_characters(seq: str, codes: np.ndarray | None = None) -> str:
    """What is wrong with the characters of a sequence, in one phrase; empty when all are in the alphabet."""
    wrong = np.flatnonzero((codes_of(seq) if codes is None else codes) == ILLEGAL)
    if not len(wrong):
        return ""
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return f"character {seq[wrong[0]]!r} at position {wrong[0] + 1}{more} is not a base (A C G T U N or an IUPAC code)"


def decode(codes: np.ndarray, rna: bool = False) -> str:
    """The sequence of ``(L,)`` base codes in capitals, with U for T where ``rna`` is set."""
    letters = np.frombuffer((BASES.replace("T", "U") if rna else BASES).encode(), np.uint8)
    return letters[codes].tobytes().decode()


def mask_ambiguous(seq: str) -> str:
    """The sequence with its ambiguity codes as N (n for small letters) and everything else as it is."""
    return seq.translate(_MASK)


def pairable(codes: np.ndarray) -> np.ndarray:
    """``(L, L)`` bool map of the cells above the diagonal whose two bases can pair."""
    return np.triu(CAN_PAIR[codes[:, None], codes[None, :]], k=1)
