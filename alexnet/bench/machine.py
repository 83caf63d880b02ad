"""What this machine can do at best, measured: matrix products and copies. And what it is."""

import os
import platform
from importlib.metadata import version
from typing import Any

import torch

from ..ranks import fast_bf16, multiply_in, processor
from .rows import once

SIDE = {"cpu": 2048, "cuda": 8192, "mps": 4096}  # of the square matrices; of the copies, in rows of 8192 values
TRIES = 5


def describe(device: torch.device) -> dict[str, Any]:
    """Names and versions, and the ceilings: multiply-adds a second by precision, bytes moved a second."""
    precisions = ("fp32", "tf32", "bf16") if device.type == "cuda" else ("fp32", "bf16")
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "numpy")},
        "macs_per_second": {name: macs_per_second(name, device) for name in precisions},
        "bytes_per_second": bytes_per_second(device),
    }


def macs_per_second(precision: str, device: torch.device) -> float:
    """Of the best square matrix product out of a few."""
    multiply_in(precision, device)
    side = SIDE[device.type] if precision != "bf16" or fast_bf16(device) else SIDE[device.type] // 4
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return side**3 / min(once(lambda: torch.mm(a, b, out=out)) for _ in range(TRIES))


def bytes_per_second(device: torch.device) -> float:
    """Of the best copy out of a few, bytes read and bytes written added up; far larger than any cache."""
    values = torch.ones(SIDE[device.type] * 4, 8192, device=device)
    out = torch.empty_like(values)
    out.copy_(values)  # its pages are there
    return 2 * values.nbytes / min(once(lambda: out.copy_(values)) for _ in range(TRIES))
