"""PyTorch's Muon and AdamW as one optimiser, for networks of convolutions.

Why not AdamW alone: a small stage 1 network, trained for 360 steps with two seeds, ended at a validation au-ROC of 0.877 and
0.881 with this, and of 0.848 and 0.847 with AdamW at the best of four learning rates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class MuonAdamW(torch.optim.Optimizer):
    """:class:`torch.optim.Muon` for convolutions, :class:`torch.optim.AdamW` for the other weights.

    Muon takes matrices alone, so it gets a view of each convolution as a matrix of outputs against inputs.

    Args:
        convolutions: weights ``(out, in, k, k)``, of ``torch.channels_last`` in memory.
        others: all other weights.
        muon_lr, lr: learning rates of the two.
        betas, weight_decay: AdamW's.
        muon_weight_decay: Muon's.

    Raises:
        RuntimeError: a convolution is not ``torch.channels_last``.
    """

    def __init__(
        self, convolutions: Iterable[nn.Parameter], others: Iterable[nn.Parameter], *, muon_lr: float, lr: float,
        betas: tuple[float, float], weight_decay: float, muon_weight_decay: float
    ) -> None:
        self.convolutions = list(convolutions)
        self.matrices = [nn.Parameter(_channels_last(w.detach()).view(len(w), -1)) for w in self.convolutions]
        muon = torch.optim.Muon(self.matrices, lr=muon_lr, weight_decay=muon_weight_decay)
        self.parts = [muon, torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=weight_decay)]
        super().__init__(self._groups(), {})

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for weight, matrix in zip(self.convolutions, self.matrices, strict=True):
            matrix.grad = None if weight.grad is None else _channels_last(weight.grad).flatten(1)
        for part in self.parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Takes the gradients of all weights away."""
        super().zero_grad(set_to_none)
        for weight in self.convolutions:
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The states of both, Muon's first."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = self._groups()


def _channels_last(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1)  # (out, k, k, in)
