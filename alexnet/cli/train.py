"""`alexnet train`."""

import json as json_format
import re
import shlex
from typing import Annotated, Literal

from cyclopts import Parameter

from ..errors import Stopped, UsageError

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float:
    """`90s`, `20m`, `1.5h`, `2d` -> seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not match or float(match[1]) == 0:
        raise UsageError(f"--max-time {text}: expected a number with s, m, h or d, as in 20m")
    return float(match[1]) * UNITS[match[2]]


def train(
    data: str = "digits",
    *,
    recipe: str = "fast",
    variant: str | None = None,
    run: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    dropout: float | None = None,
    precision: str = "auto",
    accumulate: int = 1,
    seed: int = 0,
    max_time: str | None = None,
    val: str | None = None,
    val_fraction: float = 0.2,
    balance: bool = False,
    weights: str | None = None,
    kernels: str = "auto",
    bad_images: Literal["error", "skip"] = "error",
    save_every: int = 1000,
    keep: Annotated[int, Parameter(show=False)] = 2,
    in_memory: Annotated[Literal["auto", "no"], Parameter(show=False)] = "auto",
    on_nan: Literal["stop", "rollback"] = "stop",
    resume: Annotated[tuple[str, str] | None, Parameter(show=False)] = None,
    allow_change: str | None = None,
    dry_run: bool = False,
    set: list[str] | None = None,
    json: bool = False,
) -> None:
    """Train on pictures, or go on: the same command continues its run.

    alexnet train flowers --max-time 20m
    alexnet train digits --variant paper --run demo

    Parameters:
        data: folder, list, tar, ILSVRC2012 files, or digits
        recipe: fast, paper, caffe, finetune, article, …
        variant: see alexnet info; the recipe's own unless named
        run: name under runs/, or a path
        device: auto, cpu, cuda or mps
        workers: threads that decode
        epochs: passes over the pictures
        max_steps: updates, instead of epochs
        batch_size: pictures an update
        lr: learning rate
        dropout: share dropped in fc6 and fc7
        precision: auto, fp32, tf32 or bf16
        accumulate: parts a batch goes through in
        seed: of weights, order and augmentation
        max_time: 90s, 20m, 2h; becomes a number of steps at the start
        val: pictures to validate on, elsewhere
        val_fraction: held out for want of others; 0: none
        balance: repeat the smaller classes
        weights: a RUN to start from
        bad_images: error, or skip (and list them)
        kernels: auto, the fastest measured here, or plain
        save_every: steps between saves within an epoch
        on_nan: stop, or rollback (and half the rate)
        allow_change: lr,machine,…: goes on changed
        dry_run: a few steps, and an estimate
        set: key=value, any field of the recipe
        json: print one JSON document
    """
    from ..ranks import keep_memory
    from ..training import start
    from . import console_for

    keep_memory()
    console = console_for(json)
    asked = start.Asked(
        data=data,
        recipe=recipe,
        variant=variant,
        run=run,
        device=device,
        workers=workers,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        lr=lr,
        dropout=dropout,
        precision=precision,
        accumulate=accumulate,
        seed=seed,
        max_time=seconds(max_time) if max_time else None,
        val=val,
        val_fraction=val_fraction,
        balance=balance,
        weights=weights,
        kernels=kernels,
        bad_images=bad_images,
        save_every=save_every,
        keep=keep,
        in_memory=in_memory,
        on_nan=on_nan,
        resume=resume,
        allow_change=allow_change,
        set=tuple(set or ()),
    )
    try:
        result = start.train(asked, console, dry=dry_run)
    except Stopped as reason:
        if json and reason.result is not None:
            print(json_format.dumps(reason.result))
        raise
    if json:
        print(json_format.dumps(result))
    elif not dry_run:
        best, where = result["best"], shlex.quote(result["run"])
        if best["top1"] is not None:
            console.print(
                f"{result['run']}: best top-1 {100 * best['top1']:.1f} % at step {best['step']}; "
                f"{result['seconds']:.0f} s, {result['images_per_second']:.1f} images/s",
            )
        console.print(
            f"next:\n  alexnet eval {where} --views 10\n  alexnet predict {where} PICTURE\n"
            f"  tensorboard --logdir {where}/tensorboard"
            + (f"\nits report, to open in a browser: {result['report']}" if result["report"] else ""),
        )
