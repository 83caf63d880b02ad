"""Anything that holds images -> sample table: what it is, is seen by looking at it."""

import csv
import hashlib
import math
import os
import stat
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import stop
from ..errors import DataError, Stopped, UsageError
from .classes import Classes
from .digits import digits_samples
from .folders import EMPTY_CLASS, beside, entries, folder_samples, images_below, is_folder, is_junk
from .ilsvrc import TRAIN_TAR, VAL_TAR, ilsvrc_sets, is_flat_val, is_ilsvrc, train_tar_samples, val_samples
from .index import indexed
from .packed import SETS, is_pack, is_part, names_part, pack_part, pack_sets
from .samples import UNLABELLED, LeftOut, Samples, shown
from .tars import image_members, in_order, is_tar, members, tar_sets

MOST_LIST = 1 << 31  # bytes of a list of pictures; a line has about a hundred
# The names of the held-out part of a data set, beside `train`; the first that is there counts.
VAL_NAMES = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class Data:
    """Images to train on and images to judge by, labelled by the same classes: train's.

    `source` is a whole path or a name, and `open_data(source, **split)` finds the same data and the same split again.
    `fingerprint` is a SHA-256 over the fingerprints of both parts.
    """

    train: Samples
    val: Samples | None  # None where nothing is held out
    source: str
    split: dict[str, Any]
    fingerprint: str

    @property
    def classes(self) -> Classes:
        """The classes of both parts."""
        return self.train.classes


def open_source(where: str | Path) -> Samples:
    """One set of labelled images, from whatever `where` is.

    That is `digits`, a folder of class folders, a list, a tar, a folder of tar shards, a pack or a part of it
    (PACK/train, PACK/val), or a part of ILSVRC2012. DataError: nothing there, nothing of the kind, no images, a class
    without any, or train and val in one.
    """
    return _full(_one(where))


def open_held_out(where: str | Path) -> Samples:
    """The images of `where` to judge by: those that it keeps apart for that, or all. DataError: as `open_source`."""
    everything, val = _sets(where)
    return _full(everything if val is None else val)


def open_data(
    where: str | Path,
    *,
    val: str | Path | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    val_names: Sequence[str] | None = None,
) -> Data:
    """The images of `where` to train on, and those held out to judge by, which are the first of these that there is:

    the images of `val`, another source; those that `where` keeps apart (`val/`, `valid/`, `validation/` or `test/`
    beside `train/`, ILSVRC2012's validation set); those whose `Samples.key` is in `val_names`; `val_fraction` of each
    class, drawn as a function of `seed` and of the images' names only.

    DataError: as `open_source`; fewer than two classes; classes of val that are not train's; `val_names` not found.
    """
    train, held_out, split = open_parts(where, val=val, val_fraction=val_fraction, seed=seed, val_names=val_names)
    if held_out is None and "val_names" in split:
        raise DataError(f"{shown(str(where))}: too few images to hold some out; name others with --val")
    _full(train)
    if held_out is not None:
        held_out = _full(held_out).as_classes(train.classes, f"the held-out images of {shown(str(val or where))}")
    if len(train.classes) < 2:
        raise DataError(f"{shown(str(where))}: one class only ({train.classes.keys[0]}); training needs two or more")
    parts = [train.fingerprint(), held_out.fingerprint() if held_out is not None else "none"]
    fingerprint = hashlib.sha256(" ".join(parts).encode()).hexdigest()
    return Data(train=train, val=held_out, source=_absolute(where), split=split, fingerprint=fingerprint)


def open_parts(
    where: str | Path,
    *,
    val: str | Path | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    val_names: Sequence[str] | None = None,
) -> tuple[Samples, Samples | None, dict[str, Any]]:
    """(train, val, split) as `open_data` makes them, each part by its own classes, and though unfit to train with:

    one class only, a class without images, other classes in val than in train, too few images to hold some out (None).
    """
    train, held_out = _sets(where)
    if val is not None:
        return train, _one(val), {"val": _absolute(val)}
    if held_out is not None:
        return train, held_out, {}
    if val_names is None and val_fraction == 0:
        return train, None, {"val_fraction": 0.0}
    train, held_out = _split(train, str(where), val_fraction=val_fraction, seed=seed, val_names=val_names)
    names = held_out.keys() if held_out is not None else []
    return train, held_out, {"val_fraction": val_fraction, "seed": seed, "val_names": names}


def open_images(where: str | Path | Sequence[str | Path]) -> Samples:
    """Images without labels (-1), to predict: image files, folders of them at any depth, tars, or several of these.

    Names are the paths as given. An image file's suffix does not matter here, a folder's files go by theirs.
    DataError: nothing there, or no image in it.
    """
    names: list[str] = []
    tars: list[Path] = []
    columns: list[tuple[int, int, int]] = []
    ignored = LeftOut()
    for given in [where] if isinstance(where, str | Path) else where:
        path = Path(given)
        before = len(names)
        if _exists(path, hint="").is_dir():
            for name, size in images_below(path, ignored, set()):
                names.append(str(path / name))
                columns.append((-1, 0, size))
        elif _regular(path) and is_tar(path):
            for member in image_members(path, ignored):
                names.append(member.name)
                columns.append((len(tars), member.offset, member.size))
            tars.append(path)
        elif _regular(path):
            names.append(str(path))
            columns.append((-1, 0, path.stat().st_size))
        else:
            raise DataError(f"{shown(str(path))}: not a regular file")
        if len(names) == before:
            raise DataError(f"{shown(str(path))}: no images in it")
    table = np.array(columns, np.int64).reshape(-1, 3)
    return Samples.build(
        Path.cwd(),
        names,
        label=np.full(len(names), UNLABELLED),
        classes=Classes((), ()),
        file=table[:, 0],
        offset=table[:, 1],
        size=table[:, 2],
        files=tars,
        ignored=ignored,
    )


def open_pictures(where: Sequence[str | Path]) -> Samples:
    """Images as they come: of one source that has classes labelled, as `open_source`, all else as `open_images`.

    Classes have a list, a pack or a part of it, ILSVRC2012's files, `digits`, a folder with folders or tar shards in
    it, and a tar whose members lie in folders or have .cls labels. DataError: as these.
    """
    return open_source(where[0]) if len(where) == 1 and _has_classes(where[0]) else open_images(where)


def _has_classes(where: str | Path) -> bool:
    path = Path(where)
    if str(where) == "digits" and not path.exists():
        return True
    if names_part(path):
        return True
    if not _exists(path).is_dir():
        listed = path.suffix.lower() in (".txt", ".csv")
        return listed or (
            _regular(path)
            and is_tar(path)
            and any("/" in one.name or one.name.endswith(".cls") for one in members(path))
        )
    if is_pack(path) or is_ilsvrc(path) or is_flat_val(path):
        return True
    inside = [entry for entry in entries(path) if not is_junk(entry.name)]
    return any(is_folder(entry) or entry.name.lower().endswith(".tar") for entry in inside)


def _one(where: str | Path) -> Samples:
    """The images of a source that keeps none apart."""
    train, val = _sets(where)
    if val is not None:
        named = " or ".join(map(str, _parts(Path(where), train, val)))
        named = named or "a part of a pack that `alexnet data pack` makes of it"
        raise DataError(f"{shown(str(where))}: holds images to train on and to judge by; name {shown(named)}")
    return train


def _parts(path: Path, train: Samples, val: Samples) -> list[Path]:
    """What to name for the one or the other of them alone."""
    if is_pack(path):
        return [path / name for name in SETS]
    folder = path if path.is_dir() else path.parent
    tars = [folder / VAL_TAR] if (folder / VAL_TAR).is_file() else [folder / TRAIN_TAR]  # beside it, this means both
    there = [part for part in (train.root, val.root, *tars) if part not in (folder, path) and part.exists()]
    return sorted(dict.fromkeys(there), key=lambda part: part == val.root or part.name == VAL_TAR)


def _full(samples: Samples) -> Samples:
    """The same, if there was no class folder without an image in it."""
    if EMPTY_CLASS in samples.ignored:
        folder = samples.root / samples.ignored.names[EMPTY_CLASS][0]
        raise DataError(f"{shown(str(folder))}: a {EMPTY_CLASS}; fill it or remove it")
    return samples


def _sets(where: str | Path) -> tuple[Samples, Samples | None]:
    """(everything, None), or (train, val) where the two are kept apart. DataError: also a path that cannot be read."""
    try:
        return _found(where)
    except OSError as reason:
        path = where if reason.filename is None else os.fsdecode(reason.filename)
        raise DataError(f"{shown(str(path))}: {reason.strerror}") from None


def _found(where: str | Path) -> tuple[Samples, Samples | None]:
    if str(where) == "digits" and not Path(where).exists():
        return digits_samples(), None
    if names_part(Path(where)):
        return pack_part(Path(where)), None
    path = _exists(Path(where))
    if path.is_dir():
        return _folder_sets(path)
    if not _regular(path):
        raise DataError(f"{shown(str(path))}: neither a folder nor a regular file")
    if path.name == TRAIN_TAR:
        return (train_tar_samples(path), None) if not (path.parent / VAL_TAR).is_file() else ilsvrc_sets(path.parent)
    if path.name == VAL_TAR:
        return val_samples(path), None
    if path.suffix.lower() in (".txt", ".csv"):
        return indexed("list", [path], lambda: (list_samples(path), None), tar=False)
    if is_tar(path):
        if is_part(path):
            pack, part = path.parent, path.parent / path.name.partition("-")[0]
            raise DataError(
                f"{shown(str(path))}: a part of a pack, which has its classes; name {shown(str(pack))}, or "
                f"{shown(str(part))}, all of one part"
            )
        return indexed("tar", [path], lambda: tar_sets([path], VAL_NAMES), tar=True)
    raise DataError(f"{shown(str(path))}: not a data set (expected a folder, a .tar, or a .txt or .csv list)")


def _folder_sets(folder: Path) -> tuple[Samples, Samples | None]:
    if is_pack(folder):
        return pack_sets(folder)
    if is_ilsvrc(folder):
        return ilsvrc_sets(folder)
    if is_flat_val(folder):
        return val_samples(folder), None
    inside = {
        entry.name.lower(): entry.name for entry in entries(folder) if is_folder(entry) and not is_junk(entry.name)
    }
    if "train" not in inside:
        return _folder(folder), None
    train = folder / inside["train"]
    for name in VAL_NAMES:
        if name in inside:
            samples, held_out = _folder(train), _folder(folder / inside[name])
            beside(folder, (train.name, inside[name]), samples.ignored)
            return samples, held_out
    if len(inside) == 1:
        samples = _folder(train)
        beside(folder, (train.name,), samples.ignored)
        return samples, None
    if any(is_folder(entry) and not is_junk(entry.name) for entry in entries(train)):
        # a class called "train" would hold pictures, not folders
        others = ", ".join(sorted(shown(name) for key, name in inside.items() if key != "train"))
        raise DataError(
            f"{shown(str(folder))}: {train.name}/ holds folders of its own, and none of the others ({others}) is "
            f"called {', '.join(VAL_NAMES)}: rename one, or name {shown(str(train))} and --val"
        )
    return _folder(folder), None


def _folder(folder: Path) -> Samples:
    """The images of a pack, of class folders, or of tar shards where there are no folders."""
    if is_pack(folder):
        samples, val = pack_sets(folder)
        if val is not None:
            raise DataError(
                f"{shown(str(folder))}: a pack with a val of its own; name it by itself, or pack --val-fraction 0"
            )
        return samples
    inside = [folder / entry.name for entry in entries(folder) if not is_junk(entry.name)]
    shards = [path for path in inside if path.suffix.lower() == ".tar" and path.is_file()]
    if not shards or any(path.is_dir() for path in inside):
        return folder_samples(folder)
    if any(not is_tar(path) for path in shards):
        raise DataError(f"{shown(str(folder))}: shards that are no tars")
    samples, val = indexed("shards", shards, lambda: tar_sets(shards, ()), tar=True)
    assert val is None
    return samples


def list_samples(path: Path) -> Samples:
    """The images of a list, in its order: a `.txt` of `path label` lines, or a `.csv` with the columns path and label.

    Paths are relative to the list's folder; a label is a class name or, where all are integers, a number.
    DataError names file and line.
    """
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _text_rows(path)
    sizes, labels = array("q"), array("q")  # a label: its place among those met so far
    line_of: dict[str, int] = {}
    place_of: dict[str, int] = {}
    folder = str(path.parent)
    for number, name, label in rows:
        if name in line_of:
            raise DataError(f"{shown(str(path))}: line {number}: {shown(name)} stands in line {line_of[name]} already")
        line_of[name] = number
        if stop.requested():
            raise Stopped(f"stopped while {shown(str(path))} was opened; the same command opens it again")
        try:
            status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 a Path takes thrice as long, a million times
        except (OSError, ValueError) as reason:
            problem = reason.strerror if isinstance(reason, OSError) else reason
            raise DataError(f"{shown(str(path))}: line {number}: {shown(name)}: {problem}") from None
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{shown(str(path))}: line {number}: {shown(name)}: not a regular file")
        sizes.append(status.st_size)
        labels.append(place_of.setdefault(label, len(place_of)))
    if not line_of:
        raise DataError(f"{shown(str(path))}: no images in it")
    key_of, keys = in_order(place_of, numbered=True)
    label_of = {key: index for index, key in enumerate(keys)}
    label_at = np.array([label_of[key_of[label]] for label in place_of])
    del key_of, label_of, place_of  # of a million classes they are 300 MB
    return Samples.build(
        path.parent,
        line_of,
        label=label_at[np.frombuffer(labels, np.int64)],
        classes=Classes.of(keys, shown(str(path))),
        size=np.frombuffer(sizes, np.int64),
    )


def _text_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    for number, text in enumerate(_read(path).split(b"\n"), start=1):
        line = text.decode("utf-8", "surrogateescape")
        if not line.strip():
            continue
        # The label is the last field: paths may hold spaces.
        fields = line.strip().rsplit(None, 1)
        if len(fields) != 2:
            raise DataError(f"{shown(str(path))}: line {number}: expected PATH LABEL, got {shown(line.strip())}")
        yield number, fields[0], fields[1]


def _csv_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    reader = csv.reader(_read(path).decode("utf-8", "surrogateescape").splitlines(keepends=True), strict=True)
    try:
        header = [field.strip() for field in next(reader, [])]
        if "path" not in header or "label" not in header:
            raise DataError(f"{shown(str(path))}: line 1: expected a header with path and label, got {header}")
        at, label_at = header.index("path"), header.index("label")
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header) or not fields[at] or not fields[label_at].strip():
                raise DataError(
                    f"{shown(str(path))}: line {reader.line_num}: expected {len(header)} fields with a path and a label"
                )
            yield reader.line_num, fields[at], fields[label_at].strip()
    except csv.Error as reason:
        raise DataError(f"{shown(str(path))}: line {reader.line_num}: {reason}") from None


def _read(path: Path) -> bytes:
    try:
        if (size := path.stat().st_size) > MOST_LIST:
            raise DataError(f"{shown(str(path))}: {size:,} bytes, more than the limit of {MOST_LIST:,}")
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as reason:
        raise DataError(f"{shown(str(path))}: {reason.strerror}") from None


def _split(
    samples: Samples, where: str, *, val_fraction: float, seed: int, val_names: Sequence[str] | None
) -> tuple[Samples, Samples | None]:
    keys = samples.keys()
    if val_names is not None:
        wanted = set(val_names)
        chosen = np.array([key in wanted for key in keys], bool)
        if lost := sorted(wanted.difference(keys)):
            raise DataError(
                f"{shown(where)}: {len(lost)} of the {len(wanted)} held-out images are gone, the first {lost[0]}"
            )
    else:
        chosen = held_out(keys, samples.label, samples.counts(), fraction=val_fraction, seed=seed)
    if not chosen.any() or chosen.all():
        return samples, None
    return samples.take(np.flatnonzero(~chosen)), samples.take(np.flatnonzero(chosen))


def held_out(keys: Sequence[str], labels: np.ndarray, counts: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Which images to hold out, (N,) bool: `fraction` of each class, `counts` of them there are in each.

    UsageError: a fraction that is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"val_fraction: expected more than 0 and less than 1, got {fraction}")
    chosen = np.zeros(len(keys), bool)
    by_class = np.argsort(labels, kind="stable")
    begins = np.searchsorted(labels[by_class], np.arange(len(counts) + 1))
    held = held_out_counts(counts, fraction)
    for label in np.flatnonzero(held).tolist():
        rows, count = by_class[begins[label] : begins[label + 1]], int(held[label])
        # The draw of an image depends on its name alone: no order of reading, no other image changes it.
        drawn = [hashlib.sha256(f"{seed}\0{keys[row]}".encode()).digest() for row in rows]
        chosen[rows[sorted(range(len(rows)), key=drawn.__getitem__)[:count]]] = True
    return chosen


def held_out_counts(counts: np.ndarray, fraction: float) -> np.ndarray:
    """How many images of each class to hold out: int64 (classes,), ceil(fraction of all) by largest remainder.

    A class of two images and more keeps one at least on either side; a single image is trained on.
    """
    exact = np.where(counts < 2, 0, counts * fraction)
    held = np.floor(exact).astype(np.int64)
    # 1e-9: a fifth of ten is two, whatever the last bit of 0.2 says.
    more = math.ceil(exact.sum() - 1e-9) - int(held.sum())
    held[np.argsort(held - exact, kind="stable")[:more]] += 1
    return np.where(counts < 2, 0, np.clip(held, 1, np.maximum(counts - 1, 1)))


KNOWN = " (known name: digits; `alexnet data get NAME` fetches flowers, imagenette, cifar10, flowers102)"


def _exists(path: Path, *, hint: str = KNOWN) -> Path:
    try:
        path.stat()
    except (OSError, ValueError) as reason:
        if isinstance(reason, OSError) and not isinstance(reason, FileNotFoundError | NotADirectoryError):
            raise DataError(f"{shown(str(path))}: {reason.strerror}") from None
        raise DataError(f"{shown(str(path))}: no such file or folder{hint}") from None
    return path


def _regular(path: Path) -> bool:
    return stat.S_ISREG(path.stat().st_mode)


def _absolute(where: str | Path) -> str:
    return "digits" if str(where) == "digits" and not Path(where).exists() else str(Path(where).resolve())
