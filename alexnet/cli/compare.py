"""`alexnet compare`."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

MOST_NAMED = 5  # pictures that only one gets right, for a person


def compare(
    a: str,
    b: str,
    /,
    *,
    layers: str | None = None,
    metric: Literal["correlation", "euclidean", "cosine"] = "correlation",
    pictures: int = 1000,
    data: str | None = None,
    views: int = 1,
    batch_size: int = 64,
    device: str = "auto",
    workers: int = 2,
    bad_images: Literal["error", "skip"] = "error",
    seed: int = 0,
    variant: str | None = None,
    json: bool = False,
) -> None:
    """Two files of features (RDMs, CKA), or two runs (who is right where).

    alexnet compare a.npz b.npz --layers conv5,fc7
    alexnet compare runs/a runs/b

    Parameters:
        a: a file of features, or RUN
        b: another
        layers: of the files, a comma between them; all, each with each
        metric: of the dissimilarities: correlation, euclidean or cosine
        pictures: of the files, at most, taken evenly of more
        data: runs: pictures; else those that both held out
        views: runs: 1, 5 or 10
        batch_size: runs: views that go through at once
        device: auto, cpu, cuda or mps
        workers: threads that decode
        bad_images: error, or skip (counted as wrong)
        seed: of an untrained variant's weights
        variant: of model files, where several have their shapes
        json: print one JSON document
    """
    from ..evaluation import compare as comparing
    from ..evaluation.feature_files import read_features
    from ..ranks import device_of, multiply_in
    from ..stop import watch
    from . import console_for, say

    console = console_for(json)
    if comparing.kind_of_pair(a, b) == "features":
        if data is not None or views != 1:
            raise UsageError("--data, --views: of two runs; of files of features --layers, --metric and --pictures")
        names = [name.strip() for name in layers.split(",")] if layers is not None else None
        result = comparing.compare_features(
            read_features(Path(a)), read_features(Path(b)), layers=names, metric=metric, pictures=pictures
        )
        if not json:
            _print_features(result, console)
    else:
        if layers is not None:
            raise UsageError("--layers: of two files of features")
        where = device_of(device)
        multiply_in("fp32", where)
        with watch():
            result, notes = comparing.compare_runs(
                a, b, data=data, views=views, batch_size=batch_size, device=where, threads=workers,
                bad_images=bad_images, seed=seed, variant=variant,
            )  # fmt: skip
        for note in notes:
            say(note)
        if not json:
            _print_runs(result, console)
    if json:
        print(json_format.dumps(result))


def _print_features(result: dict[str, Any], console: "Console") -> None:
    from rich.table import Table

    taken = f", {result['count']} of them taken" if result["count"] < result["common"] else ""
    console.print(f"{result['common']} pictures in both{taken}; RDMs of {result['metric']}")
    table = Table("a", "b", "RDMs: Spearman", "Pearson", "linear CKA")
    for row in result["layers"]:
        table.add_row(row["a"], row["b"], *(f"{row[name]:.4f}" for name in ("rdm_spearman", "rdm_pearson", "cka")))
    console.print(table, soft_wrap=False)


def _print_runs(result: dict[str, Any], console: "Console") -> None:
    of = {"held out": " held out by both", "others": ""}[result["pictures"]]
    console.print(f"{result['count']} pictures{of}")
    for name in ("a", "b"):
        one = result[name]
        low, high = one["top1_interval"]
        console.print(
            f"{one['run']}: top-1 {100 * one['top1']:.2f} %  (95 % interval {100 * low:.1f} to {100 * high:.1f})"
        )
    console.print(
        f"both right {result['both']}, only the first {result['only_first']}, only the second {result['only_second']}, "
        f"neither {result['neither']}; the same first class for {100 * result['agreement']:.1f} %\n"
        f"that none is the better: p = {result['p']:.3g} (McNemar, exact)"
    )
    for which in ("first", "second"):
        keys = result[f"only_{which}_right"]
        if keys:
            more = f", and {len(keys) - MOST_NAMED} more (--json names all)" if len(keys) > MOST_NAMED else ""
            console.print(f"only the {which} gets right: {', '.join(keys[:MOST_NAMED])}{more}")
