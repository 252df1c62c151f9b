"""From transcripts to tables of stage 1, each step made once and found again by the content it was made from.

Every function takes a :data:`rna_s2.engine.tracker.Step`, which starts the run that follows it. A step that is found again gets
a run too, with the tag ``reused``, so that a parent run shows everything that it rests on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rna_s2.boxtables.write import PARQUET_SUFFIX
from rna_s2.engine.tracker import Step, Tracker, untracked
from rna_s2.options.files import content_key, file_digest
from rna_s2.pipeline.propose_file import ProposeOptions, network_folder, run_propose
from rna_s2.pipeline.segments_file import SegmentsOptions, local_copy, run_segments
from rna_s2.s1.config import SegmentRule, SyntheticTranscripts
from rna_s2.s1.model import MODEL_FILE, WEIGHTS_FILE, load_network
from rna_s2.s1.selection import SelectionOptions
from rna_s2.s1.synthetic import SyntheticOptions, run_synthetic

logger = logging.getLogger(__name__)

CACHE_VERSION = 1
"""Part of every key; raise it when a step's result for the same input changes."""


def training_segments(
    transcripts: Sequence[str | SyntheticTranscripts], rule: SegmentRule, cache_dir: str, step: Step = untracked
) -> tuple[str, ...]:
    """The tables of folded segments of FASTA files (paths or URLs) and of random transcripts, one for each.

    Raises:
        UserError: a file cannot be read or fetched, or nothing is left of it.
    """
    return tuple(
        str(segments_file(
            str(synthetic_file(source, cache_dir, step)) if isinstance(source, SyntheticTranscripts) else source,
            rule, cache_dir, step,
        ))
        for source in transcripts
    )


def synthetic_file(source: SyntheticTranscripts, cache_dir: str, step: Step = untracked) -> Path:
    """A FASTA file of random transcripts."""
    key = content_key(version=CACHE_VERSION, step="synthetic", **source.model_dump(mode="json"))
    path = Path(cache_dir) / "transcripts" / f"synthetic_{key}.fa"
    with step("synthetic", f"synthetic {source.n_transcripts} x {source.length}") as tracker:
        if not _found(path, tracker):
            run_synthetic(SyntheticOptions(out_file=str(path), **source.model_dump()), tracker)
    return path


def segments_file(transcripts: str, rule: SegmentRule, cache_dir: str, step: Step = untracked) -> Path:
    """The table of folded segments of a FASTA file, plain or gzip, a path or URL; its rejects lie beside it.

    Raises:
        UserError: the file cannot be read or fetched, or nothing is left of it.
    """
    with local_copy(transcripts) as local:
        digest = file_digest(local)
        key = content_key(
            version=CACHE_VERSION, step="segments", source=digest, folding=version("ViennaRNA"), **rule.model_dump(mode="json")
        )
        path = Path(cache_dir) / "segments" / f"{key}{PARQUET_SUFFIX}"
        with step("segments", f"segments {Path(transcripts).name}") as tracker:
            if not _found(path, tracker):
                options = SegmentsOptions(transcripts=transcripts, out_file=str(path), **rule.model_dump())
                run_segments(options, tracker, fetched=local)
    return path


def proposals_file(
    segments: Path, model: str, selection: SelectionOptions, cache_dir: str, step: Step = untracked, progress: bool = True
) -> Path:
    """The S1 table of a table of sequences: what the network in ``model`` proposes.

    Raises:
        UserError: the table or the network cannot be used.
    """
    with network_folder(model) as folder:
        load_network(folder)  # tells what is wrong with it, before anything is made
        key = content_key(
            version=CACHE_VERSION, step="propose", source=file_digest(segments),
            network=[file_digest(folder / name) for name in (WEIGHTS_FILE, MODEL_FILE)], **selection.model_dump(mode="json"),
        )
        path = Path(cache_dir) / "proposed" / f"{key}{PARQUET_SUFFIX}"
        with step("propose", f"propose {segments.name}") as tracker:
            if not _found(path, tracker):
                options = ProposeOptions(
                    in_file=str(segments), out_file=str(path), model=str(folder), **selection.model_dump()
                )
                run_propose(options, tracker, progress)
    return path


def _found(path: Path, tracker: Tracker) -> bool:
    """Whether a file was made before; the tracker is told."""
    there = path.is_file()
    tracker.tags({"reused": str(there).lower()})
    if there:
        tracker.tags({"digest.out_file": file_digest(path)})
        logger.info("found in %s", path)
    return there
