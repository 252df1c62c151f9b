"""From the network's outputs to proposed boxes: every cell's boxes, identical ones merged, a selection of them.

Each cell (i, j) above the diagonal proposes, per box type, at most two boxes. The argmax of the location classes puts
the top-right corner at (i - loc_x, j + loc_y); the argmax of the size classes gives one box, with the joint probability
p_on * p_loc_x * p_loc_y * p_siz_x * p_siz_y (``prob_sm``; a square type has one size and one factor for it), the
rounded scalar size, at least 1, the other, with p_on * p_loc_x * p_loc_y (``prob_sl``). An argmax in a "beyond" class
proposes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rna_s2.boxtables.table import Ragged
from rna_s2.engine.tracker import timed
from rna_s2.fitting.devices import chosen_device, chosen_precision
from rna_s2.rna.boxes import HLOOP, ILOOP, STEM, Boxes
from rna_s2.rna.pairs import impossible_stems
from rna_s2.s1.batches import length_batches, padded_codes
from rna_s2.s1.network import (
    LOC_BEYOND,
    LOC_CLASSES,
    SIZE_BEYOND,
    SIZE_CLASSES,
    ProposalNetwork,
    TypeOutputs,
    receptive_field,
)
from rna_s2.s1.selection import SCALAR_SUPPORT, InferenceOptions, SelectionOptions

MAX_LOCATION = LOC_BEYOND - 1
"""Largest distance of a cell to the corner of the box it proposes."""

MAX_SCALAR_SIZE = 1 << 14
"""A scalar size above this counts as this: no map that fits in memory holds a box so large."""

ROUNDING = 0.01
"""More than rounding changes a logit by."""

HLOOP_AREA_SHARE = 0.5
"""Share of an hloop's square that lies above the diagonal, about; its threshold on n_proposal shrinks by it."""


class CellOutputs(NamedTuple):
    """What the network says of the cells above the diagonal in a patch of some maps.

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
            return cls(*(np.zeros(0, np.int64) for _ in range(6)), np.zeros(0, np.float32), *(np.zeros(0, bool),) * 2)
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class ProposedBoxes(NamedTuple):
    """Merged boxes of some sequences, with the probabilities of their proposals."""

    boxes: Boxes
    prob_sm: Ragged
    prob_sl: Ragged


def best_class(logits: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """The likeliest class and its probability, both ``(n,)``, of ``(n, classes)`` logits.

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
    """The boxes of all types that cells propose: :func:`cell_proposals` of each type, one after the other."""
    return Proposals.concatenate([cell_proposals(cells, t, options) for t in (STEM, ILOOP, HLOOP)])


def rounded_size(scalar: Tensor) -> Tensor:
    """``(n,)`` int64 nearest whole sizes, 1 at least (a half rounds to the even neighbour)."""
    return torch.round(scalar).clamp(1, MAX_SCALAR_SIZE).long()


def merge(proposals: Proposals, rows: int, options: SelectionOptions) -> ProposedBoxes:
    """Identical boxes made one, and the selection among them.

    A box's probabilities keep the order of its proposals, which means nothing (it depends on the patches). Boxes of a
    row are ordered by type, corner and size.
    """
    columns = (proposals.row, proposals.type, proposals.bb_x, proposals.bb_y, proposals.siz_x, proposals.siz_y)
    order, starts = group(columns)
    firsts = order[starts]
    counts = np.bincount(proposals.row[firsts], minlength=rows)
    boxes = Boxes(
        np.concatenate([[0], np.cumsum(counts)]), *(column[firsts] for column in columns[1:])
    )
    box_of = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(order))))
    softmax, on = proposals.softmax[order], proposals.on[order]
    prob = proposals.prob[order].astype(np.float64)
    n_sm = np.bincount(box_of[softmax], minlength=len(starts))
    n_sl = np.bincount(box_of[~softmax], minlength=len(starts))
    prob_sm = Ragged(prob[softmax], np.concatenate([[0], np.cumsum(n_sm)]))
    prob_sl = Ragged(prob[~softmax], np.concatenate([[0], np.cumsum(n_sl)]))

    threshold = options.n_proposal_threshold * np.where(boxes.type == HLOOP, HLOOP_AREA_SHARE, 1.0)
    often = np.maximum(n_sm, n_sl) / area(boxes) > threshold
    if options.selection == "on_threshold":
        return ProposedBoxes(boxes, prob_sm, prob_sl)
    if options.selection == "union":
        often |= np.bincount(box_of[on], minlength=len(starts)) > 0
    elif options.selection == "support":
        weight = np.where(softmax, 1.0, SCALAR_SUPPORT)
        often = np.bincount(box_of, prob * weight, minlength=len(starts)) >= options.min_support
    kept = np.flatnonzero(often)
    return ProposedBoxes(boxes.select(often), prob_sm.take(kept), prob_sl.take(kept))


def area(boxes: Boxes) -> np.ndarray:
    """``(boxes,)`` int64 cells that each box covers, those of an hloop below the diagonal included."""
    return boxes.siz_x.astype(np.int64) * boxes.siz_y


def group(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Equal rows of int columns together: a stable order of the rows, and where in it each group starts."""
    if not len(columns[0]):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    low = [int(column.min()) for column in columns]
    span = [int(column.max()) - least + 1 for column, least in zip(columns, low, strict=True)]
    if np.prod([float(s) for s in span]) < 2.0**62:
        code = columns[0] - low[0]
        for column, least, width in zip(columns[1:], low[1:], span[1:], strict=True):
            code = code * width + (column - least)
        order = np.argsort(code, kind="stable")
        new = np.diff(code[order], prepend=-1) != 0
    else:
        order = np.lexsort(columns[::-1])
        new = np.ones(len(order), bool)
        new[1:] = np.any([np.diff(column[order]) != 0 for column in columns], axis=0)
    return order, np.flatnonzero(new)


def propose_boxes(
    network: ProposalNetwork,
    codes: Sequence[np.ndarray],
    selection: SelectionOptions,
    inference: InferenceOptions | None = None,
    seconds: dict[str, float] | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> ProposedBoxes:
    """The boxes that a network proposes for sequences.

    Args:
        network: in any mode; it has no layer that depends on it. It is moved to the device that ``inference`` names.
        codes: ``(L,)`` base codes of each sequence.
        selection: which proposals to keep.
        inference: sizes of batches and patches, precision, device.
        seconds: where to add the seconds of the network ("network") and of the rest ("proposals").
        progress: wraps the list of batches, to show a progress bar.
    """
    return propose_selections(network, codes, [selection], inference, seconds, progress)[0]


def propose_selections(
    network: ProposalNetwork,
    codes: Sequence[np.ndarray],
    selections: Sequence[SelectionOptions],
    inference: InferenceOptions | None = None,
    seconds: dict[str, float] | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[ProposedBoxes]:
    """As :func:`propose_boxes`, for several selections at the cost of one pass of the network."""
    inference = inference or InferenceOptions()
    device = chosen_device(inference.device)
    network.to(device)
    inference = inference.model_copy(update={"precision": chosen_precision(inference.precision, device)})
    seconds = {} if seconds is None else seconds
    lengths = np.array([len(c) for c in codes], np.int64)
    whole = np.flatnonzero(lengths <= inference.patch)
    batches = [*length_batches(lengths, whole, inference.batch_pixels),
               *(np.array([k]) for k in np.flatnonzero(lengths > inference.patch))]
    done: list[list[tuple[np.ndarray, ProposedBoxes]]] = [[] for _ in selections]
    with torch.inference_mode():
        for rows in progress(batches):
            for parts, merged in zip(
                done, propose_batch(network, [codes[k] for k in rows], selections, inference, seconds), strict=True
            ):
                parts.append((rows, merged))
    with timed(seconds, "proposals"):
        return [
            possible_boxes(in_row_order(parts, len(codes)), codes, selection)
            for parts, selection in zip(done, selections, strict=True)
        ]


def possible_boxes(
    proposed: ProposedBoxes, codes: Sequence[np.ndarray], selection: SelectionOptions
) -> ProposedBoxes:
    """Without the impossible stems, where the selection says so."""
    if not selection.drop_impossible_stems:
        return proposed
    offsets = np.concatenate([[0], np.cumsum([len(c) for c in codes], dtype=np.int64)])
    flat = np.concatenate([np.zeros(0, np.uint8), *codes])
    keep = ~impossible_stems(proposed.boxes, flat, offsets)
    index = np.flatnonzero(keep)
    return ProposedBoxes(proposed.boxes.select(keep), proposed.prob_sm.take(index), proposed.prob_sl.take(index))


def propose_batch(
    network: ProposalNetwork,
    codes: Sequence[np.ndarray],
    selections: Sequence[SelectionOptions],
    inference: InferenceOptions,
    seconds: dict[str, float],
) -> list[ProposedBoxes]:
    """The boxes of a batch of sequences for each selection; maps are computed in bands of rows, bands in patches.

    A box is merged as soon as no later band can propose it: a cell's box starts at most :data:`MAX_LOCATION` rows
    above the cell, so what waits for the next band is little, and memory does not grow with the map.
    """
    rows = len(codes)
    waiting = [Proposals.concatenate([]) for _ in selections]
    done: list[list[ProposedBoxes]] = [[] for _ in selections]
    for next_row, patches in map_bands(network, codes, inference, least_on_logit(selections)):
        bands: list[list[Proposals]] = [[before] for before in waiting]
        while True:
            with timed(seconds, "network"):
                patch = next(patches, None)
            if patch is None:
                break
            with timed(seconds, "proposals"):
                for band, selection in zip(bands, selections, strict=True):
                    band.append(all_proposals(patch, selection))
        with timed(seconds, "proposals"):
            for k, selection in enumerate(selections):
                found = Proposals.concatenate(bands[k])
                complete = found.bb_x + MAX_LOCATION < next_row
                done[k].append(merge(found.where(complete), rows, selection))
                waiting[k] = found.where(~complete)
    with timed(seconds, "proposals"):
        everyone = np.arange(rows)
        return [
            in_row_order([(everyone, part) for part in [*done[k], merge(waiting[k], rows, selection)]], rows)
            for k, selection in enumerate(selections)
        ]


def least_on_logit(selections: Sequence[SelectionOptions]) -> float | None:
    """A logit of p_on below which a cell proposes nothing in any of the selections; None where one takes every cell.

    It lies a little below that of the lowest threshold, so that rounding decides nothing here:
    :func:`cell_proposals` compares with the threshold itself.
    """
    if any(s.least_on is None for s in selections):
        return None
    lowest = min(s.least_on for s in selections)
    return math.log(lowest / (1 - lowest)) - ROUNDING if lowest > 0 else None


def map_bands(
    network: ProposalNetwork, codes: Sequence[np.ndarray], inference: InferenceOptions, least_on: float | None
) -> Iterator[tuple[int, Iterator[CellOutputs]]]:
    """The bands of a batch of maps from the top: the row after a band, and its patches from the diagonal to the right.

    Maps up to ``inference.patch`` are one band of one patch. A patch is computed with a margin of the receptive field.
    """
    padded, lengths = padded_codes(codes)
    longest = padded.shape[1]
    device = next(network.parameters()).device
    padded, lengths = padded.to(device), lengths.to(device)
    for top in range(0, longest, inference.patch):
        bottom = min(top + inference.patch, longest)
        yield (
            bottom if bottom < longest else longest + MAX_LOCATION,
            (
                patch_outputs(network, padded, lengths, (top, bottom), (left, min(left + inference.patch, longest)),
                              inference.precision, least_on)
                for left in range(top, longest, inference.patch)
            ),
        )


def patch_outputs(
    network: ProposalNetwork,
    codes: Tensor,
    lengths: Tensor,
    rows: tuple[int, int],
    cols: tuple[int, int],
    precision: str,
    least_on: float | None,
) -> CellOutputs:
    """The outputs at the cells of a batch of maps with rows and columns in the given ranges (the end left out).

    Only at those where some type's logit of p_on exceeds ``least_on``, unless that is None.
    """
    margin = receptive_field(network.config)
    index = torch.arange(codes.shape[1], device=codes.device)
    row_index = index[max(rows[0] - margin, 0): rows[1] + margin]
    col_index = index[max(cols[0] - margin, 0): cols[1] + margin]
    inside = (row_index[:, None] < col_index[None, :]) & (col_index < lengths[:, None])[:, None, :]
    with torch.autocast(codes.device.type, torch.bfloat16, enabled=precision == "bf16"):
        stream = network.stream(codes[:, row_index], codes[:, col_index], inside)
    first_row, first_col = rows[0] - int(row_index[0]), cols[0] - int(col_index[0])
    window = (
        slice(None), slice(first_row, first_row + rows[1] - rows[0]), slice(first_col, first_col + cols[1] - cols[0])
    )
    row, i, j = torch.nonzero(inside[window], as_tuple=True)
    features = network.head_features(stream[window][row, i, j].to(network.head.weight.dtype))
    if least_on is not None:
        kept = torch.nonzero((network.on_logits(features) > least_on).any(dim=1)).squeeze(1)
        row, i, j, features = (values[kept] for values in (row, i, j, features))
    return CellOutputs(row, i + rows[0], j + cols[0], lengths[row], network.cell_outputs(features))


def in_row_order(parts: Sequence[tuple[np.ndarray, ProposedBoxes]], rows: int) -> ProposedBoxes:
    """Parts that hold boxes of some rows each, as one, in the order of rows, types, corners and sizes."""
    row = np.concatenate([np.zeros(0, np.int64), *(index[part.boxes.row] for index, part in parts)])
    columns = [
        np.concatenate([np.zeros(0, np.int64), *(getattr(part.boxes, name) for _, part in parts)]).astype(np.int64)
        for name in ("type", "bb_x", "bb_y", "siz_x", "siz_y")
    ]
    order, _ = group([row, *columns])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))])
    boxes = Boxes(offsets, *(column[order] for column in columns))
    lists = []
    for name in ("prob_sm", "prob_sl"):
        ragged = [getattr(part, name) for _, part in parts]
        lengths = np.concatenate([np.zeros(0, np.int64), *(r.lengths for r in ragged)])
        whole = Ragged(np.concatenate([np.zeros(0), *(r.values for r in ragged)]),
                       np.concatenate([[0], np.cumsum(lengths)]))
        lists.append(whole.take(order))
    return ProposedBoxes(boxes, *lists)
