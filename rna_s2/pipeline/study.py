"""A suite of trainings and rules as child runs of one run, and what they say together.

A run that has finished is not run again: the next call finds it by a digest of its resolved config and of the table, and
goes on with one that was killed or failed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from rna_s2.engine.pool import run_each
from rna_s2.engine.processes import default_workers
from rna_s2.engine.tracker import MemoryTracker, Tracker
from rna_s2.fitting.split import sampled_share
from rna_s2.options.errors import UserError
from rna_s2.options.files import file_digest
from rna_s2.options.places import PROJECT_ROOT
from rna_s2.pipeline.steps.outputs import log_files
from rna_s2.pipeline.study_config import NETWORK, Child, StudyConfig, resolve
from rna_s2.pipeline.train_config import TrainConfig
from rna_s2.pipeline.train_s2 import log_evaluations, prepare, run_train
from rna_s2.reports.notebook import log_notebook
from rna_s2.reports.study_table import METRICS, markdown, summary
from rna_s2.rna.boxes import ragged_take
from rna_s2.s2.config import FeatureConfig
from rna_s2.s2.naive_scorers import NAIVE_SCORERS, composition, naive_scores
from rna_s2.s2.training import evaluation, split_rows
from rna_s2.tracking.names import run_name
from rna_s2.tracking.runs import MlflowTracker, start_run
from rna_s2.tracking.studies import CHILD_STAGE, DIGEST, PARENT_STAGE, STUDY, adopt, find_children, run_metrics, study_table

logger = logging.getLogger(__name__)

PARTS = ("train", "val", "test")


def run_child(child: Child, study: str, parent_run_id: str, run_id: str | None) -> str:
    """Do one run of a study, or go on with the unfinished one of ``run_id``, and log its metrics. Returns the run's id.

    Raises:
        UserError: the data or the config cannot be used, or the tracking store cannot be reached.
    """
    tags = {"stage": CHILD_STAGE, STUDY: study, DIGEST: child.digest, "variant": child.variant.name}
    if child.variant.scorer == NETWORK:
        config = child.config.model_copy(update={"resume": run_id or ""})
        return run_train(config, parent_run_id=parent_run_id, progress=False, tags=tags, keep_model=False).run_id
    config = child.config
    name = run_name(CHILD_STAGE, child.variant.name, seed=child.seed)
    with start_run(
        CHILD_STAGE, name, experiment=config.experiment, tags={"model": child.variant.name, **tags},
        parent_run_id=parent_run_id, run_id=run_id,
    ) as tracker:
        given = config.model_dump(mode="json", exclude={"resume", "network", "training"})
        tracker.params(given | {"scorer": child.variant.scorer})
        prepared = prepare(config.data, config.pruning, config.features, config.seed, tracker)
        data = prepared.data
        parts = dict(zip(PARTS, split_rows(data, config.split, config.seed), strict=True))
        seqs: Sequence[str] = ()
        if NAIVE_SCORERS[child.variant.scorer].needs_sequences:
            seqs = pd.read_parquet(prepared.pruned, columns=["seq"])["seq"].iloc[data.source_row].tolist()
        learned = sampled_share(parts["train"], config.training.row_share, config.seed)
        scores = naive_scores(child.variant.scorer, data, learned, seqs=seqs, seed=config.seed)
        evaluations = {
            part: evaluation(data, rows, scores[ragged_take(data.offsets, rows)[0]])
            for part, rows in parts.items() if len(rows)
        }
        log_evaluations(prepared, evaluations, tracker)
    logger.info("%s: au-ROC (mean over rows) validation %.4f", name, evaluations["val"].metrics["auroc"])
    return tracker.run_id


def work(child: Child, study: str, parent_run_id: str, run_id: str | None, deadline: float) -> tuple[str, str]:
    """:func:`run_child` as a worker does it: until ``deadline`` (seconds since 1970).

    Returns:
        The run's id, and what went wrong; the first is empty where that is not, both are after the deadline.
    """
    if time.time() > deadline:
        return "", ""
    try:
        return run_child(child, study, parent_run_id, run_id), ""
    except UserError as error:
        return "", str(error)


NOTEBOOKS = {"why_is_the_baseline_high": PROJECT_ROOT / "notebooks" / "why_is_the_baseline_high.ipynb"}
"""Report of each study that has one, by the study's name."""
COMMIT_LENGTH = 7


@dataclass(frozen=True)
class StudyReport:
    """What a study gave.

    Attributes:
        run_id: the parent run.
        runs: run id of each finished child, by variant and seed.
        started: how many of them this call ran or went on with.
        table: :func:`rna_s2.reports.study_table.summary`.
    """

    run_id: str
    runs: dict[tuple[str, int], str]
    started: int
    table: pd.DataFrame


def run_study(study: StudyConfig, source: Path) -> StudyReport:
    """Run what is missing of a study, whose file is ``source``, put its runs under one parent, and report on them.

    Raises:
        UserError: the study or a table cannot be used (before any work); a run failed (after all others, and after the
            report on these); the tracking store cannot be reached.
    """
    children = resolve(study, source)
    in_file = children[0].config.data.in_file
    digest = file_digest(in_file)
    with start_run(
        PARENT_STAGE, run_name(PARENT_STAGE, study.name), experiment=study.experiment, tags={STUDY: study.name}
    ) as tracker:
        tracker.params(study.model_dump(mode="json", exclude={"overrides", "variants"}))
        tracker.params({"runs": len(children)})
        tracker.text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False), "study.yaml")
        tracker.dataset(Path(in_file).name, digest, in_file, "source", {})
        done, failed, started = run_children(children, study, tracker)
        if not done:
            raise UserError(f"no run of the study {study.name} has finished: {_first(failed) or 'raise max_minutes'}")
        table = report(children, done, study, tracker)
        if failed:
            raise UserError(
                f"{len(failed)} of {len(children)} runs failed, the first: {_first(failed)}; the same command goes on with them"
            )
        missing = len(children) - len(done)
        if missing:
            logger.warning("%d of %d runs were not started within %g minutes", missing, len(children), study.max_minutes)
    return StudyReport(tracker.run_id, {(c.variant.name, c.seed): r for c, r in done.items()}, started, table)


def _first(failed: dict[Child, str]) -> str:
    return next((f"{child.variant.name} seed {child.seed}: {said}" for child, said in failed.items()), "")


def prepare_once(children: Sequence[Child]) -> None:
    """Prune and encode what several children share, so that workers which start together need not all make it.

    Raises:
        UserError: a table cannot be used.
    """
    of_first: dict[str, TrainConfig] = {}
    for child in children:
        of_first.setdefault(child.config.model_dump_json(include={"data", "pruning", "features"}), child.config)
    for config in of_first.values():
        prepare(config.data, config.pruning, config.features, config.seed, MemoryTracker())


def run_children(
    children: Sequence[Child], study: StudyConfig, tracker: MlflowTracker
) -> tuple[dict[Child, str], dict[Child, str], int]:
    """Run what no earlier call has finished.

    Returns:
        run ids of the finished children; what went wrong with the failed ones; how many were run.

    Raises:
        UserError: a worker process was killed, or the tracking store cannot be reached.
    """
    known = find_children(tracker.experiment_id, study.name)
    done: dict[Child, str] = {}
    jobs: list[tuple[Child, str | None]] = []
    for child in children:
        found = known.get(child.digest)
        if found is not None and found.parent_run_id != tracker.run_id:
            adopt(found.run_id, tracker.run_id)
        if found is not None and found.finished:
            done[child] = found.run_id
        else:
            jobs.append((child, None if found is None else found.run_id))
    logger.info("study %s: %d of %d runs have finished before", study.name, len(done), len(children))
    failed: dict[Child, str] = {}
    started = 0
    for child, run_id, said in _results(jobs, len(children), study, tracker.run_id):
        if run_id:
            done[child] = run_id
        elif said:
            failed[child] = said
            logger.warning("%s seed %d failed: %s", child.variant.name, child.seed, said)
        started += bool(run_id or said)
    return done, failed, started


def _results(
    jobs: Sequence[tuple[Child, str | None]], runs: int, study: StudyConfig, parent_run_id: str
) -> Iterator[tuple[Child, str, str]]:
    """Child, run id and fault of each job, as they come; with several workers, each in a process of its own."""
    deadline = time.time() + 60 * study.max_minutes if study.max_minutes else float("inf")
    workers = min(study.workers or default_workers(), runs)
    threads = max(1, default_workers() // workers)  # whatever is left of the study, so that its metrics are those of one call
    if workers == 1 or not jobs:
        for child, run_id in jobs:
            yield child, *work(child, study.name, parent_run_id, run_id, deadline)
        return
    prepare_once([child for child, _ in jobs])
    arguments = {
        f"{child.variant.name} seed {child.seed}": (child, study.name, parent_run_id, run_id, deadline)
        for child, run_id in jobs
    }
    advice = "the same command goes on where it stopped, with fewer workers where it is memory"
    for index, answer in run_each(work, arguments, min(workers, len(jobs)), threads, advice):
        yield jobs[index][0], *answer


def report(children: Sequence[Child], done: dict[Child, str], study: StudyConfig, tracker: Tracker) -> pd.DataFrame:
    """Keep the tables of a study and its notebook with the parent run; returns the table of variants.

    Raises:
        UserError: the tracking store cannot be reached, or a check of the notebook fails.
    """
    lines, parts = [], []
    for child in children:
        if child not in done:
            continue
        metrics, commit = run_metrics(done[child])
        identity = {"variant": child.variant.name, "seed": child.seed}
        origin = {"run_id": done[child], "git_commit": commit}
        lines.append(identity | origin | {column: metrics.get(name, float("nan")) for column, name in METRICS.items()})
        for part in PARTS if child.config.split.test_share else PARTS[:2]:
            rows = study_table(done[child], f"rows/{part}_rows.csv")
            parts.append(rows.assign(**identity, part=part))
    runs, rows = pd.DataFrame(lines), pd.concat(parts, ignore_index=True)
    table = summary(runs, rows[rows["part"] != "train"], study.variants)
    first = children[0].config
    plain = FeatureConfig(keep_partial=first.features.keep_partial)
    prepared = prepare(first.data, first.pruning, plain, first.seed, MemoryTracker())
    counted = pd.DataFrame(composition(prepared.data))
    log_files(tracker, {
        "study.csv": table.reset_index(), "runs.csv": runs, "rows.csv": rows, "composition.csv": counted,
        "study.md": markdown(table) + commits(runs),
    })
    for part in PARTS[1:]:
        tracker.metrics({f"{variant}/{part}/auroc": value for variant, value in table[part].items()})
    if study.name in NOTEBOOKS:
        log_notebook(NOTEBOOKS[study.name], f"{study.name}.html", {"RNA_S2_STUDY_RUN": tracker.run_id}, tracker)
    return table


def commits(runs: pd.DataFrame) -> str:
    """At which commits the runs of a study (``git_commit``) were made, as a line of Markdown."""
    counts = runs["git_commit"].value_counts()
    said = ", ".join(f"{commit[:COMMIT_LENGTH]} ({count})" for commit, count in counts.items())
    if len(counts) > 1:
        logger.warning("runs of %d commits stand in one table: %s; they compare only if nothing they use has changed",
                       len(counts), said)
    return f"\nRuns by commit: {said}.\n"
