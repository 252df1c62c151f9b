"""The boxes that the cells of a map propose.

Each cell (i, j) above the diagonal proposes, per box type, at most two boxes. The argmax of the location classes puts
the top-right corner at (i - loc_x, j + loc_y); the argmax of the size classes gives one box, with the joint probability
p_on * p_loc_x * p_loc_y * p_siz_x * p_siz_y (``prob_sm``; a square type has one size and one factor for it), the
rounded scalar size, at least 1, the other, with p_on * p_loc_x * p_loc_y (``prob_sl``). An argmax in a "beyond" class
proposes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rna_s2.rna.boxes import HLOOP, ILOOP, STEM
from rna_s2.s1.network import LOC_BEYOND, LOC_CLASSES, SIZE_BEYOND, SIZE_CLASSES, TypeOutputs
from rna_s2.s1.selection import SelectionOptions

MAX_LOCATION = LOC_BEYOND - 1
"""Largest distance of a cell to the corner of the box it proposes."""

MAX_SCALAR_SIZE = 1 << 14
"""A scalar size above this counts as this: no map that fits in memory holds a box so large."""


class CellOutputs(NamedTuple):
    """The network's outputs at the cells above the diagonal in a patch of some maps.

    Attributes:
        row, i, j: ``(n,)`` int64: sequence of the batch, and the cell.
        length: ``(n,)`` int64: length of the cell's sequence.
        outputs: outputs of each box type at the cells.
    """

    row: Tensor
    i: Tensor
    j: Tensor
    length: Tensor
    outputs: Sequence[TypeOutputs]


class Proposals(NamedTuple):
    """What many cells propose, one entry per proposal.

    Attributes:
        row: ``(n,)`` int64 sequence.
        type: ``(n,)`` int64 box type.
        bb_x, bb_y, siz_x, siz_y: ``(n,)`` int64 the proposed box.
        prob: ``(n,)`` float32.
        softmax: ``(n,)`` bool: from the softmax size (``prob_sm``), else from the scalar one (``prob_sl``).
        on: ``(n,)`` bool: the cell's p_on exceeds the threshold.
    """

    row: np.ndarray
    type: np.ndarray
    bb_x: np.ndarray
    bb_y: np.ndarray
    siz_x: np.ndarray
    siz_y: np.ndarray
    prob: np.ndarray
    softmax: np.ndarray
    on: np.ndarray

    def where(self, keep: np.ndarray) -> Proposals:
        """Only the proposals where ``keep`` is true."""
        return Proposals(*(column[keep] for column in self))

    @classmethod
    def concatenate(cls, parts: Sequence[Proposals]) -> Proposals:
        """All proposals of the parts, in their order; none where there are no parts."""
        if not parts:
            numbers, flags = np.zeros(0, np.int64), np.zeros(0, bool)
            return cls(*(numbers,) * 6, np.zeros(0, np.float32), flags, flags)
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def best_class(logits: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """The most probable class and its probability, both ``(n,)``, of ``(n, classes)`` logits.

    Classes where ``allowed`` (``(n, classes)`` bool) is false are taken out before the softmax; "beyond", the last,
    never is.
    """
    if allowed is not None:
        allowed[:, -1] = True
        logits = logits.masked_fill(~allowed, -torch.inf)
    top, choice = logits.max(dim=1)
    return choice, torch.exp(top - torch.logsumexp(logits, dim=1))


def cell_proposals(cells: CellOutputs, box_type: int, options: SelectionOptions) -> Proposals:
    """The boxes of one type that cells propose.

    With ``mask_lower_triangle`` these classes are taken out of the softmax before the argmax:

    - locations that would put the corner outside of the map: ``loc_x > i``, ``loc_y > L - 1 - j``;
    - for stems and iloops, sizes that would bring a cell to the diagonal: the bottom-left cell must stay above it,
      ``siz_x + siz_y <= bb_y - bb_x + 1``. A stem has ``siz_x = siz_y``; of an iloop first siz_x is chosen, leaving
      room for ``siz_y = 1``, then siz_y within what siz_x leaves. A scalar size that breaks this proposes nothing.

    An hloop lies across the diagonal, so no size of it is masked; one that is not on the diagonal
    (``siz != bb_y - bb_x + 1``) is dropped.

    Args:
        cells: the cells, i < j, and their outputs.
        box_type: of which type.
        options: the threshold on p_on and the masks.

    Returns:
        First the softmax size's proposals, then the scalar size's, each in the order of the cells.
    """
    row, i, j, length, outputs = *cells[:4], cells.outputs[box_type]
    p_on = torch.sigmoid(outputs.on)
    on = p_on > options.on_threshold
    if options.least_on is not None:
        kept = torch.nonzero(p_on > options.least_on).squeeze(1)
        outputs = TypeOutputs(*(value[kept] for value in outputs))
        row, i, j, length, p_on, on = (value[kept] for value in (row, i, j, length, p_on, on))

    mask = options.mask_lower_triangle
    distance = torch.arange(LOC_CLASSES, device=i.device)
    loc_x, p_x = best_class(outputs.loc_x, distance <= i[:, None] if mask else None)
    loc_y, p_y = best_class(outputs.loc_y, distance <= (length - 1 - j)[:, None] if mask else None)
    bb_x, bb_y = i - loc_x, j + loc_y
    p_corner = p_on * p_x * p_y
    located = (loc_x != LOC_BEYOND) & (loc_y != LOC_BEYOND)

    room = bb_y - bb_x + 1  # (n,) the most that siz_x + siz_y may be, hloops apart
    side = torch.arange(1, SIZE_CLASSES + 1, device=i.device)
    if box_type == ILOOP:
        size_x, p_siz_x = best_class(outputs.siz_x, side + 1 <= room[:, None] if mask else None)
        siz_x = size_x + 1
        size_y, p_siz_y = best_class(outputs.siz_y, side + siz_x[:, None] <= room[:, None] if mask else None)
        siz_y = size_y + 1
        named = (size_x != SIZE_BEYOND) & (size_y != SIZE_BEYOND)
        p_size = p_siz_x * p_siz_y
    else:
        size, p_size = best_class(outputs.siz_x, 2 * side <= room[:, None] if mask and box_type == STEM else None)
        siz_x = siz_y = size + 1
        named = size != SIZE_BEYOND
    number_x, number_y = rounded_size(outputs.scalar_x), rounded_size(outputs.scalar_y)

    parts = []
    for a, b, prob, valid, softmax in (
        (siz_x, siz_y, p_corner * p_size, located & named, True),
        (number_x, number_y, p_corner, located, False),
    ):
        if box_type == HLOOP:
            valid = valid & (a == room)
        elif mask:
            valid = valid & (a + b <= room)
        k = torch.nonzero(valid).squeeze(1)
        columns = (row[k], torch.full_like(k, box_type), bb_x[k], bb_y[k], a[k], b[k], prob[k],
                   torch.full_like(k, softmax, dtype=torch.bool), on[k])
        parts.append(Proposals(*(column.cpu().numpy() for column in columns)))
    return Proposals.concatenate(parts)


def all_proposals(cells: CellOutputs, options: SelectionOptions) -> Proposals:
    """The boxes that cells propose: :func:`cell_proposals` of each type, one after the other."""
    return Proposals.concatenate([cell_proposals(cells, t, options) for t in (STEM, ILOOP, HLOOP)])


def rounded_size(scalar: Tensor) -> Tensor:
    """``(n,)`` int64 nearest whole sizes, 1 at least (a half rounds to the even neighbour)."""
    return torch.round(scalar).clamp(1, MAX_SCALAR_SIZE).long()
