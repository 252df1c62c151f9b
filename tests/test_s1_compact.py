"""Stage 1 networks made smaller: planted idle and doubled channels, the bound on the loss, the command, the shipped network."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from rna_s2.commands.compact_s1 import main
from rna_s2.engine.tracker import MemoryTracker
from rna_s2.options.base import validate
from rna_s2.options.errors import UserError
from rna_s2.options.files import file_digest
from rna_s2.pipeline.compact_network import CompactOptions, run_compact
from rna_s2.pipeline.open_models import SHIPPED_S1, TRAINED_S1
from rna_s2.rna.sequence import encode_many
from rna_s2.s1.compact import CHANNELS_AT_A_TIME, ON, Moments, _fewest, _solved, compacted, difference
from rna_s2.s1.config import NetworkConfig
from rna_s2.s1.model import WEIGHTS_FILE, load_network, save_network
from rna_s2.s1.network import ProposalNetwork, upper_triangle, weight_count
from rna_s2.s1.predict import propose_frame
from rna_s2.s1.synthetic import random_transcripts

ROOT = Path(__file__).resolve().parent.parent
CONFIG = NetworkConfig(channels=6, hidden=24, dilations=(1, 2, 1), first_kernel=3, head_hidden=8)


def network_of(config: NetworkConfig, seed: int) -> ProposalNetwork:
    """A network in which every block does something (a fresh one starts as the identity)."""
    torch.manual_seed(seed)
    network = ProposalNetwork(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    return network.requires_grad_(False).eval()


def sequences(rows: int, length: int, seed: int) -> np.ndarray:
    return encode_many(random_transcripts(rows, length, seed))[0].reshape(rows, length)


def features(network: ProposalNetwork, codes: np.ndarray) -> torch.Tensor:
    rows = torch.from_numpy(codes)
    inside = upper_triangle(torch.full((len(codes),), codes.shape[1]), codes.shape[1])
    with torch.inference_mode():
        return network.features(rows, rows, inside)[inside]


def test_idle_and_doubled_channels_are_taken_out_and_nothing_changes():
    network = network_of(CONFIG, 0)
    with torch.no_grad():
        first, second, _ = network.blocks
        first.look.weight[16:] = 0.0
        first.look.bias[16:] = -1.0  # eight that are never on
        second.look.weight[8:16] = 2 * second.look.weight[:8]
        second.look.bias[8:16] = 2 * second.look.bias[:8]
        second.look.weight[16:] = second.look.weight[:8]
        second.look.bias[16:] = second.look.bias[:8]  # sixteen that repeat eight
    before = features(network, sequences(3, 30, 1))
    smaller = compacted(network, sequences(10, 24, 0), 1e-7)
    assert smaller.config.hidden == (16, 8, 24)
    assert [block.look.out_channels for block in smaller.blocks] == [16, 8, 24]
    torch.testing.assert_close(features(smaller, sequences(3, 30, 1)), before, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(features(network, sequences(3, 30, 1)), before, rtol=0, atol=0)  # it stays as it is


def test_without_tolerance_all_channels_stay():
    network = network_of(CONFIG, 1)
    smaller = compacted(network, sequences(10, 24, 0), 0.0)
    assert smaller.config.hidden == (24, 24, 24)
    assert difference(network, smaller, sequences(4, 30, 2)).p_on.max() < 1e-4


@pytest.mark.parametrize("tolerance", [0.03, 0.1, 0.3])
def test_what_is_lost_stays_within_the_tolerance_of_each_block(tolerance):
    network, codes = network_of(CONFIG, 2), sequences(10, 24, 0)
    smaller = compacted(network, codes, tolerance)
    assert weight_count(smaller) < weight_count(network)
    assert all(hidden % CHANNELS_AT_A_TIME == 0 for hidden in smaller.config.hidden)
    rows = torch.from_numpy(codes)
    inside = upper_triangle(torch.full((len(codes),), codes.shape[1]), codes.shape[1])
    with torch.inference_mode():
        wanted, got = (n.stream(rows, rows, inside)[inside].double() for n in (network, smaller))
    lost = (wanted - got).square().sum() / (wanted - wanted.mean(0)).square().sum()
    assert 0 < lost < len(CONFIG.dilations) * tolerance


def test_the_channel_that_is_taken_out_is_the_one_whose_absence_costs_least():
    """Beside a direct computation: least squares without each of the channels in turn."""
    rng = np.random.default_rng(0)
    hidden = np.maximum(rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)), 0)
    with_one = np.concatenate([hidden, np.ones((500, 1))], axis=1)
    wanted = rng.normal(size=(500, 4)) + hidden @ rng.normal(size=(6, 4))
    moments = Moments(with_one.T @ with_one / 500, with_one.T @ wanted / 500, float((wanted**2).sum() / 500))

    def loss(columns: list[int]) -> float:
        left = np.linalg.lstsq(with_one[:, columns], wanted, rcond=None)[0]
        return float(((wanted - with_one[:, columns] @ left) ** 2).sum() / 500)

    kept = list(range(6))
    while len(kept) > 1:
        fit, rise = _solved(moments, kept)
        assert fit.loss == pytest.approx(loss([*kept, 6]), rel=1e-6)
        direct = [loss([*(k for k in kept if k != out), 6]) - loss([*kept, 6]) for out in kept]
        np.testing.assert_allclose(rise, direct, rtol=1e-5, atol=1e-8)
        kept.pop(int(np.argmin(direct)))


def test_no_set_of_so_many_channels_is_much_better_than_the_one_found():
    rng = np.random.default_rng(1)
    hidden = np.maximum(rng.normal(size=(400, 10)) @ rng.normal(size=(10, 10)), 0)
    with_one = np.concatenate([hidden, np.ones((400, 1))], axis=1)
    wanted = hidden @ rng.normal(size=(10, 3))
    moments = Moments(with_one.T @ with_one / 400, with_one.T @ wanted / 400, float((wanted**2).sum() / 400))
    found = _fewest(moments, np.inf)
    assert len(found.kept) == CHANNELS_AT_A_TIME
    best = min(_solved(moments, list(kept))[0].loss for kept in combinations(range(10), CHANNELS_AT_A_TIME))
    assert best <= found.loss * (1 + 1e-9) and found.loss < 1.5 * best


def test_sizes_per_block_are_saved_and_checked(tmp_path):
    config = CONFIG.model_copy(update={"hidden": (8, 3, 5)})
    network = network_of(config, 3)
    save_network(network, tmp_path / "network", {})
    loaded, _ = load_network(tmp_path / "network")
    assert loaded.config.hidden == (8, 3, 5)
    modes = {(tmp_path / "network" / name).stat().st_mode for name in ("model.json", WEIGHTS_FILE)}
    assert len(modes) == 1, "who may read the one may read the other"
    codes = sequences(2, 20, 0)
    torch.testing.assert_close(features(loaded, codes), features(network, codes), rtol=0, atol=0)
    described = json.loads((tmp_path / "network" / "model.json").read_text("utf-8"))
    described["network"]["hidden"] = [8, 3]
    (tmp_path / "network" / "model.json").write_text(json.dumps(described), "utf-8")
    with pytest.raises(UserError, match=r"hidden has 2 numbers and dilations 3; give one number, or one for each dilation"):
        load_network(tmp_path / "network")


@pytest.mark.parametrize("wrong", [0, -8, 1.5, True, "64", None, [8, 0, 8], [8, "8", 8], {"8": 8}])
def test_sizes_that_are_none_are_one_line(wrong):
    with pytest.raises(UserError) as raised:
        validate(NetworkConfig, {"hidden": wrong, "dilations": [1, 2, 1]}, "s1.yaml")
    assert str(raised.value).startswith("s1.yaml: 'hidden': must be a number of 1 or more, or a list of such numbers")
    assert ";" not in str(raised.value)


def test_difference_of_a_network_to_itself_and_to_one_that_says_off():
    network, codes = network_of(CONFIG, 4), sequences(4, 30, 0)
    itself = difference(network, network, codes)
    assert (itself.p_on == 0).all() and (itself.same_box == 1).all() and (itself.cells > 0).all()
    off = network_of(CONFIG, 4)
    with torch.no_grad():
        for layer in off.outputs:
            layer.weight[0] = 0.0
            layer.bias[0] = -100.0
    changed = difference(network, off, codes)
    assert (changed.p_on > 0.1).all() and (changed.same_box == 1).all()
    nothing = difference(off, network, codes)
    assert (nothing.cells == 0).all() and np.isnan(nothing.p_on).all()


def options_of(tmp_path, **changed) -> CompactOptions:
    save_network(network_of(CONFIG, 5), tmp_path / "large", {"epochs": 3})
    return CompactOptions(**{
        "model": str(tmp_path / "large"), "out_dir": str(tmp_path / "small"), "tolerance": 0.05, "n_sequences": 6, "length": 20,
        **changed,
    })


def test_the_command_writes_network_card_and_figures(tmp_path):
    options, tracker = options_of(tmp_path), MemoryTracker()
    report = run_compact(options, tracker)
    loaded, about = load_network(options.out_dir)
    codes = sequences(3, 25, 9)
    torch.testing.assert_close(features(loaded, codes), features(report.network, codes), rtol=0, atol=0)
    assert about["from_digest"] == file_digest(tmp_path / "large" / WEIGHTS_FILE) and about["from"] == {"epochs": 3}
    card = (tmp_path / "small" / "README.md").read_text("utf-8")
    assert f"{weight_count(loaded):,} weights of {weight_count(load_network(options.model)[0]):,}" in card
    assert f"--out_dir {options.out_dir} --tolerance 0.05 --n_sequences 6 --length 20" in card
    assert tracker.metric_values["weights"] == [(0, weight_count(loaded))]
    first = (tmp_path / "small" / WEIGHTS_FILE).read_bytes()
    run_compact(options, MemoryTracker())
    assert (tmp_path / "small" / WEIGHTS_FILE).read_bytes() == first, "the same seed gives the same network"


def test_the_command_does_not_replace_the_network_that_it_reads(tmp_path):
    options = options_of(tmp_path, out_dir=str(tmp_path / "large"))
    before = (tmp_path / "large" / WEIGHTS_FILE).read_bytes()
    with pytest.raises(UserError, match="is both model and out_dir"):
        run_compact(options, MemoryTracker())
    assert (tmp_path / "large" / WEIGHTS_FILE).read_bytes() == before


def test_the_command_keeps_what_is_no_network(tmp_path, tracking_uri):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="choose another"):
        run_compact(options_of(tmp_path), MemoryTracker())
    assert (tmp_path / "small" / "notes.txt").read_text() == "mine"
    for given, said in (
        (["--tolerance", "1.5"], "tolerance"), (["--length", "3"], "length"),
        (["--model", str(tmp_path / "no")], "no such folder"),
    ):
        with pytest.raises(UserError, match=said):
            main([*given, "--out_dir", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


def test_the_shipped_network_is_the_trained_one_made_smaller_and_proposes_the_same():
    trained, _ = load_network(ROOT / TRAINED_S1)
    shipped, about = load_network(ROOT / SHIPPED_S1)
    assert about["from_digest"] == file_digest(ROOT / TRAINED_S1 / WEIGHTS_FILE)
    assert about["config"]["tolerance"] == CompactOptions.model_fields["tolerance"].default
    assert about["from"]["excluded"] == {"files": ["data/transcripts.fa.gz"], "transcripts": 14, "rows": 0}
    assert weight_count(shipped) < 0.65 * weight_count(trained)
    frame = pd.DataFrame({"seq": random_transcripts(8, 80, 123)})
    proposed = []
    for network in (trained, shipped):
        columns = propose_frame(network, frame)
        proposed.append({
            (row, name, *(box[key] for key in ("bb_x", "bb_y", "siz_x", "siz_y")))
            for name in columns for row, boxes in enumerate(columns[name]) for box in boxes
        })
    assert len(proposed[0] & proposed[1]) > 0.95 * len(proposed[0] | proposed[1]) > 100


def test_networks_are_compared_on_every_cell():
    network, codes = network_of(CONFIG, 1), sequences(4, 30, 2)
    rows, inside = torch.from_numpy(codes), upper_triangle(torch.full((4,), 30), 30)
    with torch.inference_mode():
        outputs = network.cell_outputs(network.features(rows, rows, inside)[inside])
    expected = [int((torch.sigmoid(output.on) > ON).sum()) for output in outputs]
    assert difference(network, network, codes).cells.tolist() == expected


def test_proposals_keep_the_index_of_their_rows():
    frame = pd.DataFrame({"seq": ["GGGAAACCC"] * 2}, index=[7, 3])
    assert propose_frame(network_of(CONFIG, 1), frame).index.tolist() == [7, 3]
