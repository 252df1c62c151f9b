"""The relational network: relations against the domain's own, and what must not change a result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rna_s2.options.base import load_yaml
from rna_s2.options.errors import UserError
from rna_s2.pipeline.train_config import TrainConfig
from rna_s2.rna.boxes import HLOOP, ILOOP, STEM
from rna_s2.rna.relations import CROSSING, OVERLAP, RELATIONS, SAME_CORNER, is_conflict, relation
from rna_s2.s2.architectures import build_network
from rna_s2.s2.batches import BEYOND, make_batch
from rna_s2.s2.config import FeatureConfig, NetworkConfig, RelationalConfig
from rna_s2.s2.dataset import EncodedDataset
from rna_s2.s2.features import encode_boxes
from rna_s2.s2.network import BoxNetwork, batch_loss
from rna_s2.s2.relational import (
    DISTANCES,
    EMPTY,
    RelationalNetwork,
    SequenceReader,
    _Lookup,
    relation_codes,
)
from rna_s2.s2.scorer import Scorer
from rna_s2.s2.views import view
from tests.reference import table_of
from tests.test_s2_neighbours import box

SMALL = NetworkConfig(
    architecture="relational", n_dim=12, n_attn_layer=2, n_heads=3, n_ff=16, n_hid=6, dropout=0.1,
    relational=RelationalConfig(channels=8, dilations=(1, 2)),
)
VARIANTS = {
    "whole": {}, "no bias": {"relational": {"relation_bias": False, "channels": 8, "dilations": (1, 2)}},
    "no sequence": {"relational": {"sequence": False}}, "no attention": {"attention": False},
}
SEQ = "GGCGAAAGCCAUGGCAAAACCAUUGCGCA"


def a_box(x: int, y: int, siz_x: int, siz_y: int) -> dict:
    return {"bb_x": x, "bb_y": y, "siz_x": siz_x, "siz_y": siz_y, "prob_sm": [0.2, 0.6], "prob_sl": [0.5]}


def row_of(seq: str, stems=(), iloops=(), hloops=()) -> dict:
    lists = {"bb_stem": stems, "bb_iloop": iloops, "bb_hloop": hloops}
    return {"seq": seq, "target": [], **{name: [a_box(*b) for b in of] for name, of in lists.items()}}


ROWS = [
    row_of(SEQ, [(0, 9, 3, 3), (12, 21, 3, 3), (1, 14, 2, 2), (2, 7, 1, 1)], [(2, 9, 2, 3), (0, 9, 3, 3)],
           [(2, 7, 6, 6), (14, 19, 6, 6)]),
    row_of("GCAAAGC", [(0, 6, 2, 2)]),
    row_of("ACGU"),
    row_of(SEQ[5:] + "NNU", [(0, 9, 2, 2), (3, 8, 1, 1)], [], [(3, 8, 6, 6)]),
    row_of(SEQ[:12], [], [], [(2, 9, 8, 8)]),
]


def dataset(config: FeatureConfig | None = None) -> EncodedDataset:
    data = encode_boxes(table_of(ROWS), "relational")
    return data if config is None else view(data, config)


def network_for(data: EncodedDataset, seed: int = 0, **changes) -> RelationalNetwork:
    torch.manual_seed(seed)
    network = build_network(NetworkConfig.model_validate(SMALL.model_dump() | changes), data.meta.feature_names, {})
    for parameter in network.parameters():  # what starts at 0 would hide what forgets it
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def logits_by_row(network, data, rows) -> list[torch.Tensor]:
    batch = make_batch(data, np.array(rows))
    with torch.no_grad():
        logits = network(batch)
    return [logits[batch.row == k] for k in range(len(rows))]


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def codes_of(boxes: list[tuple[int, ...]], mask: list[bool] | None = None) -> np.ndarray:
    columns = torch.tensor(boxes, dtype=torch.int16).T[:, None, :]
    there = torch.ones(1, len(boxes), dtype=torch.bool) if mask is None else torch.tensor([mask])
    return relation_codes(*columns, there)[0].numpy()


@settings(max_examples=150, deadline=None)
@given(st.lists(box(), min_size=1, max_size=9, unique=True))
def test_relations_are_those_of_the_domain(boxes):
    boxes = [b for b in boxes if (b[1] <= b[2] if b[0] == HLOOP else inner(b)[0] < inner(b)[1])] or [(STEM, 0, 9, 2, 2)]
    how = codes_of(boxes) // (len(DISTANCES) + 1)
    for k, a in enumerate(boxes):
        for n, b in enumerate(boxes):
            wanted = RELATIONS[relation(a, b)]
            found = RELATIONS[how[k, n]]
            if is_conflict(relation(a, b)):
                strands = [strands_of(c) for c in (a, b)]
                if a[1:3] == b[1:3] or inner(a) == inner(b):
                    wanted = "same_corner"
                else:
                    wanted = "overlap" if strands[0] & strands[1] else "crossing"
            assert found == wanted, (a, b)


def inner(b):
    return b[1] + b[3] - 1, b[2] - b[4] + 1


def strands_of(b) -> set[int]:
    if b[0] == HLOOP:
        return set(range(b[1], b[2] + 1))
    return set(range(b[1], b[1] + b[3])) | set(range(b[2] - b[4] + 1, b[2] + 1))


@pytest.mark.parametrize(
    ("a", "b", "how", "distance"),
    [
        ((STEM, 0, 40, 3, 3), (STEM, 5, 30, 3, 3), "outside", 2 + 7),
        ((STEM, 5, 30, 3, 3), (STEM, 0, 40, 3, 3), "inside", 2 + 7),
        ((STEM, 0, 40, 3, 3), (STEM, 4, 37, 3, 3), "outside", 1 + 0),
        ((STEM, 5, 31, 3, 3), (STEM, 0, 40, 3, 3), "inside", 2 + 6),
        ((STEM, 0, 10, 3, 3), (STEM, 11, 30, 3, 3), "apart", 0),
        ((STEM, 20, 30, 3, 3), (STEM, 0, 10, 3, 3), "apart", 9),
        ((STEM, 0, 20, 5, 5), (STEM, 1, 19, 3, 3), "overlap", 0),  # the same pairs, fewer
        ((STEM, 0, 20, 5, 5), (STEM, 1, 20, 3, 3), "overlap", 1),
        ((STEM, 0, 20, 2, 2), (STEM, 10, 40, 2, 2), "crossing", 30),
        ((STEM, 0, 20, 2, 2), (ILOOP, 1, 19, 3, 2), "closes", 0),
        ((STEM, 0, 20, 2, 2), (STEM, 0, 20, 3, 3), "same_corner", 0),
        ((HLOOP, 3, 9, 7, 7), (STEM, 1, 11, 3, 3), "closed_by", 0),
    ],
)
def test_relations_and_distances_by_hand(a, b, how, distance):
    code = int(codes_of([a, b])[0, 1])
    assert RELATIONS[code // (len(DISTANCES) + 1)] == how
    if how not in ("closes", "closed_by"):
        assert code % (len(DISTANCES) + 1) == sum(distance >= low for low in DISTANCES)


def test_an_empty_place_has_a_code_of_its_own():
    code = codes_of([(STEM, 0, 20, 2, 2), (STEM, 0, 20, 2, 2)], [True, False])
    assert code[:, 1].tolist() == [EMPTY, EMPTY] and code[0, 0] != EMPTY
    assert {SAME_CORNER, OVERLAP, CROSSING} == {0, 1, 2}


def test_the_shipped_network_scores_what_it_has_always_scored():
    """Its weights belong to the codes of relations and to the order of all that goes in."""
    found = Scorer.load(Path(__file__).resolve().parent.parent / "data" / "s2_model").score_table(table_of(ROWS))
    wanted = [
        [0.998546, 0.000188, 0.000158, 0.001771, 0.000088, 0.00081, 0.99914, 0.000118], [0.017854], [],
        [0.000894, 0.002429, 0.001078], [0.000214],
    ]
    for scores, literal in zip(found, wanted, strict=True):
        np.testing.assert_allclose(scores, literal, rtol=1e-3, atol=1e-6)


def test_the_lookup_and_its_gradient_are_those_of_indexing():
    torch.manual_seed(0)
    table = torch.randn(5, 3, requires_grad=True)
    code = torch.randint(0, 5, (2, 4, 4), dtype=torch.int32)
    downstream = torch.randn(2, 3, 4, 4)
    got, wanted = _Lookup.apply(table, code), table[code.long()].permute(0, 3, 1, 2)
    assert got.equal(wanted)
    for a, b in zip(torch.autograd.grad(got, table, downstream), torch.autograd.grad(wanted, table, downstream), strict=True):
        close(a, b)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_result_does_not_depend_on_the_rest_of_the_batch(variant):
    data = dataset()
    network = network_for(data, **VARIANTS[variant])
    together = logits_by_row(network, data, [0, 1, 2, 3, 4])
    alone = [logits_by_row(network, data, [row])[0] for row in range(4 + 1) if row != 2]
    for got, wanted in zip([together[row] for row in (0, 1, 3, 4)], alone, strict=True):
        close(got, wanted)
    assert together[2].shape == (0,)
    backwards = logits_by_row(network, data, [4, 3, 2, 1, 0])[::-1]
    for got, wanted in zip(together, backwards, strict=True):
        close(got, wanted)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_order_of_the_boxes_does_not_matter(variant):
    data = dataset()
    network = network_for(data, **VARIANTS[variant])
    n = int(data.offsets[1])
    order = np.concatenate([np.random.default_rng(0).permutation(n), np.arange(n, data.meta.boxes)])
    moved = replace(data, features=data.features[order], box_type=data.box_type[order], labels=data.labels[order])
    for got, wanted in zip(logits_by_row(network, moved, [0, 3]), logits_by_row(network, data, [0, 3]), strict=True):
        close(got, wanted[order[:n]] if len(wanted) == n else wanted)


def test_each_switch_takes_something_away():
    data = dataset()
    whole = logits_by_row(network_for(data), data, [0])[0]
    n_weights = {name: sum(p.numel() for p in network_for(data, **change).parameters()) for name, change in VARIANTS.items()}
    assert n_weights["whole"] > max(n_weights["no bias"], n_weights["no sequence"], n_weights["no attention"])
    without_bias = network_for(data)
    torch.nn.init.zeros_(without_bias.bias.table)
    assert not torch.allclose(whole, logits_by_row(without_bias, data, [0])[0])


def test_without_attention_each_box_is_seen_alone():
    data = dataset()
    network = network_for(data, attention=False)
    batch = make_batch(data, np.array([0]))
    features = batch.features.clone().requires_grad_()
    network(replace(batch, features=features))[0].backward()
    assert features.grad[0].abs().sum() > 0 and features.grad[1:].abs().sum() == 0


def test_the_network_reads_the_sequence_at_a_boxs_own_place():
    data = dataset()
    network = network_for(data, attention=False)
    batch = make_batch(data, np.array([0]))
    box = 1  # stem (12, 21, 3, 3); with dilations 1 and 2 a base sees three to each side
    before = network(batch)[box]
    for place, changes in ((3, False), (8, False), (13, True), (11, True), (20, True), (26, False)):
        bases = batch.bases.clone()
        bases[0, place] = (bases[0, place] + 1) % 4
        assert bool((network(replace(batch, bases=bases))[box] - before).abs() > 1e-6) == changes, place


def test_the_mean_over_a_strand_by_hand():
    reader = SequenceReader(RelationalConfig(channels=4, dilations=(1,)), n_dim=2).eval()
    bases = torch.tensor([[0, 1, 2, 3, 0, 1], [2, 2, 1, BEYOND, BEYOND, BEYOND]], dtype=torch.uint8)
    taken = []
    reader.widen.register_forward_hook(lambda module, args, out: taken.append(args[0]))
    with torch.no_grad():
        reader(bases, torch.tensor([[1, 2, 4, 5], [0, 2, 0, 2]]), torch.tensor([0, 1]))
        reader(bases, torch.tensor([[k, k, k, k] for k in range(6)]), torch.zeros(6, dtype=torch.int64))
        reader(bases[1:, :3], torch.tensor([[k, k, k, k] for k in range(3)]), torch.zeros(3, dtype=torch.int64))
    several, single, short = taken
    state, short_state = single[:, 8:12], short[:, 8:12]  # the corner states of boxes of one base
    close(several[0, :4], state[1:3].mean(0))
    close(several[0, 4:8], state[4:6].mean(0))
    close(several[0, 8:], state[[1, 2, 4, 5]].flatten())
    close(several[1, :4], short_state.mean(0))


@pytest.mark.parametrize("without", [
    (), ("confidence",), ("energy",), ("neighbours",), ("ensemble",), ("confidence", "energy", "neighbours"),
])
def test_groups_of_numbers_can_be_taken_away(without):
    data = dataset(FeatureConfig(kind="relational", without=without))
    network = network_for(data)
    assert all(torch.isfinite(logits).all() for logits in logits_by_row(network, data, [0, 1, 3, 4]))
    kept = set(network.inputs.groups) - {"type", "place", "size"}
    groups = {
        "confidence": {"confidence"}, "energy": {"energy", "paths", "ensemble"},
        "neighbours": {"counts", "paths", "ensemble"}, "ensemble": {"ensemble"},
    }
    assert kept == {"confidence", "energy", "counts", "paths", "ensemble"} - set().union(*(groups[name] for name in without))
    batch = make_batch(data, np.array([0, 3]))
    length = batch.seq_length[batch.row].float()
    assert network.inputs(batch.features, length).shape == (len(batch.features), network.inputs.width)


def test_features_without_places_are_refused():
    data = dataset(FeatureConfig(kind="relational", without=("place",)))
    with pytest.raises(UserError, match=r"bb_x, bb_y missing.*features\.kind to relational"):
        network_for(data)


def test_a_dataset_without_sequences_is_refused():
    data = encode_boxes(table_of(ROWS), "s1_features")
    with pytest.raises(UserError, match=r"whole sequences: set features\.kind to relational"):
        network_for(data)(make_batch(data, np.array([0])))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"network": {"architecture": "relational"}}, "or relational_shuffle_label, not baseline"),
        ({"network": {"architecture": "relational"}, "features": {"kind": "relational"},
          "augmentation": {"bb_augmentation_shift": True, "bb_shift": 2}}, "take bb_augmentation_shift away"),
        ({"features": {"kind": "s1_features", "without": ["energy"]}}, "without names energy, which the kind s1_features"),
        ({"network": {"relational": {"dilations": []}}}, "dilations must be one or more numbers from 1 on"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_any_work(values, said):
    with pytest.raises(ValidationError, match=said):
        TrainConfig.model_validate(values)


@pytest.mark.parametrize("name", ["relational", "relational_s1"])
def test_the_configs_describe_this_network(name):
    config = TrainConfig.model_validate(load_yaml(Path(__file__).resolve().parents[1] / "configs" / f"{name}.yaml"))
    data = dataset(config.features)
    network = build_network(config.network, data.meta.feature_names, data.meta.sequence_channels)
    assert isinstance(network, RelationalNetwork)
    assert ("confidence" in network.inputs.groups) == (name == "relational_s1")
    assert {"type", "place", "size", "energy", "counts", "paths", "ensemble"} <= set(network.inputs.groups)
    assert config.registered_name == "s2-" + name.replace("_", "-") and config.split.test_share == 0.1


def test_the_other_architecture_takes_the_same_features():
    data = dataset()
    network = build_network(NetworkConfig(n_dim=10, n_heads=2), data.meta.feature_names, {})
    assert isinstance(network, BoxNetwork) and network(make_batch(data, np.array([0]))).isfinite().all()


def test_it_learns_and_every_weight_has_a_gradient():
    data = dataset()
    labels = np.random.default_rng(1).integers(0, 2, data.meta.boxes).astype(np.uint8)
    data = replace(data, labels=labels, meta=data.meta.model_copy(update={"positives": int(labels.sum())}))
    network = network_for(data, dropout=0.0).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    batch = make_batch(data, np.array([0, 1, 3, 4]))
    losses = []
    for _ in range(60):
        loss = batch_loss(network(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
