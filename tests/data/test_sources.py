import io
import math
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torchvision
import webdataset
from rich.console import Console
from webdataset import tariterators

from alexnet.data import tars
from alexnet.data.decode import decode
from alexnet.data.digits import COUNT
from alexnet.data.sources import held_out_counts, open_data, open_held_out, open_images, open_parts, open_source
from alexnet.errors import BadImage, DataError, UsageError
from tests.pictures import encoded, picture

from .ilsvrc import add, jpeg


def tree(root: Path, files: dict[str, int]) -> Path:
    """A JPEG for each name, its seed the value."""
    for name, seed in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(seed))
    return root


def classes_of(root: Path, counts: dict[str, int]) -> Path:
    return tree(root, {f"{key}/{n:03d}.jpg": 97 * n + len(key) for key, count in counts.items() for n in range(count)})


def pack(path: Path, files: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files.items():
            add(tar, name, content)
    return path


def contents(samples):
    return [samples.read(row) for row in range(len(samples))]


# Folders


def test_a_random_tree_is_read_as_imagefolder_reads_it(tmp_path):
    draw = random.Random(0)
    parts = ["a", "b b", "10", "9", "Z", "ü", "sub-1", "sub", "x.y"]
    suffixes = [".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".bmp", ".webp", ".ppm", ".tif"]
    files = {}
    for index in range(150):
        depth = draw.randint(1, 4)
        folders = [draw.choice(parts) for _ in range(depth)]
        files["/".join([*folders, f"{draw.choice(parts)}{index}{draw.choice(suffixes)}"])] = 0
    tree(tmp_path / "set", files)
    mine = open_source(tmp_path / "set")
    theirs = torchvision.datasets.ImageFolder(str(tmp_path / "set"))
    assert list(mine.classes.keys) == theirs.classes
    assert [(str(mine.path(row)), int(mine.label[row])) for row in range(len(mine))] == theirs.samples
    assert mine.label.tolist() == theirs.targets


def test_numbered_folders_are_sorted_as_text(tmp_path):
    classes_of(tmp_path / "set", {str(number): 1 for number in range(11)})
    mine = open_source(tmp_path / "set")
    assert mine.classes.keys == ("0", "1", "10", "2", "3", "4", "5", "6", "7", "8", "9")
    theirs = torchvision.datasets.ImageFolder(str(tmp_path / "set")).class_to_idx
    assert {key: label for label, key in enumerate(mine.classes.keys)} == theirs


def test_junk_is_ignored_and_counted(tmp_path):
    root = classes_of(tmp_path / "set", {"a": 2, "b": 2})
    tree(
        root, {"__MACOSX/a/x.jpg": 0, ".ipynb_checkpoints/x.jpg": 0, "a/.ipynb_checkpoints/x.jpg": 0, "a/._000.jpg": 0}
    )
    (root / ".DS_Store").touch()
    (root / "a" / "Thumbs.db").touch()
    (root / "a" / "notes.txt").touch()
    (root / "readme.jpg").touch()
    os.mkfifo(root / "b" / "pipe.jpg")
    (root / "b" / "dangling.jpg").symlink_to(root / "nowhere.jpg")
    samples = open_source(root)
    assert samples.keys() == ["a/000.jpg", "a/001.jpg", "b/000.jpg", "b/001.jpg"]
    assert samples.ignored == {
        "hidden or junk": 6,
        "not an image by its suffix": 1,
        "outside the class folders": 1,
        "not a regular file": 2,
    }


def test_links_are_followed_and_loops_end(tmp_path):
    root = classes_of(tmp_path / "set", {"a": 1, "b": 1})
    tree(tmp_path / "elsewhere", {"deep/e.jpg": 5})
    (root / "a" / "loop").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root)
    (root / "b" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "linked.jpg").symlink_to(root / "a" / "000.jpg")
    (tmp_path / "elsewhere" / "back").symlink_to(root / "b")
    samples = open_source(root)
    assert samples.keys() == ["a/000.jpg", "b/000.jpg", "b/linked.jpg", "b/linked/deep/e.jpg"]
    assert samples.ignored == {"folder seen before (a link)": 3}
    assert len(contents(samples)) == 4


def test_what_is_no_picture_at_all_is_passed_over_and_counted(tmp_path, monkeypatch):
    """Links to themselves, to nothing and to a device, a FIFO and a socket, each with a picture's name."""
    root = classes_of(tmp_path / "set", {"a": 2, "b": 2})
    for name in ("self.jpg", "self"):
        (root / "a" / name).symlink_to(root / "a" / name)
    (root / "a" / "nothing.jpg").symlink_to("nowhere")
    (root / "a" / "device.jpg").symlink_to("/dev/zero")
    os.mkfifo(root / "a" / "fifo.jpg")
    monkeypatch.chdir(root / "b")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.jpg")
        begin = time.monotonic()
        samples = open_source(root)
        assert open_images(root / "a").keys() and time.monotonic() - begin < 5
    assert len(contents(samples)) == 4
    assert samples.ignored == {"not a regular file": 5, "not an image by its suffix": 1}
    (root / "ring").symlink_to(root / "ring")
    assert open_source(root).ignored["outside the class folders"] == 1
    for opens in (open_source, open_data, open_images):
        for name in ("a/self", "a/fifo.jpg", "b/socket.jpg"):
            with pytest.raises(DataError, match=f"{root / name}: "):
                opens(root / name)


@pytest.fixture
def as_nobody():
    """A folder, and this process as a user for whom its permissions count."""
    place = Path(mkdtemp())
    place.chmod(0o755)
    mine = os.geteuid()
    yield place, (lambda: os.seteuid(65534)) if mine == 0 else (lambda: None)
    os.seteuid(mine)
    for path in (place, *place.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(place)


@pytest.mark.parametrize("mode", [0o000, 0o444])
@pytest.mark.parametrize("where", ["", "a", "a/inner"])
def test_a_folder_that_cannot_be_read_is_named(as_nobody, where, mode):
    place, become = as_nobody
    root = tree(place / "set", {f"{key}/inner/{n}.jpg": n for key in "ab" for n in range(2)})
    (root / where).chmod(mode)
    become()
    with pytest.raises(DataError, match="Permission denied") as caught:
        open_source(root)
    assert str(caught.value).startswith(str(root / where)) and caught.value.code == 3


def test_a_picture_that_cannot_be_read_is_named(as_nobody):
    place, become = as_nobody
    root = classes_of(place / "set", {"a": 1, "b": 1})
    (root / "a" / "000.jpg").chmod(0)
    become()
    samples = open_source(root)
    with pytest.raises(BadImage, match=f"{root}/a/000.jpg: Permission denied"):
        samples.read(0)


def test_the_bytes_say_what_a_file_is_and_its_name_whether_it_is_looked_at(tmp_path):
    one = encoded(picture(8, 8), "PNG")
    for name in ("x.JPEG", "y.jpg", "z.Png", "no-suffix", "w.jpeg2", "s.svg", "h.heic", "e.eps", "p.pdf"):
        for label in "ab":
            (tmp_path / "set" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / label / name).write_bytes(one)
    samples = open_source(tmp_path / "set")
    assert [samples.name(row)[2:] for row in range(3)] == ["x.JPEG", "y.jpg", "z.Png"] and len(samples) == 6
    assert samples.ignored == {"not an image by its suffix": 12}
    assert all(decode(content, "x").shape == (8, 8, 3) for content in contents(samples))


def test_an_empty_class_folder_is_named(tmp_path):
    root = classes_of(tmp_path / "set", {"a": 2, "b": 2})
    (root / "c" / "inner").mkdir(parents=True)
    with pytest.raises(DataError, match=r"set/c: a class folder without images") as caught:
        open_data(root)
    assert caught.value.code == 3


def test_one_class_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"one class only \(a\)"):
        open_data(classes_of(tmp_path / "set", {"a": 5}))


def test_no_images(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    with pytest.raises(DataError, match="no class folders in it"):
        open_data(tmp_path)


@pytest.mark.parametrize("where", ["nowhere", "nowhere/train", "flowers", "caf\udce9\n"])
def test_a_path_that_is_not_there(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    hint = r" \(known name: digits; .*fetches flowers"
    for opens, said in ((open_source, hint), (open_data, hint), (open_images, "$")):
        with pytest.raises(DataError, match=": no such file or folder" + said) as caught:
            opens(where)
        assert str(caught.value).isprintable()


def test_something_else(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"x\.zip: not a data set"):
        open_data(tmp_path / "x.zip")
    os.mkfifo(tmp_path / "pipe")
    for opens in (open_data, open_images):
        with pytest.raises(DataError, match="regular file"):
            opens(tmp_path / "pipe")


def test_a_file_that_is_not_utf8(tmp_path):
    root = classes_of(tmp_path / "set", {"a": 1, "b": 1})
    path = os.fsencode(root / "a") + b"/caf\xe9.jpg"
    Path(os.fsdecode(path)).write_bytes(b"bytes")
    samples = open_source(root)
    assert samples.keys() == ["a/000.jpg", "a/caf\\udce9.jpg", "b/000.jpg"]
    assert samples.read(1) == b"bytes"
    again = open_data(root, val_names=["a/caf\\udce9.jpg"])
    assert again.val.keys() == ["a/caf\\udce9.jpg"]


# Splits


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["val", "test"], "val"),
        (["validation", "valid"], "valid"),
        (["validation", "test"], "validation"),
        (["test"], "test"),
    ],
)
def test_val_beside_train(tmp_path, there, taken):
    classes_of(tmp_path / "train", {"a": 3, "b": 2})
    for name in there:
        classes_of(tmp_path / name, {"a": 1, "b": 2})
    data = open_data(tmp_path)
    assert (len(data.train), len(data.val)) == (5, 3)
    assert data.val.root == tmp_path / taken
    assert data.split == {}
    with pytest.raises(DataError, match=re.escape(f"name {tmp_path / 'train'} or {tmp_path / taken}") + "$"):
        open_source(tmp_path)


def test_a_tar_of_both_has_no_part_to_name(tmp_path):
    for name in ("train", "val"):
        classes_of(tmp_path / "in" / name, {"a": 2, "b": 2})
    with tarfile.open(tmp_path / "both.tar", "w") as tar:
        tar.add(tmp_path / "in", arcname=".")
    assert len(open_data(tmp_path / "both.tar").val) == 4
    with pytest.raises(DataError, match=r"name a part of a pack that `alexnet data pack` makes of it$"):
        open_source(tmp_path / "both.tar")


def test_train_alone_is_split(tmp_path):
    classes_of(tmp_path / "train", {"a": 5, "b": 5})
    data = open_data(tmp_path)
    assert (len(data.train), len(data.val)) == (8, 2)


def test_a_class_may_be_called_train(tmp_path):
    data = open_data(classes_of(tmp_path, {"train": 5, "tram": 5}))
    assert data.classes.keys == ("train", "tram")


def test_train_and_val_in_capitals(tmp_path):
    classes_of(tmp_path / "Train", {"a": 3, "b": 2})
    classes_of(tmp_path / "Val", {"a": 1, "b": 2})
    data = open_data(tmp_path)
    assert (len(data.train), len(data.val)) == (5, 3) and data.classes.keys == ("a", "b")


def test_train_beside_folders_of_unknown_purpose_is_no_class(tmp_path):
    classes_of(tmp_path / "train", {"a": 3, "b": 2})
    classes_of(tmp_path / "dev", {"a": 1, "b": 2})
    with pytest.raises(DataError, match=r"train/ holds folders .*\(dev\) is called val, .*--val"):
        open_data(tmp_path)
    assert len(open_data(tmp_path / "train", val=tmp_path / "dev").val) == 3


def test_val_with_other_classes_is_refused(tmp_path):
    classes_of(tmp_path / "train", {"a": 2, "b": 2, "c": 2})
    classes_of(tmp_path / "val", {"a": 1, "c": 1})
    with pytest.raises(DataError, match=r"missing b$"):
        open_data(tmp_path)
    classes_of(tmp_path / "val", {"b": 1, "d": 1})
    with pytest.raises(DataError, match=r"unknown d$") as caught:
        open_data(tmp_path)
    assert caught.value.code == 3


def test_val_labels_are_trains(tmp_path):
    (tmp_path / "train.csv").write_text("path,label\n0.jpg,b\n1.jpg,a\n2.jpg,c\n")
    (tmp_path / "val.csv").write_text("path,label\n0.jpg,c\n1.jpg,b\n2.jpg,a\n")
    tree(tmp_path, {f"{n}.jpg": n for n in range(3)})
    data = open_data(tmp_path / "train.csv", val=tmp_path / "val.csv")
    assert data.val.label.tolist() == [2, 1, 0]
    assert data.val.classes == data.train.classes
    assert open_data(data.source, **data.split).fingerprint == data.fingerprint


def test_the_split_is_stratified_seeded_and_a_function_of_names(tmp_path):
    counts = {"a": 40, "b": 10, "c": 2, "d": 1}
    data = open_data(classes_of(tmp_path / "x", counts), val_fraction=0.25, seed=3)
    assert data.val.counts().tolist() == [10, 3, 1, 0]
    assert data.train.counts().tolist() == [30, 7, 1, 1]
    assert not set(data.train.keys()) & set(data.val.keys())
    assert len(data.train) + len(data.val) == 53
    # Written in another order, elsewhere: the same.
    names = [f"{key}/{n:03d}.jpg" for key, count in counts.items() for n in range(count)]
    random.Random(1).shuffle(names)
    other = open_data(tree(tmp_path / "y", dict.fromkeys(names, 0)), val_fraction=0.25, seed=3)
    assert other.val.keys() == data.val.keys()
    assert open_data(tmp_path / "x", val_fraction=0.25, seed=4).val.keys() != data.val.keys()


def test_a_split_is_found_again(tmp_path):
    root = classes_of(tmp_path, {"a": 10, "b": 10})
    data = open_data(root, seed=5)
    assert data.source == str(root)
    assert data.split == {"val_fraction": 0.2, "seed": 5, "val_names": data.val.keys()}
    tree(root, {"a/new.jpg": 0})
    again = open_data(data.source, **data.split)
    assert again.val.keys() == data.val.keys()
    assert again.val.fingerprint() == data.val.fingerprint()
    assert len(again.train) == len(data.train) + 1
    (root / data.val.key(0)).unlink()
    with pytest.raises(DataError, match=f"1 of the 4 held-out images are gone, the first {data.val.key(0)}"):
        open_data(data.source, **data.split)


@pytest.mark.parametrize("fraction", [1, -0.5, float("nan")])
def test_a_fraction_that_is_none(tmp_path, fraction):
    with pytest.raises(UsageError, match="val_fraction"):
        open_data(classes_of(tmp_path, {"a": 2, "b": 2}), val_fraction=fraction)


def test_a_fraction_of_nothing_holds_nothing_out(tmp_path):
    root = classes_of(tmp_path / "x", {"a": 2, "b": 2})
    data = open_data(root, val_fraction=0)
    assert data.val is None and len(data.train) == 4 and data.split == {"val_fraction": 0.0}
    again = open_data(data.source, **data.split)
    assert again.val is None and again.fingerprint == data.fingerprint
    assert open_data(root, val_fraction=0.5).fingerprint != data.fingerprint
    # what is kept apart is kept apart, whatever the fraction
    classes_of(tmp_path / "y/train", {"a": 1, "b": 1})
    classes_of(tmp_path / "y/val", {"a": 1, "b": 2})
    assert len(open_data(tmp_path / "y", val_fraction=0).val) == 3


def test_what_is_held_out_is_what_is_judged_by(tmp_path):
    root = classes_of(tmp_path / "x", {"a": 2, "b": 3})
    assert open_held_out(root).keys() == open_source(root).keys()
    classes_of(tmp_path / "y/train", {"a": 2, "b": 2})
    classes_of(tmp_path / "y/val", {"b": 1})
    assert open_held_out(tmp_path / "y").keys() == ["b/000.jpg"]


def test_too_few_to_hold_out(tmp_path):
    with pytest.raises(DataError, match="too few images to hold some out; name others with --val$"):
        open_data(classes_of(tmp_path, {"a": 1, "b": 1}))
    train, held_out, split = open_parts(tmp_path)
    assert (len(train), held_out, split["val_names"]) == (2, None, [])


def test_held_out_counts():
    draw = np.random.default_rng(0)
    for _ in range(500):
        counts = draw.integers(2, 60, draw.integers(1, 12))
        fraction = float(draw.choice([0.1, 0.2, 0.25, 0.5, 0.9]))
        held = held_out_counts(counts, fraction)
        assert (held >= 1).all()
        assert (held < counts).all()
        inner = (counts * fraction >= 1) & (counts * fraction <= counts - 1)
        assert (np.abs(held - counts * fraction)[inner] < 1 + 1e-9).all()
    assert held_out_counts(np.array([10] * 10), 0.2).tolist() == [2] * 10
    assert held_out_counts(np.array([1, 1, 6]), 0.2).tolist() == [0, 0, 2]
    assert held_out_counts(np.array([0, 5]), 0.2).tolist() == [0, 1]


# Lists


def test_a_text_list(tmp_path):
    tree(tmp_path, {"one.jpg": 1, "with space/two three.jpg": 2})
    absolute = tree(tmp_path / "else", {"three.jpg": 3}) / "three.jpg"
    (tmp_path / "list.txt").write_text(f"one.jpg rose\n\nwith space/two three.jpg\tdaisy\r\n{absolute} rose")
    samples = open_source(tmp_path / "list.txt")
    assert samples.classes.keys == ("daisy", "rose")
    assert samples.label.tolist() == [1, 0, 1]
    assert contents(samples) == [jpeg(1), jpeg(2), jpeg(3)]
    assert samples.keys() == ["one.jpg", "with space/two three.jpg", str(absolute)]


def test_integer_labels_are_sorted_as_numbers(tmp_path):
    tree(tmp_path, {f"{n}.jpg": n for n in range(4)})
    (tmp_path / "list.txt").write_text("".join(f"{n}.jpg {label}\n" for n, label in enumerate((10, 2, "02", 0))))
    samples = open_source(tmp_path / "list.txt")
    assert samples.classes.keys == ("0", "2", "10")
    assert samples.label.tolist() == [2, 1, 1, 0]


@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_a_list_that_is_one_large_hole_is_refused_unread(tmp_path, suffix):
    with (tmp_path / f"list.{suffix}").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(DataError, match=rf"list\.{suffix}: 1,099,511,627,776 bytes, more than the limit"):
        open_source(tmp_path / f"list.{suffix}")


def test_a_csv_list(tmp_path):
    tree(tmp_path, {"a,b.jpg": 1, "c.jpg": 2})
    (tmp_path / "list.csv").write_text(
        '\ufefflabel,id,path\r\nbig cat,7,"a,b.jpg"\r\ndog,8,c.jpg\r\n', encoding="utf-8"
    )
    samples = open_source(tmp_path / "list.csv")
    assert samples.classes.keys == ("big cat", "dog")
    assert contents(samples) == [jpeg(1), jpeg(2)]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("l.txt", "x.jpg a\nx.jpg\n", r"l\.txt: line 2: expected PATH LABEL, got x\.jpg"),
        ("l.txt", "x.jpg a\n\ngone.jpg a\n", r"l\.txt: line 3: gone\.jpg: No such file"),
        ("l.txt", "x.jpg a\nfolder a\n", r"l\.txt: line 2: folder: not a regular file"),
        ("l.txt", "x\0.jpg a\n", r"l\.txt: line 1: x\\x00\.jpg: embedded null byte"),
        ("l.txt", "\n", r"l\.txt: no images in it"),
        ("l.txt", "x.jpg a\nfolder/y.jpg b\nx.jpg b\n", r"l\.txt: line 3: x\.jpg stands in line 1 already"),
        ("l.csv", "", r"l\.csv: line 1: expected a header with path and label"),
        ("l.csv", "x.jpg,a\n", r"l\.csv: line 1: expected a header with path and label"),
        ("l.csv", "path,label\nx.jpg\n", r"l\.csv: line 2: expected 2 fields"),
        ("l.csv", "path,label\nx.jpg,a\nx.jpg,\n", r"l\.csv: line 3: expected 2 fields with a path and a label"),
        ("l.csv", "path,label\nx.jpg,a\ngone.jpg,a\n", r"l\.csv: line 3: gone\.jpg: No such file"),
        ("l.csv", 'path,label\n"x.jpg"y,a\n', r"l\.csv: line 2: "),
        ("l.csv", "path,label\n", r"l\.csv: no images in it"),
    ],
)
def test_a_wrong_list_names_its_line(tmp_path, name, text, problem):
    tree(tmp_path, {"x.jpg": 1, "folder/y.jpg": 2})
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=problem):
        open_data(tmp_path / name)


# Tars


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("top", ["", "./", "flowers/", "./" + "long" * 15 + "/"])
def test_class_folders_in_a_tar_are_those_of_the_folder(tmp_path, form, top):
    root = tree(
        tmp_path / "set", {"b/x.jpg": 1, "b/sub/z.jpg": 2, "a/" + "n" * 60 + ".png": 3, "10/p.JPG": 4, "b/y.jpg": 5}
    )
    files = [path for path in root.rglob("*") if path.is_file()]
    random.Random(0).shuffle(files)
    path = pack(tmp_path / "set.tar", {top + str(f.relative_to(root)): f.read_bytes() for f in files}, form)
    tarred, plain = open_source(path), open_source(root)
    assert tarred.classes == plain.classes
    assert tarred.label.tolist() == plain.label.tolist()
    assert contents(tarred) == contents(plain)
    prefix = str(Path("set.tar") / top)
    assert tarred.keys() == [f"{prefix}/{plain.key(row)}" for row in range(len(plain))]


def test_offsets_are_those_of_tarfile(tmp_path):
    draw = random.Random(2)
    names = {
        f"c{draw.randint(0, 3)}/{'ü' * draw.randint(0, 90)}{n}.jpg": os.urandom(draw.randint(0, 3000))
        for n in range(200)
    }
    path = pack(tmp_path / "x.tar", names, tarfile.PAX_FORMAT)
    samples = open_source(path)
    assert len(samples) == 200
    with tarfile.open(path) as tar:
        for row in range(200):
            name = samples.name(row).removeprefix("x.tar/")
            assert samples.offset[row] == tar.getmember(name).offset_data
            assert samples.read(row) == tar.extractfile(name).read() == names[name]


def test_names_in_a_tar_may_be_any_bytes(tmp_path):
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        path = tmp_path / "x.tar"
        with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
            add(tar, "a/caf\udce9.jpg", b"1")
            add(tar, "b/x.jpg", b"2")
        assert open_source(path).keys() == ["x.tar/a/caf\\udce9.jpg", "x.tar/b/x.jpg"]


def test_train_and_val_in_one_tar(tmp_path):
    names = ("train/a/1.jpg", "train/b/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "val/b/3.jpg", "extra/x.jpg")
    for top in ("", "set/"):
        path = pack(tmp_path / "x.tar", {top + name: name.encode() for name in names})
        data = open_data(path)
        assert contents(data.train) == [b"train/a/1.jpg", b"train/b/1.jpg", b"train/b/2.jpg"]
        assert contents(data.val) == [b"val/a/3.jpg", b"val/b/3.jpg"]
        assert data.val.label.tolist() == [0, 1]
        assert data.train.ignored["outside train/ and val/"] == 1


def test_shards_are_one_set(tmp_path):
    (tmp_path / "train").mkdir()
    pack(tmp_path / "train" / "0.tar", {"a/1.jpg": b"1", "b/1.jpg": b"2"})
    pack(tmp_path / "train" / "1.tar", {"c/1.jpg": b"3", "a/1.jpg": b"4"})
    (tmp_path / "train" / "index.json").write_text("{}")
    samples = open_source(tmp_path / "train")
    assert samples.keys() == ["0.tar/a/1.jpg", "1.tar/a/1.jpg", "0.tar/b/1.jpg", "1.tar/c/1.jpg"]
    assert contents(samples) == [b"1", b"4", b"2", b"3"]
    assert len(open_data(tmp_path, val_fraction=0.5).val) == 1


@pytest.mark.parametrize("labels", [[3, 10, 3, 0], ["cat", "dog", "cat", "ant"]])
def test_webdataset_members_as_webdataset_reads_them(tmp_path, labels):
    path = str(tmp_path / "shard.tar")
    with webdataset.TarWriter(path) as writer:
        for number, label in enumerate(labels):
            writer.write(
                {"__key__": f"part/{number:04d}", "jpg": jpeg(number), "cls": str(label).encode(), "json": b"{}"}
            )
    with Path(path).open("rb") as stream:
        theirs = list(
            tariterators.group_by_keys({**file, "__url__": path} for file in tariterators.tar_file_iterator(stream))
        )
    mine = open_source(path)
    assert contents(mine) == [sample["jpg"] for sample in theirs]
    assert mine.keys() == [f"shard.tar/{sample['__key__']}.jpg" for sample in theirs]
    assert [mine.classes.keys[label] for label in mine.label] == [sample["cls"].decode() for sample in theirs]
    assert list(mine.classes.keys) == [str(key) for key in sorted(set(labels))]
    assert mine.ignored == {"neither an image nor a .cls label": 4}


def test_webdataset_without_a_label_or_with_two_images(tmp_path):
    path = pack(tmp_path / "x.tar", {"a.jpg": b"1", "a.cls": b"0", "b.jpg": b"2"})
    with pytest.raises(DataError, match=r"member b\.jpg has no \.cls label"):
        open_source(path)
    path = pack(tmp_path / "x.tar", {"a.jpg": b"1", "a.cls": b"0", "a.png": b"2"})
    with pytest.raises(DataError, match=r"members a\.jpg and a\.png: one image a key"):
        open_source(path)


def special(kind: bytes, name: str = "a/evil.jpg", link: str = "/etc/passwd") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        (special(tarfile.SYMTYPE), r"member a/evil\.jpg: a symbolic link"),
        (special(tarfile.LNKTYPE), r"member a/evil\.jpg: a hard link"),
        (special(tarfile.CHRTYPE), r"member a/evil\.jpg: not a regular file"),
        (special(tarfile.BLKTYPE), r"member a/evil\.jpg: not a regular file"),
        (special(tarfile.FIFOTYPE), r"member a/evil\.jpg: not a regular file"),
        (special(tarfile.GNUTYPE_SPARSE), r"member a/evil\.jpg: a sparse file"),
        (special(tarfile.REGTYPE, "../evil.jpg"), r"member \.\./evil\.jpg: an absolute name"),
        (special(tarfile.REGTYPE, "a/../../evil.jpg"), r"member a/\.\./\.\./evil\.jpg: an absolute name"),
        (special(tarfile.REGTYPE, "/etc/evil.jpg"), r"member /etc/evil\.jpg: an absolute name"),
        (special(tarfile.SYMTYPE, "a/\x1b[2J.jpg"), r"member a/\\x1b\[2J\.jpg: a symbolic link"),
    ],
)
def test_what_is_no_plain_member_is_refused_by_name(tmp_path, member, problem):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "a/1.jpg", b"1")
        tar.addfile(member)
        add(tar, "b/1.jpg", b"1")
    with pytest.raises(DataError, match=problem):
        open_source(tmp_path / "x.tar")


def test_a_pax_path_or_sparse_map_is_seen(tmp_path):
    for headers, problem in (({"path": "../evil.jpg"}, "absolute name"), ({"GNU.sparse.major": "1"}, "a sparse file")):
        member = tarfile.TarInfo("a/1.jpg")
        member.pax_headers = headers
        with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(member)
        with pytest.raises(DataError, match=problem):
            open_source(tmp_path / "x.tar")


def test_a_size_beyond_eight_gigabytes_is_read(tmp_path):
    size = 9 << 30
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / "x.tar"
        big = tarfile.TarInfo("a/big.jpg")
        big.size = size
        header = big.tobuf(form)
        with path.open("wb") as stream:
            stream.write(header)
            stream.seek(len(header) + size)  # a hole: it takes no room
            rest = io.BytesIO()
            with tarfile.open(fileobj=rest, mode="w") as tar:
                add(tar, "b/small.jpg", b"small")
            stream.write(rest.getvalue())
        samples = open_source(path)
        assert samples.size.tolist() == [size, 5]
        assert samples.read(1) == b"small"


def test_a_name_that_stands_twice_is_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("a/1.jpg", "b/1.jpg", "a/1.jpg"):
            add(tar, name, b"1")
    with pytest.raises(DataError, match=r"member a/1\.jpg stands twice"):
        open_source(tmp_path / "x.tar")


@pytest.mark.parametrize(
    ("mode", "suffix"), [("w:gz", ".tar.gz"), ("w:gz", ".tgz"), ("w:bz2", ".tar"), ("w:xz", ".tar.xz")]
)
def test_compressed_tars_are_refused(tmp_path, mode, suffix):
    with tarfile.open(tmp_path / f"x{suffix}", mode) as tar:
        add(tar, "a/1.jpg", b"1")
    with pytest.raises(DataError, match=r"compressed \(\w+\); images are read in place, so decompress it first"):
        open_source(tmp_path / f"x{suffix}")


def test_a_tar_cut_anywhere_is_refused(tmp_path):
    path = pack(tmp_path / "x.tar", {f"{key}/{n}.jpg": os.urandom(700 * n) for key in "ab" for n in range(4)})
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        end = max(member.offset_data + -(-member.size // 512) * 512 for member in tar)
    assert len(open_source(path)) == 8
    for length in [*range(0, end, 97), end]:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"x\.tar: (the tar is cut short|not a tar)"):
            open_source(path)


def test_a_damaged_header_is_never_an_end(tmp_path):
    path = pack(tmp_path / "x.tar", {f"{key}/{n}.jpg": b"x" * 600 for key in "ab" for n in range(3)})
    whole = path.read_bytes()
    whole_keys, refused = open_source(path).keys(), 0
    draw = random.Random(0)
    for _ in range(300):
        spoiled = bytearray(whole)
        place = draw.randrange(6) * 1536 + draw.randrange(512)
        spoiled[place] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(spoiled))
        # A checksum may be written in more ways than one; what is still read must be all of it.
        try:
            assert open_source(path).keys() == whole_keys
        except DataError:
            refused += 1
    assert refused > 280


@pytest.mark.parametrize(
    "block", [bytes(512), b"\xff" * 512, b"\xff" * 256 + bytes(256), random.Random(0).randbytes(512)]
)
def test_the_sum_of_a_header(block):
    assert tars._sum(block) == sum(block)


def test_random_bytes_are_no_tar(tmp_path):
    draw = random.Random(0)
    header = pack(tmp_path / "x.tar", {"a/1.jpg": b"1"}).read_bytes()[:512]
    for _ in range(500):
        (tmp_path / "x.tar").write_bytes(header + draw.randbytes(draw.randrange(3000)))
        with pytest.raises(DataError):
            open_source(tmp_path / "x.tar")


def test_a_tar_without_labels_or_images(tmp_path):
    with pytest.raises(DataError, match="lies in no class folder"):
        open_source(pack(tmp_path / "x.tar", {"1.jpg": b"1", "2.jpg": b"2"}))
    with pytest.raises(DataError, match="no images in it"):
        open_source(pack(tmp_path / "x.tar", {"a/readme.txt": b"1"}))
    with pytest.raises(DataError, match="one class only"):
        open_data(pack(tmp_path / "x.tar", {"a/1.jpg": b"1", "a/2.jpg": b"2", "a/3.jpg": b"2"}))


# Images to predict


def test_images_without_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path, {"in/b.jpg": 1, "in/deep/a.png": 2, "in/.x.jpg": 3, "single": 4})
    pack(tmp_path / "x.tar", {"q.jpg": b"5", "readme": b"6"})
    samples = open_images(["single", Path("in"), "x.tar"])
    assert samples.keys() == ["single", "in/b.jpg", "in/deep/a.png", "x.tar/q.jpg"]
    assert contents(samples) == [jpeg(4), jpeg(1), jpeg(2), b"5"]
    assert samples.label.tolist() == [-1] * 4
    monkeypatch.chdir("/")
    assert samples.read(1) == jpeg(1)
    assert open_images(tmp_path / "single").keys() == [str(tmp_path / "single")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in it"):
        open_images(tmp_path / "empty")


# Digits


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_digits(cache):
    data = open_data("digits")
    assert (len(data.train), len(data.val)) == (1437, 360)
    assert data.classes.keys == tuple("0123456789")
    made = (cache / "digits-1.tar").read_bytes()
    assert open_data("digits").fingerprint == data.fingerprint
    (cache / "digits-1.tar").unlink()
    assert open_data(data.source, **data.split).fingerprint == data.fingerprint
    assert (cache / "digits-1.tar").read_bytes() == made
    assert data.source == "digits"


def test_digits_are_scikit_learns(cache):
    from PIL import Image
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    samples = open_source("digits")
    assert len(samples) == COUNT
    for row in range(0, COUNT, 60):
        number = int(samples.key(row).rpartition("/")[2].removesuffix(".png"))
        assert samples.label[row] == labels[number]
        image = Image.open(io.BytesIO(samples.read(row)))
        assert (image.mode, image.size) == ("L", (64, 64))
        back = np.asarray(image.resize((8, 8), Image.Resampling.BOX), float) / 255 * 16
        assert np.abs(back - pixels[number].reshape(8, 8)).mean() < 1


def test_a_broken_digits_tar_says_what_to_do(cache):
    open_source("digits")
    path = cache / "digits-1.tar"
    os.truncate(path, 100_000)
    with pytest.raises(DataError, match=r"digits-1\.tar: .*; delete the file, it is made again"):
        open_source("digits")
    pack(path, {"0/1.png": b"1", "1/1.png": b"1"})
    with pytest.raises(DataError, match="2 of 1797 digits; delete the file"):
        open_source("digits")


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set ALEXNET_CACHE"):
        open_source("digits")


# As many classes as there are pictures


def many_classes(folder: Path, count: int, *, each: int = 1) -> Path:
    """A list of count * each pictures in `count` classes: links to links to one picture, so that it is soon written."""
    side = math.isqrt(count * each - 1) + 1
    (folder / "d").mkdir(parents=True)
    (folder / "d" / "0.png").write_bytes(encoded(picture(8, 8), "PNG"))
    for i in range(1, side):
        (folder / "d" / f"{i}.png").hardlink_to(folder / "d" / "0.png")
        (folder / f"d{i}").symlink_to("d")
    (folder / "d0").symlink_to("d")
    lines = (f"d{i // side}/{i % side}.png {i // each}\n" for i in range(count * each))
    (folder / "list.txt").write_text("".join(lines))
    return folder / "list.txt"


def test_more_classes_than_there_is_memory_for_are_refused_with_the_arithmetic(tmp_path, monkeypatch):
    from alexnet.training import start

    path = many_classes(tmp_path, 5000, each=2)
    monkeypatch.setattr(start, "memory", lambda device: 200_000_000)
    monkeypatch.setattr(start, "network", lambda *rest, **more: pytest.fail("something was allocated"))
    asked = start.Asked(data=str(path), variant="paper", run=str(tmp_path / "run"))
    with pytest.raises(DataError) as caught:
        start.train(asked, Console(file=io.StringIO()))
    assert str(caught.value) == (
        f"{path}: 5,000 classes: fc8 would hold 4096 x 5,000 weights of 4 bytes, 0.1 GB, and as much again each for "
        "gradients and momentum, 0.2 GB in all; there are 0.2 GB of memory"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_million_classes_of_one_picture(tmp_path):
    """Opened within a minute and 600 MB beside the libraries, then refused: 49 GB for the last layer alone."""
    path = many_classes(tmp_path, 1_000_000)
    program = (
        "import io, resource, sys, time\n"
        "from pathlib import Path\n"
        "from rich.console import Console\n"
        "from alexnet.errors import DataError\n"
        "from alexnet.training import start\n"
        "start.memory = lambda device: 16_000_000_000\n"
        "begin, peak = time.monotonic(), lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "before = peak()\n"
        "asked = start.Asked(data=sys.argv[1], variant='paper', val_fraction=0.0, run=sys.argv[2])\n"
        "try:\n    start.train(asked, Console(file=io.StringIO()))\nexcept DataError as reason:\n"
        "    print(time.monotonic() - begin, (peak() - before) / 1024, reason)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(tmp_path / "run")], capture_output=True, text=True, check=False,
        env={**os.environ, "ALEXNET_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    seconds, megabytes, said = done.stdout.split(" ", 2)
    print(seconds, "s", megabytes, "MB")
    assert said.startswith(f"{path}: 1,000,000 classes: fc8 would hold 4096 x 1,000,000 weights of 4 bytes, 16.4 GB")
    assert float(seconds) < 60 and float(megabytes) < 600
