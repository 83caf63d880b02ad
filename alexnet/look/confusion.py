"""Which classes were taken for which, by the answers that a run kept."""

from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..data.classes import Classes
from ..errors import DataError
from ..evaluation.predictions import Predictions
from .figures import FAINT, INK, ORANGE, WIDTH, named

NAMED: Final = 24  # classes whose names and numbers have room in a matrix
CELLS: Final = 250  # of a side of a matrix without names
WORST: Final = 16  # confusions that are named where the classes are not
LONGEST: Final = 24  # characters of a name


def confusion(predictions: Predictions, classes: int) -> NDArray[np.int64]:
    """(classes, classes): how many pictures of the class of the row were taken for that of the column.

    What could not be decoded is left out. DataError: an answer that is none of so many classes, or nothing at all.
    """
    true, said = predictions.labels[~predictions.bad], predictions.top[~predictions.bad, 0]
    if not len(true) or true.min() < 0 or max(true.max(), said.max()) >= classes:
        raise DataError(f"predictions/val.parquet: {len(true)} answers that are not of the run's {classes} classes")
    return np.bincount(true * classes + said, minlength=classes**2).reshape(classes, classes)


def draw_confusion(counts: NDArray[np.int64], classes: Classes, *, bad: int = 0) -> Figure:
    """The matrix (classes, classes), with every number where they have room, else with the worst confusions by name."""
    right, total = int(np.trace(counts)), int(counts.sum())
    said = f"{total:,} pictures, {100 * right / total:.1f} % right"
    said += f" ({bad:,} not decoded)" if bad else ""
    return (_small if len(classes) <= NAMED else _large)(counts, classes, said)


def _small(counts: NDArray[np.int64], classes: Classes, said: str) -> Figure:
    n = len(classes)
    names = [named(classes, label, LONGEST) for label in range(n)]
    longest = max(map(len, names))
    label = 0.075 * longest + 0.9  # inches
    cell = min(0.75, (WIDTH - label) / n)
    slanted = n > 6 or longest > 10
    figure = Figure(figsize=(max(4.5, n * cell + label), n * cell + (0.055 * longest if slanted else 0) + 0.8),
                    layout="constrained")  # fmt: skip
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    _matrix(axes, shares, gamma=1.0)
    for row, column in np.argwhere(counts):
        dark = shares[row, column] > 0.55
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color="white" if dark else INK,
                  fontsize=min(9.0, 23 * cell), weight="bold" if row == column else "normal")  # fmt: skip
    axes.set_xticks(range(n), names, rotation=40 if slanted else 0, ha="right" if slanted else "center",
                    rotation_mode="anchor" if slanted else "default")  # fmt: skip
    axes.set_yticks(range(n), [f"{name}  {k:,}" for name, k in zip(names, counts.sum(1), strict=True)])
    axes.set_xlabel("said to be")
    axes.set_ylabel("true class, and its pictures")
    axes.set_title(said)
    return figure


def _large(counts: NDArray[np.int64], classes: Classes, said: str) -> Figure:
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.12, 1))
    shares = coarse(counts, CELLS)
    _matrix(left, shares, gamma=0.4)
    left.set_xlabel("said to be (number of the class)")
    left.set_ylabel("true class")
    left.set_title(said)
    fifth = len(classes) // 5
    ticks = np.arange(0, len(classes), round(fifth, 1 - len(str(fifth))))  # round numbers
    at, labels = ticks * len(shares) / len(classes), [str(tick) for tick in ticks]
    left.set_xticks(at, labels)
    left.set_yticks(at, labels)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    worst = np.argsort(-wrong, axis=None, kind="stable")[: min(WORST, int((wrong > 0).sum()))]
    rows, columns = np.unravel_index(worst, wrong.shape)
    taken, of = wrong[rows, columns], counts.sum(1)[rows]
    right.barh(range(len(worst)), taken, color=ORANGE, alpha=0.35, height=0.8)
    for at, (row, column, k, all_of) in enumerate(zip(rows, columns, taken, of, strict=True)):
        pair = f"{named(classes, row, LONGEST)} → {named(classes, column, LONGEST)}"
        right.text(0, at, f" {pair}", va="center", fontsize=7.5)
        right.text(1.0, at, f"{k} of {all_of}", va="center", ha="right", fontsize=7.5, color=FAINT,
                   transform=right.get_yaxis_transform())  # fmt: skip
    right.set_title("most often mistaken: true → said")
    right.invert_yaxis()
    right.set(xlim=(0, max([*taken, 1]) * 1.6), yticks=[], xticks=[])
    for side in right.spines.values():
        side.set_visible(False)
    return figure


def coarse(counts: NDArray[np.int64], most: int) -> NDArray[np.float64]:
    """The matrix with `most` rows and columns at most, each the largest share of those that it stands for."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if len(counts) <= most:
        return shares
    edges = np.linspace(0, len(counts), most + 1).round().astype(int)[:-1]
    return np.maximum.reduceat(np.maximum.reduceat(shares, edges, axis=0), edges, axis=1)


def _matrix(axes: Axes, shares: NDArray[np.float64], *, gamma: float) -> None:
    """Shares of a row as colours: white for nothing, the rare ones lifted by a `gamma` below 1."""
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(gamma, 0, 1), interpolation="nearest", aspect="equal")
    for side in axes.spines.values():
        side.set_visible(True)
