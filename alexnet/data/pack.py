"""Sample tables -> a pack: their stored forms in a few large files, read several times as fast as the pictures.

    pack.json           what it is, its classes, its bad pictures, and the size and SHA-256 of each file
    train.csv  val.csv  a line a picture, in the order of the source: its key there, class, file, offset, size
    train-00000.tar  …  form "jpeg": WebDataset members, 00000000.jpg and 00000000.cls
    train.npy           form "raw": uint8 (N, S, S, 3), a row a picture

Blocks of pictures are written one after another, by any number of threads the same; what stands behind the last whole
block is cut off when the same command is given again. pack.json comes last, and without it there is no pack.
"""

import csv
import io
import json
import math
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from .. import files, stop
from ..errors import BadImage, DataError, Stopped, UsageError
from .cache import DAMAGE
from .decode import decode
from .loader import BadImages, pixels
from .packed import BEGUN, COLUMNS, PACK, SCHEMA, SETS, is_pack, pack_parts
from .preprocess import BEFORE, Preprocess
from .samples import Samples, shown
from .stats import Sums, keep, reach
from .threads import in_turn

Form = Literal["jpeg", "raw"]
Add = Callable[[int, bytes], tuple[str, int]]
LOCK = ".lock"
# What a pack that is not finished leaves, and what a kill leaves of a file half written.
LEFT = re.compile(r"\.(pack\.json|(train|val)\.state|(train|val)\.(csv|npy)\.part)")
HALF = re.compile(r"\.(\.?pack\.json|\.(train|val)\.state|(train|val)-\d{5}\.tar|(train|val)\.csv)\.\d+\.tmp")
BLOCK = 1024  # pictures of a tar, and between two states
MOST_TARS = 128  # of a part, for a reader holds each open; its tars grow instead
AT_A_TIME = 32  # pictures that a thread takes


@dataclass(frozen=True)
class _Work:
    """One part of the set, and how its pictures are packed."""

    name: str
    samples: Samples
    preprocess: Preprocess
    out: Path
    form: Form
    quality: int
    bad_images: BadImages

    @property
    def index(self) -> Path:
        """The file that lists its pictures."""
        return self.out / f"{self.name}.csv"

    @property
    def array(self) -> Path:
        """The file of all its pixels, in the raw form."""
        return self.out / f"{self.name}.npy"

    def tar(self, block: int) -> Path:
        """The file of a block, in the JPEG form."""
        return self.out / f"{self.name}-{block:05d}.tar"

    @property
    def size(self) -> int:
        """Pictures of a block."""
        return max(BLOCK, math.ceil(len(self.samples) / MOST_TARS))

    def blocks(self) -> list[list[range]]:
        """For each block the rows that its threads take at a time."""
        count, size = len(self.samples), self.size
        ends = [min(start + size, count) for start in range(0, count, size)]
        return [
            [range(first, min(first + AT_A_TIME, end)) for first in range(start, end, AT_A_TIME)]
            for start, end in zip(range(0, count, size), ends, strict=True)
        ]


@dataclass
class _Made:
    """What some rows became: the bytes of each good one, the bad ones, and sums over what a reader will see."""

    good: list[tuple[int, bytes]] = field(default_factory=list)
    bad: list[dict[str, str]] = field(default_factory=list)
    sums: Sums = field(default_factory=Sums)
    squared_error: int = 0


@dataclass
class _State:
    """How far a part has come: whole blocks of `size` pictures, the bytes of its tars and of its index, and what was
    met on the way.
    """

    path: Path
    size: int
    tars: list[int] = field(default_factory=list)
    blocks: int = 0
    index: int = 0
    bad: list[dict[str, str]] = field(default_factory=list)
    sums: Sums = field(default_factory=Sums)
    squared_error: int = 0

    @classmethod
    def of(cls, work: _Work) -> "_State":
        """What was kept of the part if all that it speaks of is there, else the beginning."""
        path = work.out / f".{work.name}.state"
        beginning, state = cls(path, work.size), cls(path, work.size)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return beginning
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as kept:
                said = json.loads(str(kept["said"]))
                state.size, state.tars = said["size"], said["tars"]
                state.blocks, state.index, state.bad = said["blocks"], said["index"], said["bad"]
                state.squared_error, state.sums.count = said["squared_error"], said["count"]
                state.sums.pixels, state.sums.products = kept["pixels"], kept["products"]
        except DAMAGE:
            return beginning
        whole = state.size == work.size and files.grown(work.index) >= state.index
        if work.form == "raw":
            whole = whole and files.grown(work.array) >= _end(state.sums.count, work.preprocess.stored)
        else:
            there = [work.tar(block) for block in range(state.blocks)]
            whole = whole and [tar.stat().st_size if tar.is_file() else -1 for tar in there] == state.tars
        return state if whole else beginning

    def take(self, made: _Made) -> None:
        """More pictures."""
        self.bad += made.bad
        self.sums.add(made.sums)
        self.squared_error += made.squared_error

    def keep(self) -> None:
        """Writes it; all that it speaks of is on the disk by now."""
        said = {
            "size": self.size, "tars": self.tars, "blocks": self.blocks, "index": self.index, "bad": self.bad,
            "squared_error": self.squared_error, "count": self.sums.count,
        }  # fmt: skip
        stream = io.BytesIO()
        np.savez(stream, said=np.array(json.dumps(said)), pixels=self.sums.pixels, products=self.sums.products)
        files.write(self.path, stream.getvalue())


def pack(
    train: Samples,
    val: Samples | None,
    out: Path,
    *,
    form: Form,
    preprocess: Preprocess,
    source: str,
    fingerprint: str,
    quality: int = 90,
    threads: int = 2,
    bad_images: BadImages = "error",
    cache: Path | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Writes the stored forms of both parts into the folder `out`; returns what pack.json holds.

    A pack that is there and is this one is left as it is. Statistics of the training part are kept in `cache`, so that
    no training measures them again. UsageError: `out` or `cache` cannot be written; `out` holds something else, a pack
    of other pictures or of another form; the pictures are a pack's already. BadImage: the first bad picture, unless
    `bad_images` is "skip", which lists them in the record. Stopped: a signal came; the same call goes on.
    """
    if form not in get_args(Form):
        raise UsageError(f"--form {form}: unknown; known are {', '.join(get_args(Form))}")
    if not 1 <= quality <= 100:
        raise UsageError(f"--quality {quality}: must be in 1..100")
    if train.shaping is not None or (val is not None and val.shaping is not None):
        raise UsageError(f"{shown(source)}: pictures of a pack already; name those that it was made of")
    asked = {
        "schema": SCHEMA, "form": form, "quality": quality if form == "jpeg" else None, **preprocess.shaping._asdict(),
        "source": shown(source), "fingerprint": fingerprint, "classes": train.classes.to_json(),
    }  # fmt: skip
    if cache is not None:
        reach(cache)
    parts = [
        _Work(name, samples, preprocess, out, form, quality, bad_images)
        for name, samples in zip(SETS, (train, val), strict=True)
        if samples is not None
    ]
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in out.iterdir())
        strangers = [name for name in names if name != LOCK and not (LEFT.fullmatch(name) or HALF.fullmatch(name))]
        if strangers and not is_pack(out):
            raise UsageError(f"{shown(str(out))}: holds {shown(strangers[0])} and is no pack; name another folder")
        with files.lock(out / LOCK):
            _sweep(out, HALF)
            if (out / PACK).exists():
                record = _same(asked, out / PACK)
                pack_parts(out, record)
                for said in record["sets"].values():
                    _refuse(said["bad"], bad_images)
                progress(sum(len(work.samples) for work in parts))
            else:
                if (out / BEGUN).exists():
                    _same(asked, out / BEGUN)
                files.write_json(out / BEGUN, asked)
                record = _written(asked, parts, threads=threads, cache=cache, progress=progress)
                files.write_json(out / PACK, record)
            _sweep(out, LEFT)
    except OSError as reason:
        raise UsageError(f"{shown(str(out))}: cannot be written ({reason.strerror})") from None
    return record


def _same(asked: dict[str, Any], path: Path) -> dict[str, Any]:
    """The record at `path`, which must say what is asked."""
    there = files.read_json(path)
    if not isinstance(there, dict):
        raise DataError(f"{shown(str(path))}: expected a JSON object")
    there = BEFORE | there
    for name, value in asked.items():
        if name != "source" and there.get(name) != value:
            what = "other pictures" if name in ("fingerprint", "classes") else f"{name} {there.get(name)}"
            raise UsageError(f"{shown(str(path.parent))}: a pack of {what}; name another folder")
    return there


def _sweep(out: Path, names: re.Pattern[str]) -> None:
    for path in out.iterdir():
        if names.fullmatch(path.name):
            path.unlink()


def _refuse(bad: list[dict[str, str]], bad_images: BadImages) -> None:
    if bad and bad_images == "error":
        raise BadImage(bad[0]["path"], bad[0]["reason"])


def _written(
    asked: dict[str, Any],
    parts: Sequence[_Work],
    *,
    threads: int,
    cache: Path | None,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """What pack.json is to hold, when all else is written."""
    sets: dict[str, Any] = {}
    for work in parts:
        state = _State.of(work)
        _refuse(state.bad, work.bad_images)
        _pack(work, state, threads, progress)
        if not state.sums.count:
            raise DataError(f"{work.samples.root}: none of {len(work.samples)} pictures can be packed")
        names = [work.index.name]
        names += [work.array.name] if work.form == "raw" else [work.tar(b).name for b in range(state.blocks)]
        error = state.squared_error / (state.sums.count * work.preprocess.stored**2 * 3)
        sets[work.name] = {
            "count": state.sums.count,
            "bad": state.bad,
            "psnr": 10 * math.log10(255**2 / error) if error else None,  # decibels, of the JPEGs to the stored forms
            "files": [
                {
                    "name": name,
                    "bytes": (work.out / name).stat().st_size,
                    "sha256": files.sha256(work.out / name, between=partial(_go_on, work.out)),
                }
                for name in names
            ],
        }
        if work.name == "train" and cache is not None:
            opened, _ = pack_parts(work.out, {**asked, "sets": sets})
            keep(opened, work.preprocess, state.sums, cache=cache)
    pack_parts(parts[0].out, {**asked, "sets": sets})  # what is going to be read can be
    return {**asked, "sets": sets}


def _go_on(out: Path) -> None:
    """Stopped, where a signal came."""
    if stop.requested():
        raise Stopped(f"{shown(str(out))}: stopped while packing; the same command goes on")


def _pack(work: _Work, state: _State, threads: int, progress: Callable[[int], None]) -> None:
    """Writes the blocks of a part that `state` has not, and gives the files that grew their names."""
    blocks = work.blocks()
    progress(sum(len(rows) for block in blocks[: state.blocks] for rows in block))
    left = [rows for block in blocks[state.blocks :] for rows in block]
    with closing(in_turn(partial(_make, work), left, work.samples, threads=threads)) as made:
        for number in range(state.blocks, len(blocks)):
            with files.growing(work.index, state.index) as index, _container(work, number, state.sums.count) as add:
                lines = [COLUMNS] if number == 0 else []
                for _ in blocks[number]:
                    _go_on(work.out)
                    some = next(made)
                    for row, content in some.good:
                        label = shown(work.samples.classes.keys[int(work.samples.label[row])])
                        file, offset = add(row, content)
                        lines.append((work.samples.key(row), label, file, str(offset), str(len(content))))
                    state.take(some)
                    progress(len(some.good) + len(some.bad))
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows(lines)
                index.write(text.getvalue().encode())
                state.index = index.tell()
            if work.form == "jpeg":
                state.tars.append(work.tar(number).stat().st_size)
            state.blocks = number + 1
            state.keep()
    for path in (work.index, work.array):
        files.finish(path)


def _make(work: _Work, rows: Iterable[int]) -> _Made:
    """The bytes that some rows become."""
    made = _Made()
    for row in rows:
        try:
            image = pixels(work.samples, row, work.preprocess)
        except BadImage as reason:
            if work.bad_images == "error":
                raise
            made.bad.append({"path": reason.path, "reason": reason.reason})
            continue
        if work.form == "raw":
            content = image.tobytes()
        else:
            import simplejpeg

            content = simplejpeg.encode_jpeg(image, quality=work.quality, colorspace="RGB", colorsubsampling="420")
            again = decode(content, work.samples.key(row), exif=False)
            made.squared_error += int(((again.astype(np.int32) - image) ** 2).sum())
            image = again
        made.sums.take(image)
        made.good.append((row, content))
    return made


@contextmanager
def _container(work: _Work, block: int, count: int) -> Iterator[Add]:
    """Adds pictures to a block's file, after `count` of earlier blocks: (row, bytes) -> (name, offset) of its place."""
    if work.form == "raw":
        side = work.preprocess.stored
        with files.growing(work.array, _end(count, side) if count else 0) as stream:
            if not count:
                stream.write(_header(0, side))

            def add(row: int, content: bytes) -> tuple[str, int]:
                nonlocal count
                count += 1
                offset = stream.tell()
                stream.write(content)
                return work.array.name, offset

            yield add
            stream.seek(0)
            stream.write(_header(count, side))
        return
    path = work.tar(block)
    with files.writing(path) as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:

        def member(row: int, content: bytes) -> tuple[str, int]:
            offset = tar.offset + tarfile.BLOCKSIZE
            for suffix, data in (("jpg", content), ("cls", str(work.samples.label[row]).encode())):
                header = tarfile.TarInfo(f"{row:08d}.{suffix}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
            return path.name, offset

        yield member


def _header(count: int, side: int) -> bytes:
    """What a .npy of `count` pictures begins with."""
    return files.array_header((count, side, side, 3), np.dtype(np.uint8))


def _end(count: int, side: int) -> int:
    """Where the pixels of `count` pictures end in a .npy."""
    return len(_header(0, side)) + count * side * side * 3
