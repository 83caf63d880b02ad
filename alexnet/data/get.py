"""Known data sets from the network -> an image folder ready for `open_data`.

Archives are checked by MD5 and unpacked member by member into a fresh folder that takes its name when it is whole.
CIFAR-10 is had in its binary form: the Python form is pickles.
"""

import hashlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from .. import files
from ..errors import DataError, did_you_mean
from .cache import cache_folder, offline
from .digits import digits_samples
from .folders import is_image, is_junk
from .samples import shown


class Remote(NamedTuple):
    """A file to download: its address and the MD5 of its bytes."""

    url: str
    md5: str


FLOWERS = Remote("http://download.tensorflow.org/example_images/flower_photos.tgz", "6f87fb78e9cc9ab41eff2015b380011d")
# These addresses and sums are torchvision.datasets' own, except CIFAR-10's: https://www.cs.toronto.edu/~kriz/cifar.html
IMAGENETTE = Remote(
    "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz", "3df6f0d01a2c9592104656642f5e78a3"
)
CIFAR10 = Remote("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")
OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
FLOWERS102 = Remote(f"{OXFORD}102flowers.tgz", "52808999861908f626f3c1f4e79d11fa")
FLOWERS102_LABELS = Remote(f"{OXFORD}imagelabels.mat", "e0620be6f572b9609742df49c70aed4d")
FLOWERS102_SPLITS = Remote(f"{OXFORD}setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c")

CIFAR10_SIDE = 32


def get(name: str, into: Path) -> Path:
    """Fetch `flowers`, `imagenette`, `cifar10` or `flowers102`, or write `digits`, to the folder `into`; returns it.

    A folder that is there already is left as it is. DataError: another name; a host that cannot be reached; bytes that
    are not the published ones; a folder that cannot be written.
    """
    known = {
        "flowers": _flowers,
        "imagenette": _imagenette,
        "cifar10": _cifar10,
        "flowers102": _flowers102,
        "digits": _digits,
    }
    unpack = known.get(name)
    if unpack is None:
        raise DataError(f"{name}: no data set of this name; known are {', '.join(known)}{did_you_mean(name, known)}")
    if into.exists():
        if not into.is_dir():
            raise DataError(f"{shown(str(into))}: there is a file of this name")
        return into
    try:
        with files.new_folder(into) as folder:
            unpack(folder)
    except (tarfile.TarError, EOFError, zlib.error) as reason:
        raise DataError(f"{name}: the archive is damaged or cut short ({reason})") from None
    except OSError as reason:
        raise DataError(f"{shown(str(into))}: {reason.strerror or reason}") from None
    return into


def _digits(folder: Path) -> None:
    samples = digits_samples()
    for row in range(len(samples)):
        label, name = samples.classes.keys[int(samples.label[row])], samples.name(row).rsplit("/", 1)[1]
        (folder / label).mkdir(exist_ok=True)
        (folder / label / name).write_bytes(samples.read(row))


def _flowers(folder: Path) -> None:
    _unpack(FLOWERS, folder, lambda name: name.removeprefix("flower_photos/"))


def _imagenette(folder: Path) -> None:
    _unpack(IMAGENETTE, folder, lambda name: name.removeprefix("imagenette2-320/"))


def _cifar10(folder: Path) -> None:
    """`train/<class>/` and `test/<class>/` of PNG files from records of a label and 3 planes of 32x32 bytes."""
    record = 1 + 3 * CIFAR10_SIDE**2
    words: list[str] = []
    batches: dict[str, bytes] = {}
    for name, stream in _members(_download(CIFAR10)):
        base = name.rpartition("/")[2]
        if base == "batches.meta.txt":
            words = stream.read().decode().split()
        elif base.endswith(".bin"):
            batches[base] = stream.read()
    if not words or not batches or any(len(batch) % record for batch in batches.values()):
        raise DataError(f"{CIFAR10.url}: not CIFAR-10's binary form")
    for batch in sorted(batches):
        split = "test" if batch.startswith("test") else "train"
        for number, image in enumerate(np.frombuffer(batches[batch], np.uint8).reshape(-1, record)):
            pixels = image[1:].reshape(3, CIFAR10_SIDE, CIFAR10_SIDE).transpose(1, 2, 0)
            encoded = BytesIO()
            Image.fromarray(np.ascontiguousarray(pixels)).save(encoded, "PNG")
            encoded.seek(0)
            name = f"{split}/{words[image[0]]}/{batch.removesuffix('.bin')}_{number:05d}.png"
            _put(folder, name, encoded)


def _flowers102(folder: Path) -> None:
    """`train/`, `val/` and `test/` with a folder a class, `001` to `102`, by the published split."""
    # Imported here: only these two tables need it, and it is slow to import.
    from scipy.io import loadmat

    labels = loadmat(_download(FLOWERS102_LABELS), squeeze_me=True)["labels"]
    splits = loadmat(_download(FLOWERS102_SPLITS), squeeze_me=True)
    split_of = {
        int(number): split
        for split, field in (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
        for number in np.atleast_1d(splits[field])
    }

    def place(name: str) -> str:
        base = name.rpartition("/")[2]
        number = int(base.removeprefix("image_").removesuffix(".jpg"))
        return f"{split_of[number]}/{int(labels[number - 1]):03d}/{base}"

    _unpack(FLOWERS102, folder, place)


def _download(remote: Remote) -> Path:
    """The bytes at `remote`, in the cache; there already and whole, they are not fetched again."""
    # Imported here: everything else in this room reads images without torchvision.
    from torchvision.datasets.utils import download_url

    folder = cache_folder() / "downloads"
    path = folder / remote.url.rpartition("/")[2]
    try:
        if not offline():
            download_url(remote.url, str(folder), md5=remote.md5)
        elif not path.exists():
            raise DataError(f"{remote.url}: not at {shown(str(path))}, and nothing is fetched (--offline)")
    except (OSError, RuntimeError) as reason:
        host = urlsplit(remote.url).hostname
        raise DataError(f"{remote.url}: cannot be fetched from {host} ({' '.join(str(reason).split())})") from None
    # torchvision falls back from https to http, so what arrived is checked here once more.
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != remote.md5:
        raise DataError(f"{remote.url}: its bytes are not the published ones (MD5 {found}, expected {remote.md5})")
    return path


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, content) of the regular files of a compressed tar.

    DataError: a name that leaves its folder, or a sparse file.
    """
    with tarfile.open(archive, "r|gz", encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if name.startswith("/") or ".." in name.split("/"):
                raise DataError(f"{shown(str(archive))}: member {shown(name)} would leave the folder it belongs in")
            if member.issparse():  # its size is what it says, not what is there
                raise DataError(f"{shown(str(archive))}: member {shown(name)}: a sparse file")
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None:
                yield name, content


def _unpack(remote: Remote, folder: Path, place: Callable[[str], str]) -> None:
    """Put every image of an archive below `folder`, where `place` says by its name."""
    for name, content in _members(_download(remote)):
        if is_image(name) and not any(is_junk(part) for part in name.split("/")):
            _put(folder, place(name), content)


def _put(folder: Path, name: str, content: IO[bytes]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    # A new file or none: nothing that stands there, link or file, is written through.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with os.fdopen(handle, "wb") as stream:
        shutil.copyfileobj(content, stream)
