"""What a training sees of an encoded dataset: groups of numbers taken away, coordinates rescaled, bases permuted.

The encoded dataset on disk stays as it is. The names of the columns say all about them, so that a saved network, which
keeps these names, is given the same numbers (:func:`with_columns`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import BOX_TYPES
from rna_s2.s2.config import FeatureConfig
from rna_s2.s2.dataset import EncodedDataset
from rna_s2.s2.feature_groups import RELATIVE, SCALED, UNITS


def view(data: EncodedDataset, config: FeatureConfig, seed: int = 0) -> EncodedDataset:
    """The dataset as a configuration wants it; ``data`` itself where the configuration changes nothing.

    Args:
        data: an encoded dataset of the kind ``config.kind``.
        config: what goes into S2.
        seed: of the permutation of bases.
    """
    viewed = with_columns(data, config.columns)
    if config.shuffle_bases != "none":
        viewed = with_shuffled_bases(viewed, config.shuffle_bases, seed)
    return viewed


def with_columns(data: EncodedDataset, names: Sequence[str]) -> EncodedDataset:
    """The dataset with the named columns alone; ``data`` itself where it has exactly these.

    A name is that of a column of ``data``, or that of a coordinate with an ending: ``bb_x_scaled`` is ``bb_x`` over its unit
    (:data:`rna_s2.s2.feature_groups.UNITS`), ``bb_x_relative`` is ``bb_x`` over the length of the row's sequence.

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
            if base != name and base in UNITS and base in data.meta.feature_names:
                return column(base) / (length if ending == RELATIVE else UNITS[base])
        raise UserError(f"{data.meta.source}: '{name}' is no feature of the kind {data.meta.kind}")

    columns = [column(name) for name in names]
    features = np.stack(columns, axis=1).astype(np.float32) if names else np.zeros((len(length), 0), np.float32)
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
        group = np.repeat(among, lengths)  # of each position; rising, so sorted random numbers stay in their group
        bases = np.array(data.seq_values[name])
        bases_only = slice(0, bases.shape[1] // 4 * 4)  # a channel behind them marks closing bases
        bases[:, bases_only] = bases[np.lexsort((rng.random(len(group)), group)), bases_only]
        values[name] = bases
    return replace(data, seq_values=values)
