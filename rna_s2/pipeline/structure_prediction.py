"""From sequences to secondary structures: stage 1 proposes boxes, pruning thins them out, stage 2 scores, decoding chooses.

What the commands run and what is served is this module. It reads and writes no files but those of the models, and works
through any number of sequences in chunks, so that memory does not grow with their number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator

from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.engine.tracker import timed
from rna_s2.fitting.devices import chosen_device
from rna_s2.options.base import validate
from rna_s2.options.command_line import shown
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path
from rna_s2.pruning.rules import REFERENCE_RULES, PruningRules, prune
from rna_s2.rna import formats
from rna_s2.rna.boxes import Boxes
from rna_s2.rna.pairs import remove_pseudoknots, to_dot_bracket
from rna_s2.rna.sequence import decode as decode_bases
from rna_s2.rna.sequence import encode, illegal_characters
from rna_s2.s1.model import load_network, save_network
from rna_s2.s1.network import ProposalNetwork
from rna_s2.s1.predict import with_proposals
from rna_s2.s1.selection import InferenceOptions, SelectionOptions
from rna_s2.s2.scorer import Scorer
from rna_s2.structures.decoders import DecoderChoice, decode_structures
from rna_s2.structures.pairing import base_pair_probabilities, structure_confidence
from rna_s2.structures.prediction import Failure, PredictedStructure, Prediction, Predictions

S1_FOLDER, S2_FOLDER, OPTIONS_FILE = "s1", "s2", "chain.json"
"""What a saved pipeline consists of: the two networks' folders, and its options."""

FORMAT = "rna-s2 chain, version 1"
CHUNK_CELLS = 4_000_000
"""Map cells that the sequences of a chunk have together, at most; a longer sequence is a chunk of its own."""

IMPOSSIBLE_ENERGY = 1e4
"""ViennaRNA gives a structure with a loop that cannot form 100,000 kcal/mol for each; no sequence that can be held in
memory has a real energy above this, in kcal/mol."""

_REASON_LENGTH = 300


class PipelineOptions(DecoderChoice):
    """How sequences become structures."""

    selection: SelectionOptions = Field(
        SelectionOptions(min_support=0.01), description="which of stage 1's proposals are kept",
        json_schema_extra=shown("selection", "on_threshold", "n_proposal_threshold", "min_support"),
    )
    inference: InferenceOptions = Field(
        InferenceOptions(), description="how stage 1 computes its maps", json_schema_extra=shown("precision", "device")
    )
    pruning: PruningRules = Field(
        REFERENCE_RULES.model_copy(update={"drop_unclosed_loops": True}), description="which proposals are pruned"
    )
    max_len: int = Field(0, ge=0, description="longer sequences are reported as failures, in bases; 0 for no limit")
    max_boxes: int = Field(
        4000, ge=1, description="boxes that stage 2 sees of a sequence, at most: those of the highest probability in stage 1"
    )
    chunk: int = Field(64, ge=1, description="sequences that are worked on together, at most")

    @model_validator(mode="after")
    def _max_len_stands_once(self) -> PipelineOptions:
        if self.pruning.max_len:
            raise ValueError("pruning.max_len has no effect here; set max_len beside it")
        return self


class Models(NamedTuple):
    """The two stages."""

    s1: ProposalNetwork
    s2: Scorer


def predict(
    sequences: Iterable[formats.SequenceRecord], s1: ProposalNetwork, s2: Scorer, options: PipelineOptions | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Predictions:
    """Structures of sequences, whose lengths may differ by any factor.

    The networks are those of :func:`rna_s2.s1.model.load_network` and :meth:`rna_s2.s2.scorer.Scorer.load`; no ``options``
    means the defaults; ``progress`` wraps the stream of results (one item per sequence), to show a progress bar. A sequence
    that cannot be predicted becomes a :class:`Failure`; the others are predicted all the same.
    """
    results = list(progress(predict_each(sequences, Models(s1, s2), options or PipelineOptions())))
    return Predictions(
        [each for each in results if isinstance(each, Prediction)], [each for each in results if isinstance(each, Failure)]
    )


def predict_each(
    sequences: Iterable[formats.SequenceRecord], models: Models, options: PipelineOptions,
    seconds: dict[str, float] | None = None,
) -> Iterator[Prediction | Failure]:
    """:func:`predict` as a stream, in the order of the sequences, of which a chunk at a time is in memory.

    Both networks are moved to the device that the options name. ``seconds`` collects the wall seconds of ``proposals``,
    ``scores`` and ``decoding``.
    """
    seconds = {} if seconds is None else seconds
    for chunk in chunks(sequences, options.chunk):
        reasons = [_refusal(record, options) for record in chunk]
        usable = iter(_predict_or_fail([r for r, why in zip(chunk, reasons, strict=True) if not why], models, options, seconds))
        for record, why in zip(chunk, reasons, strict=True):
            yield Failure(record.name, why) if why else next(usable)


def chunks(sequences: Iterable[formats.SequenceRecord], most: int) -> Iterator[list[formats.SequenceRecord]]:
    """The sequences in lists of ``most`` at most, of :data:`CHUNK_CELLS` map cells or a single sequence."""
    chunk: list[formats.SequenceRecord] = []
    cells = 0
    for record in sequences:
        size = len(record.seq) ** 2
        if chunk and (len(chunk) == most or cells + size > CHUNK_CELLS):
            yield chunk
            chunk, cells = [], 0
        chunk.append(record)
        cells += size
    if chunk:
        yield chunk


def _refusal(record: formats.SequenceRecord, options: PipelineOptions) -> str:
    """Why a sequence is not even tried; empty where it is."""
    if not record.seq:
        return "the sequence is empty"
    if options.max_len and len(record.seq) > options.max_len:
        return f"the sequence has {len(record.seq)} bases, more than max_len {options.max_len}"
    return illegal_characters(record.seq)


def _predict_or_fail(
    records: Sequence[formats.SequenceRecord], models: Models, options: PipelineOptions, seconds: dict[str, float]
) -> list[Prediction | Failure]:
    """Predictions of a chunk; where the chunk fails, each of its sequences on its own."""
    if not records:
        return []
    try:
        return _predict_chunk(records, models, options, seconds)
    except Exception as error:
        reason = failure_reason(error)
        if not reason:
            raise
        if len(records) == 1:
            return [Failure(records[0].name, reason)]
    return [result for record in records for result in _predict_or_fail([record], models, options, seconds)]


def failure_reason(error: Exception) -> str:
    """Why a sequence has no prediction, in one line: an input that cannot be used, or lack of memory.

    Empty for every other error, which is a fault of the program and not of a sequence.
    """
    lacks_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)  # PyTorch's way to say it on a CPU
    )
    if not lacks_memory and not isinstance(error, UserError):
        return ""
    return (" ".join(str(error).split()) or type(error).__name__)[:_REASON_LENGTH]


def _predict_chunk(
    records: Sequence[formats.SequenceRecord], models: Models, options: PipelineOptions, seconds: dict[str, float]
) -> list[Prediction | Failure]:
    frame = pd.DataFrame({"seq": pd.Series([r.seq for r in records], dtype="str")})
    table = BoxTable(frame, Boxes.empty(len(frame)), None, Ragged.empty(0), Ragged.empty(0), source="the sequences")
    with timed(seconds, "proposals"):
        table = with_proposals(table, models.s1, options.selection, options.inference)
        table = prune(table, options.pruning).table
        table, left_out = top_proposals(table, options.max_boxes)
    with timed(seconds, "scores"):
        models.s2.network.to(chosen_device(options.inference.device))  # stage 1 went there with its proposals
        scores = np.concatenate([np.zeros(0), *models.s2.score_table(table)])
    with timed(seconds, "decoding"):
        boxes = table.proposals
        lengths = table.lengths
        pairing = [base_pair_probabilities(boxes, scores, int(n), row=row) for row, n in enumerate(lengths)]
        decoded = decode_structures(boxes, scores, pairing, [r.seq for r in records], options)
        results: list[Prediction | Failure] = []
        for row, (start, end) in enumerate(pairwise(boxes.offsets.tolist())):
            record, found = records[row], decoded[row]
            chosen = np.zeros(end - start, bool)
            chosen[found[0].boxes - start] = True
            structures = tuple(
                PredictedStructure(
                    d.pairs, free_energy(record.seq, d.pairs), d.score, structure_confidence(d.pairs, pairing[row])
                )
                for d in found
            )
            own = boxes.take_rows(np.array([row]))
            results.append(Prediction(
                record.name, record.seq, structures, own, scores[start:end], chosen, pairing[row], int(left_out[row])
            ))
    return results


def top_proposals(table: BoxTable, most: int) -> tuple[BoxTable, np.ndarray]:
    """The table with at most so many proposals per row, those of the largest probability in ``prob_sm`` or ``prob_sl``.

    Returns:
        the table, boxes in the order they had, and ``(rows,)`` int64 how many were left out.
    """
    counts = np.diff(table.proposals.offsets)
    if counts.max(initial=0) <= most:
        return table, np.zeros(table.rows, np.int64)
    probability = np.fmax(np.nan_to_num(table.prob_sm.max()), np.nan_to_num(table.prob_sl.max()))
    order = np.lexsort((-probability, table.proposals.row))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(table.proposals.offsets[:-1], counts)
    return table.select_proposals(rank < most), np.maximum(counts - most, 0)


def free_energy(seq: str, pairs: np.ndarray) -> float:
    """Free energy of a structure in kcal/mol, by ViennaRNA at its default parameters (37 degrees, Turner 2004, dangles 2).

    Crossing pairs have no place in its model: of them a largest set without crossings is evaluated. NaN where a loop has
    no energy, because it cannot form.
    """
    import RNA

    nested, _ = remove_pseudoknots(pairs)
    energy = float(RNA.eval_structure_simple(decode_bases(encode(seq), rna=True), to_dot_bracket(nested, len(seq))))
    return energy if energy < IMPOSSIBLE_ENERGY else float("nan")


# --- models on disk --------------------------------------------------------------------------------------------------


def save_pipeline(models: Models, options: PipelineOptions, folder: str | Path, about: dict[str, Any]) -> None:
    """Write both networks and the options to a folder, whole or not at all; nothing is pickled.

    Raises:
        UserError: it cannot be written.
    """
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_network(models.s1, temporary / S1_FOLDER, {})
        models.s2.save(temporary / S2_FOLDER)
        kept = options.model_dump(mode="json", exclude={"inference": {"device"}})  # a matter of the machine, not of the model
        described = {"format": FORMAT, "options": kept, "about": about}
        (temporary / OPTIONS_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def load_pipeline(folder: str | Path) -> tuple[Models, PipelineOptions]:
    """What :func:`save_pipeline` wrote.

    Raises:
        UserError: a part is missing or damaged.
    """
    path = Path(folder) / OPTIONS_FILE
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); register the model again") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise UserError(f"{path}: is not '{FORMAT}'; register the model again")
    options = validate(PipelineOptions, described.get("options") or {}, str(path))
    return Models(load_network(Path(folder) / S1_FOLDER)[0], Scorer.load(Path(folder) / S2_FOLDER)), options
