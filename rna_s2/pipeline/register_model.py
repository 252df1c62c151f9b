"""Both stages and the decoder as one registered model."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import pandas as pd
from pydantic import Field

from rna_s2.options.base import MODEL_NAME
from rna_s2.options.places import ProjectPath
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.evaluate import evaluate, read_known, sampled, within
from rna_s2.pipeline.open_models import ModelOptions, open_models
from rna_s2.pipeline.structure_prediction import save_pipeline
from rna_s2.pipeline.tools import own_tool
from rna_s2.pipeline.train_config import SAMPLE
from rna_s2.reports.evaluation import ALL, METRICS
from rna_s2.tracking.names import run_name

logger = logging.getLogger(__name__)

COMMAND = "register_structure_model"
EXAMPLE = pd.DataFrame({
    "sequence": ["GGGGCUAUAGCUCAGCUGGGAGAGCGCUUGCAUGGCAUGCAAGAGGUCAGCGGUUCGAUCCCGCUUAGCUCCACCA"], "name": ["tRNA-Ala"]
})
"""An alanine tRNA of Escherichia coli kept with the model as an example of its input."""


class RegisterOptions(TrackedOptions, ModelOptions):
    """What to register, and what its F1 is measured on."""

    registered_name: str = Field("rna-structure", pattern=MODEL_NAME, description="name in the registry")
    known: ProjectPath = Field(
        SAMPLE, min_length=1, description="known structures to measure F1 on; the version with the best becomes the"
        " champion, so give the same file each time"
    )
    max_rows: int = Field(100, ge=0, description="structures to measure on, sampled at random; 0: all")
    seed: int = Field(0, ge=0, description="seed of the drawing")


def run_register(options: RegisterOptions):
    """Measure the model, log it with a run, and register it.

    Returns:
        the :class:`rna_s2.tracking.registry.LoggedModel`.

    Raises:
        UserError: a model or the file of known structures cannot be used, or the store cannot be reached.
    """
    models, chain = open_models(options)
    found, digest = read_known(options.known)
    known = sampled(within(found.records, chain.max_len, options.known), options.max_rows, options.seed)
    from rna_s2.tracking.models import NETWORK_FOLDER, STRUCTURE_MODEL
    from rna_s2.tracking.registry import log_model
    from rna_s2.tracking.runs import start_run  # here: its import takes seconds

    with start_run(COMMAND, run_name(COMMAND, options.registered_name), experiment=options.experiment) as tracker:
        tracker.params(options.model_copy(update={"chain": chain}).model_dump(mode="json", exclude={"experiment"}))
        tracker.dataset(Path(options.known).name, digest, options.known, COMMAND, {"records": len(found.records)})
        summary = evaluate(known, [own_tool(models, chain)], options.seed).summary
        row = summary[summary["family"] == ALL].iloc[0]
        metrics = {name: float(row[name]) for name in METRICS}
        tracker.metrics(metrics)
        about = {
            "stage 1": options.model or options.s1_model, "stage 2": options.model or options.s2_model,
            "known": Path(options.known).name, "known_digest": digest, **metrics,
        }
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / NETWORK_FOLDER
            save_pipeline(models, chain, folder, about)
            model = log_model(
                tracker, folder, STRUCTURE_MODEL, name=options.registered_name, registered_name=options.registered_name,
                input_example=EXAMPLE, metrics=metrics, tags={"known_digest": digest},
            )
    logger.info(
        "%s version %s: F1 %.3f on %d structures of %s%s", options.registered_name, model.version, metrics["f1"],
        len(known), options.known, "; it is the champion now" if model.is_champion else "",
    )
    return model
