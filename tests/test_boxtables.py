"""S1 tables: what is read, what is written, and what is said about bad input."""

from __future__ import annotations

import gzip
import io
import json
import logging
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rna_s2.boxtables import schema
from rna_s2.boxtables.columns import Faults, ListColumn, Lists, pairs_from_arrow
from rna_s2.boxtables.read import read_table, table_from_frame
from rna_s2.boxtables.schema import COORDINATES, PROBABILITIES
from rna_s2.boxtables.table import BoundingBoxes, BoxTable, Ragged
from rna_s2.boxtables.write import write_rejects, write_table
from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import BOX_COLUMNS, BOX_TYPES, HLOOP, ILOOP, STEM, Boxes
from tests.real_data import PANDAS_1_TABLES, PARQUET_TABLES, PICKLED_TABLES, SHIPPED, name_of

OLD = SHIPPED / "pandas1_hand_made.pkl.gz"

TYPE_OF = {"stem": STEM, "bulge": ILOOP, "internal_loop": ILOOP, "iloop": ILOOP, "hairpin_loop": HLOOP, "hloop": HLOOP}


# An independent, slow reading: one row and one box at a time, from a frame as pandas reads it.


def is_none(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def slow_proposals(row: pd.Series) -> list[dict[str, Any]]:
    found = []
    for type_code, column in enumerate(BOX_COLUMNS):
        for box in [] if is_none(row[column]) else row[column]:
            one = {"type": type_code, **{name: int(box[name]) for name in COORDINATES}}
            for name in PROBABILITIES:
                values = box.get(name)
                one[name] = [] if is_none(values) else [float(v) for v in values]
            for name, value in box.items():
                if name not in one and not is_none(value):
                    one[name] = float(value)
            found.append(one)
    return found


def slow_targets(row: pd.Series) -> list[tuple[int, int, int, int, int]]:
    found = []
    for entry in row["bounding_boxes"]:
        if isinstance(entry, dict):
            x, y, siz_x, siz_y, name = (entry[k] for k in ("x", "y", "siz_x", "siz_y", "type"))
        else:
            (x, y), (siz_x, siz_y), name = entry
        if name in TYPE_OF:
            found.append((TYPE_OF[name], int(x), int(y) + int(siz_y) - 1, int(siz_x), int(siz_y)))
    return sorted(found, key=lambda box: box[0])


def proposals_of(table: BoxTable, row: int) -> list[dict[str, Any]]:
    found = []
    first = int(table.proposals.offsets[row])
    for k, (type_code, *corner) in enumerate(table.proposals.row_boxes(row), start=first):
        one = {"type": type_code, **dict(zip(COORDINATES, corner, strict=True))}
        for name, ragged in zip(PROBABILITIES, (table.prob_sm, table.prob_sl), strict=True):
            one[name] = ragged.values[ragged.offsets[k]: ragged.offsets[k + 1]].tolist()
        one.update({name: float(v[k]) for name, v in table.extra.items() if not np.isnan(v[k])})
        found.append(one)
    return found


def assert_reads(table: BoxTable, frame: pd.DataFrame) -> None:
    """``table`` holds what the slow reading finds in ``frame``."""
    assert table.rows == len(frame)
    assert table.frame.index.equals(frame.index)
    for row in range(len(frame)):
        cells = frame.iloc[row]
        assert proposals_of(table, row) == slow_proposals(cells)
        assert list(table.targets.row_boxes(row)) == slow_targets(cells)
        assert table.frame["seq"].iloc[row] == cells["seq"]
        i, j = cells["one_idx"]
        assert table.frame["one_idx"].iloc[row] == (list(i), list(j))


def assert_same(a: BoxTable, b: BoxTable) -> None:
    pd.testing.assert_frame_equal(a.frame, b.frame, check_dtype=False, check_index_type=False)
    for name in ("offsets", "type", *COORDINATES):
        np.testing.assert_array_equal(getattr(a.proposals, name), getattr(b.proposals, name))
        np.testing.assert_array_equal(getattr(a.targets, name), getattr(b.targets, name))
    for name in PROBABILITIES:
        np.testing.assert_array_equal(getattr(a, name).offsets, getattr(b, name).offsets)
        np.testing.assert_array_equal(getattr(a, name).values, getattr(b, name).values)
    for name in a.extra.keys() | b.extra.keys():
        absent = np.full(len(a.proposals), np.nan)
        np.testing.assert_array_equal(a.extra.get(name, absent), b.extra.get(name, absent))
    for name in ("offsets", "x", "y", "siz_x", "siz_y", "name"):
        np.testing.assert_array_equal(getattr(a.bounding_boxes, name), getattr(b.bounding_boxes, name))


# A small table made by hand.


def box(bb_x: Any = 0, bb_y: Any = 10, siz_x: Any = 3, siz_y: Any = 3, **more: Any) -> dict[str, Any]:
    return {"bb_x": bb_x, "bb_y": bb_y, "siz_x": siz_x, "siz_y": siz_y, "prob_sm": [0.5], "prob_sl": [0.25], **more}


def small_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "seq": ["GGGAAAAACCC", "ggnaaaaucc", "AAAA"],
            "one_idx": [([0, 1, 2], [10, 9, 8]), ([0, 1], [9, 8]), ([], [])],
            "bounding_boxes": [
                [((2, 2), (7, 7), "hairpin_loop"), ((0, 8), (3, 3), "stem"), ((4, 5), (1, 1), "pesudo_knot")],
                [((0, 8), (2, 2), "stem"), ((1, 1), (8, 8), "hairpin_loop"), ((1, 4), (2, 5), "bulge")],
                [],
            ],
            "bb_stem": [[box(), box(bb_y=20, prob_sm=[])], [box(bb_y=9, siz_x=2, siz_y=2, weight=2)], None],
            "bb_iloop": [None, np.nan, []],
            "bb_hloop": [[box(2, 8, 7, 7, prob_sl=None)], [], [box(0, 3, 4, 4)]],
            "start": [5, 6, 7],
        },
        index=[7, 3, 12],
    )


def with_cell(column: str, value: Any, row: int = 1) -> pd.DataFrame:
    frame = small_frame()
    cells = list(frame[column])
    cells[row] = value
    frame[column] = pd.Series(cells, index=frame.index, dtype=object)
    return frame


def write_frame(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_pickle(path)
    return path


def test_known_answer() -> None:
    result = table_from_frame(small_frame(), require_targets=True)
    table = result.table
    assert len(result.rejects) == 0
    assert list(result.rejects.columns) == ["row", "index", "column", "reason"]
    assert list(table.proposals.row_boxes(0)) == [(STEM, 0, 10, 3, 3), (STEM, 0, 20, 3, 3), (HLOOP, 2, 8, 7, 7)]
    assert list(table.proposals.row_boxes(1)) == [(STEM, 0, 9, 2, 2)]
    assert list(table.proposals.row_boxes(2)) == [(HLOOP, 0, 3, 4, 4)]
    # Top-left (0, 8) of a 3 x 3 stem is the top-right (0, 10).
    assert list(table.targets.row_boxes(0)) == [(STEM, 0, 10, 3, 3), (HLOOP, 2, 8, 7, 7)]
    assert list(table.targets.row_boxes(1)) == [(STEM, 0, 9, 2, 2), (ILOOP, 1, 8, 2, 5), (HLOOP, 1, 8, 8, 8)]
    assert table.prob_sm.lengths.tolist() == [1, 0, 1, 1, 1]
    assert table.prob_sl.lengths.tolist() == [1, 1, 0, 1, 1]
    np.testing.assert_array_equal(table.extra["weight"], [np.nan, np.nan, np.nan, 2, np.nan])
    assert table.frame["one_idx"].tolist()[0] == ([0, 1, 2], [10, 9, 8])
    assert list(table.frame.columns) == ["seq", "one_idx", "start"]
    assert table.lengths.tolist() == [11, 10, 4]


@pytest.mark.parametrize(("pickle_path", "parquet_path"), [*zip(PICKLED_TABLES, PARQUET_TABLES, strict=True)], ids=name_of)
def test_development_pickle_and_parquet_are_the_same_table(pickle_path: Path, parquet_path: Path) -> None:
    pickled = read_table(pickle_path)
    parquet = read_table(parquet_path)
    assert pickled.table.rows == len(pd.read_parquet(parquet_path)) >= 36
    assert len(pickled.rejects) == len(parquet.rejects) == 0
    assert_same(pickled.table, parquet.table)
    assert pickled.table.digest != parquet.table.digest
    assert_reads(pickled.table, pd.read_pickle(pickle_path))  # noqa: S301 - our own file


@pytest.mark.parametrize("path", PANDAS_1_TABLES, ids=name_of)
def test_development_pickle_of_pandas_1(path: Path) -> None:
    table = read_table(path).table
    assert table.frame.index.tolist() == list(range(1000, 1030))
    assert_reads(table, pd.read_pickle(path))  # noqa: S301 - our own file


def test_shipped_pickle_of_pandas_1() -> None:
    result = read_table(OLD)
    assert len(result.rejects) == 0
    assert_reads(result.table, pd.read_pickle(OLD))  # noqa: S301 - our own file
    assert result.table.frame.index.tolist() == [7, 3, 12]
    assert result.table.frame.index.name == "position"
    assert list(result.table.frame.columns) == ["seq", "one_idx", "fe", "note", "count"]
    assert result.table.frame["count"].tolist() == [1, pd.NA, 3]
    assert result.table.frame["note"].tolist() == ["a", pd.NA, "c"]


# Round trips.

maybe_empty = st.sampled_from([None, math.nan, []])
chances = st.floats(0, 1, allow_nan=False)
prob_lists = st.one_of(st.none(), st.lists(chances, max_size=3))


@st.composite
def proposal(draw: st.DrawFn) -> dict[str, Any]:
    fields = {name: draw(st.integers(-3, 30)) for name in ("bb_x", "bb_y")}
    fields |= {name: draw(st.integers(1, 9)) for name in ("siz_x", "siz_y")}
    for name in PROBABILITIES:
        if draw(st.booleans()):
            fields[name] = draw(prob_lists)
    if draw(st.booleans()):
        fields["n_proposal_norm_sm"] = draw(st.one_of(chances, st.integers(0, 5), st.none()))
    return fields


@st.composite
def table_row(draw: st.DrawFn) -> dict[str, Any]:
    length = draw(st.integers(4, 12))
    seq = draw(st.text("ACGTUNacgtun", min_size=length, max_size=length))
    pairs = draw(st.lists(st.tuples(st.integers(0, length - 1), st.integers(0, length - 1)), max_size=3))
    pairs = [(i, j) for i, j in pairs if i != j]
    structures = []
    for name in draw(st.lists(st.sampled_from([*TYPE_OF, "pesudo_knot", "pseudo_knot"]), max_size=4)):
        siz_x, siz_y = draw(st.integers(1, length)), draw(st.integers(1, length))
        corner = (draw(st.integers(0, length - siz_x)), draw(st.integers(0, length - siz_y)))
        structures.append((corner, (siz_x, siz_y), name))
    lists = {c: draw(st.one_of(maybe_empty, st.lists(proposal(), max_size=3))) for c in BOX_COLUMNS}
    halves = ([i for i, _ in pairs], [j for _, j in pairs])
    return {"seq": seq, "one_idx": halves, "bounding_boxes": structures, **lists, "start": draw(st.integers(0, 9))}


@st.composite
def table_frames(draw: st.DrawFn) -> pd.DataFrame:
    rows = draw(st.lists(table_row(), min_size=1, max_size=5))
    index = draw(
        st.sampled_from([None, list(range(10, 10 + len(rows))), [f"row{k}" for k in range(len(rows))], [1] * len(rows)])
    )
    return pd.DataFrame(rows, index=index).astype(dict.fromkeys(BOX_COLUMNS, object))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=table_frames())
def test_round_trips(frame: pd.DataFrame, tmp_path: Path) -> None:
    table = table_from_frame(frame, require_targets=True).table
    assert_reads(table, frame)
    found = np.arange(len(frame)) % 3
    for name in ("t.parquet", "t.pkl", "t.pkl.gz"):
        write_table(table, tmp_path / name, added={"n_bb_found": found}, with_targets=True)
        again = read_table(tmp_path / name)
        assert len(again.rejects) == 0
        assert again.table.frame.pop("n_bb_found").tolist() == found.tolist()
        assert_same(again.table, table)
        read_by_pandas = (
            pd.read_parquet(tmp_path / name) if name.endswith("parquet") else pd.read_pickle(tmp_path / name)  # noqa: S301
        )
        assert_reads(table, read_by_pandas)
        for row, boxes in enumerate(read_by_pandas["df_target"]):
            assert [
                (BOX_TYPES.index(b["bb_type"]), b["bb_x"], b["bb_y"], b["siz_x"], b["siz_y"]) for b in boxes
            ] == list(table.targets.row_boxes(row))


@settings(max_examples=40, deadline=None)
@given(frame=table_frames(), data=st.data())
def test_rows_and_proposals_chosen_before_or_after_reading_are_the_same(frame: pd.DataFrame, data: st.DataObject) -> None:
    table = table_from_frame(frame, require_targets=True).table
    rows = np.array(data.draw(st.lists(st.integers(0, len(frame) - 1), min_size=1, max_size=6)))
    assert_reads(table.take_rows(rows), frame.iloc[rows])
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(table.proposals), max_size=len(table.proposals))), bool)
    kept = table.select_proposals(keep)
    expected = [one for row in range(table.rows) for one in proposals_of(table, row)]
    assert [one for row in range(table.rows) for one in proposals_of(kept, row)] == [
        one for one, kept_one in zip(expected, keep, strict=True) if kept_one
    ]


def test_a_written_pickle_is_plain_and_keeps_what_was_read(tmp_path: Path) -> None:
    frame = small_frame()
    write_table(table_from_frame(frame, require_targets=True).table, tmp_path / "t.pkl.gz")
    again = pd.read_pickle(tmp_path / "t.pkl.gz")  # noqa: S301 - made just above
    assert again.index.tolist() == [7, 3, 12]
    assert again["bounding_boxes"].tolist() == frame["bounding_boxes"].tolist()
    assert again["bb_iloop"].tolist() == [[], [], []]
    assert again["bb_stem"].iloc[0] == [box(), box(bb_y=20, prob_sm=[])]
    assert again["bb_stem"].iloc[1] == [{**box(bb_y=9, siz_x=2, siz_y=2), "weight": 2.0}]
    assert isinstance(again["seq"].iloc[0], str)
    assert isinstance(again["bb_stem"].iloc[0][0]["bb_x"], int)
    assert [name for name in again if again[name].dtype.kind == "O"] == [name for name in again if name != "start"]
    assert "df_target" not in again
    with gzip.open(tmp_path / "t.pkl.gz") as stream:
        assert stream.read(2) == b"\x80\x04"


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    table = table_from_frame(small_frame(), require_targets=True).table
    for name in ("a.parquet", "a.pkl.gz"):
        write_table(table, tmp_path / name)
        write_table(table, tmp_path / f"b{name}")
        assert (tmp_path / name).read_bytes() == (tmp_path / f"b{name}").read_bytes()


def test_a_table_without_bounding_boxes_column_gets_one_from_its_targets(tmp_path: Path) -> None:
    source = table_from_frame(small_frame(), require_targets=True).table
    boxes = Boxes.from_rows([[(STEM, 0, 10, 3, 3), (ILOOP, 2, 8, 2, 3), (ILOOP, 1, 9, 3, 4)], [], [(HLOOP, 0, 3, 4, 4)]])
    made = BoxTable(source.frame, source.proposals, boxes, source.prob_sm, source.prob_sl)
    write_table(made, tmp_path / "t.pkl")
    assert pd.read_pickle(tmp_path / "t.pkl")["bounding_boxes"].tolist() == [  # noqa: S301 - made just above
        [((0, 8), (3, 3), "stem"), ((2, 6), (2, 3), "bulge"), ((1, 6), (3, 4), "internal_loop")],
        [],
        [((0, 0), (4, 4), "hairpin_loop")],
    ]
    again = BoundingBoxes.from_boxes(boxes).boxes()
    assert [list(again.row_boxes(r)) for r in range(3)] == [list(boxes.row_boxes(r)) for r in range(3)]


def test_targets_come_from_df_target_where_bounding_boxes_is_absent(tmp_path: Path) -> None:
    table = table_from_frame(small_frame(), require_targets=True).table
    for name in ("t.parquet", "t.pkl"):
        write_table(table, tmp_path / name, with_targets=True)
        frame = pd.read_parquet(tmp_path / name) if name == "t.parquet" else pd.read_pickle(tmp_path / name)  # noqa: S301
        frame.drop(columns="bounding_boxes").to_pickle(tmp_path / "less.pkl")
        less = read_table(tmp_path / "less.pkl").table
        for row in range(3):
            assert list(less.targets.row_boxes(row)) == list(table.targets.row_boxes(row))


def test_tables_without_targets_or_proposals(tmp_path: Path) -> None:
    frame = small_frame()
    segments = frame.drop(columns=list(BOX_COLUMNS))
    with pytest.raises(UserError, match="columns bb_stem, bb_iloop, bb_hloop missing; the table has: seq, one_idx"):
        table_from_frame(segments, require_targets=True)
    table = table_from_frame(segments, require_targets=True, require_proposals=False).table
    assert len(table.proposals) == 0 and table.proposals.rows == 3
    write_table(table, tmp_path / "s.parquet", with_proposals=False)
    assert list(pd.read_parquet(tmp_path / "s.parquet")) == ["seq", "one_idx", "start", "bounding_boxes"]

    unknown = frame.drop(columns="bounding_boxes")
    with pytest.raises(UserError, match="column bounding_boxes missing"):
        table_from_frame(unknown, require_targets=True)
    table = table_from_frame(unknown, require_targets=False).table
    assert table.targets is None and table.bounding_boxes is None
    for name in ("u.parquet", "u.pkl"):
        write_table(table, tmp_path / name)
        again = read_table(tmp_path / name, require_targets=False).table
        assert again.targets is None
        assert proposals_of(again, 0) == proposals_of(table, 0)
    with pytest.raises(ValueError, match="no targets"):
        write_table(table, tmp_path / "u.pkl", with_targets=True)
    gaps = with_cell("bounding_boxes", None)
    assert table_from_frame(gaps, require_targets=False).table.targets is None
    assert table_from_frame(gaps, require_targets=True).rejects["row"].tolist() == [1]


def test_frames_of_a_request_numbers_as_floats_and_arrays() -> None:
    frame = small_frame()
    expected = table_from_frame(frame, require_targets=True).table
    spoken = pd.DataFrame(json.loads(frame.drop(columns="bounding_boxes").to_json(orient="records")))
    for boxes in spoken["bb_stem"].dropna():
        for one in boxes:
            one.update({name: float(one[name]) for name in COORDINATES})
    served = table_from_frame(spoken).table
    columns = io.BytesIO()
    frame.drop(columns="bounding_boxes").to_parquet(columns)
    arrays = table_from_frame(pd.read_parquet(columns)).table
    for row in range(3):
        assert proposals_of(served, row) == proposals_of(arrays, row) == proposals_of(expected, row)
    assert isinstance(pd.read_parquet(columns)["bb_stem"].iloc[0], np.ndarray)


# Arrow in every shape.


def unchecked(numbers: tuple[str, ...], **more: Any) -> ListColumn:
    return ListColumn("c", numbers, check=lambda *_: None, of_table=lambda _: None, **more)



def test_slices_chunks_and_nulls_of_arrow_columns() -> None:
    rows = [
        [{"bb_x": 1, "p": [0.5, None]}, {"bb_x": None, "p": None}], None, [], [{"bb_x": 2, "p": []}, None],
        [{"bb_x": 3, "p": [0.1]}],
    ]
    arrow_type = pa.list_(pa.struct([("bb_x", pa.int32()), ("p", pa.list_(pa.float32()))]))
    whole = pa.array(rows, arrow_type)
    for array, expected in (
        (pa.chunked_array([whole]), rows),
        (pa.chunked_array([whole.slice(1, 3)]), rows[1:4]),
        (pa.chunked_array([whole.slice(3), whole.slice(0, 2), whole.slice(2, 0)]), rows[3:] + rows[:2]),
        (pa.chunked_array([whole.cast(pa.large_list(arrow_type.value_type))]), rows),
        (pa.chunked_array([], arrow_type), []),
    ):
        got = unchecked(("bb_x", "bb_y"), ragged=("p", "q")).from_arrow(array, "t")
        boxes = [one or {} for row in expected for one in row or []]
        assert got.lengths.tolist() == [len(row or []) for row in expected]
        np.testing.assert_array_equal(
            got.numbers["bb_x"], [np.nan if one.get("bb_x") is None else one["bb_x"] for one in boxes]
        )
        assert np.isnan(got.numbers["bb_y"]).all() and len(got.numbers["bb_y"]) == len(boxes)
        assert got.ragged["p"].lengths.tolist() == [len(one.get("p") or []) for one in boxes]
        np.testing.assert_array_equal(
            got.ragged["p"].values,
            np.float32([np.nan if v is None else v for one in boxes for v in one.get("p") or []]),
        )
        assert len(got.ragged["q"]) == len(boxes)


def test_arrow_columns_of_nulls() -> None:
    for array in (pa.chunked_array([pa.nulls(3)]), pa.chunked_array([pa.array([[], None, []])])):
        got = unchecked(COORDINATES, ragged=PROBABILITIES).from_arrow(array, "t")
        assert got.lengths.tolist() == [0, 0, 0] and got.records == 0
    present, halves, partners = pairs_from_arrow(pa.chunked_array([pa.nulls(2)]), "one_idx", "t")
    assert (present.tolist(), halves.tolist(), len(partners)) == ([False, False], [0, 0], 0)


@pytest.mark.parametrize("name", ["t.parquet", "t.pkl.gz"])
def test_a_declared_column_is_read_checked_and_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Lists] = []

    def check(lists: Lists, lengths: np.ndarray, column: str, faults: Faults) -> None:
        read.append(lists)
        row = np.repeat(np.arange(len(lengths)), lists.lengths)
        faults.add_where(lists.numbers["at"] >= lengths[row], row, column, lambda k: f"{lists.numbers['at'][k]:.0f} is outside")

    weights = Ragged(np.array([0.5, 0.25, 1.0]), np.array([0, 2, 2, 3]))
    labels = np.array(["a", "b", "c"], object)
    sites = Lists(np.array([2, 0, 1]), {"at": np.array([1, 4, 4])}, {"weights": weights}, {"label": labels})
    declared = ListColumn("sites", ("at",), check, lambda table: sites, ragged=("weights",), names=("label",))
    monkeypatch.setitem(schema.COLUMNS, "sites", declared)

    write_table(table_from_frame(small_frame(), require_targets=True).table, tmp_path / name)
    result = read_table(tmp_path / name)
    assert "sites" not in result.table.frame
    (got,) = read
    assert got.lengths.tolist() == [2, 0, 1] and got.numbers["at"].tolist() == [1, 4, 4]
    assert got.ragged["weights"].values.tolist() == [0.5, 0.25, 1] and got.ragged["weights"].offsets.tolist() == [0, 2, 2, 3]
    assert got.names["label"].tolist() == ["a", "b", "c"]
    assert result.rejects[["row", "column", "reason"]].values.tolist() == [[2, "sites", "4 is outside"]]


def test_a_parquet_file_of_several_row_groups_and_no_pandas_metadata(tmp_path: Path) -> None:
    frame = pd.concat([small_frame()] * 4, ignore_index=True)
    table = table_from_frame(frame, require_targets=True).table
    write_table(table, tmp_path / "t.parquet")
    arrow = pq.read_table(tmp_path / "t.parquet").replace_schema_metadata(None)
    pq.write_table(arrow, tmp_path / "g.parquet", row_group_size=5)
    assert_same(read_table(tmp_path / "g.parquet").table, table)


# Bad files.


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    frame = small_frame()
    whole = write_frame(frame, folder / "whole.pkl.gz").read_bytes()
    plain = pickle.dumps(frame)
    table = table_from_frame(frame, require_targets=True).table
    write_table(table, folder / "whole.parquet")
    parquet = (folder / "whole.parquet").read_bytes()
    contents = {
        "truncated_gzip": (whole[: len(whole) // 2], "gzip data is truncated or damaged"),
        "gzip_without_its_end": (whole[:-4], "gzip data is truncated or damaged"),
        "gzip_bad_checksum": (whole[:-8] + bytes(8), "gzip data is truncated or damaged"),
        "gzip_of_garbage": (gzip.compress(b"not a pickle at all"), "neither a Parquet file nor a pickle"),
        "truncated_pickle": (plain[: len(plain) // 2], "truncated|cannot be read as a table"),
        "garbage": (b"seq,bb_stem\nACGU,[]\n", "neither a Parquet file nor a pickle"),
        "truncated_parquet": (parquet[: len(parquet) // 2], "is not a Parquet file that can be read"),
        "parquet_magic_only": (b"PAR1", "is not a Parquet file that can be read"),
        "empty_file": (b"", "is an empty file"),
        "a_list": (pickle.dumps([1, 2]), "holds a Python list, not a pandas DataFrame"),
        "a_series": (pickle.dumps(frame["seq"]), "holds a Series, not a pandas DataFrame"),
        "no_rows": (pickle.dumps(frame.iloc[:0]), "the table has no rows"),
        "missing_column": (pickle.dumps(frame.drop(columns="bb_iloop")), "column bb_iloop missing; the table has: seq,"),
        "missing_seq": (pickle.dumps(frame.drop(columns="seq")), "column seq missing"),
        "seq_of_numbers": (pickle.dumps(frame.assign(seq=1.5)), "column seq must hold the sequence as text; row 0"),
        "boxes_of_text": (pickle.dumps(frame.assign(bb_stem="[]")), "column bb_stem must hold lists of boxes; row 0"),
        "boxes_of_numbers": (pickle.dumps(frame.assign(bb_hloop=[None, 3, 4])), "column bb_hloop must hold .* row 1"),
        "targets_of_text": (pickle.dumps(frame.assign(bounding_boxes="x")), "column bounding_boxes must hold"),
        "one_idx_of_text": (pickle.dumps(frame.assign(one_idx="x")), "column one_idx must hold"),
        "twice": (pickle.dumps(pd.concat([frame, frame["seq"]], axis=1)), "a column name stands twice"),
    }
    for name, (content, _) in contents.items():
        (folder / f"bad file {name}").write_bytes(content)
    return {name: (folder / f"bad file {name}", reason) for name, (_, reason) in contents.items()}


def test_bad_files_are_named_in_one_line(tmp_path: Path) -> None:
    for name, (path, reason) in bad_files(tmp_path).items():
        with pytest.raises(UserError, match=reason) as caught:
            read_table(path)
        assert str(path) in str(caught.value), name
        assert "\n" not in str(caught.value), name
    for path, reason in ((tmp_path / "none.pkl.gz", "no such file"), (tmp_path, "is not a file")):
        with pytest.raises(UserError, match=reason):
            read_table(path)


@pytest.mark.parametrize(
    ("column", "array", "reason"),
    [
        ("seq", pa.array([1, 2]), "column seq must hold the sequence as text"),
        ("bb_stem", pa.array(["[]", "[]"]), "column bb_stem must hold lists of boxes; it is of type string"),
        ("bb_stem", pa.array([[1], []]), "column bb_stem must hold lists of boxes"),
        ("bb_stem", pa.array([[{"bb_x": "a"}], []]), "column bb_stem: bb_x must hold numbers; it is of type string"),
        ("bb_stem", pa.array([[{"prob_sm": 0.5}], []]), "prob_sm must hold lists of numbers; it is of type double"),
        ("bounding_boxes", pa.array([[{"type": 1}], []]), "type must hold text"),
        ("one_idx", pa.array([[1, 2], []]), "column one_idx must hold two lists of positions"),
    ],
)
def test_parquet_columns_of_a_wrong_type(column: str, array: pa.Array, reason: str, tmp_path: Path) -> None:
    none = pa.nulls(2)
    columns = {"seq": pa.array(["ACGU", "A"]), "bounding_boxes": pa.array([[], []]), **dict.fromkeys(BOX_COLUMNS, none)}
    pq.write_table(pa.table({**columns, column: array}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=reason):
        read_table(tmp_path / "t.parquet")


# Bad rows.

BAD_ROWS = [
    ("seq", None, "missing"),
    ("seq", math.nan, "missing"),
    ("seq", "", "empty"),
    ("seq", 5, "int, not the sequence as text"),
    ("seq", "ACGX", "base 'X' at position 3"),
    ("seq", "AC GU", "base ' ' at position 2"),
    ("seq", "ACGé", "base 'é' at position 3"),
    ("seq", "A\U0001f9ecC", "at position 1"),
    ("bb_stem", "none", "str, not lists of boxes"),
    ("bb_stem", [7], "box 0 .* is int, not a record"),
    ("bb_stem", [box(), None], "box 1 .* is NoneType"),
    ("bb_stem", [box(siz_x=0)], "box 0 .* siz_x is 0; a size is at least 1"),
    ("bb_stem", [box(), box(siz_y=-2)], "box 1 .* siz_y is -2; a size is at least 1"),
    ("bb_iloop", [box(bb_x=math.nan)], "bb_x is missing"),
    ("bb_iloop", [box(bb_y=None)], "bb_y is missing"),
    ("bb_iloop", [{"bb_x": 1, "bb_y": 5, "siz_x": 2}], "siz_y is missing"),
    ("bb_iloop", [box(bb_x=1.5)], "bb_x is 1.5, not a whole number"),
    ("bb_iloop", [box(bb_x="1")], "bb_x is '1', not a number"),
    ("bb_hloop", [box(bb_x=2**31)], "bb_x is 2147483648, beyond any sequence"),
    ("bb_hloop", [box(bb_x=10**400)], "bb_x is inf, beyond any sequence"),
    ("bb_hloop", [box(bb_y=-math.inf)], "bb_y is -inf, beyond"),
    ("bb_hloop", [box(siz_x=2**31 - 1)], "siz_x is 2147483647, beyond"),
    ("bb_stem", [box(prob_sm=[0.5, math.nan])], "a value of prob_sm is missing or NaN"),
    ("bb_stem", [box(prob_sl=[None])], "a value of prob_sl is missing or NaN"),
    ("bb_stem", [box(), box(prob_sl=[0.1, 1.5])], "box 1 .* a value of prob_sl is 1.5"),
    ("bb_stem", [box(prob_sm=[-0.1])], "a value of prob_sm is -0.1"),
    ("bb_stem", [box(prob_sm=["high"])], "prob_sm holds something that is not a number"),
    ("bb_stem", [box(prob_sm=0.5)], "prob_sm is 0.5, not a list of numbers"),
    ("bounding_boxes", None, "target structure is missing"),
    ("bounding_boxes", [((0, 8), (3, 3), "stem")], "entry 0 .* columns 8..10 runs out of the map of 10 bases"),
    ("bounding_boxes", [((-1, 4), (2, 2), "stem")], "rows -1..0 .* runs out of the map"),
    ("bounding_boxes", [((0, 8), (2, 2), "multiloop")], "unknown type 'multiloop'; known: stem, bulge"),
    ("bounding_boxes", [((0, 8), (2, 2), None)], "unknown type None"),
    ("bounding_boxes", [((0, 8), (0, 2), "stem")], "siz_x is 0; a size is at least 1"),
    ("bounding_boxes", [((0, 8), (2, 2))], "not of the form"),
    ("bounding_boxes", [((0, None), (2, 2), "stem")], "y is missing"),
    ("bounding_boxes", [((0, 8), (2, 2), "pseudo_knot"), ((0.5, 1), (1, 1), "pseudo_knot")], "x is 0.5"),
    ("one_idx", ([0, 1], [9]), "the list of i's has 2 entries, that of j's 1"),
    ("one_idx", ([0], [10]), "10 is no position in a sequence of 10 bases"),
    ("one_idx", ([-1], [9]), "-1 is no position"),
    ("one_idx", ([0.5], [9]), "0.5 is no position"),
    ("one_idx", ([None], [9]), "a missing value is no position"),
    ("one_idx", ([4], [4]), "pairs base 4 with itself"),
    ("one_idx", ([0],), "holds 1 lists"),
    ("one_idx", ([0], "9"), "holds '9'"),
    ("one_idx", (["a"], [9]), "not a number"),
    ("one_idx", 5, "int, not two lists"),
]


@pytest.mark.parametrize(("column", "value", "reason"), BAD_ROWS)
def test_a_bad_row_is_rejected_with_its_reason_and_the_others_stay(column: str, value: Any, reason: str) -> None:
    frame = with_cell(column, value)
    result = table_from_frame(frame, require_targets=True)
    assert len(result.rejects) == 1
    reject = result.rejects.iloc[0]
    assert (reject["row"], reject["index"], reject["column"]) == (1, 3, column)
    assert pd.Series([reject["reason"]]).str.contains(reason, regex=True).all(), reject["reason"]
    assert_reads(result.table, frame.iloc[[0, 2]])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("bb_stem", [box(bb_x=-5, bb_y=500, siz_x=90, siz_y=80)]),
        ("bb_stem", [{"bb_x": 0, "bb_y": 9, "siz_x": 1, "siz_y": 1}]),
        ("bb_stem", [box(prob_sm=[0, 1], prob_sl=math.nan)]),
        ("bb_stem", (box(),)),
        ("bounding_boxes", [((50, 60), (3, 3), "pesudo_knot")]),
        ("bounding_boxes", [{"x": 0, "y": 8, "siz_x": 2, "siz_y": 2, "type": "stem"}]),
        ("bounding_boxes", [[[0, 8], [2, 2], "iloop"]]),
        ("one_idx", np.array([[0, 1], [9, 8]])),
    ],
)
def test_odd_but_ordinary_rows_are_kept(column: str, value: Any) -> None:
    frame = with_cell(column, value)
    result = table_from_frame(frame, require_targets=True)
    assert len(result.rejects) == 0
    assert_reads(result.table, frame)


def test_a_row_with_several_faults_is_listed_once_and_a_fault_in_every_row_too(caplog: pytest.LogCaptureFixture) -> None:
    frame = with_cell("seq", "AX")
    frame["bb_stem"] = [[box(siz_x=0), box(siz_x=-1)], [box(siz_x=0)], [box(bb_x=None)]]
    with caplog.at_level(logging.WARNING):
        result = table_from_frame(frame, require_targets=True)
    assert result.rejects["row"].tolist() == [0, 1, 2]
    assert result.rejects["index"].tolist() == [7, 3, 12]
    assert result.rejects["column"].tolist() == ["bb_stem", "seq", "bb_stem"]
    assert result.table.rows == 0 and len(result.table.proposals) == 0
    assert "3 of 3 rows rejected" in caplog.text


def test_bad_rows_of_parquet_are_rejected_as_those_of_pickles(tmp_path: Path) -> None:
    arrow_type = pa.list_(
        pa.struct([*((c, pa.float64()) for c in COORDINATES), *((p, pa.list_(pa.float64())) for p in PROBABILITIES)])
    )
    cells = [[box()], [box(siz_x=0.0)], [box(bb_x=None)], [None], [box(prob_sm=[2.0])], [box(prob_sl=[None])], None]
    rows = len(cells)
    seq = ["ACGUACGUACGU"] * rows
    columns = {"seq": seq, "bounding_boxes": [[]] * rows, "bb_iloop": [None] * rows, "bb_hloop": [[]] * rows}
    pq.write_table(pa.table({**columns, "bb_stem": pa.array(cells, arrow_type)}), tmp_path / "t.parquet")
    parquet = read_table(tmp_path / "t.parquet")
    assert parquet.rejects["row"].tolist() == [1, 2, 3, 4, 5]
    memory = table_from_frame(
        pd.DataFrame({**columns, "bb_stem": [[b or {} for b in c] if c else c for c in cells]}), require_targets=True
    )
    pd.testing.assert_frame_equal(parquet.rejects, memory.rejects)
    assert parquet.table.rows == 2


def test_a_key_that_is_no_number_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    frame = with_cell("bb_stem", [box(note="x", weight=1)])
    with caplog.at_level(logging.WARNING):
        table = table_from_frame(frame).table
    assert "column bb_stem: the boxes' key 'note' is not a number and is left out" in caplog.text
    assert list(table.extra) == ["weight"]


# Outputs.


def test_other_suffixes_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    table = table_from_frame(small_frame()).table
    for name in ("t.csv", "t", "t.gz", "t.parquet.gz"):
        with pytest.raises(UserError, match=r"a table is written as \.parquet, \.pkl or \.pkl\.gz"):
            write_table(table, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_column_that_parquet_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    frame = small_frame().assign(mixed=pd.Series([1, "a", [2]], index=[7, 3, 12], dtype=object))
    table = table_from_frame(frame, require_targets=True).table
    (tmp_path / "t.parquet").write_text("old")
    with pytest.raises(UserError, match=r"cannot be stored in Parquet .*mixed.*write .pkl.gz instead"):
        write_table(table, tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]
    write_table(table, tmp_path / "t.pkl")
    assert pd.read_pickle(tmp_path / "t.pkl")["mixed"].tolist() == [1, "a", [2]]  # noqa: S301 - made just above


def test_rejects_as_csv(tmp_path: Path) -> None:
    rejects = table_from_frame(with_cell("seq", "A,X"), require_targets=True).rejects
    write_rejects(rejects, tmp_path / "r.csv")
    again = pd.read_csv(tmp_path / "r.csv")
    pd.testing.assert_frame_equal(again, rejects, check_dtype=False)
    none = table_from_frame(small_frame()).rejects
    write_rejects(none, tmp_path / "none.csv")
    assert (tmp_path / "none.csv").read_text() == "row,index,column,reason\n"
