"""What the comparison of trained models says: a table beside the reference experiment, and checks in plain sentences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from s2.metrics import paired_bootstrap

REFERENCE = pd.DataFrame(
    {
        "model": ["baseline", "s1_features", "lstm_attn", "lstm_attn_hid50", "lstm_attn_hid100", "lstm_attn_hid100_long",
                  "shuffle_label"],
        "reference training": [0.93, 0.98, 0.878, 0.887, 0.889, 0.9, 0.5],
        "reference validation": [0.87, 0.96, 0.87, 0.88, 0.886, 0.886, 0.5],
    }
).set_index("model")
"""au-ROC (mean over rows) of the reference experiment, by the name of the config that repeats it."""

CONTROL_ERRORS = 3
"""Standard errors within which shuffled labels must score 0.5."""


class CheckFailed(Exception):
    """A result that cannot be: something is wrong with the experiment."""


@dataclass(frozen=True)
class Comparison:
    """The difference of two models on the same validation rows, with its 95 % interval, and what it says."""

    difference: float
    low: float
    high: float
    rows: int
    sentence: str


def check_control(auroc: pd.Series | np.ndarray) -> str:
    """That shuffled labels score 0.5 within three standard errors over rows.

    Args:
        auroc: ``(rows,)`` validation au-ROC per row of the model trained on shuffled labels; NaN where undefined.

    Returns:
        One sentence with the numbers.

    Raises:
        CheckFailed: they score more or less than that.
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


def compare_rows(first: pd.DataFrame, second: pd.DataFrame, first_name: str, second_name: str) -> Comparison:
    """Two models on the validation rows that both have scored, with a paired bootstrap over rows.

    Args:
        first, second: columns ``source_row`` and ``auroc``.
        first_name, second_name: what they are called in the sentence.

    Raises:
        CheckFailed: no row was scored by both.
    """
    both = first.merge(second, on="source_row", suffixes=("_first", "_second"), validate="one_to_one")
    both = both.dropna(subset=["auroc_first", "auroc_second"])
    if not len(both):
        raise CheckFailed(f"{first_name} and {second_name} share no validation row; train them on the same table and split")
    result = paired_bootstrap(both["auroc_first"].to_numpy(), both["auroc_second"].to_numpy())
    difference, low, high = result["difference"], result["low"], result["high"]
    verdict = (
        f"{first_name} ranks the boxes better" if low > 0
        else f"{first_name} ranks the boxes worse" if high < 0
        else "these rows do not tell the two apart"
    )
    sentence = (
        f"On {len(both)} validation rows the au-ROC of {first_name} is {abs(difference):.3f} "
        f"{'higher' if difference >= 0 else 'lower'} than that of {second_name} "
        f"(95 % interval of the difference {low:+.3f} to {high:+.3f}): {verdict}."
    )
    return Comparison(difference, low, high, len(both), sentence)
