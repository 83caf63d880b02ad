"""What is measured on the training split: mean image, colour eigenvectors, picture sizes; one pass, cached."""

import hashlib
import io
import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .. import files, stop
from ..errors import BadImage, DataError, Stopped, UsageError
from .cache import DAMAGE
from .decode import decoded_form, raw_form
from .loader import BadImages
from .preprocess import Preprocess
from .samples import Samples, shown
from .threads import in_turn

ROWS_AT_A_TIME: Final = 64


@dataclass(frozen=True, eq=False)
class Stats:
    """Measured on the stored forms of `count` images, RGB, 0..255.

    `mean`: the mean image, float64 (S, S, 3). `channel_mean`: float64 (3,). `eigenvalues`, (3,), descending, and
    `eigenvectors`, (3, 3), a column each with its largest component positive: of the covariance of all pixels' colours
    about `channel_mean` ([K12] 4.1; [CODE12] draws with the square roots of the eigenvalues). `sizes`: int32
    (count, 2), the height and width of each picture before it was resized, in row order. `bad`: (row, reason) of each
    image left out.
    """

    count: int
    mean: NDArray[np.float64]
    channel_mean: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]
    sizes: NDArray[np.int32]
    bad: tuple[tuple[int, str], ...]


class Sums:
    """Over some stored forms: integers, so that the order of adding them up changes nothing."""

    def __init__(self) -> None:
        self.count = 0
        self.pixels: NDArray[np.int64] = np.zeros((), np.int64)
        self.products = np.zeros((3, 3), np.int64)

    def take(self, image: NDArray[np.uint8]) -> None:
        """One more: uint8 (S, S, 3)."""
        if not self.count:
            self.pixels = np.zeros(image.shape, np.int64)
        self.count += 1
        np.add(self.pixels, image, out=self.pixels)  # (S, S, 3)
        colours = image.reshape(-1, 3).astype(np.float64)  # (S*S, 3)
        # Integers far below 2^53, so that BLAS adds them up exactly, in whatever order.
        self.products += (colours.T @ colours).astype(np.int64)

    def add(self, other: "Sums") -> None:
        """All that another has."""
        self.count += other.count
        self.pixels = self.pixels + other.pixels
        self.products += other.products


@dataclass
class _Part:
    """What some rows gave: sums, the sizes of the pictures, the bad ones."""

    sums: Sums = field(default_factory=Sums)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)


def measure(
    samples: Samples, preprocess: Preprocess, *, threads: int, cache: Path | None, bad_images: BadImages = "error"
) -> Stats:
    """The statistics of all `samples` as `preprocess` stores them: the same bits at any number of `threads`.

    They are kept in the folder `cache` under the data's fingerprint and what shapes the stored form; a damaged file
    there is measured again; None keeps nothing. BadImage: the first bad image, unless `bad_images` is "skip".
    DataError: no image at all. UsageError: a cache that cannot be written. Stopped: a signal came.
    """
    samples.check_shaping(preprocess)
    path = None if cache is None else _kept(samples, preprocess, cache)
    stats = None if path is None else _read(path, preprocess.stored)
    if stats is None or (stats.bad and bad_images == "error"):  # a picture may be readable again
        stats = _measure(samples, preprocess, threads, bad_images)
        if path is not None:
            _write(path, stats)
    return stats


def keep(samples: Samples, preprocess: Preprocess, sums: Sums, *, cache: Path) -> None:
    """Keeps the sums over all `samples`, stored forms already, where `measure` will look for their statistics."""
    sizes = np.full((sums.count, 2), preprocess.stored, np.int32)
    _write(_kept(samples, preprocess, cache), _stats(sums, sizes, ()))


def reach(cache: Path) -> None:
    """Makes the folder of the cache; UsageError where that cannot be."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise UsageError(f"{cache}: cannot keep statistics here ({reason.strerror}); set ALEXNET_CACHE") from None


def _kept(samples: Samples, preprocess: Preprocess, cache: Path) -> Path:
    """Where in the cache statistics are kept."""
    reach(cache)
    name = hashlib.sha256(json.dumps([samples.fingerprint(), *preprocess.shaping]).encode()).hexdigest()[:32]
    return cache / f"stats-{name}.npz"


def _measure(samples: Samples, preprocess: Preprocess, threads: int, bad_images: BadImages) -> Stats:
    sums, sizes, bad = Sums(), list[tuple[int, int]](), list[tuple[int, str]]()
    ranges = [
        range(start, min(start + ROWS_AT_A_TIME, len(samples))) for start in range(0, len(samples), ROWS_AT_A_TIME)
    ]
    with closing(
        in_turn(lambda rows: _add_up(samples, rows, preprocess, bad_images), ranges, samples, threads=threads)
    ) as made:
        for part in made:
            if stop.requested():
                raise Stopped("stopped while measuring the training images; the same command measures them again")
            sums.add(part.sums)
            sizes += part.sizes
            bad += part.bad
    if not sums.count:
        reason = f"; the first: {bad[0][1]}" if bad else ""
        raise DataError(f"{samples.root}: none of {len(samples)} images can be measured{reason}")
    return _stats(sums, np.array(sizes, np.int32), tuple(bad))


def _stats(sums: Sums, sizes: NDArray[np.int32], bad: tuple[tuple[int, str], ...]) -> Stats:
    pixels, count = np.asarray(sums.pixels), sums.count
    colours = pixels.sum((0, 1))  # (3,)
    n = count * pixels.shape[0] * pixels.shape[1]
    eigenvalues, eigenvectors = _axes(colours, sums.products, n)
    return Stats(
        count=count,
        mean=pixels / count,
        channel_mean=colours / n,
        eigenvalues=eigenvalues,
        eigenvectors=eigenvectors,
        sizes=sizes,
        bad=bad,
    )


def _add_up(samples: Samples, rows: Iterable[int], preprocess: Preprocess, bad_images: BadImages) -> _Part:
    part, side = _Part(), preprocess.stored
    for row in rows:
        try:
            data, name = samples.read(row), _path(samples, row)
            if samples.raw:
                image, size = raw_form(data, side, name), (side, side)
            else:
                image, size = decoded_form(data, name, preprocess.shaping)
        except BadImage as reason:
            if bad_images == "error":
                raise
            part.bad.append((row, reason.reason))
            continue
        part.sizes.append(size)
        part.sums.take(image)
    return part


def _path(samples: Samples, row: int) -> str:
    return shown(str(samples.path(row)))


def _axes(
    sums: NDArray[np.int64], products: NDArray[np.int64], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues (3,) and eigenvectors (3, 3) of the covariance of n colours with these sums (3,), products (3, 3)."""
    # Python's integers do not overflow: the covariance is rounded once, in the division.
    s = sums.tolist()
    covariance = np.array([[(n * products[i, j].item() - s[i] * s[j]) / (n * n) for j in range(3)] for i in range(3)])
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]  # rounding may leave a variance of 0 just below
    largest = vectors[np.abs(vectors).argmax(0), np.arange(3)]
    return values, np.ascontiguousarray(vectors * np.sign(largest))


def _write(path: Path, stats: Stats) -> None:
    stream = io.BytesIO()
    np.savez(
        stream,
        of=np.array(path.name),
        mean=stats.mean,
        channel_mean=stats.channel_mean,
        eigenvalues=stats.eigenvalues,
        eigenvectors=stats.eigenvectors,
        sizes=stats.sizes,
        bad=np.array(json.dumps(stats.bad)),
    )
    try:
        files.write(path, stream.getvalue())
    except OSError as reason:
        raise UsageError(f"{path}: cannot be kept ({reason.strerror}); set ALEXNET_CACHE") from None


def _read(path: Path, side: int) -> Stats | None:
    """The statistics kept at `path`; None where there are none, or the file is damaged or of other pictures."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            if str(kept["of"]) != path.name:
                return None
            stats = Stats(
                count=len(kept["sizes"]),
                mean=kept["mean"],
                channel_mean=kept["channel_mean"],
                eigenvalues=kept["eigenvalues"],
                eigenvectors=kept["eigenvectors"],
                sizes=kept["sizes"],
                bad=tuple((row, reason) for row, reason in json.loads(str(kept["bad"]))),
            )
    except DAMAGE:
        return None
    shapes = ((side, side, 3), (3,), (3,), (3, 3), (stats.count, 2))
    columns = (stats.mean, stats.channel_mean, stats.eigenvalues, stats.eigenvectors, stats.sizes)
    whole = all(
        c.shape == s and c.dtype.kind in "fi" and np.isfinite(c).all() for c, s in zip(columns, shapes, strict=True)
    )
    return stats if whole and stats.count else None
