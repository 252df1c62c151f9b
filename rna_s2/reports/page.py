"""The page that shows predictions: one file that loads nothing else, as it stands in a folder or in the MLflow UI."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from rna_s2.reports.drawings import confidence_colours
from rna_s2.structures.pairing import base_confidence
from rna_s2.structures.prediction import Failure, Prediction

PAGE_BYTES = 25_000_000
"""Bytes of drawings after which the page shows further sequences without any: a browser opens it at once."""

SHOWN_FAILURES = 100

STYLE = """
body { font-family: sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: left }
td.number, th.number { text-align: right }
details { border-top: 1px solid #ccc; padding: .4em 0 } summary { cursor: pointer }
summary b { display: inline-block; min-width: 14em }
td code { word-break: break-all }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; line-height: 1.5 }
.drawings { display: flex; flex-wrap: wrap; gap: 1em } .drawings svg { width: 34em; max-width: 100%; height: auto;
max-height: 40em }
"""


class Page:
    """Collects what is shown of each sequence, and then gives the page.

    Args:
        title: heading of the page.
        most: sequences that are shown; the others are counted.
    """

    def __init__(self, title: str, most: int) -> None:
        self.title = title
        self.most = most
        self.sections: list[str] = []
        self.drawn = 0
        self.bytes = 0
        self.predicted = 0
        self.failures: list[Failure] = []
        self.failed = 0

    def wants(self) -> bool:
        """Whether the next prediction will be shown."""
        return self.predicted < self.most

    def add(self, prediction: Prediction, drawings: Sequence[str]) -> None:
        """Show a prediction with its drawings (SVG)."""
        self.predicted += 1
        if len(self.sections) >= self.most:
            return
        best = prediction.best
        size = sum(len(drawing) for drawing in drawings)
        if self.bytes + size <= PAGE_BYTES:
            self.bytes += size
            self.drawn += 1
            shown = f'<div class="drawings">{"".join(drawings)}</div>'
        else:
            shown = "<p>Its drawings are in the folders svg and map.</p>"
        rows = "".join(
            f'<tr><td class="number">{rank}</td><td class="number">{_energy(s.energy)}</td>'
            f'<td class="number">{s.confidence:.3f}</td><td><code>{prediction.dot_bracket(rank - 1)}</code></td></tr>'
            for rank, s in enumerate(prediction.structures, start=1)
        )
        others = "" if len(prediction.structures) == 1 else (
            '<table><tr><th class="number">rank</th><th class="number">kcal/mol</th><th class="number">confidence</th>'
            f"<th>structure</th></tr>{rows}</table>"
        )
        left_out = "" if not prediction.boxes_left_out else (
            f"<p>{prediction.boxes_left_out} proposals beyond max_boxes were not scored.</p>"
        )
        opened = " open" if len(self.sections) == 0 else ""
        self.sections.append(
            f"<details{opened}><summary><b>{escape(prediction.name)}</b> {len(prediction.seq)} nt, "
            f"{len(best.pairs)} pairs, {_energy(best.energy)} kcal/mol, confidence {best.confidence:.2f}</summary>"
            f"<pre>{escape(prediction.seq)}\n{_coloured(prediction)}</pre>{left_out}{others}{shown}</details>"
        )

    def fail(self, failure: Failure) -> None:
        """Show a sequence that was left out, and why."""
        self.failed += 1
        if self.failed <= SHOWN_FAILURES:
            self.failures.append(failure)

    def html(self, facts: Sequence[tuple[str, str]]) -> str:
        """The page; ``facts`` (name and value) stand in a table at its top."""
        table = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
        notes = []
        if self.predicted > len(self.sections):
            notes.append(
                f"The first {len(self.sections)} of {self.predicted} sequences are shown; all are in structures.fa."
            )
        if self.drawn < len(self.sections):
            notes.append(f"Drawings of the first {self.drawn} are shown, so that the page stays small.")
        failures = ""
        if self.failed:
            rows = "".join(f"<tr><td>{escape(f.name)}</td><td>{escape(f.reason)}</td></tr>" for f in self.failures)
            more = "" if self.failed <= SHOWN_FAILURES else f" The first {SHOWN_FAILURES} are shown."
            failures = (
                f"<h2>Left out: {self.failed}</h2><p>All are listed in failures.csv.{more}</p>"
                f"<table><tr><th>name</th><th>reason</th></tr>{rows}</table>"
            )
        return (
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
            f"<style>{STYLE}</style></head><body><h1>{escape(self.title)}</h1><table>{table}</table>"
            + "".join(f"<p>{note}</p>" for note in notes)
            + "<h2>Structures</h2>" + "".join(self.sections) + failures + "</body></html>\n"
        )


def _energy(energy: float) -> str:
    return f"{energy:.2f}" if energy == energy else "no energy"


def _coloured(prediction: Prediction) -> str:
    """The best structure's dot-bracket, runs of equal confidence on the background of their colour."""
    text = prediction.dot_bracket()
    colours = confidence_colours(base_confidence(prediction.best.pairs, prediction.pairing))
    starts = np.flatnonzero([n == 0 or colours[n] != colours[n - 1] for n in range(len(colours))]).tolist()
    return "".join(
        f'<span style="background:{colours[start]}">{escape(text[start:end])}</span>'
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True)
    )
