"""From an S1 table to an encoded dataset, each step made once and found again by the content it was made from."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.write import write_rejects, write_table
from rna_s2.engine.tracker import Tracker
from rna_s2.options import files
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path, file_digest, made_by_one
from rna_s2.pipeline.train_config import DataConfig
from rna_s2.pruning.rules import PruningRules, prune
from rna_s2.s2 import dataset
from rna_s2.s2.config import FeatureConfig
from rna_s2.s2.features import FEATURE_NAMES, featurize
from rna_s2.s2.views import view

logger = logging.getLogger(__name__)

CACHE_VERSION = 1
"""Part of every key; raise it when pruning, features or a file format changes what the same input gives."""


@dataclass(frozen=True)
class Prepared:
    """An encoded dataset and where it came from.

    Attributes:
        data: the encoded dataset.
        pruned: path of the pruned table.
        source_digest: SHA-256 of the S1 table's file.
    """

    data: dataset.EncodedDataset
    pruned: Path
    source_digest: str


def content_key(**parts: object) -> str:
    """:func:`rna_s2.options.files.content_key` of this module's version."""
    return files.content_key(version=CACHE_VERSION, **parts)


def check_rejects(rejects: pd.DataFrame, max_rejects: int, rejects_file: Path, source: str, rows: int) -> None:
    """Write the rejects table where there are rejects; stop where they are more than allowed.

    Raises:
        UserError: more rows than ``max_rejects`` cannot be used, or none can.
    """
    if not len(rejects):
        return
    write_rejects(rejects, rejects_file)
    first = rejects.iloc[0]
    said = (
        f"{source}: {len(rejects)} of {rows} rows cannot be used, the first is row {first['row']} "
        f"({first['column']}: {first['reason']}); all are listed in {rejects_file}"
    )
    if len(rejects) == rows or (max_rejects >= 0 and len(rejects) > max_rejects):
        raise UserError(f"{said}; mend them, or go on without them with max_rejects={len(rejects)}")
    logger.warning("%s", said)


def pruned_table(data: DataConfig, rules: PruningRules) -> tuple[Path, str]:
    """The pruned table of an S1 table, made now or found in the cache.

    Returns:
        Its path, and the digest of the S1 table's file.

    Raises:
        UserError: the table cannot be used.
    """
    digest = file_digest(data.in_file)
    key = content_key(step="prune", source=digest, rules=rules.model_dump())
    path = Path(data.cache_dir) / "pruned" / f"{key}.parquet"
    rejects_file = path.with_suffix(".rejects.csv")
    if path.is_file() and not rejects_file.is_file():  # rejects are counted against max_rejects, and told, every time
        logger.info("pruned table: found in %s", path)
        return path, digest
    read = read_table(data.in_file)
    check_rejects(read.rejects, data.max_rejects, rejects_file, data.in_file, read.table.rows + len(read.rejects))
    result = prune(read.table, rules)
    if not result.table.rows:
        raise UserError(f"{data.in_file}: no row is left after pruning (max_len {rules.max_len}); raise max_len")
    with atomic_path(counts_file(path)) as counts:
        result.counts.to_csv(counts, index=False)
    write_table(result.table, path, added={"n_bb_found": result.sensitivity.n_found}, with_targets=True)
    logger.info(
        "pruned %d rows: %d boxes left, %.1f %% of the rows with 100 %% box sensitivity",
        result.table.rows, len(result.table.proposals), 100 * result.sensitivity.full_share,
    )
    return path, digest


def counts_file(pruned: Path) -> Path:
    """Where the counts before and after each rule lie beside a pruned table of the cache."""
    return pruned.with_suffix(".counts.csv")


def encoded_dataset(pruned: Path, features: FeatureConfig, seed: int, data: DataConfig) -> dataset.EncodedDataset:
    """The encoded dataset of a pruned table, made now or found in the cache; its source is the S1 table of ``data``.

    What is only a view of the dataset (:mod:`rna_s2.s2.views`) is made anew and has no part in the cache.

    Raises:
        UserError: the table cannot be encoded, or leaves no row to train on.
    """
    shuffle_seed = seed if features.kind in dataset.SHUFFLED_KINDS else 0
    encoded_as = features.model_dump(exclude={"without", "coordinates", "shuffle_bases"})
    names = FEATURE_NAMES[features.kind]
    key = content_key(step="featurize", source=file_digest(pruned), names=names, **encoded_as, seed=shuffle_seed)
    path = Path(data.cache_dir) / "encoded" / key
    if not path.is_dir():
        with made_by_one(path):
            _encode(path, pruned, features, shuffle_seed, data)
    loaded = dataset.load(path)
    logger.info(
        "encoded dataset (%s): %d of %d rows, %d boxes, %.1f %% of them in the target; %s",
        loaded.meta.kind, len(loaded), loaded.meta.rows_read, loaded.meta.boxes,
        100 * loaded.meta.positives / max(1, loaded.meta.boxes), path,
    )
    loaded = replace(loaded, meta=loaded.meta.model_copy(update={"source": data.in_file}))
    return view(loaded, features, seed)


def _encode(path: Path, pruned: Path, features: FeatureConfig, seed: int, data: DataConfig) -> None:
    """Make the encoded dataset of a pruned table at ``path``, unless it is there."""
    if path.is_dir():
        return
    encoded = featurize(read_table(pruned).table, features.kind, keep_partial=features.keep_partial, seed=seed)
    if not len(encoded):
        raise UserError(
            f"{data.in_file}: none of {encoded.meta.rows_read} rows has 100 % box sensitivity; "
            "prune less, or set features.keep_partial"
        )
    encoded.save(path)


def prepare(data: DataConfig, rules: PruningRules, features: FeatureConfig, seed: int, tracker: Tracker) -> Prepared:
    """Prune and featurize what is missing, and tell the tracker about the inputs.

    Raises:
        UserError: the table cannot be used.
    """
    pruned, digest = pruned_table(data, rules)
    encoded = encoded_dataset(pruned, features, seed, data)
    tracker.dataset(Path(data.in_file).name, digest, data.in_file, "source", {"rows": encoded.meta.rows_read})
    if counts_file(pruned).is_file():
        tracker.artifact(counts_file(pruned), "pruning")
    counts = encoded.meta.model_dump(mode="json", include={
        "rows_read", "rows_full_sensitivity", "rows_without_boxes", "rows_kept", "boxes", "positives",
        "boxes_per_type", "positives_per_type",
    })
    tracker.dataset(f"{encoded.meta.kind} features", encoded.digest, data.in_file, "training", counts)
    flat = {k: float(v) for k, v in counts.items() if not isinstance(v, dict)}
    tracker.metrics({f"data/{name}": value for name, value in flat.items()})
    return Prepared(encoded, pruned, digest)
