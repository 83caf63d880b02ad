"""How a network is computed, where there is a choice: the same numbers within rounding, at unlike speeds.

`PLAIN` is what torch does when told nothing. `fastest` measures the alternatives on this machine for one variant, batch
size and precision, each the way training uses it, forward and backward.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.errors import UsageError
from alexnet.network.cost import Shape, out_shape
from alexnet.network.lrn import lrn, within_map
from alexnet.network.variants import LRN, Conv, Variant, WithinMapLRN
from alexnet.ranks import has_numba

CHOICES: dict[str, tuple[str, ...]] = {
    "lrn": ("torch", "numba"),  # plain torch; compiled for the processor
    "conv1": ("direct", "blocks"),  # as it stands; 4 x 4 pixels as 48 channels, then 3 x 3 with stride 1
    "towers": ("grouped", "apart"),  # one convolution of two groups; two convolutions
}
REPEATS = 3  # of each alternative, in turn
MOST_IMAGES = 32  # measured: what is faster for these is faster for more


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """One of `CHOICES` for each. UsageError: a value that is none of them."""

    lrn: str
    conv1: str
    towers: str

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"kernels: {name} is {getattr(self, name)!r}, expected one of: {', '.join(allowed)}")

    @classmethod
    def of(cls, value: Any, where: str) -> "Kernels":
        """From the object in environment.json; UsageError names `where`."""
        names = {field.name for field in fields(cls)}
        if not isinstance(value, dict) or set(value) != names:
            raise UsageError(f"{where}: kernels: expected {', '.join(sorted(names))}, found {value!r}")
        made = cls(**value)
        if made.lrn == "numba" and not has_numba():
            raise UsageError(f"{where}: kernels: lrn numba: numba is not installed here (pip install 'alexnet[fast]')")
        return made

    def to_json(self) -> dict[str, str]:
        """What environment.json holds."""
        return asdict(self)


PLAIN = Kernels(lrn="torch", conv1="direct", towers="grouped")


def unmeasured(device: torch.device) -> Kernels:
    """The compiled normalization where it is installed and serves, else `PLAIN`: for work of many batches."""
    return replace(PLAIN, lrn="numba") if has_numba() and device.type == "cpu" else PLAIN


def convolved(row: Conv, x: Tensor, weight: Tensor, bias: Tensor, kernels: Kernels) -> Tensor:
    """The convolution of a row: (B, C, H, W) -> (B, out, H', W')."""
    before, after = row.pad.before, row.pad.after
    if kernels.conv1 == "blocks" and _is_first(row):
        return _in_blocks(row, x, weight, bias)
    if before != after:
        x, before = F.pad(x, (before, after) * 2), 0
    if kernels.towers == "apart" and row.groups > 1:
        parts = zip(x.chunk(row.groups, 1), weight.chunk(row.groups), bias.chunk(row.groups), strict=True)
        return torch.cat([F.conv2d(part, w, b, row.stride, before) for part, w, b in parts], 1)
    return F.conv2d(x, weight, bias, row.stride, before, 1, row.groups)


def _is_first(row: Conv) -> bool:
    """Whether a row is AlexNet's first: 11 x 11 pixels every 4."""
    return (row.kernel, row.stride, row.groups) == (11, 4, 1)


def _in_blocks(row: Conv, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The first convolution on blocks of 4 x 4 pixels: the kernel gets a twelfth row and column of zeros."""
    B, C, H, W = x.shape
    sides = [(n + row.pad.before + row.pad.after - 11) // 4 + 3 for n in (H, W)]  # in blocks
    ends = [4 * side - n - row.pad.before for side, n in zip(sides, (H, W), strict=True)]
    padded = F.pad(x, (row.pad.before, ends[1], row.pad.before, ends[0])).permute(0, 2, 3, 1)  # (B, 4h, 4w, C)
    h, w = sides
    blocks = padded.reshape(B, h, 4, w, 4, C).permute(0, 1, 3, 2, 4, 5).reshape(B, h, w, 16 * C).permute(0, 3, 1, 2)
    wide = F.pad(weight, (0, 1, 0, 1)).reshape(-1, C, 3, 4, 3, 4).permute(0, 3, 5, 1, 2, 4).reshape(-1, 16 * C, 3, 3)
    return F.conv2d(blocks, wide, bias)


def fastest(
    variant: Variant, *, batch: int, precision: str, device: torch.device
) -> tuple[Kernels, dict[str, dict[str, float]]]:
    """The faster of each choice here, and what was measured: seconds a batch, the median, by choice and alternative.

    A choice that the variant does not have, or of which this machine has one alternative, is `PLAIN`'s.
    """
    images = max(1, min(batch, MOST_IMAGES))  # accumulated parts may be empty
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    made, measured = PLAIN, dict[str, dict[str, float]]()
    for choice, alternatives in CHOICES.items():
        if choice == "lrn" and (not has_numba() or device.type != "cpu"):
            continue
        runs = {one: _layers(variant, replace(PLAIN, **{choice: one}), choice, images, dtype, device)
                for one in alternatives}  # fmt: skip
        if not runs[alternatives[0]]:
            continue
        seconds: dict[str, list[float]] = {one: [] for one in alternatives}
        for repeat in range(REPEATS + 1):
            for one, layers in runs.items():
                passed = sum(_seconds(layer, device) for layer in layers)
                if repeat:  # the first compiles, and fills caches
                    seconds[one].append(passed)
        measured[choice] = {one: sorted(times)[len(times) // 2] for one, times in seconds.items()}
        made = replace(made, **{choice: min(alternatives, key=lambda one: measured[choice][one])})
    return made, measured


def _layers(
    variant: Variant, kernels: Kernels, choice: str, images: int, dtype: torch.dtype, device: torch.device
) -> list[Callable[[], object]]:
    """Forward and backward of each layer that the choice is about, on random values."""
    found: list[Callable[[], object]] = []
    shape: Shape = (3, variant.side, variant.side)
    for row in variant.layers:
        out = out_shape(row, shape, 2)
        match row:
            case Conv():
                if (choice == "conv1" and _is_first(row)) or (choice == "towers" and row.groups > 1):
                    size = (row.out, shape[0] // row.groups, row.kernel, row.kernel)
                    found.append(_convolution(row, kernels, (images, *shape), size, (images, *out), dtype, device))
            case LRN() | WithinMapLRN():
                if choice == "lrn":
                    found.append(_normalisation(row, kernels, (images, *shape), dtype, device))
            case _:
                pass
        shape = out
    return found


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    values = torch.empty(shape, device=device).normal_(generator=torch.Generator(device).manual_seed(0))
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


def _convolution(
    row: Conv, kernels: Kernels, shape: tuple[int, ...], size: tuple[int, ...], out: tuple[int, ...],
    dtype: torch.dtype, device: torch.device,
) -> Callable[[], object]:  # fmt: skip
    x, weight, g = (_random(one, dtype, device) for one in (shape, size, out))
    bias = torch.zeros(row.out, dtype=dtype, device=device, requires_grad=True)
    wanted = [weight.requires_grad_(), bias]
    if not _is_first(row):  # no one asks for the pictures' gradient
        wanted.append(x.requires_grad_())
    return lambda: torch.autograd.grad(convolved(row, x, weight, bias, kernels), wanted, g)


def _normalisation(
    row: LRN | WithinMapLRN, kernels: Kernels, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Callable[[], object]:
    x, g = _random(shape, dtype, device).requires_grad_(), _random(shape, dtype, device)
    return lambda: torch.autograd.grad(normalised(row, x, kernels), x, g)


def normalised(row: LRN | WithinMapLRN, x: Tensor, kernels: Kernels) -> Tensor:
    """The normalization of a row: (B, C, H, W) -> the same."""
    if isinstance(row, WithinMapLRN):
        return within_map(x, size=row.size, k=row.k, alpha=row.alpha, beta=row.beta, kernel=kernels.lrn)
    return lrn(
        x, size=row.size, k=row.k, alpha=row.alpha, beta=row.beta, divide=row.divide, towers=row.towers,
        kernel=kernels.lrn,
    )  # fmt: skip


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin
