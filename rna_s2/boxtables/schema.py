"""Columns of an S1 prediction table, their types, and the checks of their content.

A fault of a whole file is a :class:`rna_s2.options.errors.UserError`; a fault of one row is noted in :class:`Faults` and the row
goes to the rejects. The checks work on columns (:class:`Lists`), never on single boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa

from rna_s2.boxtables.table import STRUCTURE_NAMES, Ragged
from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import BOX_COLUMNS, ragged_take

SEQ = "seq"
ONE_IDX = "one_idx"
BOUNDING_BOXES = "bounding_boxes"
DF_TARGET = "df_target"
LIST_COLUMNS: tuple[str, ...] = (*BOX_COLUMNS, BOUNDING_BOXES, DF_TARGET)
"""Columns that hold a list of boxes per row; they leave the frame for columnar form."""

COORDINATES: tuple[str, ...] = ("bb_x", "bb_y", "siz_x", "siz_y")
PROBABILITIES: tuple[str, ...] = ("prob_sm", "prob_sl")
TOP_LEFT: tuple[str, ...] = ("x", "y", "siz_x", "siz_y")
STRUCTURE_NAME = "type"
TARGET_TYPE = "bb_type"

REJECT_COLUMNS: tuple[str, ...] = ("row", "index", "column", "reason")

ALPHABET = "ACGTUN"
_LEGAL_CODE = np.zeros(128, bool)
_LEGAL_CODE[[ord(base) for base in ALPHABET + ALPHABET.lower()]] = True

COORDINATE_LIMIT = 2**30
"""Coordinates and sizes stay below this, so that a corner plus a size still fits int32."""

ONE_IDX_ARROW = pa.list_(pa.list_(pa.int64()))
BOUNDING_BOXES_ARROW = pa.list_(
    pa.struct([*((name, pa.int64()) for name in TOP_LEFT), (STRUCTURE_NAME, pa.string())])
)
DF_TARGET_ARROW = pa.list_(pa.struct([*((name, pa.int64()) for name in COORDINATES), (TARGET_TYPE, pa.string())]))


def proposals_arrow(extra: Sequence[str]) -> pa.DataType:
    """Arrow type of a box list column whose boxes have these further numbers."""
    return pa.list_(
        pa.struct(
            [
                *((name, pa.int64()) for name in COORDINATES),
                *((name, pa.list_(pa.float64())) for name in PROBABILITIES),
                *((name, pa.float64()) for name in extra),
            ]
        )
    )


@dataclass(frozen=True)
class Lists:
    """A column of lists of records, unchecked.

    Attributes:
        lengths: ``(rows,)`` int64: records per row.
        numbers: each ``(records,)`` float64, NaN where absent, null or not a number.
        ragged: lists of numbers per record, NaN where null or not a number.
        names: texts per record, each ``(records,)`` object, None where absent.
    """

    lengths: np.ndarray
    numbers: dict[str, np.ndarray]
    ragged: dict[str, Ragged] = field(default_factory=dict)
    names: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def offsets(self) -> np.ndarray:
        """``(rows + 1,)`` int64."""
        return offsets_of(self.lengths)

    @property
    def records(self) -> int:
        """Number of records of all rows."""
        return int(self.lengths.sum())

    def take_rows(self, rows: np.ndarray) -> Lists:
        """The lists of the given rows (``(k,)`` int), in the order given."""
        index, offsets = ragged_take(self.offsets, rows)
        return Lists(
            np.diff(offsets),
            {name: values[index] for name, values in self.numbers.items()},
            {name: values.take(index) for name, values in self.ragged.items()},
            {name: values[index] for name, values in self.names.items()},
        )


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """``(n + 1,)`` int64 offsets of lists of these lengths (``(n,)``)."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


class Faults:
    """The first fault of each row that has one."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[str, str]] = {}

    def add(self, row: int, column: str, reason: str) -> None:
        """Notes a fault of a row, unless it has one already."""
        self._first.setdefault(int(row), (column, reason))

    def add_where(self, bad: np.ndarray, row: np.ndarray, column: str, reason: Callable[[int], str]) -> None:
        """Notes ``reason(k)`` for the first entry ``k`` of each row with ``bad[k]``; ``row[k]`` is the entry's row."""
        where = np.flatnonzero(bad)
        rows, first = np.unique(row[where], return_index=True)
        for one_row, k in zip(rows.tolist(), where[first].tolist(), strict=True):
            self.add(one_row, column, reason(k))

    def kept(self, rows: int) -> np.ndarray:
        """``(k,)`` int64: the rows of ``0 .. rows-1`` without a fault."""
        keep = np.ones(rows, bool)
        keep[list(self._first)] = False
        return np.flatnonzero(keep)

    def rejects(self, index: pd.Index) -> pd.DataFrame:
        """One line per row with a fault, in the table's order: columns row, index, column, reason."""
        lines = [(row, index[row], *self._first[row]) for row in sorted(self._first)]
        return pd.DataFrame(lines, columns=list(REJECT_COLUMNS)).astype({"row": np.int64})


def check_columns(
    columns: Iterable[Hashable], source: str, *, require_targets: bool, require_proposals: bool
) -> None:
    """Whether every required column is there, and none twice.

    Raises:
        UserError: naming the columns that are missing or repeated, and those that are there.
    """
    present = list(columns)
    required = [SEQ, *(BOX_COLUMNS if require_proposals else ())]
    missing = [name for name in required if name not in present]
    if require_targets and BOUNDING_BOXES not in present and DF_TARGET not in present:
        missing.append(BOUNDING_BOXES)
    shown = ", ".join(map(str, present))
    if missing:
        plural = "s" if len(missing) > 1 else ""
        raise UserError(f"{source}: column{plural} {', '.join(missing)} missing; the table has: {shown}")
    if len(set(present)) != len(present):
        raise UserError(f"{source}: a column name stands twice; the table has: {shown}")


def check_sequences(cells: Sequence[object], source: str, faults: Faults) -> np.ndarray:
    """The column ``seq`` checked: texts over A C G T U N in any case.

    Returns:
        ``(rows,)`` int64: lengths; 0 for a row with a fault.

    Raises:
        UserError: no row holds text, but some hold something else.
    """
    is_text = np.fromiter((isinstance(cell, str) for cell in cells), bool, len(cells))
    absent = np.fromiter((is_missing(cell) for cell in cells), bool, len(cells))
    other = np.flatnonzero(~is_text & ~absent)
    if len(other) and not is_text.any():
        raise wrong_kind(source, SEQ, "the sequence as text", int(other[0]), cells[other[0]])
    for row in other:
        faults.add(row, SEQ, f"holds {_kind(cells[row])}, not the sequence as text")
    for row in np.flatnonzero(absent):
        faults.add(row, SEQ, "the sequence is missing")
    texts = [cell if isinstance(cell, str) else "" for cell in cells]
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    for row in np.flatnonzero((lengths == 0) & is_text):
        faults.add(row, SEQ, "the sequence is empty")
    # surrogatepass: a lone surrogate is one more illegal base, not an encoding error
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    legal = (codes < len(_LEGAL_CODE)) & _LEGAL_CODE[np.minimum(codes, len(_LEGAL_CODE) - 1)]
    row_of = np.repeat(np.arange(len(texts)), lengths)
    starts = offsets_of(lengths)
    faults.add_where(
        ~legal, row_of, SEQ,
        lambda k: (
            f"base {chr(codes[k])!r} at position {k - starts[row_of[k]]} (from 0) is none of {' '.join(ALPHABET)}"
        ),
    )
    return lengths


def check_proposals(lists: Lists, column: str, faults: Faults) -> None:
    """Boxes of one type: whole coordinates within bounds, sizes of at least 1, probabilities in 0..1.

    A box that runs out of the map is no fault: pruning drops it.
    """
    row_of, place = _places(lists)
    _check_whole(lists, COORDINATES, column, "box", faults)
    for name in PROBABILITIES:
        ragged = lists.ragged[name]
        box_of = np.repeat(np.arange(len(ragged)), ragged.lengths)
        faults.add_where(
            ~((ragged.values >= 0) & (ragged.values <= 1)), row_of[box_of], column,
            lambda k, ragged=ragged, box_of=box_of, name=name: (
                f"box {place[box_of[k]]} (from 0): a value of {name} is "
                f"{_shown(ragged.values[k], 'missing or NaN')}; a probability is between 0 and 1"
            ),
        )


def check_bounding_boxes(lists: Lists, lengths: np.ndarray, column: str, faults: Faults) -> None:
    """Local structures of the target: known names, whole coordinates, and boxes inside the map of ``lengths``."""
    row_of, place = _places(lists)
    names = lists.names[STRUCTURE_NAME]
    code = structure_codes(names)
    faults.add_where(
        code < 0, row_of, column,
        lambda k: f"entry {place[k]} (from 0): unknown type {names[k]!r}; known: {', '.join(STRUCTURE_NAMES)}",
    )
    _check_whole(lists, TOP_LEFT, column, "entry", faults)
    x, y, siz_x, siz_y = (lists.numbers[name] for name in TOP_LEFT)
    length = lengths[row_of]
    is_box = (code >= 0) & ~np.isin(code, PSEUDOKNOT_CODES)
    outside = is_box & ~((x >= 0) & (y >= 0) & (x + siz_x <= length) & (y + siz_y <= length))
    faults.add_where(
        outside, row_of, column,
        lambda k: (
            f"entry {place[k]} (from 0): a target box of rows {x[k]:.0f}..{x[k] + siz_x[k] - 1:.0f} and columns "
            f"{y[k]:.0f}..{y[k] + siz_y[k] - 1:.0f} runs out of the map of {length[k]} bases"
        ),
    )


PSEUDOKNOT_CODES: tuple[int, ...] = tuple(k for k, name in enumerate(STRUCTURE_NAMES) if name.endswith("do_knot"))


def structure_codes(names: np.ndarray) -> np.ndarray:
    """``(entries,)`` int8 codes into :data:`rna_s2.boxtables.table.STRUCTURE_NAMES`, -1 for an unknown name."""
    code_of = {name: code for code, name in enumerate(STRUCTURE_NAMES)}
    return np.fromiter(
        (code_of.get(name, -1) if isinstance(name, str) else -1 for name in names), np.int8, len(names)
    )


def check_pairs(
    present: np.ndarray, halves: np.ndarray, partners: Ragged, lengths: np.ndarray, faults: Faults
) -> None:
    """The column ``one_idx``: two lists of the same length, positions inside the sequence, no base with itself.

    Args:
        present: ``(rows,)`` bool: rows whose cell is not missing.
        halves: ``(rows,)`` int64: how many lists the cell holds.
        partners: the lists of all rows, one after the other.
        lengths: ``(rows,)`` int64: bases per sequence.
        faults: takes the faults found.
    """
    for row in np.flatnonzero(present & (halves != 2)):
        faults.add(row, ONE_IDX, f"holds {halves[row]} lists; the two lists of i's and j's belong here")
    first_half = offsets_of(halves)[:-1]
    rows = np.flatnonzero(present & (halves == 2))
    number_i, number_j = partners.lengths[first_half[rows]], partners.lengths[first_half[rows] + 1]
    for k in np.flatnonzero(number_i != number_j):
        faults.add(rows[k], ONE_IDX, f"the list of i's has {number_i[k]} entries, that of j's {number_j[k]}")
    row_of = np.repeat(np.repeat(np.arange(len(halves)), halves), partners.lengths)
    values = partners.values
    length = lengths[row_of]
    faults.add_where(
        ~((values >= 0) & (values < length) & (values == np.floor(values))), row_of, ONE_IDX,
        lambda k: f"{_shown(values[k], 'a missing value')} is no position in a sequence of {length[k]} bases (0-based)",
    )
    rows = rows[number_i == number_j]
    index_i, offsets = ragged_take(partners.offsets, first_half[rows])
    index_j, _ = ragged_take(partners.offsets, first_half[rows] + 1)
    faults.add_where(
        values[index_i] == values[index_j], np.repeat(rows, np.diff(offsets)), ONE_IDX,
        lambda k: f"pairs base {_shown(values[index_i[k]], '')} with itself",
    )


def _places(lists: Lists) -> tuple[np.ndarray, np.ndarray]:
    """Row of each record, and its place in its row's list, ``(records,)`` int64 each."""
    row_of = np.repeat(np.arange(len(lists.lengths)), lists.lengths)
    return row_of, np.arange(len(row_of)) - lists.offsets[row_of]


def _check_whole(lists: Lists, names: Sequence[str], column: str, what: str, faults: Faults) -> None:
    row_of, place = _places(lists)
    for name in names:
        values = lists.numbers[name]
        fine = (values == np.floor(values)) & (np.abs(values) < COORDINATE_LIMIT)
        if name.startswith("siz_"):
            fine &= values >= 1

        def reason(k: int, name: str = name, values: np.ndarray = values) -> str:
            value = values[k]
            if np.isnan(value):
                text = f"{name} is missing"
            elif not abs(value) < COORDINATE_LIMIT:
                text = f"{name} is {_shown(value, '')}, beyond any sequence"
            elif value != np.floor(value):
                text = f"{name} is {_shown(value, '')}, not a whole number"
            else:
                text = f"{name} is {_shown(value, '')}; a size is at least 1"
            return f"{what} {place[k]} (from 0): {text}"

        faults.add_where(~fine, row_of, column, reason)


def _shown(value: float, missing: str) -> str:
    return missing if np.isnan(value) else f"{value:.15g}"


def is_missing(cell: object) -> bool:
    """Whether a cell is None, NaN or NA."""
    return cell is None or cell is pd.NA or (isinstance(cell, float) and cell != cell)


def _kind(cell: object) -> str:
    return "text" if isinstance(cell, str) else type(cell).__name__


def wrong_kind(source: str, column: str, wanted: str, row: int, cell: object) -> UserError:
    """The error for a column that holds something else throughout."""
    return UserError(f"{source}: column {column} must hold {wanted}; row {row} (from 0) holds {_kind(cell)}")
