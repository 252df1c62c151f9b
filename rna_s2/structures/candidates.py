"""The boxes of each sequence that a structure may hold, sorted and matched to each other for decoding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from rna_s2.options.base import Options
from rna_s2.rna.boxes import HLOOP, ILOOP, STEM, Boxes, inner_corner, inner_pair, inside_map, ragged_positions

SMALLEST_PROBABILITY = 1e-6
"""Probabilities are kept this far from 0 and 1 before their log-odds are taken: single precision knows no nearer."""

NO_BOX = -1


class DecodeOptions(Options):
    """Which structures are allowed, and what a structure is worth (:mod:`rna_s2.structures.decode`)."""

    min_confidence: float = Field(
        0.0, ge=0, lt=1, description="least probability of a stem that may be chosen; 0: any stem"
    )
    min_hairpin: int = Field(3, ge=0, description="least number of unpaired bases in a hairpin loop")
    min_stem: int = Field(1, ge=1, description="least number of base pairs in a stem; 2 leaves out lone pairs")
    threshold: float = Field(
        0.25, gt=0, lt=1, description="probability at which a box counts neither for nor against a structure: its"
        " log-odds are added less those of the threshold; lower values give more pairs, 0.5 the plain sum of log-odds",
    )
    missing_loop: float = Field(
        -1.0, description="added for each loop closed by a stem that no box stands for: a hairpin or internal loop that"
        " was not proposed, or a multiloop; -1000 in effect forbids such loops",
    )
    branch: float = Field(0.0, description="added for each stem that ends in a multiloop, the closing one included")
    crossing: bool = Field(False, description="allow stems that cross (pseudoknots), by integer programming: slower")
    crossing_stem: float = Field(
        -2.0, le=0, description="with crossing: added for each stem outside of the nested part of the structure"
    )
    crossing_max_stems: int = Field(
        100, ge=1, description="with crossing: only so many stems take part, those of the highest log-odds"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> DecodeOptions:
        if self.crossing and self.branch != 0:
            raise ValueError("branch must be 0 with crossing")
        return self


def log_odds(probability: np.ndarray) -> np.ndarray:
    """``ln(p / (1 - p))`` as float64, finite for every ``p`` in 0..1 (see :data:`SMALLEST_PROBABILITY`)."""
    return _exact_log_odds(np.clip(np.asarray(probability, np.float64), SMALLEST_PROBABILITY, 1.0 - SMALLEST_PROBABILITY))


def _exact_log_odds(p: np.ndarray | float) -> np.ndarray:
    return np.log(p) - np.log1p(-np.asarray(p))


@dataclass(frozen=True)
class Candidates:
    """What can be chosen for one sequence of ``length`` bases. Stems are sorted by ``i``, then ``j``, then size.

    Attributes:
        length: bases.
        i, j: ``(stems,)`` int64 outer pair of each stem; ``x``, ``y``: its inner pair.
        score: ``(stems,)`` float64 what each stem adds; ``box``: ``(stems,)`` int64 index of the box.
        hairpin: ``(stems,)`` float64 what the hairpin loop inside each stem adds if nothing pairs inside;
            ``hairpin_box``: its box, :data:`NO_BOX` where none was proposed.
        stacked: ``(stems, 2)`` int64 first and one past the last stem whose outer pair lies directly on the inner pair
            of this one; such two would be one longer stem.
        loops: ``(stems, 2)`` int64 first and one past the last internal loop that this stem's inner pair closes.
        loop_score, loop_box: ``(loops,)`` what each internal loop adds, and its box.
        loop_stems: ``(loops, 2)`` int64 first and one past the last stem whose outer pair is the loop's inner pair.
    """

    length: int
    i: np.ndarray
    j: np.ndarray
    x: np.ndarray
    y: np.ndarray
    score: np.ndarray
    box: np.ndarray
    hairpin: np.ndarray
    hairpin_box: np.ndarray
    stacked: np.ndarray
    loops: np.ndarray
    loop_score: np.ndarray
    loop_box: np.ndarray
    loop_stems: np.ndarray

    def __len__(self) -> int:
        return len(self.i)

    def pairs_of(self, chosen: np.ndarray) -> np.ndarray:
        """``(k, 2)`` int32 base pairs of the chosen stems (indices), sorted by ``i``."""
        stem, step = ragged_positions(self.x[chosen] - self.i[chosen] + 1)
        pairs = np.stack([self.i[chosen][stem] + step, self.j[chosen][stem] - step], axis=1)
        return pairs[np.argsort(pairs[:, 0])].astype(np.int32)


@dataclass(frozen=True)
class Decoded:
    """A structure made of boxes.

    Attributes:
        pairs: ``(k, 2)`` int32 base pairs ``i < j``, 0-based, sorted by ``i``, each base in one at most.
        boxes: ``(chosen,)`` int64 indices of the proposals it consists of (into the columns of the ``Boxes`` that were
            decoded), ascending: its stems, and its loops as far as they were proposed.
        score: its score (:mod:`rna_s2.structures.decode`), in natural logarithms.
        missing_loops: number of loops closed by a stem that no box stands for, multiloops included.
    """

    pairs: np.ndarray
    boxes: np.ndarray
    score: float
    missing_loops: int


@dataclass(frozen=True)
class CandidateBoxes:
    """:class:`Candidates` of many sequences.

    Attributes:
        lengths: ``(rows,)`` bases.
        boxes: the proposals.
        scores: ``(boxes,)`` float64 log-odds less those of the threshold.
        usable: of each type, the indices of the usable boxes by row, corner and size, and ``(rows + 1,)`` where those of each
            row begin.
    """

    lengths: np.ndarray
    options: DecodeOptions
    boxes: Boxes
    scores: np.ndarray
    usable: tuple[tuple[np.ndarray, np.ndarray], ...]

    def row(self, r: int) -> Candidates:
        """What can be chosen for sequence ``r``."""
        length, b = int(self.lengths[r]), self.boxes
        stem, loop, hairpin = (index[offsets[r]: offsets[r + 1]] for index, offsets in self.usable)

        def pairs(index: np.ndarray) -> tuple[np.ndarray, ...]:
            i, j = b.bb_x[index].astype(np.int64), b.bb_y[index].astype(np.int64)
            return i, j, *inner_corner(i, j, b.siz_x[index], b.siz_y[index])

        (i, j, x, y), (loop_i, loop_j, loop_x, loop_y), (hairpin_i, hairpin_j, _, _) = map(pairs, (stem, loop, hairpin))
        outer, inner, closing = i * length + j, x * length + y, hairpin_i * length + hairpin_j
        hairpin_score = np.full(len(stem), self.options.missing_loop)
        hairpin_box = np.full(len(stem), NO_BOX, np.int64)
        if len(hairpin):
            place = np.minimum(np.searchsorted(closing, inner), len(hairpin) - 1)
            found = closing[place] == inner
            hairpin_box[found] = hairpin[place[found]]
            hairpin_score[found] = self.scores[hairpin_box[found]]
        return Candidates(
            length, i, j, x, y, self.scores[stem], stem, hairpin_score, hairpin_box,
            stacked=_ranges(outer, inner + length - 1), loops=_ranges(loop_i * length + loop_j, inner),
            loop_score=self.scores[loop], loop_box=loop, loop_stems=_ranges(outer, loop_x * length + loop_y),
        )


def _ranges(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """``(len(wanted), 2)``: where in sorted ``values`` the entries equal to each wanted value begin and end."""
    return np.stack([np.searchsorted(values, wanted, side) for side in ("left", "right")], axis=1)


def candidate_boxes(boxes: Boxes, log_odds: np.ndarray, lengths: np.ndarray, options: DecodeOptions) -> CandidateBoxes:
    """The boxes that can be part of a structure.

    Left out, because no allowed structure has them: boxes that reach out of the map; stems and hairpin loops that are not
    square, hairpin loops off the diagonal; stems whose inner pair leaves less room than the smallest hairpin loop;
    internal loops without an unpaired base; and what the options forbid. Of identical boxes the one of the highest
    log-odds counts, the first among equals.

    Raises:
        ValueError: log-odds or lengths do not fit the boxes, or a log-odds is not finite.
    """
    scores = np.asarray(log_odds, np.float64)
    lengths = np.asarray(lengths, np.int64).reshape(-1)
    if scores.shape != (len(boxes),):
        raise ValueError(f"{scores.shape} log-odds for {len(boxes)} boxes")
    if len(lengths) != boxes.rows:
        raise ValueError(f"{len(lengths)} lengths for {boxes.rows} sequences")
    if not np.isfinite(scores).all():
        raise ValueError(f"the log-odds of box {int(np.argmin(np.isfinite(scores)))} is not finite")
    x, y = inner_pair(boxes)
    usable = inside_map(boxes, lengths) & ((boxes.type == ILOOP) | (boxes.siz_x == boxes.siz_y))
    least = _exact_log_odds(options.min_confidence) if options.min_confidence > 0 else -np.inf
    stem = (boxes.siz_x >= options.min_stem) & (y - x - 1 >= options.min_hairpin) & (y > x) & (scores >= least)
    iloop = (boxes.siz_x >= 2) & (boxes.siz_y >= 2) & (boxes.siz_x + boxes.siz_y > 4) & (y > x)
    hloop = (boxes.bb_y - boxes.bb_x + 1 == boxes.siz_x) & (boxes.siz_x - 2 >= options.min_hairpin)
    scores = scores - _exact_log_odds(options.threshold)
    of_type = ((STEM, stem), (ILOOP, iloop), (HLOOP, hloop))
    kept = tuple(_sorted(boxes, scores, usable & (boxes.type == code) & fits) for code, fits in of_type)
    return CandidateBoxes(lengths, options, boxes, scores, kept)


def _sorted(boxes: Boxes, scores: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the kept boxes by row, corner and size, each once; and their offsets per row."""
    index = np.flatnonzero(keep)
    row = boxes.row[index]
    place = (boxes.siz_y[index], boxes.siz_x[index], boxes.bb_y[index], boxes.bb_x[index], row)
    order = np.lexsort((-scores[index], *place))
    repeated = np.zeros(len(order), bool)
    if len(order):
        repeated[1:] = np.logical_and.reduce([np.diff(column[order]) == 0 for column in place])
    order = order[~repeated]
    return index[order], np.searchsorted(row[order], np.arange(boxes.rows + 1))
