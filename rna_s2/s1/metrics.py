"""Metrics of the network's outputs at the cells of the map, from counts that add up over batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rna_s2.rna.boxes import BOX_TYPES, ILOOP
from rna_s2.s1.cells import rounded_size
from rna_s2.s1.losses import location_class, size_class
from rna_s2.s1.network import TypeOutputs

LOGIT_LIMIT = 16.0
"""Logits are counted in equal bins between minus and plus this; those beyond it in the outermost bins."""
BINS = 4096

ACCURACIES = ("loc_x", "loc_y", "size", "scalar_size")


def count_on(logits: Tensor, on: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """``(3, BINS)`` histograms of the ``(cells, 3)`` logits of the cells that are on, and of the others."""
    scaled = (logits.float() + LOGIT_LIMIT) * (BINS / (2 * LOGIT_LIMIT))
    place = scaled.long().clamp(0, BINS - 1) + BINS * torch.arange(len(BOX_TYPES), device=logits.device)
    bins = BINS * len(BOX_TYPES)
    of_on, of_off = (torch.bincount(place[which], minlength=bins).view(-1, BINS).cpu().numpy() for which in (on, ~on))
    return of_on, of_off


def count_correct(
    outputs: TypeOutputs, box_type: int, loc_x: Tensor, loc_y: Tensor, siz_x: Tensor, siz_y: Tensor
) -> np.ndarray:
    """``(4,)`` int64: cells whose argmax of loc_x, of loc_y, of the size, and whose rounded scalar size are right.

    All cells given are on. Both sides of an iloop must be right.
    """
    right = [
        outputs.loc_x.argmax(1) == location_class(loc_x),
        outputs.loc_y.argmax(1) == location_class(loc_y),
        outputs.siz_x.argmax(1) == size_class(siz_x),
        rounded_size(outputs.scalar_x) == siz_x,
    ]
    if box_type == ILOOP:
        right[2] &= outputs.siz_y.argmax(1) == size_class(siz_y)
        right[3] &= rounded_size(outputs.scalar_y) == siz_y
    return np.array([int(r.sum()) for r in right], np.int64)


def cell_metrics(on: np.ndarray, off: np.ndarray, correct: np.ndarray) -> dict[str, float]:
    """au-ROC and average precision of "on", and the accuracies, per type: ``auroc_stem``, ``loc_x_accuracy_stem``, ...

    NaN where a type has no cell that is on (or none that is off). ``auroc`` is the mean over the types. The counts are those
    of :func:`count_on` and, for each type, of :func:`count_correct`.
    """
    metrics: dict[str, float] = {}
    for code, name in enumerate(BOX_TYPES):
        metrics[f"auroc_{name}"] = histogram_auroc(on[code], off[code])
        metrics[f"average_precision_{name}"] = histogram_average_precision(on[code], off[code])
        cells = on[code].sum()
        for k, output in enumerate(ACCURACIES):
            metrics[f"{output}_accuracy_{name}"] = correct[code, k] / cells if cells else float("nan")
    return metrics | {"auroc": float(np.mean([metrics[f"auroc_{name}"] for name in BOX_TYPES]))}


def histogram_auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Area under the ROC curve from counts by ascending score; a positive and a negative in one bin count as a tie."""
    positive, negative = positive.astype(float), negative.astype(float)
    pairs = positive.sum() * negative.sum()
    if pairs == 0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / pairs)


def histogram_average_precision(positive: np.ndarray, negative: np.ndarray) -> float:
    """Average precision from counts by ascending score: precision at each threshold, weighted by the recall gained."""
    found = np.cumsum(positive[::-1].astype(float))
    above = np.cumsum((positive + negative)[::-1].astype(float))
    if not len(found) or found[-1] == 0:
        return float("nan")
    gained = positive[::-1] / found[-1]
    return float((gained * np.divide(found, above, out=np.zeros_like(found), where=above > 0)).sum())
