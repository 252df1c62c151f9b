"""Entry point ``featurize``: encode the boxes of a pruned table as training data (:mod:`rna_s2.s2.features`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from rna_s2.boxtables.read import read_table
from rna_s2.engine.tracker import Tracker, timed
from rna_s2.options.base import Options, parse
from rna_s2.options.errors import UserError, run_command
from rna_s2.rna.boxes import BOX_TYPES
from rna_s2.s2.config import KINDS
from rna_s2.s2.dataset import EncodedDataset, Kind, check_dataset_path
from rna_s2.s2.features import featurize
from rna_s2.tracking.runs import DEFAULT_EXPERIMENT, start_run

logger = logging.getLogger(__name__)

COMMAND = "featurize"


class FeaturizeOptions(Options):
    """Options of the entry point."""

    in_file: str = Field(min_length=1, description="pruned table (.parquet, .pkl, .pkl.gz)")
    out_file: str = Field(min_length=1, description="folder to write the encoded dataset to")
    kind: Kind = Field("baseline", description="features of a box: " + ", ".join(KINDS))
    keep_partial: bool = Field(False, description="keep rows below 100 % box sensitivity as well")
    seed: int = Field(0, ge=0, description="seed of the permutation of labels, where the kind shuffles them")
    experiment: str = Field(DEFAULT_EXPERIMENT, min_length=1, description="MLflow experiment")


OPTIONS = FeaturizeOptions


def run_featurize(options: FeaturizeOptions, tracker: Tracker) -> EncodedDataset:
    """Encode a pruned table file as a dataset folder.

    The tracker gets parameters, counts, timings, the input's digest, the metadata and the dataset.

    Raises:
        UserError: the table cannot be read, has rows that cannot be used or no targets; no row can be trained on; the
            dataset cannot be written.
    """
    check_dataset_path(options.out_file)
    seconds: dict[str, float] = {}
    tracker.params(options.model_dump(exclude={"experiment"}))
    with timed(seconds, "read"):
        read = read_table(options.in_file)
    table = read.table
    if len(read.rejects):
        first = read.rejects.iloc[0]
        raise UserError(
            f"{options.in_file}: {len(read.rejects)} rows cannot be used; the first is row {first['row']} (index "
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
            f"{options.in_file}: none of its {meta.rows_read} rows can be trained on ({meta.rows_full_sensitivity} "
            f"with 100 % box sensitivity, {meta.rows_without_boxes} without a box); "
            + ("prune less" if options.keep_partial else "prune less, or set keep_partial")
        )
    with timed(seconds, "write"):
        data.save(options.out_file)

    tracker.metrics(
        {
            "rows/read": meta.rows_read,
            "rows/full_sensitivity": meta.rows_full_sensitivity,
            "rows/without_boxes": meta.rows_without_boxes,
            "rows/kept": meta.rows_kept,
            "full_sensitivity_share": meta.rows_full_sensitivity / meta.rows_read,
            "boxes/all": meta.boxes,
            "positives/all": meta.positives,
            "positive_share": meta.positives / meta.boxes,
            "groups": len(set(data.group.tolist())),
        }
        | {f"boxes/{name}": meta.boxes_per_type[name] for name in BOX_TYPES}
        | {f"positives/{name}": meta.positives_per_type[name] for name in BOX_TYPES}
        | {f"seconds/{name}": value for name, value in seconds.items()}
    )
    tracker.artifact(Path(options.out_file), "dataset")
    tracker.tags({"kind": options.kind, "out_file": options.out_file, "digest.out_file": data.digest})
    return data


def main(argv: Sequence[str] | None = None) -> EncodedDataset:
    """The command. Raises UserError as :func:`run_featurize` does."""
    options = parse(
        FeaturizeOptions, argv, command=COMMAND, description="Encode the boxes of a pruned table as training data."
    )
    name = f"featurize {options.kind} {Path(options.in_file).name}"
    with start_run("featurize", name, experiment=options.experiment) as tracker:
        data = run_featurize(options, tracker)
    meta = data.meta
    logger.info(
        "%s: %d of %d rows kept (%d with 100 %% box sensitivity, %d without a box), %d boxes, %d (%.1f %%) labelled 1",
        options.out_file, meta.rows_kept, meta.rows_read, meta.rows_full_sensitivity, meta.rows_without_boxes,
        meta.boxes, meta.positives, 100 * meta.positives / meta.boxes,
    )
    return data


if __name__ == "__main__":
    raise SystemExit(run_command(main))
