"""The data road: pictures on disk to normalised float batches, beside torchvision's folder and loader."""

import os
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
from ..network.variants import variant
from ..weights.run import preprocess_of
from .rows import OURS, Contestant, Row, timed

PICTURES = 3000  # at least so many a repeat: a small set is read over and over
BATCH = 64
SMALLEST = 0.08  # share of the area that a random-resized-crop takes


def ours(samples: Samples, preprocess: Preprocess, *, threads: int, dtype: torch.dtype, times: int) -> None:
    """Every picture `times` over: crop, mirror, normalise -> (B, 3, 224, 224) in `dtype`.

    The crop is a random-resized one of pictures as they were taken, and a random one of stored forms.
    """
    normalise, augment = Normalise(preprocess, None, torch.device("cpu")), Augment()
    prepare, side = stored(samples, preprocess), preprocess.stored
    if not samples.stored:
        prepare, side = original(samples, preprocess, seed=0, scale=SMALLEST), preprocess.side

    def places() -> Iterator[Places]:
        for epoch in range(times):
            for start in range(0, len(samples), BATCH):
                n = np.arange(start, min(start + BATCH, len(samples)))
                yield Places(nth(0, epoch, n, size=len(samples)), n, epoch)

    for batch in batches(samples, places(), prepare, side=side, threads=threads):
        train_views(batch.images, batch.n, normalise, augment, seed=0, epoch=batch.epoch).to(dtype)


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
        pictures: Any = ConcatDataset([torchvision.datasets.ImageFolder(str(folder), transform)] * times)
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
    cores = os.cpu_count() or 1
    with TemporaryDirectory() as temporary:
        sets = {OURS: data.train}
        for form in get_args(Form):
            out = Path(temporary) / form
            pack(data.train, None, out, form=form, preprocess=preprocess, source=data.source,
                 fingerprint=data.fingerprint, threads=cores)  # fmt: skip
            sets[f"alexnet, {form} pack"] = open_source(out)
        contestants = [
            Contestant(who, partial(ours, samples, preprocess, threads=cores, dtype=dtype, times=times))
            for who, samples in sets.items()
        ]
        for workers in range(cores + 1) if peers else ():
            theirs = _Theirs(folder, workers=workers, dtype=dtype, times=times)
            contestants.append(Contestant(f"ImageFolder, DataLoader of {workers}", theirs))
        return timed(f"data, {times * len(data.train)} pictures of {folder.name}", contestants, repeats=repeats)
