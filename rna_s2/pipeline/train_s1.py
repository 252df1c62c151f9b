"""Train the stage 1 network on folded segments, tracked, and register it."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.engine.tracker import Tracker
from rna_s2.fitting.module import MONITOR
from rna_s2.options.base import MODEL_NAME
from rna_s2.options.command_line import CONFIG_ONLY
from rna_s2.options.errors import UserError
from rna_s2.options.files import content_key, file_digest
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.steps.segments import training_segments
from rna_s2.pipeline.training_run import training_run
from rna_s2.rna.boxes import Boxes
from rna_s2.rna.formats import FileError, read_fasta
from rna_s2.s1.card import network_card
from rna_s2.s1.config import S1Config, SegmentRule, SyntheticTranscripts
from rna_s2.s1.model import check_network_folder, save_network
from rna_s2.s1.network import receptive_field, weight_count
from rna_s2.s1.training import TrainResult, train
from rna_s2.tracking.models import NETWORK_FOLDER, S1_MODEL
from rna_s2.tracking.names import run_name
from rna_s2.tracking.provenance import git_tags
from rna_s2.tracking.registry import LoggedModel, log_model
from rna_s2.tracking.runs import MlflowTracker, child_runs

logger = logging.getLogger(__name__)

REGISTERED_NAME = "s1-proposals"


class TrainS1Config(TrackedOptions, S1Config):
    """A whole training of stage 1."""

    name: str = Field(
        "s1 compact", pattern=MODEL_NAME, description="name of the model, for the run: letters, digits, spaces, _ and -",
        json_schema_extra=CONFIG_ONLY,
    )
    in_file: tuple[str, ...] = Field(
        (), description="tables of folded segments with their structures (Parquet or pickle), at commas"
    )
    transcripts: tuple[str | SyntheticTranscripts, ...] = Field(
        (), description="instead: what to cut and fold: FASTA files (paths or URLs), and numbers of random transcripts"
    )
    segments: SegmentRule = Field(default_factory=SegmentRule, description="how transcripts are cut, what is kept")
    exclude: tuple[str, ...] = Field(
        (), description="FASTA files whose transcripts must not be known to the network: rows of these names are left out",
        json_schema_extra=CONFIG_ONLY,
    )
    registered_name: str | None = Field(
        REGISTERED_NAME, pattern=MODEL_NAME,
        description="name in the registry: letters, digits, spaces, _ and -; none registers nothing",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of everything random")
    resume: str = Field("", description="id of a run to go on with after an interruption")
    cache_dir: str = Field(".cache", description="folder for transcripts, folded segments and checkpoints")
    out_dir: str = Field("", description="folder to write the trained network and its card to as well")
    max_minutes: float = Field(0, ge=0, description="stop after the epoch in which so many minutes passed; 0: no limit")

    @model_validator(mode="after")
    def _one_source(self) -> TrainS1Config:
        if bool(self.in_file) == bool(self.transcripts):
            raise ValueError("give either in_file or transcripts")
        return self


STAGE = "train_s1"
CARD_PACKAGES = ("torch", "ViennaRNA")
"""Packages whose versions the card names."""
NOT_ABOUT_THE_NETWORK = {"resume", "experiment", "cache_dir", "out_dir"}
"""Options that are not kept with a network."""


@dataclass(frozen=True)
class TrainS1Report:
    """What a tracked training gave; where no model is logged, its URI is empty."""

    run_id: str
    result: TrainResult
    model_uri: str = ""
    model_version: str | None = None


def read_tables(paths: Sequence[str], tracker: Tracker) -> tuple[BoxTable, list[dict[str, object]]]:
    """The rows of several tables as one, without their proposals; rows that cannot be used are left out and counted.

    Returns:
        The table, and what to say of each file: see :mod:`rna_s2.s1.card`.

    Raises:
        UserError: a table cannot be read, or has no rows.
    """
    frames, targets, digests, said = [], [], [], []
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
        assert read.table.targets is not None  # a table without them is refused
        targets.append(read.table.targets)
        digests.append(file_digest(path))
        profile = {"rows": read.table.rows, "rejects": len(read.rejects)}
        tracker.dataset(Path(path).name, digests[-1], path, "train", profile)
        named = frames[-1]["transcript_id"].nunique() if "transcript_id" in columns else 0
        said.append({"name": Path(path).name, "digest": digests[-1], "rows": read.table.rows, "transcripts": named})
    frame = pd.concat(frames, ignore_index=True)
    counts = np.concatenate([np.diff(boxes.offsets) for boxes in targets])
    fields = ("type", "bb_x", "bb_y", "siz_x", "siz_y")
    joined = (np.concatenate([getattr(boxes, name) for boxes in targets]) for name in fields)
    table = BoxTable(
        frame, Boxes.empty(len(frame)), Boxes(np.concatenate([[0], np.cumsum(counts)]), *joined), Ragged.empty(0),
        Ragged.empty(0), source=", ".join(paths), digest=",".join(digests),
    )
    return table, said


def without_transcripts(table: BoxTable, files: Sequence[str]) -> tuple[BoxTable, dict[str, object]]:
    """The table without rows of the transcripts that FASTA files hold, and what to say of it: see :mod:`rna_s2.s1.card`.

    Raises:
        UserError: a file cannot be read, or the table does not name the transcripts of its rows.
    """
    if not files:
        return table, {"files": [], "transcripts": 0, "rows": 0}
    if "transcript_id" not in table.frame:
        raise UserError(f"{table.source}: has no column transcript_id, so rows of {files[0]} cannot be left out")
    try:
        names = {record.name for file in files for record in read_fasta(file).records}
    except FileError as error:
        raise UserError(f"{error}; check the path in exclude") from error
    known = table.frame["transcript_id"].isin(names).to_numpy()
    if known.any():
        digest = f"{table.digest} without {content_key(transcripts=sorted(names))}"
        table = table.take_rows(np.flatnonzero(~known))
        table = replace(table, frame=table.frame.reset_index(drop=True), digest=digest)
        logger.info("%d rows of transcripts in %s left out", known.sum(), ", ".join(files))
    return table, {"files": list(files), "transcripts": len(names), "rows": int(known.sum())}


def run_train_s1(config: TrainS1Config, *, command: str = "") -> TrainS1Report:
    """Make what the training needs, train, and log and register what comes of it.

    ``command`` is the command line that stands for it, for the card.

    Raises:
        UserError: the data, the output folder, the run to resume or the tracking store cannot be used.
    """
    if config.out_dir:
        check_network_folder(config.out_dir)
    name = run_name(STAGE, config.name, seed=config.seed)
    with training_run(
        config, stage=STAGE, name=name, resume=config.resume, cache_dir=config.cache_dir,
        tags={"model": config.name},
    ) as run:
        run_id = run.tracker.run_id
        files = config.in_file or training_segments(config.transcripts, config.segments, config.cache_dir, child_runs(run_id))
        table, data = read_tables(files, run.inputs)
        table, excluded = without_transcripts(table, config.exclude)
        result = train(
            config, table, seed=config.seed, folder=run.open_checkpoints(), tracker=run.tracker,
            max_seconds=60 * config.max_minutes or None,
        )
        about = describe(config, table, result) | {
            "data": data, "excluded": excluded, "command": command, "run_id": run_id, **git_tags()
        }
        if config.out_dir:
            save_network(result.network, config.out_dir, about, network_card(about))
        report = TrainS1Report(run_id, result)
        if run.has_results(result.fit):
            kept = {f"kept/{name}": value for name, value in result.metrics.items()}
            counts = {name: about[name] for name in ("weights", "receptive_field")}
            run.tracker.metrics({"fit_seconds": result.fit.seconds, **counts, **kept}, step=result.fit.epochs - 1)
            with run.logs_model():
                model = _log_network(config, table, result, about, run.tracker)
            report = replace(report, model_uri=model.uri, model_version=model.version)
    logger.info(
        "%s: %d rows trained, %d epochs, au-ROC %.4f, box sensitivity %.4f at %.1f boxes per row",
        name, len(result.train_rows), result.fit.epochs,
        *(result.metrics[metric] for metric in ("auroc", "box_sensitivity", "boxes_per_row")),
    )
    return report


def describe(config: TrainS1Config, table: BoxTable, result: TrainResult) -> dict[str, Any]:
    """What is kept with a network about its training."""
    return {
        "config": config.model_dump(mode="json", exclude=NOT_ABOUT_THE_NETWORK),
        "data_digest": table.digest,
        "train_rows": len(result.train_rows),
        "val_rows": len(result.val_rows),
        "epochs": result.fit.epochs,
        "precision": result.fit.precision,
        "figures": {name: value if math.isfinite(value) else None for name, value in result.metrics.items()},
        "weights": weight_count(result.network),
        "receptive_field": 2 * receptive_field(config.network) + 1,
        "versions": {name: version(name) for name in CARD_PACKAGES},
    }


def _log_network(
    config: TrainS1Config, table: BoxTable, result: TrainResult, about: dict[str, Any], tracker: MlflowTracker
) -> LoggedModel:
    shortest = table.lengths[result.val_rows].argsort(kind="stable")[:1]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / NETWORK_FOLDER
        save_network(result.network, folder, about, network_card(about))
        return log_model(
            tracker, folder, S1_MODEL, name=config.name, registered_name=config.registered_name,
            input_example=pd.DataFrame({"seq": table.frame["seq"].iloc[result.val_rows[shortest]].tolist()}),
            metrics={MONITOR: result.metrics["auroc"]}, step=result.fit.epochs - 1,
        )
