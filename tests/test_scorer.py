"""A saved network: the same scores after loading, the boxes' order, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from rna_s2.boxtables.read import table_from_frame
from rna_s2.options.errors import UserError
from rna_s2.s2.architectures import build_network
from rna_s2.s2.batches import make_batch
from rna_s2.s2.config import NetworkConfig
from rna_s2.s2.features import encode_boxes
from rna_s2.s2.network import BoxNetwork
from rna_s2.s2.scorer import MODEL_FILE, WEIGHTS_FILE, ModelCard, Scorer

CONFIG = NetworkConfig(n_dim=10, n_attn_layer=1, n_heads=2, n_ff=8, n_hid=4, lstm_hid=3, lstm_layer=1)


def box(x: int, y: int, siz_x: int, siz_y: int) -> dict:
    return {"bb_x": x, "bb_y": y, "siz_x": siz_x, "siz_y": siz_y, "prob_sm": [0.2, 0.6], "prob_sl": []}


def frame() -> pd.DataFrame:
    """Ragged rows: all types, none at all, one box, two types."""
    seq = "GGCAAAAAGCCAUUGC"
    return pd.DataFrame({
        "seq": [seq, seq, seq.lower(), seq],
        "bb_stem": [[box(0, 10, 3, 3), box(0, 12, 1, 1)], None, [], [box(1, 11, 2, 2)]],
        "bb_iloop": [[box(0, 12, 2, 3)], [], None, []],
        "bb_hloop": [[box(2, 8, 7, 7), box(3, 9, 7, 7)], float("nan"), [box(2, 8, 7, 7)], [box(2, 8, 7, 7)]],
    })


def scorer_of(kind: str, seed: int = 0) -> Scorer:
    data = encode_boxes(table_from_frame(frame()).table, kind)
    torch.manual_seed(seed)
    config = CONFIG.model_copy(update={"architecture": "relational" if kind == "relational" else "boxes"})
    network = build_network(config, data.meta.feature_names, data.meta.sequence_channels)
    return Scorer.of(network, config, data, epoch=3)


@pytest.mark.parametrize("kind", ["baseline", "s1_features", "sequence_encoding", "relational"])
def test_a_saved_scorer_scores_the_same(tmp_path, kind):
    scorer = scorer_of(kind)
    scorer.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [MODEL_FILE, WEIGHTS_FILE]
    loaded = Scorer.load(tmp_path / "model")
    assert loaded.card == scorer.card and loaded.card.epoch == 3 and loaded.card.kind == kind
    for before, after in zip(scorer.score_frame(frame()), loaded.score_frame(frame()), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("kind", ["baseline", "s1_features", "sequence_encoding", "relational"])
def test_scores_stand_in_the_order_stems_iloops_hloops(kind):
    scorer = scorer_of(kind)
    found = scorer.score_frame(frame())
    assert [len(scores) for scores in found] == [5, 0, 1, 2]
    data = encode_boxes(table_from_frame(frame()).table, kind)
    for row, scores in enumerate(found):
        boxes = [
            (code, b["bb_x"], b["bb_y"], b["siz_x"], b["siz_y"])
            for code, name in enumerate(("bb_stem", "bb_iloop", "bb_hloop"))
            for b in (frame()[name][row] if isinstance(frame()[name][row], list) else [])
        ]
        own = slice(data.offsets[row], data.offsets[row + 1])
        assert [(t, *f[3:7]) for t, f in zip(data.box_type[own], data.features[own].tolist(), strict=True)] == boxes
        assert scores.dtype == np.float64
        if len(scores):
            with torch.no_grad():
                wanted = scorer.network(make_batch(data, np.array([row]))).double().sigmoid().numpy()
            np.testing.assert_allclose(scores, wanted, rtol=1e-5)


def test_the_order_of_the_rows_does_not_matter():
    scorer = scorer_of("baseline")
    backwards = scorer.score_frame(frame().iloc[::-1])[::-1]
    for one, other in zip(scorer.score_frame(frame()), backwards, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_rows_without_any_box_have_no_scores():
    found = scorer_of("sequence_encoding").score_frame(frame().iloc[[1, 1]])
    assert [scores.shape for scores in found] == [(0,), (0,)]


@pytest.mark.parametrize("missing", [MODEL_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_said(tmp_path, missing):
    scorer_of("baseline").save(tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(UserError, match=rf"{missing}: cannot be read \(No such file.*give a saved S2 model"):
        Scorer.load(tmp_path / "model")


def test_weights_that_do_not_fit_are_refused(tmp_path):
    scorer_of("baseline").save(tmp_path / "small")
    card = json.loads((tmp_path / "small" / MODEL_FILE).read_text())
    card["network"]["n_dim"] = 20
    (tmp_path / "small" / MODEL_FILE).write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"does not fit model\.json .*size mismatch") as caught:
        Scorer.load(tmp_path / "small")
    assert "\n" not in str(caught.value)


def test_a_missing_or_surplus_weight_is_refused(tmp_path):
    scorer_of("baseline").save(tmp_path / "model")
    path = tmp_path / "model" / WEIGHTS_FILE
    weights = load_file(path)
    save_file({name: value for name, value in weights.items() if name != "out.bias"}, path)
    with pytest.raises(UserError, match=r"Missing key.*out\.bias"):
        Scorer.load(tmp_path / "model")
    save_file(weights | {"surplus": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"Unexpected key.*surplus"):
        Scorer.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (WEIGHTS_FILE, b"", "does not fit"),
        (WEIGHTS_FILE, b"no weights at all", "does not fit"),
        (MODEL_FILE, b"{", "Invalid JSON"),
        (MODEL_FILE, b"{}", "kind: Field required"),
        (MODEL_FILE, b"[]", "content: "),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, name, content, said):
    scorer_of("baseline").save(tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        Scorer.load(tmp_path / "model")
    assert str(tmp_path / "model" / name) in str(caught.value)


def test_a_card_of_a_later_format_is_refused(tmp_path):
    scorer_of("baseline").save(tmp_path / "model")
    path = tmp_path / "model" / MODEL_FILE
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(UserError, match="format_version"):
        Scorer.load(tmp_path / "model")


def test_saving_replaces_a_model_whole(tmp_path):
    scorer_of("sequence_encoding").save(tmp_path / "model")
    other = scorer_of("baseline", seed=1)
    other.save(tmp_path / "model")
    assert Scorer.load(tmp_path / "model").card == other.card
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.drop(columns="bb_iloop"), "bb_iloop"),
        (lambda f: f.drop(columns="seq"), "seq"),
        (lambda f: f.assign(seq=["GG!", *f["seq"][1:]]), "row 0, seq"),
        (lambda f: f.iloc[:0], "no rows|empty"),
        (lambda f: f.assign(bb_stem=[[], [box(0, 99, 3, 3)], [], []]), "row 1 .*bb_y=99 .*runs out of the map"),
    ],
)
def test_a_frame_that_cannot_be_scored_is_explained(change, said):
    with pytest.raises(UserError, match=said):
        scorer_of("sequence_encoding").score_frame(change(frame()))


def test_no_kind_scores_a_box_beyond_the_map():
    with pytest.raises(UserError, match=r"row 1 .*bb_y=99 .*runs out of the map"):
        scorer_of("baseline").score_frame(frame().assign(bb_stem=[[], [box(0, 99, 3, 3)], [], []]))


def test_a_scorer_never_drops(tmp_path):
    network = BoxNetwork(CONFIG, 7, {}).train()
    assert not Scorer(network, ModelCard(kind="baseline", feature_names=("a",) * 7, network=CONFIG)).network.training
