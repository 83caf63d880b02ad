"""`alexnet export`."""

import json as json_format
from pathlib import Path

from ..errors import UsageError

CALIBRATED, CHECKED = 64, 32  # pictures


def export_model(
    run: str,
    /,
    *,
    format: str = "onnx",  # noqa: A002
    out: Path | None = None,
    softmax: bool = False,
    uint8: bool = False,
    int8: bool = False,
    pictures: str | None = None,
    check: bool = False,
    variant: str | None = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """A run as a file for other programs, which needs nothing of this one.

    alexnet export runs/flowers --out flowers.onnx --uint8 --softmax
    alexnet export runs/flowers --int8 --check --pictures flowers/val

    Parameters:
        run: RUN
        format: onnx, torch-export, safetensors, openvino, caffe or torchvision
        out: the file to write, with the format's ending; RUN's name in this folder
        softmax: the file gives probabilities
        uint8: the file takes pixels, uint8 (B, side, side, 3) RGB, and prepares them itself
        int8: quantised (onnx, openvino), by 64 pictures of the run's training or of --pictures
        pictures: a folder, list or tar of pictures; else the run's own
        check: run the file without this program on 32 pictures, and compare
        variant: of a model file, where several have its shapes
        seed: of an untrained variant's weights
        json: print one JSON document
    """
    from ..data.sources import open_held_out
    from ..evaluation import exported
    from ..evaluation.backends import own_calibration, some, some_stored
    from ..evaluation.judge import own_samples
    from ..weights.export import SUFFIX, export
    from ..weights.run import open_run
    from . import console_for

    loaded = open_run(run, seed=seed, named=variant)
    path = out or Path(f"{Path(run).resolve().name if Path(run).exists() else run}{SUFFIX.get(format, '')}")
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: there is no folder {path.parent}")

    def given():
        return own_samples(loaded) if pictures is None else open_held_out(pictures)

    def calibration():
        own = own_calibration(loaded) if pictures is None else None
        return own[0] if own is not None else some(given(), loaded, count=CALIBRATED, threads=2, bad_images="skip")

    files = export(loaded, path, format, pixels=uint8, softmax=softmax, calibration=calibration if int8 else None)
    agreement = None
    if check:
        stored = some_stored(given(), loaded, count=CHECKED, threads=2, bad_images="skip")
        agreement = exported.check(loaded, path, format, stored, softmax=softmax)
    result = {
        "file": str(path),
        "files": [str(one) for one in files],
        "format": format,
        "bytes": sum(one.stat().st_size for one in files),
        "top1_agreement": agreement.top1 if agreement else None,
        "largest_difference": agreement.largest_difference if agreement else None,
    }
    if json:
        print(json_format.dumps(result))
        return
    console = console_for(False)
    console.print(f"{', '.join(result['files'])}: {result['bytes'] / 1e6:.1f} MB, {format}")
    if agreement is not None:
        same = round(agreement.top1 * agreement.count)
        console.print(
            f"run without this program on {agreement.count} pictures: the same first class for {same}, "
            f"at most {agreement.largest_difference:.2g} apart"
        )
