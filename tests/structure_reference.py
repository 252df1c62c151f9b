"""Slow, plain references for :mod:`structures`: every subset of stems, one structure at a time, from the definitions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rna_s2.structures.candidates import Decoded, DecodeOptions
from rna_s2.structures.decode import k_best_batch

Box = tuple[int, int, int, int, int]
STEM, ILOOP, HLOOP = 0, 1, 2


def k_best(boxes, log_odds: np.ndarray, length: int, k: int, options: DecodeOptions | None = None) -> list[Decoded]:
    """What the decoder gives for one sequence."""
    (found,) = k_best_batch(boxes, log_odds, np.array([length]), k, options)
    return found


def decode(boxes, log_odds: np.ndarray, length: int, options: DecodeOptions | None = None) -> Decoded:
    """The best of :func:`k_best`."""
    return k_best(boxes, log_odds, length, 1, options)[0]


def pairs_of(stem: Box) -> list[tuple[int, int]]:
    _, x, y, n, _ = stem
    return [(x + k, y - k) for k in range(n)]


def crossing(a: tuple[int, int], b: tuple[int, int]) -> bool:
    (i, j), (k, m) = sorted([a, b])
    return i < k < j < m


def is_stem(box: Box, length: int) -> bool:
    kind, x, y, siz_x, siz_y = box
    return kind == STEM and siz_x == siz_y >= 1 and x >= 0 and y < length and x + siz_x - 1 < y - siz_y + 1


def decomposition(pairs: list[tuple[int, int]]) -> tuple[set[Box], list[int]]:
    """The boxes of nested pairs, and for each multiloop its number of branches with the closing one."""
    partner = dict(pairs)
    boxes, multiloops = set(), []
    for i, j in pairs:
        if partner.get(i - 1) != j + 1:
            n = 1
            while partner.get(i + n) == j - n:
                n += 1
            boxes.add((STEM, i, j, n, n))
        if partner.get(i + 1) == j - 1:
            continue
        children = []
        k = i + 1
        while k < j:
            if k in partner:
                children.append((k, partner[k]))
                k = partner[k]
            k += 1
        if not children:
            boxes.add((HLOOP, i, j, j - i + 1, j - i + 1))
        elif len(children) == 1:
            p, q = children[0]
            boxes.add((ILOOP, i, j, p - i + 1, j - q + 1))
        else:
            multiloops.append(len(children) + 1)
    return boxes, multiloops


def score_of(
    pairs: list[tuple[int, int]], scores: dict[Box, float], stems: set[Box], missing_loop: float, branch: float,
    min_hairpin: int,
) -> tuple[float, set[Box], int] | None:
    """Score, proposed boxes and loops without a box of nested pairs; ``None`` where they are not made of these stems."""
    boxes, multiloops = decomposition(pairs)
    if {b for b in boxes if b[0] == STEM} != stems:
        return None
    if any(b[0] == HLOOP and b[3] - 2 < min_hairpin for b in boxes):
        return None
    missing = [b for b in boxes if b not in scores]
    total = sum(scores[b] for b in boxes if b in scores)
    total += missing_loop * (len(missing) + len(multiloops)) + branch * sum(multiloops)
    return total, boxes - set(missing), len(missing) + len(multiloops)


def all_structures(
    boxes: list[tuple[Box, float]], length: int, *, min_hairpin: int = 3, missing_loop: float = -2.0,
    branch: float = 0.0, min_stem: int = 1, min_score: float = float("-inf"), less: float = 0.0,
) -> Iterator[tuple[float, tuple[tuple[int, int], ...], set[Box], int]]:
    """Score, pairs, proposed boxes and number of loops without a box of every allowed nested structure.

    A box is worth its score less ``less``; ``min_score`` is a bound on the score itself.
    """
    scores: dict[Box, float] = {}
    for box, score in boxes:
        scores[box] = max(score, scores.get(box, score))
    stems = [b for b in scores if is_stem(b, length) and b[3] >= min_stem and scores[b] >= min_score]
    scores = {box: score - less for box, score in scores.items()}
    for chosen in subsets_without_conflict(stems):
        pairs = sorted(p for stem in chosen for p in pairs_of(stem))
        found = score_of(pairs, scores, set(chosen), missing_loop, branch, min_hairpin)
        if found is not None:
            yield found[0], tuple(pairs), found[1], found[2]


def subsets_without_conflict(stems: list[Box], may_cross: bool = False) -> Iterator[list[Box]]:
    """Every subset in which no base is in two stems and no pairs cross (unless they may)."""

    def together(a: Box, b: Box) -> bool:
        bases = [base for stem in (a, b) for pair in pairs_of(stem) for base in pair]
        return len(set(bases)) == len(bases) and (
            may_cross or not any(crossing(p, q) for p in pairs_of(a) for q in pairs_of(b))
        )

    if not stems:
        yield []
        return
    for rest in subsets_without_conflict(stems[1:], may_cross):
        yield rest
        if all(together(stems[0], other) for other in rest):
            yield [stems[0], *rest]


def comparison(predicted: list, known: list, length: int, slack: int) -> dict[str, float]:
    """Sensitivity, PPV, F1 and MCC from counts over every cell of the map."""

    def near(pair: tuple[int, int], others: list) -> bool:
        i, j = pair
        close = [(i, j)] + ([(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)] if slack else [])
        return any(p in others for p in close)

    right = sum(near(p, known) for p in predicted)
    found = sum(near(p, predicted) for p in known)
    cells = [(i, j) for i in range(length) for j in range(i + 1, length)]
    fp, fn = len(predicted) - right, len(known) - found
    tn = sum(c not in predicted and (c not in known or near(c, predicted)) for c in cells)
    sensitivity = found / len(known) if known else float(not predicted)
    ppv = right / len(predicted) if predicted else float(not known)
    f1 = 2 * sensitivity * ppv / (sensitivity + ppv) if sensitivity + ppv else 0.0
    whole = (right + fp) * (right + fn) * (tn + fp) * (tn + fn)
    mcc = (right * tn - fp * fn) / whole**0.5 if whole else float(not fp and not fn)
    return {"right": right, "found": found, "sensitivity": sensitivity, "ppv": ppv, "f1": f1, "mcc": mcc}


def all_crossing_structures(
    boxes: list[tuple[Box, float]], length: int, *, crossing_stem: float, min_hairpin: int, missing_loop: float, less: float,
) -> dict[tuple[tuple[int, int], ...], float]:
    """The pairs of every allowed structure with crossing stems, and the best score over which stems are its nested part."""
    scores: dict[Box, float] = {}
    for box, score in boxes:
        scores[box] = max(score - less, scores.get(box, score - less))
    stems = [b for b in scores if is_stem(b, length) and b[2] - b[1] - 2 * b[3] + 1 >= min_hairpin]
    best: dict[tuple[tuple[int, int], ...], float] = {}
    for chosen in subsets_without_conflict(stems, may_cross=True):
        starts = {b[1:3] for b in chosen}
        if any((b[1] + b[3], b[2] - b[3]) in starts for b in chosen):
            continue
        pairs = tuple(sorted(p for stem in chosen for p in pairs_of(stem)))
        for nested in subsets_without_conflict(chosen):
            beside = [b for b in chosen if b not in nested]
            if not all(any(crossing(b[1:3], other[1:3]) for other in nested) for b in beside):
                continue
            kept = sorted(p for stem in nested for p in pairs_of(stem))
            found = score_of(kept, scores, set(nested), missing_loop, 0.0, min_hairpin)
            if found is not None:
                total = found[0] + sum(scores[b] + crossing_stem for b in beside)
                best[pairs] = max(total, best.get(pairs, total))
    return best
