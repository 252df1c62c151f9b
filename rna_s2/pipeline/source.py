"""From transcripts to the S1 table that stage 2 starts from."""

from __future__ import annotations

from rna_s2.engine.tracker import Step, untracked
from rna_s2.pipeline.stage1_tables import proposals_file, segments_file
from rna_s2.pipeline.train_config import DataConfig


def with_table(data: DataConfig, step: Step = untracked) -> DataConfig:
    """The data with an S1 table: as it is where it names one, else with the one that its transcripts give.

    That is made now or found in the cache.

    Raises:
        UserError: the transcripts cannot be read or fetched, nothing is left of them, or there is no such network.
    """
    if not data.transcripts:
        return data
    segments = segments_file(data.transcripts, data.segments, data.cache_dir, step)
    table = proposals_file(segments, data.model, data.selection, data.cache_dir, step)
    return data.model_copy(update={"in_file": str(table), "transcripts": ""})
