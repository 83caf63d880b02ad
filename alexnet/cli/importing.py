"""`alexnet import`."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..data.classes import Classes
    from ..errors import Misfit

MOST_NAMES = 16 << 20  # bytes of a text file of classes


def import_model(
    file: str,
    /,
    *,
    run: str | None = None,
    variant: str | None = None,
    classes: str | None = None,
    mean: Path | None = None,
    prototxt: Path | None = None,
    keep_bgr: bool = False,
    on: Path | None = None,
    json: bool = False,
) -> None:
    """A model of another program becomes a run: its layers named, checked, compared.

    alexnet import bvlc_alexnet.caffemodel --mean imagenet_mean.binaryproto
    alexnet import models/model1.ckpt --classes pictures/train

    Parameters:
        file: .caffemodel, TensorFlow 1 checkpoint, .npy, checkpoint of the 2012 program, .onnx, .pth, .safetensors
        run: the run folder to write; runs/FILE-VARIANT
        variant: where several have the file's layers
        classes: their names, in order: a folder of class folders, or a text file, a line each
        mean: its mean image: .binaryproto, .npy, or batches.meta of 2012
        prototxt: Caffe's network, to be checked against the variant
        keep_bgr: leave the channels as they are, else the network takes RGB
        on: the picture for the comparison with another program, and for the top five; else a flower
        json: print one JSON document
    """
    from rich.table import Table

    from ..data.preprocess import to_json
    from ..data.samples import shown
    from ..evaluation.oracle import compared, sample, seen
    from ..evaluation.predict import load
    from ..evaluation.predict import to_json as predictions
    from ..training.adopt import adopt
    from ..weights import caffe
    from ..weights.recognise import kind_of, read_mean
    from ..weights.run import open_run, run_named
    from . import console_for, say

    kind = kind_of(Path(file))
    try:
        loaded = open_run(file, named=variant)
    except WeightsError as reason:
        _show(reason.misfits)
        raise
    model, given = loaded.model, loaded.given
    if given is None or kind is None:
        raise UsageError(f"{file}: not a model file; every verb takes it as it is")
    if classes is not None:
        names = _named(classes)
        if len(names) != len(loaded.classes):
            raise UsageError(f"--classes {classes}: {len(names)}, and {file} has {len(loaded.classes)} outputs")
        loaded.classes = names
    if prototxt is not None:
        caffe.check_prototxt(prototxt, model.variant)
    if mean is not None:
        loaded.take_mean(*read_mean(mean))
    picture = on or sample()
    who, differences, why = compared(loaded, Path(file), kind, seen(loaded, picture))
    if not keep_bgr:
        loaded.take_rgb()
    folder = run_named(run or f"{Path(file).name.split('.')[0]}-{model.variant.name}")
    adopt(loaded, folder)
    answers = predictions(str(picture), load(folder.folder).predict(picture))["predictions"]
    weights = model.state_dict()
    result: dict[str, Any] = {
        "run": str(folder.folder),
        "variant": model.variant.name,
        "kind": kind,
        "layers": [
            {
                "name": name,
                "shape": list(value.shape),
                "source": given.sources[name],
                "norm": float(value.float().norm()),
            }
            for name, value in weights.items()
        ],
        "preprocess": to_json(loaded.preprocess),
        "notes": loaded.notes,
        "compared_with": who,
        "differences": differences,
        "largest_difference": max(differences.values()) if differences else None,
        "picture": str(picture),
        "predictions": answers,
    }
    for note in loaded.notes:
        say(note)
    if json:
        print(json_format.dumps(result))
        return
    console = console_for(False)
    table = Table("tensor", "shape", "there", "norm", *(["difference"] if differences else []))
    for row in result["layers"]:
        layer = row["name"].split(".")[0]
        more = [f"{differences[layer]:.1e}" if row["name"].endswith(".weight") and layer in differences else ""]
        table.add_row(row["name"], "×".join(map(str, row["shape"])), shown(row["source"]), f"{row['norm']:.4g}",
                      *(more if differences else []))  # fmt: skip
    console.print(table, soft_wrap=False)
    for name, value in result["preprocess"].items():
        console.print(f"{name}: {value}")
    if who is None:
        console.print(f"compared with nothing: {why}")
    else:
        largest = result["largest_difference"]
        console.print(f"compared with {who}: at most {largest:.1e} of a layer's largest value apart")
    console.print(f"{picture}:")
    for one in answers:
        console.print(f"  {one['label']}  {100 * one['probability']:.1f} %")
    console.print(f"{folder.folder}: variant {model.variant.name}\nnow: alexnet predict {folder.folder} PICTURE")


def _show(misfits: "Sequence[Misfit]") -> None:
    """What of a file does not fit, all of it, on stderr."""
    from rich.table import Table

    from . import console_for

    if misfits:
        table = Table("there", "expected", "found")
        for one in misfits:
            table.add_row(one.what, *("-" if value is None else str(value) for value in (one.expected, one.found)))
        console_for(True).print(table, soft_wrap=False)


def _named(where: str) -> "Classes":
    """The classes of a folder of class folders, or of a text file, a line each."""
    from ..data.classes import Classes
    from ..data.sources import open_source

    if Path(where).is_file() and Path(where).suffix == ".txt":
        if (size := Path(where).stat().st_size) > MOST_NAMES:
            raise UsageError(f"--classes {where}: {size:,} bytes, more than the limit of {MOST_NAMES:,}")
        try:
            # some editors begin a text with a mark, which is no part of the first name
            return Classes.of(Path(where).read_text("utf-8-sig").splitlines(), where)
        except (OSError, UnicodeDecodeError):
            raise UsageError(f"--classes {where}: cannot be read as text") from None
    return open_source(where).classes
