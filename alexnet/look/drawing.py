"""Small drawings for a page, as SVG elements: they take their colours from its style, light or dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..evaluation.calibration import Calibration
from .page import Node, node

WIDE, HIGH = 360, 224  # units of a chart, about a pixel each on a telephone
LEFT, RIGHT, TOP, BELOW = 44, 12, 10, 38
MOST_POINTS: Final = 300  # of a line; more are averaged
COLOURS: Final = 6  # that the style has


@dataclass(frozen=True)
class Line:
    """Points to join: `kind` is the style's name for it, with `dots` at the points."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    kind: str
    dots: bool = False


def thinned(line: Line) -> Line:
    """The line with MOST_POINTS points at most, each the mean of as many that follow one another."""
    n = len(line.x)
    if n <= MOST_POINTS:
        return line
    edges = np.linspace(0, n, MOST_POINTS + 1).astype(np.int64)
    count = np.diff(edges)
    return Line(line.name, np.add.reduceat(line.x, edges[:-1]) / count, np.add.reduceat(line.y, edges[:-1]) / count,
                line.kind, line.dots)  # fmt: skip


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    span = high - low
    if span <= 0:
        return [low]
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _around(value: float) -> tuple[float, float]:
    """An axis that has one value alone in its middle; a half is nothing beside a large one."""
    half = max(0.5, abs(value) / 2)
    return value - half, value + half


def chart(title: str, lines: Sequence[Line], *, across: str, share: bool = False) -> Node:
    """Lines over one axis `across`, with a legend where there are several. `share`: y is 0..1 and shown in percent."""
    drawn = [thinned(line) for line in lines]
    x0, x1 = min(float(line.x.min()) for line in drawn), max(float(line.x.max()) for line in drawn)
    y = np.concatenate([line.y for line in drawn])
    y0, y1 = min(0.0, float(y.min())), float(y.max())
    y1 = max(y1, y0 + 1e-9) if share else y1 + 0.04 * (y1 - y0) or y0 + 1.0
    if x1 <= x0:
        x0, x1 = _around(x0)
    if y1 <= y0:
        y0, y1 = _around(y0)

    def place(px: float, py: float) -> tuple[float, float]:
        return (
            LEFT + (px - x0) / (x1 - x0) * (WIDE - LEFT - RIGHT),
            HIGH - BELOW - (py - y0) / (y1 - y0) * (HIGH - TOP - BELOW),
        )

    grid = node("g", class_="grid")
    for value in ticks(y0, y1):
        _, py = place(x0, value)
        words = f"{100 * value:g}\u00a0%" if share else f"{value:g}"
        grid.add(node("line", x1=float(LEFT), x2=float(WIDE - RIGHT), y1=py, y2=py))
        grid.add(node("text", words, x=float(LEFT - 6), y=py + 4, text_anchor="end"))
    for value in ticks(x0, x1):
        px, _ = place(value, y0)
        grid.add(node("text", f"{value:g}", x=px, y=float(HIGH - BELOW + 16), text_anchor="middle"))
    grid.add(node("text", across, x=float(WIDE - RIGHT), y=float(HIGH - 4), text_anchor="end"))
    made = node("svg", grid, viewBox=f"0 0 {WIDE} {HIGH}", role="img", aria_label=f"{title}: {_told(lines, share)}")
    for line in drawn:
        points = [place(float(a), float(b)) for a, b in zip(line.x, line.y, strict=True)]
        joined = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        made.add(node("polyline", points=joined, class_=f"line {line.kind}"))
        if line.dots or len(points) == 1:
            made.add(node("circle", cx=px, cy=py, r=2.6, class_=f"dot {line.kind}") for px, py in points)
    legend = [
        node("li", node("svg", node("line", x1=1, y1=6, x2=21, y2=6, class_=f"line {line.kind}"), viewBox="0 0 22 12",
                        width=22, height=12, aria_hidden="true"), " ", line.name)
        for line in lines
    ]  # fmt: skip
    return node("figure", node("figcaption", title), made,
                node("ul", legend, class_="legend") if len(lines) > 1 else None, class_="chart")  # fmt: skip


def _told(lines: Sequence[Line], share: bool) -> str:
    """What the lines do, for who cannot see them."""

    def value(y: float) -> str:
        return f"{100 * y:.1f}\u00a0%" if share else f"{y:.3g}"

    return "; ".join(f"{line.name} from {value(float(line.y[0]))} to {value(float(line.y[-1]))}" for line in lines)


def reliability(title: str, found: Calibration) -> Node:
    """The share right in each bin of probability as a bar, against the line on which they would be equal."""
    side, left, below = 260, 40, 34
    inner, bins = side - left - 16, len(found.count)

    def x(share: float) -> float:
        return left + share * inner

    def y(share: float) -> float:
        return side - below - share * (inner - 4)

    made = node("svg", viewBox=f"0 0 {side} {side}", role="img",
                aria_label=f"{title}: expected calibration error {100 * found.ece:.1f}\u00a0%")  # fmt: skip
    grid = node("g", class_="grid")
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        grid.add(node("line", x1=x(0), x2=x(1), y1=y(value), y2=y(value)))
        grid.add(node("text", f"{100 * value:g}", x=float(left - 6), y=y(value) + 4, text_anchor="end"))
        grid.add(node("text", f"{100 * value:g}", x=x(value), y=y(0) + 16, text_anchor="middle"))
    grid.add(node("text", "said with, %", x=x(1), y=float(side - 3), text_anchor="end"))
    made.add(grid)
    most = max(1, int(found.count.max()))
    for b in range(bins):
        if found.count[b]:
            share = float(found.right[b] / found.count[b])
            made.add(node("rect", x=x(b / bins) + 1, width=inner / bins - 2, y=y(share), height=y(0) - y(share),
                             class_=f"bar weight{1 + round(3 * math.sqrt(found.count[b] / most))}"))  # fmt: skip
    made.add(node("line", x1=x(0), y1=y(0), x2=x(1), y2=y(1), class_="ideal"))
    return node("figure", node("figcaption", title), made, class_="chart square")


def share_bar(share: float, *, low: float | None = None, high: float | None = None) -> Node:
    """A share of 0..1 as a bar of 100 units, with the line of its interval where that is given."""
    made = node("svg", node("rect", x=0, y=1, width=100, height=8, class_="track"),
                node("rect", x=0, y=1, width=100.0 * share, height=8, class_="bar weight3"),
                viewBox="0 0 100 10", preserveAspectRatio="none", class_="share", aria_hidden="true")  # fmt: skip
    if low is not None and high is not None:
        made.add(node("line", x1=100.0 * low, x2=100.0 * high, y1=5, y2=5, class_="interval"))
    return made


def parts_bar(parts: Sequence[tuple[str, float]]) -> Node:
    """Parts of a whole beside each other, 0..1 each, in the order of the style's shades."""
    made = node("svg", viewBox="0 0 100 6", preserveAspectRatio="none", class_="parts", aria_hidden="true")
    at = 0.0
    for n, (_, share) in enumerate(parts):
        made.add(node("rect", x=at, y=0, width=100.0 * share, height=6, class_=f"part part{n}"))
        at += 100.0 * share
    return made
