import hashlib
import io
import os
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

from alexnet.data import get as getting
from alexnet.data.get import get
from alexnet.data.sources import open_data
from alexnet.errors import DataError

from .ilsvrc import add, jpeg


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Serve these bytes in place of a remote file; as torchvision does, whatever comes is written."""
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    served: dict[str, bytes] = {}

    def download_url(url, root, md5):
        Path(root).mkdir(parents=True, exist_ok=True)
        (Path(root) / url.rpartition("/")[2]).write_bytes(served[url])

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)

    def serve(name: str, content: bytes) -> None:
        remote = getattr(getting, name)
        served[remote.url] = content
        monkeypatch.setattr(getting, name, remote._replace(md5=hashlib.md5(content).hexdigest()))

    return serve


def tgz(files: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            add(tar, name, content)
        for member in extra:
            tar.addfile(member)
    return packed.getvalue()


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_flowers(host, tmp_path):
    names = [f"flower_photos/{key}/{n}.jpg" for key in ("daisy", "roses") for n in range(5)]
    host("FLOWERS", tgz({name: jpeg(n) for n, name in enumerate(names)} | {"flower_photos/LICENSE.txt": b"CC"}))
    folder = get("flowers", tmp_path / "data" / "flowers")
    assert listing(folder) == [name.removeprefix("flower_photos/") for name in names]
    assert len(open_data(folder).val) == 2
    assert get("flowers", folder) == folder


def test_imagenette(host, tmp_path):
    names = [
        f"imagenette2-320/{split}/{key}/{key}_1.JPEG"
        for split in ("train", "val")
        for key in ("n01440764", "n03888257")
    ]
    host("IMAGENETTE", tgz(dict.fromkeys(names, jpeg(0)) | {"imagenette2-320/noisy_imagenette.csv": b""}))
    data = open_data(get("imagenette", tmp_path / "imagenette"))
    assert data.classes.words == ("tench, Tinca tinca", "parachute, chute")
    assert (len(data.train), len(data.val)) == (2, 2)


def test_cifar10(host, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), np.uint8)
    labels = [0, 1, 1, 0, 1, 0]
    records = [bytes([label]) + image.tobytes() for label, image in zip(labels, images, strict=True)]
    base = "cifar-10-batches-bin"
    files = {
        f"{base}/batches.meta.txt": b"airplane\nautomobile\n\n",
        f"{base}/data_batch_1.bin": b"".join(records[:2]),
        f"{base}/data_batch_2.bin": b"".join(records[2:4]),
        f"{base}/test_batch.bin": b"".join(records[4:]),
        f"{base}/readme.html": b"",
    }
    host("CIFAR10", tgz(files))
    folder = get("cifar10", tmp_path / "cifar10")
    data = open_data(folder)
    assert data.classes.keys == ("airplane", "automobile")
    assert (len(data.train), len(data.val)) == (4, 2)
    pixels = np.asarray(Image.open(folder / "train" / "automobile" / "data_batch_2_00000.png"))
    assert (pixels == images[2].transpose(1, 2, 0)).all()
    host("CIFAR10", tgz({f"{base}/data_batch_1.bin": b"short"}))
    with pytest.raises(DataError, match="not CIFAR-10's binary form"):
        get("cifar10", tmp_path / "other")


def test_flowers102_as_torchvision_splits_it(host, tmp_path):
    numbers = range(1, 13)
    archive = tgz({f"jpg/image_{n:05d}.jpg": jpeg(n) for n in numbers})
    labels, splits = io.BytesIO(), io.BytesIO()
    savemat(labels, {"labels": np.array([[1 + n % 2 for n in numbers]], np.uint8)})
    savemat(splits, {"trnid": [[3, 4, 9, 10]], "valid": [[1, 2]], "tstid": [[5, 6, 7, 8, 11, 12]]})
    host("FLOWERS102", archive)
    host("FLOWERS102_LABELS", labels.getvalue())
    host("FLOWERS102_SPLITS", splits.getvalue())
    data = open_data(get("flowers102", tmp_path / "flowers102"))
    assert data.classes.keys == ("001", "002")

    root = tmp_path / "theirs" / "flowers-102"
    root.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(root, filter="data")
    (root / "imagelabels.mat").write_bytes(labels.getvalue())
    (root / "setid.mat").write_bytes(splits.getvalue())

    class Whole(torchvision.datasets.Flowers102):
        def _check_integrity(self):
            return True

    for mine, split in ((data.train, "train"), (data.val, "val")):
        theirs = Whole(str(tmp_path / "theirs"), split=split)
        expected = {path.name: label for path, label in zip(theirs._image_files, theirs._labels, strict=True)}
        assert {mine.path(row).name: mine.label[row] for row in range(len(mine))} == expected


def test_addresses_and_sums_are_torchvisions():
    datasets = torchvision.datasets
    assert tuple(getting.IMAGENETTE) == datasets.Imagenette._ARCHIVES["320px"]
    assert datasets.Flowers102._download_url_prefix == getting.OXFORD
    remotes = (getting.FLOWERS102, getting.FLOWERS102_LABELS, getting.FLOWERS102_SPLITS)
    for remote, key in zip(remotes, ("image", "label", "setid"), strict=True):
        assert (remote.url.removeprefix(getting.OXFORD), remote.md5) == datasets.Flowers102._file_dict[key]


def test_a_host_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError(OSError(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(
        DataError, match=r"cannot be fetched from download\.tensorflow\.org .*name resolution"
    ) as caught:
        get("flowers", tmp_path / "flowers")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "flowers").exists()
    assert [path.name for path in tmp_path.iterdir()] in ([], ["cache"])


def test_other_bytes_than_the_published_are_refused(host, tmp_path, monkeypatch):
    host("FLOWERS", tgz({"flower_photos/a/1.jpg": b"1"}))
    monkeypatch.setattr(getting, "FLOWERS", getting.FLOWERS._replace(md5="0" * 32))
    with pytest.raises(DataError, match="its bytes are not the published ones"):
        get("flowers", tmp_path / "flowers")
    assert not (tmp_path / "flowers").exists()


@pytest.mark.parametrize("name", ["flower_photos/../../evil.jpg", "/evil.jpg", "../evil.jpg"])
def test_a_name_that_climbs_out_is_refused(host, tmp_path, name):
    host("FLOWERS", tgz({"flower_photos/a/1.jpg": b"1", name: b"evil"}))
    with pytest.raises(DataError, match=r"evil\.jpg would leave the folder"):
        get("flowers", tmp_path / "deep" / "flowers")
    assert listing(tmp_path) == ["cache/downloads/flower_photos.tgz"]
    assert not Path("/evil.jpg").exists()


def test_links_are_not_made(host, tmp_path):
    link = tarfile.TarInfo("flower_photos/a/link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    folder_link = tarfile.TarInfo("flower_photos/b")
    folder_link.type, folder_link.linkname = tarfile.SYMTYPE, str(tmp_path)
    content = tgz({"flower_photos/a/1.jpg": b"1"}, link, folder_link)
    host("FLOWERS", content)
    assert listing(get("flowers", tmp_path / "flowers")) == ["a/1.jpg"]
    assert not any(path.is_symlink() for path in (tmp_path / "flowers").rglob("*"))


def test_a_member_is_not_written_over_another(host, tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        add(tar, "flower_photos/a/1.jpg", b"1")
        add(tar, "flower_photos/a/1.jpg", b"2")
    host("FLOWERS", packed.getvalue())
    with pytest.raises(DataError, match="File exists"):
        get("flowers", tmp_path / "flowers")


def test_an_archive_cut_short_leaves_nothing(host, tmp_path):
    host("FLOWERS", tgz({f"flower_photos/a/{n}.jpg": os.urandom(5000) for n in range(5)})[:9000])
    with pytest.raises(DataError, match="damaged or cut short"):
        get("flowers", tmp_path / "flowers")
    assert not (tmp_path / "flowers").exists()


def test_an_unknown_name(tmp_path):
    with pytest.raises(DataError, match="known are flowers, imagenette, cifar10, flowers102, digits"):
        get("imagenet", tmp_path / "x")
