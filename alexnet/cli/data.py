"""`alexnet data`: check, stats, pack, get."""

import csv as csv_format
import io
import itertools
import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App

from ..errors import BadImage, DataError, UsageError
from .predict import plain

if TYPE_CHECKING:
    from rich.console import Console

    from ..data.check import Move, Report

MOST_NAMED = 5  # pictures of a kind that are named for a person
MOST_CLASSES = 40

app = App(
    name="data",
    help="Check a data set, look at one, pack or fetch one.",
    help_format="plaintext",
    help_formatter="plain",
)


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
    from ..data.threads import workers_of
    from ..network.variants import variant as variant_named
    from ..weights.run import preprocess_of
    from . import console_for

    workers_of(workers, least=1)
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
def check(
    data: str,
    *,
    val: str | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    near: bool = False,
    fix: Literal["report", "move"] | None = None,
    html: Path | None = None,
    workers: int = 2,
    json: bool = False,
) -> None:
    """What is wrong with a data set, each picture named; exits with 3 at a fault.

    alexnet data check flowers --html flowers.html

    Parameters:
        data: folder, list, tar, ILSVRC2012 files, pack, or digits
        val: pictures to validate on, elsewhere
        val_fraction: held out where nothing else is; 0 for none
        seed: of the held-out pictures
        near: look for pictures that look alike, too
        fix: report (write DATA-bad.csv) or move (faulty files to DATA-bad/)
        html: a page to write, with the pictures found
        workers: threads that decode
        json: print one JSON document
    """
    from rich.progress import Progress

    from .. import files
    from ..data import check as checking
    from ..data.samples import shown
    from ..data.sheet import sheet
    from ..data.sources import open_parts
    from ..data.threads import workers_of
    from ..stop import watch
    from . import console_for, counted

    workers_of(workers, least=1)
    if html is not None and html.suffix != ".html":  # it may be a picture, which would be lost
        raise UsageError(f"--html {html}: expected a name that ends in .html")
    if html is not None and not html.parent.is_dir():
        raise UsageError(f"--html {html}: there is no folder {html.parent}")
    console = console_for(json)
    train, held_out, split = open_parts(data, val=val, val_fraction=val_fraction, seed=seed)
    if held_out is None and "val_names" in split:
        console.print(f"{shown(data)}: too few pictures to hold some out, as a training would; checked as one set")
    if fix == "move":
        checking.check_movable(train, held_out, data, val)
    with watch():
        with Progress(console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("checking", total=len(train) + (len(held_out) if held_out is not None else 0))
            report = checking.check(
                train, held_out, threads=workers, near=near, progress=lambda seen: bar.advance(task, seen)
            )
        if json:
            print(json_format.dumps(report.to_json()))
        else:
            _print(report, data, console)
        if html is not None:
            files.write(html, sheet(report, f"alexnet data check {shown(data)}"))
            console.print(f"{shown(str(html))}: what was found, as a page")
        if fix is not None:
            console.print(_fixed(checking.moves(report, data, val), data, val, move=fix == "move"))
    if faults := report.faults():
        kinds = ", ".join(f"{count} {kind}" for kind, count in faults.items())
        raise DataError(f"{shown(data)}: {counted(sum(faults.values()), 'fault')}: {kinds}")


def _print(report: "Report", data: str, console: "Console") -> None:
    """What was found, for a person; `--json` has all of it."""
    import numpy as np
    from rich.table import Table

    from ..data.check import FAULTS, REMARKS
    from ..data.samples import shown
    from . import counted

    held = len(report) - len(report.train)
    console.print(f"{shown(data)}: {len(report):,} pictures, {len(report.train):,} to train on, {held:,} held out")
    smallest = np.argsort(report.counts.sum(0), kind="stable")[:MOST_CLASSES]
    title = f"the {MOST_CLASSES} smallest of {len(report.keys):,} classes" if len(report.keys) > MOST_CLASSES else None
    sizes = Table("class", "train", "val", title=title)
    for index in sorted(smallest):
        sizes.add_row(report.keys[index], *map(str, report.counts[:, index]))
    console.print(sizes, soft_wrap=False)
    meaning, found = FAULTS | REMARKS, report.found()
    if found:
        kinds = Table(box=None, show_header=False, pad_edge=False)
        for kind, count in found.items():
            kinds.add_row("fault" if kind in FAULTS else "remark", kind, f"{count:,}", meaning[kind])
        console.print(kinds, soft_wrap=False)
    for kind, count in found.items():
        named = itertools.islice((one for one in report.problems if one.kind == kind), MOST_NAMED)
        more = f"\n  and {count - MOST_NAMED:,} more" if count > MOST_NAMED else ""
        console.print(f"{kind}:\n" + "\n".join(f"  {one.path}: {one.detail}" for one in named) + more)
    for reason, (count, names) in report.left_out().items():
        more = ", …" if count > MOST_NAMED else ""
        console.print(f"left out, {reason} ({count:,}): {', '.join(names[:MOST_NAMED])}{more}")
    if report.leaked:
        share = 100 * report.leaked / held
        console.print(f"{report.leaked:,} of {held:,} held-out pictures ({share:.2f} %) are among those to train on")
    console.print("nothing found" if not found else counted(sum(report.faults().values()), "fault"))


def _fixed(chosen: "list[Move]", data: str, val: str | None, *, move: bool) -> str:
    """Moves the pictures that are to be moved, or writes down which; what was done, in words."""
    from .. import files
    from ..data import check as checking
    from ..data.samples import shown
    from . import counted

    bad = checking.bad_folder(Path(data))
    if move:
        stay = sum(one.target is None for one in chosen)
        links = f"; {stay} stay, behind a link" if stay else ""
        into = " and ".join(shown(str(checking.bad_folder(Path(one)))) for one in (data, val) if one is not None)
        return f"{counted(checking.move(chosen), 'picture')} moved into {into}, none deleted{links}"
    stream = io.StringIO()
    writer = csv_format.writer(stream, lineterminator="\n")
    writer.writerow(["path", "to", "kind", "detail"])
    for one in chosen:
        target = shown(str(one.target)) if one.target is not None else ""
        writer.writerow([plain(one.path), plain(target), plain(one.kind), plain(one.detail)])
    path = bad.with_name(f"{bad.name}.csv")
    files.write(path, stream.getvalue())
    return f"{shown(str(path))}: the {counted(len(chosen), 'picture')} with a fault"


@app.command
def pack(
    data: str,
    out: Path,
    *,
    form: Literal["jpeg", "raw"] = "jpeg",
    quality: int = 90,
    variant: str = "paper",
    val: str | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    workers: int = 2,
    bad_images: Literal["error", "skip"] = "error",
    verify: bool = False,
    json: bool = False,
) -> None:
    """Write a data set's stored forms into a few large files, which train faster.

    alexnet data pack flowers packed && alexnet train packed

    Parameters:
        data: folder, list, tar, ILSVRC2012 files, or digits
        out: the folder that becomes the pack
        form: jpeg (tar files) or raw (one array of pixels, the fastest, large)
        quality: of the JPEGs, 1..100
        variant: whose stored form is packed
        val: pictures to validate on, elsewhere
        val_fraction: held out where nothing else is; 0 for none
        seed: of the held-out pictures
        workers: threads
        bad_images: error, or skip (and list them in pack.json)
        verify: read everything again afterwards
        json: print pack.json
    """
    from rich.progress import Progress

    from ..data import pack as packing
    from ..data import packed
    from ..data.cache import cache_folder
    from ..data.sources import open_data
    from ..data.threads import workers_of
    from ..network.variants import variant as variant_named
    from ..stop import watch
    from ..weights.run import preprocess_of
    from . import console_for

    workers_of(workers, least=1)
    if Path(data).is_dir() and out.resolve().is_relative_to(Path(data).resolve()):
        raise UsageError(f"{out}: lies in {data}, whose pictures it would then be among; name another folder")
    found = open_data(data, val=val, val_fraction=val_fraction, seed=seed)
    console = console_for(json)
    count = len(found.train) + (len(found.val) if found.val is not None else 0)
    try:
        with watch(), Progress(console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("packing", total=count)
            record = packing.pack(
                found.train,
                found.val,
                out,
                form=form,
                preprocess=preprocess_of(variant_named(variant)),
                source=found.source,
                fingerprint=found.fingerprint,
                quality=quality,
                threads=workers,
                bad_images=bad_images,
                cache=cache_folder(),
                progress=lambda packed: bar.advance(task, packed),
            )
    except BadImage as bad:
        raise bad.with_hint() from bad
    if verify:
        packed.verify(out)
    if json:
        print(json_format.dumps(record))
        return
    for name, said in record["sets"].items():
        size = sum(one["bytes"] for one in said["files"])
        lossy = f", {said['psnr']:.1f} dB from the stored forms" if said["psnr"] is not None else ""
        left = f", {len(said['bad'])} bad ones left out" if said["bad"] else ""
        console.print(f"{out}: {name}: {said['count']} pictures in {size / 1e6:.1f} MB{lossy}{left}")
    if verify:
        console.print("every file and picture was read again and is whole")


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
