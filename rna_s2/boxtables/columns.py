"""Columns of lists of records: how one is declared, and how it is read from and written as Python objects and Arrow.

Whole columns are taken apart at once: one comprehension per field over all records, or Arrow's own buffers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import ragged_positions, ragged_take

_log = logging.getLogger(__name__)
_NUMBER_TYPES = {
    int, float, np.float64, np.float32, np.int64, np.int32, np.int16, np.int8, np.uint8, np.uint16, np.uint32, np.uint64
}

Cells = Sequence[object] | np.ndarray
"""A column of a pickle: ``(rows,)`` Python objects."""

REJECT_COLUMNS: tuple[str, ...] = ("row", "index", "column", "reason")


@dataclass(frozen=True)
class Lists:
    """A column of lists of records in columnar form: as read and unchecked, or to be written.

    Attributes:
        lengths: ``(rows,)`` int64: records per row.
        numbers: each ``(records,)``; as read float64, NaN where absent, null or not a number. To be written: of an integer
            dtype, or float64, where NaN is a field that the record lacks.
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

    def add(self, row: int | np.integer, column: str, reason: str) -> None:
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
        """One line per row with a fault, in the table's order: columns :data:`REJECT_COLUMNS`."""
        lines = [(row, index[row], *self._first[row]) for row in sorted(self._first)]
        return pd.DataFrame(lines, columns=list(REJECT_COLUMNS)).astype({"row": np.int64})


def is_missing(cell: object) -> bool:
    """Whether a cell is None, NaN or NA."""
    return cell is None or cell is pd.NA or (isinstance(cell, float) and cell != cell)


def type_name(cell: object) -> str:
    """What a message calls the content of a cell."""
    return "text" if isinstance(cell, str) else type(cell).__name__


def wrong_content(source: str, column: str, wanted: str, row: int, cell: object) -> UserError:
    """The error for a column that holds something else throughout."""
    return UserError(f"{source}: column {column} must hold {wanted}; row {row} (from 0) holds {type_name(cell)}")


def lists_of_cells(
    cells: Cells, column: str, source: str, faults: Faults, *, wanted: str, dimensions: int
) -> list[Sequence]:
    """One sequence per row; a missing cell is an empty one, and so is one with a fault.

    Raises:
        UserError: no row holds a list, but some hold something else.
    """
    held = [
        isinstance(cell, (list, tuple)) or (isinstance(cell, np.ndarray) and 1 <= cell.ndim <= dimensions) for cell in cells
    ]
    wrong = [row for row, holds in enumerate(held) if not holds and not is_missing(cells[row])]
    if wrong and not any(held):
        raise wrong_content(source, column, wanted, wrong[0], cells[wrong[0]])
    for row in wrong:
        faults.add(row, column, f"holds {type(cells[row]).__name__}, not {wanted}")
    return [cell if holds else () for cell, holds in zip(cells, held, strict=True)]


def numbers_of(values: Sequence[object]) -> tuple[np.ndarray, list[int]]:
    """``(n,)`` float64, NaN where a value is missing or no number, and the places of those that are no numbers."""
    if set(map(type, values)) <= _NUMBER_TYPES:
        try:
            return np.fromiter(values, np.float64, len(values)), []
        except OverflowError:
            pass  # a whole number beyond float64 is infinite below
    out = np.full(len(values), np.nan)
    wrong = []
    for k, value in enumerate(values):
        if isinstance(value, Real) and not isinstance(value, (bool, np.bool_)):
            try:
                out[k] = float(value)
            except OverflowError:
                out[k] = np.inf
        elif not is_missing(value):
            wrong.append(k)
    return out, wrong


def ragged_of(lists: list[Any], fault: Callable[[int, str], None], wanted: str, name: str = "") -> Ragged:
    """Lists of numbers; ``fault(k, text)`` notes what of entry ``k`` is none, as ``name`` where there is one.

    A missing entry is empty; without a name it is a fault. Entries of ``lists`` that are no lists become empty ones.
    """
    said = f"{name} " if name else ""
    if set(map(type, lists)) - {list, tuple}:
        for k, value in enumerate(lists):
            if not isinstance(value, (list, tuple)) and not (isinstance(value, np.ndarray) and value.ndim == 1):
                if not (name and is_missing(value)):
                    fault(k, f"{said}{'is' if name else 'holds'} {value!r:.60}, not {wanted}")
                lists[k] = ()
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    values, wrong = numbers_of(list(chain.from_iterable(lists)))
    ragged = Ragged(values, offsets_of(lengths))
    for k in (np.searchsorted(ragged.offsets, wrong, side="right") - 1).tolist():
        fault(k, f"{said}holds something that is not a number")
    return ragged


@dataclass(frozen=True)
class ListColumn:
    """A column that holds a list of records per row: what is particular about it is said here and nowhere else.

    Attributes:
        name: of the column.
        numbers, ragged, names: fields of a record that hold a number, a list of numbers, a text.
        check: notes the rows whose records cannot be: ``(lists, lengths of the sequences, column, faults)``.
        of_table: the column of a table that is to be written, None where the table has none.
        extra: whether further fields are numbers too; otherwise they are ignored.
        wanted: what the column holds, for messages.
        dimensions: an array with up to so many is a list of entries too.
        from_entry: a record from an entry of a pickle that is no dict, by raising TypeError or ValueError where it is none.
        to_entry: an entry of a pickle from a record; None: the record itself.
        form: what ``from_entry`` takes, for messages.
    """

    name: str
    numbers: tuple[str, ...]
    check: Callable[[Lists, np.ndarray, str, Faults], None]
    of_table: Callable[[BoxTable], Lists | None]
    ragged: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    extra: bool = False
    wanted: str = "lists of boxes"
    dimensions: int = 1
    from_entry: Callable[[Any], dict[str, object]] | None = None
    to_entry: Callable[[dict[str, Any]], object] | None = None
    form: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the declared fields."""
        return (*self.numbers, *self.ragged, *self.names)

    def empty(self, rows: int) -> Lists:
        """The column without a record in any row."""
        return Lists(
            np.zeros(rows, np.int64),
            {name: np.zeros(0) for name in self.numbers},
            {name: Ragged.empty(0) for name in self.ragged},
            {name: np.zeros(0, object) for name in self.names},
        )

    def from_objects(self, cells: Cells, source: str, faults: Faults) -> Lists:
        """The column from cells (``(rows,)``, a list of dicts each, or a missing value) of a pickle or of JSON.

        Faults of rows whose cells are not lists of records of this form are noted in ``faults``.

        Raises:
            UserError: the column holds no lists at all.
        """
        column = self.name
        lists = lists_of_cells(cells, column, source, faults, wanted=self.wanted, dimensions=self.dimensions)
        if self.from_entry is not None:
            lists = [self._records(entries, row, faults) for row, entries in enumerate(lists)]
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        records = list(chain.from_iterable(lists))
        row_of, place = ragged_positions(lengths)

        def fault(k: int, text: str) -> None:
            faults.add(row_of[k], column, f"box {place[k]} (from 0): {text}")

        if set(map(type, records)) - {dict}:
            for k, record in enumerate(records):
                if not isinstance(record, dict):
                    fault(k, f"is {type(record).__name__}, not a record of {', '.join(self.numbers)}")
            records = [record if isinstance(record, dict) else {} for record in records]

        out_numbers: dict[str, np.ndarray] = {}
        for name in self.numbers:
            out_numbers[name], wrong = numbers_of([record.get(name) for record in records])
            for k in wrong:
                fault(k, f"{name} is {records[k][name]!r}, not a number")
        out_ragged = {
            name: ragged_of([record.get(name) for record in records], fault, "a list of numbers", name) for name in self.ragged
        }
        out_names = {name: _objects([record.get(name) for record in records]) for name in self.names}
        if self.extra:
            for key in dict.fromkeys(chain.from_iterable(records)):
                if key in self.fields:
                    continue
                values, wrong = numbers_of([record.get(key) for record in records])
                if wrong or not isinstance(key, str):
                    _log.warning("%s: column %s: the boxes' key %r is not a number and is left out", source, column, key)
                else:
                    out_numbers[key] = values
        return Lists(lengths, out_numbers, out_ragged, out_names)

    def _records(self, entries: Sequence, row: int, faults: Faults) -> list[dict[str, object]]:
        """The entries of a row as records; one that cannot be is noted and left out."""
        records = []
        for place, entry in enumerate(entries):
            try:
                records.append(entry if isinstance(entry, dict) or self.from_entry is None else self.from_entry(entry))
            except (TypeError, ValueError):
                faults.add(row, self.name, f"entry {place} (from 0) is not of the form {self.form}")
        return records

    def from_arrow(self, array: pa.ChunkedArray, source: str) -> Lists:
        """The column straight from Arrow's buffers; slices, chunks and nulls are taken care of.

        Raises:
            UserError: the column is of another type, or a field of it is.
        """
        column = self.name
        arrow_type = array.type
        if pa.types.is_null(arrow_type):
            arrow_type = pa.list_(pa.null())
        struct = arrow_type.value_type if _is_list(arrow_type) else arrow_type
        if struct is arrow_type or not (pa.types.is_struct(struct) or pa.types.is_null(struct)):
            raise UserError(f"{source}: column {column} must hold lists of boxes; it is of type {array.type}")
        fields = [struct.field(k) for k in range(struct.num_fields)] if pa.types.is_struct(struct) else []
        type_of = {f.name: f.type for f in fields}
        if len(type_of) != len(fields):
            raise UserError(f"{source}: column {column}: a field of the boxes stands twice")
        chosen = list(self.numbers)
        for name in (f.name for f in fields if self.extra):
            if name in self.fields:
                continue
            if _is_number(type_of[name]):
                chosen.append(name)
            else:
                _log.warning("%s: column %s: the boxes' key %r is not a number and is left out", source, column, name)
        for wanted, names, fits in (
            ("numbers", self.numbers, _is_number), ("lists of numbers", self.ragged, _is_number_list),
            ("text", self.names, _is_text),
        ):
            for name in names:
                if name in type_of and not fits(type_of[name]):
                    raise UserError(f"{source}: column {column}: {name} must hold {wanted}; it is of type {type_of[name]}")

        parts: list[Lists] = []
        for chunk in array.chunks if array.num_chunks else [pa.array([], arrow_type)]:
            lengths, records = _flatten(chunk)
            count = len(records)
            values = dict(zip(type_of, records.flatten(), strict=True)) if type_of else {}
            parts.append(Lists(
                lengths,
                {name: _floats(values[name]) if name in values else np.full(count, np.nan) for name in chosen},
                {name: _ragged(values[name]) if name in values else Ragged.empty(count) for name in self.ragged},
                {name: _texts(values[name]) if name in values else np.full(count, None, object) for name in self.names},
            ))
        return Lists(
            np.concatenate([part.lengths for part in parts]),
            {name: np.concatenate([part.numbers[name] for part in parts]) for name in chosen},
            {name: concatenate_ragged([part.ragged[name] for part in parts]) for name in self.ragged},
            {name: np.concatenate([part.names[name] for part in parts]) for name in self.names},
        )

    def to_arrow(self, lists: Lists) -> pa.Array:
        """The column for Parquet: lists of structs."""
        arrays: dict[str, pa.Array] = {}
        for name in self._order(lists):
            if name in lists.ragged:
                ragged = lists.ragged[name]
                arrays[name] = pa.LargeListArray.from_arrays(ragged.offsets, ragged.values).cast(pa.list_(pa.float64()))
            elif name in lists.names:
                arrays[name] = pa.array(lists.names[name], pa.string())
            else:
                values = lists.numbers[name]
                whole = np.issubdtype(values.dtype, np.integer)
                arrays[name] = pa.array(values, from_pandas=True).cast(pa.int64() if whole else pa.float64())
        structs = pa.StructArray.from_arrays(list(arrays.values()), list(arrays))
        return pa.ListArray.from_arrays(pa.array(lists.offsets, pa.int32()), structs)

    def to_objects(self, lists: Lists) -> list[list[Any]]:
        """The column for a pickle: a list per row of dicts, or of what ``to_entry`` makes of them."""
        order = self._order(lists)
        ragged = {name: split(values.values.tolist(), values.offsets) for name, values in lists.ragged.items()}
        columns = [ragged[name] if name in ragged else (lists.numbers | lists.names)[name].tolist() for name in order]
        records = [dict(zip(order, values, strict=True)) for values in zip(*columns, strict=True)]
        for name, values in lists.numbers.items():
            for k in np.flatnonzero(np.isnan(values)).tolist():
                del records[k][name]
        entries: list[Any] = records if self.to_entry is None else [self.to_entry(record) for record in records]
        return split(entries, lists.offsets)

    def _order(self, lists: Lists) -> list[str]:
        """All fields: the declared ones, then the further ones."""
        return [*self.fields, *(name for name in lists.numbers if name not in self.numbers)]


def split(values: list[Any], offsets: np.ndarray) -> list[list[Any]]:
    """One list per entry of values that lie one after the other."""
    return [values[start:end] for start, end in pairwise(offsets.tolist())]


def _objects(values: list) -> np.ndarray:
    out = np.empty(len(values), object)
    out[:] = values
    return out


def pairs_from_objects(cells: Cells, column: str, source: str, faults: Faults) -> tuple[np.ndarray, np.ndarray, Ragged]:
    """A column of two lists of positions per row, as :func:`rna_s2.boxtables.schema.check_pairs` takes it."""
    lists = lists_of_cells(cells, column, source, faults, wanted="two lists of positions", dimensions=2)
    halves = np.fromiter(map(len, lists), np.int64, len(lists))
    row_of = np.repeat(np.arange(len(lists)), halves)
    inner = list(chain.from_iterable(lists))
    partners = ragged_of(inner, lambda k, text: faults.add(row_of[k], column, text), "two lists of positions")
    present = np.fromiter((not is_missing(cell) for cell in cells), bool, len(cells))
    return present, halves, partners


def pairs_from_arrow(array: pa.ChunkedArray, column: str, source: str) -> tuple[np.ndarray, np.ndarray, Ragged]:
    """The same from a column of lists of lists of numbers.

    Raises:
        UserError: the column is of another type.
    """
    arrow_type = array.type
    if pa.types.is_null(arrow_type):
        rows = len(array)
        return np.zeros(rows, bool), np.zeros(rows, np.int64), Ragged.empty(0)
    if not _is_list(arrow_type) or not (_is_number_list(arrow_type.value_type)):
        raise UserError(f"{source}: column {column} must hold two lists of positions; it is of type {arrow_type}")
    present, halves, partners = [], [], [Ragged.empty(0)]
    for chunk in array.chunks:
        lengths, inner = _flatten(chunk)
        present.append(chunk.is_valid().to_numpy(zero_copy_only=False))
        halves.append(lengths)
        partners.append(_ragged(inner))
    return (
        np.concatenate([np.zeros(0, bool), *present]),
        np.concatenate([np.zeros(0, np.int64), *halves]),
        concatenate_ragged(partners),
    )


def concatenate_ragged(parts: Sequence[Ragged]) -> Ragged:
    """The entries of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([part.lengths for part in parts])
    return Ragged(np.concatenate([part.values for part in parts]), offsets_of(lengths))


def _is_list(arrow_type: pa.DataType) -> bool:
    return pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type) or pa.types.is_fixed_size_list(arrow_type)


def _is_number(arrow_type: pa.DataType) -> bool:
    return pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type) or pa.types.is_null(arrow_type)


def _is_number_list(arrow_type: pa.DataType) -> bool:
    return (_is_list(arrow_type) and _is_number(arrow_type.value_type)) or pa.types.is_null(arrow_type)


def _is_text(arrow_type: pa.DataType) -> bool:
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    return pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type) or pa.types.is_null(arrow_type)


def _flatten(array: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Lengths of an Arrow array's lists, a null being an empty one, and their values one after the other."""
    if pa.types.is_null(array.type):
        return np.zeros(len(array), np.int64), pa.array([], pa.null())
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    return lengths.to_numpy(zero_copy_only=False).astype(np.int64), array.flatten()


def _floats(array: pa.Array) -> np.ndarray:
    return pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _ragged(array: pa.Array) -> Ragged:
    lengths, values = _flatten(array)
    return Ragged(_floats(values), offsets_of(lengths))


def _texts(array: pa.Array) -> np.ndarray:
    return _objects(pc.cast(array, pa.string()).to_pylist())
