"""Which device and precision an option means."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from rna_s2.commands import predict as predict_command
from rna_s2.commands import propose as propose_main
from rna_s2.fitting.devices import chosen_device, chosen_precision, has_bfloat16, warn_of_slow
from rna_s2.options.errors import UserError
from rna_s2.s1.proposals import propose_selections
from rna_s2.s1.selection import InferenceOptions, SelectionOptions
from tests.chain_models import small_models

CPU = torch.device("cpu")


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(params=[{"avx512_bf16": True}, {"amx_bf16": True}, {"avx2": True}, {}])
def processor(request, monkeypatch) -> bool:
    """Processors with and without instructions for bfloat16; whether it has them."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: request.param)
    return any("bf16" in name for name in request.param)


def test_auto_is_the_cpu_without_a_cuda_device(no_cuda):
    assert chosen_device() == chosen_device("cpu") == CPU
    with pytest.raises(ValueError, match="no CUDA device here"):
        chosen_device("cuda")


@pytest.mark.parametrize("command", [
    (predict_command, ["--sequences", "x.fa", "--out_dir", "out"]),
    (propose_main, ["--in_file", "x.fa", "--out_file", "x.parquet"]),
], ids=["predict", "propose"])
def test_a_missing_cuda_device_is_reported_before_any_work(no_cuda, command):
    module, arguments = command
    with pytest.raises(UserError, match=r"parameter device: .*no CUDA device here; set auto or cpu") as raised:
        module.main([*arguments, "--device", "cuda"])
    assert "\n" not in str(raised.value)


def test_auto_is_bfloat16_where_the_processor_has_it(processor):
    assert has_bfloat16(CPU) == processor
    assert chosen_precision("auto", CPU) == ("bf16" if processor else "32")
    assert chosen_precision("32", CPU) == "32" and chosen_precision("bf16", CPU) == "bf16"


def test_slow_bfloat16_is_warned_of(processor, caplog):
    with caplog.at_level(logging.WARNING):
        for precision in ("32", "auto"):
            warn_of_slow(precision, CPU)
        assert not caplog.records
        warn_of_slow("bf16", CPU)
    assert [record.getMessage().startswith("precision bf16") for record in caplog.records] == [True] * (not processor)


def test_proposals_take_the_precision_that_auto_means(processor, monkeypatch, no_cuda):
    enabled = []
    model = small_models().s1
    stream = model.stream
    monkeypatch.setattr(model, "stream", lambda *a: enabled.append(torch.is_autocast_enabled("cpu")) or stream(*a))
    codes = [np.array([2, 2, 0, 0, 0, 1, 1], np.uint8)]
    propose_selections(model, codes, [SelectionOptions()], InferenceOptions(precision="auto"))
    assert enabled == [processor]
