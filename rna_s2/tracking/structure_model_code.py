"""The end-to-end model as MLflow serves it. MLflow keeps this file with the model and runs it when the model is loaded.

It may import only what :func:`rna_s2.tracking.registry.log_model` puts beside it.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from rna_s2.options.errors import UserError
from rna_s2.pipeline.frames import predict_frame
from rna_s2.pipeline.structure_prediction import load_pipeline


class StructureModel(PythonModel):
    """Predicts the structures of the sequences of a table (column ``sequence``, optionally ``name``)."""

    def load_context(self, context) -> None:
        self.models, self.options = load_pipeline(Path(context.artifacts["chain"]))

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        """Columns name, structure, free_energy, confidence, boxes; one row per sequence.

        Raises:
            MlflowException: a sequence is not what it should be; says which one (HTTP status 400).
        """
        try:
            return predict_frame(model_input, self.models, self.options)
        except UserError as error:
            raise MlflowException.invalid_parameter_value(" ".join(str(error).split())) from error


set_model(StructureModel())
