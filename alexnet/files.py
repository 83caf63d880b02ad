"""Files that must last: written whole or not at all, hashed, locked. Nothing else in the program writes such files.

What makes a checkpoint does so through functions of `os`, where the trial that ends a save at each of its operations
(tests/faults/saves.py) finds them all.
"""

import errno
import fcntl
import glob
import hashlib
import json
import math
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .errors import DataError, UsageError

PIECE = 1 << 24  # bytes written, read or hashed at a time
MOST_JSON = 1 << 28  # bytes of a document; a class list of a million has a third of that


def sync(path: Path) -> None:
    """Make the bytes of a file durable, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unfinished(path: Path) -> Path:
    """What `path` is called until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sweep(folder: Path) -> None:
    """Removes from a folder what ended processes left unfinished; the caller alone may be writing there."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes become `path` when the block ends well, and vanish when it does not.

    A reader, or a crash, finds the old bytes or the new ones.
    """
    with replacing(path) as temporary, temporary.open("wb") as stream:
        yield stream


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """As `writing`, for libraries that open files themselves: a path, what is written to it becomes `path`."""
    temporary = _unfinished(path)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sweep_unfinished(path: Path) -> None:
    """Removes what ended processes left unfinished of `path`; the caller alone may be writing it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if left.name.removeprefix(f".{path.name}.").removesuffix(".tmp").isdigit():
            left.unlink()


def write_new(path: Path, pieces: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Put `pieces` one behind the other into a file that is not there yet, durably -> its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        for piece in pieces:
            rest = memoryview(piece).cast("B")
            digest.update(rest)
            size += len(rest)
            while rest:
                rest = rest[os.write(handle, rest[:PIECE]) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    return size, digest.hexdigest()


def write(path: Path, content: bytes | str) -> None:
    """Put `content` at `path`, whole."""
    temporary = _unfinished(path)
    temporary.unlink(missing_ok=True)
    try:
        write_new(temporary, [content.encode() if isinstance(content, str) else content])
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


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
    sync(path.parent)


def grown(path: Path) -> int:
    """How many bytes there are of a file that grows or has grown."""
    found = [one for one in (_part(path), path) if one.is_file()]
    return found[0].stat().st_size if found else 0


def finish(path: Path) -> None:
    """Give a file that has grown its name; one that has it already, or never grew, is left alone."""
    if _part(path).exists():
        _part(path).replace(path)
        sync(path.parent)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def write_json(path: Path, value: Any) -> None:
    """Put `value` at `path` as indented JSON, whole; NaN and infinity are refused."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write(path, text.encode("utf-8", "backslashreplace"))  # a byte of a path that is no text is JSON's \udcXX


def write_array(path: Path, array: np.ndarray) -> None:
    """Put `array` at `path` as .npy, whole; it holds numbers, never objects."""
    stream = BytesIO()
    np.save(stream, array, allow_pickle=False)
    write(path, stream.getvalue())


def array_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """What a .npy of this shape begins with; as long for any number of rows: numpy leaves room for it to grow."""
    stream = BytesIO()
    said = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, said)
    return stream.getvalue()


def append_array(path: Path, row: np.ndarray, *, at: int) -> None:
    """Make `row` number `at`, the last, of the .npy at `path`; rows before it that are missing, or cut off, are NaN.

    The file is not written anew: a run of many epochs would write all of it at each. The row is durable before the
    header counts it, and numpy leaves room for the count to grow.
    """
    if not path.exists():
        write_array(path, np.full((at, *row.shape), np.nan, row.dtype))
    with path.open("r+b") as stream:
        try:
            np.lib.format.read_magic(stream)
            shape, fortran, kind = np.lib.format.read_array_header_1_0(stream)
        except ValueError as reason:
            raise DataError(f"{path}: damaged ({reason})") from None
        begin = stream.tell()
        if fortran or kind != row.dtype or shape[1:] != row.shape:
            raise DataError(f"{path}: holds {kind} {shape}, not rows of {row.dtype} {row.shape}")
        there = min(at, shape[0], (path.stat().st_size - begin) // row.nbytes)
        missing = [np.full(row.shape, np.nan, row.dtype)] * (at - there)
        stream.seek(begin + there * row.nbytes)
        for one in (*missing, row):
            stream.write(np.ascontiguousarray(one).tobytes())
        stream.truncate()
        stream.flush()  # all of it, or an error, before the header counts it
        os.fsync(stream.fileno())
        header = array_header((at + 1, *row.shape), row.dtype)
        if len(header) != begin:
            raise DataError(f"{path}: its header is not of numpy's length")
        stream.seek(0)
        stream.write(header)
        stream.flush()
        os.fsync(stream.fileno())


def regular(path: Path) -> tuple[int, int]:
    """A descriptor of a regular file, and its size; OSError: there is none. A pipe is not waited for."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file")
    return handle, status.st_size


@contextmanager
def bounded(path: Path, most: int) -> Iterator[BinaryIO]:
    """A stream of a regular file, which may be one large hole, of `most` bytes at the most; OSError: there is none."""
    handle, size = regular(path)
    with os.fdopen(handle, "rb") as stream:
        if size > most:
            raise OSError(errno.EFBIG, f"{size:,} bytes, more than the limit of {most:,}")
        yield stream


def read_json(path: Path) -> Any:
    """The JSON at `path`. DataError, which names it: it is missing, broken, no regular file or of more than MOST_JSON
    bytes, or a number in it is none.
    """
    try:
        with bounded(path, MOST_JSON) as stream:
            return json.loads(stream.read(), parse_constant=_finite, parse_float=_finite)
    except FileNotFoundError:
        raise DataError(f"{path}: missing") from None
    except OSError as reason:
        raise DataError(f"{path}: cannot be read as JSON ({reason.strerror})") from None
    except (ValueError, RecursionError) as reason:
        raise DataError(f"{path}: cannot be read as JSON ({reason})") from None


def move(source: Path, target: Path) -> None:
    """Gives a file another place on its file system; at every moment it stands at one of the two, whole.

    FileExistsError: something is at `target`. OSError: it cannot be moved, and is where it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)
    sync(target.parent)
    sync(source.parent)


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
    temporary = _unfinished(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                sync(file)
        sync(temporary)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(path.parent)


def sha256(path: Path, *, between: Callable[[], None] = lambda: None) -> str:
    """The hexadecimal SHA-256 of the bytes of `path`; `between` is called now and then, and may raise to end it."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(PIECE):
            digest.update(piece)
            between()
    return digest.hexdigest()


@contextmanager
def lock(path: Path) -> Iterator[str | None]:
    """Hold `path` for this process alone, and write into it who that is; held elsewhere, a UsageError says by whom.

    The kernel's lock goes with the process, so what a killed one left is free; the block is told of it in words. Where
    the file system has no locks, a holder is believed unless it ran here and is gone.
    """
    with path.open("a+b") as stream:
        stream.seek(0)
        holder = _holder(stream.read(4096))
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{path.parent}: in use by {_named(holder)} (it holds {path.name})") from None
        except OSError:
            if holder is not None and not _gone(holder):
                raise UsageError(
                    f"{path.parent}: in use by {_named(holder)}; if that has ended, remove {path}"
                ) from None
        stream.truncate(0)
        stream.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot()}).encode())
        stream.flush()
        try:
            yield None if holder is None else f"{path.parent}: {_named(holder)} ended here without a word; taken over"
        finally:
            stream.truncate(0)


def _holder(content: bytes) -> dict[str, Any] | None:
    """Who a lock's file says holds it; None: nobody, or nothing that can be read."""
    try:
        said = json.loads(content)
    except ValueError:
        return None
    return said if isinstance(said, dict) and type(said.get("pid")) is int else None


def _named(holder: dict[str, Any] | None) -> str:
    return "another process" if holder is None else f"process {holder['pid']} on {holder.get('host')!s:.64}"


def _gone(holder: dict[str, Any]) -> bool:
    """Whether a holder ran on this machine and does no longer."""
    if holder.get("host") != socket.gethostname():
        return False
    if holder.get("boot") != _boot():
        return True
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's, and alive
    return False


def _boot() -> str | None:
    """What tells this start of the machine from another, where the system says it."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else None
