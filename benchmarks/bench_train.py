"""Rows per second of training S2 at the reference experiment's sizes, beside PyTorch's own layers at the same batch.

    python benchmarks/bench_train.py --table TABLE [--rows 64] [--rounds 3] [--threads 2]
        [--device cuda] [--batch_size 32 | --batch_boxes 8192]

Each model is trained for one pass over the same rows; the sides take turns, and rates are those of medians. The
CPU time is that of all threads together, the lowest of the rounds; unlike the rates it says something where other processes
run on the machine too. Mixed precision is left out where the device has no instructions for bfloat16, and *plain* for the
relational network. A further side does the single-precision matrix products of the attention layers alone, without LSTMs. Peak
memory is that of a process that computes all sides and nothing else, or of the CUDA device.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rna_s2.engine.processes import keep_freed_memory  # noqa: E402
from rna_s2.engine.tracker import MemoryTracker  # noqa: E402
from rna_s2.fitting.devices import chosen_device, has_bfloat16  # noqa: E402
from rna_s2.options.base import load_yaml, validate  # noqa: E402
from rna_s2.pipeline.train_config import SAMPLE, DataConfig, TrainConfig  # noqa: E402
from rna_s2.pipeline.train_s2 import prepare  # noqa: E402
from rna_s2.s2.batches import Batch, EpochBatches  # noqa: E402
from rna_s2.s2.dataset import EncodedDataset  # noqa: E402
from rna_s2.s2.network import batch_loss  # noqa: E402
from rna_s2.s2.training import S2Module  # noqa: E402

MODELS = ("baseline", "s1_features", "lstm_attn", "lstm_attn_hid100", "relational")


class PlainNetwork(nn.Module):
    """The same network from PyTorch's own layers: rows padded to the longest, fused attention, PyTorch's dropout."""

    def __init__(self, config: TrainConfig, data: EncodedDataset) -> None:
        super().__init__()
        network, channels = config.network, data.meta.sequence_channels
        self.encoders = nn.ModuleDict(
            {name: nn.LSTM(width, network.lstm_hid, network.lstm_layer) for name, width in channels.items()}
        )
        width = len(data.meta.feature_names) + (network.lstm_hid if channels else 0)
        layer = nn.TransformerEncoderLayer(
            network.n_dim, network.n_heads, network.n_ff, network.dropout, batch_first=True, norm_first=True
        )
        self.lstm_hid = network.lstm_hid
        self.embed = nn.Sequential(nn.Linear(width, network.n_dim), nn.Dropout(network.dropout))
        self.encoder = nn.TransformerEncoder(
            layer, network.n_attn_layer, nn.LayerNorm(network.n_dim), enable_nested_tensor=False
        )
        self.out = nn.Sequential(nn.Linear(network.n_dim, network.n_hid), nn.ReLU(), nn.Linear(network.n_hid, 1))

    def forward(self, batch: Batch) -> torch.Tensor:
        x = batch.features
        if self.encoders:
            states = x.new_zeros(len(x), self.lstm_hid)
            for name, encoder in self.encoders.items():
                bases = batch.sequences[name]
                if len(bases.box):
                    packed = nn.utils.rnn.PackedSequence(bases.values, bases.step_sizes)
                    states = states.index_copy(0, bases.box, encoder(packed)[1][0][-1])
            x = torch.cat([x, states], dim=1)
        embedded = self.embed(x)
        grid = embedded.new_zeros(batch.mask.numel(), embedded.shape[1]).index_copy(0, batch.slot, embedded)
        encoded = self.encoder(grid.view(*batch.mask.shape, -1), src_key_padding_mask=~batch.mask)
        return self.out(encoded.flatten(0, 1)[batch.slot])[:, 0]


def config_of(model: str) -> TrainConfig:
    """The config of a model as it is in ``configs/``."""
    path = ROOT / "configs" / f"{model}.yaml"
    return validate(TrainConfig, load_yaml(path), str(path))


def data_of(model: str, table: str, cache_dir: str, rows: int) -> EncodedDataset:
    """A seeded choice of the rows of a table, encoded as a model wants them."""
    config = config_of(model)
    source = DataConfig(in_file=table, max_rejects=-1, cache_dir=cache_dir)
    data = prepare(source, config.pruning, config.features, config.seed, MemoryTracker()).data
    return data.take_rows(np.random.default_rng(0).permutation(len(data))[:rows])


def batches_of(config: TrainConfig, data: EncodedDataset) -> EpochBatches:
    """The batches of an epoch, as a training has them."""
    training = config.training
    return EpochBatches(
        data, np.arange(len(data)), batch_size=training.batch_size, batch_boxes=training.batch_boxes,
        n_groups=training.n_length_groups, seed=0,
    )


def trained(network, step, config: TrainConfig, data: EncodedDataset, precision: str, device: torch.device):
    """One epoch: ``step`` gives the loss of a batch."""
    network.to(device)
    training = config.training
    optimiser = torch.optim.Adam(network.parameters(), lr=training.lr, betas=training.betas, fused=True)
    batches = batches_of(config, data)

    def epoch() -> None:
        for batch in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = step(batch.to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return epoch


def ours(config: TrainConfig, data: EncodedDataset, precision: str, device: torch.device):
    """One epoch as the project trains it."""
    module = S2Module(config, data, seed=0)
    return trained(module, lambda batch: module.step(batch)[0], config, data, precision, device)


def plain(config: TrainConfig, data: EncodedDataset, precision: str, device: torch.device):
    """One epoch with PyTorch's own layers."""
    network = PlainNetwork(config, data)
    return trained(network, lambda batch: batch_loss(network(batch).float(), batch), config, data, precision, device)


def products(config: TrainConfig, data: EncodedDataset, device: torch.device):
    """The matrix products of one epoch's attention layers and nothing else: a bound for any code that uses PyTorch's products.
    Each weight of ``(m, k)`` takes part in three of the same size, one forward and two for gradients."""
    network = config.network
    width, wide = network.n_dim, network.n_ff
    shapes = [(3 * width, width), (width, width), (wide, width), (width, wide)]
    weights = [torch.randn(shape, device=device) for shape in shapes]
    boxes = [len(batch.features) for batch in batches_of(config, data)]
    buffers = {size: torch.randn(max(boxes), size, device=device) for size in {size for shape in shapes for size in shape}}

    def epoch() -> None:
        for n in boxes:
            for _ in range(network.n_attn_layer):
                for weight in weights:
                    outputs, inputs = (buffers[size][:n] for size in weight.shape)
                    functional.linear(inputs, weight)
                    torch.mm(outputs, weight)
                    torch.mm(outputs.t(), inputs)

    return epoch


def seconds(epoch) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    epoch()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(model: str, arguments: argparse.Namespace) -> str:
    """The lines of the table for one model."""
    config, data = config_of(model), data_of(model, arguments.table, arguments.cache_dir, arguments.rows)
    sizes = {
        "batch_size": arguments.batch_size or config.training.batch_size, "batch_boxes": arguments.batch_boxes,
        "n_length_groups": arguments.n_length_groups or config.training.n_length_groups,
    }
    config = config.model_copy(update={"training": config.training.model_copy(update=sizes)})
    device = chosen_device(arguments.device)
    keep_freed_memory()
    sides = {"32": ours(config, data, "32", device)}
    if has_bfloat16(device):
        sides["bf16"] = ours(config, data, "bf16", device)
    if config.network.architecture == "boxes":
        sides |= {f"plain {name}": plain(config, data, name, device) for name in tuple(sides)}
    sides["products"] = products(config, data, device)
    for epoch in sides.values():
        epoch()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, epoch in sides.items():
            times[name].append(seconds(epoch))
    rate = {name: len(data) / statistics.median(wall for wall, _ in each) for name, each in times.items()}
    cells = [f"{rate[name]:.1f}" if name in rate else "" for name in ("plain 32", "32", "plain bf16", "bf16", "products")]
    cpu = " / ".join(
        f"{1e3 * min(cpu for _, cpu in times[name]) / len(data):.1f}" for name in ("plain 32", "32", "products")
        if name in times
    )
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**20
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    size = f"{arguments.batch_boxes} boxes" if arguments.batch_boxes else str(config.training.batch_size)
    return (
        f"| {model} | {size} | {np.diff(data.offsets).mean():.0f} | {' | '.join(cells)} "
        f"| {rate['32'] / rate['products']:.0%} | {cpu} | {memory:.0f} |"
    )


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", default=str(ROOT / SAMPLE))
    parser.add_argument("--cache_dir", default=str(ROOT / ".cache"))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch_size", type=int, default=0, help="rows of a batch; 0: as the config says")
    parser.add_argument("--batch_boxes", type=int, default=0, help="boxes of a batch, in place of rows")
    parser.add_argument("--n_length_groups", type=int, default=0, help="0: as the config says; a batch is of one group")
    parser.add_argument("--model", choices=MODELS, help="measure this one, in this process")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.model:
        print(measure(arguments.model, arguments), flush=True)
        return
    print(
        "| model | batch | boxes per row | plain PyTorch, rows/s | fp32, rows/s | plain PyTorch, bf16 | bf16 "
        "| products alone, rows/s | fp32's share of them | CPU ms per row: plain / fp32 / products | peak memory, MiB |"
    )
    print("| --- |" + " ---: |" * 10, flush=True)
    for model in MODELS:
        data_of(model, arguments.table, arguments.cache_dir, arguments.rows)
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--model", model], check=True)


if __name__ == "__main__":
    main()
