"""A pack that `pack.py` wrote -> sample table; nothing that it says of itself is believed unseen."""

import csv
import hashlib
import io
import re
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import files
from ..errors import DataError
from .cache import DAMAGE
from .classes import Classes
from .decode import decode
from .preprocess import BEFORE, Shaping
from .samples import Samples, shown

SETS = ("train", "val")
SCHEMA = 1
PACK, BEGUN = "pack.json", ".pack.json"
COLUMNS = ("key", "class", "file", "offset", "size")
# Of what pack.json says, two at least: one of ours that was damaged has more, a file of another program has not.
OURS = {"schema", "form", "quality", *Shaping._fields, "fingerprint", "sets"}
MOST_INDEX = 1 << 31  # bytes; a line has about a hundred
TAR = re.compile(r"(train|val)-\d{5}\.tar")


def is_pack(folder: Path) -> bool:
    """Whether a folder is a pack, or one that was begun; another program's pack.json makes none of it."""
    if (folder / BEGUN).is_file():
        return True
    if not (folder / PACK).is_file():
        return False
    try:
        said = files.read_json(folder / PACK)
    except DataError:
        return True  # damaged, which whoever opens it is told
    return isinstance(said, dict) and len(OURS & set(said)) > 1


def is_part(path: Path) -> bool:
    """Whether a tar is one of a pack's, which says beside it what its pictures and their classes are."""
    return TAR.fullmatch(path.name) is not None and is_pack(path.parent)


def names_part(path: Path) -> bool:
    """Whether a path is PACK/train or PACK/val, a part of a pack by its name, where no file or folder is."""
    if path.name not in SETS:
        return False
    try:
        path.stat()
    except FileNotFoundError:
        return is_pack(path.parent)
    except (OSError, ValueError):
        pass  # which whoever opens it is told
    return False


def pack_part(path: Path) -> Samples:
    """The pictures of PACK/train or PACK/val. DataError: as `pack_sets`, or the pack has no such part."""
    train, val = pack_sets(path.parent)
    if path.name == "train":
        return train
    if val is None:
        raise DataError(f"{shown(str(path))}: the pack {shown(str(path.parent))} has no held-out part")
    return val


def pack_sets(folder: Path) -> tuple[Samples, Samples | None]:
    """(all, None) or (train, val) of a pack. DataError: unfinished, damaged, or of another schema."""
    if not (folder / PACK).is_file():
        raise DataError(
            f"{shown(str(folder))}: a pack that is not finished; the `alexnet data pack` that began it goes on"
        )
    return pack_parts(folder, files.read_json(folder / PACK))


def pack_parts(folder: Path, record: Any) -> tuple[Samples, Samples | None]:
    """The parts that a record of pack.json describes; DataError: a file of another length, or none such."""
    where = shown(str(folder / PACK))
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise DataError(f"{where}: not a pack of schema {SCHEMA}")
    shaping = Shaping._make((BEFORE | record).get(name) for name in Shaping._fields)
    sets = record.get("sets")
    if type(shaping.stored) is not int or shaping.stored < 1 or not isinstance(sets, dict) or set(sets) - set(SETS):
        raise DataError(f"{where}: stored, sets: not what a pack says there")
    classes = Classes.from_json(record.get("classes"), where)
    raw = record.get("form") == "raw"
    if "train" not in sets:
        raise DataError(f"{where}: sets: train is missing")
    found = [_part(folder, name, sets[name], classes, shaping, raw=raw) for name in SETS if name in sets]
    return found[0], found[1] if len(found) > 1 else None


def _part(folder: Path, name: str, said: Any, classes: Classes, shaping: Shaping, *, raw: bool) -> Samples:
    where = f"{shown(str(folder / PACK))}: sets: {name}"
    try:
        sizes = {str(one["name"]): int(one["bytes"]) for one in said["files"]}
        count = int(said["count"])
        digests = {str(one["name"]): str(one["sha256"]) for one in said["files"]}
        if not all(isinstance(one["path"], str) and isinstance(one["reason"], str) for one in said["bad"]):
            raise TypeError
        if not isinstance(said["psnr"], float | int | None):
            raise TypeError
    except (TypeError, KeyError, ValueError, OverflowError):
        raise DataError(f"{where}: not what a pack says there") from None
    containers = sorted(file for file in sizes if file != f"{name}.csv")
    known = re.compile(rf"{name}\.npy" if raw else rf"{name}-\d{{5}}\.tar")
    if (
        f"{name}.csv" not in sizes
        or (raw and len(containers) != 1)
        or not all(known.fullmatch(file) for file in containers)
    ):
        raise DataError(f"{where}: files: {shown(', '.join(sizes))}: not the files of a pack")
    for file, size in sizes.items():
        if not (folder / file).is_file() or (folder / file).stat().st_size != size:
            raise DataError(f"{shown(str(folder / file))}: missing, or not of {size} bytes, as the pack says")
    if sizes[f"{name}.csv"] > MOST_INDEX:
        raise DataError(f"{where}: an index of more than {MOST_INDEX:,} bytes")
    number = {file: index for index, file in enumerate(containers)}
    label = {shown(key): index for index, key in enumerate(classes.keys)}
    index = folder / f"{name}.csv"
    try:
        listed = index.read_bytes()
    except OSError as reason:
        raise DataError(f"{shown(str(index))}: {reason.strerror}") from None
    if hashlib.sha256(listed).hexdigest() != digests[index.name]:
        raise DataError(f"{shown(str(index))}: changed since it was packed")
    keys: list[str] = []
    columns = tuple(array("q") for _ in range(4))  # label, file, offset, size
    rows = csv.reader(io.StringIO(listed.decode("utf-8", "replace"), newline=""), strict=True)
    try:
        if tuple(next(rows, ())) != COLUMNS:
            raise ValueError
        for key, category, file, offset, size in rows:
            first, length = int(offset), int(size)
            if not 0 <= first <= first + length <= sizes[file] or "\0" in key:
                raise ValueError
            keys.append(key)
            for column, value in zip(columns, (label[category], number[file], first, length), strict=True):
                column.append(value)
    except (ValueError, KeyError, csv.Error):
        raise DataError(f"{shown(str(index))}: line {rows.line_num}: not what a pack's index says") from None
    if len(keys) != count or not count:
        raise DataError(f"{shown(str(index))}: {len(keys)} pictures, where the pack says {count}")
    labels, numbers, offsets, lengths = (np.frombuffer(column, np.int64) for column in columns)
    if raw:
        _check_rows(folder / containers[0], offsets, lengths, shaping.stored)
    return Samples.build(
        folder, keys, label=labels, classes=classes, file=numbers, offset=offsets, size=lengths,
        files=[folder / file for file in containers], raw=raw, shaping=shaping, content=" ".join(digests.values()),
    )  # fmt: skip


def _check_rows(path: Path, offsets: NDArray[np.int64], lengths: NDArray[np.int64], side: int) -> None:
    """DataError where an index does not list the rows of a .npy of uint8 (N, side, side, 3), one after another."""
    try:
        with path.open("rb") as stream:
            np.lib.format.read_magic(stream)
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
            start = stream.tell()
    except DAMAGE:
        raise DataError(f"{shown(str(path))}: not the array that a pack holds") from None
    row = side * side * 3
    if (shape, fortran_order, dtype) != ((len(offsets), side, side, 3), False, np.uint8) or not (
        (lengths == row).all() and (offsets == start + row * np.arange(len(offsets))).all()
    ):
        raise DataError(f"{shown(str(path))}: not the array that the pack's index lists")


def verify(folder: Path) -> int:
    """Reads every byte of a pack and decodes every JPEG; how many pictures it holds. DataError: what first is amiss."""
    record = files.read_json(folder / PACK)
    parts = pack_parts(folder, record)
    for said in record["sets"].values():
        for one in said["files"]:
            try:
                digest = files.sha256(folder / one["name"])
            except OSError as reason:
                raise DataError(f"{shown(str(folder / one['name']))}: {reason.strerror}") from None
            if digest != one["sha256"]:
                raise DataError(f"{shown(str(folder / one['name']))}: changed since it was packed")
    for samples in parts:
        for row in range(len(samples) if samples is not None and not samples.raw else 0):
            assert samples is not None
            name, side = shown(str(samples.path(row))), record["stored"]
            shape = decode(samples.read(row), name, exif=False).shape
            if shape != (side, side, 3):
                raise DataError(f"{name}: {shape[1]} x {shape[0]} pixels, expected {side} x {side}")
    return sum(len(samples) for samples in parts if samples is not None)
