"""Columns of lists of records, from Python objects (pickles, JSON) and from Arrow (Parquet), into columnar form.

Whole columns are taken apart at once: one comprehension per field over all records, or Arrow's own buffers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from numbers import Real

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rna_s2.boxtables.schema import Faults, Lists, is_missing, offsets_of, wrong_kind
from rna_s2.boxtables.table import Ragged
from rna_s2.options.errors import UserError

_log = logging.getLogger(__name__)
_NUMBER_KINDS = {
    int, float, np.float64, np.float32, np.int64, np.int32, np.int16, np.int8, np.uint8, np.uint16, np.uint32, np.uint64
}


def lists_of_cells(
    cells: Sequence[object], column: str, source: str, faults: Faults, *, wanted: str, dimensions: int = 1
) -> list[Sequence]:
    """One sequence per row; a missing cell is an empty one, and so is one with a fault.

    Raises:
        UserError: no row holds a list, but some hold something else.
    """
    lists: list[Sequence] = []
    wrong = []
    found = False
    for row, cell in enumerate(cells):
        if isinstance(cell, (list, tuple)) or (isinstance(cell, np.ndarray) and 1 <= cell.ndim <= dimensions):
            lists.append(cell)
            found = True
        else:
            lists.append(())
            if not is_missing(cell):
                wrong.append(row)
    if wrong and not found:
        raise wrong_kind(source, column, wanted, wrong[0], cells[wrong[0]])
    for row in wrong:
        faults.add(row, column, f"holds {type(cells[row]).__name__}, not {wanted}")
    return lists


def numbers_of(values: Sequence[object]) -> tuple[np.ndarray, list[int]]:
    """``(n,)`` float64, NaN where a value is missing or no number, and the places of those that are no numbers."""
    if set(map(type, values)) <= _NUMBER_KINDS:
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


def ragged_of(lists: Sequence[Sequence]) -> tuple[Ragged, list[int]]:
    """Lists of values as :class:`Ragged`, and the places among all values of those that are no numbers."""
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    values, wrong = numbers_of(list(chain.from_iterable(lists)))
    return Ragged(values, offsets_of(lengths)), wrong


def records_from_objects(
    cells: Sequence[object],
    column: str,
    source: str,
    faults: Faults,
    *,
    numbers: Sequence[str],
    ragged: Sequence[str] = (),
    names: Sequence[str] = (),
    extra: bool = False,
) -> Lists:
    """A column of lists of dicts.

    Args:
        cells: ``(rows,)`` a list of dicts each, or a missing value.
        column, source: for messages.
        faults: takes the faults of rows whose cells are not lists of dicts of the right kind.
        numbers, ragged, names: keys that hold a number, a list of numbers, a text.
        extra: whether the other keys are taken as numbers too.

    Raises:
        UserError: the column holds no lists at all.
    """
    lists = lists_of_cells(cells, column, source, faults, wanted="lists of boxes")
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    records = list(chain.from_iterable(lists))
    row_of = np.repeat(np.arange(len(lists)), lengths)
    place = np.arange(len(records)) - offsets_of(lengths)[row_of]

    def fault(k: int, text: str) -> None:
        faults.add(row_of[k], column, f"box {place[k]} (from 0): {text}")

    if set(map(type, records)) - {dict}:
        for k, record in enumerate(records):
            if not isinstance(record, dict):
                fault(k, f"is {type(record).__name__}, not a record of {', '.join(numbers)}")
        records = [record if isinstance(record, dict) else {} for record in records]

    out_numbers: dict[str, np.ndarray] = {}
    for name in numbers:
        out_numbers[name], wrong = numbers_of([record.get(name) for record in records])
        for k in wrong:
            fault(k, f"{name} is {records[k][name]!r}, not a number")
    out_ragged: dict[str, Ragged] = {}
    for name in ragged:
        inner = [record.get(name) for record in records]
        if set(map(type, inner)) - {list, tuple}:
            for k, value in enumerate(inner):
                if not isinstance(value, (list, tuple)) and not (isinstance(value, np.ndarray) and value.ndim == 1):
                    if not is_missing(value):
                        fault(k, f"{name} is {value!r:.60}, not a list of numbers")
                    inner[k] = ()
        out_ragged[name], wrong = ragged_of(inner)
        holder = np.searchsorted(out_ragged[name].offsets, wrong, side="right") - 1
        for k in holder.tolist():
            fault(k, f"{name} holds something that is not a number")
    out_names = {name: _objects([record.get(name) for record in records]) for name in names}
    if extra:
        known = {*numbers, *ragged, *names}
        for key in dict.fromkeys(chain.from_iterable(records)):
            if key in known:
                continue
            values, wrong = numbers_of([record.get(key) for record in records])
            if wrong or not isinstance(key, str):
                _log.warning("%s: column %s: the boxes' key %r is not a number and is left out", source, column, key)
            else:
                out_numbers[key] = values
    return Lists(lengths, out_numbers, out_ragged, out_names)


def _objects(values: list) -> np.ndarray:
    out = np.empty(len(values), object)
    out[:] = values
    return out


def records_from_arrow(
    array: pa.ChunkedArray,
    column: str,
    source: str,
    *,
    numbers: Sequence[str],
    ragged: Sequence[str] = (),
    names: Sequence[str] = (),
    extra: bool = False,
) -> Lists:
    """A column of lists of structs, straight from its buffers; slices, chunks and nulls are taken care of.

    Arguments as :func:`records_from_objects`.

    Raises:
        UserError: the column is of another type, or a field of it is.
    """
    kind = array.type
    if pa.types.is_null(kind):
        kind = pa.list_(pa.null())
    if not _is_list(kind) or not (pa.types.is_struct(kind.value_type) or pa.types.is_null(kind.value_type)):
        raise UserError(f"{source}: column {column} must hold lists of boxes; it is of type {array.type}")
    struct = kind.value_type
    fields = [struct.field(k) for k in range(struct.num_fields)] if pa.types.is_struct(struct) else []
    type_of = {f.name: f.type for f in fields}
    if len(type_of) != len(fields):
        raise UserError(f"{source}: column {column}: a field of the boxes stands twice")
    chosen = list(numbers)
    for name in (f.name for f in fields if extra):
        if name in (*numbers, *ragged, *names):
            continue
        if _is_number(type_of[name]):
            chosen.append(name)
        else:
            _log.warning("%s: column %s: the boxes' key %r is not a number and is left out", source, column, name)
    for wanted, names_of_kind, fits in (
        ("numbers", numbers, _is_number), ("lists of numbers", ragged, _is_number_list), ("text", names, _is_text)
    ):
        for name in names_of_kind:
            if name in type_of and not fits(type_of[name]):
                raise UserError(f"{source}: column {column}: {name} must hold {wanted}; it is of type {type_of[name]}")

    parts: list[Lists] = []
    for chunk in array.chunks if array.num_chunks else [pa.array([], kind)]:
        lengths, records = _flatten(chunk)
        count = len(records)
        values = dict(zip(type_of, records.flatten(), strict=True)) if type_of else {}
        parts.append(
            Lists(
                lengths,
                {name: _floats(values[name]) if name in values else np.full(count, np.nan) for name in chosen},
                {name: _ragged(values[name]) if name in values else Ragged.empty(count) for name in ragged},
                {
                    name: _texts(values[name]) if name in values else np.full(count, None, object)
                    for name in names
                },
            )
        )
    return Lists(
        np.concatenate([part.lengths for part in parts]),
        {name: np.concatenate([part.numbers[name] for part in parts]) for name in chosen},
        {name: concatenate_ragged([part.ragged[name] for part in parts]) for name in ragged},
        {name: np.concatenate([part.names[name] for part in parts]) for name in names},
    )


def pairs_from_objects(
    cells: Sequence[object], column: str, source: str, faults: Faults
) -> tuple[np.ndarray, np.ndarray, Ragged]:
    """A column of two lists of positions per row, as :func:`rna_s2.boxtables.schema.check_pairs` takes it."""
    lists = lists_of_cells(cells, column, source, faults, wanted="two lists of positions", dimensions=2)
    halves = np.fromiter(map(len, lists), np.int64, len(lists))
    row_of = np.repeat(np.arange(len(lists)), halves)
    inner = list(chain.from_iterable(lists))
    for k, half in enumerate(inner):
        if not isinstance(half, (list, tuple)) and not (isinstance(half, np.ndarray) and half.ndim == 1):
            faults.add(row_of[k], column, f"holds {half!r:.60}, not two lists of positions")
            inner[k] = ()
    partners, wrong = ragged_of(inner)
    for k in (np.searchsorted(partners.offsets, wrong, side="right") - 1).tolist():
        faults.add(row_of[k], column, "holds something that is not a number")
    present = np.fromiter((not is_missing(cell) for cell in cells), bool, len(cells))
    return present, halves, partners


def pairs_from_arrow(array: pa.ChunkedArray, column: str, source: str) -> tuple[np.ndarray, np.ndarray, Ragged]:
    """The same from a column of lists of lists of numbers.

    Raises:
        UserError: the column is of another type.
    """
    kind = array.type
    if pa.types.is_null(kind):
        rows = len(array)
        return np.zeros(rows, bool), np.zeros(rows, np.int64), Ragged.empty(0)
    if not _is_list(kind) or not (_is_number_list(kind.value_type)):
        raise UserError(f"{source}: column {column} must hold two lists of positions; it is of type {kind}")
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
    return Ragged(
        np.concatenate([part.values for part in parts]), offsets_of(np.concatenate([part.lengths for part in parts]))
    )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)


def _is_number_list(kind: pa.DataType) -> bool:
    return (_is_list(kind) and _is_number(kind.value_type)) or pa.types.is_null(kind)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


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
