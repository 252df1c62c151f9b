"""Slow, plain references for pruning and featurizing: Python loops over one row at a time, from the definitions.

A row is what the field's tables hold: a dict with ``seq``, one list of box dicts per type (``bb_stem``, ``bb_iloop``,
``bb_hloop``) and ``target``, a list of ``(type, bb_x, bb_y, siz_x, siz_y)``. Nothing of the project is used but its
columns, to get such rows out of a table and into one.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.rna.boxes import Boxes

TYPES = ("stem", "iloop", "hloop")
PAIRS = {"AU", "UA", "GC", "CG", "GU", "UG"}
Row = dict[str, Any]


def table_of(rows: Sequence[Row]) -> BoxTable:
    """The columnar form of rows."""
    boxes = [(TYPES.index(t), box) for row in rows for t in TYPES for box in row[f"bb_{t}"]]
    proposals = Boxes.from_rows(
        [[(TYPES.index(t), b["bb_x"], b["bb_y"], b["siz_x"], b["siz_y"]) for t in TYPES for b in row[f"bb_{t}"]]
         for row in rows]
    )
    return BoxTable(
        frame=pd.DataFrame({"seq": pd.Series([row["seq"] for row in rows], dtype="str")}),
        proposals=proposals,
        targets=Boxes.from_rows([[(TYPES.index(t), *rest) for t, *rest in row["target"]] for row in rows]),
        prob_sm=_ragged([box["prob_sm"] for _, box in boxes]),
        prob_sl=_ragged([box["prob_sl"] for _, box in boxes]),
    )


def _ragged(lists: list[list[float]]) -> Ragged:
    offsets = np.concatenate([[0], np.cumsum([len(values) for values in lists], dtype=np.int64)]).astype(np.int64)
    return Ragged(np.array([v for values in lists for v in values], dtype=np.float64), offsets)


def rows_of(table: BoxTable) -> Iterator[Row]:
    """The rows of a table, one at a time."""
    boxes, targets = table.proposals, table.targets
    for r, seq in enumerate(table.frame["seq"]):
        row: Row = {"seq": seq, "bb_stem": [], "bb_iloop": [], "bb_hloop": []}
        row["target"] = [(TYPES[t], *rest) for t, *rest in targets.row_boxes(r)]
        first = int(boxes.offsets[r])
        for k, (code, x, y, siz_x, siz_y) in enumerate(boxes.row_boxes(r), start=first):
            box = {"bb_x": x, "bb_y": y, "siz_x": siz_x, "siz_y": siz_y}
            for name in ("prob_sm", "prob_sl"):
                ragged = getattr(table, name)
                box[name] = ragged.values[ragged.offsets[k]:ragged.offsets[k + 1]].tolist()
            row[f"bb_{TYPES[code]}"].append(box)
        yield row


def prune_row(row: Row, rules: Any) -> tuple[Row | None, list[dict[str, int]]]:
    """A pruned row with ``n_bb_found`` (``None`` when skipped), and its boxes by type before and after each rule."""
    seq = row["seq"].upper().replace("T", "U")
    length = len(seq)
    boxes = {t: list(row[f"bb_{t}"]) for t in TYPES}
    steps = [{t: len(boxes[t]) for t in TYPES}]

    if rules.max_len != 0 and length > rules.max_len:
        return None, steps + [dict.fromkeys(TYPES, 0)] * 8
    steps.append({t: len(boxes[t]) for t in TYPES})

    for t in TYPES:
        boxes[t] = [b for b in boxes[t] if _proposed_well(b, rules.min_pixel_pred, rules.min_prob)]
    steps.append({t: len(boxes[t]) for t in TYPES})

    for t in TYPES:
        boxes[t] = [b for b in boxes[t] if all(0 <= i < length and 0 <= j < length for i, j in _cells(b))]
    steps.append({t: len(boxes[t]) for t in TYPES})

    if rules.discard_ns_stem:
        boxes["stem"] = [b for b in boxes["stem"] if _possible(b, seq)]
    steps.append({t: len(boxes[t]) for t in TYPES})

    boxes["hloop"] = [b for b in boxes["hloop"] if not b["siz_x"] < rules.min_hloop_size]
    steps.append({t: len(boxes[t]) for t in TYPES})

    if rules.drop_lower_triangle:
        for t in ("stem", "iloop"):
            boxes[t] = [b for b in boxes[t] if not any(i >= j for i, j in _cells(b))]
        boxes["hloop"] = [b for b in boxes["hloop"] if b["siz_x"] == b["siz_y"] == b["bb_y"] - b["bb_x"] + 1]
    steps.append({t: len(boxes[t]) for t in TYPES})

    if rules.drop_isolated_loops:
        inner_ends = {_bottom_left(stem) for stem in boxes["stem"]}
        outer_ends = {_top_right(stem) for stem in boxes["stem"]}
        boxes["iloop"] = [b for b in boxes["iloop"] if _top_right(b) in inner_ends or _bottom_left(b) in outer_ends]
        boxes["hloop"] = [b for b in boxes["hloop"] if _top_right(b) in inner_ends]
    steps.append({t: len(boxes[t]) for t in TYPES})

    if rules.drop_unclosed_loops:
        inner_ends = {_bottom_left(stem) for stem in boxes["stem"]}
        outer_ends = {_top_right(stem) for stem in boxes["stem"]}
        boxes["iloop"] = [b for b in boxes["iloop"] if _top_right(b) in inner_ends and _bottom_left(b) in outer_ends]
        boxes["hloop"] = [b for b in boxes["hloop"] if _top_right(b) in inner_ends]
    steps.append({t: len(boxes[t]) for t in TYPES})

    pruned = {**row, **{f"bb_{t}": boxes[t] for t in TYPES}}
    pruned["n_bb_found"] = sum(
        any((t, b["bb_x"], b["bb_y"], b["siz_x"], b["siz_y"]) == target for t in TYPES for b in boxes[t])
        for target in row["target"]
    )
    return pruned, steps


def _proposed_well(box: dict[str, Any], min_pixel_pred: int, min_prob: float) -> bool:
    for name in ("prob_sm", "prob_sl"):
        if len(box[name]) >= min_pixel_pred:
            return True
        if box[name] and max(box[name]) >= min_prob:
            return True
    return False


def _cells(box: dict[str, Any]) -> list[tuple[int, int]]:
    return [
        (i, j)
        for i in range(box["bb_x"], box["bb_x"] + box["siz_x"])
        for j in range(box["bb_y"] - box["siz_y"] + 1, box["bb_y"] + 1)
    ]


def _top_right(box: dict[str, Any]) -> tuple[int, int]:
    return box["bb_x"], box["bb_y"]


def _bottom_left(box: dict[str, Any]) -> tuple[int, int]:
    return box["bb_x"] + box["siz_x"] - 1, box["bb_y"] - box["siz_y"] + 1


def _possible(stem: dict[str, Any], seq: str) -> bool:
    if stem["siz_x"] != stem["siz_y"]:
        return False  # a base has no partner
    return all(seq[stem["bb_x"] + k] + seq[stem["bb_y"] - k] in PAIRS for k in range(stem["siz_x"]))


def is_trained_on(row: Row, keep_partial: bool) -> bool:
    """Whether a row has boxes, and all target boxes among them (or that does not matter)."""
    boxes = _boxes_in_order(row)
    if not boxes:
        return False
    return keep_partial or all(any(_key(t, b) == target for t, b in boxes) for target in row["target"])


def features_row(row: Row, kind: str) -> tuple[list[list[float]], list[int], dict[str, list[list[list[int]]]]]:
    """Features and labels of a row's boxes, and the one-hot bases of each box by type (empty for other kinds)."""
    features, labels = [], []
    sequences: dict[str, list[list[list[int]]]] = {t: [] for t in TYPES} if kind == "sequence_encoding" else {}
    for t, box in _boxes_in_order(row):
        numbers = [1.0 if t == other else 0.0 for other in TYPES]
        numbers += [box["bb_x"], box["bb_y"], box["siz_x"], box["siz_y"]]
        if kind == "s1_features":
            area = box["siz_x"] * box["siz_y"]
            for name in ("prob_sm", "prob_sl"):
                numbers.append(statistics.median(box[name]) if box[name] else 0.0)
                numbers.append(len(box[name]) / area)
        features.append(numbers)
        labels.append(1 if _key(t, box) in row["target"] else 0)
        if sequences:
            sequences[t].append(_bases(t, box, row["seq"]))
    return features, labels, sequences


def _boxes_in_order(row: Row) -> list[tuple[str, dict[str, Any]]]:
    return [(t, box) for t in TYPES for box in row[f"bb_{t}"]]


def _key(t: str, box: dict[str, Any]) -> tuple[Any, ...]:
    return (t, box["bb_x"], box["bb_y"], box["siz_x"], box["siz_y"])


def _one_hot(base: str) -> list[int]:
    base = base.upper().replace("U", "T")
    return [1 if base == other else 0 for other in "ACGT"]


def _bases(t: str, box: dict[str, Any], seq: str) -> list[list[int]]:
    x, y, siz_x, siz_y = box["bb_x"], box["bb_y"], box["siz_x"], box["siz_y"]
    if t == "stem":
        return [_one_hot(seq[x + k]) + _one_hot(seq[y - k]) for k in range(siz_x)]
    if t == "hloop":
        return [_one_hot(seq[x + k]) for k in range(siz_x)]
    five_prime = [_one_hot(seq[i]) for i in range(x, x + siz_x)]
    three_prime = [_one_hot(seq[j]) for j in range(y, y - siz_y, -1)]
    encoded = [[*base, 0] for base in five_prime + three_prime]
    for closing in (0, siz_x - 1, siz_x, len(encoded) - 1):
        encoded[closing][4] = 1
    return encoded
