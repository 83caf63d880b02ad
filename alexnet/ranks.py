"""What a process computes on: its device, and the precision that the device multiplies in."""

import torch

from .errors import UsageError


def device_of(name: str) -> torch.device:
    """auto | cpu | cuda | mps -> a device that is there; one that is not is a UsageError."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    if name not in there:
        raise UsageError(f"--device {name}: unknown; known are auto, {', '.join(there)}")
    if not there[name]:
        raise UsageError(f"--device {name}: torch sees none on this machine")
    return torch.device(name)


def precision_of(name: str, device: torch.device) -> str:
    """auto | fp32 | bf16 -> fp32 or bf16; auto takes bf16 where the hardware multiplies in it."""
    if name in ("fp32", "bf16"):
        return name
    if name != "auto":
        raise UsageError(f"--precision {name}: unknown; known are auto, fp32, bf16")
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "fp32"
