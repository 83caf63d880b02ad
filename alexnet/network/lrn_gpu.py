"""Local response normalization over channels compiled for a GPU by Triton; `lrn.py` says what is computed.

One kernel each way: a value is read once and its result written once. The sum over a window is a product of the squares
with a band of ones, on the units that multiply matrices. They take bfloat16, so a float32 goes in as the sum of three,
which hold all its bits; the products are exact, for the other factor is 0 or 1, and the sums are float32. Of two parts,
16 bits are held: all of a bfloat16's square, and more than a bfloat16 result can tell apart.

`bias_relu_lrn` also does what comes before it in a network, and takes the towers apart on the way: five passes less
over maps that no cache holds.

A value whose square is not finite spoils its pixel's whole run of channels, not only the windows it lies in.
"""
# pyrefly: ignore-errors
# No checker knows the types of Triton's language.

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .maps import empty_map, last

PIXELS, WIDEST, LEAST = 64, 128, 16  # of a tile: its pixels; at most and at least so many channels
PARTS = {torch.float32: 3, torch.bfloat16: 2, torch.float16: 3}
ALIGNED = 8  # a tile begins at a multiple: wide loads
# Triton's interpreter multiplies the codes of a bfloat16, not its values
FACTOR = tl.constexpr(tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16)


@triton.jit
def _tile(pixels, run, SIZE: tl.constexpr, P: tl.constexpr, C: tl.constexpr, MARGIN: tl.constexpr):
    """The pixels (P,) and channels of a tower (C,) of this program; which values are there, which it writes; a band."""
    pixel = (tl.program_id(0) * P + tl.arange(0, P)).to(tl.int64)
    place = tl.arange(0, C)
    channel = tl.program_id(1) * (C - 2 * MARGIN) - MARGIN + place
    there = (pixel < pixels)[:, None] & ((channel >= 0) & (channel < run))[None, :]
    inner = (place >= MARGIN) & (place < C - MARGIN)
    band = (tl.abs(place[:, None] - place[None, :]) <= SIZE // 2).to(FACTOR)
    return pixel, channel, there, there & inner[None, :], band


@triton.jit
def _given(x_at, bias_at, at, channel, there, known, RECTIFIED: tl.constexpr):
    """The values to normalise, (P, C): max(x + bias, 0) with `RECTIFIED`."""
    x = tl.load(x_at + at, there, 0.0).to(tl.float32)
    if RECTIFIED:
        x += tl.load(bias_at + channel, known, 0.0).to(tl.float32)[None, :]
        x = tl.where((x <= 0) | (there == 0), 0.0, x)  # NaN stays NaN
    return x


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
    x_at, bias_at, y_at, pixels, run, x_row, x_first, y_row, k, a, SIZE: tl.constexpr, BETA: tl.constexpr,
    PARTS: tl.constexpr, RECTIFIED: tl.constexpr, P: tl.constexpr, C: tl.constexpr, MARGIN: tl.constexpr,
):  # fmt: skip
    pixel, channel, there, written, band = _tile(pixels, run, SIZE, P, C, MARGIN)
    known, channel = (channel >= 0) & (channel < run), channel + tl.program_id(2) * run
    at = pixel[:, None] * x_row + (x_first + channel)[None, :]
    x = _given(x_at, bias_at, at, x_first + channel, there, known, RECTIFIED)
    v = k + a * _sums(x * x, band, PARTS)
    y = x * _power(v, tl.rsqrt(v), BETA)
    tl.store(y_at + pixel[:, None] * y_row + channel[None, :], y.to(y_at.dtype.element_ty), written)


@triton.jit
def _backward(
    x_at, bias_at, g_at, dx_at, sums_at, pixels, run, x_row, x_first, y_row, k, a, SIZE: tl.constexpr,
    BETA: tl.constexpr, PARTS: tl.constexpr, RECTIFIED: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
    MARGIN: tl.constexpr,
):  # fmt: skip
    pixel, channel, there, written, band = _tile(pixels, run, SIZE, P, C, MARGIN)
    known, channel = (channel >= 0) & (channel < run), channel + tl.program_id(2) * run
    at = pixel[:, None] * x_row + (x_first + channel)[None, :]
    x = _given(x_at, bias_at, at, x_first + channel, there, known, RECTIFIED)
    g = tl.load(g_at + pixel[:, None] * y_row + channel[None, :], there, 0.0).to(tl.float32)
    v = k + a * _sums(x * x, band, PARTS)
    r = tl.rsqrt(v)
    slope = g * _power(v, r, BETA)
    dx = slope - 2 * BETA * a * x * _sums(slope * x * r * r, band, PARTS)
    if RECTIFIED:
        dx = tl.where((x <= 0) | (written == 0), 0.0, dx)
        place = tl.arange(0, C)
        inner = known & (place >= MARGIN) & (place < C - MARGIN)
        tl.store(sums_at + tl.program_id(0) * x_row + x_first + channel, tl.sum(dx, 0), inner)
    tl.store(dx_at + at, dx.to(dx_at.dtype.element_ty), written)


def forward(x: Tensor, y: Tensor, *, size: int, k: float, a: float, beta: float, towers: int) -> None:
    """Values (B, H, W, C), contiguous -> y, the same."""
    for grid, rest in _launches(x, [y], size=size, k=k, a=a, beta=beta, towers=towers):
        _forward[grid](x, x, y, RECTIFIED=False, **rest)


def backward(x: Tensor, g: Tensor, dx: Tensor, *, size: int, k: float, a: float, beta: float, towers: int) -> None:
    """Values and slopes (B, H, W, C), contiguous -> dx, the same."""
    for grid, rest in _launches(x, [g], size=size, k=k, a=a, beta=beta, towers=towers):
        _backward[grid](x, x, g, dx, x, RECTIFIED=False, **rest)


def _launches(
    x: Tensor, ys: Sequence[Tensor], *, size: int, k: float, a: float, beta: float, towers: int
) -> Iterator[tuple[tuple[int, int, int], dict[str, Any]]]:
    """For each of `ys`, runs of x's channels in order: the programs, and what a kernel is told beside tensors."""
    channels = x.shape[-1]
    pixels, run = x.numel() // max(1, channels), channels // towers
    wide = max(LEAST, triton.next_power_of_2(run))
    margin = 0 if wide <= WIDEST else -(-2 * (size // 2) // ALIGNED) * ALIGNED  # a term's own window lies in the tile
    wide = min(wide, max(WIDEST, triton.next_power_of_2(4 * margin)))
    grid = (triton.cdiv(pixels, PIXELS), triton.cdiv(run, wide - 2 * margin), towers // len(ys))
    for part in range(len(ys)):
        y_row = channels // len(ys)
        yield grid, {
            "pixels": pixels, "run": run, "x_row": channels, "x_first": part * y_row, "y_row": y_row, "k": k, "a": a,
            "SIZE": size, "BETA": beta, "PARTS": PARTS[x.dtype], "P": PIXELS, "C": wide, "MARGIN": margin,
        }  # fmt: skip


def checked(x: Tensor) -> Tensor:
    """x itself. ValueError for float64."""
    if x.dtype == torch.float64:
        raise ValueError("the kernels for a GPU compute in float32, not in float64")
    return x


@torch.library.custom_op("alexnet::bias_relu_lrn", mutates_args=())
def bias_relu_lrn(
    x: Tensor, bias: Tensor, size: int, k: float, a: float, beta: float, towers: int, parts: int
) -> list[Tensor]:
    """The normalization of max(x + bias, 0), x (B, C, H, W) and bias (C,) -> `parts` maps (B, C / parts, H, W).

    Each is channels-last; `parts` is 1 or divides `towers`.
    """
    values = last(checked(x))
    B, C, H, W = x.shape
    ys = [empty_map(x, B, C // parts, H, W) for _ in range(parts)]
    form = {"size": size, "k": k, "a": a, "beta": beta, "towers": towers}
    for y, (grid, rest) in zip(ys, _launches(values, ys, **form), strict=True):
        _forward[grid](values, bias, last(y), RECTIFIED=True, **rest)
    return ys


@torch.library.custom_op("alexnet::bias_relu_lrn_backward", mutates_args=())
def _slopes(
    x: Tensor, bias: Tensor, gs: list[Tensor], size: int, k: float, a: float, beta: float, towers: int
) -> tuple[Tensor, Tensor]:
    values, slopes = last(x), [last(g) for g in gs]
    dx = torch.empty_like(values)
    tiles = triton.cdiv(values.numel() // values.shape[-1], PIXELS)
    sums = torch.empty(tiles, values.shape[-1], dtype=torch.float32, device=x.device)
    form = {"size": size, "k": k, "a": a, "beta": beta, "towers": towers}
    for g, (grid, rest) in zip(slopes, _launches(values, slopes, **form), strict=True):
        _backward[grid](values, bias, g, dx, sums, RECTIFIED=True, **rest)
    return dx.permute(0, 3, 1, 2), sums.sum(0)


@bias_relu_lrn.register_fake
def _(x: Tensor, bias: Tensor, size: int, k: float, a: float, beta: float, towers: int, parts: int) -> list[Tensor]:
    B, C, H, W = x.shape
    return [empty_map(x, B, C // parts, H, W) for _ in range(parts)]


@_slopes.register_fake
def _(
    x: Tensor, bias: Tensor, gs: list[Tensor], size: int, k: float, a: float, beta: float, towers: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.channels_last), x.new_empty(x.shape[1], dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, bias, *form, _ = inputs
    ctx.save_for_backward(x, bias)
    ctx.form = form


def _slope(ctx: Any, gs: list[Tensor]) -> tuple[Tensor | None, ...]:
    x, bias = ctx.saved_tensors
    dx, dbias = _slopes(x, bias, gs, *ctx.form)
    return dx, dbias.to(bias.dtype), *[None] * 6


bias_relu_lrn.register_autograd(_slope, setup_context=_keep)
