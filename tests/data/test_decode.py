import io
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from alexnet.data.decode import FILTERS, PILLOWS, decode, decoded_form, random_resized, raw_form, stored_form, traits
from alexnet.data.preprocess import Shaping
from alexnet.errors import BadImage, TooLarge
from tests.faults.fuzz import mutated, seeds, with_right_checksums
from tests.pictures import ORIENTATION, chunk, encoded, exif, picture, png

# The largest difference, in levels of 255, between simplejpeg's pixels and Pillow's on JPEGs that both read: none.
LIBRARIES_DIFFER = 0


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pillow(data):
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def difference(a, b):
    return np.abs(a.astype(int) - b)


def reason(data, **limits):
    with pytest.raises(BadImage) as caught:
        decode(data, "a.jpg", **limits)
    assert caught.value.path == "a.jpg"
    assert "\n" not in caught.value.reason
    assert "BytesIO" not in caught.value.reason
    return caught.value.reason


# JPEG


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 30},
        {"quality": 95, "subsampling": 0},
        {"subsampling": 1},
        {"progressive": True},
        {"mode": "L"},
        {"mode": "L", "progressive": True},
        {"restart_marker_blocks": 4},
        {"keep_rgb": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(1, 1), (17, 31), (64, 96)])
def test_jpegs_read_as_pillow_reads_them(options, shape):
    data = encoded(noise(*shape, 3), "JPEG", **options)
    image = decode(data, "a.jpg")
    assert image.shape == (*shape, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert difference(image, pillow(data)).max() <= LIBRARIES_DIFFER


def test_photographs_read_as_pillow_reads_them(photos):
    paths = sorted(photos.glob("*/*.jpg"))[::3]
    assert len(paths) >= 50
    for path in paths:
        data = path.read_bytes()
        assert simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "Gray")
        assert difference(decode(data, path.name, exif=False), pillow(data)).max() <= LIBRARIES_DIFFER, path.name


@pytest.mark.parametrize("progressive", [False, True])
def test_cmyk_as_adobe_writes_it(progressive):
    image = picture()
    data = encoded(image, "JPEG", "CMYK", quality=90, progressive=progressive)
    assert b"Adobe" in data
    assert difference(decode(data, "a.jpg"), image).mean() <= 12


def test_ycck_as_adobe_writes_it():
    image = picture()
    *inks, k = Image.fromarray(image).convert("CMYK").split()
    # YCCK is YCbCr of the inks, and K inverted. Pillow inverts all planes as it writes: all but K go in inverted.
    planes = [plane.point(lambda level: 255 - level) for plane in Image.merge("RGB", inks).convert("YCbCr").split()]
    data = bytearray(encoded(Image.merge("CMYK", (*planes, k)), "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = 2  # the byte that tells YCCK from CMYK
    assert simplejpeg.decode_jpeg_header(bytes(data))[2] == "YCCK"
    assert difference(decode(bytes(data), "a.jpg"), image).mean() <= 12


def test_what_the_strict_decoder_refuses_pillow_judges():
    data = encoded(picture(), "JPEG")
    extra = data[:-2] + b"\0" * 9 + data[-2:]  # bytes between the last block and the end: a warning, no damage
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(extra, "RGB")
    assert np.array_equal(decode(extra, "a.jpg"), decode(data, "a.jpg"))


def test_a_malformed_multi_picture_index_is_passed_over():
    data = encoded(picture(), "MPO", save_all=True, append_images=[Image.fromarray(picture())])
    at = data.index(b"MPF\0")
    data = data[: at + 12] + b"\xff" * 40 + data[at + 52 :]
    assert decode(data[:-2] + b"\0" * 9 + data[-2:], "a.jpg").shape == (64, 96, 3)


# Modes


def test_16_bit_grey_is_scaled_not_clipped():
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = decode(encoded(Image.fromarray(levels), "PNG"), "a.png")
    assert len(np.unique(image)) == 256
    assert np.array_equal(image, np.repeat((levels >> 8)[:, :, None], 3, 2))
    clear = decode(encoded(Image.fromarray(levels), "PNG", transparency=300), "a.png")
    assert (clear[1, 44] == 255).all()
    assert (clear[1, 45] == 1).all()


def test_16_bit_colours():
    levels = np.random.default_rng(0).integers(0, 65536, (8, 9, 4)).astype(">u2")
    rgb = decode(png(9, 8, depth=16, colour=2, rows=[row.tobytes() for row in levels[:, :, :3]]), "a.png")
    assert np.array_equal(rgb, levels[:, :, :3] >> 8)
    levels[:, :, 3] = 65535
    rgba = decode(png(9, 8, depth=16, colour=6, rows=[row.tobytes() for row in levels]), "a.png")
    assert np.array_equal(rgba, levels[:, :, :3] >> 8)
    levels[:, :, 1] = 0  # grey and alpha: all clear
    grey = decode(png(9, 8, depth=16, colour=4, rows=[row.tobytes() for row in levels[:, :, :2]]), "a.png")
    assert (grey == 255).all()


def test_transparency_is_laid_on_white():
    image, alpha = noise(20, 30, 3), noise(20, 30, 1, seed=1)
    expected = (image * (alpha / 255.0) + 255 - alpha).round()
    rgba = Image.fromarray(np.concatenate([image, alpha], 2))
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        assert difference(decode(encoded(rgba, kind, **options), "a"), expected).max() <= 1
    la = Image.fromarray(np.concatenate([image[:, :, :1], alpha], 2))
    assert difference(decode(encoded(la, "PNG"), "a"), expected[:, :, :1]).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_and_palette_of_any_depth(depth):
    count = 2**depth
    row = (np.arange(8) % count).astype(np.uint8)
    packed = np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - depth :]).tobytes()
    colours = noise(count, 3)
    grey = png(8, 1, depth=depth, colour=0, rows=[packed])
    assert np.array_equal(decode(grey, "a.png")[0, :, 0], row * (255 // (count - 1)))
    palette = chunk(b"PLTE", colours.tobytes())
    indexed = png(8, 1, depth=depth, colour=3, rows=[packed], extra=palette)
    assert np.array_equal(decode(indexed, "a.png")[0], colours[row])
    keyed = png(8, 1, depth=depth, colour=3, rows=[packed], extra=palette + chunk(b"tRNS", b"\xff\0"))
    expected = np.where((row == 1)[:, None], 255, colours[row])
    assert np.array_equal(decode(keyed, "a.png")[0], expected)
    keyed = png(8, 1, depth=depth, colour=0, rows=[packed], extra=chunk(b"tRNS", b"\0\0"))
    assert (decode(keyed, "a.png")[0, 0] == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "GIF"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_the_formats_without_loss(kind, mode):
    image = Image.fromarray(picture()).convert(mode)
    if kind == "GIF" and mode == "RGB":
        image = image.quantize(64)
    expected = np.array(image.convert("RGB"))
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode(encoded(image, kind, **options), "a"), expected)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.fromarray(picture() // 2 + 100 * i).quantize(32) for i in range(3)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.array_equal(decode(data, "a"), np.array(frames[0].convert("RGB")))


def test_a_damaged_animation_index_is_no_warning():
    data = encoded(picture(), "PNG")
    index = chunk(b"acTL", bytes(8))
    assert np.array_equal(decode(data[:33] + index + index + data[33:], "a.png"), picture())


def test_threads_may_share_the_decoder():
    from concurrent.futures import ThreadPoolExecutor

    files = [encoded(noise(40, 50, 3, seed=i), "JPEG", "CMYK" if i % 2 else "RGB") for i in range(40)]
    expected = [decode(data, "a") for data in files]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda data: decode(data, "a"), files))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


# EXIF


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("JPEG", "L"), ("PNG", "RGB"), ("WEBP", "RGB")]
)
def test_orientation(kind, mode, orientation):
    image = picture(20, 30)
    data = encoded(image, kind, mode, exif=exif(orientation))
    plain = decode(data, "a", exif=False)
    assert plain.shape == (20, 30, 3)
    upright = decode(data, "a", exif=True)
    assert upright.flags.c_contiguous
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
    assert np.array_equal(upright, expected)
    turns = {3: 2, 6: 3, 8: 1}
    if orientation in turns:
        assert np.array_equal(upright, np.rot90(plain, turns[orientation]))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "code"), [(1, "B3x"), (3, "H2x"), (4, "I")])
def test_orientation_of_any_integer_and_byte_order(order, kind, code):
    entry = struct.pack(order + "HHI" + code, ORIENTATION, kind, 1, 6)
    other = struct.pack(order + "HHII", 0x0100, 4, 1, 30)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    block = b"Exif\0\0" + mark + struct.pack(order + "IH", 8, 2) + other + entry + bytes(4)
    assert decode(encoded(picture(20, 30), "JPEG", exif=block), "a.jpg").shape == (30, 20, 3)


def corrupt_exif():
    """Blocks of EXIF that say nothing readable, by name."""
    good = exif(6).tobytes()
    return {
        "no order": b"Exif\0\0XX*\0" + bytes(20),
        "empty": b"Exif\0\0",
        "offset past the end": b"Exif\0\0II*\0\xff\xff\xff\xff",
        "cut short": good[:18],
        "count too large": b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x00\x01\x04\0",
        "value is text": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x01\0\0\0A\0\0\0",
        "orientation 9": exif(9).tobytes(),
        "data past the end": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\x00\x00\x27\0\xff\xff\x00\0",
    }


@pytest.mark.parametrize("name", corrupt_exif())
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_corrupt_exif_is_ignored_in_silence(name, mode, capfd):
    image = picture(20, 30)
    data = encoded(image, "JPEG", mode, exif=corrupt_exif()[name])
    assert np.array_equal(decode(data, "a.jpg"), decode(encoded(image, "JPEG", mode), "a.jpg"))
    assert capfd.readouterr() == ("", "")


def test_exif_behind_other_segments():
    data = encoded(picture(20, 30), "JPEG", exif=exif(6))
    segment = b"\xff\xe5" + struct.pack(">H", 60000) + bytes(59998)
    assert decode(data[:2] + segment * 3 + b"\xff" + data[2:], "a.jpg").shape == (30, 20, 3)


# Refusals


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"\xff", "a file of 1 bytes"),
        (b"\xff\xd8", "a file of 2 bytes"),
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "an HTML page"),
        (b"\n  <html lang=en><head>", "an HTML page"),
        (b'<?xml version="1.0"?><svg xmlns="x" width="9"/>', "an SVG file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC file"),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1", "an AVIF file"),
        (b"\0\0\0\x1cftypisom\0\0\0\0mp42", "an MP4 file"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "a PDF file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "a PostScript file"),
        (b"8BPS\0\1" + bytes(20), "a Photoshop file"),
        (b"II*\0" + bytes(20), "a TIFF file"),
        (b"MM\0*" + bytes(20), "a TIFF file"),
        (b"P6 1 1 255 \0\0\0", "a PPM file"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not a picture of a known kind"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (bytes(1000), "not a picture of a known kind"),
    ],
)
def test_what_is_no_picture_is_named(data, words):
    assert reason(data) == f"{words}, expected JPEG, PNG, WebP, GIF or BMP"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff\xe0" + bytes(20),
        b"\x89PNG\r\n\x1a\n" + bytes(20),
        b"RIFF\x10\0\0\0WEBPVP8 " + bytes(8),
        b"GIF89a" + bytes(20),
        b"BM" + bytes(60),
    ],
)
def test_a_head_without_a_picture(data):
    assert reason(data).startswith("damaged ") or "0 x 0 pixels" in reason(data)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"mode": "CMYK"}),
        ("PNG", {}),
        ("WEBP", {}),
        ("GIF", {"mode": "P"}),
        ("BMP", {}),
    ],
    ids=str,
)
def test_a_truncated_file_is_an_error(kind, options, part):
    data = encoded(noise(100, 120, 3), kind, **options)
    assert reason(data[: int(len(data) * part)]).startswith(f"damaged {kind}")


def huge_headers():
    """Small files whose header promises far more pixels than any limit, by format."""
    jpeg = bytearray(encoded(picture(), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65500, 65500)
    cmyk = bytearray(encoded(picture(), "JPEG", "CMYK"))
    at = cmyk.index(b"\xff\xc0") + 5
    cmyk[at : at + 4] = struct.pack(">HH", 65500, 65500)
    gif = bytearray(encoded(picture(), "GIF", "P"))
    gif[6:10] = struct.pack("<HH", 65500, 65500)
    bmp = bytearray(encoded(picture(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 65500, 65500)
    webp = bytearray(encoded(picture(), "WEBP"))
    webp[26:30] = struct.pack("<HH", 16383, 16383)
    return {
        "JPEG": bytes(jpeg),
        "CMYK JPEG": bytes(cmyk),
        "GIF": bytes(gif),
        "BMP": bytes(bmp),
        "WebP": bytes(webp),
        "PNG": png(30000, 30000, depth=8, colour=2, rows=[]),
        "PNG with frames": png(
            30000, 30000, depth=8, colour=2, rows=[], extra=chunk(b"acTL", struct.pack(">II", 9, 0))
        ),
    }


@pytest.mark.parametrize("name", huge_headers())
def test_too_many_pixels_are_refused_by_the_header(name):
    data, limit = huge_headers()[name], {"GIF": "89,478,485", "WebP": "178,956,970"}.get(name, "200,000,000")
    start = time.thread_time()
    assert f"more than the limit of {limit}" in reason(data)
    assert time.thread_time() - start < 0.5  # 10 ms and less; decoding any of them would take seconds


def test_a_bomb_of_zeros_is_refused_unread():
    rows = zlib.compress(bytes(30001 * 3000), 9)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert "30000 x 30000 pixels" in reason(data)


def gif_of(*parts, screen=(40, 30), table=b""):
    """A GIF's beginning: its screen, and what stands before its first frame."""
    flags = 0x80 | (len(table) // 6).bit_length() - 1 if table else 0
    return b"GIF89a" + struct.pack("<2H3B", *screen, flags, 0, 0) + table + b"".join(parts)


FRAME = b"," + struct.pack("<4HB", 5, 7, 60_000, 50_000, 0)
LOOPS, COMMENT, DELAY = b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0", b"!\xfe\3abc\2de\0", b"!\xf9\4\0\0\0\0\0"


@pytest.mark.parametrize(
    "before",
    [
        (),
        (LOOPS, COMMENT, DELAY),
        (b"!\xfe\0",),
        (b"!\1\0\3abc\0",),
        (b"!\xff\0\0",),
        (b"\0\0junk",),
        (COMMENT[:-1] + b"\xff" + bytes(255) + b"\0",),
    ],
    ids=str,
)
def test_a_frame_beyond_its_gifs_screen_is_seen_before_pillow_sees_it(before):
    """Pillow makes the picture as large as the frame, and warns of it then, or fills memory: it never gets so far."""
    for table in (b"", bytes(range(48))):
        data = gif_of(*before, FRAME, table=table) + b"\2\2L\1\0;"
        assert reason(data) == "60005 x 50007 pixels, more than the limit of 89,478,485"
        with pytest.raises(Image.DecompressionBombError):
            Image.open(io.BytesIO(data))


def test_blocks_without_end_before_a_gifs_first_frame():
    for part in (b"!\xfe\1a", b"!\xf9\1a", b"!\xff\1a", b"\0", b"!\xfe\0"):
        begin = time.process_time()
        assert "more than 1,000,000 blocks before a frame" in reason(gif_of(part * 600_000 + b"\1a" * 1_000_000, FRAME))
        assert time.process_time() - begin < 2


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_one_where_pillow_finds_a_second_frame(kind):
    frames = [Image.fromarray(noise(20, 30, 3, seed=i)).quantize(32) for i in range(3)]
    for more in (frames[1:], frames[1:2], []):
        data = encoded(frames[0], kind, **({"save_all": True, "append_images": more} if more else {}))
        with Image.open(io.BytesIO(data)) as opened:
            assert traits(data).animated == getattr(opened, "is_animated", False) == bool(more)
    if kind == "GIF":
        begin = time.process_time()
        for junk in (b"\0" * 20_000_000, b"!\xfe" + b"\1a" * 10_000_000):
            assert not traits(data[:-1] + junk).animated, "no one looks for a frame behind all that"
        assert time.process_time() - begin < 2


def test_pillows_own_limit_is_left_to_the_program(monkeypatch):
    """It is not changed, and binds no picture of ours but of the two kinds whose readers ask for it themselves."""
    assert Image.MAX_IMAGE_PIXELS == PILLOWS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for kind, mode in (("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "P"), ("BMP", "RGB"), ("GIF", "P")):
        assert decode(encoded(picture(), kind, mode), "a").shape == (64, 96, 3)
    with pytest.raises(TooLarge, match="exceeds limit"):
        decode(encoded(picture(), "WEBP"), "a")


def test_the_limit_is_the_callers():
    for data in (encoded(picture(), "JPEG"), encoded(picture(), "JPEG", "CMYK"), encoded(picture(), "PNG")):
        assert decode(data, "a.jpg", max_pixels=64 * 96).shape == (64, 96, 3)
        assert reason(data, max_pixels=64 * 96 - 1) == "96 x 64 pixels, more than the limit of 6,143"


def test_a_jpeg_of_too_many_scans():
    data = encoded(picture(), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    scan = data[at:-2]
    assert decode(data, "a.jpg").shape == (64, 96, 3)
    assert reason(data[:at] + scan * 200 + data[-2:]) == "a JPEG of more than 100 scans"


def scan_of(data):
    """Where the last scan of a JPEG begins, and its bytes."""
    at = data.rindex(b"\xff\xda")
    return at, data[at:-2]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "CMYK"}], ids=str)
def test_scans_are_counted_in_a_jpeg_of_any_kind(options):
    data = encoded(picture(), "JPEG", **options)
    at, scan = scan_of(data)
    assert reason(data[:at] + scan * 101 + data[-2:]) == "a JPEG of more than 100 scans"
    try:  # as many as are allowed, of which the library may think what it will
        decode(data[:at] + scan * (100 - data[:at].count(b"\xff\xda")) + data[-2:], "a.jpg")
    except BadImage as bad:
        assert "scans" not in bad.reason


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
def test_what_only_looks_like_scans_is_none(options):
    """A picture in a segment, a second one behind the end, a film behind that, and a pair of bytes in the metadata."""
    data = encoded(picture(), "JPEG", **options)
    at, scan = scan_of(data)
    bomb = data[:at] + scan * 150 + data[-2:]
    small = (b"\xff\xda\0\2" * 150).ljust(2000, b"x")
    segment = b"\xff\xe3" + struct.pack(">H", 2 + len(small)) + small
    for good in (data + bomb, data + small, data[:2] + segment + data[2:], data[:2] + b"\xff" * 500 + data[2:]):
        assert good.count(b"\xff\xda") > 100 or b"\xff" * 500 in good
        assert np.array_equal(decode(good, "a.jpg"), decode(data, "a.jpg"))


def bombs():
    """Name -> (bytes, what is said, seconds of the processor, MB beside the bytes)."""
    baseline, progressive = (encoded(picture(), "JPEG", progressive=kind) for kind in (False, True))
    zeros = zlib.compress(bytes(30001 * 3000), 9)
    at, scan = scan_of(progressive)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0))
    square = png(8, 8, depth=8, colour=0, rows=[bytes(8)] * 8)
    sized = {
        f"{name}, by its header": (content, "more than the limit", 0.05, 20) for name, content in huge_headers().items()
    }
    return sized | {
        "30000 x 30000 zeros": (
            b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zeros) + chunk(b"IEND", b""), "more than the limit", 0.05, 20
        ),
        "500 scans": (progressive[:at] + scan * 500 + progressive[-2:], "more than 100 scans", 2, 20),
        "500 baseline scans": (
            baseline[: scan_of(baseline)[0]] + scan_of(baseline)[1] * 500 + baseline[-2:], "more than 100 scans", 2, 20
        ),
        "20 million scans": (baseline[:2] + b"\xff\xda\0\2" * 20_000_000, "more than 100 scans", 2, 20),
        "20 million segments": (baseline[:2] + b"\xff\xe0\0\2" * 20_000_000, "more than 10,000 segments", 2, 20),
        "80 million fills": (b"\xff\xd8\xff" + b"\xff" * 80_000_000, "no scan in it", 2, 20),
        "fills before a segment": (baseline[:2] + b"\xff" * 20_000_000 + baseline[2:], "belong to nothing", 2, 20),
        "5 million chunks": (square[:33] + chunk(b"tEXt", b"") * 5_000_000, "more than 200,000 chunks", 2, 100),
    }  # fmt: skip


def test_bombs_are_refused_in_no_time_and_no_memory(tmp_path):
    """In a process of its own, so that no other test's memory is taken for the decoder's."""
    tried = bombs()
    for i, (content, *_) in enumerate(tried.values()):
        (tmp_path / f"{i}.jpg").write_bytes(content)
    (tmp_path / "good.jpg").write_bytes(encoded(picture(), "JPEG"))
    (tmp_path / "good.png").write_bytes(encoded(picture(), "PNG"))
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom alexnet.data.decode import decode\n"
        "from alexnet.errors import BadImage\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) / 1024\n"
        "for kind in ('jpg', 'png'):\n    decode((Path(sys.argv[1]) / f'good.{kind}').read_bytes(), 'good')\n"
        "for i in range(int(sys.argv[2])):\n"
        "    path = Path(sys.argv[1]) / f'{i}.jpg'\n    data = path.read_bytes()\n"
        "    Path('/proc/self/clear_refs').write_text('5')\n    before, begin = peak(), time.process_time()\n"
        "    try:\n        decode(data, str(path))\n        said = 'decoded'\n"
        "    except BadImage as bad:\n        said = str(bad)\n"
        "    print(time.process_time() - begin, peak() - before, said)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(len(tried))], capture_output=True, text=True, check=True
    )
    for i, ((name, (_, words, seconds, megabytes)), line) in enumerate(
        zip(tried.items(), done.stdout.splitlines(), strict=True)
    ):
        took, grown, said = line.split(" ", 2)
        print(f"{name}: {1000 * float(took):.1f} ms, {float(grown):.1f} MB, {said}")
        assert said.startswith(f"{tmp_path / f'{i}.jpg'}: ") and words in said, name
        assert float(took) < seconds and float(grown) < megabytes, (name, line)


def test_metadata_and_frames_without_end_cost_no_more_than_their_bytes():
    """64 MB of EXIF, and an animation of 10,000 frames, of which one is wanted."""
    image = Image.fromarray(picture(48, 40))
    data = encoded(image, "JPEG", exif=exif(6))
    segment = b"\xff\xe1" + struct.pack(">H", 65535) + b"Exif\0\0" + bytes(65527)
    begin = time.process_time()
    long = data[:2] + segment * 1024 + data[2:]
    assert np.array_equal(decode(long, "a.jpg", exif=False), decode(data, "a.jpg", exif=False))
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - picture(48, 40))], "duration": 50}
    film = encoded(image.convert("P"), "GIF", **frames)
    last = film[film.rindex(b"\x21\xf9") : -1]
    assert np.array_equal(decode(film[:-1] + last * 10_000 + b";", "a.gif"), decode(film, "a.gif"))
    assert time.process_time() - begin < 2


def test_profiles_that_inflate_without_bound_are_not_read():
    extra = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(200_000_000), 1)) + chunk(b"zTXt", b"x\0\0" + b"\0" * 9)
    data = encoded(picture(), "PNG")
    assert np.array_equal(decode(data[:33] + extra + data[33:], "a.png"), picture())


@pytest.mark.parametrize("name", seeds())
def test_mutations_give_pixels_or_a_bad_image(name, capfd):
    rng = np.random.default_rng(0)
    seed = seeds()[name]
    counts = {"pixels": 0, "bad": 0}
    for _ in range(400):
        data = mutated(seed, rng)
        if "P" in name and rng.integers(2):
            data = with_right_checksums(data)
        try:
            image = decode(data, name, max_pixels=1_000_000)
        except BadImage as bad:
            assert "\n" not in bad.reason
            assert len(bad.reason) < 160
            counts["bad"] += 1
        else:
            assert image.ndim == 3
            assert image.shape[2] == 3
            assert image.dtype == np.uint8
            counts["pixels"] += 1
    assert min(counts.values()) > 0
    assert capfd.readouterr() == ("", "")


# The stored form


def resized_then_cut(image, side, kernel):
    h, w = image.shape[:2]
    height, width = round(h * side / min(h, w)), round(w * side / min(h, w))
    top, left = (height - side) // 2, (width - side) // 2
    whole = Image.fromarray(image).resize((width, height), FILTERS[kernel])
    return np.array(whole)[top : top + side, left : left + side]


# The two differ by rounding only; but a sample on the very edge of the box filter's box falls to either side.
@pytest.mark.parametrize(
    ("kernel", "most", "mean"), [("bilinear", 1, 0.1), ("bicubic", 2, 0.1), ("lanczos", 2, 0.1), ("box", 255, 0.3)]
)
def test_shorter_is_resize_then_cut(photos, kernel, most, mean):
    for path in sorted(photos.glob("*/*.jpg"))[::6]:
        image = decode(path.read_bytes(), path.name)
        found = difference(
            stored_form(image, stored=256, resize="shorter", filter=kernel), resized_then_cut(image, 256, kernel)
        )
        assert found.max() <= most, path.name
        assert found.mean() <= mean, path.name


@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 2), (1, 5000), (5000, 1), (227, 227), (224, 224), (3, 70000), (255, 999)]
)
@pytest.mark.parametrize("resize", ["shorter", "warp"])
@pytest.mark.parametrize("kernel", FILTERS)
def test_every_shape_has_a_stored_form(shape, resize, kernel):
    start = time.thread_time()
    form = stored_form(np.full((*shape, 3), 77, np.uint8), stored=64, resize=resize, filter=kernel)
    assert time.thread_time() - start < 1
    assert form.shape == (64, 64, 3)
    assert form.dtype == np.uint8
    assert (form == 77).all()


@pytest.mark.parametrize(("shape", "top", "left"), [((8, 13), 0, 2), ((12, 8), 2, 0), ((8, 8), 0, 0), ((13, 8), 2, 0)])
def test_a_shorter_side_of_that_length_is_only_cut(shape, top, left):
    image = noise(*shape, 3)
    form = stored_form(image, stored=8, resize="shorter", filter="lanczos")
    assert np.array_equal(form, image[top : top + 8, left : left + 8])
    assert form.flags.c_contiguous


def test_a_strip_keeps_its_middle():
    image = np.zeros((1, 5000, 3), np.uint8)
    image[0, 2499:2501] = 200
    form = stored_form(image, stored=256, resize="shorter", filter="box")
    assert (form == 200).all()


def test_warp_is_pillows_resize():
    image = noise(50, 90, 3)
    expected = np.array(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.array_equal(stored_form(image, stored=64, resize="warp", filter="bicubic"), expected)


# The stored form of a JPEG decoded at 1/2 or 1/4


def shaping(stored, **changes):
    return Shaping(stored=stored, resize="shorter", filter="bilinear", exif=True, decode="reduced")._replace(**changes)


def drafted(data, n, stored, resize, kernel):
    """The stored form by Pillow alone: decoded at 1/n, then the part of the picture that is kept resized."""
    with Image.open(io.BytesIO(data)) as opened:
        w, h = opened.size
        opened.draft(opened.mode, (w // n, h // n))
        assert opened.size == (-(-w // n), -(-h // n))
        image = opened.convert("RGB")
    box = (0, 0, w / n, h / n)
    if resize == "shorter":
        height, width = round(h * stored / min(h, w)), round(w * stored / min(h, w))
        top, left = (height - stored) // 2, (width - stored) // 2
        x, y = w / width / n, h / height / n
        box = (left * x, top * y, (left + stored) * x, (top + stored) * y)
    return np.array(image.resize((stored, stored), FILTERS[kernel], box=box))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": 0},
        {"subsampling": 1},
        {"progressive": True},
        {"mode": "L"},
        {"mode": "CMYK"},
        {"restart_marker_blocks": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("resize", ["shorter", "warp"])
@pytest.mark.parametrize(
    ("shape", "n"), [((64, 96), 2), ((65, 131), 2), ((127, 127), 2), ((128, 190), 4), ((393, 131), 4)]
)
def test_a_large_jpeg_is_reduced_as_pillow_reduces_it(options, resize, shape, n):
    data = encoded(noise(*shape, 3), "JPEG", **{"quality": 90, **options})
    for kernel in ("bilinear", "bicubic"):
        form, size = decoded_form(data, "a.jpg", shaping(16, resize=resize, filter=kernel))
        assert size == shape
        assert difference(form, drafted(data, n, 16, resize, kernel)).max() <= LIBRARIES_DIFFER


@pytest.mark.parametrize("shape", [(63, 96), (96, 63), (16, 500), (16, 16), (5, 5)])
def test_a_jpeg_that_is_not_large_enough_is_not_reduced(shape):
    data = encoded(noise(*shape, 3), "JPEG")
    whole = stored_form(decode(data, "a.jpg"), stored=16, resize="shorter", filter="bilinear")
    assert np.array_equal(decoded_form(data, "a.jpg", shaping(16))[0], whole)


def test_what_is_no_jpeg_and_what_asks_for_all_of_it_is_not_reduced():
    image = noise(200, 300, 3)
    for kind in ("PNG", "WEBP", "BMP", "JPEG"):
        data = encoded(image, kind)
        whole = stored_form(decode(data, "a"), stored=16, resize="shorter", filter="bilinear")
        form, size = decoded_form(data, "a", shaping(16, decode="full"))
        assert np.array_equal(form, whole)
        assert size == (200, 300)
        assert np.array_equal(decoded_form(data, "a", shaping(16))[0], whole) == (kind != "JPEG")


def decibels(a, b):
    return 10 * np.log10(255**2 / (difference(a, b) ** 2).mean())


@pytest.mark.parametrize(("stored", "n"), [(48, 2), (32, 4)])
def test_a_reduced_photograph_is_nearly_the_whole_ones(photos, stored, n):
    paths, found = sorted(photos.glob("*/*.jpg"))[::4], []
    for path in paths:
        data = path.read_bytes()
        whole, size = decoded_form(data, path.name, shaping(stored, decode="full"))
        if n * 2 * stored <= min(size) < n * 4 * stored:
            found.append(decibels(decoded_form(data, path.name, shaping(stored))[0], whole))
    assert len(found) >= 50
    assert min(found) > 38
    assert np.median(found) > 48


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("shape", [(257, 383), (258, 261), (259, 257)])
def test_a_reduced_picture_lies_where_the_whole_one_does(shape, turned, orientation):
    """On a slope of several levels a pixel, a tenth of a pixel is seen; the last block holds more than the picture."""
    data = encoded(picture(*shape), "JPEG", quality=100, subsampling=0, exif=exif(orientation))
    form, size = decoded_form(data, "a.jpg", shaping(32, exif=turned))
    upright = decode(data, "a.jpg", exif=turned)
    assert size == upright.shape[:2]
    whole = stored_form(upright, stored=32, resize="shorter", filter="bilinear")
    assert difference(form, whole).max() <= 1


def test_a_reduced_jpeg_that_the_strict_decoder_refuses():
    data = encoded(picture(300, 400), "JPEG", exif=exif(6))
    extra = data[:-2] + b"\0" * 9 + data[-2:]
    found, expected = (decoded_form(content, "a.jpg", shaping(16)) for content in (extra, data))
    assert np.array_equal(found[0], expected[0])
    assert found[1] == expected[1] == (400, 300)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_large_jpeg_is_refused_as_it_would_be_whole(mode):
    data = encoded(noise(200, 300, 3), "JPEG", mode)
    for limit, content in ((59_999, data), (10**9, data[: len(data) // 2])):
        with pytest.raises(BadImage) as caught:
            decoded_form(content, "a.jpg", shaping(16), max_pixels=limit)
        assert caught.value.reason == reason(content, max_pixels=limit)


def test_random_resized_reads_its_box_alone():
    image = noise(60, 80, 3)
    found = random_resized(image, (10, 20, 30, 41), side=16, filter="bilinear")
    expected = Image.fromarray(image).crop((20, 10, 61, 40)).resize((16, 16), Image.Resampling.BILINEAR)
    assert np.abs(found.astype(int) - np.array(expected)).max() <= 1  # torch's filter, not Pillow's
    assert np.array_equal(random_resized(image, (3, 4, 16, 16), side=16, filter="bicubic"), image[3:19, 4:20])


def test_raw_form():
    image = noise(5, 5, 3)
    assert np.array_equal(raw_form(image.tobytes(), 5, "a"), image)
    with pytest.raises(BadImage, match="a: 74 bytes, expected 5 x 5 x 3 = 75"):
        raw_form(image.tobytes()[1:], 5, "a")
