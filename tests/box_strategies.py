"""Random rows with boxes, for hypothesis: small, so that odd cases are frequent."""

from __future__ import annotations

from hypothesis import strategies as st

TYPES = ("stem", "iloop", "hloop")

probabilities = st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0]), max_size=5)


@st.composite
def boxes(draw: st.DrawFn, length: int, box_type: str, in_map: bool) -> dict:
    """A box of a type near a sequence of some length; more often than not of the shape its type should have."""
    low = 0 if in_map else -2
    x = draw(st.integers(low, length - 1 - low))
    y = draw(st.integers(low, length - 1 - low))
    most_x, most_y = (length - x, y + 1) if in_map else (6, 6)
    siz_x = draw(st.integers(1, max(1, min(6, most_x))))
    siz_y = draw(st.integers(1, max(1, min(6, most_y))))
    if box_type == "hloop" and draw(st.booleans()) and x <= y and (in_map or y - x < length):
        siz_x = siz_y = y - x + 1
    elif box_type == "stem" and (in_map or draw(st.integers(0, 4))):
        siz_x = siz_y = min(siz_x, siz_y)
    return {
        "bb_x": x, "bb_y": y, "siz_x": siz_x, "siz_y": siz_y,
        "prob_sm": draw(probabilities), "prob_sl": draw(probabilities),
    }


@st.composite
def rows(draw: st.DrawFn, in_map: bool = False) -> dict:
    """A row: a sequence in mixed case with N, T and U, boxes of each type (perhaps none), a target that has some."""
    seq = draw(st.text("ACGUTNacgutn" + "GCGUAU", min_size=1, max_size=14))
    row: dict = {"seq": seq, "target": []}
    for t in TYPES:
        row[f"bb_{t}"] = draw(st.lists(boxes(len(seq), t, in_map), max_size=5))
        known = [(t, b["bb_x"], b["bb_y"], b["siz_x"], b["siz_y"]) for b in row[f"bb_{t}"]]
        if known:
            row["target"] += draw(st.lists(st.sampled_from(known), max_size=3, unique=True))
        if draw(st.integers(0, 3)) == 0:
            row["target"].append((t, draw(st.integers(0, 5)), 6, 2, 2))
    row["target"] = list(dict.fromkeys(row["target"]))
    return row


tables = st.lists(rows(), max_size=6)
"""Rows of a raw table: boxes may leave the map, stems may be impossible or not square."""

pruned_tables = st.lists(rows(in_map=True), max_size=6)
"""Rows of a pruned table: all boxes in the map, stems square."""
