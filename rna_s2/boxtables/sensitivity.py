"""Box sensitivity: how many of the target boxes are among the proposals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rna_s2.boxtables.table import BoxTable
from rna_s2.rna.boxes import BOX_TYPES, is_in


@dataclass(frozen=True)
class Sensitivity:
    """Target boxes of a table, and those that stand identically (type, corner, size) among its proposals.

    Attributes:
        n_found: ``(rows,)`` int64; target boxes of each row found (``n_bb_found`` of a pruned table).
        n_target: ``(rows,)`` int64; target boxes of each row.
        found_per_type, target_per_type: ``(3,)`` int64; the same by type, over all rows.
    """

    n_found: np.ndarray
    n_target: np.ndarray
    found_per_type: np.ndarray
    target_per_type: np.ndarray

    @property
    def full(self) -> np.ndarray:
        """``(rows,)`` bool: rows with 100 % box sensitivity; one without target boxes misses none and counts."""
        return self.n_found == self.n_target

    @property
    def full_share(self) -> float:
        """Share of rows with 100 % box sensitivity; NaN without rows."""
        return float(self.full.mean()) if len(self.full) else float("nan")

    @property
    def shares(self) -> dict[str, float]:
        """Share of the target boxes found, by type name and for ``all``; NaN where there is no target box."""
        found, target = (np.append(n, n.sum()).tolist() for n in (self.found_per_type, self.target_per_type))
        return {name: f / t if t else float("nan") for name, f, t in zip((*BOX_TYPES, "all"), found, target, strict=True)}


def box_sensitivity(table: BoxTable) -> Sensitivity | None:
    """The box sensitivity of a table; ``None`` where it has no targets."""
    targets = table.targets
    if targets is None:
        return None
    found = is_in(targets, table.proposals)
    return Sensitivity(
        n_found=np.bincount(targets.row[found], minlength=table.rows),
        n_target=np.diff(targets.offsets),
        found_per_type=np.bincount(targets.type[found], minlength=len(BOX_TYPES)),
        target_per_type=np.bincount(targets.type, minlength=len(BOX_TYPES)),
    )
