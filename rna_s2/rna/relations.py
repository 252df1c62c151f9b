"""How two boxes of one sequence stand to each other: the one definition, for numpy arrays and torch tensors alike.

A box covers the bases of its 5' strand (its rows) and of its 3' strand (its columns); an hloop has the one strand of its rows.

=================  ========================================================================================================
``same_corner``    conflict: the boxes share their outer or their inner pair and do not continue each other
``overlap``        conflict: they share a base in another way
``crossing``       conflict: they share no base; a pair of one crosses a pair of the other
``same``           identical boxes
``apart``          one ends before the other begins: they share no base and neither encloses the other
``outside``        ``b`` lies between the strands of ``a`` and shares no base with it; ``inside`` the reverse
``closes``         they share one pair: the inner pair of ``a`` is the outer pair of ``b`` (a stem and the loop it ends in, an
                   iloop and the stem it goes on in, an iloop and a loop with a stem of one pair between them);
                   ``closed_by`` the reverse
=================  ========================================================================================================

No structure without pseudoknots has both of two boxes that conflict. Two stems never share a pair, for then they would be one
stem. Boxes that reach the diagonal or below it have no meaning here, an hloop on the diagonal excepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rna_s2.rna.boxes import HLOOP, STEM, Boxes, inner_corner

RELATIONS: tuple[str, ...] = (
    "same_corner", "overlap", "crossing", "same", "apart", "outside", "inside", "closes", "closed_by",
)
"""Names of the codes. The relational network indexes its learned table by these codes: their order is part of its weights."""

SAME_CORNER, OVERLAP, CROSSING, SAME, APART, OUTSIDE, INSIDE, CLOSES, CLOSED_BY = range(len(RELATIONS))


def conditions(a: Sequence[Any], b: Sequence[Any]) -> dict[int, Any]:
    """What holds of box ``a`` and box ``b``; where several conditions hold, the last of them is their relation.

    Args:
        a, b: each ``(type, bb_x, bb_y, i, j)`` with the inner pair ``(i, j)`` (:func:`rna_s2.rna.boxes.inner_corner`): integer
            numpy arrays, or torch tensors, that broadcast against each other.

    Returns:
        bool in the broadcast shape by code, for every code but :data:`CROSSING`, which is what remains.
    """
    type_a, x_a, y_a, i_a, j_a = a
    type_b, x_b, y_b, i_b, j_b = b
    encloses_a, encloses_b = type_a != HLOOP, type_b != HLOOP
    # First column of the second strand; an hloop has its rows alone, which reach to its last column.
    second_a, second_b = x_a + (j_a - x_a) * encloses_a, x_b + (j_b - x_b) * encloses_b
    overlap = ((x_a <= i_b) & (x_b <= i_a)) | ((x_a <= y_b) & (second_b <= i_a))
    overlap |= ((second_a <= i_b) & (x_b <= y_a)) | ((second_a <= y_b) & (second_b <= y_a))
    same_outer = (x_a == x_b) & (y_a == y_b)
    same_inner = (i_a == i_b) & (j_a == j_b)
    mixed = (type_a != STEM) | (type_b != STEM)
    return {
        OVERLAP: overlap,
        SAME_CORNER: same_outer | same_inner,
        CLOSED_BY: encloses_b & mixed & (i_b == x_a) & (j_b == y_a),
        CLOSES: encloses_a & mixed & (i_a == x_b) & (j_a == y_b),
        INSIDE: encloses_b & (i_b < x_a) & (y_a < j_b),
        OUTSIDE: encloses_a & (i_a < x_b) & (y_b < j_a),
        APART: (y_a < x_b) | (y_b < x_a),
        SAME: same_outer & same_inner & (type_a == type_b),
    }


def relation(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
    """How box ``a`` stands to box ``b``: int8 codes (:data:`RELATIONS`) in the broadcast shape.

    Each is ``(type, bb_x, bb_y, siz_x, siz_y)``, int arrays that broadcast against each other.
    """
    columns = ((np.asarray(column) for column in box) for box in (a, b))
    holds = conditions(*((kind, x, y, *inner_corner(x, y, siz_x, siz_y)) for kind, x, y, siz_x, siz_y in columns))
    code = np.full(np.shape(holds[OVERLAP]), CROSSING, np.int8)
    for relation_code, where in holds.items():
        code += (np.int8(relation_code) - code) * where  # several times as fast as writing through a mask
    return code


def is_conflict(code: Any) -> Any:
    """Whether codes of :data:`RELATIONS` say that no structure without pseudoknots has both boxes."""
    return code < SAME


def relation_matrix(boxes: Boxes, row: int) -> np.ndarray:
    """``(n, n)`` int8: :func:`relation` of each box of a row (first axis) to each other (second axis)."""
    part = slice(int(boxes.offsets[row]), int(boxes.offsets[row + 1]))
    columns = [column[part] for column in boxes.columns]
    return relation([c[:, None] for c in columns], [c[None, :] for c in columns])
