"""Run folders for figures: what they read, and no more."""

import json
from pathlib import Path
from typing import Any

from alexnet.data.classes import Classes
from alexnet.training.recipes import FAST
from alexnet.weights.run import Run


def folder(
    at: Path, *, records: list[dict[str, Any]] | None = None, seed: int = 0, source: str = "flowers", **recipe: Any
) -> Run:
    """A run folder with a recipe, its values those of `fast` or as given, the classes a to e, and a log if there are records."""
    at.mkdir(parents=True)
    values = (
        {name: getattr(FAST, name) for name in FAST.__dataclass_fields__}
        | {"steps": 40, "seed": seed, "workers": 2}
        | recipe
    )
    entries = {name: {"value": value, "origin": "default"} for name, value in values.items()}
    (at / "recipe.json").write_text(json.dumps(entries))
    (at / "data.json").write_text(json.dumps({"source": source}))
    (at / "classes.json").write_text(json.dumps(Classes.of("abcde").to_json()))
    if records is not None:
        (at / "metrics.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records))
    return Run(at)


def log(*, loss: float, top1: float, steps: int = 40, top5: float = 1.0) -> list[dict[str, Any]]:
    """A line of training every 10 updates, one of validation every 20; 20 updates an epoch."""
    found: list[dict[str, Any]] = []
    for step in range(10, steps + 1, 10):
        value = loss * 10 / step
        found.append({"step": step, "epoch": step / 20, "split": "train", "loss": value, "top1": top1, "lr": 0.01})
        if step % 20 == 0:
            found.append(
                {"step": step, "epoch": step / 20, "split": "val", "loss": value + 1, "top1": top1 / 2, "top5": top5}
            )
    return found
