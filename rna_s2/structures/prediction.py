"""What a structure prediction gives for each sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rna_s2.rna.boxes import Boxes
from rna_s2.rna.pairs import to_dot_bracket
from rna_s2.structures.pairing import PairProbabilities


@dataclass(frozen=True)
class PredictedStructure:
    """One structure of a sequence.

    Attributes:
        pairs: ``(k, 2)`` int32 base pairs; they cross only where crossing stems were allowed.
        energy: free energy in kcal/mol by ViennaRNA's evaluation of the pairs without the crossing ones; NaN where its
            model has none (a hairpin below 3 unpaired bases).
        score: sum of the log-odds of what it consists of, as the decoder counts them; NaN where the decoder has none.
        confidence: 0..1, :func:`rna_s2.structures.pairing.structure_confidence`: the mean probability of its pairs.
    """

    pairs: np.ndarray
    energy: float
    score: float
    confidence: float


@dataclass(frozen=True)
class Prediction:
    """All that is predicted for one sequence.

    Attributes:
        name, seq: as given.
        structures: one or more, the best first.
        boxes: the proposals that stage 2 scored, of one row.
        probability: ``(boxes,)`` float64, stage 2's probability of each.
        chosen: ``(boxes,)`` bool: whether the best structure consists of it.
        pairing: probability of every base pair that a stem proposes.
        boxes_left_out: proposals beyond ``max_boxes``, which stage 2 did not see.
    """

    name: str
    seq: str
    structures: tuple[PredictedStructure, ...]
    boxes: Boxes
    probability: np.ndarray
    chosen: np.ndarray
    pairing: PairProbabilities
    boxes_left_out: int

    @property
    def best(self) -> PredictedStructure:
        """The first structure."""
        return self.structures[0]

    def dot_bracket(self, rank: int = 0) -> str:
        """A structure as dot-bracket."""
        return to_dot_bracket(self.structures[rank].pairs, len(self.seq))


class Failure(NamedTuple):
    """A sequence without a prediction, and why, in one line."""

    name: str
    reason: str


class Predictions(NamedTuple):
    """Predictions and failures of many sequences, both in the order of the sequences."""

    records: list[Prediction]
    failures: list[Failure]
