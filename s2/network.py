"""S2: self-attention over the set of a sequence's boxes; a logit per box says whether it belongs to the true structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rna_s2.s2.batches import Batch, BoxSequences
from rna_s2.s2.config import NetworkConfig
from rna_s2.s2.kernels import (
    attention_sublayer,
    dropout,
    feed_forward,
    feed_forward_sublayer,
    linear,
    sublayers_fit,
)
from rna_s2.s2.prefix_lstm import last_states


class Dense(nn.Linear):
    """A linear layer through :func:`rna_s2.s2.kernels.linear`."""

    def forward(self, x: Tensor) -> Tensor:  # (n, in) -> (n, out)
        return linear(x, self.weight, self.bias)


class SelfAttention(nn.Module):
    """Multi-head self-attention among the boxes of each row (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, n_dim: int, n_heads: int, probability: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.probability = probability
        self.query_key_value = Dense(n_dim, 3 * n_dim)
        self.out = Dense(n_dim, n_dim)

    def forward(self, x: Tensor, slot: Tensor, mask: Tensor) -> Tensor:  # x (boxes, n_dim), mask (rows, longest)
        rows, longest = mask.shape
        heads, width = self.n_heads, x.shape[1]
        packed = self.query_key_value(x)  # (boxes, 3 * n_dim)
        one_row = rows == 1  # nothing is padded then
        grid = packed if one_row else packed.new_zeros(rows * longest, 3 * width).index_copy(0, slot, packed)
        grid = grid.view(rows, longest, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        query, key, value = grid.unbind(0)  # (rows, heads, longest, n_dim / heads) each
        key_mask = None if one_row else mask[:, None, None, :]
        if self.training and self.probability > 0:
            mixed = _attention_with_dropout(query, key, value, key_mask, self.probability)
        else:
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=key_mask)
        mixed = mixed.transpose(1, 2).reshape(rows * longest, width)
        return self.out(mixed if one_row else mixed.index_select(0, slot))  # (boxes, n_dim)


def _attention_with_dropout(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, p: float) -> Tensor:
    """Scaled dot-product attention whose weights are dropped with probability ``p``; shapes as there."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (rows, heads, longest, longest)
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask, float("-inf"))
    weights = scores.softmax(-1).to(value.dtype)
    return dropout(weights, p, True) @ value


class EncoderLayer(nn.Module):
    """Pre-norm encoder layer: ``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``; the second alone without
    ``attend``."""

    def __init__(self, n_dim: int, n_heads: int, n_ff: int, probability: float, attend: bool = True) -> None:
        super().__init__()
        self.probability = probability
        self.attend = attend
        if attend:
            self.norm_attention = nn.LayerNorm(n_dim)
            self.attention = SelfAttention(n_dim, n_heads, probability)
        self.norm_feed_forward = nn.LayerNorm(n_dim)
        self.widen = nn.Linear(n_dim, n_ff)
        self.narrow = nn.Linear(n_ff, n_dim)

    def forward(self, x: Tensor, slot: Tensor, mask: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """``(boxes, n_dim)`` to the same; with ``counts`` (boxes of each row) through :mod:`rna_s2.s2.kernels`."""
        probability = self.probability if self.training else 0.0
        if counts is not None:
            if self.attend:
                attention = self.attention
                x = attention_sublayer(
                    x, self.norm_attention, attention.query_key_value, attention.out, attention.n_heads, counts, probability
                )
            return feed_forward_sublayer(x, self.norm_feed_forward, self.widen, self.narrow, probability)
        if self.attend:
            attended = self.attention(self.norm_attention(x), slot, mask)
            x = x + dropout(attended, probability, self.training)
        widened = feed_forward(
            self.norm_feed_forward(x),
            self.widen.weight, self.widen.bias, self.narrow.weight, self.narrow.bias, probability,
        )
        return x + dropout(widened, probability, self.training)


class BoxSequenceEncoder(nn.Module):
    """An LSTM over the bases of each box of one type; the state of the top layer after a box's last base."""

    def __init__(self, channels: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden, num_layers=layers)

    def forward(self, sequences: BoxSequences) -> Tensor:  # -> (n, hidden), in the packed order
        if sequences.values.device.type == "cpu":
            return last_states(self.lstm, sequences.values, sequences.tree)
        packed = nn.utils.rnn.PackedSequence(sequences.values, sequences.step_sizes)
        _, (hidden, _) = self.lstm(packed)  # (layers, n, hidden)
        return hidden[-1]


class BoxNetwork(nn.Module):
    """Features of a row's boxes in, one logit per box out.

    Args:
        config: sizes.
        n_features: numbers per box.
        sequence_channels: channels of the bases by box type name; empty where a kind has no bases. With them, an LSTM per
            type reads the bases of its boxes and its last state is put behind the numbers before the embedding.
    """

    def __init__(self, config: NetworkConfig, n_features: int, sequence_channels: Mapping[str, int]) -> None:
        super().__init__()
        self.probability = config.dropout
        self.lstm_hid = config.lstm_hid if sequence_channels else 0
        self.encoders = nn.ModuleDict(
            {
                name: BoxSequenceEncoder(channels, config.lstm_hid, config.lstm_layer)
                for name, channels in sequence_channels.items()
            }
        )
        self.embed = Dense(n_features + self.lstm_hid, config.n_dim)
        self.layers = nn.ModuleList(
            EncoderLayer(config.n_dim, config.n_heads, config.n_ff, config.dropout, config.attention)
            for _ in range(config.n_attn_layer)
        )
        self.norm = nn.LayerNorm(config.n_dim)
        self.hidden = Dense(config.n_dim, config.n_hid)
        self.out = nn.Linear(config.n_hid, 1)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, batch: Batch) -> Tensor:  # -> (boxes,) logits
        x = batch.features  # (boxes, n_features)
        if self.encoders:
            x = torch.cat([x, self._encode_sequences(batch)], dim=1)  # (boxes, n_features + lstm_hid)
        x = dropout(self.embed(x).float(), self.probability, self.training)  # (boxes, n_dim)
        counts = batch.mask.sum(1).tolist() if sublayers_fit(x) else None
        for layer in self.layers:
            x = layer(x, batch.slot, batch.mask, counts)
        x = self.hidden(self.norm(x)).relu()  # (boxes, n_hid)
        return self.out(x).squeeze(1).float()

    def _encode_sequences(self, batch: Batch) -> Tensor:  # -> (boxes, lstm_hid)
        states = batch.features.new_zeros(len(batch.features), self.lstm_hid)
        for name, encoder in self.encoders.items():
            sequences = batch.sequences[name]
            if len(sequences.box):
                with torch.autocast(batch.features.device.type, enabled=False):
                    states = states.index_copy(0, sequences.box, encoder(sequences))
        return states


def batch_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Binary cross-entropy: the mean over the boxes of each row, then over the rows.

    Args:
        logits: ``(boxes,)``.
        batch: holds the labels.
    """
    each = functional.binary_cross_entropy_with_logits(logits, batch.labels, reduction="none")  # (boxes,)
    return each.new_zeros(batch.rows).index_add(0, batch.row, each).div(batch.mask.sum(1)).mean()
