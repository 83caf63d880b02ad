"""The sample tables of large sources, kept in the cache: read in milliseconds where their source took minutes.

A table is good as long as path, size and time of the files that it was read from stay. The pictures that a list names
are not looked at again; one that has changed is noticed when it is read (`Samples.read`).
"""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..errors import DataError
from .cache import DAMAGE, cache_folder
from .classes import Classes
from .samples import LeftOut, Samples

Sets = tuple[Samples, Samples | None]
VERSION = 2
WORTH_KEEPING = 50_000  # rows; fewer are found anew within a second or two
COLUMNS = ("file", "offset", "size", "label", "name_at")


def indexed(kind: str, paths: Sequence[Path], find: Callable[[], Sets], *, tar: bool) -> Sets:
    """What `find` returns, or what it once did of the same files `paths`; with `tar` the images lie in these."""
    name = hashlib.sha256(json.dumps([kind, *(str(path.resolve()) for path in paths)]).encode("utf-8", "surrogatepass"))
    kept = cache_folder() / f"index-{name.hexdigest()[:16]}.npz"
    state = json.dumps([VERSION, *((status.st_size, status.st_mtime_ns) for status in map(Path.stat, paths))])
    sets = _read(kept, state, paths[0].parent, paths if tar else ())
    if sets is None:
        sets = find()
        if sum(len(part) for part in sets if part is not None) >= WORTH_KEEPING:
            _write(kept, state, sets)
    return sets


def _write(kept: Path, state: str, sets: Sets) -> None:
    arrays: dict[str, Any] = {"state": np.array(state)}
    for number, part in enumerate(sets):
        if part is not None:
            arrays |= {f"{number}.{column}": getattr(part, column) for column in COLUMNS}
            arrays[f"{number}.names"] = np.frombuffer(part.names, np.uint8)
            said = {"keys": part.classes.keys, "words": part.classes.words, "ignored": part.ignored,
                    "names": part.ignored.names}  # fmt: skip
            arrays[f"{number}.said"] = np.frombuffer(json.dumps(said).encode(), np.uint8)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    # A cache that cannot be written costs time at the next opening, and nothing else.
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        files.write(kept, stream.getvalue())


def _read(kept: Path, state: str, root: Path, containers: Sequence[Path]) -> Sets | None:
    """The tables kept at `kept` of files in this `state`; None: there are none, or they are not whole."""
    try:
        with kept.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            if str(arrays["state"]) != state:
                return None
            parts = [_part(arrays, number, root, containers) for number in (0, 1) if f"{number}.said" in arrays.files]
    except (DataError, *DAMAGE):
        return None
    return (parts[0], parts[1] if len(parts) > 1 else None) if parts else None


def _part(arrays: "np.lib.npyio.NpzFile", number: int, root: Path, containers: Sequence[Path]) -> Samples:
    said = json.loads(arrays[f"{number}.said"].tobytes())
    ignored = LeftOut()
    ignored.update(said["ignored"])
    ignored.names.update(said["names"])
    return Samples.of_columns(
        root,
        containers,
        {column: arrays[f"{number}.{column}"] for column in COLUMNS},
        names=arrays[f"{number}.names"].tobytes(),
        classes=Classes(tuple(said["keys"]), tuple(said["words"])),
        ignored=ignored,
    )
