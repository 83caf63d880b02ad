"""Small folders of pictures that tests make: two kinds of blobs that a network can tell apart."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_folder(folder: Path, *, classes: int = 3, each: int = 24, side: int = 80, seed: int = 0) -> Path:
    """An image folder: class k's pictures are noise with a bright bar at an angle of its own."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    for k in range(classes):
        place = folder / f"class{k}"
        place.mkdir(parents=True)
        angle = np.pi * k / classes
        for i in range(each):
            bar = np.abs(x * np.cos(angle) + y * np.sin(angle) + random.uniform(-0.2, 0.2)) < 0.1
            picture = random.uniform(0, 90, (side, side, 3)) + 150 * bar[:, :, None]
            name = place / f"{i:03d}.{'jpg' if i % 2 else 'png'}"
            Image.fromarray(picture.astype(np.uint8)).save(name, quality=90)
    return folder
