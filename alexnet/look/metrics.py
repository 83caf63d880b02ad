"""The log of a run, read back."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import files
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
    return [_record(value, where) for where, value in read_lines(run.metrics)]


def read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """What each line of a file of JSON lines holds, after its name for a message; nothing where there is no such file.

    A last line that was cut short is left out. UsageError names the file, or the line: it cannot be read.
    """
    try:
        with files.bounded(path, files.MOST_JSON) as stream:
            for at, line in enumerate(stream, 1):
                where = f"{path}: line {at}"
                if not line.endswith(b"\n"):
                    return
                try:
                    value = DECODER.decode(line.decode())
                except (ValueError, RecursionError):
                    raise UsageError(f"{where}: cannot be read as JSON") from None
                yield where, value
    except FileNotFoundError:
        return
    except OSError as reason:
        raise UsageError(f"{path}: cannot be read ({reason.strerror})") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {sys.intern(name): value for name, value in pairs}


DECODER = json.JSONDecoder(object_pairs_hook=_object)  # the names of a long run's lines stand in memory once


def _record(record: Any, where: str) -> dict[str, Any]:
    if not isinstance(record, dict) or record.get("split") not in list(NUMBERS):
        raise UsageError(f"{where}: split: expected an object with one of {', '.join(NUMBERS)}")
    for name in ("step", "epoch", *NUMBERS[record["split"]]):
        value = record.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not -MOST < value < MOST:
            raise UsageError(f"{where}: {name}: expected a finite number")
    return record
