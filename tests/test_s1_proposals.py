"""The fast path of stage 1 inference against the cell-by-cell reading, and what must not change its result."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rna_s2.rna.boxes import HLOOP, ILOOP, STEM, Boxes, inside_map
from rna_s2.rna.pairs import impossible_stems
from rna_s2.rna.sequence import encode
from rna_s2.s1.cells import CellOutputs, all_proposals
from rna_s2.s1.config import NetworkConfig
from rna_s2.s1.merging import group, merge
from rna_s2.s1.network import BANDS, LARGE_MAP, ProposalNetwork, Window, receptive_field, split_outputs, windows_around
from rna_s2.s1.proposals import least_on_logit, propose_selections
from rna_s2.s1.selection import SELECTIONS, THRESHOLDS, InferenceOptions, Selection, SelectionOptions
from tests.s1_reference import propose

TYPES = (STEM, ILOOP, HLOOP)
WIDTHS = (1 + 12 + 12 + 11 + 1, 1 + 12 + 12 + 22 + 2, 1 + 12 + 12 + 11 + 1)


def random_outputs(rng: np.random.Generator, rows: int, longest: int) -> list[torch.Tensor]:
    """Random network outputs ``(rows, longest, longest, width)`` per type, sizes so that all kinds of boxes occur."""
    outputs = []
    for box_type, width in zip(TYPES, WIDTHS, strict=True):
        values = rng.normal(0, 2, (rows, longest, longest, width))
        sides = 2 if box_type == ILOOP else 1
        values[..., -sides:] = rng.normal(3, 3, (rows, longest, longest, sides))
        outputs.append(torch.tensor(values, dtype=torch.float64))
    return outputs


def cell_dicts(values: torch.Tensor, box_type: int) -> list[list[dict]]:
    """One sequence's outputs as ``[i][j]`` of dicts of plain numbers."""
    length = values.shape[0]
    out = split_outputs(values.reshape(length * length, -1), box_type)
    columns = {name: tensor.tolist() for name, tensor in out._asdict().items()}
    return [[{name: column[i * length + j] for name, column in columns.items()} for j in range(length)]
            for i in range(length)]


def propose_boxes(network, codes, selection: SelectionOptions, *inference):
    return propose_selections(network, codes, [selection], *inference)[0]


def as_dict(merged, row: int) -> dict:
    found = {}
    boxes = merged.boxes
    for k in range(boxes.offsets[row], boxes.offsets[row + 1]):
        key = tuple(int(getattr(boxes, name)[k]) for name in ("type", "bb_x", "bb_y", "siz_x", "siz_y"))
        assert key not in found
        found[key] = {
            name: sorted(ragged.values[ragged.offsets[k]: ragged.offsets[k + 1]].tolist())
            for name, ragged in (("prob_sm", merged.prob_sm), ("prob_sl", merged.prob_sl))
        }
    return found


@pytest.mark.parametrize("selection", list(SELECTIONS))
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_outputs_give_what_the_cell_by_cell_reading_gives(selection, mask, seed):
    rng = np.random.default_rng(seed)
    lengths = np.array([14, 3, 32, 1])
    outputs = random_outputs(rng, len(lengths), int(lengths.max()))
    options = SelectionOptions(
        selection=selection, on_threshold=0.4, n_proposal_threshold=0.03, min_support=0.002, mask_lower_triangle=mask
    )
    upper = torch.triu(torch.ones(32, 32, dtype=torch.bool), 1)
    inside = torch.stack([upper & (torch.arange(32) < n) for n in lengths])
    row, i, j = torch.nonzero(inside, as_tuple=True)
    named = [split_outputs(outputs[t][row, i, j], t) for t in TYPES]
    merged = merge(
        all_proposals(CellOutputs(row, i, j, torch.tensor(lengths)[row], named), options), len(lengths), options
    )
    kinds = set()
    for r, length in enumerate(lengths):
        cells = [cell_dicts(outputs[t][r, :length, :length], t) for t in TYPES]
        expected = propose(cells, int(length), selection, 0.4, 0.03, mask, 0.002)
        found = as_dict(merged, r)
        assert found.keys() == expected.keys()
        for key, box in expected.items():
            kinds.add(key[0])
            for name, values in box.items():
                assert found[key][name] == pytest.approx(values, rel=1e-5)
        if selection == "support":
            everything = propose(cells, int(length), selection, 0.4, 0.03, mask, 0.0)
            assert len(expected) < len(everything) or length < 10, "the threshold must drop boxes"
    assert kinds == {0, 1, 2}, "the random outputs must propose boxes of every type"


def test_every_selection_has_an_entry_and_uses_the_thresholds_that_it_names():
    """A threshold that a selection names decides what it proposes; any other changes nothing."""
    assert tuple(SELECTIONS) == get_args(Selection)
    codes = random_codes(np.random.default_rng(8), 30, 18)
    low = {"on_threshold": 0.3, "n_proposal_threshold": 0.02, "min_support": 0.01}
    high = {"on_threshold": 0.9, "n_proposal_threshold": 0.6, "min_support": 0.7}
    assert low.keys() == high.keys() == THRESHOLDS.keys()
    for name, rule in SELECTIONS.items():
        assert f"{name}: {rule.description}" in SelectionOptions.model_fields["selection"].description
        settings_of = [{}, *({threshold: high[threshold]} for threshold in THRESHOLDS)]
        chosen = [SelectionOptions(selection=name, **low | changed) for changed in settings_of]
        first, *others = propose_selections(random_network(7), codes, chosen)
        assert len(first.boxes) > 0
        used = {
            threshold for threshold, other in zip(THRESHOLDS, others, strict=True)
            if [as_dict(other, row) for row in range(2)] != [as_dict(first, row) for row in range(2)]
        }
        assert used == set(rule.thresholds), name


def test_masked_boxes_lie_in_the_upper_triangle():
    rng = np.random.default_rng(5)
    outputs = random_outputs(rng, 1, 25)
    row, i, j = torch.nonzero(torch.triu(torch.ones(1, 25, 25, dtype=torch.bool), 1), as_tuple=True)
    named = [split_outputs(outputs[t][row, i, j], t) for t in TYPES]
    options = SelectionOptions(selection="n_proposal", n_proposal_threshold=0)
    cells = CellOutputs(row, i, j, torch.full_like(row, 25), named)
    boxes = merge(all_proposals(cells, options), 1, options).boxes
    assert inside_map(boxes, np.array([25])).all()
    flat = boxes.type != HLOOP
    assert (boxes.bb_x + boxes.siz_x - 1 < boxes.bb_y - boxes.siz_y + 1)[flat].all()
    assert (boxes.siz_x == boxes.bb_y - boxes.bb_x + 1)[~flat].all()


def random_network(seed: int, config: NetworkConfig | None = None) -> ProposalNetwork:
    """A network whose blocks do something and whose outputs differ between cells."""
    torch.manual_seed(seed)
    network = ProposalNetwork(config or NetworkConfig(channels=12, hidden=8, dilations=(1, 2, 3), head_hidden=16))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "mix.weight" in name:
                weight.normal_(0, 0.3)
            if "outputs" in name and name.endswith("weight"):
                weight.normal_(0, 1.5)
            if "outputs" in name and name.endswith("bias"):
                weight[0] = -1.0
                weight[-1] = 3.0
    return network.double()  # so that no rounding decides between classes


def random_codes(rng: np.random.Generator, *lengths: int) -> list[np.ndarray]:
    return [rng.integers(0, 5, n).astype(np.uint8) for n in lengths]


@pytest.mark.parametrize("selection", list(SELECTIONS))
def test_patches_give_what_the_whole_map_gives(selection):
    network = random_network(0)
    codes = random_codes(np.random.default_rng(1), 70, 33, 16)
    options = SelectionOptions(selection=selection, on_threshold=0.3, n_proposal_threshold=0.02, min_support=0.001)
    whole = propose_boxes(network, codes, options, InferenceOptions(patch=100))
    patched = propose_boxes(network, codes, options, InferenceOptions(patch=16))
    assert len(whole.boxes) > 100
    for row in range(3):
        expected, found = as_dict(whole, row), as_dict(patched, row)
        assert found.keys() == expected.keys()
        for key, box in expected.items():
            for name, values in box.items():
                assert found[key][name] == pytest.approx(values, rel=1e-4)


def test_a_batch_gives_what_each_sequence_gives_alone():
    network = random_network(2)
    codes = random_codes(np.random.default_rng(3), 21, 1, 40, 39, 20, 2)
    options = SelectionOptions(selection="union", on_threshold=0.3, n_proposal_threshold=0.05)
    together = propose_boxes(network, codes, options, InferenceOptions(batch_pixels=10**6))
    for row, code in enumerate(codes):
        alone = as_dict(propose_boxes(network, [code], options), 0)
        found = as_dict(together, row)
        assert found.keys() == alone.keys()
        for key, box in alone.items():
            for name, values in box.items():
                assert found[key][name] == pytest.approx(values, rel=1e-4)


def test_several_selections_at_once_give_what_each_gives():
    network = random_network(7)
    codes = random_codes(np.random.default_rng(8), 30, 18)
    selections = [SelectionOptions(selection=name, on_threshold=0.3, n_proposal_threshold=0.05) for name in SELECTIONS]
    sizes = set()
    for selection, proposed in zip(selections, propose_selections(network, codes, selections), strict=True):
        alone = propose_boxes(network, codes, selection)
        sizes.add(len(alone.boxes))
        assert [as_dict(proposed, row) for row in range(2)] == [as_dict(alone, row) for row in range(2)]
    assert len(sizes) == len(SELECTIONS)


@pytest.mark.parametrize(("rows", "columns"), [((0, 57), (0, 57)), ((20, 50), (30, 57)), ((30, 57), (0, 40)), ((0, 1), (0, 2))])
def test_windows_give_what_the_whole_map_gives(rows, columns):
    """Without gradients only windows around the inside cells are computed, with them the whole map."""
    network = random_network(3)
    rng = np.random.default_rng(2)
    codes = torch.from_numpy(rng.integers(0, 5, (3, 57)).astype(np.uint8))
    i, j = (torch.arange(*ends) for ends in (rows, columns))
    inside = (i[:, None] < j) & (j < torch.tensor([57, 31, 12])[:, None])[:, None, :]
    whole = network.stream(codes[:, i], codes[:, j], inside)
    with torch.inference_mode():
        windows = network.stream(codes[:, i], codes[:, j], inside)
    assert inside.any() and torch.allclose(windows[inside], whole[inside], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("length", "band"), [(100, BANDS[0]), (LARGE_MAP, BANDS[1])])
def test_windows_hold_every_inside_cell_and_little_else(length, band):
    inside = torch.zeros(2, length, length, dtype=torch.bool)
    inside[0, 0, 7] = inside[1, band - 1, 30] = inside[0, 2 * band + 5, 99] = True
    assert windows_around(inside) == [Window(0, band, 7, 31), Window(2 * band, 3 * band, 99, 100)]
    triangle = torch.triu(torch.ones(1, length, length, dtype=torch.bool), 1)
    area = sum((w.bottom - w.top) * (w.right - w.left) for w in windows_around(triangle))
    assert area < 0.65 * length**2


@pytest.mark.parametrize("thresholds", [(0.3, 0.05), (0.0, 0.3)])
def test_cells_left_out_before_the_outputs_would_have_proposed_nothing(thresholds, monkeypatch):
    network = random_network(0)
    codes = random_codes(np.random.default_rng(1), 30, 24)
    selections = [SelectionOptions(on_threshold=t) for t in thresholds]
    quick = propose_selections(network, codes, selections)
    monkeypatch.setattr("rna_s2.s1.proposals.least_on_logit", lambda selections: None)
    slow = propose_selections(network, codes, selections)
    for a, b in zip(quick, slow, strict=True):
        assert [as_dict(a, row) for row in range(2)] == [as_dict(b, row) for row in range(2)] and len(a.boxes) > 0
    assert least_on_logit([SelectionOptions(), SelectionOptions(selection="union")]) is None


def test_the_receptive_field_is_what_it_says():
    config = NetworkConfig(channels=8, hidden=8, dilations=(1, 3), first_kernel=5, head_hidden=8)
    network = random_network(4, config)
    reach = receptive_field(config)
    assert reach == 2 + 1 + 3
    length = 40
    rng = np.random.default_rng(0)
    codes = torch.from_numpy(rng.integers(0, 4, (1, length)).astype(np.uint8))
    changed = codes.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 4
    inside = torch.triu(torch.ones(1, length, length, dtype=torch.bool), 1)
    with torch.no_grad():
        moved = (network.features(codes, codes, inside) - network.features(changed, changed, inside)).abs().amax(-1)[0]
    i, j = np.nonzero(np.triu(moved.numpy() > 1e-12, 1))
    distance = np.minimum(np.abs(i - 20), np.abs(j - 20))
    assert distance.max() == reach


def test_no_sequences_and_no_proposals():
    network = random_network(0)
    nothing = propose_boxes(network, [], SelectionOptions())
    assert nothing.boxes.rows == 0 and len(nothing.boxes) == 0
    tiny = propose_boxes(network, [np.zeros(1, np.uint8)], SelectionOptions(selection="n_proposal"))
    assert tiny.boxes.rows == 1 and len(tiny.boxes) == 0 and len(tiny.prob_sm) == 0


def flat(codes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate(codes), np.cumsum([0, *map(len, codes)])


def test_impossible_stems_are_dropped_at_the_source():
    codes = [encode("GGAAACU"), encode("NGAAACC")]
    boxes = Boxes.from_rows([
        [(STEM, 0, 6, 2, 2), (STEM, 0, 6, 3, 3), (STEM, 1, 5, 1, 1), (ILOOP, 0, 6, 3, 3), (STEM, 5, 9, 1, 1),
         (STEM, 0, 6, 2, 1)],
        [(STEM, 0, 6, 1, 1), (STEM, 1, 6, 1, 1)],
    ])
    # row 0: G-U and G-C can pair, a third pair A-A cannot; a box out of the map cannot, nor one of unequal strands; row 1:
    # N pairs with nothing
    assert impossible_stems(boxes, *flat(codes)).tolist() == [False, True, False, True, True, False, True, False]
    network = random_network(6)
    sequences = random_codes(np.random.default_rng(9), 30)
    plain = propose_boxes(network, sequences, SelectionOptions(on_threshold=0.2))
    dropped = propose_boxes(network, sequences, SelectionOptions(on_threshold=0.2, drop_impossible_stems=True))
    wrong = impossible_stems(plain.boxes, *flat(sequences))
    assert 0 < wrong.sum() < len(wrong)
    assert as_dict(dropped, 0).keys() == {
        key for key, bad in zip(as_dict(plain, 0), wrong, strict=True) if not bad
    }


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2), st.integers(0, 2**40)), max_size=40), st.booleans())
def test_grouping_finds_equal_rows_and_keeps_their_order(rows, spread):
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    if spread:
        columns = columns * np.array([[1], [2**30], [1]])  # too wide for one code
    order, starts = group(list(columns))
    ends = [*starts[1:], len(order)][: len(starts)]
    seen = {}
    for start, end in zip(starts, ends, strict=True):
        members = order[start:end].tolist()
        assert members == sorted(members)
        keys = {tuple(columns[:, m]) for m in members}
        assert len(keys) == 1
        seen[keys.pop()] = members
    assert sum(map(len, seen.values())) == len(rows)
    assert len(seen) == len({tuple(c) for c in columns.T})
    assert list(seen) == sorted(seen)


def test_columns_too_wide_for_one_key_are_grouped_in_turns():
    order, starts = group([np.array([2**40, 0, 2**40, 2**40]), np.array([5, 2**40, 5, 6])])
    assert (order.tolist(), starts.tolist()) == ([1, 0, 2, 3], [0, 1, 3])
