"""Parts of a data set made by threads, in their order; without torch, which costs a second and 500 MB."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

from .. import stop
from ..errors import AlexNetError, DataError, Stopped, UsageError
from .samples import Samples, shown

Made = TypeVar("Made")

PATIENCE: Final = 120.0  # seconds without a picture read and decoded, after which a thread is given up
LOOKS: Final = 100  # at a thread within that time
FAREWELL: Final = 5.0  # seconds that threads are given to end the picture they are at
MOST: Final = 1024  # more than any machine gains by


def workers_of(asked: int, *, least: int = 0) -> int:
    """How many threads decode; UsageError for fewer than `least`, or more than a machine can start."""
    if not least <= asked <= MOST:
        raise UsageError(f"--workers {asked}: must be at least {least} and at most {MOST}")
    return asked


def path_of(samples: Samples, row: int) -> str:
    """Where the picture of a row is, as text safe to print."""
    return shown(str(samples.path(row)))


@dataclass(eq=False)
class Task(Generic[Made]):
    """What a thread is to make of some rows, one at least; `at` is the row that it is at, the last taken from it."""

    make: Callable[["Task[Made]"], Made]
    rows: Sequence[int]
    threads: "Threads"
    made: Future[Made] = field(default_factory=Future)
    at: int = field(init=False)

    def __post_init__(self) -> None:
        self.at = self.rows[0]

    def __iter__(self) -> Iterator[int]:
        for row in self.rows:
            if self.threads.closed:
                return
            self.at = row
            yield row

    def run(self) -> None:
        """Makes it; whatever goes wrong is for the one who waits."""
        try:
            self.made.set_result(self.make(self))
        except BaseException as reason:
            self.made.set_exception(reason)

    def result(self, samples: Samples, patience: float) -> Made:
        """What was made. DataError, which names the picture: the thread failed, or is at it for `patience` seconds.

        Stopped: a signal has asked for the end, and meanwhile no picture comes. AlexNetError: memory ended.
        """
        # Looks are counted, not seconds: a process that was stopped (Ctrl-Z) for an hour has missed one of them.
        looks, at, each = 0, -1, patience / LOOKS
        while True:
            try:
                reason = self.made.exception(each)
                break
            except TimeoutError:
                looks, at = looks + 1 if self.at == at else 0, self.at
                if looks and stop.requested():
                    raise Stopped(f"stopped while {path_of(samples, at)} was read and decoded") from None
                if looks == LOOKS:
                    raise DataError(
                        f"{path_of(samples, at)}: reading and decoding it has taken {patience:g} seconds and goes on; "
                        f"look at its disk or network, or take it away"
                    ) from None
        if reason is None:
            return self.made.result()
        if isinstance(reason, AlexNetError):
            raise reason
        if isinstance(reason, MemoryError):
            raise AlexNetError(
                f"{path_of(samples, self.at)}: out of memory while it was decoded; lower --workers or --batch-size"
            ) from reason
        raise DataError(
            f"{path_of(samples, self.at)}: decoding it failed, which is a fault of this program "
            f"({type(reason).__name__}: {' '.join(str(reason).split())})"
        ) from reason


class Threads:
    """Threads that run tasks in the order given. They are daemons: one that hangs holds up no end of the process."""

    def __init__(self, count: int) -> None:
        self.closed = False
        self._waiting: SimpleQueue[Task[Any] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"decode_{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def make(self, make: Callable[[Task[Made]], Made], rows: Sequence[int]) -> Task[Made]:
        """A task that a thread will run: it iterates over the task for its rows."""
        task = Task(make, rows, self)
        self._waiting.put(task)
        return task

    def _work(self) -> None:
        while (task := self._waiting.get()) is not None:
            if not self.closed:
                task.run()

    def close(self) -> None:
        """Waits for the picture that each thread is at, and leaves behind a thread that does not come back from it."""
        self.closed = True
        for _ in self._threads:
            self._waiting.put(None)
        end = time.monotonic() + FAREWELL
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))


def in_turn(
    make: Callable[[Iterable[int]], Made],
    ranges: Iterable[range],
    samples: Samples,
    *,
    threads: int,
    patience: float = PATIENCE,
) -> Generator[Made, None, None]:
    """Yields what `make` returns for each of `ranges` of rows, in their order, made by threads a little ahead.

    Errors are those of `Task.result`.
    """
    waiting: deque[Task[Made]] = deque()
    pool = Threads(threads)
    try:
        for rows in ranges:
            waiting.append(pool.make(make, rows))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result(samples, patience)
        while waiting:
            yield waiting.popleft().result(samples, patience)
    finally:
        pool.close()
