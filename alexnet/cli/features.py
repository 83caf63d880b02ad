"""`alexnet features`."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ..errors import BadImage, UsageError

if TYPE_CHECKING:
    from ..data.samples import Samples


def features(
    run: str,
    images: Annotated[list[str] | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *,
    layers: str = "fc7",
    out: Path,
    views: int = 1,
    mean: bool = False,
    dtype: Literal["float32", "float16"] = "float32",
    batch_size: int = 64,
    device: str = "auto",
    workers: int = 2,
    bad_images: Literal["error", "skip"] = "error",
    seed: int = 0,
    variant: str | None = None,
    json: bool = False,
) -> None:
    """Activations of any layers as a file, with the pictures' names and labels.

    alexnet features runs/flowers flowers/val --layers conv5:relu,fc7 --out f.npz
    alexnet features imagenet photos --layers features.10 --out f.h5 --views 10

    Parameters:
        run: RUN
        images: a folder, list, tar, pack or picture files; else what RUN held out
        layers: names, a comma between; conv5:pre, :relu, :norm, :pool
        out: .npy (one layer), .npz, .h5, .mat or .parquet
        views: 1, 5 or 10, each kept
        mean: keep the views' mean instead
        dtype: float32 or float16
        batch_size: views that go through at once
        device: auto, cpu, cuda or mps
        workers: threads that decode
        bad_images: error, or skip (and list them)
        seed: of an untrained variant's weights
        variant: of a model file, where several have its shapes
        json: print one JSON document
    """
    from rich.progress import Progress

    from ..data.samples import shown
    from ..evaluation import features as featuring
    from ..evaluation.feature_files import NPY, beside
    from ..evaluation.judge import own_samples
    from ..ranks import device_of, multiply_in
    from ..stop import watch
    from ..weights.run import open_run
    from . import console_for, say

    given = named(images or [])
    where = device_of(device)
    multiply_in("fp32", where)
    loaded = open_run(run, seed=seed, named=variant)
    samples = pictures(given) if given else own_samples(loaded)
    for note in loaded.notes:
        say(note)
    console = console_for(json)
    try:
        with watch(), Progress(console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("features", total=len(samples))
            found = featuring.extract(
                loaded,
                samples,
                [name.strip() for name in layers.split(",")],
                out,
                source=", ".join(given) if given else loaded.data["source"] if loaded.data else run,
                views=views,
                mean=mean,
                dtype=dtype,
                batch_size=batch_size,
                device=where,
                threads=workers,
                bad_images=bad_images,
                progress=lambda done: bar.advance(task, done),
            )
    except BadImage as bad:
        raise bad.with_hint() from bad
    about = found.about
    result = {
        "file": str(out),
        "index": str(beside(out)) if out.suffix.lower() == NPY else None,
        "bytes": out.stat().st_size,
        "count": len(found),
        "layers": [{"name": name, "layer": ours, "shape": about.shapes[name]} for name, ours in about.layers.items()],
        "views": views,
        "mean": mean,
        "dtype": dtype,
        "bad_images": len(about.bad),
    }
    if json:
        print(json_format.dumps(result))
        return
    for bad in about.bad:
        say(f"bad image, left out: {bad['path']}: {bad['reason']}")
    console.print(f"{shown(str(out))}: {len(found)} pictures, {result['bytes'] / 1e6:.1f} MB, {dtype}")
    for name, shape in about.shapes.items():
        console.print(f"  {name}: {len(found)} x {' x '.join(map(str, shape))}")
    if result["index"]:
        console.print(f"{shown(str(beside(out)))}: their names and labels")


def named(images: list[str]) -> list[str]:
    """The names given, none of which is a misspelt option."""
    for name in images:
        if name.startswith("-"):
            raise UsageError(f"{name}: unknown option (a file of that name is ./{name})")
    return images


def pictures(given: list[str]) -> "Samples":
    """The pictures that were named; what of them is left out is said."""
    from ..data.folders import EMPTY_CLASS
    from ..data.sources import open_pictures
    from . import say

    samples = open_pictures(given)
    for reason, count in samples.ignored.items():
        if reason != EMPTY_CLASS:
            say(f"left out, {reason}: {count}, as {samples.ignored.names[reason][0]}")
    return samples
