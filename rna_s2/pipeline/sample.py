"""The repository's own S1 table, from the transcripts and the network in ``data/``.

Segments of the transcripts are cut and folded, and the network proposes boxes for them. The network must not have been
trained on these transcripts; its card says whether it was.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.sensitivity import box_sensitivity
from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.boxtables.write import check_table_path, write_table
from rna_s2.engine.tracker import StartRun, Tracker, untracked
from rna_s2.options.base import check_outputs
from rna_s2.options.files import file_digest
from rna_s2.options.places import ProjectPath, in_project
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.open_models import SHIPPED_S1, model_folder
from rna_s2.pipeline.steps.propose import proposals_file
from rna_s2.pipeline.steps.segments import segments_file
from rna_s2.pipeline.train_config import SAMPLE
from rna_s2.s1.config import SegmentRule
from rna_s2.s1.model import WEIGHTS_FILE
from rna_s2.s1.selection import SelectionOptions

logger = logging.getLogger(__name__)

SEGMENTS = SegmentRule(max_step=85)
"""How the transcripts are cut: as by default, but densely, so that so few of them give more than 300 rows."""

DECIMALS = 4
"""Decimals that the sample keeps of a probability, to be small."""

NETWORK_COLUMN = "proposals_from"
"""Column that names, in every row, the network that proposed its boxes: the SHA-256 of its weights."""


class SampleOptions(TrackedOptions):
    """What the sample is made from."""

    transcripts: ProjectPath = Field(
        in_project("data/transcripts.fa.gz"), min_length=1, description="FASTA file, plain or gzip"
    )
    model: ProjectPath = Field(SHIPPED_S1, min_length=1, description="folder of a network, or models:/NAME")
    out_file: ProjectPath = Field(SAMPLE, min_length=1, description="the table to write (.parquet, .pkl.gz)")
    cache_dir: str = Field(".cache", description="folder for folded segments and proposals")


@dataclass(frozen=True)
class SampleReport:
    """The table that was written, and the SHA-256 of the weights of the network that made it."""

    table: BoxTable
    network_digest: str


def run_sample(options: SampleOptions, tracker: Tracker, step: StartRun = untracked) -> SampleReport:
    """Make the sample, write it, and log what was done.

    Raises:
        UserError: the transcripts or the network cannot be used, no segment is left, or the output cannot be written.
    """
    check_sample_paths(options)
    tracker.params(options.model_dump(mode="json", exclude={"experiment"}) | {"segments": SEGMENTS.model_dump()})
    with model_folder(options.model) as folder:
        digest = file_digest(folder / WEIGHTS_FILE)
    segments = segments_file(options.transcripts, SEGMENTS, options.cache_dir, step)
    proposed = proposals_file(segments, options.model, SelectionOptions(), options.cache_dir, step)
    table = read_table(proposed).table
    prob_sm, prob_sl = (Ragged(np.round(r.values, DECIMALS), r.offsets) for r in (table.prob_sm, table.prob_sl))
    frame = table.frame.assign(**{NETWORK_COLUMN: digest})
    table = replace(table, frame=frame, prob_sm=prob_sm, prob_sl=prob_sl, extra={})  # extra follows from the boxes
    write_table(table, options.out_file)
    tracker.tags({"digest.out_file": file_digest(options.out_file), "digest.network": digest})
    sensitivity = box_sensitivity(table)
    assert sensitivity is not None  # segments have targets
    boxes, full = len(table.proposals) / table.rows, sensitivity.full_share
    tracker.metrics({"count.rows": table.rows, "boxes_per_row": boxes, "full_share": full})
    logger.info(
        "%s: %d rows, %.0f boxes per row, %.1f %% of rows with every target box among them",
        options.out_file, table.rows, boxes, 100 * full,
    )
    return SampleReport(table, digest)


def check_sample_paths(options: SampleOptions) -> None:
    """To be called before any work.

    Raises:
        UserError: the output is a folder or the input, or has a name that says no table format.
    """
    check_outputs({"out_file": options.out_file}, {"transcripts": options.transcripts})
    check_table_path(options.out_file)
