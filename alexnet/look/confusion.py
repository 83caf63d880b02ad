"""Which classes were taken for which, by the answers that a run kept."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..data.classes import Classes
from ..evaluation.predictions import Predictions
from .figures import FAINT, INK, ORANGE, WIDTH, named

NAMED: Final = 24  # classes whose names and numbers have room in a matrix
CELLS: Final = 250  # of a side of a matrix without names
WORST: Final = 16  # confusions that are named where the classes are not
DARK: Final = 0.55  # a share whose colour wants white letters
LONGEST: Final = 24  # characters of a name


@dataclass(frozen=True, eq=False)
class Confused:
    """How often pictures of a class were taken for one: a row each of `true`, `said` and `count`, those above 0 alone.

    A matrix of all pairs of 20,000 classes would be 3 GB.
    """

    true: NDArray[np.int64]
    said: NDArray[np.int64]
    count: NDArray[np.int64]

    def pictures(self, classes: int) -> NDArray[np.int64]:
        """(classes,) the pictures of each class."""
        return np.bincount(self.true, self.count, classes).astype(np.int64)

    def shares(self, classes: int) -> NDArray[np.float64]:
        """Of the pictures of the true class, how many were taken for this one: a share of each row."""
        return self.count / self.pictures(classes)[self.true]


def confused(predictions: Predictions, classes: int) -> Confused:
    """The pairs of true class and likeliest one, of predictions that fit so many; what was not decoded is left out."""
    true, said = predictions.labels[~predictions.bad], predictions.top[~predictions.bad, 0]
    pairs, count = np.unique(true * classes + said, return_counts=True)
    return Confused(*np.divmod(pairs, classes), count)


def draw_confusion(found: Confused, classes: Classes, *, bad: int = 0) -> Figure:
    """The matrix, with every number where they have room, else coarse and with the worst confusions by name."""
    right, total = int(found.count[found.true == found.said].sum()), int(found.count.sum())
    said = f"{total:,} pictures, {100 * right / total:.1f} % right"
    said += f" ({bad:,} not decoded)" if bad else ""
    return (_small if len(classes) <= NAMED else _large)(found, classes, said)


def _small(found: Confused, classes: Classes, said: str) -> Figure:
    n = len(classes)
    names = [named(classes, label, LONGEST) for label in range(n)]
    longest = max(map(len, names))
    label = 0.075 * longest + 0.9  # inches
    cell = min(0.75, (WIDTH - label) / n)
    slanted = n > 6 or longest > 10
    figure = Figure(figsize=(max(4.5, n * cell + label), n * cell + (0.055 * longest if slanted else 0) + 0.8),
                    layout="constrained")  # fmt: skip
    axes = figure.subplots()
    _matrix(axes, coarse(found, n, n), gamma=1.0)
    for row, column, count, share in zip(found.true, found.said, found.count, found.shares(n), strict=True):
        axes.text(column, row, f"{count:,}", ha="center", va="center", color="white" if share > DARK else INK,
                  fontsize=min(9.0, 23 * cell), weight="bold" if row == column else "normal")  # fmt: skip
    axes.set_xticks(range(n), names, rotation=40 if slanted else 0, ha="right" if slanted else "center",
                    rotation_mode="anchor" if slanted else "default")  # fmt: skip
    axes.set_yticks(range(n), [f"{name}  {k:,}" for name, k in zip(names, found.pictures(n), strict=True)])
    axes.set_xlabel("said to be")
    axes.set_ylabel("true class, and its pictures")
    axes.set_title(said)
    return figure


def _large(found: Confused, classes: Classes, said: str) -> Figure:
    n = len(classes)
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.12, 1))
    cells = min(n, CELLS)
    _matrix(left, coarse(found, n, cells), gamma=0.4)
    left.set_xlabel("said to be (number of the class)")
    left.set_ylabel("true class")
    left.set_title(said)
    fifth = n // 5
    ticks = np.arange(0, n, round(fifth, 1 - len(str(fifth))))  # round numbers
    at, labels = ticks * cells / n, [str(tick) for tick in ticks]
    left.set_xticks(at, labels)
    left.set_yticks(at, labels)
    wrong = np.flatnonzero(found.true != found.said)
    worst = wrong[np.argsort(-found.count[wrong], kind="stable")[:WORST]]
    right.barh(range(len(worst)), found.count[worst], color=ORANGE, alpha=0.35, height=0.8)
    pictures = found.pictures(n)
    for place, pair in enumerate(worst):
        true, taken = int(found.true[pair]), int(found.said[pair])
        words = f"{named(classes, true, LONGEST)} → {named(classes, taken, LONGEST)}"
        right.text(0, place, f" {words}", va="center", fontsize=7.5)
        right.text(1.0, place, f"{found.count[pair]} of {pictures[true]}", va="center", ha="right", fontsize=7.5,
                   color=FAINT, transform=right.get_yaxis_transform())  # fmt: skip
    right.set_title("most often mistaken: true → said")
    right.set(xlim=(0, max([*found.count[worst], 1]) * 1.6), ylim=(WORST - 0.5, -0.5), yticks=[], xticks=[])
    for side in right.spines.values():
        side.set_visible(False)
    return figure


def coarse(found: Confused, classes: int, cells: int) -> NDArray[np.float64]:
    """The matrix of shares with `cells` rows and columns, each the largest of those that it stands for."""
    made = np.zeros((cells, cells))
    np.maximum.at(made, (found.true * cells // classes, found.said * cells // classes), found.shares(classes))
    return made


def _matrix(axes: Axes, shares: NDArray[np.float64], *, gamma: float) -> None:
    """Shares of a row as colours: white for nothing, the rare ones lifted by a `gamma` below 1."""
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(gamma, 0, 1), interpolation="nearest", aspect="equal")
    for side in axes.spines.values():
        side.set_visible(True)
