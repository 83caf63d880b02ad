"""The first layer's kernels as a picture: figure 3 of the paper."""

import math

import numpy as np
from numpy.typing import NDArray

from ..network.variants import Conv, Variant

ACROSS = 16  # kernels beside each other, as in the paper's figure
LINE, BETWEEN = 1, 5  # pixels of white between two kernels, and between two towers
WHITE = 255


def towers_of(variant: Variant) -> int:
    """Into how many towers the variant's maps are divided: 2 where a convolution has two groups, else 1."""
    return max(row.groups for row in variant.layers if isinstance(row, Conv))


def kernel_sheet(weights: NDArray[np.floating], *, rows: int | None = None, towers: int = 1) -> NDArray[np.uint8]:
    """Kernels (O, 3, k, k), channels red, green, blue -> uint8 (H, W, 3): a tile a kernel, row by row, on white.

    Each is stretched by itself: its weight farthest from 0 is 0 or 255, and 0 is mid grey. `rows` are those of all
    `towers`, whose kernels follow one another and stand apart; None: the fewest that have ACROSS tiles at most.
    ValueError: kernels of another shape, or not finite, or that `towers` do not divide.
    """
    if weights.ndim != 4 or weights.shape[1] != 3 or weights.shape[2] != weights.shape[3] or not weights.size:
        raise ValueError(f"kernels of shape {weights.shape}, expected (O, 3, k, k)")
    if len(weights) % towers or not np.isfinite(weights).all():
        raise ValueError(f"{len(weights)} kernels, {towers} towers: expected finite numbers, as many in each tower")
    each, k = len(weights) // towers, weights.shape[2]
    down = max(1, rows // towers) if rows else math.ceil(each / ACROSS)
    across, step = math.ceil(each / down), k + LINE
    most = np.abs(weights).max((1, 2, 3), keepdims=True)
    tiles = np.round(127.5 + 127.5 * weights / np.where(most, most, 1.0)).astype(np.uint8).transpose(0, 2, 3, 1)
    tower_step = down * step - LINE + BETWEEN
    sheet = np.full((towers * tower_step - BETWEEN + 2 * LINE, across * step + LINE, 3), WHITE, np.uint8)
    for i, tile in enumerate(tiles):
        tower, place = divmod(i, each)
        y = tower * tower_step + place // across * step + LINE
        x = place % across * step + LINE
        sheet[y : y + k, x : x + k] = tile
    return sheet
