"""How long a command takes from nothing: each run is a process of its own."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from .rows import OURS, Contestant, Row, timed

IMPORTS = "python -c 'import torch, torchvision'"


def _ran(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)  # noqa: S603


def rows(*, repeats: int, peers: bool) -> list[Row]:
    """`alexnet --help`, and `alexnet predict` of one picture beside the mere import of torch and torchvision."""
    found = timed("startup, --help", [Contestant(OURS, lambda: _ran("-m", "alexnet", "--help"))], repeats=repeats)
    with TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)).save(picture)
        contestants = [Contestant(OURS, lambda: _ran("-m", "alexnet", "predict", "paper", str(picture)))]
        if peers:
            contestants.append(Contestant(IMPORTS, lambda: _ran("-c", "import torch, torchvision")))
        return found + timed("startup, predict one picture", contestants, repeats=repeats)
