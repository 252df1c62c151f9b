"""Make a table of segments of the transcripts in ``data/`` with **simulated** S1 proposals.

``python -m pipeline.simulated_sample`` cuts and folds segments, and puts simulated proposals (:mod:`s1.simulate`) beside
them: no network has seen these sequences. The same options give the same table.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from boxtables.sensitivity import box_sensitivity
from boxtables.table import BoxTable
from boxtables.write import write_table
from entry.errors import UserError, run_command
from entry.options import Options, parse
from rna.formats import FileError, read_fasta
from s1.folding import default_workers, fold_all
from s1.segments import CutRule, cut_segments, keep_folded, segment_table
from s1.simulate import with_simulated_proposals

log = logging.getLogger(__name__)

COMMAND = "simulated_sample"

class SampleOptions(Options):
    """What the sample is made from."""

    transcripts: str = Field("data/transcripts.fa.gz", description="FASTA file of transcripts, plain or gzip")
    out_file: str = Field("data/sample_simulated_s1.parquet", description="the table to write; its name says simulated")
    min_len: int = Field(20, ge=1, description="shortest segment, in bases")
    max_len: int = Field(200, ge=1, description="longest segment, in bases")
    min_step: int = Field(20, ge=1, description="least number of bases between starts")
    max_step: int = Field(85, ge=1, description="largest number of bases between starts")
    min_mfe_freq: float = Field(0.02, ge=0, le=1, description="least frequency of the MFE structure in its ensemble")
    seed: int = Field(0, ge=0, description="seed of the cutting and of the simulated proposals")
    workers: int = Field(0, ge=0, description="processes to fold on; 0: one per core; the result does not depend on it")


def make_sample(options: SampleOptions) -> BoxTable:
    """The sample table.

    Raises:
        UserError: the transcripts cannot be read, or no segment is left.
    """
    try:
        transcripts = read_fasta(options.transcripts).records
    except FileError as error:
        raise UserError(f"{error}; give the path of a FASTA file") from error
    rule = CutRule(options.min_len, options.max_len, options.min_step, options.max_step, 0, options.seed)
    segments, _ = cut_segments(transcripts, rule)
    folded = fold_all([s.seq for s in segments], options.workers or default_workers())
    kept, _ = keep_folded(segments, folded, options.min_mfe_freq)
    if not kept:
        raise UserError(f"{options.transcripts}: no segment has a structure of that frequency; lower min_mfe_freq")
    table = segment_table([segments[n] for n in kept], [folded[n] for n in kept])
    return with_simulated_proposals(table, options.seed)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    options = parse(SampleOptions, argv, command=COMMAND, description="Make the sample with simulated proposals.")
    if "simulated" not in Path(options.out_file).name:
        raise UserError(f"{options.out_file}: the name must contain 'simulated', for that is what the proposals are")
    table = make_sample(options)
    write_table(table, options.out_file)
    log.info(
        "%s: %d rows, %.0f simulated boxes per row, %.0f %% of rows with every target box among them",
        options.out_file, table.rows, len(table.proposals) / table.rows, 100 * box_sensitivity(table).full_share,
    )


if __name__ == "__main__":
    raise SystemExit(run_command(main))
