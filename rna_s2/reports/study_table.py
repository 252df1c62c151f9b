"""What the runs of a study say together: a line per variant, intervals over seeds and over transcripts, plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pandas as pd

from rna_s2.reports.intervals import bootstrap_interval, t_half_width
from rna_s2.rna.boxes import BOX_TYPES

METRICS: Mapping[str, str] = {
    "train": "best/train/auroc", "val": "best/val/auroc", "test": "test/auroc",
    "val_pooled": "best/val/auroc_pooled", "val_precision": "best/val/average_precision",
    **{f"val_{name}": f"best/val/{name}/auroc" for name in BOX_TYPES},
    "test_pooled": "test/auroc_pooled", "test_precision": "test/average_precision",
    **{f"test_{name}": f"test/{name}/auroc" for name in BOX_TYPES},
    "kept_epoch": "best/epoch", "seconds": "fit_seconds",
}
"""Columns of the table of runs, and the metric of a run that each holds."""

WITH_INTERVAL = ("train", "val", "test")
"""Metrics that stand with a t interval over seeds."""

HEADINGS: Mapping[str, str] = {
    "seeds": "seeds", "train": "training", "val": "validation", "test": "test", "val_pooled": "validation, pooled",
    "val_precision": "average precision", "val_stem": "stems", "val_iloop": "internal loops", "val_hloop": "hairpin loops",
}


class Variant(Protocol):
    """What the table needs to know of a variant: its name, what it is in words, and the name of the one it is compared with."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str: ...

    @property
    def against(self) -> str: ...


def summary(runs: pd.DataFrame, rows: pd.DataFrame, variants: Sequence[Variant]) -> pd.DataFrame:
    """One line per variant that has a run, in the order of ``variants``.

    Args:
        runs: one line per run: ``variant``, ``seed`` and the columns of :data:`METRICS`.
        rows: one line per run, part and scored row: ``variant``, ``seed``, ``part``, ``source_row``, ``group``, ``auroc``.
        variants: of the study.

    Returns:
        Index ``variant``: ``about``; ``seeds``, how many; the mean over seeds of each metric; ``train_half``,
        ``val_half``, ``test_half``, half the width of its t interval over seeds (NaN for one seed); ``against``, and for
        ``val`` and ``test`` the mean difference of the rows' au-ROC from that variant's, ``val_difference``, with its
        bootstrap interval over transcripts ``val_low``, ``val_high`` (:func:`row_difference`).
    """
    lines = []
    for variant in variants:
        own = runs[runs["variant"] == variant.name]
        if own.empty:
            continue
        line: dict[str, object] = {"variant": variant.name, "about": variant.about, "seeds": len(own)}
        line |= own[list(METRICS)].mean().to_dict()
        line |= {f"{name}_half": t_half_width(own[name].dropna()) for name in WITH_INTERVAL}
        line["against"] = variant.against
        for part in ("val", "test"):
            of_part = rows[rows["part"] == part]
            difference = row_difference(
                of_part[of_part["variant"] == variant.name], of_part[of_part["variant"] == variant.against]
            )
            line |= {f"{part}_{name}": value for name, value in difference.items()}
        lines.append(line)
    return pd.DataFrame(lines).set_index("variant")


def row_difference(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, float]:
    """How much better one variant ranks the boxes of a row than another, on the seeds that both have.

    Every scored row is compared with itself under the same seed. The interval is a bootstrap over groups (transcripts): all
    rows of a transcript, under all seeds, are resampled together.

    Args:
        first, second: ``seed``, ``source_row``, ``group``, ``auroc`` of one part.

    Returns:
        ``difference``, ``low``, ``high``; NaN where the two were not scored on the same rows.
    """
    seeds = set(first["seed"]) & set(second["seed"])
    first, second = (each[each["seed"].isin(seeds)] for each in (first, second))
    both = first.merge(second, on=["seed", "source_row"], suffixes=("", "_second"))
    if len(both) < max(len(first), len(second)):
        both = both[:0]  # not the same rows
    difference, low, high, *_ = bootstrap_interval(both["auroc"] - both["auroc_second"], both["group"])
    return {"difference": difference, "low": low, "high": high}


def markdown(table: pd.DataFrame) -> str:
    """The table of :func:`summary` as Markdown, metrics with three decimals."""
    names = [*HEADINGS.values(), "difference on validation rows", "difference on test rows"]
    lines = [" | ".join(["| variant", *names]) + " |", "| --- |" + " ---: |" * len(names)]
    for variant, row in table.iterrows():
        cells = [f"`{variant}`"]
        for name in HEADINGS:
            half = row.get(f"{name}_half", math.nan)
            cells.append(str(row[name]) if name == "seeds" else _shown(row[name]) + (f" ± {half:.3f}" if half == half else ""))
        for part in ("val", "test"):
            said = interval(row, part)
            cells.append(f"{said} against `{row['against']}`" if said else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def interval(row: Mapping[str, Any], part: str) -> str:
    """``+0.012 (+0.003 to +0.021)``: a difference of :func:`summary` with its interval; empty where there is none."""
    difference, low, high = (float(row[f"{part}_{name}"]) for name in ("difference", "low", "high"))
    return "" if math.isnan(difference) else f"{difference:+.3f} ({low:+.3f} to {high:+.3f})"


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


ANSWERED = "scaled"
"""The variant that :func:`answer` is about: the network on type, place and size."""


def answer(table: pd.DataFrame) -> str:
    """Why the baseline is so high and why the sequence does not help, in sentences that follow from the metrics.

    Metrics are those of the test rows, where there is a test part, else of the validation rows. A variant that was not
    run has no sentence.

    Args:
        table: of :func:`summary`, for the variants of ``configs/study_baseline.yaml``.
    """
    if ANSWERED not in table.index:
        return f"The study has no run of `{ANSWERED}`: without it there is nothing to answer."
    part = "test" if table["test"].notna().all() else "val"
    level = table[part]
    network = level[ANSWERED]
    level_of = f"au-ROC, mean over {'test' if part == 'test' else 'validation'} rows"
    said = [f"The network that sees type, place and size of all boxes of a row scores {network:.3f} ({level_of})."]
    if "size_share" in table.index and network > _CHANCE:
        share = (level["size_share"] - _CHANCE) / (network - _CHANCE)
        trees = f", boosted trees on the seven numbers of each box alone {level['trees']:.3f}" if "trees" in level else ""
        said.append(
            f"{100 * share:.0f} % of the way from chance to there needs no network at all: ranking boxes by the share of "
            "target boxes among the training boxes of the same type and size scores "
            f"{level['size_share']:.3f}{trees}."
        )
    effects = (
        ("box_alone", -1, "In the network, attention to the other boxes"),
        (ANSWERED, 1, "Scaling the coordinates to about 1, which adds no information,"),
        ("lstm_scaled", 1, "The sequence"),
        ("lstm", 1, "On coordinates in bases, the sequence"),
        ("lstm_shuffled_in_box", -1, "Of the sequence, the order of the bases within each box"),
        ("lstm_shuffled_in_row", -1, "Which bases a box has, at all,"),
        ("dropout_on", 1, "On coordinates in bases, dropout"),
        ("confidence", 1, "The first stage's confidence"),
    )
    said += [f"{what} {_verdict(table.loc[name], part, sign)}." for name, sign, what in effects if _compared(table, name, part)]
    rules = [name for name in ("energy_rule", "chain_rule") if name in table.index]
    if len(rules) == 2 and level["chain_rule"] > max(level["energy_rule"], network):
        said.append(
            "The sequence holds the answer, but not box by box: ranking by a box's own free energy scores "
            f"{level['energy_rule']:.3f}, by that of the best path of stems and loops through it {level['chain_rule']:.3f}, "
            "without any training."
        )
    taken = [(group, f"no_{group}") for group in ("type", "place", "size") if _compared(table, f"no_{group}", part)]
    if taken:
        each = (f"{group} {_verdict(table.loc[name], part, -1)}" for group, name in taken)
        said.append(f"Taken away one at a time: {'; '.join(each)}.")
    if "ordered_scaled" in table.index:
        said.append(
            "On a split by order, which leaves transcripts on both sides, the same network scores "
            f"{level['ordered_scaled']:.3f}."
        )
    if "shuffled_labels" in table.index:
        said.append(f"With shuffled labels it scores {level['shuffled_labels']:.3f}.")
    return " ".join(said)


_CHANCE = 0.5  # au-ROC of a random order


def _compared(table: pd.DataFrame, name: str, part: str) -> bool:
    return name in table.index and not math.isnan(table.loc[name, f"{part}_difference"])


def _verdict(row: Mapping[str, Any], part: str, sign: int) -> str:
    """``helps: +0.03 (+0.02 to +0.04)``; with ``sign`` -1, what the other variant has and this one has not."""
    difference, *ends = (sign * float(row[f"{part}_{name}"]) for name in ("difference", "low", "high"))
    low, high = sorted(ends)
    change = f"{difference:+.3f} ({low:+.3f} to {high:+.3f})"
    if low > 0:
        return f"helps: {change}"
    if high < 0:
        return f"does harm: {change}"
    return f"neither helps nor harms as far as these rows show: {change}"
