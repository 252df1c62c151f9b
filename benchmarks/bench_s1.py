"""Seconds per stage of stage 1's inference by length of the sequences, and the rate of folding, as a Markdown table.

    python benchmarks/bench_s1.py [--model FOLDER] [--precision bf16] [--threads 2]

Random sequences are proposed for as the command ``propose`` does it. Network and proposals are timed in CPU time of one
thread, so that other work on the machine counts little; with more threads, in wall time. The slow reference is the
cell-by-cell reading of ``tests/s1_reference.py`` of a network's outputs, on a few sequences. Without a trained network one
with random weights is timed: its arithmetic is the same, but its cells agree on no box, so it proposes more of them.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch

from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.boxtables.write import write_table
from rna_s2.options.base import load_yaml
from rna_s2.pipeline.open_models import SHIPPED_S1, open_network
from rna_s2.rna.boxes import Boxes
from rna_s2.rna.sequence import decode, encode
from rna_s2.s1 import proposals
from rna_s2.s1.config import NetworkConfig
from rna_s2.s1.folding import fold_all
from rna_s2.s1.model import MODEL_FILE
from rna_s2.s1.network import ProposalNetwork, upper_triangle
from rna_s2.s1.predict import table_of_proposals
from rna_s2.s1.proposals import propose_selections
from rna_s2.s1.selection import InferenceOptions, SelectionOptions
from tests.s1_reference import propose

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = (50, 100, 200, 400)
CELLS = 600_000
"""Map cells of the sequences of one measurement: enough for several batches."""
REFERENCE_CELLS = 12_000
FOLDED_BASES = 6_000
ON_SHARE = 0.03
"""Share of the cells that may propose with random weights, by type: somewhat more than a trained network has."""
TYPICAL_SIZE = 3.0
CONFIG = ROOT / "configs" / "s1.yaml"


def network_to_time(model: str) -> tuple[ProposalNetwork, str]:
    """The network in a folder, or one with random weights of the compact config where there is none; and what it is."""
    if (Path(model) / MODEL_FILE).is_file():
        return open_network(model), f"the network in `{model}`"
    torch.manual_seed(0)
    network = ProposalNetwork(NetworkConfig(**load_yaml(CONFIG)["network"])).requires_grad_(False)
    for block in network.blocks:
        torch.nn.init.normal_(block.mix.weight, std=0.1)
    codes = torch.randint(0, 4, (1, max(LENGTHS) // 4), dtype=torch.uint8)
    inside = upper_triangle(torch.tensor([codes.shape[1]]), codes.shape[1])
    with torch.inference_mode():
        cells = network.features(codes, codes, inside)[inside]
    threshold = SelectionOptions().on_threshold
    for layer in network.outputs:
        torch.nn.init.normal_(layer.weight, std=0.3)
        layer.bias[0] = math.log(threshold / (1 - threshold)) - torch.quantile(cells @ layer.weight[0], 1 - ON_SHARE)
        layer.bias[-1] = TYPICAL_SIZE
    return network, f"random weights of the size of `configs/{CONFIG.name}` (there is no network in `{model}`)"


def timed_with(clock: Callable[[], float]) -> Callable:
    """:func:`rna_s2.engine.tracker.timed` with another clock."""

    @contextmanager
    def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
        start = clock()
        try:
            yield
        finally:
            seconds[name] = seconds.get(name, 0.0) + clock() - start

    return timed


def measure(network: ProposalNetwork, length: int, inference: InferenceOptions, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds per sequence of a length: encoding, network, proposals, writing, and all; and boxes per sequence."""
    number = max(4, CELLS // length**2)
    rng = np.random.default_rng(length)
    seqs = [decode(codes, rna=True) for codes in rng.integers(0, 4, (number, length)).astype(np.uint8)]
    selection = SelectionOptions()
    propose_selections(network, [encode(seq) for seq in seqs[:2]], [selection], inference)  # the first call sets things up
    seconds: dict[str, float] = {}
    start = clock()
    codes = [encode(seq) for seq in seqs]
    encoded = clock()
    (proposed,) = propose_selections(network, codes, [selection], inference, seconds)
    done = clock()
    frame = pd.DataFrame({"seq": pd.Series(seqs, dtype="str")})
    table = table_of_proposals(
        BoxTable(frame, Boxes.empty(number), None, Ragged.empty(0), Ragged.empty(0)), proposed
    )
    with tempfile.TemporaryDirectory() as folder:
        write_table(table, Path(folder) / "table.parquet")
    written = clock()
    parts = {"encode": encoded - start, **seconds, "write": written - done, "all": written - start}
    return {name: value / number for name, value in parts.items()} | {"boxes": len(proposed.boxes) / number}


def reference_seconds(network: ProposalNetwork, length: int) -> float:
    """Seconds per sequence of the slow reference's reading of the network's outputs."""
    number = max(1, REFERENCE_CELLS // length**2)
    codes = torch.from_numpy(np.random.default_rng(length).integers(0, 4, (number, length)).astype(np.uint8))
    with torch.inference_mode():
        features = network.features(codes, codes, upper_triangle(torch.full((number,), length), length))
        read = [[cell_dicts(outputs, length) for outputs in network.cell_outputs(f.flatten(0, 1))] for f in features]
    selection = SelectionOptions()
    start = time.process_time()
    for outputs in read:
        propose(
            outputs, length, selection.selection, selection.on_threshold, selection.n_proposal_threshold, True,
            selection.min_support,
        )
    return (time.process_time() - start) / number


def cell_dicts(outputs: Any, length: int) -> list[list[dict]]:
    """The outputs of one type at all cells of a map, as the reference reads them."""
    columns = {name: getattr(outputs, name).tolist() for name in outputs._fields}
    cells = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [cells[i * length: (i + 1) * length] for i in range(length)]


def folding_rate(length: int) -> float:
    """Sequences of a length that one process folds in a second of CPU time."""
    number = max(2, FOLDED_BASES // length)
    rng = np.random.default_rng(length)
    seqs = [decode(codes, rna=True) for codes in rng.integers(0, 4, (number, length)).astype(np.uint8)]
    start = time.process_time()
    fold_all(seqs, 1)
    return number / (time.process_time() - start)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(SHIPPED_S1), help="folder of a trained network")
    parser.add_argument("--precision", choices=("32", "bf16"), default=InferenceOptions().precision)
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch; 1 measures CPU time, more wall time")
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS, help="lengths of the sequences, in bases")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    network, what = network_to_time(given.model)
    inference = InferenceOptions(precision=given.precision, device="cpu")
    clock = time.process_time if given.threads == 1 else time.perf_counter
    proposals.timed = timed_with(clock)
    unit = "CPU time of one thread" if given.threads == 1 else f"wall time, {given.threads} threads"
    print(f"{what[0].upper()}{what[1:]}; precision {given.precision}; {unit}. Milliseconds per sequence.\n")
    print("| length | encode | network | proposals | write | all | sequences/s | proposals, share | proposals, slow reference "
          "| times | boxes | folding, sequences/s and process |")
    print("| ---: |" + " ---: |" * 11)
    for length in given.lengths:
        result = measure(network, length, inference, clock)
        slow = reference_seconds(network, length) if length**2 <= REFERENCE_CELLS else float("nan")
        stages = " | ".join(f"{1000 * result[name]:.2f}" for name in ("encode", "network", "proposals", "write", "all"))
        compared = f"{1000 * slow:,.0f} | {slow / result['proposals']:,.0f}" if slow == slow else " | "
        print(f"| {length} | {stages} | {1 / result['all']:.1f} | {100 * result['proposals'] / result['all']:.0f} % | "
              f"{compared} | {result['boxes']:.0f} | {folding_rate(length):.0f} |", flush=True)


if __name__ == "__main__":
    main()
