"""Packs: the same pixels, whole or not there, and nothing in them is trusted."""

import hashlib
import io
import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from rich.console import Console

from alexnet.data import pack as packing
from alexnet.data.loader import pixels
from alexnet.data.pack import pack, verify
from alexnet.data.sources import open_data
from alexnet.data.stats import measure
from alexnet.errors import BadImage, DataError, UsageError
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
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))


def packed(where: Path, out: Path, form: str, **options):
    data = open_data(where)
    record = pack(data.train, data.val, out, form=form, preprocess=TINY, source=data.source,
                  fingerprint=data.fingerprint, **options)  # fmt: skip
    return data, record


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_raw_pack_holds_the_stored_forms(pictures, tmp_path):
    data, record = packed(pictures, tmp_path / "out", "raw")
    found = open_data(tmp_path / "out")
    assert found.classes == data.classes and found.split == {}
    for ours, theirs in ((found.train, data.train), (found.val, data.val)):
        assert ours.raw == ours.stored == 73 and ours.label.tolist() == theirs.label.tolist()
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
    assert found.train.label.tolist() == data.train.label.tolist() and found.train.stored == 73
    errors = []
    for row in range(len(found.train)):
        stored = pixels(data.train, row, TINY)
        encoded = simplejpeg.encode_jpeg(stored, quality=80, colorspace="RGB", colorsubsampling="420")
        expected = simplejpeg.decode_jpeg(encoded, "RGB")
        assert found.train.read(row) == encoded and np.array_equal(pixels(found.train, row, TINY), expected)
        errors.append((expected.astype(float) - stored) ** 2)
    assert record["sets"]["train"]["psnr"] == pytest.approx(10 * math.log10(255**2 / np.mean(errors)))
    assert len([path for path in (tmp_path / "out").iterdir() if path.suffix == ".tar"]) == 6 + 2
    # another reader: class folders of pictures that Pillow opens
    with tarfile.open(tmp_path / "out" / "train-00001.tar") as tar:
        members = tar.getmembers()
        assert len(members) == 9 and all(member.name.startswith("class") for member in members)
        with Image.open(io.BytesIO(tar.extractfile(members[0]).read())) as picture:
            assert picture.format == "JPEG" and picture.size == (73, 73)
    assert verify(tmp_path / "out") == 60


@FORMS
def test_killed_at_any_picture_and_begun_again(pictures, tmp_path, monkeypatch, form):
    packed(pictures, tmp_path / "whole", form)
    ordinary, calls = packing.pixels, 0

    def dying(samples, row, preprocess):
        nonlocal calls
        calls += 1
        if calls % 23 == 0:
            raise KeyboardInterrupt
        return ordinary(samples, row, preprocess)

    monkeypatch.setattr(packing, "pixels", dying)
    ends = 0
    for _ in range(30):
        try:
            packed(pictures, tmp_path / "broken", form, threads=1)
            break
        except KeyboardInterrupt:
            ends += 1
            with pytest.raises(DataError, match="a pack that is not finished"):
                open_data(tmp_path / "broken")
    assert ends >= 2 and hashes(tmp_path / "broken") == hashes(tmp_path / "whole")


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
    for recipe, what in (("torchvision", "stored forms of 73 px"), ("fast", "stored forms of 73 px")):
        with pytest.raises(DataError, match=what):  # a crop of the original; another stored form
            start.train(Asked(data=str(tmp_path / "out"), run=str(tmp_path / "x"), recipe=recipe), console)


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
    assert np.array_equal(pixels(found, 3, TINY), packing.decode(found.read(3), "x") if form == "jpeg" else
                          pixels(train, 4, TINY))  # fmt: skip


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
    with pytest.raises(UsageError, match="not empty"):
        packed(pictures, tmp_path / "mine", "raw")
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
        (lambda record: record.update(stored="73"), "stored, sets"),
        (lambda record: record.update(classes=[]), "classes"),
        (lambda record: record["sets"]["train"].pop("count"), "sets: train"),
        (lambda record: record["sets"]["train"]["files"][0].update(name="../../etc/passwd"), "is no file of a pack"),
        (lambda record: record["sets"]["train"]["files"][0].update(name="/etc/passwd"), "is no file of a pack"),
        (lambda record: record["sets"]["train"].update(count=1), "48 of 1"),
    ],
)
def test_a_packs_own_words_are_not_trusted(pictures, tmp_path, change, says):
    packed(pictures, tmp_path / "out", "jpeg")
    record = json.loads((tmp_path / "out" / "pack.json").read_text())
    change(record)
    (tmp_path / "out" / "pack.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=says):
        open_data(tmp_path / "out")


@pytest.mark.parametrize("line", ["x.jpg,class0,train-00000.tar,99999999,5", "x.jpg,class9,train-00000.tar,0,5",
                                  "x.jpg,class0,/etc/passwd,0,5", "x.jpg,class0,train-00000.tar,-5,5", "x.jpg"])  # fmt: skip
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
    with pytest.raises(DataError, match=r"train\.csv: line 4: not what"):
        open_data(tmp_path / "out")
