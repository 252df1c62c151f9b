"""The steps ``synthetic`` (random transcripts as FASTA) and ``segments`` (a table of sequences with structures)."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field, model_validator
from tqdm import tqdm

from rna_s2.boxtables.table import BoxTable
from rna_s2.boxtables.write import PARQUET_SUFFIX, check_table_path, write_rejects, write_table
from rna_s2.engine.processes import default_workers
from rna_s2.engine.tracker import StartRun, Tracker, timed, untracked
from rna_s2.options.base import check_outputs
from rna_s2.options.downloads import local_copy
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path, file_digest
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.steps.outputs import CachedStep, make_or_find, rejects_path
from rna_s2.rna.boxes import BOX_TYPES
from rna_s2.rna.formats import FileError, Rejected, read_fasta, read_structures
from rna_s2.s1.config import SegmentRule, SyntheticTranscripts
from rna_s2.s1.folding import fold_all
from rna_s2.s1.segments import Left, cut_segments, keep_folded, segment_table, structure_table
from rna_s2.s1.synthetic import random_transcripts
from rna_s2.tracking.names import run_name

log = logging.getLogger(__name__)

SYNTHETIC = CachedStep("synthetic", version=2, folder="transcripts", suffix=".fa", libraries=("numpy",))


class SyntheticOptions(TrackedOptions, SyntheticTranscripts):
    """Options of ``synthetic``."""

    out_file: str = Field(description="FASTA file to write (.fa)")


def synthetic_transcripts(options: SyntheticOptions) -> Path:
    """Write random transcripts as FASTA; names are ``synthetic_SEED_NUMBER``. Returns the path."""
    sequences = random_transcripts(options.n_transcripts, options.length, options.seed, options.gc_mean, options.gc_sd)
    path = fasta_path(options.out_file)
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii") as stream:
        for number, sequence in enumerate(sequences):
            stream.write(f">synthetic_{options.seed}_{number}\n{sequence}\n")
    return path


def fasta_path(path: str) -> Path:
    """An output path that does not promise compression and is no folder; to be called before long work.

    Raises:
        UserError: it does, or is.
    """
    check_outputs({"out_file": path})
    if path.endswith(".gz"):
        raise UserError(f"{path}: is written uncompressed; choose a name that ends in .fa")
    return Path(path)


def run_synthetic(options: SyntheticOptions, tracker: Tracker) -> Path:
    """Write random transcripts as FASTA, and log what was done. Returns the path."""
    tracker.params(options.model_dump(mode="json", exclude={"experiment"}))
    path = synthetic_transcripts(options)
    tracker.tags({"digest.out_file": file_digest(path)})
    tracker.metrics({"count.transcripts": options.n_transcripts, "count.bases": options.n_transcripts * options.length})
    log.info("%s: %d sequences of %d bases", path, options.n_transcripts, options.length)
    return path


def synthetic_file(source: SyntheticTranscripts, cache_dir: str, step: StartRun = untracked) -> Path:
    """A FASTA file of random transcripts, made now or found in the cache."""
    path = SYNTHETIC.path(cache_dir, **source.model_dump(mode="json"))
    with step("synthetic", run_name("synthetic", f"{source.n_transcripts} x {source.length}")) as tracker:
        options = SyntheticOptions(out_file=str(path), **source.model_dump())
        make_or_find(path, tracker, lambda: run_synthetic(options, tracker))
    return path


SEGMENTS = CachedStep("segments", version=2, folder="segments", suffix=PARQUET_SUFFIX, libraries=("numpy", "ViennaRNA"))

SHOWN_REJECTS = 20
"""Rejected records that are named one by one in the log; the file of rejects has them all."""

REJECT_COLUMNS = ("name", "line", "start", "length", "reason")
"""Columns of the file of what was left out: ``line`` is that of a record in the input, ``start`` and ``length`` those
of a segment in its transcript."""


class SegmentsOptions(TrackedOptions, SegmentRule):
    """What to make a table of."""

    transcripts: str = Field("", description="FASTA file of transcripts to cut and fold, plain or gzip; a path or URL")
    structures: str = Field(
        "", description="file of known structures instead (.dbn, .ct, .bpseq, .csv, each also .gz); a path or URL"
    )
    out_file: str = Field(description="the table to write (.parquet, .pkl.gz); a CSV beside it lists what is left out")
    workers: int = Field(0, ge=0, description="processes to fold on; 0: one per core; the result does not depend on it")

    @model_validator(mode="after")
    def _one_source(self) -> SegmentsOptions:
        if bool(self.transcripts) == bool(self.structures):
            raise ValueError("give either transcripts or structures")
        return self


@dataclass(frozen=True)
class SegmentsResult:
    """What the command makes.

    Attributes:
        table: sequences with targets and without proposals.
        rejects: everything left out, columns :data:`REJECT_COLUMNS`.
        counts: how many records were read and rejected, segments cut, left out for each reason, kept; boxes by type.
        seconds: wall time of each part.
        digest: SHA-256 of the input file.
    """

    table: BoxTable
    rejects: pd.DataFrame
    counts: dict[str, int]
    seconds: dict[str, float]
    digest: str


def segments(options: SegmentsOptions, fetched: Path | None = None) -> SegmentsResult:
    """Make the table; nothing is written. ``fetched`` is where the input lies, where it is a URL that was fetched before.

    Raises:
        UserError: the input cannot be read or fetched, or nothing is left of it.
    """
    source = options.transcripts or options.structures
    read: Callable[[Path], tuple[list[Any], list[Rejected]]] = read_fasta if options.transcripts else read_structures
    seconds: dict[str, float] = {}
    with local_copy(source) if fetched is None else contextlib.nullcontext(fetched) as path:
        with timed(seconds, "read"):
            digest = file_digest(path)
            try:
                records, rejected = read(path)
            except FileError as error:
                raise UserError(f"{str(error).replace(str(path), source)}; check the file") from error
    for entry in rejected[:SHOWN_REJECTS]:
        log.warning("%s, line %d: record '%s' left out: %s", source, entry.line, entry.name, entry.reason)
    if len(rejected) > SHOWN_REJECTS:
        log.warning("%s: %d more records left out", source, len(rejected) - SHOWN_REJECTS)
    if not records:
        first = f" (line {rejected[0].line}: {rejected[0].reason})" if rejected else ""
        raise UserError(f"{source}: has no record that can be used{first}")
    counts = {"records": len(records), "rejected_records": len(rejected)}
    if options.transcripts:
        table, left = _folded_table(options, records, counts, seconds)
    else:
        with timed(seconds, "decompose"):
            table, left = structure_table(records, source), []
        pseudoknot_pairs = table.frame["pseudoknot_pairs"]
        counts["rows_with_pseudoknot"] = int((pseudoknot_pairs > 0).sum())
        counts["pairs_out_of_the_boxes"] = int(pseudoknot_pairs.sum())
    counts["rows"] = table.rows
    assert table.targets is not None  # segments and known structures have them
    boxes = table.targets.counts().sum(axis=0).tolist()
    counts |= {f"boxes.{name}": number for name, number in zip(BOX_TYPES, boxes, strict=True)}
    lines: list[tuple[object, ...]] = [(r.name, r.line, None, None, r.reason) for r in rejected]
    lines += [(x.name, None, x.start, x.length, x.reason) for x in left]
    rejects = pd.DataFrame(lines, columns=list(REJECT_COLUMNS)).astype(dict.fromkeys(("line", "start", "length"), "Int64"))
    return SegmentsResult(table, rejects, counts, seconds, digest)


def _folded_table(
    options: SegmentsOptions, records: list, counts: dict[str, int], seconds: dict[str, float]
) -> tuple[BoxTable, list[Left]]:
    """Cut and fold transcripts; adds to the counts and seconds."""
    with timed(seconds, "cut"):
        cut, left_cutting = cut_segments(records, options)
    with timed(seconds, "fold"):
        progress = partial(tqdm, total=len(cut), desc="fold", unit=" segments", disable=None)
        folded = fold_all([s.seq for s in cut], options.workers or default_workers(), progress)
    kept, left_folding = keep_folded(cut, folded, options.min_mfe_freq)
    left = [*left_cutting, *left_folding]
    reasons = Counter(entry.reason for entry in left)
    counts["cut"] = len(cut)
    counts |= {f"left_out.{reason}": number for reason, number in sorted(reasons.items())}
    if not kept:
        why = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
        raise UserError(f"{options.transcripts}: no segment is left ({why}); lower min_len or min_mfe_freq")
    with timed(seconds, "decompose"):
        table = segment_table([cut[n] for n in kept], [folded[n] for n in kept], options.transcripts)
    return table, left


def run_segments(options: SegmentsOptions, tracker: Tracker, fetched: Path | None = None) -> SegmentsResult:
    """Make the table, write it with its rejects, and log what was done; ``fetched`` as for :func:`segments`."""
    check_segments_paths(options)
    source = options.transcripts or options.structures
    tracker.params(options.model_dump(exclude={"experiment"}))
    result = segments(options, fetched)
    tracker.dataset(Path(source).name, result.digest, source, SEGMENTS.name, {"records": result.counts["records"]})
    with timed(result.seconds, "write"):
        write_rejects(result.rejects, rejects_path(options.out_file))
        write_table(result.table, options.out_file, with_proposals=False)  # last: where it is found, both are there
    tracker.artifact(rejects_path(options.out_file), "rejects")
    tracker.tags({"digest.out_file": file_digest(options.out_file)})
    tracker.metrics({f"count.{name}": value for name, value in result.counts.items()})
    tracker.metrics({f"seconds.{name}": value for name, value in result.seconds.items()})
    for name, value in result.counts.items():
        log.info("%s: %d", name, value)
    if options.transcripts:
        log.info("folded %.0f segments per second", result.counts["cut"] / result.seconds["fold"])
    log.info("%s: %d rows; what was left out: %s", options.out_file, result.table.rows, rejects_path(options.out_file))
    return result


def check_segments_paths(options: SegmentsOptions) -> None:
    """To be called before any work.

    Raises:
        UserError: an output is a folder or an input, or has a name that says no table format.
    """
    inputs = {"transcripts": options.transcripts, "structures": options.structures}
    check_outputs({"out_file": options.out_file}, inputs)
    check_outputs({"the rejects of out_file": rejects_path(check_table_path(options.out_file))}, inputs)


def segments_file(transcripts: str, rule: SegmentRule, cache_dir: str, step: StartRun = untracked) -> Path:
    """The table of folded segments of a FASTA file, plain or gzip, a path or URL; its rejects lie beside it.

    Raises:
        UserError: the file cannot be read or fetched, or nothing is left of it.
    """
    with local_copy(transcripts) as local:
        path = SEGMENTS.path(cache_dir, source=file_digest(local), **rule.model_dump(mode="json"))
        with step("segments", run_name("segments", Path(transcripts))) as tracker:
            options = SegmentsOptions(transcripts=transcripts, out_file=str(path), **rule.model_dump())
            make_or_find(path, tracker, lambda: run_segments(options, tracker, fetched=local))
    return path


def training_segments(
    transcripts: Sequence[str | SyntheticTranscripts], rule: SegmentRule, cache_dir: str, step: StartRun = untracked
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
