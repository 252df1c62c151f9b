"""The card of a trained stage 1 network: what it was made from and how well it does, as Markdown.

Written by the training from its own results, so that no number in it is typed by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rna_s2.rna.boxes import BOX_TYPES
from rna_s2.s1.selection import SELECTIONS, THRESHOLDS

CELL_COLUMNS = {
    "auroc": "au-ROC", "average_precision": "au-PRC",
    "loc_x_accuracy": "location, rows", "loc_y_accuracy": "location, columns",
    "size_accuracy": "size, softmax", "scalar_size_accuracy": "size, scalar",
    "box_sensitivity": "boxes found",
}
"""Metrics of a box type (``METRIC_TYPE`` in the results), and what they are called in the card."""


def network_card(about: Mapping[str, Any]) -> str:
    """The card.

    Args:
        about: what the training knows of itself: ``config`` (its options), ``data`` (a list of ``name``, ``digest``,
            ``rows``, ``transcripts``), ``excluded`` (``files``, ``transcripts``, ``rows``), ``train_rows``, ``val_rows``,
            ``epochs``, ``weights``, ``receptive_field``, ``command``, ``git_commit``, ``git_dirty``,
            ``run_id``, ``versions`` (package to version), ``figures`` (of the kept weights on the validation
            rows; None where one is undefined).
    """
    config, metrics, selection = about["config"], about["figures"], about["config"]["selection"]
    lines = [
        f"# Stage 1 network: {config['name']}",
        "",
        f"{about['weights']:,} weights; a cell's outputs depend on the {about['receptive_field']} x "
        f"{about['receptive_field']} cells around it. `model.json` describes it, `weights.safetensors` holds the weights; "
        "nothing is executed to load them. This page was written by the training.",
        "",
        "## Training",
        "",
        "```",
        about["command"],
        "```",
        "",
        f"Seed {config['seed']}, {about['epochs']} epochs, the weights of the last one. "
        f"{_commit(about)}, MLflow run `{about['run_id']}`; {_listed(about['versions'])}.",
        "",
        f"{about['train_rows']:,} rows trained, {about['val_rows']:,} validated; no transcript is on both sides.",
        "",
        "| table | rows | transcripts | SHA-256 |",
        "| --- | ---: | ---: | --- |",
        *(f"| `{d['name']}` | {d['rows']:,} | {d['transcripts']:,} | `{d['digest']}` |" for d in about["data"]),
        "",
        *_sources(config),
        *_excluded(about["excluded"]),
        "## Metrics",
        "",
        f"On the {about['val_rows']:,} validation rows, in single precision. Cells above the diagonal: au-ROC and average "
        "precision of \"a box of this type covers the cell\"; of the cells that a target box covers, the share whose "
        f"location and size are right. Boxes: the share of the target boxes proposed, selection {_selection(selection)}, "
        "before pruning.",
        "",
        "| type | " + " | ".join(CELL_COLUMNS.values()) + " |",
        "| --- |" + " ---: |" * len(CELL_COLUMNS),
        *(f"| {t} | " + " | ".join(_shown(metrics[f"{metric}_{t}"]) for metric in CELL_COLUMNS) + " |" for t in BOX_TYPES),
        "",
        f"All types: box sensitivity {_shown(metrics['box_sensitivity'])} at {metrics['boxes_per_row']:.1f} proposed boxes "
        f"per row; {100 * metrics['full_sensitivity_rows']:.1f} % of the rows have every target box among them.",
    ]
    return "\n".join(lines) + "\n"


def _commit(about: Mapping[str, Any]) -> str:
    changed = " with changes that were not committed" if about["git_dirty"] == "true" else ""
    return f"Git commit {about['git_commit']}{changed}"


def _sources(config: Mapping[str, Any]) -> list[str]:
    """Which transcripts the tables were made from, where the training made them."""
    if not config["transcripts"]:
        return []
    sources = config["transcripts"]
    return [
        f"The tables are segments of these transcripts, cut and folded with {_listed(config['segments'])}:", "",
        *(f"- random transcripts: {_listed(s)}" if isinstance(s, Mapping) else f"- `{s}`" for s in sources), "",
    ]


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _excluded(excluded: Mapping[str, Any]) -> list[str]:
    if not excluded["files"]:
        return []
    names = ", ".join(f"`{name}`" for name in excluded["files"])
    return [
        f"No segment of the {excluded['transcripts']} transcripts in {names} trained or validated it: rows of these names "
        f"are left out ({excluded['rows']} were).",
        "",
    ]


def _selection(selection: Mapping[str, Any]) -> str:
    thresholds = SELECTIONS[selection["selection"]].thresholds
    used = ", ".join(THRESHOLDS[name].format(selection[name]) for name in thresholds)
    return f"`{selection['selection']}` ({used})"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
