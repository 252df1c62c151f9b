"""What a training sees of an encoded dataset: groups of numbers taken away, coordinates rescaled, bases permuted.

The encoded dataset on disk stays as it is. The names of the columns say all about them, so that a saved network, which
keeps these names, is given the same numbers (:func:`with_columns`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rna_s2.energies.ensemble import ENSEMBLE
from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import BOX_TYPES
from rna_s2.s2.config import FeatureConfig
from rna_s2.s2.dataset import EncodedDataset
from rna_s2.s2.features import CONFIDENCES, ENERGY, FEATURE_NAMES, GEOMETRY
from rna_s2.s2.neighbours import CHAINS, COUNTS

PLACE: tuple[str, ...] = ("bb_x", "bb_y")
SIZE: tuple[str, ...] = ("siz_x", "siz_y")
GROUPS: dict[str, tuple[str, ...]] = {
    "type": tuple(name for name in GEOMETRY if name.startswith("type_")),
    "place": PLACE,
    "size": SIZE,
    "confidence": CONFIDENCES,
    "energy": ENERGY + CHAINS + ENSEMBLE,
    "neighbours": COUNTS + CHAINS + ENSEMBLE,
    "ensemble": ENSEMBLE,
}
"""The numbers of a box by group, as ``features.without`` names them."""

SCALED, RELATIVE = "_scaled", "_relative"
"""Endings of the names of columns that are computed from another column."""

PLACE_SCALE = 100.0
"""Bases that ``scaled`` makes 1 in a box's place: half of the longest segment of the reference experiment."""

SIZE_SCALE = 10.0
"""Bases that ``scaled`` makes 1 in a box's size: the largest size that the first stage tells apart."""


def column_names(config: FeatureConfig) -> tuple[str, ...]:
    """Names of the columns that a configuration asks for, in order."""
    away = {name for group in config.without for name in GROUPS[group]}
    ending = {"raw": "", "scaled": SCALED, "relative": RELATIVE}[config.coordinates]
    return tuple(
        name + (ending if name in PLACE + SIZE else "") for name in FEATURE_NAMES[config.kind] if name not in away
    )


def view(data: EncodedDataset, config: FeatureConfig, seed: int = 0) -> EncodedDataset:
    """The dataset as a configuration wants it; ``data`` itself where the configuration changes nothing.

    Args:
        data: an encoded dataset of the kind ``config.kind``.
        config: what goes into S2.
        seed: of the permutation of bases.
    """
    viewed = with_columns(data, column_names(config))
    if config.shuffle_bases != "none":
        viewed = with_shuffled_bases(viewed, config.shuffle_bases, seed)
    return viewed


def with_columns(data: EncodedDataset, names: Sequence[str]) -> EncodedDataset:
    """The dataset with the named columns alone; ``data`` itself where it has exactly these.

    A name is that of a column of ``data``, or that of a place or size with an ending: ``bb_x_scaled`` is ``bb_x`` over
    :data:`PLACE_SCALE` (``siz_x_scaled`` over :data:`SIZE_SCALE`), ``bb_x_relative`` is ``bb_x`` over the length of
    the row's sequence.

    Raises:
        UserError: a name is neither.
    """
    names = tuple(names)
    if names == data.meta.feature_names:
        return data
    length = np.repeat(np.asarray(data.seq_length, np.float32), np.diff(data.offsets))

    def column(name: str) -> np.ndarray:
        if name in data.meta.feature_names:
            return np.asarray(data.features[:, data.meta.feature_names.index(name)])
        for ending in (SCALED, RELATIVE):
            base = name.removesuffix(ending)
            if base != name and base in PLACE + SIZE and base in data.meta.feature_names:
                scale = length if ending == RELATIVE else PLACE_SCALE if base in PLACE else SIZE_SCALE
                return column(base) / scale
        raise UserError(f"{data.meta.source}: '{name}' is no feature of the kind {data.meta.kind}")

    features = np.stack([column(name) for name in names], axis=1).astype(np.float32)
    return replace(data, meta=data.meta.model_copy(update={"feature_names": names}), features=features)


def with_shuffled_bases(data: EncodedDataset, within: str, seed: int) -> EncodedDataset:
    """The dataset with its boxes' bases permuted; lengths and marks of closing bases stay.

    Positions change places, so the two bases of a stem's pair stay together. ``box`` permutes the positions of each
    box: what is left of the sequence is its composition. ``row`` permutes them over all boxes of one type of a row:
    what is left is the length of each box.

    Args:
        data: with bases.
        within: ``box`` or ``row``.
        seed: of the permutation.
    """
    rng = np.random.default_rng(seed)
    row_of_box = np.repeat(np.arange(len(data)), np.diff(data.offsets))
    values = {}
    for code, name in enumerate(BOX_TYPES):
        if name not in data.seq_values:
            continue
        lengths = np.diff(data.seq_offsets[name])
        among = np.arange(len(lengths)) if within == "box" else row_of_box[data.box_type == code]
        group = np.repeat(among, lengths)  # of each position; rising, so a sorted draw stays in its group
        bases = np.array(data.seq_values[name])
        bases_only = slice(0, bases.shape[1] // 4 * 4)  # a channel behind them marks closing bases
        bases[:, bases_only] = bases[np.lexsort((rng.random(len(group)), group)), bases_only]
        values[name] = bases
    return replace(data, seq_values=values)
