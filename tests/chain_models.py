"""Small networks of both stages, untrained, for tests of what is built on them."""

from __future__ import annotations

from pathlib import Path

import torch
from s2_data import random_dataset

from rna_s2.pipeline.structure_prediction import Models, PipelineOptions
from rna_s2.s1.config import NetworkConfig as S1Config
from rna_s2.s1.model import save_network
from rna_s2.s1.network import ProposalNetwork
from rna_s2.s1.selection import SelectionOptions
from rna_s2.s2.config import NetworkConfig as S2Config
from rna_s2.s2.network import BoxNetwork
from rna_s2.s2.scorer import Scorer

EVERY_CELL = PipelineOptions(
    selection=SelectionOptions(selection="on_threshold", on_threshold=0.0, min_support=0.01), decoder="exact", max_boxes=300
)
"""Untrained, stage 1 is sure of nothing: all its cells propose."""


def small_models(seed: int = 0, surety: float = 1.0) -> Models:
    """Stage 1 proposes at random, stage 2 believes most boxes: its log-odds are about ``surety``."""
    torch.manual_seed(seed)
    s1 = ProposalNetwork(S1Config(channels=4, hidden=4, dilations=(1,), first_kernel=3, head_hidden=4))
    sizes = S2Config(n_dim=10, n_attn_layer=1, n_heads=2, n_ff=8, n_hid=4)
    data = random_dataset([(3, 2, 1)])
    s2 = BoxNetwork(sizes, len(data.meta.feature_names), {})
    last = [module for module in s2.modules() if isinstance(module, torch.nn.Linear) and module.out_features == 1][-1]
    with torch.no_grad():
        last.bias.fill_(surety)
    return Models(s1.requires_grad_(False).eval(), Scorer.of(s2, sizes, data))


def saved_models(folder: Path) -> tuple[str, str]:
    """The folders of both, as options of a command."""
    models = small_models()
    save_network(models.s1, folder / "s1", {})
    models.s2.save(folder / "s2")
    return str(folder / "s1"), str(folder / "s2")
