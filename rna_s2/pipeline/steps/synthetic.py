"""The step ``synthetic``: random transcripts as a FASTA file (:mod:`rna_s2.s1.synthetic`)."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field

from rna_s2.engine.tracker import StartRun, Tracker, untracked
from rna_s2.options.base import check_outputs
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path, file_digest
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.steps.cache import CachedStep, make_or_find
from rna_s2.s1.config import SyntheticTranscripts
from rna_s2.s1.synthetic import random_transcripts
from rna_s2.tracking.names import run_name

log = logging.getLogger(__name__)

SYNTHETIC = CachedStep("synthetic", version=2, folder="transcripts", suffix=".fa", libraries=("numpy",))


class SyntheticOptions(TrackedOptions, SyntheticTranscripts):
    """Options of ``synthetic``."""

    out_file: str = Field(description="FASTA file to write (.fa)")


def synthetic_transcripts(options: SyntheticOptions) -> Path:
    """Write random transcripts as FASTA; names are ``synthetic_SEED_NUMBER``. Returns the path."""
    sequences = random_transcripts(
        options.n_transcripts, options.length, options.seed, options.gc_mean, options.gc_sd
    )
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
