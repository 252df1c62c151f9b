"""The registry of decoders: what the options take from it, and a further decoder."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from rna_s2.rna.boxes import HLOOP, STEM, Boxes
from rna_s2.structures import decoders
from rna_s2.structures.candidates import Decoded, DecodeOptions
from rna_s2.structures.decoders import AUTO, DECODERS, Decoder, DecoderChoice, decode_structures
from rna_s2.structures.pairing import base_pair_probabilities

SEQS = ["GGGGAAAACCCC", "AAAA", "GGGGAAAACCCC"]
BOXES = Boxes.from_rows([
    [(STEM, 0, 11, 4, 4), (STEM, 1, 9, 2, 2), (HLOOP, 3, 8, 6, 6)], [], [(STEM, 0, 11, 4, 4)],
])
PROBABILITY = np.array([0.9, 0.3, 0.8, 0.6])
PAIRING = [base_pair_probabilities(BOXES, PROBABILITY, len(seq), row=row) for row, seq in enumerate(SEQS)]


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_finds_the_hairpin_and_its_boxes(name):
    first, second, third = decode_structures(BOXES, PROBABILITY, PAIRING, SEQS, DecoderChoice(decoder=name))
    assert first[0].pairs.tolist() == third[0].pairs.tolist() == [[0, 11], [1, 10], [2, 9], [3, 8]]
    assert second[0].pairs.shape == (0, 2) and len(second[0].boxes) == 0
    assert (first[0].boxes.tolist(), first[0].missing_loops) == ([0, 2], 0)
    assert (third[0].boxes.tolist(), third[0].missing_loops) == ([3], 1)


def test_the_default_is_energy_unless_several_or_crossing_structures_are_wanted():
    assert DecoderChoice().decoder == AUTO == "auto" and DecoderChoice().chosen_decoder == "energy"
    assert DecoderChoice(k=2).chosen_decoder == "exact"
    assert DecoderChoice(decoding=DecodeOptions(crossing=True)).chosen_decoder == "exact"
    assert DecoderChoice(decoder="mea").chosen_decoder == "mea"
    assert [len(of_row) for of_row in decode_structures(BOXES, PROBABILITY, PAIRING, SEQS, DecoderChoice(k=2))] == [2, 1, 2]


def test_the_options_take_names_and_help_from_the_registry():
    help_text = DecoderChoice.model_fields["decoder"].description or ""
    assert "exact: the structure of the highest sum of log-odds of its boxes; mea: maximum expected accuracy over" in help_text
    assert all(f"{name}: {decoder.description}; " in help_text for name, decoder in DECODERS.items())
    assert help_text.endswith("auto: energy; with k above 1 exact, with crossing exact")
    with pytest.raises(ValidationError, match="Input should be 'auto', 'exact', 'mea'"):
        DecoderChoice(decoder="best")


def test_a_further_decoder_is_chosen_where_it_alone_is_able(monkeypatch):
    def unpaired(boxes, probability, pairing, seqs, options):
        return [[Decoded(np.zeros((0, 2), np.int32), np.zeros(0, np.int64), 0.0, 0)] * options.k for _ in seqs]

    none = Decoder("no pairs", unpaired, several=True)
    monkeypatch.setattr(decoders, "DECODERS", {"energy": DECODERS["energy"], "none": none})
    options = DecoderChoice(k=3)
    assert options.chosen_decoder == "none"
    assert [len(of_row) for of_row in decode_structures(BOXES, PROBABILITY, PAIRING, SEQS, options)] == [3, 3, 3]
    with pytest.raises(ValidationError, match="k 2 needs the decoder none; energy gives one structure"):
        DecoderChoice(k=2, decoder="energy")
    with pytest.raises(ValidationError, match="crossing stems need the decoder "):
        DecoderChoice(decoding=DecodeOptions(crossing=True))
