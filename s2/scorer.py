"""A trained S2 network as a folder, and what it is for: a probability for each proposed box.

The folder holds ``model.json`` (sizes, features, what it was trained on) and ``weights.safetensors``; nothing is pickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from rna_s2.boxtables.read import table_from_frame
from rna_s2.boxtables.table import BoxTable
from rna_s2.options.base import Options
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path
from rna_s2.s2.architectures import build_network
from rna_s2.s2.config import NetworkConfig
from rna_s2.s2.dataset import EncodedDataset
from rna_s2.s2.feature_groups import Kind
from rna_s2.s2.features import encode_boxes, require_pruned
from rna_s2.s2.scoring import score_rows
from rna_s2.s2.views import with_columns

MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
_REASON_LENGTH = 200  # characters of PyTorch's list of weights that do not fit


class ModelCard(Options):
    """What a saved network is: enough to build it again and to refuse input that does not fit."""

    format_version: Literal[1] = Field(1, description="version of this format")
    kind: Kind = Field(description="features of a box")
    feature_names: tuple[str, ...] = Field(description="numbers per box, in order")
    sequence_channels: dict[str, int] = Field(default_factory=dict, description="channels of the bases by box type")
    network: NetworkConfig = Field(description="sizes")
    data_digest: str = Field("", description="digest of the encoded dataset it was trained on")
    epoch: int = Field(-1, description="epoch of the weights, from 0")


class Scorer:
    """A network that scores the boxes of S1 tables.

    Args:
        network: its dropout is switched off.
        card: what it is.
    """

    def __init__(self, network: nn.Module, card: ModelCard) -> None:
        self.network = network.eval()
        self.card = card

    @classmethod
    def of(cls, network: nn.Module, config: NetworkConfig, data: EncodedDataset, epoch: int = -1) -> Scorer:
        """A trained network with the card that its configuration and its dataset give."""
        card = ModelCard(
            kind=data.meta.kind, feature_names=data.meta.feature_names, sequence_channels=data.meta.sequence_channels,
            network=config, data_digest=data.digest, epoch=epoch,
        )
        return cls(network, card)

    def save(self, folder: str | Path) -> None:
        """Write the folder, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
            (temporary / WEIGHTS_FILE).write_bytes(save(weights))  # its own files can be read by their owner alone
            (temporary / MODEL_FILE).write_text(self.card.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Scorer:
        """Read a folder that :meth:`save` wrote.

        Raises:
            UserError: a file is missing or damaged, or the weights do not fit the card.
        """
        folder = Path(folder)
        try:
            card = ModelCard.model_validate_json((folder / MODEL_FILE).read_bytes())
        except OSError as error:
            raise UserError(f"{folder / MODEL_FILE}: cannot be read ({error.strerror}); give a saved S2 model") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "content"
            raise UserError(f"{folder / MODEL_FILE}: {where}: {first['msg']}; save the model again") from error
        network = build_network(card.network, card.feature_names, card.sequence_channels)
        try:
            network.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{folder / WEIGHTS_FILE}: cannot be read ({reason}); give a saved S2 model") from error
        except (SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:_REASON_LENGTH]
            raise UserError(f"{folder / WEIGHTS_FILE}: does not fit {MODEL_FILE} ({reason}); save the model again") from error
        return cls(network, card)

    def score_table(self, table: BoxTable) -> list[np.ndarray]:
        """Probabilities of the proposals of each row of a pruned table.

        Returns:
            One ``(boxes of the row,)`` float64 array per row, boxes in the order stems, iloops, hloops, each in table order.

        Raises:
            UserError: a box runs out of the map, or has no features of this network's kind
                (:func:`rna_s2.s2.features.encode_boxes`).
        """
        require_pruned(table)
        data = with_columns(encode_boxes(table, self.card.kind, self.card.feature_names), self.card.feature_names)
        with torch.inference_mode():
            logits = score_rows(self.network, data, np.arange(len(data))).astype(np.float64)
        probability = 1.0 / (1.0 + np.exp(-logits))
        ends = np.cumsum(np.diff(table.proposals.offsets))
        return np.split(probability, ends[:-1]) if len(ends) else []

    def score_frame(self, frame: pd.DataFrame) -> list[np.ndarray]:
        """As :meth:`score_table`, for a DataFrame with ``seq``, ``bb_stem``, ``bb_iloop``, ``bb_hloop``.

        Raises:
            UserError: a column is missing, or a row cannot be used; the first such row is named.
        """
        result = table_from_frame(frame, source="input", require_targets=False)
        if len(result.rejects):
            first = result.rejects.iloc[0]
            raise UserError(f"input: row {first['row']}, {first['column']}: {first['reason']}")
        return self.score_table(result.table)
