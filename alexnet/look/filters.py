"""The first layer's kernels as figure 3 of the paper shows them, and how they came to be."""

from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..data.cache import DAMAGE
from ..errors import UsageError
from ..weights.run import Run
from .figures import WIDTH, bare
from .kernels import ACROSS, BETWEEN, LINE, WHITE, kernel_sheet

FILE: Final = "kernels.npy"
MOST_EPOCHS: Final = 10  # rows of a film
SIDE, HEAD, MARGIN = 0.32, 0.36, 0.08  # inches


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
    known = np.flatnonzero(np.isfinite(kernels).all((1, 2, 3, 4)))
    if not len(known):
        raise UsageError(f"{FILE}: no epoch of it was written whole")
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
    inches = WIDTH - left - MARGIN
    tall = inches * height / width + MARGIN
    whole = tall + HEAD
    figure = Figure(figsize=(WIDTH, whole))
    axes = figure.add_axes((left / WIDTH, MARGIN / whole, inches / WIDTH, (tall - MARGIN) / whole))
    bare(axes).imshow(sheet, interpolation="nearest", aspect="auto")
    figure.text((left + 0.03) / WIDTH, (tall + 0.1) / whole, said, va="bottom", fontsize=9)
    return figure, left / WIDTH, tall / whole


def read_kernels(run: Run) -> NDArray[np.float32]:
    """kernels.npy of a run: float32 (epochs, O, 3, k, k), not read into memory. UsageError names the file: missing, or
    not such an array.
    """
    path: Path = run.folder / FILE
    try:
        kernels = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"{path}: missing; a training writes it, an epoch at a time") from None
    except DAMAGE as reason:
        raise UsageError(f"{path}: cannot be read as an array of numbers ({str(reason).splitlines()[0]})") from None
    if not isinstance(kernels, np.ndarray) or kernels.dtype != np.float32 or kernels.ndim != 5:
        raise UsageError(f"{path}: expected float32 (epochs, kernels, 3, k, k)")
    if kernels.shape[2] != 3 or kernels.shape[3] != kernels.shape[4] or not kernels.size:
        raise UsageError(f"{path}: {kernels.shape}, expected (epochs, kernels, 3, k, k)")
    return kernels
