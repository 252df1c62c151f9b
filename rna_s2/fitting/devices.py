"""What networks are computed on, and in which precision: a CUDA device where there is one, else the CPU."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # its import takes seconds, and options are checked without it
    import torch

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "32", "bf16"]
PRECISION_HELP = (
    "32: single precision; bf16: mixed with bfloat16; auto: bf16 on CUDA devices that have it; on x86 processors with"
    " instructions for it a training tries which is faster, and everything else takes bf16; else 32"
)


def chosen_device(device: Device = "auto") -> torch.device:
    """The device that an option means.

    On CUDA, convolutions in single precision are then computed in single precision, as on a CPU. (PyTorch's own default is
    TF32, which has ten bits of a number.)

    Args:
        device: ``auto`` is ``cuda`` where PyTorch finds such a device, else ``cpu``.

    Raises:
        ValueError: ``cuda`` where there is none.
    """
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise ValueError("PyTorch finds no CUDA device here; set auto or cpu")
    if device == "cpu" or not there:
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


def chosen_precision(precision: Precision, device: torch.device) -> Literal["32", "bf16"]:
    """The precision that an option means on a device; ``auto`` is ``bf16`` where :func:`has_bfloat16`, else ``32``."""
    if precision == "auto":
        return "bf16" if has_bfloat16(device) else "32"
    return precision


def warn_of_slow(precision: Precision, device: torch.device) -> None:
    """A warning where bfloat16 is asked for and likely to take several times as long as single precision."""
    if precision == "bf16" and not has_bfloat16(device):
        logger.warning("precision bf16: no instructions for bfloat16 are known here; without them, 32 (or auto) is much faster")


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bfloat16 by instructions of its own (CUDA, and on x86 AVX512-BF16 or AMX;
    others are not known)."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    of_processor = torch.cpu.get_capabilities()
    return bool(of_processor.get("avx512_bf16") or of_processor.get("amx_bf16"))
