"""As many pictures as ImageNet has, and far more: opening a tar, a list and a folder of them; their order."""

import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torchvision.datasets import ImageFolder

from ..data.classes import imagenet_classes
from ..data.order import nth
from ..data.sources import open_data, open_source
from .memory import PEAK, resident
from .rows import OURS, Contestant, Row, timed

PICTURES = 1_281_167  # ImageNet's training set
ORDERED = 10**8
BLOCK = 10**6
TARFILE, FOLDER = "tarfile, getmembers", "ImageFolder"
TURNS = {"first opening": "source", "opening again": "source", "opening again, split to train": "data"}


def names() -> list[str]:
    """Class folders and names as ImageNet's: n01440764/n01440764_0.JPEG, as many of each class as of any."""
    keys = imagenet_classes().keys
    return [f"{keys[i % len(keys)]}/{keys[i % len(keys)]}_{i // len(keys)}.JPEG" for i in range(PICTURES)]


def write_tar(path: Path) -> None:
    """A tar of members of one byte, class by class: 1,024 bytes a picture."""
    header = tarfile.TarInfo()
    header.size = 1
    with path.open("wb") as out:
        for header.name in sorted(names()):
            out.write(header.tobuf(tarfile.USTAR_FORMAT) + bytes(tarfile.BLOCKSIZE))
        out.write(bytes(2 * tarfile.BLOCKSIZE))


def write_files(folder: Path, listed: Path) -> None:
    """Empty files in class folders, and a list of them beside `folder`."""
    for key in imagenet_classes().keys:
        (folder / key).mkdir(parents=True)
    with listed.open("w") as out:
        for name in names():
            os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY))
            out.write(f"{folder.name}/{name} {name.partition('/')[0]}\n")


def _tarfile(path: str) -> Any:
    with tarfile.open(path) as tar:
        return tar.getmembers()


def _image_folder(path: str) -> Any:
    return ImageFolder(path).samples


OPENERS: dict[str, Callable[[str], Any]] = {
    "source": open_source, "data": open_data, TARFILE: _tarfile, FOLDER: _image_folder,
}  # fmt: skip


def opening(how: str, path: str) -> dict[str, float]:
    """Seconds to open `path`, and bytes by which this process's resident size goes above what it was (Linux)."""
    before = 0
    if PEAK.exists():
        PEAK.write_text("5")
        before = resident("VmRSS")
    begin = time.perf_counter()
    opened = OPENERS[how](path)
    seconds = time.perf_counter() - begin
    grown = resident("VmHWM") - before if PEAK.exists() else 0
    assert opened
    return {"s": seconds, "bytes": grown}


def _opened(how: str, path: Path, cache: str) -> dict[str, float]:
    program = "import json, sys; from alexnet.bench.scale import opening; print(json.dumps(opening(*sys.argv[1:])))"
    command, there = [sys.executable, "-c", program, how, str(path)], {**os.environ, "ALEXNET_CACHE": cache}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=there)  # noqa: S603
    return json.loads(done.stdout)


def openings(kind: str, path: Path, peer: str | None, *, repeats: int) -> list[Row]:
    """Seconds and memory of opening `path`, each time in a fresh process; the first time with an empty cache.

    The peer keeps nothing, and opens it as if for the first time: what it took stands beside each of ours.
    """
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(repeats):
        with TemporaryDirectory() as cache:
            for turn, how in TURNS.items():
                found.setdefault((turn, OURS), []).append(_opened(how, path, cache))
            if peer is not None:
                taken = _opened(peer, path, cache)
                for turn in ("first opening", "opening again"):
                    found.setdefault((turn, peer), []).append(taken)
    units = {"s": "", "bytes": ", growth of resident memory"} if PEAK.exists() else {"s": ""}
    return [
        Row(f"scale, {kind} of {PICTURES:,}, {turn}{said}", who, unit, tuple(one[unit] for one in runs), None)
        for unit, said in units.items()
        for (turn, who), runs in sorted(found.items(), key=lambda item: list(TURNS).index(item[0][0]))
    ]


def order(*, repeats: int, peers: bool) -> list[Row]:
    """Seconds to know which pictures come at a block of positions, and at one, where the whole has ORDERED."""
    found: list[Row] = []
    for count in (BLOCK, 1):
        n = ORDERED // 2 + np.arange(count)
        contestants = [Contestant(OURS, lambda n=n: nth(0, 1, n, size=ORDERED))]
        if peers:
            contestants.append(Contestant("torch.randperm of all", lambda: torch.randperm(ORDERED)))
        found += timed(f"scale, order of {ORDERED:,}, {count:,} of them", contestants, repeats=repeats)
    return found


def rows(*, repeats: int, peers: bool) -> list[Row]:
    """The table of a tar, a list and a folder of as many pictures as ImageNet has; the order of a hundred million."""
    with TemporaryDirectory() as temporary:
        tar, folder, listed = (Path(temporary) / name for name in ("pictures.tar", "pictures", "pictures.txt"))
        write_tar(tar)
        write_files(folder, listed)
        found = openings("tar", tar, TARFILE if peers else None, repeats=repeats)
        found += openings("list", listed, None, repeats=repeats)
        found += openings("folder", folder, FOLDER if peers else None, repeats=repeats)
    return found + order(repeats=repeats, peers=peers)
