"""How good the structures are that a trained S2's probabilities lead to: for each row the best set of compatible boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.table import BoxTable
from rna_s2.pipeline.prepare import Prepared
from rna_s2.rna.boxes import STEM, Boxes, ragged_take
from rna_s2.rna.pairs import as_pairs, pairs_of_boxes
from rna_s2.s2.dataset import EncodedDataset
from rna_s2.s2.training import Evaluation
from rna_s2.structures.candidates import DecodeOptions, log_odds
from rna_s2.structures.compare import compare_many
from rna_s2.structures.decode import decode_batch

_BOX_COLUMNS = ("bb_x", "bb_y", "siz_x", "siz_y")
_METRICS = ("sensitivity", "ppv", "f1")


@dataclass(frozen=True)
class StructureMetrics:
    """Predicted against target structures.

    Attributes:
        rows: one line per row: ``sensitivity``, ``ppv`` and ``f1`` of its base pairs, ``exact`` where all pairs are right
            and none is missing.
        metrics: means over the rows, ``exact_rows`` the share of exact ones.
    """

    rows: pd.DataFrame
    metrics: dict[str, float]


def structure_metrics(
    prepared: Prepared, evaluation: Evaluation, options: DecodeOptions | None = None
) -> StructureMetrics | None:
    """Decode the scored rows and compare the structures with the targets' base pairs.

    Args:
        prepared: the data that were scored.
        evaluation: the scored rows.
        options: of decoding.

    Returns:
        The metrics; None where the features do not say where the boxes are, so that there is nothing to decode.
    """
    boxes = boxes_of(prepared.data, evaluation.rows)
    if boxes is None:
        return None
    lengths = prepared.data.seq_length[evaluation.rows].astype(np.int64)
    decoded = decode_batch(boxes, log_odds(evaluation.probability), lengths, options)
    known = target_pairs(prepared, evaluation.rows)
    compared = compare_many([d.pairs for d in decoded], known, lengths)
    rows = compared[list(_METRICS)].assign(
        exact=(compared["right"] == compared["known"]) & (compared["right"] == compared["predicted"])
    )
    metrics = {name: float(rows[name].mean()) for name in _METRICS} | {"exact_rows": float(rows["exact"].mean())}
    return StructureMetrics(rows, metrics)


def boxes_of(data: EncodedDataset, rows: np.ndarray) -> Boxes | None:
    """The boxes of some rows (``(k,)`` int) of a dataset; None where its features lack their places and sizes."""
    names = data.meta.feature_names
    if not set(_BOX_COLUMNS) <= set(names):
        return None
    index, offsets = ragged_take(data.offsets, rows)
    columns = (np.asarray(data.features[index, names.index(name)]).round() for name in _BOX_COLUMNS)
    return Boxes(offsets, np.asarray(data.box_type[index]), *columns)


def target_pairs(prepared: Prepared, rows: np.ndarray) -> list[np.ndarray]:
    """``(k, 2)`` int32 base pairs of the target structure of some rows of a dataset.

    They are those of ``one_idx``; where a row of the table has none, all are those of the target stems.
    """
    source = prepared.data.source_row[rows]
    if "one_idx" in pq.read_schema(prepared.pruned).names:
        given = pd.read_parquet(prepared.pruned, columns=["one_idx"])["one_idx"].iloc[source]
        if given.notna().all():
            return [as_pairs(*pairs) for pairs in given]
    table: BoxTable = read_table(prepared.pruned).table.take_rows(source)
    assert table.targets is not None  # the labels come from them
    return [
        pairs_of_boxes(box for box in table.targets.row_boxes(row) if box[0] == STEM) for row in range(table.rows)
    ]
