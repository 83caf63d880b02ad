"""A variant as the paper's figure 2 draws its own: boxes for maps, towers above each other, who sees whom.

Every number comes from the rows and from `network/cost.py`; nothing here knows a variant by its name.
"""

import itertools
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.patheffects import withStroke

from ..network.cost import Cost, LayerCost, Shape, cost
from ..network.variants import Conv, Linear, MaxPool, Pad, Row, Variant
from .figures import BLUE, FAINT, INK, ORANGE, PALE
from .kernels import towers_at

# Inches. An edge is drawn to the square root of its length, or 13 pixels would be a dot beside 224.
PIXELS, MAPS, UNITS = 0.104, 0.03, 0.028
SLANT = (0.34, 0.22)  # of a map's width, right and up
GAP: Final = 0.27  # between two columns
APART: Final = 0.5  # two towers
HEAD, FEET, MARGIN = 0.8, 0.93, 0.12
BAR: Final = 0.13  # of fully connected units
LETTER, LINE, SPACE = 0.068, 0.15, 0.1  # of small print
LETTERS: Final = 14  # an inch of running text
GREY = "#8c8c8c"  # what belongs to no tower
TOWERS = (BLUE, ORANGE)
AFTER: Final = {"relu": "ReLU", "lrn": "LRN", "within_map_lrn": "LRN in maps", "batch_norm": "batch norm",
                "dropout": "dropout"}  # fmt: skip


@dataclass
class Column:
    """What one layer puts out: a box, or bar, a tower."""

    name: str
    kind: str
    shape: Shape  # of all towers
    towers: int
    made_by: Row | None = None  # None: the image
    crossing: bool = False  # sees both towers
    neurons: int = 0
    after: list[str] = field(default_factory=list)  # what follows it in place
    left: float = 0.0

    @property
    def flat(self) -> bool:
        """Whether it is units and no maps."""
        return self.kind == "linear"

    @property
    def size(self) -> tuple[float, float, float]:
        """Width, height and slanted depth of a tower's box, in inches."""
        C, H, W = self.shape
        if self.flat:
            return BAR, UNITS * math.sqrt(C / self.towers), 0.0
        return MAPS * math.sqrt(C / self.towers), PIXELS * math.sqrt(H), PIXELS * math.sqrt(W)

    @property
    def wide(self) -> float:
        """From the left edge to the end of the slanted side."""
        width, _, deep = self.size
        return width + SLANT[0] * deep

    @property
    def tall(self) -> float:
        """From the bottom to the top of the slanted side."""
        _, height, deep = self.size
        return height + SLANT[1] * deep


def draw_network(variant: Variant, classes: int) -> Figure:
    """The variant with so many classes: each layer's maps to scale by their square roots, kernels, strides, neurons."""
    whole = cost(variant, classes)
    columns = columns_of(variant, whole)
    width = _placed(columns)
    towers = max(column.towers for column in columns)
    pitch = max(column.tall for column in columns if column.towers == towers) + APART
    body = max(towers * pitch - APART, columns[0].tall) + 0.3
    said = (
        f"{whole.parameters:,} parameters · {whole.macs:,} multiply-adds · {whole.neurons:,} neurons. "
        "Edges are drawn to the square root of their length."
    )
    caption = textwrap.wrap(said, round(width * LETTERS))
    source = textwrap.wrap(f"{variant.name}: {variant.source}", round(width * LETTERS))
    foot = FEET + LINE * (max(len(column.after) for column in columns) + len(caption) + len(source))
    figure = Figure(figsize=(width, HEAD + body + foot))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0, width), ylim=(0, HEAD + body + foot))
    axes.axis("off")
    middle = foot + body / 2
    for before, column in itertools.pairwise(columns):
        _seen(axes, before, column, middle, pitch)
    for column in columns:
        for tower in range(column.towers):
            alone = column.made_by is None or column.towers < towers
            _box(axes, column, tower, _bottom(column, tower, middle, pitch), alone=alone)
    for before, column in itertools.pairwise(columns):
        x = (before.left + before.wide + column.left) / 2
        axes.text(x, foot + body + 0.12, "\n".join(done(column)), ha="center", va="bottom", fontsize=7.5, color=FAINT)
    _feet(axes, columns, foot - 0.12)
    for lines, top, colour in ((caption, len(caption) + len(source), INK), (source, len(source), FAINT)):
        axes.text(width / 2, MARGIN + LINE * top, "\n".join(lines), ha="center", va="top", fontsize=7.5, color=colour)
    return figure


def _placed(columns: Sequence[Column]) -> float:
    """Gives each column its place; returns the width of them all, in inches. Words need room, as boxes do."""
    first, last = columns[0], columns[-1]
    first.left = MARGIN + max(0.0, _under(first) / 2 - first.wide / 2)
    for before, column in itertools.pairwise(columns):
        between = max(GAP, _wide(done(column)) - 0.5 * min(before.wide, column.wide))
        under = (_under(before) + _under(column)) / 2 + SPACE
        column.left = max(before.left + before.wide + between, before.left + (before.wide - column.wide) / 2 + under)
    return last.left + max(last.wide, last.wide / 2 + _under(last) / 2) + MARGIN


def _under(column: Column) -> float:
    """Inches that the words below a column take."""
    return _wide([size_of(column), column.name, *column.after])


def _wide(words: Sequence[str]) -> float:
    """Inches that the longest of some words takes."""
    return LETTER * max(map(len, words))


def columns_of(variant: Variant, whole: Cost) -> list[Column]:
    """What is drawn, from the image to the logits; a layer that leaves the shape alone stands below the one before."""
    columns = [Column("image", "image", (3, variant.side, variant.side), 1)]
    for row, layer in zip(variant.layers, whole.layers, strict=True):
        last = columns[-1]
        if isinstance(row, Conv | Linear | MaxPool) or layer.out != last.shape:
            columns.append(_column(row, layer, last, towers_at(variant, row.name)))
        elif row.kind in AFTER:
            last.after.append(AFTER[row.kind])
    return columns


def _column(row: Row, layer: LayerCost, before: Column, towers: int) -> Column:
    match row:
        case Conv():
            crossing = row.groups == 1 and before.towers > 1
        case Linear():
            crossing = before.towers > 1
        case _:
            towers, crossing = before.towers, False
    return Column(row.name, row.kind, layer.out, towers, row, crossing, layer.neurons)


def _bottom(column: Column, tower: int, middle: float, pitch: float) -> float:
    """Where a tower's box stands; the first tower is the upper one."""
    return middle + (column.towers - 1 - 2 * tower) * pitch / 2 - column.tall / 2


def _box(axes: Axes, column: Column, tower: int, bottom: float, *, alone: bool) -> None:
    width, height, deep = column.size
    x, y, dx, dy = column.left, bottom, SLANT[0] * deep, SLANT[1] * deep
    colour = GREY if alone else TOWERS[tower]
    front = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    top = [(x, y + height), (x + width, y + height), (x + width + dx, y + height + dy), (x + dx, y + height + dy)]
    side = [(x + width, y), (x + width + dx, y + dy), (x + width + dx, y + height + dy), (x + width, y + height)]
    pooled = column.kind not in ("conv", "image", "linear")
    for face, share in ((front, 0.30), (top, 0.14), (side, 0.20)):
        share = share * (0.45 if pooled else 1.0) if not column.flat else 0.55
        axes.add_patch(Polygon(face, facecolor=_mixed(colour, share), edgecolor=colour, linewidth=0.7, zorder=3))
    axes.text(x + column.wide / 2, y - 0.045, size_of(column), ha="center", va="top", fontsize=7.5, zorder=5,
              path_effects=[withStroke(linewidth=2, foreground="white")])  # fmt: skip


def size_of(column: Column) -> str:
    """A tower's share of a layer: height × width × maps, or units."""
    C, H, W = column.shape
    each = C // column.towers
    return f"{each:,}" if column.flat else f"{H}×{W}×{each}"


def _seen(axes: Axes, before: Column, column: Column, middle: float, pitch: float) -> None:
    """Lines from a window of the boxes before, or from all of them, to each box."""
    for tower in range(column.towers):
        _, height, _ = column.size
        bottom = _bottom(column, tower, middle, pitch)
        sources = range(before.towers) if column.crossing or column.towers == 1 else [min(tower, before.towers - 1)]
        for source in sources:
            colour = GREY if before.made_by is None else TOWERS[source]
            begin = _bottom(before, source, middle, pitch)
            if column.flat:
                _dense(axes, before, column, (begin, bottom), colour)
            elif isinstance(column.made_by, Conv | MaxPool):
                _window(axes, before, column, column.made_by.kernel, begin, bottom + height * 0.5, colour)


def _window(axes: Axes, before: Column, column: Column, kernel: int, bottom: float, target: float, colour: str) -> None:
    """A window of `kernel` pixels on the right face of the box before, and the one value that it leads to."""
    width, height, deep = before.size
    share = math.sqrt(kernel / before.shape[1])
    low, high = (1 - share) / 2, (1 + share) / 2

    def at(along: float, up: float) -> tuple[float, float]:
        return before.left + width + along * SLANT[0] * deep, bottom + along * SLANT[1] * deep + up * height

    corners = [at(low, low), at(high, low), at(high, high), at(low, high)]
    apex = (column.left, target)
    axes.add_patch(Polygon(corners, facecolor=_mixed(colour, 0.6), edgecolor=colour, linewidth=0.6, zorder=4))
    axes.add_patch(Polygon([*corners[1:3], apex], facecolor=colour, alpha=0.13, linewidth=0, zorder=2))
    for corner in corners[1:3]:
        axes.plot(*zip(corner, apex, strict=True), color=colour, linewidth=0.6, alpha=0.8, zorder=2.5)


def _dense(axes: Axes, before: Column, column: Column, bottoms: tuple[float, float], colour: str) -> None:
    """A fan from all of a box, or bar, to all of a bar."""
    left = before.left + before.wide
    low = bottoms[0] + before.tall - before.size[1]
    fan = [
        (left, low), (left, low + before.size[1]),
        (column.left, bottoms[1] + column.size[1]), (column.left, bottoms[1]),
    ]  # fmt: skip
    axes.add_patch(Polygon(fan, facecolor=colour, edgecolor=colour, alpha=0.16, linewidth=0.5, zorder=2))


def done(column: Column) -> list[str]:
    """What is done to make a column of the one before, in words, a line each."""
    match column.made_by:
        case Conv(kernel=kernel, stride=stride, pad=pad):
            lines = [f"{kernel}×{kernel}", *([f"stride {stride}"] if stride > 1 else []), *_padding(pad)]
            return [*lines, *(["both towers"] if column.crossing else [])]
        case MaxPool(kernel=kernel, stride=stride):
            return ["max", f"{kernel}×{kernel}", f"stride {stride}"]
        case Linear():
            return ["dense"]
        case _:
            return [column.kind.replace("_", " ")]


def _padding(pad: Pad) -> list[str]:
    if pad.before == pad.after:
        return [f"pad {pad.before}"] if pad.before else []
    return [f"pad {pad.before}, {pad.after}"]


def _feet(axes: Axes, columns: Sequence[Column], y: float) -> None:
    """Names, what follows in place, and neurons, below the columns."""
    line = y - 0.27 - LINE * max(len(column.after) for column in columns)
    axes.plot([columns[0].left, columns[-1].left + columns[-1].wide], [line] * 2, color=PALE, linewidth=0.8)
    for column in columns:
        x = column.left + column.wide / 2
        axes.text(x, y, column.name, ha="center", va="top", fontsize=8.5, weight="bold")
        axes.text(x, y - 0.18, "\n".join(column.after), ha="center", va="top", fontsize=7.5, color=FAINT)
        if column.neurons:
            axes.text(x, line - 0.06, f"{column.neurons:,}", ha="center", va="top", fontsize=8)
    axes.text(columns[0].left, line - 0.06, "neurons", va="top", fontsize=8, color=FAINT)


def _mixed(colour: str, share: float) -> tuple[float, float, float]:
    """The colour on white paper, `share` of it."""
    r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 1 - share * (1 - r), 1 - share * (1 - g), 1 - share * (1 - b)
