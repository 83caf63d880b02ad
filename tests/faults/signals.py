"""SIGTERM and Ctrl-C wherever a command may be: the state saved, 75, and the same command goes on as if nothing had been."""

import importlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults import Row
from tests.faults.kills import begin, command, digest, some_pictures, steps_done, unbroken

SECONDS = 5.0  # from the signal to the end
# where a command may be -> what it is in then
PLACES = {
    "validation": ("alexnet.training.loop", "answer"),
    "warm-up": ("alexnet.training.start", "measured_pace"),
    "statistics": ("alexnet.training.start", "measure"),
    "mid-save": ("alexnet.weights.checkpoint", "verify"),
}


def marking(module: str, name: str, mark: Path) -> None:
    """Lets a function say that it was entered, and wait a moment."""
    place = importlib.import_module(module)
    ordinary: Callable[..., Any] = getattr(place, name)

    def marked(*given: Any, **more: Any) -> Any:
        mark.touch()
        time.sleep(0.5)
        return ordinary(*given, **more)

    setattr(place, name, marked)


def ended(
    words: list[str], place: Path, number: int, ready: Callable[[], bool], **more: Any
) -> tuple[int | None, float, bool]:
    """The command, a signal when it is `ready`: its exit code, the seconds to it, and whether it left a process."""
    child = begin(words, place / "output", **more)
    deadline = time.monotonic() + 60
    while child.is_alive() and not ready() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert child.pid is not None
    sent = time.monotonic()
    os.kill(child.pid, number)
    child.join(60)
    took = time.monotonic() - sent
    try:
        os.killpg(child.pid, 0)
        orphans = True
    except ProcessLookupError:
        orphans = False
    return child.exitcode, took, orphans


def signals(times: int, source: Path, seed: int = 0) -> Iterable[Row]:
    """Each signal in each place, `times` times."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = some_pictures(source, place / "pictures")
        whole = unbroken(place, data)
        packed = place / "packed"
        begin(["data", "pack", str(source), str(packed), "--form", "raw"], place / "output").join()
        for number in (signal.SIGTERM, signal.SIGINT):
            for what in ("training", *PLACES, "packing"):
                right, slowest, left = 0, 0.0, 0
                for turn in range(times):
                    here = place / f"{number}-{what}-{turn}"
                    here.mkdir()
                    run, mark = here / "run", here / "mark"
                    more: dict[str, Any] = {}
                    words = command(data, run)
                    ready: Callable[[], bool] = mark.exists
                    if what == "training":
                        ready = partial(_trained, run, 5 + 7 * turn)
                    elif what == "packing":
                        words = ["data", "pack", str(source), str(run), "--form", "raw"]
                        ready = partial(_begun, run)
                    else:
                        more["before"] = partial(marking, *PLACES[what], mark)
                    if what == "warm-up":
                        words = [*words[: words.index("--max-steps")], *words[words.index("--max-steps") + 2 :]]
                        words += ["--max-time", "20s"]
                    code, took, orphans = ended(words, here, number, ready, **more)
                    again = begin(words, here / "output")
                    again.join()
                    if what == "packing":
                        equal = all((run / p.name).read_bytes() == p.read_bytes() for p in packed.glob("*.npy"))
                    else:
                        equal = what == "warm-up" or digest(run) == whole
                    right += code == 75 and again.exitcode == 0 and equal
                    slowest, left = max(slowest, took), left + orphans
                held = right == times and slowest <= SECONDS and not left
                yield Row(
                    f"{signal.Signals(number).name} in {what}", times,
                    f"75 within {SECONDS:.0f} s, nothing left, and gone on as the unbroken",
                    f"{right} right, {slowest:.2f} s at most, {left} left", held,
                )  # fmt: skip


def _trained(run: Path, steps: int) -> bool:
    return steps_done(run) >= steps


def _begun(out: Path) -> bool:
    try:
        return any(path.stat().st_size > 1 << 20 for path in out.iterdir())
    except FileNotFoundError:  # one of them, meanwhile
        return False
