"""The columnar form of an S1 prediction table: one row per sequence, one entry per box."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from rna_s2.rna.boxes import ILOOP, TARGET_TYPE_CODES, Boxes, ragged_take, top_left, top_right

STRUCTURE_NAMES: tuple[str, ...] = tuple(TARGET_TYPE_CODES)
"""Names of local structures in a ``bounding_boxes`` column; the position of a name is its code."""

_BOX_TYPE_OF_NAME = np.array([-1 if code is None else code for code in TARGET_TYPE_CODES.values()], dtype=np.int8)
_SMALLEST_LOOP_SIDE = 2


@dataclass(frozen=True)
class Ragged:
    """A list of numbers per entry: ``values[offsets[k]:offsets[k + 1]]`` belongs to entry ``k``.

    Attributes:
        values: ``(total,)`` float64.
        offsets: ``(entries + 1,)`` int64.
    """

    values: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """``(entries,)`` int64."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, entries: np.ndarray) -> Ragged:
        """The given entries (``(k,)`` int) in the order given."""
        index, offsets = ragged_take(self.offsets, entries)
        return Ragged(self.values[index], offsets)

    def max(self) -> np.ndarray:
        """``(entries,)`` float64: the largest value of each entry, NaN where it has none."""
        out = np.full(len(self), np.nan)
        filled = self.lengths > 0
        if filled.any():
            out[filled] = np.maximum.reduceat(self.values, self.offsets[:-1][filled])
        return out

    @classmethod
    def empty(cls, entries: int) -> Ragged:
        """No values for each of ``entries`` entries."""
        return cls(np.zeros(0), np.zeros(entries + 1, np.int64))


@dataclass(frozen=True)
class BoundingBoxes:
    """The ``bounding_boxes`` column as the table has it: corners top left, old names, pseudoknots included.

    Attributes:
        offsets: ``(rows + 1,)`` int64; the entries of row ``r`` are ``offsets[r]:offsets[r + 1]``, in the column's order.
        x, y: ``(entries,)`` int32; **top-left** corner, 0-based.
        siz_x, siz_y: ``(entries,)`` int32.
        name: ``(entries,)`` int8 codes into :data:`STRUCTURE_NAMES`.
    """

    offsets: np.ndarray
    x: np.ndarray
    y: np.ndarray
    siz_x: np.ndarray
    siz_y: np.ndarray
    name: np.ndarray

    def __len__(self) -> int:
        return len(self.name)

    @property
    def rows(self) -> int:
        """Number of sequences."""
        return len(self.offsets) - 1

    def take_rows(self, rows: np.ndarray) -> BoundingBoxes:
        """The entries of the given rows, in the order given (``(k,)`` int)."""
        index, offsets = ragged_take(self.offsets, rows)
        return BoundingBoxes(offsets, *(c[index] for c in (self.x, self.y, self.siz_x, self.siz_y, self.name)))

    def boxes(self) -> Boxes:
        """The boxes they stand for: corners top right, ordered by type within each row, pseudoknots left out."""
        types = _BOX_TYPE_OF_NAME[self.name]
        row = np.repeat(np.arange(self.rows), np.diff(self.offsets))
        order = np.lexsort((types, row))
        order = order[types[order] >= 0]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(row[order], minlength=self.rows))])
        siz_x, siz_y = self.siz_x[order], self.siz_y[order]
        return Boxes(offsets, types[order], *top_right(self.x[order], self.y[order], siz_y), siz_x, siz_y)

    @classmethod
    def from_boxes(cls, boxes: Boxes) -> BoundingBoxes:
        """The entries that stand for ``boxes``, under the field's names; an iloop with a side of 2 is a bulge."""
        plain = np.array([STRUCTURE_NAMES.index(name) for name in ("stem", "internal_loop", "hairpin_loop")], np.int8)
        bulge = (boxes.type == ILOOP) & (np.minimum(boxes.siz_x, boxes.siz_y) == _SMALLEST_LOOP_SIDE)
        name = np.where(bulge, np.int8(STRUCTURE_NAMES.index("bulge")), plain[boxes.type])
        return cls(boxes.offsets, *top_left(boxes.bb_x, boxes.bb_y, boxes.siz_y), boxes.siz_x, boxes.siz_y, name)


@dataclass(frozen=True)
class BoxTable:
    """An S1 prediction table after reading.

    Attributes:
        frame: ``(rows,)`` every column but the three box lists, ``bounding_boxes`` and ``df_target``: ``seq`` (text, case
            and T/U as in the file), ``one_idx`` (where present: a tuple of two lists, or None), ``fe``,
            ``transcript_id``, ... in the file's order and index.
        proposals: the boxes that S1 proposes.
        targets: the boxes of the target structure (pseudoknots left out); ``None`` where the table has no
            ``bounding_boxes`` column (sequences without a known structure).
        prob_sm, prob_sl: one list per proposal: probabilities from the softmax and from the scalar size output.
        extra: further numbers per proposal (``n_proposal_norm_sm``, ...), each ``(proposals,)`` float64, NaN where absent.
        source: the path it was read from, for messages.
        digest: SHA-256 of the file it was read from, in hexadecimal.
        bounding_boxes: the column that ``targets`` was made from, kept so that it is written as it was read; ``None``
            where there was none.
    """

    frame: pd.DataFrame
    proposals: Boxes
    targets: Boxes | None
    prob_sm: Ragged
    prob_sl: Ragged
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    source: str = "(memory)"
    digest: str = ""
    bounding_boxes: BoundingBoxes | None = None

    def __post_init__(self) -> None:
        rows, boxes = len(self.frame), len(self.proposals)
        if self.proposals.rows != rows or (self.targets is not None and self.targets.rows != rows):
            raise ValueError("the boxes and the frame of a BoxTable differ in their number of rows")
        if self.bounding_boxes is not None and self.bounding_boxes.rows != rows:
            raise ValueError("the bounding boxes and the frame of a BoxTable differ in their number of rows")
        if len(self.prob_sm) != boxes or len(self.prob_sl) != boxes or any(len(v) != boxes for v in self.extra.values()):
            raise ValueError("the proposals of a BoxTable and their probabilities differ in number")

    @property
    def rows(self) -> int:
        """Number of sequences."""
        return len(self.frame)

    @property
    def lengths(self) -> np.ndarray:
        """``(rows,)`` int64: length of each sequence in bases."""
        return self.frame["seq"].str.len().to_numpy(np.int64)

    def select_proposals(self, keep: np.ndarray) -> BoxTable:
        """The table with only the proposals where ``keep`` (``(proposals,)`` bool) is true."""
        return replace(self, proposals=self.proposals.select(keep), **self._of_proposals(np.flatnonzero(keep)))

    def take_rows(self, rows: np.ndarray) -> BoxTable:
        """The table with only the given rows (``(k,)`` int), in the order given."""
        index, _ = ragged_take(self.proposals.offsets, rows)
        return replace(
            self,
            frame=self.frame.iloc[rows],
            targets=None if self.targets is None else self.targets.take_rows(rows),
            bounding_boxes=None if self.bounding_boxes is None else self.bounding_boxes.take_rows(rows),
            proposals=self.proposals.take_rows(rows),
            **self._of_proposals(index),
        )

    def _of_proposals(self, index: np.ndarray) -> dict[str, Any]:
        """What else the table holds of the proposals, for those at ``index``."""
        lists = {"prob_sm": self.prob_sm.take(index), "prob_sl": self.prob_sl.take(index)}
        return {**lists, "extra": {name: values[index] for name, values in self.extra.items()}}
