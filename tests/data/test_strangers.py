"""Archives of strangers: what each holds is read in place or refused by name, and nothing is written outside."""

import hashlib
import io
import stat
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from alexnet.data import get as getting
from alexnet.data.get import get
from alexnet.data.sources import open_data, open_source
from alexnet.errors import DataError

from .ilsvrc import jpeg

PICTURE = jpeg(0)


def member(
    name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644, **pax: str
) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode, made.pax_headers = kind, link, mode, pax
    return made


def nested() -> bytes:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        evil = tarfile.TarInfo("../../evil.jpg")
        evil.size = len(PICTURE)
        tar.addfile(evil, io.BytesIO(PICTURE))
    return inner.getvalue()


LONG = "b/" + "/".join(["d" * 250] * 16) + "/evil.jpg"  # 4 KB
# name: (the member, its content, what reading in place says, what unpacking says); None: it is no fault
CASES: dict[str, tuple[tarfile.TarInfo, bytes, str | None, str | None]] = {
    "climbs": (member("../evil.jpg"), PICTURE, "absolute name, or one that climbs", "would leave"),
    "climbs within": (member("b/../../../evil.jpg"), PICTURE, "absolute name, or one that climbs", "would leave"),
    "climbs as a folder": (member("../evil", tarfile.DIRTYPE), b"", None, "would leave"),
    "absolute": (member("/tmp/evil.jpg"), PICTURE, "absolute name", "would leave"),
    "by an extended header": (member("b/1.jpg", path="../../evil.jpg"), PICTURE, "absolute name", "would leave"),
    "absolute by one": (member("b/1.jpg", path="/tmp/evil.jpg"), PICTURE, "absolute name", "would leave"),
    "symbolic link": (member("b/evil.jpg", tarfile.SYMTYPE, link="/etc/passwd"), b"", "symbolic link", None),
    "hard link": (member("b/evil.jpg", tarfile.LNKTYPE, link="../../x"), b"", "hard link", None),
    "character device": (member("b/evil.jpg", tarfile.CHRTYPE), b"", "not a regular file", None),
    "block device": (member("b/evil.jpg", tarfile.BLKTYPE), b"", "not a regular file", None),
    "pipe": (member("b/evil.jpg", tarfile.FIFOTYPE), b"", "not a regular file", None),
    "sparse": (member("b/evil.jpg", tarfile.GNUTYPE_SPARSE), b"", "sparse", "sparse"),
    "name of 4 KB": (member(LONG), PICTURE, None, "File name too long"),
    "name of 70 KB": (member("b/" + "d" * 70_000 + ".jpg"), PICTURE, "a header of", "File name too long"),
    "stands twice": (member("a/1.jpg"), PICTURE, "stands twice", "File exists"),
    "a folder and a file": (member("a/1.jpg/2.jpg"), PICTURE, None, "File exists|Not a directory"),
    "a tar in it": (member("b/evil.tar"), nested(), None, None),
    "setuid": (member("b/evil.jpg", mode=0o6755), PICTURE, None, None),
    "control codes": (member("b/\x1b[2Jevil.jpg"), PICTURE, None, None),
}  # fmt: skip


def written(path: Path, name: str, mode: str) -> bytes:
    evil, content, _, _ = CASES[name]
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:
        for key in ("a/1.jpg", "b/1.jpg", "c/1.jpg"):
            good = tarfile.TarInfo(key)
            good.size = len(PICTURE)
            if key == "b/1.jpg" and evil.name == key:
                continue
            tar.addfile(good, io.BytesIO(PICTURE))
        evil.size = len(content)
        tar.addfile(evil, io.BytesIO(content))
    return path.read_bytes()


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below, with its kind and size."""
    return {
        str(path.relative_to(folder)): (stat.S_IFMT(path.lstat().st_mode), path.lstat().st_size)
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }


@pytest.mark.parametrize("name", CASES)
def test_a_tar_is_read_in_place_or_refused_by_name(tmp_path, name):
    path = tmp_path / "deep" / "x.tar"
    path.parent.mkdir()
    written(path, name, "w")
    before, says = tree(tmp_path), CASES[name][2]
    if says is None:
        samples = open_source(path)
        assert len(samples) >= 3 and all(samples.read(row) == PICTURE for row in range(len(samples)))
        assert all("\x1b" not in key for key in map(samples.key, range(len(samples))))
    else:
        with pytest.raises(DataError, match=says) as caught:
            open_source(path)
        assert str(path) in str(caught.value) and str(caught.value).isprintable()
    assert tree(tmp_path) == before and not Path("/tmp/evil.jpg").exists()


@pytest.mark.parametrize("name", CASES)
def test_what_is_unpacked_stays_in_its_folder(tmp_path, monkeypatch, name):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    content = written(tmp_path / "x.tgz", name, "w:gz")
    monkeypatch.setattr(getting, "FLOWERS", getting.FLOWERS._replace(md5=hashlib.md5(content).hexdigest()))

    def download_url(url, root, md5):
        Path(root).mkdir(parents=True, exist_ok=True)
        (Path(root) / url.rpartition("/")[2]).write_bytes(content)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    into, says = tmp_path / "deep" / "er" / "flowers", CASES[name][3]
    if says is None:
        get("flowers", into)
        for path in into.rglob("*"):
            status = path.lstat()
            assert stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and path.read_bytes() == PICTURE)
            assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID) and status.st_nlink < 4
    else:
        with pytest.raises(DataError, match=says):
            get("flowers", into)
        assert not into.exists() and not list(into.parent.iterdir()), "a half of it is left"
    outside = [path for path in tree(tmp_path) if not path.startswith(("cache/downloads/", "deep/er/flowers/"))]
    assert outside == ["x.tgz"] and not Path("/tmp/evil.jpg").exists()


def test_many_members_are_a_matter_of_seconds_and_no_memory_of_theirs(tmp_path):
    """Twenty thousand headers without a byte behind them."""
    block = member("a/1.jpg").tobuf()
    lines = []
    for number in range(20_000):
        name = f"{number % 7}/{number:06d}.jpg".encode()
        header = bytearray(name.ljust(100, b"\0") + block[100:])
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        lines.append(bytes(header))
    (tmp_path / "x.tar").write_bytes(b"".join(lines) + bytes(1024))
    begin = time.process_time()
    assert len(open_source(tmp_path / "x.tar")) == 20_000
    assert time.process_time() - begin < 3


@pytest.mark.parametrize("name", ["../evil.jpg", "/tmp/evil.jpg", "a/1.jpg"])
def test_zips_are_not_read(tmp_path, name):
    for file in ("x.zip", "x.tar"):
        with zipfile.ZipFile(tmp_path / file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, bytes(1_000_000))
        before = tree(tmp_path)
        with pytest.raises(DataError, match=file.replace(".", r"\.")) as caught:
            open_data(tmp_path / file)
        assert "\n" not in str(caught.value) and tree(tmp_path) == before


def test_a_folder_whose_names_are_links_elsewhere_is_read_once(tmp_path):
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "1.jpg").write_bytes(PICTURE)
    (tmp_path / "set" / "b").mkdir()
    (tmp_path / "set" / "b" / "1.jpg").write_bytes(PICTURE)
    (tmp_path / "set" / "a" / "up").symlink_to("..")
    before = tree(tmp_path)
    assert len(open_source(tmp_path / "set")) == 2 and tree(tmp_path) == before
