"""Training S2: repeatable, resumable, and as its config says; and which rows it trains on."""

from __future__ import annotations

import errno
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import rna_s2.s2.training
from rna_s2.engine.tracker import MemoryTracker
from rna_s2.fitting import precision
from rna_s2.fitting.checkpoints import BEST, LAST, load_checkpoint, training_lock
from rna_s2.fitting.loop import COMPUTED
from rna_s2.fitting.module import IDENTITY
from rna_s2.fitting.split import sampled_share, split_by_group
from rna_s2.options.errors import TERMINATED, UserError
from rna_s2.s2.batches import _lowest_positions, make_batch
from rna_s2.s2.config import AugmentationConfig, NetworkConfig, SplitConfig, TrainingConfig
from rna_s2.s2.network import BoxNetwork
from rna_s2.s2.scorer import Scorer
from rna_s2.s2.scoring import score_rows
from rna_s2.s2.training import S2Config, S2Module, TrainResult, evaluate, full_rows, split_rows, train
from rna_s2.s2.views import with_columns
from tests.s2_data import random_dataset

COUNTS = [(4, 2, 2), (1, 0, 1), (3, 3, 0), (6, 1, 2), (2, 2, 2)] * 3
EPOCHS = 4


def config_of(network: dict | None = None, shift: int = 0, **training) -> S2Config:
    small = {"n_dim": 10, "n_attn_layer": 1, "n_heads": 2, "n_ff": 12, "n_hid": 5, "dropout": 0.2, "lstm_hid": 3,
             "lstm_layer": 2}
    return S2Config(
        network=NetworkConfig(**small | (network or {})),
        split=SplitConfig(by="order", train_share=0.7),
        augmentation=AugmentationConfig(bb_augmentation_shift=shift > 0, bb_shift=shift),
        training=TrainingConfig(**{"epoch": EPOCHS, "lr": 0.01, "n_length_groups": 3} | training),
    )


def fitted(folder: Path, config: S2Config | None = None, data=None, tracker=None, seed: int = 3) -> TrainResult:
    return train(
        config or config_of(), data or random_dataset(COUNTS, signal=0.8), seed=seed, folder=folder,
        tracker=tracker or MemoryTracker(), progress=False,
    )


def history(tracker: MemoryTracker) -> dict[str, list[tuple[int, float]]]:
    return {name: values for name, values in tracker.metric_values.items() if name != "epoch_seconds"}


class Killed(Exception):
    """Stands for the end of the process."""


class DyingTracker(MemoryTracker):
    """Dies when an epoch is logged."""

    def __init__(self, epoch: int, error: type[BaseException] = Killed) -> None:
        super().__init__()
        self.epoch, self.error = epoch, error

    def metrics(self, values, step=0):
        if step == self.epoch:
            raise self.error
        super().metrics(values, step)


def same_network(a: BoxNetwork, b: BoxNetwork) -> bool:
    return all(x.equal(y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_seed_decides_everything(tmp_path):
    first, second, other = MemoryTracker(), MemoryTracker(), MemoryTracker()
    a = fitted(tmp_path / "a", tracker=first)
    b = fitted(tmp_path / "b", tracker=second)
    c = fitted(tmp_path / "c", tracker=other, seed=4)
    assert history(first) == history(second)
    assert len(history(first)["val/loss"]) == EPOCHS
    assert same_network(a.network, b.network)
    assert history(first) != history(other) and not same_network(a.network, c.network)


def test_the_result_is_that_of_the_best_epoch(tmp_path):
    tracker = MemoryTracker()
    result = fitted(tmp_path, tracker=tracker)
    aurocs = dict(history(tracker)["val/auroc"])
    assert result.fit.best_value == pytest.approx(max(aurocs.values()), abs=1e-6)
    assert aurocs[result.fit.best_epoch] == max(aurocs.values())
    assert result.val.metrics["auroc"] == pytest.approx(result.fit.best_value, abs=1e-6)
    assert not result.network.training
    assert result.fit.checkpoint == tmp_path / BEST and (tmp_path / LAST).is_file()
    assert result.fit.epochs == EPOCHS


def test_with_shuffled_labels_the_last_epoch_is_kept(tmp_path, monkeypatch):
    """Picking the best of many epochs of chance would lift the control above 0.5."""
    falling = iter([0.9, 0.8, 0.7, 0.6])
    monkeypatch.setattr(
        S2Module, "summarise", lambda self, part, outputs: {"auroc": next(falling) if part == "val" else 0.5}
    )
    data = random_dataset(COUNTS, kind="shuffle_label")
    result = fitted(tmp_path, data=data)
    assert load_checkpoint(tmp_path / BEST)["epoch"] == 0
    assert result.fit.best_epoch == EPOCHS - 1
    last = load_checkpoint(tmp_path / LAST)["state_dict"]
    assert all(last[f"network.{name}"].equal(value) for name, value in result.network.state_dict().items())


def test_the_loss_falls_where_there_is_something_to_learn(tmp_path):
    tracker = MemoryTracker()
    data = random_dataset(COUNTS * 2, signal=1.0)
    result = fitted(tmp_path, config_of({"dropout": 0.0, "n_dim": 20, "n_hid": 10}, epoch=25, lr=0.005), data, tracker)
    losses = [value for _, value in history(tracker)["train/loss"]]
    assert losses[-1] < 0.6 * losses[0]
    assert result.val.metrics["auroc"] > 0.8


@pytest.mark.parametrize(
    ("kind", "shift", "training"),
    [("baseline", 0, {}), ("sequence_encoding", 3, {}), ("baseline", 0, {"dropout_off_after_first_epoch": True})],
)
def test_a_broken_training_goes_on_as_an_unbroken_one(tmp_path, kind, shift, training):
    data = random_dataset(COUNTS, signal=0.8, kind=kind)
    config = config_of(shift=shift, **training)
    whole_tracker, before, after = MemoryTracker(), DyingTracker(2), MemoryTracker()
    whole = fitted(tmp_path / "whole", config, data, whole_tracker)
    with pytest.raises(Killed):
        fitted(tmp_path / "broken", config, data, before)
    resumed = fitted(tmp_path / "broken", config, data, after)
    logged = {name: before.metric_values.get(name, []) + values for name, values in history(after).items()}
    assert logged == history(whole_tracker)
    assert [step for step, _ in history(after)["val/loss"]] == [2, 3]
    for name in ("train/loss", "val/loss", "val/auroc"):
        assert resumed.fit.history[name] == whole.fit.history[name] == history(whole_tracker)[name]
    assert same_network(whole.network, resumed.network)
    assert resumed.val.metrics == pytest.approx(whole.val.metrics, abs=0, nan_ok=True)
    assert (resumed.fit.best_epoch, resumed.fit.epochs) == (whole.fit.best_epoch, EPOCHS)
    last_weights = [load_checkpoint(tmp_path / name / LAST)["state_dict"] for name in ("whole", "broken")]
    assert all(last_weights[0][name].equal(last_weights[1][name]) for name in last_weights[0])


def test_a_training_killed_within_an_epoch_goes_on_as_an_unbroken_one(tmp_path, monkeypatch):
    whole = fitted(tmp_path / "whole")
    steps = 0
    real = S2Module.training_step

    def dying_step(self, batch, index):
        nonlocal steps
        steps += 1
        if steps == 9:  # 6 batches an epoch
            raise Killed
        return real(self, batch, index)

    monkeypatch.setattr(S2Module, "training_step", dying_step)
    with pytest.raises(Killed):
        fitted(tmp_path / "broken")
    resumed = fitted(tmp_path / "broken")
    assert same_network(whole.network, resumed.network)
    assert resumed.val.metrics == pytest.approx(whole.val.metrics, abs=0, nan_ok=True)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    whole = fitted(tmp_path / "whole")
    real, written = Path.write_bytes, []

    def dying_write(path, content):
        if LAST in path.name:
            written.append(path)
            if len(written) == 3:
                real(path, content[: len(content) // 2])
                raise Killed
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", dying_write)
    with pytest.raises(Killed):
        fitted(tmp_path / "broken")
    assert load_checkpoint(tmp_path / "broken" / LAST)["epoch"] == 1
    assert same_network(whole.network, fitted(tmp_path / "broken").network)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"best.ckpt: cannot be written \(No space left"):
        fitted(tmp_path)


def test_one_process_at_a_time_trains_into_a_folder(tmp_path):
    said = "run: another process is training there"
    with training_lock(tmp_path / "run"), pytest.raises(UserError, match=said), training_lock(tmp_path / "run"):
        pass
    with training_lock(tmp_path / "run"):
        pass


def pretend(monkeypatch, *, has_bfloat16: bool, faster: str = "bf16") -> None:
    """A processor with or without instructions for bfloat16, and a clock by which one precision is faster."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: has_bfloat16)
    monkeypatch.setattr(precision, "_measured", lambda module, batches: {"32": 1.0, "bf16": 1.0} | {faster: 0.5})


def test_it_goes_on_in_the_precision_that_auto_meant_at_first(tmp_path, monkeypatch, caplog):
    pretend(monkeypatch, has_bfloat16=True)
    config, before, after = config_of(precision="auto"), DyingTracker(1), MemoryTracker()
    with pytest.raises(Killed):
        fitted(tmp_path / "run", config, tracker=before)
    assert load_checkpoint(tmp_path / "run" / LAST)[COMPUTED]["precision"] == "bf16"
    pretend(monkeypatch, has_bfloat16=False)
    assert fitted(tmp_path / "run", config, tracker=after).fit.precision == "bf16"
    assert before.tag_values == after.tag_values == {
        "precision": "bf16", "device": "cpu", "threads": str(torch.get_num_threads())
    }
    assert "precision bf16: no instructions" not in caplog.text, "it was not asked for"
    fresh = MemoryTracker()
    assert fitted(tmp_path / "fresh", config_of(epoch=1, precision="auto"), tracker=fresh).fit.precision == "32"


def test_auto_is_the_faster_precision_measured_once(tmp_path, monkeypatch):
    config = config_of(epoch=1, precision="auto")
    pretend(monkeypatch, has_bfloat16=True, faster="32")
    assert fitted(tmp_path / "first", config).fit.precision == "32"
    pretend(monkeypatch, has_bfloat16=True, faster="bf16")
    assert fitted(tmp_path / "second", config).fit.precision == "32", "it is remembered"
    wider = config_of({"n_ff": 24}, epoch=1, precision="auto")
    assert fitted(tmp_path / "third", wider).fit.precision == "bf16", "another network is measured anew"
    (tmp_path / precision.PRECISIONS).write_text("{damaged")
    assert fitted(tmp_path / "fourth", config).fit.precision == "bf16"


def test_the_measurement_leaves_the_training_as_it_is(tmp_path, monkeypatch):
    plain = fitted(tmp_path / "plain" / "run", config_of(epoch=1))
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(precision, "_read", lambda path: {})
    measured = precision._measured
    seen = []

    def in_single(module, batches):
        before = torch.get_rng_state(), module.training
        seen.append(measured(module, batches))
        assert torch.get_rng_state().equal(before[0]) and module.training == before[1]
        assert all(parameter.grad is None for parameter in module.parameters())
        return {"32": 0.0, "bf16": 1.0}

    monkeypatch.setattr(precision, "_measured", in_single)
    chosen = fitted(tmp_path / "auto" / "run", config_of(epoch=1, precision="auto"))
    assert set(seen[0]) == {"32", "bf16"} and min(seen[0].values()) > 0
    assert same_network(plain.network, chosen.network)


def test_another_number_of_threads_is_reported(tmp_path, monkeypatch, caplog):
    with pytest.raises(Killed):
        fitted(tmp_path, tracker=DyingTracker(1))
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    fitted(tmp_path)
    assert f"threads {threads + 1}, device cpu, after precision 32, threads {threads}, device cpu" in caplog.text


def test_a_finished_training_can_be_made_longer(tmp_path):
    whole = fitted(tmp_path / "whole")
    fitted(tmp_path / "longer", config_of(epoch=2))
    longer = fitted(tmp_path / "longer")
    assert same_network(whole.network, longer.network) and longer.fit.epochs == EPOCHS
    again = fitted(tmp_path / "longer")
    assert same_network(whole.network, again.network) and again.fit.best_epoch == whole.fit.best_epoch
    with pytest.raises(UserError, match="has had 4 epochs already"):
        fitted(tmp_path / "longer", config_of(epoch=2))


def test_a_checkpoint_moved_to_another_folder_keeps_its_best_epoch(tmp_path):
    config = config_of(epoch=6)
    whole = fitted(tmp_path / "whole", config)
    fitted(tmp_path / "first", config_of(epoch=5))
    (tmp_path / "second").mkdir()
    for name in (LAST, BEST):
        (tmp_path / "first" / name).rename(tmp_path / "second" / name)
    moved = fitted(tmp_path / "second", config)
    assert moved.fit.best_epoch == whole.fit.best_epoch
    assert same_network(whole.network, moved.network)


def test_without_its_best_epoch_a_training_takes_the_best_of_the_others(tmp_path):
    fitted(tmp_path, config_of(epoch=3))
    (tmp_path / BEST).unlink()
    result = fitted(tmp_path, config_of(epoch=4))
    assert result.fit.best_epoch == 3
    assert result.val.metrics["auroc"] == pytest.approx(result.fit.best_value, abs=1e-6)


def test_copies_of_the_checkpoints_are_kept_with_the_run(tmp_path):
    tracker = MemoryTracker()
    fitted(tmp_path, config_of(epoch=11), tracker=tracker)
    assert sorted(tracker.artifacts) == [(BEST, "checkpoints"), (LAST, "checkpoints")]


def test_a_schedule_goes_on_where_it_was_and_has_one_length(tmp_path):
    config = config_of(lr_schedule="cosine")
    whole = fitted(tmp_path / "whole", config)
    constant = fitted(tmp_path / "constant")
    with pytest.raises(Killed):
        fitted(tmp_path / "broken", config, tracker=DyingTracker(2))
    resumed = fitted(tmp_path / "broken", config)
    assert same_network(whole.network, resumed.network) and not same_network(whole.network, constant.network)
    with pytest.raises(UserError, match="another config"):
        fitted(tmp_path / "broken", config_of(lr_schedule="cosine", epoch=EPOCHS + 1))


def test_ctrl_c_stops_as_such(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, tracker=DyingTracker(1, KeyboardInterrupt))
    assert (tmp_path / LAST).is_file()


@pytest.mark.parametrize("changed", ["config", "data", "seed"])
def test_a_checkpoint_of_another_training_is_refused(tmp_path, changed):
    fitted(tmp_path, config_of(epoch=1))
    other = {
        "config": {"config": config_of({"n_hid": 6})},
        "data": {"data": random_dataset(COUNTS, signal=0.8, seed=1)},
        "seed": {"seed": 9},
    }[changed]
    with pytest.raises(UserError, match=f"another {changed}") as caught:
        fitted(tmp_path, **other)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_from_before_an_option_was_there_goes_on(tmp_path):
    """Without the option, training went as it goes with the option's default; another value is another training."""
    fitted(tmp_path, config_of(epoch=1))
    checkpoint = torch.load(tmp_path / LAST, weights_only=True)
    del checkpoint[IDENTITY]["config"]["split"]["test_share"]
    torch.save(checkpoint, tmp_path / LAST)
    other = config_of(epoch=2).model_copy(update={"split": SplitConfig(by="order", train_share=0.7, test_share=0.1)})
    with pytest.raises(UserError, match="another config"):
        fitted(tmp_path, other)
    assert fitted(tmp_path, config_of(epoch=2)).fit.epochs == 2


def test_a_checkpoint_of_an_earlier_version_goes_on(tmp_path):
    """Its identity has another key; it is checked all the same."""
    whole = fitted(tmp_path / "whole", config_of(epoch=2))
    fitted(tmp_path / "old", config_of(epoch=1))
    checkpoint = torch.load(tmp_path / "old" / LAST, weights_only=True)
    checkpoint["s2_identity"] = checkpoint.pop(IDENTITY)
    torch.save(checkpoint, tmp_path / "old" / LAST)
    with pytest.raises(UserError, match="another seed"):
        fitted(tmp_path / "old", config_of(epoch=2), seed=9)
    assert same_network(whole.network, fitted(tmp_path / "old", config_of(epoch=2)).network)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None, {"epoch": 3}, [1, 2]])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    fitted(tmp_path, config_of(epoch=1))
    path = tmp_path / LAST
    if content is None:
        path.write_bytes(path.read_bytes()[:2000])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"last\.ckpt.*remove it") as caught:
        fitted(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_never_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    folder = tmp_path / "folder"
    folder.mkdir()
    torch.save({"epoch": 1, "state_dict": Evil()}, folder / LAST)
    with pytest.raises(UserError, match="no usable checkpoint"):
        fitted(folder)
    assert not (tmp_path / "executed").exists()


def test_it_stops_early_and_resumes_to_the_same_end(tmp_path, monkeypatch):
    aurocs = [0.5, 0.7, 0.6, 0.65, 0.9, 0.9]

    def metrics(self, part, outputs):
        return {"auroc": aurocs[self.current_epoch]}

    monkeypatch.setattr(S2Module, "summarise", metrics)
    tracker = MemoryTracker()
    stopped = fitted(tmp_path / "whole", config_of(epoch=6, early_stopping=2), tracker=tracker)
    assert [step for step, _ in history(tracker)["val/auroc"]] == [0, 1, 2, 3]
    assert (stopped.fit.best_epoch, stopped.fit.epochs) == (1, 4)
    never = fitted(tmp_path / "never", config_of(epoch=6))
    assert (never.fit.best_epoch, never.fit.epochs) == (4, 6)
    with pytest.raises(Killed):
        fitted(tmp_path / "broken", config_of(epoch=6, early_stopping=2), tracker=DyingTracker(3))
    resumed = fitted(tmp_path / "broken", config_of(epoch=6, early_stopping=2))
    assert (resumed.fit.best_epoch, resumed.fit.epochs) == (1, 4)


def test_a_training_that_stopped_early_does_not_go_on_when_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(S2Module, "summarise", lambda self, part, outputs: {"auroc": 1 / (1 + self.current_epoch)})
    config = config_of(epoch=6, early_stopping=2)
    assert fitted(tmp_path, config).fit.epochs == 3
    tracker = MemoryTracker()
    assert fitted(tmp_path, config, tracker=tracker).fit.epochs == 3
    assert not history(tracker)
    assert fitted(tmp_path, config_of(epoch=6, early_stopping=4)).fit.epochs == 5, "with more patience it goes on"


def test_evaluation_leaves_the_mode_as_it_was():
    data = random_dataset(COUNTS)
    network = BoxNetwork(config_of().network, 7, {})
    for training in (True, False):
        network.train(training)
        first = evaluate(network, data, np.arange(5))
        assert {module.training for module in network.modules()} == {training}
        again = evaluate(network, data, np.arange(5))  # nothing is dropped, so it gives the same
        assert again.metrics == pytest.approx(first.metrics, abs=0, nan_ok=True)


def training_modes(monkeypatch, folder: Path, **training) -> list[set[bool]]:
    modes = []
    real = S2Module.training_step

    def noting_step(self, batch, index):
        modes.append({module.training for module in self.network.modules()})
        return real(self, batch, index)

    monkeypatch.setattr(S2Module, "training_step", noting_step)
    fitted(folder, config_of(epoch=3, batch_size=10, n_length_groups=1, **training))
    return modes


def test_dropout_is_on_in_every_epoch(tmp_path, monkeypatch):
    assert training_modes(monkeypatch, tmp_path) == [{True}] * 3


def test_dropout_can_be_off_after_the_first_epoch(tmp_path, monkeypatch):
    assert training_modes(monkeypatch, tmp_path, dropout_off_after_first_epoch=True) == [{True}, {False}, {False}]


def test_mixed_precision_is_near_single_precision(tmp_path):
    data = random_dataset(COUNTS, signal=0.8, kind="sequence_encoding")
    trackers = {name: MemoryTracker() for name in ("32", "bf16")}
    for name, tracker in trackers.items():
        fitted(tmp_path / name, config_of({"dropout": 0.0}, epoch=1, precision=name), data, tracker)
    single, mixed = (history(tracker)["train/loss"][0][1] for tracker in trackers.values())
    assert mixed != single and mixed == pytest.approx(single, rel=0.05)


def test_a_loss_that_is_not_finite_is_reported(tmp_path):
    data = random_dataset(COUNTS)
    data.features[:, 3] = np.inf
    with pytest.raises(UserError, match="train loss is nan in epoch 0; use a lower learning rate"):
        fitted(tmp_path, data=data)


def test_rows_of_one_class_leave_no_best_epoch(tmp_path):
    data = random_dataset([(3, 1, 1)] * 8)
    data.labels[:] = 0
    data = replace(data, meta=data.meta.model_copy(update={"positives": 0}))
    result = fitted(tmp_path, config_of(epoch=1), data)
    assert math.isnan(result.val.metrics["auroc"]) and result.val.metrics["auroc_undefined_rows"] == 3


def test_an_evaluation_lists_the_boxes_row_by_row():
    data = random_dataset([(2, 1, 1), (0, 0, 0), (1, 2, 3), (1, 0, 0)])
    network = BoxNetwork(config_of().network, 7, {}).eval()
    rows = np.array([2, 1, 0])
    found = evaluate(network, data, rows)
    boxes = [*range(data.offsets[2], data.offsets[3]), *range(data.offsets[0], data.offsets[1])]
    assert found.row.tolist() == [0] * 6 + [2] * 4
    np.testing.assert_array_equal(found.label, data.labels[boxes])
    np.testing.assert_array_equal(found.box_type, data.box_type[boxes])
    scores = score_rows(network, data, rows)
    with torch.no_grad():
        alone = [network(make_batch(data, np.array([r]))).numpy() for r in (2, 0)]
    np.testing.assert_allclose(scores, np.concatenate(alone), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.probability, 1 / (1 + np.exp(-scores.astype(float))), rtol=1e-6)
    assert np.isnan(found.auroc[1])


def test_metrics_of_an_epoch_do_not_depend_on_the_order_of_its_batches():
    data = random_dataset(COUNTS)
    module = S2Module(config_of(), data, seed=0)
    module.network.eval()
    batches = [make_batch(data, np.array(rows)) for rows in ([4, 0], [7], [2, 9, 1])]
    outputs = [(batch.row_id, module.network(batch).detach()) for batch in batches]
    metrics = module.summarise("val", outputs)
    assert metrics == pytest.approx(module.summarise("val", outputs[::-1]), nan_ok=True)
    assert metrics == pytest.approx(evaluate(module.network, data, np.array([0, 1, 2, 4, 7, 9])).metrics, nan_ok=True)


def test_in_order_the_last_rows_are_put_aside():
    parts = split_rows(random_dataset([(1, 1, 1)] * 20), SplitConfig(by="order", train_share=0.75, test_share=0.2), 0)
    assert [part.tolist() for part in parts] == [list(range(12)), list(range(12, 16)), list(range(16, 20))]


def grouped_dataset(rows: int = 60, seed: int = 0):
    rng = np.random.default_rng(seed)
    data = random_dataset([(2, 1, 1)] * rows)
    data.group[:] = pd.factorize(rng.integers(0, rows // 2, rows))[0]
    data.n_target[:] = np.add.reduceat(data.labels, data.offsets[:-1])
    return data


def test_the_part_put_aside_depends_on_its_own_seed_alone():
    data = grouped_dataset()
    config = SplitConfig(test_share=0.2)
    first, second = split_rows(data, config, 1), split_rows(data, config, 2)
    other = split_rows(data, SplitConfig(test_share=0.2, test_seed=1), 1)
    assert first[2].tolist() == second[2].tolist() != other[2].tolist()
    assert first[0].tolist() != second[0].tolist()
    for parts in (first, second, other):
        assert sorted(np.concatenate(parts)) == list(range(60))
        groups = [set(data.group[part].tolist()) for part in parts]
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
        assert len(parts[2]) <= 12


def test_nothing_is_put_aside_unless_asked_for():
    data = grouped_dataset()
    train_rows, val_rows, test_rows = split_rows(data, SplitConfig(), 5)
    assert not len(test_rows)
    wanted = split_by_group(data.group, 0.8, 5)
    assert [train_rows.tolist(), val_rows.tolist()] == [part.tolist() for part in wanted]


def test_partial_rows_can_be_kept_for_training_alone():
    """Validation and test are the very rows of a training without partial rows, and share no group with training."""
    data = grouped_dataset(80)
    partial = np.random.default_rng(3).random(80) < 0.5
    data.n_target[partial] += 1
    full = np.flatnonzero(~partial)
    assert full_rows(data).tolist() == (~partial).tolist()
    alone = grouped_dataset(len(full))
    alone.group[:] = pd.factorize(data.group[full])[0]
    config = SplitConfig(test_share=0.2, partial_rows="train")
    train_rows, val_rows, test_rows = split_rows(data, config, 4)
    wanted = split_rows(alone, SplitConfig(test_share=0.2), 4)
    assert val_rows.tolist() == full[wanted[1]].tolist() and test_rows.tolist() == full[wanted[2]].tolist()
    assert set(full[wanted[0]]) < set(train_rows.tolist())
    judged = set(data.group[np.concatenate([val_rows, test_rows])].tolist())
    assert set(train_rows.tolist()) == {row for row in range(80) if int(data.group[row]) not in judged}


def test_rows_with_many_boxes_can_be_left_out_of_training_alone(tmp_path):
    data = random_dataset(COUNTS, signal=0.8)
    result = fitted(tmp_path / "some", config_of(max_boxes=8, epoch=1), data)
    assert result.train.rows.tolist() == [0, 1, 2, 4, 5, 6, 7, 9] and result.val.rows.tolist() == [10, 11, 12, 13, 14]
    with pytest.raises(UserError, match=r"no row has training\.max_boxes 1 boxes or fewer"):
        fitted(tmp_path / "none", config_of(max_boxes=1), data)


def test_the_test_part_is_scored_with_the_weights_that_are_kept(tmp_path):
    data = random_dataset(COUNTS, signal=0.8)
    config = config_of().model_copy(update={"split": SplitConfig(by="order", train_share=0.7, test_share=0.2)})
    result = fitted(tmp_path, config, data)
    assert result.test.rows.tolist() == [12, 13, 14]
    assert result.test.metrics == pytest.approx(evaluate(result.network, data, np.arange(12, 15)).metrics, nan_ok=True)
    assert not set(result.test.rows) & (set(result.train.rows) | set(result.val.rows))
    assert fitted(tmp_path / "none").test is None


def test_a_split_with_an_empty_part_is_refused():
    data = random_dataset([(1, 1, 1)] * 3)
    data.group[:] = 7
    with pytest.raises(UserError, match=r"random: 3 rows cannot be split by group.*0 would train, 3 validate and 0 test"):
        split_rows(data, SplitConfig(by="group"), 0)


def test_an_empty_test_part_is_refused():
    data = random_dataset([(1, 1, 1)] * 4)
    with pytest.raises(UserError, match=r"test_share 0\.1: .* and 0 test"):
        split_rows(data, SplitConfig(by="group", test_share=0.1), 0)


def test_the_module_takes_the_optimiser_from_the_config():
    module = rna_s2.s2.training.S2Module(config_of(lr=0.5, betas=(0.1, 0.2)), random_dataset(COUNTS), 0)
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (0.5, (0.1, 0.2))


def test_a_training_begins_with_the_weights_it_is_given(tmp_path):
    data = random_dataset(COUNTS, signal=0.8)
    config = config_of()
    first = fitted(tmp_path / "first", config)
    start = Scorer.of(first.network, config.network, data)
    still = config_of(epoch=1, lr=1e-30)
    result = train(still, data, seed=9, folder=tmp_path / "on", tracker=MemoryTracker(), progress=False, start=start)
    assert same_network(result.network, first.network)
    assert not same_network(fitted(tmp_path / "fresh", still, seed=9).network, first.network)
    without = config_of({"dropout": 0.0}, epoch=1)  # no weight depends on dropout
    train(without, data, seed=9, folder=tmp_path / "dry", tracker=MemoryTracker(), progress=False, start=start)
    with pytest.raises(UserError, match=r"network.n_ff of the network to start with \(12\) and of the one to train \(14\)"):
        train(config_of({"n_ff": 14}), data, seed=9, folder=tmp_path / "x", tracker=MemoryTracker(), start=start)
    fewer = with_columns(data, data.meta.feature_names[:-1])
    with pytest.raises(UserError, match="the features of the network to start with"):
        train(config, fewer, seed=9, folder=tmp_path / "x", tracker=MemoryTracker(), start=start)


def test_smaller_shares_of_the_rows_are_parts_of_larger_ones(tmp_path, monkeypatch):
    rows = np.arange(100, 200)
    tenth, third, whole = (sampled_share(rows, share, 5) for share in (0.1, 0.3, 1))
    assert (len(tenth), len(third)) == (10, 30) and set(tenth) < set(third) < set(whole)
    np.testing.assert_array_equal(tenth, np.sort(tenth))
    assert set(sampled_share(rows, 0.1, 6)) != set(tenth)
    assert len(sampled_share(rows[:3], 0.1, 5)) == 1
    seen = []
    real = rna_s2.s2.training.EpochBatches
    monkeypatch.setattr(
        rna_s2.s2.training, "EpochBatches", lambda data, rows, **more: seen.append(rows) or real(data, rows, **more)
    )
    fitted(tmp_path, config_of(epoch=1, row_share=0.4))
    ((used,),) = [seen]
    assert len(used) == math.ceil(0.4 * len(split_rows(random_dataset(COUNTS, signal=0.8), config_of().split, 3)[0]))


def test_sigterm_ends_a_training_as_such(tmp_path, monkeypatch):
    def stop(*_):
        raise SystemExit(TERMINATED)

    monkeypatch.setattr(S2Module, "step", stop)
    with pytest.raises(SystemExit) as ended:
        fitted(tmp_path)
    assert ended.value.code == TERMINATED


def test_the_lowest_place_of_a_row_counts_all_its_boxes():
    """An hloop of 5 x 5 whose corner is at column 8 begins in column 4, as does its first row."""
    data = replace(random_dataset([(0, 0, 1)]), features=np.array([[0, 0, 1, 4, 8, 5, 5]], np.float32))
    assert _lowest_positions(data).tolist() == [4]


def test_the_defaults_are_the_reference_experiments():
    network, training = NetworkConfig(), TrainingConfig()
    assert (network.n_dim, network.n_attn_layer, network.n_heads, network.n_ff, network.n_hid) == (100, 5, 5, 2048, 20)
    assert (network.dropout, training.lr, training.betas, training.batch_size) == (0.1, 1e-4, (0.9, 0.98), 2)
