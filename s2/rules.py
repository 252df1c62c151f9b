"""Scores of boxes without a neural network: naive rules, shares counted on the training rows, and boosted trees.

They stand beside the network in a study: what a rule scores is what no network need be praised for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from rna_s2.energies.boxes import box_energies
from rna_s2.energies.ensemble import ENSEMBLE
from rna_s2.rna.boxes import BOX_TYPES, Boxes, ragged_take
from rna_s2.rna.relations import is_conflict, relation_matrix
from rna_s2.s2.dataset import EncodedDataset
from rna_s2.s2.neighbours import CHAINS

Rule = Literal["size", "energy", "chain", "ensemble", "compatible", "type_share", "size_share", "trees"]
"""
==============  ===================================================================================================
``size``        rows and columns that the box covers, added: the largest box first
``energy``      the box's own free energy (:func:`rna_s2.energies.boxes.box_energies`): the lowest first
``chain``       the free energy of the best chain of stems and loops through the box (:func:`rna_s2.s2.neighbours.chain_energies`,
                which the kind ``relational`` holds): the lowest first
``ensemble``    the smallest probability, in the ensemble of what the row's stems can form, of what the box claims: its
                pairs, that a stem ends where it ends, unpaired bases of a loop (:func:`rna_s2.energies.ensemble.box_probabilities`):
                the largest first
``compatible``  the other boxes of its row that a structure can hold beside it: the most compatible first
``type_share``  the share of target boxes among the training boxes of its type
``size_share``  the same among those of its type and size
``trees``       gradient-boosted trees on the numbers of each box alone, fitted to the training rows
==============  ===================================================================================================
"""

NEEDS_GEOMETRY: tuple[Rule, ...] = ("size", "energy", "compatible", "type_share", "size_share")
"""Rules that read type, place and size from the dataset's columns, in bases."""

NEEDS_COLUMNS: dict[Rule, tuple[str, ...]] = {"chain": CHAINS, "ensemble": ENSEMBLE}
"""Rules that read columns of the kind ``relational``, and which."""

TREE_ROUNDS = 200
"""Boosting rounds; with scikit-learn's learning rate of 0.1 and 31 leaves, training curves are flat there."""

_PRIOR_BOXES = 1.0  # a share is counted as if so many boxes of the average share had been seen before


def rule_scores(
    rule: Rule, data: EncodedDataset, train_rows: np.ndarray, *, seqs: Sequence[str] = (), seed: int = 0
) -> np.ndarray:
    """``(boxes,)`` float64: scores of all boxes of a dataset; higher means more likely in the target.

    Args:
        rule: which.
        data: the dataset; with raw type, place and size for :data:`NEEDS_GEOMETRY`.
        train_rows: ``(k,)`` rows whose labels may be used.
        seqs: ``(rows,)`` sequences, for ``energy``.
        seed: of the trees.
    """
    match rule:
        case "trees":
            return tree_scores(data, train_rows, seed)
        case "size":
            boxes = dataset_boxes(data)
            return (boxes.siz_x + boxes.siz_y).astype(np.float64)
        case "energy":
            return -box_energies(dataset_boxes(data), seqs)
        case "chain":
            inside, outside = (data.features[:, data.meta.feature_names.index(name)] for name in CHAINS[:2])
            return -(np.asarray(inside, np.float64) + outside)
        case "ensemble":
            of = {name: np.asarray(data.features[:, data.meta.feature_names.index(name)], np.float64) for name in ENSEMBLE}
            return np.minimum.reduce([of["pairs_least"], 1.0 - of["pair_beyond"], of["unpaired_least"]])
        case "compatible":
            return compatible_boxes(dataset_boxes(data)).astype(np.float64)
        case "type_share" | "size_share":
            boxes = dataset_boxes(data)
            keys = np.stack([boxes.type, *((boxes.siz_x, boxes.siz_y) if rule == "size_share" else ())], axis=1)
            return target_share(keys, np.asarray(data.labels), ragged_take(data.offsets, train_rows)[0])


def dataset_boxes(data: EncodedDataset) -> Boxes:
    """The boxes of an encoded dataset, from its type codes and its columns of raw places and sizes."""
    columns = (data.features[:, data.meta.feature_names.index(name)] for name in ("bb_x", "bb_y", "siz_x", "siz_y"))
    return Boxes(data.offsets, data.box_type, *(np.asarray(column).astype(np.int32) for column in columns))


def compatible_boxes(boxes: Boxes) -> np.ndarray:
    """``(boxes,)`` int64: how many other boxes of its row do not conflict with each box (:mod:`rna_s2.rna.relations`).

    One matrix of relations per row.
    """
    counts = [(~is_conflict(relation_matrix(boxes, row))).sum(axis=1) - 1 for row in range(boxes.rows)]
    return np.concatenate([*counts, np.zeros(0, np.int64)]).astype(np.int64)


def target_share(keys: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """The share of target boxes among the counted boxes with the same key.

    A key is treated as if one more box of the average share had been counted, so that one never counted has the average.

    Args:
        keys: ``(boxes, k)`` int.
        labels: ``(boxes,)`` 0 or 1.
        counted: indices of the boxes whose labels count.

    Returns:
        ``(boxes,)`` float64.
    """
    _, key = np.unique(keys, axis=0, return_inverse=True)
    key = key.reshape(-1)
    seen = np.bincount(key[counted], minlength=key.max(initial=0) + 1)
    targets = np.bincount(key[counted], weights=labels[counted], minlength=len(seen))
    average = float(labels[counted].mean()) if len(counted) else 0.0
    return ((targets + _PRIOR_BOXES * average) / (seen + _PRIOR_BOXES))[key]


def tree_scores(data: EncodedDataset, train_rows: np.ndarray, seed: int) -> np.ndarray:
    """``(boxes,)`` float64 logits of gradient-boosted trees (scikit-learn's ``HistGradientBoostingClassifier``).

    Each box is an example of its own. Boxes are weighted so that every training row weighs the same, as it does in the
    network's loss (:func:`rna_s2.s2.network.batch_loss`).
    """
    index, offsets = ragged_take(data.offsets, train_rows)
    counts = np.diff(offsets)
    trees = HistGradientBoostingClassifier(max_iter=TREE_ROUNDS, early_stopping=False, random_state=seed)
    weight = np.repeat(1.0 / np.maximum(counts, 1), counts)
    trees.fit(data.features[index], data.labels[index], sample_weight=weight / weight.mean())
    return trees.decision_function(np.asarray(data.features))


def composition(data: EncodedDataset) -> dict[str, np.ndarray]:
    """Boxes and target boxes by type and size: what the shares of :data:`Rule` are counted from.

    Returns:
        Columns ``type`` (names), ``siz_x``, ``siz_y``, ``boxes``, ``targets``, one entry for each type and size that occurs.
    """
    boxes = dataset_boxes(data)
    found, key = np.unique(np.stack([boxes.type, boxes.siz_x, boxes.siz_y], axis=1), axis=0, return_inverse=True)
    key = key.reshape(-1)
    return {
        "type": np.array(BOX_TYPES)[found[:, 0]], "siz_x": found[:, 1], "siz_y": found[:, 2],
        "boxes": np.bincount(key, minlength=len(found)),
        "targets": np.bincount(key, weights=data.labels, minlength=len(found)).astype(np.int64),
    }
