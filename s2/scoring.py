"""Scoring the boxes of an encoded dataset with a network."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rna_s2.rna.boxes import ragged_take
from rna_s2.s2.batches import OrderedBatches
from rna_s2.s2.dataset import EncodedDataset


def score_rows(network: nn.Module, data: EncodedDataset, rows: np.ndarray, precision: str = "32") -> np.ndarray:
    """``(boxes,)`` float32 logits of the boxes of the given rows, in the order of the rows and of the dataset."""
    device = next(network.parameters()).device
    scored, logits = [np.zeros(0, np.int64)], [torch.zeros(0, device=device)]
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            for batch in OrderedBatches(data, rows):
                if len(batch.features):
                    scored.append(batch.row_id)
                    logits.append(network(batch.to(device)).float())
    finally:
        network.train(was_training)
    scores = np.zeros(data.offsets[-1], dtype=np.float32)
    index, _ = ragged_take(data.offsets, np.concatenate(scored))
    scores[index] = torch.cat(logits).cpu().numpy()
    return scores[ragged_take(data.offsets, rows)[0]]
