"""Batches: the same pixels by whatever road, in the order asked for, at any number of threads."""

import json
import shutil
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from alexnet.data import threads
from alexnet.data.augment import resized_box
from alexnet.data.classes import Classes
from alexnet.data.decode import random_resized
from alexnet.data.loader import Batch, Decoded, Places, Prepare, batches, original, pixels, stored
from alexnet.data.order import uniform
from alexnet.data.pack import pack
from alexnet.data.preprocess import Preprocess
from alexnet.data.samples import Samples
from alexnet.data.sources import open_data, open_source
from alexnet.data.stats import measure
from alexnet.data.threads import in_turn
from alexnet.errors import AlexNetError, BadImage, DataError, UsageError

from .ilsvrc import miniature

SIDE, STORED = 16, 18
RECORD = Preprocess(
    side=SIDE, stored=STORED, resize="shorter", filter="bilinear", exif=True, decode="full", colour="RGB", scale=1.0,
    mean=(0.0, 0.0, 0.0), mean_crop="centre", std=(1.0, 1.0, 1.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two classes of noise, STORED x STORED, without loss: their stored form is themselves."""
    root = tmp_path_factory.mktemp("noise")
    for k, name in enumerate(("a", "b")):
        (root / name).mkdir()
        for i in range(9):
            noise = np.random.default_rng(10 * k + i).integers(0, 256, (STORED, STORED, 3), np.uint8)
            Image.fromarray(noise).save(root / name / f"{i}.png")
    return root


def places(rows: list[list[int]], epoch: int = 0) -> list[Places]:
    begin = np.cumsum([0, *(len(part) for part in rows)])
    return [Places(np.array(part), np.arange(len(part)) + b, epoch) for part, b in zip(rows, begin, strict=False)]


def as_decoded(decode: Callable[[bytes, int], np.ndarray]) -> Prepare:
    return Prepare(decode, lambda picture, n, epoch: picture)


def made(samples: Samples, rows: list[list[int]], threads: int, **options) -> list[Batch]:
    return list(
        batches(samples, places(rows), stored(samples, RECORD), side=STORED, threads=threads, **options)
    )  # fmt: skip


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_hold_the_pictures_asked_for_in_order(folder, threads):
    samples = open_source(folder)
    rows = np.random.default_rng(0).permutation(18)
    parts = [rows[:7].tolist(), rows[7:14].tolist(), rows[14:].tolist()]
    found = made(samples, parts, threads)
    assert [batch.rows.tolist() for batch in found] == parts
    assert [batch.n.tolist() for batch in found] == [[*range(7)], [*range(7, 14)], [*range(14, 18)]]
    for batch, part in zip(found, parts, strict=True):
        assert batch.images.dtype == torch.uint8 and batch.labels.dtype == torch.int64
        assert batch.labels.tolist() == [row // 9 for row in part]
        by_hand = [np.asarray(Image.open(folder / "ab"[row // 9] / f"{row % 9}.png")) for row in part]
        assert np.array_equal(batch.images.numpy(), np.stack(by_hand))


@pytest.mark.parametrize("threads", [0, 3])
def test_a_bad_image_is_an_error_or_is_listed_and_left_out(folder, tmp_path, threads):
    for k, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.png").write_bytes(
                (folder / name / f"{i}.png").read_bytes()[: 40 if k == i else None]
            )
    samples = open_source(tmp_path)
    with pytest.raises(BadImage) as caught:
        made(samples, [[1, 2], [0, 3]], threads)
    assert caught.value.path == str(tmp_path / "a" / "0.png") and caught.value.reason
    first, second = made(samples, [[1, 2], [4, 0, 3]], threads, bad_images="skip")
    assert not first.bad and first.rows.tolist() == [1, 2]
    assert [(row, reason.path) for row, reason in second.bad] == [
        (4, str(tmp_path / "b" / "1.png")), (0, str(tmp_path / "a" / "0.png")),
    ]  # fmt: skip
    assert second.rows.tolist() == [3] and second.n.tolist() == [4] and second.labels.tolist() == [1]
    assert np.array_equal(second.images[0].numpy(), np.asarray(Image.open(tmp_path / "b" / "0.png")))


def test_a_batch_of_bad_images_only_is_empty(folder, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(b"")
    samples = open_source(tmp_path)
    (batch,) = made(samples, [[0, 1]], 1, bad_images="skip")
    assert batch.images.shape == (0, STORED, STORED, 3) and len(batch.bad) == 2


def test_one_road(tmp_path):
    """Folder, list, tar of class folders, ILSVRC tars and raw pixels in one file give the same batches, bit for bit."""
    mini = miniature(tmp_path / "mini")
    train = mini.extracted / "train"
    by_folder = open_source(train)
    names = [by_folder.name(row) for row in range(len(by_folder))]
    (train / "list.txt").write_text("".join(f"{name} {name.split('/')[0]}\n" for name in names))
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name in names:
            tar.add(train / name, arcname=name)
    # what libjpeg itself makes of them, cut in the middle: their shorter side is STORED already
    by_hand = np.stack([np.asarray(Image.open(train / name).convert("RGB"))[:, 3 : 3 + STORED] for name in names])

    def roads() -> dict[str, Samples]:
        return {
            "folder": by_folder,
            "list": open_source(train / "list.txt"),
            "tar": open_source(tmp_path / "set.tar"),
            "ilsvrc": open_data(mini.tars).train,
        }

    batch_of = {}
    for road, samples in roads().items():
        assert samples.classes.keys == by_folder.classes.keys, road
        (batch_of[road],) = made(samples, [[*range(len(names))]], 2)
    for road, batch in batch_of.items():
        assert torch.equal(batch.images, batch_of["folder"].images), road
        assert torch.equal(batch.labels, batch_of["folder"].labels), road
    assert np.abs(batch_of["folder"].images.numpy().astype(int) - by_hand).max() <= 1

    pack = tmp_path / "raw.npy"
    np.save(pack, batch_of["folder"].images.numpy(), allow_pickle=False)
    one, count = STORED * STORED * 3, len(names)
    raw = Samples.build(
        tmp_path, names, label=by_folder.label, classes=by_folder.classes, size=np.full(count, one), files=[pack],
        file=np.zeros(count, np.int32), offset=pack.stat().st_size - one * (count - np.arange(count)), raw=True,
    )  # fmt: skip
    (from_raw,) = made(raw, [[*range(count)]], 2)
    assert torch.equal(from_raw.images, batch_of["folder"].images)
    assert torch.equal(from_raw.labels, batch_of["folder"].labels)

    tarred, extracted = open_data(mini.tars).val, open_data(mini.extracted).val
    assert tarred is not None and extracted is not None
    (a,), (b,) = made(tarred, [[*range(8)]], 2), made(extracted, [[*range(8)]], 2)
    assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def test_one_road_of_reduced_pictures(tmp_path):
    """What is decoded at 1/2 is the same by every road, into a pack and into the statistics; and is not what was whole."""
    mini = miniature(tmp_path / "mini")
    train = mini.extracted / "train"
    by_folder = open_source(train)
    names = [by_folder.name(row) for row in range(len(by_folder))]
    (train / "list.txt").write_text("".join(f"{name} {name.split('/')[0]}\n" for name in names))
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name in names:
            tar.add(train / name, arcname=name)
    reduced = replace(RECORD, side=4, stored=4, decode="reduced")  # of 24 x 18 pixels
    for form in ("raw", "jpeg"):
        pack(by_folder, None, tmp_path / form, form=form, preprocess=reduced, source="x", fingerprint="x")
    sources = {
        "list": open_source(train / "list.txt"),
        "tar": open_source(tmp_path / "set.tar"),
        "ilsvrc": open_data(mini.tars).train,
        "raw": open_source(tmp_path / "raw"),
    }
    expected = np.stack([pixels(by_folder, row, reduced) for row in range(len(by_folder))])
    whole = np.stack([pixels(by_folder, row, replace(reduced, decode="full")) for row in range(len(by_folder))])
    assert (expected != whole).any((1, 2, 3)).all()
    for road, samples in sources.items():
        assert np.array_equal([pixels(samples, row, reduced) for row in range(len(samples))], expected), road
        assert np.allclose(measure(samples, reduced, threads=1, cache=None).mean, expected.mean(0)), road
    packed = open_source(tmp_path / "jpeg")
    for row, image in enumerate(expected):
        again = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(image, 90, colorsubsampling="420"), "RGB")
        assert np.array_equal(pixels(packed, row, reduced), again)
    assert measure(by_folder, reduced, threads=1, cache=None).sizes.tolist() == [[18, 24]] * len(names)


def test_a_pack_made_the_old_way_is_not_mixed_with_the_new(tmp_path):
    samples, out = open_source(miniature(tmp_path / "mini").extracted / "train"), tmp_path / "out"
    reduced = replace(RECORD, decode="reduced")
    pack(samples, None, out, form="raw", preprocess=RECORD, source="x", fingerprint="x")
    record = json.loads((out / "pack.json").read_text())
    del record["decode"]  # as it was written before there was a choice
    (out / "pack.json").write_text(json.dumps(record))
    stored(open_source(out), RECORD)
    with pytest.raises(DataError, match=r"decode full; this network wants 18 px.*decode reduced: pack the pictures"):
        stored(open_source(out), reduced)
    pack(samples, None, out, form="raw", preprocess=RECORD, source="x", fingerprint="x")
    with pytest.raises(UsageError, match="a pack of decode full; name another folder"):
        pack(samples, None, out, form="raw", preprocess=reduced, source="x", fingerprint="x")


def test_raw_pixels_of_another_size_are_refused(tmp_path):
    (tmp_path / "pack").write_bytes(bytes(STORED * STORED * 3 - 1))
    samples = Samples.build(
        tmp_path, ["x"], label=[0], classes=Classes.of(["a"]), size=[STORED * STORED * 3 - 1],
        files=[tmp_path / "pack"], file=[0], offset=[0], raw=True,
    )  # fmt: skip
    with pytest.raises(BadImage, match=f"expected {STORED} x {STORED} x 3"):
        pixels(samples, 0, RECORD)


def test_raw_pixels_are_read_to_their_place_or_named(tmp_path):
    one, images = STORED * STORED * 3, np.random.default_rng(2).integers(0, 256, (4, STORED, STORED, 3), np.uint8)
    (tmp_path / "pack").write_bytes(images.tobytes())
    sizes = [one, one, one - 1, one]
    samples = Samples.build(
        tmp_path, ["a", "b", "c", "d"], label=[0] * 4, classes=Classes.of(["a"]), size=sizes,
        files=[tmp_path / "pack"], file=[0] * 4, offset=[i * one for i in range(4)], raw=True,
    )  # fmt: skip
    (batch,) = made(samples, [[3, 2, 0]], 2, bad_images="skip")
    assert np.array_equal(batch.images.numpy(), images[[3, 0]])
    assert [(row, bad.path, bad.reason) for row, bad in batch.bad] == [
        (2, str(tmp_path / "pack" / "c"), f"{one - 1} bytes, expected {STORED} x {STORED} x 3 = {one}")
    ]
    (tmp_path / "pack").write_bytes(images.tobytes()[:-1])
    with pytest.raises(DataError, match="cut short"):
        made(samples, [[3]], 1)


def decoders() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("decode")}


def test_closed_early_no_thread_is_left(folder):
    samples = open_source(folder)
    running = batches(
        samples, places([[0, 1], [2, 3], [4, 5], [6, 7]]), stored(samples, RECORD), side=STORED, threads=3
    )
    next(running)
    assert decoders()
    running.close()
    assert not decoders()


def test_a_bad_image_leaves_no_thread_either(folder):
    samples = open_source(folder)

    def broken(data: bytes, row: int) -> np.ndarray:
        raise BadImage("x", "broken")

    with pytest.raises(BadImage):
        list(batches(samples, places([[0, 1], [2, 3]]), as_decoded(broken), side=STORED, threads=2))
    assert not decoders()


def ends(running, path, monkeypatch, *, code: int = 3) -> str:
    """What a road says that ends because of the picture at `path`."""
    monkeypatch.setattr(threads, "FAREWELL", 0.2)
    begin = time.monotonic()
    with pytest.raises(AlexNetError) as caught:
        list(running)
    assert caught.value.code == code
    assert time.monotonic() - begin < 5 and str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


@pytest.mark.parametrize("road", ["batches", "in_turn"])
@pytest.mark.parametrize(("reason", "code", "words"), [
    (ZeroDivisionError("by zero"), 3, "a fault of this program (ZeroDivisionError: by zero)"),
    (MemoryError(), 1, "out of memory while it was decoded; lower --workers"),
    (StopIteration(), 3, "a fault of this program (StopIteration"),
])  # fmt: skip
def test_a_thread_that_fails_names_its_picture(folder, monkeypatch, road, reason, code, words):
    samples = open_source(folder)

    def broken(data: bytes, row: int) -> np.ndarray:
        if row == 3:
            raise reason
        return np.zeros((STORED, STORED, 3), np.uint8)

    def some(rows) -> list[np.ndarray]:
        return [broken(b"", row) for row in rows]

    running = (
        batches(samples, places([[0, 1], [2, 3, 4], [5, 6]]), as_decoded(broken), side=STORED, threads=2)
        if road == "batches"
        else in_turn(some, [range(2), range(2, 5), range(5, 7)], samples, threads=2)
    )
    assert words in ends(running, samples.path(3), monkeypatch, code=code)
    assert not decoders()


@pytest.mark.parametrize("road", ["batches", "batches of no thread", "in_turn"])
def test_a_thread_that_hangs_is_given_up_and_names_its_picture(folder, monkeypatch, road):
    samples, go_on = open_source(folder), threading.Event()

    def stuck(data: bytes, row: int) -> np.ndarray:
        if row == 3:
            go_on.wait(60)
        return np.zeros((STORED, STORED, 3), np.uint8)

    def some(rows) -> list[np.ndarray]:
        return [stuck(b"", row) for row in rows]

    running = (
        batches(
            samples,
            places([[0, 1], [2, 3, 4], [5, 6]]),
            as_decoded(stuck),
            side=STORED,
            threads=0 if "no" in road else 2,
            patience=0.5,
        )
        if "batches" in road
        else in_turn(some, [range(2), range(2, 5), range(5, 7)], samples, threads=2, patience=0.5)
    )
    assert "has taken 0.5 seconds and goes on" in ends(running, samples.path(3), monkeypatch)
    assert len(decoders()) == 1
    go_on.set()
    end = time.monotonic() + 5
    while decoders() and time.monotonic() < end:
        time.sleep(0.01)
    assert not decoders()


def test_pictures_that_are_slow_one_by_one_are_waited_for(folder):
    samples = open_source(folder)

    def slow(data: bytes, row: int) -> np.ndarray:
        time.sleep(0.2)
        return np.zeros((STORED, STORED, 3), np.uint8)

    (batch,) = batches(samples, places([[*range(8)]]), as_decoded(slow), side=STORED, threads=1, patience=0.5)
    assert len(batch.rows) == 8


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [(0, 0, 61, 90), (3, 5, 40, 33), (10, 0, 9, 90), (60, 89, 1, 1)])
def test_a_resized_crop_is_torchs_interpolation(filter, box):
    """Bit for bit, larger and smaller, with the colours of a pixel beside each other; the picture stays as it is."""
    image = np.random.default_rng(0).integers(0, 256, (61, 90, 3), np.uint8)
    before, (top, left, h, w) = image.copy(), box
    made = random_resized(image, box, side=SIDE, filter=filter)
    cut = torch.from_numpy(image[top : top + h, left : left + w].copy()).permute(2, 0, 1)[None]
    want = torch.nn.functional.interpolate(cut, (SIDE, SIDE), mode=filter, antialias=True)[0].permute(1, 2, 0)
    assert np.array_equal(made, want.numpy()) and made.flags.c_contiguous
    assert np.array_equal(image, before)


def test_the_crop_of_the_original_is_a_function_of_seed_epoch_and_n(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / name / "0.png")
    samples = open_source(tmp_path)

    def prepare(row, n, epoch, seed=5):
        crops = original(samples, RECORD, seed=seed, scale=0.08)
        return crops.view(crops.decode(samples.read(row), row), n, epoch)

    assert np.array_equal(prepare(0, 7, 2), prepare(0, 7, 2))
    assert np.array_equal(prepare(0, 7, 2), prepare(1, 7, 2)), "the draw belongs to the place, not to the row"
    others = [prepare(0, 8, 2), prepare(0, 7, 3), prepare(0, 7, 2, seed=6)]
    assert not any(np.array_equal(prepare(0, 7, 2), other) for other in others)
    firsts = [prepare(0, 0, 0, seed=seed) for seed in range(4)]
    assert len({first.tobytes() for first in firsts}) == 4, "the first place draws too"
    # by threads the same
    at = places([[0, 1, 0, 1, 0], [1, 0, 1]], epoch=4)
    crops = original(samples, RECORD, seed=5, scale=0.08)
    one, many = (list(batches(samples, at, crops, side=SIDE, threads=threads)) for threads in (0, 3))
    assert all(torch.equal(a.images, b.images) for a, b in zip(one, many, strict=True))
    # by Pillow alone: cut, then resized; within a level
    top, left, h, w = resized_box(60, 90, uniform(5, 2, np.array([7]), count=40, purpose=1)[0], smallest=0.08)
    whole = Image.open(tmp_path / "a" / "0.png")
    by_hand = whole.crop((left, top, left + w, top + h)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    assert np.abs(prepare(0, 7, 2).astype(int) - np.asarray(by_hand)).max() <= 1


@pytest.mark.parametrize("scale", [0.08, 0.5])
def test_boxes_are_distributed_as_torchvisions(scale):
    height, width = 300, 400
    u = uniform(1, 0, np.arange(3000), count=40, purpose=1)
    ours = np.array([resized_box(height, width, row, smallest=scale) for row in u])
    top, left, h, w = ours.T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
    share = h * w / (height * width)
    assert share.min() > scale * 0.97 and share.max() <= 1
    # a pixel of rounding on either side
    assert ((w + 1) / (h - 1)).min() > 3 / 4 and ((w - 1) / (h + 1)).max() < 4 / 3
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    draw = partial(RandomResizedCrop.get_params, image, [scale, 1.0], [3 / 4, 4 / 3])
    theirs = np.array([draw() for _ in range(3000)])
    for mine, other in zip((*ours.T, share), (*theirs.T, theirs[:, 2] * theirs[:, 3] / 120_000), strict=True):
        assert ks_2samp(mine, other).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(10, 1000), (1000, 10), (1, 5000), (5000, 1), (1, 1)])
def test_strips_fall_back_as_torchvision_does(shape):
    u = uniform(1, 0, np.arange(50), count=40, purpose=1)
    found = {resized_box(*shape, row, smallest=0.08) for row in u}
    theirs = RandomResizedCrop.get_params(torch.empty(3, *shape), [0.08, 1.0], [3 / 4, 4 / 3])
    assert found == {theirs}


@pytest.mark.parametrize("crop", ["stored", "original"])
@pytest.mark.parametrize("threads", [0, 3])
def test_pictures_held_in_memory_change_no_bit(folder, crop, threads, monkeypatch):
    """Of three epochs, the first reads each file once, the others none; the crops are those of every epoch."""
    samples, read = open_source(folder), []
    own = Samples.read
    monkeypatch.setattr(Samples, "read", lambda self, row: read.append(row) or own(self, row))
    prepare = original(samples, RECORD, seed=5, scale=0.08) if crop == "original" else stored(samples, RECORD)
    side = SIDE if crop == "original" else STORED
    order = [np.random.default_rng(epoch).permutation(18).tolist() for epoch in range(3)]
    asked = [place for epoch in range(3) for place in places([order[epoch][:10], order[epoch][10:]], epoch)]
    plain = list(batches(samples, asked, prepare, side=side, threads=threads))
    assert len(read) == 54
    read.clear()
    decoded = Decoded(18, limit=18 * STORED * STORED * 3)
    again = list(batches(samples, asked, prepare, side=side, threads=threads, decoded=decoded, ahead=1))
    assert sorted(read) == list(range(18)) and decoded.held == 18 and decoded.bytes == decoded.limit
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        assert a.rows.tolist() == b.rows.tolist()
    assert all(batch.seconds_read > 0 for batch in again[:2]) and not any(batch.seconds_read for batch in again[2:])


def test_a_set_that_memory_does_not_hold_is_given_up(folder, monkeypatch):
    samples, size = open_source(folder), STORED * STORED * 3
    decoded = Decoded(18, limit=18 * size - 1)  # all but one byte
    (batch,) = made(samples, [[*range(17)]], 0, decoded=decoded)
    assert decoded.held == 17 and not decoded.given_up
    made(samples, [[17]], 0, decoded=decoded)
    assert decoded.held == 0 and decoded.bytes == 0 and decoded.get(3) is None and decoded.given_up
    again = made(samples, [[*range(17)]], 0, decoded=decoded)
    assert decoded.held == 0 and torch.equal(again[0].images, batch.images)
    # the first few tell it
    monkeypatch.setattr("alexnet.data.loader.ENOUGH", 4)
    decoded = Decoded(18, limit=18 * size - 1)
    made(samples, [[0, 1, 2]], 0, decoded=decoded)
    assert decoded.held == 3
    made(samples, [[3]], 0, decoded=decoded)
    assert decoded.held == 0 and decoded.given_up


def test_a_bad_picture_is_bad_in_every_epoch(folder, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(folder, root)
    (root / "a" / "3.png").write_bytes((folder / "a" / "3.png").read_bytes()[:100])
    samples, decoded = open_source(root), Decoded(18, limit=10**9)
    prepare, asked = stored(samples, RECORD), [*places([[*range(9)]]), *places([[*range(9)]], epoch=1)]
    for batch in batches(samples, asked, prepare, side=STORED, threads=2, bad_images="skip", decoded=decoded):
        assert [row for row, _ in batch.bad] == [3] and len(batch.images) == 8
    assert decoded.held == 8
