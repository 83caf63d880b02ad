"""`alexnet predict`."""

import csv as csv_format
import json as json_format
import sys
from typing import Annotated

from cyclopts import Parameter

BAR = 24  # cells of a bar
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet would take for a formula


def predict(
    run: str,
    pictures: Annotated[list[str], Parameter(negative="", allow_leading_hyphen=True)],
    /,
    *,
    k: Annotated[int, Parameter(name=["-k"])] = 5,
    views: int = 1,
    seed: int = 0,
    device: str = "auto",
    json: Annotated[bool, Parameter(negative="")] = False,
    csv: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """The likeliest classes of pictures.

    alexnet predict runs/flowers tulip.jpg
    cat tulip.jpg | alexnet predict runs/flowers - --json

    Parameters:
        run: a run folder, a checkpoint folder, imagenet, or a variant
        pictures: files, folders, or - for a picture on standard input
        k: classes shown
        views: 1, 5 or 10
        seed: of an untrained variant's weights
        device: auto, cpu, cuda or mps
        json: print one JSON document
        csv: print comma-separated values
    """
    from ..data.sources import open_images
    from ..errors import UsageError
    from ..evaluation import predict as predicting
    from ..ranks import device_of

    for name in pictures:
        if name.startswith("-") and name != "-":
            raise UsageError(f"{name}: unknown option (a file of that name is ./{name})")
    if k < 1:
        raise UsageError(f"-k {k}: must be at least 1")
    if views not in (1, 5, 10):
        raise UsageError(f"--views {views}: must be 1, 5 or 10")
    if json and csv:
        raise UsageError("--json and --csv: ask for one of them")
    if pictures == ["-"]:
        found = iter([("-", sys.stdin.buffer.read())])
    else:
        samples = open_images(pictures)
        found = ((samples.key(row), samples.read(row)) for row in range(len(samples)))
    predictor = predicting.load(run, device=str(device_of(device)), seed=seed)
    answers = predictor.stream(found, k, views=views)
    if json:
        print(json_format.dumps([predicting.to_json(path, said) for path, said in answers]))
    elif csv:
        writer = csv_format.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["path", "rank", "index", "label", "probability"])
        for path, said in answers:
            for rank, p in enumerate(said, 1):
                writer.writerow([plain(path), rank, p.index, plain(p.label), f"{p.probability:.6f}"])
    else:
        for path, said in answers:
            print(path)
            wide = max(len(p.label) for p in said)
            for p in said:
                bar = "█" * round(BAR * p.probability)
                print(f"  {p.label:<{wide}}  {100 * p.probability:5.1f} %  {bar}")


def plain(cell: str) -> str:
    """A cell that no spreadsheet runs."""
    return f"'{cell}" if cell.startswith(FORMULA) else cell
