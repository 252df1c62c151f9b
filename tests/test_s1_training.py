"""Stage 1 from folded segments to a trained, registered network and its proposals, through the commands."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.write import write_table
from rna_s2.commands import propose as propose_command
from rna_s2.commands import selections as selections_command
from rna_s2.commands import synthetic as synthetic_command
from rna_s2.commands import train_s1 as train_command
from rna_s2.engine.tracker import MemoryTracker
from rna_s2.fitting.checkpoints import LAST, training_lock
from rna_s2.fitting.module import IDENTITY
from rna_s2.options.base import load_yaml, validate
from rna_s2.options.errors import UserError, run_command
from rna_s2.pipeline import train_s1 as train_main
from rna_s2.pipeline.steps import propose as propose_main
from rna_s2.pipeline.steps.segments import SyntheticOptions, synthetic_transcripts, training_segments
from rna_s2.reports import selections
from rna_s2.s1.card import _commit, _selection, _sources, network_card
from rna_s2.s1.config import NetworkConfig, S1Config, SegmentRule, SyntheticTranscripts
from rna_s2.s1.folding import fold_all
from rna_s2.s1.model import CARD_FILE, WEIGHTS_FILE, check_network_folder, load_network, save_network
from rna_s2.s1.network import ProposalNetwork, receptive_field, weight_count
from rna_s2.s1.segments import cut_segments, keep_folded, segment_table
from rna_s2.s1.selection import THRESHOLDS, SelectionOptions
from rna_s2.s1.synthetic import random_transcripts
from rna_s2.s1.training import S1Module, split_rows, train

pytest.importorskip("RNA", reason="folding needs ViennaRNA")

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"


def folded_table(seed: int = 0, transcripts: int = 12):
    from rna_s2.rna.formats import SequenceRecord

    records = [SequenceRecord(f"t{k}", s) for k, s in enumerate(random_transcripts(transcripts, 400, seed))]
    segments, _ = cut_segments(records, SegmentRule(min_len=20, max_len=50, min_step=20, max_step=40, seed=seed))
    folded = fold_all([s.seq for s in segments], 1)
    kept, _ = keep_folded(segments, folded, 0.02)
    return segment_table([segments[k] for k in kept], [folded[k] for k in kept])


@pytest.fixture(scope="module")
def table():
    return folded_table()


def debug_config(**training) -> S1Config:
    values = load_yaml(CONFIGS / "s1_debug.yaml")
    return S1Config(
        network=values["network"] | {"channels": 8, "hidden": 8, "dilations": [1, 2]}, data=values["data"],
        training=values["training"] | {"batch_pixels": 2048} | training,
        selection=SelectionOptions(on_threshold=0.01),
    )


def test_random_transcripts_have_the_composition_that_was_asked_for():
    seqs = random_transcripts(200, 1500, 3, gc_mean=0.6, gc_sd=0.05)
    assert seqs == random_transcripts(200, 1500, 3, gc_mean=0.6, gc_sd=0.05)
    assert seqs != random_transcripts(200, 1500, 4, gc_mean=0.6, gc_sd=0.05)
    text = "".join(seqs)
    assert set(text) == set("ACGU") and len(text) == 300_000
    share = {base: text.count(base) / len(text) for base in "ACGU"}
    assert share["G"] + share["C"] == pytest.approx(0.6, abs=0.05)
    pairs = pd.Series([s[k: k + 2] for s in seqs for k in range(1499)]).value_counts(normalize=True)
    assert pairs["CG"] / (share["C"] * share["G"]) < 0.6
    assert pairs["UG"] / (share["U"] * share["G"]) > 1.1


def test_synthetic_transcripts_are_read_back_as_fasta(tmp_path):
    from rna_s2.rna.formats import read_fasta

    path = synthetic_transcripts(SyntheticOptions(out_file=str(tmp_path / "t.fa"), n_transcripts=3, length=70, seed=1))
    records, rejected = read_fasta(path)
    assert [r.name for r in records] == ["synthetic_1_0", "synthetic_1_1", "synthetic_1_2"] and not rejected
    assert [r.seq for r in records] == random_transcripts(3, 70, 1)


def test_whole_transcripts_validate_and_long_rows_do_neither(table):
    config = debug_config()
    train_rows, val_rows = split_rows(table.frame, config, seed=0)
    name = table.frame["transcript_id"].to_numpy()
    assert len(train_rows) and len(val_rows)
    assert not set(name[train_rows]) & set(name[val_rows])
    short = config.model_copy(update={"data": config.data.model_copy(update={"max_len": 30})})
    both = np.concatenate(split_rows(table.frame, short, seed=0))
    assert table.lengths[both].max() <= 30
    nothing = config.model_copy(update={"data": config.data.model_copy(update={"max_len": 5})})
    with pytest.raises(UserError, match="0 that train"):
        split_rows(table.frame, nothing, seed=0)


def test_the_loss_falls_and_a_broken_training_goes_on_as_an_unbroken_one(table, tmp_path):
    config = debug_config(epoch=3, batches_per_epoch=15, lr=0.02, muon_lr=0.05)
    tracker = MemoryTracker()
    whole = train(config, table, seed=1, folder=tmp_path / "whole", tracker=tracker, progress=False)
    losses = [value for _, value in tracker.metric_values["train/loss"]]
    assert len(losses) == 3 and losses[-1] < 0.9 * losses[0]
    assert {"val/auroc_stem", "val/average_precision_iloop", "val/loc_x_accuracy_hloop", "val/box_sensitivity",
            "val/full_sensitivity_rows", "val/boxes_per_row", "train/loss_on/stem"} <= tracker.metric_values.keys()

    class Killed(Exception):
        pass

    class DyingTracker(MemoryTracker):
        def metrics(self, values, step=0):
            if step == 2:
                raise Killed
            super().metrics(values, step)

    with pytest.raises(Killed):
        train(config, table, seed=1, folder=tmp_path / "broken", tracker=DyingTracker(), progress=False)
    assert (tmp_path / "broken" / LAST).is_file()
    resumed = train(config, table, seed=1, folder=tmp_path / "broken", tracker=MemoryTracker(), progress=False)
    assert resumed.fit.epochs == 3 and resumed.metrics == whole.metrics
    assert whole.metrics["auroc"] == pytest.approx(tracker.metric_values["val/auroc"][-1][1], abs=1e-6)  # the last weights
    assert resumed.fit.metrics["train/loss"] == pytest.approx(whole.fit.metrics["train/loss"], rel=1e-6)
    for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert a.equal(b)

    finished = train(config, table, seed=1, folder=tmp_path / "whole", tracker=MemoryTracker(), progress=False)
    assert finished.metrics == whole.metrics and finished.fit.best_epoch == whole.fit.best_epoch

    with pytest.raises(UserError, match="another network"):
        other = config.model_copy(update={"network": config.network.model_copy(update={"head_hidden": 8})})
        train(other, table, seed=1, folder=tmp_path / "broken", tracker=MemoryTracker(), progress=False)
    with pytest.raises(UserError, match="another data"):  # rows that validate now were trained on before
        other = config.model_copy(update={"data": config.data.model_copy(update={"val_share": 0.5})})
        train(other, table, seed=1, folder=tmp_path / "broken", tracker=MemoryTracker(), progress=False)


def test_a_checkpoint_of_an_earlier_version_is_refused(table, tmp_path):
    """It holds the state of another optimiser."""
    config = debug_config(epoch=1, batches_per_epoch=2)
    train(config, table, seed=1, folder=tmp_path, tracker=MemoryTracker(), progress=False)
    checkpoint = torch.load(tmp_path / LAST, weights_only=True)
    checkpoint["s1_identity"] = checkpoint.pop(IDENTITY)
    torch.save(checkpoint, tmp_path / LAST)
    with pytest.raises(UserError, match=r"^the checkpoint is one of an earlier version, .*; start a new run$"):
        train(config, table, seed=1, folder=tmp_path, tracker=MemoryTracker(), progress=False)


def test_the_rates_of_both_optimisers_follow_the_share_of_the_steps(table, tmp_path, monkeypatch):
    rates = []
    real = S1Module.training_step

    def noting_step(self, batch, index):
        rates.append([group["lr"] for group in self.optimizers().param_groups])
        return real(self, batch, index)

    monkeypatch.setattr(S1Module, "training_step", noting_step)
    config = debug_config(epoch=2, batches_per_epoch=5, lr=0.01, muon_lr=0.05, warmup_share=0.25)
    train(config, table, seed=1, folder=tmp_path, tracker=MemoryTracker(), progress=False)
    share = [step / 2.5 + 1e-3 for step in range(3)]
    share += [0.5 * (1 + np.cos(np.pi * (step / 10 - 0.25) / 0.75)) for step in range(3, 10)]
    np.testing.assert_allclose(rates, np.outer(share, [0.05, 0.01]), rtol=1e-12)


def test_a_split_of_a_seed_stays_the_same():
    """What networks were trained on depends on it."""
    names = [f"t{k * k % 17}" for k in range(60)]
    frame = pd.DataFrame({"seq": ["A" * (10 + k % 60) for k in range(60)], "transcript_id": names})
    frame.loc[::13, "transcript_id"] = None
    config = debug_config()
    data = config.data.model_copy(update={"max_len": 60, "val_share": 0.3, "max_val_rows": 12})
    train_rows, val_rows = split_rows(frame, config.model_copy(update={"data": data}), 5)
    assert val_rows.tolist() == [0, 2, 4, 8, 9, 19, 21, 30, 36, 38, 47, 49]
    assert len(train_rows) == 33


def test_a_time_limit_ends_whole_epochs(table, tmp_path):
    config = debug_config(epoch=3, batches_per_epoch=4)
    whole = train(config, table, seed=1, folder=tmp_path / "whole", tracker=MemoryTracker(), progress=False)
    for epochs in (1, 2):
        short = train(
            config, table, seed=1, folder=tmp_path / "short", tracker=MemoryTracker(), progress=False, max_seconds=1e-9
        )
        assert short.fit.epochs == epochs and [epoch for epoch, _ in short.fit.history["val/loss"]] == list(range(epochs))
    long = train(config, table, seed=1, folder=tmp_path / "short", tracker=MemoryTracker(), progress=False, max_seconds=1e9)
    assert long.fit.epochs == 3 and long.metrics == whole.metrics


def test_rows_of_excluded_transcripts_are_left_out_and_change_the_digest(table, tmp_path):
    (tmp_path / "some.fa").write_text(">t0\nACGU\n", encoding="utf-8")
    (tmp_path / "none.fa").write_text(">other\nACGU\n", encoding="utf-8")
    left, said = train_main.without_transcripts(table, [str(tmp_path / "some.fa")])
    rows = int((table.frame["transcript_id"] == "t0").sum())
    assert said["rows"] == rows > 0 and left.rows == table.rows - rows and left.digest != table.digest
    assert "t0" not in set(left.frame["transcript_id"]) and left.frame.index.tolist() == list(range(left.rows))
    assert train_main.without_transcripts(table, [str(tmp_path / "none.fa")])[0] is table
    with pytest.raises(UserError, match="has no column transcript_id"):
        nameless = replace(table, frame=table.frame.drop(columns="transcript_id"))
        train_main.without_transcripts(nameless, [str(tmp_path / "some.fa")])
    with pytest.raises(UserError, match="check the path in exclude"):
        train_main.without_transcripts(table, [str(tmp_path / "missing.fa")])


def test_transcripts_become_tables_once(tmp_path):
    logged = []

    @contextmanager
    def step(stage, name):
        logged.append((stage, MemoryTracker()))
        yield logged[-1][1]

    (tmp_path / "own.fa").write_text(f">own\n{random_transcripts(1, 300, 5)[0]}\n", encoding="utf-8")
    transcripts = [SyntheticTranscripts(n_transcripts=2, length=200), str(tmp_path / "own.fa")]
    rule = SegmentRule(max_len=40, max_step=40)
    first = training_segments(transcripts, rule, str(tmp_path / "cache"), step)
    assert [stage for stage, _ in logged] == ["synthetic", "segments", "segments"]
    assert [tracker.tag_values["reused"] for _, tracker in logged] == ["false"] * 3
    assert training_segments(transcripts, rule, str(tmp_path / "cache"), step) == first
    assert [tracker.tag_values["reused"] for _, tracker in logged[3:]] == ["true"] * 3
    names = [set(read_table(path, require_proposals=False).table.frame["transcript_id"]) for path in first]
    assert names == [{"synthetic_0_0", "synthetic_0_1"}, {"own"}]
    other = training_segments(transcripts, rule.model_copy(update={"seed": 1}), str(tmp_path / "cache"), step)
    assert not set(other) & set(first)


def test_the_command_line_of_a_card_trains_from_the_beginning():
    said = train_command.command_line(["--config=a b.yaml", "--resume", "123", "--seed", "", "--epochs", "3"])
    assert said == "python -m rna_s2.commands.train_s1 --config 'a b.yaml' --epochs 3"


def test_commands_train_register_propose_and_compare(table, tracking_uri, tmp_path):
    write_table(table, "segments.parquet", with_proposals=False)
    config = load_yaml(CONFIGS / "s1_debug.yaml") | {"registered_name": "s1-proposals", "exclude": ["known.fa"]}
    Path("known.fa").write_text(">t3\nACGU\n>elsewhere\nACGU\n", encoding="utf-8")
    Path("s1.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    report = train_command.main(
        ["--config", "s1.yaml", "--in_file", "segments.parquet", "--out_dir", "network", "--epochs", "1"]
    )
    assert report.model_version == "1"
    network, about = load_network("network")
    assert about["weights"] == weight_count(network) and about["data_digest"]
    assert about["train_rows"] + about["val_rows"] < table.rows
    assert about["receptive_field"] == 1 + 2 * receptive_field(S1Config(**{"network": config["network"]}).network)
    card = Path("network", CARD_FILE).read_text(encoding="utf-8")
    assert card == network_card(about)
    command = "python -m rna_s2.commands.train_s1 --config s1.yaml --in_file segments.parquet --out_dir network --epochs 1\n"
    assert command in card
    known = int((table.frame["transcript_id"] == "t3").sum())
    assert "No segment of the 2 transcripts in `known.fa` trained or validated it" in card and f"({known} were)" in card

    again = propose_command.main(["--in_file", "segments.parquet", "--out_file", "a.parquet", "--model", "network",
                               "--selection", "union", "--on_threshold", "0.001"])
    champion = propose_command.main(["--in_file", "segments.parquet", "--out_file", "b.pkl.gz",
                                  "--model", "models:/s1-proposals", "--selection", "union", "--on_threshold", "0.001"])
    written, pickled = read_table("a.parquet").table, read_table("b.pkl.gz").table
    assert len(written.proposals) == len(pickled.proposals) == len(again.table.proposals) > 0
    assert written.targets is not None and len(written.targets) == len(table.targets)
    area = written.proposals.siz_x * written.proposals.siz_y
    assert np.allclose(written.extra["n_proposal_norm_sl"], written.prob_sl.lengths / area)
    assert np.array_equal(pickled.prob_sm.values, champion.table.prob_sm.values)

    Path("seqs.fa").write_text(">a\nGGGAAACCC\n>b\nACG!\n>c\nggggaaaacccc\n", encoding="utf-8")
    from_fasta = propose_command.main(["--in_file", "seqs.fa", "--out_file", "c.parquet", "--model", "network"])
    assert from_fasta.table.frame["id"].tolist() == ["a", "c"]
    assert "b" in Path("c.rejects.csv").read_text(encoding="utf-8")

    served = __import__("mlflow").pyfunc.load_model("models:/s1-proposals@champion")
    predicted = served.predict(pd.DataFrame({"seq": ["GGGAAACCC", "ACGU"]}))
    assert predicted.columns.tolist() == ["bb_stem", "bb_iloop", "bb_hloop"] and len(predicted) == 2

    compared = selections_command.main(["--in_file", "a.parquet", "--model", "network", "--max_rows", "30", "--chunk", "7",
                                "--on_thresholds", "0.001,0.02", "--n_proposal_thresholds", "0,0.5"])
    rows = compared.comparison
    within = compared.within
    assert set(within["budget"]) <= {112, 223} and (within["boxes_per_row"] <= within["budget"]).all()
    assert set(rows["selection"]) == {"on_threshold", "n_proposal", "both", "union", "support", "as given"}
    assert rows.loc[rows["lengths"] == "all", "rows"].eq(30).all()
    groups = rows[rows["lengths"] != "all"].groupby(["selection", *THRESHOLDS], dropna=False)
    assert groups["rows"].sum().eq(30).all()


def test_a_server_that_is_away_at_the_end_costs_no_training(table, tracking_uri, monkeypatch, capsys, caplog):
    """Resuming the run logs its model; once more, there is nothing left to do."""
    write_table(table, "segments.parquet", with_proposals=False)
    config = load_yaml(CONFIGS / "s1_debug.yaml") | {"registered_name": "s1-proposals", "exclude": []}
    Path("s1.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    arguments = ["--config", "s1.yaml", "--in_file", "segments.parquet", "--epochs", "1"]

    def away(*_, **__):
        raise UserError("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(train_main, "log_model", away)
        assert run_command(train_command.main, arguments) == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    run_id = re.search(r"connection refused; the training itself is done .* train_s1 with resume=(\w+) logs the model", said)[1]

    resumed = train_command.main([*arguments, "--resume", run_id])
    assert (resumed.run_id, resumed.model_version, resumed.result.fit.trained) == (run_id, "1", 0)
    with training_lock(Path(".cache/checkpoints") / run_id), pytest.raises(UserError, match="another process is training"):
        train_command.main([*arguments, "--resume", run_id])
    with caplog.at_level("INFO"):
        again = train_command.main([*arguments, "--resume", run_id, "--out_dir", "network"])
    assert "nothing is logged again" in caplog.text and again.model_version is None
    (kept, about), last = load_network("network"), resumed.result.network
    assert about["run_id"] == run_id and all(a.equal(b) for a, b in zip(kept.parameters(), last.parameters(), strict=True))


def test_the_best_setting_within_a_number_of_boxes_is_reported_for_each_selection():
    nan = float("nan")
    comparison = pd.DataFrame(
        [
            ("on_threshold", 0.1, nan, nan, "all", 100.0, 0.3), ("on_threshold", 0.05, nan, nan, "all", 200.0, 0.4),
            ("on_threshold", 0.02, nan, nan, "all", 224.0, 0.9), ("on_threshold", 0.1, nan, nan, "20-50", 10.0, 1.0),
            ("n_proposal", nan, 0.2, nan, "all", 300.0, 0.8), ("support", nan, nan, 0.02, "all", 110.0, 0.5),
            ("union", 0.1, 0.5, nan, "all", 112.0, 0.2), ("union", 0.1, 0.2, nan, "all", 90.0, 0.25),
        ],
        columns=["selection", "on_threshold", "n_proposal_threshold", "min_support", "lengths", "boxes_per_row", "full_share"],
    )
    best = selections.best_within(comparison, (112, 223))
    assert best[["selection", "budget", "boxes_per_row", "full_share"]].to_numpy().tolist() == [
        ["on_threshold", 112, 100, 0.3], ["on_threshold", 223, 200, 0.4],
        ["support", 112, 110, 0.5], ["support", 223, 110, 0.5],
        ["union", 112, 90, 0.25], ["union", 223, 90, 0.25],
    ]
    assert selections.best_sentences(best, comparison, (112, 223), list(THRESHOLDS)) == [
        "on_threshold: <= 112 boxes per row: 30.0 % of rows with 100 % sensitivity (100 boxes, on_threshold 0.1); "
        "<= 223 boxes per row: 40.0 % of rows with 100 % sensitivity (200 boxes, on_threshold 0.05)",
        "n_proposal: <= 112 boxes per row: no setting; <= 223 boxes per row: no setting",
        "support: <= 112 boxes per row: 50.0 % of rows with 100 % sensitivity (110 boxes, min_support 0.02); "
        "<= 223 boxes per row: 50.0 % of rows with 100 % sensitivity (110 boxes, min_support 0.02)",
        "union: <= 112 boxes per row: 25.0 % of rows with 100 % sensitivity (90 boxes, on_threshold 0.1, "
        "n_proposal_threshold 0.2); <= 223 boxes per row: 25.0 % of rows with 100 % sensitivity (90 boxes, "
        "on_threshold 0.1, n_proposal_threshold 0.2)",
    ]


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / WEIGHTS_FILE).write_bytes(b"junk"), "cannot be read as a stage 1 network"),
        (lambda folder: (folder / "model.json").unlink(), "model.json is missing"),
        (lambda folder: (folder / WEIGHTS_FILE).unlink(), f"{WEIGHTS_FILE} is missing"),
        (lambda folder: (folder / "model.json").write_text("{}"), "is not 'rna-s2 stage 1 network"),
        (lambda folder: (folder / "model.json").write_text(
            (folder / "model.json").read_text().replace('"channels": 8', '"channels": 4')), "do not fit"),
    ],
)
def test_a_damaged_network_is_one_line(tmp_path, break_it, said):
    save_network(ProposalNetwork(debug_config().network), tmp_path / "n", {})
    break_it(tmp_path / "n")
    with pytest.raises(UserError, match=said):
        load_network(tmp_path / "n")


@pytest.mark.parametrize(
    ("command", "argv", "said"),
    [
        (propose_command, ["--in_file", "x.fa", "--out_file", "y.txt"], "y.txt: a table is written as"),
        (propose_command, ["--in_file", "x.fa", "--out_file", "y.parquet", "--selection", "best"], "'selection'"),
        (propose_command, ["--in_file", "x.fa", "--out_file", "y.parquet", "--on_threshold", "2"], "'on_threshold'"),
        (propose_command, ["--in_file", "x.fa", "--out_file", "there.pkl"], "there.pkl: is a folder; choose another out_file"),
        (propose_command, ["--in_file", "x.fa", "--out_file", "."], ".: is a folder; choose another out_file"),
        (propose_command, ["--in_file", "x.pkl", "--out_file", "./x.pkl"], "is both in_file and out_file"),
        (propose_command, ["--in_file", "x.rejects.csv", "--out_file", "x.pkl"], "both in_file and the rejects of out_file"),
        (synthetic_command, ["--out_file", "there.pkl"], "there.pkl: is a folder; choose another out_file"),
        (synthetic_command, ["--out_file", "."], ".: is a folder; choose another out_file"),
        (selections_command, ["--in_file", "x.pkl", "--out_file", "there.pkl"],
         "there.pkl: is a folder; choose another out_file"),
        (selections_command, ["--in_file", "x.pkl", "--out_file", "x.pkl"], "is both in_file and out_file"),
        (selections_command, ["--in_file", "x.pkl", "--min_supports=-1"],
         "'min_supports.0': Input should be greater than or equal"),
        (selections_command, ["--in_file", "x.pkl", "--on_thresholds", "0.5,1"],
         "'on_thresholds.1': Input should be less than 1"),
        (selections_command, ["--in_file", "x.pkl", "--n_proposal_thresholds=-1"], "'n_proposal_thresholds.0'"),
        (selections_command, ["--in_file", "x.pkl", "--length_edges", "100,50"], "'length_edges': must ascend"),
        (selections_command, ["--in_file", "x.pkl", "--length_edges", "50,50"], "'length_edges': must ascend"),
        (selections_command, ["--in_file", "x.pkl", "--length_edges", "0,50"], "'length_edges.0'"),
        (selections_command, ["--in_file", "x.pkl", "--budgets", "9,9"], "'budgets': none may stand twice"),
        (train_command, ["--in_file", "x.pkl", "--registered_name", "a/b"], "'registered_name'"),
        (train_command, ["--in_file", "x.pkl", "--registered_name", "a:b"], "'registered_name'"),
        (train_command, ["--in_file", "x.pkl", "--registered_name", " "], "'registered_name'"),
        (train_command, ["--in_file", "x.pkl", "--config", "named.yaml"], "named.yaml: 'name'"),
        (train_command, ["--in_file", "x.pkl", "--out_dir", "x.fa"], "x.fa: is a file; choose another out_dir"),
        (train_command, ["--in_file", "x.pkl", "--out_dir", "there.pkl"],
         "there.pkl: is not empty and holds no stage 1 network; choose another out_dir"),
        (train_command, ["--in_file", "x.pkl", "--out_dir", "other"], "other: is not empty and holds no stage 1 network"),
        (train_command, ["--in_file", "x.pkl", "--out_dir", "."], ".: is the current folder or one above it"),
        (train_command, ["--in_file", "x.pkl", "--out_dir", ".."], "..: is the current folder or one above it"),
    ],
)
def test_bad_options_are_one_line_before_any_work(tmp_path, monkeypatch, capsys, command, argv, said):
    monkeypatch.chdir(tmp_path)
    Path("x.fa").write_text(">a\nACGU\n", encoding="utf-8")
    Path("named.yaml").write_text("name: s1 v1.2\n", encoding="utf-8")
    for folder, file in (("there.pkl", "mine.txt"), ("other", "model.json")):
        Path(folder).mkdir()
        Path(folder, file).write_text("{}", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    assert run_command(command.main, argv) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error and error.count(";") <= 1
    assert sorted(tmp_path.rglob("*")) == before


def test_what_lies_beside_a_network_is_not_lost(tmp_path):
    save_network(ProposalNetwork(NetworkConfig(channels=4, hidden=4, dilations=(1,), head_hidden=4)), tmp_path / "net", {})
    (tmp_path / "net" / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match=r"net: holds thesis\.tex beside an earlier stage 1 network, which would be lost"):
        check_network_folder(tmp_path / "net")


def test_a_network_may_replace_a_network_and_an_empty_folder(tmp_path):
    check_network_folder(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    check_network_folder(tmp_path / "empty")
    save_network(ProposalNetwork(debug_config().network), tmp_path / "n", {})
    check_network_folder(tmp_path / "n")


def test_rejects_of_an_earlier_proposing_do_not_stay(tmp_path):
    save_network(ProposalNetwork(debug_config().network), tmp_path / "n", {})
    files = {"in_file": str(tmp_path / "x.fa"), "out_file": str(tmp_path / "y.parquet"), "model": str(tmp_path / "n")}
    rejects = []
    for text in (">a\nACGU\n", ">a\nACGU\n>b\nACG!\n", ">a\nACGU\n"):
        (tmp_path / "x.fa").write_text(text, encoding="utf-8")
        tracker = MemoryTracker()
        propose_main.run_propose(propose_main.ProposeOptions(**files), tracker)
        path = tmp_path / "y.rejects.csv"
        rejects.append((len(pd.read_csv(path)) if path.exists() else None, len(tracker.artifacts)))
    assert rejects == [(None, 0), (1, 1), (0, 0)]


@pytest.mark.parametrize("name", ["s1.yaml", "s1_gpu.yaml", "s1_debug.yaml"])
def test_configs_are_valid_and_see_far_enough(name):
    config = validate(train_main.TrainS1Config, load_yaml(CONFIGS / name), name)
    if name != "s1_debug.yaml":
        assert 2 * receptive_field(config.network) + 1 >= 57


def test_a_card_says_what_it_was_given():
    dirty, clean = (_commit({"git_commit": "abc", "git_dirty": value}) for value in ("true", "false"))
    assert "abc" in clean and "not committed" in dirty and "not committed" not in clean
    thresholds = {"on_threshold": 0.1, "n_proposal_threshold": 0.2, "min_support": 0.02}
    said = {name: _selection(thresholds | {"selection": name}) for name in ("support", "on_threshold", "both")}
    assert said["support"] == "`support` (probabilities that add up to 0.02)"
    assert said["on_threshold"] == "`on_threshold` (p_on above 0.1)"
    assert "0.1" in said["both"] and "0.2" in said["both"]
    sources = {"transcripts": ["my.fa", {"n_transcripts": 5, "seed": 1}], "segments": {"max_len": 150}}
    text = "\n".join(_sources(sources))
    assert "max_len 150" in text and "`my.fa`" in text and "n_transcripts 5, seed 1" in text
    assert _sources({"transcripts": []}) == []
