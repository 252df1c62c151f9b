"""Drawings of predictions, and the one page that shows them: it loads nothing else, in a folder or in the MLflow UI."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from rna_s2.rna.boxes import BOX_TYPES, bounds
from rna_s2.rna.pairs import remove_pseudoknots, to_dot_bracket
from rna_s2.structures.pairing import base_confidence
from rna_s2.structures.prediction import Failure, Prediction

CONFIDENCE_COLOURS = ("#d7301f", "#f16913", "#fdae61", "#c7e9b4", "#66c2a4", "#2171b5")
"""Colours of equal steps of confidence from 0 to 1."""

BACKBONE_STEP = 15.0
"""Distance of neighbouring bases in ViennaRNA's layouts."""

LETTERS_UP_TO = 400
"""Longest sequence whose bases are drawn with their letters; beyond, a letter is smaller than a pixel of a page."""

MAP_SIDE = 480
"""Side of the map in units of the SVG."""

FAINTEST = 0.04
"""Opacity of a box of probability 0; rises to 1 with it."""

TYPE_COLOURS = dict(zip(BOX_TYPES, ("#08519c", "#006d2c", "#a63603"), strict=True))


def layout(pairs: np.ndarray, length: int) -> np.ndarray:
    """``(length, 2)`` float64 coordinates of the bases, by ViennaRNA's naview layout; y grows downwards.

    A structure without pairs is a straight line. Crossing pairs have no part in the layout.
    """
    nested, _ = remove_pseudoknots(pairs)
    if not len(nested):
        return np.stack([np.arange(length) * BACKBONE_STEP, np.zeros(length)], axis=1)
    import RNA

    points = RNA.naview_xy_coordinates(to_dot_bracket(nested, length))[:length]  # one more than bases
    return np.array([(point.X, -point.Y) for point in points], np.float64)


def confidence_colours(confidence: np.ndarray) -> list[str]:
    """The colour of each confidence in 0..1."""
    step = np.minimum((np.asarray(confidence) * len(CONFIDENCE_COLOURS)).astype(int), len(CONFIDENCE_COLOURS) - 1)
    return [CONFIDENCE_COLOURS[n] for n in step]


def structure_svg(prediction: Prediction) -> str:
    """The best structure as a stand-alone SVG: a dot per base, coloured by the confidence in what is said of it.

    Every dot has a tooltip with its number, letter, partner and confidence. Crossing pairs are dashed lines.
    """
    seq, pairs = prediction.seq, prediction.best.pairs
    length = len(seq)
    confidence = base_confidence(pairs, prediction.pairing)
    at = layout(pairs, length)
    at = at - at.min(axis=0) + 2 * BACKBONE_STEP
    width, height = at.max(axis=0) + 2 * BACKBONE_STEP
    legend_width = 260.0
    width = max(width, legend_width + 2 * BACKBONE_STEP)
    legend_y = height + BACKBONE_STEP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {legend_y + 2 * BACKBONE_STEP:.0f}" '
        'font-family="sans-serif" font-size="9" text-anchor="middle">',
        f"<title>{escape(prediction.name)}</title>",
        '<polyline fill="none" stroke="#bbb" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in at.tolist()) + '"/>',
    ]
    nested, _ = remove_pseudoknots(pairs)
    flat = {tuple(pair) for pair in nested.tolist()}
    for i, j in pairs.tolist():
        dashes = "" if (i, j) in flat else ' stroke-dasharray="3 2"'
        (x, y), (u, v) = at[i], at[j]
        parts.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{u:.1f}" y2="{v:.1f}" stroke="#555"{dashes}/>')
    partner = dict(pairs.tolist()) | {j: i for i, j in pairs.tolist()}
    colours = confidence_colours(confidence)
    letters = length <= LETTERS_UP_TO
    for n, (x, y) in enumerate(at.tolist()):
        with_whom = f"paired with {partner[n] + 1}" if n in partner else "unpaired"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{colours[n]}">'
            f"<title>{n + 1} {seq[n]}, {with_whom}, confidence {confidence[n]:.2f}</title></circle>"
        )
        if letters:
            parts.append(f'<text x="{x:.1f}" y="{y + 3:.1f}" pointer-events="none">{seq[n]}</text>')
    ends = [(0, "5'"), (length - 1, "3'")] if length > 1 else []
    parts += [f'<text x="{at[n, 0]:.1f}" y="{at[n, 1] - 9:.1f}" font-weight="bold">{text}</text>' for n, text in ends]
    parts.append(_legend(2 * BACKBONE_STEP, legend_y))
    return "".join([*parts, "</svg>"])


def _legend(x: float, y: float) -> str:
    side = 24.0
    parts = [f'<text x="{x:.0f}" y="{y + 9:.0f}" text-anchor="start">confidence 0</text>']
    start = x + 62
    parts += [
        f'<rect x="{start + n * side:.0f}" y="{y:.0f}" width="{side:.0f}" height="12" fill="{colour}"/>'
        for n, colour in enumerate(CONFIDENCE_COLOURS)
    ]
    end = start + len(CONFIDENCE_COLOURS) * side + 5
    return "".join([*parts, f'<text x="{end:.0f}" y="{y + 9:.0f}" text-anchor="start">1</text>'])


def map_svg(prediction: Prediction) -> str:
    """The L x L map as a stand-alone SVG, rows downwards, columns to the right.

    Proposals are filled, darker the more probable; the best structure's are outlined in the colour of their type. Every box
    has a tooltip with its type, place, size and probability.
    """
    boxes, length = prediction.boxes, len(prediction.seq)
    cell = MAP_SIDE / length
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-40 -24 {MAP_SIDE + 56:.0f} {MAP_SIDE + 60:.0f}" '
        'font-family="sans-serif" font-size="11">',
        f"<title>{escape(prediction.name)}</title>",
        f'<rect width="{MAP_SIDE}" height="{MAP_SIDE}" fill="none" stroke="#999"/>',
        f'<path d="M0 0L{MAP_SIDE} {MAP_SIDE}" stroke="#ccc"/>',
    ]
    for at in _ticks(length):
        place = (at + 0.5) * cell
        parts.append(f'<text x="{place:.1f}" y="-6" text-anchor="middle">{at + 1}</text>')
        parts.append(f'<text x="-6" y="{place + 4:.1f}" text-anchor="end">{at + 1}</text>')
    order = np.lexsort((prediction.probability, prediction.chosen))  # chosen ones last, the more probable on top
    _, _, first_col, _ = bounds(boxes)
    columns = (
        boxes.type, boxes.bb_x, boxes.bb_y, first_col, boxes.siz_x, boxes.siz_y, prediction.probability, prediction.chosen
    )
    for code, x, y, first_col, siz_x, siz_y, p, chosen in zip(*(c[order].tolist() for c in columns), strict=True):
        outline = f' stroke="{TYPE_COLOURS[BOX_TYPES[code]]}" stroke-width="1.5"' if chosen else ""
        parts.append(
            f'<rect x="{first_col * cell:.1f}" y="{x * cell:.1f}" width="{siz_y * cell:.1f}" '
            f'height="{siz_x * cell:.1f}" fill-opacity="{FAINTEST + (1 - FAINTEST) * p:.2f}"{outline}>'
            f"<title>{BOX_TYPES[code]} ({x + 1}, {y + 1}) {siz_x} x {siz_y}, probability {p:.3f}</title></rect>"
        )
    counts = np.bincount(boxes.type[prediction.chosen], minlength=len(BOX_TYPES)).tolist()
    of_type = np.bincount(boxes.type, minlength=len(BOX_TYPES)).tolist()
    for n, (name, colour) in enumerate(TYPE_COLOURS.items()):
        x, y = n * MAP_SIDE / len(TYPE_COLOURS), MAP_SIDE + 14
        parts.append(f'<rect x="{x:.0f}" y="{y}" width="11" height="11" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{x + 17:.0f}" y="{y + 10}">{name}: {counts[n]} of {of_type[n]} chosen</text>')
    return "".join([*parts, "</svg>"])


def _ticks(length: int) -> range:
    """Positions from 0 to be numbered: each of the round numbers 1, 2, 5, 10, ... that gives ten of them at most."""
    step = next(s for e in range(10) for s in (10**e, 2 * 10**e, 5 * 10**e) if length <= 10 * s)
    return range(step - 1, length, step)


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
        self.failures.append(failure)

    def html(self, facts: Sequence[tuple[str, str]]) -> str:
        """The page; ``facts`` (name and value) stand in a table at its top."""
        table = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
        notes = []
        if self.predicted > len(self.sections):
            notes.append(f"The first {len(self.sections)} of {self.predicted} sequences are shown; all are in structures.fa.")
        if self.drawn < len(self.sections):
            notes.append(f"Drawings of the first {self.drawn} are shown, so that the page stays small.")
        failures = ""
        if self.failures:
            shown = self.failures[:SHOWN_FAILURES]
            rows = "".join(f"<tr><td>{escape(f.name)}</td><td>{escape(f.reason)}</td></tr>" for f in shown)
            more = "" if len(shown) == len(self.failures) else f" The first {SHOWN_FAILURES} are shown."
            failures = (
                f"<h2>Left out: {len(self.failures)}</h2><p>All are listed in failures.csv.{more}</p>"
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
