"""On a CUDA device the networks say what they say on the CPU, and trainings end, resume and come back from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rna_s2.engine.tracker import MemoryTracker
from rna_s2.pipeline.open_models import SHIPPED_S1
from rna_s2.pipeline.parallel_prediction import predict_on
from rna_s2.pipeline.structure_prediction import Models, PipelineOptions, predict
from rna_s2.rna.formats import SequenceRecord
from rna_s2.s1.model import load_network
from rna_s2.s1.selection import InferenceOptions
from rna_s2.s2.batches import make_batch
from rna_s2.s2.network import batch_loss
from rna_s2.s2.scorer import Scorer
from rna_s2.structures.prediction import Prediction, Predictions
from tests import test_s2_network as plain
from tests import test_s2_relational as relational
from tests.s2_data import random_dataset
from tests.test_s2_training import COUNTS, EPOCHS, DyingTracker, Killed, config_of, fitted

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

LENGTHS = (30, 75, 76, 110, 200, 600)  # the last is computed in patches


@pytest.fixture(scope="module")
def sequences() -> list[SequenceRecord]:
    rng = np.random.default_rng(0)
    return [SequenceRecord(f"s{n}", "".join(rng.choice(list("ACGU"), n))) for n in LENGTHS]


def shipped() -> Models:
    return Models(load_network(ROOT / SHIPPED_S1)[0], Scorer.load(ROOT / "data" / "s2_model"))


def options_for(device: str, precision: str = "32") -> PipelineOptions:
    return PipelineOptions(inference=InferenceOptions(device=device, precision=precision), chunk=3)


@pytest.fixture(scope="module")
def on_cpu(sequences) -> list[Prediction]:
    return predict(sequences, *shipped(), options_for("cpu")).records


def scored_boxes(prediction: Prediction) -> dict[tuple[int, ...], float]:
    boxes = prediction.boxes
    columns = (boxes.type, boxes.bb_x, boxes.bb_y, boxes.siz_x, boxes.siz_y)
    return dict(zip(zip(*(c.tolist() for c in columns), strict=True), prediction.probability.tolist(), strict=True))


def near(there: Predictions, here: list[Prediction], share: float, difference: float) -> None:
    """All sequences are predicted; of the boxes ``share`` or more are the same, and their mean difference is small."""
    assert not there.failures
    for a, b in zip(there.records, here, strict=True):
        on_device, on_cpu = scored_boxes(a), scored_boxes(b)
        both = on_device.keys() & on_cpu.keys()
        assert len(both) >= share * max(len(on_device), len(on_cpu))  # one at the threshold may be on either side of it
        assert np.mean([abs(on_device[box] - on_cpu[box]) for box in both]) < difference


def test_structures_are_those_of_the_cpu(sequences, on_cpu):
    there = predict(sequences, *shipped(), options_for("cuda"))
    near(there, on_cpu, share=0.99, difference=1e-3)
    assert [r.dot_bracket() for r in there.records] == [r.dot_bracket() for r in on_cpu]


def test_mixed_precision_is_near_single_precision(sequences, on_cpu):
    near(predict(sequences, *shipped(), options_for("cuda", "bf16")), on_cpu, share=0.9, difference=0.05)


def test_a_cuda_device_is_taken_where_there_is_one(sequences):
    models = shipped()
    predict(sequences[:1], *models)
    assert {next(network.parameters()).device.type for network in (models.s1, models.s2.network)} == {"cuda"}
    predict(sequences[:1], *models, options_for("cpu"))
    assert {next(network.parameters()).device.type for network in (models.s1, models.s2.network)} == {"cpu"}


def test_processes_share_the_device(sequences, on_cpu):
    records = list(predict_on(2, sequences, shipped(), options_for("cuda"), {}))
    assert [r.dot_bracket() for r in records] == [r.dot_bracket() for r in on_cpu]


@pytest.mark.parametrize("kind", ["baseline", "sequence_encoding", "relational"])
def test_logits_and_gradients_are_those_of_the_cpu(kind):
    if kind == "relational":
        data = relational.dataset()
        network = relational.network_for(data)
    else:
        data = random_dataset(plain.COUNTS, kind=kind)
        network = plain.network_for(data)
    batch = make_batch(data, np.arange(len(data)))
    results = {}
    for device in ("cpu", "cuda"):
        network.to(device).zero_grad()
        on_device = batch.to(device)
        network.train()  # cuDNN's LSTMs give gradients in this mode alone
        for module in network.modules():
            if hasattr(module, "probability"):
                module.probability = 0.0
        logits = network(on_device)
        batch_loss(logits, on_device).backward()
        results[device] = [logits.detach().cpu(), *(p.grad.cpu().clone() for p in network.parameters() if p.grad is not None)]
    for there, here in zip(results["cuda"], results["cpu"], strict=True):
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("kind", ["baseline", "sequence_encoding"])
def test_a_broken_training_goes_on(tmp_path, kind, precision):
    data, config = random_dataset(COUNTS, kind=kind, signal=0.8), config_of({"dropout": 0.0}, precision=precision)
    whole = fitted(tmp_path / "whole", config, data)
    with pytest.raises(Killed):
        fitted(tmp_path / "broken", config, data, DyingTracker(1))
    after = MemoryTracker()
    resumed = fitted(tmp_path / "broken", config, data, after)
    assert [step for step, _ in after.metric_values["val/loss"]] == [*range(1, EPOCHS)]
    assert (after.tag_values["device"], after.tag_values["precision"]) == ("cuda", precision)
    assert next(resumed.network.parameters()).device.type == "cpu"
    tolerance = 1e-3 if precision == "32" else 5e-2  # sums of many threads are not the same twice
    for a, b in zip(whole.network.state_dict().values(), resumed.network.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_with_dropout_it_learns(tmp_path):
    result = fitted(tmp_path, config_of({"n_dim": 20, "n_hid": 10}, epoch=25, lr=0.02), random_dataset(COUNTS * 2, signal=1.0))
    assert result.val.metrics["auroc"] > 0.8
