"""`alexnet figure KIND`: the paper's figures, and others, of a run of one's own."""

import json as json_format
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from ..errors import UsageError, WeightsError
from .features import named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..data.samples import Samples
    from ..errors import BadImage
    from ..weights.run import Loaded

LEAST_DPI, MOST_DPI = 30, 1200
PICTURES = Annotated[list[str], Parameter(allow_leading_hyphen=True)]

app = App(
    name="figure",
    help="Draw a figure, PNG or SVG: RUN/figures/KIND.png, or as --out says.\n\n"
    "alexnet figure network paper\n"
    "alexnet figure units runs/flowers --layer conv5",
    help_format="plaintext",
    help_formatter="plain",
)


@app.command
def network(
    run: str,
    /,
    *,
    classes: int | None = None,
    variant: str | None = None,
    out: Path | None = None,
    dpi: int = 150,
    json: bool = False,
) -> None:
    """A variant's layers, towers and sizes: figure 2 of the paper.

    alexnet figure network paper --out paper.svg

    Parameters:
        run: a variant, or RUN
        classes: outputs of the last layer; 1000, or RUN's
        variant: of a model file, where several have its shapes
        out: the file, .png or .svg
        dpi: of a .png, pixels an inch
        json: print one JSON document
    """
    from ..look.network import draw_network
    from ..network.variants import VARIANTS

    path = _place("network", run, out=out, dpi=dpi)
    if classes is not None and classes < 1:
        raise UsageError(f"--classes {classes}: must be at least 1")
    if run in VARIANTS and variant in (None, run) and not Path(run).exists():
        chosen, count = VARIANTS[run], classes or 1000
    else:
        model = _opened(run, variant=variant).model
        chosen, count = model.variant, classes or model.classes
    _write("network", path, lambda: draw_network(chosen, count), dpi=dpi, json=json)


@app.command
def filters(
    run: str,
    /,
    *,
    over_time: bool = False,
    variant: str | None = None,
    out: Path | None = None,
    dpi: int = 150,
    json: bool = False,
) -> None:
    """The first layer's kernels: figure 3 of the paper.

    alexnet figure filters runs/flowers
    alexnet figure filters runs/flowers --over-time

    Parameters:
        run: RUN
        over_time: a row an epoch, as the run's kernels.npy kept them
        variant: of a model file, where several have its shapes
        out: the file, .png or .svg
        dpi: of a .png, pixels an inch
        json: print one JSON document
    """
    from ..look.figures import run_folder
    from ..look.filters import draw_film, draw_filters
    from ..look.kernels import read_kernels, towers_of

    path = _place("filters", run, *(["over-time"] if over_time else []), out=out, dpi=dpi)
    kernels = read_kernels(run_folder(run, "kernels.npy")) if over_time else None
    loaded = _opened(run, variant=variant)
    towers, bgr = towers_of(loaded.model.variant), loaded.preprocess.colour == "BGR"
    loaded.take_rgb()
    weights = loaded.model.get_parameter("conv1.weight").detach()
    if not weights.isfinite().all():
        raise WeightsError(f"{run}: conv1.weight holds values that are not finite")
    weights = weights.numpy()
    if kernels is not None and kernels.shape[1:] != weights.shape:
        raise UsageError(f"{run}: kernels.npy holds {kernels.shape[1:]} an epoch, and conv1 is {weights.shape}")

    def draw() -> "Figure":
        if kernels is not None:
            return draw_film(kernels[:, :, ::-1] if bgr else kernels, towers=towers)
        return draw_filters(weights, towers=towers)

    _write("filters", path, draw, dpi=dpi, json=json)


@app.command
def predictions(
    run: str,
    pictures: PICTURES | None = None,
    /,
    *,
    count: int = 8,
    seed: int = 0,
    variant: str | None = None,
    out: Path | None = None,
    dpi: int = 150,
    json: bool = False,
) -> None:
    """Pictures with their five likeliest classes: figure 4 of the paper, left.

    alexnet figure predictions runs/flowers
    alexnet figure predictions runs/flowers flowers/val --count 12

    Parameters:
        run: RUN
        pictures: files or folders; else those that the run held out
        count: pictures drawn of more
        seed: of that draw, and of an untrained variant's weights
        variant: of a model file, where several have its shapes
        out: the file, .png or .svg
        dpi: of a .png, pixels an inch
        json: print one JSON document
    """
    from ..look.pictures import few, pictures_of, stored_forms
    from ..look.predictions import draw_predictions, said_of

    path = _place("predictions", run, out=out, dpi=dpi)
    loaded = _opened(run, seed=seed, variant=variant)
    some = few(pictures_of(loaded, named(pictures or [])), count, seed=seed)
    images = stored_forms(some, loaded)
    said, keys = said_of(images, loaded), some.keys()
    _write("predictions", path, lambda: draw_predictions(images, said, some.label.tolist(), keys, loaded.classes),
        dpi=dpi, json=json, shown=keys,
    )  # fmt: skip


@app.command
def neighbours(
    run: str,
    queries: PICTURES | None = None,
    /,
    *,
    among: str | None = None,
    k: Annotated[int, Parameter(name=["-k"])] = 6,
    layer: str | None = None,
    count: int = 5,
    seed: int = 0,
    variant: str | None = None,
    device: str = "auto",
    out: Path | None = None,
    dpi: int = 150,
    json: bool = False,
) -> None:
    """Pictures and those most like them to the network: figure 4 of the paper, right.

    alexnet figure neighbours runs/flowers
    alexnet figure neighbours runs/flowers a.jpg b.jpg --among flowers/train

    Parameters:
        run: RUN
        queries: files or folders; else some that the run held out
        among: where the nearest are looked for; else the run's training pictures
        k: how many for each
        layer: fc7, or another whose activations are compared
        count: queries drawn of more
        seed: of that draw, and of an untrained variant's weights
        variant: of a model file, where several have its shapes
        device: auto, cpu, cuda or mps
        out: the file, .png or .svg
        dpi: of a .png, pixels an inch
        json: print one JSON document
    """
    from ..evaluation.neighbours import LAYER
    from ..look.neighbours import draw_neighbours, nearest_pictures
    from ..look.pictures import few, pictures_of, trained_on
    from ..ranks import device_of, multiply_in
    from ..stop import watch

    path = _place("neighbours", run, out=out, dpi=dpi)
    where = device_of(device)
    multiply_in("fp32", where)
    loaded = _opened(run, seed=seed, variant=variant)
    asked = few(pictures_of(loaded, named(queries or [])), count, seed=seed)
    others = trained_on(loaded) if among is None else pictures_of(loaded, [among])
    with watch():
        found, bad = nearest_pictures(loaded, asked, others, layer=layer or LAYER, k=k, device=where)
    shown = [
        {
            "path": asked.key(one.query),
            "neighbours": [
                {"path": others.key(row), "label": _label(loaded, int(others.label[row])), "distance": distance}
                for row, distance in zip(one.rows, one.distances, strict=True)
            ],
        }
        for one in found
    ]
    _say_bad(bad)
    _write("neighbours", path, lambda: draw_neighbours(found, asked, others, loaded, layer=layer or LAYER),
        dpi=dpi, json=json, shown=shown,
    )  # fmt: skip


@app.command
def curves(
    runs: list[str],
    /,
    *,
    out: Path | None = None,
    dpi: int = 150,
    json: bool = False,
) -> None:
    """Loss and error over the epochs, of one training or several.

    alexnet figure curves runs/flowers
    alexnet figure curves runs/seed-0 runs/seed-1 runs/other --out curves.svg

    Parameters:
        runs: run folders; those that differ in nothing but the seed are one line with its spread
        out: the file, .png or .svg
        dpi: of a .png, pixels an inch
        json: print one JSON document
    """
    from ..look.curves import draw_curves
    from ..look.figures import run_folder

    path = _place("curves", runs[0], out=out, dpi=dpi)
    folders = [run_folder(run, "a log") for run in runs]
    _write("curves", path, lambda: draw_curves(folders), dpi=dpi, json=json)


@app.command
def views(
    run: str,
    picture: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    variant: str | None = None,
    out: Path | None = None,
    dpi: int = 150,
    json: bool = False,
) -> None:
    """The ten views of a picture that an evaluation averages over.

    alexnet figure views paper rose.jpg

    Parameters:
        run: RUN
        picture: a file
        variant: of a model file, where several have its shapes
        out: the file, .png or .svg
        dpi: of a .png, pixels an inch
        json: print one JSON document
    """
    from ..look.pictures import stored_forms
    from ..look.views import draw_views, views_of

    path = _place("views", run, Path(picture).stem, out=out, dpi=dpi)
    loaded = _opened(run, variant=variant)
    image = stored_forms(_picture(picture), loaded)[0]
    _write("views", path, lambda: draw_views(image, views_of(image, loaded)), dpi=dpi, json=json)


@app.command
def augment(
    run: str,
    picture: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    count: int = 11,
    out: Path | None = None,
    dpi: int = 150,
    json: bool = False,
) -> None:
    """What a training really shows to its network, of one picture.

    alexnet figure augment runs/flowers rose.jpg

    Parameters:
        run: a run folder: its recipe says what is varied, its seed how
        picture: a file
        count: how often it is drawn
        out: the file, .png or .svg
        dpi: of a .png, pixels an inch
        json: print one JSON document
    """
    from ..look.figures import run_folder
    from ..look.pictures import MOST, stored_forms
    from ..look.views import draw_augment, drawn, in_words

    path = _place("augment", run, Path(picture).stem, out=out, dpi=dpi)
    if not 1 <= count <= MOST:
        raise UsageError(f"--count {count}: must be at least 1 and at most {MOST}")
    folder = run_folder(run, "a recipe")
    loaded = _opened(run)
    one = _picture(picture)
    image, made = stored_forms(one, loaded)[0], drawn(one, loaded, folder, count)
    _write("augment", path, lambda: draw_augment(image, made, in_words(folder)), dpi=dpi, json=json)


@app.command
def maps(
    run: str,
    picture: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    layer: str = "conv1:relu",
    seed: int = 0,
    variant: str | None = None,
    out: Path | None = None,
    dpi: int = 150,
    json: bool = False,
) -> None:
    """The activations of a layer for one picture, a map a tile.

    alexnet figure maps runs/flowers rose.jpg --layer conv5:relu

    Parameters:
        run: RUN
        picture: a file
        layer: of any name that features takes: conv1, norm1, conv5:pool, fc7:relu
        seed: of an untrained variant's weights
        variant: of a model file, where several have its shapes
        out: the file, .png or .svg
        dpi: of a .png, pixels an inch
        json: print one JSON document
    """
    from ..evaluation.features import activations, layer_form
    from ..look.kernels import towers_at
    from ..look.maps import draw_maps
    from ..look.pictures import stored_forms
    from ..look.views import CENTRE, views_of

    path = _place("maps", run, layer, Path(picture).stem, out=out, dpi=dpi)
    loaded = _opened(run, seed=seed, variant=variant)
    one = _picture(picture)
    values = next(iter(activations(loaded, one, [layer]))).values[layer][0, 0].numpy()
    saw = views_of(stored_forms(one, loaded)[0], loaded)[CENTRE]
    towers = towers_at(loaded.model.variant, layer_form(layer, loaded.model.variant))
    _write("maps", path, lambda: draw_maps(values, saw, layer=layer, towers=towers), dpi=dpi, json=json)


@app.command
def units(
    run: str,
    pictures: PICTURES | None = None,
    /,
    *,
    layer: str = "conv5:relu",
    unit: list[int] | None = None,
    seed: int = 0,
    variant: str | None = None,
    device: str = "auto",
    out: Path | None = None,
    dpi: int = 150,
    json: bool = False,
) -> None:
    """The parts of pictures that excite a unit most.

    alexnet figure units runs/flowers --layer conv5:relu
    alexnet figure units runs/flowers pictures --layer conv3 --unit 7 --unit 12

    Parameters:
        run: RUN
        pictures: files or folders; else those that the run held out
        layer: of any name that features takes: conv1, norm1, conv5:pool, fc7:relu
        unit: a map's number, from 0; else six of those that anything excites
        seed: of an untrained variant's weights
        variant: of a model file, where several have its shapes
        device: auto, cpu, cuda or mps
        out: the file, .png or .svg
        dpi: of a .png, pixels an inch
        json: print one JSON document
    """
    from ..look.pictures import pictures_of
    from ..look.units import draw_units, most_exciting
    from ..ranks import device_of, multiply_in
    from ..stop import watch

    path = _place("units", run, layer, out=out, dpi=dpi)
    where = device_of(device)
    multiply_in("fp32", where)
    loaded = _opened(run, seed=seed, variant=variant)
    samples = pictures_of(loaded, named(pictures or []))
    with watch():
        found, bad = most_exciting(loaded, samples, layer, unit or [], device=where)
    shown = [
        {
            "unit": number,
            "pictures": [
                {"path": samples.key(one.row), "value": one.value, "at": list(one.at), "box": list(one.box)}
                for one in best
            ],
        }
        for number, best in found.items()
    ]
    _say_bad(bad)
    _write("units", path, lambda: draw_units(found, samples, loaded, layer), dpi=dpi, json=json, shown=shown
    )  # fmt: skip


@app.command
def confusion(
    run: str,
    /,
    *,
    out: Path | None = None,
    dpi: int = 150,
    json: bool = False,
) -> None:
    """Which classes a run takes for which, on the pictures that it held out.

    alexnet figure confusion runs/flowers

    Parameters:
        run: a run folder
        out: the file, .png or .svg
        dpi: of a .png, pixels an inch
        json: print one JSON document
    """
    from ..evaluation.predictions import fitting, read_predictions
    from ..look.confusion import confused, draw_confusion
    from ..look.figures import run_folder

    path = _place("confusion", run, out=out, dpi=dpi)
    folder = run_folder(run, "predictions/val.parquet")
    classes = folder.classes()
    kept = fitting(read_predictions(folder.predictions), len(classes), folder.predictions)
    found, bad = confused(kept, len(classes)), int(kept.bad.sum())
    _write("confusion", path, lambda: draw_confusion(found, classes, bad=bad), dpi=dpi, json=json)


def _opened(run: str, *, seed: int = 0, variant: str | None = None) -> "Loaded":
    """What RUN names; what a user should know of it is said."""
    from ..weights.run import open_run
    from . import say

    loaded = open_run(run, seed=seed, named=variant)
    for note in loaded.notes:
        say(note)
    return loaded


def _picture(name: str) -> "Samples":
    """The one picture of that name."""
    from ..data.samples import shown
    from ..data.sources import open_images

    found = open_images(named([name]))
    if len(found) != 1:
        raise UsageError(f"{shown(name)}: {len(found)} pictures, expected one")
    return found


def _label(loaded: "Loaded", label: int) -> str | None:
    return loaded.classes.words[label] if label >= 0 else None


def _say_bad(bad: list["BadImage"]) -> None:
    """Names the pictures that were left out, for they could not be decoded."""
    from . import say

    for one in bad:
        say(f"bad image {one}")


def _place(kind: str, run: str, *of: str, out: Path | None, dpi: int) -> Path:
    """Where the figure goes; `of` tells it from others of its kind. What is wrong with that is said before anything is
    computed.
    """
    from ..look.figures import ending, place_of

    if not LEAST_DPI <= dpi <= MOST_DPI:
        raise UsageError(f"--dpi {dpi}: must be at least {LEAST_DPI} and at most {MOST_DPI}")
    path = out or place_of(run, "-".join((kind, *of)).replace(":", "-").replace("/", "-"))
    ending(path)
    return path


def _write(kind: str, path: Path, draw: Callable[[], "Figure"], *, dpi: int, json: bool, shown: Any = None) -> None:
    """Draws, writes, and says where; with `json` also what is to be seen, where that is more than the picture says."""
    from ..look.figures import style, write_figure

    with style():
        write_figure(draw(), path, dpi=dpi)
    if json:
        document: dict[str, Any] = {"kind": kind, "file": str(path), "bytes": path.stat().st_size}
        print(json_format.dumps(document if shown is None else {**document, "shown": shown}))
    else:
        print(path)
