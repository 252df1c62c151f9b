"""From a config file to a trained, tracked and registered S2 model: its data, its run, and what is logged of it."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.table import BoxTable
from rna_s2.engine.tracker import StartRun, Tracker, untracked
from rna_s2.fitting.module import MONITOR
from rna_s2.options.errors import UserError
from rna_s2.pipeline.open_models import open_model
from rna_s2.pipeline.steps.featurize import encoded_dataset
from rna_s2.pipeline.steps.outputs import log_files
from rna_s2.pipeline.steps.propose import proposals_file
from rna_s2.pipeline.steps.prune import pruned_table
from rna_s2.pipeline.steps.segments import segments_file
from rna_s2.pipeline.train_config import DataConfig, TrainConfig
from rna_s2.pipeline.training_run import CONFIG_FILE, training_run
from rna_s2.pruning.rules import PruningRules
from rna_s2.reports.plots import learning_plot, mean_roc, roc_plot
from rna_s2.rna.boxes import STEM, Boxes, ragged_take
from rna_s2.rna.pairs import as_pairs, pairs_of_boxes
from rna_s2.s2.config import FeatureConfig
from rna_s2.s2.dataset import EncodedDataset
from rna_s2.s2.feature_groups import libraries_of
from rna_s2.s2.scorer import Scorer
from rna_s2.s2.training import Evaluation, TrainResult, train
from rna_s2.structures.candidates import DecodeOptions, log_odds
from rna_s2.structures.compare import compare_many
from rna_s2.structures.decode import decode_batch
from rna_s2.tracking.artifacts import fetch_artifact
from rna_s2.tracking.models import NETWORK_FOLDER, S2_ENERGY_MODEL, S2_MODEL
from rna_s2.tracking.names import run_name
from rna_s2.tracking.registry import LoggedModel, log_model
from rna_s2.tracking.runs import MlflowTracker, child_runs, resolve_run_id

logger = logging.getLogger(__name__)

STAGE = "train"
EXAMPLE_ROWS = 2
_BOX_COLUMNS = ("bb_x", "bb_y", "siz_x", "siz_y")
_METRICS = ("sensitivity", "ppv", "f1")


@dataclass(frozen=True)
class Prepared:
    """An encoded dataset, and the path of the pruned table it was made of."""

    data: EncodedDataset
    pruned: Path


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
    tracker.metrics({f"data/{name}": float(value) for name, value in counts.items() if not isinstance(value, dict)})
    return Prepared(encoded, pruned.path)


@dataclass(frozen=True)
class TrainReport:
    """What a tracked training gave; where no model is kept, its URI is empty."""

    run_id: str
    result: TrainResult
    prepared: Prepared
    model_uri: str = ""
    model_version: str | None = None


def run_train(
    config: TrainConfig, *, parent_run_id: str | None = None, progress: bool = True, tags: Mapping[str, str] = {},
    keep_model: bool = True,
) -> TrainReport:
    """Prepare what is missing, train, and log everything that the config describes.

    Args:
        config: the whole training.
        parent_run_id: makes the run a child of that one.
        progress: show a progress bar.
        tags: further tags of the run.
        keep_model: log the network as a model of the run.

    Raises:
        UserError: the data, the config, the run to resume or the tracking store cannot be used.
    """
    network = config.network
    size = f"hid{network.lstm_hid}x{network.lstm_layer}" if config.features.kind == "sequence_encoding" else ""
    name = run_name(STAGE, config.name, size, seed=config.seed)
    with training_run(
        config, stage=STAGE, name=name, resume=config.resume, cache_dir=config.data.cache_dir,
        tags={"features": config.features.kind, "model": config.name, **tags}, parent_run_id=parent_run_id,
    ) as run:
        start = open_model(config.start, Scorer.load) if config.start else None
        data = with_table(config.data, untracked if parent_run_id else child_runs(run.tracker.run_id))
        prepared = prepare(data, config.pruning, config.features, config.seed, run.inputs)
        result = train(
            config, prepared.data, seed=config.seed, folder=run.open_checkpoints(), tracker=run.tracker, progress=progress,
            start=start,
        )
        report = TrainReport(run.tracker.run_id, result, prepared)
        if run.has_results(result.fit):
            _log_result(config, prepared, result, run.tracker)
            if keep_model:
                with run.logs_model():
                    model = _log_network(config, prepared, result, run.tracker)
                report = replace(report, model_uri=model.uri, model_version=model.version)
    logger.info(
        "%s: au-ROC (mean over rows) training %.4f, validation %.4f, best epoch %d of %d",
        name, result.train.metrics["auroc"], result.val.metrics["auroc"], result.fit.best_epoch + 1, result.fit.epochs,
    )
    return report


def _log_result(config: TrainConfig, prepared: Prepared, result: TrainResult, tracker: Tracker) -> None:
    best = result.fit.best_epoch
    evaluations = {"train": result.train, "val": result.val} | ({} if result.test is None else {"test": result.test})
    log_evaluations(prepared, evaluations, tracker, step=best)
    if config.decode:
        for part in evaluations.keys() - {"train"}:
            _log_structures(prepared, part, evaluations[part], tracker, step=best)
    tracker.metrics({"best/epoch": best, "fit_seconds": result.fit.seconds}, step=best)
    names = [f"{part}/{name}" for part in ("train", "val") for name in ("loss", "auroc")]
    history = {name: result.fit.history.get(name, []) for name in names}
    tracker.plot(learning_plot(history, config.name), "learning_curves.png")
    curves = {part: mean_roc(evaluation) for part, evaluation in evaluations.items()}
    tracker.plot(roc_plot({p: (curves[p], evaluations[p].metrics["auroc"]) for p in curves}, config.name), "roc_curves.png")
    log_files(tracker, {f"{part}_roc.csv": curve for part, curve in curves.items()}, "rows")


def _log_structures(prepared: Prepared, part: str, evaluation: Evaluation, tracker: Tracker, step: int) -> None:
    """Logs how good the best structure of each row is, and a table of the rows."""
    compared = structure_metrics(prepared, evaluation)
    if compared is None:
        logger.info("no structures: the features do not hold the places and sizes of boxes")
        return
    tracker.metrics({f"{part}/{name}": value for name, value in compared.metrics.items()}, step=step)
    rows = compared.rows.assign(source_row=prepared.data.source_row[evaluation.rows])
    log_files(tracker, {f"{part}_structures.csv": rows}, "rows")


def log_evaluations(prepared: Prepared, evaluations: Mapping[str, Evaluation], tracker: Tracker, step: int = 0) -> None:
    """Logs the metrics of the scored parts (``train``, ``val``, ``test``), and a table of each part's rows."""
    for part, evaluation in evaluations.items():
        where = "test" if part == "test" else f"best/{part}"
        tracker.metrics({f"{where}/{name}": value for name, value in evaluation.metrics.items()}, step=step)
    log_files(tracker, {f"{part}_rows.csv": row_table(prepared, each) for part, each in evaluations.items()}, "rows")


def _log_network(config: TrainConfig, prepared: Prepared, result: TrainResult, tracker: MlflowTracker) -> LoggedModel:
    best = result.fit.best_epoch
    model_type = S2_ENERGY_MODEL if "ViennaRNA" in libraries_of(config.features.kind) else S2_MODEL
    with tempfile.TemporaryDirectory() as folder:
        model_folder = Path(folder) / NETWORK_FOLDER
        Scorer.of(result.network, config.network, prepared.data, best).save(model_folder)
        return log_model(
            tracker, model_folder, model_type, name=config.name, registered_name=config.registered_name,
            input_example=example_rows(prepared), metrics={MONITOR: result.val.metrics["auroc"]}, step=max(best, 0),
            tags={"features": config.features.kind},
        )


def row_table(prepared: Prepared, evaluation: Evaluation) -> pd.DataFrame:
    """One line per scored row: its position in the S1 table, boxes, boxes in the target, au-ROC."""
    return pd.DataFrame({
        "source_row": prepared.data.source_row[evaluation.rows],
        "group": prepared.data.group[evaluation.rows],
        "seq_length": prepared.data.seq_length[evaluation.rows],
        "boxes": np.bincount(evaluation.row, minlength=len(evaluation.rows)),
        "auroc": evaluation.auroc,
    })


def example_rows(prepared: Prepared) -> pd.DataFrame:
    """A few short rows of the pruned table, as a user would give them to the model."""
    columns = ["seq", "bb_stem", "bb_iloop", "bb_hloop"]
    frame = pd.read_parquet(prepared.pruned, columns=columns)
    shortest = prepared.data.source_row[prepared.data.seq_length.argsort(kind="stable")[:EXAMPLE_ROWS]]
    example = frame.iloc[shortest].reset_index(drop=True)

    def plain(box: dict) -> dict:
        return {name: int(box[name]) for name in _BOX_COLUMNS} | {
            name: [float(v) for v in box[name]] for name in ("prob_sm", "prob_sl") if box.get(name) is not None
        }

    for column in columns[1:]:
        example[column] = [[plain(box) for box in boxes] for boxes in example[column]]
    return example


def config_of_run(run_id: str) -> str:
    """The path of a copy of the config that a run was trained with; it is there until this process ends.

    Raises:
        UserError: the run is unknown or keeps no config, or the tracking store cannot be reached.
    """
    folder = tempfile.mkdtemp(prefix="rna-s2-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = fetch_artifact(resolve_run_id(run_id), CONFIG_FILE, Path(folder))
    if path is None:
        raise UserError(f"run {run_id} has no {CONFIG_FILE}; give its config as well")
    return str(path)



@dataclass(frozen=True)
class StructureMetrics:
    """Predicted against target structures.

    Attributes:
        rows: one line per row: ``sensitivity``, ``ppv`` and ``f1`` of its base pairs, ``exact`` where all pairs are right
            and none is missing.
        metrics: means over the rows, ``exact_rows`` the share of exact ones.
    """

    rows: pd.DataFrame
    metrics: dict[str, float]


def structure_metrics(
    prepared: Prepared, evaluation: Evaluation, options: DecodeOptions | None = None
) -> StructureMetrics | None:
    """Decode the scored rows and compare the structures with the targets' base pairs.

    Returns:
        The metrics; None where the features do not say where the boxes are, so that there is nothing to decode.
    """
    boxes = boxes_of(prepared.data, evaluation.rows)
    if boxes is None:
        return None
    lengths = prepared.data.seq_length[evaluation.rows].astype(np.int64)
    decoded = decode_batch(boxes, log_odds(evaluation.probability), lengths, options)
    known = target_pairs(prepared, evaluation.rows)
    compared = compare_many([d.pairs for d in decoded], known, lengths)
    rows = compared[list(_METRICS)].assign(
        exact=(compared["right"] == compared["known"]) & (compared["right"] == compared["predicted"])
    )
    metrics = {name: float(rows[name].mean()) for name in _METRICS} | {"exact_rows": float(rows["exact"].mean())}
    return StructureMetrics(rows, metrics)


def boxes_of(data: EncodedDataset, rows: np.ndarray) -> Boxes | None:
    """The boxes of some rows (``(k,)`` int) of a dataset; None where its features lack their places and sizes."""
    names = data.meta.feature_names
    if not set(_BOX_COLUMNS) <= set(names):
        return None
    index, offsets = ragged_take(data.offsets, rows)
    columns = (np.asarray(data.features[index, names.index(name)]).round() for name in _BOX_COLUMNS)
    return Boxes(offsets, np.asarray(data.box_type[index]), *columns)


def target_pairs(prepared: Prepared, rows: np.ndarray) -> list[np.ndarray]:
    """``(k, 2)`` int32 base pairs of the target structure of some rows of a dataset.

    They are those of ``one_idx``; where a row of the table has none, all are those of the target stems.
    """
    source = prepared.data.source_row[rows]
    if "one_idx" in pq.read_schema(prepared.pruned).names:
        given = pd.read_parquet(prepared.pruned, columns=["one_idx"])["one_idx"].iloc[source]
        if given.notna().all():
            return [as_pairs(*pairs) for pairs in given]
    table: BoxTable = read_table(prepared.pruned).table.take_rows(source)
    assert table.targets is not None  # the labels come from them
    return [pairs_of_boxes(box for box in table.targets.row_boxes(row) if box[0] == STEM) for row in range(table.rows)]
