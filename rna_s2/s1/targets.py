"""What each cell of the map should say: the target boxes as cells."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

import numpy as np

from rna_s2.rna.boxes import Boxes, ragged_positions
from rna_s2.s1.merging import group

Array = TypeVar("Array")


class CellTargets(NamedTuple, Generic[Array]):
    """The cells above the diagonal that target boxes cover, one entry per cell and box type; arrays or tensors.

    Attributes:
        type: ``(n,)`` int64 box type.
        row: ``(n,)`` int64 sequence.
        i, j: ``(n,)`` int64 the cell.
        loc_x, loc_y: ``(n,)`` int64 distance up and right to the box's top-right corner (0 at the corner itself).
        siz_x, siz_y: ``(n,)`` int64 rows and columns of the box.
    """

    type: Array
    row: Array
    i: Array
    j: Array
    loc_x: Array
    loc_y: Array
    siz_x: Array
    siz_y: Array


def cell_targets(boxes: Boxes) -> CellTargets[np.ndarray]:
    """The cells that target boxes cover.

    Half of an hloop's square lies below the diagonal; cells (i, j) with i >= j are left out. Two iloops share a cell
    when a single base pair lies between them: the inner one's corner. A cell in several boxes of a type belongs to
    the one whose top-right corner is nearest (``loc_x + loc_y``), so the shared cell speaks for the inner loop.
    """
    box, within = ragged_positions(boxes.siz_x.astype(np.int64) * boxes.siz_y)
    siz_x, siz_y = boxes.siz_x[box].astype(np.int64), boxes.siz_y[box].astype(np.int64)
    loc_x, loc_y = within // siz_y, within % siz_y
    i, j = boxes.bb_x[box] + loc_x, boxes.bb_y[box] - loc_y
    row, box_type = boxes.row[box], boxes.type[box].astype(np.int64)

    above = np.flatnonzero(i < j)
    above = above[np.argsort((loc_x + loc_y)[above], kind="stable")]
    order, starts = group([column[above] for column in (box_type, row, i, j)])
    cell = above[order[starts]]
    return CellTargets(box_type[cell], row[cell], i[cell], j[cell], loc_x[cell], loc_y[cell], siz_x[cell], siz_y[cell])
