"""The training loop that both stages share, on PyTorch Lightning: seeds, checkpoints, resuming, metrics per epoch."""
