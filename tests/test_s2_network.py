"""The network against PyTorch's own layers and plain loops, and the batches it is fed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from rna_s2.rna.boxes import BOX_TYPES
from rna_s2.s2 import layers
from rna_s2.s2.batches import EpochBatches, OrderedBatches, epoch_batches, length_groups, make_batch, ordered_batches
from rna_s2.s2.config import NetworkConfig
from rna_s2.s2.layers import EncoderLayer, SelfAttention
from rna_s2.s2.network import BoxNetwork, batch_loss
from tests.s2_data import random_dataset

COUNTS = [(3, 2, 2), (1, 0, 0), (0, 0, 0), (4, 0, 3), (0, 5, 0), (0, 0, 1), (6, 4, 2)]
"""Full rows beside one without boxes, rows of one box, and rows that lack a type."""
KINDS = ("baseline", "sequence_encoding")
SMALL = NetworkConfig(n_dim=12, n_attn_layer=2, n_heads=3, n_ff=16, n_hid=6, dropout=0.1, lstm_hid=4, lstm_layer=2)


def network_for(data, config: NetworkConfig = SMALL, seed: int = 0) -> BoxNetwork:
    torch.manual_seed(seed)
    network = BoxNetwork(config, len(data.meta.feature_names), data.meta.sequence_channels)
    for parameter in network.parameters():  # biases start at 0 else, and would hide what forgets them
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def logits_by_row(network: BoxNetwork, data, rows) -> list[torch.Tensor]:
    batch = make_batch(data, np.array(rows))
    with torch.no_grad():
        logits = network(batch)
    return [logits[batch.row == k] for k in range(len(rows))]


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_feed_forward_is_torchs_with_the_same_mask(probability, monkeypatch):
    torch.manual_seed(1)
    widen, narrow, x = torch.nn.Linear(5, 9), torch.nn.Linear(9, 5), torch.randn(6, 5, requires_grad=True)
    gone = (torch.rand(6, 9) < 0.3).float()
    kept = (1 - gone) / (1 - layers.drop_share(probability)) if probability else 1.0
    monkeypatch.setattr(layers, "dropped", lambda shape, p, like: gone.clone())
    wanted, got = narrow(widen(x).relu() * kept), layers.feed_forward(x, widen, narrow, probability)
    close(got, wanted)
    downstream, leaves = torch.randn(6, 5), [x, *widen.parameters(), *narrow.parameters()]
    for a, b in zip(torch.autograd.grad(got, leaves, downstream), torch.autograd.grad(wanted, leaves, downstream),
                    strict=True):
        close(a, b)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(probability):
    torch.manual_seed(0)
    n = 200_000
    result = layers.dropout(torch.full((n // 2, 2), 3.0), probability)
    share = layers.drop_share(probability)
    assert abs(share - probability) <= 1 / 512
    assert (result == 0).float().mean() == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / n))
    assert result[result != 0].unique().tolist() == pytest.approx([3 / (1 - share)])
    torch.manual_seed(0)
    assert layers.dropout(torch.full((n // 2, 2), 3.0), probability).equal(result)


def test_dropout_at_the_ends_of_its_range():
    values = torch.randn(1000)
    assert layers.dropout(values, 0.0) is values
    assert layers.dropout(values, 0.9999).isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3), (1,), (3, 5), (2, 2, 2)])
def test_a_mask_has_any_shape(shape):
    mask = layers.dropped(shape, 0.5, torch.zeros(1, dtype=torch.bfloat16))
    assert mask.shape == shape and mask.dtype == torch.bfloat16


def test_elements_of_masks_are_dropped_independently():
    """Share of drops by place, and of pairs dropped together: of neighbours, of elements that share a random word's byte place,
    and of equal places in two masks."""
    torch.manual_seed(5)
    n, share = 80_000, layers.drop_share(0.25)
    first, second = (layers.dropped((n // 8, 8), 0.25, torch.zeros(1)).double() for _ in range(2))
    assert (first.mean(0) - share).abs().max() < 5 * math.sqrt(share * (1 - share) / (n / 8))
    flat = first.flatten()
    for together in (flat[1:] * flat[:-1], flat[8:] * flat[:-8], first * second):
        assert float(together.mean()) == pytest.approx(share**2, abs=5 * share / math.sqrt(n))


def dropped_by_shape(shape, p, like):
    """Drops that both computations find."""
    random = torch.rand(shape, generator=torch.Generator().manual_seed(math.prod(shape)))
    return (random < p).to(like.dtype)


def plain_layer(layer, x, counts):
    """An encoder layer from PyTorch's own functions, row by row, with the masks of :func:`dropped_by_shape`."""
    p, attention = layer.probability if layer.training else 0.0, layer.attention

    def drop(values):
        return values * (1 - dropped_by_shape(values.shape, p, values)) / (1 - p) if p else values

    packed = attention.query_key_value(layer.norm_attention(x))
    mixed = []
    for row in packed.split(counts):
        query, key, value = row.view(len(row), 3, attention.n_heads, x.shape[1] // attention.n_heads).permute(1, 2, 0, 3)
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[2])
        mixed.append((drop(scores.softmax(-1)) @ value).transpose(0, 1).reshape(len(row), x.shape[1]))
    x = x + drop(attention.out(torch.cat(mixed)))
    hidden = drop(layer.widen(layer.norm_feed_forward(x)).relu())
    return x + drop(layer.narrow(hidden))


@pytest.mark.parametrize(("training", "rows"), [(True, COUNTS), (False, COUNTS), (True, [(9, 0, 0)]), (True, [(0, 0, 0)])])
def test_a_layer_with_gradients_is_torchs_with_the_same_masks(training, rows, monkeypatch):
    monkeypatch.setattr(layers, "dropped", dropped_by_shape)
    torch.manual_seed(3)
    layer = EncoderLayer(12, 3, 16, 0.25).train(training)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    counts = [sum(row) for row in rows]
    x = torch.randn(sum(counts), 12, requires_grad=True)
    got, wanted = layer(x, counts, None, None), plain_layer(layer, x, counts)
    close(got, wanted)
    leaves, downstream = [x, *layer.parameters()], torch.randn_like(wanted)
    for a, b in zip(torch.autograd.grad(got, leaves, downstream), torch.autograd.grad(wanted, leaves, downstream),
                    strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_layer_in_bfloat16_is_as_exact_as_torchs(monkeypatch):
    monkeypatch.setattr(layers, "dropped", dropped_by_shape)
    torch.manual_seed(3)
    layer, counts = EncoderLayer(12, 3, 16, 0.25).train(), [5, 0, 9]
    x, downstream = torch.randn(14, 12, requires_grad=True), torch.randn(14, 12)
    results = []
    for enabled, ours in ((False, True), (True, False), (True, True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = layer(x, counts, None, None) if ours else plain_layer(layer, x, counts)
        results.append([y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], downstream)])
    assert not results[2][0].equal(results[0][0])
    for exact, plain, got in zip(*results, strict=True):
        assert got.dtype == torch.float32
        assert float((got - exact).norm()) < 1.5 * float((plain - exact).norm()) + 0.005 * float(exact.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_neighbours(kind):
    data = random_dataset(COUNTS, kind=kind)
    network = network_for(data)
    together = logits_by_row(network, data, range(len(COUNTS)))
    backwards = logits_by_row(network, data, range(len(COUNTS))[::-1])[::-1]
    for row, count in enumerate(COUNTS):
        assert together[row].shape == (sum(count),)
        close(backwards[row], together[row])
        if sum(count):
            (alone,) = logits_by_row(network, data, [row])
            close(alone, together[row])


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_depends_on_its_own_other_boxes(kind):
    data = random_dataset(COUNTS, kind=kind)
    network = network_for(data)
    before = logits_by_row(network, data, [6, 0])
    data.features[data.offsets[6], 3:] += 20  # the first box of row 6 moves
    after = logits_by_row(network, data, [6, 0])
    assert not torch.allclose(after[0][1:], before[0][1:], atol=1e-4)
    close(after[1], before[1])


@pytest.mark.parametrize("kind", KINDS)
def test_permuted_boxes_have_permuted_logits(kind):
    data = random_dataset(COUNTS, kind=kind)
    network = network_for(data)
    order = np.arange(len(data.labels))
    rng = np.random.default_rng(3)
    for row in range(len(data)):
        for code in range(len(BOX_TYPES)):
            own = np.flatnonzero(data.box_type[data.offsets[row]: data.offsets[row + 1]] == code) + data.offsets[row]
            order[own] = rng.permutation(own)
    assert (order != np.arange(len(order))).any()
    values, offsets = {}, {}
    for name in data.seq_values:
        own = order[data.box_type == BOX_TYPES.index(name)]
        pieces = [data.seq_values[name][slice(*data.seq_offsets[name][e: e + 2])] for e in data.entry_of_box[own]]
        values[name] = np.concatenate(pieces)
        offsets[name] = np.cumsum([0, *map(len, pieces)])
    permuted = replace(
        data, features=data.features[order], labels=data.labels[order], seq_values=values, seq_offsets=offsets
    )
    rows = range(len(COUNTS))
    close(
        torch.cat(logits_by_row(network, permuted, rows)), torch.cat(logits_by_row(network, data, rows))[order]
    )


def test_the_sequence_encoder_is_an_lstm_box_by_box():
    data = random_dataset(COUNTS, kind="sequence_encoding", seed=4)
    network = network_for(data)
    rows = [6, 4, 2, 0, 3]
    with torch.no_grad():
        got = network._encode_sequences(make_batch(data, np.array(rows)))
        wanted = []
        for row in rows:
            for box in range(data.offsets[row], data.offsets[row + 1]):
                name = BOX_TYPES[data.box_type[box]]
                start, end = data.seq_offsets[name][data.entry_of_box[box]:][:2]
                bases = torch.tensor(data.seq_values[name][start:end], dtype=torch.float32)
                output, _ = network.encoders[name].lstm(bases[:, None])  # (length, 1, hidden), of the top layer
                wanted.append(output[-1, 0])
    close(got, torch.stack(wanted))


@pytest.mark.parametrize("dropping", [False, True])
def test_attention_is_a_plain_loop_over_rows_heads_and_boxes(dropping, monkeypatch):
    data = random_dataset(COUNTS)
    batch = make_batch(data, np.arange(len(COUNTS)))
    torch.manual_seed(2)
    attention = SelfAttention(12, 3, 0.25 if dropping else 0.0).train(dropping)
    torch.nn.init.normal_(attention.query_key_value.bias)
    scale = 1 / (1 - 0.25) if dropping else 1.0
    monkeypatch.setattr(layers, "dropped", lambda shape, p, like: torch.zeros(shape))
    x = torch.randn(len(data.labels), 12, requires_grad=True)
    got = attention(x, batch.counts, batch.slot, batch.mask)

    query, key, value = functional.linear(x, attention.query_key_value.weight, attention.query_key_value.bias).split(12, 1)
    mixed = []
    for row in range(len(data)):
        own = range(data.offsets[row], data.offsets[row + 1])
        for i in own:
            heads = []
            for h in range(3):
                part = slice(4 * h, 4 * h + 4)
                scores = torch.stack([query[i, part] @ key[j, part] / math.sqrt(4) for j in own])
                weights = scores.exp() / scores.exp().sum() * scale
                heads.append(sum(w * value[j, part] for w, j in zip(weights, own, strict=True)))
            mixed.append(torch.cat(heads))
    wanted = functional.linear(torch.stack(mixed), attention.out.weight, attention.out.bias)
    close(got, wanted)
    downstream = torch.randn_like(wanted)
    leaves = [x, *attention.parameters()]
    for a, b in zip(torch.autograd.grad(got, leaves, downstream), torch.autograd.grad(wanted, leaves, downstream),
                    strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_padded_attention_is_attention_by_row(share):
    """What CUDA devices compute, heads padded as there, beside what CPUs do; with dropout its mean over many tries."""
    batch = make_batch(random_dataset(COUNTS), np.arange(len(COUNTS)))
    torch.manual_seed(3)
    packed = torch.randn(len(batch.features), 36, requires_grad=True)
    wanted = layers.attention(packed, 3, batch.counts, batch.slot, batch.mask, 0.0)
    parts = layers.padded_heads(packed, 3, batch.slot, batch.mask)
    assert parts[0].shape == (len(COUNTS), 3, batch.mask.shape[1], 4)
    tries = [
        layers.unpadded(layers.fused_attention(*parts, batch.mask[:, None, None, :], share, head_multiple=32), batch.slot)
        for _ in range(4000 if share else 1)
    ]
    got = torch.stack(tries).mean(0)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=0.15 if share else 1e-5)
    if not share:
        downstream = torch.randn_like(wanted)
        close(*(torch.autograd.grad(result, packed, downstream)[0] for result in (got, wanted)))


def test_the_network_is_its_layers_of_torch():
    config = SMALL
    data = random_dataset(COUNTS)
    network = network_for(data)
    row = 6
    x = functional.linear(
        torch.tensor(data.features[data.offsets[row]: data.offsets[row + 1]]), network.embed.weight, network.embed.bias
    )[None]
    for layer in network.layers:
        reference = torch.nn.TransformerEncoderLayer(
            config.n_dim, config.n_heads, config.n_ff, dropout=0.0, batch_first=True, norm_first=True
        )
        own = layer.state_dict()
        names = {
            "self_attn.in_proj_weight": "attention.query_key_value.weight",
            "self_attn.in_proj_bias": "attention.query_key_value.bias",
            "self_attn.out_proj.weight": "attention.out.weight", "self_attn.out_proj.bias": "attention.out.bias",
            "linear1.weight": "widen.weight", "linear1.bias": "widen.bias",
            "linear2.weight": "narrow.weight", "linear2.bias": "narrow.bias",
            "norm1.weight": "norm_attention.weight", "norm1.bias": "norm_attention.bias",
            "norm2.weight": "norm_feed_forward.weight", "norm2.bias": "norm_feed_forward.bias",
        }
        reference.load_state_dict({theirs: own[ours] for theirs, ours in names.items()})
        x = reference(x)
    wanted = network.out(network.hidden(network.norm(x[0])).relu()).squeeze(1)
    close(logits_by_row(network, data, [row, 1])[0], wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_training_gives_every_weight_a_finite_gradient(kind):
    data = random_dataset([(3, 2, 2), (1, 0, 0), (4, 1, 3)], kind=kind)
    network = network_for(data).train()
    batch = make_batch(data, np.arange(3))
    batch_loss(network(batch), batch).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert network.layers[0].attention.query_key_value.weight.grad.abs().max() > 0


def test_loss_by_hand():
    # Row 0 has logits ln 3, 0 with labels 1, 0: probabilities 3/4 and 1/2. Row 1 has logit -ln 3 with label 1: 1/4.
    data = random_dataset([(2, 0, 0), (1, 0, 0)])
    data.labels[:] = [1, 0, 1]
    batch = make_batch(data, np.array([0, 1]))
    loss = batch_loss(torch.tensor([math.log(3), 0.0, -math.log(3)]), batch)
    assert float(loss) == pytest.approx(((-math.log(3 / 4) - math.log(1 / 2)) / 2 - math.log(1 / 4)) / 2, rel=1e-6)


def test_one_batch_can_be_learnt_by_heart():
    data = random_dataset([(5, 3, 2), (4, 4, 1)], seed=6)
    network = network_for(data, SMALL.model_copy(update={"n_dim": 30, "n_hid": 20, "dropout": 0.0}))
    batch = make_batch(data, np.array([0, 1]))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    first = float(batch_loss(network(batch), batch).detach())
    for _ in range(150):
        optimizer.zero_grad()
        loss = batch_loss(network(batch), batch)
        loss.backward()
        optimizer.step()
    assert first > 0.3 and float(loss.detach()) < 0.01


def test_a_batch_holds_the_rows_as_asked():
    data = random_dataset(COUNTS, kind="sequence_encoding")
    rows = np.array([3, 2, 1])
    batch = make_batch(data, rows, shift=np.array([2, 5, -1]))
    assert batch.rows == 3 and batch.row_id.tolist() == rows.tolist()
    assert batch.mask.sum(1).tolist() == [7, 0, 1]
    assert batch.row.tolist() == [0] * 7 + [2]
    assert batch.slot.tolist() == [0, 1, 2, 3, 4, 5, 6, 16] and batch.mask.shape == (3, 8)
    index = [*range(data.offsets[3], data.offsets[4]), data.offsets[1]]
    shifted = data.features[index].copy()
    shifted[:, 3:5] += np.array([2] * 7 + [-1])[:, None]
    np.testing.assert_array_equal(batch.features.numpy(), shifted)
    np.testing.assert_array_equal(batch.labels.numpy(), data.labels[index])
    moved = batch.to("cpu")
    assert moved.features.equal(batch.features) and moved.sequences.keys() == batch.sequences.keys()


@given(st.lists(st.integers(0, 12), max_size=25), st.integers(1, 5), st.integers(1, 30), st.integers(0, 9))
def test_an_epoch_has_every_row_once(counts, batch_size, n_groups, seed):
    counts = np.array(counts, dtype=np.int64)
    batches = epoch_batches(counts, batch_size, n_groups, np.random.default_rng(seed))
    assert sorted(np.concatenate([*batches, []]).tolist()) == list(range(len(counts)))
    groups = [set(group.tolist()) for group in length_groups(counts, n_groups)]
    assert len(groups) == min(n_groups, len(counts))
    for group in groups:
        own = [len(batch) for batch in batches if set(batch.tolist()) <= group]
        full, rest = divmod(len(group), batch_size)
        assert sorted(own, reverse=True) == [batch_size] * full + [rest] * (rest > 0)
    again = epoch_batches(counts, batch_size, n_groups, np.random.default_rng(seed))
    assert [b.tolist() for b in again] == [b.tolist() for b in batches]


@given(st.lists(st.integers(0, 12), max_size=25), st.integers(1, 40), st.integers(1, 30))
def test_batches_by_boxes_are_bounded_and_as_many_as_announced(counts, batch_boxes, n_groups):
    counts = np.array(counts, dtype=np.int64)
    batches = epoch_batches(counts, 2, n_groups, np.random.default_rng(0), batch_boxes)
    assert sorted(np.concatenate([*batches, []]).tolist()) == list(range(len(counts)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(counts[batch].max(), 1) <= batch_boxes
    data = random_dataset([(n, 0, 0) for n in counts])
    of_epoch = EpochBatches(data, np.arange(len(data)), batch_size=2, n_groups=n_groups, seed=0, batch_boxes=batch_boxes)
    assert len(of_epoch) == len(list(of_epoch)) == len(batches)


@given(st.lists(st.integers(0, 12), max_size=25), st.integers(1, 30))
def test_batches_of_evaluation_are_bounded(counts, max_boxes):
    counts = np.array(counts, dtype=np.int64)
    batches = ordered_batches(counts, max_boxes)
    order = np.concatenate([*batches, []]).astype(int)
    assert sorted(order.tolist()) == list(range(len(counts)))
    assert (np.diff(counts[order]) >= 0).all()
    for batch in batches:
        assert len(batch) == 1 or len(batch) * counts[batch].max() <= max_boxes


def test_epochs_differ_but_each_is_always_the_same():
    data = random_dataset([(2, 1, 1)] * 12)
    batches = EpochBatches(data, np.arange(2, 12), batch_size=3, n_groups=2, seed=5, max_shift=4)

    def epoch(k: int) -> list:
        batches.set_epoch(k)
        return [(b.row_id.tolist(), b.features.tolist()) for b in batches]

    first, second = epoch(0), epoch(1)
    assert len(first) == len(batches) == 4
    assert sorted(r for rows, _ in first for r in rows) == list(range(2, 12))
    assert first != second
    assert epoch(1) == second and epoch(0) == first


def test_shifted_rows_move_as_one_and_stay_in_the_map():
    data = random_dataset([(3, 2, 1), (0, 0, 0), (1, 0, 2)] * 6, seed=8)
    low = np.random.default_rng(0).integers(0, 4, len(data.features))
    data.features[:, 3] = 3
    data.features[:, 4] = low + data.features[:, 6] - 1  # the lowest column is what the cap must see
    lowest = np.minimum(3, low)
    batches = EpochBatches(data, np.arange(len(data)), batch_size=2, n_groups=3, seed=1, max_shift=5)
    shifts = set()
    for epoch in range(10):
        batches.set_epoch(epoch)
        for batch in batches:
            index = np.concatenate([np.arange(data.offsets[r], data.offsets[r + 1]) for r in batch.row_id])
            moved = batch.features.numpy() - data.features[index]
            assert not moved[:, [0, 1, 2, 5, 6]].any()
            np.testing.assert_array_equal(moved[:, 3], moved[:, 4])
            for row in range(batch.rows):
                own = batch.row.numpy() == row
                assert len(set(moved[own, 3].tolist())) <= 1
                assert (lowest[index[own]] + moved[own, 3] >= 0).all()
                shifts |= set(moved[own, 3].tolist())
    assert min(shifts) < 0 and max(shifts) == 5


def test_evaluation_batches_hold_the_rows_asked_for():
    data = random_dataset(COUNTS)
    batches = OrderedBatches(data, np.array([6, 2, 0]), max_boxes=14)
    assert [b.row_id.tolist() for b in batches] == [[2, 0], [6]] and len(batches) == 2
