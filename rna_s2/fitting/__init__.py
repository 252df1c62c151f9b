"""The training loop that both stages share, on PyTorch Lightning: seeds, checkpoints, resuming, figures per epoch."""
