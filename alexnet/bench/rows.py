"""Ours and its peers, timed in turn: what slows the machine for a while slows all of them."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch

OURS = "alexnet"
PACKAGES = {
    "step": ("tensorflow",),
    "data": ("webdataset",),
    "infer": ("onnx", "onnxruntime", "openvino"),
}  # of peers that need more than we do, by bench


@dataclass(frozen=True)
class Contestant:
    """One way to do a thing: `run` does it once. `floor`: the least seconds, by the machine's ceilings. `what`: where
    those it takes turns with do another thing.
    """

    who: str
    run: Callable[[], object]
    floor: float | None = None
    what: str | None = None


@dataclass(frozen=True)
class Row:
    """What was measured of one contestant: `runs`, one number a repeat, in `unit`."""

    what: str
    who: str
    unit: str
    runs: tuple[float, ...]
    floor: float | None

    @property
    def median(self) -> float:
        """The middle of the runs."""
        return median(self.runs)

    @property
    def spread(self) -> float:
        """Largest less smallest run, as a share of the median; 0 of nothing."""
        return (max(self.runs) - min(self.runs)) / self.median if self.median else 0.0


def document(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of `bench --json`. `ratio`: this one's median over ours of the same `what`; above 1 ours needs less."""
    ours = {row.what: row.median for row in rows if row.who == OURS}
    return [
        {
            "what": row.what,
            "who": row.who,
            "unit": row.unit,
            "runs": list(row.runs),
            "median": row.median,
            "spread": row.spread,
            "ratio": row.median / ours[row.what] if ours.get(row.what) else None,
            "floor": row.floor,
        }
        for row in rows
    ]


def timed(
    what: str, contestants: Sequence[Contestant], *, repeats: int, calls: int = 1, seconds: float = 0.0
) -> list[Row]:
    """A row in seconds for each contestant, who take turns; a repeat is the mean of so many `calls` at a stretch, or
    of more, until `seconds` have passed.

    A first round, which fills caches, is not counted.
    """
    passed: list[list[float]] = [[] for _ in contestants]
    for repeat in range(repeats + 1):
        for one, times in zip(contestants, passed, strict=True):
            mean = once(one.run, calls=calls, seconds=seconds)
            if repeat:
                times.append(mean)
    return [
        Row(one.what or what, one.who, "s", tuple(times), one.floor)
        for one, times in zip(contestants, passed, strict=True)
    ]


def once(run: Callable[[], object], *, calls: int = 1, seconds: float = 0.0) -> float:
    """Seconds of one run, the accelerator's work included; the mean of so many `calls`, or of more in `seconds`."""
    gc.collect()
    synchronize()
    done, begin = 0, time.perf_counter()
    while done < calls or (seconds and time.perf_counter() - begin < seconds):
        run()
        done += 1
    synchronize()
    return (time.perf_counter() - begin) / done


def synchronize() -> None:
    """Waits for the accelerator, where there is one."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def missing(what: str) -> list[str]:
    """The packages of a bench's peers that are not installed; these peers are left out."""
    return [name for name in PACKAGES.get(what, ()) if find_spec(name) is None]
