"""Training S2: the network as the training loop wants it, its metrics, and what is kept of it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from rna_s2.engine.tracker import Tracker
from rna_s2.fitting.checkpoints import LAST, load_checkpoint
from rna_s2.fitting.devices import chosen_device
from rna_s2.fitting.loop import FitOptions, FitResult, fit
from rna_s2.fitting.module import TrackedModule
from rna_s2.fitting.split import sampled_share, split_by_group, split_by_order
from rna_s2.options.base import Options
from rna_s2.options.command_line import shown
from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import ragged_take
from rna_s2.s2.architectures import build_network
from rna_s2.s2.batches import Batch, EpochBatches, OrderedBatches
from rna_s2.s2.config import AugmentationConfig, NetworkConfig, SplitConfig, TrainingConfig
from rna_s2.s2.dataset import EncodedDataset
from rna_s2.s2.feature_groups import KINDS
from rna_s2.s2.metrics import group_auroc, ranking_metrics
from rna_s2.s2.network import batch_loss
from rna_s2.s2.scorer import Scorer
from rna_s2.s2.scoring import score_rows


class S2Config(Options):
    """The S2 part of a training: network, split, augmentation, training."""

    network: NetworkConfig = Field(default_factory=NetworkConfig, description="size of the network")
    split: SplitConfig = Field(default_factory=SplitConfig, description="which rows train", json_schema_extra=shown("split"))
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig, description="changes to training rows")
    training: TrainingConfig = Field(
        default_factory=TrainingConfig, description="how it is trained",
        json_schema_extra=shown("epochs", "batch_size", "precision"),
    )


class S2Module(TrackedModule):
    """The network with its loss, optimiser and metrics."""

    former_identity = "s2_identity"

    def __init__(self, config: S2Config, data: EncodedDataset, seed: int) -> None:
        super().__init__()
        self.config = config
        self.data = data
        self.identity = {
            "config": _decisive(config), "features": list(data.meta.feature_names), "kind": data.meta.kind,
            "data": data.digest, "seed": seed,
        }
        torch.manual_seed(seed)
        self.network = build_network(config.network, data.meta.feature_names, data.meta.sequence_channels)

    def step(self, batch: Batch) -> tuple[Tensor, Any, int]:
        logits = self.network(batch)
        return batch_loss(logits, batch), (batch.row_id, logits.detach()), batch.rows

    def summarise(self, part: str, outputs: list[tuple[np.ndarray, Tensor]]) -> dict[str, float]:
        rows, logits = zip(*outputs, strict=True)
        return evaluation(self.data, np.concatenate(rows), torch.cat(logits).float().cpu().numpy()).metrics

    def configure_optimizers(self) -> Any:
        training = self.config.training
        optimizer = torch.optim.Adam(self.network.parameters(), lr=training.lr, betas=training.betas, fused=True)
        return self.scheduled(optimizer, training.lr_schedule)

    def on_train_epoch_start(self) -> None:
        if self.config.training.dropout_off_after_first_epoch and self.current_epoch > 0:
            self.network.eval()
            for layer in self.network.modules():
                if isinstance(layer, nn.LSTM):
                    layer.train()  # it has no dropout, and cuDNN's gives gradients in this mode alone

    def comparable(self, identity: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(ValidationError):  # options that are newer than the checkpoint had their default's effect
            return identity | {"config": _decisive(S2Config.model_validate(identity.get("config")))}
        return identity


def _decisive(config: S2Config) -> dict[str, Any]:
    """The part of a configuration that decides the result of an epoch, as plain values."""
    longer = {"epoch", "early_stopping"} if config.training.lr_schedule == "constant" else {"early_stopping"}
    return config.model_dump(mode="json", include=set(S2Config.model_fields), exclude={"training": longer})


@dataclass(frozen=True)
class Evaluation:
    """Scores of some rows.

    Attributes:
        rows: ``(k,)`` rows of the dataset.
        auroc: ``(k,)`` au-ROC of each row, NaN where it lacks a class.
        row: ``(boxes,)`` index into ``rows`` of each box.
        box_type: ``(boxes,)`` type codes.
        probability: ``(boxes,)``.
        label: ``(boxes,)``.
        metrics: :func:`rna_s2.s2.metrics.ranking_metrics`.
    """

    rows: np.ndarray
    auroc: np.ndarray
    row: np.ndarray
    box_type: np.ndarray
    probability: np.ndarray
    label: np.ndarray
    metrics: dict[str, float]


def evaluate(network: nn.Module, data: EncodedDataset, rows: np.ndarray, precision: str = "32") -> Evaluation:
    """Score the given rows (``(k,)`` int) of a dataset, without dropout; the network's mode is as before afterwards."""
    return evaluation(data, rows, score_rows(network, data, rows, precision))


def evaluation(data: EncodedDataset, rows: np.ndarray, scores: np.ndarray) -> Evaluation:
    """The metrics of the given rows (``(k,)`` int) of a dataset, whose boxes have these logits (``(boxes of the rows,)``)."""
    index, offsets = ragged_take(data.offsets, rows)
    row = np.repeat(np.arange(len(rows)), np.diff(offsets))
    box_type, label = np.asarray(data.box_type[index]), np.asarray(data.labels[index])
    return Evaluation(
        rows=np.asarray(rows),
        auroc=group_auroc(row, scores, label, len(rows)),
        row=row,
        box_type=box_type,
        probability=1.0 / (1.0 + np.exp(-scores.astype(np.float64))),
        label=label,
        metrics=ranking_metrics(row, box_type, scores, label, len(rows)),
    )


def split_rows(data: EncodedDataset, config: SplitConfig, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, validation and test rows of a dataset; by order, the last rows are the test part.

    Raises:
        UserError: training or validation part, or a test part that was asked for, would be empty.
    """
    judged = np.arange(len(data))
    if config.partial_rows == "train":
        judged = np.flatnonzero(full_rows(data))
    if config.by == "order":
        train, val, test = (judged[part] for part in split_by_order(len(judged), config.train_share, config.test_share))
    else:
        # numbered by first appearance, so that rows which only train do not change what the others are chosen for
        group = pd.factorize(data.group[judged])[0]
        test, rest = split_by_group(group, config.test_share, config.test_seed)
        train, val = (rest[part] for part in split_by_group(group[rest], config.train_share, seed))
        train, val, test = judged[train], judged[val], judged[test]
    if config.partial_rows == "train":
        apart = np.isin(data.group, data.group[np.concatenate([val, test])])
        train = np.union1d(train, np.flatnonzero(~full_rows(data) & ~apart))
    if not len(train) or not len(val) or (config.test_share and not len(test)):
        raise UserError(
            f"{data.meta.source}: {len(data)} rows cannot be split by {config.by} with train_share {config.train_share} "
            f"and test_share {config.test_share}: {len(train)} would train, {len(val)} validate and {len(test)} test; "
            "give more rows, or split by order"
        )
    return train, val, test


def full_rows(data: EncodedDataset) -> np.ndarray:
    """``(rows,)`` bool: whether all target boxes of a row are among its proposals."""
    found = np.concatenate([[0], np.cumsum(data.labels, dtype=np.int64)])[data.offsets]
    return np.diff(found) >= data.n_target


def begin_with(network: nn.Module, start: Scorer, config: S2Config, data: EncodedDataset) -> None:
    """Give a network the weights of a trained one.

    Raises:
        UserError: the two differ in the numbers of a box or in size; names what differs.
    """
    dropout = {"dropout": config.network.dropout}  # no weight depends on it
    wanted = {"features": data.meta.feature_names, **config.network.model_dump()}
    given = {"features": start.card.feature_names, **start.card.network.model_dump(), **dropout}
    for name, value in wanted.items():
        if given[name] != value:
            where = "the features" if name == "features" else f"network.{name}"
            raise UserError(
                f"start: {where} of the network to start with ({given[name]}) and of the one to train ({value}) differ; make "
                "them the same in the config"
            )
    network.load_state_dict(start.network.state_dict())


@dataclass(frozen=True)
class TrainResult:
    """A trained network: the epoch with the best validation au-ROC.

    Attributes:
        network: with the best epoch's weights, in evaluation mode.
        fit: what the loop reported.
        train, val: scores of the two parts with these weights.
        test: scores of the part put aside; None where nothing is.
    """

    network: nn.Module
    fit: FitResult
    train: Evaluation
    val: Evaluation
    test: Evaluation | None = None


def train(
    config: S2Config, data: EncodedDataset, *, seed: int, folder: Path, tracker: Tracker, progress: bool = True,
    start: Scorer | None = None,
) -> TrainResult:
    """Train S2 on a dataset; see :func:`rna_s2.fitting.loop.fit` for checkpoints and resuming.

    The weights kept are those of the epoch with the best validation au-ROC. With shuffled labels they are those of the last
    epoch: to pick the best of many epochs of pure chance would lift the control above 0.5.

    Args:
        config: network, split, augmentation, training.
        data: the encoded dataset.
        seed: of the split, the weights, the order of the batches, augmentation and dropout.
        folder: for the checkpoints.
        tracker: the metrics of each epoch are logged to it.
        progress: show a progress bar.
        start: a trained network, whose weights this one begins with; None: fresh ones.

    Raises:
        UserError: the network to start with does not fit, the rows cannot be split, the loss is not finite, or a checkpoint
            does not fit.
    """
    train_rows, val_rows, test_rows = split_rows(data, config.split, seed)
    if config.training.max_boxes:
        train_rows = train_rows[np.diff(data.offsets)[train_rows] <= config.training.max_boxes]
        if not len(train_rows):
            raise UserError(f"{data.meta.source}: no row has training.max_boxes {config.training.max_boxes} boxes or fewer")
    train_rows = sampled_share(train_rows, config.training.row_share, seed)
    module = S2Module(config, data, seed)
    if start is not None:
        begin_with(module.network, start, config, data)
    training, augmentation = config.training, config.augmentation
    batches = EpochBatches(
        data, train_rows, batch_size=training.batch_size, batch_boxes=training.batch_boxes, n_groups=training.n_length_groups,
        seed=seed,
        max_shift=augmentation.bb_shift if augmentation.bb_augmentation_shift else 0,
    )
    options = FitOptions(training.epoch, seed, training.precision, training.early_stopping, progress)
    result = fit(module, batches, OrderedBatches(data, val_rows), options, folder=folder, tracker=tracker)
    if KINDS[data.meta.kind].shuffled:
        result = replace(result, checkpoint=folder / LAST, best_epoch=result.epochs - 1)
    if result.checkpoint is not None:
        module.load_state_dict(load_checkpoint(result.checkpoint)["state_dict"])
    network = module.network.to(chosen_device()).eval()
    train_scores, val_scores = (evaluate(network, data, rows) for rows in (train_rows, val_rows))
    test_scores = evaluate(network, data, test_rows) if len(test_rows) else None
    return TrainResult(network.cpu(), result, train_scores, val_scores, test_scores)

