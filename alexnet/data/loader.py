"""Samples in order -> uint8 batches, prepared by threads: decoders release the interpreter's lock."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from queue import SimpleQueue
from typing import Any, Final, Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import AlexNetError, BadImage, DataError
from .augment import resized_box
from .decode import decode, decoded_form, random_resized, raw_form
from .order import uniform
from .preprocess import Preprocess
from .samples import Samples, shown

Image = NDArray[np.uint8]
Prepare = Callable[[bytes, int, int, int], Image]  # (content, row, n, epoch) -> an image of the batch
BadImages = Literal["error", "skip"]
Made = TypeVar("Made")

PATIENCE: Final = 120.0  # seconds without a picture read and decoded, after which a thread is given up
LOOKS: Final = 100  # at a thread within that time
FAREWELL: Final = 5.0  # seconds that threads are given to end the picture they are at


@dataclass(frozen=True)
class Places:
    """A batch to make: rows of the table (B,), their positions n in the epoch (B,), and the epoch."""

    rows: NDArray[np.int64]
    n: NDArray[np.int64]
    epoch: int = 0


@dataclass
class Batch:
    """images uint8 (B, S, S, 3), labels int64 (B,), the rows (B,) and positions (B,) they come from; what was bad.

    `seconds_read` and `seconds_decode` are the time that its threads took, added up: for bytes, and for pixels.
    """

    images: torch.Tensor
    labels: torch.Tensor
    rows: NDArray[np.int64]
    n: NDArray[np.int64]
    epoch: int
    bad: list[tuple[int, BadImage]]
    seconds_read: float
    seconds_decode: float


# the bad images of a part of a batch, by their place in it, and the seconds it took to read and to decode
Filled = tuple[list[tuple[int, BadImage]], float, float]


def pixels(samples: Samples, row: int, preprocess: Preprocess) -> Image:
    """The picture of a row as the road stores it: uint8 (S, S, 3) RGB; BadImage where it cannot be had."""
    return _stored(samples, samples.read(row), row, preprocess)


def _path(samples: Samples, row: int) -> str:
    return shown(str(samples.path(row)))


@contextmanager
def _named(samples: Samples, row: int) -> Iterator[None]:
    """Gives a BadImage the name of its row; made only here, for of a small picture that is a part of the work."""
    try:
        yield
    except BadImage as bad:
        raise BadImage(_path(samples, row), bad.reason) from None


def _stored(samples: Samples, data: bytes, row: int, preprocess: Preprocess) -> Image:
    if samples.raw:
        return raw_form(data, preprocess.stored, _path(samples, row))
    with _named(samples, row):
        return decoded_form(data, "", preprocess.shaping)[0]


def stored(samples: Samples, preprocess: Preprocess) -> Prepare:
    """Prepares the stored form; DataError: the samples are other stored forms already."""
    samples.check_shaping(preprocess)
    return lambda data, row, n, epoch: _stored(samples, data, row, preprocess)


def original(samples: Samples, preprocess: Preprocess, *, seed: int, scale: float) -> Prepare:
    """Prepares a random-resized-crop of the full picture, side x side, drawn for (seed, epoch, n).

    `scale` is the smallest share of the area that a crop takes.
    """

    def prepare(data: bytes, row: int, n: int, epoch: int) -> Image:
        with _named(samples, row):
            image = decode(data, "", exif=preprocess.exif)
        draw = uniform(seed, epoch, np.array([n]), count=40, purpose=1)[0]
        box = resized_box(image.shape[0], image.shape[1], draw, smallest=scale)
        return random_resized(image, box, side=preprocess.side, filter=preprocess.filter)

    return prepare


@dataclass(eq=False)
class _Task(Generic[Made]):
    """What a thread is to make of some rows, one at least; `at` is the row that it is at, the last taken from it."""

    make: Callable[["_Task[Made]"], Made]
    rows: Sequence[int]
    threads: "_Threads"
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
        """What was made. DataError, which names the picture: the thread failed, or is at it for `patience` seconds."""
        # Looks are counted, not seconds: a process that was stopped (Ctrl-Z) for an hour has missed one of them.
        looks, at, each = 0, -1, patience / LOOKS
        while True:
            try:
                reason = self.made.exception(each)
                break
            except TimeoutError:
                looks, at = looks + 1 if self.at == at else 0, self.at
                if looks == LOOKS:
                    raise DataError(
                        f"{_path(samples, at)}: reading and decoding it has taken {patience:g} seconds and goes on; "
                        f"look at its disk or network, or take it away"
                    ) from None
        if reason is None:
            return self.made.result()
        if isinstance(reason, AlexNetError):
            raise reason
        if isinstance(reason, MemoryError):
            raise DataError(
                f"{_path(samples, self.at)}: out of memory while it was decoded; lower --workers or --batch-size"
            ) from reason
        raise DataError(
            f"{_path(samples, self.at)}: decoding it failed, which is a fault of this program "
            f"({type(reason).__name__}: {' '.join(str(reason).split())})"
        ) from reason


class _Threads:
    """Threads that run tasks in the order given. They are daemons: one that hangs holds up no end of the process."""

    def __init__(self, count: int) -> None:
        self.closed = False
        self._waiting: SimpleQueue[_Task[Any] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"decode_{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def make(self, make: Callable[[_Task[Made]], Made], rows: Sequence[int]) -> _Task[Made]:
        """A task that a thread will run: it iterates over the task for its rows."""
        task = _Task(make, rows, self)
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

    DataError: a thread failed, or has been at one picture for `patience` seconds.
    """
    waiting: deque[_Task[Made]] = deque()
    pool = _Threads(threads)
    try:
        for rows in ranges:
            waiting.append(pool.make(make, rows))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result(samples, patience)
        while waiting:
            yield waiting.popleft().result(samples, patience)
    finally:
        pool.close()


def batches(
    samples: Samples,
    places: Iterable[Places],
    prepare: Prepare,
    *,
    side: int,
    threads: int,
    bad_images: BadImages = "error",
    pinned: bool = False,
    ahead: int = 3,
    patience: float = PATIENCE,
) -> Generator[Batch, None, None]:
    """Yields a batch for each of `places`, in their order, at any number of threads the same.

    `side` is that of what `prepare` returns; raw pixels need no preparing and are read to their place. `threads=0`
    prepares in the calling thread; up to `ahead` batches are made while the caller works. A bad image ends the
    iteration with its BadImage, or with `bad_images="skip"` is left out of its batch and named in `bad`. DataError: a
    thread failed, or has been at one picture for `patience` seconds.
    """

    def fill(place: Places, images: Image, first: int, rows: Iterable[int]) -> Filled:
        bad: list[tuple[int, BadImage]] = []
        reading, begin = 0.0, time.monotonic()
        for i, row in enumerate(rows, first):
            asked = time.monotonic()
            try:
                if samples.raw:
                    samples.read_into(row, images[i])
                    reading += time.monotonic() - asked
                    continue
                data = samples.read(row)
                reading += time.monotonic() - asked
                images[i] = prepare(data, row, int(place.n[i]), place.epoch)
            except BadImage as reason:
                if bad_images == "error":
                    raise
                bad.append((i, reason))
        return bad, reading, time.monotonic() - begin - reading

    def empty(place: Places) -> torch.Tensor:
        return torch.empty((len(place.rows), side, side, 3), dtype=torch.uint8, pin_memory=pinned)

    def finish(place: Places, images: torch.Tensor, parts: list[Filled]) -> Batch:
        bad = [item for part, _, _ in parts for item in part]
        reading, decoding = sum(part[1] for part in parts), sum(part[2] for part in parts)
        good = np.ones(len(place.rows), bool)
        good[[i for i, _ in bad]] = False
        named = [(int(place.rows[i]), reason) for i, reason in bad]
        if named:
            images = images[torch.from_numpy(good)]
        labels = torch.from_numpy(samples.label[place.rows[good]].astype(np.int64))
        return Batch(images, labels, place.rows[good], place.n[good], place.epoch, named, reading, decoding)

    if threads == 0:
        for place in places:
            images = empty(place)
            yield finish(place, images, [fill(place, images.numpy(), 0, place.rows.tolist())])
        return

    waiting: deque[tuple[Places, torch.Tensor, list[_Task[Filled]]]] = deque()
    pool = _Threads(threads)
    try:
        source = iter(places)
        exhausted = False
        while True:
            while not exhausted and len(waiting) < ahead:
                place = next(source, None)
                if place is None:
                    exhausted = True
                    break
                images = empty(place)
                bounds = np.linspace(0, len(place.rows), 2 * threads + 1).astype(int).tolist()
                rows, array = place.rows.tolist(), images.numpy()
                parts = [
                    pool.make(partial(fill, place, array, first), rows[first:last])
                    for first, last in pairwise(bounds)
                    if last > first
                ]
                waiting.append((place, images, parts))
            if not waiting:
                return
            place, images, tasks = waiting.popleft()
            yield finish(place, images, [task.result(samples, patience) for task in tasks])
    finally:
        pool.close()
