"""From a FASTA file to a comparison of models, to one training, and to the repository's sample."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.table import Ragged
from rna_s2.commands import compare as main_command
from rna_s2.commands import train
from rna_s2.engine.tracker import MemoryTracker
from rna_s2.options.base import load_yaml
from rna_s2.options.errors import UserError
from rna_s2.pipeline import compare_models as main_module
from rna_s2.pipeline import sample as make_sample
from rna_s2.pipeline.steps import propose as propose_main
from rna_s2.pipeline.steps.propose import proposals_file
from rna_s2.pipeline.steps.segments import segments_file
from rna_s2.rna.boxes import Boxes, keys
from rna_s2.s1.config import NetworkConfig
from rna_s2.s1.model import save_network
from rna_s2.s1.network import ProposalNetwork
from rna_s2.s1.selection import SelectionOptions
from rna_s2.s1.synthetic import random_transcripts

pytest.importorskip("RNA", reason="folding needs ViennaRNA")

ROOT = Path(__file__).resolve().parents[1]
DEBUG = ROOT / "configs" / "debug.yaml"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> tuple[str, str]:
    """A gzip FASTA of random transcripts, and the folder of a network that says yes to a few cells, at random."""
    folder = tmp_path_factory.mktemp("inputs")
    fasta = folder / "some.fa.gz"
    records = "".join(f">t{k}\n{seq}\n" for k, seq in enumerate(random_transcripts(8, 700, 3)))
    fasta.write_bytes(gzip.compress(records.encode()))
    torch.manual_seed(0)
    network = ProposalNetwork(NetworkConfig(channels=8, hidden=8, dilations=(1,), first_kernel=3, head_hidden=8))
    with torch.no_grad():
        for layer in network.outputs:
            layer.weight.normal_(0, 1.5)
            layer.bias[0] = -1
    save_network(network, folder / "network", {})
    return str(fasta), str(folder / "network")


def children(run_id: str) -> list:
    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    return client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'", order_by=["start_time ASC"])


def found_and_moved(table, network, selection, inference, seconds, progress):
    """In place of a trained network's proposals: every target box, and the same one base to the right where that is inside."""
    seconds |= {"network": 0.0, "proposals": 0.0}
    t = table.targets
    columns = np.stack([np.tile(c, 2) for c in (t.row, t.type, t.bb_x, t.bb_y, t.siz_x, t.siz_y)])
    probability = np.repeat([0.8, 0.3], len(t))
    columns[2:4, len(t):] += 1
    inside = columns[3] < table.lengths[columns[0]]
    order = np.flatnonzero(inside)[np.lexsort(columns[::-1][:, inside])]
    row, *of_box = columns[:, order]
    one_each = Ragged(probability[order], np.arange(len(order) + 1))
    boxes = Boxes(np.searchsorted(row, np.arange(table.rows + 1)), *of_box)
    return replace(table, proposals=boxes, prob_sm=one_each, prob_sl=one_each)


def test_main_runs_the_whole_chain_with_every_step_a_child(inputs, tracking_uri, monkeypatch):
    fasta, network = inputs
    monkeypatch.setattr(propose_main, "with_proposals", found_and_moved)
    monkeypatch.setattr(main_module, "MODELS", ("baseline", "shuffle_label"))
    monkeypatch.setattr(
        "rna_s2.reports.notebook.run_notebook", lambda notebook, page, *, environment: page.write_text("compared")
    )
    arguments = ["--transcripts", fasta, "--model", network, "--epochs", "1"]
    report = main_command.main([*arguments, "--workers", "2"])
    runs = children(report.run_id)
    assert [r.data.tags["stage"] for r in runs] == ["segments", "propose", "prune", *["featurize"] * 2, *["train"] * 2]
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert [r.data.tags["reused"] for r in runs[:2]] == ["false"] * 2
    assert runs[5].data.params["data.transcripts"] == fasta and runs[5].data.params["data.in_file"] == ""
    (table,) = Path(".cache", "proposed").glob("*.parquet")
    assert runs[3].data.params["kind"] == "baseline"
    assert runs[3].data.metrics["count.rows"] == read_table(table).table.rows

    for step in ("segments.run_segments", "propose.run_propose", "prune.run_prune", "featurize.run_featurize"):
        monkeypatch.setattr(f"rna_s2.pipeline.steps.{step}", lambda *a, **k: pytest.fail("is made again"))
    again = main_command.main([*arguments, "--workers", "1"])
    runs = children(again.run_id)
    assert [r.data.tags["reused"] for r in runs[:2]] == ["true"] * 2
    first, second = (r.trainings["baseline"].val.metrics["auroc"] for r in (report, again))
    assert first == second


def test_one_training_takes_transcripts_in_place_of_its_config_s_table(inputs, tracking_uri, monkeypatch):
    fasta, network = inputs
    monkeypatch.setattr(propose_main, "with_proposals", found_and_moved)
    report = train.main(["--config", str(DEBUG), "--transcripts", fasta, "--model", network, "--epochs", "1"])
    assert [r.data.tags["stage"] for r in children(report.run_id)] == ["segments", "propose"]


@pytest.mark.parametrize("command", [main_command, train])
def test_a_table_and_transcripts_at_once_are_refused(command):
    with pytest.raises(UserError, match="give either in_file or transcripts, not both") as raised:
        command.main(["--in_file", "a.parquet", "--transcripts", "b.fa"])
    assert "\n" not in str(raised.value)


def test_without_a_network_the_chain_says_so_before_it_proposes(inputs, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        proposals_file(Path(inputs[0]), str(tmp_path / "none"), SelectionOptions(), str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_sample_is_what_the_network_proposes_for_segments_of_the_transcripts(inputs, tmp_path):
    fasta, network = inputs
    cache = str(tmp_path / "cache")
    options = make_sample.SampleOptions(
        transcripts=fasta, model=network, out_file=str(tmp_path / "sample.parquet"), cache_dir=cache
    )
    tracker = MemoryTracker()
    report = make_sample.run_sample(options, tracker)
    sample = read_table(options.out_file).table
    assert tracker.metric_values["count.rows"] == [(0, sample.rows)] and sample.rows > 20
    assert set(sample.frame[make_sample.NETWORK_COLUMN]) == {report.network_digest} and len(report.network_digest) == 64
    sequences = dict(zip((f"t{k}" for k in range(8)), random_transcripts(8, 700, 3), strict=True))
    for seq, name, start in zip(*(sample.frame[c] for c in ("seq", "transcript_id", "start")), strict=True):
        assert sequences[name][start: start + len(seq)] == seq
    proposed = read_table(
        proposals_file(segments_file(fasta, make_sample.SEGMENTS, cache), network, SelectionOptions(), cache)
    ).table
    assert len(sample.proposals) > 0 and not sample.extra
    assert np.array_equal(keys(sample.proposals), keys(proposed.proposals))
    assert np.array_equal(sample.prob_sm.values, np.round(proposed.prob_sm.values, make_sample.DECIMALS))


def test_configs_name_no_data_that_a_clone_does_not_have():
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        values = load_yaml(path)
        named = [values.get("data", {}).get("in_file"), *(values.get("in_file") or []), *(values.get("exclude") or [])]
        for name in filter(None, named):
            assert (ROOT / name).is_file(), f"{path.name} names {name}"
