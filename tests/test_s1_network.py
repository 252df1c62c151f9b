"""Targets, losses, figures and optimiser of stage 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from rna_s2.rna.boxes import HLOOP, ILOOP, STEM, Boxes
from rna_s2.rna.pairs import from_dot_bracket, target_boxes
from rna_s2.s1.batches import EpochMaps, Maps, cell_targets, length_batches
from rna_s2.s1.config import NetworkConfig
from rna_s2.s1.losses import map_losses
from rna_s2.s1.metrics import BINS, LOGIT_LIMIT, count_correct, count_on, histogram_auroc, histogram_average_precision
from rna_s2.s1.network import LOC_CLASSES, SIZE_CLASSES, ProposalNetwork, TypeOutputs, pair_table, upper_triangle


def as_cells(targets) -> dict:
    return {
        (t, r, i, j): values
        for t, r, i, j, *values in zip(*(column.tolist() for column in targets), strict=True)
    }


def test_targets_of_a_hairpin_with_a_bulge_by_hand():
    #            0123456789012345
    structure = "((.((....))))..."
    boxes = target_boxes([from_dot_bracket(structure)])
    cells = as_cells(cell_targets(boxes))
    stem = {key[2:]: values for key, values in cells.items() if key[0] == STEM}
    # two stems of two pairs: (0,12) (1,11) and (3,10) (4,9); a stem's square holds the cells off its pairs as well
    assert stem == {
        (0, 12): [0, 0, 2, 2], (0, 11): [0, 1, 2, 2], (1, 12): [1, 0, 2, 2], (1, 11): [1, 1, 2, 2],
        (3, 10): [0, 0, 2, 2], (3, 9): [0, 1, 2, 2], (4, 10): [1, 0, 2, 2], (4, 9): [1, 1, 2, 2],
    }
    iloop = {key[2:]: values for key, values in cells.items() if key[0] == ILOOP}
    # the bulge: rows 1..3, columns 10..11
    assert iloop == {(i, j): [i - 1, 11 - j, 3, 2] for i in (1, 2, 3) for j in (10, 11)}
    hloop = {key[2:]: values for key, values in cells.items() if key[0] == HLOOP}
    # the hairpin loop 4..9, only what lies above the diagonal
    assert hloop == {(i, j): [i - 4, 9 - j, 6, 6] for i in range(4, 10) for j in range(i + 1, 10)}


def test_a_cell_of_two_iloops_speaks_for_the_inner_one():
    boxes = Boxes.from_rows([[], [(ILOOP, 0, 30, 3, 4), (ILOOP, 2, 27, 5, 2)]])
    cells = as_cells(cell_targets(boxes))
    assert cells[(ILOOP, 1, 2, 27)] == [0, 0, 5, 2]
    assert cells[(ILOOP, 1, 1, 27)] == [1, 3, 3, 4]
    assert len(cells) == 3 * 4 + 5 * 2 - 1


def test_no_boxes_no_cells():
    assert all(len(column) == 0 for column in cell_targets(Boxes.empty(3)))


def test_pair_table_is_concatenation_and_product():
    table = pair_table()
    a, g = 0, 2
    row = table[5 * a + g]
    assert row[:4].tolist() == [1, 0, 0, 0] and row[4:8].tolist() == [0, 0, 1, 0]
    assert row[8:].nonzero().flatten().tolist() == [4 * a + g]
    with_n = table[5 * 4 + g]
    assert with_n[:4].sum() == 0 and with_n[4:8].tolist() == [0, 0, 1, 0] and with_n[8:].sum() == 0
    assert table[25].sum() == 0


def small_maps() -> Maps:
    structures = ["((.((....))))...", "((((...))))", "....", "(((..((...))..)))"]
    seqs = ["GGAGGAAAACCCCAAA", "GGGGAAACCCC", "ACGU", "GGGAACCAAAGGAACCC"]
    return Maps.from_sequences(seqs, target_boxes([from_dot_bracket(s) for s in structures]))


def slow_losses(network: ProposalNetwork, maps: Maps, rows: list[int], scalar_weight: float) -> dict[str, float]:
    """The losses by loops over cells, one sequence at a time."""
    names = ("stem", "iloop", "hloop")
    sums = {f"{part}/{name}": 0.0 for part in ("on", "location", "size", "scalar") for name in names}
    counts = dict.fromkeys(names, 0)
    for row in rows:
        codes = torch.from_numpy(maps.codes[maps.offsets[row]: maps.offsets[row + 1]])[None]
        length = codes.shape[1]
        features = network.features(codes, codes, upper_triangle(torch.tensor([length]), length))[0]
        cells = as_cells(cell_targets(maps.boxes.take_rows(np.array([row]))))
        for code, name in enumerate(names):
            sides = 2 if code == ILOOP else 1
            for i in range(length):
                for j in range(i + 1, length):
                    out = network.type_outputs(features[i, j][None], code)
                    p = 1 / (1 + math.exp(-float(out.on)))
                    truth = cells.get((code, 0, i, j))
                    sums[f"on/{name}"] -= math.log(p if truth else 1 - p)
                    if not truth:
                        continue
                    counts[name] += 1
                    loc_x, loc_y, siz_x, siz_y = truth
                    for logits, value in ((out.loc_x, min(loc_x, 11)), (out.loc_y, min(loc_y, 11))):
                        sums[f"location/{name}"] -= float(logits[0].log_softmax(0)[value])
                    both = ((out.siz_x, out.scalar_x, siz_x), (out.siz_y, out.scalar_y, siz_y))[:sides]
                    for logits, number, value in both:
                        sums[f"size/{name}"] -= float(logits[0].log_softmax(0)[min(value, 11) - 1]) / sides
                        off = abs(float(number) - value)
                        sums[f"scalar/{name}"] += scalar_weight * (off**2 / 2 if off < 1 else off - 0.5) / sides
    return {key: value / max(counts[key.split("/")[1]], 1) for key, value in sums.items()}


def test_losses_of_a_padded_batch_are_those_of_the_cells():
    torch.manual_seed(0)
    network = ProposalNetwork(NetworkConfig(channels=8, hidden=8, dilations=(1, 2), head_hidden=8))
    with torch.no_grad():
        for block in network.blocks:
            block.mix.weight.normal_(0, 0.3)
        maps = small_maps()
        batch = maps.batch(np.arange(4))
        inside = batch.inside()
        losses = map_losses(network, network.features(batch.codes, batch.codes, inside), inside, batch, 0.2)
        slow = slow_losses(network, maps, [0, 1, 2, 3], 0.2)
    assert {k: float(v) for k, v in losses.items()} == pytest.approx(slow, rel=1e-4)


def test_losses_without_any_target_are_finite_and_differentiable():
    network = ProposalNetwork(NetworkConfig(channels=4, hidden=4, dilations=(1,), head_hidden=4))
    batch = Maps.from_sequences(["ACGUA"], Boxes.empty(1)).batch(np.array([0]))
    inside = batch.inside()
    losses = map_losses(network, network.features(batch.codes, batch.codes, inside), inside, batch, 0.2)
    sum(losses.values()).backward()
    assert float(losses["location/stem"].detach()) == 0
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_figures_from_histograms_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    on = torch.from_numpy(rng.random((20000, 3)) < np.array([0.01, 0.1, 0.5]))
    logits = torch.from_numpy(rng.normal(0, 2, (20000, 3))) + 2 * on
    logits[0] = 40.0
    logits[1] = -40.0
    positive, negative = count_on(logits, on)
    assert positive.shape == (3, BINS) and positive.sum() + negative.sum() == 60000
    for k in range(3):
        clipped = logits[:, k].clamp(-LOGIT_LIMIT, LOGIT_LIMIT).numpy()
        assert histogram_auroc(positive[k], negative[k]) == pytest.approx(
            roc_auc_score(on[:, k].numpy(), clipped), abs=1e-4
        )
        assert histogram_average_precision(positive[k], negative[k]) == pytest.approx(
            average_precision_score(on[:, k].numpy(), clipped), abs=2e-3
        )
    assert math.isnan(histogram_auroc(np.zeros(4), np.ones(4)))
    assert math.isnan(histogram_average_precision(np.zeros(4), np.ones(4)))


def test_an_epoch_stream_shows_each_row_once_per_pass_and_only_depends_on_seed_and_epoch():
    maps = small_maps()

    def rows_of(*epochs: int, **settings) -> list[list[int]]:
        stream = EpochMaps(maps, np.array([0, 1, 3]), batches_per_epoch=2, batch_pixels=1, seed=7, **settings)
        out = []
        for epoch in epochs:
            stream.set_epoch(epoch)
            out.append([int(row) for batch in stream.batch_rows() for row in batch])
        return out

    first, second, third = rows_of(0, 1, 2)  # a batch holds one row: three epochs are two passes over three rows
    assert sorted(first + second[:1]) == sorted(second[1:] + third) == [0, 1, 3]
    assert rows_of(2, 0) == [third, first]
    short = rows_of(0, 1, 2, short_len=11, short_epochs=1)
    assert short == [[1, 1], first, second]  # row 1 alone has at most 11 bases
    whole = EpochMaps(maps, np.array([0, 1, 3]), batches_per_epoch=0, batch_pixels=1, seed=7)
    assert len(whole) == 3
    with pytest.raises(ValueError, match="no rows"):
        rows_of(0, short_len=3, short_epochs=1)


def test_batches_keep_within_their_cells_and_hold_every_row():
    lengths = np.array([10, 3, 50, 10, 9, 1, 0])
    batches = length_batches(lengths, np.array([0, 1, 2, 3, 4, 5, 6]), 210)
    assert sorted(np.concatenate(batches).tolist()) == list(range(7))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * lengths[rows].max() ** 2 <= 210
    assert len(batches) < 7


def test_correct_cells_by_hand():
    def says(classes: int, *best: int) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(best), classes).float()

    outputs = TypeOutputs(
        on=torch.zeros(3), loc_x=says(LOC_CLASSES, 0, 1, 2), loc_y=says(LOC_CLASSES, 3, 0, 0),
        siz_x=says(SIZE_CLASSES + 1, 1, 1, 1), siz_y=says(SIZE_CLASSES + 1, 2, 2, 0),
        scalar_x=torch.tensor([2.2, 2.0, 4.0]), scalar_y=torch.tensor([3.4, 3.0, 3.0]),
    )
    truth = [torch.tensor(values) for values in ([0, 1, 5], [3, 4, 5], [2, 2, 2], [3, 3, 3])]
    assert count_correct(outputs, ILOOP, *truth).tolist() == [2, 1, 2, 2]
