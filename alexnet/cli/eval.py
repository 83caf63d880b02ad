"""`alexnet eval`."""

import json as json_format
from pathlib import Path
from typing import Literal

from ..errors import GateMissed, UsageError


def evaluate(
    runs: list[str],
    /,
    *,
    data: str | None = None,
    views: int = 1,
    batch_size: int = 64,
    backend: str = "torch",
    device: str = "auto",
    precision: str = "auto",
    workers: int = 2,
    seed: int = 0,
    variant: str | None = None,
    bad_images: Literal["error", "skip"] = "error",
    save_predictions: Path | None = None,
    per_class: bool = False,
    min_top1: float | None = None,
    json: bool = False,
) -> None:
    """Accuracy of a run, or of several averaged, on held-out pictures or DATA.

    alexnet eval runs/flowers --views 10
    alexnet eval runs/a runs/b other/pictures

    Parameters:
        runs: RUN [RUN ...] [DATA]; a last one that is no RUN is DATA
        data: the pictures, named outright
        views: 1, 5 (corners, centre) or 10 (and mirrored)
        batch_size: views that go through at once
        backend: torch, openvino or onnxruntime
        device: auto, cpu, cuda or mps
        precision: auto, fp32, tf32, bf16, or int8 (not with torch)
        workers: threads that decode
        seed: of an untrained variant's weights
        variant: of model files, where several have their shapes
        bad_images: error, or skip (counted as wrong)
        save_predictions: a .parquet file to write
        per_class: a table of the classes
        min_top1: exit with 6 below this accuracy, 0..1
        json: print one JSON document
    """
    from rich.table import Table

    from ..evaluation import judge, predictions
    from ..evaluation.backends import device_for, precision_for
    from ..ranks import keep_memory, multiply_in
    from ..weights.run import is_run
    from . import console_for, counted, say

    if data is None and len(runs) > 1 and not is_run(runs[-1]):
        runs, data = runs[:-1], runs[-1]
    if save_predictions is not None and save_predictions.suffix != ".parquet":
        raise UsageError(f"--save-predictions {save_predictions}: expected a name that ends in .parquet")
    if min_top1 is not None and not 0.0 <= min_top1 <= 1.0:
        raise UsageError(f"--min-top1 {min_top1}: must be in 0..1")
    keep_memory()
    where = device_for(backend, device)
    precise = precision_for(backend, precision, where)
    multiply_in(precise, where)
    verdict = judge.judge(
        runs,
        data,
        views=views,
        batch_size=batch_size,
        device=where,
        backend=backend,
        precision=precise,
        threads=workers,
        bad_images=bad_images,
        seed=seed,
        variant=variant,
    )
    for note in verdict.notes:
        say(note)
    asked = (backend, precision) != ("torch", "auto")
    for one in verdict.backends:
        if one.agreement is not None and (asked or one.refused):
            say(str(one))
    result = verdict.to_json()
    console = console_for(json)
    of = {"held out": " held out of the training", "trained on": ", those it was TRAINED on", "others": ""}
    if json:
        print(json_format.dumps({**result, "per_class": verdict.per_class()}))
    else:
        low, high = result["top1_interval"]
        console.print(
            f"top-1 accuracy {100 * result['top1']:.2f} %  (95 % interval {100 * low:.1f} to {100 * high:.1f}), "
            f"error {100 * result['top1_error']:.2f} %",
        )
        low, high = result["top5_interval"]
        if len(verdict.classes) > 5:  # otherwise every answer is among the five
            console.print(
                f"top-5 accuracy {100 * result['top5']:.2f} %  (95 % interval {100 * low:.1f} to {100 * high:.1f}), "
                f"error {100 * result['top5_error']:.2f} %",
            )
        console.print(
            f"mean per-class accuracy {100 * result['mean_class_accuracy']:.2f} %, loss {result['loss']:.4f}, "
            f"{result['count']} pictures{of[result['pictures']]}, "
            f"{views} view{'s' if views > 1 else ''}"
            + (f", {counted(result['bad_images'], 'bad picture')} counted as wrong" if result["bad_images"] else ""),
        )
        if per_class:
            table = Table("class", "pictures", "right", "top-1")
            for row in verdict.per_class():
                table.add_row(row["class"], str(row["count"]), str(row["correct"]), f"{100 * row['top1']:.1f} %")
            console.print(table, soft_wrap=False)
    if save_predictions is not None:  # after the result: what was computed is not lost with a wrong path
        try:
            save_predictions.parent.mkdir(parents=True, exist_ok=True)
            predictions.write_predictions(save_predictions, verdict.answers)
        except OSError as reason:
            raise UsageError(f"--save-predictions {save_predictions}: {reason.strerror}") from None
    if min_top1 is not None and result["top1"] < min_top1:
        raise GateMissed(f"top-1 is {result['top1']:.4f}, below --min-top1 {min_top1}")
