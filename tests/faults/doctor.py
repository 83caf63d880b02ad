"""The doctor on a million pictures: what it needs of memory, and whether it finds the few that are bad."""

import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

from . import Row

MOST_MB = 600
CLASSES = 100
BLOCK = 512
# Prints the peak of its resident memory after what the command prints. The account that a parent gets (`ru_maxrss`)
# begins with the parent's own size.
PROGRAM = """
import sys
from alexnet.bench.memory import resident
from alexnet.cli import main
try:
    main(sys.argv[1:])
finally:
    print(resident("VmHWM"), file=sys.stderr)
"""


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def member(name: str, content: bytes) -> bytes:
    """A regular member of a tar, USTAR."""
    head = bytearray(BLOCK)
    head[: len(name)] = name.encode()
    head[100:108], head[124:136], head[156:157], head[257:265] = (
        b"0000644\0",
        b"%011o\0" % len(content),
        b"0",
        b"ustar\00000",
    )
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + content + bytes(-len(content) % BLOCK)


def write_tar(path: Path, count: int, seed: int, bad: set[int]) -> None:
    """A tar of `count` PNGs of 8 x 8 pixels in a hundred classes, all distinct, those of `bad` cut short."""
    pixels = random.Random(seed)
    begin = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    end = chunk(b"IEND", b"")
    with path.open("wb") as tar:
        for i in range(count):
            # the number itself, and noise, which no compression makes smaller
            rows = i.to_bytes(4) + pixels.randbytes(8 * 24 - 4)
            plain = b"".join(b"\0" + rows[at : at + 24] for at in range(0, len(rows), 24))
            content = begin + chunk(b"IDAT", zlib.compress(plain, 0)) + end
            tar.write(member(f"class{i % CLASSES:03d}/{i:07d}.png", content[:-40] if i in bad else content))
        tar.write(bytes(2 * BLOCK))


def million(times: int, seed: int) -> list[Row]:
    """`times` distinct pictures in one tar, ten of them cut short: the peak of memory of a process that checks them."""
    bad = set(random.Random(seed + 1).sample(range(times), 10))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pictures.tar"
        write_tar(path, times, seed, bad)
        begin = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "data", "check", str(path), "--json"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "ALEXNET_CACHE": f"{folder}/cache"},
        )
        seconds = time.monotonic() - begin
    megabytes = int(done.stderr.split()[-1]) / 1e6
    document = json.loads(done.stdout)
    found = {int(Path(one["path"]).stem) for one in document["problems"] if one["kind"] == "truncated"}
    right = (
        found == bad and len(document["problems"]) == 10 and not document["duplicates"] and document["images"] == times
    )
    return [
        Row(
            "data check: distinct PNGs of 8 x 8 in one tar, ten cut short",
            times,
            f"these ten and no others found, exit 3, {MOST_MB} MB at most",
            f"{len(found & bad)} found, {len(document['problems']) - len(found & bad)} others, exit {done.returncode}, "
            f"{megabytes:.0f} MB, {seconds:.0f} s",
            right and done.returncode == 3 and megabytes <= MOST_MB,
        )
    ]
