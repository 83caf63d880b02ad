"""Packs: the same pixels, whole or not there, and nothing in them is trusted."""

import errno
import hashlib
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from rich.console import Console

from alexnet import files, stop
from alexnet.data import pack as packing
from alexnet.data.loader import pixels
from alexnet.data.pack import pack
from alexnet.data.packed import verify
from alexnet.data.sources import open_data, open_held_out, open_pictures, open_source
from alexnet.data.stats import measure
from alexnet.errors import BadImage, DataError, Stopped, UsageError
from alexnet.evaluation import judge
from alexnet.network.variants import variant
from alexnet.training import start
from alexnet.training.start import Asked
from alexnet.weights.run import preprocess_of
from tests.pictures import write_folder

TINY = preprocess_of(variant("tiny"))
FORMS = pytest.mark.parametrize("form", ["jpeg", "raw"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures") / "set", classes=3, each=20)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch, tmp_path):
    monkeypatch.setattr(packing, "BLOCK", 9)
    monkeypatch.setattr(packing, "AT_A_TIME", 4)
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))


def packed(where: Path, out: Path, form: str, **options):
    data = open_data(where)
    record = pack(data.train, data.val, out, form=form, preprocess=TINY, source=data.source,
                  fingerprint=data.fingerprint, **options)  # fmt: skip
    return data, record


def hashes(folder: Path) -> dict[str, str]:
    """Of each file; pack.json without the name that the pictures were given by."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    record = json.loads(found["pack.json"])
    assert record.pop("source")
    found["pack.json"] = json.dumps(record).encode()
    return {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}


def test_a_raw_pack_holds_the_stored_forms(pictures, tmp_path):
    data, record = packed(pictures, tmp_path / "out", "raw")
    found = open_data(tmp_path / "out")
    assert found.classes == data.classes and found.split == {}
    for ours, theirs in ((found.train, data.train), (found.val, data.val)):
        assert ours.raw and ours.shaping == TINY.shaping and ours.label.tolist() == theirs.label.tolist()
        assert [ours.key(row).partition("/")[2] for row in range(len(ours))] == theirs.keys()
        for row in range(len(ours)):
            assert np.array_equal(pixels(ours, row, TINY), pixels(theirs, row, TINY))
    array = np.load(tmp_path / "out" / "train.npy", mmap_mode="r", allow_pickle=False)  # an ordinary .npy
    assert array.shape == (48, 73, 73, 3) and array.dtype == np.uint8
    assert np.array_equal(array[5], pixels(data.train, 5, TINY))
    assert record["sets"]["train"]["psnr"] is None and verify(tmp_path / "out") == 60


def test_a_jpeg_pack_is_the_stored_forms_encoded(pictures, tmp_path):
    data, record = packed(pictures, tmp_path / "out", "jpeg", quality=80)
    found = open_data(tmp_path / "out")
    assert found.train.label.tolist() == data.train.label.tolist() and found.train.shaping == TINY.shaping
    errors = []
    for row in range(len(found.train)):
        stored = pixels(data.train, row, TINY)
        encoded = simplejpeg.encode_jpeg(stored, quality=80, colorspace="RGB", colorsubsampling="420")
        expected = simplejpeg.decode_jpeg(encoded, "RGB")
        assert found.train.read(row) == encoded and np.array_equal(pixels(found.train, row, TINY), expected)
        errors.append((expected.astype(float) - stored) ** 2)
    assert record["sets"]["train"]["psnr"] == pytest.approx(10 * math.log10(255**2 / np.mean(errors)))
    assert len([path for path in (tmp_path / "out").iterdir() if path.suffix == ".tar"]) == 6 + 2
    # other readers: WebDataset's own, and ours of tars that it wrote
    shards = sorted(str(path) for path in (tmp_path / "out").glob("train-*.tar"))
    script = (  # a process of its own: it leaves its files open
        "import hashlib, json, sys, webdataset\n"
        "read = webdataset.WebDataset(sys.argv[1:], shardshuffle=False).decode('rgb8')\n"
        "rows = [(s['__key__'], s['cls'], hashlib.sha256(s['jpg'].tobytes()).hexdigest()) for s in read]\n"
        "print(json.dumps(rows))"
    )
    said = subprocess.run([sys.executable, "-c", script, *shards], check=True, capture_output=True, text=True).stdout
    assert json.loads(said) == [
        [f"{row:08d}", label, hashlib.sha256(pixels(found.train, row, TINY).tobytes()).hexdigest()]
        for row, label in enumerate(data.train.label.tolist())
    ]
    tar = tmp_path / "out" / "train-00001.tar"
    one = open_source(shutil.copy(tar, tmp_path))  # by itself it is a tar as any other
    assert len(one) == 9 and one.read(0) == found.train.read(9) and one.classes.keys == ("0", "1")
    for name in ("train", "val"):
        says = rf"{name}-00001\.tar: a part of a pack.*; name {tmp_path / 'out'}, or {tmp_path / 'out' / name}, all"
        with pytest.raises(DataError, match=says):
            open_data(tmp_path / "out" / f"{name}-00001.tar")
    assert verify(tmp_path / "out") == 60


@FORMS
def test_a_part_is_named_as_a_folder_of_its_pack(pictures, tmp_path, monkeypatch, form):
    out = tmp_path / "out"
    packed(pictures, out, form)
    with pytest.raises(DataError, match=rf"out: holds images to train on .*; name {out / 'train'} or {out / 'val'}$"):
        open_source(out)
    both = open_data(out)
    for name, part in (("train", both.train), ("val", both.val)):
        for found in (open_source(out / name), open_pictures([out / name]), open_held_out(out / name)):
            assert found.fingerprint() == part.fingerprint() and found.classes == part.classes
    assert open_data(out / "train", val=out / "val").fingerprint == both.fingerprint
    monkeypatch.chdir(out)
    assert open_source("val").keys() == both.val.keys()
    with pytest.raises(DataError, match="test: no such file or folder"):
        open_source("test")
    pack(open_source(pictures), None, tmp_path / "one", form=form, preprocess=TINY, source="x", fingerprint="x")
    with pytest.raises(DataError, match=r"one/val: the pack .*one has no held-out part$"):
        open_source(tmp_path / "one" / "val")


@pytest.mark.parametrize("theirs", [{"pack": {"pack_format": 4}}, {"form": "quarterly"}, ["train.csv"], "pack", 7])
def test_another_programs_pack_json_makes_no_pack(tmp_path, theirs):
    folder = write_folder(tmp_path / "set", classes=2, each=4)
    (folder / "pack.json").write_text(json.dumps(theirs))
    found = open_data(folder)
    assert found.classes.keys == ("class0", "class1") and len(found.train) == 6
    assert found.train.ignored.names["outside the class folders"] == ["pack.json"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pack.json").write_text(json.dumps(theirs))
    with pytest.raises(UsageError, match=r"out: holds pack\.json and is no pack"):
        packed(folder, tmp_path / "out", "raw")


@pytest.mark.parametrize("content", [b"", b'{"schema": 1, "form"', b'{"form": "jpeg", "sets": 3}', b"\xff"])
def test_a_damaged_pack_is_still_one(pictures, tmp_path, content):
    """Its tars would be read as shards otherwise, with numbers for classes."""
    packed(pictures, tmp_path / "out", "jpeg")
    (tmp_path / "out" / "pack.json").write_bytes(content)
    with pytest.raises(DataError, match=r"pack\.json: "):
        open_data(tmp_path / "out")


KILLED = """
import sys, time
from alexnet.cli import main
from alexnet.data import pack
pack.BLOCK, pack.AT_A_TIME = 9, 4
ordinary = pack.pixels
pack.pixels = lambda *a: (time.sleep(0.004), ordinary(*a))[1]
sys.exit(main(sys.argv[1:]))
"""


@FORMS
def test_killed_at_any_moment_and_begun_again(pictures, tmp_path, form):
    packed(pictures, tmp_path / "whole", form)
    command = [sys.executable, "-c", KILLED, "data", "pack", str(pictures), str(tmp_path / "broken"), "--form", form,
               "--variant", "tiny", "--workers", "2"]  # fmt: skip
    rng, kills, code = np.random.default_rng(0), 0, None
    while code != 0:  # one may be killed behind pack.json, before it has swept up
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        state = tmp_path / "broken" / f".{'train' if kills < 3 else 'val'}.state"
        before = state.stat().st_mtime_ns if state.exists() else None
        while kills < 5 and child.poll() is None:  # until some block is whole, and a moment longer
            if state.exists() and state.stat().st_mtime_ns != before:
                time.sleep(rng.uniform(0, 0.04))
                child.kill()
                break
            time.sleep(0.002)
        _, said = child.communicate()
        code = child.returncode
        assert code in (0, -signal.SIGKILL), said.decode()
        kills += code != 0
        if not (tmp_path / "broken" / "pack.json").exists():
            with pytest.raises(DataError, match="a pack that is not finished"):
                open_data(tmp_path / "broken")
    assert kills >= 3 and hashes(tmp_path / "broken") == hashes(tmp_path / "whole")


@FORMS
def test_what_was_done_is_not_done_again(pictures, tmp_path, monkeypatch, form):
    packed(pictures, tmp_path / "whole", form)
    ordinary, calls = packing.pixels, 0

    def counted(samples, row, preprocess):
        nonlocal calls
        calls += 1
        if calls == 40:
            os.kill(os.getpid(), signal.SIGTERM)
        return ordinary(samples, row, preprocess)

    monkeypatch.setattr(packing, "pixels", counted)
    with stop.watch(), pytest.raises(Stopped, match="the same command goes on"):
        packed(pictures, tmp_path / "broken", form, threads=1)
    first = calls
    counts = []
    shutil.copytree(pictures, tmp_path / "elsewhere")  # the same pictures under another name
    with stop.watch():  # the flag of before is taken down
        packed(tmp_path / "elsewhere", tmp_path / "broken", form, progress=counts.append)
    assert (
        first < 60
        and sum(counts) == 60
        and calls - first <= 60 - 27
        and hashes(tmp_path / "broken") == hashes(tmp_path / "whole")
    )


@FORMS
@pytest.mark.parametrize("fatal", range(3, 15))  # of the first block: its tar or array, the index, the state, folders
def test_a_full_disk_is_said_and_gone_on_from(pictures, tmp_path, monkeypatch, form, fatal):
    packed(pictures, tmp_path / "whole", form)
    ordinary, calls = os.fsync, 0

    def full(handle):
        nonlocal calls
        calls += 1
        if calls == fatal:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        ordinary(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UsageError, match="broken: cannot be written .No space left"):
        packed(pictures, tmp_path / "broken", form)
    packed(pictures, tmp_path / "broken", form)
    assert hashes(tmp_path / "broken") == hashes(tmp_path / "whole")


@pytest.mark.parametrize("spoil", [lambda out: (out / "train-00000.tar").write_bytes(b"short"),
                                   lambda out: (out / "train-00001.tar").unlink(),
                                   lambda out: (out / ".train.csv.part").write_bytes(b"key"),
                                   lambda out: (out / ".train.state").write_bytes(b"no state")])  # fmt: skip
def test_a_part_whose_files_are_not_as_the_state_says_is_begun_anew(pictures, tmp_path, monkeypatch, spoil):
    packed(pictures, tmp_path / "whole", "jpeg")
    ordinary = packing.pixels
    monkeypatch.setattr(packing, "pixels", lambda samples, row, p: 1 / 0 if row == 30 else ordinary(samples, row, p))
    with pytest.raises(DataError, match="ZeroDivisionError"):
        packed(pictures, tmp_path / "broken", "jpeg", threads=1)
    assert (tmp_path / "broken" / "train-00001.tar").exists()
    spoil(tmp_path / "broken")
    monkeypatch.setattr(packing, "pixels", ordinary)
    packed(pictures, tmp_path / "broken", "jpeg")
    assert hashes(tmp_path / "broken") == hashes(tmp_path / "whole")


def test_a_state_that_cannot_be_read_is_not_begun_over(pictures, tmp_path):
    (tmp_path / "out" / ".train.state").mkdir(parents=True)
    with pytest.raises(UsageError, match="Is a directory"):
        packed(pictures, tmp_path / "out", "raw")


def test_what_others_left_is_not_swept_away(pictures, tmp_path):
    packed(pictures, tmp_path / "out", "raw")
    for name in (".thesis.part", ".film.tmp"):
        (tmp_path / "out" / name).touch()
    (tmp_path / "out" / ".train-00000.tar.123.tmp").touch()
    packed(pictures, tmp_path / "out", "raw")
    assert {".thesis.part", ".film.tmp"} < {path.name for path in (tmp_path / "out").iterdir()}
    assert not (tmp_path / "out" / ".train-00000.tar.123.tmp").exists()


def test_packs_as_train_and_val(pictures, tmp_path):
    for name in ("train", "val"):
        data = open_data(pictures, val_fraction=0)
        pack(data.train, None, tmp_path / "set" / name, form="jpeg", preprocess=TINY, source=data.source,
             fingerprint=data.fingerprint)  # fmt: skip
    found = open_data(tmp_path / "set")
    assert found.train.classes.keys == ("class0", "class1", "class2") and found.train.shaping == TINY.shaping
    assert found.val is not None and found.val.shaping == TINY.shaping
    packed(pictures, tmp_path / "both" / "train", "jpeg")
    with pytest.raises(DataError, match="a val of its own"):
        open_data(tmp_path / "both")


def test_rows_of_another_pack_are_not_taken_for_those_held_out(pictures, tmp_path):
    other = write_folder(tmp_path / "other", classes=3, each=20, seed=1)
    for where, out in ((pictures, "a"), (other, "b")):
        data = open_data(where, val_fraction=0)
        pack(data.train, None, tmp_path / out, form="raw", preprocess=TINY, source=data.source,
             fingerprint=data.fingerprint)  # fmt: skip
    start.train(Asked(data=str(tmp_path / "a"), run=str(tmp_path / "run"), variant="tiny", batch_size=24, epochs=1,
                      workers=1, precision="fp32", kernels="plain"), Console(file=io.StringIO()))  # fmt: skip
    own = judge.judge([str(tmp_path / "run")], str(tmp_path / "a"))
    assert (own.pictures, own.score.count) == ("held out", 12)
    assert judge.judge([str(tmp_path / "run")], str(tmp_path / "b")).score.count == 60


def test_one_at_a_time(pictures, tmp_path):
    (tmp_path / "out").mkdir()
    with files.lock(tmp_path / "out" / ".lock"), pytest.raises(UsageError, match="in use by process"):
        packed(pictures, tmp_path / "out", "raw")


def test_a_cache_that_cannot_be_written_is_named(pictures, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file/cache: cannot keep statistics here"):
        packed(pictures, tmp_path / "out", "raw", cache=tmp_path / "file" / "cache")


@FORMS
def test_odd_names(tmp_path, form):
    for name in ("a b/x,\"y\".jpg", "a b/x\u2028y.jpg", "a b/x\ny.jpg", "a b/x.y.z.jpg", "a b/X.JPG", "b/x.jpg",
                 "b/x.png", "b/x.jpeg", "\u00e9/..jpg.jpg", "\u00e9/x.jpg"):  # fmt: skip
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 90), (len(name), 40, 200)).save(path, "PNG")
    with (tmp_path / "data" / "b" / os.fsdecode(b"\xff.jpg")).open("wb") as stream:
        Image.new("RGB", (80, 90)).save(stream, "PNG")
    data, _ = packed(tmp_path / "data", tmp_path / "out", form)
    found = open_data(tmp_path / "out")
    for ours, theirs in ((found.train, data.train), (found.val, data.val)):
        inside = [ours.key(row).partition("/")[2] for row in range(len(ours))]
        assert [name.replace("\\\\", "\\") for name in inside] == theirs.keys()
        assert ours.label.tolist() == theirs.label.tolist() and ours.classes == theirs.classes
    assert verify(tmp_path / "out") == 10  # one is hidden


@FORMS
def test_any_number_of_threads_makes_the_same_bytes(pictures, tmp_path, form):
    for threads in (1, 4):
        packed(pictures, tmp_path / str(threads), form, threads=threads)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "4")


@FORMS
def test_the_statistics_are_those_of_the_pack(pictures, tmp_path, form):
    packed(pictures, tmp_path / "out", form, cache=tmp_path / "cache")
    train = open_data(tmp_path / "out").train
    kept, anew = (measure(train, TINY, threads=1, cache=cache) for cache in (tmp_path / "cache", None))
    assert len(list((tmp_path / "cache").iterdir())) == 1, "measured again under another name"
    for name in ("count", "mean", "channel_mean", "eigenvalues", "eigenvectors", "sizes"):
        assert np.array_equal(getattr(kept, name), getattr(anew, name)), name


def test_training_from_a_raw_pack_is_training_from_the_folder(pictures, tmp_path):
    packed(pictures, tmp_path / "out", "raw")
    console = Console(file=io.StringIO())
    for name, data in (("folder", pictures), ("pack", tmp_path / "out")):
        start.train(Asked(data=str(data), run=str(tmp_path / name), variant="tiny", batch_size=12, epochs=1, workers=2,
                          precision="fp32", kernels="plain"), console)  # fmt: skip
    one, other = (
        tmp_path / name / "checkpoints" / "step-00000004" / "model.safetensors" for name in ("folder", "pack")
    )
    assert one.read_bytes() == other.read_bytes()
    for recipe, what in (("torchvision", "crops from pictures"), ("fast", "stored forms of 73 px.*wants 256 px")):
        with pytest.raises(DataError, match=what):
            start.train(Asked(data=str(tmp_path / "out"), run=str(tmp_path / "x"), recipe=recipe), console)
    assert not (tmp_path / "x").exists()


def test_the_pixels_of_a_raw_pack_are_part_of_its_fingerprint(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "other")
    victim = open_data(tmp_path / "other").train.path(0)
    content = bytearray(victim.read_bytes())
    packed(pictures, tmp_path / "a", "raw")
    with Image.open(victim) as picture:
        Image.new(picture.mode, picture.size).save(tmp_path / "black.jpg", quality=30)
    black = (tmp_path / "black.jpg").read_bytes()
    victim.write_bytes(black + bytes(len(content) - len(black)))  # of the same length
    packed(tmp_path / "other", tmp_path / "b", "raw")
    assert open_data(tmp_path / "other").fingerprint == open_data(pictures).fingerprint
    assert open_data(tmp_path / "a").fingerprint != open_data(tmp_path / "b").fingerprint


@FORMS
def test_bad_pictures(pictures, tmp_path, form):
    folder = write_folder(tmp_path / "data", classes=2, each=12)
    train = open_data(folder).train
    bad = train.path(3)
    size = bad.stat().st_size
    bad.write_bytes(b"x" * size)
    with pytest.raises(BadImage, match=bad.name):
        packed(folder, tmp_path / "a", form)
    _, record = packed(folder, tmp_path / "b", form, bad_images="skip")
    assert [one["path"] for one in record["sets"]["train"]["bad"]] == [str(bad)]
    found = open_data(tmp_path / "b").train
    assert len(found) == len(train) - 1 and bad.name not in "".join(found.keys())
    for row in range(len(found)):
        expected = pixels(train, row + (row >= 3), TINY)
        if form == "jpeg":
            expected = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(expected, quality=90, colorsubsampling="420"))
        assert np.array_equal(pixels(found, row, TINY), expected)
    with pytest.raises(BadImage, match=bad.name):  # a finished pack, asked for again without "skip"
        packed(folder, tmp_path / "b", form)
    assert packed(folder, tmp_path / "b", form, bad_images="skip")[1] == record


def test_a_finished_pack_is_left_as_it_is(pictures, tmp_path, monkeypatch):
    _, record = packed(pictures, tmp_path / "out", "raw")
    monkeypatch.setattr(packing, "pixels", None)
    assert packed(pictures, tmp_path / "out", "raw")[1] == record
    for options, what in (({"form": "jpeg"}, "form raw"), ({"form": "raw", "where": "other"}, "other pictures")):
        where = write_folder(tmp_path / "other", classes=3, each=5) if "where" in options else pictures
        with pytest.raises(UsageError, match=what):
            packed(where, tmp_path / "out", options["form"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"holds thesis\.tex and is no pack"):
        packed(pictures, tmp_path / "mine", "raw")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="a pack already"):
        packed(tmp_path / "out", tmp_path / "x", "raw")
    with pytest.raises(UsageError, match="--form webp"):
        packed(pictures, tmp_path / "x", "webp")
    with pytest.raises(UsageError, match="--quality 0"):
        packed(pictures, tmp_path / "x", "jpeg", quality=0)


@FORMS
def test_damage_is_named(pictures, tmp_path, form):
    packed(pictures, tmp_path / "out", form)
    name = "val.npy" if form == "raw" else "val-00000.tar"
    path = tmp_path / "out" / name
    content = bytearray(path.read_bytes())
    content[-2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: changed since"):
        verify(tmp_path / "out")
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"{name}: missing, or not of"):
        open_data(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda record: record.update(schema=2), "schema"),
        (lambda record: record["sets"].update(test={"files": [{"name": "/etc/passwd"}]}), "stored, sets"),
        (lambda record: record["sets"]["train"].pop("bad"), "sets: train"),
        (lambda record: record["sets"]["train"].update(bad=[1]), "sets: train"),
        (lambda record: record["sets"]["train"].update(psnr="high"), "sets: train"),
        (lambda record: record["sets"]["train"].pop("count"), "sets: train"),
        (lambda record: record["sets"]["train"]["files"][0].update(name="../../etc/passwd"), "not the files of a pack"),
        (lambda record: record["sets"]["train"]["files"][0].update(name="/etc/passwd"), "not the files of a pack"),
        (lambda record: record["sets"]["train"]["files"].pop(0), "not the files of a pack"),
        (lambda record: record["sets"]["train"]["files"][0].update(bytes=1e400), "no finite number"),
        (lambda record: record["sets"].update(train=[]), "sets: train"),
        (lambda record: record["sets"]["train"].update(count=1), "48 pictures, where the pack says 1"),
    ],
)
def test_a_packs_own_words_are_not_trusted(pictures, tmp_path, change, says):
    packed(pictures, tmp_path / "out", "jpeg")
    record = json.loads((tmp_path / "out" / "pack.json").read_text())
    change(record)
    (tmp_path / "out" / "pack.json").write_text(json.dumps(record))
    for use in (open_data, verify, lambda out: packed(pictures, out, "jpeg")):
        with pytest.raises((DataError, UsageError), match=says):
            use(tmp_path / "out")


@pytest.mark.parametrize("line", ["x.jpg,class0,train-00000.tar,99999999,5", "x.jpg,class9,train-00000.tar,0,5",
                                  "x.jpg,class0,/etc/passwd,0,5", "x.jpg,class0,train-00000.tar,0,9" + "9" * 400, "\0,class0,train-00000.tar,0,5",
                                  "x.jpg,class0,train-00000.tar,-5,5", "x.jpg"])  # fmt: skip
def test_an_index_is_not_trusted(pictures, tmp_path, line):
    packed(pictures, tmp_path / "out", "jpeg")
    index = tmp_path / "out" / "train.csv"
    lines = index.read_text().splitlines()
    lines[3] = line
    index.write_text("\n".join(lines) + "\n")
    record = json.loads((tmp_path / "out" / "pack.json").read_text())
    said = next(one for one in record["sets"]["train"]["files"] if one["name"] == "train.csv")
    said["bytes"] = index.stat().st_size
    (tmp_path / "out" / "pack.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"train\.csv: changed since it was packed"):
        open_data(tmp_path / "out")
    said["sha256"] = hashlib.sha256(index.read_bytes()).hexdigest()
    (tmp_path / "out" / "pack.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"train\.csv: line 4: not what"):
        open_data(tmp_path / "out")


def test_an_index_that_is_one_large_hole_is_refused_unread(pictures, tmp_path):
    packed(pictures, tmp_path / "out", "jpeg")
    record = json.loads((tmp_path / "out" / "pack.json").read_text())
    said = next(one for one in record["sets"]["train"]["files"] if one["name"] == "train.csv")
    said["bytes"] = 1 << 40
    os.truncate(tmp_path / "out" / "train.csv", 1 << 40)
    (tmp_path / "out" / "pack.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"sets: train: an index of more than 2,147,483,648 bytes"):
        open_data(tmp_path / "out")


@pytest.mark.parametrize("change", [(1, 0), (0, -1)])
def test_a_raw_index_lists_the_rows_of_the_array(pictures, tmp_path, change):
    packed(pictures, tmp_path / "out", "raw")
    index = tmp_path / "out" / "train.csv"
    lines = index.read_text().splitlines()
    *names, offset, size = lines[3].split(",")
    lines[3] = ",".join([*names, str(int(offset) + change[0]), str(int(size) + change[1])])
    index.write_text("\n".join(lines) + "\n")
    record = json.loads((tmp_path / "out" / "pack.json").read_text())
    said = next(one for one in record["sets"]["train"]["files"] if one["name"] == "train.csv")
    said.update(bytes=index.stat().st_size, sha256=hashlib.sha256(index.read_bytes()).hexdigest())
    (tmp_path / "out" / "pack.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"train\.npy: not the array that the pack's index lists"):
        open_data(tmp_path / "out")
