"""The networks of stage 2: to add one, write it in a file of its own and enter it in :data:`ARCHITECTURES`.

Its builder imports it, so that options are checked without torch, whose import takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rna_s2.s2.feature_groups import KINDS, Kind

if TYPE_CHECKING:
    from torch import nn

    from rna_s2.s2.config import NetworkConfig

    Network = nn.Module

Builder = Callable[["NetworkConfig", Sequence[str], Mapping[str, int]], "Network"]
"""Makes a network with fresh weights from its sizes, the names of the columns, and the channels of the bases of a box by type
(empty for kinds without them)."""


@dataclass(frozen=True)
class Architecture:
    """A network, and what it needs.

    Attributes:
        description: one line for the help.
        build: makes it.
        reads_sequences: needs a kind of features that holds whole sequences, and their ends where they are.
    """

    description: str
    build: Builder
    reads_sequences: bool = False


def _boxes(config: NetworkConfig, feature_names: Sequence[str], sequence_channels: Mapping[str, int]) -> Network:
    from rna_s2.s2.network import BoxNetwork

    return BoxNetwork(config, len(feature_names), sequence_channels)


def _relational(config: NetworkConfig, feature_names: Sequence[str], sequence_channels: Mapping[str, int]) -> Network:
    from rna_s2.s2.relational import RelationalNetwork

    return RelationalNetwork(config, feature_names)


ARCHITECTURES: dict[str, Architecture] = {
    "boxes": Architecture("self-attention over the set of boxes", _boxes),
    "relational": Architecture("attention that knows how they relate", _relational, reads_sequences=True),
}
"""The architectures by the name that ``network.architecture`` gives."""

ARCHITECTURE_HELP = "; ".join(f"{name}: {each.description}" for name, each in ARCHITECTURES.items())

if TYPE_CHECKING:
    ArchitectureName = str
else:
    ArchitectureName = Literal[tuple(ARCHITECTURES)]


def build_network(
    config: NetworkConfig, feature_names: Sequence[str], sequence_channels: Mapping[str, int]
) -> Network:
    """A network with fresh weights.

    Args:
        config: architecture and sizes.
        feature_names: names of the columns.
        sequence_channels: channels of the bases of a box by type; empty for kinds without them.

    Raises:
        UserError: the features do not fit the architecture.
    """
    return ARCHITECTURES[config.architecture].build(config, feature_names, sequence_channels)


def complaint(name: str, kind: Kind, shifts_boxes: bool) -> str:
    """Why an architecture cannot be trained on a kind of features, with boxes that augmentation shifts or not; empty where it
    can."""
    if not ARCHITECTURES[name].reads_sequences:
        return ""
    fitting = sorted(each for each, what in KINDS.items() if what.bases == "sequences")
    if kind not in fitting:
        return f"network.architecture {name} needs features.kind {' or '.join(fitting)}, not {kind}"
    return f"network.architecture {name} knows a sequence's ends: take bb_augmentation_shift away" if shifts_boxes else ""
