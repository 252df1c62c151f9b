"""Structure prediction from DataFrame to DataFrame, as it is served."""

from __future__ import annotations

import math

import pandas as pd

from rna_s2.boxtables.columns import is_missing
from rna_s2.options.errors import UserError
from rna_s2.pipeline.structure_prediction import Models, PipelineOptions, predict_each
from rna_s2.rna import formats
from rna_s2.rna.boxes import BOX_TYPES
from rna_s2.structures.prediction import Failure

BOX_KEYS = ("type", "bb_x", "bb_y", "siz_x", "siz_y", "probability", "chosen")


def predict_frame(frame: pd.DataFrame, models: Models, options: PipelineOptions) -> pd.DataFrame:
    """Structures of the sequences of a frame.

    Args:
        frame: column ``sequence``, and optionally ``name``; a row without a name is called by its number, from 0.

    Returns:
        A frame with the same index: ``name``; ``structure`` (dot-bracket); ``free_energy`` in kcal/mol, None where the
        structure has none; ``confidence`` 0..1; ``boxes``: a list of dicts with type, bb_x, bb_y, siz_x, siz_y,
        probability and chosen.

    Raises:
        UserError: a sequence is no text, is empty, has a character outside the alphabet, or cannot be predicted; says
            which row.
    """
    if "sequence" not in frame.columns:
        raise UserError(f"the input has no column 'sequence' (its columns are {', '.join(map(str, frame.columns))})")
    names = frame["name"].tolist() if "name" in frame.columns else [None] * len(frame)
    records = []
    for row, (name, seq) in enumerate(zip(names, frame["sequence"].tolist(), strict=True)):
        if not isinstance(seq, str):
            raise UserError(f"row {row}: sequence must be a text, got {seq!r}")
        records.append(formats.SequenceRecord(str(row) if is_missing(name) else str(name), "".join(seq.split())))
    rows = []
    for row, result in enumerate(predict_each(records, models, options)):
        if isinstance(result, Failure):
            raise UserError(f"row {row}: {result.reason}")
        best, boxes = result.best, result.boxes
        columns = (
            [BOX_TYPES[code] for code in boxes.type], boxes.bb_x.tolist(), boxes.bb_y.tolist(), boxes.siz_x.tolist(),
            boxes.siz_y.tolist(), result.probability.tolist(), result.chosen.tolist(),
        )
        dicts = [dict(zip(BOX_KEYS, values, strict=True)) for values in zip(*columns, strict=True)]
        energy = None if math.isnan(best.energy) else best.energy
        rows.append((result.name, result.dot_bracket(), energy, best.confidence, dicts))
    out = pd.DataFrame(rows, columns=["name", "structure", "free_energy", "confidence", "boxes"], index=frame.index)
    out["free_energy"] = out["free_energy"].astype(object)
    return out
