"""Tar files -> sample table, read in place: headers are parsed, nothing is extracted.

The headers are parsed here and not by `tarfile`, which takes a damaged header for the end of the archive (the images
behind it would go missing in silence), can be made to loop for ever by one (CVE-2025-8194), and is too slow for the
1.28 million headers of ImageNet. A member's name is a label and a thing to print: it is never joined to a path.
"""

import os
import re
import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import normpath
from typing import NamedTuple

import numpy as np

from .. import stop
from ..errors import DataError, Stopped
from .classes import Classes
from .folders import is_image, is_junk
from .samples import LeftOut, Samples, shown

BLOCK = 512
ZEROS = bytes(BLOCK)
# A long name or a member's attributes; the 64 KiB are far more than any real path.
MOST_HEADER_BYTES = 65536
MOST_LABEL_BYTES = 4096
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
INTEGER = re.compile(r"\d{1,18}")


class Member(NamedTuple):
    """A regular file in a tar: its name and where its bytes lie in the file that holds the tar."""

    name: str
    offset: int
    size: int


@dataclass
class _Rows:
    """Members as columns, for of a million objects the memory is felt: name, place, the tar's number, the label."""

    names: list[str] = field(default_factory=list)
    offset: "array[int]" = field(default_factory=lambda: array("q"))
    size: "array[int]" = field(default_factory=lambda: array("q"))
    file: "array[int]" = field(default_factory=lambda: array("i"))
    labels: list[str] = field(default_factory=list)

    def put(self, member: Member, file: int, label: str = "") -> None:
        """One more."""
        self.names.append(member.name)
        self.offset.append(member.offset)
        self.size.append(member.size)
        self.file.append(file)
        self.labels.append(label)

    def member(self, row: int) -> Member:
        """A row as it was put in."""
        return Member(self.names[row], self.offset[row], self.size[row])


def is_tar(path: Path) -> bool:
    """Whether a file is a tar, or has a tar's suffix; a compressed one is a DataError."""
    try:
        with path.open("rb") as stream:
            head = stream.read(BLOCK)
    except OSError as reason:
        raise DataError(f"{shown(str(path))}: {reason.strerror}") from None
    for magic, kind in COMPRESSED.items():
        if head.startswith(magic):
            raise DataError(
                f"{shown(str(path))}: compressed ({kind}); images are read in place, so decompress it first"
            )
    return head[257:262] == b"ustar" or path.suffix.lower() == ".tar"


def members(path: Path, *, start: int = 0, end: int | None = None) -> Iterator[Member]:
    """Every regular member of the tar that lies at bytes `start` to `end` of `path`, in its order.

    DataError, naming tar and member: a tar cut short or damaged; a link, device or sparse member; a name that is
    absolute or climbs with `..`. Stopped: a signal has asked for the end.
    """
    where = shown(str(path))
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as reason:
        raise DataError(f"{where}: {reason.strerror}") from None
    try:
        yield from _members(handle, where, start, os.fstat(handle).st_size if end is None else end)
    except OSError as reason:
        raise DataError(f"{where}: {reason.strerror}") from None
    finally:
        os.close(handle)


def _members(handle: int, where: str, position: int, end: int) -> Iterator[Member]:
    long_name: bytes | None = None
    attributes: dict[bytes, bytes] = {}
    while True:
        if stop.requested():
            raise Stopped(f"stopped while {where} was opened; the same command opens it again")
        block = os.pread(handle, BLOCK, position) if position + BLOCK <= end else b""
        if block == ZEROS:
            return
        if len(block) < BLOCK:
            raise DataError(f"{where}: the tar is cut short (it breaks off at byte {end} without its end mark)")
        kind = block[156:157]
        try:
            if int(block[148:156].strip(b" \0"), 8) != _sum(block) - sum(block[148:156]) + 8 * ord(" "):
                raise ValueError
            size = (
                int(attributes[b"size"]) if b"size" in attributes and kind not in b"xgLK" else _number(block[124:136])
            )
        except ValueError:
            raise DataError(f"{where}: not a tar, or a damaged one (no header at byte {position})") from None
        data = position + BLOCK
        position = data + -(-size // BLOCK) * BLOCK
        if size < 0 or data + size > end:
            raise DataError(f"{where}: the tar is cut short ({_text(block[:100])} goes beyond byte {end})")
        if kind in b"xgLK":
            if size > MOST_HEADER_BYTES:
                raise DataError(f"{where}: a header of {size} bytes at byte {data - BLOCK}")
            if kind == b"L":
                long_name = os.pread(handle, size, data)
            elif kind == b"x":
                attributes = _attributes(os.pread(handle, size, data), where)
            continue
        name = _name(block, long_name, attributes)
        sparse = bool(attributes) and any(key.startswith(b"GNU.sparse") for key in attributes)
        long_name = None
        attributes = {}
        if kind == b"5" or (kind == b"\0" and name.endswith("/")):
            continue
        if kind == b"S" or sparse:
            raise DataError(f"{where}: member {shown(name)}: a sparse file; pack the tar without --sparse")
        if kind not in (b"0", b"\0", b"7"):
            what = {b"1": "a hard link", b"2": "a symbolic link"}.get(kind, f"not a regular file (type {kind!r})")
            raise DataError(
                f"{where}: member {shown(name)}: {what}; only regular files are read "
                "(tar --dereference --hard-dereference)"
            )
        if name.startswith("/") or (".." in name and ".." in name.split("/")) or not name:
            raise DataError(f"{where}: member {shown(name)}: an absolute name, or one that climbs out with '..'")
        # `./a//b` is `a/b`; most names need no rewriting, and there may be a million.
        yield Member(normpath(name) if name.startswith("./") or "//" in name or "/./" in name else name, data, size)


def _sum(block: bytes) -> int:
    """The sum of 512 bytes: of each half in the low 16 bits of Adler-32, which start at 1 and wrap at 65521."""
    half = BLOCK // 2
    return (zlib.adler32(block[:half]) & 0xFFFF) + (zlib.adler32(block[half:]) & 0xFFFF) - 2


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: a size of 8 GiB and more, in base 256
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _text(field: bytes) -> str:
    return shown(os.fsdecode(field.split(b"\0")[0]))


def _name(block: bytes, long_name: bytes | None, attributes: dict[bytes, bytes]) -> str:
    if b"path" in attributes:
        return os.fsdecode(attributes[b"path"])
    if long_name is not None:
        return os.fsdecode(long_name.split(b"\0")[0])
    name, prefix = block[:100].partition(b"\0")[0], block[345:500].partition(b"\0")[0]
    # GNU tar keeps times where POSIX keeps the prefix; the magic's sixth byte tells them apart.
    return os.fsdecode(prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name)


def _attributes(records: bytes, where: str) -> dict[bytes, bytes]:
    """A POSIX extended header's records, each `LENGTH KEY=VALUE\\n` with the length of the whole."""
    found = {}
    while records.strip(b"\0"):
        digits, _, rest = records.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        key, equals, value = rest[: max(length - len(digits) - 1, 0)].partition(b"=")
        if not equals or length > len(records) or not value.endswith(b"\n"):
            raise DataError(f"{where}: a damaged extended header")
        found[key] = value[:-1]
        records = records[length:]
    return found


def image_members(path: Path, ignored: LeftOut, *, start: int = 0, end: int | None = None) -> list[Member]:
    """The members of a tar that are images by name, sorted by folder, then by name; the others are put into `ignored`.

    DataError: as `members`, and a name that stands twice.
    """
    rows = _Rows()
    for member in members(path, start=start, end=end):
        rows.put(member, 0)
    images = _images(path, rows, ignored)
    return [rows.member(row) for row in sorted(images, key=lambda row: rows.names[row].rpartition("/"))]


def _images(path: Path, rows: _Rows, ignored: LeftOut) -> list[int]:
    """The rows that are images by name, each name once."""
    images = []
    for row, name in enumerate(rows.names):
        if any(map(is_junk, name.split("/"))):
            ignored.put("hidden or junk", f"{path.name}/{name}")
        elif not is_image(name):
            ignored.put("not an image by its suffix", f"{path.name}/{name}")
        else:
            images.append(row)
    if len({rows.names[row] for row in images}) < len(images):
        name = next(name for name, count in Counter(rows.names[row] for row in images).items() if count > 1)
        raise DataError(f"{shown(str(path))}: member {shown(name)} stands twice in it")
    return images


def tar_sets(paths: Sequence[Path], splits: Sequence[str]) -> tuple[Samples, Samples | None]:
    """The images of one tar or of its shards: (all, None), or (train, val) where it holds `train/` and one of `splits`.

    Members are `class/…/image` files, perhaps under one folder common to all, or WebDataset pairs `key.jpg`, `key.cls`
    with a class name or number. DataError: neither of the two, and as `members`.
    """
    ignored = LeftOut()
    labelled, rows = _Rows(), _Rows()
    for file, path in enumerate(paths):
        found = _Rows()
        for member in members(path):
            found.put(member, file)
        if any(name.endswith(".cls") for name in found.names):
            _webdataset(path, found, ignored, labelled)
        else:
            for row in _images(path, found, ignored):
                rows.put(found.member(row), file)
        del found
    if labelled.names and rows.names:
        raise DataError(f"{shown(str(paths[0].parent))}: some tars hold .cls labels and others do not")
    if labelled.names:
        return _table(paths, labelled, range(len(labelled.names)), ignored, numbered=True), None
    if not rows.names:
        raise DataError(f"{_named(paths)}: no images in it")
    # One folder around everything is packing, not a class, unless no class folder would be left.
    one = len({name.partition("/")[0] for name in rows.names}) == 1
    skip = 1 if one and all(name.count("/") > 1 for name in rows.names) else 0
    tops = [sys.intern(_folder(name, skip)) for name in rows.names]
    there = set(tops)
    val = next((name for name in splits if name in there), None)
    if "train" not in there or val is None:
        return _table(paths, rows, _by_folder(rows, range(len(tops)), skip, paths), ignored), None
    train_rows, val_rows = ([row for row, top in enumerate(tops) if top == name] for name in ("train", val))
    for row, top in enumerate(tops):
        if top not in ("train", val):
            ignored.put("outside train/ and val/", f"{paths[rows.file[row]].name}/{rows.names[row]}")
    train = _table(paths, rows, _by_folder(rows, train_rows, skip + 1, paths), ignored)
    return train, _table(paths, rows, _by_folder(rows, val_rows, skip + 1, paths), LeftOut())


def _folder(name: str, depth: int) -> str:
    """The folder at a depth of a name: of `set/cat/1.jpg`, `cat` at 1."""
    return name.split("/", depth + 1)[depth]


def _by_folder(rows: _Rows, chosen: Sequence[int], depth: int, paths: Sequence[Path]) -> list[int]:
    """The chosen rows, sorted by their class, which is the folder at `depth`, then by folder and name."""
    for row in chosen:
        name = rows.names[row]
        if name.count("/") < depth + 1:
            where = shown(str(paths[rows.file[row]]))
            raise DataError(f"{where}: member {shown(name)} lies in no class folder and has no .cls label")
        rows.labels[row] = sys.intern(_folder(name, depth))

    def place(row: int) -> str:
        folder, _, base = rows.names[row].rpartition("/")
        return f"{rows.labels[row]}\0{folder}\0{base}"  # one text of each row, where a tuple would be five objects

    return sorted(chosen, key=place)


def _webdataset(path: Path, found: _Rows, ignored: LeftOut, labelled: _Rows) -> None:
    """Puts the images of a tar of WebDataset members into `labelled`, in its order."""
    images: dict[str, int] = {}
    for row, name in enumerate(found.names):
        key, extension = _key(name)
        if extension == "cls":
            continue
        if is_junk(name.rpartition("/")[2]) or not is_image(f".{extension}") or "." in extension:
            ignored.put("neither an image nor a .cls label", f"{path.name}/{name}")
        elif key in images:
            raise DataError(
                f"{shown(str(path))}: members {shown(found.names[images[key]])} and {shown(name)}: one image a key"
            )
        else:
            images[key] = row
    has_label = bytearray(len(found.names))
    for row, name in enumerate(found.names):
        key, extension = _key(name)
        if extension == "cls":
            label = sys.intern(_label(path, found.member(row)))
            if key in images:
                found.labels[images[key]] = label
                has_label[images[key]] = True
    for row in images.values():
        if not has_label[row]:
            raise DataError(f"{shown(str(path))}: member {shown(found.names[row])} has no .cls label beside it")
        labelled.put(found.member(row), found.file[row], found.labels[row])


def _key(name: str) -> tuple[str, str]:
    """A WebDataset key, which ends at the first dot behind the folder, and what follows."""
    folder, base = os.path.split(name)
    stem, _, extension = base.partition(".")
    return f"{folder}/{stem}", extension


def _label(path: Path, member: Member) -> str:
    if member.size > MOST_LABEL_BYTES:
        raise DataError(f"{shown(str(path))}: member {shown(member.name)}: {member.size} bytes for a label")
    with path.open("rb") as stream:
        stream.seek(member.offset)
        return os.fsdecode(stream.read(member.size)).strip()


def in_order(keys: Collection[str], *, numbered: bool) -> tuple[dict[str, str], list[str]]:
    """(label as written -> class key, the keys in label order).

    Text is sorted as text. Where labels, not folders, name the classes (`numbered`) and all are integers, they are
    sorted as integers: 2 before 10, and "02" is 2.
    """
    if numbered and all(INTEGER.fullmatch(key) for key in keys):
        key_of = {key: str(int(key)) for key in keys}
        return key_of, sorted(set(key_of.values()), key=int)
    return {key: key for key in keys}, sorted(keys)


def _table(
    paths: Sequence[Path], rows: _Rows, chosen: Sequence[int], ignored: LeftOut, *, numbered: bool = False
) -> Samples:
    """The table of the chosen rows, in this order."""
    key_of, keys = in_order({rows.labels[row] for row in chosen}, numbered=numbered)
    label = {key: index for index, key in enumerate(keys)}
    order = np.array(chosen, np.int64)
    return Samples.build(
        paths[0].parent,
        (rows.names[row] for row in chosen),
        label=np.fromiter((label[key_of[rows.labels[row]]] for row in chosen), np.int64, len(order)),
        classes=Classes.of(keys, _named(paths)),
        size=np.array(rows.size, np.int64)[order],
        files=paths,
        file=np.array(rows.file, np.int32)[order],
        offset=np.array(rows.offset, np.int64)[order],
        ignored=ignored,
    )


def _named(paths: Sequence[Path]) -> str:
    return shown(str(paths[0] if len(paths) == 1 else paths[0].parent))
