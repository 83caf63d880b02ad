"""Pictures that tests make: files of every kind, and small folders of bars that a network can tell apart."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


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


def picture(height=64, width=96):
    """A smooth picture of many colours, uint8 (h, w, 3)."""
    y, x = np.mgrid[:height, :width]
    planes = [x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) * 255 // max(height + width - 2, 1)]
    return np.stack(planes, 2).astype(np.uint8)


def encoded(image, kind, mode="RGB", **options):
    stream = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image).convert(mode)
    image.save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, *, depth, colour, rows, extra=b""):
    """A PNG written by hand, for what Pillow does not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")
