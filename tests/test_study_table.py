"""What the runs of a study say together: intervals worked out by hand, rows compared with themselves, sentences."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from rna_s2.pipeline.study_config import StudyVariant
from rna_s2.reports.study_table import METRICS, answer, interval, markdown, row_difference, summary


def rows_of(auroc, seed: int = 0, variant: str = "a", part: str = "val") -> pd.DataFrame:
    n = len(auroc)
    return pd.DataFrame({
        "variant": variant, "seed": seed, "part": part, "source_row": np.arange(n), "group": np.arange(n) // 2, "auroc": auroc,
    })


def test_rows_are_compared_with_themselves():
    base = np.linspace(0.5, 0.9, 40)
    result = row_difference(rows_of(base + 0.05), rows_of(base))
    assert result == pytest.approx({"difference": 0.05, "low": 0.05, "high": 0.05})
    gaps = base.copy()
    gaps[3] = np.nan
    assert row_difference(rows_of(gaps), rows_of(base))["difference"] == pytest.approx(0)
    both_seeds = pd.concat([rows_of(base, 0), rows_of(base + 0.1, 1)])
    assert row_difference(both_seeds, rows_of(base, 1))["difference"] == pytest.approx(0.1), "the common seed alone"


def test_the_interval_is_over_transcripts_not_rows():
    """Rows of one group that all differ alike say no more than one row: the interval is as wide as with one row of each."""
    rng = np.random.default_rng(0)
    by_group = rng.normal(0, 0.05, 25)

    def width(rows_per_group: int) -> float:
        group = np.repeat(np.arange(25), rows_per_group)
        base = rows_of(np.full(len(group), 0.7)).assign(group=group)
        result = row_difference(base.assign(auroc=0.7 + by_group[group]), base)
        return result["high"] - result["low"]

    assert width(8) == pytest.approx(width(1), rel=0.1)


def test_other_rows_are_not_compared():
    base = rows_of(np.linspace(0.5, 0.9, 40))
    for other in (base.iloc[:30], base.assign(source_row=base["source_row"] + 1), base.assign(seed=7)):
        assert all(math.isnan(value) for value in row_difference(base, other).values())
        assert all(math.isnan(value) for value in row_difference(other, base).values())


def study(**levels: float) -> pd.DataFrame:
    """The table of variants that score around a level on every row, each against the first."""
    rng = np.random.default_rng(0)
    names = list(levels)
    noise = [rng.normal(0, 0.01, 60) for _ in range(3)]
    rows, runs = [], []
    for name, level in levels.items():
        for seed in range(3):
            own = [rows_of(level + noise[seed] + rng.normal(0, 0.004, 60), seed, name, part) for part in ("val", "test")]
            rows += own
            runs.append({"variant": name, "seed": seed, **dict.fromkeys(METRICS, own[0]["auroc"].mean())})
    variants = [StudyVariant(name=name, against="" if name == names[0] else names[0]) for name in names]
    return summary(pd.DataFrame(runs), pd.concat(rows), [*variants, StudyVariant(name="not_run")])


def test_a_line_per_variant_that_ran():
    table = study(scaled=0.8, lstm_scaled=0.83)
    assert list(table.index) == ["scaled", "lstm_scaled"] and set(table["seeds"]) == {3}
    line = table.loc["lstm_scaled"]
    assert line["val_difference"] == pytest.approx(0.03, abs=0.002)
    assert line["val_low"] < line["val_difference"] < line["val_high"]
    assert interval(table.loc["scaled"], "val") == ""
    text = markdown(table)
    assert text.count("\n") == 4 and "against `scaled`" in text.splitlines()[3] and "nan" not in text
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_the_answer_says_what_the_figures_say():
    table = study(scaled=0.8, lstm_scaled=0.83, box_alone=0.77, size_share=0.74, trees=0.77, no_place=0.8)
    said = answer(table)
    assert all(f"{table.loc[name, 'test']:.3f}" in said for name in ("scaled", "size_share", "trees"))
    assert "80 % of the way" in said
    assert "The sequence helps: +0.03" in said and "attention to the other boxes helps: +0.03" in said
    assert "place neither helps nor harms as far as these rows show" in said
    worse = answer(study(scaled=0.8, lstm_scaled=0.78))
    assert "The sequence does harm: -0.02" in worse and "attention" not in worse


def test_the_answer_praises_the_chain_only_where_it_is_better():
    assert "not box by box" in answer(study(scaled=0.8, energy_rule=0.7, chain_rule=0.95))
    assert "not box by box" not in answer(study(scaled=0.8, energy_rule=0.7, chain_rule=0.78))


def test_an_answer_needs_the_network_it_is_about():
    assert "no run" in answer(study(size_share=0.7))
