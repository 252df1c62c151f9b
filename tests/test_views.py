"""What a training sees of an encoded dataset: columns by hand, permutations, scorers that are given the same columns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from s2_data import random_dataset
from test_scorer import frame

from rna_s2.boxtables.read import table_from_frame
from rna_s2.options.errors import UserError
from rna_s2.pipeline.train_config import TrainConfig
from rna_s2.s2.batches import make_batch
from rna_s2.s2.config import FeatureConfig, NetworkConfig
from rna_s2.s2.features import encode_boxes
from rna_s2.s2.network import BoxNetwork
from rna_s2.s2.scorer import Scorer
from rna_s2.s2.views import view, with_columns, with_shuffled_bases

COUNTS = [(6, 4, 3), (0, 0, 0), (2, 0, 5), (1, 1, 1)]


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({}, "type_stem type_iloop type_hloop bb_x bb_y siz_x siz_y"),
        ({"without": ["type"]}, "bb_x bb_y siz_x siz_y"),
        ({"without": ["place"], "coordinates": "scaled"}, "type_stem type_iloop type_hloop siz_x_scaled siz_y_scaled"),
        ({"without": ["type", "size"], "coordinates": "relative"}, "bb_x_relative bb_y_relative"),
        ({"kind": "s1_features", "without": ["type", "place", "size"]},
         "prob_sm_median prob_sm_per_cell prob_sl_median prob_sl_per_cell"),
    ],
)
def test_the_columns_that_a_config_asks_for(config, names):
    assert FeatureConfig.model_validate(config).columns == tuple(names.split())


def test_nothing_changes_where_nothing_is_asked():
    data = random_dataset(COUNTS)
    assert view(data, FeatureConfig()) is data


def test_columns_are_rescaled_by_their_definition():
    data = replace(random_dataset(COUNTS), seq_length=np.array([50, 60, 80, 200], np.int32))
    scaled = view(data, FeatureConfig(coordinates="scaled"))
    np.testing.assert_allclose(scaled.features[:, 3:], data.features[:, 3:] / [100, 100, 10, 10], rtol=1e-6)
    relative = view(data, FeatureConfig(coordinates="relative", without=("type",)))
    for row, length in enumerate([50, 60, 80, 200]):
        own = slice(data.offsets[row], data.offsets[row + 1])
        np.testing.assert_allclose(relative.features[own], data.features[own, 3:] / length, rtol=1e-6)
    np.testing.assert_array_equal(scaled.labels, data.labels)
    with pytest.raises(UserError, match="'bb_z' is no feature of the kind baseline"):
        with_columns(data, ("bb_x", "bb_z"))


@pytest.mark.parametrize(("within", "kept_together"), [("box", 1), ("row", 0)])
def test_permuted_bases_keep_their_positions_their_closing_marks_and_what_they_are_permuted_in(within, kept_together):
    data = random_dataset([(30, 20, 25), (40, 1, 0)], kind="sequence_encoding")
    shuffled = with_shuffled_bases(data, within, seed=1)
    assert shuffled.digest == with_shuffled_bases(data, within, seed=1).digest != data.digest
    assert shuffled.digest != with_shuffled_bases(data, within, seed=2).digest
    row_of_box = np.repeat(np.arange(2), np.diff(data.offsets))
    for code, (name, bases) in enumerate({"stem": 8, "iloop": 4, "hloop": 4}.items()):
        old, new, offsets = data.seq_values[name], shuffled.seq_values[name], data.seq_offsets[name]
        assert (new[:, bases:] == old[:, bases:]).all()
        owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        if not kept_together:
            owner = row_of_box[data.box_type == code][owner]
        for group in np.unique(owner):
            assert sorted(map(tuple, new[owner == group, :bases])) == sorted(map(tuple, old[owner == group, :bases]))
    composition = [np.add.reduceat(d.seq_values["stem"].astype(int), d.seq_offsets["stem"][:-1]) for d in (data, shuffled)]
    assert (composition[0] == composition[1]).all() == bool(kept_together)


@pytest.mark.parametrize(
    "wrong",
    [
        {"without": ["type", "place", "size"]}, {"without": ["confidence"]}, {"shuffle_bases": "box"}, {"without": ["colour"]},
        {"coordinates": "polar"},
    ],
)
def test_features_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError):
        FeatureConfig.model_validate(wrong)


def test_a_shift_needs_places_to_shift():
    augmented = {"augmentation": {"bb_augmentation_shift": True, "bb_shift": 2}}
    TrainConfig.model_validate(augmented)
    for features in ({"without": ["place"]}, {"coordinates": "relative"}):
        with pytest.raises(ValidationError, match="needs raw places"):
            TrainConfig.model_validate(augmented | {"features": features})


def test_a_saved_scorer_is_given_the_columns_it_was_trained_with(tmp_path):
    config = NetworkConfig(n_dim=10, n_attn_layer=1, n_heads=2, n_ff=8, n_hid=4)
    features = FeatureConfig(without=("type",), coordinates="relative")
    data = view(encode_boxes(table_from_frame(frame()).table, "baseline"), features)
    torch.manual_seed(0)
    network = BoxNetwork(config, 4, {}).eval()
    Scorer.of(network, config, data).save(tmp_path / "model")
    scores = np.concatenate(Scorer.load(tmp_path / "model").score_frame(frame()))
    with torch.no_grad():
        wanted = torch.cat([network(make_batch(data, np.array([row]))) for row in (0, 2, 3)]).sigmoid()
    np.testing.assert_allclose(scores, wanted, rtol=1e-5)


def test_without_attention_the_layers_see_each_box_alone():
    data = random_dataset(COUNTS)
    config = NetworkConfig(n_dim=10, n_attn_layer=2, n_heads=2, n_ff=8, n_hid=4, attention=False)
    torch.manual_seed(0)
    network = BoxNetwork(config, 7, {}).eval()
    assert not any("attention" in name for name in network.state_dict())
    changed = replace(data, features=data.features.copy())
    changed.features[0] += 5
    with torch.no_grad():
        before, after = (network(make_batch(d, np.arange(4))) for d in (data, changed))
    assert before[0] != after[0] and before[1:].equal(after[1:])
