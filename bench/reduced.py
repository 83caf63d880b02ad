"""What decoding large JPEGs at 1/2 or 1/4 saves, and how far their stored forms then are from those of whole pictures.

Time: 12 of the photographs enlarged to 4000 x 3000 and to 1600 x 1200, JPEGs of quality 90, one thread, both ways in
turn. Distance: the photographs at their own size, for stored forms so small that they are large for them; for GAP as
it is and for others.

    python bench/reduced.py PHOTOS
"""

import argparse
import io
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from alexnet.data import decode
from alexnet.data.preprocess import Shaping

REPEATS, PICTURES, QUALITY = 5, 12, 90
FULL = Shaping(stored=256, resize="shorter", filter="bilinear", exif=True, decode="full")


def enlarged(path: Path, width: int, height: int) -> bytes:
    with Image.open(path) as picture:
        image = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def decibels(content: bytes, shaping: Shaping) -> float | None:
    """From the whole picture's stored form to the reduced one's; None where they are the same."""
    whole, _ = decode.decoded_form(content, "", shaping)
    reduced, _ = decode.decoded_form(content, "", shaping._replace(decode="reduced"))
    error = ((whole.astype(float) - reduced) ** 2).mean()
    return 10 * float(np.log10(255**2 / error)) if error else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    paths = sorted(parser.parse_args().photos.glob("*/*.jpg"))
    for width, height in ((4000, 3000), (1600, 1200)):
        contents = [enlarged(path, width, height) for path in paths[:: len(paths) // PICTURES][:PICTURES]]
        for stored in (256, 73):
            took: dict[str, list[float]] = {"full": [], "reduced": []}
            for repeat in range(REPEATS):
                for how in sorted(took, reverse=repeat % 2 == 1):
                    shaping, begin = FULL._replace(stored=stored, decode=how), time.perf_counter()
                    for content in contents:
                        decode.decoded_form(content, "", shaping)
                    took[how].append(1000 * (time.perf_counter() - begin) / len(contents))
            said = ", ".join(f"{how} {median(t):.1f} ms ({min(t):.1f} to {max(t):.1f})" for how, t in took.items())
            found = [db for content in contents if (db := decibels(content, FULL._replace(stored=stored))) is not None]
            print(
                f"{width} x {height} to {stored}: {said}; {min(found):.1f} dB at the least, median {median(found):.1f}"
            )
    contents = [path.read_bytes() for path in paths]
    for decode.GAP in (1, 1.5, 2, 3):
        for kernel in ("bilinear", "bicubic"):
            found = [
                db
                for stored in (32, 48, 73)
                for content in contents
                if (db := decibels(content, FULL._replace(stored=stored, filter=kernel))) is not None
            ]
            print(
                f"GAP {decode.GAP}, {kernel}: {len(found)} reduced, {min(found):.1f} dB at the least, 5 % below "
                f"{np.percentile(found, 5):.1f}, median {median(found):.1f}"
            )


if __name__ == "__main__":
    main()
