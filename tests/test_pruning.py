"""Pruning: each rule by hand, and all of them against the slow reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.table import BoxTable
from rna_s2.pruning import rules as pruning
from rna_s2.pruning.rules import REFERENCE_RULES, PruningRules, Rule, prune
from tests.box_strategies import tables
from tests.real_data import REAL_TABLES, name_of
from tests.reference import TYPES, prune_row, rows_of, table_of

OFF = {"min_pixel_pred": 0, "min_prob": 0.0}
"""Keeps every box whatever its confidence."""
RULE_NAMES = [rule.name for rule in pruning.RULES]


def box(x: int, y: int, siz_x: int, siz_y: int | None = None, sm: list[float] = (), sl: list[float] = ()) -> dict:
    return {
        "bb_x": x, "bb_y": y, "siz_x": siz_x, "siz_y": siz_x if siz_y is None else siz_y,
        "prob_sm": list(sm), "prob_sl": list(sl),
    }


def table(seq: str, target: list = (), **boxes: list[dict]) -> BoxTable:
    return table_of([{"seq": seq, "target": list(target), **{f"bb_{t}": boxes.get(t, []) for t in TYPES}}])


def kept(table: BoxTable, **rules: object) -> list[tuple[str, int, int, int, int]]:
    result = prune(table, PruningRules(**(OFF | rules)))
    return [(TYPES[t], *rest) for t, *rest in result.table.proposals.row_boxes(0)]


def assert_agrees(table: BoxTable, rules: PruningRules) -> None:
    """The fast path and the reference keep the same rows and boxes, and count the same."""
    result = prune(table, rules)
    fast = rows_of(result.table)
    sums = np.zeros((len(RULE_NAMES) + 1, 3), np.int64)
    skipped = []
    for r, row in enumerate(rows_of(table)):
        expected, steps = prune_row(row, rules)
        sums += [[step[t] for t in TYPES] for step in steps]
        if expected is None:
            skipped.append(r)
            continue
        found = expected.pop("n_bb_found")
        assert next(fast) == expected
        at = r - len(skipped)
        assert result.sensitivity.n_found[at] == found
        assert result.sensitivity.n_target[at] == len(row["target"])
        assert result.sensitivity.full[at] == (found == len(row["target"]))
    assert next(fast, None) is None
    assert result.skipped_rows.tolist() == skipped
    assert list(result.counts["rule"].unique()) == list(RULE_NAMES)
    assert result.counts["before"].to_numpy().reshape(len(RULE_NAMES), 3).tolist() == sums[:-1].tolist()
    assert result.counts["after"].to_numpy().reshape(len(RULE_NAMES), 3).tolist() == sums[1:].tolist()
    assert (result.counts["dropped"] == result.counts["before"] - result.counts["after"]).all()


RULES = st.builds(
    PruningRules,
    max_len=st.sampled_from([0, 0, 5, 10]),
    min_pixel_pred=st.integers(0, 4),
    min_prob=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    discard_ns_stem=st.booleans(),
    min_hloop_size=st.integers(1, 4),
    drop_lower_triangle=st.booleans(),
    drop_isolated_loops=st.booleans(),
    drop_unclosed_loops=st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(tables, RULES)
def test_agrees_with_the_reference_on_random_tables(rows: list[dict], rules: PruningRules) -> None:
    assert_agrees(table_of(rows), rules)


@settings(max_examples=100, deadline=None)
@given(tables, RULES)
def test_pruning_twice_changes_nothing(rows: list[dict], rules: PruningRules) -> None:
    once = prune(table_of(rows), rules)
    twice = prune(once.table, rules)
    assert list(rows_of(twice.table)) == list(rows_of(once.table))
    assert twice.counts["dropped"].sum() == 0


@pytest.mark.parametrize("path", REAL_TABLES, ids=name_of)
def test_agrees_with_the_reference_on_real_tables(path: Path) -> None:
    real = read_table(path).table
    strict = PruningRules(drop_lower_triangle=True, drop_isolated_loops=True, max_len=150, discard_ns_stem=True)
    closed = PruningRules(drop_unclosed_loops=True)
    for rules in (REFERENCE_RULES, PruningRules(), strict, closed):
        assert_agrees(real, rules)


def test_max_len_skips_longer_rows_only() -> None:
    boxes = {"bb_stem": [box(0, 1, 1)], "bb_iloop": [], "bb_hloop": []}
    rows = [{"seq": "A" * n, "target": [], **boxes} for n in (3, 4, 5)]
    result = prune(table_of(rows), PruningRules(max_len=4, **OFF))
    assert result.skipped_rows.tolist() == [2]
    assert result.table.lengths.tolist() == [3, 4]
    assert result.table.frame.index.tolist() == [0, 1]
    first = result.counts.iloc[0]
    assert (first["rule"], first["type"], first["before"], first["after"]) == ("max_len", "stem", 3, 2)
    assert len(prune(table_of(rows), PruningRules(**OFF)).skipped_rows) == 0


def test_a_box_needs_enough_pixels_or_one_probability_from_one_output() -> None:
    stems = [
        box(0, 9, 1, sm=[0.1, 0.1, 0.1]),  # three pixels
        box(1, 9, 1, sl=[0.1, 0.1, 0.1]),  # three pixels, the other output
        box(2, 9, 1, sm=[0.1, 0.1], sl=[0.1, 0.1]),  # four pixels, but two and two
        box(3, 9, 1, sm=[0.5]),  # exactly the probability
        box(4, 9, 1, sl=[0.2, 0.6]),  # the largest counts
        box(5, 9, 1, sm=[0.49]),
        box(6, 9, 1),  # nothing at all
    ]
    proposed = table("A" * 10, stem=stems)
    assert [b[1] for b in kept(proposed, min_pixel_pred=3, min_prob=0.5)] == [0, 1, 3, 4]
    assert [b[1] for b in kept(proposed, min_pixel_pred=0, min_prob=0.0)] == [0, 1, 2, 3, 4, 5, 6]
    # an empty list has no maximum, so that probability 0 does not help a box that nobody proposes
    assert [b[1] for b in kept(proposed, min_pixel_pred=3, min_prob=0.0)] == [0, 1, 2, 3, 4, 5]


def test_boxes_that_leave_the_map_are_dropped() -> None:
    inside = [box(0, 7, 4), box(0, 3, 4), box(4, 7, 4)]
    outside = [box(-1, 7, 2), box(7, 7, 2), box(0, 8, 2), box(0, 1, 3), box(8, 8, 1)]
    assert kept(table("A" * 8, stem=inside + outside)) == [
        ("stem", 0, 7, 4, 4), ("stem", 0, 3, 4, 4), ("stem", 4, 7, 4, 4)
    ]
    assert kept(table("A" * 8, iloop=[box(0, 7, 8, 2), box(0, 7, 9, 2), box(0, 7, 2, 8), box(0, 7, 2, 9)])) == [
        ("iloop", 0, 7, 8, 2), ("iloop", 0, 7, 2, 8)
    ]


@pytest.mark.parametrize("pair", ["AU", "UA", "GC", "CG", "GU", "UG", "AT", "TA", "gt", "Tg", "aU"])
def test_stems_of_canonical_pairs_stay(pair: str) -> None:
    assert len(kept(table(pair[0] + "NN" + pair[1], stem=[box(0, 3, 1)]), discard_ns_stem=True)) == 1


@pytest.mark.parametrize(
    "pair", ["AA", "AC", "CA", "AG", "GA", "CC", "CU", "UC", "GG", "UU", "TT", "TU", "NA", "UN", "NN"]
)
def test_stems_of_other_pairs_go(pair: str) -> None:
    impossible = table(pair[0] + "NN" + pair[1], stem=[box(0, 3, 1)])
    assert kept(impossible, discard_ns_stem=True) == []
    assert len(kept(impossible)) == 1


def test_every_pair_of_a_stem_is_looked_at_and_loops_are_not() -> None:
    seq = "GGAcAAAAGuCC"  # G0 G1 A2 c3 ... G8 u9 C10 C11
    proposed = table(
        seq,
        stem=[box(0, 11, 4), box(0, 11, 5), box(1, 11, 2), box(3, 8, 1), box(0, 11, 2, 3)],
        iloop=[box(4, 7, 2)],
        hloop=[box(4, 7, 4)],
    )
    assert kept(proposed, discard_ns_stem=True) == [
        ("stem", 0, 11, 4, 4), ("stem", 3, 8, 1, 1), ("iloop", 4, 7, 2, 2), ("hloop", 4, 7, 4, 4)
    ]


def test_small_hairpin_loops_go() -> None:
    proposed = table("A" * 9, hloop=[box(0, n - 1, n) for n in (1, 2, 3, 4)], stem=[box(0, 8, 1)])
    assert kept(proposed, min_hloop_size=3) == [("stem", 0, 8, 1, 1), ("hloop", 0, 2, 3, 3), ("hloop", 0, 3, 4, 4)]


def test_the_lower_triangle_is_dropped() -> None:
    proposed = table(
        "A" * 10,
        stem=[
            box(0, 5, 3),  # bottom-left cell (2, 3): above the diagonal
            box(0, 4, 3),  # (2, 2): on it
            box(0, 3, 3),  # (2, 1): below it
        ],
        iloop=[
            box(0, 5, 3, 3), box(0, 5, 3, 4),  # (2, 3) and (2, 2)
            box(0, 5, 4, 3),  # (3, 3)
        ],
        hloop=[
            box(2, 6, 5),  # on the diagonal: columns 2..6, rows 2..6
            box(2, 7, 5),  # off it
            box(2, 6, 5, 4),  # not square
        ],
    )
    assert kept(proposed, drop_lower_triangle=True) == [
        ("stem", 0, 5, 3, 3), ("iloop", 0, 5, 3, 3), ("hloop", 2, 6, 5, 5)
    ]
    assert len(kept(proposed)) == 9


def test_a_loop_stays_where_a_stem_ends_in_it() -> None:
    stem = box(2, 20, 3)  # outer pair (2, 20), inner pair (4, 18)
    loops = [
        box(4, 18, 3, 4),  # the stem's inner pair closes it from outside
        box(0, 22, 3, 3),  # its inner pair (2, 20) is the stem's outer pair
        box(2, 20, 3, 4),  # starts where the stem starts: in the stem's place
        box(1, 21, 4, 4),  # inner pair (4, 18) is the stem's inner pair: over the stem
        box(4, 17, 2, 3),  # next to it
    ]
    hairpins = [box(4, 18, 15), box(2, 20, 19), box(5, 17, 13)]
    assert kept(table("A" * 24, stem=[stem], iloop=loops, hloop=hairpins), drop_isolated_loops=True) == [
        ("stem", 2, 20, 3, 3), ("iloop", 4, 18, 3, 4), ("iloop", 0, 22, 3, 3), ("hloop", 4, 18, 15, 15)
    ]


def test_a_loop_needs_a_stem_at_each_closing_pair_where_that_is_asked() -> None:
    outer, inner = box(0, 22, 3), box(5, 16, 2)  # inner pair (2, 20); outer pair (5, 16), inner pair (6, 15)
    loops = [
        box(2, 20, 4, 5),  # from (2, 20) to (5, 16): a stem at both
        box(2, 20, 3, 3),  # no stem starts at its inner pair (4, 18)
        box(4, 18, 2, 3),  # no stem ends at its outer pair
    ]
    hairpins = [box(6, 15, 10), box(5, 16, 12)]
    assert kept(table("A" * 24, stem=[outer, inner], iloop=loops, hloop=hairpins), drop_unclosed_loops=True) == [
        ("stem", 0, 22, 3, 3), ("stem", 5, 16, 2, 2), ("iloop", 2, 20, 4, 5), ("hloop", 6, 15, 10, 10)
    ]


def test_only_stems_of_the_same_row_that_remain_hold_a_loop() -> None:
    loop = {"bb_stem": [], "bb_iloop": [], "bb_hloop": [box(1, 5, 5)], "target": []}
    rows = [
        {**loop, "seq": "GGAAACC", "bb_stem": [box(0, 6, 2)]},
        {**loop, "seq": "GGAAACC"},
        {**loop, "seq": "GAAAAAC", "bb_stem": [box(0, 6, 2)]},  # its second pair is impossible
    ]
    result = prune(table_of(rows), PruningRules(discard_ns_stem=True, drop_isolated_loops=True, **OFF))
    assert result.table.proposals.counts().tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_sensitivity_counts_identical_boxes_of_the_same_type() -> None:
    rows = [
        {"seq": "A" * 12, "bb_stem": [box(0, 9, 2), box(0, 9, 3)], "bb_iloop": [box(1, 8, 2, 3)], "bb_hloop": [],
         "target": [("stem", 0, 9, 2, 2), ("iloop", 1, 8, 3, 2), ("hloop", 2, 6, 5, 5)]},
        {"seq": "A" * 12, "bb_stem": [box(0, 9, 2)], "bb_iloop": [], "bb_hloop": [], "target": [("stem", 0, 9, 2, 2)]},
        {"seq": "A" * 12, "bb_stem": [], "bb_iloop": [], "bb_hloop": [], "target": []},
    ]
    sensitivity = prune(table_of(rows), PruningRules(**OFF)).sensitivity
    assert sensitivity.n_found.tolist() == [1, 1, 0]
    assert sensitivity.n_target.tolist() == [3, 1, 0]
    assert sensitivity.full.tolist() == [False, True, True]
    assert sensitivity.full_share == pytest.approx(2 / 3)
    assert sensitivity.shares == {"stem": 1.0, "iloop": 0.0, "hloop": 0.0, "all": 0.5}


def test_a_table_without_targets_is_pruned_all_the_same() -> None:
    result = prune(replace(table("GAAC", stem=[box(0, 3, 1), box(0, 3, 2)]), targets=None), REFERENCE_RULES)
    assert len(result.table.proposals) == 1
    assert result.sensitivity is None


@pytest.mark.parametrize("values", [
    {"max_len": -1}, {"min_pixel_pred": -1}, {"min_prob": 1.1}, {"min_prob": -0.1}, {"min_hloop_size": 0},
    {"min_hloop_sise": 3}, {"min_prob": float("nan")},
])
def test_rules_out_of_bounds_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PruningRules(**values)


def test_the_reference_rules_are_those_of_the_reference_experiment() -> None:
    assert PruningRules().model_dump().items() >= {
        "max_len": 0, "min_pixel_pred": 3, "min_prob": 0.5, "discard_ns_stem": False, "min_hloop_size": 1,
        "drop_lower_triangle": False, "drop_isolated_loops": False, "drop_unclosed_loops": False,
    }.items()
    changed = {"discard_ns_stem": True, "min_hloop_size": 3, "min_pixel_pred": 0, "min_prob": 0.0}
    assert REFERENCE_RULES.model_dump() == PruningRules().model_dump() | changed


def test_rules_and_parameters_stand_in_the_order_in_which_they_apply() -> None:
    rules = [
        "max_len", "min_pixel_pred_or_min_prob", "out_of_range", "discard_ns_stem", "min_hloop_size", "drop_lower_triangle",
        "drop_isolated_loops", "drop_unclosed_loops",
    ]
    assert [name for name in RULE_NAMES if name in rules] == rules
    parameters = [
        "max_len", "min_pixel_pred", "min_prob", "discard_ns_stem", "min_hloop_size", "drop_lower_triangle",
        "drop_isolated_loops", "drop_unclosed_loops",
    ]
    assert [name for name in PruningRules.model_fields if name in parameters] == parameters


def test_a_further_rule_is_applied_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any rule may drop boxes, or whole rows behind rules that dropped boxes."""
    rows = [{"seq": seq, "target": [], "bb_stem": [box(0, 3, 1), box(0, 9, 1), box(0, 3, 2)], "bb_iloop": [], "bb_hloop": []}
            for seq in ("GAAC", "GAAAC", "GAAAAC")]
    odd = Rule("odd_rows", lambda rules, table, kept: table.lengths % 2 == 1, of_rows=True)
    late = Rule("late", lambda rules, table, kept: table.proposals.siz_x == 2)
    monkeypatch.setattr(pruning, "RULES", [*pruning.RULES, odd, late])
    result = prune(table_of(rows), PruningRules(max_len=5, **OFF))
    assert result.skipped_rows.tolist() == [1, 2] and list(result.table.proposals.row_boxes(0)) == [(0, 0, 3, 1, 1)]
    stems = result.counts[result.counts["type"] == "stem"].set_index("rule")["after"]
    assert stems[["max_len", "out_of_range", "odd_rows", "late"]].tolist() == [6, 4, 2, 1]
