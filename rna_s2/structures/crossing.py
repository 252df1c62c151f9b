"""The structures that agree best with scored boxes when stems may cross (pseudoknots), by integer linear programming.

**What a structure is worth.** Stems are chosen for the nested part of the structure or beside it. The nested part scores as
in :mod:`rna_s2.structures.decode`, as if the other stems were not there: its boxes are those of the loop decomposition after
pseudoknots are taken out, as in the known structures that networks learn from. Each stem beside it adds its log-odds less
those of the threshold, and ``crossing_stem``; it must cross a stem of the nested part, and may cross any other. No base is in
two pairs, and no two stems lie directly on top of each other.

**The programme.** Binary variables say of each stem whether it is in the nested part or beside it, of each proposed loop
whether the stems that it joins have it, and of each stem whether its loop has no box. Constraints: a base takes part in one
stem at most; stems that cross are not both in the nested part; the inner pair of each nested stem closes one loop; a loop
allows no other stem of the nested part inside its strands; a loop that is there counts also where it is held unlikely. Solved
to optimality by HiGHS (:func:`scipy.optimize.milp`). For the next best, what was found is excluded.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import ragged_positions
from rna_s2.structures.candidates import NO_BOX, Candidates, Decoded, DecodeOptions

_INFEASIBLE = 2  # status of scipy.optimize.milp
_HALF = 0.5  # a solved binary variable is near 0 or near 1


def best_crossing(stems: Candidates, options: DecodeOptions, k: int) -> list[Decoded]:
    """The ``k`` best structures of one sequence, distinct sets of pairs, best first; stems may cross.

    Of more than ``crossing_max_stems`` stems, those of the lowest log-odds are left out.

    Raises:
        UserError: the solver gives up.
    """
    if not len(stems):
        return [Decoded(np.zeros((0, 2), np.int32), np.zeros(0, np.int64), 0.0, 0)]
    programme = _Programme(_strongest(stems, options.crossing_max_stems), options)
    found: list[Decoded] = []
    while len(found) < k and (structure := programme.solve()) is not None:
        found.append(structure)
        programme.exclude(structure)
    return found


def _strongest(stems: Candidates, most: int) -> Candidates:
    """The candidates with the ``most`` stems of the highest log-odds, and the loops that join these."""
    if len(stems) <= most:
        return stems
    keep = np.zeros(len(stems), bool)
    keep[np.argsort(-stems.score, kind="stable")[:most]] = True
    before = np.concatenate([[0], np.cumsum(keep)])
    own = {name: getattr(stems, name)[keep] for name in ("i", "j", "x", "y", "score", "box", "hairpin", "hairpin_box", "loops")}
    return replace(stems, **own, stacked=before[stems.stacked[keep]], loop_stems=before[stems.loop_stems])


class _Programme:
    """The integer programme of one sequence.

    Attributes:
        outer, inner: ``(joints,)`` the stem outside and the stem inside each internal loop.
        joint_loop: ``(joints,)`` the internal loop between them.
        gain: what each variable adds, in this order: nested stems, stems beside, hairpin boxes, internal-loop boxes between
            two given stems, loops without a box.
        rows: blocks of constraints: row, variable and coefficient of each entry, and the upper bound of each row.
    """

    def __init__(self, stems: Candidates, options: DecodeOptions) -> None:
        joints = [
            (s, t, loop)
            for s in range(len(stems))
            for loop in range(*stems.loops[s].tolist())
            for t in range(*stems.loop_stems[loop].tolist())
        ]
        self.stems, self.options = stems, options
        self.outer, self.inner, self.joint_loop = np.array(joints, np.int64).reshape(-1, 3).T
        self.gain = np.concatenate([
            stems.score, stems.score + options.crossing_stem, stems.hairpin, stems.loop_score[self.joint_loop],
            np.full(len(stems), options.missing_loop),
        ])
        self.rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._constrain()

    def _constrain(self) -> None:
        stems, n, joints = self.stems, len(self.stems), len(self.outer)
        nested, beside, hairpin = np.arange(n), n + np.arange(n), 2 * n + np.arange(n)
        joint, missing = 3 * n + np.arange(joints), 3 * n + joints + np.arange(n)
        inside = (stems.x[:, None] < stems.i) & (stems.j < stems.y[:, None])  # [s, t]: t lies inside s
        crosses = (stems.i[:, None] < stems.i) & (stems.i < stems.j[:, None]) & (stems.j[:, None] < stems.j)

        stem, step = ragged_positions(stems.x - stems.i + 1)
        stem, base = np.tile(stem, 2), np.concatenate([stems.i[stem] + step, stems.j[stem] - step])
        self._at_most((base, nested[stem], 1), (base, beside[stem], 1), bound=np.ones(stems.length))
        s, t = np.nonzero(crosses)
        self._at_most((None, nested[s], 1), (None, nested[t], 1), bound=np.ones(len(s)))
        s, step = ragged_positions(stems.stacked[:, 1] - stems.stacked[:, 0])
        t = stems.stacked[s, 0] + step
        self._at_most(*((None, part[of], 1) for part in (nested, beside) for of in (s, t)), bound=np.ones(len(s)))
        s, t = np.nonzero(crosses | crosses.T)
        self._at_most((nested, beside, 1), (s, nested[t], -1), bound=np.zeros(n))

        # The inner pair of a nested stem closes exactly one loop.
        one_loop = [(nested, nested, 1), (nested, hairpin, -1), (self.outer, joint, -1), (nested, missing, -1)]
        self._at_most(*one_loop, bound=np.zeros(n))
        self._at_most(*((row, column, -sign) for row, column, sign in one_loop), bound=np.zeros(n))
        no_hairpin = np.flatnonzero(stems.hairpin_box == NO_BOX)
        self._at_most((None, hairpin[no_hairpin], 1), bound=np.zeros(len(no_hairpin)))

        # Nothing of the nested part lies inside the strands of a loop; the stem inside an internal loop is there.
        s, t = np.nonzero(inside & (stems.hairpin_box != NO_BOX)[:, None])
        self._at_most((None, hairpin[s], 1), (None, nested[t], 1), bound=np.ones(len(s)))
        between = inside[self.outer] & ~inside[self.inner]
        between[np.arange(joints), self.inner] = False
        g, t = np.nonzero(between)
        self._at_most((None, joint[g], 1), (None, nested[t], 1), bound=np.ones(len(g)))
        self._at_most((None, joint, 1), (None, nested[self.inner], -1), bound=np.zeros(joints))

        # A loop that is there counts, also where a loop without a box would be worth more.
        worse = np.flatnonzero((stems.hairpin_box != NO_BOX) & (stems.hairpin < self.options.missing_loop))
        row, t = np.nonzero(inside[worse])
        here = np.arange(len(worse))
        self._at_most((here, nested[worse], 1), (here, hairpin[worse], -1), (row, nested[t], -1), bound=np.zeros(len(worse)))
        worse = np.flatnonzero(stems.loop_score[self.joint_loop] < self.options.missing_loop)
        row, t = np.nonzero(between[worse])
        here = np.arange(len(worse))
        self._at_most(
            (here, nested[self.outer[worse]], 1), (here, nested[self.inner[worse]], 1), (here, joint[worse], -1),
            (row, nested[t], -1), bound=np.ones(len(worse)),
        )

    def _at_most(self, *entries: tuple[np.ndarray | None, np.ndarray, int], bound: np.ndarray) -> None:
        """Add constraints: the sum of coefficient times variable is at most ``bound``, row by row.

        Each of ``entries`` is the rows (``None``: one after the other), the variables, and their common coefficient.
        """
        rows = [np.arange(len(columns)) if row is None else row for row, columns, _ in entries]
        values = [np.full(len(columns), sign, float) for _, columns, sign in entries]
        columns = [columns for _, columns, _ in entries]
        self.rows.append((np.concatenate(rows), np.concatenate(columns), np.concatenate(values), np.asarray(bound, float)))

    def solve(self) -> Decoded | None:
        """The best structure that is not excluded; ``None`` where there is no other.

        Raises:
            UserError: the solver gives up.
        """
        start = np.cumsum([0, *(len(block[3]) for block in self.rows)])
        row = np.concatenate([block[0] + first for block, first in zip(self.rows, start[:-1], strict=True)])
        column, value, bound = (np.concatenate([block[part] for block in self.rows]) for part in (1, 2, 3))
        result = milp(
            -self.gain, integrality=np.ones(len(self.gain)), bounds=Bounds(0, 1),
            constraints=LinearConstraint(coo_array((value, (row, column)), (len(bound), len(self.gain))).tocsr(), ub=bound),
            options={"mip_rel_gap": 0.0},
        )
        if result.status == _INFEASIBLE:
            return None
        if result.x is None:
            raise UserError(
                f"crossing stems: the integer programme was not solved ({result.message}); raise min_confidence or lower "
                "crossing_max_stems"
            )
        n, joints = len(self.stems), len(self.outer)
        chosen = result.x > _HALF
        stem = np.flatnonzero(chosen[:n] | chosen[n: 2 * n])
        hairpin_box = self.stems.hairpin_box[np.flatnonzero(chosen[2 * n: 3 * n])]
        loop_box = self.stems.loop_box[self.joint_loop[chosen[3 * n: 3 * n + joints]]]
        boxes = np.sort(np.concatenate([self.stems.box[stem], hairpin_box, loop_box]))
        missing = int(chosen[3 * n + joints:].sum())
        return Decoded(self.stems.pairs_of(stem), boxes, float(self.gain[chosen].sum()), missing)

    def exclude(self, structure: Decoded) -> None:
        """Forbid the stems of a structure, together and without any other."""
        n = len(self.stems)
        taken = np.tile(np.isin(self.stems.box, structure.boxes), 2)
        bound = np.array([taken[:n].sum() - 1.0])
        self.rows.append((np.zeros(2 * n, np.int64), np.arange(2 * n), np.where(taken, 1.0, -1.0), bound))
