"""Training straight from pictures, beside the same steps on a batch that is there already; augmentation on both sides.

    python bench/end_to_end.py FLOWERS PHOTOS [--repeats 5] [--steps 8] [--batch-size 128] [--json]

FLOWERS are pictures near the stored size, PHOTOS as they were taken: class folders, or train/ of them. A raw pack of
FLOWERS is written into the temporary folder. Pictures are read and decoded for every batch, as in a first epoch or
where memory does not hold them, and once more as in later epochs, when it does. Each repeat starts the decoding
threads anew, takes two steps that are not counted, then counts `--steps`; the resident batch takes turns with the
pictures. Then ten epochs of 256 of FLOWERS' pictures, and the memory after each (Linux).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rich.console import Console

from alexnet.bench import machine
from alexnet.bench.memory import resident
from alexnet.bench.rows import Row, document
from alexnet.data.augment import Normalise
from alexnet.data.loader import Batch, Decoded, batches
from alexnet.data.pack import pack
from alexnet.data.samples import Samples
from alexnet.data.sources import open_data, open_source
from alexnet.network.build import build
from alexnet.network.variants import variant
from alexnet.ranks import cores, keep_memory, precision_of, spare_memory
from alexnet.training import loop
from alexnet.training.optim import optimizer
from alexnet.training.recipes import recipe
from alexnet.training.start import kernels_for
from alexnet.weights.checkpoint import Store
from alexnet.weights.run import Run, preprocess_of

CPU = torch.device("cpu")
WARM = 2


def job_of(samples: Samples, precision: str, batch_size: int) -> loop.Job:
    """A training of `torchvision` by its recipe; of a pack, with crops of the stored form."""
    chosen = replace(recipe("torchvision"), batch_size=batch_size)
    if samples.shaping is not None:
        chosen = replace(chosen, crop="stored")
    model = build("torchvision", classes=1000, seed=0).to(memory_format=torch.channels_last)
    model.kernels = kernels_for(
        model.variant, batch=batch_size, precision=precision, device=CPU, console=Console(stderr=True)
    )
    return loop.Job(
        run=Run(Path()), store=Store(Path()), recipe=chosen, model=model, rule=optimizer(model, chosen), train=samples,
        val=None, preprocess=preprocess_of(model.variant), mean=None, stats=None, device=CPU, precision=precision,
        steps=sys.maxsize, threads=cores(),
    )  # fmt: skip


def taken(job: loop.Job, made: Iterator[Batch], steps: int) -> None:
    """So many steps of batches as they come."""
    normalise, augment = Normalise(job.preprocess, None, CPU), loop.augment_of(job.recipe)
    for _ in range(steps):
        batch = next(made)
        float(loop.step(job, loop.views_of(job, batch, normalise, augment), batch.labels, number=0, lr=1e-6)[0])


def coming(job: loop.Job, decoded: Decoded | None = None) -> Iterator[Batch]:
    prepare, side = loop.preparer(job)
    places = loop.order(job, 0, sys.maxsize)
    return batches(job.train, places, prepare, side=side, threads=job.threads, decoded=decoded)


def all_decoded(job: loop.Job) -> Decoded:
    """The pictures of a training after its first epoch, if memory holds them."""
    decoded = Decoded(len(job.train), spare_memory())
    stream = coming(job, decoded)
    while decoded.held < decoded.pictures:
        next(stream)
        if decoded.given_up:
            sys.exit(f"{job.train.root}: {len(job.train)} pictures do not fit into spare memory; name a smaller folder")
    stream.close()
    return decoded


def seconds(job: loop.Job, made: Callable[[], Iterator[Batch]], steps: int) -> float:
    """Of a step, after some that are not counted."""
    stream = made()
    taken(job, stream, WARM)
    begin = time.perf_counter()
    taken(job, stream, steps)
    passed = time.perf_counter() - begin
    if hasattr(stream, "close"):
        stream.close()
    return passed / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flowers", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    keep_memory()
    precision = precision_of("auto", CPU)
    with TemporaryDirectory() as temporary:
        flowers, photos = (open_data(folder, val_fraction=0) for folder in (asked.flowers, asked.photos))
        packed = Path(temporary) / "packed"
        pack(flowers.train, None, packed, form="raw", preprocess=preprocess_of(variant("torchvision")),
             source=flowers.source, fingerprint=flowers.fingerprint, threads=cores())  # fmt: skip
        sets = {asked.flowers.name: flowers.train, asked.photos.name: photos.train, "raw pack": open_source(packed)}
        rows: list[Row] = []
        for name, samples in sets.items():
            job = job_of(samples, precision, asked.batch_size)
            first = coming(job)
            there = next(first)
            first.close()
            sides: dict[str, Callable[[], Iterator[Batch]]] = {
                "alexnet": lambda there=there: iter(lambda: there, None),
                "from pictures": lambda job=job: coming(job),
            }
            if not samples.raw:
                sides["from pictures in memory"] = partial(coming, job, all_decoded(job))
            runs: dict[str, list[float]] = {who: [] for who in sides}
            for _ in range(asked.repeats):
                for who, made in sides.items():
                    runs[who].append(seconds(job, made, asked.steps))
            what = f"end to end, {name}, batch {asked.batch_size}, {precision}"
            rows += [Row(what, who, "s", tuple(times), None) for who, times in runs.items()]
        some = flowers.train.take(np.arange(256) * (len(flowers.train) // 256))
        job = job_of(some, precision, asked.batch_size)
        stream, memory = coming(job, Decoded(len(some), spare_memory())), []
        for _ in range(10):
            taken(job, stream, job.epoch_steps)
            memory.append(resident("VmRSS"))
        stream.close()
    result = {"machine": machine.describe(CPU), "rows": document(rows), "resident_bytes": memory}
    if asked.json:
        print(json.dumps(result))
        return
    for row in result["rows"]:
        print(f"{row['what']}: {row['who']} {row['median']:.3f} s a step (spread {100 * row['spread']:.0f} %), "
              f"{row['ratio']:.3f} times the resident batch")  # fmt: skip
    print("resident memory after each of ten epochs, MB:", " ".join(f"{value / 1e6:.0f}" for value in memory))


if __name__ == "__main__":
    main()
