"""The loss of the stage 1 network.

On a map few cells are on (a percent or so), and the outputs of location and size mean something on those alone. So each
part of the loss is a mean over cells that are on: per box type, the binary cross-entropies of "on" are summed over all
cells above the diagonal and divided by the number of cells that are on (Lin et al. 2017 normalise the same way). That
weighs "on" as much as location and size whatever the length of the sequences, and leaves its probabilities calibrated,
which weighting the classes would not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from rna_s2.rna.boxes import BOX_TYPES, ILOOP
from rna_s2.s1.batches import MapBatch
from rna_s2.s1.network import LOC_BEYOND, SIZE_BEYOND, ProposalNetwork


def map_losses(
    network: ProposalNetwork, features: Tensor, inside: Tensor, batch: MapBatch, scalar_weight: float
) -> dict[str, Tensor]:
    """Parts of the loss of a batch, each a scalar: ``on/stem``, ``location/stem``, ``size/stem``, ``scalar/stem``, ...

    ``location`` is the sum of the cross-entropies of loc_x and loc_y, ``size`` that of the size classes (the mean of an
    iloop's two sides), ``scalar`` Huber's loss of the size as a number times ``scalar_weight``. A type that covers no
    cell of the batch has zero location and size losses. The loss to minimise is the sum of all parts.

    Args:
        network: for its output layers.
        features: ``(rows, longest, longest, head_hidden)`` of the batch, from :meth:`ProposalNetwork.features`.
        inside: ``(rows, longest, longest)`` bool, the cells that count.
        batch: the targets.
        scalar_weight: weight of ``scalar``.
    """
    targets = batch.targets
    on = on_targets(batch, inside)
    logits = network.on_logits(features[inside]).float()  # (cells, 3)
    entropy = F.binary_cross_entropy_with_logits(logits, on.float(), reduction="none").sum(dim=0)

    losses: dict[str, Tensor] = {}
    for box_type, name in enumerate(BOX_TYPES):
        mine = torch.nonzero(targets.type == box_type).squeeze(1)
        count = max(len(mine), 1)
        _, row, i, j, loc_x, loc_y, siz_x, siz_y = (column[mine] for column in targets)
        out = network.type_outputs(features[row, i, j], box_type)
        sides = ((out.siz_x, out.scalar_x, siz_x), (out.siz_y, out.scalar_y, siz_y))[: 2 if box_type == ILOOP else 1]
        location = [(out.loc_x, location_class(loc_x)), (out.loc_y, location_class(loc_y))]
        classes = [(logits, size_class(side)) for logits, _, side in sides]
        numbers = [(number, side.float()) for _, number, side in sides]
        losses[f"on/{name}"] = entropy[box_type] / count
        losses[f"location/{name}"] = _summed(F.cross_entropy, location) / count
        losses[f"size/{name}"] = _summed(F.cross_entropy, classes) / (count * len(sides))
        losses[f"scalar/{name}"] = scalar_weight * _summed(F.smooth_l1_loss, numbers) / (count * len(sides))
    return losses


def _summed(loss: Callable[..., Tensor], parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The sum of a loss over all cells of all pairs of outputs and targets."""
    return sum((loss(output.float(), target, reduction="sum") for output, target in parts), start=torch.zeros(()))


def on_targets(batch: MapBatch, inside: Tensor) -> Tensor:
    """``(cells, 3)`` bool: whether a box of each type covers each of the ``inside`` cells, in their order."""
    on = torch.zeros((*inside.shape, len(BOX_TYPES)), dtype=torch.bool, device=inside.device)
    targets = batch.targets
    on[targets.row, targets.i, targets.j, targets.type] = True
    return on[inside]


def location_class(distance: Tensor) -> Tensor:
    """Class of a distance to the corner: itself, or "beyond"."""
    return distance.clamp(max=LOC_BEYOND)


def size_class(size: Tensor) -> Tensor:
    """Class of a size of 1 or more: one less than itself, or "beyond"."""
    return (size - 1).clamp(max=SIZE_BEYOND)
