import io
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image

from alexnet import stop
from alexnet.data.classes import Classes
from alexnet.data.decode import decode, stored_form
from alexnet.data.preprocess import Preprocess
from alexnet.data.samples import Samples
from alexnet.data.stats import Stats, measure
from alexnet.errors import BadImage, DataError, Stopped, UsageError

PREPROCESS = Preprocess(
    side=32,
    stored=37,
    resize="shorter",
    filter="bilinear",
    exif=True,
    decode="full",
    colour="RGB",
    scale=1.0,
    mean="mean.npy",
    mean_crop="centre",
    std=(1.0, 1.0, 1.0),
)


def small(stored):
    return replace(PREPROCESS, side=stored, stored=stored)


COUNT = 150  # more than two chunks of rows
BROKEN = (3, 70, 149)


def table(folder, contents, *, raw=False):
    names = [f"{i:03d}.jpg" for i in range(len(contents))]
    for name, content in zip(names, contents, strict=True):
        (folder / name).write_bytes(content)
    return Samples.build(
        folder,
        names,
        label=np.zeros(len(names), np.int64),
        classes=Classes.of(["a"]),
        size=[len(content) for content in contents],
        raw=raw,
    )


@pytest.fixture(scope="module")
def contents():
    rng = np.random.default_rng(0)
    made = []
    for _ in range(COUNT):
        h, w = rng.integers(20, 90, 2)
        low = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(low).resize((int(w), int(h))).save(stream, "JPEG")
        made.append(stream.getvalue())
    return made


@pytest.fixture
def samples(tmp_path, contents):
    return table(tmp_path, contents)


def same(a: Stats, b: Stats):
    for field in fields(Stats):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            assert x.tobytes() == y.tobytes(), field.name
        else:
            assert x == y, field.name


def test_against_numpy(samples, contents):
    images = [decode(content, "a") for content in contents]
    forms = np.stack([stored_form(image, stored=37, resize="shorter", filter="bilinear") for image in images])
    stats = measure(samples, PREPROCESS, threads=2, cache=None)
    assert stats.count == COUNT
    assert np.array_equal(stats.mean, forms.astype(np.float64).mean(0))
    colours = forms.reshape(-1, 3).astype(np.float64)
    assert np.array_equal(stats.channel_mean, colours.mean(0))
    assert np.array_equal(stats.sizes, [image.shape[:2] for image in images])
    assert stats.bad == ()
    covariance = np.cov(colours.T, bias=True)
    rebuilt = stats.eigenvectors @ np.diag(stats.eigenvalues) @ stats.eigenvectors.T
    assert np.abs(rebuilt - covariance).max() <= 1e-10 * covariance.max()
    assert np.abs(stats.eigenvectors.T @ stats.eigenvectors - np.eye(3)).max() < 1e-12
    assert (np.diff(stats.eigenvalues) < 0).all()
    largest = stats.eigenvectors[np.abs(stats.eigenvectors).argmax(0), range(3)]
    assert (largest > 0).all()


@pytest.mark.parametrize("threads", [2, 5])
def test_the_same_bits_at_any_number_of_threads(samples, threads):
    same(measure(samples, PREPROCESS, threads=threads, cache=None), measure(samples, PREPROCESS, threads=1, cache=None))


def test_the_order_of_rows_changes_sizes_only(samples):
    a = measure(samples, PREPROCESS, threads=2, cache=None)
    b = measure(samples.take(np.arange(COUNT)[::-1]), PREPROCESS, threads=2, cache=None)
    same(replace(a, sizes=a.sizes[::-1].copy()), b)


def test_one_colour_has_no_variance(tmp_path):
    stats = measure(table(tmp_path, [bytes([200, 100, 50]) * 16] * 3, raw=True), small(4), threads=1, cache=None)
    assert np.array_equal(stats.mean, np.broadcast_to([200.0, 100.0, 50.0], (4, 4, 3)))
    assert np.array_equal(stats.eigenvalues, np.zeros(3))
    assert np.array_equal(stats.sizes, [[4, 4]] * 3)


def test_raw_pixels_of_known_axes(tmp_path):
    # Grey levels 0 and 2 (variance 3 along (1,1,1)), and blue to either side of them, uncorrelated.
    pixels = np.array([[0, 0, 0], [2, 2, 2], [0, 0, 0], [2, 2, 2]], np.uint8)
    stats = measure(table(tmp_path, [pixels.tobytes()], raw=True), small(2), threads=1, cache=None)
    assert np.allclose(stats.eigenvalues, [3, 0, 0], atol=1e-12)
    assert np.allclose(stats.eigenvectors[:, 0], 1 / np.sqrt(3))


def test_a_second_time_it_is_read_from_the_cache(samples, tmp_path):
    cache = tmp_path / "deep" / "cache"
    first = measure(samples, PREPROCESS, threads=2, cache=cache)
    (kept,) = cache.iterdir()
    for path in tmp_path.glob("*.jpg"):
        path.write_bytes(bytes(path.stat().st_size))  # what is not looked at cannot be missed
    same(measure(samples, PREPROCESS, threads=1, cache=cache), first)
    same(measure(samples, replace(PREPROCESS, side=30, colour="BGR", scale=0.5), threads=1, cache=cache), first)
    assert list(cache.iterdir()) == [kept]


@pytest.mark.parametrize(
    "change", [{"stored": 40}, {"resize": "warp"}, {"filter": "box"}, {"exif": False}, {"decode": "reduced"}], ids=str
)
def test_what_shapes_the_stored_form_is_measured_anew(samples, tmp_path, change):
    measure(samples.take(range(5)), PREPROCESS, threads=1, cache=tmp_path / "cache")
    measure(samples.take(range(5)), replace(PREPROCESS, **change), threads=1, cache=tmp_path / "cache")
    measure(samples.take(range(6)), PREPROCESS, threads=1, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_damaged_cache_is_measured_again(samples, tmp_path):
    few = samples.take(range(5))
    first = measure(few, PREPROCESS, threads=1, cache=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    other = io.BytesIO()
    np.savez(other, mean=np.zeros((2, 2, 3)))
    tampered = []
    for name, change in (
        ("mean", lambda value: value[:1]),
        ("mean", lambda value: value * np.nan),
        ("channel_mean", lambda value: value[:2]),
        ("eigenvalues", lambda value: value / 0),
        ("eigenvectors", lambda value: value.astype("U")),
        ("sizes", lambda value: value[:, :1]),
        ("sizes", lambda value: value[:0]),
        ("bad", lambda value: np.array("[1]")),
        ("bad", lambda value: np.array(print, object)),
    ):
        with np.load(io.BytesIO(whole), allow_pickle=False) as arrays, np.errstate(all="ignore"):
            values = dict(arrays) | {name: change(arrays[name])}
        stream = io.BytesIO()
        np.savez(stream, **values)
        tampered.append(stream.getvalue())
    for damaged in (b"", b"PK", whole[:100], whole[:-1], flipped, bytes(len(whole)), other.getvalue(), *tampered):
        kept.write_bytes(damaged)
        same(measure(few, PREPROCESS, threads=1, cache=tmp_path / "cache"), first)
        assert kept.read_bytes() == whole


def test_a_cache_of_other_pictures_is_measured_again(samples, tmp_path):
    cache = tmp_path / "cache"
    first = measure(samples.take(range(5)), PREPROCESS, threads=1, cache=cache)
    (kept,) = cache.iterdir()
    measure(samples.take(range(5, 10)), PREPROCESS, threads=1, cache=cache)
    (other,) = set(cache.iterdir()) - {kept}
    kept.write_bytes(other.read_bytes())
    same(measure(samples.take(range(5)), PREPROCESS, threads=1, cache=cache), first)


def test_bad_images(tmp_path, contents):
    broken = [content[:50] if i in BROKEN else content for i, content in enumerate(contents)]
    samples = table(tmp_path, broken)
    cache = tmp_path / "cache"
    with pytest.raises(BadImage, match=r"003\.jpg: damaged JPEG"):
        measure(samples, PREPROCESS, threads=3, cache=cache)
    assert list(cache.iterdir()) == []
    stats = measure(samples, PREPROCESS, threads=3, cache=cache, bad_images="skip")
    assert [row for row, _ in stats.bad] == list(BROKEN)
    assert all("damaged JPEG" in reason for _, reason in stats.bad)
    good = samples.take([i for i in range(COUNT) if i not in BROKEN])
    same(replace(stats, bad=()), measure(good, PREPROCESS, threads=1, cache=None))
    same(measure(samples, PREPROCESS, threads=1, cache=cache, bad_images="skip"), stats)
    with pytest.raises(BadImage, match=r"003\.jpg: damaged JPEG"):
        measure(samples, PREPROCESS, threads=1, cache=cache)


def test_no_image_at_all(tmp_path, contents):
    with pytest.raises(DataError, match="none of 0 images"):
        measure(table(tmp_path, []), PREPROCESS, threads=1, cache=None)
    with pytest.raises(DataError, match="none of 2 images can be measured; the first: an empty file"):
        measure(table(tmp_path, [b"", b""]), PREPROCESS, threads=1, cache=None, bad_images="skip")


def test_a_signal_stops_it(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(stop, "requested", lambda: True)
    with pytest.raises(Stopped, match="the same command"):
        measure(samples, PREPROCESS, threads=2, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_made(samples, tmp_path):
    with pytest.raises(UsageError, match="set ALEXNET_CACHE"):
        measure(samples, PREPROCESS, threads=1, cache=tmp_path / "000.jpg" / "cache")


def test_real_photographs(photos):
    paths = sorted(photos.glob("*/*.jpg"))[:40]
    samples = Samples.build(
        photos,
        [str(path.relative_to(photos)) for path in paths],
        label=np.zeros(len(paths), np.int64),
        classes=Classes.of(["a"]),
        size=[path.stat().st_size for path in paths],
    )
    stats = measure(samples, replace(PREPROCESS, side=224, stored=256), threads=2, cache=None)
    assert stats.mean.shape == (256, 256, 3)
    assert (stats.channel_mean > 40).all()
    assert (stats.channel_mean < 200).all()
    # Pictures vary most in brightness: the first axis has one sign.
    assert (stats.eigenvectors[:, 0] > 0).all()
    assert stats.eigenvalues[0] > 5 * stats.eigenvalues[1]
