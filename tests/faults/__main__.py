"""All of the long trials, whole, and one table: `make faults`, or `python -m tests.faults FLOWERS [NAME ...]`.

FLOWERS is a folder of class folders of real pictures; NAME is one of those in trials.py.
"""

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.trials import TRIALS, rows


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
