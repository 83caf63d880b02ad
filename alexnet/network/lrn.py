"""Local response normalization: x · v^-beta, v = k + a·Σx² over a window of channels, or of pixels of one map.

One operator, `alexnet::lrn`, and its backward; autograd, `torch.compile` and `torch.export` see no further. Three
kernels compute it: "torch", on any device, here; "numba" (`lrn_cpu.py`) on the processor, where numba is installed; and
"triton" (`lrn_gpu.py`) on a GPU, over channels. They agree within rounding, and each gives equal bytes for equal input
at any number of threads.

In the plain one both windows are one computation. A block of the channels-last map is squared into a buffer with
`size`//2 zeros behind every run of values, in which neighbours lie a fixed step apart; the windowed sum is then a few
additions of the flat buffer to itself, shifted: no gather, no pass over the whole map. Blocks are small enough for the
cache, and what is added to what does not depend on them.

Sums are float32, or float64 for a float64 input.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..ranks import has_numba, has_triton
from .maps import last

BLOCK_VALUES = 1 << 16  # a thread; in each of the half dozen buffers of a block, which a core's cache should hold
KERNELS = ("auto", "torch", "numba", "triton")


def lrn(
    x: Tensor, *, size: int, k: float, alpha: float, beta: float, divide: bool, towers: int, kernel: str = "auto",
    relu: bool = False,
) -> Tensor:  # fmt: skip
    """x · (k + a·Σx²)^-beta, the sum over `size` channels around each one. (B, C, H, W) -> the same, channels-last.

    a is alpha, or alpha / size with `divide`. The C channels are `towers` equal runs, and no window leaves its own:
    channels outside count as zeros. With `relu` x is max(x, 0), which numba's kernel does in the same pass. ValueError
    for an even `size`, k <= 0, channels that do not part evenly, or a `kernel` that cannot take x.
    """
    check(x, size, k, towers)
    if relu and chosen(kernel, x) != "numba":
        x, relu = x.relu(), False
    return _lrn(x, size, k, alpha / size if divide else alpha, beta, towers, kernel, relu)


def within_map(x: Tensor, *, size: int, k: float, alpha: float, beta: float, kernel: str = "auto") -> Tensor:
    """x · (k + alpha/size²·Σx²)^-beta, the sum over `size`×`size` pixels of a map. (B, C, H, W) -> same, channels-last.

    Pixels outside count as zeros. ValueError for an even `size`, k <= 0 or a `kernel` that cannot take x.
    """
    check(x, size, k)
    return _lrn(x, size, k, alpha / size**2, beta, WITHIN, kernel, False)


def chosen(kernel: str, x: Tensor, *, within: bool = False) -> str:
    """The kernel that `kernel` means for x: "auto" is the compiled one where it is installed and takes x.

    `within`: for windows of a map's pixels, of which a GPU has the plain kernel alone.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel {kernel}: known are {', '.join(KERNELS)}")
    fits = {
        "numba": x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16),
        "triton": x.device.type == "cuda" and x.dtype in (torch.float32, torch.bfloat16, torch.float16) and not within,
    }
    if kernel == "auto":
        there = {"numba": has_numba, "triton": has_triton}
        return next((name for name, fitting in fits.items() if fitting and there[name]()), "torch")
    if not fits.get(kernel, True):
        where = "float32 or bfloat16 on the processor" if kernel == "numba" else "windows over channels on a GPU"
        raise ValueError(f"kernel {kernel}: takes {where}, not {x.dtype} on {x.device}")
    return kernel


WITHIN = 0  # towers of the form whose window lies within a map
COMPILED = {"numba": "lrn_cpu", "triton": "lrn_gpu"}


def _compiled(kernel: str) -> Any:
    return import_module(f".{COMPILED[kernel]}", __package__)


@torch.library.custom_op("alexnet::lrn", mutates_args=())
def _lrn(x: Tensor, size: int, k: float, a: float, beta: float, towers: int, kernel: str, relu: bool) -> Tensor:
    values, kernel = last(x), chosen(kernel, x, within=towers == WITHIN)
    if kernel in COMPILED:
        y = torch.empty_like(values)
        more = {"relu": True} if relu else {}  # numba's alone has it
        _compiled(kernel).forward(values, y, size=size, k=k, a=a, beta=beta, towers=towers, **more)
    else:
        window = _Window.of(values, size, k, a, beta, towers)
        y = _forward(values.reshape(-1, *window.inner), window).view(values.shape)
    return y.permute(0, 3, 1, 2)


@torch.library.custom_op("alexnet::lrn_backward", mutates_args=())
def _lrn_backward(
    x: Tensor, g: Tensor, size: int, k: float, a: float, beta: float, towers: int, kernel: str, relu: bool
) -> Tensor:
    values, slopes, kernel = last(x), last(g), chosen(kernel, x, within=towers == WITHIN)
    if kernel in COMPILED:
        dx = torch.empty_like(values)
        more = {"relu": True} if relu else {}
        _compiled(kernel).backward(values, slopes, dx, size=size, k=k, a=a, beta=beta, towers=towers, **more)
    else:
        window = _Window.of(values, size, k, a, beta, towers)
        items = (-1, *window.inner)
        dx = _backward(values.reshape(items), slopes.reshape(items), window).view(values.shape)
    return dx.permute(0, 3, 1, 2)


@_lrn.register_fake
def _(x: Tensor, size: int, k: float, a: float, beta: float, towers: int, kernel: str, relu: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@_lrn_backward.register_fake
def _(x: Tensor, g: Tensor, size: int, k: float, a: float, beta: float, towers: int, kernel: str, relu: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """x alone: v costs less to sum again than to store and read."""
    ctx.save_for_backward(inputs[0])
    ctx.rest = inputs[1:]


def _slope(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None, None, None, None, None]:
    return _lrn_backward(ctx.saved_tensors[0], g, *ctx.rest), None, None, None, None, None, None, None


_lrn.register_autograd(_slope, setup_context=_keep)


Sum = tuple[Tensor, Tensor, Tensor]  # a and b, and where a + b goes


@dataclass(frozen=True, slots=True)
class _Window:
    """How one item, a pixel's channels or a whole image, lies in the buffer, and what is summed there."""

    inner: tuple[int, ...]  # the values' shape
    outer: tuple[int, ...]  # with the zeros behind each run
    steps: tuple[int, ...]  # from a neighbour to the next; the sum runs over `size` of them along each
    size: int
    k: float
    a: float
    beta: float

    @classmethod
    def of(cls, values: Tensor, size: int, k: float, a: float, beta: float, towers: int) -> "_Window":
        """The window over values (B, H, W, C)."""
        _, H, W, C = values.shape
        h = size // 2
        if towers == WITHIN:
            return cls((H, W, C), (H + h, W + h, C), (C, (W + h) * C), size, k, a, beta)
        run = C // towers
        return cls((towers, run), (towers, run + h), (1,), size, k, a, beta)

    @property
    def reach(self) -> int:
        """From a value to the farthest one in its window."""
        return self.size // 2 * sum(self.steps)

    def inside(self, flat: Tensor) -> Tensor:
        """The values in a flat buffer, without what lies between and behind them: (items, *inner), a view."""
        outer = flat.view(-1, *self.outer)
        return outer[(slice(None), *(slice(n) for n in self.inner))]

    def sums(self, flat: Tensor, scratch: Sequence[Tensor]) -> tuple[list[Sum], Tensor]:
        """The sum over each window of a buffer longer than its values by `reach` at both ends: how, and where it is."""
        sums: list[Sum] = []
        for step in self.steps:
            a, b, *_ = (t for t in scratch if t.data_ptr() != flat.data_ptr())
            more, flat = _sum_of_run(flat, self.size, step, a, b)
            sums += more
        return sums, flat


def _sum_of_run(flat: Tensor, size: int, step: int, a: Tensor, b: Tensor) -> tuple[list[Sum], Tensor]:
    """s[i] = Σ flat[i + j·step], j < size: 2, 4, … terms by doubling, then the rest one by one. Lies in `a` or `b`."""
    length = flat.numel() - (size - 1) * step
    sums: list[Sum] = []
    have, run = 1, flat
    while have < size:
        more = have if have * 2 <= size else 1
        rest = flat if more == 1 else run
        n = min(run.numel(), rest.numel() - have * step)
        sums.append((run[:n], rest[have * step :][:n], a[:n]))
        run = a[:n]
        have, a, b = have + more, b, a
    return sums, run[:length]


class _Block:
    """The buffers through which a map goes, so many items at a time.

    Every view of them is made here, once: making the views for each block took as long as half of its arithmetic.
    """

    def __init__(self, x: Tensor, window: _Window, items: int) -> None:
        self.window, self.items = window, items
        flat, reach = items * prod(window.outer), window.reach
        length = flat + 2 * reach
        # Every place holds its share of k, the empty ones too: the windowed sum is then v, without a pass to add k.
        share = window.k / window.size ** len(window.steps)
        squares = torch.full((length,), share, dtype=_wide_dtype(x), device=x.device)
        self.shares = squares.new_full(window.inner[-1:], share)
        self.squares = window.inside(squares[reach:][:flat])
        self.scratch = squares.new_empty(3, length).unbind()
        self.to_v, self.v = window.sums(squares, self.scratch)
        self.r = torch.empty_like(self.v)
        self.p = self.r if window.beta == 0.5 else self.scratch[0][: len(self.r)]
        self.inner_p = window.inside(self.p)

    @cached_property
    def terms(self) -> "_Terms":
        """What backward needs besides."""
        return _Terms(self)

    def powers(self, part: Tensor) -> Tensor:
        """v^-beta of the items: `pow` is ten times as slow as the square roots that AlexNet's two powers need."""
        torch.addcmul(self.shares, part, part, value=self.window.a, out=self.squares)
        _add(self.to_v)
        torch.rsqrt(self.v, out=self.r)
        if self.window.beta == 0.75:
            torch.sqrt(self.r, out=self.p).mul_(self.r)
        elif self.window.beta != 0.5:
            torch.pow(self.r, 2 * self.window.beta, out=self.p)
        return self.inner_p


class _Terms:
    """A block's buffers, and their views, for the sum that the gradient has."""

    def __init__(self, block: _Block) -> None:
        self.r = block.r
        terms = self.r.new_zeros(len(self.r) + 2 * block.window.reach)
        self.flat = terms[block.window.reach :][: len(self.r)]
        self.values = block.window.inside(self.flat)
        self.to_sum, total = block.window.sums(terms, block.scratch)
        self.total = block.window.inside(total)

    def sums(self, d: Tensor, part: Tensor) -> Tensor:
        """Σ(d·x/v) over each window, after the block's `powers`."""
        torch.mul(d, part, out=self.values)
        self.flat.mul_(self.r).mul_(self.r)
        _add(self.to_sum)
        return self.total


def _add(sums: Sequence[Sum]) -> None:
    for a, b, out in sums:
        torch.add(a, b, out=out)


def _parts(window: _Window, *maps: Tensor) -> Iterator[tuple[_Block, tuple[Tensor, ...]]]:
    """The maps (items, *inner) in parts, each with the buffers for so many items."""
    x = maps[0]
    fitting = BLOCK_VALUES * torch.get_num_threads() // prod(window.outer) if x.device.type == "cpu" else len(x)
    block = None
    for parts in zip(*(values.split(max(1, fitting)) for values in maps), strict=True):
        if block is None or block.items != len(parts[0]):
            block = _Block(x, window, len(parts[0]))
        yield block, parts


def _forward(x: Tensor, window: _Window) -> Tensor:
    """x of (items, *inner) -> y of the same shape."""
    y = torch.empty_like(x)
    for block, (part, out) in _parts(window, x, y):
        torch.mul(part, block.powers(part.to(block.r.dtype)), out=out)
    return y


def _backward(x: Tensor, g: Tensor, window: _Window) -> Tensor:
    """dL/dx = g·p - 2·a·beta·x·Σ(g·x·p/v), p = v^-beta, the sum over the same windows."""
    dx = torch.empty_like(x)
    for block, (part, slope, out) in _parts(window, x, g, dx):
        wide = part.to(block.r.dtype)
        d = torch.mul(slope, block.powers(wide), out=out if out.dtype == wide.dtype else None)
        d.addcmul_(wide, block.terms.sums(d, wide), value=-2 * window.a * window.beta)
        if d is not out:
            out.copy_(d)
    return dx


def _wide_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check(x: Tensor, size: int, k: float, towers: int = 1) -> None:
    """ValueError: x is no map (B, C, H, W), or its channels do not part into `towers`, or there is no such window."""
    if x.ndim != 4:
        raise ValueError(f"expected (B, C, H, W), got a shape of {tuple(x.shape)}")
    if size % 2 == 0 or size < 1:
        raise ValueError(f"size {size}: a window has a middle, so its size is odd")
    if k <= 0:
        raise ValueError(f"k {k}: expected more than 0, or a window of zeros would divide by 0")
    if towers < 1 or x.shape[1] % towers:
        raise ValueError(f"{x.shape[1]} channels do not part into {towers} towers")
