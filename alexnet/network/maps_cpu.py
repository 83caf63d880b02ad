"""Max-pooling and the first layer's blocks, compiled for the processor by numba; `maps.py` says what is computed.

A window's pixels lie apart and its channels beside each other, so the loop over channels is the inner one and becomes
vectors. Forward reads each value for each window that holds it, from the cache, and notes the place of the largest;
backward adds the slopes of a row of pixels up in a buffer, and writes that once. Windows and the width of values are
constants of a kernel; threads are torch's (`ranks.share`).
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ranks import compiler, share
from .lrn_cpu import ZERO, as_array, inlined, rounded, widened

NOWHERE = np.uint8(255)  # the place where the ReLU behind a window ends its slope
LEAST, START = np.float32(-np.inf), np.uint8(0)  # the largest of no values yet, and a window's first place
compiled = compiler(nogil=True, error_model="numpy")
Kernel = Callable[..., None]


# These two and the constants above are in lrn_pool_cpu.py's kernels too: who changes them changes a line there as well
# (lrn_cpu.py says why).
@inlined
def largest(x: Any, y: Any, places: Any, stride: Any, side: Any, bf16: Any, relu: Any) -> None:
    """Of an image's values (H, W, C), uint16 with `bf16` -> the largest of each window and its place within it,
    (H', W', C); with `relu` 0 and `NOWHERE` where that is not above 0.
    """
    height, width, channels = x.shape
    none = y.dtype.type(0)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            out, kept = y[i, j], places[i, j]
            for c in range(channels):
                best, bits, place = LEAST, x[i * stride, j * stride, c], START
                for p in range(side):
                    h = min(i * stride + p, height - 1)  # beyond the map its edge again, which is no larger
                    for q in range(side):
                        given = x[h, min(j * stride + q, width - 1), c]
                        value = widened(given) if bf16 else given
                        better = value > best or (value != value and best == best)  # the first of equals
                        best = value if better else best
                        bits = given if better else bits
                        place = np.uint8(p * side + q) if better else place
                if relu:
                    bits = none if best <= ZERO else bits
                    place = NOWHERE if best <= ZERO else place
                out[c] = bits
                kept[c] = place


@inlined
def spread(g: Any, places: Any, dx: Any, sums: Any, stride: Any, side: Any, bf16: Any) -> None:
    """Of an image's slopes and places (H', W', C) -> dx (H, W, C), by a buffer (W, C)."""
    height, width, channels = dx.shape
    rows, columns = g.shape[:2]
    for h in range(height):
        sums[:] = 0
        for i in range(max(0, (h - side + stride) // stride), min(h // stride + 1, rows)):
            first = (h - i * stride) * side
            for j in range(columns):
                slopes, kept = g[i, j], places[i, j]
                for q in range(min(side, width - j * stride)):
                    to, here = sums[j * stride + q], np.uint8(first + q)
                    for c in range(channels):
                        slope = widened(slopes[c]) if bf16 else slopes[c]
                        to[c] += slope if kept[c] == here else ZERO
        for w in range(width):
            out = dx[h, w]
            for c in range(channels):
                out[c] = rounded(sums[w, c]) if bf16 else sums[w, c]


@cache
def _forward(side: int, bf16: bool, relu: bool) -> Kernel:
    """`largest` of images."""

    @compiled
    def forward(x: Any, y: Any, places: Any, stride: Any) -> None:
        for n in range(len(x)):
            largest(x[n], y[n], places[n], stride, side, bf16, relu)

    return forward


@cache
def _backward(side: int, bf16: bool) -> Kernel:
    """`spread` over images."""

    @compiled
    def backward(g: Any, places: Any, dx: Any, stride: Any) -> None:
        sums = np.empty(dx.shape[2:], np.float32)
        for n in range(len(dx)):
            spread(g[n], places[n], dx[n], sums, stride, side, bf16)

    return backward


@cache
def _rectified(side: int) -> Kernel:
    """Of bfloat16 as uint16, none below 0, (images, H, W, C) -> the largest of each window, (images, H', W', C).

    Such are in the order of their bits but for the sign of a zero or a NaN, and a NaN comes behind all.
    """
    mask = np.uint16(0x7FFF)

    @compiled
    def rectified(x: Any, y: Any, stride: Any) -> None:
        images, height, width, channels = x.shape
        lines = x.reshape(images, height, width * channels)
        line = np.empty(width * channels, np.uint16)  # the largest of the rows of a window
        columns = line.reshape(width, channels)
        for n in range(images):
            for i in range(y.shape[1]):
                for c in range(width * channels):
                    best = lines[n, i * stride, c] & mask
                    for p in range(1, side):
                        best = max(best, lines[n, min(i * stride + p, height - 1), c] & mask)
                    line[c] = best
                for j in range(y.shape[2]):
                    out = y[n, i, j]
                    for c in range(channels):
                        best = columns[j * stride, c]
                        for q in range(1, side):
                            best = max(best, columns[min(j * stride + q, width - 1), c])
                        out[c] = best

    return rectified


@inlined
def _four_pixels(row: Any, first: Any) -> Any:
    """Twelve values in a row, all read before the first is written: the compiler then moves them as two vectors."""
    return (
        row[first], row[first + 1], row[first + 2], row[first + 3], row[first + 4], row[first + 5],
        row[first + 6], row[first + 7], row[first + 8], row[first + 9], row[first + 10], row[first + 11],
    )  # fmt: skip


@compiled
def _blocks(x: Any, y: Any, before: Any) -> None:
    """Pictures' rows of values (images, H, W·3) -> blocks (images, h, w, 4, 12): of each, four rows of four pixels."""
    images, height, width = x.shape
    for n in range(images):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                first = 12 * j - 3 * before
                for p in range(4):
                    out, h = y[n, i, j, p], 4 * i + p - before
                    if 0 <= h < height and 0 <= first <= width - 12:
                        four = _four_pixels(x[n, h], first)
                        for k in range(12):
                            out[k] = four[k]
                    else:
                        for k in range(12):
                            inside = 0 <= h < height and 0 <= first + k < width
                            out[k] = x[n, h, first + k] if inside else x.dtype.type(0)


def blocks(x: Tensor, y: Tensor, *, before: int) -> None:
    """Pictures (B, H, W, 3), contiguous, `before` zeros above and to the left of each -> y (B, h, w, 48)."""
    rows, out = as_array(x.flatten(2)), as_array(y.unflatten(3, (4, 12)))
    share(_blocks, [rows, out], before)


def max_pool_rectified(x: Tensor, y: Tensor, *, side: int, stride: int) -> None:
    """Values in bfloat16 (B, H, W, C), contiguous, none below 0 -> y (B, H', W', C): `max_pool` without the places."""
    share(_rectified(side), [as_array(x), as_array(y)], stride)


def max_pool(x: Tensor, y: Tensor, places: Tensor, *, side: int, stride: int, relu: bool = False) -> None:
    """Values (B, H, W, C), contiguous -> y and places (B, H', W', C); with `relu` of max(…, 0)."""
    kernel = _forward(side, x.dtype == torch.bfloat16, relu)
    share(kernel, [as_array(x), as_array(y), places.numpy()], stride)


def max_pool_backward(g: Tensor, places: Tensor, dx: Tensor, *, side: int, stride: int) -> None:
    """Slopes and places (B, H', W', C), contiguous -> dx (B, H, W, C)."""
    kernel = _backward(side, g.dtype == torch.bfloat16)
    share(kernel, [as_array(g), places.numpy(), as_array(dx)], stride)
