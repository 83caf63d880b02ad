"""Networks for tests: as a table has them, with parameters none of which is 0 or 1; and the same with few maps."""

from dataclasses import replace

import torch

from alexnet.network.build import AlexNet
from alexnet.network.variants import Conv, Linear, Variant


def small(variant: Variant) -> Variant:
    """The variant with an eighth of its maps and 64 units in fc6 and fc7: all its windows, in a fiftieth of the time.

    `tiny` is so already.
    """
    if variant.side < 200:
        return variant
    rows = [
        replace(row, out=row.out // 8) if isinstance(row, Conv)
        else replace(row, out=64) if isinstance(row, Linear) and row.out
        else row
        for row in variant.layers
    ]  # fmt: skip
    return replace(variant, layers=tuple(rows))


def lively(variant: Variant, classes: int = 7, *, seed: int = 1) -> AlexNet:
    """Random weights that keep the size of what they are given, biases a tenth of it."""
    net = AlexNet(variant, classes).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2, generator=generator)
            elif value.ndim > 1:
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
            elif value.ndim == 1:
                value.normal_(0, 1, generator=generator)
    return net


def images(variant: Variant, count: int) -> torch.Tensor:
    """Float (B, 3, side, side), large enough that a normalization does not leave them alone."""
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, variant.side, variant.side, generator=generator) * 100 * variant.scale


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, of the largest value expected."""
    return float((found - expected).abs().max() / expected.abs().max())


def halves_swapped(weight: torch.Tensor) -> torch.Tensor:
    """A convolution's weights with the two halves of its outputs, its groups, exchanged."""
    return weight.roll(len(weight) // 2, 0)


def rows_before_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """fc6's weights as if its inputs were flattened as y, x, C."""
    side = round((weight.shape[1] // channels) ** 0.5)
    return weight.view(-1, channels, side, side).permute(0, 2, 3, 1).reshape(weight.shape)
