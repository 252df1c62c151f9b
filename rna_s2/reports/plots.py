"""Plots of a training, learning curves and ROC curves; and the colours of all plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from rna_s2.s2.training import Evaluation

matplotlib.use("Agg")

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#332288", "#999933", "#882255", "#777777")
"""Colours of models, tools and selections: the first six those of Okabe and Ito, which colour-blind readers tell apart."""


def colours(names: Iterable[str]) -> dict[str, str]:
    """One colour per name, in the order of :data:`PALETTE`, from the beginning where that is used up."""
    return {name: PALETTE[k % len(PALETTE)] for k, name in enumerate(dict.fromkeys(names))}


_GRID = np.linspace(0, 1, 201)


def mean_roc(evaluation: Evaluation) -> pd.DataFrame:
    """The mean ROC curve of the rows with both classes, and the pooled one, at common false positive rates.

    Returns:
        Columns ``false_positive_rate``, ``true_positive_rate`` (mean over rows), ``true_positive_rate_pooled``.
    """
    curves = []
    order = np.argsort(evaluation.row, kind="stable")
    for boxes in np.split(order, np.cumsum(np.bincount(evaluation.row, minlength=len(evaluation.rows)))[:-1]):
        label = evaluation.label[boxes]
        if 0 < label.sum() < len(label):
            false_rate, true_rate, _ = roc_curve(label, evaluation.probability[boxes])
            curves.append(np.interp(_GRID, false_rate, true_rate))
    false_rate, true_rate, _ = roc_curve(evaluation.label, evaluation.probability)
    return pd.DataFrame({
        "false_positive_rate": _GRID,
        "true_positive_rate": np.mean(curves, axis=0) if curves else np.full(len(_GRID), np.nan),
        "true_positive_rate_pooled": np.interp(_GRID, false_rate, true_rate),
    })


def roc_plot(curves: Mapping[str, tuple[pd.DataFrame, float]], title: str) -> Figure:
    """ROC curves (of :func:`mean_roc`) with their au-ROC in the legend."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    colour = colours(curves)
    for name, (curve, auroc) in curves.items():
        axes.plot(curve["false_positive_rate"], curve["true_positive_rate"], label=f"{name}: {auroc:.3f}", color=colour[name])
    axes.set(
        xlabel="false positive rate", ylabel="true positive rate (mean over rows)", title=title,
        xlim=(0, 1), ylim=(0, 1.005), aspect="equal",
    )
    axes.legend(loc="lower right", title="au-ROC, mean over rows", frameon=False)
    return figure


def learning_plot(history: Mapping[str, Sequence[tuple[int, float]]], title: str) -> Figure:
    """Loss and au-ROC of training and validation over the epochs."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, metric, label in zip(
        figure.subplots(1, 2), ("loss", "auroc"), ("loss (binary cross-entropy)", "au-ROC, mean over rows"), strict=True
    ):
        for part, colour in colours(("train", "val")).items():
            points = history.get(f"{part}/{metric}", [])
            axes.plot([epoch + 1 for epoch, _ in points], [value for _, value in points], label=part, color=colour)
        axes.set(xlabel="epoch", ylabel=label)
        axes.legend(frameon=False)
    figure.suptitle(title)
    return figure
