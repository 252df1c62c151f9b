"""From transcripts and folds, or from known structures, to the table that stage 1 starts from.

The table is that of S1's input and training data: sequence, structure, target boxes, no proposals yet. Sequences keep
their case and T or U; ambiguity codes become N.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.rna import formats
from rna_s2.rna.boxes import Boxes
from rna_s2.rna.pairs import from_dot_bracket, remove_pseudoknots, target_boxes
from rna_s2.rna.sequence import mask_ambiguous
from rna_s2.s1.config import SegmentRule
from rna_s2.s1.folding import Folded


class Segment(NamedTuple):
    """A piece of a transcript: ``seq`` is what stands there from base ``start`` (counting from 0)."""

    transcript_id: str
    start: int
    seq: str


class Left(NamedTuple):
    """Something that was left out: what, from which base on, how long, and why (a count is kept per reason)."""

    name: str
    start: int
    length: int
    reason: str


TOO_SHORT = "transcript_shorter_than_min_len"
OVER_LIMIT = "over_max_per_transcript"
NO_STRUCTURE = "no_base_pair_in_mfe_structure"
LOW_FREQUENCY = "mfe_frequency_below_min_mfe_freq"


def cut_segments(transcripts: Iterable[formats.SequenceRecord], rule: SegmentRule) -> tuple[list[Segment], list[Left]]:
    """Cut segments from transcripts.

    The first start is sampled from the first ``max_step`` bases, each next one a random step further on; a segment's
    length is sampled from the range of the rule, cut down to what is left of the transcript. Both are sampled uniformly, both
    ends included; the segments that are kept of one transcript are chosen at random. The samples depend on the seed and the
    transcript's name alone: other transcripts in the file change nothing. With steps below ``min_len`` segments may overlap.
    """
    segments: list[Segment] = []
    left: list[Left] = []
    for transcript in transcripts:
        name, seq = transcript.name, transcript.seq
        if len(seq) < rule.min_len:
            left.append(Left(name, 0, len(seq), TOO_SHORT))
            continue
        of_name = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        rng = np.random.default_rng([rule.seed, of_name])
        last_start = len(seq) - rule.min_len
        most = last_start // rule.min_step + 1
        steps = rng.integers(rule.min_step, rule.max_step, size=most, endpoint=True)
        steps[0] = rng.integers(0, min(rule.max_step, last_start + 1))
        starts = np.cumsum(steps)
        starts = starts[starts <= last_start]
        longest = np.minimum(rule.max_len, len(seq) - starts)
        lengths = rng.integers(rule.min_len, longest, endpoint=True)
        chosen = np.ones(len(starts), bool)
        if 0 < rule.max_per_transcript < len(starts):
            chosen = np.isin(np.arange(len(starts)), rng.choice(len(starts), rule.max_per_transcript, replace=False))
        for start, length, keep in zip(starts.tolist(), lengths.tolist(), chosen.tolist(), strict=True):
            if keep:
                segments.append(Segment(name, start, seq[start: start + length]))
            else:
                left.append(Left(name, start, length, OVER_LIMIT))
    return segments, left


def keep_folded(segments: Sequence[Segment], folded: Sequence[Folded], min_mfe_freq: float) -> tuple[list[int], list[Left]]:
    """Which segments have a structure, of an MFE frequency of at least ``min_mfe_freq``; and what is left out."""
    kept: list[int] = []
    left: list[Left] = []
    for n, (segment, fold_) in enumerate(zip(segments, folded, strict=True)):
        reason = NO_STRUCTURE if "(" not in fold_.structure else LOW_FREQUENCY if fold_.mfe_freq < min_mfe_freq else ""
        if reason:
            left.append(Left(segment.transcript_id, segment.start, len(segment.seq), reason))
        else:
            kept.append(n)
    return kept, left


def segment_table(segments: Sequence[Segment], folded: Sequence[Folded], source: str = "(memory)") -> BoxTable:
    """The S1 table of folded segments: target boxes from the MFE structure, no proposals."""
    pairs = [from_dot_bracket(f.structure) for f in folded]
    frame = pd.DataFrame(
        {
            "seq": pd.Series([mask_ambiguous(s.seq) for s in segments], dtype="str"),
            "one_idx": one_idx_column(pairs),
            "fe": np.array([f.fe for f in folded], np.float64),
            "mfe_freq": np.array([f.mfe_freq for f in folded], np.float64),
            "ens_div": np.array([f.ens_div for f in folded], np.float64),
            "transcript_id": pd.Series([s.transcript_id for s in segments], dtype="str"),
            "start": np.array([s.start for s in segments], np.int64),
        }
    )
    return table_without_proposals(frame, target_boxes(pairs), source)


def structure_table(structures: Sequence[formats.StructureRecord], source: str = "(memory)") -> BoxTable:
    """The S1 table of known structures: columns seq, one_idx, id, family, pseudoknot_pairs.

    ``one_idx`` holds every pair. The target boxes are those of the largest set of pairs without crossings
    (:func:`rna_s2.rna.pairs.remove_pseudoknots`); ``pseudoknot_pairs`` counts the pairs that the boxes leave out.
    """
    split = [remove_pseudoknots(s.pairs) for s in structures]
    frame = pd.DataFrame(
        {
            "seq": pd.Series([mask_ambiguous(s.seq) for s in structures], dtype="str"),
            "one_idx": one_idx_column([s.pairs for s in structures]),
            "id": pd.Series([s.name for s in structures], dtype="str"),
            "family": pd.Series([s.family for s in structures], dtype="str"),
            "pseudoknot_pairs": np.array([len(removed) for _, removed in split], np.int64),
        }
    )
    return table_without_proposals(frame, target_boxes(kept for kept, _ in split), source)


def one_idx_column(structures: Iterable[np.ndarray]) -> pd.Series:
    """Base pairs as the table's ``one_idx``: per row a tuple of two lists, the i's and the j's."""
    return pd.Series([(pairs[:, 0].tolist(), pairs[:, 1].tolist()) for pairs in structures], dtype=object)


def table_without_proposals(frame: pd.DataFrame, targets: Boxes | None, source: str) -> BoxTable:
    """A table whose sequences have no proposals yet."""
    return BoxTable(frame, Boxes.empty(len(frame)), targets, Ragged.empty(0), Ragged.empty(0), source=source)
