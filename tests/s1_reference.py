"""Stage 1 inference read cell by cell, in plain Python: what the fast path must agree with."""

from __future__ import annotations

import math
from collections import defaultdict

from rna_s2.rna.boxes import HLOOP, ILOOP, STEM
from rna_s2.s1.network import LOC_CLASSES, SIZE_CLASSES

BEYOND_LOC, BEYOND_SIZE = LOC_CLASSES - 1, SIZE_CLASSES - 1


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def argmax_of_softmax(logits: list[float], allowed) -> tuple[int, float]:
    """Best class and its probability among the allowed ones; "beyond", the last, is always allowed."""
    kept = {c: v for c, v in enumerate(logits) if c == len(logits) - 1 or allowed(c)}
    top = max(kept.values())
    weights = {c: math.exp(v - top) for c, v in kept.items()}
    best = max(weights, key=lambda c: weights[c])
    return best, weights[best] / sum(weights.values())


def cell_boxes(outputs: dict, box_type: int, i: int, j: int, length: int, mask: bool):
    """The boxes (bb_x, bb_y, siz_x, siz_y, probability, kind) that one cell proposes of one type."""
    p_on = sigmoid(outputs["on"])
    loc_x, p_x = argmax_of_softmax(outputs["loc_x"], lambda c: not mask or i - c >= 0)
    loc_y, p_y = argmax_of_softmax(outputs["loc_y"], lambda c: not mask or j + c <= length - 1)
    if BEYOND_LOC in (loc_x, loc_y):
        return
    x, y = i - loc_x, j + loc_y
    p_corner = p_on * p_x * p_y

    def above_diagonal(siz_x: int, siz_y: int) -> bool:
        return x + siz_x - 1 < y - siz_y + 1

    def on_diagonal(size: int) -> bool:
        return x + size - 1 == y

    if box_type == ILOOP:
        a, p_a = argmax_of_softmax(outputs["siz_x"], lambda c: not mask or above_diagonal(c + 1, 1))
        b, p_b = argmax_of_softmax(outputs["siz_y"], lambda c: not mask or above_diagonal(a + 1, c + 1))
        named, p_size = BEYOND_SIZE not in (a, b), p_a * p_b
    else:
        a, p_size = argmax_of_softmax(
            outputs["siz_x"], lambda c: not (mask and box_type == STEM) or above_diagonal(c + 1, c + 1)
        )
        b, named = a, a != BEYOND_SIZE
    number_x, number_y = max(1, round(outputs["scalar_x"])), max(1, round(outputs["scalar_y"]))
    for siz_x, siz_y, p, kind, there in (
        (a + 1, b + 1, p_corner * p_size, "prob_sm", named), (number_x, number_y, p_corner, "prob_sl", True)
    ):
        fits = on_diagonal(siz_x) if box_type == HLOOP else (not mask or above_diagonal(siz_x, siz_y))
        if there and fits:
            yield x, y, siz_x, siz_y, p, kind


def propose(
    outputs, length: int, selection: str, on_threshold: float, n_threshold: float, mask: bool, min_support: float = 0.0
) -> dict:
    """All selected boxes of a sequence, ``(type, bb_x, bb_y, siz_x, siz_y)`` to their two lists of probabilities.

    ``outputs[type][i][j]`` is a dict of the outputs of a cell.
    """
    boxes: dict = defaultdict(lambda: {"prob_sm": [], "prob_sl": [], "on": False})
    for box_type in (STEM, ILOOP, HLOOP):
        for i in range(length):
            for j in range(i + 1, length):
                cell = outputs[box_type][i][j]
                on = sigmoid(cell["on"]) > on_threshold
                if selection in ("on_threshold", "both") and not on:
                    continue
                if selection == "support" and not sigmoid(cell["on"]) > 0.005:
                    continue
                for x, y, siz_x, siz_y, p, kind in cell_boxes(cell, box_type, i, j, length, mask):
                    box = boxes[(box_type, x, y, siz_x, siz_y)]
                    box[kind].append(p)
                    box["on"] |= on
    kept = {}
    for key, box in boxes.items():
        area = key[3] * key[4]
        threshold = n_threshold * (0.5 if key[0] == HLOOP else 1.0)
        often = max(len(box["prob_sm"]), len(box["prob_sl"])) / area > threshold
        if selection == "support":
            wanted = sum(box["prob_sm"]) + 0.2 * sum(box["prob_sl"]) >= min_support
        else:
            wanted = selection == "on_threshold" or often or (selection == "union" and box["on"])
        if wanted:
            kept[key] = {kind: sorted(box[kind]) for kind in ("prob_sm", "prob_sl")}
    return kept
