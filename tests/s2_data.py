"""Small encoded datasets for tests."""

from __future__ import annotations

import numpy as np

from rna_s2.rna.boxes import BOX_TYPES
from rna_s2.s2.dataset import DatasetMeta, EncodedDataset, counts_of

CHANNELS = {"stem": 8, "iloop": 5, "hloop": 4}


def random_dataset(
    counts: list[tuple[int, int, int]], *, seed: int = 0, kind: str = "baseline", signal: float = 0.0
) -> EncodedDataset:
    """Random boxes: ``counts`` gives the stems, iloops and hloops of each row.

    With ``signal`` the label follows ``siz_x``, so that there is something to learn.
    """
    rng = np.random.default_rng(seed)
    per_row = np.array(counts, dtype=np.int64).reshape(-1, 3)
    offsets = np.concatenate([[0], np.cumsum(per_row.sum(1))]).astype(np.int64)
    box_type = np.concatenate([np.repeat(np.arange(3), row) for row in per_row] or [np.zeros(0)]).astype(np.int8)
    boxes = len(box_type)
    place = rng.integers(0, 100, (boxes, 2))
    size = rng.integers(1, 11, (boxes, 2))
    features = np.concatenate([np.eye(3)[box_type], place, size], axis=1).astype(np.float32)
    noise = rng.random(boxes)
    labels = np.where(rng.random(boxes) < signal, size[:, 0] > 7, noise < 0.3).astype(np.uint8)
    seq_values, seq_offsets = {}, {}
    if kind == "sequence_encoding":
        for code, name in enumerate(BOX_TYPES):
            lengths = rng.integers(1, 9, int((box_type == code).sum()))
            seq_offsets[name] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            seq_values[name] = rng.integers(0, 2, (int(lengths.sum()), CHANNELS[name])).astype(np.uint8)
    meta = DatasetMeta(
        kind=kind,
        feature_names=("type_stem", "type_iloop", "type_hloop", "bb_x", "bb_y", "siz_x", "siz_y"),
        sequence_channels=CHANNELS if kind == "sequence_encoding" else {},
        source="random", source_digest="", rows_read=len(per_row), rows_full_sensitivity=len(per_row),
        **counts_of(box_type, labels, len(per_row)),
    )
    return EncodedDataset(
        meta=meta, offsets=offsets, features=features, box_type=box_type, labels=labels,
        source_row=np.arange(len(per_row)), group=np.arange(len(per_row)), seq_length=np.full(len(per_row), 100, np.int32),
        n_target=np.full(len(per_row), 5, np.int32), seq_values=seq_values, seq_offsets=seq_offsets,
    )
