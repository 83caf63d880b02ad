"""Samples in order -> uint8 batches, prepared by threads: decoders release the interpreter's lock."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Final, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import BadImage
from .augment import resized_box
from .decode import decode, decoded_form, random_resized, raw_form
from .order import uniform
from .preprocess import Preprocess
from .samples import Samples
from .threads import PATIENCE, Task, Threads, path_of

Image = NDArray[np.uint8]
BadImages = Literal["error", "skip"]
Made = TypeVar("Made")

ENOUGH: Final = 32  # pictures that say how large those of the whole set are


@dataclass(frozen=True)
class Prepare:
    """How an image of a batch is made: `decode`, of a row's bytes and the row, gives what is the same in every epoch,
    and `view`, of that and its place (n, epoch), the image.
    """

    decode: Callable[[bytes, int], Image]
    view: Callable[[Image, int, int], Image]


class Decoded:
    """The decoded pictures of a set, held in memory by their rows, if all of them fit into `limit` bytes.

    As soon as those seen say that the whole set would not, it is given up, and holds none from then on.
    """

    def __init__(self, pictures: int, limit: int) -> None:
        self.pictures, self.limit = pictures, limit
        self.bytes = 0
        self.given_up = False
        self._held: dict[int, Image] = {}
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """How many pictures it holds."""
        return len(self._held)

    def get(self, row: int) -> Image | None:
        """A row's picture, if it was had before."""
        return self._held.get(row)

    def add(self, row: int, picture: Image) -> None:
        """Holds a picture, which no one may write to from now on."""
        with self._lock:
            if row in self._held or self.given_up:
                return
            self._held[row] = picture
            self.bytes += picture.nbytes
            seen = len(self._held)
            if self.bytes > self.limit or (seen >= ENOUGH and self.bytes * self.pictures > self.limit * seen):
                self._held.clear()
                self.bytes, self.given_up = 0, True


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


@contextmanager
def _named(samples: Samples, row: int) -> Iterator[None]:
    """Gives a BadImage the name of its row; made only here, for of a small picture that is a part of the work."""
    try:
        yield
    except BadImage as bad:
        raise BadImage(path_of(samples, row), bad.reason) from None


def _stored(samples: Samples, data: bytes, row: int, preprocess: Preprocess) -> Image:
    if samples.raw:
        return raw_form(data, preprocess.stored, path_of(samples, row))
    with _named(samples, row):
        return decoded_form(data, "", preprocess.shaping)[0]


def stored(samples: Samples, preprocess: Preprocess) -> Prepare:
    """Prepares the stored form; DataError: the samples are other stored forms already."""
    samples.check_shaping(preprocess)
    return Prepare(lambda data, row: _stored(samples, data, row, preprocess), lambda picture, n, epoch: picture)


def original(samples: Samples, preprocess: Preprocess, *, seed: int, scale: float) -> Prepare:
    """Prepares a random-resized-crop of the full picture, side x side, drawn for (seed, epoch, n).

    `scale` is the smallest share of the area that a crop takes.
    """

    def whole(data: bytes, row: int) -> Image:
        with _named(samples, row):
            return decode(data, "", exif=preprocess.exif)

    def crop(picture: Image, n: int, epoch: int) -> Image:
        draw = uniform(seed, epoch, np.array([n]), count=40, purpose=1)[0]
        box = resized_box(picture.shape[0], picture.shape[1], draw, smallest=scale)
        return random_resized(picture, box, side=preprocess.side, filter=preprocess.filter)

    return Prepare(whole, crop)


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
    decoded: Decoded | None = None,
) -> Generator[Batch, None, None]:
    """Yields a batch for each of `places`, in their order, at any number of threads the same.

    `side` is that of what `prepare` returns; raw pixels need no preparing and are read to their place. A picture that
    `decoded` holds is neither read nor decoded again. Up to `ahead` batches are made while the caller works, with
    `threads=0` none: a thread makes one when it is asked for. A bad image ends the iteration with its BadImage, or with
    `bad_images="skip"` is left out of its batch and named in `bad`. The other errors are those of `Task.result`.
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
                picture = None if decoded is None else decoded.get(row)
                if picture is None:
                    data = samples.read(row)
                    reading += time.monotonic() - asked
                    picture = prepare.decode(data, row)
                    if decoded is not None:
                        decoded.add(row, picture)
                images[i] = prepare.view(picture, int(place.n[i]), place.epoch)
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

    waiting: deque[tuple[Places, torch.Tensor, list[Task[Filled]]]] = deque()
    if threads == 0:
        threads, ahead = 1, 1
    pool = Threads(threads)
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
