"""Where networks run: on a CUDA device where there is one, else on the CPU."""

from __future__ import annotations

from typing import Literal

import torch

Device = Literal["auto", "cpu", "cuda"]


def chosen_device(device: Device = "auto") -> torch.device:
    """The device that an option means.

    On CUDA, convolutions in single precision are then computed in single precision, as on a CPU. (PyTorch's own default is
    TF32, which has ten bits of a number.)

    Args:
        device: ``auto`` is ``cuda`` where PyTorch finds such a device, else ``cpu``.

    Raises:
        ValueError: ``cuda`` where there is none.
    """
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise ValueError("PyTorch finds no CUDA device here; set auto or cpu")
    if device == "cpu" or not there:
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")
