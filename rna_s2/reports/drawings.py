"""Plots of a prediction: the structure, coloured by confidence, and the map of its boxes."""

from __future__ import annotations

from html import escape

import numpy as np

from rna_s2.rna.boxes import BOX_TYPES, bounds
from rna_s2.rna.pairs import remove_pseudoknots, to_dot_bracket
from rna_s2.structures.pairing import base_confidence
from rna_s2.structures.prediction import Prediction

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
