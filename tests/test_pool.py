"""Jobs on several processes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from entry.errors import UserError
from entry.processes import default_workers
from pipeline.pool import run_each

ROOT = Path(__file__).resolve().parent.parent


def halved(number: int) -> tuple[int, int, str]:
    import torch

    logging.getLogger("job").info("works on %d", number)
    time.sleep(0.3)  # so that one process does not do all
    if number % 2:
        raise UserError(f"{number} is odd")
    return number // 2, torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def killed(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_every_job_is_answered_with_its_share_of_the_cores(monkeypatch, capfd):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    jobs = {f"{n} %": (n,) for n in (2, 4, 6)}
    answers = dict(run_each(halved, jobs, 2, "wait"))
    threads = max(1, default_workers() // 2)
    assert answers == {k: (k + 1, threads, str(threads)) for k in range(3)}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    said = capfd.readouterr().err.splitlines()
    assert sorted(said) == ["2 %: works on 2", "4 %: works on 4", "6 %: works on 6"]


def test_what_is_wrong_with_a_job_is_raised_here():
    with pytest.raises(UserError, match=r"^3 is odd$"):
        list(run_each(halved, {"odd": (3,), "even": (2,)}, 2, "wait"))


def test_a_killed_process_is_told_with_advice():
    with pytest.raises(UserError, match=r"^a worker process was killed \(for want of memory\?\); take a walk$"):
        list(run_each(killed, {"one": (1,), "two": (2,)}, 2, "take a walk"))


def noted(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def alive(pid: int) -> bool:
    """Whether a process works; a zombie does not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_processes_end_with_the_one_that_started_them(tmp_path):
    script = (
        "from pipeline.pool import run_each; from tests.test_pool import noted\n"
        f"if __name__ == '__main__': list(run_each(noted, {{n: ({str(tmp_path)!r} + '/' + n,) for n in 'ab'}}, 2, ''))\n"
    )
    (tmp_path / "script.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "script.py")], env=environment)
    notes = [tmp_path / "a", tmp_path / "b"]
    assert within(60, lambda: all(note.is_file() and note.read_text() for note in notes))
    workers = [int(note.read_text()) for note in notes]
    assert all(alive(pid) for pid in workers)
    parent.kill()
    parent.wait()
    assert within(30, lambda: not any(alive(pid) for pid in workers))
