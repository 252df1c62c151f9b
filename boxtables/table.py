"""The columnar form of an S1 prediction table: one row per sequence, one entry per box."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from rna.boxes import Boxes, ragged_take


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
class BoxTable:
    """An S1 prediction table after reading.

    Attributes:
        frame: ``(rows,)`` every column but the three box lists and ``bounding_boxes``: ``seq`` (text, case and T/U as in
            the file), ``one_idx`` (where present), ``fe``, ``transcript_id``, ... in the file's order and index.
        proposals: the boxes that S1 proposes.
        targets: the boxes of the target structure (pseudoknots left out); ``None`` where the table has no
            ``bounding_boxes`` column (sequences without a known structure).
        prob_sm, prob_sl: one list per proposal: probabilities from the softmax and from the scalar size output.
        extra: further numbers per proposal (``n_proposal_norm_sm``, ...), each ``(proposals,)`` float64, NaN where absent.
        source: the path it was read from, for messages.
        digest: SHA-256 of the file it was read from, in hexadecimal.
    """

    frame: pd.DataFrame
    proposals: Boxes
    targets: Boxes | None
    prob_sm: Ragged
    prob_sl: Ragged
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    source: str = "(memory)"
    digest: str = ""

    def __post_init__(self) -> None:
        rows, boxes = len(self.frame), len(self.proposals)
        if self.proposals.rows != rows or (self.targets is not None and self.targets.rows != rows):
            raise ValueError("the boxes and the frame of a BoxTable differ in their number of rows")
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
        index = np.flatnonzero(keep)
        return replace(
            self,
            proposals=self.proposals.select(keep),
            prob_sm=self.prob_sm.take(index),
            prob_sl=self.prob_sl.take(index),
            extra={name: values[index] for name, values in self.extra.items()},
        )

    def take_rows(self, rows: np.ndarray) -> BoxTable:
        """The table with only the given rows (``(k,)`` int), in the order given."""
        index, _ = ragged_take(self.proposals.offsets, rows)
        return replace(
            self,
            frame=self.frame.iloc[rows],
            proposals=self.proposals.take_rows(rows),
            targets=None if self.targets is None else self.targets.take_rows(rows),
            prob_sm=self.prob_sm.take(index),
            prob_sl=self.prob_sl.take(index),
            extra={name: values[index] for name, values in self.extra.items()},
        )
