"""What is wrong with a data set: every picture is read, decoded and hashed once, and what is found is named."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import files, stop
from ..errors import BadImage, DataError, Stopped, TooLarge, UsageError
from .decode import Traits, cut_short, decode, is_picture, raw_form, traits
from .folders import EMPTY_CLASS
from .likeness import alike, likeness
from .samples import Samples, shown
from .threads import in_turn

AT_A_TIME: Final = 64  # pictures that a thread takes

# What breaks a training, or makes its result untrue.
FAULTS: Final = {
    "unreadable": "the file cannot be read",
    "empty file": "no bytes",
    "wrong kind": "not JPEG, PNG, WebP, GIF or BMP, whatever its name says",
    "truncated": "breaks off before its end",
    "damaged": "cannot be decoded",
    "oversized": "over the limits of decoding",
    "empty class": "a class folder without pictures",
    "one class": "training needs two or more",
    "other classes": "held-out pictures must have the classes of training",
    "two labels": "the same bytes in two classes",
    "leak": "to train on, and the same bytes are held out",
}
# What is read as docs/data.md says, and should be known.
REMARKS: Final = {
    "other suffix": "another kind than its name says; it is read as what it is",
    "CMYK": "becomes RGB without a colour profile",
    "16 bits": "the upper 8 are kept",
    "animated": "the first frame counts",
    "EXIF-rotated": "turned upright where the run's preprocess.json says exif",
    "corrupt EXIF": "the damaged part is ignored",
    "single picture": "a class of one picture",
    "duplicate": "the same bytes once more in the same part and class",
    "near duplicate": "looks like another picture",
}
KINDS: Final = (*FAULTS, *REMARKS)
SUFFIXES: Final = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WEBP", ".gif": "GIF",
    ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM",
}  # fmt: skip


class Problem(NamedTuple):
    """One thing found: where (a picture, or a class), of what kind, in what words; `row`: -1 for a class."""

    path: str
    kind: str
    detail: str
    row: int = -1

    @property
    def fault(self) -> bool:
        """Whether it breaks a training or makes it untrue."""
        return self.kind in FAULTS


@dataclass(frozen=True, eq=False)
class Report:
    """What `check` found. A row below len(train) is one of `train`, one from there on one of `val`.

    `keys`: the classes of both parts; `counts`: int64 (2, classes), pictures to train on and held out. `duplicates`,
    `near`: rows of pictures with the same bytes, and of those that look alike. `leaked`: of the held-out pictures, how
    many are among those to train on.
    """

    train: Samples
    val: Samples | None
    keys: tuple[str, ...]
    counts: NDArray[np.int64]
    problems: list[Problem]
    duplicates: list[list[int]]
    near: list[list[int]]
    leaked: int

    def __len__(self) -> int:
        return len(self.train) + len(self.val if self.val is not None else ())

    def at(self, row: int) -> tuple[Samples, int]:
        """The part that a row is in, and its row there."""
        if row < len(self.train):
            return self.train, row
        assert self.val is not None
        return self.val, row - len(self.train)

    def path(self, row: int) -> str:
        """Where the picture of a row is, as text safe to print."""
        samples, own = self.at(row)
        return shown(str(samples.path(own)))

    def found(self) -> Counter[str]:
        """How many problems there are of each kind, in the order of KINDS."""
        counted = Counter(problem.kind for problem in self.problems)
        return Counter({kind: counted[kind] for kind in KINDS if kind in counted})

    def faults(self) -> dict[str, int]:
        """How many there are of each kind of fault."""
        return {kind: count for kind, count in self.found().items() if kind in FAULTS}

    def left_out(self) -> dict[str, tuple[int, list[str]]]:
        """What the source holds and is not among its pictures: for each reason a count, and the first of the names."""
        parts = [self.train.ignored]
        if self.val is not None and self.val.ignored is not self.train.ignored:
            parts.append(self.val.ignored)
        reasons = dict.fromkeys(reason for part in parts for reason in part if reason != EMPTY_CLASS)
        return {
            reason: (
                sum(part[reason] for part in parts),
                [shown(name) for part in parts for name in part.names.get(reason, ())],
            )
            for reason in reasons
        }

    def to_json(self) -> dict[str, Any]:
        """The document of `data check --json`."""
        held = len(self) - len(self.train)
        return {
            "images": len(self),
            "train": len(self.train),
            "val": held,
            "classes": [
                {"class": key, "train": int(n), "val": int(v)}
                for key, n, v in zip(self.keys, *self.counts, strict=True)
            ],
            "faults": sum(self.faults().values()),
            "found": dict(self.found()),
            "problems": [
                {"path": one.path, "kind": one.kind, "detail": one.detail, "fault": one.fault} for one in self.problems
            ],
            "duplicates": [self._group(rows) for rows in self.duplicates],
            "near_duplicates": [self._group(rows) for rows in self.near],
            "leaked": self.leaked,
            "leaked_share": self.leaked / held if held else 0.0,
            "left_out": {
                reason: {"count": count, "names": names} for reason, (count, names) in self.left_out().items()
            },
        }

    def _group(self, rows: list[int]) -> dict[str, list[str]]:
        parts = [self.at(row) for row in rows]
        return {
            "paths": [self.path(row) for row in rows],
            "classes": [samples.classes.keys[samples.label[own]] for samples, own in parts],
            "parts": ["train" if row < len(self.train) else "val" for row in rows],
        }


class _Look(NamedTuple):
    """What one picture gave: (kind, detail) of what was found, the hash of its bytes (None: it cannot be decoded), and
    the likeness of its pixels where that was asked for.
    """

    found: list[tuple[str, str]]
    hash: bytes | None = None
    likeness: np.uint64 = np.uint64(0)


@dataclass
class _Seen:
    """What a part gave: (row, kind, detail) of what was found, and for each row whether it could be decoded, the hash
    of its bytes and the likeness of its pixels.
    """

    found: list[tuple[int, str, str]]
    good: NDArray[np.bool_]
    hashes: NDArray[np.uint64]  # (n, 2)
    likenesses: NDArray[np.uint64]  # (n,)


def check(
    train: Samples,
    val: Samples | None,
    *,
    threads: int,
    near: bool = False,
    progress: Callable[[int], None] = lambda seen: None,
) -> Report:
    """What is wrong with the parts of a data set, as `sources.open_parts` gives them; alike at any number of threads.

    `near` looks for pictures that look alike, too. `progress` is told how many pictures more have been looked at.
    DataError: an archive cut short or unreadable. Stopped: a signal came.
    """
    parts = [train] if val is None else [train, val]
    seen = [_scan(part, threads, near, progress) for part in parts]
    keys = tuple(dict.fromkeys(key for part in parts for key in part.classes.keys))
    number = {key: index for index, key in enumerate(keys)}
    labels = [np.array([number[key] for key in part.classes.keys], np.int64)[part.label] for part in parts]
    counts = np.zeros((2, len(keys)), np.int64)
    for index, label in enumerate(labels):
        counts[index] = np.bincount(label, minlength=len(keys))
    label, held = np.concatenate(labels), np.arange(sum(map(len, parts))) >= len(train)
    good = np.concatenate([one.good for one in seen])
    duplicates = _same(np.concatenate([one.hashes for one in seen]), np.flatnonzero(good))
    report = Report(
        train, val, keys, counts, [], duplicates, [], sum(int(held[rows].sum()) for rows in _across(duplicates, held))
    )
    begin = 0
    found: list[tuple[int, str, str]] = []
    for one in seen:
        found += [(begin + row, kind, detail) for row, kind, detail in one.found]
        begin += len(one.good)
    for rows in duplicates:
        found += _repeated(rows, label, held, report)
    if near and good.any():
        good[[row for rows in duplicates for row in rows[1:]]] = False  # one of each is enough
        rows = np.flatnonzero(good)
        before, group = alike(np.concatenate([one.likenesses for one in seen])[rows], _go_on)
        found += [
            (int(rows[i]), "near duplicate", f"looks like {report.path(int(rows[before[i]]))}")
            for i in np.flatnonzero(before != np.arange(len(before)))
        ]
        report.near.extend(_groups(group, rows))
    report.problems.extend(_of_classes(report))
    rank = {kind: index for index, kind in enumerate(KINDS)}
    found.sort(key=lambda one: (one[0], rank[one[1]]))
    report.problems.extend(Problem(report.path(row), kind, detail, row) for row, kind, detail in found)
    return report


def _go_on() -> None:
    if stop.requested():
        raise Stopped("stopped while checking; nothing was changed, the same command begins again")


def _scan(samples: Samples, threads: int, near: bool, progress: Callable[[int], None]) -> _Seen:
    """Every row of a part."""
    count = len(samples)
    seen = _Seen([], np.zeros(count, bool), np.zeros((count, 2), np.uint64), np.zeros(count, np.uint64))
    ranges = [range(start, min(start + AT_A_TIME, count)) for start in range(0, count, AT_A_TIME)]

    def look(rows: Iterable[int]) -> list[_Look]:
        return [_look(samples, row, near) for row in rows]

    with closing(in_turn(look, ranges, samples, threads=threads)) as made:
        for rows, looks in zip(ranges, made, strict=True):
            for row, one in zip(rows, looks, strict=True):
                seen.found += [(row, kind, detail) for kind, detail in one.found]
                if one.hash is not None:
                    seen.good[row] = True
                    seen.hashes[row] = np.frombuffer(one.hash, np.uint64)
                    seen.likenesses[row] = one.likeness
            progress(len(rows))
    return seen


def _look(samples: Samples, row: int, near: bool) -> _Look:
    """Reads, decodes and hashes a picture."""
    _go_on()
    try:
        data = samples.read(row)
    except BadImage as reason:
        return _Look([("oversized" if isinstance(reason, TooLarge) else "unreadable", reason.reason)])
    try:
        image = pixels_of(samples, data)
    except BadImage as reason:
        return _Look([(_fault(samples, data, reason), reason.reason)])
    found: list[tuple[str, str]] = []
    if not samples.raw:
        # in a pack the name is that of the picture it was made from
        found = list(_remarks(traits(data), samples.name(row) if samples.shaping is None else ""))
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return _Look(found, digest, likeness(image) if near else np.uint64(0))


def pixels_of(samples: Samples, data: bytes) -> NDArray[np.uint8]:
    """The pixels uint8 (h, w, 3) of the bytes of a row, encoded or raw; BadImage, without a name."""
    if not samples.raw:
        return decode(data, "")
    assert samples.shaping is not None
    return raw_form(data, samples.shaping.stored, "")


def _fault(samples: Samples, data: bytes, reason: BadImage) -> str:
    """The kind of fault of a file that was read and is not decoded."""
    if not data:
        return "empty file"
    if isinstance(reason, TooLarge):
        return "oversized"
    if samples.raw:
        return "damaged"
    if not is_picture(data):
        return "wrong kind"
    return "truncated" if cut_short(data) else "damaged"


def _remarks(one: Traits, name: str) -> Iterator[tuple[str, str]]:
    """(kind, detail) of what should be known of a picture."""
    expected = SUFFIXES.get(PurePath(name).suffix.lower(), one.kind)
    if expected != one.kind:
        yield "other suffix", f"a {one.kind} file, named as {expected}"
    if one.inks:
        yield "CMYK", one.inks
    if one.deep:
        yield "16 bits", "16 bits a colour"
    if one.animated:
        yield "animated", "more frames than one"
    if one.orientation != 1:
        yield "EXIF-rotated", f"EXIF orientation {one.orientation}"
    if one.exif_damaged:
        yield "corrupt EXIF", "EXIF that is not whole"


def _same(hashes: NDArray[np.uint64], rows: NDArray[np.int64]) -> list[list[int]]:
    """The groups of rows, two at least, with the same hash: each in order, and by their first rows."""
    order = rows[np.lexsort(hashes[rows].T)]
    ordered = hashes[order]
    begins = np.append(True, (ordered[1:] != ordered[:-1]).any(1)) if len(order) else np.empty(0, bool)
    return _groups(np.cumsum(begins), order)


def _groups(number: NDArray[np.int64], rows: NDArray[np.int64]) -> list[list[int]]:
    """The rows of each group number that stands twice or more: each in order, and by their first rows."""
    order = np.lexsort((rows, number))
    edges = np.flatnonzero(np.diff(number[order], prepend=-1, append=-1))
    many = np.flatnonzero(np.diff(edges) > 1)
    return sorted(rows[order[edges[i] : edges[i + 1]]].tolist() for i in many)


def _across(groups: list[list[int]], held: NDArray[np.bool_]) -> list[list[int]]:
    """The groups with pictures to train on and held-out ones."""
    return [rows for rows in groups if held[rows].any() and not held[rows].all()]


def _repeated(
    rows: list[int], label: NDArray[np.int64], held: NDArray[np.bool_], report: Report
) -> Iterator[tuple[int, str, str]]:
    """(row, kind, detail) of what is wrong with a group of pictures of the same bytes."""
    firsts: dict[tuple[int, bool], int] = {}  # of each class and part
    for row in rows:
        firsts.setdefault((int(label[row]), bool(held[row])), row)
    for row in rows:
        mine = (int(label[row]), bool(held[row]))
        other = next((first for (key, _), first in firsts.items() if key != mine[0]), None)
        if other is not None:
            yield row, "two labels", f"also {report.path(other)}, of class {shown(report.keys[label[other]])}"
        judged = next((first for (_, part), first in firsts.items() if part), None)
        if judged is not None and not mine[1]:
            yield row, "leak", f"also held out: {report.path(judged)}"
        if firsts[mine] != row:
            yield row, "duplicate", f"also {report.path(firsts[mine])}"


def _of_classes(report: Report) -> Iterator[Problem]:
    """What is wrong with the classes."""
    for part in (report.train, report.val):
        if part is None or (part is report.val and part.ignored is report.train.ignored):
            continue  # drawn from the same folders
        if EMPTY_CLASS in part.ignored:
            for key in np.array(part.classes.keys, object)[part.counts() == 0]:
                yield Problem(shown(str(part.root / key)), "empty class", f"a {EMPTY_CLASS}; fill it or remove it")
    if report.val is not None:
        both = set(report.train.classes.keys), set(report.val.classes.keys)
        for key in report.keys:
            if not (key in both[0] and key in both[1]):
                where = "to train on" if key in both[0] else "held out"
                yield Problem(shown(key), "other classes", f"a class of the pictures {where} only")
    if len(report.train.classes) < 2:
        yield Problem(shown(report.keys[0]), "one class", "there is no other to train with")
    for key, count in zip(report.keys, report.counts.sum(0), strict=True):
        if count == 1:
            yield Problem(shown(key), "single picture", "a class of one picture")


class Move(NamedTuple):
    """A faulty picture: where it is, where it goes (None where it can go nowhere), and all that is wrong with it."""

    path: str
    source: Path
    target: Path | None
    kind: str
    detail: str


def moves(report: Report, data: str, val: str | None) -> list[Move]:
    """What would be moved of the sources `data` and `val`: every picture with a fault, each once.

    A picture goes from its folder `DATA` to `DATA-bad`, beside it, by the same name. Pictures in an archive, a list or
    a pack go nowhere, nor does what a link leads to.
    """
    found: dict[int, list[Problem]] = {}
    for problem in report.problems:
        if problem.fault and problem.row >= 0:
            found.setdefault(problem.row, []).append(problem)
    made = []
    for row, problems in found.items():
        samples, own = report.at(row)
        folder = Path(data if val is None or samples is report.train else val)
        source, target = samples.path(own), None
        if is_folder(samples, folder):
            inside = source.absolute().relative_to(folder.absolute())
            if source.resolve() == folder.resolve() / inside:
                target = bad_folder(folder) / inside
        kinds, details = "; ".join(one.kind for one in problems), "; ".join(one.detail for one in problems)
        made.append(Move(report.path(row), source, target, kinds, details))
    return made


def is_folder(samples: Samples, where: Path) -> bool:
    """Whether the pictures of a part are the files of a folder, not of a list, an archive or a pack."""
    return where.is_dir() and not samples.files


def bad_folder(folder: Path) -> Path:
    """The folder beside `folder` into which its faulty pictures go."""
    folder = folder.resolve()
    return folder.with_name(f"{folder.name}-bad")


def move(chosen: Sequence[Move]) -> int:
    """Moves the pictures that can go somewhere, one after another; how many. None is overwritten, none deleted.

    DataError: one's place is taken (then none is moved), or it cannot be moved. Stopped: a signal came; the others are
    where they were.
    """
    there = [(one.source, one.target) for one in chosen if one.target is not None and os.path.lexists(one.source)]
    for source, target in there:
        if os.path.lexists(target):
            raise DataError(f"{shown(str(target))}: is there already; move it away ({shown(str(source))} stays)")
    for count, (source, target) in enumerate(there):
        if stop.requested():
            raise Stopped(f"stopped with {count} of {len(there)} pictures moved; the same command moves the others")
        try:
            files.move(source, target)
        except OSError as reason:
            raise DataError(
                f"{shown(str(source))}: cannot be moved to {shown(str(target))} ({reason.strerror}); {count} were moved"
            ) from None
    return len(there)


def check_movable(train: Samples, val: Samples | None, data: str, val_data: str | None) -> None:
    """UsageError where the pictures of a part are not files of a folder."""
    for samples, where in ((train, data), (val, val_data or data)):
        if samples is not None and not is_folder(samples, Path(where)):
            raise UsageError(
                f"--fix move: {shown(where)} is no folder of pictures, and nothing is moved out of a list, an archive "
                "or a pack; --fix report writes down what is wrong"
            )
