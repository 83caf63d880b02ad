"""Local response normalization: x · v^-beta, v = k + a·Σx² over a window of channels, or of pixels of one map.

Both windows are one computation here. A block of the channels-last map is squared into a buffer with `size`//2 zeros
behind every run of values, in which neighbours lie a fixed step apart; the windowed sum is then a few additions of
the flat buffer to itself, shifted: no gather, no pass over the whole map. Blocks are small enough for the cache, and
what is added to what does not depend on them, so equal input gives equal bytes.

Sums are float32, or float64 for a float64 input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_VALUES = 1 << 18  # a thread; in each of the half dozen buffers of a block


def lrn(x: Tensor, *, size: int, k: float, alpha: float, beta: float, divide: bool, towers: int) -> Tensor:
    """x · (k + a·Σx²)^-beta, the sum over `size` channels around each one. (B, C, H, W) -> the same, channels-last.

    a is alpha, or alpha / size with `divide`. The C channels are `towers` equal runs, and no window leaves its own:
    channels outside count as zeros. ValueError for an even `size`, k <= 0 or channels that do not part evenly.
    """
    _check(x, size, k)
    B, C, H, W = x.shape
    if C % towers:
        raise ValueError(f"{C} channels do not part into {towers} towers")
    a = alpha / size if divide else alpha
    if torch.compiler.is_compiling():
        v = F.pad((_wide(x) ** 2).unflatten(1, (towers, C // towers)), (0, 0, 0, 0, size // 2, size // 2))
        return _normalised(x, v.unfold(2, size, 1).sum(-1).flatten(1, 2), k, a, beta)
    run = C // towers
    return _apply(x, _Window((towers, run), (towers, run + size // 2), (1,), size, k, a, beta), B * H * W)


def within_map(x: Tensor, *, size: int, k: float, alpha: float, beta: float) -> Tensor:
    """x · (k + alpha/size²·Σx²)^-beta, the sum over `size`×`size` pixels of a map. (B, C, H, W) -> same, channels-last.

    Pixels outside count as zeros. ValueError for an even `size` or k <= 0.
    """
    _check(x, size, k)
    B, C, H, W = x.shape
    if torch.compiler.is_compiling():
        return _normalised(x, F.avg_pool2d(_wide(x) ** 2, size, 1, size // 2), k, alpha, beta)
    h = size // 2
    return _apply(x, _Window((H, W, C), (H + h, W + h, C), (C, (W + h) * C), size, k, alpha / size**2, beta), B)


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

    @property
    def reach(self) -> int:
        """From a value to the farthest one in its window."""
        return self.size // 2 * sum(self.steps)

    def inside(self, flat: Tensor) -> Tensor:
        """The values in a flat buffer, without what lies between and behind them: (items, *inner), a view."""
        outer = flat.view(-1, *self.outer)
        return outer[(slice(None), *(slice(n) for n in self.inner))]

    def sums(self, flat: Tensor, scratch: Sequence[Tensor]) -> Tensor:
        """The sum over each window of a buffer that is longer than its values by `reach` at both ends."""
        for step in self.steps:
            a, b, *_ = (t for t in scratch if t.data_ptr() != flat.data_ptr())
            flat = _sum_of_run(flat, self.size, step, a, b)
        return flat


def _sum_of_run(flat: Tensor, size: int, step: int, a: Tensor, b: Tensor) -> Tensor:
    """s[i] = Σ flat[i + j·step], j < size: 2, 4, … terms by doubling, then the rest one by one. Lies in `a` or `b`."""
    length = flat.numel() - (size - 1) * step
    have, run = 1, flat
    while have < size:
        more = have if have * 2 <= size else 1
        rest = flat if more == 1 else run
        n = min(run.numel(), rest.numel() - have * step)
        run = torch.add(run[:n], rest[have * step :][:n], out=a[:n])
        have, a, b = have + more, b, a
    return run[:length]


class _Normalise(torch.autograd.Function):
    """Both forms, on (items, *inner) values. Saves x alone: v costs less to sum again than to store and read."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: _Window) -> Tensor:  # pyrefly: ignore[bad-override]
        ctx.save_for_backward(x)
        ctx.window = window
        return _forward(x, window)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("local response normalization is differentiable once: create_graph=True has no answer")
        (x,), (g,) = ctx.saved_tensors, slopes
        return _backward(x, g.contiguous(), ctx.window), None


class _Block:
    """The buffers through which a map goes, some items at a time."""

    def __init__(self, x: Tensor, window: _Window) -> None:
        self.window = window
        self.each = prod(window.outer)
        self.wide = _wide_dtype(x)
        fitting = BLOCK_VALUES * torch.get_num_threads() // self.each if x.device.type == "cpu" else len(x)
        self.items = max(1, min(len(x), fitting))
        self.length = self.items * self.each + 2 * window.reach
        # Every place holds its share of k, the empty ones too: the windowed sum is then v, without a pass to add k.
        self.share = window.k / window.size ** len(window.steps)
        self.squares = torch.full((self.length,), self.share, dtype=self.wide, device=x.device)
        self.shares = self.squares.new_full(window.inner[-1:], self.share)
        self.scratch = self.squares.new_empty(3, self.length).unbind()
        self.r = self.squares.new_empty(self.items * self.each)

    def values(self, flat: Tensor, items: int) -> Tensor:
        """The places of the values of the first `items` items in a buffer that has `reach` places before them."""
        return self.window.inside(flat[self.window.reach :][: items * self.each])

    def sums(self, flat: Tensor, items: int) -> Tensor:
        return self.window.sums(flat[: items * self.each + 2 * self.window.reach], self.scratch)

    def root(self, part: Tensor) -> Tensor:
        """v^-1/2 of some items, flat."""
        items = len(part)
        torch.addcmul(self.shares, part, part, value=self.window.a, out=self.values(self.squares, items))
        return torch.rsqrt(self.sums(self.squares, items), out=self.r[: items * self.each])

    def power(self, r: Tensor) -> Tensor:
        """v^-beta, flat: square roots for the two powers that AlexNets have, `pow` is ten times as slow."""
        if self.window.beta == 0.5:
            return r
        out = self.scratch[0][: len(r)]
        if self.window.beta == 0.75:
            return torch.sqrt(r, out=out).mul_(r)
        return torch.pow(r, 2 * self.window.beta, out=out)


def _forward(x: Tensor, window: _Window) -> Tensor:
    """x of (items, *inner) -> y of the same shape."""
    block = _Block(x, window)
    y = torch.empty_like(x)
    for part, out in zip(x.split(block.items), y.split(block.items), strict=True):
        p = block.power(block.root(part.to(block.wide)))
        torch.mul(part, window.inside(p), out=out)
    return y


def _backward(x: Tensor, g: Tensor, window: _Window) -> Tensor:
    """dL/dx = g·p - 2·a·beta·x·Σ(g·x·p/v), p = v^-beta, the sum over the same windows."""
    block = _Block(x, window)
    dx = torch.empty_like(x)
    terms = torch.zeros_like(block.squares)
    for part, slope, out in zip(x.split(block.items), g.split(block.items), dx.split(block.items), strict=True):
        items, part = len(part), part.to(block.wide)
        r = block.root(part)
        d = torch.mul(slope, window.inside(block.power(r)), out=out if out.dtype == block.wide else None)
        torch.mul(d, part, out=block.values(terms, items))
        terms[window.reach :][: len(r)].mul_(r).mul_(r)
        d.addcmul_(part, window.inside(block.sums(terms, items)), value=-2 * window.a * window.beta)
        if d is not out:
            out.copy_(d)
    return dx


def _apply(x: Tensor, window: _Window, items: int) -> Tensor:
    B, C, H, W = x.shape
    values = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).reshape(items, *window.inner)
    if torch.is_grad_enabled() and x.requires_grad:
        y: Tensor = _Normalise.apply(values, window)
    else:
        y = _forward(values, window)
    return y.view(B, H, W, C).permute(0, 3, 1, 2)


def _normalised(x: Tensor, sums: Tensor, k: float, a: float, beta: float) -> Tensor:
    """The definition, for the compiler and the exporters, which fuse and name what they see."""
    return (_wide(x) * (k + a * sums) ** -beta).to(x.dtype)


def _wide_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _wide(x: Tensor) -> Tensor:
    return x.to(_wide_dtype(x))


def _check(x: Tensor, size: int, k: float) -> None:
    if x.ndim != 4:
        raise ValueError(f"expected (B, C, H, W), got a shape of {tuple(x.shape)}")
    if size % 2 == 0 or size < 1:
        raise ValueError(f"size {size}: a window has a middle, so its size is odd")
    if k <= 0:
        raise ValueError(f"k {k}: expected more than 0, or a window of zeros would divide by 0")
