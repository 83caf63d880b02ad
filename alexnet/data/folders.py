"""Image folders -> sample table: one folder a class, images anywhere below it."""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from .. import stop
from ..errors import DataError, Stopped
from .classes import Classes
from .samples import LeftOut, Samples, shown

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"})
JUNK = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
EMPTY_CLASS = "class folder without images"


def is_image(name: str) -> bool:
    """Whether a file's name says that it is a picture; what it truly is, its bytes say at decoding."""
    return name[name.rfind(".") :].lower() in SUFFIXES


def is_junk(name: str) -> bool:
    """Whether a file or folder is an operating system's or an editor's leaving: hidden, or a known name."""
    return name.startswith(".") or name in JUNK


def subfolders(folder: Path, ignored: LeftOut) -> list[str]:
    """The names of the folders directly in `folder`, sorted as text; what else lies there is put into `ignored`."""
    names = []
    for entry in entries(folder):
        if is_junk(entry.name):
            ignored.put("hidden or junk", entry.name)
        elif is_folder(entry):
            names.append(entry.name)
        else:
            ignored.put("outside the class folders", entry.name)
    return sorted(names)


def images_below(folder: Path, ignored: LeftOut, visited: set[tuple[int, int]]) -> list[tuple[str, int]]:
    """(path relative to `folder`, size in bytes) of every image below it, sorted by folder, then by name.

    Links are followed, but a folder in `visited`, (device, inode), is not entered again: links may form a loop.
    """
    found: list[tuple[str, int]] = []
    pending = [""]
    while pending:
        here = pending.pop()
        inside = folder / here
        try:
            status = inside.stat()
        except OSError as reason:
            raise DataError(f"{shown(str(inside))}: {reason.strerror}") from None
        if (status.st_dev, status.st_ino) in visited:
            ignored.put("folder seen before (a link)", f"{folder.name}/{here}")
            continue
        visited.add((status.st_dev, status.st_ino))
        for entry in entries(inside):
            if stop.requested():
                raise Stopped(f"stopped while {shown(str(folder))} was looked through; the same command does it again")
            name = f"{here}/{entry.name}" if here else entry.name
            if is_junk(entry.name):
                ignored.put("hidden or junk", f"{folder.name}/{name}")
            elif is_folder(entry):
                pending.append(name)
            elif not is_image(entry.name):
                ignored.put("not an image by its suffix", f"{folder.name}/{name}")
            else:
                size = _regular_size(entry)
                if size is None:
                    ignored.put("not a regular file", f"{folder.name}/{name}")
                else:
                    found.append((name, size))
    # The order in which torchvision's ImageFolder lists the same files.
    return sorted(found, key=lambda image: os.path.split(image[0]))


def folder_samples(folder: Path) -> Samples:
    """The images of a folder of class folders; classes are the folders' names sorted as text, as ImageFolder has them.

    A class folder without images is a class too. DataError: no class folder, no image, a folder that cannot be read.
    """
    ignored = LeftOut()
    keys = subfolders(folder, ignored)
    if not keys:
        raise DataError(f"{shown(str(folder))}: no class folders in it (expected one folder a class, images inside)")
    classes = Classes.of(keys, shown(str(folder)))
    top = folder.stat()
    names: list[str] = []
    sizes: list[int] = []
    labels: list[int] = []
    for label, key in enumerate(keys):
        images = images_below(folder / key, ignored, {(top.st_dev, top.st_ino)})
        if not images:
            ignored.put(EMPTY_CLASS, key)
        names += [f"{key}/{name}" for name, _ in images]
        sizes += [size for _, size in images]
        labels += [label] * len(images)
    if not names:
        raise DataError(f"{shown(str(folder))}: no images in its class folders")
    return Samples.build(folder, names, label=labels, classes=classes, size=sizes, ignored=ignored)


def beside(folder: Path, parts: Sequence[str], ignored: LeftOut) -> None:
    """Puts into `ignored` what lies in `folder` beside its `parts`, `train` and `val`."""
    for entry in entries(folder):
        if entry.name not in parts:
            ignored.put("hidden or junk" if is_junk(entry.name) else "outside train/ and val/", entry.name)


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies directly in `folder`, sorted by name; DataError where it cannot be read."""
    try:
        with os.scandir(folder) as inside:
            return sorted(inside, key=lambda entry: entry.name)  # what a link repeats is named alike everywhere
    except OSError as reason:
        raise DataError(f"{shown(str(folder))}: {reason.strerror}") from None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one. DataError: it cannot be looked at."""
    status = _status(entry)
    return status is not None and stat.S_ISDIR(status.st_mode)


def _regular_size(entry: os.DirEntry[str]) -> int | None:
    status = _status(entry)
    return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else None


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """What the system says of an entry; None: it is a link to nothing, or to itself."""
    try:
        return entry.stat()
    except OSError as reason:
        if reason.errno not in (errno.ENOENT, errno.ELOOP):
            raise DataError(f"{shown(entry.path)}: {reason.strerror}") from None
        return None
