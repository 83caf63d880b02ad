"""A normalization and the pool behind it, image by image, compiled for the processor by numba.

Between the two a map goes through a buffer of one image, which caches hold, and not through memory, of which a
training step is short (docs/log.md). The same bits as the kernels of `lrn_cpu.py` and `maps_cpu.py` give one
after the other, of whose parts these are made.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ranks import share
from .lrn_cpu import Kernel, as_array, backward_rows, buffer, compiled, forward_rows, quarters_of
from .maps_cpu import largest, spread


@cache
def _forward(size: int, beta: float, bf16: bool, side: int) -> Kernel:
    """Of values (images, H, W, C) -> the pool of the normalised max(x, 0), and places, (images, H', W', C)."""
    quarters, power = quarters_of(beta), np.float32(beta)

    @compiled
    def forward(x: Any, y: Any, places: Any, k: Any, a: Any, towers: Any, stride: Any) -> None:
        run = x.shape[3] // towers
        squares, made = buffer(run, size), np.empty(x.shape[1:], x.dtype)
        for n in range(len(x)):
            values, normalised = x[n].reshape(-1, run), made.reshape(-1, run)
            forward_rows(values, normalised, squares, k, a, size, power, quarters, bf16, True)
            largest(made, y[n], places[n], stride, side, bf16, False)

    return forward


@cache
def _backward(size: int, beta: float, bf16: bool, side: int) -> Kernel:
    """Of slopes and places (images, H', W', C) and values (images, H, W, C) -> dx, as the values."""
    quarters, power = quarters_of(beta), np.float32(beta)

    @compiled
    def backward(g: Any, places: Any, x: Any, dx: Any, k: Any, a: Any, towers: Any, stride: Any) -> None:
        run = x.shape[3] // towers
        squares, terms, slopes = buffer(run, size), buffer(run, size), buffer(run, size)
        sums, made = np.empty(x.shape[2:], np.float32), np.empty(x.shape[1:], x.dtype)
        for n in range(len(x)):
            spread(g[n], places[n], made, sums, stride, side, bf16)
            values, given, out = x[n].reshape(-1, run), made.reshape(-1, run), dx[n].reshape(-1, run)
            backward_rows(values, given, out, squares, terms, slopes, k, a, size, power, quarters, bf16, True)

    return backward


def forward(
    x: Tensor, y: Tensor, places: Tensor, *, size: int, k: float, a: float, beta: float, towers: int, side: int,
    stride: int,
) -> None:  # fmt: skip
    """Values (B, H, W, C), contiguous -> the pool of the normalised max(x, 0), and places, (B, H', W', C)."""
    kernel = _forward(size, beta, x.dtype == torch.bfloat16, side)
    share(kernel, [as_array(x), as_array(y), places.numpy()], np.float32(k), np.float32(a), towers, stride)


def backward(
    g: Tensor, places: Tensor, x: Tensor, dx: Tensor, *, size: int, k: float, a: float, beta: float, towers: int,
    side: int, stride: int,
) -> None:  # fmt: skip
    """Slopes and places (B, H', W', C) and values (B, H, W, C), contiguous -> dx (B, H, W, C)."""
    kernel = _backward(size, beta, x.dtype == torch.bfloat16, side)
    arrays = [as_array(g), places.numpy(), as_array(x), as_array(dx)]
    share(kernel, arrays, np.float32(k), np.float32(a), towers, stride)
