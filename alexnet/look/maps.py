"""The activations of a layer for one picture, a map a tile."""

import math
from typing import Final

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .figures import WIDTH, bare, picture
from .kernels import tiled

GAP, HEAD, LEFT, BAR = 0.12, 0.32, 1.7, 0.9  # inches; LEFT: the picture beside the sheet
TALL: Final = 0.62  # of the sheet's width, about
TOP: Final = 99.9  # per cent of the values lie below the brightest colour: one spark would darken all else


def draw_maps(values: NDArray[np.float32], image: NDArray[np.uint8], *, layer: str, towers: int) -> Figure:
    """Activations (C, H, W) or (C,) of a layer, and what the network saw (s, s, 3) -> a sheet, one scale for all.

    Of two towers the first is above. Values below 0 are blue and those above red, where there are both.
    """
    maps = values[:, None, None] if values.ndim == 1 else values
    count, h, w = maps.shape
    signed = bool(maps.min() < 0)
    most = float(np.percentile(np.abs(maps), TOP)) or 1.0
    norm, colours = Normalize(-most if signed else 0.0, most), colormaps["RdBu_r" if signed else "magma"]
    tiles = colours(np.asarray(norm(maps)), bytes=True)[..., :3]
    if h == w == 1:  # units: squares without lines between
        each = count // towers
        across = math.ceil(math.sqrt(each * towers / TALL))
        down = math.ceil(each / across)
        sheet = np.full((towers * (down + 1) - 1, across, 3), 255, np.uint8)
        for i, tile in enumerate(tiles[:, 0, 0]):
            tower, at = divmod(i, each)
            sheet[tower * (down + 1) + at // across, at % across] = tile
    else:
        rows = max(1, round(math.sqrt(count * TALL) / towers)) * towers
        sheet = tiled(tiles, rows=rows, towers=towers)
    wide = WIDTH - LEFT - 3 * GAP
    tall = wide * sheet.shape[0] / sheet.shape[1]
    height = max(tall, LEFT + BAR) + HEAD + GAP
    figure = Figure(figsize=(WIDTH, height))
    picture(figure.add_axes((GAP / WIDTH, (height - HEAD - LEFT) / height, LEFT / WIDTH, LEFT / height)), image)
    place = ((LEFT + 2 * GAP) / WIDTH, (height - HEAD - tall) / height, wide / WIDTH, tall / height)
    bare(figure.add_axes(place)).imshow(sheet, interpolation="nearest", aspect="auto")
    what = f"{count} maps of {h}×{w}" if h * w > 1 else f"{count} units"
    figure.text(place[0], 1 - 0.07 / height, f"{layer}: {what}", va="top")
    figure.text(GAP / WIDTH, 1 - 0.07 / height, "what it saw", va="top")
    bar = figure.add_axes((GAP / WIDTH, (height - HEAD - LEFT - 0.35) / height, LEFT / WIDTH, 0.11 / height))
    figure.colorbar(ScalarMappable(norm, colours), cax=bar, orientation="horizontal")
    return figure
