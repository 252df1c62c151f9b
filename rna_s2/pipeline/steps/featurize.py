"""The step ``featurize``: encode the boxes of a pruned table as training data (:mod:`rna_s2.s2.features`)."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from rna_s2.boxtables.read import read_table
from rna_s2.engine.tracker import StartRun, Tracker, timed, untracked
from rna_s2.options.errors import UserError
from rna_s2.options.files import file_digest
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.steps.outputs import CachedStep, make_or_find
from rna_s2.rna.boxes import BOX_TYPES
from rna_s2.s2.config import FeatureConfig
from rna_s2.s2.dataset import EncodedDataset, check_dataset_path, load
from rna_s2.s2.feature_groups import KINDS, Kind, libraries_of
from rna_s2.s2.features import featurize
from rna_s2.s2.views import view
from rna_s2.tracking.names import run_name

logger = logging.getLogger(__name__)

FEATURIZE = CachedStep("featurize", version=3, folder="encoded", libraries=("numpy",))


class FeaturizeOptions(TrackedOptions):
    """Options of the entry point."""

    in_file: str = Field(min_length=1, description="pruned table (.parquet, .pkl, .pkl.gz)")
    out_file: str = Field(min_length=1, description="folder to write the encoded dataset to")
    kind: Kind = Field("baseline", description="features of a box: " + ", ".join(KINDS))
    keep_partial: bool = Field(False, description="keep rows below 100 % box sensitivity as well")
    seed: int = Field(0, ge=0, description="seed of the permutation of labels, where the kind shuffles them")


def run_featurize(options: FeaturizeOptions, tracker: Tracker, source: str = "") -> EncodedDataset:
    """Encode a pruned table file as a dataset folder; the tracker gets parameters, counts, timings and the input's digest.

    ``source`` is the S1 table that the pruned one is made of, for messages; empty: ``in_file``.

    Raises:
        UserError: the table cannot be read, has rows that cannot be used or no targets; no row can be trained on; the
            dataset cannot be written.
    """
    check_dataset_path(options.out_file)
    source = source or options.in_file
    seconds: dict[str, float] = {}
    tracker.params(options.model_dump(exclude={"experiment"}))
    with timed(seconds, "read"):
        read = read_table(options.in_file)
    table = read.table
    if len(read.rejects):
        first = read.rejects.iloc[0]
        raise UserError(
            f"{source}: {len(read.rejects)} rows cannot be used; the first is row {first['row']} (index "
            f"{first['index']}), column {first['column']}: {first['reason']}; prune the table first, with max_rejects"
        )
    tracker.dataset(
        Path(options.in_file).name, table.digest, options.in_file, "featurize",
        {"rows": table.rows, "boxes": len(table.proposals)},
    )
    with timed(seconds, "featurize"):
        data = featurize(table, options.kind, keep_partial=options.keep_partial, seed=options.seed)
    meta = data.meta
    if not meta.rows_kept:
        raise UserError(
            f"{source}: none of its {meta.rows_read} rows can be trained on ({meta.rows_full_sensitivity} "
            f"with 100 % box sensitivity, {meta.rows_without_boxes} without a box); "
            + ("prune less" if options.keep_partial else "prune less, or set keep_partial")
        )
    with timed(seconds, "write"):
        data.save(options.out_file)

    tracker.metrics({
        **{f"rows/{name}": getattr(meta, f"rows_{name}") for name in ("read", "full_sensitivity", "without_boxes", "kept")},
        "full_sensitivity_share": meta.rows_full_sensitivity / meta.rows_read,
        "boxes/all": meta.boxes,
        "positives/all": meta.positives,
        "positive_share": meta.positives / meta.boxes,
        "groups": len(set(data.group.tolist())),
        **{f"boxes/{name}": meta.boxes_per_type[name] for name in BOX_TYPES},
        **{f"positives/{name}": meta.positives_per_type[name] for name in BOX_TYPES},
        **{f"seconds/{name}": value for name, value in seconds.items()},
    })
    tracker.tags({"kind": options.kind, "out_file": options.out_file, "digest.out_file": data.digest})
    return data


def encoded_dataset(
    pruned: Path, features: FeatureConfig, seed: int, cache_dir: str, in_file: str, step: StartRun = untracked
) -> EncodedDataset:
    """The encoded dataset of a pruned table, made now or found in the cache.

    What is only a view of the dataset (:mod:`rna_s2.s2.views`) is made anew and has no part in the cache. ``seed`` is that
    of the permutation of labels or bases, where the features permute them; ``in_file`` the S1 table that the pruned one is
    made of: the dataset's source.

    Raises:
        UserError: the table cannot be encoded, or leaves no row to train on.
    """
    label_seed = seed if KINDS[features.kind].shuffled else 0
    path = FEATURIZE.path(
        cache_dir, libraries=libraries_of(features.kind), source=file_digest(pruned),
        kind=features.kind, names=KINDS[features.kind].columns, keep_partial=features.keep_partial, seed=label_seed,
    )
    options = FeaturizeOptions(
        in_file=str(pruned), out_file=str(path), kind=features.kind, keep_partial=features.keep_partial, seed=label_seed
    )
    with step("featurize", run_name("featurize", features.kind)) as tracker:
        if make_or_find(path, tracker, lambda: run_featurize(options, tracker, in_file)):
            tracker.params(options.model_dump(exclude={"experiment"}))
        loaded = load(path)
        tracker.dataset(f"{loaded.meta.kind} features", loaded.digest, in_file, "featurize", {})
        tracker.metrics({"count.rows": len(loaded), "count.boxes": loaded.meta.boxes})
    log_encoded(loaded, path)
    return view(replace(loaded, meta=loaded.meta.model_copy(update={"source": in_file})), features, seed)


def log_encoded(data: EncodedDataset, path: str | Path) -> None:
    """Says in the log what an encoded dataset holds."""
    meta = data.meta
    logger.info(
        "encoded dataset (%s): %d of %d rows kept (%d with 100 %% box sensitivity, %d without a box), %d boxes, %d (%.1f %%) "
        "labelled 1; %s",
        meta.kind, meta.rows_kept, meta.rows_read, meta.rows_full_sensitivity, meta.rows_without_boxes, meta.boxes,
        meta.positives, 100 * meta.positives / max(1, meta.boxes), path,
    )
