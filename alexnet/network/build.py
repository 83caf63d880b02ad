"""Rows -> a torch module: initial values, the forward pass, every activation by name."""

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.errors import UsageError
from alexnet.network import variants
from alexnet.network.cost import Shape, out_shape
from alexnet.network.kernels import PLAIN, Kernels, behind, convolved, normalised, parts, pooled
from alexnet.network.variants import (
    LRN,
    AdaptivePool,
    BatchNorm,
    Conv,
    Dropout,
    FanInUniform,
    He,
    Init,
    Linear,
    MaxPool,
    Normal,
    ReLU,
    Row,
    TruncatedNormal,
    Variant,
    WithinMapLRN,
    layer_name,
)

__all__ = ["AlexNet", "Draw", "build", "layer_name"]


@dataclass(frozen=True, slots=True)
class Draw:
    """Which numbers dropout draws: those of `step`, for rows `offset` … of a global batch of `total` rows.

    Every part of a batch, on whatever rank and in whatever micro-batch, drops what the whole batch would.
    """

    seed: int
    step: int
    total: int
    offset: int
    generators: dict[int, torch.Generator] = field(default_factory=dict, compare=False)  # by layer; set at each use

    def generator(self, layer: int, device: torch.device) -> torch.Generator:
        """A layer's, at the beginning of its numbers of this step."""
        if layer not in self.generators:
            self.generators[layer] = torch.Generator(device)
        return self.generators[layer].manual_seed(_mix(self.seed, self.step, layer))

    def mask(self, layer: int, p: float, shape: Sequence[int], device: torch.device) -> Tensor:
        """bool of `shape`, each true with probability p: a layer's in this step, whatever the network's precision."""
        if device.type != "cpu":
            return torch.empty(*shape, device=device).bernoulli_(p, generator=self.generator(layer, device)).bool()
        # torch draws one number after another, of a kind that takes longer (docs/log.md)
        count = math.prod(shape)
        drawn = np.random.SFC64(_mix(self.seed, self.step, layer)).random_raw((count + 1) // 2)
        below = drawn.astype("<u8", copy=False).view("<u4")[:count] < round(p * 2**32)
        return torch.from_numpy(below).view(*shape)


def build(variant: str | Variant, classes: int = 1000, *, seed: int = 0, dropout: float | None = None) -> "AlexNet":
    """A network with the variant's initial values, a function of `seed` alone, layer by layer.

    `dropout` replaces the table's p in every dropout layer. UsageError for an unknown variant or a number out of range.
    """
    table = variants.variant(variant) if isinstance(variant, str) else variant
    if classes < 1:
        raise UsageError(f"classes {classes}: expected 1 or more")
    if dropout is not None and not 0 <= dropout < 1:
        raise UsageError(f"dropout {dropout}: expected 0 or more, below 1")
    net = AlexNet(table, classes, dropout=dropout)
    for row in table.layers:
        if isinstance(row, Conv | Linear):
            generator = torch.Generator().manual_seed(_mix(seed, zlib.crc32(row.name.encode())))
            layer = net.get_submodule(row.name)
            weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            inputs = weight[0].numel()
            with torch.no_grad():
                _fill(weight, row.init, inputs, generator)
                if isinstance(row.bias, float):
                    bias.fill_(row.bias)
                else:
                    _fill(bias, row.bias, inputs, generator)
    return net


class AlexNet(nn.Module):
    """A variant's layers; those with parameters are submodules by the layers' names, the rest are functions.

    Fresh from the class the weights hold what memory held: `build` gives initial values, a checkpoint its own.
    """

    def __init__(
        self, variant: Variant, classes: int, *, dropout: float | None = None, kernels: Kernels = PLAIN
    ) -> None:
        super().__init__()
        self.kernels = kernels
        self.variant = variant
        self.classes = classes
        self.dropout = dropout
        shape: Shape = (3, variant.side, variant.side)
        for row in variant.layers:
            layer = _parameters(row, shape, classes)
            if layer is not None:
                self.add_module(row.name, layer)
            shape = out_shape(row, shape, classes)

    def forward(self, images: Tensor, draw: Draw | None = None) -> Tensor:
        """(B, 3, side, side) -> logits (B, classes). In training, dropout draws as `draw` says, or from torch's state.

        ValueError for images of another size, except where the variant pools any size to its own.
        """
        self._check(images)
        xs, done = [images], 0  # a map, or its towers where the kernels keep them apart
        for index, row in enumerate(self.variant.layers):
            if index < done:
                continue
            if isinstance(row, Conv):
                after = behind(self.variant, index, self.kernels)
                xs = self._convolution(row, xs, behind=after, parts=parts(self.variant, index, self.kernels))
                done = index + 1 + len(after)
            elif len(xs) > 1 and (isinstance(row, MaxPool | ReLU) or (isinstance(row, LRN) and row.towers == len(xs))):
                alone = replace(row, towers=1) if isinstance(row, LRN) else row
                xs = [self.layer(alone, x, draw, index, inplace=True) for x in xs]
            else:
                x = torch.cat(xs, 1) if len(xs) > 1 else xs[0]
                xs = [self.layer(row, x, draw, index, inplace=True)]
        return xs[0]

    def trace(self, images: Tensor, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, side, side) -> the named activations, all by default, each (B, C, H, W) or (B, C), by the names given.

        One pass, which ends after the last layer named. Names are the table's, torchvision's (`features.0`) or the
        2012 program's (`conv1a`, for both towers); UsageError for any other.
        """
        names = [row.name for row in self.variant.layers] if layers is None else list(layers)
        asked = {name: layer_name(name, self.variant) for name in names}
        self._check(images)
        had: dict[str, Tensor] = {}
        x = images
        for index, row in enumerate(self.variant.layers):
            if len(had) == len(set(asked.values())):
                break
            x = self.layer(row, x, None, index, inplace=False)
            if row.name in asked.values():
                had[row.name] = x
        return {name: had[ours] for name, ours in asked.items()}

    def layer(self, row: Row, x: Tensor, draw: Draw | None, index: int, *, inplace: bool) -> Tensor:
        """What the `index`-th row makes of x. `inplace` lets a ReLU write over an x that no one else holds."""
        match row:
            case Conv():
                return self._convolution(row, [x], behind=(), parts=1)[0]
            case ReLU():
                return F.relu(x, inplace=inplace)
            case LRN() | WithinMapLRN():
                return normalised(row, x, self.kernels)
            case MaxPool():
                return pooled(row, x, self.kernels)
            case AdaptivePool():
                # the average of one value is that value
                return x if x.shape[2:] == (row.side, row.side) else F.adaptive_avg_pool2d(x, row.side)
            case BatchNorm():
                return self.get_submodule(row.name)(x)
            case Linear():
                return self.get_submodule(row.name)(x.flatten(1))
            case Dropout():
                p = row.p if self.dropout is None else self.dropout
                return _dropped(x, p, draw, index) if self.training and p > 0 else x

    def _convolution(self, row: Conv, xs: list[Tensor], *, behind: Sequence[Row], parts: int) -> list[Tensor]:
        layer = self.get_submodule(row.name)
        weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
        return convolved(row, xs, weight, bias, self.kernels, behind=behind, parts=parts)

    def _check(self, images: Tensor) -> None:
        side = self.variant.side
        free = any(isinstance(row, AdaptivePool) for row in self.variant.layers)
        if images.ndim != 4 or images.shape[1] != 3 or not (free or images.shape[2:] == (side, side)):
            raise ValueError(
                f"{self.variant.name} expects images of (3, {side}, {side}), got {tuple(images.shape[1:])}"
            )


def _parameters(row: Row, shape: Shape, classes: int) -> nn.Module | None:
    """The module of a row that has parameters, its values not yet set, for inputs of `shape`."""
    channels = shape[0]
    match row:
        case Conv():
            same = row.pad.before == row.pad.after
            return nn.utils.skip_init(
                nn.Conv2d,
                channels,
                row.out,
                row.kernel,
                stride=row.stride,
                padding=row.pad.before if same else 0,
                groups=row.groups,
            )
        case Linear():
            return nn.utils.skip_init(
                nn.Linear, channels * shape[1] * shape[2], classes if row.out is None else row.out
            )
        case BatchNorm():
            flat = shape[1:] == (1, 1)
            return (nn.BatchNorm1d if flat else nn.BatchNorm2d)(
                channels, eps=row.eps, momentum=row.momentum, affine=row.scale
            )
    return None


def _fill(values: Tensor, init: Init, inputs: int, generator: torch.Generator) -> None:
    match init:
        case Normal():
            values.normal_(0.0, init.std, generator=generator)
        case TruncatedNormal():
            # As TensorFlow does; torch's trunc_normal_ inverts the error function, 20 times as slow at fc6's size.
            flat = values.view(-1).normal_(0.0, init.std, generator=generator)
            far = (flat.abs() > 2 * init.std).nonzero().squeeze(1)
            while len(far):
                again = torch.empty(len(far)).normal_(0.0, init.std, generator=generator)
                flat[far] = again
                far = far[again.abs() > 2 * init.std]
        case FanInUniform():
            values.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
        case He():
            values.normal_(0.0, (2 / inputs) ** 0.5, generator=generator)


def _dropped(x: Tensor, p: float, draw: Draw | None, layer: int) -> Tensor:
    """x with each value 0 with probability p, else divided by 1 - p."""
    if draw is None:
        return F.dropout(x, p, training=True)
    rows = slice(draw.offset, draw.offset + len(x))
    if not 0 <= rows.start <= rows.stop <= draw.total:
        raise ValueError(f"rows {rows.start}…{rows.stop} do not lie in a batch of {draw.total}")
    mask = draw.mask(layer, 1 - p, (draw.total, *x.shape[1:]), x.device)
    return x * mask[rows].to(x.dtype).mul_(1 / (1 - p))


def _mix(*numbers: int) -> int:
    """A seed of 63 bits from some integers, each step one round of splitmix64: neighbours give unlike seeds."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state >> 1
