"""The log of a run, read back."""

import json
import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import files
from ..errors import UsageError
from ..weights.run import Run

# What a line of each split has at the least, for its readers; docs/run-folder.md has all of it.
NUMBERS = {"train": ("loss", "top1", "lr"), "val": ("loss", "top1", "top5"), "layers": ()}
KEPT = {name for names in NUMBERS.values() for name in names} | {
    "step", "epoch", "count", "images_per_second", "seconds", "seconds_waiting", "seconds_read", "seconds_decode",
    "seconds_augment",
}  # fmt: skip
MOST = 1e39  # beyond it no float32, and no count, is logged


class Log:
    """The numbers of a run's log that are KEPT, eight bytes each: a run of days has some hundred thousand lines."""

    def __init__(self, lines: Iterable[dict[str, Any]] = ()) -> None:
        self._columns: dict[str, dict[str, array[float]]] = defaultdict(dict)
        self._counts: dict[str, int] = dict.fromkeys(NUMBERS, 0)
        self.step, self.epoch = 0, 0.0  # of the last line
        for line in lines:
            self.add(line)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def add(self, line: dict[str, Any]) -> None:
        """A line behind those before it, with what NUMBERS asks for."""
        split = line["split"]
        columns, before = self._columns[split], self._counts[split]
        for name in KEPT & line.keys():
            if not _is_number(value := line[name]):
                continue
            column = columns.setdefault(name, array("d"))
            column.extend([math.nan] * (before - len(column)))
            column.append(value)
        self._counts[split] += 1
        self.step, self.epoch = int(line["step"]), float(line["epoch"])

    def count(self, split: str) -> int:
        """Lines of a split."""
        return self._counts[split]

    def column(self, split: str, name: str) -> NDArray[np.float64]:
        """The values of a name in the lines of a split, in their order; NaN where a line has no finite number there."""
        values = np.full(self._counts[split], np.nan)
        if (kept := self._columns[split].get(name)) is not None:
            values[: len(kept)] = kept
        return values


def read_metrics(run: Run) -> Log:
    """The lines of metrics.jsonl, in their order; none where there is no such file, or nothing in it.

    A last line that was cut short, by a kill or because it is being written, is left out. UsageError names the file,
    the line and the field: no JSON object, or `step`, `epoch`, `split` or a number of its split is missing.
    """
    return Log(_record(value, where) for where, value in read_lines(run.metrics))


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
                    value = json.loads(line.decode())
                except (ValueError, RecursionError):
                    raise UsageError(f"{where}: cannot be read as JSON") from None
                yield where, value
    except FileNotFoundError:
        return
    except OSError as reason:
        raise UsageError(f"{path}: cannot be read ({reason.strerror})") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -MOST < value < MOST


def _record(record: Any, where: str) -> dict[str, Any]:
    if not isinstance(record, dict) or record.get("split") not in list(NUMBERS):
        raise UsageError(f"{where}: split: expected an object with one of {', '.join(NUMBERS)}")
    for name in ("step", "epoch", *NUMBERS[record["split"]]):
        if not _is_number(record.get(name)):
            raise UsageError(f"{where}: {name}: expected a finite number")
    return record
