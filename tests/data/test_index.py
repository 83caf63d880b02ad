"""A kept index is the table that would be found anew, or it is not used."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from alexnet.data import index, sources
from alexnet.data.samples import Samples
from alexnet.data.sources import open_data
from tests.pictures import write_folder


@pytest.fixture(autouse=True)
def _everything_is_worth_keeping(monkeypatch, tmp_path):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "WORTH_KEEPING", 1)


def as_list(folder: Path) -> Path:
    lines = [f"{path.relative_to(folder.parent)} {path.parent.name}" for path in sorted(folder.rglob("*.*"))]
    (folder.parent / "list.txt").write_text("\n".join(lines))
    return folder.parent / "list.txt"


def as_tar(folder: Path) -> Path:
    with tarfile.open(folder.parent / "set.tar", "w") as tar:
        tar.add(folder, "set")
    return folder.parent / "set.tar"


def as_two_parts(folder: Path) -> Path:
    with tarfile.open(folder.parent / "set.tar", "w") as tar:
        for name in ("train", "val"):
            tar.add(folder, name)
    return folder.parent / "set.tar"


def as_shards(folder: Path) -> Path:
    (folder.parent / "shards").mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        with tarfile.open(folder.parent / "shards" / f"{number}.tar", "w") as tar:
            tar.add(path, path.name)
    return folder.parent / "shards"


def tables(where: Path) -> list[tuple]:
    def of(samples: Samples) -> tuple:
        content = [samples.read(row) for row in range(len(samples))]
        return (samples.fingerprint(), samples.root, samples.files, samples.classes, samples.ignored, samples.ignored.names, content,
                samples.raw, samples.shaping)  # fmt: skip

    data = open_data(where)
    assert data.val is not None
    return [of(data.train), of(data.val)]


@pytest.mark.parametrize("source", [as_list, as_tar, as_two_parts, as_shards])
def test_the_kept_table_is_the_found_one(tmp_path, monkeypatch, source):
    where = source(write_folder(tmp_path / "set", classes=2, each=6))
    found = tables(where)
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    with monkeypatch.context() as patch:
        for name in ("list_samples", "tar_sets"):
            patch.setattr(sources, name, None)
        assert tables(where) == found
    for spoiled in (b"", whole[: len(whole) // 2], b"no zip"):
        kept.write_bytes(spoiled)
        assert tables(where) == found and kept.read_bytes() == whole


@pytest.mark.parametrize("column", ["label", "file", "size"])
def test_a_table_whose_columns_do_not_fit_is_found_anew(tmp_path, column):
    where = as_tar(write_folder(tmp_path / "set", classes=2, each=6))
    found = tables(where)
    (kept,) = (tmp_path / "cache").iterdir()
    with np.load(kept, allow_pickle=False) as arrays:
        changed = dict(arrays)
    changed[f"0.{column}"] = changed[f"0.{column}"][1:] if column == "size" else changed[f"0.{column}"] + 5
    np.savez(kept, **changed)
    assert tables(where) == found


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("offset", lambda column: column - 10_000_000),
        ("size", lambda column: -column),
        ("label", lambda column: column - 5),
        ("file", lambda column: column - 5),
        ("name_at", lambda column: column + 10_000),
        ("name_at", lambda column: column - 10_000),
        ("names", lambda column: column[:-1]),
        ("offset", lambda column: column.astype(float)),
        ("size", lambda column: column.reshape(-1, 1)),
        ("said", lambda column: np.array("{}")),
        ("said", lambda column: np.array("[" * 100_000)),
    ],
)
def test_a_table_that_was_tampered_with_is_found_anew(tmp_path, column, change):
    where = as_tar(write_folder(tmp_path / "set", classes=2, each=6))
    found = tables(where)
    (kept,) = (tmp_path / "cache").iterdir()
    with np.load(kept, allow_pickle=False) as arrays:
        changed = dict(arrays)
    changed[f"0.{column}"] = change(changed[f"0.{column}"])
    np.savez(kept, **changed)
    assert tables(where) == found


def test_objects_in_a_kept_table_are_not_unpickled(tmp_path):
    where = as_tar(write_folder(tmp_path / "set", classes=2, each=6))
    found = tables(where)
    (kept,) = (tmp_path / "cache").iterdir()
    with np.load(kept, allow_pickle=False) as arrays:
        changed = dict(arrays)

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "canary",)

    changed["0.said"] = np.array(Evil(), object)
    np.savez(kept, **changed)
    assert tables(where) == found and not (tmp_path / "canary").exists()


def test_another_file_in_its_place_is_looked_at_anew(tmp_path):
    folder = write_folder(tmp_path / "set", classes=2, each=6)
    where = as_list(folder)
    assert len(open_data(where).train) == 9
    where.write_text("\n".join(where.read_text().splitlines()[:-2]))
    os.utime(where, ns=(1, 1))
    assert len(open_data(where).train) == 8
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_few_pictures_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "WORTH_KEEPING", 13)
    open_data(as_list(write_folder(tmp_path / "set", classes=2, each=6)))
    assert not (tmp_path / "cache").exists()


def test_the_table_of_another_set_in_its_place_is_found_anew(tmp_path):
    where = [as_tar(write_folder(tmp_path / name / "set", classes=2, each=each)) for name, each in (("a", 6), ("b", 7))]
    found = [tables(one) for one in where]
    one, two = sorted((tmp_path / "cache").iterdir())
    swapped = one.read_bytes(), two.read_bytes()
    one.write_bytes(swapped[1])
    two.write_bytes(swapped[0])
    assert [tables(one) for one in where] == found
