"""Pictures and the nearest to them in a layer: figure 4 of the paper, right."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..data.loader import pixels
from ..data.samples import Samples
from ..errors import BadImage
from ..evaluation.features import gather
from ..evaluation.neighbours import check_search, nearest_rows
from ..weights.run import Loaded
from .figures import BLUE, FAINT, INK, PALE, named, picture, short

CELL, WORDS, GAP, APART = 1.14, 0.17, 0.07, 0.2  # inches: a picture, a line below it, between two, behind the query
LONGEST: Final = 17  # characters below a picture


@dataclass(frozen=True)
class Near:
    """A query's row, and the rows of the nearest to it with their distances, the nearest first."""

    query: int
    rows: list[int]
    distances: list[float]


def nearest_pictures(
    loaded: Loaded, queries: Samples, among: Samples, *, layer: str, k: int, device: torch.device
) -> tuple[list[Near], list[BadImage]]:
    """Of each query the k nearest of `among` by Euclidean distance in a layer, but not the very same file.

    And the pictures of `among` that could not be decoded. BadImage: a query that cannot be. UsageError: an unknown
    layer, k below 1. DataError: none of `among` could be decoded.
    """
    check_search(k=k)  # one more is searched for, for the query itself may be among them
    asked = gather(loaded, queries, [layer], device=device).matrix(layer)
    row, distances, bad = nearest_rows(loaded, asked, among, layer=layer, k=k + 1, device=device, bad_images="skip")
    found = []
    for query in range(len(queries)):
        own = _place(queries, query)
        kept = [i for i, one in enumerate(row[query]) if _place(among, int(one)) != own][:k]
        found.append(Near(query, [int(row[query, i]) for i in kept], [float(distances[query, i]) for i in kept]))
    return found, bad


def _place(samples: Samples, row: int) -> tuple[Path, int]:
    return samples.path(row).resolve(), int(samples.offset[row])


def draw_neighbours(found: Sequence[Near], queries: Samples, among: Samples, loaded: Loaded, *, layer: str) -> Figure:
    """A row a query: its picture, and the nearest to it with their classes, or names, and distances."""
    k = max(len(one.rows) for one in found)
    high = CELL + WORDS + GAP
    head = 0.26
    width, height = GAP + CELL + APART + k * (CELL + GAP), head + len(queries) * high + GAP
    figure = Figure(figsize=(width, height))
    for place, one in enumerate(found):
        y = height - head - (place + 1) * high + WORDS
        cells = [(GAP, queries, one.query, "")]
        cells += [
            (GAP + CELL + APART + at * (CELL + GAP), among, row, f"{distance:.3g}")
            for at, (row, distance) in enumerate(zip(one.rows, one.distances, strict=True))
        ]
        said = _words(queries, one.query)
        for x, samples, row, distance in cells:
            image = pixels(samples, row, loaded.preprocess)
            picture(figure.add_axes((x / width, y / height, CELL / width, CELL / height)), image)
            words = _words(samples, row)
            alike = words == said
            figure.text(x / width, (y - 0.03) / height, words, va="top", fontsize=7.5,
                        color=BLUE if alike else INK, weight="bold" if alike else "normal")  # fmt: skip
            figure.text(
                (x + CELL) / width, (y - 0.03) / height, distance, va="top", ha="right", fontsize=7, color=FAINT
            )
    for x, words in (
        (GAP, "query"),
        (GAP + CELL + APART, f"nearest of {len(among):,} by {layer}, with their distances"),
    ):
        figure.text(x / width, 1 - 0.05 / height, words, va="top", fontsize=8, color=FAINT)
    middle = (GAP + CELL + APART / 2) / width
    figure.add_artist(Line2D([middle] * 2, [GAP / height, 1 - head / height], color=PALE, linewidth=1))
    return figure


def _words(samples: Samples, row: int) -> str:
    """A picture's class, or its name where that is not known."""
    label = int(samples.label[row])
    return named(samples.classes, label, LONGEST) if label >= 0 else short(samples.key(row).rpartition("/")[2], LONGEST)
