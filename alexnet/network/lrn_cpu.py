"""Local response normalization compiled for the processor by numba; `lrn.py` says what is computed.

A kernel reads each value once and writes each result once: squares, windowed sums and powers of a run of values stay in
buffers that the first-level cache holds, in loops that the compiler turns into vector instructions. Windows, powers and
the width of values are constants of a kernel, so there is one for each of those; it is compiled at first use and kept
on disk (`ranks.compiler`). Threads are torch's (`ranks.share`).

Values are float32, or bfloat16 as the uint16 that numba knows; sums are float32.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ..ranks import compiler, share

BLOCK_VALUES = 512  # about as many of each buffer at a time; twice as many are slower where memory is the limit
ONE, ZERO = np.float32(1), np.float32(0)
Kernel = Callable[..., None]
# "arcp": 1 / sqrt becomes the processor's estimate and a step of Newton's, within some units of the last place
compiled = compiler(nogil=True, error_model="numpy", fastmath={"contract", "arcp"})
inlined = njit(inline="always", error_model="numpy")


# Every `@inlined` function of this file, and the constants above, are in kernels of other files too (maps_cpu.py,
# lrn_pool_cpu.py, ../data/augment_cpu.py, ../training/optim_cpu.py). numba keeps a kernel on disk until its own file
# changes: whoever changes these changes a line there as well.
@inlined
def widened(bits: Any) -> Any:
    """bfloat16 as uint16 -> float32."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@inlined
def rounded(value: Any) -> Any:
    """float32 -> bfloat16 as uint16, to the nearest, ties to even; a NaN stays one, but for those of 2^15 kinds
    that no arithmetic makes.
    """
    bits = np.float32(value).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@inlined
def _rsqrt(v: Any) -> Any:
    """v^-1/2; of an infinite v, NaN: what Newton's step makes of it."""
    return ONE / np.sqrt(v)


@inlined
def _cube_of_root(r: Any) -> Any:
    """r^3/2, by r² / sqrt(r) and not r · sqrt(r): a root alone is slower than what stands below one."""
    return r * (r * (ONE / np.sqrt(r)))


@inlined
def _rows_of(run: Any) -> Any:
    """How many rows a block has: a buffer has room for so many."""
    return 1 + BLOCK_VALUES // run


@inlined
def _value(x: Any, bf16: Any, relu: Any) -> Any:
    """float32, max(x, 0) with `relu`."""
    value = widened(x) if bf16 else x
    if relu:
        value = ZERO if value <= ZERO else value  # NaN stays NaN
    return value


@inlined
def _squared(x: Any, squares: Any, size: Any, bf16: Any, relu: Any) -> None:
    """The squares of values (rows, run), each row behind `size` // 2 zeros, into a buffer."""
    half = size // 2
    for p in range(len(x)):
        given, square = x[p], squares[p * (x.shape[1] + half) + half :]
        for c in range(x.shape[1]):
            value = _value(given[c], bf16, relu)
            square[c] = value * value


@inlined
def forward_rows(
    x: Any, y: Any, squares: Any, k: Any, a: Any, size: Any, power: Any, quarters: Any, bf16: Any, relu: Any
) -> None:
    """Values (rows, run) -> the same, normalised, the window within a row; by a `buffer`.

    All of a block's squares are written before the first is summed, lest loads that straddle two stores wait for them
    (docs/log.md has the figures).
    """
    rows, run = x.shape
    step, block = run + size // 2, _rows_of(run)
    for start in range(0, rows, block):
        stop = min(start + block, rows)
        _squared(x[start:stop], squares, size, bf16, relu)
        for p in range(start, stop):
            given, out, near = x[p], y[p], squares[(p - start) * step :]
            for c in range(run):
                s = near[c]
                for j in range(1, size):
                    s += near[c + j]
                v = k + a * s
                value = _value(given[c], bf16, relu)
                if quarters:
                    r = _rsqrt(v)
                    value *= _cube_of_root(r) if quarters == 3 else r
                else:
                    value *= v**-power
                out[c] = rounded(value) if bf16 else value


@inlined
def backward_rows(
    x: Any, g: Any, dx: Any, squares: Any, terms: Any, slopes: Any, k: Any, a: Any, size: Any, power: Any,
    quarters: Any, bf16: Any, relu: Any,
) -> None:  # fmt: skip
    """Values and slopes (rows, run) -> dx, by three `buffer`s."""
    rows, run = x.shape
    step, block = run + size // 2, _rows_of(run)
    m = np.float32(2) * a * power
    for start in range(0, rows, block):
        stop = min(start + block, rows)
        _squared(x[start:stop], squares, size, bf16, relu)
        for p in range(start, stop):
            given, slope, near = x[p], g[p], squares[(p - start) * step :]
            kept, term = slopes[(p - start) * run :], terms[(p - start) * step + size // 2 :]
            for c in range(run):
                s = near[c]
                for j in range(1, size):
                    s += near[c + j]
                v = k + a * s
                value = _value(given[c], bf16, relu)
                d = widened(slope[c]) if bf16 else slope[c]
                if quarters:
                    r = _rsqrt(v)
                    d *= _cube_of_root(r) if quarters == 3 else r
                    term[c] = d * value * r * r
                else:
                    d *= v**-power
                    term[c] = d * value / v
                kept[c] = d
        for p in range(start, stop):
            given, out = x[p], dx[p]
            kept, near = slopes[(p - start) * run :], terms[(p - start) * step :]
            for c in range(run):
                s = near[c]
                for j in range(1, size):
                    s += near[c + j]
                value = _value(given[c], bf16, relu)
                d = kept[c] - m * value * s
                if relu:
                    d = ZERO if value <= ZERO else d
                out[c] = rounded(d) if bf16 else d


@inlined
def buffer(run: Any, size: Any) -> Any:
    """For a block of rows: zeros, `size` // 2 of them before, between and behind."""
    return np.zeros(_rows_of(run) * (run + size // 2) + size // 2, np.float32)


def quarters_of(beta: float) -> int:
    """A power that has square roots, in quarters; 0 for any other."""
    return {0.5: 2, 0.75: 3}.get(beta, 0)


@cache
def _across(size: int, beta: float, bf16: bool, relu: bool) -> tuple[Kernel, Kernel]:
    """(forward, backward) on values (rows, run), the window within a row; with `relu` of max(value, 0)."""
    quarters, power = quarters_of(beta), np.float32(beta)

    @compiled
    def forward(x: Any, y: Any, k: Any, a: Any) -> None:
        forward_rows(x, y, buffer(x.shape[1], size), k, a, size, power, quarters, bf16, relu)

    @compiled
    def backward(x: Any, g: Any, dx: Any, k: Any, a: Any) -> None:
        run = x.shape[1]
        squares, terms, slopes = buffer(run, size), buffer(run, size), buffer(run, size)
        backward_rows(x, g, dx, squares, terms, slopes, k, a, size, power, quarters, bf16, relu)

    return forward, backward


# Functions of the module, not of the factory below: numba knows a kernel on disk by what it closes over.
@inlined
def _widen(narrow: Any, wide: Any) -> None:
    """bfloat16 as uint16 -> float32, for a whole map."""
    for c in range(len(narrow)):
        wide[c] = widened(narrow[c])


@inlined
def narrow(values: Any, out: Any) -> None:
    """float32 -> bfloat16 as uint16, for a run of values."""
    for c in range(len(out)):
        out[c] = rounded(values[c])


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
    half, quarters = size // 2, quarters_of(beta)
    two, power = np.float32(2), np.float32(beta)

    @compiled
    def forward(x: Any, y: Any, k: Any, a: Any) -> None:
        images, height, width, channels = x.shape
        values = np.empty(x.shape[1:], np.float32)
        squares, sums = np.empty_like(values), np.empty_like(values)
        s = np.empty(channels, np.float32)
        for n in range(images):
            if bf16:
                _widen(x[n].reshape(-1), values.reshape(-1))
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
                            r = _rsqrt(v)
                            values[i, j, c] *= _cube_of_root(r) if quarters == 3 else r
                        else:
                            values[i, j, c] *= v**-power
            if bf16:
                narrow(values.reshape(-1), y[n].reshape(-1))
            else:
                y[n] = values

    @compiled
    def backward(x: Any, g: Any, dx: Any, k: Any, a: Any) -> None:
        images, height, width, channels = x.shape
        values, slopes = np.empty(x.shape[1:], np.float32), np.empty(x.shape[1:], np.float32)
        squares, sums = np.empty_like(values), np.empty_like(values)
        s = np.empty(channels, np.float32)
        m = two * a * power
        for n in range(images):
            if bf16:
                _widen(x[n].reshape(-1), values.reshape(-1))
                _widen(g[n].reshape(-1), slopes.reshape(-1))
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
                            r = _rsqrt(v)
                            slopes[i, j, c] *= _cube_of_root(r) if quarters == 3 else r
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
                narrow(slopes.reshape(-1), dx[n].reshape(-1))
            else:
                dx[n] = slopes

    return forward, backward


def as_array(x: Tensor) -> np.ndarray:
    """The values of a tensor as the kernels take them."""
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


def forward(
    x: Tensor, y: Tensor, *, size: int, k: float, a: float, beta: float, towers: int, relu: bool = False
) -> None:
    """Values (B, H, W, C), contiguous -> y, the same; `towers` 0: the window is over pixels of a map.

    With `relu`, and a window over channels, of max(x, 0).
    """
    _call(0, [x, y], size=size, k=k, a=a, beta=beta, towers=towers, relu=relu)


def backward(
    x: Tensor, g: Tensor, dx: Tensor, *, size: int, k: float, a: float, beta: float, towers: int, relu: bool = False
) -> None:
    """Values and slopes (B, H, W, C), contiguous -> dx, the same."""
    _call(1, [x, g, dx], size=size, k=k, a=a, beta=beta, towers=towers, relu=relu)


def _call(
    which: int, tensors: list[Tensor], *, size: int, k: float, a: float, beta: float, towers: int, relu: bool
) -> None:
    bf16 = tensors[0].dtype == torch.bfloat16
    if towers:
        arrays = [as_array(t).reshape(-1, t.shape[-1] // towers) for t in tensors]  # no window leaves its tower
        share(_across(size, beta, bf16, relu)[which], arrays, np.float32(k), np.float32(a))
    else:
        share(_within(size, beta, bf16)[which], [as_array(t) for t in tensors], np.float32(k), np.float32(a))
