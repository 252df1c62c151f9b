"""Structure prediction: valid whatever the networks say, the same in any company, a fault is no failure of a sequence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from chain_models import EVERY_CELL, small_models
from hypothesis import given, settings
from hypothesis import strategies as st

from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.options.errors import UserError
from rna_s2.pipeline.open_models import ModelOptions, open_models, overlaid
from rna_s2.pipeline.structure_prediction import (
    Models,
    PipelineOptions,
    chunks,
    free_energy,
    load_pipeline,
    predict,
    predict_each,
    save_pipeline,
    top_proposals,
)
from rna_s2.rna import formats
from rna_s2.rna.boxes import STEM, Boxes
from rna_s2.rna.pairs import from_dot_bracket, loop_boxes, pairs_of_boxes, remove_pseudoknots
from rna_s2.rna.sequence import CAN_PAIR, encode
from rna_s2.structures.candidates import DecodeOptions
from rna_s2.structures.prediction import Failure

MODELS = small_models()
SEQUENCES = [
    formats.SequenceRecord("one", "GGGCGCAAGCCCAGGCUUUUGCCUA"), formats.SequenceRecord("two", "ggguuaacccnnaaugc"),
    formats.SequenceRecord("short", "A"), formats.SequenceRecord("four", "GCGCUUUUGCGCAUAGCGGAAACCGC"),
]


def assert_same(first, second) -> None:
    assert first.name == second.name and first.dot_bracket() == second.dot_bracket()
    np.testing.assert_allclose(first.probability, second.probability, atol=1e-6)
    np.testing.assert_array_equal(first.chosen, second.chosen)
    np.testing.assert_allclose(first.pairing.p, second.pairing.p, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text("ACGUN", min_size=1, max_size=40), min_size=1, max_size=4),
    st.sampled_from(["exact", "mea", "energy", "crossing"]), st.sampled_from([0, 3, 5]),
)
def test_structures_are_valid_and_made_of_what_was_chosen(seqs, decoder, min_hairpin):
    crossing = decoder == "crossing"
    decoding = DecodeOptions(min_hairpin=min_hairpin, threshold=0.5, crossing=crossing, crossing_max_stems=20)
    options = EVERY_CELL.model_copy(update={"decoder": "exact" if crossing else decoder, "decoding": decoding})
    found = predict([formats.SequenceRecord(str(n), seq) for n, seq in enumerate(seqs)], *MODELS, options)
    assert not found.failures and [p.name for p in found.records] == [str(n) for n in range(len(seqs))]
    for prediction, seq in zip(found.records, seqs, strict=True):
        pairs = prediction.best.pairs
        np.testing.assert_array_equal(from_dot_bracket(prediction.dot_bracket()), pairs)
        codes = encode(seq)
        assert CAN_PAIR[codes[pairs[:, 0]], codes[pairs[:, 1]]].all()
        boxes = set(loop_boxes(remove_pseudoknots(pairs)[0]))
        assert all(box[3] - 2 >= min_hairpin for box in boxes if box[0] == 2)
        chosen = [box for box, kept in zip(prediction.boxes.row_boxes(0), prediction.chosen, strict=True) if kept]
        assert crossing or set(chosen) <= boxes
        if decoder in ("exact", "crossing"):
            stated = pairs_of_boxes([box for box in chosen if box[0] == STEM])
            np.testing.assert_array_equal(stated, pairs)
        assert 0 <= prediction.best.confidence <= 1
        assert (prediction.pairing.paired() <= 1 + 1e-9).all()


def test_some_structure_has_pairs():
    """The property above says nothing where nothing ever pairs."""
    found = predict(SEQUENCES, *MODELS, EVERY_CELL)
    assert sum(len(p.best.pairs) for p in found.records) > 3


def test_the_company_of_a_sequence_changes_nothing():
    together = predict(SEQUENCES, *MODELS, EVERY_CELL)
    for chunk in (1, 3):
        alone = predict(SEQUENCES, *MODELS, EVERY_CELL.model_copy(update={"chunk": chunk}))
        for first, second in zip(together.records, alone.records, strict=True):
            assert_same(first, second)


def test_a_failure_is_recorded_and_the_rest_is_done():
    bad = [formats.SequenceRecord("empty", ""), formats.SequenceRecord("X", "GGXX"), formats.SequenceRecord("long", "A" * 31)]
    mixed = [SEQUENCES[0], bad[0], bad[1], SEQUENCES[1], bad[2], SEQUENCES[2]]
    found = predict(mixed, *MODELS, EVERY_CELL.model_copy(update={"max_len": 30, "chunk": 4}))
    assert [p.name for p in found.records] == ["one", "two", "short"]
    assert found.failures == [
        Failure("empty", "the sequence is empty"),
        Failure("X", "character 'X' at position 3 and 1 more is not a base (A C G T U N or an IUPAC code)"),
        Failure("long", "the sequence has 31 bases, more than max_len 30"),
    ]


class Breaking:
    """A stage 2 that raises an error for the second sequence."""

    network = MODELS.s2.network

    def __init__(self, error: Exception) -> None:
        self.error = error

    def score_table(self, table):
        if (table.lengths == len(SEQUENCES[1].seq)).any():
            raise self.error
        return MODELS.s2.score_table(table)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserError("a box runs\nout"), "a box runs out"), (MemoryError(), "MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory"), "CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_sequence_that_cannot_be_used_or_held_in_memory_fails_alone(error, reason):
    found = predict(SEQUENCES, MODELS.s1, Breaking(error), EVERY_CELL)
    assert [p.name for p in found.records] == ["one", "short", "four"]
    assert found.failures == [Failure("two", reason)]


@pytest.mark.parametrize("error", [ValueError("shapes"), RuntimeError("shapes"), KeyError("x"), AssertionError("x")])
def test_a_fault_of_the_program_ends_the_prediction(error):
    with pytest.raises(type(error)):
        predict(SEQUENCES, MODELS.s1, Breaking(error), EVERY_CELL)


def test_sequences_are_read_a_chunk_ahead_and_no_further():
    taken = []

    def endless():
        for n in range(10**9):
            taken.append(n)
            yield formats.SequenceRecord(str(n), "GGGAAACCC")

    stream = predict_each(endless(), MODELS, EVERY_CELL.model_copy(update={"chunk": 5}))
    assert next(stream).name == "0" and len(taken) == 6
    few_cells = [len(c) for c in chunks([formats.SequenceRecord("", "A" * 1500)] * 4, 64)]
    assert few_cells == [1, 1, 1, 1]


def test_k_best_structures_are_distinct_and_in_order():
    found = predict(SEQUENCES[:1], *MODELS, EVERY_CELL.model_copy(update={"k": 6})).records[0]
    assert len({found.dot_bracket(rank) for rank in range(6)}) == 6
    scores = [s.score for s in found.structures]
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(ValueError, match="needs the decoder exact"):
        PipelineOptions(k=2, decoder="mea")
    with pytest.raises(ValueError, match="crossing stems need the decoder exact"):
        PipelineOptions(decoder="mea", decoding=DecodeOptions(crossing=True))


def test_minimum_confidence_leaves_out_stems():
    for decoder in ("exact", "mea", "energy"):
        sure = PipelineOptions(
            selection=EVERY_CELL.selection, max_boxes=300, decoder=decoder, decoding=DecodeOptions(min_confidence=0.999)
        )
        assert [len(p.best.pairs) for p in predict(SEQUENCES, *MODELS, sure).records] == [0] * 4


def test_the_top_proposals_are_kept_in_their_order():
    boxes = Boxes.from_rows([[(STEM, k, 20 + k, 1, 1) for k in range(4)], [(STEM, 0, 9, 1, 1)]])
    values = [np.array([0.1, 0.9]), np.array([]), np.array([0.5]), np.array([0.3]), np.array([0.2])]
    offsets = np.concatenate([[0], np.cumsum([len(v) for v in values])])
    scalar = Ragged(np.array([0.4]), np.array([0, 0, 1, 1, 1, 1]))
    table = BoxTable(pd.DataFrame({"seq": ["A" * 30] * 2}), boxes, None, Ragged(np.concatenate(values), offsets), scalar)
    kept, left_out = top_proposals(table, 3)
    assert kept.proposals.bb_x.tolist() == [0, 1, 2, 0] and left_out.tolist() == [1, 0]
    assert top_proposals(table, 4)[0] is table


def test_free_energies():
    """The hairpin's energy as RNAeval gives it; what cannot form has none; crossing pairs have no part in it."""
    assert free_energy("GGGGAAAACCCC", from_dot_bracket("((((....))))")) == pytest.approx(-5.4, abs=0.01)
    assert free_energy("ggggaaaacccc", from_dot_bracket("............")) == 0.0
    assert np.isnan(free_energy("GGAUCC", from_dot_bracket("((..))")))
    knotted = free_energy("GGGGAAAACCCCAAAAAA", from_dot_bracket("((((.[..))))..]..."))
    assert knotted == pytest.approx(free_energy("GGGGAAAACCCCAAAAAA", from_dot_bracket("((((....))))......")))


def test_a_saved_pipeline_is_the_same(tmp_path):
    save_pipeline(MODELS, EVERY_CELL, tmp_path / "chain", {"f1": 0.5})
    models, options = load_pipeline(tmp_path / "chain")
    assert options == EVERY_CELL and isinstance(models, Models)
    for first, second in zip(
        predict(SEQUENCES, *MODELS, EVERY_CELL).records, predict(SEQUENCES, *models, options).records, strict=True
    ):
        assert_same(first, second)
    (tmp_path / "chain" / "chain.json").write_text('{"format": "other"}')
    with pytest.raises(UserError, match=r"chain\.json: is not 'rna-s2 chain"):
        load_pipeline(tmp_path / "chain")
    with pytest.raises(UserError, match="cannot be read"):
        load_pipeline(tmp_path)


def test_options_that_would_have_no_effect_are_refused():
    with pytest.raises(ValueError, match=r"pruning\.max_len has no effect here; set max_len beside it"):
        PipelineOptions.model_validate({"pruning": {"max_len": 3}})
    with pytest.raises(ValueError, match="give either model or s1_model"):
        ModelOptions(model="both", s1_model="one")


def test_given_options_stand_over_those_of_the_model(tmp_path):
    save_pipeline(MODELS, EVERY_CELL, tmp_path / "chain", {})
    given = {"model": str(tmp_path / "chain"), "chain": {"decoding": {"min_hairpin": 5}, "k": 2}}
    _, options = open_models(ModelOptions.model_validate(given))
    assert options.max_boxes == 300 and options.k == 2
    assert options.decoding == DecodeOptions(min_hairpin=5) and options.selection.on_threshold == 0.0
    assert options.pruning == PipelineOptions().pruning and options.pruning.drop_unclosed_loops
    with pytest.raises(UserError, match="needs the decoder exact"):
        overlaid(PipelineOptions(k=2), PipelineOptions(decoder="mea"))
    with pytest.raises(UserError, match="nowhere: no such folder"):
        open_models(ModelOptions(model="nowhere"))
