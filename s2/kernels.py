"""Dense layers and dropout that are fast on CPUs, with the same results as PyTorch's own.

Two measurements stand behind this module (``benchmarks/README.md`` has them):

* On processors where PyTorch's single-precision matrix products go to a library that does not use the widest vector
  instructions (MKL on AMD), oneDNN's products of the same precision take half the time. PyTorch ships oneDNN, and
  ``torch.ops.mkldnn._linear_pointwise`` reaches it; where that operator is missing, :func:`torch.nn.functional.linear` serves.
* PyTorch draws dropout masks on one core, one random number for each element. Here one 64-bit number serves for eight elements.

On CUDA, and for every data type but float32 and bfloat16, everything falls back to PyTorch's own functions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_BYTE_VALUES = 256
_MOST_DROPPED = _BYTE_VALUES - 1  # something must be kept, or the scale of what is kept would be infinite


def _onednn_linear() -> object | None:
    try:
        operator = torch.ops.mkldnn._linear_pointwise
        operator(torch.zeros(2, 2), torch.zeros(2, 2), None, "none", [], None)
    except (AttributeError, RuntimeError):
        return None
    return operator


_ONEDNN = _onednn_linear()


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
    if _ONEDNN is not None and a.device.type == "cpu" and a.dtype == torch.float32 and a.shape[0] > 0:
        return _ONEDNN(a, b, bias, activation, [], None)
    result = functional.linear(a, b, bias)
    return result.relu_() if activation == "relu" else result


def keep_mask(shape: torch.Size | tuple[int, ...], probability: float, device: torch.device) -> Tensor:
    """A random mask for dropout, True where an element is kept.

    On the CPU a byte decides for each element, so ``probability`` is met to the nearest 1/256 (:func:`drop_share`).

    Args:
        shape: shape of the mask.
        probability: share of elements to drop, in [0, 1).
        device: where the mask is made; its default generator is used.

    Returns:
        ``shape`` bool.
    """
    if device.type != "cpu":
        return torch.rand(shape, device=device) >= drop_share(probability)
    elements = 1
    for size in shape:
        elements *= size
    words = torch.empty((elements + 7) // 8, dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    return (words.view(torch.uint8)[:elements] >= _dropped_bytes(probability)).view(shape)


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
    scale = 1.0 / (1.0 - drop_share(probability))
    mask = keep_mask(values.shape, probability, values.device)
    return values * (mask.to(values.dtype) * scale)


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
            matmul_transposed(gradient.t(), x.t()),
            gradient.sum(0) if ctx.has_bias else None,
        )


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight_in, bias_in, weight_out, bias_out, probability):
        hidden = matmul_transposed(x, weight_in, bias_in, "relu")  # (n, hidden)
        scale = 1.0
        if probability > 0.0:
            scale = 1.0 / (1.0 - drop_share(probability))
            hidden.mul_(keep_mask(hidden.shape, probability, hidden.device))
            weight_scaled = weight_out * scale
        else:
            weight_scaled = weight_out
        ctx.save_for_backward(x, weight_in, hidden, weight_scaled)
        ctx.scale = scale
        return matmul_transposed(hidden, weight_scaled, bias_out)

    @staticmethod
    def backward(ctx, gradient):
        x, weight_in, hidden, weight_scaled = ctx.saved_tensors
        gradient = gradient.contiguous()
        # A hidden unit that relu or dropout set to zero passes no gradient: its own value says so.
        d_hidden = torch.ops.aten.threshold_backward(matmul_transposed(gradient, weight_scaled.t()), hidden, 0)
        d_weight_out = matmul_transposed(gradient.t(), hidden.t())
        if ctx.scale != 1.0:
            d_weight_out = d_weight_out * ctx.scale
        return (
            matmul_transposed(d_hidden, weight_in.t()) if ctx.needs_input_grad[0] else None,
            matmul_transposed(d_hidden.t(), x.t()),
            d_hidden.sum(0),
            d_weight_out,
            gradient.sum(0),
            None,
        )


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
    kind = _compute_type(x)
    return _Linear.apply(x.to(kind), weight.to(kind), None if bias is None else bias.to(kind))


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
    kind = _compute_type(x)
    return _FeedForward.apply(
        x.to(kind), weight_in.to(kind), bias_in.to(kind), weight_out.to(kind), bias_out.to(kind), float(probability)
    )
