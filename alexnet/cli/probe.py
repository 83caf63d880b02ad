"""`alexnet probe`."""

import json as json_format
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import UsageError


def probe(
    features: Path | None = None,
    /,
    *,
    train: Path | None = None,
    test: Path | None = None,
    layers: str | None = None,
    k: Annotated[int, Parameter(name=["-k"])] = 5,
    val_fraction: float = 0.2,
    seed: int = 0,
    json: bool = False,
) -> None:
    """How well layers tell the classes: k-NN and a linear classifier on features.

    alexnet probe val.npz
    alexnet probe --train train.npz --test val.npz --layers conv5,fc7 --json

    Parameters:
        features: a file of features, of which some are held out
        train: a file to train on
        test: a file to judge by, with --train
        layers: a comma between them; all
        k: neighbours that vote
        val_fraction: held out of each class of the one file
        seed: of the held-out pictures
        json: print one JSON document
    """
    from rich.table import Table

    from ..evaluation import probe as probing
    from ..evaluation.feature_files import read_features
    from . import console_for

    if (features is None) == (train is None) or (train is None) != (test is None):
        raise UsageError("name one file of features, or --train and --test")
    first = train if features is None else features
    assert first is not None
    result = probing.probe(
        read_features(first),
        read_features(test) if test is not None else None,
        layers=[name.strip() for name in layers.split(",")] if layers is not None else None,
        k=k,
        fraction=val_fraction,
        seed=seed,
    )
    if json:
        print(json_format.dumps(result))
        return
    console = console_for(False)
    held = "" if test is not None else f" ({val_fraction:g} of each class held out, seed {seed})"
    console.print(
        f"{result['train']} pictures to train on, {result['test']} to judge by{held}, {result['classes']} classes; "
        f"the commonest always: {100 * result['commonest']:.1f} %"
    )
    if shared := result["shared_names"]:
        console.print(
            f"{shared} of the pictures to judge by are among those to train on by name: if they are the same, the "
            "accuracy is partly memory"
        )
    table = Table("layer", "values", f"{k}-NN", "95 %", "linear", "95 %")
    for row in result["layers"]:
        values = " x ".join(map(str, row["probed"]))
        if row["probed"] != row["shape"]:
            values += f" (means of {' x '.join(map(str, row['shape']))})"
        cells = list[str]()
        for name in ("knn", "linear"):
            low, high = row[name]["top1_interval"]
            cells += [f"{100 * row[name]['top1']:.1f} %", f"{100 * low:.1f} to {100 * high:.1f}"]
        table.add_row(row["layer"], values, *cells)
    console.print(table, soft_wrap=False)
    for row in result["layers"]:
        if not row["linear"]["converged"]:
            console.print(f"{row['layer']}: the linear classifier had not converged after {probing.MOST_STEPS} steps")
