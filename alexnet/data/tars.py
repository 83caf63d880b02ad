"""Tar files -> sample table, read in place: headers are parsed, nothing is extracted.

The headers are parsed here and not by `tarfile`, which takes a damaged header for the end of the archive (the images
behind it would go missing in silence), can be made to loop for ever by one (CVE-2025-8194), and is too slow for the
1.28 million headers of ImageNet. A member's name is a label and a thing to print: it is never joined to a path.
"""

import os
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from posixpath import normpath
from typing import NamedTuple

from ..errors import DataError
from .classes import Classes
from .folders import is_image, is_junk
from .samples import Samples, shown

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


class Entry(NamedTuple):
    """A labelled image of a tar: the tar's place in the list of files, its member, its class key."""

    file: int
    member: Member
    key: str


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
    absolute or climbs with `..`.
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


def image_members(path: Path, ignored: Counter[str], *, start: int = 0, end: int | None = None) -> list[Member]:
    """The members of a tar that are images by name, sorted by folder, then by name; the others are counted.

    DataError: as `members`, and a name that stands twice.
    """
    return _images(path, members(path, start=start, end=end), ignored)


def _images(path: Path, found: Iterable[Member], ignored: Counter[str]) -> list[Member]:
    images = []
    for member in found:
        if any(map(is_junk, member.name.split("/"))):
            ignored["hidden or junk"] += 1
        elif not is_image(member.name):
            ignored["not an image by its suffix"] += 1
        else:
            images.append(member)
    images.sort(key=lambda member: member.name.rpartition("/"))
    for before, after in pairwise(images):
        if before.name == after.name:
            raise DataError(f"{shown(str(path))}: member {shown(after.name)} stands twice in it")
    return images


def tar_sets(paths: Sequence[Path], splits: Sequence[str]) -> tuple[Samples, Samples | None]:
    """The images of one tar or of its shards: (all, None), or (train, val) where it holds `train/` and one of `splits`.

    Members are `class/…/image` files, perhaps under one folder common to all, or WebDataset pairs `key.jpg`, `key.cls`
    with a class name or number. DataError: neither of the two, and as `members`.
    """
    ignored: Counter[str] = Counter()
    entries: list[Entry] = []
    folders: list[tuple[int, Member]] = []
    for file, path in enumerate(paths):
        found = list(members(path))
        if any(member.name.endswith(".cls") for member in found):
            entries += _webdataset(file, path, found, ignored)
        else:
            folders += [(file, member) for member in _images(path, found, ignored)]
    if entries and folders:
        raise DataError(f"{shown(str(paths[0].parent))}: some tars hold .cls labels and others do not")
    if entries:
        return _table(paths, entries, ignored, numbered=True), None
    parts = [tuple(member.name.split("/")) for _, member in folders]
    if not parts:
        raise DataError(f"{_named(paths)}: no images in it")
    # One folder around everything is packing, not a class, unless no class folder would be left.
    skip = 1 if len({part[0] for part in parts}) == 1 and all(len(part) > 2 for part in parts) else 0
    tops = {part[skip] for part in parts}
    val = next((name for name in splits if name in tops), None)
    if "train" not in tops or val is None:
        return _table(paths, _by_folder(folders, parts, skip, paths), ignored), None
    train_rows, val_rows = ([row for row, part in enumerate(parts) if part[skip] == name] for name in ("train", val))
    ignored["outside train/ and val/"] += len(parts) - len(train_rows) - len(val_rows)
    train, held_out = (
        _table(paths, _by_folder([folders[r] for r in rows], [parts[r] for r in rows], skip + 1, paths), ignored)
        for rows in (train_rows, val_rows)
    )
    return train, held_out


def _by_folder(
    folders: list[tuple[int, Member]], parts: list[tuple[str, ...]], skip: int, paths: Sequence[Path]
) -> list[Entry]:
    entries = []
    for (file, member), part in zip(folders, parts, strict=True):
        if len(part) < skip + 2:
            raise DataError(
                f"{shown(str(paths[file]))}: member {shown(member.name)} lies in no class folder and has no .cls label"
            )
        entries.append(Entry(file, member, part[skip]))
    return sorted(entries, key=lambda entry: (entry.key, entry.member.name.rpartition("/")))


def _webdataset(file: int, path: Path, found: list[Member], ignored: Counter[str]) -> list[Entry]:
    labels: dict[str, str] = {}
    images: dict[str, Member] = {}
    for member in found:
        folder, base = os.path.split(member.name)
        stem, _, extension = base.partition(".")  # a WebDataset key ends at its first dot
        key = f"{folder}/{stem}"
        if extension == "cls":
            labels[key] = _label(path, member)
        elif is_junk(base) or not is_image(f".{extension}") or "." in extension:
            ignored["neither an image nor a .cls label"] += 1
        elif key in images:
            raise DataError(
                f"{shown(str(path))}: members {shown(images[key].name)} and {shown(member.name)}: one image a key"
            )
        else:
            images[key] = member
    for key, member in images.items():
        if key not in labels:
            raise DataError(f"{shown(str(path))}: member {shown(member.name)} has no .cls label beside it")
    return [Entry(file, member, labels[key]) for key, member in images.items()]


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


def _table(paths: Sequence[Path], entries: list[Entry], ignored: Counter[str], *, numbered: bool = False) -> Samples:
    key_of, keys = in_order({entry.key for entry in entries}, numbered=numbered)
    label = {key: index for index, key in enumerate(keys)}
    return Samples.build(
        paths[0].parent,
        [entry.member.name for entry in entries],
        label=[label[key_of[entry.key]] for entry in entries],
        classes=Classes.of(keys, _named(paths)),
        size=[entry.member.size for entry in entries],
        files=paths,
        file=[entry.file for entry in entries],
        offset=[entry.member.offset for entry in entries],
        ignored=ignored,
    )


def _named(paths: Sequence[Path]) -> str:
    return shown(str(paths[0] if len(paths) == 1 else paths[0].parent))
