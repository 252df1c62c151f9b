"""The alphabet: codes, ambiguity, which bases pair."""

from __future__ import annotations

import string
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rna_s2.rna.sequence import (
    CAN_PAIR,
    ILLEGAL,
    codes_of,
    decode,
    encode,
    encode_many,
    illegal_characters,
    mask_ambiguous,
    pairable,
)

CANONICAL = {"AU", "UA", "GC", "CG", "GU", "UG"}


def test_codes_are_those_of_the_order_a_c_g_t_n_in_any_case():
    assert encode("ACGTUNacgtun").tolist() == [0, 1, 2, 3, 3, 4] * 2
    assert encode("").tolist() == []


def test_ambiguity_codes_are_n_and_every_other_character_is_illegal():
    legal = set("ACGTUNRYSWKMBDHV")
    for character in string.printable + "éŁ\u2028":
        codes = codes_of(character)
        assert len(codes) == 1
        assert (codes[0] == ILLEGAL) == (character.upper() not in legal), character
    assert encode("RYSWKMBDHVryswkmbdhv").tolist() == [4] * 20


@pytest.mark.parametrize(
    ("seq", "said"),
    [
        ("AC-GU", "'-' at position 3 is"),
        ("ACGX", "'X' at position 4 is"),
        ("A CŁ", "' ' at position 2 and 1 more is"),
    ],
)
def test_an_illegal_character_is_named_with_its_position(seq, said):
    with pytest.raises(ValueError, match=said):
        encode(seq)


def test_legal_sequences_have_nothing_wrong():
    assert illegal_characters("acgunRY") == ""


@given(st.lists(st.text("ACGTUNacgux-", max_size=8), max_size=6))
def test_many_sequences_are_each_sequence_in_turn(seqs):
    codes, offsets = encode_many(seqs)
    assert offsets[0] == 0 and offsets.dtype == np.int64
    assert [codes[a:b].tolist() for a, b in pairwise(offsets)] == [
        codes_of(s).tolist() for s in seqs
    ]


@given(st.text("ACGTN"))
def test_decoding_is_the_way_back(seq):
    assert decode(encode(seq)) == seq
    assert decode(encode(seq), rna=True) == seq.replace("T", "U")


def test_only_a_u_g_c_and_g_u_pair():
    letters = "ACGUN"
    pairing = {a + b for i, a in enumerate(letters) for j, b in enumerate(letters) if CAN_PAIR[i, j]}
    assert pairing == CANONICAL
    assert CAN_PAIR[encode("AGN"), encode("UAA")].tolist() == [True, False, False]


@given(st.text("ACGUNacgt", max_size=12))
def test_the_map_of_pairable_cells_is_that_of_two_loops(seq):
    text = seq.upper().replace("T", "U")
    want = [[i < j and text[i] + text[j] in CANONICAL for j in range(len(text))] for i in range(len(text))]
    assert pairable(encode(seq)).tolist() == want


def test_masking_changes_ambiguity_codes_alone():
    assert mask_ambiguous("AuGtRyNn-") == "AuGtNnNn-"
