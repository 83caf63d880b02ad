"""All of the long trials, whole, and one table: `make faults`, or `python -m tests.faults FLOWERS [NAME ...]`.

FLOWERS is a folder of class folders of real pictures; NAME is one of those below.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults import Row, doctor, fuzz, kills, machine, saves, signals, soak, space, strangers
from tests.strangers import PTH

Trial = Callable[[Path], Iterable[Row]]
TRIALS: dict[str, Trial] = {
    "stall": lambda source: soak.stall(20),
    "signals": lambda source: signals.signals(3, source),
    "saves": lambda source: saves.operations(),
    "damage": lambda source: saves.damage(200, 500),
    "store": lambda source: machine.store(2000),
    "images": lambda source: fuzz.images(100_000, 0),
    "containers": lambda source: fuzz.containers(10_000, 0),
    "strangers": lambda source: [*strangers.pytorch_files(len(PTH), 0), *strangers.model_files(10_000, 0)],
    "doctor": lambda source: doctor.million(1_000_000, 0),
    "space": space.space,
    "kills": lambda source: kills.kills(30, 10, source),
    "soak": lambda source: soak.soak(30, source),
}


def rows(name: str, source: Path) -> list[Row]:
    """What a trial found, each printed as it is."""
    found: list[Row] = []
    for row in TRIALS[name](source):
        print(f"{name}: {row}", file=sys.stderr, flush=True)
        found.append(row)
    return found


def main(words: list[str]) -> int:
    """Runs the trials named, all where none is; 1 where something did not hold."""
    if not words or not Path(words[0]).is_dir() or not set(words[1:]) <= set(TRIALS):
        print(f"python -m tests.faults FLOWERS [{'|'.join(TRIALS)} ...]", file=sys.stderr)
        return 2
    table = Table("what", "times", "asked", "seen", "held", "s", title="what must never break")
    held = True
    # each in a process of its own: some fork, which a process that has computed cannot bear
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as processes:
        for name in words[1:] or TRIALS:
            begun = time.monotonic()
            for row in processes.submit(rows, name, Path(words[0])).result():
                table.add_row(row.what, f"{row.times:,}", row.asked, row.seen, "yes" if row.held else "NO",
                              f"{time.monotonic() - begun:.0f}")  # fmt: skip
                held &= row.held
    Console(width=200, soft_wrap=False).print(table)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
