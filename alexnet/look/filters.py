"""The first layer's kernels as figure 3 of the paper shows them, and how they came to be."""

from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..errors import UsageError
from .figures import WIDTH, bare
from .kernels import ACROSS, BETWEEN, LINE, WHITE, kernel_sheet, whole_epochs

MOST_EPOCHS: Final = 10  # rows of a film
SIDE, HEAD, MARGIN = 0.32, 0.36, 0.08  # inches
MOST, LEAST = 0.05, 6.5  # inches: a weight, and a figure, which has words above


def draw_filters(weights: NDArray[np.floating], *, towers: int) -> Figure:
    """Kernels (O, 3, k, k), channels red, green, blue -> a sheet in rows of 16; of two towers the first is above."""
    sheet = kernel_sheet(weights, towers=towers)
    count, _, k, _ = weights.shape
    said = f"conv1: {count} kernels of {k}×{k}×3; grey is 0, each stretched by itself"
    figure, left, top = _sheet(sheet, said, words=towers > 1)
    for tower in range(towers if towers > 1 else 0):
        height = top * (1 - (tower + 0.5) / towers)
        figure.text(left / 2, height, f"tower {tower + 1}", rotation=90, ha="center", va="center", fontsize=8)
    return figure


def draw_film(kernels: NDArray[np.floating], *, towers: int) -> Figure:
    """Kernels (epochs, O, 3, k, k) -> a strip: a row an epoch, a column a kernel, those that end the strongest.

    Epochs whose kernels are NaN, for the file could not be written, are left out. UsageError: there is no other.
    """
    known = whole_epochs(kernels)
    if not len(known):
        raise UsageError("kernels.npy: no epoch of it was written whole")
    shown = known[np.unique(np.linspace(0, len(known) - 1, min(MOST_EPOCHS, len(known))).round().astype(int))]
    each, k = kernels.shape[1] // towers, kernels.shape[3]
    few = min(each, ACROSS // towers)
    strength = np.square(kernels[shown[-1]], dtype=np.float64).sum((1, 2, 3)).reshape(towers, each)
    chosen = np.sort(np.argsort(-strength, axis=1, kind="stable")[:, :few], axis=1)  # (towers, few)
    gap = np.full((k + 2 * LINE, BETWEEN - 2 * LINE, 3), WHITE, np.uint8)
    rows = []
    for epoch in shown:
        strips = [kernel_sheet(kernels[epoch][tower * each + chosen[tower]], rows=1) for tower in range(towers)]
        parts = [part for strip in strips for part in (gap, strip)][1:]
        rows.append(np.hstack(parts))
    sheet = np.vstack(rows)
    of = f"{few * towers} of {kernels.shape[1]} kernels" + (f", {few} a tower" if towers > 1 else "")
    said = f"conv1 after epochs {shown[0] + 1} to {shown[-1] + 1}: {of}, the strongest at the end; grey is 0"
    figure, left, top = _sheet(sheet, said, words=True)
    for row, epoch in enumerate(shown):
        height = top * (1 - (row + 0.5) / len(shown))
        figure.text(left * 0.8, height, f"{epoch + 1}", ha="right", va="center", fontsize=8)
    return figure


def _sheet(sheet: NDArray[np.uint8], said: str, *, words: bool) -> tuple[Figure, float, float]:
    """A figure of a sheet with a line above it, and where the sheet begins and how high it ends, as shares of it."""
    height, width, _ = sheet.shape
    left = (SIDE if words else 0.0) + MARGIN
    inches = min(WIDTH - left - MARGIN, MOST * width)  # few kernels stay small
    wide, tall = max(left + inches + MARGIN, LEAST), inches * height / width + MARGIN
    whole = tall + HEAD
    figure = Figure(figsize=(wide, whole))
    axes = figure.add_axes((left / wide, MARGIN / whole, inches / wide, (tall - MARGIN) / whole))
    bare(axes).imshow(sheet, interpolation="nearest", aspect="auto")
    figure.text((left + 0.03) / wide, (tall + 0.1) / whole, said, va="bottom", fontsize=9)
    return figure, left / wide, tall / whole
