"""The decoders: ways from the probabilities of boxes to structures.

To add one, write its function with the signature of :data:`Decode`, an entry in :data:`DECODERS`, and its parameters, if it has
any, in :class:`DecoderChoice`. Allowed values, help, and what can be combined follow from the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from rna_s2.options.base import Options
from rna_s2.options.command_line import shown
from rna_s2.rna.boxes import STEM, Boxes, is_in
from rna_s2.rna.pairs import target_boxes
from rna_s2.structures.candidates import Decoded, DecodeOptions, log_odds
from rna_s2.structures.decode import k_best_batch
from rna_s2.structures.pairing import PairProbabilities, base_pair_probabilities, least_energy, maximum_expected_accuracy

Decode = Callable[[Boxes, np.ndarray, Sequence[PairProbabilities], Sequence[str], "DecoderChoice"], list[list[Decoded]]]
"""The signature of a decoder's function.

It takes the proposals of all rows, their probabilities (``(boxes,)`` float64 in 0..1), the base-pair probabilities of each row,
the sequences (``(rows,)``) and the options; it gives one list per sequence, the best structure first."""


@dataclass(frozen=True)
class Decoder:
    """A way from probabilities to structures.

    Attributes:
        description: one line for the help.
        decode: its function.
        several: gives more than one structure per sequence where ``k`` asks for them.
        crosses: finds stems that cross.
    """

    description: str
    decode: Decode
    several: bool = False
    crosses: bool = False


def _exact(
    boxes: Boxes, probability: np.ndarray, pairing: Sequence[PairProbabilities], seqs: Sequence[str], options: DecoderChoice
) -> list[list[Decoded]]:
    lengths = np.array([len(seq) for seq in seqs], np.int64)
    return k_best_batch(boxes, log_odds(probability), lengths, options.k, options.decoding)


def _mea(
    boxes: Boxes, probability: np.ndarray, pairing: Sequence[PairProbabilities], seqs: Sequence[str], options: DecoderChoice
) -> list[list[Decoded]]:
    def fold(of_row: PairProbabilities, seq: str) -> np.ndarray:
        return maximum_expected_accuracy(of_row, seq, options.gamma, options.decoding.min_hairpin)[0]

    return _folded(boxes, probability, pairing, seqs, options, fold)


def _energy(
    boxes: Boxes, probability: np.ndarray, pairing: Sequence[PairProbabilities], seqs: Sequence[str], options: DecoderChoice
) -> list[list[Decoded]]:
    unproposed = 0.0 if options.decoding.min_confidence else options.unproposed

    def fold(of_row: PairProbabilities, seq: str) -> np.ndarray:
        return least_energy(of_row, seq, options.evidence, unproposed, options.decoding.min_hairpin)

    return _folded(boxes, probability, pairing, seqs, options, fold)


def _folded(
    boxes: Boxes, probability: np.ndarray, pairing: Sequence[PairProbabilities], seqs: Sequence[str], options: DecoderChoice,
    fold: Callable[[PairProbabilities, str], np.ndarray],
) -> list[list[Decoded]]:
    """One structure per sequence, whose pairs ``fold`` finds as if stems below ``min_confidence`` had not been proposed; its
    boxes are the proposals that stand in its loop decomposition."""
    improbable = (boxes.type == STEM) & (probability < options.decoding.min_confidence)
    if improbable.any():
        kept = np.where(improbable, 0.0, probability)
        pairing = [base_pair_probabilities(boxes, kept, of_row.length, row) for row, of_row in enumerate(pairing)]
    found = [fold(of_row, seq) for of_row, seq in zip(pairing, seqs, strict=True)]
    targets = target_boxes(found)
    stands = is_in(boxes, targets)
    missing = np.diff(targets.offsets) - np.bincount(targets.row[is_in(targets, boxes)], minlength=len(found))
    return [
        [Decoded(pairs, start + np.flatnonzero(stands[start:end]), float("nan"), int(missing[row]))]
        for row, (pairs, (start, end)) in enumerate(zip(found, pairwise(boxes.offsets.tolist()), strict=True))
    ]


DECODERS: dict[str, Decoder] = {
    "exact": Decoder("the structure of the highest sum of log-odds of its boxes", _exact, several=True, crosses=True),
    "mea": Decoder("maximum expected accuracy over base-pair probabilities", _mea),
    "energy": Decoder("the lowest free energy, with the log-odds of base pairs counted in", _energy),
}
"""The decoders by the name that the options call them."""

AUTO, PREFERRED = "auto", "energy"
"""The default: the preferred decoder, unless several or crossing structures need another."""


def _able(ability: str) -> str:
    """Names of the decoders with an ability, for messages."""
    return " or ".join(name for name, decoder in DECODERS.items() if getattr(decoder, ability))


if TYPE_CHECKING:
    DecoderName = str
else:
    DecoderName = Literal[(AUTO, *DECODERS)]


class DecoderChoice(Options):
    """Which decoder makes the structures, how many, and the parameters of the decoders."""

    decoding: DecodeOptions = Field(
        DecodeOptions(), description="which structures are allowed, and their score",
        json_schema_extra=shown("min_confidence", "min_hairpin", "crossing", "threshold"),
    )
    decoder: DecoderName = Field(
        AUTO, description="; ".join(f"{name}: {decoder.description}" for name, decoder in DECODERS.items())
        + f"; {AUTO}: {PREFERRED}; with k above 1 {_able('several')}, with crossing {_able('crosses')}"
    )
    evidence: float = Field(
        0.1, ge=0, description="with energy: weight of a base pair's log-odds against the free energy over RT; 0: the free"
        " energy alone"
    )
    unproposed: float = Field(
        0.02, ge=0, lt=1, description="with energy: least probability of a base pair, that of pairs which no proposed stem"
        " contains included; 0, and with min_confidence: such pairs are forbidden"
    )
    gamma: float = Field(
        1.0, gt=0, description="with mea: weight of pairs; above 1 more pairs are found, below 1 fewer are wrong"
    )
    k: int = Field(
        1, ge=1, description=f"structures per sequence, the best first; more than one needs the decoder {_able('several')}"
    )

    @model_validator(mode="after")
    def _decoder_is_able(self) -> DecoderChoice:
        name = self.chosen_decoder
        if self.k > 1 and not DECODERS[name].several:
            raise ValueError(f"k {self.k} needs the decoder {_able('several')}; {name} gives one structure")
        if self.decoding.crossing and not DECODERS[name].crosses:
            raise ValueError(f"crossing stems need the decoder {_able('crosses')}; {name} finds none")
        return self

    @property
    def chosen_decoder(self) -> str:
        """Name of the decoder that is used, where the options leave it open."""
        if self.decoder != AUTO:
            return self.decoder
        for name in (PREFERRED, *DECODERS):
            decoder = DECODERS[name]
            if (decoder.several or self.k == 1) and (decoder.crosses or not self.decoding.crossing):
                return name
        return PREFERRED


def decode_structures(
    boxes: Boxes, probability: np.ndarray, pairing: Sequence[PairProbabilities], seqs: Sequence[str], options: DecoderChoice
) -> list[list[Decoded]]:
    """Structures of many sequences by the decoder that the options choose; arguments as for :data:`Decode`."""
    return DECODERS[options.chosen_decoder].decode(boxes, probability, pairing, seqs, options)
