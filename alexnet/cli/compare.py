"""`alexnet compare`."""

import json as json_format
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BadImage, UsageError

if TYPE_CHECKING:
    from rich.console import Console

MOST_NAMED = 5  # pictures that only one gets right, for a person


def compare(
    a: str,
    b: str,
    /,
    *,
    layers: str | None = None,
    metric: Literal["correlation", "euclidean", "cosine"] | None = None,
    pictures: int | None = None,
    data: str | None = None,
    views: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    workers: int | None = None,
    bad_images: Literal["error", "skip"] | None = None,
    seed: int | None = None,
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
        metric: files: of the dissimilarities: correlation (unless said), euclidean or cosine
        pictures: files: at most, taken evenly of more (1000)
        data: runs: pictures; else those that both held out
        views: runs: 1 (unless said), 5 or 10
        batch_size: runs: views that go through at once (64)
        device: runs: auto (unless said), cpu, cuda or mps
        workers: runs: threads that decode (2)
        bad_images: runs: error (unless said), or skip (counted as wrong)
        seed: runs: of an untrained variant's weights (0)
        variant: runs: of model files, where several have their shapes
        json: print one JSON document
    """
    from ..evaluation import compare as comparing
    from ..evaluation.feature_files import read_features
    from ..ranks import device_of, multiply_in
    from ..stop import watch
    from . import console_for, say

    console = console_for(json)
    of_files = {"--layers": layers, "--metric": metric, "--pictures": pictures}
    of_runs = {"--data": data, "--views": views, "--batch-size": batch_size, "--device": device, "--workers": workers,
               "--bad-images": bad_images, "--seed": seed, "--variant": variant}  # fmt: skip
    if comparing.kind_of_pair(a, b) == "features":
        _refuse(of_runs, "of two runs; two files of features take", of_files)
        names = [name.strip() for name in layers.split(",")] if layers is not None else None
        result = comparing.compare_features(
            read_features(Path(a)), read_features(Path(b)), layers=names, metric=metric or "correlation",
            pictures=_or(pictures, 1000),
        )  # fmt: skip
        if not json:
            _print_features(result, console)
    else:
        _refuse(of_files, "of two files of features; two runs take", of_runs)
        where = device_of("auto" if device is None else device)
        multiply_in("fp32", where)
        try:
            with watch():
                result, notes = comparing.compare_runs(
                    a, b, data=data, views=_or(views, 1), batch_size=_or(batch_size, 64), device=where,
                    threads=_or(workers, 2), bad_images=bad_images or "error", seed=_or(seed, 0), variant=variant,
                )  # fmt: skip
        except BadImage as bad:
            raise bad.with_hint() from bad
        for note in notes:
            say(note)
        if not json:
            _print_runs(result, console)
    if json:
        print(json_format.dumps(result))


def _refuse(others: Mapping[str, object], why: str, known: Mapping[str, object]) -> None:
    """UsageError: options were given that are not of what is compared."""
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise UsageError(f"{', '.join(given)}: {why} {', '.join(known)}")


def _or(given: int | None, default: int) -> int:
    return default if given is None else given


def _print_features(result: dict[str, Any], console: "Console") -> None:
    from rich.table import Table

    taken = f", {result['count']} of them taken" if result["count"] < result["common"] else ""
    console.print(f"{result['common']} pictures in both{taken}; RDMs of {result['metric']}")
    table = Table("a", "b", "RDMs: Spearman", "Pearson", "linear CKA")
    for row in result["layers"]:
        table.add_row(row["a"], row["b"], *(f"{row[name]:.4f}" for name in ("rdm_spearman", "rdm_pearson", "cka")))
    console.print(table, soft_wrap=False)


def _print_runs(result: dict[str, Any], console: "Console") -> None:
    from . import counted

    of = {"held out": " held out by both", "others": ""}[result["pictures"]]
    bad = f", {counted(result['bad_images'], 'bad picture')} counted as wrong" if result["bad_images"] else ""
    console.print(f"{result['count']} pictures{of}{bad}")
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
