"""ReLU, local response normalization and a pool as one operator, `alexnet::relu_lrn_pool`, on the processor.

What the three are is said in `lrn.py` and `maps.py`; numba's kernels, one after the other, give the same bits.
The map between the normalization and the pool, and its gradient, exist for one image at a time (`lrn_pool_cpu.py`).
"""

from typing import Any

import torch
from torch import Tensor

from .lrn import check, chosen
from .maps import check_windows, empty_map, last


def relu_lrn_pool(
    x: Tensor, *, size: int, k: float, alpha: float, beta: float, divide: bool, towers: int, side: int, stride: int,
    out: tuple[int, int],
) -> Tensor:  # fmt: skip
    """The pool (`maps.max_pool`) of the normalization (`lrn.lrn`) of max(x, 0): (B, C, H, W) -> (B, C, *out).

    Channels-last. ValueError for what `lrn` or `max_pool` refuses with kernel="numba".
    """
    check(x, size, k, towers)
    check_windows(x, side, stride, out)
    chosen("numba", x)
    a = alpha / size if divide else alpha
    return _relu_lrn_pool(x, size, k, a, beta, towers, side, stride, *out)[0]


@torch.library.custom_op("alexnet::relu_lrn_pool", mutates_args=())
def _relu_lrn_pool(
    x: Tensor, size: int, k: float, a: float, beta: float, towers: int, side: int, stride: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    from . import lrn_pool_cpu

    B, C = x.shape[:2]
    y, places = empty_map(x, B, C, height, width), empty_map(x, B, C, height, width, dtype=torch.uint8)
    form: dict[str, Any] = {"size": size, "k": k, "a": a, "beta": beta, "towers": towers}
    lrn_pool_cpu.forward(last(x), last(y), last(places), **form, side=side, stride=stride)
    return y, places


@torch.library.custom_op("alexnet::relu_lrn_pool_backward", mutates_args=())
def _relu_lrn_pool_backward(
    g: Tensor, places: Tensor, x: Tensor, size: int, k: float, a: float, beta: float, towers: int, side: int,
    stride: int,
) -> Tensor:  # fmt: skip
    from . import lrn_pool_cpu

    dx = empty_map(x, *x.shape)
    form: dict[str, Any] = {"size": size, "k": k, "a": a, "beta": beta, "towers": towers}
    lrn_pool_cpu.backward(last(g), last(places), last(x), last(dx), **form, side=side, stride=stride)
    return dx


@_relu_lrn_pool.register_fake
def _(
    x: Tensor, size: int, k: float, a: float, beta: float, towers: int, side: int, stride: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    B, C = x.shape[:2]
    return empty_map(x, B, C, height, width), empty_map(x, B, C, height, width, dtype=torch.uint8)


@_relu_lrn_pool_backward.register_fake
def _(
    g: Tensor, places: Tensor, x: Tensor, size: int, k: float, a: float, beta: float, towers: int, side: int,
    stride: int,
) -> Tensor:  # fmt: skip
    return empty_map(x, *x.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, *form, _, _ = inputs
    ctx.save_for_backward(output[1], x)
    ctx.mark_non_differentiable(output[1])
    ctx.form = form


def _slope(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return _relu_lrn_pool_backward(g, *ctx.saved_tensors, *ctx.form), *[None] * 9


_relu_lrn_pool.register_autograd(_slope, setup_context=_keep)
