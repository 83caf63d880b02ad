"""`alexnet neighbours`."""

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from .features import named, pictures


def neighbours(
    run: str,
    query: Annotated[list[str], Parameter(allow_leading_hyphen=True)],
    /,
    *,
    among: str,
    k: Annotated[int, Parameter(name=["-k"])] = 6,
    layer: str | None = None,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    index: Literal["exact", "faiss"] = "exact",
    batch_size: int = 64,
    device: str = "auto",
    workers: int = 2,
    bad_images: Literal["error", "skip"] = "error",
    seed: int = 0,
    variant: str | None = None,
    json: bool = False,
) -> None:
    """The pictures that are most like a picture to the network.

    alexnet neighbours runs/flowers rose.jpg --among flowers/train
    alexnet neighbours runs/flowers *.jpg --among train.npy --metric cosine

    Parameters:
        run: RUN
        query: picture files, or folders of them
        among: pictures, or a file of RUN's own features (`alexnet features`)
        k: how many for each
        layer: fc7, or the only one of a file of features
        metric: euclidean or cosine
        index: exact, or faiss (as exact, in float32, for millions)
        batch_size: pictures that go through at once
        device: auto, cpu, cuda or mps
        workers: threads that decode
        bad_images: error, or skip (of those to search)
        seed: of an untrained variant's weights
        variant: of a model file, where several have its shapes
        json: print one JSON document
    """
    from ..data.sources import open_images
    from ..evaluation import neighbours as searching
    from ..evaluation.feature_files import is_features, read_features
    from ..ranks import device_of, multiply_in
    from ..stop import watch
    from ..weights.run import open_run
    from . import console_for, say

    queries = open_images(named(query))
    where = device_of(device)
    multiply_in("fp32", where)
    loaded = open_run(run, seed=seed, named=variant)
    for note in loaded.notes:
        say(note)
    known = is_features(Path(among)) and Path(among).is_file()
    with watch():
        found, bad = searching.neighbours(
            loaded,
            queries,
            read_features(Path(among)) if known else pictures([among]),
            layer=layer,
            k=k,
            metric=metric,
            index=index,
            batch_size=batch_size,
            device=where,
            threads=workers,
            bad_images=bad_images,
        )
    for one in bad:
        say(f"bad image {one}")
    if json:
        print(json_format.dumps([{"path": path, "neighbours": [asdict(one) for one in near]} for path, near in found]))
        return
    console = console_for(False)
    for path, near in found:
        console.print(path)
        for one in near:
            console.print(f"  {one.distance:10.4g}  {one.path}" + (f"  ({one.label})" if one.label else ""))
