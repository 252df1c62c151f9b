"""Base pairs, dot-bracket, loop decomposition, and which boxes can stand together.

Base pairs are a ``(k, 2)`` int array of ``i < j``, 0-based, sorted by ``i``, each base in one pair at most; no pairs is
shape ``(0, 2)``.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence

import numpy as np

from rna_s2.rna.boxes import HLOOP, ILOOP, STEM, Boxes, inner_corner, inside_map, ragged_positions
from rna_s2.rna.sequence import CAN_PAIR

Box = tuple[int, int, int, int, int]
"""``(type, bb_x, bb_y, siz_x, siz_y)``, top-right corner; see :mod:`rna_s2.rna.boxes`."""

BRACKETS: tuple[str, ...] = ("()", "[]", "{}", "<>", *(a + a.lower() for a in string.ascii_uppercase))
"""Types of brackets in the order in which :func:`to_dot_bracket` uses them; pairs of one type do not cross."""

UNPAIRED = ".,:_-~"
"""Characters read as an unpaired base (dot-bracket, and the WUSS notation of Rfam); a dot is written."""

_OPENING = {brackets[0]: n for n, brackets in enumerate(BRACKETS)}
_CLOSING = {brackets[1]: n for n, brackets in enumerate(BRACKETS)}


def as_pairs(i: Sequence[int] | np.ndarray, j: Sequence[int] | np.ndarray, length: int | None = None) -> np.ndarray:
    """Checked base pairs from the two lists of partners (``one_idx`` of an S1 table), in either order of partners.

    A pair given twice, once from each side, is one pair.

    Returns:
        ``(k, 2)`` int32, ``i < j``, sorted by ``i``.

    Raises:
        ValueError: the lists differ in length; a pair (i, i); an index below 0 or not below ``length`` (where given);
            a base in two different pairs. Positions in the message count from 1.
    """
    first, second = np.asarray(i, np.int64).reshape(-1), np.asarray(j, np.int64).reshape(-1)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} bases against {len(second)} partners")
    pairs = np.unique(np.stack([np.minimum(first, second), np.maximum(first, second)], axis=1), axis=0)
    if not len(pairs):
        return np.zeros((0, 2), np.int32)
    to_itself = pairs[pairs[:, 0] == pairs[:, 1]]
    if len(to_itself):
        raise ValueError(f"base {to_itself[0, 0] + 1} is paired with itself")
    if pairs.min() < 0 or (length is not None and pairs.max() >= length):
        worst = pairs.min() if pairs.min() < 0 else pairs.max()
        raise ValueError(f"base {worst + 1} of a pair is outside the sequence" + (f" of {length}" if length else ""))
    bases, times = np.unique(pairs, return_counts=True)
    if (times > 1).any():
        raise ValueError(f"base {bases[times > 1][0] + 1} is in more than one pair")
    return pairs.astype(np.int32)


def from_dot_bracket(text: str) -> np.ndarray:
    """Base pairs of a structure in dot-bracket notation, ``(k, 2)`` int32.

    Brackets of each type (``()``, ``[]``, ``{}``, ``<>``, ``Aa`` .. ``Zz``) are matched among themselves, so that
    pairs of different types may cross.

    Raises:
        ValueError: an unbalanced bracket or an unknown character; says which and where (counting from 1).
    """
    open_at: dict[int, list[int]] = {}
    pairs = []
    for position, character in enumerate(text):
        if character in UNPAIRED:
            continue
        if character in _OPENING:
            open_at.setdefault(_OPENING[character], []).append(position)
        elif character in _CLOSING:
            waiting = open_at.get(_CLOSING[character])
            if not waiting:
                raise ValueError(f"'{character}' at position {position + 1} closes nothing")
            pairs.append((waiting.pop(), position))
        else:
            raise ValueError(f"'{character}' at position {position + 1} is neither a bracket nor an unpaired base")
    left = min((stack[-1] for stack in open_at.values() if stack), default=None)
    if left is not None:
        raise ValueError(f"'{text[left]}' at position {left + 1} is never closed")
    return np.array(sorted(pairs), np.int32).reshape(-1, 2)


def to_dot_bracket(pairs: np.ndarray, length: int) -> str:
    """Dot-bracket of base pairs; the pairs that :func:`remove_pseudoknots` keeps are round brackets, and so on.

    Raises:
        ValueError: the pairs need more types of brackets than there are.
    """
    text = ["."] * length
    rest = pairs
    for opening, closing in BRACKETS:
        kept, rest = remove_pseudoknots(rest)
        for i, j in kept.tolist():
            text[i], text[j] = opening, closing
        if not len(rest):
            return "".join(text)
    raise ValueError(f"the structure needs more than {len(BRACKETS)} types of brackets")


def pair_table(pairs: np.ndarray, length: int) -> np.ndarray:
    """``(length,)`` int32: the partner of each base, -1 where it has none."""
    table = np.full(length, -1, np.int32)
    table[pairs[:, 0]] = pairs[:, 1]
    table[pairs[:, 1]] = pairs[:, 0]
    return table


def stems(pairs: np.ndarray) -> np.ndarray:
    """``(s, 3)`` int32: ``i, j, n`` of each maximal run of stacked pairs ``(i+k, j-k)``, ``k = 0..n-1``, by ``i``."""
    if not len(pairs):
        return np.zeros((0, 3), np.int32)
    stacked = (np.diff(pairs[:, 0]) == 1) & (np.diff(pairs[:, 1]) == -1)
    start = np.flatnonzero(np.concatenate([[True], ~stacked]))
    size = np.diff(np.concatenate([start, [len(pairs)]]))
    return np.concatenate([pairs[start], size[:, None]], axis=1).astype(np.int32)


def remove_pseudoknots(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split base pairs into a largest set in which no two cross, and the rest.

    Pairs ``(i, j)`` and ``(k, l)`` cross when ``i < k < j < l``. A stem crosses another with all of its pairs or with
    none, so whole stems are kept or taken out. Kept is a set with the most base pairs, found exactly: over the ends of
    the stems in sequence order, the best set between ends ``a`` and ``b`` either leaves out the stem that begins at
    ``a``, or keeps it and joins the best set inside it and the best set after it (this is the maximum independent set
    of a circle graph, quadratic in the number of stems that cross any other). Among equally good sets, a stem that
    begins nearer to the 5' end is kept.

    Returns:
        kept ``(k, 2)`` and removed ``(r, 2)`` pairs, each sorted by ``i``.
    """
    stem = stems(pairs)
    i, j = stem[:, 0], stem[:, 1]
    crosses = (i[:, None] < i) & (i < j[:, None]) & (j[:, None] < j)
    crosses |= crosses.T
    knotted = np.flatnonzero(crosses.any(axis=1))
    if not len(knotted):
        return pairs, pairs[:0]
    chosen = np.ones(len(stem), bool)
    chosen[knotted] = False
    chosen[knotted[_best_nested(i[knotted], j[knotted], stem[knotted, 2])]] = True
    kept = np.repeat(chosen, stem[:, 2])
    return pairs[kept], pairs[~kept]


def _best_nested(i: np.ndarray, j: np.ndarray, weight: np.ndarray) -> list[int]:
    """Indices of a set of intervals ``(i, j)`` of the largest total weight in which no two cross."""
    owner = (np.argsort(np.concatenate([i, j])) % len(i)).tolist()  # of each end, in sequence order
    m = len(owner)
    mate = np.full(m, -1)  # the closing end of the stem that opens here; -1 at a closing end
    opening, closing = np.argsort(owner, kind="stable").reshape(-1, 2).T
    mate[opening] = closing
    best = np.zeros((m + 1, m + 1), np.int64)  # best[a, b]: ends a .. b-1
    for a in range(m - 1, -1, -1):
        best[a] = best[a + 1]
        if mate[a] >= 0:
            c = mate[a]
            best[a, c + 1:] = np.maximum(best[a, c + 1:], weight[owner[a]] + best[a + 1, c] + best[c + 1, c + 1:])
    chosen = []
    todo = [(0, m)]
    while todo:
        a, b = todo.pop()
        while a < b:
            c = mate[a]
            if 0 <= c < b and best[a, b] == weight[owner[a]] + best[a + 1, c] + best[c + 1, b]:
                chosen.append(owner[a])
                todo.append((c + 1, b))
                a, b = a + 1, c
            else:
                a += 1
    return sorted(chosen)


def loop_boxes(pairs: np.ndarray) -> list[Box]:
    """The bounding boxes of a structure without pseudoknots: its loop decomposition.

    A stem is a maximal run of stacked pairs. The loop closed by the last pair of a stem is an hloop when no pair lies
    inside it, an iloop when one does and bases are unpaired on at least one side (on one only: a bulge, of size 2 on
    the other side), a multiloop when more do. Multiloops and the exterior loop have no box. A hairpin may have no
    unpaired base at all (size 2): known structures do.

    Returns:
        boxes in the order stems, iloops, hloops, within a type by ``bb_x``.

    Raises:
        ValueError: two pairs cross.
    """
    boxes: list[Box] = []
    open_stems: list[tuple[int, int, int, list[tuple[int, int]]]] = []  # i, j and size of a stem; the pairs inside it

    def close() -> None:
        i, j, n, inside = open_stems.pop()
        x, y = i + n - 1, j - n + 1
        if not inside:
            boxes.append((HLOOP, x, y, y - x + 1, y - x + 1))
        elif len(inside) == 1:
            p, q = inside[0]
            boxes.append((ILOOP, x, y, p - x + 1, y - q + 1))

    for i, j, n in stems(pairs).tolist():
        while open_stems and open_stems[-1][1] < i:
            close()
        if open_stems:
            outer_i, outer_j, outer_n, inside = open_stems[-1]
            if j > outer_j:
                raise ValueError(
                    f"pair ({i + 1}, {j + 1}) crosses pair ({outer_i + outer_n}, {outer_j - outer_n + 2}): "
                    "take pseudoknots out first"
                )
            inside.append((i, j))
        boxes.append((STEM, i, j, n, n))
        open_stems.append((i, j, n, []))
    while open_stems:
        close()
    return sorted(boxes)


def target_boxes(structures: Iterable[np.ndarray]) -> Boxes:
    """The loop decomposition (:func:`loop_boxes`) of many structures, as columns."""
    return Boxes.from_rows([loop_boxes(pairs) for pairs in structures])


def impossible_stems(boxes: Boxes, codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Stems that no structure of their sequence can have.

    That is a stem with a pair other than A-U, G-C or G-U, in either order (N pairs with nothing); one that runs out of
    the map; and one that is not square, whose longer strand has bases without a partner.

    Args:
        boxes: the boxes of all rows.
        codes: ``(total,)`` uint8 base codes (:mod:`rna_s2.rna.sequence`) of the sequences, one after the other.
        offsets: ``(rows + 1,)`` int64 where each starts.

    Returns:
        ``(boxes,)`` bool; false for every other type.
    """
    impossible = (boxes.type == STEM) & ((boxes.siz_x != boxes.siz_y) | ~inside_map(boxes, np.diff(offsets)))
    stem = np.flatnonzero((boxes.type == STEM) & ~impossible)
    place, step = ragged_positions(boxes.siz_x[stem])
    start = offsets[:-1][boxes.row[stem]]
    five_prime = codes[(start + boxes.bb_x[stem])[place] + step]
    three_prime = codes[(start + boxes.bb_y[stem])[place] - step]
    impossible[stem[place[~CAN_PAIR[five_prime, three_prime]]]] = True
    return impossible


def pairs_of_boxes(boxes: Iterable[Box]) -> np.ndarray:
    """The base pairs that boxes state: all pairs of a stem, both closing pairs of an iloop, the one of an hloop.

    The way back from :func:`loop_boxes`: ``pairs_of_boxes(loop_boxes(pairs))`` is ``pairs``, ``(k, 2)`` int32.

    Raises:
        ValueError: the boxes pair a base with two others, or with itself, or with one before the sequence begins.
    """
    stated: list[tuple[int, int]] = []
    for box_type, x, y, siz_x, siz_y in boxes:
        stated += [(x + k, y - k) for k in range(siz_x if box_type == STEM else 1)]
        stated += [inner_corner(x, y, siz_x, siz_y)] if box_type == ILOOP else []
    return as_pairs([i for i, _ in stated], [j for _, j in stated])
