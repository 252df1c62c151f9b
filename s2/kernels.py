"""Dense layers, attention and dropout that are fast on CPUs, with the same results as PyTorch's own.

What stands behind this module was measured (``benchmarks/README.md``):

* On processors where PyTorch's single-precision matrix products go to a library that does not use the widest vector
  instructions (MKL on AMD), oneDNN's products of the same precision take half the time. PyTorch ships oneDNN, and
  ``torch.ops.mkldnn._linear_pointwise`` reaches it; where that operator is missing, :func:`torch.nn.functional.linear` serves,
  and where vectors are no wider than MKL's on AMD (AVX2), because it is a little faster there. oneDNN copies a first operand
  that is transposed, so the smaller one stands there; a gradient that comes out transposed by that is copied by autograd.
* Operations that mix data types, such as a product with a boolean mask, cost ten times what they cost within one type. A
  mask here is one random byte for each element, compared in place and then turned into 0 or the scale in the type of what
  it is multiplied with.
* Attention with dropout goes row by row: nothing is padded, and a row's scores stay in the processor's cache from one
  operation to the next. Its gradients, and those of a whole sublayer, are written out; autograd sees one operation.

On CUDA, and for every data type but float32 and bfloat16, everything falls back to PyTorch's own functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPSILON = 1e-5
"""What layer normalisation adds to the variance (PyTorch's default)."""

_BYTE_VALUES = 256
_WORD_BYTES = 8
_MOST_DROPPED = _BYTE_VALUES - 1  # something must be kept, or the scale of what is kept would be infinite


def _onednn_linear() -> Callable[..., Tensor] | None:
    try:
        operator = torch.ops.mkldnn._linear_pointwise
        operator(torch.zeros(2, 2), torch.zeros(2, 2), None, "none", [], None)
    except (AttributeError, RuntimeError):
        return None
    return operator


_ONEDNN = _onednn_linear() if torch.backends.cpu.get_cpu_capability() == "AVX512" else None


def _by_onednn(a: Tensor) -> bool:
    """Whether a product of ``a`` goes through oneDNN's own operator."""
    return _ONEDNN is not None and a.device.type == "cpu" and a.dtype == torch.float32 and a.numel() > 0


def matmul_transposed(a: Tensor, b: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """``a @ b.T + bias``, then ``relu`` where asked; no gradient of its own.

    Args:
        a: ``(n, k)``.
        b: ``(m, k)``.
        bias: ``(m,)`` or None.
        activation: ``none`` or ``relu``.

    Returns:
        ``(n, m)`` of the type of ``a``.
    """
    if _ONEDNN is not None and _by_onednn(a):
        return _ONEDNN(a, b, bias, activation, [], None)
    result = functional.linear(a, b, bias)
    return result.relu_() if activation == "relu" else result


def _random_bytes(count: int) -> Tensor:
    """``(count,)`` uint8, each value equally likely."""
    words = -(-count // _WORD_BYTES)
    sampled = torch.empty(words, dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    return sampled.view(torch.uint8)[:count]


def dropout_mask(shape: Sequence[int], probability: float, like: Tensor) -> Tensor:
    """A random mask for inverted dropout, to be multiplied with: 0 where an element is dropped, else ``1 / (1 - share)``.

    The elements are independent of each other and of every other mask. On the CPU a byte decides for each, so ``probability``
    is met to the nearest 1/256 (:func:`drop_share`), and so it is elsewhere.

    Args:
        shape: shape of the mask.
        probability: share of elements to drop, in [0, 1).
        like: gives type and device, whose default generator is used.

    Returns:
        ``shape``.
    """
    scale = 1.0 / (1.0 - drop_share(probability))
    if like.device.type != "cpu":
        return (torch.rand(shape, device=like.device) >= drop_share(probability)).to(like.dtype).mul_(scale)
    random = _random_bytes(math.prod(shape)).ge_(_dropped_bytes(probability))
    return random.to(like.dtype).mul_(scale).view(shape)


def drop_share(probability: float) -> float:
    """The share of elements that dropout at ``probability`` drops: the nearest multiple of 1/256, at most 255/256."""
    return _dropped_bytes(probability) / _BYTE_VALUES


def _dropped_bytes(probability: float) -> int:
    """How many of a byte's values mean that an element is dropped."""
    return min(round(probability * _BYTE_VALUES), _MOST_DROPPED)


def dropout(values: Tensor, probability: float, training: bool) -> Tensor:
    """Inverted dropout: each element is zeroed with ``probability``, the others are scaled so that the mean stays.

    Args:
        values: any shape.
        probability: share of elements to drop, in [0, 1), met to the nearest 1/256.
        training: when False, ``values`` come back as they are.
    """
    if not training or drop_share(probability) == 0.0:
        return values
    return values * dropout_mask(values.shape, probability, values)


def outer(left: Tensor, right: Tensor) -> Tensor:
    """``left.T @ right``, ``(n, a)`` and ``(n, b)`` to ``(a, b)``: the gradient of a weight."""
    if not _by_onednn(left):
        return left.t() @ right
    if left.shape[1] <= right.shape[1]:
        return matmul_transposed(left.t(), right.t())
    return matmul_transposed(right.t(), left.t()).t()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return matmul_transposed(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        return (
            matmul_transposed(gradient, weight.t()) if ctx.needs_input_grad[0] else None,
            outer(gradient, x),
            gradient.sum(0) if ctx.has_bias else None,
        )


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight_in, bias_in, weight_out, bias_out, probability):
        hidden = matmul_transposed(x, weight_in, bias_in, "relu")  # (n, hidden)
        ctx.scale = 1.0 / (1.0 - drop_share(probability))
        if ctx.scale > 1.0:
            hidden.mul_(dropout_mask(hidden.shape, probability, hidden))
        ctx.save_for_backward(x, weight_in, hidden, weight_out)
        return matmul_transposed(hidden, weight_out, bias_out)

    @staticmethod
    def backward(ctx, gradient):
        x, weight_in, hidden, weight_out = ctx.saved_tensors
        gradient = gradient.contiguous()
        d_x, *d_weights = _feed_forward_gradients(gradient, x, weight_in, hidden, weight_out, ctx.scale)
        return d_x, *d_weights, None


def _feed_forward_gradients(
    gradient: Tensor, x: Tensor, weight_in: Tensor, hidden: Tensor, weight_out: Tensor, scale: float
) -> tuple[Tensor, ...]:
    """Gradients of input, ``weight_in``, ``bias_in``, ``weight_out``, ``bias_out``."""
    # A hidden unit that relu or dropout set to zero passes no gradient: its own value says so.
    scaled = gradient * scale if scale > 1.0 else gradient
    d_hidden = matmul_transposed(scaled, weight_out.t())
    torch.ops.aten.threshold_backward.grad_input(d_hidden, hidden, 0, grad_input=d_hidden)
    return (
        matmul_transposed(d_hidden, weight_in.t()),
        outer(d_hidden, x),
        d_hidden.sum(0),
        outer(gradient, hidden),
        gradient.sum(0),
    )


class _FeedForwardSublayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, norm_weight, norm_bias, weight_in, bias_in, weight_out, bias_out, probability, dtype):
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[1:], norm_weight, norm_bias, NORM_EPSILON)
        normed = normed.to(dtype)
        weight_in, bias_in, weight_out, bias_out = (t.to(dtype) for t in (weight_in, bias_in, weight_out, bias_out))
        hidden = matmul_transposed(normed, weight_in, bias_in, "relu")  # (n, hidden)
        _drop(hidden, probability)
        widened = matmul_transposed(hidden, weight_out, bias_out)
        mask = _drop(widened, probability)
        ctx.scale = 1.0 / (1.0 - drop_share(probability))
        ctx.save_for_backward(x, norm_weight, norm_bias, mean, rstd, normed, weight_in, hidden, weight_out, mask)
        return x + widened

    @staticmethod
    def backward(ctx, gradient):
        x, norm_weight, norm_bias, mean, rstd, normed, weight_in, hidden, weight_out, mask = ctx.saved_tensors
        gradient = gradient.contiguous()
        d_widened = _masked(gradient.to(normed.dtype), mask)
        d_normed, *d_weights = _feed_forward_gradients(d_widened, normed, weight_in, hidden, weight_out, ctx.scale)
        d_x, d_norm_weight, d_norm_bias = torch.ops.aten.native_layer_norm_backward(
            d_normed.to(x.dtype), x, x.shape[1:], mean, rstd, norm_weight, norm_bias, [True] * 3
        )
        return d_x.add_(gradient), d_norm_weight, d_norm_bias, *(d.to(norm_weight.dtype) for d in d_weights), None, None


class _AttentionSublayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x, norm_weight, norm_bias, weight_in, bias_in, weight_out, bias_out, n_heads, counts, probability, dtype
    ):
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[1:], norm_weight, norm_bias, NORM_EPSILON)
        normed = normed.to(dtype)
        weight_in, bias_in, weight_out, bias_out = (t.to(dtype) for t in (weight_in, bias_in, weight_out, bias_out))
        packed = matmul_transposed(normed, weight_in, bias_in)  # (n, 3 * width)
        mixed = torch.empty_like(normed)
        by_row = []  # weights and mask of each row, (heads, boxes, boxes) each
        for query, key, value, out in zip(*_heads(packed, 3, n_heads, counts), *_heads(mixed, 1, n_heads, counts), strict=True):
            weights = torch._softmax(_products(query, key.transpose(1, 2), query.shape[2] ** -0.5), -1, False)
            mask = _mask_or_none(weights, probability)
            out.copy_(torch.bmm(_masked(weights, mask), value))
            by_row += [weights, mask]
        attended = matmul_transposed(mixed, weight_out, bias_out)
        mask = _drop(attended, probability)
        ctx.n_heads, ctx.counts = n_heads, counts
        ctx.save_for_backward(
            x, norm_weight, norm_bias, mean, rstd, normed, packed, mixed, weight_in, weight_out, mask, *by_row
        )
        return x + attended

    @staticmethod
    def backward(ctx, gradient):
        (
            x, norm_weight, norm_bias, mean, rstd, normed, packed, mixed, weight_in, weight_out, mask, *by_row
        ) = ctx.saved_tensors
        gradient = gradient.contiguous()
        d_attended = _masked(gradient.to(normed.dtype), mask)
        d_mixed = matmul_transposed(d_attended, weight_out.t())
        d_packed = torch.empty_like(packed)
        rows = zip(
            *_heads(packed, 3, ctx.n_heads, ctx.counts), *_heads(d_packed, 3, ctx.n_heads, ctx.counts),
            *_heads(d_mixed, 1, ctx.n_heads, ctx.counts), by_row[::2], by_row[1::2], strict=True,
        )
        for query, key, value, d_query, d_key, d_value, d_out, weights, row_mask in rows:
            d_value.copy_(torch.bmm(_masked(weights, row_mask).transpose(1, 2), d_out))
            d_weights = torch.bmm(d_out, value.transpose(1, 2))
            if row_mask is not None:
                d_weights.mul_(row_mask)
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            scale = query.shape[2] ** -0.5
            d_query.copy_(_products(d_scores, key, scale))
            d_key.copy_(_products(d_scores.transpose(1, 2), query, scale))
        d_normed = matmul_transposed(d_packed, weight_in.t())
        d_x, d_norm_weight, d_norm_bias = torch.ops.aten.native_layer_norm_backward(
            d_normed.to(x.dtype), x, x.shape[1:], mean, rstd, norm_weight, norm_bias, [True] * 3
        )
        d_weights = (outer(d_packed, normed), d_packed.sum(0), outer(d_attended, mixed), d_attended.sum(0))
        own = (d.to(norm_weight.dtype) for d in d_weights)
        return d_x.add_(gradient), d_norm_weight, d_norm_bias, *own, None, None, None, None


def _mask_or_none(values: Tensor, probability: float) -> Tensor | None:
    """A dropout mask for ``values``; None where nothing is dropped."""
    return dropout_mask(values.shape, probability, values) if drop_share(probability) > 0.0 else None


def _masked(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values * mask


def _drop(values: Tensor, probability: float) -> Tensor | None:
    """Drops elements of ``values`` in place; the mask."""
    mask = _mask_or_none(values, probability)
    if mask is not None:
        values.mul_(mask)
    return mask


def _heads(packed: Tensor, parts: int, n_heads: int, counts: Sequence[int]) -> list[list[Tensor]]:
    """Views of ``(n, parts * width)`` by part and row, ``(heads, boxes of the row, width / heads)`` each; rows without boxes
    have none."""
    rows = [
        row.view(len(row), parts, n_heads, -1).permute(1, 2, 0, 3).unbind(0)
        for row in packed.split([count for count in counts if count])
    ]
    return [list(part) for part in zip(*rows, strict=True)] or [[]] * parts


def _products(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """``scale * (a @ b)`` of stacks of matrices."""
    return torch.baddbmm(a.new_empty(1), a, b, beta=0, alpha=scale)


def _compute_type(x: Tensor) -> torch.dtype:
    """The type to compute in: autocast's where autocast is on, else the input's own."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias`` with gradients.

    Args:
        x: ``(n, in)``.
        weight: ``(out, in)``.
        bias: ``(out,)`` or None.

    Returns:
        ``(n, out)``, in autocast's type where autocast is on.
    """
    dtype = _compute_type(x)
    return _Linear.apply(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


def feed_forward(
    x: Tensor, weight_in: Tensor, bias_in: Tensor, weight_out: Tensor, bias_out: Tensor, probability: float
) -> Tensor:
    """``dropout(relu(x @ weight_in.T + bias_in)) @ weight_out.T + bias_out`` with gradients.

    Args:
        x: ``(n, width)``.
        weight_in, bias_in: ``(hidden, width)``, ``(hidden,)``.
        weight_out, bias_out: ``(width, hidden)``, ``(width,)``.
        probability: dropout of the hidden layer; 0 outside training.

    Returns:
        ``(n, width)``, in autocast's type where autocast is on.
    """
    dtype = _compute_type(x)
    return _FeedForward.apply(
        x.to(dtype), weight_in.to(dtype), bias_in.to(dtype), weight_out.to(dtype), bias_out.to(dtype), float(probability)
    )


def sublayers_fit(x: Tensor) -> bool:
    """Whether :func:`attention_sublayer` and :func:`feed_forward_sublayer` serve: on the CPU, where gradients are wanted."""
    return torch.is_grad_enabled() and x.device.type == "cpu" and _compute_type(x) in (torch.float32, torch.bfloat16)


def feed_forward_sublayer(x: Tensor, norm: nn.LayerNorm, widen: nn.Linear, narrow: nn.Linear, probability: float) -> Tensor:
    """``x + dropout(narrow(dropout(relu(widen(norm(x))))))`` as one operation with gradients.

    Args:
        x: ``(n, width)``.
        norm, widen, narrow: hold the weights, ``(hidden, width)`` and ``(width, hidden)``.
        probability: of both dropouts; 0 outside training.

    Returns:
        ``(n, width)`` of the type of ``x``; the matrix products run in autocast's type where autocast is on.
    """
    return _FeedForwardSublayer.apply(
        x, norm.weight, norm.bias, widen.weight, widen.bias, narrow.weight, narrow.bias, float(probability), _compute_type(x)
    )


def attention_sublayer(
    x: Tensor,
    norm: nn.LayerNorm,
    query_key_value: nn.Linear,
    out: nn.Linear,
    n_heads: int,
    counts: Sequence[int],
    probability: float,
) -> Tensor:
    """``x + dropout(out(attention(norm(x))))`` as one operation with gradients; attention among the boxes of each row.

    Args:
        x: ``(n, width)``; the boxes of one row after those of the other.
        norm, query_key_value, out: hold the weights, ``(3 * width, width)`` and ``(width, width)``.
        n_heads: number of heads.
        counts: boxes of each row; their sum is ``n``.
        probability: of the dropouts, of attention weights and of what is added; 0 outside training.

    Returns:
        ``(n, width)`` of the type of ``x``; the matrix products run in autocast's type where autocast is on.
    """
    return _AttentionSublayer.apply(
        x, norm.weight, norm.bias, query_key_value.weight, query_key_value.bias, out.weight, out.bias,
        n_heads, tuple(counts), float(probability), _compute_type(x),
    )
