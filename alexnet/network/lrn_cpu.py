"""Local response normalization compiled for the processor by numba; `lrn.py` says what is computed.

A kernel reads each value once and writes each result once: squares, windowed sums and powers of a run of values stay in
buffers that the first-level cache holds, in loops that the compiler turns into vector instructions. Windows, powers and
the width of values are constants of a kernel, so there is one for each of those; it is compiled at first use and kept
on disk. Threads are a pool of our own (`ranks.share`).

Values are float32, or bfloat16 as the uint16 that numba knows; sums are float32.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ..ranks import share

Kernel = Callable[..., None]
compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
inlined = njit(inline="always", error_model="numpy")


@inlined
def widen(narrow: Any, wide: Any) -> None:
    """bfloat16 as uint16 -> float32 as uint32."""
    for c in range(len(narrow)):
        wide[c] = np.uint32(narrow[c]) << np.uint32(16)


@inlined
def narrow(wide: Any, out: Any) -> None:
    """float32 as uint32 -> bfloat16 as uint16, to the nearest, ties to even; NaN stays NaN."""
    for c in range(len(out)):
        bits = wide[c]
        nearest = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        out[c] = np.uint16(0x7FC0) if (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000) else np.uint16(nearest)


@cache
def _across(size: int, beta: float, bf16: bool) -> tuple[Kernel, Kernel]:
    """(forward, backward) on values (pixels, channels), the window over channels."""
    half, quarters = size // 2, {0.5: 2, 0.75: 3}.get(beta, 0)
    one, two, power = np.float32(1), np.float32(2), np.float32(beta)

    @compiled
    def forward(x: Any, y: Any, towers: int, k: Any, a: Any) -> None:
        pixels, channels = x.shape
        run = channels // towers
        squares = np.zeros(run + 2 * half, np.float32)
        bits = np.empty(run, np.uint32)
        values = bits.view(np.float32)
        for p in range(pixels):
            for t in range(towers):
                given, out = x[p, t * run : (t + 1) * run], y[p, t * run : (t + 1) * run]
                if bf16:
                    widen(given, bits)
                else:
                    values[:] = given
                for c in range(run):
                    squares[half + c] = values[c] * values[c]
                for c in range(run):
                    s = squares[c]
                    for j in range(1, size):
                        s += squares[c + j]
                    v = k + a * s
                    if quarters:
                        r = one / np.sqrt(v)
                        values[c] *= r * np.sqrt(r) if quarters == 3 else r
                    else:
                        values[c] *= v**-power
                if bf16:
                    narrow(bits, out)
                else:
                    out[:] = values

    @compiled
    def backward(x: Any, g: Any, dx: Any, towers: int, k: Any, a: Any) -> None:
        pixels, channels = x.shape
        run = channels // towers
        squares, terms = np.zeros(run + 2 * half, np.float32), np.zeros(run + 2 * half, np.float32)
        bits, slope_bits = np.empty(run, np.uint32), np.empty(run, np.uint32)
        values, slopes = bits.view(np.float32), slope_bits.view(np.float32)
        m = two * a * power
        for p in range(pixels):
            for t in range(towers):
                given, slope, out = (
                    x[p, t * run : (t + 1) * run],
                    g[p, t * run : (t + 1) * run],
                    dx[p, t * run : (t + 1) * run],
                )
                if bf16:
                    widen(given, bits)
                    widen(slope, slope_bits)
                else:
                    values[:] = given
                    slopes[:] = slope
                for c in range(run):
                    squares[half + c] = values[c] * values[c]
                for c in range(run):
                    s = squares[c]
                    for j in range(1, size):
                        s += squares[c + j]
                    v = k + a * s
                    if quarters:
                        r = one / np.sqrt(v)
                        slopes[c] *= r * np.sqrt(r) if quarters == 3 else r
                        terms[half + c] = slopes[c] * values[c] * r * r
                    else:
                        slopes[c] *= v**-power
                        terms[half + c] = slopes[c] * values[c] / v
                for c in range(run):
                    s = terms[c]
                    for j in range(1, size):
                        s += terms[c + j]
                    slopes[c] -= m * values[c] * s
                if bf16:
                    narrow(slope_bits, out)
                else:
                    out[:] = slopes

    return forward, backward


# Functions of the module, not of the factory below: numba knows a kernel on disk by what it closes over.
@inlined
def _along(values: Any, out: Any, half: int) -> None:
    """(H, W, C) -> sums over the columns at most `half` away."""
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = 0
            for n in range(max(j - half, 0), min(j + half + 1, values.shape[1])):
                for c in range(values.shape[2]):
                    out[i, j, c] += values[i, n, c]


@inlined
def _down(values: Any, i: int, j: int, out: Any, half: int) -> None:
    """Sums over the rows at most `half` away at one pixel: (H, W, C) -> (C,)."""
    out[:] = 0
    for n in range(max(i - half, 0), min(i + half + 1, values.shape[0])):
        for c in range(values.shape[2]):
            out[c] += values[n, j, c]


@cache
def _within(size: int, beta: float, bf16: bool) -> tuple[Kernel, Kernel]:
    """(forward, backward) on values (images, H, W, channels), the window over the pixels of a map."""
    half, quarters = size // 2, {0.5: 2, 0.75: 3}.get(beta, 0)
    one, two, power = np.float32(1), np.float32(2), np.float32(beta)

    @compiled
    def forward(x: Any, y: Any, k: Any, a: Any) -> None:
        images, height, width, channels = x.shape
        bits = np.empty((height, width, channels), np.uint32)
        values = bits.view(np.float32)
        squares, sums = np.empty_like(values), np.empty_like(values)
        s = np.empty(channels, np.float32)
        for n in range(images):
            if bf16:
                widen(x[n].reshape(-1), bits.reshape(-1))
            else:
                values[:] = x[n]
            squares[:] = values * values
            _along(squares, sums, half)
            for i in range(height):
                for j in range(width):
                    _down(sums, i, j, s, half)
                    for c in range(channels):
                        v = k + a * s[c]
                        if quarters:
                            r = one / np.sqrt(v)
                            values[i, j, c] *= r * np.sqrt(r) if quarters == 3 else r
                        else:
                            values[i, j, c] *= v**-power
            if bf16:
                narrow(bits.reshape(-1), y[n].reshape(-1))
            else:
                y[n] = values

    @compiled
    def backward(x: Any, g: Any, dx: Any, k: Any, a: Any) -> None:
        images, height, width, channels = x.shape
        bits = np.empty((height, width, channels), np.uint32)
        slope_bits = np.empty((height, width, channels), np.uint32)
        values, slopes = bits.view(np.float32), slope_bits.view(np.float32)
        squares, sums = np.empty_like(values), np.empty_like(values)
        s = np.empty(channels, np.float32)
        m = two * a * power
        for n in range(images):
            if bf16:
                widen(x[n].reshape(-1), bits.reshape(-1))
                widen(g[n].reshape(-1), slope_bits.reshape(-1))
            else:
                values[:] = x[n]
                slopes[:] = g[n]
            squares[:] = values * values
            _along(squares, sums, half)
            for i in range(height):
                for j in range(width):
                    _down(sums, i, j, s, half)
                    for c in range(channels):
                        v = k + a * s[c]
                        if quarters:
                            r = one / np.sqrt(v)
                            slopes[i, j, c] *= r * np.sqrt(r) if quarters == 3 else r
                            squares[i, j, c] = slopes[i, j, c] * values[i, j, c] * r * r
                        else:
                            slopes[i, j, c] *= v**-power
                            squares[i, j, c] = slopes[i, j, c] * values[i, j, c] / v
            _along(squares, sums, half)
            for i in range(height):
                for j in range(width):
                    _down(sums, i, j, s, half)
                    for c in range(channels):
                        slopes[i, j, c] -= m * values[i, j, c] * s[c]
            if bf16:
                narrow(slope_bits.reshape(-1), dx[n].reshape(-1))
            else:
                dx[n] = slopes

    return forward, backward


def as_array(x: Tensor) -> np.ndarray:
    """The values of a tensor as the kernels take them."""
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


def forward(x: Tensor, y: Tensor, *, size: int, k: float, a: float, beta: float, towers: int) -> None:
    """Values (B, H, W, C), contiguous -> y, the same; `towers` 0: the window is over pixels of a map."""
    _call(0, [x, y], size=size, k=k, a=a, beta=beta, towers=towers)


def backward(x: Tensor, g: Tensor, dx: Tensor, *, size: int, k: float, a: float, beta: float, towers: int) -> None:
    """Values and slopes (B, H, W, C), contiguous -> dx, the same."""
    _call(1, [x, g, dx], size=size, k=k, a=a, beta=beta, towers=towers)


def _call(which: int, tensors: list[Tensor], *, size: int, k: float, a: float, beta: float, towers: int) -> None:
    bf16 = tensors[0].dtype == torch.bfloat16
    if towers:
        arrays = [as_array(t).reshape(-1, t.shape[-1]) for t in tensors]
        share(_across(size, beta, bf16)[which], arrays, towers, np.float32(k), np.float32(a))
    else:
        share(_within(size, beta, bf16)[which], [as_array(t) for t in tensors], np.float32(k), np.float32(a))
