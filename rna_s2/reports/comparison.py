"""What the comparison of trained models says: a table beside the reference experiment, and checks in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rna_s2.options.errors import UserError
from rna_s2.reports.intervals import bootstrap_interval
from rna_s2.s2.config import NetworkConfig

REFERENCE = pd.DataFrame(
    [
        ("baseline", None, None, None, 0.93, 0.87),
        ("s1_features", None, None, None, 0.98, 0.96),
        ("sequence_encoding", 20, 4, 50, 0.878, 0.87),
        ("sequence_encoding", 50, 4, 50, 0.887, 0.88),
        ("sequence_encoding", 100, 10, 50, 0.889, 0.886),
        ("sequence_encoding", 100, 10, 100, 0.9, 0.886),
        ("shuffle_label", None, None, None, 0.5, 0.5),
    ],
    columns=["features", "network.lstm_hid", "network.lstm_layer", "training.epoch", "training", "validation"],
)
"""au-ROC (mean over rows) of the reference experiment, by features and size; None: any."""

REFERENCE_SIZE = {
    f"network.{name}": getattr(NetworkConfig(), name) for name in ("n_dim", "n_attn_layer", "n_heads", "n_ff", "n_hid")
}
"""Size of the reference experiment's attention network: the defaults of :class:`rna_s2.s2.config.NetworkConfig`."""

A_LITTLE = 0.02
"""A difference of au-ROC below this is called a little: the size of the steps between the reference's LSTMs."""

CONTROL_ERRORS = 3
"""Standard errors within which shuffled labels must score 0.5."""


class CheckFailed(UserError):
    """A result that cannot be: something is wrong with the experiment."""


@dataclass(frozen=True)
class Comparison:
    """The difference of two models on the same validation rows, with its 95 % interval, and what it says."""

    difference: float
    low: float
    high: float
    rows: int
    sentence: str


def reference_figures(run: Mapping[str, object]) -> tuple[float, float]:
    """Training and validation au-ROC of the reference experiment for a run's features and size; NaN where it has none.

    Args:
        run: a row of :func:`rna_s2.tracking.compare.training_runs`: ``features`` and the parameters, as text.
    """
    has_size = all(str(run.get(name)) == str(value) for name, value in REFERENCE_SIZE.items())
    for row in REFERENCE.to_dict("records") if has_size else ():
        sizes = ("network.lstm_hid", "network.lstm_layer", "training.epoch")
        same_size = all(pd.isna(row[name]) or str(run.get(name)) == str(int(row[name])) for name in sizes)
        if row["features"] == run["features"] and same_size:
            return row["training"], row["validation"]
    return float("nan"), float("nan")


def summary_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The metrics of each run beside those of the reference experiment, the best validation first.

    Args:
        runs: of :func:`rna_s2.tracking.compare.training_runs`.

    Returns:
        Index ``model``; ``training``, ``validation`` (au-ROC, mean over rows), ``validation, pooled``, ``average
        precision``, ``kept epoch`` (from 1), ``reference training``, ``reference validation`` (NaN: no such size).
    """
    names = {
        "best/train/auroc": "training", "best/val/auroc": "validation", "best/val/auroc_pooled": "validation, pooled",
        "best/val/average_precision": "average precision", "best/epoch": "kept epoch",
    }
    table = runs.reindex(columns=list(names)).rename(columns=names)
    table["kept epoch"] = table["kept epoch"].astype(int) + 1
    reference = [reference_figures(run) for run in runs.to_dict("records")]
    table["reference training"], table["reference validation"] = np.array(reference).reshape(-1, 2).T
    return table.sort_values("validation", ascending=False)


def observations(table: pd.DataFrame, epochs: Mapping[str, int]) -> list[str]:
    """What the plots show, one sentence per model.

    Args:
        table: of :func:`summary_table`.
        epochs: by model, the epochs that it was trained for.
    """
    said = []
    for model, row in table.iterrows():
        kept, trained = int(row["kept epoch"]), epochs[model]
        gap = row["training"] - row["validation"]
        said.append(
            f"{model}: training {row['training']:.3f} against validation {row['validation']:.3f} "
            f"({'a gap of' if gap >= A_LITTLE else 'no gap to speak of,'} {gap:.3f}), with the weights of epoch {kept} of "
            f"{trained}."
        )
    return said


def check_control(auroc: pd.Series | np.ndarray) -> str:
    """That shuffled labels score 0.5 within three standard errors over rows.

    Args:
        auroc: ``(rows,)`` validation au-ROC per row of the model trained on shuffled labels; NaN where undefined.

    Returns:
        One sentence with the numbers.

    Raises:
        CheckFailed: they score more or less than that, or fewer than two rows have both classes.
    """
    values = np.asarray(auroc, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        raise CheckFailed(f"shuffled labels were scored on {len(values)} rows; at least 2 are needed")
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    said = f"Shuffled labels score {mean:.3f} on {len(values)} validation rows (standard error {error:.3f})"
    if abs(mean - 0.5) > CONTROL_ERRORS * error:
        raise CheckFailed(f"{said}: more than {CONTROL_ERRORS} standard errors from 0.5; labels leak into the features")
    return f"{said}: within {CONTROL_ERRORS} standard errors of 0.5, as it must be."


def compare_rows(first: pd.DataFrame, second: pd.DataFrame, first_name: str, second_name: str, what: str) -> Comparison:
    """Two models on the validation rows that both have scored, with a paired bootstrap over transcripts.

    Args:
        first, second: columns ``source_row``, ``group`` (of rows that may overlap) and ``auroc``.
        first_name, second_name: what they are called in the sentence.
        what: what the first model has and the second has not (``the sequence``).

    Raises:
        CheckFailed: no row was scored by both.
    """
    both = first.merge(second, on="source_row", suffixes=("_first", "_second"), validate="one_to_one")
    both = both.dropna(subset=["auroc_first", "auroc_second"])
    if not len(both):
        raise CheckFailed(f"{first_name} and {second_name} share no validation row; train them on the same table and split")
    difference, low, high, *_ = bootstrap_interval(both["auroc_first"] - both["auroc_second"], both["group_first"])
    a_little = " a little" if abs(difference) < A_LITTLE else ""
    verdict = (
        f"{what} helps{a_little}" if low > 0
        else f"{what} does harm{a_little and ', a little'}" if high < 0
        else f"these rows do not show whether {what} helps"
    )
    sentence = (
        f"On {len(both)} validation rows the au-ROC of {first_name} is {abs(difference):.3f} "
        f"{'higher' if difference >= 0 else 'lower'} than that of {second_name} "
        f"(95 % interval of the difference {low:+.3f} to {high:+.3f}): {verdict}."
    )
    return Comparison(difference, low, high, len(both), sentence)
