"""Columns of an S1 prediction table, their types, and the checks of their content.

Each column of lists is declared once, in :data:`COLUMNS`: reading and writing go by that. A fault of a whole file is a
:class:`rna_s2.options.errors.UserError`; a fault of one row is noted in :class:`rna_s2.boxtables.columns.Faults` and the
row goes to the rejects. The checks work on columns (:class:`rna_s2.boxtables.columns.Lists`), never on single boxes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from rna_s2.boxtables.columns import (
    Cells,
    Faults,
    ListColumn,
    Lists,
    concatenate_ragged,
    is_missing,
    offsets_of,
    type_name,
    wrong_content,
)
from rna_s2.boxtables.table import STRUCTURE_NAMES, BoundingBoxes, BoxTable, Ragged
from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import BOX_COLUMNS, BOX_TYPES, Boxes, ragged_positions, ragged_take, top_left

SEQ = "seq"
ONE_IDX = "one_idx"
BOUNDING_BOXES = "bounding_boxes"
DF_TARGET = "df_target"
TARGET_COLUMNS: tuple[str, ...] = (BOUNDING_BOXES, DF_TARGET)
"""Columns that hold the target structure's boxes; the first that is there is read."""

COORDINATES: tuple[str, ...] = ("bb_x", "bb_y", "siz_x", "siz_y")
PROBABILITIES: tuple[str, ...] = ("prob_sm", "prob_sl")
TOP_LEFT: tuple[str, ...] = ("x", "y", "siz_x", "siz_y")
STRUCTURE_NAME = "type"
TARGET_TYPE = "bb_type"

ALPHABET = "ACGTUN"
_LEGAL_CODE = np.zeros(128, bool)
_LEGAL_CODE[[ord(base) for base in ALPHABET + ALPHABET.lower()]] = True

COORDINATE_LIMIT = 2**30
"""Coordinates and sizes stay below this, so that a corner plus a size still fits int32."""

ONE_IDX_ARROW = pa.list_(pa.list_(pa.int64()))


def check_columns(present: Sequence[Hashable], source: str, *, require_targets: bool, require_proposals: bool) -> None:
    """Raises :class:`UserError` where a required column is missing or one stands twice, naming it and those that are there."""
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


def check_sequences(cells: Cells, source: str, faults: Faults) -> np.ndarray:
    """``(rows,)`` int64 lengths of the column ``seq``, texts over A C G T U N in any case; 0 where it holds none.

    Raises:
        UserError: no row holds text, but some hold something else.
    """
    is_text = np.fromiter((isinstance(cell, str) for cell in cells), bool, len(cells))
    absent = np.fromiter((is_missing(cell) for cell in cells), bool, len(cells))
    other = np.flatnonzero(~is_text & ~absent)
    if len(other) and not is_text.any():
        raise wrong_content(source, SEQ, "the sequence as text", int(other[0]), cells[other[0]])
    for row in other.tolist():
        faults.add(row, SEQ, f"holds {type_name(cells[row])}, not the sequence as text")
    for row in np.flatnonzero(absent).tolist():
        faults.add(row, SEQ, "the sequence is missing")
    texts = [cell if isinstance(cell, str) else "" for cell in cells]
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    for row in np.flatnonzero((lengths == 0) & is_text).tolist():
        faults.add(row, SEQ, "the sequence is empty")
    # surrogatepass: a lone surrogate is one more illegal base, not an encoding error
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    legal = (codes < len(_LEGAL_CODE)) & _LEGAL_CODE[np.minimum(codes, len(_LEGAL_CODE) - 1)]
    row_of, place = ragged_positions(lengths)
    faults.add_where(
        ~legal, row_of, SEQ,
        lambda k: f"base {chr(int(codes[k]))!r} at position {place[k]} (from 0) is none of {' '.join(ALPHABET)}",
    )
    return lengths


def check_proposals(lists: Lists, lengths: np.ndarray, column: str, faults: Faults) -> None:
    """Boxes of one type: whole coordinates within bounds, sizes of at least 1, probabilities in 0..1.

    A box that runs out of the map is no fault: pruning drops it.
    """
    row_of, place = ragged_positions(lists.lengths)
    _check_whole(lists, COORDINATES, column, "box", faults)
    for name in PROBABILITIES:
        ragged = lists.ragged[name]
        box_of = np.repeat(np.arange(len(ragged)), ragged.lengths)

        def reason(k: int, name: str = name, ragged: Ragged = ragged, box_of: np.ndarray = box_of) -> str:
            value = _shown(ragged.values[k], "missing or NaN")
            return f"box {place[box_of[k]]} (from 0): a value of {name} is {value}; a probability is between 0 and 1"

        faults.add_where(~((ragged.values >= 0) & (ragged.values <= 1)), row_of[box_of], column, reason)


def check_bounding_boxes(lists: Lists, lengths: np.ndarray, column: str, faults: Faults) -> None:
    """Local structures of the target: known names, whole coordinates, and boxes inside the map of ``lengths``."""
    row_of, place = ragged_positions(lists.lengths)
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
    return np.fromiter((code_of.get(name, -1) if isinstance(name, str) else -1 for name in names), np.int8, len(names))


def check_pairs(present: np.ndarray, halves: np.ndarray, partners: Ragged, lengths: np.ndarray, faults: Faults) -> None:
    """The column ``one_idx``: two lists of the same length, positions inside the sequence, no base with itself.

    Args:
        present: ``(rows,)`` bool: rows whose cell is not missing.
        halves: ``(rows,)`` int64: how many lists the cell holds.
        partners: the lists of all rows, one after the other.
        lengths: ``(rows,)`` int64: bases per sequence.
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


def _check_whole(lists: Lists, names: Sequence[str], column: str, what: str, faults: Faults) -> None:
    row_of, place = ragged_positions(lists.lengths)
    for name in names:
        values = lists.numbers[name]
        fine = (values == np.floor(values)) & (np.abs(values) < COORDINATE_LIMIT)
        if name.startswith("siz_"):
            fine &= values >= 1

        def reason(k: int, name: str = name, values: np.ndarray = values) -> str:
            value = values[k]
            if np.isnan(value):
                why = ""
            elif not abs(value) < COORDINATE_LIMIT:
                why = ", beyond any sequence"
            else:
                why = ", not a whole number" if value != np.floor(value) else "; a size is at least 1"
            return f"{what} {place[k]} (from 0): {name} is {_shown(value, 'missing')}{why}"

        faults.add_where(~fine, row_of, column, reason)


def _shown(value: float, missing: str) -> str:
    return missing if np.isnan(value) else f"{value:.15g}"


# Between columns and the columnar table


def _proposals_of(table: BoxTable, code: int) -> Lists:
    """The proposals of one type; of the further numbers those that any of these boxes has."""
    index = np.flatnonzero(table.proposals.type == code)
    numbers = {name: getattr(table.proposals, name)[index] for name in COORDINATES}
    further = {name: values[index] for name, values in table.extra.items()}
    numbers |= {name: values for name, values in further.items() if not np.isnan(values).all()}
    ragged = {name: getattr(table, name).take(index) for name in PROBABILITIES}
    return Lists(table.proposals.counts()[:, code], numbers, ragged)


def _bounding_boxes_of(table: BoxTable) -> Lists | None:
    structures = table.bounding_boxes
    if structures is None:
        if table.targets is None:
            return None
        structures = BoundingBoxes.from_boxes(table.targets)
    names = np.array(STRUCTURE_NAMES, object)[structures.name]
    return Lists(np.diff(structures.offsets), {n: getattr(structures, n) for n in TOP_LEFT}, names={STRUCTURE_NAME: names})


def _targets_of(table: BoxTable) -> Lists | None:
    boxes = table.targets
    if boxes is None:
        return None
    names = np.array(BOX_TYPES, object)[boxes.type]
    return Lists(np.diff(boxes.offsets), {n: getattr(boxes, n) for n in COORDINATES}, names={TARGET_TYPE: names})


def _top_left(targets: Lists) -> Lists:
    """The content of ``df_target`` as that of ``bounding_boxes``."""
    bb_x, bb_y, siz_x, siz_y = (targets.numbers[name] for name in COORDINATES)
    return Lists(
        targets.lengths,
        dict(zip(TOP_LEFT, (*top_left(bb_x, bb_y, siz_y), siz_x, siz_y), strict=True)),
        names={STRUCTURE_NAME: targets.names[TARGET_TYPE]},
    )


def _structure_record(entry: Any) -> dict[str, object]:
    (x, y), (siz_x, siz_y), name = entry
    return {"x": x, "y": y, "siz_x": siz_x, "siz_y": siz_y, STRUCTURE_NAME: name}


def _structure_entry(record: dict[str, Any]) -> object:
    return (record["x"], record["y"]), (record["siz_x"], record["siz_y"]), record[STRUCTURE_NAME]


COLUMNS: dict[str, ListColumn] = {
    column.name: column
    for column in (
        ListColumn(
            BOUNDING_BOXES, TOP_LEFT, check_bounding_boxes, _bounding_boxes_of, names=(STRUCTURE_NAME,),
            wanted="lists of local structures", dimensions=3, from_entry=_structure_record, to_entry=_structure_entry,
            form="((x, y), (siz_x, siz_y), type)",
        ),
        *(
            ListColumn(
                name, COORDINATES, check_proposals, partial(_proposals_of, code=code), ragged=PROBABILITIES, extra=True
            )
            for code, name in enumerate(BOX_COLUMNS)
        ),
        ListColumn(
            DF_TARGET, COORDINATES, lambda lists, *rest: check_bounding_boxes(_top_left(lists), *rest), _targets_of,
            names=(TARGET_TYPE,),
        ),
    )
}
"""Columns that hold a list of records per row, in the order in which they are written; they leave the frame for columnar form.

A further one is declared here, and gets an attribute of :class:`rna_s2.boxtables.table.BoxTable` (and its rows in
``take_rows``), which :func:`table_parts` fills.
"""


def table_parts(lists: Mapping[str, Lists], rows: int) -> dict[str, Any]:
    """What a :class:`BoxTable` of so many rows holds of its columns of lists, by the names of its attributes."""
    structures = lists.get(BOUNDING_BOXES)
    if DF_TARGET in lists:
        structures = _top_left(lists[DF_TARGET])
    bounding_boxes = None
    if structures is not None:
        x, y, siz_x, siz_y = (structures.numbers[name].astype(np.int32) for name in TOP_LEFT)
        codes = structure_codes(structures.names[STRUCTURE_NAME])
        bounding_boxes = BoundingBoxes(structures.offsets, x, y, siz_x, siz_y, codes)
    targets = None if bounding_boxes is None else bounding_boxes.boxes()
    proposals = [lists[name] if name in lists else COLUMNS[name].empty(rows) for name in BOX_COLUMNS]
    return {**_merge(proposals), "bounding_boxes": bounding_boxes, "targets": targets}


def _merge(proposals: Sequence[Lists]) -> dict[str, Any]:
    """One list per type to boxes grouped by row and ordered by type, their probabilities and further numbers."""
    row_of = np.concatenate([np.repeat(np.arange(len(lists.lengths)), lists.lengths) for lists in proposals])
    order = np.argsort(row_of, kind="stable")

    def merged(name: str) -> np.ndarray:
        return np.concatenate([lists.numbers.get(name, np.full(lists.records, np.nan)) for lists in proposals])[order]

    offsets = offsets_of(np.sum([lists.lengths for lists in proposals], axis=0))
    types = np.repeat(np.arange(len(proposals)), [lists.records for lists in proposals])[order]
    bb_x, bb_y, siz_x, siz_y = (merged(name).astype(np.int32) for name in COORDINATES)
    further = dict.fromkeys(name for lists in proposals for name in lists.numbers if name not in COORDINATES)
    return {
        "proposals": Boxes(offsets, types, bb_x, bb_y, siz_x, siz_y),
        "extra": {name: merged(name) for name in further},
        **{name: concatenate_ragged([lists.ragged[name] for lists in proposals]).take(order) for name in PROBABILITIES},
    }
