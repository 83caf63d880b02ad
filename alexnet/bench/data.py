"""The data road: pictures on disk to normalised float batches, beside torchvision's folder and loader."""

from collections.abc import Iterator
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
from .rows import OURS, Contestant, Row, once, timed

PICTURES = 3000  # at least so many a repeat: a small set is read over and over
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


class _Theirs:
    """ImageFolder and DataLoader with the transforms of torchvision's references, its workers kept."""

    def __init__(self, folder: Path, *, workers: int, dtype: torch.dtype, times: int) -> None:
        transform = v2.Compose(
            [
                v2.RandomResizedCrop(224, scale=(SMALLEST, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )
        try:
            one = torchvision.datasets.ImageFolder(str(folder), transform)
        except OSError as reason:
            raise DataError(f"{folder}: no class folders, which is what the peers read ({reason})") from None
        self.count = len(one)
        pictures: Any = ConcatDataset([one] * times)
        self.dtype = dtype
        self.loader = DataLoader(pictures, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def __call__(self) -> None:
        for images, _ in self.loader:
            images.to(self.dtype)


def rows(folder: Path, *, precision: str, repeats: int, peers: bool) -> list[Row]:
    """Seconds for all pictures of a class folder, several times over: as they are, packed, and by the peers."""
    data = open_data(folder, val_fraction=0)
    preprocess = preprocess_of(variant("torchvision"))
    times = -(-PICTURES // len(data.train))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    threads = cores()
    with TemporaryDirectory() as temporary:
        sets = {OURS: data.train}
        for form in get_args(Form):
            out = Path(temporary) / form
            pack(data.train, None, out, form=form, preprocess=preprocess, source=data.source,
                 fingerprint=data.fingerprint, threads=threads)  # fmt: skip
            sets[f"alexnet, {form} pack"] = open_source(out)
        contestants = [
            Contestant(who, partial(ours, samples, preprocess, threads=threads, dtype=dtype, times=times))
            for who, samples in sets.items()
        ]
        if peers:
            contestants.append(_best(data.train.root, count=len(data.train), dtype=dtype, times=times))
        return timed(f"data, {times * len(data.train)} pictures of {folder.name}", contestants, repeats=repeats)


def _best(folder: Path, *, count: int, dtype: torch.dtype, times: int) -> Contestant:
    """The peer with the number of workers that is quickest here, by a pass each after a first one."""
    seconds: dict[int, float] = {}
    for workers in sorted({0, 1, cores() // 2, cores()}):
        theirs = _Theirs(folder, workers=workers, dtype=dtype, times=times)
        if theirs.count != count:
            raise DataError(f"{folder}: {count} pictures for us, {theirs.count} for ImageFolder; name another folder")
        theirs()
        seconds[workers] = once(theirs)
    best = min(seconds, key=lambda workers: seconds[workers])
    name = f"ImageFolder, DataLoader of {best}"
    return Contestant(name, _Theirs(folder, workers=best, dtype=dtype, times=times))
