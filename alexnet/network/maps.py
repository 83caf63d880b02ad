"""Maps (B, C, H, W) as kernels take them, channels-last: max-pooling by one of them, and pictures in blocks.

The pooling is one operator, `alexnet::max_pool`, and its backward; autograd, `torch.compile` and `torch.export` see no
further. Two kernels compute it: "numba" (`maps_cpu.py`) on the processor and "triton" (`maps_gpu.py`) on a GPU. Both
keep the place of each maximum in a byte, where torch keeps eight.

Blocks are another, `alexnet::blocks`, by the kernel "numba", which moves each value once; torch pads and then copies.
"""

from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

COMPILED = {"numba": "maps_cpu", "triton": "maps_gpu"}
MOST_SIDE = 15  # places within a window, and one more for none of them, are a byte


def last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), contiguous: a view of what is channels-last already."""
    return x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)


def empty_map(x: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """A channels-last map (B, C, H, W) to be filled: no view, or no one could write over it later."""
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device, memory_format=torch.channels_last)


def max_pool(x: Tensor, *, side: int, stride: int, out: tuple[int, int], kernel: str, relu: bool = False) -> Tensor:
    """The largest of each window of side x side pixels, `stride` apart: (B, C, H, W) -> (B, C, *out), channels-last.

    What a window reaches beyond the map does not count: `out` says how many there are. The gradient goes to the first
    of equals. With `relu`, which numba's kernel has, max(…, 0). ValueError: a side of more than 15, no window, or one
    that lies beyond the map, or what the kernel cannot take.
    """
    check_windows(x, side, stride, out)
    if relu and kernel != "numba":
        raise ValueError(f"kernel {kernel}: has no ReLU")
    if x.dtype == torch.float64 or (kernel == "numba" and (x.device.type != "cpu" or x.dtype == torch.float16)):
        raise ValueError(f"kernel {kernel}: does not take {x.dtype} on {x.device}")
    return _max_pool(x, side, stride, *out, kernel, relu)[0]


def check_windows(x: Tensor, side: int, stride: int, out: tuple[int, int]) -> None:
    """ValueError: windows larger than a byte can tell places of, or such as do not begin within the map."""
    if side > MOST_SIDE:
        raise ValueError(f"side {side}: expected {MOST_SIDE} or less")
    if not all(0 <= (n - 1) * stride < length for n, length in zip(out, x.shape[2:], strict=True)):
        raise ValueError(f"{tuple(x.shape[2:])} pixels have no {tuple(out)} windows of {side} x {side}")


def _compiled(kernel: str) -> Any:
    return import_module(f".{COMPILED[kernel]}", __package__)


@torch.library.custom_op("alexnet::max_pool", mutates_args=())
def _max_pool(
    x: Tensor, side: int, stride: int, height: int, width: int, kernel: str, relu: bool
) -> tuple[Tensor, Tensor]:
    B, C = x.shape[:2]
    y, places = empty_map(x, B, C, height, width), empty_map(x, B, C, height, width, dtype=torch.uint8)
    more = {"relu": True} if relu else {}  # numba's alone has it
    _compiled(kernel).max_pool(last(x), last(y), last(places), side=side, stride=stride, **more)
    return y, places


@torch.library.custom_op("alexnet::max_pool_backward", mutates_args=())
def _max_pool_backward(g: Tensor, places: Tensor, side: int, stride: int, H: int, W: int, kernel: str) -> Tensor:
    dx = empty_map(g, *g.shape[:2], H, W)
    _compiled(kernel).max_pool_backward(last(g), last(places), last(dx), side=side, stride=stride)
    return dx


@_max_pool.register_fake
def _(x: Tensor, side: int, stride: int, height: int, width: int, kernel: str, relu: bool) -> tuple[Tensor, Tensor]:
    B, C = x.shape[:2]
    return empty_map(x, B, C, height, width), empty_map(x, B, C, height, width, dtype=torch.uint8)


@_max_pool_backward.register_fake
def _(g: Tensor, places: Tensor, side: int, stride: int, H: int, W: int, kernel: str) -> Tensor:
    return empty_map(g, g.shape[0], g.shape[1], H, W)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, side, stride, _, _, kernel, _ = inputs
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.rest = side, stride, x.shape[2], x.shape[3], kernel


def _slope(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
    return _max_pool_backward(g, ctx.saved_tensors[0], *ctx.rest), None, None, None, None, None, None


_max_pool.register_autograd(_slope, setup_context=_keep)


def in_blocks(x: Tensor, *, before: int, out: tuple[int, int], kernel: str) -> Tensor:
    """Pictures (B, 3, H, W) in blocks of 4 x 4 pixels, row by row, the colours of each together: (B, 48, *out),
    channels-last.

    The first block begins `before` pixels above and to the left of a picture; what lies beyond one is 0. `kernel` is
    "numba", on the processor, or "torch": they give the same bits. ValueError: not three colours, or another kernel.
    """
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"expected (B, 3, H, W), got a shape of {tuple(x.shape)}")
    if kernel not in ("numba", "torch") or (kernel == "numba" and x.device.type != "cpu"):
        raise ValueError(f"kernel {kernel}: makes no blocks on {x.device}")
    if kernel == "numba":
        return _blocks(x, before, *out)
    h, w = out
    below, right = (4 * n - before - length for n, length in zip(out, x.shape[2:], strict=True))
    padded = F.pad(x, (before, right, before, below)).permute(0, 2, 3, 1)  # (B, 4h, 4w, 3)
    return padded.reshape(-1, h, 4, w, 4, 3).permute(0, 1, 3, 2, 4, 5).reshape(-1, h, w, 48).permute(0, 3, 1, 2)


@torch.library.custom_op("alexnet::blocks", mutates_args=())
def _blocks(x: Tensor, before: int, height: int, width: int) -> Tensor:
    y = empty_map(x, x.shape[0], 48, height, width)
    _compiled("numba").blocks(last(x), last(y), before=before)
    return y


@_blocks.register_fake
def _(x: Tensor, before: int, height: int, width: int) -> Tensor:
    return empty_map(x, x.shape[0], 48, height, width)


def _keep_place(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.before, _, _ = inputs
    ctx.pixels = x.shape[2:]


def _pixels(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
    """Each pixel's slope from its place in a block; 0 where a picture goes on behind the last one."""
    (H, W), (h, w), before = ctx.pixels, g.shape[2:], ctx.before
    flat = last(g).reshape(-1, h, w, 4, 4, 3).permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, 4 * h, 4 * w)
    return F.pad(flat, (-before, before + W - 4 * w, -before, before + H - 4 * h)), None, None, None


_blocks.register_autograd(_pixels, setup_context=_keep_place)
