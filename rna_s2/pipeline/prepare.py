"""What a training of S2 reads: from transcripts or an S1 table to an encoded dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rna_s2.engine.tracker import StartRun, Tracker, untracked
from rna_s2.pipeline.steps.featurize import encoded_dataset
from rna_s2.pipeline.steps.propose import proposals_file
from rna_s2.pipeline.steps.prune import pruned_table
from rna_s2.pipeline.steps.segments import segments_file
from rna_s2.pipeline.train_config import DataConfig
from rna_s2.pruning.rules import PruningRules
from rna_s2.s2.config import FeatureConfig
from rna_s2.s2.dataset import EncodedDataset


@dataclass(frozen=True)
class Prepared:
    """An encoded dataset and where it came from.

    Attributes:
        data: the encoded dataset.
        pruned: path of the pruned table.
        source_digest: SHA-256 of the S1 table's file.
    """

    data: EncodedDataset
    pruned: Path
    source_digest: str


def with_table(data: DataConfig, step: StartRun = untracked) -> DataConfig:
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


def prepare(data: DataConfig, rules: PruningRules, features: FeatureConfig, seed: int, tracker: Tracker) -> Prepared:
    """Prune and featurize what is missing, and log the inputs of the training.

    Raises:
        UserError: the table cannot be used.
    """
    pruned = pruned_table(data.in_file, rules, data.cache_dir, data.max_rejects)
    encoded = encoded_dataset(pruned.path, features, seed, data.cache_dir, data.in_file)
    tracker.dataset(Path(data.in_file).name, pruned.source_digest, data.in_file, "source", {"rows": encoded.meta.rows_read})
    tracker.artifact(pruned.counts_file, "pruning")
    counts = encoded.meta.model_dump(mode="json", include={
        "rows_read", "rows_full_sensitivity", "rows_without_boxes", "rows_kept", "boxes", "positives",
        "boxes_per_type", "positives_per_type",
    })
    tracker.dataset(f"{encoded.meta.kind} features", encoded.digest, data.in_file, "training", counts)
    flat = {k: float(v) for k, v in counts.items() if not isinstance(v, dict)}
    tracker.metrics({f"data/{name}": value for name, value in flat.items()})
    return Prepared(encoded, pruned.path, pruned.source_digest)
