"""Pictures and what a network says of them: figure 4 of the paper, left."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..data.augment import Normalise
from ..data.classes import Classes
from ..evaluation.score import probabilities
from ..weights.run import Loaded
from .figures import FAINT, ORANGE, SKY, WIDTH, named, picture, short

ACROSS: Final = 4
BARS: Final = 5
ROOM: Final = 1.2  # bars reach 1; behind stands the number
AT_ONCE: Final = 16  # pictures
CELL, NAME, BAR, GAP = 2.06, 0.24, 0.19, 0.16  # inches: a picture, the line below it, a bar, what is between
LONGEST: Final = 26  # characters


@torch.inference_mode()
def said_of(images: NDArray[np.uint8], loaded: Loaded) -> NDArray[np.float32]:
    """Stored forms (N, S, S, 3) -> probabilities (N, classes), by the view at the centre."""
    normalise = Normalise(loaded.preprocess, loaded.mean, torch.device("cpu"))
    parts = torch.from_numpy(images).split(AT_ONCE)
    return torch.cat([probabilities(loaded.model, part, normalise, views=1) for part in parts]).numpy()


def draw_predictions(
    images: NDArray[np.uint8],
    said: NDArray[np.float32],
    labels: Sequence[int],
    keys: Sequence[str],
    classes: Classes,
) -> Figure:
    """Stored forms (N, S, S, 3), what is said of them (N, classes) and true labels, -1 for unknown -> a panel each.

    Below a picture stands its true class, or its name where that is not known, and the five likeliest, the true one in
    a colour of its own.
    """
    bars = min(BARS, len(classes))
    across = min(ACROSS, len(images))
    down = -(-len(images) // across)
    high = CELL + NAME + bars * BAR
    width, height = across * (CELL + GAP) + GAP, down * (high + GAP) + GAP
    figure = Figure(figsize=(max(width, WIDTH / 2), height))
    wide, tall = figure.get_size_inches()
    for at, (image, p, label, key) in enumerate(zip(images, said, labels, keys, strict=True)):
        x = GAP + at % across * (CELL + GAP) + (wide - width) / 2
        y = tall - (at // across + 1) * (high + GAP)  # of the panel's lower edge
        place = (x / wide, (y + NAME + bars * BAR) / tall, CELL / wide, CELL / tall)
        picture(figure.add_axes(place), image)
        name = named(classes, label, LONGEST) if label >= 0 else short(key.rpartition("/")[2], LONGEST)
        figure.text((x + CELL / 2) / wide, (y + NAME / 2 + bars * BAR) / tall, name, ha="center", va="center",
                    weight="bold" if label >= 0 else "normal", color=None if label >= 0 else FAINT)  # fmt: skip
        _bars(figure.add_axes((x / wide, y / tall, CELL / wide, bars * BAR / tall)), p, label, classes, bars)
    return figure


def _bars(axes: Axes, p: NDArray[np.float32], label: int, classes: Classes, bars: int) -> None:
    """The likeliest classes from above, each a bar with its name on it and its probability behind."""
    order = np.argsort(-p, kind="stable")[:bars]
    axes.barh(range(bars), p[order], height=0.86, color=[ORANGE if one == label else SKY for one in order], alpha=0.6)
    for at, one in enumerate(order):
        axes.text(0.015, at, named(classes, one, LONGEST), va="center", fontsize=8)
        axes.text(ROOM, at, f"{100 * p[one]:.0f} %", va="center", ha="right", fontsize=7, color=FAINT)
    axes.set(xlim=(0, ROOM), ylim=(bars - 0.5, -0.5))
    axes.axis("off")
