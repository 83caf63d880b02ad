"""What stands between convolutions, for a GPU by Triton: bias and ReLU in one pass, and max-pooling.

torch's own are several passes over maps that do not fit the cache, and its pooling of channels-last maps is far from
what the memory allows. Each of these reads a value once and writes it once, forward and backward. Bias and ReLU are an
operator of `torch.library`, as the pooling (`maps.py`) is, so that autograd, `torch.compile` and `torch.export` see no
further.
"""
# pyrefly: ignore-errors
# No checker knows the types of Triton's language.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .lrn_gpu import checked
from .maps import empty_map, last

RELU, POOL = (2048, 128), (1024, 32)  # values of a tile, and how many channels it has at most
ROUNDS = 16  # tiles one after another whose biases' gradients a program adds up


@triton.jit
def _bias_relu(x_at, bias_at, y_at, pixels, channels, P: tl.constexpr, C: tl.constexpr):
    pixel, channel = tl.program_id(0) * P + tl.arange(0, P), tl.program_id(1) * C + tl.arange(0, C)
    at = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    there = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    bias = tl.load(bias_at + channel, channel < channels, 0.0).to(tl.float32)
    v = tl.load(x_at + at, there, 0.0).to(tl.float32) + bias[None, :]
    tl.store(y_at + at, tl.where(v <= 0, 0.0, v).to(y_at.dtype.element_ty), there)  # NaN stays NaN


@triton.jit
def _bias_relu_backward(
    y_at, g_at, dx_at, sums_at, pixels, channels, P: tl.constexpr, C: tl.constexpr, ROUNDS: tl.constexpr
):
    channel = tl.program_id(1) * C + tl.arange(0, C)
    total = tl.zeros((P, C), tl.float32)
    for turn in range(ROUNDS):
        pixel = (tl.program_id(0) * ROUNDS + turn) * P + tl.arange(0, P)
        at = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
        there = (pixel < pixels)[:, None] & (channel < channels)[None, :]
        y, g = tl.load(y_at + at, there, 0.0), tl.load(g_at + at, there, 0.0)
        slope = tl.where(y <= 0, 0.0, g.to(tl.float32))
        tl.store(dx_at + at, slope.to(dx_at.dtype.element_ty), there)
        total += slope
    tl.store(sums_at + tl.program_id(0) * channels + channel, tl.sum(total, 0), channel < channels)


@triton.jit
def _max_pool(
    x_at, y_at, which_at, pixels, H, W, channels, OH, OW, SIDE: tl.constexpr, STRIDE: tl.constexpr, P: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    pixel, channel = tl.program_id(0) * P + tl.arange(0, P), tl.program_id(1) * C + tl.arange(0, C)
    image, top, left = pixel // (OH * OW), pixel // OW % OH * STRIDE, pixel % OW * STRIDE
    there = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    best = tl.full((P, C), float("-inf"), tl.float32)
    which = tl.zeros((P, C), tl.int32)
    for i in tl.static_range(SIDE):
        for j in tl.static_range(SIDE):
            h, w = top + i, left + j
            at = ((image * H + h).to(tl.int64) * W + w)[:, None] * channels + channel[None, :]
            v = tl.load(x_at + at, there & ((h < H) & (w < W))[:, None], float("-inf")).to(tl.float32)
            better = (v > best) | (v != v)  # the first of equals, and the last NaN, as torch has it
            best, which = tl.where(better, v, best), tl.where(better, i * SIDE + j, which)
    at = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(y_at + at, best.to(y_at.dtype.element_ty), there)
    tl.store(which_at + at, which.to(tl.uint8), there)


@triton.jit
def _max_pool_backward(
    g_at, which_at, dx_at, pixels, H, W, channels, OH, OW, SIDE: tl.constexpr, STRIDE: tl.constexpr, P: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    pixel, channel = tl.program_id(0) * P + tl.arange(0, P), tl.program_id(1) * C + tl.arange(0, C)
    image, h, w = pixel // (H * W), pixel // W % H, pixel % W
    there = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    total = tl.zeros((P, C), tl.float32)
    for back in tl.static_range((SIDE + STRIDE - 1) // STRIDE):
        oh = h // STRIDE - back
        i = h - oh * STRIDE
        for left in tl.static_range((SIDE + STRIDE - 1) // STRIDE):
            ow = w // STRIDE - left
            j = w - ow * STRIDE
            seen = (i < SIDE) & (j < SIDE) & (oh >= 0) & (oh < OH) & (ow >= 0) & (ow < OW)
            at = ((image * OH + oh).to(tl.int64) * OW + ow)[:, None] * channels + channel[None, :]
            chosen = tl.load(which_at + at, there & seen[:, None], 255).to(tl.int32) == (i * SIDE + j)[:, None]
            total += tl.where(chosen, tl.load(g_at + at, there & seen[:, None], 0.0).to(tl.float32), 0.0)
    at = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(dx_at + at, total.to(dx_at.dtype.element_ty), there)


def _tiles(x: Tensor, tile: tuple[int, int]) -> tuple[tuple[int, int], dict[str, int]]:
    """How many tiles the values (B, H, W, C) take, by pixels and by channels; and the tile's pixels and channels."""
    values, most = tile
    C = min(most, triton.next_power_of_2(x.shape[-1]))
    return (triton.cdiv(x.numel() // x.shape[-1], values // C), triton.cdiv(x.shape[-1], C)), {"P": values // C, "C": C}


@torch.library.custom_op("alexnet::bias_relu", mutates_args=())
def bias_relu(x: Tensor, bias: Tensor) -> Tensor:
    """max(x + bias, 0), x (B, C, H, W) and bias (C,) -> (B, C, H, W) channels-last; the sum is float32."""
    values, y = last(checked(x)), empty_map(x, *x.shape)
    pixels = values.numel() // values.shape[-1]
    grid, tile = _tiles(values, RELU)
    _bias_relu[grid](values, bias, last(y), pixels, values.shape[-1], **tile)
    return y


@torch.library.custom_op("alexnet::bias_relu_backward", mutates_args=())
def _bias_relu_slopes(y: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    values, slopes = last(y), last(g)
    dx = empty_map(y, *y.shape)
    channels, ((rows, columns), tile) = values.shape[-1], _tiles(values, RELU)
    programs = triton.cdiv(rows, ROUNDS)
    sums = torch.empty(programs, channels, dtype=torch.float32, device=y.device)
    _bias_relu_backward[(programs, columns)](
        values, slopes, last(dx), sums, values.numel() // channels, channels, ROUNDS=ROUNDS, **tile
    )
    return dx, sums.sum(0)


def max_pool(x: Tensor, y: Tensor, places: Tensor, *, side: int, stride: int) -> None:
    """Values (B, H, W, C), contiguous -> y and places (B, H', W', C)."""
    _, H, W, C = x.shape
    B, height, width, _ = y.shape
    grid, tile = _tiles(y, POOL)
    _max_pool[grid](x, y, places, B * height * width, H, W, C, height, width, SIDE=side, STRIDE=stride, **tile)


def max_pool_backward(g: Tensor, places: Tensor, dx: Tensor, *, side: int, stride: int) -> None:
    """Slopes and places (B, H', W', C), contiguous -> dx (B, H, W, C)."""
    _, height, width, C = g.shape
    B, H, W, _ = dx.shape
    grid, tile = _tiles(dx, POOL)
    _max_pool_backward[grid](g, places, dx, B * H * W, H, W, C, height, width, SIDE=side, STRIDE=stride, **tile)


@bias_relu.register_fake
def _(x: Tensor, bias: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@_bias_relu_slopes.register_fake
def _(y: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(y, memory_format=torch.channels_last), y.new_empty(y.shape[1], dtype=torch.float32)


def _keep_y(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)
    ctx.dtype = inputs[1].dtype


def _relu_slope(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
    dx, dbias = _bias_relu_slopes(ctx.saved_tensors[0], g)
    return dx, dbias.to(ctx.dtype)


bias_relu.register_autograd(_relu_slope, setup_context=_keep_y)
