"""Bytes -> pixels within limits, and the stored form: the only code that reads or resizes pictures.

JPEGs, nearly all of what comes by, are read by libjpeg-turbo straight into an array; every other picture, and every
JPEG that this refuses, by Pillow. Both give the same pixels (tests/data/test_decode.py states the largest difference).
"""

import io
import math
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import BadImage, TooLarge
from .preprocess import Filter, Resize, Shaping

MAX_PIXELS: Final = 200_000_000
# `Image.open` warns above Pillow's own limit, which no thread can silence for itself, and which is not ours to change
# for a program that uses Pillow too. What it opens with does not; but that of two kinds looks at the limit by itself:
# of these no more is taken than passes in silence.
PILLOWS: Final = 89_478_485
LESS: Final = {"GIF": PILLOWS, "WEBP": 2 * PILLOWS}
OPENERS: Final[dict[str, type[ImageFile]]] = {
    "JPEG": JpegImageFile, "PNG": PngImageFile, "WEBP": WebPImageFile, "GIF": GifImageFile, "BMP": BmpImageFile,
}  # fmt: skip
# Real progressive files have about ten; each scan goes over the whole picture again, so a small file of many is a bomb.
MAX_SCANS: Final = 100
# 64 MB of EXIF make a thousand segments, 200 million pixels in libpng's pieces of 8 KB make 75,000 chunks; a file of
# far more than any picture needs is there to be walked over.
MAX_SEGMENTS: Final = 10_000
MAX_CHUNKS: Final = 200_000
MAX_BLOCKS: Final = 1_000_000  # of a GIF, before each frame; those of one of 89 million pixels have 255 bytes each

# A JPEG may be decoded at 1/2 or 1/4 of its size, for which libjpeg-turbo has fast inverse transforms; it is where at
# least GAP times the stored form's side is left, so that the filter still has its work to do (docs/log.md).
REDUCTIONS: Final = (4, 2)
GAP: Final = 2

FILTERS: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}

# JPEG's markers, the byte after 0xFF.
FRAMES: Final = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
START_OF_SCAN: Final = 0xDA
END: Final = 0xD9
APPLICATION: Final = range(0xE0, 0xF0)
APP1: Final = 0xE1
ADOBE: Final = 0xEE
COMMENT: Final = 0xFE
# The end, and those that a length follows; 0xFF00 is a byte of the coded pixels, and fills come before any.
MARKER: Final = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")

# Longer than any run within a segment that is not metadata; over such before a marker Pillow goes at 1 MB a second.
FILL: Final = re.compile(rb"\xff{1000,}")

PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
EXIF: Final = b"Exif\0\0"
TIFF: Final = 42
ORIENTATION: Final = 0x0112
INTEGERS: Final = {1: "B", 3: "H", 4: "I"}  # TIFF's BYTE, SHORT, LONG
# Bytes of one value of each of TIFF's types.
BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
# EXIF orientation -> what brings the picture upright.
UPRIGHT: Final[dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image[::-1].transpose(1, 0, 2),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: image[:, ::-1].transpose(1, 0, 2),
}
# Where the file's first row or column is the picture's last, and where its rows are the picture's columns.
FROM_BOTTOM: Final = (3, 4, 7, 8)
FROM_RIGHT: Final = (2, 3, 6, 7)
SIDEWAYS: Final = (5, 6, 7, 8)

KINDS: Final = tuple(OPENERS)
# What files that are no pictures begin with.
HEIC: Final = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
MAGICS: Final = (
    (b"%PDF", "a PDF file"),
    (b"%!PS", "a PostScript file"),
    (b"8BPS", "a Photoshop file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"P5", "a PGM file"),
    (b"P6", "a PPM file"),
    (b"\0\0\x01\0", "an icon file"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)

# What a damaged file may raise. Files mutated at random raised the first three; the others are what Pillow's own code
# expects of its format parsers (it turns them into these three in most places, not in all).
FAULTS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    OverflowError,
    struct.error,
)


@dataclass(frozen=True)
class _Picture:
    """The pixels that a file holds, uint8 (h, w, 3), and its EXIF; where `reduced` is N, each is N x N of the picture's
    `height` x `width`, the last row and column of fewer where N does not divide these.
    """

    image: NDArray[np.uint8]
    exif: bytes
    height: int
    width: int
    reduced: int = 1

    def upright(self) -> NDArray[np.uint8]:
        """The pixels turned as the EXIF orientation says."""
        turn = UPRIGHT.get(_orientation(self.exif))
        return self.image if turn is None else np.ascontiguousarray(turn(self.image))


def decode(data: bytes, name: str, *, exif: bool = True, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The picture in `data` as uint8 (h, w, 3), RGB: JPEG, PNG, WebP, GIF or BMP, told by its first bytes.

    CMYK is taken as Adobe writes it (inverted) and becomes RGB without a profile; 16 bits lose the lower 8;
    transparency is laid on white; an animation gives its first frame. `exif` turns the picture upright as its EXIF
    orientation says; EXIF that cannot be read is ignored. BadImage, with `name` and a reason: any other kind of file,
    a damaged or truncated one, and one of more than `max_pixels` (or than LESS has for its kind), which is refused by
    its header.
    """
    picture = _decode(data, name, max_pixels, None)
    return picture.upright() if exif else picture.image


def decoded_form(
    data: bytes, name: str, shaping: Shaping, *, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The stored form, uint8 (S, S, 3), of the picture in `data`, and that picture's (height, width), upright.

    It is `stored_form` of what `decode` gives, with its errors; but where `shaping.decode` is "reduced", a JPEG whose
    shorter side is at least GAP * N * S is decoded at 1/N, N = 4 or 2, the larger that serves.
    """
    picture = _decode(data, name, max_pixels, shaping.stored if shaping.decode == "reduced" else None)
    image, height, width = picture.image, picture.height, picture.width
    orientation = _orientation(picture.exif) if shaping.exif else 1
    if shaping.exif:
        image = picture.upright()
    if orientation in SIDEWAYS:
        height, width = width, height
    h, w = height / picture.reduced, width / picture.reduced
    # What the last row and column hold beyond the picture's edge is no part of it.
    top = image.shape[0] - h if orientation in FROM_BOTTOM else 0.0
    left = image.shape[1] - w if orientation in FROM_RIGHT else 0.0
    form = stored_form(
        image, stored=shaping.stored, resize=shaping.resize, filter=shaping.filter, extent=(top, left, h, w)
    )
    return form, (height, width)


def opened(picture: Image.Image, *, exif: bool = True) -> NDArray[np.uint8]:
    """A picture that Pillow has opened, as `decode` gives its file: uint8 (h, w, 3), RGB; BadImage if it is damaged."""
    try:
        picture.load()
        image = _rgb(picture)
    except FAULTS as reason:
        raise BadImage(str(getattr(picture, "filename", "") or "picture"), f"damaged ({_line(reason)})") from None
    read = _Picture(image, picture.info.get("exif", b""), *image.shape[:2])
    return read.upright() if exif else image


def stored_form(
    image: NDArray[np.uint8],
    *,
    stored: int,
    resize: Resize,
    filter: Filter,
    extent: tuple[float, float, float, float] | None = None,
) -> NDArray[np.uint8]:
    """The stored form of a picture: uint8 (h, w, 3) -> uint8 (S, S, 3), S = `stored`, resized with antialiasing.

    "shorter": the shorter side becomes S and the longer round(longer * S / shorter); of it the S pixels from
    (longer - S) // 2 on are kept ([K12] 2). A picture whose shorter side is S is only cut. "warp": both sides become S.
    `extent`: where in `image` the picture lies (top, left, height, width), in pixels and their parts; all of it.
    """
    y, x, h, w = extent or (0, 0, *image.shape[:2])
    if resize == "warp":
        return _resized(image, (x, y, x + w, y + h), stored, filter)
    shorter = min(h, w)
    height, width = round(h * stored / shorter), round(w * stored / shorter)
    top, left = (height - stored) // 2, (width - stored) // 2
    if shorter == stored:
        return np.ascontiguousarray(image[top : top + stored, left : left + stored])
    # The cut is made in the source's coordinates, so a strip of 1 x 5000 never becomes one of 256 x 1,280,000.
    box = (x + left * w / width, y + top * h / height, x + (left + stored) * w / width, y + (top + stored) * h / height)
    return _resized(image, box, stored, filter)


def random_resized(
    image: NDArray[np.uint8],
    box: tuple[int, int, int, int],
    *,
    side: int,
    filter: Filter,
) -> NDArray[np.uint8]:
    """The box (top, left, height, width) of a picture uint8 (h, w, 3), resized with antialiasing: (side, side, 3).

    The box is cut out first, as torchvision does: no pixel outside of it bleeds in. torch's filters on bytes are
    Pillow's, within one level, at a third of the time; it has two of them, and cannot read a box of fractions.
    """
    top, left, height, width = box
    # torch would copy it too, with threads of its own in each of ours, which then wait for more while they spin
    cut = np.ascontiguousarray(image[top : top + height, left : left + width])
    if filter not in ("bilinear", "bicubic"):
        return _resized(cut, (0.0, 0.0, width, height), side, filter)
    import torch

    ops: Any = torch._C._nn
    resize = {"bilinear": ops._upsample_bilinear2d_aa, "bicubic": ops._upsample_bicubic2d_aa}
    made = np.empty((side, side, 3), np.uint8)
    # `interpolate` would lay the colours out one behind the other, and turning them round takes as long as the resize
    given, out = (torch.from_numpy(image[None]).permute(0, 3, 1, 2) for image in (cut, made))
    resize[filter](given, [side, side], False, None, None, out=out)
    return made


def raw_form(data: bytes, side: int, name: str) -> NDArray[np.uint8]:
    """Pixels as a raw pack holds them, S*S*3 bytes, as uint8 (S, S, 3), S = `side`; BadImage if they are not so many.

    The array looks at `data` and is read-only.
    """
    if len(data) != side * side * 3:
        raise BadImage(name, f"{len(data)} bytes, expected {side} x {side} x 3 = {side * side * 3}")
    return np.frombuffer(data, np.uint8).reshape(side, side, 3)


def _resized(
    image: NDArray[np.uint8], box: tuple[float, float, float, float], side: int, kernel: Filter
) -> NDArray[np.uint8]:
    """The box (left, top, right, bottom) of a picture as (side, side, 3)."""
    return np.array(Image.fromarray(image).resize((side, side), FILTERS[kernel], box=box, reducing_gap=None))


def _decode(data: bytes, name: str, max_pixels: int, stored: int | None) -> _Picture:
    """The picture of a file of any kind, reduced where that serves a stored form of side `stored`; None: never."""
    kind = _kind(data)
    if kind not in KINDS:
        raise BadImage(name, f"{kind}, expected JPEG, PNG, WebP, GIF or BMP")
    try:
        if kind == "JPEG":
            return _decode_jpeg(data, name, max_pixels, stored)
        if kind == "PNG":
            return _decode_png(data, name, max_pixels)
        return _decode_pillow(data, kind, name, max_pixels, None)
    except Image.DecompressionBombError as reason:  # the program has given Pillow a lower limit than its own
        raise TooLarge(name, _line(reason)) from None
    except FAULTS as reason:
        raise BadImage(name, f"damaged {kind} ({_line(reason)})") from None


def _reduction(height: int, width: int, stored: int | None) -> int:
    """The N at 1/N of which a JPEG is decoded."""
    if stored is None:
        return 1
    return next((n for n in REDUCTIONS if min(height, width) >= GAP * n * stored), 1)


def _kind(data: bytes) -> str:
    """Pillow's name of the format if it is one of the five, else in words what the bytes seem to be."""
    head = data[:16]
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(PNG_MAGIC):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"BM"):
        return "BMP"
    if not data:
        return "an empty file"
    if len(data) < 12:
        return f"a file of {len(data)} bytes"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "a TIFF file"
    if head[4:8] == b"ftyp":
        brand = data[8:12]
        return "an AVIF file" if brand in (b"avif", b"avis") else "a HEIC file" if brand in HEIC else "an MP4 file"
    if head.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "a JPEG 2000 or JPEG XL file"
    for magic, words in MAGICS:
        if data.startswith(magic):
            return words
    text = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in text:
        return "an SVG file"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if text.startswith((b"<?xml", b"<")):
        return "an XML or HTML page"
    return "not a picture of a known kind"


def _line(reason: BaseException) -> str:
    text = " ".join(str(reason).split())
    return text if len(text) <= 100 else text[:97] + "..."


def _check_size(height: int, width: int, name: str, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise TooLarge(name, f"{width} x {height} pixels, more than the limit of {max_pixels:,}")
    if height < 1 or width < 1:
        raise BadImage(name, f"{width} x {height} pixels")


def _decode_jpeg(data: bytes, name: str, max_pixels: int, stored: int | None) -> _Picture:
    # Imported here: what needs no picture decoded, needs no decoder either.
    import simplejpeg

    # every scan is among these pairs of bytes, so nearly no file is walked to its end
    if data.count(bytes((0xFF, START_OF_SCAN))) > MAX_SCANS and _scans(data) > MAX_SCANS:
        raise TooLarge(name, f"a JPEG of more than {MAX_SCANS} scans")
    segments = _header(data)
    exif = next((data[a + 4 : b] for marker, a, b in segments if marker == APP1 and data.startswith(EXIF, a + 4)), b"")
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=True)
        height, width = int(height), int(width)
        _check_size(height, width, name, max_pixels)
        if colorspace not in ("CMYK", "YCCK"):
            n = _reduction(height, width, stored)
            # of its sizes, eighths of the picture, the library takes the smallest that is large enough
            least = {"min_height": math.ceil(height / n), "min_width": math.ceil(width / n)}
            image = simplejpeg.decode_jpeg(data, "RGB", strict=True, **least)
            return _Picture(image, exif, height, width, n)
    except ValueError:
        pass  # something the library warns of: Pillow has the last word
    # Pillow is given no metadata to stumble over: of it only Adobe's segment says how the colours are coded.
    metadata = [(a, b) for marker, a, b in segments if marker in (*APPLICATION, COMMENT) and marker != ADOBE]
    bare = FILL.sub(b"\xff", _without(data, metadata))
    return replace(_decode_pillow(bare, "JPEG", name, max_pixels, stored), exif=exif)


def _decode_png(data: bytes, name: str, max_pixels: int) -> _Picture:
    if data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        _check_size(height, width, name, max_pixels)
    chunks = _chunks(data)
    exif = next((data[a + 8 : b - 4] for kind, a, b in chunks if kind == b"eXIf"), b"")
    # Text and profiles inflate without bound, an animation's chunks make Pillow warn: neither holds a pixel.
    others = [(a, b) for kind, a, b in chunks if kind not in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")]
    return replace(_decode_pillow(_without(data, others), "PNG", name, max_pixels, None), exif=exif)


def _decode_pillow(data: bytes, kind: str, name: str, max_pixels: int, stored: int | None) -> _Picture:
    """The first frame of a file; only of a JPEG may `stored` be given."""
    max_pixels = min(max_pixels, LESS.get(kind, max_pixels))
    if kind in SIZES:
        _check_size(*SIZES[kind](data), name, max_pixels)
    with _opened(data, kind, name) as picture:
        width, height = picture.size
        _check_size(height, width, name, max_pixels)
        n = _reduction(height, width, stored)
        if n > 1:
            picture.draft(picture.mode, (width // n, height // n))
        picture.load()
        return _Picture(_rgb(picture), picture.info.get("exif", b""), height, width, n)


def _opened(data: bytes, kind: str, name: str) -> ImageFile:
    """What Pillow makes of a file's header."""
    try:
        return OPENERS[kind](io.BytesIO(data))
    except (SyntaxError, IndexError, TypeError, struct.error):
        raise BadImage(name, f"damaged {kind} (its header cannot be read)") from None


def _gif_frames(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Where each frame of a GIF lies on its screen: (left, top, width, height).

    It goes from block to block as Pillow does, which makes a picture as large as its frame on the way. ValueError: more
    than MAX_BLOCKS before one.
    """
    flags = data[10] if len(data) > 10 else 0
    at, left = 13 + (flags >> 7) * (6 << (flags & 7)), MAX_BLOCKS  # behind the table of colours

    def block() -> bytes:
        """The next block of an extension or a frame: its length, then as many bytes; none where they end."""
        nonlocal at, left
        size, left = (data[at] if at < len(data) else 0), left - 1
        at += 1 + size
        return data[at - size : at]

    while left > 0:
        kind, at, left = data[at : at + 1], at + 1, left - 1
        if kind in (b"", b";"):
            return
        if kind == b"," and at + 9 <= len(data):
            yield struct.unpack_from("<4H", data, at)
            flags, left = data[at + 8], MAX_BLOCKS
            at += 10 + (flags >> 7) * (6 << (flags & 7))
        elif kind == b"!":
            label, at = data[at : at + 1], at + 1
            if label != b"\xfe" and (label != b"\xff" or block().startswith(b"NETSCAPE2.0")):
                block()
        if kind in (b",", b"!"):
            while left > 0 and block():
                pass
    raise ValueError(f"more than {MAX_BLOCKS:,} blocks before a frame")


def _gif_size(data: bytes) -> tuple[int, int]:
    """(height, width) of a GIF: of its screen, or of its first frame where that reaches farther."""
    height, width = int.from_bytes(data[8:10], "little"), int.from_bytes(data[6:8], "little")
    x, y, wide, high = next(_gif_frames(data), (0, 0, 0, 0))
    return max(height, y + high), max(width, x + wide)


def _animated_gif(data: bytes) -> bool:
    """Whether a GIF has a second frame, as far as one looks."""
    try:
        return len(list(islice(_gif_frames(data), 2))) == 2
    except ValueError:
        return False


def _webp_size(data: bytes) -> tuple[int, int]:
    """(height, width) by a WebP's first chunk; (1, 1) where it has none that is known, which Pillow then refuses."""
    chunk, body = data[12:16], data[20:30].ljust(10, b"\0")
    if chunk == b"VP8X":
        return int.from_bytes(body[7:10], "little") + 1, int.from_bytes(body[4:7], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if chunk == b"VP8 ":
        return int.from_bytes(body[8:10], "little") & 0x3FFF, int.from_bytes(body[6:8], "little") & 0x3FFF
    return 1, 1


# What Pillow makes room for, or looks at its limit with, before it says how large a picture is.
SIZES: Final = {"GIF": _gif_size, "WEBP": _webp_size}


def _rgb(picture: Image.Image) -> NDArray[np.uint8]:
    """The pixels of a loaded picture of any mode as (h, w, 3), on white where it is transparent."""
    if picture.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
        levels = np.array(picture)
        grey = (levels >> 8).astype(np.uint8)
        if "transparency" in picture.info:
            grey[levels == picture.info["transparency"]] = 255
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return np.array(picture.convert("RGB"))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The segments of a JPEG: marker, first byte, byte after the last; its end is one too, and what follows goes on.

    Bytes between them, a scan's coded pixels for one, are passed over as the decoders do: no segment that these would
    read may be missing here. ValueError: more than MAX_SEGMENTS.
    """
    at = 2
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(data, at)
        if found is None:
            return
        marker, at = data[found.end() - 1], found.end()
        if marker != END:
            at += max(2, int.from_bytes(data[at : at + 2]))
        yield marker, found.start(), at
    raise ValueError(f"more than {MAX_SEGMENTS:,} segments")


def _header(data: bytes) -> list[tuple[int, int, int]]:
    """The segments of a JPEG before its first scan.

    ValueError: no scan, or more than MAX_SEGMENTS bytes between the segments, over which Pillow goes one by one.
    """
    segments: list[tuple[int, int, int]] = []
    between, at = 0, 2
    for marker, first, after in _segments(data):
        between += first - at
        if between > MAX_SEGMENTS:
            raise ValueError(f"more than {MAX_SEGMENTS:,} bytes that belong to nothing")
        if marker == START_OF_SCAN:
            return segments
        segments.append((marker, first, after))
        at = after
    raise ValueError("no scan in it")


def _scans(data: bytes) -> int:
    """How many scans a JPEG has, counted to one more than MAX_SCANS; those of a picture in a segment or behind the end
    are none of its own.
    """
    before = takewhile(lambda segment: segment[0] != END, _segments(data))
    return sum(1 for _ in islice((one for one in before if one[0] == START_OF_SCAN), MAX_SCANS + 1))


def _chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """The chunks of a PNG: type, first byte, byte after the last; without one that the file's end cuts short.

    ValueError: more than MAX_CHUNKS.
    """
    chunks = []
    at = len(PNG_MAGIC)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if end > len(data):
            break
        chunks.append((data[at + 4 : at + 8], at, end))
        at = end
        if len(chunks) > MAX_CHUNKS:
            raise ValueError(f"more than {MAX_CHUNKS:,} chunks")
    return chunks


def _without(data: bytes, parts: list[tuple[int, int]]) -> bytes:
    """The bytes without these parts (first byte, byte after the last), which are in order."""
    edges = [0, *(edge for part in parts for edge in part), len(data)]
    return b"".join(data[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)) if parts else data


def _orientation(exif: bytes) -> int:
    """The orientation that EXIF states, 1 where it states none or cannot be read.

    Read here and not by Pillow, whose reader warns of corrupt EXIF and reads all of it.
    """
    tiff = exif.removeprefix(EXIF)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        start = struct.unpack_from(f"{order}I", tiff, 4)[0]
        count = struct.unpack_from(f"{order}H", tiff, start)[0]
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, at)
            if tag == ORIENTATION and kind in INTEGERS:
                return struct.unpack_from(order + INTEGERS[kind], tiff, at + 8)[0]
    except struct.error:
        pass  # cut short
    return 1


@dataclass(frozen=True)
class Traits:
    """What a picture's file says of itself beyond its pixels: its kind ("JPEG", "PNG", "WEBP", "GIF" or "BMP"), its
    `inks` ("CMYK", "YCCK", or "" for light), whether its colours have 16 bits, whether more frames follow the first,
    its EXIF `orientation` (1 where there is none), and whether it has EXIF that is not whole.
    """

    kind: str
    inks: str = ""
    deep: bool = False
    animated: bool = False
    orientation: int = 1
    exif_damaged: bool = False


def is_picture(data: bytes) -> bool:
    """Whether bytes begin as one of the five kinds of pictures does."""
    return _kind(data) in KINDS


def traits(data: bytes) -> Traits:
    """The traits of a picture that `decode` reads."""
    kind, inks, deep, animated, exif = _kind(data), "", False, False, None
    if kind == "JPEG":
        transform = 0
        for marker, a, b in _segments(data):
            if marker == START_OF_SCAN:
                break
            if marker == APP1 and data.startswith(EXIF, a + 4) and exif is None:
                exif = data[a + 4 : b]
            elif marker == ADOBE and data.startswith(b"Adobe", a + 4) and b > a + 15:
                transform = data[a + 15]
            elif marker in FRAMES and data[a + 9] == 4:
                inks = "CMYK"
        inks = "YCCK" if inks and transform == 2 else inks
    elif kind == "PNG":
        deep = data[24] == 16
        for name, a, b in _chunks(data):
            if name == b"eXIf" and exif is None:
                exif = data[a + 8 : b - 4]
            elif name == b"acTL" and b - a >= 20:
                animated = int.from_bytes(data[a + 8 : a + 12]) > 1
    elif kind == "GIF":
        animated = _animated_gif(data)
    elif kind == "WEBP":
        with OPENERS[kind](io.BytesIO(data)) as picture:
            animated, exif = bool(getattr(picture, "is_animated", False)), picture.info.get("exif")
    orientation = 1 if exif is None else _orientation(exif)
    return Traits(
        kind=kind,
        inks=inks,
        deep=deep,
        animated=animated,
        orientation=orientation if orientation in UPRIGHT else 1,
        exif_damaged=exif is not None and not _whole(exif),
    )


def cut_short(data: bytes) -> bool:
    """Whether a damaged picture breaks off before the end that its format has."""
    kind = _kind(data)
    if kind == "JPEG":
        at = 2
        for marker, _, at in _segments(data):  # noqa: B007 the end of the last one is what is wanted
            if marker == START_OF_SCAN:
                break
        return data.find(b"\xff\xd9", at) < 0  # behind the header: a thumbnail in it has an end of its own
    if kind == "PNG":
        return all(name != b"IEND" for name, _, _ in _chunks(data))
    if kind == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if kind == "BMP":
        return int.from_bytes(data[2:6], "little") > len(data)
    return kind == "GIF" and not data.rstrip(b"\0").endswith(b";")


def _whole(exif: bytes) -> bool:
    """Whether EXIF has its first directory, all of whose values lie within, and an orientation, if any, of 1 to 8."""
    tiff = exif.removeprefix(EXIF)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return False
    try:
        magic, start = struct.unpack_from(f"{order}HI", tiff, 2)
        count = struct.unpack_from(f"{order}H", tiff, start)[0]
        struct.unpack_from(f"{order}I", tiff, start + 2 + 12 * count)  # where the next directory is
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values, place = struct.unpack_from(f"{order}HHII", tiff, at)
            size = BYTES.get(kind, 0) * values
            if size > 4 and place + size > len(tiff):
                return False
            if tag == ORIENTATION and (kind not in INTEGERS or _orientation(exif) not in range(1, 9)):
                return False
    except struct.error:
        return False
    return magic == TIFF
