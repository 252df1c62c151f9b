"""What proposed stems can form: against the enumeration of every structure, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import RNA
from hypothesis import given, settings
from hypothesis import strategies as st

from rna_s2.energies import ensemble
from rna_s2.energies.ensemble import (
    ENSEMBLE,
    RT,
    box_probabilities,
    fold_within,
    pair_probabilities,
    stem_pairs,
)
from rna_s2.rna.boxes import HLOOP, ILOOP, STEM, Boxes
from tests.energy_reference import energy, every_pair, foldable, structures

BONUSES = st.sampled_from([-2.0, -0.5, 0.0, 1.0])


@settings(max_examples=80, deadline=None)
@given(foldable(), st.data())
def test_folding_finds_the_best_of_all_structures_of_the_pairs(case, data):
    seq, pairs = case
    bonus = data.draw(st.lists(BONUSES, min_size=len(pairs), max_size=len(pairs)))
    of_pair = dict(zip(pairs, bonus, strict=True))
    found = [(int(i), int(j)) for i, j in fold_within(seq, np.array(pairs).reshape(-1, 2), np.array(bonus))]
    assert set(found) <= set(pairs)

    def cost(structure: list[tuple[int, int]]) -> float:
        return energy(seq, structure) + sum(of_pair[pair] for pair in structure)

    assert cost(found) == pytest.approx(min(cost(s) for s in structures(pairs)), abs=0.011)


@settings(max_examples=60, deadline=None)
@given(foldable(), st.data(), BONUSES)
def test_other_pairs_may_cost_something_instead(case, data, others):
    """Every pair that can form is given, some by name."""
    seq, pairs = case
    named = data.draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    of_pair = dict.fromkeys(every_pair(seq), others) | dict.fromkeys(named, -1.0)
    found = fold_within(seq, np.array(named, int).reshape(-1, 2), -1.0, others)
    same = fold_within(seq, np.array(list(of_pair)).reshape(-1, 2), np.array(list(of_pair.values())))
    low, high = (energy(seq, f.tolist()) + sum(of_pair[tuple(pair)] for pair in f.tolist()) for f in (found, same))
    assert low == pytest.approx(high, abs=0.011)


@settings(max_examples=80, deadline=None)
@given(foldable())
def test_probabilities_are_those_of_the_enumerated_ensemble(case):
    seq, pairs = case
    weights = {tuple(s): math.exp(-energy(seq, s) / RT) for s in structures(pairs)}
    total = sum(weights.values())
    expected = [sum(w for s, w in weights.items() if pair in s) / total for pair in pairs]
    assert pair_probabilities(seq, np.array(pairs).reshape(-1, 2)) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("length", [60, 1000])
def test_with_every_pair_allowed_it_is_plain_folding(length):
    seq = "".join(np.random.default_rng(length).choice(list("ACGU"), length))
    can = np.array([(i, j) for i in range(length) for j in range(i + 4, length)])
    compound = RNA.fold_compound(seq)
    lowest = compound.mfe()[1]
    assert energy(seq, fold_within(seq, can).tolist()) == pytest.approx(lowest, abs=0.02)
    compound.exp_params_rescale(lowest)
    compound.pf()
    plain = np.array(compound.bpp())[can[:, 0] + 1, can[:, 1] + 1]
    assert pair_probabilities(seq, can) == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize(("seq", "scale"), [("G" * 300 + "AAAA" + "C" * 300, None), ("ACGU" * 150, -10_000.0)])
def test_a_partition_function_out_of_range_is_scaled_anew(seq, scale, monkeypatch):
    """The first is more stable than ViennaRNA's own scale allows for, the second less than a scale that is put upon it."""
    n = len(seq)
    can = np.array([(k, n - 1 - k) for k in range(n // 2 - 2) if seq[k] + seq[n - 1 - k] in ("GC", "CG", "AU", "UA")])
    exact = ensemble._compound(seq, can, 0.0, None, 3)
    exact.exp_params_rescale(exact.mfe()[1])
    lowest = exact.pf()[1]
    wanted = np.array(exact.bpp())[can[:, 0] + 1, can[:, 1] + 1]
    own = ensemble._compound

    def scaled(*arguments):
        compound = own(*arguments)
        if scale is not None:
            compound.exp_params_rescale(scale)
        return compound

    assert not ensemble._in_range(scaled(seq, can, 0.0, None, 3).pf()[1]) and ensemble._in_range(lowest)
    monkeypatch.setattr(ensemble, "_compound", scaled)
    np.testing.assert_allclose(pair_probabilities(seq, can), wanted, atol=1e-12)
    assert wanted.max() > 0.5


def test_pairs_of_stems_once_per_row():
    boxes = Boxes.from_rows([
        [
            (STEM, 0, 11, 3, 3), (STEM, 1, 10, 3, 3), (STEM, 9, 11, 2, 2), (STEM, 0, 20, 2, 2), (STEM, 0, 8, 2, 3),
            (HLOOP, 2, 8, 7, 7),
        ],
        [],
        [(STEM, 0, 11, 1, 1)],
    ])
    pairs, offsets = stem_pairs(boxes, np.array([12, 5, 12]))
    assert pairs.tolist() == [[0, 11], [1, 10], [2, 9], [3, 8], [0, 11]]
    assert offsets.tolist() == [0, 4, 4, 5]


def test_processes_change_nothing(monkeypatch):
    monkeypatch.setattr(ensemble, "ROWS_PER_WORKER", 2)
    rng = np.random.default_rng(8)
    seqs = ["".join(rng.choice(list("ACGU"), 30)) for _ in range(7)]
    boxes = Boxes.from_rows([[(STEM, x, 29 - x, n, n) for x in range(4) for n in (2, 3)] for _ in seqs])
    np.testing.assert_array_equal(box_probabilities(boxes, seqs, workers=2), box_probabilities(boxes, seqs))


def test_nothing_proposed_gives_nothing():
    none = np.zeros((0, 2), int)
    assert fold_within("GGGAAACCC", none).shape == (0, 2)
    assert pair_probabilities("GGGAAACCC", none).shape == (0,)
    assert box_probabilities(Boxes.empty(2), ["GGG", "AAA"]).shape == (0, len(ENSEMBLE))


def test_a_larger_least_hairpin_is_kept():
    seq, pairs = "GGGGAAAACCCC", np.array([(k, 11 - k) for k in range(4)])
    assert len(fold_within(seq, pairs)) == 4
    assert fold_within(seq, pairs, min_hairpin=6).tolist() == [[0, 11], [1, 10], [2, 9]]
    assert len(fold_within(seq, pairs, min_hairpin=0)) == 4
    with pytest.raises(ValueError, match="not finite"):
        fold_within(seq, pairs, np.full(4, np.nan))


def test_columns_of_boxes_by_hand():
    """The ensemble of a stem of four pairs, of which a proposal holds the inner three and a lone one the outermost."""
    seq = "GGGGAAAAACCCCU"
    boxes = Boxes.from_rows([[
        (STEM, 0, 12, 1, 1), (STEM, 1, 11, 3, 3), (ILOOP, 1, 11, 2, 3), (ILOOP, 0, 12, 2, 2), (HLOOP, 3, 9, 7, 7),
        (HLOOP, 0, 13, 14, 14),
    ]])
    pairs, _ = stem_pairs(boxes, np.array([len(seq)]))
    p = dict(zip(map(tuple, pairs.tolist()), pair_probabilities(seq, pairs), strict=True))
    paired = {base: sum(q for pair, q in p.items() if base in pair) for base in range(len(seq))}
    found = box_probabilities(boxes, [seq])
    assert found[0] == pytest.approx([p[0, 12], p[0, 12], p[1, 11], 1])
    three = [p[1, 11], p[2, 10], p[3, 9]]
    assert found[1] == pytest.approx([min(three), sum(three) / 3, p[0, 12], 1])
    assert found[2] == pytest.approx([0, p[1, 11] / 2, 0, 1 - paired[10]])  # its inner pair (2, 9) is not proposed
    assert found[3] == pytest.approx([min(p[0, 12], p[1, 11]), (p[0, 12] + p[1, 11]) / 2, 0, 1])
    assert found[4] == pytest.approx([p[3, 9], p[3, 9], 0, 1 - max(paired[k] for k in range(4, 9))])
    assert found[5] == pytest.approx([0, 0, 0, 1 - max(paired[k] for k in range(1, 13))])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_columns_of_boxes_against_plain_loops(seed):
    rng = np.random.default_rng(seed)
    rows, seqs = [], []
    for length in rng.integers(8, 40, 3).tolist():
        row = []
        for _ in range(rng.integers(0, 8)):
            x, y = sorted(rng.choice(length, 2, replace=False).tolist())
            size = int(rng.integers(1, (y - x) // 2 + 2))
            box_type = int(rng.integers(0, 3))
            if box_type == STEM and x + 2 * size - 2 < y:
                row.append((STEM, x, y, size, size))
            elif box_type == ILOOP and y - x >= 5:
                left, right = (int(n) for n in rng.integers(2, (y - x + 3) // 2, 2))
                row.append((ILOOP, x, y, left, right))
            elif box_type == HLOOP:
                row.append((HLOOP, x, y, y - x + 1, y - x + 1))
        rows.append(row)
        seqs.append("".join(rng.choice(list("ACGU"), length)))
    boxes = Boxes.from_rows(rows)
    pairs, offsets = stem_pairs(boxes, np.array([len(s) for s in seqs]))
    expected = []
    for row, seq in enumerate(seqs):
        own = pairs[offsets[row] : offsets[row + 1]]
        p = dict(zip(map(tuple, own.tolist()), pair_probabilities(seq, own), strict=True))
        free = [1 - sum(q for pair, q in p.items() if base in pair) for base in range(len(seq))]
        for box_type, x, y, siz_x, siz_y in boxes.row_boxes(row):
            if box_type == STEM:
                values = [p[x + k, y - k] for k in range(siz_x)]
                beyond = max(p.get((x - 1, y + 1), 0), p.get((x + siz_x, y - siz_x), 0))
                expected.append([min(values), sum(values) / siz_x, beyond, 1])
            elif box_type == ILOOP:
                inner = x + siz_x - 1, y - siz_y + 1
                ends = [p.get((x, y), 0), p.get(inner, 0)]
                expected.append([min(ends), sum(ends) / 2, 0, min([1, *free[x + 1 : inner[0]], *free[inner[1] + 1 : y]])])
            else:
                expected.append([p.get((x, y), 0)] * 2 + [0, min([1, *free[x + 1 : y]])])
    assert box_probabilities(boxes, seqs) == pytest.approx(np.clip(np.array(expected).reshape(-1, 4), 0, 1), abs=1e-9)
