"""The sample table: where each image's bytes lie, and its label. Every source of images becomes one of these."""

import dataclasses
import errno
import hashlib
import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from ..errors import BadImage, DataError, TooLarge
from ..files import regular
from .classes import Classes
from .preprocess import Preprocess, Shaping

UNLABELLED = -1
OWN_FILE = -1
MOST_NAMES = 100
MOST_BYTES = 1 << 30  # of a picture's file: 200 million pixels without any compression have 0.6 to 1.2 GB


def shown(name: str) -> str:
    """`name` as text safe to print and to put into JSON; one to one, so it still identifies the image.

    A file name may hold any byte: what is not printable, and the backslash, is escaped as Python writes it.
    """
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in name)


class LeftOut(Counter[str]):
    """What a source holds and the table does not: a count for each reason, and in `names` the first of each reason."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, list[str]] = {}

    def put(self, reason: str, name: str) -> None:
        """One more, of this name."""
        self[reason] += 1
        names = self.names.setdefault(reason, [])
        if len(names) < MOST_NAMES:
            names.append(name)


class _Containers:
    """Descriptors of container files, each opened once, at first use, and shared by all threads and subsets."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._handles: dict[int, int] = {}
        self._stale: list[int] = []  # open until the end: another thread may be reading from it
        self._lock = threading.Lock()

    def handle(self, index: int) -> int:
        with self._lock:
            if index not in self._handles:
                try:
                    self._handles[index], _ = regular(self._paths[index])
                except OSError as reason:
                    raise DataError(f"{shown(str(self._paths[index]))}: {reason.strerror}") from None
            return self._handles[index]

    def pread(self, index: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes at `offset`; of a file that a network's disk calls stale, from a new descriptor, once."""
        handle = self.handle(index)
        try:
            return _pread(handle, size, offset)
        except OSError as reason:
            if reason.errno != errno.ESTALE:
                raise
        with self._lock:
            if self._handles.get(index) == handle:  # the first of the threads that have met it
                del self._handles[index]
                self._stale.append(handle)
        return _pread(self.handle(index), size, offset)

    def __del__(self) -> None:
        for handle in (*self._handles.values(), *self._stale):
            os.close(handle)


@dataclass(frozen=True, eq=False, slots=True)
class Samples:
    """One row an image, as numpy columns of the same length; 36 bytes a row and the names.

    `file`: int32, which of `files` holds the bytes at `offset` (int64) for `size` (int64) bytes; -1: the image is the
    file `root / name` itself, `size` bytes long, or of unknown size (-1). `label`: int64, an index into `classes`, or
    -1 for none. `raw`: whether the bytes are S*S*3 pixels, uint8, row by row, RGB, and no encoded picture.
    `shaping`: what made the pictures the stored forms that they are (a pack's), None where they are as they were taken.
    `content`: tells apart what the same columns may describe (a raw pack's pixels), empty where sizes and names do.
    `ignored`: what the source held and the table does not, a count and some names for each reason.
    """

    root: Path
    files: tuple[Path, ...]
    file: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    label: np.ndarray
    classes: Classes
    raw: bool
    shaping: Shaping | None
    content: str
    # Names are NUL-terminated in one blob, row r's beginning at name_at[r]; a container's name is not repeated in it.
    names: bytes
    name_at: np.ndarray
    containers: _Containers
    ignored: LeftOut

    @classmethod
    def build(
        cls,
        root: Path,
        names: Iterable[str],
        *,
        label: Sequence[int] | np.ndarray,
        classes: Classes,
        size: Sequence[int] | np.ndarray,
        files: Sequence[Path] = (),
        file: Sequence[int] | np.ndarray | None = None,
        offset: Sequence[int] | np.ndarray | None = None,
        raw: bool = False,
        shaping: Shaping | None = None,
        content: str = "",
        ignored: LeftOut | None = None,
    ) -> Self:
        """The table of these columns; without `file` and `offset` each image is a file of its own under `root`.

        A name is relative to `root`, or inside the container that `file` names. DataError: a name that holds NUL.
        """
        encoded = [os.fsencode(name) + b"\0" for name in names]
        blob = b"".join(encoded)
        count = len(encoded)
        if blob.count(b"\0") != count:
            bad = next(name[:-1] for name in encoded if b"\0" in name[:-1])
            raise DataError(f"{shown(str(root))}: the name {bad!r} holds a NUL byte")
        lengths = np.fromiter(map(len, encoded), np.int64, count)
        columns = {
            "file": np.full(count, OWN_FILE, np.int32) if file is None else np.asarray(file, np.int32),
            "offset": np.zeros(count, np.int64) if offset is None else np.asarray(offset, np.int64),
            "size": np.asarray(size, np.int64),
            "label": np.asarray(label, np.int64),
            "name_at": np.cumsum(lengths) - lengths,
        }
        made = cls.of_columns(root, files, columns, names=blob, classes=classes, ignored=ignored or LeftOut())
        return dataclasses.replace(made, raw=raw, shaping=shaping, content=content)

    @classmethod
    def of_columns(
        cls,
        root: Path,
        files: Sequence[Path],
        columns: Mapping[str, np.ndarray],
        *,
        names: bytes,
        classes: Classes,
        ignored: LeftOut,
    ) -> Self:
        """The table of encoded pictures with these columns and this blob of names. ValueError: they do not fit."""
        count = len(columns["file"])
        if any(column.shape != (count,) for column in columns.values()):
            raise ValueError("columns of different lengths")
        if any(column.dtype.kind != "i" for column in columns.values()):
            raise ValueError("columns that are no integers")
        least = {"file": OWN_FILE, "label": UNLABELLED, "size": -1}  # of unknown size
        if count and any(column.min() < least.get(name, 0) for name, column in columns.items()):
            raise ValueError("a number below what it may be")
        if count and (columns["name_at"].max() >= len(names) or not names.endswith(b"\0")):
            raise ValueError("a name that is not there")
        if count and (columns["file"].max() >= len(files) or columns["label"].max() >= len(classes)):
            raise ValueError("a row of a file or class that is not there")
        paths = tuple(files)
        return cls(
            root=root,
            files=paths,
            classes=classes,
            raw=False,
            shaping=None,
            content="",
            names=names,
            containers=_Containers(paths),
            ignored=ignored,
            **columns,
        )

    def __len__(self) -> int:
        return len(self.file)

    def name(self, row: int) -> str:
        """The name of an image, relative to `root`, its container first; `os.fsencode` gives back its exact bytes."""
        name = os.fsdecode(self._name_bytes(row))
        file = int(self.file[row])
        return name if file == OWN_FILE else f"{self.files[file].name}/{name}"

    def key(self, row: int) -> str:
        """The name in the form that goes into tables, JSON and messages (see `shown`)."""
        return shown(self.name(row))

    def keys(self) -> list[str]:
        """Every row's key, in row order."""
        return [self.key(row) for row in range(len(self))]

    def path(self, row: int) -> Path:
        """Where an image is: its file, or its container's path and its name therein."""
        file = int(self.file[row])
        return (self.root if file == OWN_FILE else self.files[file]) / os.fsdecode(self._name_bytes(row))

    def read(self, row: int) -> bytes:
        """The bytes of an image; any number of threads may read at once.

        BadImage: its file is missing, not a regular file, no longer as long as it was, or of more than MOST_BYTES.
        DataError: its container is missing or cut short.
        """
        file, size = int(self.file[row]), int(self.size[row])
        if file == OWN_FILE:
            return read_file(self.path(row), size=size)
        _check_length(size, self.path(row))
        try:
            content = self.containers.pread(file, size, int(self.offset[row]))
        except OSError as reason:
            raise DataError(f"{shown(str(self.path(row)))}: {reason.strerror}") from None
        if len(content) != size:
            raise DataError(
                f"{shown(str(self.path(row)))}: {len(content)} of {size} bytes: the file was cut short or changed"
            )
        return content

    def read_into(self, row: int, image: np.ndarray) -> None:
        """The pixels of a `raw` row into uint8 (S, S, 3), contiguous: `read` without a copy.

        BadImage: they are not as many. DataError: as `read`.
        """
        size, S = int(self.size[row]), len(image)
        if size != image.size:
            name = shown(str(self.path(row)))
            raise BadImage(name, f"{size} bytes, expected {S} x {S} x 3 = {image.size}")
        handle = self.containers.handle(int(self.file[row]))
        try:
            got = os.preadv(handle, [image.data], int(self.offset[row])) if hasattr(os, "preadv") else 0
        except OSError:
            got = 0  # `read` tries again, and says what it is
        if got != size:  # the system answers in parts, or the file was cut short
            image[:] = np.frombuffer(self.read(row), np.uint8).reshape(image.shape)

    def take(self, rows: Sequence[int] | np.ndarray) -> Self:
        """The samples of these rows, in this order; names and open files are shared."""
        rows = np.asarray(rows, np.int64)
        columns = {name: getattr(self, name)[rows] for name in ("file", "offset", "size", "label", "name_at")}
        return dataclasses.replace(self, **columns)

    def as_classes(self, classes: Classes, where: str, *, partial: bool = False) -> Self:
        """The same images labelled by `classes`, matched by key; `Classes.match` explains the rest."""
        label_of = np.append(classes.match(self.classes, where, partial=partial), UNLABELLED)  # label -1 reads the last
        return dataclasses.replace(self, classes=classes, label=label_of[self.label])

    def check_shaping(self, preprocess: Preprocess) -> None:
        """DataError where the pictures are stored forms, and not those of `preprocess`."""
        if self.shaping is not None and self.shaping != preprocess.shaping:
            raise DataError(
                f"{shown(str(self.root))}: a pack of stored forms of {self.shaping}; this network wants "
                f"{preprocess.shaping}: pack the pictures for it (`alexnet data pack --variant`)"
            )

    def counts(self) -> np.ndarray:
        """Images in each class: int64 (len(classes),)."""
        return np.bincount(self.label[self.label >= 0], minlength=len(self.classes)).astype(np.int64)

    def fingerprint(self) -> str:
        """SHA-256, in hex, of what the table says: names, sizes, labels, class keys, and places within containers.

        Times and absolute paths are left out, so a data set keeps its fingerprint when it is moved or copied.
        """
        digest = hashlib.sha256()
        for text in (*self.classes.keys, "", *(path.name for path in self.files), ""):
            digest.update(os.fsencode(text) + b"\0")
        digest.update(f"{int(self.raw)} {len(self)}{self.content}".encode())
        for column in (self.file, self.offset, self.size, self.label):
            digest.update(np.ascontiguousarray(column).astype(column.dtype.newbyteorder("<")).tobytes())
        for row in range(len(self)):
            digest.update(self._name_bytes(row) + b"\0")
        return digest.hexdigest()

    def _name_bytes(self, row: int) -> bytes:
        start = int(self.name_at[row])
        return self.names[start : self.names.index(b"\0", start)]


def read_file(path: Path, *, size: int = -1) -> bytes:
    """The bytes of a picture's own file, `size` of them where that is not -1; BadImage: it cannot be had.

    A handle that a network's disk calls stale is asked for once more.
    """
    try:
        return _whole(path, size)
    except OSError as reason:
        if reason.errno != errno.ESTALE:
            raise BadImage(shown(str(path)), str(reason.strerror)) from None
    try:
        return _whole(path, size)
    except OSError as reason:
        raise BadImage(shown(str(path)), str(reason.strerror)) from None


def _whole(path: Path, size: int) -> bytes:
    handle, found = regular(path)
    try:
        if size not in (-1, found):
            raise BadImage(shown(str(path)), f"{found} bytes, {size} when the data was opened")
        _check_length(found, path)
        content = _pread(handle, found, 0)
    finally:
        os.close(handle)
    if len(content) != found:
        raise BadImage(shown(str(path)), f"{len(content)} of {found} bytes could be read")
    return content


def _check_length(size: int, path: Path) -> None:
    """TooLarge where a file, which may be one large hole, is more than a picture's, and would fill the memory."""
    if size > MOST_BYTES:
        raise TooLarge(shown(str(path)), f"{size:,} bytes, more than the limit of {MOST_BYTES:,}")


def _pread(handle: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes at `offset`: one call nearly always, more where the system answers in parts."""
    content = os.pread(handle, size, offset)
    while 0 < len(content) < size:
        part = os.pread(handle, size - len(content), offset + len(content))
        if not part:
            break
        content += part
    return content
