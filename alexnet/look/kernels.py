"""The first layer's kernels as a picture, figure 3 of the paper, and as a run kept them."""

import math

import numpy as np
from numpy.typing import NDArray

from .. import files
from ..data.cache import DAMAGE
from ..errors import UsageError, one_line
from ..network.variants import Conv, Linear, Variant
from ..weights.run import Run

ACROSS = 16  # kernels beside each other, as in the paper's figure
LINE, BETWEEN = 1, 5  # pixels of white between two kernels, and between two towers
WHITE = 255
MOST_BYTES = 1 << 30  # of kernels.npy; an epoch of the paper's has 139,392


def towers_of(variant: Variant) -> int:
    """Into how many towers the variant's maps are divided: 2 where a convolution has two groups, else 1."""
    return max(row.groups for row in variant.layers if isinstance(row, Conv))


def towers_at(variant: Variant, layer: str) -> int:
    """The same of one layer, by the table's name of it: the units of the last stand together, being the classes."""
    last = any(row.name == layer and isinstance(row, Linear) and row.out is None for row in variant.layers)
    return 1 if last else towers_of(variant)


def kernel_sheet(weights: NDArray[np.floating], *, rows: int | None = None, towers: int = 1) -> NDArray[np.uint8]:
    """Kernels (O, 3, k, k), channels red, green, blue -> uint8 (H, W, 3): a tile a kernel, row by row, on white.

    Each is stretched by itself: its weight farthest from 0 is 0 or 255, and 0 is mid grey. `rows` and `towers` are
    those of `tiled`. ValueError: kernels of another shape, or not finite, or that the towers do not divide.
    """
    if weights.ndim != 4 or weights.shape[1] != 3 or not weights.size or not np.isfinite(weights).all():
        raise ValueError(f"kernels of shape {weights.shape}, expected finite numbers (O, 3, k, k)")
    most = np.abs(weights).max((1, 2, 3), keepdims=True)
    stretched = np.round(127.5 + 127.5 * weights / np.where(most, most, 1.0)).astype(np.uint8)
    return tiled(stretched.transpose(0, 2, 3, 1), rows=rows, towers=towers)


def tiled(tiles: NDArray[np.uint8], *, rows: int | None = None, towers: int = 1) -> NDArray[np.uint8]:
    """Tiles (N, h, w, 3) -> one sheet (H, W, 3), row by row on white, a line between them.

    `rows` are those of all `towers`, whose tiles follow one another and stand apart; None: the fewest that have ACROSS
    tiles at most. ValueError: towers that do not divide the tiles.
    """
    count, h, w, _ = tiles.shape
    if count % towers:
        raise ValueError(f"{count} tiles, {towers} towers: expected as many in each")
    each = count // towers
    down = max(1, rows // towers) if rows else math.ceil(each / ACROSS)
    across = math.ceil(each / down)
    tower_step = down * (h + LINE) - LINE + BETWEEN
    sheet = np.full((towers * tower_step - BETWEEN + 2 * LINE, across * (w + LINE) + LINE, 3), WHITE, np.uint8)
    for i, tile in enumerate(tiles):
        tower, place = divmod(i, each)
        y = tower * tower_step + place // across * (h + LINE) + LINE
        x = place % across * (w + LINE) + LINE
        sheet[y : y + h, x : x + w] = tile
    return sheet


def read_kernels(run: Run) -> NDArray[np.float32]:
    """kernels.npy of a run: float32 (epochs, O, 3, k, k), not read into memory. UsageError names the file: missing, of
    more than MOST_BYTES, or not such an array.
    """
    path = run.kernels
    try:
        with files.bounded(path, MOST_BYTES):
            kernels = np.lib.format.open_memmap(path, mode="r")  # objects are refused
    except FileNotFoundError:
        raise UsageError(f"{path}: missing; a training writes it, an epoch at a time") from None
    except DAMAGE as reason:
        raise UsageError(f"{path}: cannot be read as an array of numbers ({one_line(reason)})") from None
    if kernels.dtype != np.float32 or kernels.ndim != 5:
        raise UsageError(f"{path}: expected float32 (epochs, kernels, 3, k, k)")
    if kernels.shape[2] != 3 or kernels.shape[3] != kernels.shape[4] or not kernels.size:
        raise UsageError(f"{path}: {kernels.shape}, expected (epochs, kernels, 3, k, k)")
    return kernels


def last_whole_epoch(kernels: NDArray[np.float32]) -> int | None:
    """The last epoch of kernels (epochs, O, 3, k, k) that is known, read from the end in blocks of PIECE bytes."""
    block = max(1, files.PIECE // kernels[0].nbytes)
    for end in range(len(kernels), 0, -block):
        begin = max(0, end - block)
        whole = whole_epochs(kernels[begin:end])
        if len(whole):
            return begin + int(whole[-1])
    return None


def whole_epochs(kernels: NDArray[np.float32]) -> NDArray[np.int64]:
    """Which of the epochs of kernels (epochs, O, 3, k, k) are known: one that could not be written is NaN."""
    return np.flatnonzero(np.isfinite(kernels).all((1, 2, 3, 4)))
