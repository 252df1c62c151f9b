"""The stage 1 network as MLflow serves it. MLflow keeps this file with the model and runs it when the model is loaded.

It may import only what :func:`rna_s2.tracking.registry.log_model` puts beside it.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from rna_s2.options.errors import UserError
from rna_s2.s1.model import load_network
from rna_s2.s1.predict import propose_frame


class S1Model(PythonModel):
    """Proposes boxes for the sequences of a table (column ``seq``)."""

    def load_context(self, context) -> None:
        self.network, _ = load_network(Path(context.artifacts["s1"]))

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        """The columns ``bb_stem``, ``bb_iloop`` and ``bb_hloop``: lists of boxes as in an S1 table.

        Raises:
            MlflowException: a sequence is not what it should be; says which one (HTTP status 400).
        """
        try:
            return propose_frame(self.network, model_input)
        except UserError as error:
            raise MlflowException.invalid_parameter_value(" ".join(str(error).split())) from error


set_model(S1Model())
