"""Reading S1 prediction tables: Parquet and field pickles, checked, into columnar form."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rna_s2.boxtables import columns, schema
from rna_s2.boxtables.schema import Faults, Lists
from rna_s2.boxtables.table import BoundingBoxes, BoxTable, Ragged
from rna_s2.boxtables.unpickle import collector_paused, read_pickled_frame
from rna_s2.options.errors import UserError
from rna_s2.options.files import file_digest
from rna_s2.rna.boxes import BOX_COLUMNS, Boxes, top_left

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
        frame: every column but the lists of boxes and ``one_idx``.
        names: names of all columns.
        records: ``(column, faults, **fields)`` to :class:`Lists`.
        pairs: ``faults`` to what :func:`rna_s2.boxtables.schema.check_pairs` takes.
        missing: ``column`` to ``(rows,)`` bool, true where the cell is missing.
        structures: the column ``bounding_boxes`` as :class:`Lists`.
    """

    frame: pd.DataFrame
    names: list[str]
    records: Callable[..., Lists]
    pairs: Callable[[Faults], tuple[np.ndarray, np.ndarray, Ragged]]
    missing: Callable[[str], np.ndarray]
    structures: Callable[[Faults], Lists]


def read_table(path: str | Path, *, require_targets: bool = True, require_proposals: bool = True) -> ReadResult:
    """An S1 prediction table, raw or pruned, from Parquet or a pickle of a pandas DataFrame (gzip or not).

    The kind of file is told by its content. Pickles are read without executing them
    (:func:`rna_s2.boxtables.unpickle.read_pickled_frame`).

    Args:
        path: a local file.
        require_targets: whether the target's local structures must be there. Otherwise ``targets`` is None where the
            column is absent or has gaps.
        require_proposals: whether the three box lists must be there; otherwise an absent one proposes nothing.

    Raises:
        UserError: the file cannot be read, is broken or of another kind, or its columns are.
    """
    path = Path(path)
    source = str(path)
    digest = file_digest(_existing_file(path))
    with path.open("rb") as stream, collector_paused():
        head = stream.read(4)
        stream.seek(0)
        if head == _PARQUET_MAGIC:
            opened = _from_parquet(path, source)
        elif head[:2] == _GZIP_MAGIC:
            opened = _from_gzip(stream, source)
        else:
            opened = _from_plain_pickle(stream, source)
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
    return _read(
        _from_frame(frame, source), source, require_targets=require_targets, require_proposals=require_proposals
    )


def _existing_file(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path}: no such file; give the path of an S1 prediction table")
    if not path.is_file():
        raise UserError(f"{path}: is not a file; give the path of an S1 prediction table (.parquet, .pkl or .pkl.gz)")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is an empty file; give an S1 prediction table")
    return path


def _from_gzip(stream: BinaryIO, source: str) -> _Source:
    try:
        with gzip.open(stream) as unpacked:
            opened = _from_pickle(unpacked, source)
            while unpacked.read(_CHUNK):  # to the end, where the checksum stands
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{source}: the gzip data is truncated or damaged; copy the file again") from error
    return opened


def _from_plain_pickle(stream: BinaryIO, source: str) -> _Source:
    try:
        return _from_pickle(stream, source)
    except EOFError as error:
        raise UserError(f"{source}: the pickle is truncated; copy the file again") from error


def _from_pickle(stream: BinaryIO, source: str) -> _Source:
    frame = read_pickled_frame(stream, source, unpacked_later=(schema.ONE_IDX, *schema.LIST_COLUMNS))
    return _from_frame(frame, source)


def _from_frame(frame: pd.DataFrame, source: str) -> _Source:
    def cells(column: str) -> Sequence[object]:
        return frame[column].astype(object).to_numpy()

    def records(column: str, faults: Faults, **fields: Any) -> Lists:
        return columns.records_from_objects(cells(column), column, source, faults, **fields)

    return _Source(
        frame=frame.loc[:, [name not in (schema.ONE_IDX, *schema.LIST_COLUMNS) for name in frame.columns]],
        names=list(frame.columns),
        records=records,
        pairs=lambda faults: columns.pairs_from_objects(cells(schema.ONE_IDX), schema.ONE_IDX, source, faults),
        missing=lambda column: np.fromiter(map(schema.is_missing, cells(column)), bool, len(frame)),
        structures=lambda faults: _structures_from_objects(cells(schema.BOUNDING_BOXES), source, faults),
    )


def _structures_from_objects(cells: Sequence[object], source: str, faults: Faults) -> Lists:
    """The column ``bounding_boxes``: entries ``((x, y), (siz_x, siz_y), type)``, or records of these names."""
    column = schema.BOUNDING_BOXES
    lists = columns.lists_of_cells(cells, column, source, faults, wanted="lists of local structures", dimensions=3)
    as_records: list[list[dict[str, object]]] = []
    for row, entries in enumerate(lists):
        as_records.append([])
        for place, entry in enumerate(entries):
            if isinstance(entry, dict):
                as_records[-1].append(entry)
                continue
            try:
                (x, y), (siz_x, siz_y), name = entry
            except (TypeError, ValueError):
                faults.add(row, column, f"entry {place} (from 0) is not of the form ((x, y), (siz_x, siz_y), type)")
                continue
            as_records[-1].append({**dict(zip(schema.TOP_LEFT, (x, y, siz_x, siz_y), strict=True)), "type": name})
    return columns.records_from_objects(
        as_records, column, source, faults, numbers=schema.TOP_LEFT, names=(schema.STRUCTURE_NAME,)
    )


def _from_parquet(path: Path, source: str) -> _Source:
    try:
        table = pq.ParquetFile(path).read()
        inner = [name for name in (schema.ONE_IDX, *schema.LIST_COLUMNS) if name in table.column_names]
        frame = table.drop_columns(inner).to_pandas()
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{source}: is not a Parquet file that can be read ({str(error)[:200]})") from error

    def records(column: str, faults: Faults, **fields: Any) -> Lists:
        return columns.records_from_arrow(table[column], column, source, **fields)

    def structures(faults: Faults) -> Lists:
        return records(schema.BOUNDING_BOXES, faults, numbers=schema.TOP_LEFT, names=(schema.STRUCTURE_NAME,))

    return _Source(
        frame=frame,
        names=[name for name in table.column_names if name in inner or name in frame.columns],
        records=records,
        pairs=lambda faults: columns.pairs_from_arrow(table[schema.ONE_IDX], schema.ONE_IDX, source),
        missing=lambda column: table[column].is_null().to_numpy(),
        structures=structures,
    )


def _read(opened: _Source, source: str, *, require_targets: bool, require_proposals: bool) -> ReadResult:
    schema.check_columns(
        opened.names, source, require_targets=require_targets, require_proposals=require_proposals
    )
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
    structures = _target_structures(opened, lengths, faults, source, required=require_targets)
    proposals = []
    for column in BOX_COLUMNS:
        if column in opened.names:
            lists = opened.records(
                column, faults, numbers=schema.COORDINATES, ragged=schema.PROBABILITIES, extra=True
            )
        else:
            lists = _no_proposals(rows)
        schema.check_proposals(lists, column, faults)
        proposals.append(lists)

    rejects = faults.rejects(opened.frame.index)
    kept = faults.kept(rows)
    frame = opened.frame.iloc[kept].copy()
    frame.columns = pd.Index([str(name) for name in frame.columns])
    frame[schema.SEQ] = pd.Series(list(sequences[kept]), index=frame.index, dtype="str")
    if pairs is not None:
        frame[schema.ONE_IDX] = _pair_cells(*pairs, kept, frame.index)
        frame = frame[[str(name) for name in opened.names if name not in schema.LIST_COLUMNS]]
    if len(kept) < rows:
        proposals = [lists.take_rows(kept) for lists in proposals]
        structures = None if structures is None else structures.take_rows(kept)
        _log.warning(
            "%s: %d of %d rows rejected; the first: row %d, column %s, %s",
            source, rows - len(kept), rows, *rejects.loc[0, ["row", "column", "reason"]],
        )
    boxes, ragged, extra = _merge(proposals)
    bounding_boxes = None if structures is None else _bounding_boxes(structures)
    table = BoxTable(
        frame=frame,
        proposals=boxes,
        targets=None if bounding_boxes is None else bounding_boxes.boxes(),
        prob_sm=ragged["prob_sm"],
        prob_sl=ragged["prob_sl"],
        extra=extra,
        source=source,
        bounding_boxes=bounding_boxes,
    )
    return ReadResult(table, rejects)


def _target_structures(
    opened: _Source, lengths: np.ndarray, faults: Faults, source: str, *, required: bool
) -> Lists | None:
    """The target's local structures: of ``bounding_boxes``, else of ``df_target``; None where there are none."""
    column = next((name for name in (schema.BOUNDING_BOXES, schema.DF_TARGET) if name in opened.names), None)
    if column is None:
        return None
    missing = opened.missing(column)
    if required:
        for row in np.flatnonzero(missing):
            faults.add(row, column, "the target structure is missing; [] stands for one without local structures")
    elif missing.any():
        _log.info("%s: column %s has gaps, so the table is read as one without targets", source, column)
        return None
    if column == schema.BOUNDING_BOXES:
        structures = opened.structures(faults)
    else:
        found = opened.records(column, faults, numbers=schema.COORDINATES, names=(schema.TARGET_TYPE,))
        bb_x, bb_y, siz_x, siz_y = (found.numbers[name] for name in schema.COORDINATES)
        structures = Lists(
            found.lengths,
            dict(zip(schema.TOP_LEFT, (*top_left(bb_x, bb_y, siz_y), siz_x, siz_y), strict=True)),
            names={schema.STRUCTURE_NAME: found.names[schema.TARGET_TYPE]},
        )
    schema.check_bounding_boxes(structures, lengths, column, faults)
    return structures


def _no_proposals(rows: int) -> Lists:
    return Lists(
        np.zeros(rows, np.int64),
        {name: np.zeros(0) for name in schema.COORDINATES},
        {name: Ragged.empty(0) for name in schema.PROBABILITIES},
    )


def _pair_cells(
    present: np.ndarray, halves: np.ndarray, partners: Ragged, kept: np.ndarray, index: pd.Index
) -> pd.Series:
    """The kept rows of ``one_idx`` as cells: a tuple of two lists of int, None where missing."""
    first = schema.offsets_of(halves)[:-1]
    starts = partners.offsets.tolist()
    # A rejected row's values may be no whole numbers; they are not among the kept cells.
    values = np.nan_to_num(partners.values, posinf=0, neginf=0).astype(np.int64).tolist()
    cells = np.empty(len(kept), object)
    for place, row in enumerate(kept.tolist()):
        if present[row]:
            i, j, end = starts[first[row]: first[row] + 3]
            cells[place] = (values[i:j], values[j:end])
    return pd.Series(cells, index=index, dtype=object)


def _merge(proposals: list[Lists]) -> tuple[Boxes, dict[str, Ragged], dict[str, np.ndarray]]:
    """One list per type to boxes grouped by row and ordered by type, their probabilities and further numbers."""
    rows = len(proposals[0].lengths)
    row_of = np.concatenate([np.repeat(np.arange(rows), lists.lengths) for lists in proposals])
    order = np.argsort(row_of, kind="stable")

    def merged(name: str) -> np.ndarray:
        return np.concatenate(
            [lists.numbers.get(name, np.full(lists.records, np.nan)) for lists in proposals]
        )[order]

    boxes = Boxes(
        schema.offsets_of(np.sum([lists.lengths for lists in proposals], axis=0)),
        np.repeat(np.arange(len(proposals)), [lists.records for lists in proposals])[order],
        *(merged(name).astype(np.int32) for name in schema.COORDINATES),
    )
    ragged = {
        name: columns.concatenate_ragged([lists.ragged[name] for lists in proposals]).take(order)
        for name in schema.PROBABILITIES
    }
    further = dict.fromkeys(name for lists in proposals for name in lists.numbers if name not in schema.COORDINATES)
    return boxes, ragged, {name: merged(name) for name in further}


def _bounding_boxes(structures: Lists) -> BoundingBoxes:
    return BoundingBoxes(
        structures.offsets,
        *(structures.numbers[name].astype(np.int32) for name in schema.TOP_LEFT),
        schema.structure_codes(structures.names[schema.STRUCTURE_NAME]),
    )
