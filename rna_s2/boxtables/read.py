"""Reading S1 prediction tables: Parquet and field pickles, checked, into columnar form."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rna_s2.boxtables import columns, schema
from rna_s2.boxtables.columns import Faults, ListColumn, Lists
from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.boxtables.unpickle import collector_paused, read_pickled_frame
from rna_s2.options.errors import UserError
from rna_s2.options.files import file_digest

_log = logging.getLogger(__name__)
_GZIP_MAGIC = b"\x1f\x8b"
_PARQUET_MAGIC = b"PAR1"
_CHUNK = 2**20


@dataclass(frozen=True)
class ReadResult:
    """A table as read.

    Attributes:
        table: the rows without a fault.
        rejects: one line per row left out: ``row`` (0-based place in the file), ``index`` (its label), ``column`` and
            ``reason`` of the first fault found.
    """

    table: BoxTable
    rejects: pd.DataFrame


@dataclass(frozen=True)
class _Source:
    """A table in the form it came in: how to take its columns apart.

    Attributes:
        frame: every column but the lists of boxes and ``one_idx``; ``names``: names of all columns.
        lists: a column of lists in columnar form; notes faults.
        pairs: the column ``one_idx`` as :func:`rna_s2.boxtables.schema.check_pairs` takes it; notes faults.
        missing: ``column`` to ``(rows,)`` bool, true where the cell is missing.
    """

    frame: pd.DataFrame
    names: list[str]
    lists: Callable[[ListColumn, Faults], Lists]
    pairs: Callable[[Faults], tuple[np.ndarray, np.ndarray, Ragged]]
    missing: Callable[[str], np.ndarray]


def read_table(path: str | Path, *, require_targets: bool = True, require_proposals: bool = True) -> ReadResult:
    """An S1 prediction table, raw or pruned, from Parquet or a pickle of a pandas DataFrame (gzip or not).

    The type of file follows from its content. Pickles are read without executing them
    (:func:`rna_s2.boxtables.unpickle.read_pickled_frame`).

    Args:
        path: a local file.
        require_targets: whether the target's local structures must be there. Otherwise ``targets`` is None where the
            column is absent or has gaps.
        require_proposals: whether the three box lists must be there; otherwise an absent one proposes nothing.

    Raises:
        UserError: the file cannot be read, is broken or of another type, or its columns are.
    """
    path = Path(path)
    source = str(path)
    digest = file_digest(_existing_file(path))
    with path.open("rb") as stream, collector_paused():
        head = stream.read(4)
        stream.seek(0)
        if head == _PARQUET_MAGIC:
            opened = _from_parquet(path, source)
        else:
            opened = _from_pickle(stream, source, packed=head[:2] == _GZIP_MAGIC)
        result = _read(opened, source, require_targets=require_targets, require_proposals=require_proposals)
        del opened
    return replace(result, table=replace(result.table, digest=digest))


def table_from_frame(
    frame: pd.DataFrame, *, source: str = "(input)", require_targets: bool = False, require_proposals: bool = True
) -> ReadResult:
    """The same checks for a DataFrame in memory; numbers may be floats with whole values, lists may be arrays.

    Raises:
        UserError: the frame is empty, or its columns are wrong.
    """
    opened = _from_frame(frame, source)
    return _read(opened, source, require_targets=require_targets, require_proposals=require_proposals)


def _existing_file(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path}: no such file; give the path of an S1 prediction table")
    if not path.is_file():
        raise UserError(f"{path}: is not a file; give the path of an S1 prediction table (.parquet, .pkl or .pkl.gz)")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is an empty file; give an S1 prediction table")
    return path


def _from_pickle(stream: BinaryIO, source: str, *, packed: bool) -> _Source:
    try:
        with gzip.open(stream) if packed else nullcontext(stream) as unpacked:
            later = (schema.ONE_IDX, *schema.COLUMNS)
            frame = read_pickled_frame(cast(BinaryIO, unpacked), source, unpacked_later=later)
            while packed and unpacked.read(_CHUNK):  # to the end, where the checksum stands
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = "gzip data is truncated or damaged" if packed else "pickle is truncated"
        raise UserError(f"{source}: the {what}; copy the file again") from error
    return _from_frame(frame, source)


def _from_frame(frame: pd.DataFrame, source: str) -> _Source:
    def cells(column: str) -> np.ndarray:
        return frame[column].astype(object).to_numpy()

    return _Source(
        frame=frame.loc[:, [name not in (schema.ONE_IDX, *schema.COLUMNS) for name in frame.columns]],
        names=list(frame.columns),
        lists=lambda column, faults: column.from_objects(cells(column.name), source, faults),
        pairs=lambda faults: columns.pairs_from_objects(cells(schema.ONE_IDX), schema.ONE_IDX, source, faults),
        missing=lambda column: np.fromiter(map(columns.is_missing, cells(column)), bool, len(frame)),
    )


def _from_parquet(path: Path, source: str) -> _Source:
    try:
        table = pq.ParquetFile(path).read()
        inner = [name for name in (schema.ONE_IDX, *schema.COLUMNS) if name in table.column_names]
        frame = table.drop_columns(inner).to_pandas()
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{source}: is not a Parquet file that can be read ({str(error)[:200]})") from error

    return _Source(
        frame=frame,
        names=[name for name in table.column_names if name in inner or name in frame.columns],
        lists=lambda column, faults: column.from_arrow(table[column.name], source),
        pairs=lambda faults: columns.pairs_from_arrow(table[schema.ONE_IDX], schema.ONE_IDX, source),
        missing=lambda column: table[column].is_null().to_numpy(),
    )


def _read(opened: _Source, source: str, *, require_targets: bool, require_proposals: bool) -> ReadResult:
    schema.check_columns(opened.names, source, require_targets=require_targets, require_proposals=require_proposals)
    rows = len(opened.frame)
    if rows == 0:
        raise UserError(f"{source}: the table has no rows")
    faults = Faults()
    sequences = opened.frame[schema.SEQ].astype(object).to_numpy()
    lengths = schema.check_sequences(sequences, source, faults)
    pairs = None
    if schema.ONE_IDX in opened.names:
        pairs = opened.pairs(faults)
        schema.check_pairs(*pairs, lengths, faults)
    target = _target_column(opened, faults, source, required=require_targets)
    others = [name for name in schema.COLUMNS if name not in schema.TARGET_COLUMNS and name in opened.names]
    lists: dict[str, Lists] = {}
    for name in [*([] if target is None else [target]), *others]:
        lists[name] = opened.lists(schema.COLUMNS[name], faults)
        schema.COLUMNS[name].check(lists[name], lengths, name, faults)

    rejects = faults.rejects(opened.frame.index)
    kept = faults.kept(rows)
    frame = opened.frame.iloc[kept].copy()
    frame.columns = pd.Index([str(name) for name in frame.columns])
    frame[schema.SEQ] = pd.Series(list(sequences[kept]), index=frame.index, dtype="str")
    if pairs is not None:
        frame[schema.ONE_IDX] = _pair_cells(*pairs, kept, frame.index)
        frame = frame[[str(name) for name in opened.names if name not in schema.COLUMNS]]
    if len(kept) < rows:
        lists = {name: column.take_rows(kept) for name, column in lists.items()}
        _log.warning(
            "%s: %d of %d rows rejected; the first: row %d, column %s, %s",
            source, rows - len(kept), rows, *rejects.loc[0, ["row", "column", "reason"]],
        )
    return ReadResult(BoxTable(frame, source=source, **schema.table_parts(lists, len(kept))), rejects)


def _target_column(opened: _Source, faults: Faults, source: str, *, required: bool) -> str | None:
    """The column that holds the target structures; None where there is none, or one with gaps that is not required."""
    column = next((name for name in schema.TARGET_COLUMNS if name in opened.names), None)
    if column is None:
        return None
    missing = opened.missing(column)
    if required:
        for row in np.flatnonzero(missing):
            faults.add(row, column, "the target structure is missing; [] stands for one without local structures")
    elif missing.any():
        _log.info("%s: column %s has gaps, so the table is read as one without targets", source, column)
        return None
    return column


def _pair_cells(
    present: np.ndarray, halves: np.ndarray, partners: Ragged, kept: np.ndarray, index: pd.Index
) -> pd.Series:
    """The kept rows of ``one_idx`` as cells: a tuple of two lists of int, None where missing."""
    first = columns.offsets_of(halves)[:-1]
    starts = partners.offsets.tolist()
    # A rejected row's values may be no whole numbers; they are not among the kept cells.
    values = np.nan_to_num(partners.values, posinf=0, neginf=0).astype(np.int64).tolist()
    cells = np.empty(len(kept), object)
    for place, row in enumerate(kept.tolist()):
        if present[row]:
            i, j, end = starts[first[row]: first[row] + 3]
            cells[place] = (values[i:j], values[j:end])
    return pd.Series(cells, index=index, dtype=object)
