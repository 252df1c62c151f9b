"""A stage 1 network with fewer hidden channels and nearly the same outputs, found without training.

Many hidden channels of a trained block are never on, or repeat what others hold. Block by block, channels are taken out one
after the other, each time the one without which the others, with new weights, add nearly the same to the residual stream: of
a linear least-squares problem that is the channel ``k`` of the smallest ``|w_k|^2 / (C^-1)_kk`` (Hassibi and Stork 1993,
*Second order derivatives for network pruning: Optimal Brain Surgeon*), where ``C`` holds the second moments of the channels
and ``w`` the weights of the 1x1 convolution behind them. Those weights are then fitted anew (He, Zhang and Sun 2017, *Channel
pruning for accelerating very deep neural networks*), to the stream of the network as it was trained, so that each block makes
good what the blocks before it have lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rna_s2.rna.boxes import BOX_TYPES
from rna_s2.s1.network import ProposalNetwork, ResidualBlock, upper_triangle

CHANNELS_AT_A_TIME = 8
"""Numbers of channels are multiples of this, as far as there are channels: convolutions compute so many at a time."""

BATCH = 8
"""Sequences whose maps are computed together."""

RIDGE = 1e-9
"""Share of the mean squared channel that is added to the moments' diagonal: channels that are never on have no inverse."""

ON = 0.1
"""Cells count where the original network's p_on exceeds this (:func:`difference`)."""


class Moments(NamedTuple):
    """What a least-squares fit over cells needs to know.

    Attributes:
        channels: ``(hidden + 1, hidden + 1)`` float64 second moments of the hidden channels, and of the constant 1.
        wanted: ``(hidden + 1, out)`` their products with what is to be added to the stream.
        square: mean over the cells of the squared norm of what is to be added.
    """

    channels: np.ndarray
    wanted: np.ndarray
    square: float


class Fit(NamedTuple):
    """Channels that are kept and what becomes of them.

    Attributes:
        kept: the channels, rising.
        weights: ``(kept + 1, out)`` weights of the 1x1 convolution; the last row is its bias.
        loss: mean squared norm of what the fit leaves of the wanted.
    """

    kept: list[int]
    weights: np.ndarray
    loss: float


@dataclass(frozen=True)
class Difference:
    """How far the answers of two networks are apart, at the cells where the first says on, by box type.

    Attributes:
        cells: ``(3,)`` number of the cells.
        p_on: ``(3,)`` mean absolute difference of p_on.
        same_box: ``(3,)`` share of the cells whose likeliest location and size are the same.
    """

    cells: np.ndarray
    p_on: np.ndarray
    same_box: np.ndarray


def compacted(network: ProposalNetwork, codes: np.ndarray, tolerance: float) -> ProposalNetwork:
    """The network with as few hidden channels as the tolerance allows.

    Args:
        network: a trained one; it stays as it is.
        codes: ``(rows, length)`` base codes of the sequences on which it is to give the same. Their maps are held in memory
            twice, ``channels`` numbers per cell.
        tolerance: what may be lost in a block, as a share of the residual stream's variance behind it.
    """
    inside = upper_triangle(torch.full((len(codes),), codes.shape[1]), codes.shape[1])
    cells = inside.split(BATCH)
    blocks: list[ResidualBlock] = []
    with torch.inference_mode():
        trained = [
            network.first_stream(network.pair_codes(rows, rows, mask), mask)
            for rows, mask in zip(torch.from_numpy(codes).split(BATCH), cells, strict=True)
        ]
        compact = list(trained)
        for block in network.blocks:
            trained = [block(stream) for stream in trained]
            moments = _moments(block, compact, trained, cells)
            fit = _fewest(moments, tolerance * _variance(trained, cells))
            blocks.append(_fitted(block, fit))
            compact = [blocks[-1](stream) for stream in compact]
    smaller = ProposalNetwork(network.config.model_copy(update={"hidden": tuple(b.look.out_channels for b in blocks)}))
    weights = {name: value for name, value in network.state_dict().items() if not name.startswith("blocks.")}
    weights |= {f"blocks.{name}": value for name, value in torch.nn.ModuleList(blocks).state_dict().items()}
    smaller.load_state_dict(weights)
    return smaller.requires_grad_(False).eval()


def _moments(block: ResidualBlock, compact: list[Tensor], trained: list[Tensor], cells: tuple[Tensor, ...]) -> Moments:
    """Moments of a block's hidden channels behind the compact stream; wanted is what leads from it to the trained one."""
    channels: Any = 0
    wanted: Any = 0
    square, count = 0.0, 0
    for before, after, mask in zip(compact, trained, cells, strict=True):
        hidden = _at(torch.relu(block.look(torch.relu(before))), mask)
        hidden = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)  # (cells, hidden + 1)
        missing = _at(after - before, mask)  # (cells, channels)
        channels = channels + hidden.T @ hidden
        wanted = wanted + hidden.T @ missing
        square = square + float(missing.square().sum())
        count += len(hidden)
    return Moments((channels / count).numpy(), (wanted / count).numpy(), square / count)


def _variance(streams: list[Tensor], cells: tuple[Tensor, ...]) -> float:
    """Variance of a stream over the cells, summed over its channels."""
    parts = [_at(stream, mask) for stream, mask in zip(streams, cells, strict=True)]
    count = sum(len(part) for part in parts)
    mean = sum(part.sum(dim=0) for part in parts) / count
    return float(sum((part - mean).square().sum() for part in parts)) / count


def _at(maps: Tensor, mask: Tensor) -> Tensor:
    """``(cells, channels)`` float64: ``(batch, channels, rows, columns)`` at the cells of the mask."""
    return maps.permute(0, 2, 3, 1)[mask].double()


def _fewest(moments: Moments, allowed: float) -> Fit:
    """The smallest set of channels, of those that taking out one after the other gives, whose loss is within ``allowed`` of
    that of all channels."""
    kept = list(range(len(moments.channels) - 1))
    fit, saliency = _solved(moments, kept)
    best, bound = fit, fit.loss + allowed
    while len(kept) > 1:
        least = int(np.argmin(saliency))
        kept = kept[:least] + kept[least + 1:]
        fit, saliency = _solved(moments, kept)
        if fit.loss > bound:
            break
        if len(kept) % CHANNELS_AT_A_TIME == 0:
            best = fit
    return best


def _solved(moments: Moments, kept: list[int]) -> tuple[Fit, np.ndarray]:
    """The least-squares fit of some channels, and ``(kept,)`` what the loss would rise by without each of them."""
    hidden = len(moments.channels) - 1
    index = [*kept, hidden]
    own = moments.channels[np.ix_(index, index)]
    wanted = moments.wanted[index]
    ridge = RIDGE * np.trace(moments.channels) / len(moments.channels)
    inverse = np.linalg.inv(own + ridge * np.eye(len(index)))
    weights = inverse @ wanted
    # Written out, since it is smallest at the solution: where channels repeat each other, errors of the inverse do not count.
    loss = moments.square + float((weights * (own @ weights - 2 * wanted)).sum())
    return Fit(kept, weights, loss), (weights[:-1] ** 2).sum(axis=1) / np.diag(inverse)[:-1]


def _fitted(block: ResidualBlock, fit: Fit) -> ResidualBlock:
    """A block of the channels that are kept."""
    smaller = ResidualBlock(block.mix.out_channels, len(fit.kept), block.look.dilation[0])
    weights = torch.from_numpy(fit.weights).to(block.mix.weight.dtype)
    smaller.look.weight.copy_(block.look.weight[fit.kept])
    smaller.look.bias.copy_(block.look.bias[fit.kept])
    smaller.mix.weight.copy_(weights[:-1].T[:, :, None, None])
    smaller.mix.bias.copy_(weights[-1])
    return smaller.to(memory_format=torch.channels_last)


def difference(first: ProposalNetwork, second: ProposalNetwork, codes: np.ndarray) -> Difference:
    """How far the answers of two networks are apart on sequences, ``(rows, length)`` base codes."""
    count, p_on, same = (np.zeros(len(BOX_TYPES)) for _ in range(3))
    with torch.inference_mode():
        for rows in torch.from_numpy(codes).split(BATCH):
            inside = upper_triangle(torch.full((len(rows),), rows.shape[1]), rows.shape[1])
            both = [network.cell_outputs(network.features(rows, rows, inside)[inside]) for network in (first, second)]
            for box_type, (a, b) in enumerate(zip(*both, strict=True)):
                p = torch.sigmoid(a.on)
                on = p > ON
                equal = torch.stack([x.argmax(1) == y.argmax(1) for x, y in zip(a[1:5], b[1:5], strict=True)]).all(dim=0)
                count[box_type] += int(on.sum())
                p_on[box_type] += float((p - torch.sigmoid(b.on)).abs()[on].sum())
                same[box_type] += int(equal[on].sum())
    with np.errstate(invalid="ignore"):
        return Difference(count.astype(np.int64), p_on / count, same / count)
