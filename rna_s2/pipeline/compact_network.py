"""A stage 1 network with fewer hidden channels that says the same."""

from __future__ import annotations

import logging
import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from rna_s2.engine.tracker import Tracker
from rna_s2.options.errors import UserError
from rna_s2.options.files import file_digest
from rna_s2.options.places import ProjectPath
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.open_models import TRAINED_S1, model_folder
from rna_s2.rna.boxes import BOX_TYPES
from rna_s2.rna.sequence import encode_many
from rna_s2.s1.compact import ON, Difference, compacted, difference
from rna_s2.s1.model import WEIGHTS_FILE, check_network_folder, load_network, save_network
from rna_s2.s1.network import ProposalNetwork, weight_count
from rna_s2.s1.synthetic import random_transcripts

logger = logging.getLogger(__name__)


class CompactOptions(TrackedOptions):
    """Which network to make smaller, and on what it must say the same."""

    model: ProjectPath = Field(TRAINED_S1, min_length=1, description="folder of a trained network, or models:/NAME")
    out_dir: str = Field(description="folder to write the smaller network and its card to")
    tolerance: float = Field(
        3e-4, ge=0, lt=1, description="what may be lost in a block, as a share of the residual stream's variance behind it"
    )
    n_sequences: int = Field(64, ge=1, description="random sequences on which it must say the same, and as many to compare on")
    length: int = Field(100, ge=10, description="bases of each; memory grows with its square")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the sequences")


@dataclass(frozen=True)
class CompactReport:
    """The smaller network, and how far its answers on other sequences are from the larger one's."""

    network: ProposalNetwork
    difference: Difference


def run_compact(options: CompactOptions, tracker: Tracker) -> CompactReport:
    """Make a network smaller, write it, and log what was done.

    Raises:
        UserError: the network or the folder cannot be used, or memory is out.
    """
    check_compact_paths(options)
    tracker.params(options.model_dump(mode="json", exclude={"experiment"}))
    with model_folder(options.model) as folder:
        network, about = load_network(folder)
        digest = file_digest(folder / WEIGHTS_FILE)
    sequences = random_transcripts(2 * options.n_sequences, options.length, options.seed)
    codes = encode_many(sequences)[0].reshape(2, options.n_sequences, options.length)
    try:
        smaller = compacted(network, codes[0], options.tolerance)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        raise UserError("the sequences' maps do not fit into memory; give a smaller n_sequences or length") from error
    found = difference(network, smaller, codes[1])
    metrics: dict[str, float] = {"weights_before": weight_count(network), "weights": weight_count(smaller)}
    for name, cells, p_on, same in zip(BOX_TYPES, found.cells, found.p_on, found.same_box, strict=True):
        metrics |= {f"cells_{name}": float(cells), f"p_on_difference_{name}": float(p_on), f"same_box_{name}": float(same)}
    described = {
        "config": options.model_dump(mode="json", exclude={"experiment", "out_dir"}), "from_digest": digest,
        "from": {name: about[name] for name in ("excluded", "data_digest", "epochs") if name in about},
        "figures": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
    }
    save_network(smaller, options.out_dir, described, compact_card(options, smaller, described))
    tracker.tags({"digest.model": digest, "digest.out_dir": file_digest(Path(options.out_dir) / WEIGHTS_FILE)})
    tracker.metrics(metrics)
    tracker.artifact(Path(options.out_dir))
    logger.info(
        "%s: %.0f weights of %.0f, hidden channels %s; p_on differs by %.4f on average where it exceeds %g",
        options.out_dir, metrics["weights"], metrics["weights_before"], smaller.config.hidden,
        np.nansum(found.p_on * found.cells) / max(found.cells.sum(), 1), ON,
    )
    return CompactReport(smaller, found)


def check_compact_paths(options: CompactOptions) -> None:
    """To be called before any work.

    Raises:
        UserError: ``out_dir`` is ``model``, or holds something that would be lost.
    """
    if os.path.realpath(options.out_dir) == os.path.realpath(options.model):
        raise UserError(f"{options.out_dir}: is both model and out_dir; choose another out_dir")
    check_network_folder(options.out_dir)


def compact_card(options: CompactOptions, network: ProposalNetwork, about: Mapping[str, Any]) -> str:
    """The card of the smaller network, as Markdown."""
    metrics = about["figures"]
    command = ["python", "-m", "rna_s2.commands.compact_s1"]
    for name in CompactOptions.model_fields:
        value = getattr(options, name)
        if name == "out_dir" or (name != "experiment" and value != CompactOptions.model_fields[name].default):
            command += [f"--{name}", str(value)]
    lines = [
        "# Stage 1 network, compact",
        "",
        f"The network in `{options.model}` (weights SHA-256 `{about['from_digest']}`) with fewer hidden channels: "
        f"{metrics['weights']:,.0f} weights of {metrics['weights_before']:,.0f}. Hidden channels by block: "
        f"{', '.join(map(str, network.config.hidden_of_blocks))}. How that network was trained stands in its own card; nothing "
        "was trained here. `model.json` describes it, `weights.safetensors` holds the weights; nothing is executed to load "
        "them. This page was written by the command:",
        "",
        "```",
        shlex.join(command),
        "```",
        "",
        f"Channels were chosen on {options.n_sequences} random sequences of {options.length} bases. On as many others, at the "
        f"cells where the larger network's p_on exceeds {ON:g}:",
        "",
        "| type | cells | mean difference of p_on | likeliest location and size the same |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {name} | {metrics[f'cells_{name}']:,.0f} | {_shown(metrics[f'p_on_difference_{name}'], 4)} | "
            f"{_shown(metrics[f'same_box_{name}'], 3)} |"
            for name in BOX_TYPES
        ),
    ]
    return "\n".join(lines) + "\n"


def _shown(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"
