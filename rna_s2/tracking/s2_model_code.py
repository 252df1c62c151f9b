"""The S2 model as MLflow serves it. MLflow keeps this file with the model and runs it when the model is loaded.

It may import only what :func:`rna_s2.tracking.registry.log_model` puts beside it.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from rna_s2.options.errors import UserError
from rna_s2.s2.scorer import Scorer


class S2Model(PythonModel):
    """Scores the boxes of a pruned table: a column of lists, one probability per box.

    The boxes of a row stand in the order stems, internal loops, hairpin loops, each in the order of its list.
    """

    def load_context(self, context) -> None:
        self.scorer = Scorer.load(Path(context.artifacts["s2"]))

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        """Probabilities of the rows of ``model_input`` (columns ``seq``, ``bb_stem``, ``bb_iloop``, ``bb_hloop``).

        Raises:
            MlflowException: a row or a box is not what it should be; says which one (HTTP status 400).
        """
        try:
            scores = self.scorer.score_frame(model_input)
        except UserError as error:
            raise MlflowException.invalid_parameter_value(" ".join(str(error).split())) from error
        return pd.DataFrame({"probabilities": [[float(p) for p in row] for row in scores]}, index=model_input.index)


set_model(S2Model())
