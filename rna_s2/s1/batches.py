"""Rows of an S1 table as batches of maps, and what each cell of a map should say: the target boxes as cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from rna_s2.rna.boxes import Boxes, ragged_positions
from rna_s2.rna.sequence import encode_many
from rna_s2.s1.merging import group
from rna_s2.s1.network import PAD_CODE, upper_triangle

MEGABATCH = 64
"""Batches that are formed together: rows of so many batches are sorted by length before they are cut into batches."""

Array = TypeVar("Array")


class CellTargets(NamedTuple, Generic[Array]):
    """The cells above the diagonal that target boxes cover, one entry per cell and box type; arrays or tensors.

    Attributes:
        type: ``(n,)`` int64 box type.
        row: ``(n,)`` int64 sequence.
        i, j: ``(n,)`` int64 the cell.
        loc_x, loc_y: ``(n,)`` int64 distance up and right to the box's top-right corner (0 at the corner itself).
        siz_x, siz_y: ``(n,)`` int64 rows and columns of the box.
    """

    type: Array
    row: Array
    i: Array
    j: Array
    loc_x: Array
    loc_y: Array
    siz_x: Array
    siz_y: Array


@dataclass(frozen=True)
class MapBatch:
    """Some sequences and their targets.

    Attributes:
        codes: ``(rows, longest)`` uint8 base codes, 4 beyond the end of a sequence.
        lengths: ``(rows,)`` int64.
        targets: the cells that target boxes cover, as tensors; ``targets.row`` is the row in this batch.
        boxes: the target boxes.
    """

    codes: Tensor
    lengths: Tensor
    targets: CellTargets[Tensor]
    boxes: Boxes

    def inside(self) -> Tensor:
        """``(rows, longest, longest)`` bool: cells i < j of each sequence."""
        return upper_triangle(self.lengths, self.codes.shape[1])

    def to(self, device: torch.device | str) -> MapBatch:
        """The batch on a device; the boxes stay arrays."""
        targets = CellTargets(*(column.to(device) for column in self.targets))
        return MapBatch(self.codes.to(device), self.lengths.to(device), targets, self.boxes)


@dataclass(frozen=True)
class Maps:
    """Sequences with target boxes.

    Attributes:
        codes: ``(total,)`` uint8 base codes of the sequences, one after the other.
        offsets: ``(rows + 1,)`` int64 where each starts.
        boxes: their target boxes.
    """

    codes: np.ndarray
    offsets: np.ndarray
    boxes: Boxes

    def __post_init__(self) -> None:
        if self.boxes.rows != len(self):
            raise ValueError(f"{len(self)} sequences against {self.boxes.rows} rows of boxes")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """``(rows,)`` int64 length of each sequence."""
        return np.diff(self.offsets)

    @classmethod
    def from_sequences(cls, seqs: Sequence[str], boxes: Boxes) -> Maps:
        """From sequences over the alphabet of :mod:`rna_s2.rna.sequence`."""
        return cls(*encode_many(seqs), boxes)

    def batch(self, rows: np.ndarray) -> MapBatch:
        """The given rows (``(k,)`` int) as a batch."""
        codes, lengths = padded_codes([self.codes[self.offsets[row]: self.offsets[row + 1]] for row in rows])
        boxes = self.boxes.take_rows(rows)
        targets = CellTargets(*(torch.from_numpy(column) for column in cell_targets(boxes)))
        return MapBatch(codes, lengths, targets, boxes)


def padded_codes(codes: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Sequences of base codes as a tensor ``(rows, longest)`` uint8, and their lengths ``(rows,)`` int64."""
    lengths = np.array([len(c) for c in codes], np.int64)
    padded = np.full((len(codes), int(lengths.max(initial=0))), PAD_CODE, np.uint8)
    for k, c in enumerate(codes):
        padded[k, : len(c)] = c
    return torch.from_numpy(padded), torch.from_numpy(lengths)


def cell_targets(boxes: Boxes) -> CellTargets[np.ndarray]:
    """The cells that target boxes cover.

    Half of an hloop's square lies below the diagonal; cells (i, j) with i >= j are left out. Two iloops share a cell
    when a single base pair lies between them: the inner one's corner. A cell in several boxes of a type belongs to
    the one whose top-right corner is nearest (``loc_x + loc_y``), so the shared cell speaks for the inner loop.
    """
    box, within = ragged_positions(boxes.siz_x.astype(np.int64) * boxes.siz_y)
    siz_x, siz_y = boxes.siz_x[box].astype(np.int64), boxes.siz_y[box].astype(np.int64)
    loc_x, loc_y = within // siz_y, within % siz_y
    i, j = boxes.bb_x[box] + loc_x, boxes.bb_y[box] - loc_y
    row, box_type = boxes.row[box], boxes.type[box].astype(np.int64)

    above = np.flatnonzero(i < j)
    above = above[np.argsort((loc_x + loc_y)[above], kind="stable")]
    order, starts = group([column[above] for column in (box_type, row, i, j)])
    cell = above[order[starts]]
    return CellTargets(box_type[cell], row[cell], i[cell], j[cell], loc_x[cell], loc_y[cell], siz_x[cell], siz_y[cell])


class EpochMaps(IterableDataset):
    """Training batches, epoch after epoch; those of an epoch depend on the seed and its number alone.

    The batches form an endless stream, made anew for each pass over the rows, of which an epoch takes the next
    ``batches_per_epoch``. Rows of similar length share a batch: as many as keep ``rows * longest**2`` within
    ``batch_pixels``, one at least; so every batch costs about the same. The first ``short_epochs`` see only rows of at
    most ``short_len`` bases: what makes a stem or a loop can be learnt on them, many more for the same time.

    Args:
        maps: all sequences.
        rows: ``(k,)`` those that train.
        batches_per_epoch: batches of an epoch; 0 for one pass over the rows, as far as that can be said beforehand.
        batch_pixels, short_len, short_epochs: as above.
        seed: of the order.

    Raises:
        ValueError: there are no rows, or none short enough.
    """

    def __init__(
        self, maps: Maps, rows: np.ndarray, *, batches_per_epoch: int, batch_pixels: int, seed: int, short_len: int = 0,
        short_epochs: int = 0
    ) -> None:
        super().__init__()
        self.maps, self.rows = maps, np.asarray(rows, np.int64)
        self.batch_pixels, self.seed, self.short_epochs = batch_pixels, seed, short_epochs
        self.short_rows = self.rows[maps.lengths[self.rows] <= short_len]
        if not len(self.rows) or (short_epochs and not len(self.short_rows)):
            raise ValueError("there are no rows to make batches of")
        self.epoch = 0
        self._passes: dict[tuple[bool, int], list[np.ndarray]] = {}
        self.batches_per_epoch = batches_per_epoch or len(self._pass(False, 0))

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next pass is."""
        self.epoch = epoch

    def _pass(self, short: bool, number: int) -> list[np.ndarray]:
        """The rows of each batch of one pass over the rows; the last passes are kept."""
        if (short, number) not in self._passes:
            rng = np.random.default_rng([self.seed, int(short), number])
            rows = rng.permutation(self.short_rows if short else self.rows)
            lengths = self.maps.lengths
            chunk = max(1, round(MEGABATCH * self.batch_pixels / float((lengths[rows].astype(float) ** 2).mean())))
            batches = [
                batch for start in range(0, len(rows), chunk)
                for batch in length_batches(lengths, rows[start: start + chunk], self.batch_pixels)
            ]
            self._passes[short, number] = [batches[k] for k in rng.permutation(len(batches))]
        return self._passes[short, number]

    def batch_rows(self) -> list[np.ndarray]:
        """The rows of each batch of this epoch."""
        short = self.epoch < self.short_epochs
        skip = (self.epoch if short else self.epoch - self.short_epochs) * self.batches_per_epoch
        out: list[np.ndarray] = []
        number = 0
        while len(out) < self.batches_per_epoch:
            batches = self._pass(short, number)
            out.extend(batches[skip: skip + self.batches_per_epoch - len(out)])
            skip = max(0, skip - len(batches))
            number += 1
        return out

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[MapBatch]:
        return (self.maps.batch(rows) for rows in self.batch_rows())


class OrderedMaps(IterableDataset):
    """Batches of the given rows by falling length, for validation."""

    def __init__(self, maps: Maps, rows: np.ndarray, batch_pixels: int) -> None:
        super().__init__()
        self.maps = maps
        self.batches = length_batches(maps.lengths, np.asarray(rows, np.int64), batch_pixels)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[MapBatch]:
        return (self.maps.batch(rows) for rows in self.batches)


def length_batches(lengths: np.ndarray, rows: np.ndarray, batch_pixels: int) -> list[np.ndarray]:
    """Rows of similar length together, as many as keep ``rows * longest**2`` within ``batch_pixels`` (one at least)."""
    batches: list[np.ndarray] = []
    ordered = rows[np.argsort(lengths[rows], kind="stable")][::-1]
    start = 0
    while start < len(ordered):
        longest = max(int(lengths[ordered[start]]), 1)
        stop = start + max(1, batch_pixels // longest**2)
        batches.append(ordered[start:stop])
        start = stop
    return batches
