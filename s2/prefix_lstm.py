"""An LSTM over many short sequences, of which those that begin alike share what they begin with.

The state of an LSTM after a base depends on the bases up to there alone. Boxes of a row overlap, and stems are made of six
types of pairs, so many states of a batch are the same. The sequences are laid out as a tree of their prefixes, one node for
each, and every layer computes a state per node.

What the backward pass needs at each step is prepared for all steps at once, and the gradients of the weights are one product
for all steps together; PyTorch's own LSTM on CPUs takes a product, an addition and a dozen small operations for each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_CODES = 256


@dataclass(frozen=True)
class PrefixTree:
    """The prefixes of some sequences, each once; by length, so that a node comes after its parent.

    Attributes:
        offsets: ``longest + 1`` ints; the prefixes of length ``t + 1`` are the nodes ``offsets[t]:offsets[t + 1]``.
        parent: ``(nodes,)`` int64; the node that is one base shorter. Means nothing at length 1.
        first: ``(nodes,)`` int64; the packed position of the last base of the first sequence with this prefix.
        end: ``(n,)`` int64; the node that is the whole of each sequence.
    """

    offsets: Sequence[int]
    parent: Tensor
    first: Tensor
    end: Tensor


def prefix_tree(codes: np.ndarray, step_sizes: np.ndarray) -> PrefixTree:
    """The tree of some sequences.

    Args:
        codes: ``(positions,)`` uint8 what stands at each packed position: all first ones, then all second ones, ...; sequences
            by falling length.
        step_sizes: ``(longest,)`` how many sequences reach each position.
    """
    n = int(step_sizes[0]) if len(step_sizes) else 0
    node = np.zeros(n, np.int64)  # where each sequence has come to
    offsets, parents, firsts, start = [0], [], [], 0
    for size in step_sizes.tolist():
        key = node[:size] * _CODES + codes[start: start + size]
        distinct, first, which = np.unique(key, return_index=True, return_inverse=True)
        parents.append(distinct // _CODES)
        firsts.append(start + first)
        node[:size] = offsets[-1] + which
        offsets.append(offsets[-1] + len(distinct))
        start += size
    parent, first_of = (torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *parts])) for parts in (parents, firsts))
    return PrefixTree(offsets, parent, first_of, torch.from_numpy(node))


def last_states(lstm: nn.LSTM, values: Tensor, tree: PrefixTree) -> Tensor:
    """What the top layer of an LSTM says after the last base of each sequence, with gradients.

    Args:
        lstm: of one direction, with biases, without dropout and projections.
        values: ``(positions, channels)`` float32 on the CPU, packed as for :func:`prefix_tree`.
        tree: of these sequences.

    Returns:
        ``(n, hidden)``.
    """
    x = values.index_select(0, tree.first)
    for layer in range(lstm.num_layers):
        weights = (getattr(lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        x = _Layer.apply(x, *weights, tree)
    return x.index_select(0, tree.end)


class _Layer(torch.autograd.Function):
    """A layer: ``(nodes, inputs)`` to ``(nodes, hidden)``. Gates stand in PyTorch's order: input, forget, cell, output."""

    @staticmethod
    def forward(ctx, x, weight_in, weight_hidden, bias_in, bias_hidden, tree):
        gates = functional.linear(x, weight_in, bias_in + bias_hidden)  # (nodes, 4 * hidden)
        width = weight_hidden.shape[1]
        h, c, tanh_c = (gates.new_empty(len(gates), width) for _ in range(3))
        for step, (start, end) in enumerate(zip(tree.offsets[:-1], tree.offsets[1:], strict=True)):
            of_step = gates[start:end]
            if step:
                parent = tree.parent[start:end]
                of_step.addmm_(h.index_select(0, parent), weight_hidden.t())
            i, f, g, o = of_step.split(width, 1)
            of_step[:, : 2 * width].sigmoid_()
            g.tanh_()
            o.sigmoid_()
            torch.mul(i, g, out=c[start:end])
            if step:
                c[start:end].addcmul_(f, c.index_select(0, parent))
            torch.tanh(c[start:end], out=tanh_c[start:end])
            torch.mul(o, tanh_c[start:end], out=h[start:end])
        ctx.tree = tree
        ctx.save_for_backward(x, weight_in, weight_hidden, gates, h, c, tanh_c)
        return h

    @staticmethod
    def backward(ctx, gradient):
        x, weight_in, weight_hidden, gates, h, c, tanh_c = ctx.saved_tensors
        tree, width = ctx.tree, weight_hidden.shape[1]
        i, f, g, o = gates.split(width, 1)
        longer = tree.offsets[1] if len(tree.offsets) > 1 else 0  # where nodes with a parent begin
        before = torch.cat([c.new_zeros(longer, width), c.index_select(0, tree.parent[longer:])])
        # What d_c, and d_h, are to be multiplied with.
        of_c = torch.stack([g * i * (1 - i), before * f * (1 - f), i * (1 - g * g)], dim=1)  # (nodes, 3, hidden)
        of_o = tanh_c * o * (1 - o)
        of_h = o * (1 - tanh_c * tanh_c)
        d_gates = torch.empty_like(gates)
        d_h, d_c = gradient.clone(), torch.zeros_like(c)
        for start, end in zip(tree.offsets[-2::-1], tree.offsets[:0:-1], strict=True):
            of_step = d_gates[start:end]
            own = d_c[start:end].addcmul_(d_h[start:end], of_h[start:end])
            torch.mul(own[:, None], of_c[start:end], out=of_step[:, : 3 * width].view(-1, 3, width))
            torch.mul(d_h[start:end], of_o[start:end], out=of_step[:, 3 * width:])
            if start:
                parent = tree.parent[start:end]
                d_h.index_add_(0, parent, of_step @ weight_hidden)
                d_c.index_add_(0, parent, own * f[start:end])
        d_bias = d_gates.sum(0)
        return (
            d_gates @ weight_in if ctx.needs_input_grad[0] else None,
            d_gates.t() @ x,
            d_gates[longer:].t() @ h.index_select(0, tree.parent[longer:]),
            d_bias,
            d_bias,
            None,
        )
