"""A training step whose batch is worked on in two shares, each on a core of its own.

The operations of a step are too small to be spread over cores one by one. So the rows of a batch are divided into two shares; a
thread for each takes its share forward and backward, with one core, and the gradients of both are added up. How a batch is
divided, and the random numbers of each share's dropout, do not depend on the number of threads: with one thread the shares
follow one another, and the result is the same.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from s2.batches import Batch
from s2.kernels import random_bytes_from
from s2.network import batch_loss

SHARES = 2
LEAST_WORK = 100_000_000
"""Boxes times weights below which a batch stays whole: what is won would be lost again by dividing."""

_SEEDS = 2**62


def worth_sharing(network: nn.Module, batch: Batch) -> bool:
    """Whether a training step on this batch is to be done in shares: on the CPU, and large enough to gain by it."""
    if not torch.is_grad_enabled() or batch.features.device.type != "cpu" or batch.rows < SHARES:
        return False
    return len(batch.features) * sum(parameter.numel() for parameter in network.parameters()) >= LEAST_WORK


def loss_in_shares(network: Callable[[Batch], Tensor], parameters: list[nn.Parameter], batch: Batch) -> tuple[Tensor, Tensor]:
    """:func:`s2.network.batch_loss` of a batch, whose gradients are at hand as soon as the loss is.

    Args:
        network: gives the logits of a batch, ``(boxes,)``.
        parameters: get gradients when the loss is taken backward.
        batch: at least :data:`SHARES` rows, on the CPU. Its dropout masks come from generators that one number of PyTorch's
            default generator seeds.

    Returns:
        The loss, and the logits ``(boxes,)`` without gradients.
    """
    seed = int(torch.randint(_SEEDS, ()))
    bounds = [batch.rows * k // SHARES for k in range(SHARES + 1)]
    parts = [batch.part(start, stop) for start, stop in itertools.pairwise(bounds)]
    autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def work(share: int) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        enabled, kind = autocast
        part = parts[share]
        with (
            torch.enable_grad(),
            random_bytes_from(np.random.SFC64([seed, share])),
            torch.autocast("cpu", kind, enabled=enabled, cache_enabled=False),
        ):
            logits = network(part)
            loss = batch_loss(logits, part) * (part.rows / batch.rows)
        return loss.detach(), logits.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

    losses, logits, gradients = zip(*_side_by_side(work), strict=True)
    loss = _WithGradients.apply(sum(losses), [_sum(each) for each in zip(*gradients, strict=True)], *parameters)
    return loss, torch.cat(logits)


class _WithGradients(torch.autograd.Function):
    """A loss whose gradients are known."""

    @staticmethod
    def forward(ctx, loss, gradients, *parameters):
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx, factor):
        gradients, ctx.gradients = ctx.gradients, None
        if float(factor) != 1.0:
            gradients = [None if gradient is None else gradient * factor for gradient in gradients]
        return None, None, *gradients


def _sum(gradients: tuple[Tensor | None, ...]) -> Tensor | None:
    """The sum in the order of the shares; a share in which a weight had no part has None."""
    present = [gradient for gradient in gradients if gradient is not None]
    return functools.reduce(torch.add, present) if present else None


def _side_by_side(work: Callable[[int], tuple]) -> list[tuple]:
    """``work(share)`` of all shares, each with one thread of PyTorch's; side by side where PyTorch may use several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if threads == 1:
            return [work(share) for share in range(SHARES)]
        others = [_workers().submit(work, share) for share in range(1, SHARES)]
        try:
            first = work(0)
        finally:
            for other in others:
                other.exception()  # waits
        return [first, *(other.result() for other in others)]
    finally:
        torch.set_num_threads(threads)


@functools.cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(SHARES - 1, thread_name_prefix="s2-share", initializer=torch.set_num_threads, initargs=(1,))
