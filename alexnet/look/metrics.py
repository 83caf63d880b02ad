"""The log of a run, read back."""

import json
from typing import Any

from ..errors import UsageError
from ..weights.run import Run

# What a line of each split has at the least, for its readers; docs/run-folder.md has all of it.
NUMBERS = {"train": ("loss", "top1", "lr"), "val": ("loss", "top1", "top5"), "layers": ()}
MOST = 1e300  # beyond it a whole number is no float


def read_metrics(run: Run) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, in their order; [] where there is no such file, or nothing in it.

    A last line that was cut short, by a kill or because it is being written, is left out. UsageError names the file,
    the line and the field: no JSON object, or `step`, `epoch`, `split` or a number of its split is missing.
    """
    try:
        lines = run.metrics.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as reason:
        raise UsageError(f"{run.metrics}: cannot be read ({reason.strerror})") from None
    return [_record(line, f"{run.metrics}: line {at}") for at, line in enumerate(lines[:-1], 1)]


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError(f"{where}: cannot be read as JSON") from None
    if not isinstance(record, dict) or record.get("split") not in list(NUMBERS):
        raise UsageError(f"{where}: split: expected an object with one of {', '.join(NUMBERS)}")
    for name in ("step", "epoch", *NUMBERS[record["split"]]):
        value = record.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not -MOST < value < MOST:
            raise UsageError(f"{where}: {name}: expected a finite number")
    return record
