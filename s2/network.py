"""S2: self-attention over the set of a sequence's boxes; a logit per box says whether it belongs to the true structure."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from rna_s2.s2.batches import Batch, BoxSequences
from rna_s2.s2.config import NetworkConfig
from rna_s2.s2.layers import EncoderLayer, dropout
from rna_s2.s2.prefix_lstm import last_states, prefix_tree


class BoxSequenceEncoder(nn.Module):
    """An LSTM over the bases of each box of one type; the state of the top layer after a box's last base."""

    def __init__(self, channels: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden, num_layers=layers)

    def forward(self, sequences: BoxSequences) -> Tensor:  # -> (n, hidden), in the packed order
        if sequences.values.device.type == "cpu":
            tree = prefix_tree(sequences.codes, sequences.step_sizes.numpy())
            return last_states(self.lstm, sequences.values, tree)
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
        self.embed = nn.Linear(n_features + self.lstm_hid, config.n_dim)
        self.layers = nn.ModuleList(
            EncoderLayer(config.n_dim, config.n_heads, config.n_ff, config.dropout, config.attention)
            for _ in range(config.n_attn_layer)
        )
        self.norm = nn.LayerNorm(config.n_dim)
        self.hidden = nn.Linear(config.n_dim, config.n_hid)
        self.out = nn.Linear(config.n_hid, 1)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, batch: Batch) -> Tensor:  # -> (boxes,) logits
        x = batch.features  # (boxes, n_features)
        if self.encoders:
            x = torch.cat([x, self._encode_sequences(batch)], dim=1)  # (boxes, n_features + lstm_hid)
        x = dropout(self.embed(x).float(), self.probability if self.training else 0.0)  # (boxes, n_dim)
        for layer in self.layers:
            x = layer(x, batch.counts, batch.slot, batch.mask)
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
