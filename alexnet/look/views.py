"""What a network sees of a picture: the ten views of evaluation, and what training makes of it."""

import textwrap
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ..data.augment import Augment, Normalise, test_views, train_views, views_at
from ..data.cache import cache_folder
from ..data.loader import original, pixels
from ..data.samples import Samples
from ..data.sources import open_data
from ..data.stats import measure
from ..errors import UsageError
from ..weights.run import Loaded, Run
from .figures import AMBER, BLUE, GREEN, INK, ORANGE, PINK, WIDTH, picture

VIEWS, CENTRE = 10, 2  # the third is the one at the centre
FRAMES: Final = (BLUE, ORANGE, INK, GREEN, PINK)  # of the five places: corners, and the centre in the middle
PLACES: Final = ("upper left", "upper right", "centre", "lower left", "lower right")
CPU: Final = torch.device("cpu")
ACROSS: Final = 6
GAP, HEAD, LINE = 0.1, 0.3, 0.15  # inches
LETTERS: Final = 125  # a line of words


@dataclass(frozen=True)
class Varied:
    """What a run's training does to a picture: its recipe's values, as recipe.json has them."""

    augment: Augment
    seed: int
    crop: str
    crop_scale: float


def pictured(x: torch.Tensor, nothing: torch.Tensor, normalise: Normalise) -> NDArray[np.uint8]:
    """What a network is given, float (N, 3, s, s), as pixels (N, s, s, 3) RGB: the normalisation taken back.

    `nothing` is what the same views make of a black picture: whatever was subtracted. What is beyond 0..255 is cut off.
    """
    values = ((x - nothing).permute(0, 2, 3, 1) / normalise.gain[:3]).round().clamp(0, 255).to(torch.uint8)
    return (values.flip(3) if normalise.bgr else values).cpu().numpy()


def views_of(image: NDArray[np.uint8], loaded: Loaded) -> NDArray[np.uint8]:
    """A stored form (S, S, 3) -> the ten views (10, s, s, 3), as `test_views` makes them for the network."""
    normalise = Normalise(loaded.preprocess, loaded.mean, CPU)
    one = torch.from_numpy(image)[None]
    x, nothing = (test_views(images, normalise, views=VIEWS) for images in (one, torch.zeros_like(one)))
    return pictured(x, nothing, normalise)


def draw_views(image: NDArray[np.uint8], views: NDArray[np.uint8]) -> Figure:
    """A stored form (S, S, 3), and its ten views (10, s, s, 3): where each lies, and each by itself."""
    size, side = len(image), views.shape[1]
    cell = (WIDTH - HEAD - 8 * GAP) / 7  # the picture is as high as two rows, and stands left of five columns
    big = 2 * cell + HEAD
    height = big + HEAD + GAP
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((GAP / WIDTH, GAP / height, big / WIDTH, big / height))
    picture(axes, image)
    for at, ((top, left), _) in enumerate(views_at(size, side, 5)):
        inset = 0.004 * size * (at + 1)  # or their edges would hide each other
        corner, edge = (left - 0.5 + inset, top - 0.5 + inset), side - 2 * inset
        axes.add_patch(Rectangle(corner, edge, edge, fill=False, edgecolor=FRAMES[at], linewidth=2))
    figure.text(GAP / WIDTH, 1 - 0.06 / height, f"the stored form, {size}×{size}; views of {side}×{side}", va="top",
                fontsize=8)  # fmt: skip
    for at, view in enumerate(views):
        row, column = divmod(at, 5)
        x = big + 3 * GAP + column * (cell + GAP)
        y = GAP + (1 - row) * (cell + HEAD)
        picture(
            figure.add_axes((x / WIDTH, y / height, cell / WIDTH, cell / height)), view, frame=FRAMES[column], wide=2
        )
        said = f"{PLACES[column]}, mirrored" if row else PLACES[column]
        figure.text((x + cell / 2) / WIDTH, (y + cell + 0.05) / height, said, ha="center", va="bottom", fontsize=7)
    return figure


def varied(run: Run) -> Varied:
    """What the run's recipe says of augmentation. UsageError names recipe.json and a field that is not as it should."""
    recipe = run.recipe()

    def value(name: str, kind: type | Any) -> Any:
        found = recipe.get(name, {}).get("value")
        if not isinstance(found, kind) or (kind is not bool and isinstance(found, bool)):
            raise UsageError(f"{run.folder / 'recipe.json'}: {name}: {found!r} is not what a recipe has there")
        return found

    made = {one.name: value(one.name, bool if one.type is bool else float | int) for one in fields(Augment)}
    crop = value("crop", str)
    return Varied(Augment(**made), value("seed", int), crop, value("crop_scale", float | int))


def drawn(samples: Samples, loaded: Loaded, run: Run, count: int) -> NDArray[np.uint8]:
    """What the training of `run` makes of the first of the samples, `count` times: uint8 (count, s, s, 3).

    It is that of its places 0, 1, … in epoch 0, colour noise and all that its recipe names included. UsageError: the
    noise needs the colours of the training pictures, and the run knows of none. DataError: they are not there.
    """
    said = varied(run)
    normalise = Normalise(loaded.preprocess, loaded.mean, CPU)
    n = np.arange(count)
    if said.crop == "original":
        prepare = original(samples, loaded.preprocess, seed=said.seed, scale=said.crop_scale)
        picture = prepare.decode(samples.read(0), 0)
        images = torch.from_numpy(np.stack([prepare.view(picture, at, 0) for at in range(count)]))
    else:
        samples.check_shaping(loaded.preprocess)
        images = torch.from_numpy(pixels(samples, 0, loaded.preprocess))[None].repeat(count, 1, 1, 1)
    values = vectors = None
    if said.augment.colour_noise:
        kept = loaded.data
        if kept is None:
            raise UsageError(
                f"{run.folder / 'data.json'}: names no training pictures, whose colours the recipe's colour noise needs"
            )
        train = open_data(kept["source"], **kept["split"]).train
        stats = measure(train, loaded.preprocess, threads=2, cache=cache_folder(), bad_images="skip")
        values, vectors = stats.eigenvalues, stats.eigenvectors
    x = train_views(
        images, n, normalise, said.augment, seed=said.seed, epoch=0, eigenvalues=values, eigenvectors=vectors
    )
    plain = Augment(mirror=said.augment.mirror, random_crop=said.augment.random_crop)
    nothing = train_views(torch.zeros_like(images), n, normalise, plain, seed=said.seed, epoch=0)
    return pictured(x, nothing, normalise)


def draw_augment(image: NDArray[np.uint8], made: NDArray[np.uint8], said: str) -> Figure:
    """The stored form (S, S, 3), and what training makes of it (N, s, s, 3), with a line of what is varied."""
    cells = [image, *made]
    down = -(-len(cells) // ACROSS)
    cell = (WIDTH - GAP) / ACROSS - GAP
    lines = textwrap.wrap(said, LETTERS)
    head = HEAD + LINE * (len(lines) - 1)
    height = head + down * (cell + GAP)
    figure = Figure(figsize=(WIDTH, height))
    for at, one in enumerate(cells):
        x = GAP + at % ACROSS * (cell + GAP)
        y = height - head - (at // ACROSS + 1) * (cell + GAP) + GAP
        axes = figure.add_axes((x / WIDTH, y / height, cell / WIDTH, cell / height))
        picture(axes, one, frame=None if at else AMBER, wide=2.5)
    figure.text(GAP / WIDTH, 1 - 0.07 / height, "\n".join(lines), va="top", fontsize=8)
    return figure


def in_words(run: Run) -> str:
    """The recipe's augmentation in words."""
    one = varied(run)
    a = one.augment
    words = ["crops of the original" if one.crop == "original" else "random crops" if a.random_crop else "the centre"]
    words += ["mirrored or not"] if a.mirror else []
    light = {"brightness": a.brightness, "contrast": a.contrast, "saturation": a.saturation}
    words += [f"{name} ±{100 * value:.0f}\N{NO-BREAK SPACE}%" for name, value in light.items() if value]
    if a.colour_noise:
        words.append(f"colour noise {a.colour_noise:g}·√λ" + (", all divided by 1 + it" if a.colour_rescale else ""))
    return f"the picture as it is stored (framed), and as the network sees it in training: {', '.join(words)}"
