"""Speed of the checkout beside that of an earlier commit, in turns in one run.

    python benchmarks/against.py COMMIT [--work train/baseline/2 predict/100] [--table TABLE] [--rounds 5] [--threads 2]

Each commit runs in a process of its own, which imports that commit's code. Both do the same work in turns, after one turn that
does not count. Rates are those of the median turn; the ratio is the median of the ratios of neighbouring turns.

Work: ``train/MODEL/BATCH[/PRECISION]``, an epoch of stage 2 over 64 rows (rows per second); ``predict/LENGTH``, random
sequences to structures with the networks of the checkout in ``data/`` (sequences per second).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ("train/baseline/2", "train/baseline/16", "train/lstm_attn/4", "train/relational/8", "predict/100", "predict/1000")
ROWS = 64
BASES = 3_000
"""Sequences to predict have so many bases together, one sequence at least."""


def training(tree: Path, table: str, cache_dir: str, model: str, batch_size: str, precision: str = "32"):
    """An epoch over some rows, and how many these are."""
    import numpy as np
    import torch

    from rna_s2.engine.processes import keep_freed_memory
    from rna_s2.engine.tracker import MemoryTracker
    from rna_s2.options.base import load_yaml, validate
    from rna_s2.pipeline.train_config import DataConfig, TrainConfig
    from rna_s2.s2.batches import EpochBatches
    from rna_s2.s2.training import S2Module

    try:
        from rna_s2.pipeline.train_s2 import prepare
    except ImportError:  # where earlier commits have it
        from rna_s2.pipeline.prepare import prepare
    keep_freed_memory()
    path = tree / "configs" / f"{model}.yaml"
    config = validate(TrainConfig, load_yaml(path), str(path))
    source = DataConfig(in_file=table, max_rejects=-1, cache_dir=cache_dir)
    data = prepare(source, config.pruning, config.features, config.seed, MemoryTracker()).data
    data = data.take_rows(np.random.default_rng(0).permutation(len(data))[:ROWS])
    module = S2Module(config, data, seed=0)
    training = config.training.model_copy(update={"lr_schedule": "constant"})  # a schedule asks Lightning for its steps
    module.config = config.model_copy(update={"training": training})
    optimizer = module.configure_optimizers()
    batches = EpochBatches(
        data, np.arange(len(data)), batch_size=int(batch_size), n_groups=config.training.n_length_groups, seed=0
    )

    def epoch() -> None:
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss, _, _ = module.step(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch, len(data)


def prediction(length: str):
    """The structures of some random sequences, and how many these are."""
    import numpy as np

    from rna_s2.pipeline.open_models import ModelOptions, open_models
    from rna_s2.pipeline.structure_prediction import predict_each
    from rna_s2.rna.formats import SequenceRecord
    from rna_s2.rna.sequence import decode

    folder = ROOT / "data"
    models, options = open_models(ModelOptions(s1_model=str(folder / "s1_compact"), s2_model=str(folder / "s2_model")))
    rng = np.random.default_rng(0)
    count = max(1, BASES // int(length))
    records = [SequenceRecord(str(n), decode(rng.integers(0, 4, int(length)), rna=True)) for n in range(count)]
    return lambda: list(predict_each(records, models, options)), count


def work_through(tree: Path, work: str, table: str, threads: int) -> None:
    """Answers each line of the input with the seconds that the work took; first with how many things it works on."""
    sys.path[0] = str(tree)
    import torch

    torch.set_num_threads(threads)
    name, *arguments = work.split("/")
    with tempfile.TemporaryDirectory() as cache_dir:
        act: Callable[[], object]
        act, count = training(tree, table, cache_dir, *arguments) if name == "train" else prediction(*arguments)
        act()
        print(json.dumps(count), flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            act()
            print(json.dumps(time.perf_counter() - start), flush=True)


def compare(commit_tree: Path, work: str, arguments: argparse.Namespace) -> str:
    """A line of the table."""
    command = [sys.executable, __file__, arguments.commit, "--worker", work, "--table", arguments.table,
               "--threads", str(arguments.threads), "--tree"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    sides = [subprocess.Popen([*command, str(tree)], cwd=tree, **pipes) for tree in (commit_tree, ROOT)]
    count = [json.loads(side.stdout.readline()) for side in sides]
    seconds: list[list[float]] = [[], []]
    for _ in range(arguments.rounds):
        for side, own in zip(sides, seconds, strict=True):
            side.stdin.write("go\n")
            side.stdin.flush()
            own.append(json.loads(side.stdout.readline()))
    for side in sides:
        side.stdin.close()
        side.wait()
    before, after = (n / statistics.median(own) for n, own in zip(count, seconds, strict=True))
    ratio = statistics.median(then / now for then, now in zip(*seconds, strict=True))
    return f"| {work} | {before:.1f} | {after:.1f} | {ratio:.2f} |"


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--work", nargs="+", default=WORK)
    parser.add_argument("--table", default=str(ROOT / "data" / "sample_s1.parquet"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--tree", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work_through(arguments.tree, arguments.worker, arguments.table, arguments.threads)
        return
    arguments.table = str(Path(arguments.table).resolve())
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(tree), arguments.commit], cwd=ROOT, check=True)
        try:
            print(f"| work | {arguments.commit}, per s | checkout, per s | times |\n| --- | ---: | ---: | ---: |", flush=True)
            for work in arguments.work:
                print(compare(tree, work, arguments), flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
