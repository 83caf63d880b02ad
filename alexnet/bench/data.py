"""The data road: pictures on disk to normalised float batches, beside torchvision's loader and webdataset."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import torch
import torchvision
from torch.utils.data import ConcatDataset, DataLoader
from torchvision.transforms import v2

from ..data.augment import Augment, Normalise, train_views
from ..data.loader import Places, batches, original, stored
from ..data.order import nth
from ..data.pack import Form, pack
from ..data.preprocess import Preprocess
from ..data.samples import Samples
from ..data.sources import open_data, open_source
from ..errors import DataError
from ..network.variants import variant
from ..ranks import cores
from ..weights.run import preprocess_of
from .rows import OURS, Contestant, Row, missing, once, timed

PICTURES = 6000  # at least so many a repeat: a small set is read over and over
BATCH = 64
SMALLEST = 0.08  # share of the area that a random-resized-crop takes


def ours(samples: Samples, preprocess: Preprocess, *, threads: int, dtype: torch.dtype, times: int) -> None:
    """Every picture `times` over: crop, mirror, normalise -> (B, 3, 224, 224) in `dtype`.

    The crop is a random-resized one of pictures as they were taken, and a random one of stored forms.
    """
    normalise, augment = Normalise(preprocess, None, torch.device("cpu")), Augment()
    prepare, side = stored(samples, preprocess), preprocess.stored
    if samples.shaping is None:
        prepare, side = original(samples, preprocess, seed=0, scale=SMALLEST), preprocess.side

    def places() -> Iterator[Places]:
        for epoch in range(times):
            n = np.arange(len(samples))
            rows = nth(0, epoch, n, size=len(samples))
            for part in np.split(n, range(BATCH, len(n), BATCH)):
                yield Places(rows[part], part, epoch)

    for batch in batches(samples, places(), prepare, side=side, threads=threads):
        train_views(batch.images, batch.n, normalise, augment, seed=0, epoch=batch.epoch, dtype=dtype)


def _prepared(crop: v2.Transform) -> v2.Compose:
    """The transforms of torchvision's references after a crop: a PIL picture -> float (3, 224, 224)."""
    return v2.Compose(
        [
            crop,
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )


def image_folder(folder: Path, *, workers: int, times: int) -> Any:
    """ImageFolder's pictures `times` over in batches by a DataLoader, in random-resized-crops, its workers kept."""
    transform = _prepared(v2.RandomResizedCrop(224, scale=(SMALLEST, 1.0), antialias=True))
    try:
        one = torchvision.datasets.ImageFolder(str(folder), transform)
    except OSError as reason:
        raise DataError(f"{folder}: no class folders, which is what the peers read ({reason})") from None
    pictures: Any = ConcatDataset([one] * times)
    return DataLoader(pictures, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def web_dataset(folder: Path, *, workers: int, times: int) -> Any:
    """The pictures of a JPEG pack's shards `times` over in random crops, batched by a WebLoader, its workers kept."""
    import webdataset

    # a worker takes whole shards: of all repetitions together there are enough to share
    shards = sorted(str(path) for path in folder.glob("*.tar")) * times
    transform = _prepared(v2.RandomCrop(224))
    pictures = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(1000).decode("pil")
    batches = pictures.to_tuple("jpg", "cls").map_tuple(transform, int).batched(BATCH)
    return webdataset.WebLoader(batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0)


def _read(loader: Any, dtype: torch.dtype) -> int:
    """How many pictures a loader gave, each of them brought to `dtype`."""
    return sum(len(images.to(dtype)) for images, _ in loader)


def rows(folder: Path, *, precision: str, repeats: int, peers: bool) -> list[Row]:
    """Seconds for all pictures of a class folder, several times over: as they are, packed, and by the peers.

    All take turns. What the peers took stands in a row beside each of ours that they are to be compared with.
    """
    data = open_data(folder, val_fraction=0)
    preprocess = preprocess_of(variant("torchvision"))
    times = -(-PICTURES // len(data.train))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    threads = cores()
    with TemporaryDirectory() as temporary:
        packs = {form: Path(temporary) / form for form in get_args(Form)}
        for form, out in packs.items():
            pack(data.train, None, out, form=form, preprocess=preprocess, source=data.source,
                 fingerprint=data.fingerprint, threads=threads)  # fmt: skip
        what = f"data, {times * len(data.train)} pictures of {folder.name}"
        sets = {what: data.train} | {f"{what}, {form} pack": open_source(out) for form, out in packs.items()}
        contestants = [
            Contestant(what, partial(ours, samples, preprocess, threads=threads, dtype=dtype, times=times))
            for what, samples in sets.items()
        ]
        if peers:
            best = partial(_best, count=times * len(data.train), dtype=dtype, times=times)
            contestants.append(best("ImageFolder, DataLoader", image_folder, data.train.root))
            if not missing("data"):
                contestants.append(best("webdataset, WebLoader", web_dataset, packs["jpeg"]))
        found = timed(what, contestants, repeats=repeats)
    mine, theirs = found[: len(sets)], found[len(sets) :]
    return [
        replace(row, what=own.who, who=OURS if row is own else row.who)
        for own in mine
        for row in (own, *(peer for peer in theirs if "web" not in peer.who or "jpeg" in own.who))
    ]


def _best(
    name: str, make: Callable[..., Any], folder: Path, *, count: int, dtype: torch.dtype, times: int
) -> Contestant:
    """The peer with the number of workers that is quickest here, by a pass each after a first one."""
    seconds: dict[int, float] = {}
    for workers in sorted({0, 1, cores() // 2, cores()}):
        loader = make(folder, workers=workers, times=times)
        if (given := _read(loader, dtype)) != count:
            raise DataError(f"{folder}: {count} pictures for us, {given} for {name}; name another folder")
        seconds[workers] = once(partial(_read, loader, dtype))
    best = min(seconds, key=lambda workers: seconds[workers])
    return Contestant(f"{name} of {best}", partial(_read, make(folder, workers=best, times=times), dtype))
