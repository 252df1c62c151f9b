"""Training stage 1: the network as the training loop wants it, its metrics, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rna_s2.boxtables.table import BoxTable
from rna_s2.engine.tracker import Tracker
from rna_s2.fitting.checkpoints import LAST, load_checkpoint
from rna_s2.fitting.devices import chosen_device
from rna_s2.fitting.loop import FitOptions, FitResult, fit
from rna_s2.fitting.module import TrackedModule
from rna_s2.fitting.optimizers import MuonAdamW
from rna_s2.fitting.split import split_by_group
from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import BOX_TYPES, is_in
from rna_s2.s1.batches import EpochMaps, MapBatch, Maps, OrderedMaps
from rna_s2.s1.cells import CellOutputs, all_proposals
from rna_s2.s1.config import S1Config
from rna_s2.s1.losses import map_losses, on_targets
from rna_s2.s1.merging import merge
from rna_s2.s1.metrics import cell_metrics, count_correct, count_on
from rna_s2.s1.network import ProposalNetwork

VALIDATION_BATCHES = 4
"""Cells of a validation batch, in training batches: without gradients a batch takes less memory."""


class Counts(NamedTuple):
    """What the outputs of a batch were; adds up over batches.

    Attributes:
        on, off: ``(3, BINS)`` int64: cells that are on and off, by type and by their logit.
        correct: ``(3, 4)`` int64: of the cells that are on, those whose output is right (:func:`count_correct`), by type.
        found, target: ``(3,)`` int64: target boxes found among the proposals, and all, by type.
        proposed: proposed boxes.
        full, rows: rows with 100 % box sensitivity, and all.
    """

    on: np.ndarray
    off: np.ndarray
    correct: np.ndarray
    found: np.ndarray
    target: np.ndarray
    proposed: int
    full: int
    rows: int


class S1Module(TrackedModule):
    """The network with its loss, optimiser and metrics.

    Args:
        config: network, training and the selection at which the sensitivity is measured.
        data_digest: of the training rows; a checkpoint of other data is refused.
        seed: of the weights.
    """

    def __init__(self, config: S1Config, data_digest: str, seed: int) -> None:
        super().__init__()
        self.config = config
        self.identity = {
            "network": config.network.model_dump(mode="json"),
            "training": config.training.model_dump(mode="json"),
            "data": config.data.model_dump(mode="json"),  # with the seed it decides which rows validate
            "data_digest": data_digest,
            "seed": seed,
        }
        torch.manual_seed(seed)
        self.network = ProposalNetwork(config.network)

    def step(self, batch: MapBatch) -> tuple[Tensor, Any, int]:
        inside = batch.inside()
        features = self.network.features(batch.codes, batch.codes, inside)
        losses = map_losses(self.network, features, inside, batch, self.config.training.scalar_weight)
        parts = {name: value.detach() for name, value in losses.items()}
        measured = None if self.training else self._measure(features, inside, batch)
        return sum(losses.values(), start=torch.zeros(())), (parts, measured), len(batch.lengths)

    def _measure(self, features: Tensor, inside: Tensor, batch: MapBatch) -> Counts:
        row, i, j = torch.nonzero(inside, as_tuple=True)
        outputs = self.network.cell_outputs(features[inside])
        on = on_targets(batch, inside)
        logits = torch.stack([out.on for out in outputs], dim=1)
        correct = []
        for box_type in range(len(BOX_TYPES)):
            _, r, x, y, *truth = (column[batch.targets.type == box_type] for column in batch.targets)
            at = self.network.cell_outputs(features[r, x, y])[box_type]
            correct.append(count_correct(at, box_type, *truth))
        cells = CellOutputs(row, i, j, batch.lengths[row], outputs)
        proposals = all_proposals(cells, self.config.selection)
        boxes = merge(proposals, len(batch.lengths), self.config.selection).boxes
        target = batch.boxes
        found = is_in(target, boxes)
        n_found = np.bincount(target.row[found], minlength=target.rows)
        return Counts(
            *count_on(logits, on),
            np.stack(correct),
            np.bincount(target.type[found], minlength=len(BOX_TYPES)),
            np.bincount(target.type, minlength=len(BOX_TYPES)),
            len(boxes),
            int((n_found == np.diff(target.offsets)).sum()),
            target.rows,
        )

    def summarise(self, part: str, outputs: list[tuple[dict[str, Tensor], Any]]) -> dict[str, float]:
        names = outputs[0][0]
        metrics = {f"loss_{name}": float(torch.stack([parts[name] for parts, _ in outputs]).mean()) for name in names}
        measured = [m for _, m in outputs if m is not None]
        if measured:
            counts = Counts(*(sum(column) for column in zip(*measured, strict=True)))
            metrics |= cell_metrics(*counts[:3]) | box_metrics(*counts[3:])
        return metrics

    def configure_optimizers(self) -> Any:
        training = self.config.training
        convolutions = [p for p in self.network.parameters() if p.ndim == 4]
        others = [p for p in self.network.parameters() if p.ndim != 4]
        optimizer = MuonAdamW(
            convolutions, others, muon_lr=training.muon_lr, lr=training.lr, betas=training.betas,
            weight_decay=training.weight_decay, muon_weight_decay=training.muon_weight_decay,
        )
        return self.scheduled(optimizer, training.lr_schedule, training.warmup_share)


def box_metrics(found: np.ndarray, target: np.ndarray, proposed: int, full: int, rows: int) -> dict[str, float]:
    """Box sensitivity in all and per type, share of rows with 100 %, proposed boxes per row; from :class:`Counts`."""
    shares = np.divide(found, target, out=np.full(len(BOX_TYPES), np.nan), where=target > 0)
    return {
        "box_sensitivity": float(found.sum() / target.sum()) if target.sum() else float("nan"),
        **{f"box_sensitivity_{name}": float(share) for name, share in zip(BOX_TYPES, shares, strict=True)},
        "full_sensitivity_rows": full / rows,
        "boxes_per_row": proposed / rows,
    }


def split_rows(frame: pd.DataFrame, config: S1Config, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that train and rows that validate; whole transcripts on one side, where the table names them.

    Rows longer than ``max_len`` are on neither.

    Raises:
        UserError: one of the two would be empty.
    """
    fits = np.flatnonzero(frame["seq"].str.len().to_numpy() <= config.data.max_len)
    group = pd.factorize(frame["transcript_id"])[0] if "transcript_id" in frame else np.full(len(frame), -1)
    nameless = group < 0
    group[nameless] = group.max(initial=-1) + 1 + np.arange(nameless.sum())
    rng = np.random.default_rng(seed)
    val, train = (fits[part] for part in split_by_group(group[fits], config.data.val_share, rng, at_least=True))
    if not len(train) or not len(val):
        raise UserError(
            f"{len(frame)} rows give {len(train)} that train and {len(val)} that validate (data.max_len "
            f"{config.data.max_len}, data.val_share {config.data.val_share}); give segments of more transcripts"
        )
    if len(val) > config.data.max_val_rows:
        val = np.sort(rng.choice(val, config.data.max_val_rows, replace=False))
    return train, val


@dataclass(frozen=True)
class TrainResult:
    """A trained network: the last epoch's, at whose end a schedule that falls has come to zero unless time ran out.

    Attributes:
        network: with that epoch's weights.
        fit: what the loop reported; its metrics are those of the last epoch.
        metrics: of these weights on the validation rows, in single precision.
        train_rows, val_rows: the split.
    """

    network: ProposalNetwork
    fit: FitResult
    metrics: Mapping[str, float]
    train_rows: np.ndarray
    val_rows: np.ndarray


def train(
    config: S1Config, table: BoxTable, *, seed: int, folder: Path, tracker: Tracker, progress: bool = True,
    max_seconds: float | None = None
) -> TrainResult:
    """Train stage 1 on a table with targets; see :func:`rna_s2.fitting.loop.fit` for checkpoints and resuming.

    Raises:
        UserError: the rows cannot be split, the loss is not finite, or a checkpoint in ``folder`` does not fit.
    """
    if table.targets is None:
        raise UserError(f"{table.source}: has no target structures (bounding_boxes); give a table of folded segments")
    train_rows, val_rows = split_rows(table.frame, config, seed)
    maps = Maps.from_sequences(table.frame["seq"].tolist(), table.targets)
    training = config.training
    try:
        batches = EpochMaps(
            maps, train_rows, batches_per_epoch=training.batches_per_epoch, batch_pixels=training.batch_pixels,
            seed=seed, short_len=training.short_len, short_epochs=training.short_epochs,
        )
    except ValueError as error:
        raise UserError(f"{table.source}: {error} (short_len {training.short_len}); give other segments") from error
    module = S1Module(config, table.digest, seed)
    val_batches = OrderedMaps(maps, val_rows, VALIDATION_BATCHES * training.batch_pixels)
    options = FitOptions(training.epoch, seed, training.precision, progress=progress, max_seconds=max_seconds)
    result = fit(module, batches, val_batches, options, folder=folder, tracker=tracker)
    module.load_state_dict(load_checkpoint(folder / LAST)["state_dict"])
    device = chosen_device()
    module.to(device).eval()
    with torch.inference_mode():
        metrics = module.summarise("val", [module.step(batch.to(device))[1] for batch in val_batches])
    return TrainResult(module.network.cpu().eval(), result, metrics, train_rows, val_rows)
