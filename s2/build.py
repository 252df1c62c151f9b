"""The network that a configuration describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rna_s2.s2.config import NetworkConfig
from rna_s2.s2.network import BoxNetwork
from rna_s2.s2.relational import RelationalNetwork

Network = BoxNetwork | RelationalNetwork


def build_network(
    config: NetworkConfig, feature_names: Sequence[str], sequence_channels: Mapping[str, int]
) -> Network:
    """A network with fresh weights.

    Args:
        config: architecture and sizes.
        feature_names: names of the numbers per box.
        sequence_channels: channels of the bases of a box by type; empty for kinds without them.

    Raises:
        UserError: the features do not fit the architecture.
    """
    if config.architecture == "relational":
        return RelationalNetwork(config, feature_names)
    return BoxNetwork(config, len(feature_names), sequence_channels)
