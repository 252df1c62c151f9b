"""Writing S1 prediction tables, as Parquet or as pickles that pandas reads, and the rejects of a reading."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rna_s2.boxtables import schema
from rna_s2.boxtables.columns import Lists
from rna_s2.boxtables.table import BoxTable
from rna_s2.boxtables.unpickle import collector_paused
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path
from rna_s2.rna.boxes import BOX_COLUMNS

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
    table: BoxTable, path: str | Path, *, added: Mapping[str, Any] | None = None, with_targets: bool = False,
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
    left_out = {*(() if with_targets else [schema.DF_TARGET]), *(() if with_proposals else BOX_COLUMNS)}
    given = {name: column.of_table(table) for name, column in schema.COLUMNS.items() if name not in left_out}
    lists = {name: content for name, content in given.items() if content is not None}
    with atomic_path(path) as temporary:
        if path.name.endswith(PARQUET_SUFFIX):
            pq.write_table(_to_arrow(lists, frame, path), temporary, compression="zstd")
        else:
            with temporary.open("wb") as stream, collector_paused():
                # No name and no time in the header: the same table gives the same bytes.
                packed = gzip.GzipFile("", "wb", GZIP_LEVEL, stream, mtime=0) if path.name.endswith(".gz") else None
                with packed or nullcontext(stream) as out:
                    pickle.dump(_to_pandas(lists, frame), out, protocol=PICKLE_PROTOCOL)


def write_rejects(rejects: pd.DataFrame, path: str | Path) -> None:
    """Writes the rejects of a reading as CSV (row, index, column, reason); UserError: the path cannot be written."""
    with atomic_path(path) as temporary:
        rejects.to_csv(temporary, index=False)


def _to_arrow(lists: Mapping[str, Lists], frame: pd.DataFrame, path: Path) -> pa.Table:
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
    for name, content in lists.items():
        arrow = arrow.append_column(name, schema.COLUMNS[name].to_arrow(content))
    return arrow


def _to_pandas(lists: Mapping[str, Lists], frame: pd.DataFrame) -> pd.DataFrame:
    """The table as the field keeps it. Text columns and labels become plain objects, which every pandas reads."""
    out = frame.copy()
    for name in out.columns[[isinstance(dtype, pd.StringDtype) for dtype in out.dtypes]]:
        out[name] = out[name].astype(object)
    if isinstance(out.index.dtype, pd.StringDtype):
        out.index = out.index.astype(object)
    for name, content in lists.items():
        out[name] = pd.Series(schema.COLUMNS[name].to_objects(content), index=out.index, dtype=object)
    out.columns = pd.Index(list(out.columns), dtype=object)
    return out
