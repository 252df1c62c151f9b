"""Scores of boxes without a neural network: naive scorers, shares counted on the training rows, and boosted trees.

They stand beside the network in a study: what a naive scorer reaches is what no network need be praised for. To add one, write
its function and enter it in :data:`NAIVE_SCORERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from rna_s2.energies.boxes import box_energies
from rna_s2.energies.ensemble import ENSEMBLE
from rna_s2.rna.boxes import BOX_TYPES, Boxes, ragged_take
from rna_s2.rna.relations import is_conflict, relation_matrix
from rna_s2.s2.dataset import EncodedDataset
from rna_s2.s2.feature_groups import GEOMETRY
from rna_s2.s2.neighbours import PATHS

TREE_ROUNDS = 200
"""Boosting rounds; with scikit-learn's learning rate of 0.1 and 31 leaves, training curves are flat there."""

_PRIOR_BOXES = 1.0  # a share is counted as if so many boxes of the average share had been seen before


def dataset_boxes(data: EncodedDataset) -> Boxes:
    """The boxes of an encoded dataset, from its type codes and its columns of raw places and sizes."""
    columns = (data.features[:, data.meta.feature_names.index(name)] for name in ("bb_x", "bb_y", "siz_x", "siz_y"))
    return Boxes(data.offsets, data.box_type, *(np.asarray(column).astype(np.int32) for column in columns))


def compatible_boxes(boxes: Boxes) -> np.ndarray:
    """``(boxes,)`` int64: how many other boxes of its row do not conflict with each box (:mod:`rna_s2.rna.relations`)."""
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


@dataclass(frozen=True)
class ScoredData:
    """What a naive scorer scores: an encoded dataset, ``(k,)`` rows whose labels it may use, ``(rows,)`` sequences (only for a
    scorer that needs them), and the seed of what is random."""

    data: EncodedDataset
    train_rows: np.ndarray
    seqs: Sequence[str]
    seed: int

    @property
    def boxes(self) -> Boxes:
        """The boxes of the dataset."""
        return dataset_boxes(self.data)

    def column(self, name: str) -> np.ndarray:
        """``(boxes,)`` float64: a column of the dataset."""
        return np.asarray(self.data.features[:, self.data.meta.feature_names.index(name)], np.float64)


def _size(given: ScoredData) -> np.ndarray:
    return (given.boxes.siz_x + given.boxes.siz_y).astype(np.float64)


def _energy(given: ScoredData) -> np.ndarray:
    return -box_energies(given.boxes, given.seqs)


def _chain(given: ScoredData) -> np.ndarray:
    inside, outside = (given.column(name) for name in PATHS[:2])
    return -(inside + outside)


def _ensemble(given: ScoredData) -> np.ndarray:
    of = {name: given.column(name) for name in ENSEMBLE}
    return np.minimum.reduce([of["pairs_least"], 1.0 - of["pair_beyond"], of["unpaired_least"]])


def _compatible(given: ScoredData) -> np.ndarray:
    return compatible_boxes(given.boxes).astype(np.float64)


def _share_of(given: ScoredData, keys: Sequence[np.ndarray]) -> np.ndarray:
    counted = ragged_take(given.data.offsets, given.train_rows)[0]
    return target_share(np.stack(keys, axis=1), np.asarray(given.data.labels), counted)


def _type_share(given: ScoredData) -> np.ndarray:
    return _share_of(given, [given.boxes.type])


def _size_share(given: ScoredData) -> np.ndarray:
    boxes = given.boxes
    return _share_of(given, [boxes.type, boxes.siz_x, boxes.siz_y])


def _trees(given: ScoredData) -> np.ndarray:
    """Logits of scikit-learn's ``HistGradientBoostingClassifier``. Each box is an example of its own; boxes are weighted so
    that every training row weighs the same, as it does in the network's loss (:func:`rna_s2.s2.network.batch_loss`)."""
    data = given.data
    index, offsets = ragged_take(data.offsets, given.train_rows)
    counts = np.diff(offsets)
    trees = HistGradientBoostingClassifier(max_iter=TREE_ROUNDS, early_stopping=False, random_state=given.seed)
    weight = np.repeat(1.0 / np.maximum(counts, 1), counts)
    trees.fit(data.features[index], data.labels[index], sample_weight=weight / weight.mean())
    return trees.decision_function(np.asarray(data.features))


@dataclass(frozen=True)
class NaiveScorer:
    """A way to score boxes without a network.

    Attributes:
        description: one line.
        score: ``(boxes,)`` float64; higher means more likely in the target.
        needs: columns that the dataset must hold.
        only: whether it must hold no others.
        needs_sequences: whether it reads the sequences.
    """

    description: str
    score: Callable[[ScoredData], np.ndarray]
    needs: tuple[str, ...] = ()
    only: bool = False
    needs_sequences: bool = False

    def complaint(self, columns: Sequence[str]) -> str:
        """What the scorer lacks among the columns of a dataset; empty where it can score."""
        if self.only and tuple(columns) != self.needs:
            return "needs raw type, place and size"
        return "" if set(self.needs) <= set(columns) else "needs the kind relational, with energies"


NAIVE_SCORERS: dict[str, NaiveScorer] = {
    "size": NaiveScorer("map rows and columns that the box covers, added: the largest box first", _size, GEOMETRY, only=True),
    "energy": NaiveScorer(
        "the box's own free energy: the lowest first", _energy, GEOMETRY, only=True, needs_sequences=True
    ),
    "chain": NaiveScorer(
        "free energy of the best path of stems and loops through the box: the lowest first", _chain, PATHS
    ),
    "ensemble": NaiveScorer(
        "the smallest probability, in the ensemble of what the row's stems can form, of what the box claims (its pairs, that a "
        "stem ends where it ends, unpaired bases of a loop): the largest first", _ensemble, ENSEMBLE,
    ),
    "compatible": NaiveScorer(
        "other boxes of its row that a structure can hold beside it: the most compatible first", _compatible, GEOMETRY,
        only=True,
    ),
    "type_share": NaiveScorer(
        "share of target boxes among the training boxes of its type", _type_share, GEOMETRY, only=True
    ),
    "size_share": NaiveScorer("the same among those of its type and size", _size_share, GEOMETRY, only=True),
    "trees": NaiveScorer("gradient-boosted trees on the columns of each box, fitted to the training rows", _trees),
}
"""The naive scorers by the name that a study's variant gives."""


def naive_scores(
    name: str, data: EncodedDataset, train_rows: np.ndarray, *, seqs: Sequence[str] = (), seed: int = 0
) -> np.ndarray:
    """``(boxes,)`` float64: scores of all boxes of a dataset; higher means more likely in the target.

    Args:
        name: in :data:`NAIVE_SCORERS`.
        data: the dataset, with the columns that the scorer needs.
        train_rows: ``(k,)`` rows whose labels may be used.
        seqs: ``(rows,)`` sequences, for a scorer that needs them.
        seed: of the trees.
    """
    return NAIVE_SCORERS[name].score(ScoredData(data, train_rows, seqs, seed))


def composition(data: EncodedDataset) -> dict[str, np.ndarray]:
    """Boxes and target boxes by type and size: what the shares of :data:`NAIVE_SCORERS` are counted from.

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
