"""Prediction on several processes: the same results, in order; what happens when one is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rna_s2.options.errors import UserError
from rna_s2.pipeline import parallel_prediction as workers
from rna_s2.pipeline.parallel_prediction import CELLS_PER_WORKER, predict_on, workers_for
from rna_s2.rna import formats
from rna_s2.structures.prediction import Failure, Prediction
from tests.chain_models import EVERY_CELL, small_models

MODELS = small_models()
ROOT = Path(__file__).resolve().parent.parent


def sequences(count: int) -> list[formats.SequenceRecord]:
    rng = np.random.default_rng(4)
    made = [formats.SequenceRecord(str(n), "".join(rng.choice(list("ACGU"), rng.integers(8, 30)))) for n in range(count)]
    made[3] = formats.SequenceRecord("wrong", "ACGX")
    return made


def test_two_processes_give_what_one_gives_in_order():
    given = sequences(23)
    alone, together = {}, {}
    one = list(predict_on(1, given, MODELS, EVERY_CELL, alone))
    two = list(predict_on(2, given, MODELS, EVERY_CELL, together))
    assert len(one) == len(two) == 23
    for record, a, b in zip(given, one, two, strict=True):
        assert a.name == b.name == record.name
        if isinstance(a, Failure):
            assert a == b and a.name == "wrong"
            continue
        assert isinstance(b, Prediction) and a.dot_bracket() == b.dot_bracket()
        np.testing.assert_allclose(a.probability, b.probability, atol=1e-6)
    assert alone.keys() == together.keys() == {"proposals", "scores", "decoding"}


def _die(part):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_an_error(monkeypatch):
    monkeypatch.setattr(workers, "_predict", _die)
    with pytest.raises(UserError, match="a worker process was killed"):
        list(predict_on(2, sequences(6), MODELS, EVERY_CELL, {}))


def test_processes_are_for_work_that_is_worth_them(monkeypatch):
    monkeypatch.setattr(workers, "default_workers", lambda: 8)
    few, many = [formats.SequenceRecord("a", "A" * 100)], [formats.SequenceRecord("a", "A" * 1000)] * 7
    assert CELLS_PER_WORKER == 2_000_000
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [workers_for(of, 0, cpu) for of in (few, many, many * 10)] == [1, 3, 8]
    assert [workers_for(of, 5, cpu) for of in (few, many, [])] == [1, 5, 1]
    monkeypatch.setattr(workers, "default_workers", lambda: 64)
    assert [workers_for(many * 100, *how) for how in ((0, cpu), (0, cuda), (20, cuda))] == [64, 8, 20]


FAULTS = """
import resource, sys
import numpy as np
from rna_s2.engine.processes import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "kept" else False)
for _ in range(2):
    [np.ones(20 << 20, np.uint8) for _ in range(4)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    [np.ones(20 << 20, np.uint8) for _ in range(4)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc alone gives memory back so eagerly")
def test_memory_of_freed_arrays_is_kept_for_the_next_ones():
    changed, faults = (
        subprocess.run([sys.executable, "-c", FAULTS, how], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        for how in ("kept", "as it is")
    )
    assert changed[0] == "True" and int(changed[1]) < 100 < int(faults[1])
