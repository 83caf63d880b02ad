"""A data set as a pack: its stored forms in a few large files, read several times as fast as the pictures themselves.

    pack.json   what it is, its classes, and the size and SHA-256 of each file
    train.csv   val.csv: path, label, file, offset, size of each picture, in the order of the source
    train-00000.tar …   form "jpeg": JPEG members, class/name.jpg, which any reader of WebDataset opens
    train.npy           form "raw": uint8 (N, S, S, 3), a row a picture

Each file appears by one rename when it is whole, pack.json last; the same command goes on where it was.
"""

import csv
import io
import math
import re
import tarfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .. import files, stop
from ..errors import BadImage, DataError, Stopped, UsageError
from .classes import Classes
from .decode import decode
from .loader import BadImages, pixels
from .preprocess import Preprocess
from .samples import Samples, shown
from .stats import Sums, keep
from .tars import members

Form = Literal["jpeg", "raw"]
SETS = ("train", "val")
BLOCK = 1024  # pictures a tar, and a step of a raw file
SCHEMA = 1
PACK, BEGUN = "pack.json", ".pack.json"
FILE = re.compile(r"(train|val)(-\d{5}\.tar|\.npy)")
COLUMNS = ("path", "label", "file", "offset", "size")

Image = NDArray[np.uint8]


@dataclass
class _Block:
    """What became of some rows: lines of the index, sums over the pictures as the pack gives them, the bad ones."""

    lines: list[tuple[str, str, str, int, int]] = field(default_factory=list)
    bad: list[dict[str, str]] = field(default_factory=list)
    sums: Sums = field(default_factory=Sums)
    squared_error: int = 0


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

    def path(self, block: int) -> Path:
        """The file that a block's pictures are in."""
        return self.out / (f"{self.name}.npy" if self.form == "raw" else f"{self.name}-{block:05d}.tar")

    def rows(self, block: int) -> range:
        """The rows of a block."""
        return range(block * BLOCK, min((block + 1) * BLOCK, len(self.samples)))

    def member(self, row: int) -> str:
        """A picture's name in the pack: in its class's folder, with the suffix of what it is there."""
        name, key = self.samples.name(row), self.key(row)
        name = name if name.startswith(f"{key}/") else f"{key}/{name}"
        return name if self.form == "raw" or name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg"

    def key(self, row: int) -> str:
        """Its class's key."""
        return self.samples.classes.keys[int(self.samples.label[row])]

    def image(self, row: int, block: _Block) -> Image | None:
        """The stored form of a row; None where it cannot be had and is to be left out."""
        if stop.requested():
            raise Stopped(f"{self.out}: stopped while packing; the same command goes on")
        try:
            return pixels(self.samples, row, self.preprocess)
        except BadImage as reason:
            if self.bad_images == "error":
                raise
            block.bad.append({"path": reason.path, "reason": reason.reason})
            return None


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
    no training measures them again. UsageError: `out` holds something else, or a pack of other pictures or another
    form. BadImage: the first bad picture, unless `bad_images` is "skip". Stopped: a signal came.
    """
    if form not in get_args(Form):
        raise UsageError(f"--form {form}: unknown; known are {', '.join(get_args(Form))}")
    if not 1 <= quality <= 100:
        raise UsageError(f"--quality {quality}: must be in 1..100")
    asked = {
        "schema": SCHEMA, "form": form, "quality": quality if form == "jpeg" else None, "stored": preprocess.stored,
        "resize": preprocess.resize, "filter": preprocess.filter, "exif": preprocess.exif, "source": source,
        "fingerprint": fingerprint, "classes": train.classes.to_json(),
    }  # fmt: skip
    if (out / PACK).exists():
        return _same(asked, out / PACK)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (out / BEGUN).exists():
            _same(asked, out / BEGUN)
        elif any(out.iterdir()):
            raise UsageError(f"{shown(str(out))}: not empty, and no pack that was begun; name another folder")
        files.write_json(out / BEGUN, asked)
        sets: dict[str, Any] = {}
        for name, samples in zip(SETS, (train, val), strict=True):
            if samples is not None:
                work = _Work(name, samples, preprocess, out, form, quality, bad_images)
                sets[name], sums = _packed(work, threads, progress)
                if name == "train" and cache is not None:
                    opened, _ = pack_parts(out, {**asked, "sets": sets})
                    keep(opened, preprocess, sums, cache=cache)
        files.write_json(out / PACK, {**asked, "sets": sets})
        for path in (*out.glob(".*.done"), out / BEGUN):
            path.unlink()
    except OSError as reason:
        raise UsageError(f"{shown(str(out))}: cannot be written ({reason.strerror})") from None
    return {**asked, "sets": sets}


def _same(asked: dict[str, Any], path: Path) -> dict[str, Any]:
    """The record at `path`, which must say what is asked."""
    there = files.read_json(path)
    for name, value in asked.items():
        if name != "source" and there.get(name) != value:
            what = "other pictures" if name in ("fingerprint", "classes") else f"{name} {there.get(name)}"
            raise UsageError(f"{shown(str(path.parent))}: a pack of {what}; name another folder")
    return there


def _packed(work: _Work, threads: int, progress: Callable[[int], None]) -> tuple[dict[str, Any], Sums]:
    """One part: its files, then its index. What pack.json says of it, and the sums of its pictures."""
    done = _Done(work.out / f".{work.name}.done")
    writer = _Raw(work, done) if work.form == "raw" else _Tars(work, done)
    blocks: list[_Block] = []
    pool = ThreadPoolExecutor(threads, thread_name_prefix="pack")
    try:
        waiting = [pool.submit(writer.block, number) for number in range(math.ceil(len(work.samples) / BLOCK))]
        for number, future in enumerate(waiting):
            blocks.append(future.result())
            progress(len(work.rows(number)))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    writer.finish()
    total = _Block()
    for block in blocks:
        total.lines += block.lines
        total.bad += block.bad
        total.sums.add(block.sums)
        total.squared_error += block.squared_error
    if not total.lines:
        raise DataError(f"{work.samples.root}: none of {len(work.samples)} pictures can be packed")
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *total.lines])
    files.write(work.out / f"{work.name}.csv", stream.getvalue().encode("utf-8", "surrogateescape"))
    names = sorted({line[2] for line in total.lines} | {f"{work.name}.csv"})
    side = work.preprocess.stored
    error = total.squared_error / (len(total.lines) * side * side * 3)
    return {
        "count": len(total.lines),
        "bad": total.bad,
        "psnr": 10 * math.log10(255**2 / error) if error else None,  # decibels, of the JPEG against the stored form
        "files": [{"name": name, **_digest(work.out / name)} for name in names],
    }, total.sums


def _digest(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}


class _Done:
    """Which blocks are whole, and what was met when they were made: kept in a file beside them until the pack is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.blocks: dict[str, Any] = files.read_json(path) if path.exists() else {}

    def recall(self, number: int, block: _Block) -> bool:
        """Whether a block is whole; what was met goes into `block`."""
        known = self.blocks.get(str(number))
        if known is not None:
            block.bad, block.squared_error = list(known["bad"]), known["squared_error"]
        return known is not None

    def add(self, number: int, block: _Block) -> None:
        """Remembers a block that is on disk."""
        with self.lock:
            self.blocks[str(number)] = {"bad": block.bad, "squared_error": block.squared_error}
            files.write_json(self.path, self.blocks)


class _Tars:
    """Tars of JPEGs, one a block."""

    def __init__(self, work: _Work, done: _Done) -> None:
        self.work, self.done = work, done

    def block(self, number: int) -> _Block:
        """One tar: written, or read where it is there already."""
        work, block, path = self.work, _Block(), self.work.path(number)
        if self.done.recall(number, block):
            there = {member.name: member for member in members(path)} if path.exists() else {}
            for row in work.rows(number):
                member = there.get(work.member(row))
                if member is not None:
                    with path.open("rb") as packed:
                        packed.seek(member.offset)
                        block.sums.take(decode(packed.read(member.size), member.name, exif=False))
                    block.lines.append((member.name, work.key(row), path.name, member.offset, member.size))
            return block
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for row in work.rows(number):
                image = work.image(row, block)
                if image is not None:
                    self._add(tar, row, image, block, path.name)
        if block.lines:
            files.write(path, stream.getvalue())
        self.done.add(number, block)
        return block

    def _add(self, tar: tarfile.TarFile, row: int, image: Image, block: _Block, file: str) -> None:
        import simplejpeg

        name = self.work.member(row)
        encoded = simplejpeg.encode_jpeg(image, quality=self.work.quality, colorspace="RGB", colorsubsampling="420")
        member = tarfile.TarInfo(name)
        member.size = len(encoded)
        tar.addfile(member, io.BytesIO(encoded))
        again = decode(encoded, name, exif=False)
        block.squared_error += int(((again.astype(np.int32) - image) ** 2).sum())
        block.sums.take(again)
        start = tar.offset - -(-len(encoded) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        block.lines.append((name, self.work.key(row), file, start, len(encoded)))

    def finish(self) -> None:
        """Each tar has its name already."""


class _Raw:
    """One array of a whole part, filled by blocks under another name."""

    def __init__(self, work: _Work, done: _Done) -> None:
        side = work.preprocess.stored
        self.work, self.done = work, done
        self.path = work.path(0)
        self.growing = work.out / f".{self.path.name}.tmp"
        self.finished = self.path.exists()
        if not self.finished and not done.blocks:
            shape = (len(work.samples), side, side, 3)
            np.lib.format.open_memmap(self.growing, mode="w+", dtype=np.uint8, shape=shape).flush()
        where = self.path if self.finished else self.growing
        self.array = np.lib.format.open_memmap(where, mode="r" if self.finished else "r+")

    def block(self, number: int) -> _Block:
        """Some rows: decoded, or read where they are there already."""
        work, block, size = self.work, _Block(), self.array[0].nbytes
        there = self.done.recall(number, block)
        bad = {one["path"] for one in block.bad}
        for row in work.rows(number):
            if there and shown(str(work.samples.path(row))) in bad:
                continue
            if not there:
                image = work.image(row, block)
                if image is None:
                    continue
                self.array[row] = image
            block.sums.take(self.array[row])
            block.lines.append((work.member(row), work.key(row), self.path.name, self.array.offset + row * size, size))
        if not there:
            self.array.flush()
            self.done.add(number, block)
        return block

    def finish(self) -> None:
        """Gives the array its name."""
        if not self.finished:
            files.sync_file(self.growing)
            self.growing.rename(self.path)
            files.sync_folder(self.path.parent)


def is_pack(folder: Path) -> bool:
    """Whether a folder is a pack, or one that was begun."""
    return (folder / PACK).is_file() or (folder / BEGUN).is_file()


def pack_sets(folder: Path) -> tuple[Samples, Samples | None]:
    """(all, None) or (train, val) of a pack. DataError: unfinished, damaged, or of another schema."""
    if not (folder / PACK).is_file():
        raise DataError(
            f"{shown(str(folder))}: a pack that is not finished; the `alexnet data pack` that began it goes on"
        )
    return pack_parts(folder, files.read_json(folder / PACK))


def pack_parts(folder: Path, record: Any) -> tuple[Samples, Samples | None]:
    """The parts that a record of pack.json describes."""
    where = shown(str(folder / PACK))
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise DataError(f"{where}: not a pack of schema {SCHEMA}")
    stored, sets = record.get("stored"), record.get("sets")
    if type(stored) is not int or stored < 1 or not isinstance(sets, dict) or "train" not in sets:
        raise DataError(f"{where}: stored, sets: not what a pack says there")
    classes = Classes.from_json(record.get("classes"), where)
    found = [
        _part(folder, name, sets[name], classes, stored, raw=record.get("form") == "raw")
        for name in SETS
        if name in sets
    ]
    return found[0], found[1] if len(found) > 1 else None


def _part(folder: Path, name: str, said: Any, classes: Classes, stored: int, *, raw: bool) -> Samples:
    where = shown(str(folder / PACK))
    try:
        sizes = {str(one["name"]): int(one["bytes"]) for one in said["files"]}
        count = int(said["count"])
    except (TypeError, KeyError, ValueError):
        raise DataError(f"{where}: sets: {name}: not what a pack says there") from None
    for file, size in sizes.items():
        if file != f"{name}.csv" and not FILE.fullmatch(file):
            raise DataError(f"{where}: sets: {name}: {file!r} is no file of a pack")
        if not (folder / file).is_file() or (folder / file).stat().st_size != size:
            raise DataError(f"{shown(str(folder / file))}: missing, or not of {size} bytes, as the pack says")
    containers = sorted(file for file in sizes if file != f"{name}.csv")
    number = {file: index for index, file in enumerate(containers)}
    label = {key: index for index, key in enumerate(classes.keys)}
    index = folder / f"{name}.csv"
    rows = csv.reader(index.read_bytes().decode("utf-8", "surrogateescape").splitlines(keepends=True), strict=True)
    names: list[str] = []
    columns: list[tuple[int, int, int, int]] = []
    try:
        if tuple(next(rows, ())) != COLUMNS:
            raise ValueError
        for path, key, file, offset, size in rows:
            names.append(path)
            columns.append((label[key], number[file], int(offset), int(size)))
            if not 0 <= columns[-1][2] <= columns[-1][2] + columns[-1][3] <= sizes[file]:
                raise ValueError
    except (ValueError, KeyError, csv.Error):
        raise DataError(f"{shown(str(index))}: line {rows.line_num}: not what a pack's index says") from None
    if len(names) != count:
        raise DataError(f"{shown(str(index))}: {len(names)} of {count} pictures")
    table = np.array(columns, np.int64).reshape(-1, 4)
    return Samples.build(
        folder, names, label=table[:, 0], classes=classes, file=table[:, 1], offset=table[:, 2], size=table[:, 3],
        files=[folder / file for file in containers], raw=stored if raw else 0, stored=stored,
    )  # fmt: skip


def verify(folder: Path) -> int:
    """Reads every byte of a pack and decodes every picture; returns how many. DataError: the first thing amiss."""
    record = files.read_json(folder / PACK)
    parts: Sequence[Samples | None] = pack_parts(folder, record)
    for said in record["sets"].values():
        for one in said["files"]:
            if _digest(folder / one["name"]) != {"bytes": one["bytes"], "sha256": one["sha256"]}:
                raise DataError(f"{shown(str(folder / one['name']))}: changed since it was packed")
    count = 0
    for samples in parts:
        for row in range(len(samples) if samples is not None else 0):
            assert samples is not None
            name = shown(str(samples.path(row)))
            image = decode(samples.read(row), name, exif=False) if not samples.raw else None
            if image is not None and image.shape != (samples.stored, samples.stored, 3):
                raise DataError(f"{name}: {image.shape[1]} x {image.shape[0]} pixels, expected {samples.stored}")
            count += 1
    return count
