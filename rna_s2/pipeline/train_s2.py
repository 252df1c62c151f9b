"""From a config file to a trained, tracked and registered S2 model."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from rna_s2.engine.tracker import MemoryTracker, Tracker, untracked
from rna_s2.fitting.loop import alone, checkpoint_folder
from rna_s2.options.errors import UserError
from rna_s2.pipeline.model_folders import open_model
from rna_s2.pipeline.prepare import Prepared, prepare, with_table
from rna_s2.pipeline.structure_metrics import structure_figures
from rna_s2.pipeline.train_config import TrainConfig
from rna_s2.reports.pictures import learning_figure, mean_roc, roc_figure
from rna_s2.s2.dataset import WHOLE_SEQUENCE_KINDS
from rna_s2.s2.scorer import Scorer
from rna_s2.s2.training import Evaluation, TrainResult, train
from rna_s2.tracking.artifacts import fetch_artifact, fetch_checkpoints
from rna_s2.tracking.models import NETWORK_FOLDER, S2_ENERGY_MODEL, S2_MODEL
from rna_s2.tracking.registry import LoggedModel, log_model
from rna_s2.tracking.runs import MlflowTracker, child_runs, resolve_run_id, start_run

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
EXAMPLE_ROWS = 2


@dataclass(frozen=True)
class TrainReport:
    """What a tracked training gave; where no model is kept, its URI is empty."""

    run_id: str
    result: TrainResult
    prepared: Prepared
    model_uri: str = ""
    model_version: str | None = None


def run_name(config: TrainConfig) -> str:
    """What the run is called: the model, its size, its seed."""
    network = config.network
    size = f" hid{network.lstm_hid}x{network.lstm_layer}" if config.features.kind == "sequence_encoding" else ""
    return f"train {config.name}{size} seed{config.seed}"


def run_train(
    config: TrainConfig,
    *,
    parent_run_id: str | None = None,
    progress: bool = True,
    tags: Mapping[str, str] = {},
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
    run_id = resolve_run_id(config.resume) if config.resume else None
    tags = {"features": config.features.kind, "model": config.name, **tags}
    with ExitStack() as stack:
        if run_id is not None:
            stack.enter_context(alone(checkpoint_folder(config.data.cache_dir, run_id)))
        tracker = stack.enter_context(start_run(
            "train", run_name(config), experiment=config.experiment, tags=tags, parent_run_id=parent_run_id, run_id=run_id
        ))
        folder = checkpoint_folder(config.data.cache_dir, tracker.run_id)
        if run_id is None:
            _log_config(config, tracker)
        start = open_model(config.start, Scorer.load) if config.start else None
        data = with_table(config.data, untracked if parent_run_id else child_runs(tracker.run_id))
        told = MemoryTracker() if tracker.was_finished else tracker  # the inputs of a finished run stand there already
        prepared = prepare(data, config.pruning, config.features, config.seed, told)
        if run_id is None:
            stack.enter_context(alone(folder))
        else:
            fetch_checkpoints(run_id, folder)
        result = train(
            config, prepared.data, seed=config.seed, folder=folder, tracker=tracker, progress=progress, start=start
        )
        if tracker.was_finished and not result.fit.trained:
            logger.info("run %s had finished and has no epoch left to train: nothing is logged again", run_id)
            return TrainReport(tracker.run_id, result, prepared)
        if run_id is not None:
            _log_config(config, tracker)
        _log_result(config, prepared, result, tracker)
        try:
            model = _log_network(config, prepared, result, tracker) if keep_model else None
        except UserError as error:
            raise UserError(
                f"{error}; the training itself is done and its checkpoints are kept in {folder}: when that is mended, "
                f"train with resume={tracker.run_id} logs the model"
            ) from error
    logger.info(
        "%s: au-ROC (mean over rows) training %.4f, validation %.4f, best epoch %d of %d",
        run_name(config), result.train.metrics["auroc"], result.val.metrics["auroc"],
        result.fit.best_epoch + 1, result.fit.epochs,
    )
    if model is None:
        return TrainReport(tracker.run_id, result, prepared)
    return TrainReport(tracker.run_id, result, prepared, model.uri, model.version)


def _log_config(config: TrainConfig, tracker: Tracker) -> None:
    tracker.params(config.model_dump(mode="json", exclude={"resume"}))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG_FILE
        content = config.model_dump(mode="json", exclude={"resume"})
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        tracker.artifact(path)


def _log_result(config: TrainConfig, prepared: Prepared, result: TrainResult, tracker: Tracker) -> None:
    best = result.fit.best_epoch
    evaluations = {"train": result.train, "val": result.val}
    if result.test is not None:
        evaluations["test"] = result.test
    log_evaluations(prepared, evaluations, tracker, step=best)
    if config.decode:
        for part in evaluations.keys() - {"train"}:
            _log_structures(prepared, part, evaluations[part], tracker, step=best)
    tracker.metrics({"best/epoch": best, "fit_seconds": result.fit.seconds}, step=best)
    names = [f"{part}/{name}" for part in ("train", "val") for name in ("loss", "auroc")]
    history = {name: result.fit.history.get(name, []) for name in names}
    tracker.figure(learning_figure(history, config.name), "learning_curves.png")
    curves = {part: mean_roc(evaluation) for part, evaluation in evaluations.items()}
    tracker.figure(
        roc_figure({p: (curves[p], evaluations[p].metrics["auroc"]) for p in curves}, config.name), "roc_curves.png"
    )
    with tempfile.TemporaryDirectory() as folder:
        for part, curve in curves.items():
            path = Path(folder) / f"{part}_roc.csv"
            curve.to_csv(path, index=False)
            tracker.artifact(path, "rows")


def _log_structures(prepared: Prepared, part: str, evaluation: Evaluation, tracker: Tracker, step: int) -> None:
    """Tell how good the best structure of each row is, and keep a table of the rows."""
    figures = structure_figures(prepared, evaluation)
    if figures is None:
        logger.info("no structures: the features do not tell the places and sizes of boxes")
        return
    tracker.metrics({f"{part}/{name}": value for name, value in figures.metrics.items()}, step=step)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{part}_structures.csv"
        figures.rows.assign(source_row=prepared.data.source_row[evaluation.rows]).to_csv(path, index=False)
        tracker.artifact(path, "rows")


def log_evaluations(prepared: Prepared, evaluations: Mapping[str, Evaluation], tracker: Tracker, step: int = 0) -> None:
    """Tell the figures of the scored parts (``train``, ``val``, ``test``), and keep a table of each part's rows."""
    tracker.metrics(
        {
            f"{'test' if part == 'test' else f'best/{part}'}/{name}": value
            for part, evaluation in evaluations.items()
            for name, value in evaluation.metrics.items()
        },
        step=step,
    )
    with tempfile.TemporaryDirectory() as folder:
        for part, evaluation in evaluations.items():
            path = Path(folder) / f"{part}_rows.csv"
            row_table(prepared, evaluation).to_csv(path, index=False)
            tracker.artifact(path, "rows")


def _log_network(config: TrainConfig, prepared: Prepared, result: TrainResult, tracker: MlflowTracker) -> LoggedModel:
    best = result.fit.best_epoch
    kind = S2_ENERGY_MODEL if config.features.kind in WHOLE_SEQUENCE_KINDS else S2_MODEL
    with tempfile.TemporaryDirectory() as folder:
        model_folder = Path(folder) / NETWORK_FOLDER
        Scorer.of(result.network, config.network, prepared.data, best).save(model_folder)
        return log_model(
            tracker, model_folder, kind, name=config.name, registered_name=config.registered_name,
            input_example=example_rows(prepared), metrics={"val/auroc": result.val.metrics["auroc"]}, step=max(best, 0),
            tags={"features": config.features.kind},
        )


def row_table(prepared: Prepared, evaluation: Evaluation) -> pd.DataFrame:
    """One line per scored row: its position in the S1 table, boxes, boxes in the target, au-ROC."""
    boxes = len(evaluation.rows)
    return pd.DataFrame({
        "source_row": prepared.data.source_row[evaluation.rows],
        "group": prepared.data.group[evaluation.rows],
        "seq_length": prepared.data.seq_length[evaluation.rows],
        "boxes": pd.Series(evaluation.row).value_counts().reindex(range(boxes), fill_value=0).to_numpy(),
        "auroc": evaluation.auroc,
    })


def example_rows(prepared: Prepared) -> pd.DataFrame:
    """A few short rows of the pruned table, as a user would give them to the model."""
    columns = ["seq", "bb_stem", "bb_iloop", "bb_hloop"]
    frame = pd.read_parquet(prepared.pruned, columns=columns)
    shortest = prepared.data.source_row[prepared.data.seq_length.argsort(kind="stable")[:EXAMPLE_ROWS]]
    example = frame.iloc[shortest].reset_index(drop=True)
    for column in columns[1:]:
        example[column] = [[_plain(box) for box in boxes] for boxes in example[column]]
    return example


def _plain(box: dict) -> dict:
    return {
        name: [float(v) for v in value] if name.startswith("prob_") else int(value)
        for name, value in box.items()
        if name in ("bb_x", "bb_y", "siz_x", "siz_y", "prob_sm", "prob_sl") and value is not None
    }


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
