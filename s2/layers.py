"""What the networks of stage 2 are made of: dropout, attention among the boxes of a row, and the feed-forward network.

Boxes of a batch stand one after the other, without padding. On CPUs :func:`attention` goes row by row, whose scores stay in the
processor's cache; on CUDA devices all rows are padded to the longest, for PyTorch's fused attention, which never writes its
weights to memory. (Attention with a bias, in :mod:`rna_s2.s2.relational`, is padded everywhere.)

Dropout on CPUs takes a random byte for each element, which is several times as fast as PyTorch's own
(``benchmarks/README.md``); elsewhere it is PyTorch's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_BYTE_VALUES = 256
_WORD_BYTES = 8
_MOST_DROPPED = _BYTE_VALUES - 1  # something must be kept, or the scale of what is kept would be infinite
_BELOW_ALL = 1e4  # taken from a number before relu, it leaves 0
_HEAD_MULTIPLES = {"cuda": 32}  # of widths of heads, for fused attention there


def drop_share(probability: float) -> float:
    """The share of elements that dropout at ``probability`` drops: the nearest multiple of 1/256, at most 255/256."""
    return min(round(probability * _BYTE_VALUES), _MOST_DROPPED) / _BYTE_VALUES


def dropped(shape: Sequence[int], probability: float, like: Tensor) -> Tensor:
    """Which elements are dropped on a CPU, at random and independently: 1 where one is, else 0.

    Args:
        shape: of the result.
        probability: share of elements to drop, in [0, 1), met to the nearest 1/256.
        like: gives the type; the random numbers are those of PyTorch's default generator.

    Returns:
        ``shape``.
    """
    count = math.prod(shape)
    words = torch.empty(-(-count // _WORD_BYTES), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    random = words.view(torch.uint8)[:count]
    return random.lt_(round(drop_share(probability) * _BYTE_VALUES)).to(like.dtype).view(shape)


def dropout(values: Tensor, probability: float) -> Tensor:
    """Inverted dropout: each element is zeroed with ``probability``, the others are scaled so that the mean stays.

    Args:
        values: any shape.
        probability: share of elements to drop, in [0, 1), met to the nearest 1/256; 0 outside training.
    """
    share = drop_share(probability)
    if share == 0.0:
        return values
    if values.device.type != "cpu":
        return functional.dropout(values, share)
    scale = 1.0 / (1.0 - share)
    return values * dropped(values.shape, probability, values).mul_(-scale).add_(scale)


def feed_forward(x: Tensor, widen: nn.Linear, narrow: nn.Linear, probability: float) -> Tensor:
    """``narrow(dropout(relu(widen(x))))``.

    Args:
        x: ``(n, width)``.
        widen, narrow: ``(n, width)`` to ``(n, hidden)`` and back.
        probability: of dropout; 0 outside training.

    Returns:
        ``(n, width)``.
    """
    hidden = widen(x)
    share = drop_share(probability)
    if share == 0.0 or x.device.type != "cpu":
        return narrow(dropout(hidden.relu_(), probability))
    # What is dropped is made negative before relu: nothing more is kept for the gradient, and the scale comes in the end.
    hidden.sub_(dropped(hidden.shape, probability, hidden), alpha=_BELOW_ALL).relu_()
    return torch.add(narrow.bias, functional.linear(hidden, narrow.weight), alpha=1.0 / (1.0 - share))


def attention(packed: Tensor, n_heads: int, counts: Sequence[int], slot: Tensor, mask: Tensor, probability: float) -> Tensor:
    """Scaled dot-product attention among the boxes of each row (Vaswani et al. 2017, section 3.2).

    Args:
        packed: ``(boxes, 3 * width)``; queries, keys and values, heads one after the other in each.
        n_heads: number of heads.
        counts: boxes of each row.
        slot: ``(boxes,)`` place of each box in the padded grid.
        mask: ``(rows, longest)`` where the padded grid holds a box.
        probability: of dropout of the attention weights; 0 outside training.

    Returns:
        ``(boxes, width)``.
    """
    if packed.device.type == "cpu":
        return _attention_by_row(packed, n_heads, counts, probability)
    query, key, value = padded_heads(packed, n_heads, slot, mask)
    return unpadded(fused_attention(query, key, value, mask[:, None, None, :], drop_share(probability)), slot)


def _attention_by_row(packed: Tensor, n_heads: int, counts: Sequence[int], probability: float) -> Tensor:
    mixed = []
    for row in packed.split([count for count in counts if count]):
        query, key, value = row.view(len(row), 3, n_heads, -1).permute(1, 2, 0, 3)  # (heads, boxes, width / heads) each
        if drop_share(probability):
            ignored = query.new_empty(1)  # by beta=0
            scores = torch.baddbmm(ignored, query, key.transpose(1, 2), beta=0, alpha=query.shape[2] ** -0.5)
            weights = dropout(scores.softmax(-1).to(value.dtype), probability)
            heads = torch.bmm(weights, value)
        else:
            heads = functional.scaled_dot_product_attention(query[None], key[None], value[None])[0]
        mixed.append(heads.transpose(0, 1).reshape(len(row), -1))
    return torch.cat(mixed) if mixed else packed[:, : packed.shape[1] // 3]


def padded_heads(packed: Tensor, n_heads: int, slot: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, ``(rows, heads, longest, width / heads)`` each, from ``(boxes, 3 * width)``."""
    rows, longest = mask.shape
    grid = packed.new_zeros(rows * longest, packed.shape[1]).index_copy(0, slot, packed)
    query, key, value = grid.unflatten(1, (3, n_heads, -1)).unflatten(0, (rows, longest)).permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def unpadded(mixed: Tensor, slot: Tensor) -> Tensor:
    """``(boxes, width)`` of ``(rows, heads, longest, width / heads)``."""
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, slot)


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, share: float = 0.0, head_multiple: int | None = None
) -> Tensor:
    """:func:`torch.nn.functional.scaled_dot_product_attention` with heads as wide as its fused kernels take them.

    Args:
        query, key, value: ``(rows, heads, n, width)``.
        bias: is added to the scores, or says where there is a key; broadcasts to ``(rows, heads, n, n)``.
        share: of the attention weights that are dropped.
        head_multiple: heads are padded to a multiple of this width; None: to what the device's kernels take.

    Returns:
        ``(rows, heads, n, width)``.
    """
    width = query.shape[-1]
    multiple = head_multiple or _HEAD_MULTIPLES.get(query.device.type, 1)
    query, key, value = (functional.pad(part, (0, -width % multiple)) for part in (query, key, value))
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=share, scale=width**-0.5)
    return mixed[..., :width]


class SelfAttention(nn.Module):
    """Multi-head self-attention among the boxes of each row."""

    def __init__(self, n_dim: int, n_heads: int, probability: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.probability = probability
        self.query_key_value = nn.Linear(n_dim, 3 * n_dim)
        self.out = nn.Linear(n_dim, n_dim)

    def forward(self, x: Tensor, counts: Sequence[int], slot: Tensor, mask: Tensor) -> Tensor:  # (boxes, n_dim), twice
        probability = self.probability if self.training else 0.0
        return self.out(attention(self.query_key_value(x), self.n_heads, counts, slot, mask, probability))


class EncoderLayer(nn.Module):
    """Pre-norm encoder layer: ``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``; the second alone without
    ``attend``."""

    def __init__(self, n_dim: int, n_heads: int, n_ff: int, probability: float, attend: bool = True) -> None:
        super().__init__()
        self.probability = probability
        self.attend = attend
        if attend:
            self.norm_attention = nn.LayerNorm(n_dim)
            self.attention = SelfAttention(n_dim, n_heads, probability)
        self.norm_feed_forward = nn.LayerNorm(n_dim)
        self.widen = nn.Linear(n_dim, n_ff)
        self.narrow = nn.Linear(n_ff, n_dim)

    def forward(self, x: Tensor, counts: Sequence[int], slot: Tensor, mask: Tensor) -> Tensor:  # (boxes, n_dim), twice
        probability = self.probability if self.training else 0.0
        if self.attend:
            x = x + dropout(self.attention(self.norm_attention(x), counts, slot, mask), probability)
        return x + dropout(feed_forward(self.norm_feed_forward(x), self.widen, self.narrow, probability), probability)
