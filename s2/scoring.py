"""Scoring the boxes of an encoded dataset with a network."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rna_s2.s2.batches import OrderedBatches
from rna_s2.s2.dataset import EncodedDataset


def score_rows(network: nn.Module, data: EncodedDataset, rows: np.ndarray, precision: str = "32") -> np.ndarray:
    """``(boxes,)`` float32 logits of the boxes of the given rows, in the order of the rows and of the dataset."""
    rows = np.asarray(rows, dtype=np.int64)
    device = next(network.parameters()).device
    counts = np.diff(data.offsets)[rows]
    starts = np.concatenate([[0], np.cumsum(counts)])
    place = np.empty(len(data), dtype=np.int64)  # position of a row of the dataset in ``rows``
    place[rows] = np.arange(len(rows))
    scores = np.zeros(starts[-1], dtype=np.float32)
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            for batch in OrderedBatches(data, rows):
                if not len(batch.features):
                    continue
                logits = network(batch.to(device)).float().cpu().numpy()
                row = place[batch.row_id.numpy()][batch.row.numpy()]
                within = (batch.slot - batch.row * batch.mask.shape[1]).numpy()
                scores[starts[row] + within] = logits
    finally:
        network.train(was_training)
    return scores
