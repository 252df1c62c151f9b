"""Pickled tables read without running anything they ask for.

A pickle names functions and classes and has them called. Here each of the few names that a pickled table needs
(:data:`STAND_INS`) leads to an inert stand-in of this module, any other is refused. The stand-ins only write down what they
were given; :func:`_frame` then builds the DataFrame from these notes with checked values. So the pickle never holds a live
function, class, dtype or buffer of numpy, pandas or pyarrow, whose own restoring methods trust their input (numpy's would
read memory beyond a list that is too short, or take bytes for pointers).

Tables of pandas 1.0 and later and numpy 1.x and 2.x are understood: plain number, text and object columns, pandas'
nullable numbers, any plain index. Pickle protocols 2 to 5.
"""

from __future__ import annotations

import gc
import pickle
import re
from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa

from rna_s2.options.errors import UserError

PLAIN_DTYPE = re.compile(r"([biufcSU]\d{1,9}|O[48]?)")
"""numpy dtype codes a table may hold: numbers, fixed-width text, objects; no records, no subarrays."""

ENTRY_LIMIT = 2**40
"""No array of a table has this many entries; larger lengths in a pickle are nonsense and would overflow."""


class Refused(UserError):
    """The pickle asks for something that no table needs."""


class _Note:
    """What a pickle gave to a function or class: its arguments, and the state set afterwards."""

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> _Note:
        note = object.__new__(cls)
        note.args = args
        note.state = None
        return note

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _notes(names: str) -> Iterator[type[_Note]]:
    """A class of notes for each name."""
    return (type(name, (_Note,), {}) for name in names.split())


_Frame, _Series, _Manager, _Block, _Slice = _notes("_Frame _Series _Manager _Block _Slice")
_NewIndex, _Index, _RangeIndex, _MultiIndex = _notes("_NewIndex _Index _RangeIndex _MultiIndex")
_DType, _Array, _StringArray, _MaskedArray = _notes("_DType _Array _StringArray _MaskedArray")
_Extension, _ExtensionType, _ArrowStringArray = _notes("_Extension _ExtensionType _ArrowStringArray")
_ArrowArray, _ArrowChunked, _ArrowBuffer, _ArrowType = _notes("_ArrowArray _ArrowChunked _ArrowBuffer _ArrowType")


class _RestoredArray(np.ndarray):
    """An array that the pickle fills after making it (once); :func:`_plain_array` gives the ordinary one."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        real = _real_dtype(dtype)
        entries = _entries(shape)
        if self.size or not isinstance(fortran, (bool, int)):
            raise ValueError("an array is set twice")
        if real.kind == "O":
            if type(data) is not list or len(data) != entries:
                raise ValueError("an object array's content does not fit its shape")
        elif not isinstance(data, (bytes, bytearray)) or len(data) != entries * real.itemsize:
            raise ValueError("an array's content does not fit its shape")
        state = (1, shape, real, bool(fortran), data if real.kind == "O" else bytes(data))
        super().__setstate__(state)


def _real_dtype(dtype: Any) -> np.dtype:
    """The dtype of a note with ``args`` (code, align, copy) and ``state`` (version, byte order, subarray, names, fields)."""
    if type(dtype) is not _DType:
        raise ValueError("something else where a dtype belongs")
    code = dtype.args[0] if dtype.args else None
    if not isinstance(code, str) or not PLAIN_DTYPE.fullmatch(code):
        raise Refused(f"the dtype {code!r} has no place in a table")
    order: Any = "="
    if dtype.state is not None:
        if not isinstance(dtype.state, tuple) or len(dtype.state) < 5:
            raise ValueError("a dtype of unknown form")
        order = dtype.state[1]
        if order not in ("<", ">", "=", "|") or any(part is not None for part in dtype.state[2:5]):
            raise Refused(f"the dtype {code!r} with fields or a subarray has no place in a table")
    return np.dtype(object) if code[0] == "O" else np.dtype(code).newbyteorder(order)


def _entries(shape: Any) -> int:
    """Number of entries of an array of this shape, which must be a tuple of counts."""
    if type(shape) is not tuple or any(type(n) is not int or not 0 <= n < ENTRY_LIMIT for n in shape):
        raise ValueError("an array's shape is not a tuple of counts")
    entries = prod(shape)
    if entries >= ENTRY_LIMIT:
        raise ValueError("an array's shape is too large")
    return entries


class _Function:
    """A stand-in for a function whose result the pickle needs at once. It has no attributes that a pickle could set."""

    __slots__ = ("_function",)
    _function: Any

    def __init__(self, function: Any) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a function has no state")


def _reconstruct(array_class: Any, shape: Any, typecode: Any) -> np.ndarray:
    if array_class is not _Array or shape != (0,):
        raise ValueError("an array of unknown class")
    return np.empty((0,), np.int8).view(_RestoredArray)


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> np.ndarray:
    real = _real_dtype(dtype)
    known = isinstance(buffer, (bytes, bytearray)) and order in ("C", "F") and axis_order is None
    if real.kind == "O" or not known:
        raise ValueError("an array of unknown form")
    if len(buffer) != _entries(shape) * real.itemsize:
        raise ValueError("an array's content does not fit its shape")
    return np.frombuffer(buffer, real).reshape(shape, order=order).copy(order="K").view(_RestoredArray)


def _scalar(dtype: Any, data: Any) -> Any:
    real = _real_dtype(dtype)
    if isinstance(data, str):
        data = data.encode("latin-1")
    if real.kind == "O" or not isinstance(data, bytes) or len(data) != real.itemsize:
        raise ValueError("a number of unknown form")
    return np.frombuffer(data, real)[0]


def _latin_bytes(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes of unknown form")
    return text.encode("latin-1")


def _bytearray(*args: Any) -> bytearray:
    if not args:
        return bytearray()
    if len(args) == 2:
        return bytearray(_latin_bytes(*args))
    if len(args) != 1 or not isinstance(args[0], bytes):
        raise ValueError("bytes of unknown form")
    return bytearray(args[0])


_WHOLE_NUMBERS = "Int8Dtype Int16Dtype Int32Dtype Int64Dtype UInt8Dtype UInt16Dtype UInt32Dtype UInt64Dtype"

STAND_INS: dict[tuple[str, str], Any] = {
    (module, name): stand_in
    for modules, names, stand_in in (
        ("builtins __builtin__", "slice", _Slice),
        ("builtins __builtin__", "bytes", _Function(lambda: b"")),  # what pickle protocol 2 calls for b""
        ("builtins __builtin__", "bytearray", _Function(_bytearray)),
        ("_codecs", "encode", _Function(_latin_bytes)),
        ("numpy", "ndarray", _Array),
        ("numpy", "dtype", _DType),
        ("numpy.core.multiarray numpy._core.multiarray", "_reconstruct", _Function(_reconstruct)),
        ("numpy.core.multiarray numpy._core.multiarray", "scalar", _Function(_scalar)),
        ("numpy.core.numeric numpy._core.numeric", "_frombuffer", _Function(_frombuffer)),
        ("pandas pandas.core.frame", "DataFrame", _Frame),
        # A Series is no table; it is understood so far that the message can say so.
        ("pandas pandas.core.series", "Series", _Series),
        ("pandas.core.internals.managers", "SingleBlockManager BlockManager", _Manager),
        ("pandas.core.internals", "BlockManager", _Manager),
        ("pandas._libs.internals", "_unpickle_block", _Block),
        ("pandas.core.internals.blocks", "new_block", _Block),
        ("pandas.core.indexes.base", "_new_Index", _NewIndex),
        ("pandas pandas.core.indexes.base", "Index", _Index),
        ("pandas pandas.core.indexes.range", "RangeIndex", _RangeIndex),
        ("pandas pandas.core.indexes.multi", "MultiIndex", _MultiIndex),
        ("pandas.core.indexes.numeric", "Int64Index UInt64Index Float64Index", _Index),
        # A missing value, and the None that stands for it, are the same to a table.
        ("pandas pandas._libs.missing", "NA", None),
        # Columns of pandas' own types: text, and numbers that may be missing.
        ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked", _Extension),
        ("pandas.arrays pandas.core.arrays.string_", "StringArray", _StringArray),
        ("pandas.core.arrays.string_", "StringArrayNumpySemantics", _StringArray),
        ("pandas.arrays pandas.core.arrays.string_arrow", "ArrowStringArray", _ArrowStringArray),
        ("pandas.core.arrays.string_arrow", "ArrowStringArrayNumpySemantics", _ArrowStringArray),
        ("pandas.arrays pandas.core.arrays.integer", "IntegerArray", _MaskedArray),
        ("pandas.arrays pandas.core.arrays.floating", "FloatingArray", _MaskedArray),
        ("pandas.arrays pandas.core.arrays.boolean", "BooleanArray", _MaskedArray),
        ("pandas pandas.core.arrays.string_", "StringDtype", _ExtensionType),
        ("pandas pandas.core.arrays.boolean", "BooleanDtype", _ExtensionType),
        ("pandas pandas.core.arrays.integer", _WHOLE_NUMBERS, _ExtensionType),
        ("pandas pandas.core.arrays.floating", "Float32Dtype Float64Dtype", _ExtensionType),
        ("pyarrow.lib", "_restore_array", _ArrowArray),
        ("pyarrow.lib", "chunked_array", _ArrowChunked),
        ("pyarrow.lib", "py_buffer", _ArrowBuffer),
        ("pyarrow.lib", "type_for_alias", _ArrowType),
    )
    for module in modules.split()
    for name in names.split()
}
"""Every name that a pickled table may use, with the stand-in that takes its place."""


class _Unpickler(pickle.Unpickler):
    """Finds stand-ins only. Persistent ids and out-of-band buffers are refused by the base class."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name; :class:`Refused` for one that no table needs."""
        if (module, name) not in STAND_INS:
            raise Refused(f"asks to run {module}.{name}, which no table needs")
        return STAND_INS[module, name]


def read_pickled_frame(stream: BinaryIO, source: str, *, unpacked_later: Collection[str] = ()) -> pd.DataFrame:
    """The DataFrame in a pickle, with nothing of the pickle executed.

    Args:
        stream: the uncompressed pickle, at its beginning.
        source: the file's name for messages.
        unpacked_later: columns whose cells the caller takes apart and checks itself; there, an array within a cell may be
            of a subclass of ndarray, and a cell may hold an inert stand-in. Elsewhere neither remains.

    Raises:
        UserError: the pickle is broken, holds something other than a DataFrame, or asks for a function or class outside
            :data:`STAND_INS` (named in the message).
        OSError, EOFError, zlib.error: from reading ``stream``.
    """
    head = stream.peek(2)[:2] if hasattr(stream, "peek") else b""
    try:
        loaded = _Unpickler(stream).load()
        if type(loaded) is not _Frame:
            raise UserError(f"{source}: holds {_type_name(loaded)}, not a pandas DataFrame; give an S1 prediction table")
        frame = _frame(loaded)
        for position, name in enumerate(frame.columns):
            dtype = frame.dtypes.iloc[position]
            if name not in unpacked_later and isinstance(dtype, np.dtype) and dtype.kind == "O":
                cells = np.empty(len(frame), object)
                cells[:] = [_plain_value(cell, name) for cell in frame.iloc[:, position]]
                frame.isetitem(position, pd.Series(cells, index=frame.index, dtype=object))
        return frame
    except Refused as refused:
        raise UserError(
            f"{source}: {refused}; the file was refused and nothing in it was executed. Where you trust its origin, "
            "convert it to Parquet with pandas first"
        ) from refused
    except (UserError, OSError, EOFError):
        raise
    except Exception as error:  # a hostile or broken pickle can make the unpickler raise anything
        if head[:1] == b"\x80":
            brief = f"{type(error).__name__}: {error}"[:200]
            raise UserError(f"{source}: is a pickle that cannot be read as a table ({brief})") from error
        raise UserError(f"{source}: is neither a Parquet file nor a pickle of a table; give one of these") from error


def _type_name(loaded: Any) -> str:
    if isinstance(loaded, _Note):
        return "a Series" if type(loaded) is _Series else "another pandas object"
    return "a numpy array" if isinstance(loaded, np.ndarray) else f"a Python {type(loaded).__name__}"


@contextmanager
def collector_paused() -> Iterator[None]:
    """The cyclic collector rests: among millions of dicts and lists it would run over and over and find nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _frame(note: _Note) -> pd.DataFrame:
    """The DataFrame from its notes."""
    state = note.state
    manager = state.get("_mgr", state.get("_data"))
    if type(manager) is not _Manager:
        raise ValueError("a DataFrame without its blocks")
    if manager.state is not None:  # pandas before 1.3: (axes, values, items, {"0.14.1": {"axes", "blocks"}})
        content = manager.state[3]["0.14.1"]
        axes = content["axes"]
        blocks = [(block["values"], block["mgr_locs"]) for block in content["blocks"]]
    else:
        blocks = [(block.args[0], block.args[1]) for block in manager.args[0] if type(block) is _Block]
        axes = manager.args[1]
    columns, index = map(_index, axes)
    series: dict[int, pd.Series] = {}
    for values, placement in blocks:
        places = _places(placement, len(columns))
        content = _values(values)
        if content.ndim == 1:
            content = [content]
        if len(places) != len(content):
            raise ValueError("a block does not fit its columns")
        for place, column in zip(places, content, strict=True):
            series[place] = pd.Series(column, index=index, dtype=column.dtype)
    if sorted(series) != list(range(len(columns))):
        raise ValueError("columns are missing")
    frame = pd.DataFrame({place: series[place] for place in range(len(columns))}, index=index)
    frame.columns = columns
    return frame


def _places(placement: Any, columns: int) -> list[int]:
    if type(placement) is _Slice:
        return list(range(columns)[slice(*placement.args)])
    return [int(place) for place in _plain_array(placement)]


def _plain_array(values: Any) -> np.ndarray:
    if not isinstance(values, np.ndarray):
        raise ValueError("something else where an array belongs")
    return values.view(np.ndarray)


def _values(values: Any) -> Any:
    """A block's content: an array of numpy, or one of pandas' own."""
    stand_in = type(values)
    if stand_in is _Extension and values.args[0] is _StringArray:  # args: class, checksum, state
        (content,) = (part for part in (values.state or values.args[2]) if isinstance(part, np.ndarray))
        return pd.array(_plain_array(content).ravel(), dtype="string")
    if stand_in is _ArrowStringArray:
        text = _arrow_text(values.state.get("_pa_array", values.state.get("_data")))
        dtype = values.state.get("_dtype")
        # The missing value of a text column is NaN (dtype ``str``) or NA (dtype ``string``).
        nan = type(dtype) is _ExtensionType and len(dtype.args) == 2 and isinstance(dtype.args[1], float)
        return pd.array(text.to_pylist(), dtype="str" if nan else "string")
    if stand_in is _MaskedArray:
        content, mask = _plain_array(values.state["_data"]), _plain_array(values.state["_mask"])
        if mask.dtype != bool or mask.shape != content.shape or content.ndim != 1 or content.dtype.kind not in "biuf":
            raise ValueError("a nullable column whose mask does not fit")
        wrap = {"b": pd.arrays.BooleanArray, "f": pd.arrays.FloatingArray}
        return wrap.get(content.dtype.kind, pd.arrays.IntegerArray)(content, mask)
    array = _plain_array(values)
    return array.astype(array.dtype.newbyteorder("="), copy=False) if array.dtype.kind != "O" else array


def _arrow_text(note: Any) -> pa.Array | pa.ChunkedArray:
    """An Arrow array of text from its notes, its buffers checked in full before anything reads them."""
    if type(note) is _ArrowChunked:
        return pa.chunked_array([_arrow_text(chunk) for chunk in note.args[0]], type=pa.large_string())
    if type(note) is not _ArrowArray:
        raise ValueError("something else where text belongs")
    arrow_type, length, _, offset, buffers, children, dictionary = note.args[0][:7]
    types = {"string": pa.string(), "large_string": pa.large_string()}
    if type(arrow_type) is not _ArrowType or arrow_type.args[0] not in types or children or dictionary is not None:
        raise ValueError("an Arrow array that is not text")
    _entries((length, offset))
    if any(b is not None and not (type(b) is _ArrowBuffer and isinstance(b.args[0], (bytes, bytearray))) for b in buffers):
        raise ValueError("something else where a buffer belongs")
    real = [None if buffer is None else pa.py_buffer(bytes(buffer.args[0])) for buffer in buffers]
    array = pa.Array.from_buffers(types[arrow_type.args[0]], length, real, offset=offset)
    array.validate(full=True)
    return array.cast(pa.large_string())


def _index(note: Any) -> pd.Index:
    """An index from its notes."""
    if type(note) is not _NewIndex:
        raise ValueError("something else where an index belongs")
    index_class, parts = note.args
    name = parts.get("name")
    if index_class is _RangeIndex:
        return pd.RangeIndex(int(parts["start"]), int(parts["stop"]), int(parts["step"]), name=name)
    if index_class is _MultiIndex:
        return pd.MultiIndex(
            levels=[_index(level) for level in parts["levels"]],
            codes=[_plain_array(codes) for codes in parts["codes"]],
            names=list(parts["names"]),
        )
    if index_class is not _Index:
        raise ValueError("an index of unknown class")
    values = _values(parts["data"])
    return pd.Index(values, dtype=values.dtype, name=name)


def _plain_value(value: Any, column: Hashable) -> Any:
    """A cell of an object column as ordinary Python and numpy objects, containers included."""
    if isinstance(value, _RestoredArray):
        value = value.view(np.ndarray)
        if value.dtype.kind == "O":
            value = np.fromiter((_plain_value(v, column) for v in value.ravel()), object, value.size).reshape(value.shape)
        return value
    if type(value) in (list, tuple):
        return type(value)(_plain_value(v, column) for v in value)
    if type(value) is dict:
        return {_plain_value(k, column): _plain_value(v, column) for k, v in value.items()}
    if isinstance(value, (_Note, _Function)) or (isinstance(value, type) and issubclass(value, _Note)):
        raise Refused(f"column {column} holds pandas or numpy objects within its cells")
    return value
