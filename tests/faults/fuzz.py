"""Files mutated at random, through whatever opens them: a value or an error that names the file, and nothing else.

A case is a function of its kind, the seed and its number, so that a fault is repeated by
`python -m tests.faults.fuzz KIND FIRST LAST SEED`, which tries the cases FIRST to LAST - 1 in its own process.
"""

import csv
import hashlib
import io
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from alexnet.errors import AlexNetError
from tests.faults import Row
from tests.pictures import encoded, exif, picture, write_folder

MOST_SECONDS = 2.0  # of the processor's time, a case
MOST_BLOCKED = 60.0  # seconds that a case may pass without any
LOOK = 0.05  # seconds between two looks at a child
MOST_MEMORY = 512 << 20  # bytes above what the libraries and the seeds take
MOST_GROWTH = 64 << 20  # bytes, from a tenth of the cases on
MOST_FAULTS = 20  # after so many the rest is not tried
MOST_PIXELS = 4_000_000

Case = Callable[[np.random.Generator], None]
Open = Callable[[Path], Case]


def seeds() -> dict[str, bytes]:
    """A picture of every kind that is read."""
    frames = [Image.fromarray(picture(48, 40)), Image.fromarray(255 - picture(48, 40))]
    image = frames[0]
    animated = {"save_all": True, "append_images": frames[1:]}
    return {
        "JPEG": encoded(image, "JPEG", exif=exif(6), comment=b"x", icc_profile=bytes(200)),
        "progressive": encoded(image, "JPEG", progressive=True),
        "CMYK": encoded(image.convert("CMYK"), "JPEG", exif=exif(3)),
        "MPO": encoded(image, "MPO", **animated),
        "PNG": encoded(image, "PNG", exif=exif(5)),
        "PNG 16": encoded(Image.fromarray(picture(48, 40)[:, :, 0].astype(np.uint16) * 257), "PNG"),
        "palette": encoded(image.convert("P"), "PNG", transparency=3),
        "APNG": encoded(image, "PNG", **animated),
        "GIF": encoded(image.convert("P"), "GIF", transparency=1, **animated),
        "WebP": encoded(image, "WEBP", exif=exif(8)),
        "WebP lossless": encoded(image.convert("RGBA"), "WEBP", lossless=True),
        "WebP animated": encoded(image, "WEBP", **animated),
        "BMP": encoded(image, "BMP"),
        "BMP palette": encoded(image.convert("P"), "BMP"),
    }


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, with bits flipped, with bytes changed near the beginning, or with a part gone, twice, swapped, or new."""
    data = bytearray(data)
    a, b, c = sorted(rng.integers(0, len(data) + 1, 3))
    match rng.integers(7):
        case 0:
            del data[a:]
        case 1:
            for _ in range(rng.integers(1, 9)):
                data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        case 2:
            for _ in range(rng.integers(1, 5)):
                data[rng.integers(min(len(data), 200))] = rng.integers(256)
        case 3:
            del data[a:b]
        case 4:
            data[a:b] *= 2
        case 5:
            data[a:c] = data[b:c] + data[a:b]
        case 6:
            data[a:a] = rng.bytes(int(rng.integers(1, 40)))
    return bytes(data)


def mutated_json(data: bytes, rng: np.random.Generator) -> bytes:
    """JSON in which one value, at any depth, is another one or gone; or its text `mutated`."""
    if rng.integers(2):
        return mutated(data, rng)
    whole = [json.loads(data)]
    places: list[tuple[Any, Any]] = []
    inside: list[Any] = [whole]
    while inside:
        here = inside.pop()
        for key in here if isinstance(here, dict) else range(len(here)):
            places.append((here, key))
            if isinstance(here[key], dict | list):
                inside.append(here[key])
    here, key = places[rng.integers(len(places))]
    others = (None, True, 0, -1, 2**63, 1e308, math.nan, "", "../x", "\0", [], {}, [[]], {"x": 1})
    choice = int(rng.integers(len(others) + 1))
    if choice == len(others) and len(places) > 1:
        del here[key]
    else:
        here[key] = others[choice % len(others)]
    return json.dumps(whole[0] if whole else None).encode()


def with_right_checksums(data: bytes) -> bytes:
    """A PNG whose checksums are right again, so that a mutation reaches what they guard."""
    data, at = bytearray(data), 8
    while at + 12 <= len(data) and (end := at + 12 + int.from_bytes(data[at : at + 4])) <= len(data):
        data[end - 4 : end] = zlib.crc32(data[at + 4 : end - 4]).to_bytes(4)
        at = end
    return bytes(data)


def image(folder: Path) -> Case:
    """Pictures, decoded whole and reduced."""
    from alexnet.data.decode import decode, decoded_form
    from alexnet.data.preprocess import Shaping

    kinds = [(name, content) for name, content in seeds().items()]
    shaping = Shaping(stored=8, resize="shorter", filter="bilinear", exif=True, decode="reduced")

    def case(rng: np.random.Generator) -> None:
        kind, content = kinds[rng.integers(len(kinds))]
        content, name = mutated(content, rng), str(folder / kind)
        if "P" in kind and rng.integers(2):
            content = with_right_checksums(content)
        form, _ = decoded_form(content, name, shaping, max_pixels=MOST_PIXELS)
        whole = decode(content, name, max_pixels=MOST_PIXELS)
        assert form.shape == (8, 8, 3) and whole.ndim == 3 and whole.shape[2] == 3
        assert form.dtype == whole.dtype == np.uint8

    return case


def _tars(folder: Path) -> Iterator[bytes]:
    one = encoded(picture(8, 8), "PNG")
    for form, name in (
        (tarfile.USTAR_FORMAT, "{}/{}.png"),
        (tarfile.GNU_FORMAT, "a" * 120 + "/{}/{}.png"),
        (tarfile.PAX_FORMAT, "\u00e4" * 70 + "/{}/{}.png"),
        (tarfile.USTAR_FORMAT, "{1}{0}.png"),
    ):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
            for number in range(4):
                members = {name.format(number % 2, number): one}
                if name.endswith("{0}.png"):
                    members[f"{number}{number % 2}.cls"] = b"%d" % (number % 2)
                for path, content in members.items():
                    member = tarfile.TarInfo(path)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        yield stream.getvalue()


def _with_right_sums(tar: bytes) -> bytes:
    """A tar in which whatever may be a header has the right sum."""
    blocks = bytearray(tar)
    for at in range(0, len(blocks) - 511, 512):
        block = blocks[at : at + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return bytes(blocks)


def tar(folder: Path) -> Case:
    """Tars, read as a data set and as pictures to predict."""
    from alexnet.data.sources import open_images, open_source

    kinds, path = list(_tars(folder)), folder / "set.tar"

    def case(rng: np.random.Generator) -> None:
        content = mutated(kinds[rng.integers(len(kinds))], rng)
        path.write_bytes(_with_right_sums(content) if rng.integers(2) else content)
        samples = open_source(path) if rng.integers(2) else open_images(path)
        for row in range(len(samples)):
            samples.read(row)

    return case


def _pack(folder: Path, form: str) -> Path:
    from alexnet.data.pack import pack
    from alexnet.data.sources import open_data
    from alexnet.network.variants import variant
    from alexnet.weights.run import preprocess_of

    data = open_data(write_folder(folder / f"{form} pictures", classes=2, each=3, side=8))
    pack(
        data.train, data.val, folder / form, form=form, preprocess=preprocess_of(variant("tiny")),
        source=data.source, fingerprint=data.fingerprint, threads=1,
    )  # fmt: skip
    return folder / form


def _read_all(where: Path) -> None:
    from alexnet.data.sources import open_data

    found = open_data(where)
    for samples in (found.train, found.val):
        for row in range(len(samples) if samples is not None else 0):
            samples.read(row)


def npy(folder: Path) -> Case:
    """A raw pack's array, whose index says its length and hash anew; a run's mean image; statistics in the cache."""
    from alexnet.data.preprocess import load_mean
    from alexnet.data.sources import open_source
    from alexnet.data.stats import measure
    from alexnet.network.variants import variant
    from alexnet.weights.run import preprocess_of

    packed, cache, preprocess = _pack(folder, "raw"), folder / "cache", preprocess_of(variant("tiny"))
    record, array = json.loads((packed / "pack.json").read_bytes()), (packed / "train.npy").read_bytes()
    np.save(folder / "mean.npy", np.zeros((preprocess.stored, preprocess.stored, 3), np.float32), allow_pickle=False)
    mean = (folder / "mean.npy").read_bytes()
    samples = open_source(folder / "raw pictures")
    right = measure(samples, preprocess, threads=1, cache=cache)
    (kept,) = cache.iterdir()
    stats = kept.read_bytes()

    def case(rng: np.random.Generator) -> None:
        match rng.integers(3):
            case 0:
                content = mutated(array[:300], rng) + array[300:]
                (packed / "train.npy").write_bytes(content)
                said = next(one for one in record["sets"]["train"]["files"] if one["name"] == "train.npy")
                said |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                (packed / "pack.json").write_text(json.dumps(record))
                _read_all(packed)
            case 1:
                (folder / "mean.npy").write_bytes(mutated(mean[:300], rng) + mean[300:])
                load_mean(folder, stored=preprocess.stored)
            case _:
                kept.write_bytes(mutated(stats, rng))
                again = measure(samples, preprocess, threads=1, cache=cache)
                assert np.array_equal(again.mean, right.mean) and again.count == right.count

    return case


def pack(folder: Path) -> Case:
    """A pack's record and its index, the index's hash made right or not."""
    packed = _pack(folder, "jpeg")
    contents = {name: (packed / name).read_bytes() for name in ("pack.json", "train.csv", "val.csv")}

    def case(rng: np.random.Generator) -> None:
        for name, content in contents.items():
            (packed / name).write_bytes(content)
        name = list(contents)[rng.integers(3)]
        content = (mutated_json if name == "pack.json" else mutated)(contents[name], rng)
        (packed / name).write_bytes(content)
        if name != "pack.json" and rng.integers(4):
            record = json.loads(contents["pack.json"])
            said = next(one for one in record["sets"][name[:-4]]["files"] if one["name"] == name)
            said |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            (packed / "pack.json").write_text(json.dumps(record))
        _read_all(packed)

    return case


def listed(folder: Path) -> Case:
    """Lists of pictures, as text and as comma-separated values."""
    from alexnet.data.sources import open_source

    names = [f"class{k}/{i:03d}.{kind}" for k in (0, 1) for i, kind in ((0, "png"), (1, "jpg"))]
    write_folder(folder, classes=2, each=2, side=8)
    stream = io.StringIO()
    csv.writer(stream).writerows([("path", "label"), *((name, name[:6]) for name in names)])
    kinds = {
        "list.txt": "".join(f"{name} {name[5]}\n" for name in names).encode(),
        "list.csv": b"\xef\xbb\xbf" + stream.getvalue().encode(),
    }

    def case(rng: np.random.Generator) -> None:
        name = list(kinds)[rng.integers(2)]
        (folder / name).write_bytes(mutated(kinds[name], rng))
        samples = open_source(folder / name)
        for row in range(len(samples)):
            samples.read(row)

    return case


def safetensors(folder: Path) -> Case:
    """Tensors, mostly in their header, with the header's length right or not."""
    import torch
    from safetensors.torch import save

    from alexnet.weights.checkpoint import read_tensors

    tensors = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.tensor(7)}
    content, path = save(tensors, metadata={"format": "pt"}), folder / "model.safetensors"
    begin = 8 + int.from_bytes(content[:8], "little")

    def case(rng: np.random.Generator) -> None:
        if rng.integers(3):
            header = mutated_json(content[8:begin], rng)
            path.write_bytes(len(header).to_bytes(8, "little") + header + content[begin:])
        else:
            path.write_bytes(mutated(content, rng))
        for tensor in read_tensors(path).values():
            tensor.float().sum()

    return case


def checkpoint(folder: Path) -> Case:
    """A checkpoint's state and manifest, the manifest's sizes and hashes made right or not."""
    import torch

    from alexnet.weights import checkpoint as store
    from tests.checkpoints import put

    state = {"step": 7, "validation_due": False, "best": {"step": 7, "top1": 0.5}, "last": None, "seconds": 1.5}
    model = {"conv1.weight": torch.ones(2, 3), "conv1.bias": torch.zeros(2)}
    kept = put(folder, store.Checkpoint(model, {"0.0.momentum_buffer": torch.ones(2, 3)}, state))
    contents = {path.name: path.read_bytes() for path in kept.iterdir()}

    def case(rng: np.random.Generator) -> None:
        for name, content in contents.items():
            (kept / name).write_bytes(content)
        name = list(contents)[rng.integers(len(contents))]
        content = (mutated_json if name.endswith(".json") else mutated)(contents[name], rng)
        (kept / name).write_bytes(content)
        if name != "manifest.json" and rng.integers(4):
            manifest = contents["manifest.json"].decode()
            manifest = manifest.replace(hashlib.sha256(contents[name]).hexdigest(), hashlib.sha256(content).hexdigest())
            manifest = manifest.replace(f": {len(contents[name])}", f": {len(content)}")
            (kept / "manifest.json").write_text(manifest)
        store.load(kept)

    return case


def features(folder: Path) -> Case:
    """Files of features of every kind, and the index of an .npy."""
    from alexnet import files
    from alexnet.data.classes import Classes
    from alexnet.evaluation.feature_files import About, Index, Part, beside, read_features, write_features

    shapes = {"conv5:relu": [3, 2, 2], "fc7": [5]}
    for name in ("f.npy", "f.npz", "f.h5", "f.mat", "f.parquet"):
        layers = {"fc7": [5]} if name == "f.npy" else shapes
        about = About("tiny", "tiny", "0" * 64, {}, {layer: layer for layer in layers}, layers, 1, False, "float32", 64, "cpu",
                      "set", "1" * 64, [{"path": "a.jpg", "reason": "no picture"}])  # fmt: skip
        classes = Classes(("a", "b"), ("a", "b"))
        index = Index(about, [f"a/{i}.jpg" for i in range(4)], np.array([0, 1, 1, -1]), classes)
        parts = []
        for number, (layer, shape) in enumerate(layers.items()):
            path = folder / (name if name == "f.npy" else f"{number}.npy")
            files.write_array(path, np.arange(4.0 * math.prod(shape), dtype=np.float32).reshape(4, *shape))
            parts.append(Part(layer, path, tuple(shape), np.dtype(np.float32)))
        write_features(folder / name, parts, index)
    contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("f.")}
    assert beside(folder / "f.npy").name in contents and len(contents) == 6

    def case(rng: np.random.Generator) -> None:
        for name in ("f.npy", "f.npy.json"):
            (folder / name).write_bytes(contents[name])
        name = list(contents)[rng.integers(len(contents))]
        (folder / name).write_bytes((mutated_json if name.endswith(".json") else mutated)(contents[name], rng))
        found = read_features((folder / name).with_name(name.removesuffix(".json")))
        for layer in found.values:
            read = np.isfinite(found.matrix(layer))  # every value, whatever it is
            assert read.shape == (len(found), math.prod(found.about.shapes[layer]))

    return case


KINDS: dict[str, Open] = {
    "image": image, "tar": tar, "npy": npy, "pack": pack, "list": listed, "safetensors": safetensors,
    "checkpoint": checkpoint, "features": features,
}  # fmt: skip


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def attempt(kind: str, first: int, last: int, seed: int, folder: Path) -> dict[str, Any]:
    """Tries the cases first..last - 1 in this process, and says in `folder`/at which one it is at."""
    warnings.simplefilter("error")
    work = folder / "files"
    work.mkdir()
    case = KINDS[kind](work)
    at = os.open(folder / "at", os.O_WRONLY | os.O_CREAT)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_MEMORY, size + MOST_MEMORY))
    begin = after_a_tenth = _resident()
    said: dict[str, Any] = {"values": 0, "errors": 0, "slowest": 0.0, "faults": []}
    for number in range(first, last):
        os.pwrite(at, number.to_bytes(8), 0)
        rng = np.random.default_rng([zlib.crc32(kind.encode()), seed, number])
        start = time.process_time()
        try:
            case(rng)
            said["values"] += 1
        except AlexNetError as reason:
            said["errors"] += 1
            if str(work) not in str(reason) or "\n" in str(reason):
                said["faults"].append((number, f"an error that names no file: {reason}"))
        passed = time.process_time() - start
        said["slowest"] = max(said["slowest"], passed)
        if passed > MOST_SECONDS:
            said["faults"].append((number, f"{passed:.1f} s"))
        if number == first + (last - first) // 10:
            after_a_tenth = _resident()
        if len(said["faults"]) >= MOST_FAULTS:
            break
    # getrusage's high-water mark is that of the parent, where this is higher
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return said | {"memory": peak - begin, "growth": _resident() - after_a_tenth}


def _watched(child: subprocess.Popen[bytes], at: Path) -> str | None:
    """Waits for a child to end; kills it, and says why, where it is too long at one case."""
    ticks = os.sysconf("SC_CLK_TCK")
    number, looks, spent = b"", 0, 0.0
    while child.poll() is None:
        time.sleep(LOOK)
        looks += 1  # counted, not timed: this process may be stopped for a while
        with suppress(OSError, IndexError):  # it has just ended, or has not begun
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            used, now = (int(fields[11]) + int(fields[12])) / ticks, at.read_bytes()
            if now != number:
                number, looks, spent = now, 0, used
            elif used - spent > 2 * MOST_SECONDS or looks * LOOK > MOST_BLOCKED:
                child.kill()
                child.wait()
                return f"hangs: {used - spent:.1f} s of the processor, {looks * LOOK:.0f} s in all"
    return None


def tried(kind: str, times: int, seed: int, *, program: Sequence[str] = ("-m", "tests.faults.fuzz")) -> Row:
    """The cases 0..times - 1 of a kind, in child processes: a new one where one has crashed or hung."""
    faults: list[tuple[int, str]] = []
    counts = {"values": 0, "errors": 0, "slowest": 0.0, "memory": 0, "growth": 0}
    first = 0
    while first < times and len(faults) < MOST_FAULTS:
        with TemporaryDirectory(prefix="fuzz-") as place, (Path(place) / "errors").open("w+b") as errors:
            at = Path(place) / "at"
            asked = [sys.executable, *program, kind, str(first), str(times), str(seed), place]
            own = {**os.environ, "OMP_NUM_THREADS": "1"}
            with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=errors, env=own) as child:
                hung = _watched(child, at)
                assert child.stdout is not None
                out = child.stdout.read()
            errors.seek(0)
            printed = " ".join(errors.read().decode(errors="replace").split())[-300:]
            if child.returncode == 0:
                said = json.loads(out)
                faults += [(number, text) for number, text in said["faults"]]
                faults += [(first, f"printed: {printed}")] if printed else []
                for name in ("values", "errors"):
                    counts[name] += said[name]
                for name in ("slowest", "memory", "growth"):
                    counts[name] = max(counts[name], said[name])
                break
            assert at.exists(), printed  # before the first case: a fault of this trial
            number = int.from_bytes(at.read_bytes())
            ended = hung or (
                signal.Signals(-child.returncode).name if child.returncode < 0 else f"exit {child.returncode}"
            )
            faults.append((number, f"{ended} {printed}"))
            first = number + 1
    for name, most in (("memory", MOST_MEMORY), ("growth", MOST_GROWTH)):
        if counts[name] > most:
            faults.append((0, f"{name}: {counts[name] >> 20} MB"))
    for number, text in faults:
        print(f"{text}\n  python -m tests.faults.fuzz {kind} {number} {number + 1} {seed}", file=sys.stderr)
    seen = (
        f"{counts['values']:,} values, {counts['errors']:,} errors, slowest {counts['slowest']:.2f} s, "
        f"{counts['memory'] >> 20} MB at most, {counts['growth'] >> 20} MB more at the end"
    )
    if faults:
        seen = f"{len(faults)} faults, the first: seed {seed}, case {faults[0][0]}: {faults[0][1]}; {seen}"
    asked = f"a value or an error that names the file; {MOST_SECONDS:g} s, {MOST_MEMORY >> 20} MB"
    return Row(f"fuzz: {kind}", times, asked, seen, not faults)


def images(times: int, seed: int) -> list[Row]:
    """Mutated pictures of every kind, through the decoder."""
    return [tried("image", times, seed)]


def containers(times: int, seed: int) -> list[Row]:
    """Mutated files of each other kind that is read, `times` each, through what opens them."""
    return [tried(kind, times, seed) for kind in KINDS if kind != "image"]


def main() -> None:
    """Tries cases here: KIND FIRST LAST SEED, and a folder to work in."""
    kind, first, last, seed, *place = sys.argv[1:]
    with TemporaryDirectory(prefix="fuzz-") as own:
        folder = Path(place[0]) if place else Path(own)
        print(json.dumps(attempt(kind, int(first), int(last), int(seed), folder)))


if __name__ == "__main__":
    main()
