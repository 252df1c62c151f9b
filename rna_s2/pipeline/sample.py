"""Entry point ``sample``: the repository's own S1 table, from the transcripts and the network in ``data/``.

Segments of the transcripts are cut and folded, and the network proposes boxes for them. The network must not have been
trained on these transcripts; its card says whether it was.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import Field

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.sensitivity import box_sensitivity
from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.boxtables.write import check_table_path, write_table
from rna_s2.engine.tracker import Step, Tracker, untracked
from rna_s2.options.base import Options, check_outputs, parse
from rna_s2.options.errors import run_command
from rna_s2.options.files import file_digest
from rna_s2.pipeline.propose_file import SHIPPED_NETWORK, network_folder
from rna_s2.pipeline.stage1_tables import proposals_file, segments_file
from rna_s2.s1.config import SegmentRule
from rna_s2.s1.model import WEIGHTS_FILE
from rna_s2.s1.selection import SelectionOptions

logger = logging.getLogger(__name__)

COMMAND = "sample"

SEGMENTS = SegmentRule(max_step=85)
"""How the transcripts are cut: as by default, but densely, so that so few of them give more than 300 rows."""

DECIMALS = 4
"""Decimals that the sample keeps of a probability, to be small."""

NETWORK_COLUMN = "proposals_from"
"""Column that names, in every row, the network that proposed its boxes: the SHA-256 of its weights."""


class SampleOptions(Options):
    """What the sample is made from."""

    transcripts: str = Field("data/transcripts.fa.gz", min_length=1, description="FASTA file, plain or gzip")
    model: str = Field(SHIPPED_NETWORK, min_length=1, description="folder of a network, or models:/NAME")
    out_file: str = Field("data/sample_s1.parquet", min_length=1, description="the table to write (.parquet, .pkl.gz)")
    cache_dir: str = Field(".cache", description="folder for folded segments and proposals")
    experiment: str = Field("rna-s2", min_length=1, description="MLflow experiment of the run")


OPTIONS = SampleOptions


@dataclass(frozen=True)
class SampleReport:
    """The table that was written, and the SHA-256 of the weights of the network that made it."""

    table: BoxTable
    network_digest: str


def rounded(table: BoxTable) -> BoxTable:
    """The table with its probabilities to :data:`DECIMALS` decimals, and without numbers that follow from its boxes."""
    prob_sm, prob_sl = (Ragged(np.round(r.values, DECIMALS), r.offsets) for r in (table.prob_sm, table.prob_sl))
    return replace(table, prob_sm=prob_sm, prob_sl=prob_sl, extra={})


def run_sample(options: SampleOptions, tracker: Tracker, step: Step = untracked, progress: bool = True) -> SampleReport:
    """Make the sample, write it, and tell the tracker.

    Raises:
        UserError: the transcripts or the network cannot be used, no segment is left, or the output cannot be written.
    """
    _check_paths(options)
    tracker.params(options.model_dump(mode="json", exclude={"experiment"}) | {"segments": SEGMENTS.model_dump()})
    with network_folder(options.model) as folder:
        digest = file_digest(folder / WEIGHTS_FILE)
    segments = segments_file(options.transcripts, SEGMENTS, options.cache_dir, step)
    proposed = proposals_file(segments, options.model, SelectionOptions(), options.cache_dir, step, progress)
    table = read_table(proposed).table
    table = rounded(replace(table, frame=table.frame.assign(**{NETWORK_COLUMN: digest})))
    write_table(table, options.out_file)
    tracker.tags({"digest.out_file": file_digest(options.out_file), "digest.network": digest})
    boxes, full = len(table.proposals) / table.rows, box_sensitivity(table).full_share
    tracker.metrics({"count.rows": table.rows, "boxes_per_row": boxes, "full_share": full})
    logger.info(
        "%s: %d rows, %.0f boxes per row, %.1f %% of rows with every target box among them",
        options.out_file, table.rows, boxes, 100 * full,
    )
    return SampleReport(table, digest)


def _check_paths(options: SampleOptions) -> None:
    check_outputs({"out_file": options.out_file}, {"transcripts": options.transcripts})
    check_table_path(options.out_file)


def main(argv: Sequence[str] | None = None) -> SampleReport:
    """The command."""
    options = parse(OPTIONS, argv, command=COMMAND, description="Make the sample from transcripts and the network.")
    _check_paths(options)
    from rna_s2.tracking.runs import child_runs, start_run  # here: MLflow takes seconds to import

    with start_run(COMMAND, f"{COMMAND} {Path(options.out_file).name}", experiment=options.experiment) as tracker:
        return run_sample(options, tracker, child_runs(tracker.run_id))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
