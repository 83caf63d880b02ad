"""The long trials by name, each with its full figures."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

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
