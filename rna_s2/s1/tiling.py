"""The outputs of a network on maps of any size, band by band and patch by patch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from rna_s2.s1.batches import padded_codes
from rna_s2.s1.cells import MAX_LOCATION, CellOutputs
from rna_s2.s1.network import ProposalNetwork, receptive_field
from rna_s2.s1.selection import InferenceOptions


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
    window = (
        slice(None), slice(first_row, first_row + rows[1] - rows[0]), slice(first_col, first_col + cols[1] - cols[0])
    )
    row, i, j = torch.nonzero(inside[window], as_tuple=True)
    features = network.head_features(stream[window][row, i, j].to(network.head.weight.dtype))
    if least_on is not None:
        kept = torch.nonzero((network.on_logits(features) > least_on).any(dim=1)).squeeze(1)
        row, i, j, features = (values[kept] for values in (row, i, j, features))
    return CellOutputs(row, i + rows[0], j + cols[0], lengths[row], network.cell_outputs(features))
