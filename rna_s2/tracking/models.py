"""The types of models that this project keeps in MLflow."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType, Array, DataType

from rna_s2.rna.boxes import BOX_COLUMNS
from rna_s2.tracking.client import store_errors
from rna_s2.tracking.registry import CHAMPION, ModelType, champion_uri

S2_MODEL = ModelType(
    stage="train", code="s2_model_code.py", artifact="s2", champion_metric="val/auroc",
    signature=ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "seq"), *(ColSpec(AnyType(), name, required=False) for name in BOX_COLUMNS)]),
        outputs=Schema([ColSpec(Array(DataType.double), "probabilities")]),
    ),
)
"""Stage 2, as ``rna_s2.s2.scorer.Scorer`` saves it: columns of the pruned table in, one list of probabilities per row out.

The box lists are of any type for MLflow, because S1 tables hold ``None``, ``NaN`` and ``[]`` for "no boxes", whole and
floating-point numbers, and boxes with further keys, all of which a typed column refuses; the model itself checks them.
"""

S2_ENERGY_MODEL = replace(S2_MODEL, packages=("viennarna",))
"""A stage 2 whose features hold energies of boxes."""

S1_MODEL = ModelType(
    stage="train_s1", code="s1_model_code.py", artifact="s1", champion_metric="val/auroc",
    signature=ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "seq")]),
        outputs=Schema([ColSpec(AnyType(), name) for name in BOX_COLUMNS]),
    ),
)
"""Stage 1, as ``rna_s2.s1.model.save_network`` saves it: sequences in, the three lists of proposed boxes out."""

STRUCTURE_MODEL = ModelType(
    stage="register_structure_model", code="structure_model_code.py", artifact="chain", champion_metric="f1",
    packages=("scikit-learn", "scipy", "tqdm", "viennarna"),
    signature=ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "sequence"), ColSpec(DataType.string, "name", required=False)]),
        outputs=Schema([
            *(ColSpec(DataType.string, name) for name in ("name", "structure")),
            *(ColSpec(DataType.double, name) for name in ("free_energy", "confidence")),
            ColSpec(AnyType(), "boxes"),
        ]),
    ),
)
"""The whole pipeline, as ``rna_s2.pipeline.structure_prediction.save_pipeline`` saves it: sequences in, structures out."""

NETWORK_FOLDER = "model"
"""Name of the folder that is logged with a model; MLflow keeps it under this name."""


@contextmanager
def registered_folder(uri: str) -> Iterator[Path]:
    """The logged folder of a model, in a temporary place for the length of a block.

    Args:
        uri: ``models:/NAME`` (its champion), ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``models:/MODEL_ID``.

    Raises:
        UserError: there is no such model, or the tracking store cannot be reached.
    """
    name, _, alias = uri.removeprefix("models:/").partition("@")
    if alias == CHAMPION or not (alias or "/" in name or name.startswith("m-")):
        uri = champion_uri(name)
    with tempfile.TemporaryDirectory(prefix="rna-s2-") as temporary:
        with store_errors():
            folder = mlflow.artifacts.download_artifacts(uri, dst_path=temporary)
        yield Path(folder) / "artifacts" / NETWORK_FOLDER
