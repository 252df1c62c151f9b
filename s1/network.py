"""The stage 1 network: from the L x L map of base pairs to what each cell knows about the box that covers it.

Fully convolutional, without normalisation across the map, so that a cell's outputs depend on the cells within
:func:`receptive_field` of it alone: the map of a long sequence can be computed in patches.

Only cells (i, j) with i < j of the sequence mean anything. All others are *outside*: every convolution sees zeros
there, as if the map ended. This costs nothing: outside cells start with :data:`OUTSIDE` in the residual stream, what
blocks add to it stays small beside it, and each convolution that looks sideways reads the stream through a ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rna.boxes import HLOOP, ILOOP, STEM
from s1.config import NetworkConfig

OUTSIDE = -1e4
"""What the residual stream holds at cells outside of the map's upper triangle; its ReLU is zero there."""

LOC_CLASSES = 12
"""Distance of a cell to the box's top-right corner: 0 .. 10, and beyond."""
SIZE_CLASSES = 11
"""Side of a box: 1 .. 10, and beyond."""
LOC_BEYOND = LOC_CLASSES - 1
SIZE_BEYOND = SIZE_CLASSES - 1

BAND = 24
"""Rows of a map that are computed together where only its upper triangle is: fewer waste less of the triangle's edge,
more make larger convolutions."""

ON_PRIOR = 0.01
"""Share of the cells that are on, about: what the untrained network says of each cell (the bias of Lin et al. 2017,
*Focal loss for dense object detection*), so that the many cells that are off do not drown the first steps."""

N_BASES = 4
PAD_CODE = 4
"""Base code of N; also fills the sequences of a batch up to the longest."""


class TypeOutputs(NamedTuple):
    """Outputs of one box type at ``n`` cells.

    Attributes:
        on: ``(n,)`` logit of a box of this type covering the cell.
        loc_x, loc_y: ``(n, 12)`` logits of the distance up and right to the box's top-right corner.
        siz_x, siz_y: ``(n, 11)`` logits of the box's rows and columns; the same tensor where the type is square.
        scalar_x, scalar_y: ``(n,)`` rows and columns of the box as numbers; the same tensor where the type is square.
    """

    on: Tensor
    loc_x: Tensor
    loc_y: Tensor
    siz_x: Tensor
    siz_y: Tensor
    scalar_x: Tensor
    scalar_y: Tensor


def output_widths(box_type: int) -> tuple[int, ...]:
    """Widths of a type's outputs: on, loc_x, loc_y, the size classes and the scalar sizes of each side it has."""
    sides = 2 if box_type == ILOOP else 1
    return (1, LOC_CLASSES, LOC_CLASSES, *(SIZE_CLASSES,) * sides, *(1,) * sides)


def split_outputs(values: Tensor, box_type: int) -> TypeOutputs:
    """Named outputs of one type from its ``(n, sum(output_widths))`` values."""
    on, loc_x, loc_y, *sizes = values.split(output_widths(box_type), dim=-1)
    sides = len(sizes) // 2
    classes, scalars = sizes[:sides], [s.squeeze(-1) for s in sizes[sides:]]
    return TypeOutputs(on.squeeze(-1), loc_x, loc_y, classes[0], classes[-1], scalars[0], scalars[-1])


class Window(NamedTuple):
    """Rows ``top .. bottom-1`` and columns ``left .. right-1`` of a map."""

    top: int
    bottom: int
    left: int
    right: int


def windows_around(inside: Tensor) -> list[Window]:
    """Bands of at most :data:`BAND` rows that hold every inside cell of ``(batch, rows, columns)``, cut to its columns."""
    any_inside = inside.any(dim=0)
    windows = []
    for top in range(0, any_inside.shape[0], BAND):
        bottom = min(top + BAND, any_inside.shape[0])
        columns = torch.nonzero(any_inside[top:bottom].any(dim=0)).squeeze(1)
        if len(columns):
            windows.append(Window(top, bottom, int(columns[0]), int(columns[-1]) + 1))
    return windows


def convolved(x: Tensor, layer: nn.Conv2d, window: Window) -> Tensor:
    """``(batch, out, bottom - top, right - left)``: a window of the convolution of a ``(batch, in, rows, columns)`` map.

    The layer pads as it keeps the map's size; so do the zeros here.
    """
    margin = layer.padding[0]
    rows, columns = x.shape[2:]
    top, bottom = max(window.top - margin, 0), min(window.bottom + margin, rows)
    left, right = max(window.left - margin, 0), min(window.right + margin, columns)
    missing = (left - window.left + margin, window.right + margin - right,
               top - window.top + margin, window.bottom + margin - bottom)
    return F.conv2d(F.pad(x[:, :, top:bottom, left:right], missing), layer.weight, layer.bias, dilation=layer.dilation)


class ResidualBlock(nn.Module):
    """relu, dilated 3x3 convolution, relu, 1x1 convolution, added to the stream; starts as the identity."""

    def __init__(self, channels: int, hidden: int, dilation: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(channels, hidden, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv2d(hidden, channels, 1)
        nn.init.kaiming_normal_(self.look.weight, nonlinearity="relu")
        nn.init.zeros_(self.look.bias)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, stream: Tensor) -> Tensor:
        return stream + self.mix(F.relu(self.look(F.relu(stream))))

    def add_to(self, stream: Tensor, windows: Sequence[Window]) -> None:
        """What :meth:`forward` adds, added to the stream in the given windows of the map alone, in place."""
        seen = F.relu(stream)
        for window in windows:
            added = F.relu_(convolved(seen, self.look, window))
            added = F.linear(added.permute(0, 2, 3, 1), self.mix.weight.flatten(1), self.mix.bias)
            stream[:, :, window.top: window.bottom, window.left: window.right] += added.permute(0, 3, 1, 2)


class ProposalNetwork(nn.Module):
    """Residual dilated convolutions over the map of base pairs, and one linear output layer per box type."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.first = nn.Conv2d(N_BASES * N_BASES + 2 * N_BASES, channels, config.first_kernel,
                               padding=config.first_kernel // 2)
        self.blocks = nn.ModuleList(ResidualBlock(channels, config.hidden, d) for d in config.dilations)
        self.head = nn.Conv2d(channels, config.head_hidden, 1)
        self.outputs = nn.ModuleList(
            nn.Linear(config.head_hidden, sum(output_widths(t))) for t in (STEM, ILOOP, HLOOP)
        )
        self.register_buffer("pair_table", pair_table(), persistent=False)
        for layer in self.outputs:
            nn.init.zeros_(layer.bias)
            with torch.no_grad():
                layer.bias[0] = torch.logit(torch.tensor(ON_PRIOR))
        self.to(memory_format=torch.channels_last)

    def pair_map(self, row_codes: Tensor, col_codes: Tensor, inside: Tensor) -> Tensor:
        """``(batch, 24, rows, columns)``: the outer concatenation of the one-hot rows and columns (8 channels), and
        their outer product (16 channels: which pair it is), which spares the network to learn it. Zero outside."""
        code = row_codes.long()[:, :, None] * (N_BASES + 1) + col_codes.long()[:, None, :]
        code = torch.where(inside, code, len(self.pair_table) - 1)
        dtype = torch.get_autocast_dtype(code.device.type) if torch.is_autocast_enabled(code.device.type) else None
        return F.embedding(code, self.pair_table.to(dtype)).permute(0, 3, 1, 2)

    def features(self, row_codes: Tensor, col_codes: Tensor, inside: Tensor) -> Tensor:
        """What is known about each cell of a map or of a patch of one: :meth:`head_features` of :meth:`stream`."""
        return self.head_features(self.stream(row_codes, col_codes, inside))

    def head_features(self, cells: Tensor) -> Tensor:
        """``(..., head_hidden)`` of cells, from their ``(..., channels)`` in the residual stream."""
        return F.relu(F.linear(F.relu(cells), self.head.weight.flatten(1), self.head.bias))

    def stream(self, row_codes: Tensor, col_codes: Tensor, inside: Tensor) -> Tensor:
        """The residual stream at each cell of a map or of a patch of one, after all blocks.

        Where no gradients are wanted, only windows around the inside cells are computed: about half of a map.

        Args:
            row_codes: ``(batch, rows)`` base codes of the map's rows (N, and beyond the sequence: 4).
            col_codes: ``(batch, columns)`` base codes of its columns.
            inside: ``(batch, rows, columns)`` bool: cells (i, j) of the sequence with i < j.

        Returns:
            ``(batch, rows, columns, channels)``; means nothing outside.
        """
        x = self.pair_map(row_codes, col_codes, inside)  # (batch, 24, rows, columns)
        if torch.is_grad_enabled():
            stream = self.first(x).masked_fill(~inside.unsqueeze(1), OUTSIDE)  # (batch, channels, rows, columns)
            for block in self.blocks:
                stream = block(stream)
        else:
            windows = windows_around(inside)
            stream = x.new_full((x.shape[0], self.config.channels, *x.shape[2:]), OUTSIDE).contiguous(
                memory_format=torch.channels_last
            )
            for window in windows:
                here = (slice(None), slice(None), slice(window.top, window.bottom), slice(window.left, window.right))
                stream[here] = convolved(x, self.first, window).masked_fill(~inside.unsqueeze(1)[here], OUTSIDE)
            for block in self.blocks:
                block.add_to(stream, windows)
        return stream.permute(0, 2, 3, 1)

    def on_logits(self, cells: Tensor) -> Tensor:
        """``(n, 3)`` logits of being covered by a box of each type, from the cells' ``(n, head_hidden)`` features."""
        weight = torch.cat([layer.weight[:1] for layer in self.outputs])
        return F.linear(cells, weight, torch.cat([layer.bias[:1] for layer in self.outputs]))

    def type_outputs(self, cells: Tensor, box_type: int) -> TypeOutputs:
        """Outputs of one box type at cells, from their ``(n, head_hidden)`` features."""
        return split_outputs(self.outputs[box_type](cells), box_type)

    def cell_outputs(self, cells: Tensor) -> list[TypeOutputs]:
        """Outputs of every box type at cells, from their ``(n, head_hidden)`` features, in the weights' precision."""
        cells = cells.to(self.outputs[STEM].weight.dtype)
        with torch.autocast(cells.device.type, enabled=False):
            return [self.type_outputs(cells, t) for t in (STEM, ILOOP, HLOOP)]


def pair_table() -> Tensor:
    """``(26, 24)`` channels of each pair of base codes (``5 * row + column``), and of no pair, which are zeros."""
    one_hot = torch.eye(N_BASES + 1, N_BASES)
    rows, cols = one_hot.repeat_interleave(N_BASES + 1, dim=0), one_hot.repeat(N_BASES + 1, 1)  # (25, 4) each
    product = (rows[:, :, None] * cols[:, None, :]).flatten(1)  # (25, 16)
    return F.pad(torch.cat([rows, cols, product], dim=1), (0, 0, 0, 1))


def receptive_field(config: NetworkConfig) -> int:
    """How far, in cells along a row or a column, an output can depend on the map: the radius, not the width."""
    return config.first_kernel // 2 + sum(config.dilations)


def weight_count(network: nn.Module) -> int:
    """Number of trained weights."""
    return sum(p.numel() for p in network.parameters())


def upper_triangle(lengths: Tensor, longest: int) -> Tensor:
    """``(batch, longest, longest)`` bool: cells (i, j) with i < j < length of each sequence."""
    index = torch.arange(longest, device=lengths.device)
    above = index[:, None] < index[None, :]  # (longest, longest)
    return above & (index < lengths[:, None])[:, None, :]
