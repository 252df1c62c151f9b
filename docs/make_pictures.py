"""Draws the pictures of the README from the data that comes with the repository: ``python -m docs.make_pictures``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.table import BoxTable
from rna_s2.options.files import atomic_path
from rna_s2.pipeline.train_config import SAMPLE
from rna_s2.pruning.rules import REFERENCE_RULES, prune
from rna_s2.rna.boxes import BOX_TYPES, HLOOP, Boxes, bounds, is_in

ROOT = Path(__file__).resolve().parent.parent
COLOURS = {"stem": "#0072b2", "iloop": "#d55e00", "hloop": "#009e73"}
LENGTH = 70
"""Wanted length of the sequence in the picture, in bases."""


def map_figure(table: BoxTable, row: int) -> Figure:
    """Two maps of one row: all its proposals, and those that belong to its target structure."""
    boxes = table.proposals.take_rows(np.array([row]))
    true = is_in(boxes, table.targets.take_rows(np.array([row])))
    length = int(table.lengths[row])
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw_boxes(left, boxes, length)
    draw_boxes(right, boxes.select(true), length)
    left.set(title=f"proposed by stage 1: {len(boxes)} boxes", ylabel="row: base on the 5' side")
    right.set(title=f"in the true structure: {int(true.sum())} boxes")
    for axes in (left, right):
        axes.set(xlabel="column: base on the 3' side")
    handles = [Rectangle((0, 0), 1, 1, color=colour, alpha=0.6) for colour in COLOURS.values()]
    right.legend(handles, ["stem", "internal loop or bulge", "hairpin loop"], loc="lower left", frameon=False)
    return figure


def draw_boxes(axes, boxes: Boxes, length: int) -> None:
    """The boxes of one sequence on its map, row 0 at the top."""
    axes.plot([-0.5, length - 0.5], [-0.5, length - 0.5], color="0.8", linewidth=1)
    first_row, last_row, first_col, last_col = bounds(boxes)
    for k in range(len(boxes)):
        colour = COLOURS[BOX_TYPES[boxes.type[k]]]
        corner = (first_col[k] - 0.5, first_row[k] - 0.5)
        width, height = last_col[k] - first_col[k] + 1, last_row[k] - first_row[k] + 1
        axes.add_patch(Rectangle(corner, width, height, facecolor=colour, edgecolor=colour, alpha=0.35))
    axes.set(xlim=(-0.5, length - 0.5), ylim=(length - 0.5, -0.5), aspect="equal")


def main() -> None:
    """Writes ``docs/boxes.png``."""
    table = prune(read_table(ROOT / SAMPLE).table, REFERENCE_RULES).table
    complete = prune(table, REFERENCE_RULES).sensitivity.full
    branched = np.bincount(table.targets.row[table.targets.type == HLOOP], minlength=table.rows) >= 2
    rows = np.flatnonzero(complete & branched)
    row = int(rows[np.argmin(np.abs(table.lengths[rows] - LENGTH))])
    with atomic_path(ROOT / "docs" / "boxes.png") as path:
        map_figure(table, row).savefig(path, dpi=110, format="png")


if __name__ == "__main__":
    main()
