import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from alexnet.data.check import check
from alexnet.data.classes import Classes
from alexnet.data.samples import Samples, shown
from alexnet.errors import BadImage, DataError, TooLarge

CLASSES = Classes.of(["a", "b"])


@pytest.fixture
def own(tmp_path):
    """Three files of their own, in two classes."""
    contents = [b"first", b"second!", b"\0" * 70_000]
    for index, content in enumerate(contents):
        (tmp_path / f"{index}.jpg").write_bytes(content)
    samples = Samples.build(
        tmp_path, ["0.jpg", "1.jpg", "2.jpg"], label=[0, 1, 1], classes=CLASSES, size=[len(c) for c in contents]
    )
    return samples, contents


@pytest.fixture
def contained(tmp_path):
    """200 members in two containers, at offsets of their own."""
    rng = np.random.default_rng(0)
    blobs = [rng.bytes(100_000), rng.bytes(100_000)]
    for index, blob in enumerate(blobs):
        (tmp_path / f"{index}.tar").write_bytes(blob)
    file = rng.integers(0, 2, 200)
    offset = rng.integers(0, 90_000, 200)
    size = rng.integers(1, 10_000, 200)
    samples = Samples.build(
        tmp_path,
        [f"m{row}.jpg" for row in range(200)],
        label=file,
        classes=CLASSES,
        size=size,
        files=[tmp_path / "0.tar", tmp_path / "1.tar"],
        file=file,
        offset=offset,
    )
    return samples, [blobs[f][o : o + s] for f, o, s in zip(file, offset, size, strict=True)]


def test_own_files(own):
    samples, contents = own
    assert len(samples) == 3
    assert [samples.read(row) for row in range(3)] == contents
    assert samples.name(1) == samples.key(1) == "1.jpg"
    assert samples.path(1).read_bytes() == contents[1]
    assert samples.counts().tolist() == [1, 2]


def test_a_file_that_is_one_large_hole_is_refused_unread(tmp_path):
    """A stranger's file of a terabyte takes no room on a disk, and would take all of the memory."""
    path, tar = tmp_path / "a" / "hole.jpg", tmp_path / "hole.tar"
    path.parent.mkdir()
    for file in (path, tar):
        with file.open("wb") as stream:
            stream.truncate(1 << 40)
    said = "1,099,511,627,776 bytes, more than the limit of 1,073,741,824"
    own = Samples.build(tmp_path, ["a/hole.jpg"], label=[0], classes=CLASSES, size=[1 << 40])
    member = Samples.build(tmp_path, ["hole.jpg"], label=[0], classes=CLASSES, size=[1 << 40], files=[tar], file=[0])
    for samples, name in ((own, path), (member, tar / "hole.jpg")):
        with pytest.raises(TooLarge, match=f"^{name}: {said}$"):
            samples.read(0)
    report = check(own, None, threads=1)
    assert [(one.path, one.kind, one.detail) for one in report.problems if one.row >= 0] == [
        (str(path), "oversized", said)
    ]


def test_a_file_of_unknown_size_is_read_whole(own):
    samples, contents = own
    unknown = Samples.build(samples.root, ["1.jpg"], label=[-1], classes=Classes((), ()), size=[-1])
    assert unknown.read(0) == contents[1]
    assert unknown.counts().tolist() == []


def test_members_read_by_many_threads(contained):
    samples, contents = contained
    rows = np.random.default_rng(1).integers(0, 200, 4000)
    start = threading.Barrier(8)

    def read(part):
        start.wait()
        return [samples.read(row) for row in part]

    with ThreadPoolExecutor(8) as pool:
        found = [content for part in pool.map(read, np.split(rows, 8)) for content in part]
    assert found == [contents[row] for row in rows]


def test_descriptors_are_opened_once_and_closed_at_the_end(contained):
    samples, _ = contained
    before = len(list(Path("/proc/self/fd").iterdir()))
    parts = [samples.take([row]) for row in range(50)]
    for part in parts:
        part.read(0)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_take_reorders(contained):
    samples, contents = contained
    rows = [5, 3, 199, 5]
    taken = samples.take(rows)
    assert [taken.read(row) for row in range(4)] == [contents[row] for row in rows]
    assert taken.keys() == [samples.key(row) for row in rows]
    assert taken.names is samples.names
    assert taken.label.tolist() == samples.label[rows].tolist()
    assert len(samples.take([])) == 0


def test_a_missing_file_is_named(own):
    samples, _ = own
    samples.path(1).unlink()
    with pytest.raises(BadImage, match=r"/1\.jpg: No such file"):
        samples.read(1)


def test_a_file_that_changed_its_size_is_named(own):
    samples, _ = own
    samples.path(1).write_bytes(b"longer than it was")
    with pytest.raises(BadImage, match=r"/1\.jpg: 18 bytes, 7 when the data was opened"):
        samples.read(1)


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(own, kind):
    samples, _ = own
    samples.path(0).unlink()
    os.mkfifo(samples.path(0)) if kind == "fifo" else samples.path(0).mkdir()
    with pytest.raises(BadImage, match=r"/0\.jpg: not a regular file"):
        samples.read(0)


def test_a_container_cut_short_or_gone_is_named(contained):
    samples, _ = contained
    os.truncate(samples.files[0], 10)
    row = int(np.flatnonzero((samples.file == 0) & (samples.offset > 10))[0])
    with pytest.raises(DataError, match=rf"/0\.tar/m{row}\.jpg: 0 of \d+ bytes"):
        samples.read(row)
    samples.files[1].unlink()
    with pytest.raises(DataError, match=r"1\.tar: No such file"):
        samples.read(int(np.flatnonzero(samples.file == 1)[0]))


def test_any_file_name_works(tmp_path):
    names = [b"caf\xe9.jpg", b"new\nline.jpg", b"\x1b[31m.jpg", "日本.jpg".encode(), b"back\\xe9.jpg", b"-rf .jpg"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    samples = Samples.build(tmp_path, [os.fsdecode(n) for n in names], label=[0] * 6, classes=CLASSES, size=[-1] * 6)
    assert [samples.read(row) for row in range(6)] == names
    assert [os.fsencode(samples.name(row)) for row in range(6)] == names
    assert samples.key(0) == "caf\\udce9.jpg"
    assert samples.key(3) == "日本.jpg"
    assert len(set(samples.keys())) == 6
    assert all(map(str.isprintable, samples.keys()))
    assert json.loads(json.dumps(samples.keys(), ensure_ascii=False).encode()) == samples.keys()


def test_shown_is_one_to_one():
    names = ["a\\nb", "a\nb", "a\\\\nb", "\\", "\\\\", "caf\udce9", "caf\\udce9", "caf\\\\udce9"]
    assert len({shown(name) for name in names}) == len(names)


def test_a_name_with_nul_is_refused(tmp_path):
    with pytest.raises(DataError, match="NUL"):
        Samples.build(tmp_path, ["a\0b.jpg"], label=[0], classes=CLASSES, size=[1])


def test_fingerprint_says_what_is_in_the_table_and_nothing_else(tmp_path):
    def table(root="x", names=("a", "b"), label=(0, 1), classes=CLASSES, size=(1, 2), **more):
        return Samples.build(tmp_path / root, names, label=label, classes=classes, size=size, **more).fingerprint()

    base = table()
    assert len(base) == 64 and int(base, 16)
    assert table(root="elsewhere") == base
    tar = {"files": [tmp_path / "t.tar"], "file": [0, 0], "offset": [512, 2048]}
    others = [
        table(names=("a", "c")),
        table(names=("ab", "")),
        table(label=(1, 0)),
        table(size=(1, 3)),
        table(classes=Classes.of(["a", "c"])),
        table(raw=True),
        table(content="x"),
        table(**tar),
        table(**{**tar, "offset": [512, 4096]}),
    ]
    assert len({base, *others}) == len(others) + 1
    assert table(**tar) == table(**{**tar, "files": [tmp_path / "moved" / "t.tar"]})


def test_fingerprint_of_a_subset_is_that_of_the_same_table_built_anew(tmp_path):
    whole = Samples.build(tmp_path, ["a", "b", "c"], label=[0, 1, 0], classes=CLASSES, size=[1, 2, 3])
    anew = Samples.build(tmp_path, ["c", "b"], label=[0, 1], classes=CLASSES, size=[3, 2])
    assert whole.take([2, 1]).fingerprint() == anew.fingerprint()


def test_as_classes_relabels_by_key_and_keeps_the_unlabelled(own):
    samples, _ = own
    wider = samples.as_classes(Classes.of(["b", "a"]), "val")
    assert wider.label.tolist() == [1, 0, 0]
    none = Samples.build(samples.root, ["0.jpg", "1.jpg"], label=[-1, 1], classes=CLASSES, size=[-1, -1])
    assert none.as_classes(Classes.of(["b", "a"]), "val").label.tolist() == [-1, 0]


def test_a_million_rows_are_small(tmp_path):
    count = 100_000
    samples = Samples.build(
        tmp_path,
        (f"n{row % 1000:08d}.tar/n{row % 1000:08d}_{row}.JPEG" for row in range(count)),
        label=np.arange(count) % 2,
        classes=CLASSES,
        size=np.full(count, 110_000),
    )
    columns = sum(c.nbytes for c in (samples.file, samples.offset, samples.size, samples.label, samples.name_at))
    assert columns == 36 * count
    assert len(samples.names) < 45 * count


class Stale:
    """A network's disk whose handles have gone stale: of each of `times` readings, the system says so."""

    def __init__(self, monkeypatch, times: int) -> None:
        self.left, self.pread = times, os.pread
        monkeypatch.setattr(os, "pread", self)
        monkeypatch.setattr(os, "preadv", self, raising=False)

    def __call__(self, handle, *rest):
        if self.left:
            self.left -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return self.pread(handle, *rest)


def test_a_stale_handle_is_asked_for_once_more(own, contained, monkeypatch):
    for samples, content in (own, contained):
        for row in range(len(samples)):
            Stale(monkeypatch, 1)
            assert samples.read(row) == content[row]
            monkeypatch.undo()
    for samples, _ in (own, contained):
        Stale(monkeypatch, 2)
        with pytest.raises(DataError, match=r"\.jpg: Stale file handle"):
            samples.read(0)
        monkeypatch.undo()


def test_pixels_are_read_again_from_a_stale_handle(tmp_path, monkeypatch):
    pixels = np.arange(2 * 12, dtype=np.uint8).reshape(2, 2, 2, 3)
    (tmp_path / "x").write_bytes(pixels.tobytes())
    samples = Samples.build(
        tmp_path, ["0", "1"], label=[0, 0], classes=Classes.of(["a"]), size=[12, 12], files=[tmp_path / "x"],
        file=[0, 0], offset=[0, 12], raw=True,
    )  # fmt: skip
    image = np.zeros((2, 2, 3), np.uint8)
    samples.read(0)
    Stale(monkeypatch, 2)
    samples.read_into(1, image)
    assert np.array_equal(image, pixels[1])


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_a_container_that_is_no_file_any_more_is_refused_at_once(contained, kind):
    samples, _ = contained
    path = samples.files[0]
    path.unlink()
    os.mkfifo(path) if kind == "fifo" else path.mkdir()
    with pytest.raises(DataError, match=r"0\.tar: not a regular file"):
        samples.read(int(np.flatnonzero(samples.file == 0)[0]))
