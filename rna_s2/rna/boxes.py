"""Bounding boxes on the L x L map of an RNA sequence.

Row ``i`` of the map is a base on the 5' side, column ``j`` a base on the 3' side, 0-based; only cells with
``i < j`` mean anything. A box is named by its **top-right corner**: ``bb_x`` is its first map row and ``bb_y`` its
last map column, so it covers map rows ``bb_x .. bb_x+siz_x-1`` and columns ``bb_y-siz_y+1 .. bb_y``::

                     columns (3' strand)
                  bb_y-siz_y+1      bb_y
        bb_x           .   .   .   [X]   <- top-right corner: the outer pair (bb_x, bb_y)
                       .   .   .   .
        bb_x+siz_x-1  [o]  .   .   .     <- bottom-left corner: the inner pair
        rows (5' strand)

This convention lives here alone: everything else asks :func:`bounds` and the pair functions below, or, with single columns
(numbers, numpy arrays or torch tensors), :func:`inner_corner`. Columns ``bounding_boxes`` of S1 tables name the same box by its
top-left corner: :func:`top_right` and :func:`top_left` convert.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

STEM, ILOOP, HLOOP = 0, 1, 2
BOX_TYPES: tuple[str, str, str] = ("stem", "iloop", "hloop")
"""Names of the box types; the position of a name is its code. Boxes of a row are ordered by this code."""

BOX_COLUMNS: tuple[str, str, str] = ("bb_stem", "bb_iloop", "bb_hloop")
"""Columns of an S1 table that hold the proposals of each type, in the order of :data:`BOX_TYPES`."""

TARGET_TYPE_CODES: dict[str, int | None] = {
    "stem": STEM,
    "bulge": ILOOP,
    "internal_loop": ILOOP,
    "iloop": ILOOP,
    "hairpin_loop": HLOOP,
    "hloop": HLOOP,
    "pesudo_knot": None,
    "pseudo_knot": None,
}
"""Names of local structures found in S1 tables, to box type codes; ``None`` marks one that has no box."""


@dataclass(frozen=True)
class Boxes:
    """The boxes of many sequences as columns: one entry per box, grouped by sequence.

    Attributes:
        offsets: ``(rows + 1,)`` int64; the boxes of row ``r`` are ``offsets[r]:offsets[r + 1]``.
        type: ``(boxes,)`` int8 codes into :data:`BOX_TYPES`; within a row in ascending order.
        bb_x, bb_y: ``(boxes,)`` int32; top-right corner, 0-based.
        siz_x, siz_y: ``(boxes,)`` int32; map rows and columns covered.

    Raises:
        ValueError: the columns differ in length, the offsets do not fit them, or types of a row are out of order.
    """

    offsets: np.ndarray
    type: np.ndarray
    bb_x: np.ndarray
    bb_y: np.ndarray
    siz_x: np.ndarray
    siz_y: np.ndarray

    def __post_init__(self) -> None:
        for name in ("offsets", "type", "bb_x", "bb_y", "siz_x", "siz_y"):
            dtype = {"offsets": np.int64, "type": np.int8}.get(name, np.int32)
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=dtype))
        n = len(self.type)
        if any(len(column) != n for column in self.columns):
            raise ValueError("the columns of Boxes differ in length")
        if len(self.offsets) < 1 or self.offsets[0] != 0 or self.offsets[-1] != n or (np.diff(self.offsets) < 0).any():
            raise ValueError("the offsets of Boxes do not fit its columns")
        if n and ((self.type < 0) | (self.type > HLOOP)).any():
            raise ValueError("unknown box type code")
        if n and ((np.diff(self.type) < 0) & (np.diff(self.row) == 0)).any():
            raise ValueError("the boxes of a row must be ordered stems, iloops, hloops")

    @property
    def rows(self) -> int:
        """Number of sequences."""
        return len(self.offsets) - 1

    def __len__(self) -> int:
        return len(self.type)

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        """``type, bb_x, bb_y, siz_x, siz_y``, ``(boxes,)`` each."""
        return self.type, self.bb_x, self.bb_y, self.siz_x, self.siz_y

    @property
    def row(self) -> np.ndarray:
        """``(boxes,)`` int64: the sequence each box belongs to."""
        return np.repeat(np.arange(self.rows), np.diff(self.offsets))

    def counts(self) -> np.ndarray:
        """``(rows, 3)`` int64: boxes per sequence and type."""
        return np.bincount(self.row * 3 + self.type, minlength=3 * self.rows).reshape(self.rows, 3)

    def select(self, keep: np.ndarray) -> Boxes:
        """Only the boxes where ``keep`` (``(boxes,)`` bool) is true; all rows stay."""
        kept_before = np.concatenate([[0], np.cumsum(keep)])
        return Boxes(kept_before[self.offsets], *(column[keep] for column in self.columns))

    def take_rows(self, rows: np.ndarray) -> Boxes:
        """The boxes of the given rows, in the order given (``(k,)`` int)."""
        index, offsets = ragged_take(self.offsets, rows)
        return Boxes(offsets, *(column[index] for column in self.columns))

    def row_boxes(self, row: int) -> Iterator[tuple[int, int, int, int, int]]:
        """``(type, bb_x, bb_y, siz_x, siz_y)`` of each box of one row; for tests and small displays."""
        for k in range(self.offsets[row], self.offsets[row + 1]):
            yield (int(self.type[k]), int(self.bb_x[k]), int(self.bb_y[k]), int(self.siz_x[k]), int(self.siz_y[k]))

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[tuple[int, int, int, int, int]]]) -> Boxes:
        """From one list of ``(type, bb_x, bb_y, siz_x, siz_y)`` per sequence; a stable sort orders the types."""
        flat = [box for row in rows for box in sorted(row, key=lambda b: b[0])]
        columns = np.array(flat, dtype=np.int64).reshape(-1, 5).T
        return cls(np.concatenate([[0], np.cumsum([len(r) for r in rows], dtype=np.int64)]), *columns)

    @classmethod
    def empty(cls, rows: int = 0) -> Boxes:
        """No boxes for ``rows`` sequences."""
        return cls(np.zeros(rows + 1, np.int64), *(np.zeros(0, np.int64) for _ in range(5)))


def ragged_take(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(values,)`` int64 index of the values of some rows of a ragged array, and ``(k + 1,)`` int64 offsets of the result.

    Args:
        offsets: ``(n + 1,)`` offsets of the ragged array.
        rows: ``(k,)`` rows to take, in any order, repeats allowed.
    """
    rows = np.asarray(rows, dtype=np.int64)
    lengths = np.diff(offsets)[rows]
    new_offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    index = np.arange(new_offsets[-1]) + np.repeat(offsets[:-1][rows] - new_offsets[:-1], lengths)
    return index, new_offsets


def ragged_positions(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every position of every entry of a ragged array: the entry and the position within it, ``(total,)`` int64 each.

    ``lengths`` is ``(entries,)`` int; a length below 0 counts as 0.
    """
    lengths = np.maximum(np.asarray(lengths, dtype=np.int64), 0)
    entry = np.repeat(np.arange(len(lengths)), lengths)
    return entry, np.arange(len(entry)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def inner_corner(bb_x: Any, bb_y: Any, siz_x: Any, siz_y: Any) -> tuple[Any, Any]:
    """Map row and column of the bottom-left cell of boxes given by their numbers: the inner pair ``(i, j)``."""
    return bb_x + siz_x - 1, bb_y - siz_y + 1


def top_right(x: Any, y: Any, siz_y: Any) -> tuple[Any, Any]:
    """``bb_x`` and ``bb_y`` of boxes whose top-left corner is ``(x, y)``."""
    return x, y + siz_y - 1


def top_left(bb_x: Any, bb_y: Any, siz_y: Any) -> tuple[Any, Any]:
    """``x`` and ``y`` of the top-left corner of boxes: first map row and column. The reverse of :func:`top_right`."""
    return bb_x, bb_y - siz_y + 1


def bounds(boxes: Boxes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """First and last map row, first and last column of each box, all inclusive, ``(boxes,)`` int32 each."""
    last_row, first_col = inner_pair(boxes)
    return boxes.bb_x, last_row, first_col, boxes.bb_y


def inside_map(boxes: Boxes, lengths: np.ndarray) -> np.ndarray:
    """Whether both ranges of each box lie in ``0 .. L-1``; ``lengths`` is ``(rows,)``. Returns ``(boxes,)`` bool.

    A box that covers no row or no column (size below 1) is never inside.
    """
    first_row, last_row, first_col, last_col = bounds(boxes)
    length = np.asarray(lengths)[boxes.row]
    return (
        (boxes.siz_x >= 1) & (boxes.siz_y >= 1)
        & (first_row >= 0) & (last_row < length) & (first_col >= 0) & (last_col < length)
    )


def stems_that_pair(boxes: Boxes, lengths: np.ndarray) -> np.ndarray:
    """``(boxes,)`` bool: stems that say which bases pair: square, inside the map (``lengths``: ``(rows,)`` bases), and short of
    its diagonal."""
    square = (boxes.type == STEM) & (boxes.siz_x == boxes.siz_y)
    return square & inside_map(boxes, np.asarray(lengths)) & (boxes.bb_x + 2 * boxes.siz_x.astype(np.int64) - 2 < boxes.bb_y)


def outer_pair(boxes: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """The base pair at the top-right corner of each box: ``i`` and ``j``."""
    return boxes.bb_x, boxes.bb_y


def inner_pair(boxes: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """The base pair at the bottom-left corner of each box: ``i`` and ``j``. Means nothing for an hloop."""
    return inner_corner(boxes.bb_x, boxes.bb_y, boxes.siz_x, boxes.siz_y)


def keys(boxes: Boxes) -> np.ndarray:
    """``(boxes, 6)`` int64: row, type, bb_x, bb_y, siz_x, siz_y; two boxes are identical when these are."""
    return np.stack([boxes.row, *boxes.columns], axis=1)


def is_in(boxes: Boxes, others: Boxes) -> np.ndarray:
    """Whether each box stands identically (row, type, corner, size) in ``others``. Returns ``(boxes,)`` bool.

    Raises:
        ValueError: the two have a different number of rows.
    """
    if boxes.rows != others.rows:
        raise ValueError(f"{boxes.rows} rows against {others.rows}")
    if not len(boxes) or not len(others):
        return np.zeros(len(boxes), bool)
    both = np.concatenate([keys(boxes), keys(others)])
    low = both.min(axis=0)
    span = both.max(axis=0) - low + 1
    if float(np.prod(span.astype(float))) < 2.0**62:
        code = np.ravel_multi_index(tuple((both - low).T), tuple(int(s) for s in span))
    else:
        _, code = np.unique(both, axis=0, return_inverse=True)
        code = code.reshape(-1)
    return among(code[: len(boxes)], code[len(boxes):])


def among(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each of ``values`` (``(n,)``) is one of ``others`` (``(m,)``); both int64. Returns ``(n,)`` bool.

    Sorts the shorter of the two alone, which for some target boxes among very many proposals is several times faster
    than :func:`numpy.isin`.
    """
    if not len(values) or not len(others):
        return np.zeros(len(values), bool)
    if len(others) <= len(values):
        known = np.unique(others)
        return known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
    wanted, place = np.unique(values, return_inverse=True)
    position = np.minimum(np.searchsorted(wanted, others), len(wanted) - 1)
    seen = np.zeros(len(wanted), bool)
    seen[position[wanted[position] == others]] = True
    return seen[place]
