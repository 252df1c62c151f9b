"""The encoded dataset: round trip, subsets, and files that do not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rna_s2.options.errors import UserError
from rna_s2.s2.dataset import ARRAY_DTYPES, EncodedDataset, load, load_meta
from rna_s2.s2.feature_groups import KINDS
from rna_s2.s2.features import featurize
from tests.box_strategies import pruned_tables
from tests.reference import table_of

STEM = {"bb_x": 0, "bb_y": 5, "siz_x": 2, "siz_y": 2, "prob_sm": [0.5], "prob_sl": []}
ILOOP = {**STEM, "siz_y": 3}
HLOOP = {**STEM, "bb_x": 1, "bb_y": 4, "siz_x": 4, "siz_y": 4}
ROWS = [
    {"seq": "GGACUC", "bb_stem": [STEM, STEM | {"siz_x": 1, "siz_y": 1}], "bb_iloop": [ILOOP], "bb_hloop": [HLOOP],
     "target": [("stem", 0, 5, 2, 2)]},
    {"seq": "CCAGGN", "bb_stem": [], "bb_iloop": [ILOOP, ILOOP | {"siz_x": 3}], "bb_hloop": [], "target": []},
    {"seq": "UUUUUUUU", "bb_stem": [STEM | {"bb_y": 7}], "bb_iloop": [], "bb_hloop": [HLOOP], "target": []},
]


def dataset(kind: str = "sequence_encoding") -> EncodedDataset:
    return featurize(table_of(ROWS), kind)


def assert_equal(one: EncodedDataset, other: EncodedDataset) -> None:
    assert one.meta == other.meta
    arrays, others = one.arrays(), other.arrays()
    assert list(arrays) == list(others)
    for name, array in arrays.items():
        assert array.dtype == others[name].dtype
        assert array.shape == others[name].shape
        assert array.tolist() == others[name].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(tmp_path: Path, kind: str) -> None:
    data = dataset(kind)
    data.save(tmp_path / "data")
    again = load(tmp_path / "data")
    assert_equal(again, data)
    assert again.digest == data.digest
    assert load_meta(tmp_path / "data") == data.meta
    assert all(isinstance(array, np.memmap) for array in again.arrays().values())
    assert {p.name for p in (tmp_path / "data").iterdir()} == {f"{name}.npy" for name in data.arrays()} | {"meta.json"}
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_whole_sequences_go_with_their_rows() -> None:
    data = dataset("relational").take_rows(np.array([2, 0]))
    assert data.bases.tolist() == [3] * 8 + [2, 2, 0, 1, 3, 1]
    assert data.base_offsets.tolist() == [0, 8, 14]
    with pytest.raises(ValueError, match="bases should be uint8 of shape \\(14,\\)"):
        replace(data, bases=data.bases[:-1])


def test_a_dataset_without_rows_makes_the_round_trip(tmp_path: Path) -> None:
    data = dataset().take_rows(np.array([], np.int64))
    data.save(tmp_path / "none")
    assert_equal(load(tmp_path / "none"), data)


def test_what_is_mapped_cannot_be_written_to(tmp_path: Path) -> None:
    dataset().save(tmp_path / "data")
    with pytest.raises(ValueError, match="read-only"):
        load(tmp_path / "data").labels[0] = 1


@settings(max_examples=60, deadline=None)
@given(pruned_tables.filter(bool), st.randoms(use_true_random=False))
def test_taking_rows_is_encoding_those_rows(rows: list[dict], random: object) -> None:
    whole = featurize(table_of(rows), "sequence_encoding", keep_partial=True)
    if not whole.rows:
        return
    chosen = [random.randrange(whole.rows) for _ in range(4)]
    part = whole.take_rows(np.array(chosen))
    alone = featurize(table_of([rows[whole.source_row[r]] for r in chosen]), "sequence_encoding", keep_partial=True)
    counts = {"rows_kept", "boxes", "positives", "boxes_per_type", "positives_per_type"}
    assert part.meta.model_dump(include=counts) == alone.meta.model_dump(include=counts)
    assert part.source_row.tolist() == whole.source_row[chosen].tolist()
    assert part.group.tolist() == whole.group[chosen].tolist()
    for name in set(part.arrays()) - {"source_row", "group"}:
        assert part.arrays()[name].tolist() == alone.arrays()[name].tolist()


def test_the_entry_of_a_box_is_its_place_among_its_type() -> None:
    # row 0: stem stem iloop hloop; row 1: iloop iloop; row 2: stem hloop
    assert dataset().entry_of_box.tolist() == [0, 1, 0, 0, 1, 2, 2, 1]


def test_the_digest_follows_the_content_and_not_the_place() -> None:
    data = dataset()
    moved = data.meta.model_copy(update={"source": "elsewhere.parquet"})
    fields = {name: getattr(data, name) for name in (*ARRAY_DTYPES, "seq_values", "seq_offsets")}
    assert EncodedDataset(meta=moved, **fields).digest == data.digest
    for change in (
        {"features": data.features + np.float32(1)},
        {"group": data.group + 1},
        {"seq_values": {**data.seq_values, "hloop": 1 - data.seq_values["hloop"]}},
    ):
        assert EncodedDataset(meta=data.meta, **(fields | change)).digest != data.digest


def test_saving_replaces_a_dataset_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "data"
    dataset("baseline").save(target)
    dataset("sequence_encoding").save(target)
    assert load(target).meta.kind == "sequence_encoding"
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.txt").write_text("years of work")
    with pytest.raises(UserError, match="no encoded dataset"):
        dataset().save(other)
    with pytest.raises(UserError, match="no encoded dataset"):
        dataset().save(other / "chapter1.txt")
    assert (other / "chapter1.txt").read_text() == "years of work"


def _edit_meta(folder: Path, **changes: object) -> None:
    file = folder / "meta.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


@pytest.mark.parametrize(("damage", "complaint"), [
    (lambda d: (d / "meta.json").unlink(), "is no encoded dataset"),
    (lambda d: (d / "meta.json").write_text("{"), "meta.json"),
    (lambda d: _edit_meta(d, format_version=2), "format_version"),
    (lambda d: _edit_meta(d, kind="other"), "kind"),
    (lambda d: _edit_meta(d, surprise=1), "surprise"),
    (lambda d: _edit_meta(d, rows_kept=4), "offsets should be"),
    (lambda d: _edit_meta(d, feature_names=["type_stem"]), "features should be"),
    (lambda d: _edit_meta(d, positives=3), "labels must be"),
    (lambda d: _edit_meta(d, boxes_per_type={"stem": 8, "iloop": 0, "hloop": 0}), "box_type holds"),
    (lambda d: _edit_meta(d, sequence_channels={"stem": 8, "iloop": 5, "loop": 4}), "loop"),
    (lambda d: (d / "labels.npy").unlink(), "labels.npy: cannot be read"),
    (lambda d: _truncate(d / "features.npy"), "features.npy: cannot be read"),
    (lambda d: (d / "features.npy").write_bytes(b""), "features.npy: cannot be read"),
    (lambda d: np.save(d / "features.npy", np.zeros((8, 7))), "features should be float32"),
    (lambda d: np.save(d / "offsets.npy", np.array([0, 6, 4, 8])), "offsets must rise"),
    (lambda d: np.save(d / "box_type.npy", np.full(8, 3, np.int8)), "unknown code"),
    (lambda d: np.save(d / "box_type.npy", np.full(8, -1, np.int8)), "unknown code"),
    (lambda d: np.save(d / "labels.npy", np.array([2] + [0] * 7, np.uint8)), "labels must be"),
    (lambda d: np.save(d / "seq_values_iloop.npy", np.zeros((3, 4), np.uint8)), "seq_values_iloop should be"),
    (lambda d: np.save(d / "seq_offsets_stem.npy", np.array([0, 9, 9, 9])), "seq_offsets_stem must rise"),
])
def test_files_that_do_not_fit_are_named(tmp_path: Path, damage: object, complaint: str) -> None:
    dataset().save(tmp_path / "data")
    damage(tmp_path / "data")
    with pytest.raises(UserError, match=complaint):
        load(tmp_path / "data")


def test_a_pickled_array_is_not_opened(tmp_path: Path) -> None:
    dataset().save(tmp_path / "data")
    np.save(tmp_path / "data" / "group.npy", np.array([{}, {}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"group\.npy: cannot be read"):
        load(tmp_path / "data")
