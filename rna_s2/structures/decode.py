"""The secondary structures of the highest score, exactly, from scored boxes.

**Structure.** A set of proposed stems is a structure if no base is in two pairs, no pairs cross, each hairpin loop has
``min_hairpin`` unpaired bases or more, and no stem lies directly on top of another (the two would be one longer stem, which has
a box of its own). Proposals that contain each other are separate candidates.

**Score.** The log-odds of a box are ``ln(p / (1 - p))`` less those of ``threshold``. The score of a structure is the sum of

* the log-odds of each of its stems;
* for the loop that each stem closes with its inner pair: the log-odds of the box of that hairpin or internal loop, or
  ``missing_loop`` where that box was not proposed or the loop is a multiloop, which has no box;
* ``branch`` for each stem that ends in a multiloop, the closing one included.

The exterior loop adds nothing, so the structure without pairs scores 0.

**Why log-odds.** Assume that boxes are right or wrong independently of each other, and loops that were not proposed right with
probability ``q``. The probability of a structure is then the product of ``p`` over its boxes and of ``1 - p`` over all others.
With ``threshold`` 0.5 and ``missing_loop = ln(q / (1 - q))`` that is ``exp(score)`` times a factor that all structures share:
the structure of the highest score is the most probable one.

**Why a threshold below 0.5.** Boxes are not independent. A network that hesitates between two structures gives the boxes of
both less than 0.5, although one of the two is right; a lower threshold lets the better one score above 0.

**Algorithm.** Stems are sorted by their first base and treated from the last to the first. ``value[s]`` is the best score of a
structure whose only outermost stem is ``s``. Inside ``s`` lies a hairpin loop, or one stem behind an internal loop, or a
multiloop of two stems or more. For multiloops, ``branches[a, b]`` is the best sum of ``value`` over one stem or more side by
side, none of which begins before the ``a``-th start or ends behind the ``b``-th end. It is the maximum of
``branches[a + 1, b]`` and, over the stems ``t`` that begin at ``a``, of ``value[t]`` plus the best branches behind ``t``, if
there are any. Time and memory are quadratic in the number of stems. This is weighted interval scheduling inside each stem;
compare the recursion on circle graphs of Supowit (1987).

**The k best.** Every structure has one derivation: the choices that lead to it. The tables say what score an unfinished
derivation can still reach. A best-first search over unfinished derivations therefore meets the structures in descending order
of their score.

With ``crossing``, see :mod:`rna_s2.structures.crossing`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np

from rna_s2.rna.boxes import Boxes
from rna_s2.structures.candidates import NO_BOX, Candidates, Decoded, DecodeOptions, candidate_boxes
from rna_s2.structures.crossing import best_crossing


def k_best_batch(
    boxes: Boxes, log_odds: np.ndarray, lengths: np.ndarray, k: int, options: DecodeOptions | None = None
) -> list[list[Decoded]]:
    """The ``k`` best structures of each sequence, distinct sets of pairs, in descending order of score.

    Fewer where fewer are allowed; the structure without pairs is one of them.

    Args:
        boxes: the proposals of all sequences.
        log_odds: ``(boxes,)`` natural log-odds of each box (:func:`rna_s2.structures.candidates.log_odds` of a probability).
        lengths: ``(rows,)`` bases of each sequence.
        k: how many at most.
        options: what is allowed and how it is scored; ``None`` for the defaults.

    Raises:
        ValueError: log-odds or lengths do not fit the boxes, a log-odds is not finite, or ``k`` is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
    options = options or DecodeOptions()
    candidates = candidate_boxes(boxes, log_odds, lengths, options)
    rows = map(candidates.row, range(boxes.rows))
    if options.crossing:
        return [best_crossing(stems, options, k) for stems in rows]
    return [list(islice(_Nested(stems, options).in_order(), k)) for stems in rows]


def decode_batch(
    boxes: Boxes, log_odds: np.ndarray, lengths: np.ndarray, options: DecodeOptions | None = None
) -> list[Decoded]:
    """The best structure of each sequence, without pairs where none scores above 0; the rest as for :func:`k_best_batch`."""
    return [found for (found,) in k_best_batch(boxes, log_odds, lengths, 1, options)]


@dataclass(frozen=True)
class _Choice:
    """One way to fill a goal: a stem (an index, or -1), the box of a loop (or ``NO_BOX``), what these add, what is left."""

    stem: int
    loop: int
    missing_loops: int
    gain: float
    goals: tuple[_Goal, ...]


_Goal = tuple[str, int, int]
"""What a derivation still has to fill: ``("outside", a, 0)`` any stems side by side from the ``a``-th start on;
``("inside", s, 0)`` what lies inside stem ``s``; ``("branches", a, b)`` one stem or more from the ``a``-th start on, up to the
``b``-th end, as branches of a multiloop."""

_Link = tuple[int, int, int, "_Link"] | None
"""Stems, loops and counts chosen so far: the last choice and a link to those before it."""


class _Nested:
    """The dynamic programming of one sequence, and the search for its best structures.

    A start is one of the distinct first bases of stems, an end one of their distinct last bases; both are numbered in order.
    """

    def __init__(self, stems: Candidates, options: DecodeOptions) -> None:
        self.stems = stems
        self.missing = options.missing_loop
        self.branch = options.branch
        starts = np.unique(stems.i)
        ends, number = np.unique(stems.j, return_inverse=True)
        self.end = number + 1  # 1 for the first of the distinct ends; 0: before all of them
        self.first_of_start = np.searchsorted(stems.i, starts)
        self.after = np.searchsorted(starts, stems.j, "right")  # first start behind this one
        self.first_inside = np.searchsorted(stems.i, stems.x, "right")  # first stem that begins inside this one
        self.bound = np.searchsorted(ends, stems.y, "left")  # number of ends inside this one
        self.value = np.full(len(stems), -np.inf)  # best score of a structure with this one outermost stem
        self.branches = np.full((len(starts) + 1, len(ends) + 1), -np.inf)  # one stem or more, each with ``branch``
        self.outside = np.zeros(len(starts) + 1)  # any stems from this start on, in the exterior loop
        last = len(stems)
        for start in range(len(starts) - 1, -1, -1):
            first = int(self.first_of_start[start])
            branches = self.branches[start]
            branches[:] = self.branches[start + 1]
            best = self.outside[start + 1]
            for s in range(first, last):
                one, more = self._inside(s)
                within = np.concatenate([stems.hairpin[[s]], one, more]).max()
                self.value[s] = value = stems.score[s] + within
                end, after = int(self.end[s]), int(self.after[s])
                joined = np.maximum(self.branches[after, end:], 0.0)
                joined += value + self.branch
                np.maximum(branches[end:], joined, out=branches[end:])
                best = max(best, value + self.outside[after])
            self.outside[start] = best
            last = first

    def _inside(self, s: int) -> tuple[np.ndarray, np.ndarray]:
        """What stem ``s`` can enclose, for each stem ``t`` from the first that begins inside it on.

        Returns:
            ``(m,)`` scores with an internal loop and ``t`` behind it, and ``(m,)`` with a multiloop whose first stem is
            ``t``; ``-inf`` where there is no such structure.
        """
        first = int(self.first_inside[s])
        inner = self.value[first:]
        if not len(inner):
            return inner, inner
        stems = self.stems
        one = np.where(stems.j[first:] < stems.y[s], inner + self.missing, -np.inf)
        for loop in range(*stems.loops[s].tolist()):
            low, high = stems.loop_stems[loop].tolist()
            one[low - first: high - first] = self.value[low:high] + stems.loop_score[loop]
        low, high = stems.stacked[s].tolist()
        one[low - first: high - first] = -np.inf
        more = inner + self.branches[self.after[first:], self.bound[s]]
        more += self.missing + 2.0 * self.branch  # of the closing stem and of the first inside; the others have theirs
        return one, more

    def in_order(self) -> Iterator[Decoded]:
        """All structures in descending order of score, by best-first search over unfinished derivations.

        A derivation is a stack of goals; its bound is the gain so far and the best score of each goal. It waits with its
        top goal's next choice; taking that choice replaces the goal, and the choice after it waits in its place.
        """
        choices: dict[_Goal, _Choices] = {}
        order = count()  # of equal bounds the one that came first
        start: _Goal = ("outside", 0, 0)
        waiting: list[tuple[Any, ...]] = [(-self.outside[0], next(order), 0.0, None, (start, None), 0)]
        while waiting:
            bound, _, gain, chosen, (goal, rest), rank = heapq.heappop(waiting)
            of_goal = choices.get(goal)
            if of_goal is None:
                of_goal = choices[goal] = _Choices(self, goal)
            drop = of_goal.score(rank) - of_goal.score(rank + 1)
            if np.isfinite(drop):
                heapq.heappush(waiting, (bound + drop, next(order), gain, chosen, (goal, rest), rank + 1))
            choice = of_goal.choice(rank)
            chosen = (choice.stem, choice.loop, choice.missing_loops, chosen)
            for later in reversed(choice.goals):
                rest = (later, rest)
            if rest is None:
                yield self._decoded(chosen, gain + choice.gain)
            else:
                heapq.heappush(waiting, (bound, next(order), gain + choice.gain, chosen, rest, 0))

    def _decoded(self, chosen: _Link, score: float) -> Decoded:
        stems, loops, missing = [], [], 0
        while chosen is not None:
            stem, loop, missing_loops, chosen = chosen
            missing += missing_loops
            if stem >= 0:
                stems.append(stem)
            if loop != NO_BOX:
                loops.append(loop)
        index = np.array(sorted(stems), np.int64)
        boxes = np.sort(np.concatenate([self.stems.box[index], np.array(loops, np.int64)]))
        return Decoded(self.stems.pairs_of(index), boxes, float(score), missing)


class _Choices:
    """The ways to fill one goal, best first; ranks after the best are sorted only when one is asked for."""

    def __init__(self, table: _Nested, goal: _Goal) -> None:
        self.table = table
        self.goal = goal
        self.scores = getattr(self, f"_{goal[0]}_scores")(*goal[1:])
        self.order = np.array([np.argmax(self.scores)])  # the best alone, until another one is asked for

    def _option(self, rank: int) -> int:
        if rank and len(self.order) == 1:
            self.order = np.argsort(-self.scores, kind="stable")
        return int(self.order[rank])

    def score(self, rank: int) -> float:
        """The best score of a structure that fills the goal in this way; ``-inf`` beyond the last."""
        return float(self.scores[self._option(rank)]) if rank < len(self.scores) else -np.inf

    def choice(self, rank: int) -> _Choice:
        """The way of this rank, 0 the best."""
        return getattr(self, f"_{self.goal[0]}_choice")(*self.goal[1:], self._option(rank))

    def _stem(self, t: int, extra: float, goals: tuple[_Goal, ...], loop: int = NO_BOX, missing: int = 0) -> _Choice:
        return _Choice(t, loop, missing, self.table.stems.score[t] + extra, (("inside", t, 0), *goals))

    # From a start on in the exterior loop: nothing (option 0), or the first stem and what follows it.

    def _outside_scores(self, start: int, _: int) -> np.ndarray:
        table = self.table
        first = self._first(start)
        return np.concatenate([[0.0], table.value[first:] + table.outside[table.after[first:]]])

    def _outside_choice(self, start: int, _: int, option: int) -> _Choice:
        if option == 0:
            return _Choice(-1, NO_BOX, 0, 0.0, ())
        t = self._first(start) + option - 1
        return self._stem(t, 0.0, (("outside", int(self.table.after[t]), 0),))

    # Inside stem s: a hairpin loop (option 0), one stem behind an internal loop, or the first stem of a multiloop.

    def _inside_scores(self, s: int, _: int) -> np.ndarray:
        return np.concatenate([[self.table.stems.hairpin[s]], *self.table._inside(s)])

    def _inside_choice(self, s: int, _: int, option: int) -> _Choice:
        table, stems = self.table, self.table.stems
        if option == 0:
            box = int(stems.hairpin_box[s])
            return _Choice(-1, box, int(box == NO_BOX), stems.hairpin[s], ())
        first = int(table.first_inside[s])
        more, t = divmod(option - 1, len(stems) - first)
        t += first
        if more:
            branches = ("branches", int(table.after[t]), int(table.bound[s]))
            return self._stem(t, table.missing + 2.0 * table.branch, (branches,), missing=1)
        for loop in range(*stems.loops[s].tolist()):
            low, high = stems.loop_stems[loop].tolist()
            if low <= t < high:
                return self._stem(t, stems.loop_score[loop], (), loop=int(stems.loop_box[loop]))
        return self._stem(t, table.missing, (), missing=1)

    # Branches from a start on, up to an end: the first stem as the last one, or with further branches behind it.

    def _branches_scores(self, start: int, end: int) -> np.ndarray:
        table = self.table
        first = self._first(start)
        last = np.where(table.end[first:] <= end, table.value[first:] + table.branch, -np.inf)
        return np.concatenate([last, last + table.branches[table.after[first:], end]])

    def _branches_choice(self, start: int, end: int, option: int) -> _Choice:
        table = self.table
        first = self._first(start)
        more, t = divmod(option, len(table.stems) - first)
        t += first
        return self._stem(t, table.branch, (("branches", int(table.after[t]), end),) if more else ())

    def _first(self, start: int) -> int:
        """The first stem of a start; behind the last start, the number of stems."""
        return int(self.table.first_of_start[start]) if start < len(self.table.first_of_start) else len(self.table.stems)
