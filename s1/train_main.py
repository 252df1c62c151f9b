"""The command ``train_s1``: train the stage 1 network on folded segments, tracked, and register it."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from pydantic import Field

from boxtables.read import read_table
from boxtables.table import BoxTable, Ragged
from entry.errors import UserError, run_command
from entry.files import file_digest
from entry.options import parse
from entry.tracker import Tracker
from fitting.loop import BEST, CHECKPOINTS, LAST
from rna.boxes import Boxes
from s1.config import S1Config
from s1.model import save_network
from s1.network import receptive_field, weight_count
from s1.training import MONITOR, TrainResult, train
from tracking.artifacts import fetch_artifact
from tracking.models import NETWORK_FOLDER, S1_MODEL
from tracking.registry import log_model
from tracking.runs import MlflowTracker, resolve_run_id, start_run

logger = logging.getLogger(__name__)

COMMAND = "train_s1"
REGISTERED_NAME = "s1-proposals"


class TrainS1Config(S1Config):
    """A whole training of stage 1."""

    name: str = Field("s1 compact", min_length=1, description="name of the model, for the run")
    in_file: tuple[str, ...] = Field(
        min_length=1, description="tables of folded segments with their structures (Parquet or pickle), at commas"
    )
    registered_name: str | None = Field(REGISTERED_NAME, description="name in the registry; none registers nothing")
    experiment: str = Field("rna-s2", min_length=1, description="MLflow experiment")
    seed: int = Field(0, ge=0, lt=2**31, description="of everything random")
    resume: str = Field("", description="id of a run to go on with after an interruption")
    cache_dir: str = Field(".cache", description="folder for checkpoints")
    out_dir: str = Field("", description="folder to write the trained network to as well")
    max_minutes: float = Field(0, ge=0, description="stop after the epoch in which so many minutes passed; 0: no limit")


OPTIONS = TrainS1Config
CONFIG_OPTION = "config"
OVERRIDES = {
    "in_file": "in_file",
    "out_dir": "out_dir",
    "epochs": "training.epoch",
    "seed": "seed",
    "experiment": "experiment",
    "resume": "resume",
    "precision": "training.precision",
    "cache_dir": "cache_dir",
    "max_minutes": "max_minutes",
    "registered_name": "registered_name",
}
CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class TrainS1Report:
    """What a tracked training gave."""

    run_id: str
    result: TrainResult
    model_uri: str
    model_version: str | None


def read_tables(paths: Sequence[str], tracker: Tracker) -> BoxTable:
    """The rows of several tables as one, without their proposals; rows that cannot be used are left out and counted.

    Raises:
        UserError: a table cannot be read, or has no rows.
    """
    frames, targets, digests = [], [], []
    for path in paths:
        read = read_table(path, require_proposals=False)
        if len(read.rejects):
            first = read.rejects.iloc[0]
            logger.warning(
                "%s: %d rows left out, the first is row %s (%s: %s)",
                path, len(read.rejects), first["row"], first["column"], first["reason"],
            )
        if not read.table.rows:
            raise UserError(f"{path}: has no row that can be used; give a table of folded segments")
        columns = [name for name in ("seq", "transcript_id") if name in read.table.frame]
        frames.append(read.table.frame[columns])
        targets.append(read.table.targets)
        digests.append(file_digest(path))
        profile = {"rows": read.table.rows, "rejects": len(read.rejects)}
        tracker.dataset(Path(path).name, digests[-1], path, "train", profile)
    frame = pd.concat(frames, ignore_index=True)
    return BoxTable(
        frame, Boxes.empty(len(frame)), _joined(targets), Ragged.empty(0), Ragged.empty(0),
        source=", ".join(paths), digest=",".join(digests),
    )


def _joined(parts: Sequence[Boxes]) -> Boxes:
    """Boxes of several tables one after the other."""
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    columns = [np.concatenate([getattr(p, name) for p in parts]) for name in ("type", "bb_x", "bb_y", "siz_x", "siz_y")]
    return Boxes(np.concatenate([[0], np.cumsum(counts)]), *columns)


def run_train_s1(config: TrainS1Config, *, progress: bool = True) -> TrainS1Report:
    """Train, and log and register what comes of it.

    Raises:
        UserError: the data, the run to resume or the tracking store cannot be used.
    """
    run_id = resolve_run_id(config.resume) if config.resume else None
    name = f"{COMMAND} {config.name} seed{config.seed}"
    with start_run(COMMAND, name, experiment=config.experiment, tags={"model": config.name}, run_id=run_id) as tracker:
        if run_id is None:
            tracker.params(config.model_dump(mode="json", exclude={"resume"}))
            _log_config(config, tracker)
        table = read_tables(config.in_file, tracker)
        folder = Path(config.cache_dir) / "checkpoints" / tracker.run_id
        if run_id is not None and not (folder / LAST).is_file():
            for file in (BEST, LAST):
                fetched = fetch_artifact(run_id, f"{CHECKPOINTS}/{file}", folder / "fetched")
                if fetched is not None:
                    shutil.copyfile(fetched, folder / file)
            if not (folder / LAST).is_file():
                logger.warning("run %s has no checkpoint yet; it starts from the beginning", run_id)
        result = train(
            config, table, seed=config.seed, folder=folder, tracker=tracker, progress=progress,
            max_seconds=60 * config.max_minutes or None,
        )
        report = _log_result(config, table, result, tracker)
    logger.info(
        "%s: %d rows trained, best epoch %d of %d, box sensitivity %.4f",
        name, len(result.train_rows), result.fit.best_epoch + 1, result.fit.epochs, result.fit.best_value,
    )
    return report


def _log_config(config: TrainS1Config, tracker: Tracker) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG_FILE
        path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude={"resume"}), sort_keys=False), "utf-8")
        tracker.artifact(path)


def _log_result(config: TrainS1Config, table: BoxTable, result: TrainResult, tracker: MlflowTracker) -> TrainS1Report:
    about = {
        "config": config.model_dump(mode="json", exclude={"resume", "experiment", "cache_dir", "out_dir"}),
        "data_digest": table.digest,
        "train_rows": len(result.train_rows),
        "val_rows": len(result.val_rows),
        "epochs": result.fit.epochs,
        "best_epoch": result.fit.best_epoch,
        MONITOR: result.fit.best_value,
        "weights": weight_count(result.network),
        "receptive_field": 2 * receptive_field(config.network) + 1,
    }
    tracker.metrics(
        {
            "best/box_sensitivity": result.fit.best_value, "best/epoch": result.fit.best_epoch,
            "fit_seconds": result.fit.seconds, "weights": about["weights"], "receptive_field": about["receptive_field"],
        },
        step=max(result.fit.best_epoch, 0),
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / NETWORK_FOLDER
        save_network(result.network, folder, about)
        if config.out_dir:
            save_network(result.network, config.out_dir, about)
        shortest = table.lengths[result.val_rows].argsort(kind="stable")[:1]
        model = log_model(
            tracker, folder, S1_MODEL, name=config.name, registered_name=config.registered_name,
            input_example=pd.DataFrame({"seq": table.frame["seq"].iloc[result.val_rows[shortest]].tolist()}),
            metrics={MONITOR: result.fit.best_value}, step=max(result.fit.best_epoch, 0),
        )
    return TrainS1Report(tracker.run_id, result, model.uri, model.version)


def main(argv: Sequence[str] | None = None) -> TrainS1Report:
    """The command."""
    config = parse(
        OPTIONS, argv, command=COMMAND, description="Train the stage 1 network on folded segments.",
        overrides=OVERRIDES, config_option=CONFIG_OPTION,
    )
    return run_train_s1(config)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
