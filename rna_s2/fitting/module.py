"""A network as the training loop wants it: loss, metrics per epoch, learning rate, and what its checkpoints keep."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from rna_s2.fitting.schedules import SCHEDULES, WARMUP_SHARE
from rna_s2.options.errors import UserError

MONITOR = "val/auroc"
"""The metric that is followed from epoch to epoch: its highest value marks the best one. Registered models are compared by it.
(Of stage 1, box sensitivity would be none: at a fixed threshold it goes up and down with the number of proposals.)"""

IDENTITY = "identity"
"""Key under which a checkpoint keeps what it was trained with and on."""

_UNDEFINED = -1.0  # stands for an undefined metric where the best epoch is chosen: worse than any real one


class TrackedModule(pl.LightningModule):
    """A network with its loss and metrics; subclasses say what a step is and how an epoch is summed up.

    Attributes:
        identity: what decides the result of a training, by what it is called; a checkpoint with another one is refused.
        former_identity: key of the identity in checkpoints of earlier versions, where these can be resumed.
        epoch_metrics: all metrics of the epoch that ended last.
    """

    identity: dict[str, Any]
    former_identity: str = IDENTITY

    def __init__(self) -> None:
        super().__init__()
        self.epoch_metrics: dict[str, float] = {}

    @abstractmethod
    def step(self, batch: Any) -> tuple[Tensor, Any, int]:
        """The loss of a batch (mean over its examples), what :meth:`summarise` needs, and the number of examples."""

    @abstractmethod
    def summarise(self, part: str, outputs: list[Any]) -> dict[str, float]:
        """Metrics of an epoch from its steps' outputs; ``part`` is ``train`` or ``val``."""

    def scheduled(self, optimizer: torch.optim.Optimizer, schedule: str, warmup_share: float = WARMUP_SHARE) -> Any:
        """What ``configure_optimizers`` returns for an optimiser whose learning rates follow a schedule.

        Args:
            optimizer: with its largest learning rates.
            schedule: name in :data:`rna_s2.fitting.schedules.SCHEDULES`.
            warmup_share: share of the steps in which the rates rise.
        """
        if schedule == "constant":
            return optimizer
        share, steps = SCHEDULES[schedule], int(self.trainer.estimated_stepping_batches)
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share(step, steps, warmup_share))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}

    def comparable(self, identity: dict[str, Any]) -> dict[str, Any]:
        """An identity that a checkpoint kept, in the form of this version's."""
        return identity

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[IDENTITY] = self.identity

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint.get(IDENTITY, checkpoint.get(self.former_identity))
        if kept is None:
            raise UserError("the checkpoint is one of an earlier version, which cannot be resumed; start a new run")
        kept = self.comparable(kept)
        wrong = [name for name, value in self.identity.items() if kept.get(name) != value]
        if wrong:
            raise UserError(
                f"the checkpoint was made with another {', '.join(wrong)}; resume with the same config and data, "
                "or start a new run"
            )

    def on_fit_start(self) -> None:
        self._collected: dict[str, list[tuple[Tensor, Any, int]]] = {"train": [], "val": []}

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss, output, examples = self.step(batch)
        self._collected["train"].append((loss.detach(), output, examples))
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        loss, output, examples = self.step(batch)
        self._collected["val"].append((loss.detach(), output, examples))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def on_validation_epoch_end(self) -> None:
        # Lightning validates within the training epoch, so both parts are complete here.
        self.epoch_metrics = {}
        for part, collected in self._collected.items():
            if collected:
                metrics = {"loss": self._mean_loss(part)} | self.summarise(part, [output for _, output, _ in collected])
                self.epoch_metrics |= {f"{part}/{name}": value for name, value in metrics.items()}
        for collected in self._collected.values():
            collected.clear()
        value = self.epoch_metrics.get(MONITOR, math.nan)
        self.log(MONITOR, value if math.isfinite(value) else _UNDEFINED, prog_bar=True, batch_size=1)

    def _mean_loss(self, part: str) -> float:
        """The mean over the examples of an epoch.

        Raises:
            UserError: it is not finite.
        """
        losses = torch.stack([loss for loss, _, _ in self._collected[part]]).double().cpu()
        examples = torch.tensor([n for _, _, n in self._collected[part]], dtype=torch.float64)
        loss = float((losses * examples).sum() / examples.sum())
        if not math.isfinite(loss):
            raise UserError(f"the {part} loss is {loss} in epoch {self.current_epoch}; use a lower learning rate (lr)")
        return loss
