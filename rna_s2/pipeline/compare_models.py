"""The whole comparison, from transcripts or from an S1 table to a report on four models."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from rna_s2.engine.pool import run_each
from rna_s2.engine.processes import default_workers
from rna_s2.fitting.devices import PRECISION_HELP, Precision
from rna_s2.options.base import load_yaml, validate
from rna_s2.options.errors import UserError
from rna_s2.options.places import PROJECT_ROOT
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.steps.featurize import encoded_dataset
from rna_s2.pipeline.steps.prune import pruned_table
from rna_s2.pipeline.train_config import SourceOptions, TrainConfig
from rna_s2.pipeline.train_s2 import run_train, with_table
from rna_s2.reports.notebook import log_notebook
from rna_s2.reports.plots import mean_roc, roc_plot
from rna_s2.s2.training import Evaluation
from rna_s2.tracking.names import run_name
from rna_s2.tracking.runs import child_runs, start_run

logger = logging.getLogger(__name__)

NOTEBOOK = PROJECT_ROOT / "notebooks" / "compare_runs.ipynb"
REPORT = "compare_runs.html"
MODELS = ("baseline", "s1_features", "lstm_attn", "shuffle_label")
"""Configs of the models that are compared, one per kind of features."""


class CompareOptions(TrackedOptions, SourceOptions):
    """Options of the whole comparison."""

    preset: Literal["debug", "full"] = Field(
        "debug", description="debug: networks of debug size, minutes; full: the reference experiment's, hours"
    )
    epochs: int | None = Field(None, ge=1, description="passes over the training rows, in place of the preset's")
    seed: int = Field(0, ge=0, lt=2**31, description="of everything random")
    split: Literal["order", "group"] = Field("group", description="how rows are split: see the train configs")
    precision: Precision = Field("32", description=PRECISION_HELP)
    max_rejects: int = Field(0, ge=-1, description="unusable rows to go on without; -1: any number")
    workers: int = Field(
        0, ge=0, description="trainings at a time, each in a process with its share of the cores; 1: one after the other in"
        " this one; 0: as many as there are cores and models"
    )
    cache_dir: str = Field(".cache", description="folder for pruned tables, encoded datasets and checkpoints")


class Trained(NamedTuple):
    """A model's run, and the scores of its two parts."""

    run_id: str
    train: Evaluation
    val: Evaluation


@dataclass(frozen=True)
class CompareReport:
    """The parent run, and the training of each model, by model name."""

    run_id: str
    trainings: dict[str, Trained]


def model_configs(options: CompareOptions) -> dict[str, TrainConfig]:
    """The config of each model: its own file, with the size and length of the preset and the given options.

    Raises:
        UserError: a config file cannot be used.
    """
    small = load_yaml(PROJECT_ROOT / "configs" / "debug.yaml") if options.preset == "debug" else {}
    configs = {}
    for name in MODELS:
        path = PROJECT_ROOT / "configs" / f"{name}.yaml"
        values = load_yaml(path)
        for section in ("network", "training"):
            values[section] = {**values.get(section, {}), **small.get(section, {})}
        if options.epochs is not None:
            values["training"]["epoch"] = options.epochs
        values["training"]["precision"] = options.precision
        values["split"] = {**values.get("split", {}), "by": options.split}
        values |= {"seed": options.seed, "experiment": options.experiment}
        values["data"] = options.model_dump(include={*SourceOptions.model_fields, "max_rejects", "cache_dir"})
        configs[name] = validate(TrainConfig, values, str(path))
    return configs


def run_compare(options: CompareOptions) -> CompareReport:
    """Prune once, train the four models, and attach the comparison; every step is a child of one run.

    Of transcripts, segments are cut and folded and given to stage 1 first. A step's result is found again by the content
    it was made from.

    Raises:
        UserError: the transcripts, the table or a config cannot be used, the tracking store cannot be reached, or a check
            of the comparison notebook fails (the report is attached all the same).
    """
    if not NOTEBOOK.is_file():
        raise UserError(f"{NOTEBOOK}: is missing; run the command in a complete copy of the repository")
    configs = model_configs(options)
    name = run_name("compare", ", ".join(MODELS), f"({options.preset})", seed=options.seed)
    with start_run("compare", name, experiment=options.experiment, tags={"preset": options.preset}) as tracker:
        tracker.params(options.model_dump(mode="json"))
        step = child_runs(tracker.run_id)
        data = with_table(configs[MODELS[0]].data, step)
        pruned = pruned_table(data.in_file, configs[MODELS[0]].pruning, data.cache_dir, data.max_rejects, step)
        tracker.dataset(Path(data.in_file).name, pruned.source_digest, data.in_file, "source", {})
        tracker.artifact(pruned.counts_file, "pruning")
        for config in configs.values():
            encoded_dataset(pruned.path, config.features, config.seed, data.cache_dir, data.in_file, step)
        trainings = train_each(configs, options.workers, tracker.run_id)
        for part in ("train", "val"):
            evaluations = {name: getattr(trained, part) for name, trained in trainings.items()}
            tracker.metrics({f"{name}/{part}/auroc": e.metrics["auroc"] for name, e in evaluations.items()})
            curves = {name: (mean_roc(e), e.metrics["auroc"]) for name, e in evaluations.items()}
            tracker.plot(roc_plot(curves, {"train": "training", "val": "validation"}[part]), f"roc_{part}.png")
        log_notebook(NOTEBOOK, REPORT, {"RNA_S2_PARENT_RUN": tracker.run_id}, tracker)
    scores = ", ".join(f"{name} {trained.val.metrics['auroc']:.3f}" for name, trained in trainings.items())
    logger.info("compared: %s; report %s in run %s", scores, REPORT, tracker.run_id)
    return CompareReport(tracker.run_id, trainings)


def train_each(configs: Mapping[str, TrainConfig], workers: int, parent_run_id: str) -> dict[str, Trained]:
    """Train models as children of a run, so many at a time (:attr:`CompareOptions.workers`); a progress bar has room for one.

    Raises:
        UserError: of the first training that fails, after the others that had begun; or a process was killed.
    """
    workers = min(workers or default_workers(), len(configs))
    if workers <= 1:
        return {name: _train(config, parent_run_id, True) for name, config in configs.items()}
    threads = max(1, default_workers() // workers)
    jobs = {name: (config, parent_run_id, False) for name, config in configs.items()}
    trained = dict(run_each(_train, jobs, workers, threads, "set workers to 1, or give the machine more memory"))
    return {name: trained[k] for k, name in enumerate(configs)}


def _train(config: TrainConfig, parent_run_id: str, progress: bool) -> Trained:
    report = run_train(config, parent_run_id=parent_run_id, progress=progress)
    return Trained(report.run_id, report.result.train, report.result.val)
