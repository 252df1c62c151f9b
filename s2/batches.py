"""Batches of rows with ragged numbers of boxes.

A batch holds the boxes of its rows one after the other, without padding; only attention needs a padded form, and gets it
through :attr:`Batch.slot` (where each box stands in the padded ``rows * longest`` grid). Everything that works on single boxes,
which is where the arithmetic is, spends nothing on padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rna_s2.rna.boxes import BOX_TYPES, ragged_take, top_left
from rna_s2.rna.sequence import BASES
from rna_s2.s2.dataset import EncodedDataset

BEYOND = len(BASES)
"""Code that stands behind the end of a sequence in a batch."""

PADDED_TO = 8
"""The padded grid has a multiple of so many places per row: fused attention copies a bias of other widths."""


@dataclass(frozen=True)
class BoxSequences:
    """The bases of the boxes of one type in a batch, in time-major packed order for an LSTM.

    Attributes:
        values: ``(positions, channels)`` float32; all first positions, then all second ones, ..., boxes by falling length.
        step_sizes: ``(longest,)`` int64 on the CPU; how many boxes reach each position.
        box: ``(n,)`` int64; the index in the batch of each box, in the packed order (falling length).
        codes: ``(positions,)`` uint8 on the host; one number for each of ``values``, the same for the same base.
    """

    values: Tensor
    step_sizes: Tensor
    box: Tensor
    codes: np.ndarray


@dataclass(frozen=True)
class Batch:
    """The boxes of some rows.

    Attributes:
        features: ``(boxes, n_features)`` float32.
        labels: ``(boxes,)`` float32, 1 where the box belongs to the target structure.
        row: ``(boxes,)`` int64; the row of the batch each box belongs to, ascending.
        slot: ``(boxes,)`` int64; the box's place in the padded grid, ``row * longest + position``.
        mask: ``(rows, longest)`` bool; True where the padded grid holds a box (``longest``: of the longest row or a few more).
        row_id: ``(rows,)`` int64 on the host; which rows of the dataset these are.
        counts: boxes of each row, on the host.
        sequences: bases of the boxes by type name; empty for kinds without them.
        seq_length: ``(rows,)`` int64; length of each row's sequence.
        bases: ``(rows, longest sequence)`` uint8 base codes, behind a sequence's end :data:`BEYOND`; None for kinds without
            whole sequences.
    """

    features: Tensor
    labels: Tensor
    row: Tensor
    slot: Tensor
    mask: Tensor
    row_id: np.ndarray
    counts: Sequence[int]
    seq_length: Tensor
    sequences: Mapping[str, BoxSequences] = field(default_factory=dict)
    bases: Tensor | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.mask.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device; the step sizes of sequences stay on the CPU, where packed LSTMs want them."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        sequences = {
            name: replace(s, values=s.values.to(device), box=s.box.to(device)) for name, s in self.sequences.items()
        }
        return replace(self, **moved, sequences=sequences)


def make_batch(data: EncodedDataset, rows: np.ndarray, shift: np.ndarray | None = None) -> Batch:
    """The batch of the given rows of a dataset.

    Args:
        data: the encoded dataset.
        rows: ``(k,)`` int; rows of ``data``, in the order they take in the batch.
        shift: ``(k,)`` offset in bases added to both coordinates of all boxes of a row, or None.
    """
    rows = np.asarray(rows, dtype=np.int64)
    index, offsets = ragged_take(data.offsets, rows)
    counts = np.diff(offsets)
    longest = -(-int(counts.max(initial=0)) // PADDED_TO) * PADDED_TO
    row = np.repeat(np.arange(len(rows)), counts)
    slot = np.arange(len(index)) - np.repeat(offsets[:-1], counts) + row * longest
    features = np.asarray(data.features[index], dtype=np.float32)
    if shift is not None:
        places = [data.meta.feature_names.index(name) for name in ("bb_x", "bb_y")]
        features[:, places] += np.asarray(shift, dtype=np.float32)[row][:, None]
    sequences = {}
    for code, name in enumerate(BOX_TYPES):
        if name in data.seq_offsets:
            of_type = np.flatnonzero(np.asarray(data.box_type[index]) == code)
            sequences[name] = _box_sequences(data, code, index[of_type], of_type)
    return Batch(
        features=torch.from_numpy(features),
        labels=torch.from_numpy(np.asarray(data.labels[index], dtype=np.float32)),
        row=torch.from_numpy(row),
        slot=torch.from_numpy(slot),
        mask=torch.from_numpy(np.arange(longest)[None, :] < counts[:, None]),
        row_id=rows,
        counts=counts.tolist(),
        seq_length=torch.from_numpy(data.seq_length[rows].astype(np.int64)),
        sequences=sequences,
        bases=torch.from_numpy(_padded_bases(data, rows)) if data.holds_sequences else None,
    )


def _padded_bases(data: EncodedDataset, rows: np.ndarray) -> np.ndarray:
    """``(rows, longest sequence)`` uint8: the sequences of some rows, each followed by :data:`BEYOND`."""
    index, offsets = ragged_take(data.base_offsets, rows)
    lengths = np.diff(offsets)
    padded = np.full((len(rows), int(lengths.max(initial=0))), BEYOND, np.uint8)
    row = np.repeat(np.arange(len(rows)), lengths)
    padded[row, np.arange(len(index)) - offsets[row]] = data.bases[index]
    return padded


def _box_sequences(data: EncodedDataset, code: int, boxes: np.ndarray, in_batch: np.ndarray) -> BoxSequences:
    """The packed bases of some boxes of one type; ``boxes`` index the dataset, ``in_batch`` the batch."""
    name = BOX_TYPES[code]
    values, offsets = data.seq_values[name], data.seq_offsets[name]
    entry = data.entry_of_box[boxes]  # position among the boxes of this type
    starts, lengths = offsets[entry], offsets[entry + 1] - offsets[entry]
    order = np.argsort(-lengths, kind="stable")
    starts, lengths = starts[order], lengths[order]
    longest = int(lengths.max(initial=0))
    step_sizes = np.searchsorted(-lengths, -np.arange(longest), side="left")  # boxes longer than each position
    within = np.arange(step_sizes.sum()) - np.repeat(np.cumsum(step_sizes) - step_sizes, step_sizes)
    position = np.repeat(np.arange(longest), step_sizes)
    packed = np.asarray(values[starts[within] + position])
    return BoxSequences(
        values=torch.from_numpy(packed.astype(np.float32)),
        step_sizes=torch.from_numpy(np.asarray(step_sizes, dtype=np.int64)),
        box=torch.from_numpy(in_batch[order]),
        codes=np.packbits(packed, axis=1)[:, 0],
    )


def length_groups(counts: np.ndarray, n_groups: int) -> list[np.ndarray]:
    """Rows grouped by their number of boxes.

    Args:
        counts: ``(rows,)`` boxes of each row.
        n_groups: how many groups at most; each holds about the same number of rows.

    Returns:
        Lists of row numbers, by rising number of boxes.
    """
    order = np.argsort(counts, kind="stable")
    return [group for group in np.array_split(order, min(n_groups, max(1, len(order)))) if len(group)]


def rows_per_batch(counts: np.ndarray, batch_size: int, batch_boxes: int = 0) -> int:
    """How many rows of a length group are a batch.

    Args:
        counts: ``(rows,)`` boxes of each row of the group.
        batch_size: so many, unless ``batch_boxes`` says otherwise.
        batch_boxes: as many as hold so many boxes, rows padded to the longest of the group, one at least; 0: ``batch_size``.
    """
    return max(1, batch_boxes // max(int(counts.max(initial=0)), 1)) if batch_boxes else batch_size


def epoch_batches(
    counts: np.ndarray, batch_size: int, n_groups: int, rng: np.random.Generator, batch_boxes: int = 0
) -> list[np.ndarray]:
    """The batches of one epoch: every row once, rows of a batch from one length group, all in random order.

    Args:
        counts: ``(rows,)`` boxes of each row.
        batch_size, batch_boxes: rows or boxes in a batch (:func:`rows_per_batch`); the last batch of a group may have fewer.
        n_groups: number of length groups.
        rng: decides the order.

    Returns:
        Row numbers of each batch.
    """
    batches: list[np.ndarray] = []
    for group in length_groups(counts, n_groups):
        shuffled, rows = rng.permutation(group), rows_per_batch(counts[group], batch_size, batch_boxes)
        batches.extend(shuffled[start : start + rows] for start in range(0, len(shuffled), rows))
    return [batches[k] for k in rng.permutation(len(batches))]


def ordered_batches(counts: np.ndarray, max_boxes: int) -> list[np.ndarray]:
    """Batches for evaluation: rows by rising number of boxes, each batch with at most ``max_boxes`` padded boxes.

    Args:
        counts: ``(rows,)`` boxes of each row.
        max_boxes: bound on rows times longest row of a batch; a single longer row is a batch of its own.

    Returns:
        Row numbers of each batch; every row once.
    """
    batches: list[list[int]] = []
    for row in np.argsort(counts, kind="stable"):
        if batches and (len(batches[-1]) + 1) * max(int(counts[row]), 1) <= max_boxes:
            batches[-1].append(int(row))
        else:
            batches.append([int(row)])
    return [np.array(batch, dtype=np.int64) for batch in batches]


def _lowest_positions(data: EncodedDataset) -> np.ndarray:
    """``(rows,)`` int64: the lowest row or column that a box of each row covers; 0 where there is no box."""
    names = data.meta.feature_names
    bb_x, bb_y, siz_y = (data.features[:, names.index(name)] for name in ("bb_x", "bb_y", "siz_y"))
    filled = np.diff(data.offsets) > 0
    lowest = np.zeros(len(data), dtype=np.int64)
    if filled.any():
        lowest[filled] = np.minimum.reduceat(np.minimum(*top_left(bb_x, bb_y, siz_y)), data.offsets[:-1][filled])
    return lowest


class EpochBatches(torch.utils.data.IterableDataset):
    """Batches of one epoch after the other; the order of an epoch depends on the seed and its number alone.

    That makes a resumed training see the same batches as an unbroken one: :meth:`set_epoch` before each pass.
    """

    def __init__(
        self, data: EncodedDataset, rows: np.ndarray, *, batch_size: int, n_groups: int, seed: int, max_shift: int = 0,
        batch_boxes: int = 0,
    ) -> None:
        super().__init__()
        self.data, self.rows = data, np.asarray(rows, dtype=np.int64)
        self.batch_size, self.n_groups, self.seed, self.max_shift = batch_size, n_groups, seed, max_shift
        self.batch_boxes = batch_boxes
        self.epoch = 0
        self._counts = np.diff(data.offsets)[self.rows]
        self._lowest = _lowest_positions(data) if max_shift else np.zeros(len(data), dtype=np.int64)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next pass is."""
        self.epoch = epoch

    def __len__(self) -> int:
        groups = length_groups(self._counts, self.n_groups)
        return sum(-(-len(group) // rows_per_batch(self._counts[group], self.batch_size, self.batch_boxes)) for group in groups)

    def __iter__(self) -> Iterator[Batch]:
        rng = np.random.default_rng([self.seed, self.epoch])
        for batch in epoch_batches(self._counts, self.batch_size, self.n_groups, rng, self.batch_boxes):
            rows = self.rows[batch]
            shift = None
            if self.max_shift:
                shift = np.maximum(rng.integers(-self.max_shift, self.max_shift + 1, len(rows)), -self._lowest[rows])
            yield make_batch(self.data, rows, shift)


class OrderedBatches(torch.utils.data.IterableDataset):
    """Every row once, by number of boxes, in batches of bounded size: for evaluation."""

    def __init__(self, data: EncodedDataset, rows: np.ndarray, max_boxes: int = 4096) -> None:
        super().__init__()
        self.data, self.rows = data, np.asarray(rows, dtype=np.int64)
        self._batches = ordered_batches(np.diff(data.offsets)[self.rows], max_boxes)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            yield make_batch(self.data, self.rows[batch])
