"""`alexnet predict`."""

import csv as csv_format
import json as json_format
import sys
from collections.abc import Iterator
from itertools import tee
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ..errors import BadImage, DataError, TooLarge, UsageError

if TYPE_CHECKING:
    from ..data.samples import Samples

FORMULA = ("=", "+", "-", "@")  # what a spreadsheet would take for a formula


def predict(
    run: str,
    pictures: Annotated[list[str], Parameter(allow_leading_hyphen=True)],
    /,
    *,
    k: Annotated[int, Parameter(name=["-k"])] = 5,
    views: int = 1,
    seed: int = 0,
    variant: str | None = None,
    backend: str = "torch",
    device: str = "auto",
    precision: str = "fp32",
    draw: str = "auto",
    json: bool = False,
    csv: bool = False,
) -> None:
    """The likeliest classes of pictures.

    alexnet predict runs/flowers tulip.jpg
    cat tulip.jpg | alexnet predict runs/flowers - --json

    Parameters:
        run: a run folder, a model file, imagenet, or a variant
        pictures: files, folders, or - for one on standard input; bad ones are named
        k: classes shown
        views: 1, 5 or 10
        seed: of an untrained variant's weights
        variant: of a model file, where several have its shapes
        backend: torch, openvino or onnxruntime
        device: auto, cpu, cuda or mps
        precision: auto, fp32, tf32, bf16, or int8 (not with torch)
        draw: pictures in the terminal: auto, never, kitty, iterm or sixel
        json: print one JSON document
        csv: print comma-separated values
    """
    from ..data.samples import MOST_BYTES, shown
    from ..data.sources import open_images
    from ..evaluation import predict as predicting
    from ..evaluation.backends import device_for, precision_for
    from ..evaluation.judge import check_sizes
    from ..look import terminal
    from . import console_for, say, visible

    for name in pictures:
        if name.startswith("-") and name != "-":
            raise UsageError(f"{name}: unknown option (a file of that name is ./{name})")
    if k < 1:
        raise UsageError(f"-k {k}: must be at least 1")
    check_sizes(views=views)
    if json and csv:
        raise UsageError("--json and --csv: ask for one of them")
    where = device_for(backend, device)
    precise = precision_for(backend, precision, where)
    canvas = terminal.canvas("never" if json or csv else draw)  # asked before there is time to type ahead
    if pictures == ["-"]:
        content = sys.stdin.buffer.read(MOST_BYTES + 1)
        large = TooLarge("-", f"more than the limit of {MOST_BYTES:,} bytes") if len(content) > MOST_BYTES else None
        found: Iterator[tuple[str, bytes | BadImage]] = iter([("-", large or content)])
    else:
        found = contents(open_images(pictures))
    predictor = predicting.load(run, device=str(where), seed=seed, variant=variant, backend=backend, precision=precise)
    for note in predictor.notes:
        say(note)
    document: list[dict[str, Any]] = []
    count, bad = 0, list[BadImage]()
    console, blocks = console_for(False), terminal.draws_blocks(sys.stdout.encoding)
    width, colour = console.width if console.is_terminal else None, console.is_terminal and not console.no_color
    found, again = tee(found)
    writer = csv_format.writer(sys.stdout, lineterminator="\n")
    if csv:
        writer.writerow(["path", "rank", "index", "label", "probability"])
    for (path, said), (_, content) in zip(predictor.stream(found, k, views=views), again, strict=True):
        count += 1
        if json:
            document.append(predicting.to_json(path, said))
        if isinstance(said, BadImage):
            bad.append(said)
        elif csv:
            for rank, p in enumerate(said, 1):
                writer.writerow([plain(path), rank, p.index, plain(p.label), f"{p.probability:.6f}"])
        elif not json:
            if canvas is not None and isinstance(content, bytes):
                print(canvas.drawn(predictor.pixels(content, path)), end="")
            print(visible(path))
            shares = [(shown(p.label), p.probability) for p in said]
            for line in terminal.bars(shares, width=width, blocks=blocks, colour=colour):
                print(line)
    if json:
        print(json_format.dumps(document))
    if predictor.backend is not None and predictor.backend.agreement is not None:
        say(str(predictor.backend))
    if count == 1 and bad:
        raise bad[0]
    if bad:
        for one in bad:
            say(f"bad image {one}")
        raise DataError(f"{len(bad)} of {count} pictures could not be decoded")


def contents(samples: "Samples") -> "Iterator[tuple[str, bytes | BadImage]]":
    """Each picture's name, and its bytes or why they cannot be read."""
    for row in range(len(samples)):
        try:
            yield samples.key(row), samples.read(row)
        except BadImage as reason:
            yield samples.key(row), reason


def plain(cell: str) -> str:
    """A cell that no spreadsheet runs."""
    return f"'{cell}" if cell.startswith(FORMULA) else cell
