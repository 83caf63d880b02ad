"""Files that must last: written whole or not at all, hashed, locked. Nothing else in the program writes such files."""

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .errors import DataError, UsageError


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make the bytes of `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes become `path` when the block ends well, and vanish when it does not.

    A reader, or a crash, finds the old bytes or the new ones.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write(path: Path, content: bytes | str) -> None:
    """Put `content` at `path`, whole."""
    with writing(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def growing(path: Path, length: int) -> Iterator[BinaryIO]:
    """A stream at the end of the first `length` bytes of what will be `path`; what stood behind them is cut off.

    What is written is durable when the block ends. Until `finish` the bytes stand under another name.
    """
    part = _part(path)
    with part.open("r+b" if length else "w+b") as stream:
        stream.truncate(length)
        stream.seek(length)
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(path.parent)


def grown(path: Path) -> int:
    """How many bytes there are of a file that grows or has grown."""
    found = [one for one in (_part(path), path) if one.is_file()]
    return found[0].stat().st_size if found else 0


def finish(path: Path) -> None:
    """Give a file that has grown its name; one that has it already, or never grew, is left alone."""
    if _part(path).exists():
        _part(path).replace(path)
        sync_folder(path.parent)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def write_json(path: Path, value: Any) -> None:
    """Put `value` at `path` as indented JSON, whole; NaN and infinity are refused."""
    write(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_array(path: Path, array: np.ndarray) -> None:
    """Put `array` at `path` as .npy, whole; it holds numbers, never objects."""
    stream = BytesIO()
    np.save(stream, array, allow_pickle=False)
    write(path, stream.getvalue())


def read_json(path: Path) -> Any:
    """The JSON at `path`; a missing or broken file, or a number that is none, is a DataError that names it."""
    try:
        return json.loads(path.read_bytes(), parse_constant=_finite, parse_float=_finite)
    except FileNotFoundError:
        raise DataError(f"{path}: missing") from None
    except (ValueError, OSError, RecursionError) as reason:
        raise DataError(f"{path}: cannot be read as JSON ({reason})") from None


def _finite(text: str) -> float:
    """A number of a JSON document, which has neither NaN nor infinity, though Python's reader takes both."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:40]} is no finite number")
    return number


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends well and vanishes when it does not.

    Every file in it is made durable before the rename; `path` itself must not exist.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                sync_file(file)
        sync_folder(temporary)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def sha256(path: Path, *, between: Callable[[], None] = lambda: None) -> str:
    """The hexadecimal SHA-256 of the bytes of `path`; `between` is called now and then, and may raise to end it."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 24):
            digest.update(piece)
            between()
    return digest.hexdigest()


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold `path` for this process alone; held elsewhere, it is a UsageError. The lock goes with the process."""
    with path.open("a+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{path.parent}: in use by another process (it holds {path.name})") from None
        yield
