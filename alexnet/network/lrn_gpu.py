"""Local response normalization over channels compiled for a GPU by Triton; `lrn.py` says what is computed.

One kernel each way: a value is read once and its result written once. The sum over a window is a product of the squares
with a band of ones, on the units that multiply matrices. They take bfloat16, so a float32 goes in as the sum of three,
which hold all its bits; the products are exact, for the other factor is 0 or 1, and the sums are float32. Of two parts,
16 bits are held: all of a bfloat16's square, and more than a bfloat16 result can tell apart.

A value whose square is not finite spoils its pixel's whole run of channels, not only the windows it lies in.
"""
# pyrefly: ignore-errors
# No checker knows the types of Triton's language.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS, WIDEST, LEAST = 64, 128, 16  # of a tile: its pixels; at most and at least so many channels
PARTS = {torch.float32: 3, torch.bfloat16: 2, torch.float16: 3}
ALIGNED = 8  # a tile begins at a multiple: wide loads
# Triton's interpreter multiplies the codes of a bfloat16, not its values
FACTOR = tl.constexpr(tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16)


@triton.jit
def _tile(first, pixels, channels, run, SIZE: tl.constexpr, P: tl.constexpr, C: tl.constexpr, MARGIN: tl.constexpr):
    """Where the values of this program lie (P, C), which of them are there, which it writes, and its band (C, C)."""
    pixel = first * P + tl.arange(0, P)
    place = tl.arange(0, C)
    channel = tl.program_id(1) * (C - 2 * MARGIN) - MARGIN + place
    at = pixel.to(tl.int64)[:, None] * channels + (tl.program_id(2) * run + channel)[None, :]
    there = (pixel < pixels)[:, None] & ((channel >= 0) & (channel < run))[None, :]
    written = there & ((place >= MARGIN) & (place < C - MARGIN))[None, :]
    band = (tl.abs(place[:, None] - place[None, :]) <= SIZE // 2).to(FACTOR)
    return at, there, written, band


@triton.jit
def _sums(values, band, PARTS: tl.constexpr):
    """Float32 (P, C) -> sums over the windows, (P, C)."""
    sums = tl.zeros(values.shape, tl.float32)
    for _ in tl.static_range(PARTS):
        part = values.to(tl.bfloat16)
        sums = tl.dot(part.to(FACTOR), band, sums)
        values -= part.to(tl.float32)
    return sums


@triton.jit
def _power(v, r, BETA: tl.constexpr):
    """v^-beta, r being v^-1/2: by square roots for the two powers that AlexNets have."""
    if BETA == 0.5:
        return r
    if BETA == 0.75:
        return r * tl.sqrt(r)
    return tl.exp2(-BETA * tl.log2(v))


@triton.jit
def _forward(
    x_at, y_at, pixels, channels, run, k, a, SIZE: tl.constexpr, BETA: tl.constexpr, PARTS: tl.constexpr,
    P: tl.constexpr, C: tl.constexpr, MARGIN: tl.constexpr,
):  # fmt: skip
    at, there, written, band = _tile(tl.program_id(0), pixels, channels, run, SIZE, P, C, MARGIN)
    x = tl.load(x_at + at, there, 0.0).to(tl.float32)
    v = k + a * _sums(x * x, band, PARTS)
    tl.store(y_at + at, (x * _power(v, tl.rsqrt(v), BETA)).to(y_at.dtype.element_ty), written)


@triton.jit
def _backward(
    x_at, g_at, dx_at, pixels, channels, run, k, a, SIZE: tl.constexpr, BETA: tl.constexpr, PARTS: tl.constexpr,
    P: tl.constexpr, C: tl.constexpr, MARGIN: tl.constexpr,
):  # fmt: skip
    at, there, written, band = _tile(tl.program_id(0), pixels, channels, run, SIZE, P, C, MARGIN)
    x = tl.load(x_at + at, there, 0.0).to(tl.float32)
    g = tl.load(g_at + at, there, 0.0).to(tl.float32)
    v = k + a * _sums(x * x, band, PARTS)
    r = tl.rsqrt(v)
    slope = g * _power(v, r, BETA)
    dx = slope - 2 * BETA * a * x * _sums(slope * x * r * r, band, PARTS)
    tl.store(dx_at + at, dx.to(dx_at.dtype.element_ty), written)


def forward(x: Tensor, y: Tensor, *, size: int, k: float, a: float, beta: float, towers: int) -> None:
    """Values (B, H, W, C), contiguous -> y, the same."""
    _call(_forward, [x, y], size=size, k=k, a=a, beta=beta, towers=towers)


def backward(x: Tensor, g: Tensor, dx: Tensor, *, size: int, k: float, a: float, beta: float, towers: int) -> None:
    """Values and slopes (B, H, W, C), contiguous -> dx, the same."""
    _call(_backward, [x, g, dx], size=size, k=k, a=a, beta=beta, towers=towers)


def _call(way: Any, tensors: list[Tensor], *, size: int, k: float, a: float, beta: float, towers: int) -> None:
    x = tensors[0]
    channels = x.shape[-1]
    pixels, run = x.numel() // max(1, channels), channels // towers
    wide = max(LEAST, triton.next_power_of_2(run))
    margin = 0 if wide <= WIDEST else -(-2 * (size // 2) // ALIGNED) * ALIGNED  # a term's own window lies in the tile
    wide = min(wide, max(WIDEST, triton.next_power_of_2(4 * margin)))
    grid = (triton.cdiv(pixels, PIXELS), triton.cdiv(run, wide - 2 * margin), towers)
    if x.numel():
        way[grid](
            *tensors, pixels, channels, run, k, a, SIZE=size, BETA=beta, PARTS=PARTS[x.dtype], P=PIXELS, C=wide,
            MARGIN=margin,
        )  # fmt: skip
