"""Features and labels: each kind by hand, and all of them against the slow reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.energies.boxes import box_energies, end_energies
from rna_s2.energies.ensemble import ENSEMBLE, box_probabilities
from rna_s2.options.errors import UserError
from rna_s2.pruning.rules import REFERENCE_RULES, prune
from rna_s2.s2.feature_groups import CONFIDENCES, ENERGY, GROUPS, libraries_of, ragged_median
from rna_s2.s2.feature_groups import GEOMETRY as GEOMETRY_NAMES
from rna_s2.s2.feature_groups import KINDS as FEATURE_KINDS
from rna_s2.s2.features import encode_boxes, featurize, shuffle_within_rows
from rna_s2.s2.neighbours import COUNTS, PATHS, neighbour_counts, path_energies
from tests.box_strategies import pruned_tables
from tests.real_data import PANDAS_1_TABLES, PARQUET_TABLES, name_of
from tests.reference import TYPES, features_row, is_trained_on, rows_of, table_of

KINDS = ("baseline", "s1_features", "sequence_encoding", "shuffle_label")
A, C, G, T, N = [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]


def box(x: int, y: int, siz_x: int, siz_y: int, sm: list[float] = (), sl: list[float] = ()) -> dict:
    return {"bb_x": x, "bb_y": y, "siz_x": siz_x, "siz_y": siz_y, "prob_sm": list(sm), "prob_sl": list(sl)}


#        0         1
#        012345678901234
SEQ = "GgNAcaaaGUTuaCC"
ROW = {
    "seq": SEQ,
    "bb_stem": [box(0, 14, 2, 2, sm=[0.2, 0.4, 0.9], sl=[0.25, 0.5]), box(4, 8, 1, 1)],
    "bb_iloop": [box(1, 13, 4, 6, sl=[0.5])],
    "bb_hloop": [box(4, 8, 5, 5, sm=[0.5, 0.25, 1.0, 0.75])],
    "target": [("stem", 0, 14, 2, 2), ("iloop", 1, 13, 4, 6)],
}
GEOMETRY = [
    [1, 0, 0, 0, 14, 2, 2],
    [1, 0, 0, 4, 8, 1, 1],
    [0, 1, 0, 1, 13, 4, 6],
    [0, 0, 1, 4, 8, 5, 5],
]


def rows_table(*rows: dict) -> BoxTable:
    return table_of(rows)


def empty_row(**values: object) -> dict:
    return {"seq": "ACGU", "bb_stem": [], "bb_iloop": [], "bb_hloop": [], "target": [], **values}


def assert_agrees(table: BoxTable, kind: str, keep_partial: bool, seed: int = 7) -> None:
    """The fast path keeps the same rows as the reference, with the same features, labels and bases, to the last bit."""
    data = featurize(table, kind, keep_partial=keep_partial, seed=seed)
    source_rows, counts, n_target, labels = [], [], [], []
    features, sequences = [], {t: [] for t in TYPES}
    for r, row in enumerate(rows_of(table)):
        if not is_trained_on(row, keep_partial):
            continue
        of_row, labels_of_row, bases_of_row = features_row(row, kind)
        source_rows.append(r)
        counts.append(len(of_row))
        n_target.append(len(row["target"]))
        labels.append(labels_of_row)
        features.extend(of_row)
        for t, bases in bases_of_row.items():
            sequences[t].extend(bases)
    if kind == "shuffle_label":
        draw = iter(np.random.default_rng(seed).random(len(features)).tolist())
        for k, of_row in enumerate(labels):
            numbers = [next(draw) for _ in of_row]
            labels[k] = [of_row[i] for i in sorted(range(len(of_row)), key=numbers.__getitem__)]
    flat_labels = [label for of_row in labels for label in of_row]

    assert data.source_row.tolist() == source_rows
    assert np.diff(data.offsets).tolist() == counts
    assert data.n_target.tolist() == n_target
    assert data.labels.tolist() == flat_labels
    expected = np.array(features, np.float64).reshape(len(features), len(FEATURE_KINDS[kind].columns)).astype(np.float32)
    assert data.features.dtype == np.float32
    np.testing.assert_array_equal(data.features, expected)
    assert data.meta.positives == sum(flat_labels)
    assert data.meta.rows_read == table.rows
    assert set(data.seq_values) == (set(TYPES) if kind == "sequence_encoding" else set())
    for t, values in data.seq_values.items():
        assert np.diff(data.seq_offsets[t]).tolist() == [len(bases) for bases in sequences[t]]
        flat = [position for bases in sequences[t] for position in bases]
        assert values.tolist() == flat


@settings(max_examples=150, deadline=None)
@given(pruned_tables, st.sampled_from(KINDS), st.booleans(), st.integers(0, 3))
def test_agrees_with_the_reference_on_random_tables(rows: list[dict], kind: str, keep_partial: bool, seed: int) -> None:
    assert_agrees(table_of(rows), kind, keep_partial, seed)


@pytest.mark.parametrize("path", [*PARQUET_TABLES, *PANDAS_1_TABLES], ids=name_of)
def test_agrees_with_the_reference_on_real_tables(path: Path) -> None:
    table = prune(read_table(path).table, REFERENCE_RULES).table
    for kind in KINDS:
        for keep_partial in (False, True):
            assert_agrees(table, kind, keep_partial)


def test_relational_is_made_of_its_parts() -> None:
    rows = [ROW, empty_row(bb_stem=[box(0, 2, 1, 1)]), empty_row()]
    table = rows_table(*rows)
    data = encode_boxes(table, "relational")
    assert data.meta.feature_names == GEOMETRY_NAMES + CONFIDENCES + ENERGY + COUNTS + PATHS + ENSEMBLE
    np.testing.assert_array_equal(data.features[:, :11], encode_boxes(table, "s1_features").features)
    energies, ends = (of(table.proposals, table.frame["seq"].tolist()) for of in (box_energies, end_energies))
    assert np.isinf(energies).any() and np.isfinite(energies).any()
    chains = path_energies(table.proposals, energies, ends)
    wanted = np.column_stack([energies, ends, neighbour_counts(table.proposals), chains])
    wanted = np.column_stack([np.where(np.isinf(wanted), 30.0, wanted), box_probabilities(table.proposals, table.frame["seq"])])
    np.testing.assert_array_equal(data.features[:, 11:], wanted.astype(np.float32))
    without = encode_boxes(table, "relational", data.meta.feature_names[:-4])
    np.testing.assert_array_equal(without.features[:, :-4], data.features[:, :-4])
    assert np.isnan(without.features[:, -4:]).all()
    assert data.bases.tolist() == [2, 2, 4, 0, 1, 0, 0, 0, 2, 3, 3, 3, 0, 1, 1] + [0, 1, 2, 3] * 2
    assert data.base_offsets.tolist() == [0, 15, 19, 23]


def test_labels_are_shuffled_whatever_the_features() -> None:
    rows = [ROW, ROW, ROW]
    plain, shuffled = (featurize(rows_table(*rows), kind, seed=5) for kind in ("relational", "relational_shuffle_label"))
    np.testing.assert_array_equal(plain.features, shuffled.features)
    assert shuffled.labels.tolist() == featurize(rows_table(*rows), "shuffle_label", seed=5).labels.tolist()
    assert plain.labels.tolist() == [1, 0, 1, 0] * 3 != shuffled.labels.tolist()


def test_baseline_by_hand() -> None:
    data = featurize(rows_table(ROW), "baseline")
    assert data.meta.feature_names == ("type_stem", "type_iloop", "type_hloop", "bb_x", "bb_y", "siz_x", "siz_y")
    assert data.features.tolist() == GEOMETRY
    assert data.labels.tolist() == [1, 0, 1, 0]
    assert data.box_type.tolist() == [0, 0, 1, 2]
    assert data.seq_length.tolist() == [15]
    assert data.meta.boxes_per_type == {"stem": 2, "iloop": 1, "hloop": 1}
    assert data.meta.positives_per_type == {"stem": 1, "iloop": 1, "hloop": 0}


def test_s1_features_by_hand() -> None:
    data = featurize(rows_table(ROW), "s1_features")
    assert data.meta.feature_names[7:] == (
        "prob_sm_median", "prob_sm_per_cell", "prob_sl_median", "prob_sl_per_cell"
    )
    assert data.features[:, :7].tolist() == GEOMETRY
    confidences = [
        [0.4, 3 / 4, 0.375, 2 / 4],
        [0, 0, 0, 0],
        [0, 0, 0.5, 1 / 24],
        [0.625, 4 / 25, 0, 0],
    ]
    assert data.features[:, 7:].tolist() == np.array(confidences, np.float32).tolist()


def test_sequence_encoding_by_hand() -> None:
    data = featurize(rows_table(ROW), "sequence_encoding")
    assert data.features.tolist() == GEOMETRY
    assert data.meta.sequence_channels == {"stem": 8, "iloop": 5, "hloop": 4}
    # G-C, g-C; then c-G
    assert data.seq_values["stem"].tolist() == [G + C, G + C, C + G]
    assert data.seq_offsets["stem"].tolist() == [0, 2, 3]
    # 5' strand 1..4: g N A c; 3' strand from 13 down to 8: C a u T U G
    five_prime = [[*G, 1], [*N, 0], [*A, 0], [*C, 1]]
    three_prime = [[*C, 1], [*A, 0], [*T, 0], [*T, 0], [*T, 0], [*G, 1]]
    assert data.seq_values["iloop"].tolist() == five_prime + three_prime
    assert data.seq_offsets["iloop"].tolist() == [0, 10]
    # 4..8: c a a a G
    assert data.seq_values["hloop"].tolist() == [C, A, A, A, G]
    assert data.seq_values["hloop"].dtype == np.uint8


def test_a_bulge_has_closing_bases_at_both_ends_of_both_strands() -> None:
    row = empty_row(seq="ACGGCU", bb_iloop=[box(0, 5, 2, 3)])
    values = featurize(rows_table(row), "sequence_encoding").seq_values["iloop"]
    assert values.tolist() == [[*A, 1], [*C, 1], [*T, 1], [*C, 0], [*G, 1]]


def test_sequences_of_a_type_without_boxes_are_empty() -> None:
    data = featurize(rows_table(empty_row(bb_stem=[box(0, 2, 1, 1)])), "sequence_encoding")
    assert data.seq_values["iloop"].shape == (0, 5)
    assert data.seq_values["hloop"].shape == (0, 4)
    assert data.seq_offsets["hloop"].tolist() == [0]


def test_rows_kept() -> None:
    stem = {"bb_stem": [box(0, 3, 1, 1)]}
    rows = [
        empty_row(**stem, target=[("stem", 0, 3, 1, 1)]),  # all found
        empty_row(**stem, target=[("stem", 0, 3, 1, 1), ("hloop", 0, 3, 4, 4)]),  # one missed
        empty_row(**stem),  # nothing to find
        empty_row(),  # nothing to find, no box
        empty_row(target=[("stem", 0, 3, 1, 1)]),  # missed, no box
    ]
    data = featurize(table_of(rows), "baseline")
    assert data.source_row.tolist() == [0, 2]
    meta = data.meta
    assert (meta.rows_read, meta.rows_full_sensitivity, meta.rows_without_boxes, meta.rows_kept) == (5, 3, 2, 2)
    assert featurize(table_of(rows), "baseline", keep_partial=True).source_row.tolist() == [0, 1, 2]


def test_a_label_asks_for_the_identical_box_of_the_same_type_and_row() -> None:
    target = ("stem", 1, 8, 2, 2)
    near = [box(1, 8, 2, 2), box(0, 8, 2, 2), box(1, 9, 2, 2), box(1, 8, 3, 2), box(1, 8, 2, 3)]
    rows = [
        empty_row(seq="A" * 12, bb_stem=near, bb_iloop=[box(1, 8, 2, 2)], bb_hloop=[box(1, 8, 2, 2)], target=[target]),
        empty_row(seq="A" * 12, bb_stem=near),
    ]
    assert featurize(table_of(rows), "baseline").labels.tolist() == [1, 0, 0, 0, 0, 0, 0] + [0] * 5


def test_shuffled_labels_stay_in_their_row_and_follow_the_seed() -> None:
    rng = np.random.default_rng(0)
    row = np.repeat(np.arange(50), rng.integers(1, 30, 50))
    labels = rng.random(len(row)) < 0.2
    once = shuffle_within_rows(labels, row, seed=1)
    assert np.bincount(row, once).tolist() == np.bincount(row, labels).tolist()
    assert once.tolist() == shuffle_within_rows(labels, row, seed=1).tolist()
    assert once.tolist() != labels.tolist()
    assert once.tolist() != shuffle_within_rows(labels, row, seed=2).tolist()


def test_every_place_in_a_row_is_equally_likely() -> None:
    rows = 6000
    labels = np.tile([True, False, False], rows)
    shuffled = shuffle_within_rows(labels, np.repeat(np.arange(rows), 3), seed=3).reshape(rows, 3)
    standard_error = np.sqrt(rows * (1 / 3) * (2 / 3))
    assert (np.abs(shuffled.sum(axis=0) - rows / 3) < 4 * standard_error).all()


def test_shuffle_label_changes_nothing_but_the_labels() -> None:
    baseline, shuffled = (featurize(rows_table(ROW), kind, seed=5) for kind in ("baseline", "shuffle_label"))
    assert shuffled.features.tolist() == baseline.features.tolist()
    assert shuffled.meta.positives == baseline.meta.positives
    assert shuffled.meta.seed == 5


@given(st.lists(st.lists(st.floats(0, 1), max_size=8), max_size=12))
def test_ragged_median(lists: list[list[float]]) -> None:
    offsets = np.concatenate([[0], np.cumsum([len(v) for v in lists])]).astype(np.int64)
    medians = ragged_median(Ragged(np.array([x for v in lists for x in v], np.float64), offsets))
    assert medians.tolist() == [float(np.median(v)) if v else 0.0 for v in lists]


def test_scoring_needs_no_targets_and_keeps_every_row() -> None:
    table = replace(table_of([empty_row(), ROW]), targets=None)
    for kind in KINDS:
        data = encode_boxes(table, kind)
        assert data.rows == 2
        assert data.offsets.tolist() == [0, 0, 4]
        assert not data.labels.any()
        assert not data.meta.labelled
        assert data.features[:, :7].tolist() == GEOMETRY
    trained = featurize(rows_table(ROW), "sequence_encoding")
    scored = encode_boxes(table, "sequence_encoding")
    for t in TYPES:
        assert scored.seq_values[t].tolist() == trained.seq_values[t].tolist()


def test_training_needs_targets() -> None:
    with pytest.raises(UserError, match="bounding_boxes"):
        featurize(replace(rows_table(ROW), targets=None), "baseline")


@pytest.mark.parametrize(("boxes", "complaint"), [
    ({"bb_iloop": [box(0, 3, 2, 2), box(0, 4, 2, 2)]}, "row 1 .*iloop bb_x=0 bb_y=4 .*runs out of the map"),
    ({"bb_hloop": [box(-1, 2, 2, 2)]}, "row 1 .*hloop bb_x=-1 .*runs out of the map"),
    ({"bb_stem": [box(0, 3, 2, 1)]}, "row 1 .*stem .*is not square"),
])
def test_boxes_without_bases_are_named(boxes: dict, complaint: str) -> None:
    table = table_of([empty_row(), empty_row(**boxes)])
    with pytest.raises(UserError, match=complaint):
        featurize(table, "sequence_encoding")
    with pytest.raises(UserError, match=complaint):
        encode_boxes(table, "sequence_encoding")
    assert featurize(table, "baseline").rows == 1


def test_a_box_without_cells_has_no_density() -> None:
    with pytest.raises(UserError, match="covers no cell"):
        featurize(rows_table(empty_row(bb_stem=[box(0, 3, 0, 1)])), "s1_features")


def test_the_libraries_of_a_kind_are_those_its_columns_are_computed_with():
    assert {name: libraries_of(name) for name in KINDS} == dict.fromkeys(KINDS, ())
    assert libraries_of("relational") == libraries_of("relational_shuffle_label") == ("ViennaRNA",)
    assert {name for name, group in GROUPS.items() if group.libraries} == {"energy", "paths", "ensemble"}
