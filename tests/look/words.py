"""The words of a figure, as they will stand on it."""

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def texts(figure: Figure) -> list[Text]:
    """Its words that are seen: those of a tick beyond its axis are not."""
    beyond = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            beyond |= {
                id(one)
                for tick in axis.get_major_ticks()
                if not low <= tick.get_loc() <= high
                for one in (tick.label1, tick.label2)
            }
    return [
        one for one in figure.findobj(Text) if one.get_text().strip() and one.get_visible() and id(one) not in beyond
    ]


def said(figure: Figure) -> list[str]:
    return [one.get_text() for one in texts(figure)]


def crowded(figure: Figure) -> list[str]:
    """Words that lie on each other, or beyond the edge; within `style`."""
    FigureCanvasAgg(figure).draw()
    edge = figure.bbox
    boxes = [(one.get_text(), one.get_window_extent()) for one in texts(figure)]
    upright = [(one.get_text(), one.get_window_extent()) for one in texts(figure) if one.get_rotation() in (0, 90)]
    found = [f"{text!r} leaves the figure" for text, box in boxes
             if box.x0 < edge.x0 - 1 or box.y0 < edge.y0 - 1 or box.x1 > edge.x1 + 1 or box.y1 > edge.y1 + 1]  # fmt: skip
    for (one, a), (other, b) in combinations(upright, 2):
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1:
            found.append(f"{one!r} on {other!r}")
    return found
