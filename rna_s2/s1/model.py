"""A trained stage 1 network on disk: ``model.json`` (what it is) and ``weights.safetensors``.

Nothing is executed to load it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from rna_s2.options.base import validate
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path, check_folder
from rna_s2.s1.config import NetworkConfig
from rna_s2.s1.network import ProposalNetwork

MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "README.md"
FORMAT = "rna-s2 stage 1 network, version 1"


def save_network(network: ProposalNetwork, folder: str | Path, about: Mapping[str, Any], card: str = "") -> None:
    """Write a network to a folder.

    Args:
        network: the network.
        folder: is made, or replaced as a whole.
        about: plain values kept beside it: data, seed, metrics.
        card: text for people (:mod:`rna_s2.s1.card`); none writes none.
    """
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        described = {"format": FORMAT, "network": network.config.model_dump(mode="json"), "about": dict(about)}
        (temporary / MODEL_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        # safetensors stores plain row-major tensors; a file that it writes itself can be read by its owner alone
        weights = save({name: v.detach().cpu().contiguous() for name, v in network.state_dict().items()})
        (temporary / WEIGHTS_FILE).write_bytes(weights)
        if card:
            (temporary / CARD_FILE).write_text(card, encoding="utf-8")


def check_network_folder(path: str | Path) -> None:
    """:func:`rna_s2.options.files.check_folder` of a network."""
    check_folder(path, "stage 1 network", _holds_network, (MODEL_FILE, WEIGHTS_FILE, CARD_FILE))


def _holds_network(folder: Path) -> bool:
    try:
        described = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(described, dict) and described.get("format") == FORMAT


def load_network(folder: str | Path) -> tuple[ProposalNetwork, dict[str, Any]]:
    """A network and what is known about it, from a folder that :func:`save_network` wrote.

    Raises:
        UserError: the folder holds no such network, or its weights do not fit its description.
    """
    folder = Path(folder)
    try:
        described = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS_FILE)
    except FileNotFoundError as error:  # that of safetensors does not name the file
        missing = WEIGHTS_FILE if (folder / MODEL_FILE).exists() else MODEL_FILE
        raise UserError(f"{folder}: holds no stage 1 network ({missing} is missing); give a trained one's folder") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be read as a stage 1 network ({error}); train it again") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise UserError(f"{folder / MODEL_FILE}: is not '{FORMAT}'; give the folder of a trained stage 1 network")
    network = ProposalNetwork(validate(NetworkConfig, described.get("network") or {}, str(folder / MODEL_FILE)))
    expected = {name: tuple(v.shape) for name, v in network.state_dict().items()}
    found = {name: tuple(v.shape) for name, v in weights.items()}
    if expected != found:
        wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise UserError(f"{folder}: the weights do not fit {MODEL_FILE} ({', '.join(wrong[:3])}); train it again")
    network.load_state_dict(weights)
    return network.requires_grad_(False).eval(), dict(described.get("about") or {})


