"""Colours of plots: one per name, the same in every plot of the same names."""

from __future__ import annotations

import pandas as pd
from matplotlib.colors import to_hex

from rna_s2.reports.evaluation import family_plot, time_plot
from rna_s2.reports.plots import PALETTE, colours


def test_a_colour_per_name_from_the_beginning_where_the_palette_is_used_up():
    assert len(set(PALETTE)) == len(PALETTE)
    assert colours(["b", "a", "b"]) == {"b": PALETTE[0], "a": PALETTE[1]}
    many = colours(map(str, range(len(PALETTE) + 1)))
    assert list(many.values()) == [*PALETTE, PALETTE[0]]


def test_a_tool_has_one_colour_in_both_plots_of_an_evaluation():
    summary = pd.DataFrame({
        "tool": ["x", "y"], "family": "all", "sequences": 2, "f1": [0.5, 0.6], "f1_low": 0.4, "f1_high": 0.7,
    })
    sequences = pd.DataFrame({"tool": ["x", "y"], "length": [10, 20], "seconds": [0.1, 0.2]})
    bars = {bar.get_label(): to_hex(bar.patches[0].get_facecolor()) for bar in family_plot(summary).axes[0].containers
            if hasattr(bar, "patches")}
    points = {line.get_label(): to_hex(line.get_color()) for line in time_plot(sequences).axes[0].lines}
    assert bars == points == colours(["x", "y"])
