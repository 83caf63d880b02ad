"""What excites a unit most: of many pictures, the parts that it saw."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..data.loader import pixels
from ..data.samples import Samples
from ..errors import BadImage, DataError, UsageError
from ..evaluation.features import activations, layer_form
from ..network.cost import cost, seen
from ..weights.run import Loaded
from .figures import FAINT, WIDTH, picture
from .kernels import towers_at

BEST: Final = 9  # pictures a unit
SHOWN: Final = 6  # units, where none is named
ACROSS: Final = 3  # units beside each other
GAP, BETWEEN, HEAD = 0.18, 0.04, 0.26  # inches
OUTSIDE: Final = 236  # grey, for what lies beyond the picture


@dataclass(frozen=True)
class Excited:
    """One picture of a unit's best: its row, how strong the unit was and at which row and column of its map.

    `box`: (top, left, bottom, right) in the stored form of what the unit sees there.
    """

    row: int
    value: float
    at: tuple[int, int]
    box: tuple[int, int, int, int]


def most_exciting(
    loaded: Loaded,
    samples: Samples,
    layer: str,
    units: Sequence[int],
    *,
    device: torch.device,
) -> tuple[dict[int, list[Excited]], list[BadImage]]:
    """Of each unit (a map, or a unit of a fully connected layer) the BEST pictures, a place in each, strongest first;

    and the pictures that could not be decoded. Without `units`, some of those that any picture excites, evenly chosen.
    UsageError: an unknown layer or unit. DataError: no picture could be decoded.
    """
    variant = loaded.model.variant
    name = layer_form(layer, variant)
    C = next(one.out[0] for one in cost(variant, loaded.model.classes).layers if one.name == name)
    if wrong := [unit for unit in units if not 0 <= unit < C]:
        raise UsageError(f"--unit {wrong[0]}: {layer} has the units 0 to {C - 1}")
    values = torch.empty((C, 0))
    rows = places = torch.empty((C, 0), dtype=torch.int64)
    bad: list[BadImage] = []
    wide = 1
    for batch in activations(loaded, samples, [layer], device=device, bad_images="skip"):
        bad += [reason for _, reason in batch.bad]
        if not len(batch.rows):
            continue
        maps = batch.values[layer][:, 0]  # (B, C, H, W) or (B, C)
        wide = maps.shape[3] if maps.ndim == 4 else 1
        value, place = maps.flatten(2).max(2) if maps.ndim == 4 else (maps, torch.zeros_like(maps, dtype=torch.int64))
        values = torch.cat([values, value.T], 1)
        rows = torch.cat([rows, torch.from_numpy(batch.rows).expand(C, -1)], 1)
        places = torch.cat([places, place.T], 1)
        order = values.argsort(dim=1, descending=True, stable=True)[:, :BEST]
        values, rows, places = (one.gather(1, order) for one in (values, rows, places))
    if not values.shape[1]:
        raise DataError(f"none of {len(samples)} pictures can be decoded; the first: {bad[0]}")
    edge = (loaded.preprocess.stored - loaded.preprocess.side) // 2

    def excited(unit: int, rank: int) -> Excited:
        y, x = divmod(int(places[unit, rank]), wide)
        top, left, bottom, right = (edge + one for one in seen(variant, name, y, x))
        return Excited(int(rows[unit, rank]), float(values[unit, rank]), (y, x), (top, left, bottom, right))

    return {
        unit: [excited(unit, rank) for rank in range(values.shape[1])] for unit in units or lively(values[:, 0])
    }, bad


def lively(strongest: torch.Tensor) -> list[int]:
    """SHOWN of the units (C,) that anything excites, from the first to the last of them; all if there are fewer."""
    alive = (strongest > 0).nonzero().flatten().numpy()
    alive = alive if len(alive) else np.arange(len(strongest))
    return alive[np.unique(np.linspace(0, len(alive) - 1, min(SHOWN, len(alive))).round().astype(int))].tolist()


def part_seen(image: NDArray[np.uint8], one: Excited, *, field: int, edge: int) -> NDArray[np.uint8]:
    """What the unit saw of a stored form: uint8 (field, field, 3), grey where its field leaves the picture.

    `edge`: where the network's input begins in the stored form.
    """
    top, left, bottom, right = one.box
    whole = np.full((field, field, 3), OUTSIDE, np.uint8)
    y, x = (field - (end - begin) if begin == edge else 0 for begin, end in ((top, bottom), (left, right)))
    whole[y : y + bottom - top, x : x + right - left] = image[top:bottom, left:right]
    return whole


def draw_units(found: dict[int, list[Excited]], samples: Samples, loaded: Loaded, layer: str) -> Figure:
    """Of each unit the parts of the pictures that excite it most, the strongest first, three beside each other."""
    layers = cost(loaded.model.variant, loaded.model.classes).layers
    name = layer_form(layer, loaded.model.variant)
    C, field = next((one.out[0], one.receptive_field) for one in layers if one.name == name)
    towers, p = towers_at(loaded.model.variant, name), loaded.preprocess
    images = {row: pixels(samples, row, p) for row in sorted({one.row for best in found.values() for one in best})}
    across = min(ACROSS, len(found))
    down = -(-len(found) // across)
    sheet = (WIDTH - GAP) / ACROSS - GAP
    cell = (sheet + BETWEEN) / 3 - BETWEEN
    width = across * (sheet + GAP) + GAP
    said = f"{layer}: what excites a unit most in {len(samples):,} pictures, cut to the {field}×{field} pixels it sees"
    lines = textwrap.wrap(said, round(13 * width))
    head = 0.16 * len(lines) + 0.1
    height = down * (sheet + HEAD + GAP) + head
    figure = Figure(figsize=(width, height))
    for at, (unit, best) in enumerate(found.items()):
        x = GAP + at % across * (sheet + GAP)
        top = height - head - at // across * (sheet + HEAD + GAP)
        tower = f", tower {unit * towers // C + 1}" if towers > 1 else ""
        figure.text(x / width, (top - HEAD + 0.06) / height, f"unit {unit}{tower}", weight="bold", va="bottom")
        figure.text((x + sheet) / width, (top - HEAD + 0.06) / height, f"{best[0].value:.3g} to {best[-1].value:.3g}",
                    va="bottom", ha="right", fontsize=7.5, color=FAINT)  # fmt: skip
        for rank, one in enumerate(best):
            part = part_seen(images[one.row], one, field=field, edge=(p.stored - p.side) // 2)
            left, low = x + rank % 3 * (cell + BETWEEN), top - HEAD - (rank // 3 + 1) * (cell + BETWEEN) + BETWEEN
            picture(figure.add_axes((left / width, low / height, cell / width, cell / height)), part)
    figure.text(GAP / width, 1 - 0.08 / height, "\n".join(lines), va="top", fontsize=8.5)
    return figure
