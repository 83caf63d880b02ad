"""`alexnet data`: stats, get."""

import json as json_format
from pathlib import Path
from typing import Any

from cyclopts import App

from ..errors import UsageError

app = App(name="data", help="Look at a data set, or fetch one.", help_format="plaintext", help_formatter="plain")


@app.command
def stats(
    data: str = "digits",
    *,
    variant: str = "paper",
    val_fraction: float = 0.2,
    seed: int = 0,
    workers: int = 2,
    json: bool = False,
) -> None:
    """Counts, balance, sizes, mean and colour eigenvectors of the training pictures.

    alexnet data stats flowers

    Parameters:
        data: folder, list, tar, ILSVRC2012 files, or digits
        variant: whose stored form is measured
        val_fraction: held out of each class where nothing else is
        seed: of the held-out pictures
        workers: threads that decode
        json: print one JSON document
    """
    import numpy as np
    from rich.table import Table

    from ..data.cache import cache_folder
    from ..data.samples import shown
    from ..data.sources import open_data
    from ..data.stats import measure
    from ..network.variants import variant as variant_named
    from ..weights.run import preprocess_of
    from . import console_for

    if workers < 1:
        raise UsageError(f"--workers {workers}: must be at least 1")
    chosen = variant_named(variant)
    found = open_data(data, val_fraction=val_fraction, seed=seed)
    measured = measure(found.train, preprocess_of(chosen), threads=workers, cache=cache_folder(), bad_images="skip")
    counts = found.train.counts()
    held = found.val.counts() if found.val is not None else np.zeros_like(counts)
    heights, widths = measured.sizes.T
    result: dict[str, Any] = {
        "data": data,
        "train": len(found.train),
        "val": int(held.sum()),
        "classes": [
            {"class": key, "train": int(n), "val": int(v)}
            for key, n, v in zip(found.train.classes.keys, counts, held, strict=True)
        ],
        "bad_images": len(measured.bad),
        "bad": [{"path": shown(str(found.train.path(row))), "reason": reason} for row, reason in measured.bad],
        "left_out": dict(found.train.ignored),
        "height": [int(heights.min()), float(np.median(heights)), int(heights.max())],
        "width": [int(widths.min()), float(np.median(widths)), int(widths.max())],
        "stored": preprocess_of(chosen).stored,
        "mean": measured.channel_mean.tolist(),
        "eigenvalues": measured.eigenvalues.tolist(),
        "eigenvectors": measured.eigenvectors.tolist(),
    }
    if json:
        print(json_format.dumps(result))
        return
    console = console_for(False)
    console.print(f"{data}: {result['train']} to train, {result['val']} to validate")
    table = Table("class", "train", "val")
    for row in result["classes"]:
        table.add_row(row["class"], str(row["train"]), str(row["val"]))
    console.print(table, soft_wrap=False)
    console.print(
        f"largest class / smallest: {counts.max() / max(1, counts.min()):.2f}\n"
        f"height {heights.min()} to {heights.max()} px, median {np.median(heights):g}; "
        f"width {widths.min()} to {widths.max()} px, median {np.median(widths):g}\n"
        f"of the stored form ({result['stored']} px), RGB in 0..255:\n"
        f"mean {np.round(measured.channel_mean, 2).tolist()}\n"
        f"std of the colour axes {np.round(np.sqrt(measured.eigenvalues), 2).tolist()}\n"
        f"colour axes (columns)\n{np.array2string(measured.eigenvectors, precision=4)}"
        + "".join(f"\nbad, left out: {bad['path']}: {bad['reason']}" for bad in result["bad"])
        + "".join(f"\n{count} {reason}: left out" for reason, count in found.train.ignored.items()),
    )


@app.command
def get(name: str, *, into: Path | None = None) -> None:
    """Fetch a known set as a folder of pictures: flowers, imagenette, cifar10, flowers102, digits.

    alexnet data get flowers && alexnet train data/flowers

    Parameters:
        name: the set
        into: the folder it becomes; data/NAME unless named
    """
    from ..data.get import get as fetch

    print(fetch(name, into or Path("data") / name))
