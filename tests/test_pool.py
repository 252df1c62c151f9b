"""Jobs on several processes."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from rna_s2.engine.pool import run_each
from rna_s2.options.errors import UserError

THREADS = 3
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
    answers = dict(run_each(halved, jobs, 2, THREADS, "wait"))
    assert answers == {k: (k + 1, THREADS, str(THREADS)) for k in range(3)}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    said = capfd.readouterr().err.splitlines()
    assert sorted(said) == ["2 %: works on 2", "4 %: works on 4", "6 %: works on 6"]


def place_of_the_code(_: int) -> str:
    import rna_s2.options.places

    return rna_s2.options.places.__file__


def test_processes_run_the_code_of_their_parent_though_a_model_brought_its_own(tmp_path, monkeypatch):
    (tmp_path / "rna_s2" / "options").mkdir(parents=True)
    for module in ("__init__.py", "options/__init__.py", "options/places.py"):
        (tmp_path / "rna_s2" / module).write_text("")
    monkeypatch.syspath_prepend(tmp_path)  # as MLflow does with the code of a model that is loaded
    before = list(sys.path)
    ((_, found),) = run_each(place_of_the_code, {"one": (1,)}, 1, 1, "wait")
    assert Path(found) == ROOT / "rna_s2" / "options" / "places.py" and sys.path == before


def test_what_is_wrong_with_a_job_is_raised_here():
    with pytest.raises(UserError, match=r"^3 is odd$"):
        list(run_each(halved, {"odd": (3,), "even": (2,)}, 2, THREADS, "wait"))


def test_a_killed_process_is_told_with_advice():
    with pytest.raises(UserError, match=r"^a worker process was killed \(for want of memory\?\); take a walk$"):
        list(run_each(killed, {"one": (1,), "two": (2,)}, 2, 1, "take a walk"))


def noted(path: str, other: str, seconds: float, cleaning: float) -> None:
    """Notes its process, works when the other does, and when it is stopped notes by what, after a while of cleaning up."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    Path(path).write_text(str(os.getpid()))
    assert within(60, Path(other).is_file)  # so that each has a process of its own
    try:
        if seconds < 0:
            raise UserError("the job is at fault")
        time.sleep(seconds)
    except (KeyboardInterrupt, SystemExit) as stop:
        for number, handler in handlers.items():  # as Lightning does
            signal.signal(number, handler)
        time.sleep(cleaning)
        Path(path).with_suffix(".stopped").write_text(type(stop).__name__)
        raise
    finally:
        Path(path).with_suffix(".ended").write_text("")


def alive(pid: int) -> bool:
    """Whether a process works; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def command(tmp_path) -> Iterator[Callable[[float], tuple[subprocess.Popen, list[int]]]]:
    """Starts a command with two jobs of so many seconds and of 600; gives it and the processes that work on them."""
    (tmp_path / "script.py").write_text(
        "import signal, sys\n"
        "from rna_s2.options.errors import run_command\n"
        "from rna_s2.engine.pool import run_each\n"
        "from tests.test_pool import noted\n"
        "def main(argv):\n"
        "    a, b = sys.argv[1] + '/a', sys.argv[1] + '/b'\n"
        "    list(run_each(noted, {'a': (a, b, float(sys.argv[2]), 0.2), 'b': (b, a, 600, 2)}, 2, 1, ''))\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    raise SystemExit(run_command(main))\n"
    )
    started = []

    def start(seconds: float) -> tuple[subprocess.Popen, list[int]]:
        run = subprocess.Popen(
            [sys.executable, str(tmp_path / "script.py"), str(tmp_path), str(seconds)],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )
        started.append(run)
        notes = [tmp_path / "a", tmp_path / "b"]
        assert within(60, lambda: all(note.is_file() and note.read_text() for note in notes))
        if seconds <= 0:
            assert within(60, (tmp_path / "a.ended").is_file)
        time.sleep(0.5)
        return run, [int(note.read_text()) for note in notes]

    yield start
    for run in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def test_processes_end_with_the_one_that_started_them(command):
    run, workers = command(600)
    assert all(alive(pid) for pid in workers)
    run.kill()
    run.wait()
    assert within(30, lambda: not any(alive(pid) for pid in workers))


@pytest.mark.parametrize("work", [
    "from rna_s2.s1.folding import fold_all as work; given = [['GACU' * 100] * 2000, 2]",
    "from rna_s2.energies.ensemble import _each_row as work, np\n"
    "given = [['GACU' * 200] * 2000, [np.array([[0, 799]])] * 2000, 2]",
], ids=["folding", "ensembles"])
def test_processes_of_viennarna_end_with_the_one_that_started_them(tmp_path, work):
    (tmp_path / "script.py").write_text(
        f"import multiprocessing, threading, time\n{work}\n"
        "if __name__ == '__main__':\n"
        "    threading.Thread(target=work, args=given, daemon=True).start()\n"
        "    while len(multiprocessing.active_children()) < 2: time.sleep(0.1)\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "    time.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, str(tmp_path / "script.py")], env={**os.environ, "PYTHONPATH": str(ROOT)},
                           stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in run.stdout.readline().split()]
    assert len(workers) == 2 and all(alive(pid) for pid in workers)
    time.sleep(3)  # they are at work
    run.kill()
    run.wait()
    assert within(5, lambda: not any(alive(pid) for pid in workers)), "what they have begun takes them much longer"


@pytest.mark.parametrize("seconds", [600, 0, -1], ids=["both work", "one has no work", "one has failed"])
@pytest.mark.parametrize("everyone", [True, False], ids=["to all", "to the command alone"])
@pytest.mark.parametrize(("number", "said", "status"), [
    (signal.SIGINT, "KeyboardInterrupt", 130), (signal.SIGTERM, "SystemExit", 128 + signal.SIGTERM),
])
def test_jobs_are_stopped_in_order(command, tmp_path, number, said, status, everyone, seconds):
    run, workers = command(seconds)
    os.kill(-run.pid if everyone else run.pid, number)
    assert run.wait(60) == status
    assert (tmp_path / "b.stopped").read_text() == said
    assert (tmp_path / "a.stopped").exists() == (seconds > 0)
    assert "Traceback" not in run.stderr.read()
    assert within(10, lambda: not any(alive(pid) for pid in workers))
