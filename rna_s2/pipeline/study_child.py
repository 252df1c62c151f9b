"""One run of a study: a network's training, or a rule scored on the same rows."""

from __future__ import annotations

import logging
import time

import numpy as np
import pandas as pd

from rna_s2.fitting.split import sampled_share
from rna_s2.options.errors import UserError
from rna_s2.pipeline.prepare import Prepared, prepare
from rna_s2.pipeline.study_config import Child
from rna_s2.pipeline.train_s2 import log_evaluations, run_train
from rna_s2.rna.boxes import ragged_take
from rna_s2.s2.naive_scorers import NAIVE_SCORERS, naive_scores
from rna_s2.s2.training import evaluation, split_rows
from rna_s2.tracking.names import run_name
from rna_s2.tracking.runs import start_run
from rna_s2.tracking.studies import CHILD_STAGE, DIGEST, STUDY

logger = logging.getLogger(__name__)


def run_child(child: Child, study: str, parent_run_id: str, run_id: str | None) -> str:
    """Do one run of a study and log its metrics.

    Args:
        child: what to run.
        study: name of the study.
        parent_run_id: the study's run.
        run_id: an unfinished run of the same child to go on with.

    Returns:
        The run's id.

    Raises:
        UserError: the data or the config cannot be used, or the tracking store cannot be reached.
    """
    tags = {"stage": CHILD_STAGE, STUDY: study, DIGEST: child.digest, "variant": child.variant.name}
    if child.variant.scorer == "network":
        config = child.config.model_copy(update={"resume": run_id or ""})
        return run_train(config, parent_run_id=parent_run_id, progress=False, tags=tags, keep_model=False).run_id
    config = child.config
    name = run_name(CHILD_STAGE, child.variant.name, seed=child.seed)
    with start_run(
        CHILD_STAGE, name, experiment=config.experiment, tags={"model": child.variant.name, **tags},
        parent_run_id=parent_run_id, run_id=run_id,
    ) as tracker:
        tracker.params({**config.model_dump(mode="json", exclude={"resume", "network", "training"}),
                        "scorer": child.variant.scorer})
        prepared = prepare(config.data, config.pruning, config.features, config.seed, tracker)
        data = prepared.data
        parts = dict(zip(("train", "val", "test"), split_rows(data, config.split, config.seed), strict=True))
        seqs = sequences(prepared) if NAIVE_SCORERS[child.variant.scorer].needs_sequences else ()
        learned = sampled_share(parts["train"], config.training.row_share, config.seed)
        scores = naive_scores(child.variant.scorer, data, learned, seqs=seqs, seed=config.seed)
        evaluations = {
            part: evaluation(data, rows, scores[ragged_take(data.offsets, rows)[0]])
            for part, rows in parts.items() if len(rows)
        }
        log_evaluations(prepared, evaluations, tracker)
    logger.info("%s: au-ROC (mean over rows) validation %.4f", name, evaluations["val"].metrics["auroc"])
    return tracker.run_id


def sequences(prepared: Prepared) -> list[str]:
    """``(rows,)`` the sequences of the rows of an encoded dataset."""
    column = pd.read_parquet(prepared.pruned, columns=["seq"])["seq"].to_numpy()
    return column[np.asarray(prepared.data.source_row)].tolist()


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
