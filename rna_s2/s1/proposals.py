"""The boxes that a network proposes for sequences: maps computed in patches, cells decoded, equal boxes merged, a selection."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from rna_s2.engine.tracker import timed
from rna_s2.fitting.devices import chosen_device, chosen_precision
from rna_s2.s1.batches import length_batches, padded_codes
from rna_s2.s1.cells import MAX_LOCATION, CellOutputs, Proposals, all_proposals
from rna_s2.s1.merging import ProposedBoxes, in_row_order, merge, possible_boxes
from rna_s2.s1.network import ProposalNetwork, receptive_field
from rna_s2.s1.selection import InferenceOptions, SelectionOptions

ROUNDING = 0.01
"""More than rounding changes a logit by."""


def propose_selections(
    network: ProposalNetwork, codes: Sequence[np.ndarray], selections: Sequence[SelectionOptions],
    inference: InferenceOptions | None = None, seconds: dict[str, float] | None = None,
    progress: Callable[[Iterable], Iterable] = iter
) -> list[ProposedBoxes]:
    """The boxes that a network proposes for sequences, by each selection. The network runs once.

    Args:
        network: in any mode; it has no layer that depends on it. It is moved to the device that ``inference`` names.
        codes: ``(L,)`` base codes of each sequence.
        selections: which proposals to keep.
        inference: sizes of batches and patches, precision, device.
        seconds: where to add the seconds of the network ("network") and of the rest ("proposals").
        progress: wraps the list of batches, to show a progress bar.
    """
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
            found = propose_batch(network, [codes[k] for k in rows], selections, inference, seconds)
            for parts, merged in zip(done, found, strict=True):
                parts.append((rows, merged))
    with timed(seconds, "proposals"):
        return [
            possible_boxes(in_row_order(parts, len(codes)), codes, selection)
            for parts, selection in zip(done, selections, strict=True)
        ]


def propose_batch(
    network: ProposalNetwork, codes: Sequence[np.ndarray], selections: Sequence[SelectionOptions], inference: InferenceOptions,
    seconds: dict[str, float]
) -> list[ProposedBoxes]:
    """The boxes of a batch of sequences for each selection. Maps are computed in bands of map rows, bands in patches.

    A box is merged as soon as no later band can propose it: a box starts at most :data:`MAX_LOCATION` map rows above the
    cell that proposes it. So few proposals wait for the next band, and memory does not grow with the map.
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
    :func:`rna_s2.s1.cells.cell_proposals` compares with the threshold itself.
    """
    thresholds = [s.least_on for s in selections if s.least_on is not None]
    if len(thresholds) < len(selections):
        return None
    lowest = min(thresholds)
    return math.log(lowest / (1 - lowest)) - ROUNDING if lowest > 0 else None


def map_bands(
    network: ProposalNetwork, codes: Sequence[np.ndarray], inference: InferenceOptions, least_on: float | None
) -> Iterator[tuple[int, Iterator[CellOutputs]]]:
    """The bands of a batch of maps from the top: the map row after a band, and its patches from the diagonal to the right.

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
    network: ProposalNetwork, codes: Tensor, lengths: Tensor, rows: tuple[int, int], cols: tuple[int, int], precision: str,
    least_on: float | None
) -> CellOutputs:
    """The outputs at the cells of a batch of maps with map rows and columns in the given ranges (the end left out).

    Only at cells where some type's logit of p_on exceeds ``least_on``, unless that is None.
    """
    margin = receptive_field(network.config)
    index = torch.arange(codes.shape[1], device=codes.device)
    row_index = index[max(rows[0] - margin, 0): rows[1] + margin]
    col_index = index[max(cols[0] - margin, 0): cols[1] + margin]
    inside = (row_index[:, None] < col_index[None, :]) & (col_index < lengths[:, None])[:, None, :]
    with torch.autocast(codes.device.type, torch.bfloat16, enabled=precision == "bf16"):
        stream = network.stream(codes[:, row_index], codes[:, col_index], inside)
    first_row, first_col = rows[0] - int(row_index[0]), cols[0] - int(col_index[0])
    window = (slice(None), slice(first_row, first_row + rows[1] - rows[0]), slice(first_col, first_col + cols[1] - cols[0]))
    row, i, j = torch.nonzero(inside[window], as_tuple=True)
    features = network.head_features(stream[window][row, i, j].to(network.head.weight.dtype))
    if least_on is not None:
        kept = torch.nonzero((network.on_logits(features) > least_on).any(dim=1)).squeeze(1)
        row, i, j, features = (values[kept] for values in (row, i, j, features))
    return CellOutputs(row, i + rows[0], j + cols[0], lengths[row], network.cell_outputs(features))
