"""S2 with a sense of geometry: attention among boxes that knows how two boxes stand to each other, and the whole sequence.

Four things go beyond :mod:`rna_s2.s2.network`:

* what a box is, is given relative to the sequence and on scales on which differences matter (:class:`BoxInputs`);
* the whole sequence is read once by dilated convolutions, and each box takes from it the mean over its two strands and the
  states at its four corner bases (:class:`SequenceReader`);
* a learned number per head for each way in which two boxes can stand to each other, and for how far apart they are, is
  added to the attention scores (:func:`relation_codes`), as relation networks for object detection and relative positions
  in text do (Hu et al. 2018; Raffel et al. 2020);
* energies, counts of neighbours and probabilities in the ensemble of what the boxes can form come in as numbers of a box,
  where the features hold them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import inner_corner
from rna_s2.rna.relations import (
    APART,
    CLOSED_BY,
    CLOSES,
    CROSSING,
    INSIDE,
    OUTSIDE,
    OVERLAP,
    RELATIONS,
    SAME_CORNER,
    conditions,
)
from rna_s2.s2.batches import BEYOND, Batch
from rna_s2.s2.config import NetworkConfig, RelationalConfig
from rna_s2.s2.feature_groups import GEOMETRY, GROUPS, PLACE, SIZE, TYPE
from rna_s2.s2.layers import dropout, feed_forward, fused_attention, padded_heads, unpadded

DISTANCES: tuple[int, ...] = (1, 2, 3, 5, 9, 17, 33)
"""Lower ends of the second to the last class of distance, in bases."""

N_CODES = len(RELATIONS) * (len(DISTANCES) + 1)
"""How many codes :func:`relation_codes` gives to pairs of boxes; the next code is that of an empty place."""

EMPTY = N_CODES

_MASKED = -1e4  # added to a score, it leaves a weight of exactly 0 in single and in bfloat16 precision
_HEAD_START = 2.0  # what the relations of its own add to a head's scores before training


def relation_codes(box_type: Tensor, bb_x: Tensor, bb_y: Tensor, siz_x: Tensor, siz_y: Tensor, mask: Tensor) -> Tensor:
    """How each box of a row stands to each other box of the row, and how far away.

    The distance is what lies between the two: for boxes one inside the other the bases between the inner pair of the outer
    one and the outer pair of the inner one, on both strands; beside each other the bases from one to the next; for boxes that
    exclude each other how far their diagonals are apart (0 where they shift no pairing).

    Args:
        box_type, bb_x, bb_y, siz_x, siz_y: ``(rows, n)`` int16.
        mask: ``(rows, n)`` bool; where there is a box.

    Returns:
        ``(rows, n, n)`` int32: ``relation * (len(DISTANCES) + 1) + class of distance``, with the relation of the box of the
        second axis to the box of the third (:data:`rna_s2.rna.relations.RELATIONS`); :data:`EMPTY` where the third axis has
        no box.
    """
    columns = (box_type, bb_x, bb_y, *inner_corner(bb_x, bb_y, siz_x, siz_y))
    a, b = [c[:, :, None] for c in columns], [c[:, None, :] for c in columns]
    holds: dict[int, Tensor] = conditions(a, b)
    how = torch.full_like(holds[OVERLAP], CROSSING, dtype=torch.int8)
    for relation, where in holds.items():
        how += (relation - how) * where.view(torch.int8)  # several times as fast as to write through a mask
    _, x_a, y_a, i_a, j_a = a
    _, x_b, y_b, i_b, j_b = b
    distance = ((x_a + y_a) - (x_b + y_b)).abs()
    distance = torch.where(holds[OUTSIDE], (x_b - i_a) + (j_a - y_b) - 2, distance)
    distance = torch.where(holds[INSIDE], (x_a - i_b) + (j_b - y_a) - 2, distance)
    distance = torch.where(holds[APART], torch.maximum(x_b - y_a, x_a - y_b) - 1, distance)
    code = how * (len(DISTANCES) + 1)
    for lowest in DISTANCES:
        code += (distance >= lowest).view(torch.int8)
    return code.masked_fill_(~mask[:, None, :], EMPTY).to(torch.int32)


class _Lookup(torch.autograd.Function):
    """``table[code]`` with the table's columns in front; its gradient is a histogram, which is fast for few codes."""

    @staticmethod
    def forward(ctx, table: Tensor, code: Tensor) -> Tensor:  # (codes, heads), (rows, n, n) -> (rows, heads, n, n)
        ctx.save_for_backward(code)
        ctx.codes = len(table)
        flat, by_head = code.reshape(-1), table.new_empty(table.shape[1], code.numel())
        for column, out in zip(table.unbind(1), by_head.unbind(0), strict=True):
            torch.index_select(column.contiguous(), 0, flat, out=out)
        return by_head.view(len(by_head), *code.shape).transpose(0, 1)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (code,) = ctx.saved_tensors
        flat = code.reshape(-1)
        columns = [torch.bincount(flat, g.reshape(-1).float(), minlength=ctx.codes) for g in gradient.unbind(1)]
        return torch.stack(columns, dim=1).to(gradient.dtype), None


class RelationBias(nn.Module):
    """A learned number per head and relation code; each head starts with a bias for relations of one sort."""

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        initial_bias = ((CLOSES,), (CLOSED_BY,), (SAME_CORNER, OVERLAP, CROSSING), (OUTSIDE, INSIDE, APART))
        table = torch.zeros(len(RELATIONS), len(DISTANCES) + 1, n_heads)
        for head in range(n_heads):
            table[list(initial_bias[head % len(initial_bias)]), :, head] = _HEAD_START
        self.table = nn.Parameter(table.view(N_CODES, n_heads))

    def forward(self, code: Tensor, dtype: torch.dtype) -> Tensor:  # (rows, n, n) -> (rows, heads, n, n)
        empty = self.table.new_full((1, self.table.shape[1]), _MASKED)
        return _Lookup.apply(torch.cat([self.table, empty]).to(dtype), code)


class RelationalLayer(nn.Module):
    """Pre-norm encoder layer whose attention scores have a bias; dropout on what is added, none on attention weights."""

    def __init__(self, n_dim: int, n_heads: int, n_ff: int, probability: float, attend: bool) -> None:
        super().__init__()
        self.n_heads, self.probability, self.attend = n_heads, probability, attend
        if attend:
            self.norm_attention = nn.LayerNorm(n_dim)
            self.query_key_value = nn.Linear(n_dim, 3 * n_dim)
            self.out = nn.Linear(n_dim, n_dim)
        self.norm_feed_forward = nn.LayerNorm(n_dim)
        self.widen = nn.Linear(n_dim, n_ff)
        self.narrow = nn.Linear(n_ff, n_dim)

    def forward(self, x: Tensor, bias: Tensor | None, slot: Tensor, mask: Tensor) -> Tensor:  # (boxes, n_dim), twice
        probability = self.probability if self.training else 0.0
        if self.attend:
            assert bias is not None
            parts = padded_heads(self.query_key_value(self.norm_attention(x)), self.n_heads, slot, mask)
            x = x + dropout(self.out(unpadded(fused_attention(*parts, bias), slot)), probability)
        return x + dropout(feed_forward(self.norm_feed_forward(x), self.widen, self.narrow, probability), probability)


class SequenceReader(nn.Module):
    """Dilated convolutions over whole sequences, and what a box takes from them."""

    def __init__(self, config: RelationalConfig, n_dim: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(BEYOND + 1, config.channels)
        self.norms = nn.ModuleList(nn.LayerNorm(config.channels) for _ in config.dilations)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.channels, config.channels, 3, padding=d, dilation=d) for d in config.dilations
        )
        self.norm = nn.LayerNorm(config.channels)
        self.widen = nn.Linear(6 * config.channels, 2 * n_dim)
        self.narrow = nn.Linear(2 * n_dim, n_dim)

    def forward(self, bases: Tensor, ends: Tensor, row: Tensor) -> Tensor:
        """A vector per box.

        Args:
            bases: ``(rows, longest sequence)`` base codes.
            ends: ``(boxes, 4)`` int64, first and last base of each box's 5' strand, then of its 3' strand.
            row: ``(boxes,)``.

        Returns:
            ``(boxes, n_dim)``.
        """
        there = (bases != BEYOND)[:, :, None]  # (rows, longest, 1); what lies beyond an end must not change a sequence
        x = self.embed(bases.long()) * there  # (rows, longest, channels)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            x = (x + convolution(norm(x).mul(there).transpose(1, 2)).transpose(1, 2).relu()) * there
        x = self.norm(x) * there
        sums = functional.pad(x.float().cumsum(1), (0, 0, 1, 0)).flatten(0, 1)  # (rows * (longest + 1), channels)
        start = row * (bases.shape[1] + 1)
        first, last = ends[:, 0::2], ends[:, 1::2]  # (boxes, 2) each
        upto, before = sums[start[:, None] + last + 1], sums[start[:, None] + first]
        mean = (upto - before) / (last - first + 1)[:, :, None]  # (boxes, 2, channels)
        corners = x.flatten(0, 1)[(row * bases.shape[1])[:, None] + ends]  # (boxes, 4, channels)
        taken = torch.cat([mean.to(x.dtype), corners], dim=1).flatten(1)  # (boxes, 6 * channels)
        return self.narrow(self.widen(taken).relu())


class BoxInputs(nn.Module):
    """The columns of a box on scales that suit a network (:attr:`rna_s2.s2.feature_groups.FeatureGroup.inputs`).

    Groups that the features lack are left out.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        missing = [name for name in GEOMETRY if name not in names]
        if missing:
            raise UserError(
                f"the relational network needs type, place and size of a box as they are ({', '.join(missing)} missing); "
                "set features.kind to relational, features.coordinates to raw, and take none of them away"
            )
        self.index = {name: index for index, name in enumerate(names)}
        self.groups = {name: group for name, group in GROUPS.items() if set(group.columns) <= set(names)}
        self.width = self(torch.zeros(1, len(names)), torch.ones(1)).shape[1]

    def column(self, features: Tensor, name: str) -> Tensor:  # (boxes, features) -> (boxes,)
        return features[:, self.index[name]]

    def forward(self, features: Tensor, length: Tensor) -> Tensor:  # (boxes, features), (boxes,) -> (boxes, width)
        columns: list[Tensor] = []
        for group in self.groups.values():
            columns += group.inputs({name: self.column(features, name) for name in group.columns}, length)
        return torch.stack(columns, dim=1)


class RelationalNetwork(nn.Module):
    """Features of a row's boxes and its sequence in, one logit per box out.

    Args:
        config: sizes and switches.
        feature_names: names of the numbers per box, :data:`rna_s2.s2.feature_groups.GEOMETRY` among them.

    Raises:
        UserError: the features lack what the network needs.
    """

    def __init__(self, config: NetworkConfig, feature_names: Sequence[str]) -> None:
        super().__init__()
        self.probability = config.dropout
        self.inputs = BoxInputs(feature_names)
        self.embed = nn.Linear(self.inputs.width, config.n_dim)
        self.read = SequenceReader(config.relational, config.n_dim) if config.relational.sequence else None
        self.bias = RelationBias(config.n_heads) if config.attention and config.relational.relation_bias else None
        self.layers = nn.ModuleList(
            RelationalLayer(config.n_dim, config.n_heads, config.n_ff, config.dropout, config.attention)
            for _ in range(config.n_attn_layer)
        )
        self.norm = nn.LayerNorm(config.n_dim)
        self.hidden = nn.Linear(config.n_dim, config.n_hid)
        self.out = nn.Linear(config.n_hid, 1)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and not name.startswith(("bias.", "read.embed.")):
                nn.init.xavier_uniform_(parameter)

    def forward(self, batch: Batch) -> Tensor:  # -> (boxes,) logits
        length = batch.seq_length[batch.row]  # (boxes,)
        x = self.embed(self.inputs(batch.features, length.to(batch.features.dtype)))  # (boxes, n_dim), in autocast's type
        if self.read is not None:
            x = x + self._sequence(batch)
        bias = self._bias(batch, x.dtype)
        x = dropout(x.float(), self.probability if self.training else 0.0)
        for layer in self.layers:
            x = layer(x, bias, batch.slot, batch.mask)
        x = self.hidden(self.norm(x)).relu()  # (boxes, n_hid)
        return self.out(x).squeeze(1).float()

    def _columns(self, batch: Batch) -> list[Tensor]:
        """Type, place and size of each box, ``(boxes,)`` int64 each."""
        box_type = torch.stack([self.inputs.column(batch.features, name) for name in TYPE], dim=1).argmax(1)
        return [box_type, *(self.inputs.column(batch.features, name).round().long() for name in PLACE + SIZE)]

    def _sequence(self, batch: Batch) -> Tensor:  # -> (boxes, n_dim)
        if batch.bases is None:
            raise UserError("the relational network reads whole sequences: set features.kind to relational")
        assert self.read is not None
        _, x, y, siz_x, siz_y = self._columns(batch)
        return self.read(batch.bases, torch.stack([x, *inner_corner(x, y, siz_x, siz_y), y], dim=1), batch.row)

    def _bias(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        """What is added to the attention scores, ``(rows, heads or 1, n, n)``."""
        rows, longest = batch.mask.shape
        if self.bias is None:
            return torch.zeros_like(batch.mask, dtype=dtype).masked_fill(~batch.mask, _MASKED)[:, None, None, :]
        grids = [
            column.new_zeros(rows * longest, dtype=torch.int16).index_copy(0, batch.slot, column.to(torch.int16))
            for column in self._columns(batch)
        ]
        with torch.no_grad():
            box_type, x, y, siz_x, siz_y = (grid.view(rows, longest) for grid in grids)
            code = relation_codes(box_type, x, y, siz_x, siz_y, batch.mask)
        return self.bias(code, dtype)
