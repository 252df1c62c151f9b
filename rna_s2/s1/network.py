"""The stage 1 network: from the L x L map of base pairs to what each cell knows about the box that covers it.

Fully convolutional, without normalisation across the map, so that a cell's outputs depend on the cells within
:func:`receptive_field` of it only: the map of a long sequence can be computed in patches.

Only cells (i, j) with i < j of the sequence mean anything. All others are *outside*: every convolution sees zeros
there, as if the map ended. This costs nothing: outside cells start with :data:`OUTSIDE` in the residual stream, what
blocks add to it stays small beside it, and each convolution that looks sideways reads the stream through a ReLU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rna_s2.rna.boxes import HLOOP, ILOOP, STEM
from rna_s2.s1.config import NetworkConfig

OUTSIDE = -1e4
"""What the residual stream holds at cells outside of the map's upper triangle; its ReLU is zero there."""

LOC_CLASSES = 12
"""Distance of a cell to the box's top-right corner: 0 .. 10, and beyond."""
SIZE_CLASSES = 11
"""Side of a box: 1 .. 10, and beyond."""
LOC_BEYOND = LOC_CLASSES - 1
SIZE_BEYOND = SIZE_CLASSES - 1

BANDS = (12, 24)
"""Rows of a small and of a large map that are computed together where only its upper triangle is: fewer waste less of the
triangle's edge, more make larger convolutions."""
LARGE_MAP = 200
"""Rows of a map, or of a patch with what is computed around it, from which it is large."""

ON_PRIOR = 0.01
"""Share of the cells that are on, about: what the untrained network predicts for each cell (the bias of Lin et al. 2017,
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
    """Bands of map rows that hold every inside cell of ``(batch, rows, columns)``, cut to its columns (:data:`BANDS`)."""
    any_inside = inside.any(dim=0)
    windows, band = [], BANDS[any_inside.shape[0] >= LARGE_MAP]
    for top in range(0, any_inside.shape[0], band):
        bottom = min(top + band, any_inside.shape[0])
        columns = torch.nonzero(any_inside[top:bottom].any(dim=0)).squeeze(1)
        if len(columns):
            windows.append(Window(top, bottom, int(columns[0]), int(columns[-1]) + 1))
    return windows


def cut(framed: Tensor, window: Window, frame: int = 0, around: int = 0) -> Tensor:
    """View of the cells of a window, and of those up to ``around`` cells beside it, in ``(batch, channels, rows, columns)``
    of a map that has a frame of ``frame`` cells (``around`` or more) about it."""
    low, high = frame - around, frame + around
    return framed[:, :, window.top + low: window.bottom + high, window.left + low: window.right + high]


def convolved(cells: Tensor, layer: nn.Conv2d) -> Tensor:
    """The convolution of cells that have the neighbours it needs about them: nothing is padded."""
    return F.conv2d(cells, layer.weight, layer.bias, dilation=layer.dilation)


class ResidualBlock(nn.Module):
    """relu, dilated 3x3 convolution, relu, 1x1 convolution, added to the stream; starts as the identity."""

    def __init__(self, channels: int, hidden: int, dilation: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(channels, hidden, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv2d(hidden, channels, 1)
        nn.init.kaiming_normal_(self.look.weight, nonlinearity="relu")
        for zero in (self.look.bias, self.mix.weight, self.mix.bias):
            nn.init.zeros_(zero)

    def forward(self, stream: Tensor) -> Tensor:
        return stream + self.mix(F.relu(self.look(F.relu(stream))))

    def added(self, positive: Tensor) -> Tensor:
        """What :meth:`forward` adds to a window of the stream, from the stream's ReLU in the window and in the ``look.padding``
        cells around it."""
        hidden = F.relu_(convolved(positive, self.look)).permute(0, 2, 3, 1)
        return F.linear(hidden, self.mix.weight.flatten(1), self.mix.bias).permute(0, 3, 1, 2)


class ProposalNetwork(nn.Module):
    """Residual dilated convolutions over the map of base pairs, and one linear output layer per box type."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.first = nn.Conv2d(N_BASES * N_BASES + 2 * N_BASES, channels, config.first_kernel, padding=config.first_kernel // 2)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, hidden, dilation)
            for hidden, dilation in zip(config.hidden_of_blocks, config.dilations, strict=True)
        )
        self.head = nn.Conv2d(channels, config.head_hidden, 1)
        self.outputs = nn.ModuleList(nn.Linear(config.head_hidden, sum(output_widths(t))) for t in (STEM, ILOOP, HLOOP))
        self.register_buffer("pair_table", pair_table(), persistent=False)
        for layer in self.outputs:
            nn.init.zeros_(layer.bias)
            with torch.no_grad():
                layer.bias[0] = torch.logit(torch.tensor(ON_PRIOR))
        self.to(memory_format=torch.channels_last)

    def pair_codes(self, row_codes: Tensor, col_codes: Tensor, inside: Tensor) -> Tensor:
        """``(batch, rows, columns)`` int32: which pair of bases each cell is, a row of :attr:`pair_table`."""
        code = row_codes.int()[:, :, None] * (N_BASES + 1) + col_codes.int()[:, None, :]
        return torch.where(inside, code, len(self.pair_table) - 1)

    def first_stream(self, pairs: Tensor, inside: Tensor) -> Tensor:
        """``(batch, channels, rows, columns)``: the stream before the blocks, by the first convolution over the channels of
        the :meth:`pair_codes`: the outer concatenation of the one-hot rows and columns (8 channels), and their outer product
        (16 channels: which pair it is), which spares the network to learn it. Zero outside."""
        device = pairs.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        seen = F.embedding(pairs, self.pair_table.to(dtype)).permute(0, 3, 1, 2)  # (batch, 24, rows, columns)
        return self.first(seen).masked_fill(~inside.unsqueeze(1), OUTSIDE)

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
        pairs = self.pair_codes(row_codes, col_codes, inside)
        if torch.is_grad_enabled():
            stream = self.first_stream(pairs, inside)  # (batch, channels, rows, columns)
            for block in self.blocks:
                stream = block(stream)
        else:
            stream = self._stream_in_windows(pairs, inside)
        return stream.permute(0, 2, 3, 1)

    def _stream_in_windows(self, pairs: Tensor, inside: Tensor) -> Tensor:
        """The stream, ``(batch, channels, rows, columns)``, computed only in windows around the inside cells.

        What convolutions read, the stream through a ReLU, has a frame of zeros in place of their padding.
        """
        device = pairs.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.first.weight.dtype
        frame = max((block.look.padding[0] for block in self.blocks), default=0)
        batch, rows, columns = pairs.shape
        like = {"dtype": dtype, "device": pairs.device}
        stream = torch.empty((batch, rows, columns, self.config.channels), **like).permute(0, 3, 1, 2)
        positive = torch.zeros((batch, rows + 2 * frame, columns + 2 * frame, self.config.channels), **like).permute(0, 3, 1, 2)
        windows = windows_around(inside)
        framed = F.pad(pairs, (self.config.first_kernel // 2,) * 4, value=len(self.pair_table) - 1)
        outside, table = ~inside.unsqueeze(1), self._first_table()
        for window in windows:
            cut(stream, window).copy_(self._first_in(framed, window, table).masked_fill(cut(outside, window), OUTSIDE))
        for block in self.blocks:
            for window in windows:
                torch.clamp(cut(stream, window), min=0, out=cut(positive, window, frame))
            for window in windows:
                cut(stream, window).add_(block.added(cut(positive, window, frame, block.look.padding[0])))
        return stream

    def _first_table(self) -> Tensor:
        """``(places * pairs, channels)``: what each pair adds to the first convolution at each place of its kernel."""
        weight = self.first.weight  # (channels, 24, side, side)
        with torch.autocast(weight.device.type, enabled=False):
            return torch.einsum("pc,ocrs->rspo", self.pair_table.to(weight.dtype), weight).flatten(0, 2)

    def _first_in(self, framed: Tensor, window: Window, table: Tensor) -> Tensor:
        """The first convolution in a window, ``(batch, channels, rows, columns)``: one row of the table is added up for each
        place of the kernel, where a convolution would multiply with channels that are mostly zero.

        Args:
            framed: :meth:`pair_codes` with a frame of half a kernel.
            window: where.
            table: :meth:`_first_table`.
        """
        side = self.config.first_kernel
        around = framed[:, window.top: window.bottom + side - 1, window.left: window.right + side - 1]
        seen = around.unfold(1, side, 1).unfold(2, side, 1).flatten(3)  # (batch, rows, columns, places)
        index = seen + len(self.pair_table) * torch.arange(side * side, dtype=torch.int32, device=seen.device)
        summed = F.embedding_bag(index.flatten(0, 2), table, mode="sum").add_(self.first.bias)
        return summed.view(*seen.shape[:3], -1).permute(0, 3, 1, 2)

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
