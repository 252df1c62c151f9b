"""Writing S1 prediction tables, as Parquet or as pickles that pandas reads, and the rejects of a reading."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rna_s2.boxtables import schema
from rna_s2.boxtables.table import STRUCTURE_NAMES, BoundingBoxes, BoxTable, Ragged
from rna_s2.boxtables.unpickle import collector_paused
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path
from rna_s2.rna.boxes import BOX_COLUMNS, BOX_TYPES, Boxes

PARQUET_SUFFIX = ".parquet"
PICKLE_SUFFIXES: tuple[str, ...] = (".pkl", ".pkl.gz")
PICKLE_PROTOCOL = 4
"""The newest that every Python a table may be read with knows."""
GZIP_LEVEL = 5


def check_table_path(path: str | Path) -> Path:
    """An output path whose suffix names a form of table; to be called before long work.

    Raises:
        UserError: another suffix.
    """
    path = Path(path)
    if not path.name.endswith((PARQUET_SUFFIX, *PICKLE_SUFFIXES)):
        raise UserError(f"{path}: a table is written as {PARQUET_SUFFIX}, {' or '.join(PICKLE_SUFFIXES)}; name it so")
    return path


def write_table(
    table: BoxTable,
    path: str | Path,
    *,
    added: Mapping[str, Any] | None = None,
    with_targets: bool = False,
    with_proposals: bool = True,
) -> None:
    """Writes a table: the frame's columns, ``bounding_boxes``, the three box lists, and what is asked for.

    Args:
        table: what to write. Where it has targets but no ``bounding_boxes`` column, one is made of them.
        path: ends in ``.parquet``, ``.pkl`` or ``.pkl.gz``. A pickle holds a pandas DataFrame with lists of dicts (an
            empty box list is ``[]``). Both keep the index.
        added: further columns, each ``(rows,)``; one of the same name is replaced.
        with_targets: add ``df_target``: the target's boxes with top-right corners and ``bb_type`` stem, iloop or hloop.
        with_proposals: whether to write the three box lists.

    Raises:
        UserError: the suffix is another, the path cannot be written, a column cannot be stored in Parquet.
        ValueError: ``with_targets`` for a table without targets, or an added column of another length.
    """
    path = check_table_path(path)
    if with_targets and table.targets is None:
        raise ValueError("the table has no targets to write")
    frame = table.frame.assign(**{name: np.asarray(values) for name, values in (added or {}).items()})
    with atomic_path(path) as temporary:
        if path.name.endswith(PARQUET_SUFFIX):
            arrow = _to_arrow(table, frame, path, with_targets=with_targets, with_proposals=with_proposals)
            pq.write_table(arrow, temporary, compression="zstd")
        else:
            with temporary.open("wb") as stream, collector_paused():
                field = _to_pandas(table, frame, with_targets=with_targets, with_proposals=with_proposals)
                if path.name.endswith(".gz"):
                    # No name and no time in the header: the same table gives the same bytes.
                    with gzip.GzipFile("", "wb", GZIP_LEVEL, stream, mtime=0) as packed:
                        pickle.dump(field, packed, protocol=PICKLE_PROTOCOL)
                else:
                    pickle.dump(field, stream, protocol=PICKLE_PROTOCOL)


def write_rejects(rejects: pd.DataFrame, path: str | Path) -> None:
    """Writes the rejects of a reading as CSV: columns row, index, column, reason.

    Raises:
        UserError: the path cannot be written.
    """
    with atomic_path(path) as temporary:
        rejects.to_csv(temporary, index=False)


def _bounding_boxes(table: BoxTable) -> BoundingBoxes | None:
    if table.bounding_boxes is None and table.targets is not None:
        return BoundingBoxes.from_boxes(table.targets)
    return table.bounding_boxes


def _type_index(boxes: Boxes, code: int) -> tuple[np.ndarray, np.ndarray]:
    """Index of the boxes of one type, and the offsets of their lists."""
    return np.flatnonzero(boxes.type == code), schema.offsets_of(boxes.counts()[:, code])


def _extra_of_type(table: BoxTable, index: np.ndarray) -> dict[str, np.ndarray]:
    """The further numbers that any of these boxes has."""
    chosen = {name: values[index] for name, values in table.extra.items()}
    return {name: values for name, values in chosen.items() if not np.isnan(values).all()}


# Parquet


def _to_arrow(
    table: BoxTable, frame: pd.DataFrame, path: Path, *, with_targets: bool, with_proposals: bool
) -> pa.Table:
    plain = frame.drop(columns=schema.ONE_IDX, errors="ignore")
    try:
        arrow = pa.Table.from_pandas(plain)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: a column cannot be stored in Parquet ({error}); write .pkl.gz instead") from error
    if schema.ONE_IDX in frame:
        cells = pa.array(
            [None if pairs is None else [list(half) for half in pairs] for pairs in frame[schema.ONE_IDX]],
            schema.ONE_IDX_ARROW,
        )
        arrow = arrow.add_column(list(frame.columns).index(schema.ONE_IDX), schema.ONE_IDX, cells)
    structures = _bounding_boxes(table)
    if structures is not None:
        columns = [getattr(structures, name) for name in schema.TOP_LEFT]
        names = pa.DictionaryArray.from_arrays(structures.name, list(STRUCTURE_NAMES)).cast(pa.string())
        arrow = arrow.append_column(
            schema.BOUNDING_BOXES, _list_array(structures.offsets, [*columns, names], schema.BOUNDING_BOXES_ARROW)
        )
    if with_proposals:
        for code, column in enumerate(BOX_COLUMNS):
            arrow = arrow.append_column(column, _proposals_arrow(table, code))
    if with_targets:
        boxes = table.targets
        names = pa.DictionaryArray.from_arrays(boxes.type, list(BOX_TYPES)).cast(pa.string())
        columns = [getattr(boxes, name) for name in schema.COORDINATES]
        arrow = arrow.append_column(
            schema.DF_TARGET, _list_array(boxes.offsets, [*columns, names], schema.DF_TARGET_ARROW)
        )
    return arrow


def _proposals_arrow(table: BoxTable, code: int) -> pa.Array:
    index, offsets = _type_index(table.proposals, code)
    extra = _extra_of_type(table, index)
    fields: list[Any] = [getattr(table.proposals, name)[index] for name in schema.COORDINATES]
    for ragged in (table.prob_sm, table.prob_sl):
        taken = ragged.take(index)
        fields.append(pa.LargeListArray.from_arrays(taken.offsets, taken.values).cast(pa.list_(pa.float64())))
    fields.extend(pa.array(values, from_pandas=True) for values in extra.values())
    return _list_array(offsets, fields, schema.proposals_arrow(list(extra)))


def _list_array(offsets: np.ndarray, fields: list[Any], kind: pa.DataType) -> pa.Array:
    """A column of lists of structs from the structs' fields, cast to ``kind``."""
    struct = kind.value_type
    arrays = [pa.array(values).cast(struct.field(k).type) for k, values in enumerate(fields)]
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(arrays, fields=list(struct))
    )


# pickle


def _to_pandas(table: BoxTable, frame: pd.DataFrame, *, with_targets: bool, with_proposals: bool) -> pd.DataFrame:
    """The table as the field keeps it. Text columns and labels become plain objects, which every pandas reads."""
    out = frame.copy()
    for name in out.columns[[isinstance(kind, pd.StringDtype) for kind in out.dtypes]]:
        out[name] = out[name].astype(object)
    if isinstance(out.index.dtype, pd.StringDtype):
        out.index = out.index.astype(object)
    lists: dict[str, list[list[Any]]] = {}
    structures = _bounding_boxes(table)
    if structures is not None:
        x, y, siz_x, siz_y = (getattr(structures, name).tolist() for name in schema.TOP_LEFT)
        names = [STRUCTURE_NAMES[code] for code in structures.name.tolist()]
        entries = list(zip(zip(x, y, strict=True), zip(siz_x, siz_y, strict=True), names, strict=True))
        lists[schema.BOUNDING_BOXES] = _split(entries, structures.offsets)
    if with_proposals:
        for code, column in enumerate(BOX_COLUMNS):
            index, offsets = _type_index(table.proposals, code)
            lists[column] = _split(_proposal_dicts(table, index), offsets)
    if with_targets:
        boxes = table.targets
        columns = [getattr(boxes, name).tolist() for name in schema.COORDINATES]
        names = [BOX_TYPES[code] for code in boxes.type.tolist()]
        keys = (*schema.COORDINATES, schema.TARGET_TYPE)
        entries = [dict(zip(keys, values, strict=True)) for values in zip(*columns, names, strict=True)]
        lists[schema.DF_TARGET] = _split(entries, boxes.offsets)
    for column, cells in lists.items():
        out[column] = pd.Series(cells, index=out.index, dtype=object)
    out.columns = pd.Index(list(out.columns), dtype=object)
    return out


def _proposal_dicts(table: BoxTable, index: np.ndarray) -> list[dict[str, Any]]:
    extra = _extra_of_type(table, index)
    columns = [getattr(table.proposals, name)[index].tolist() for name in schema.COORDINATES]
    columns += [_ragged_lists(ragged.take(index)) for ragged in (table.prob_sm, table.prob_sl)]
    columns += [values.tolist() for values in extra.values()]
    keys = (*schema.COORDINATES, *schema.PROBABILITIES, *extra)
    boxes = [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]
    for name, values in extra.items():
        for k in np.flatnonzero(np.isnan(values)).tolist():
            del boxes[k][name]
    return boxes


def _ragged_lists(ragged: Ragged) -> list[list[float]]:
    return _split(ragged.values.tolist(), ragged.offsets)


def _split(values: list[Any], offsets: np.ndarray) -> list[list[Any]]:
    return [values[start:end] for start, end in pairwise(offsets.tolist())]
