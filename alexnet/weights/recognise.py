"""Which world a model file comes from, by its first bytes, and which variant it holds, by names and shapes."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.preprocess import Colour
from ..data.samples import shown
from ..errors import Misfit, UsageError, WeightsError, listed
from ..network.cost import shapes
from ..network.variants import VARIANTS, Variant, variant
from . import caffe, caffe_npy, convnet, onnx, tensorflow, torchvision
from .foreign import Foreign
from .metadata import fields, read_texts
from .pth import converted
from .tensors import MOST_HEADER_BYTES, Shapes, read_metadata, read_shapes, read_tensors
from .unpickle import read_npy

Kind = Literal["safetensors", "pth", "caffe", "tensorflow", "npy", "convnet", "onnx"]
SUFFIXES: dict[str, Kind] = {".safetensors": "safetensors", ".pth": "pth", ".pt": "pth", ".caffemodel": "caffe",
                             ".index": "tensorflow", ".npy": "npy", ".onnx": "onnx"}  # fmt: skip
READERS: dict[Kind, Callable[[Path], Foreign]] = {
    "caffe": caffe.read_caffemodel,
    "tensorflow": tensorflow.read_checkpoint,
    "npy": caffe_npy.read_caffe_npy,
    "convnet": convnet.read_convnet,
    "onnx": onnx.read_onnx,
}
NPY, PICKLE = b"\x93NUMPY", b"\x80\x02"  # a pickle of Python 2, which the program of 2012 wrote
ZIP = b"PK\x03\x04"
LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # how torch.save began before it wrote zips
# protobuf has no magic number: these are told by their first fields. ONNX: its version, and who made it or what it is
ONNX = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]")
# Caffe: what follows the net's name, a layer of the old kind or the new, or what its input is called
OLD_LAYER, LAYER, INPUT = b"\x12", b"\xa2\x06", b"\x1a"
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.", "state_dict.")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MOST_NAMED = 4


class Found(NamedTuple):
    """A model as it was found: its variant, how many classes it tells apart, and what its file gave."""

    variant: Variant
    classes: int
    given: Foreign


def kind_of(path: Path) -> Kind | None:
    """What a file is, by its first bytes, or by its suffix where these say nothing; None: no model file.

    A TensorFlow checkpoint is also its prefix, and a checkpoint of 2012 also the folder that it lies in.
    """
    try:
        if Path(f"{tensorflow.PART.sub('', str(path))}.index").is_file():
            return "tensorflow"
        if path.is_dir() and path.name.startswith("ConvNet__"):
            return "convnet"
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            head = stream.read(256)
            stream.seek(max(0, path.stat().st_size - len(tensorflow.MAGIC)))
            tail = stream.read()
    except OSError:
        return None
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MOST_HEADER_BYTES:
        return "safetensors"
    # a zip is torch's by its first member, which torch writes first
    first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if (head.startswith(ZIP) and first.endswith(b"/data.pkl")) or head.startswith(LEGACY):
        return "pth"
    if head.startswith(NPY):
        return "npy"
    if head.startswith(PICKLE):
        return "convnet"
    if tail == tensorflow.MAGIC:
        return "tensorflow"
    if ONNX.match(head):
        return "onnx"
    end = 2 + head[1] if head[:1] == b"\n" and head[1:] else 0  # of the net's name
    if head[end:].startswith(LAYER) or (end and head[end:].startswith((OLD_LAYER, INPUT))):
        return "caffe"
    return SUFFIXES.get(path.suffix.lower())


def read_model(path: Path, kind: Kind, *, named: str | None = None) -> Found:
    """The model in a file; `named`, the variant's name, where layers of several have the same shapes.

    Half precision becomes fp32. WeightsError: no variant has these layers, shapes and no others (told from a
    safetensors file's header, before a tensor is read); values that are no numbers. UsageError: several have them, and
    none is named.
    """
    where = shown(str(path))
    if kind in READERS:
        given = READERS[kind](path)
        there = {name: tuple(value.shape) for name, value in given.tensors.items()}
        found, classes = _variant(there, where, named=named, likely=given.likely)
        given.tensors = {name: _numbers(value, name, where) for name, value in given.tensors.items()}
        return Found(found, classes, given)
    with _as_safetensors(path, kind) as file:
        theirs = read_shapes(file, called=where)
        bare = _bare(theirs)
        torchvisions = torchvision.our_names(bare.values())
        ours = {name: torchvisions.get(short, short) for name, short in bare.items()}
        there = {ours[name]: shape for name, shape in theirs.items()}
        if len(there) < len(theirs):
            raise WeightsError(f"{where}: two tensors are one layer's by their names")
        said = read_metadata(file) if kind == "safetensors" else {}
        likely = torchvision.VARIANT if torchvisions else said.get("variant")
        found, outputs = _variant(there, where, named=named, likely=likely)
        preprocess, mean, classes = read_texts(said, path)
        if classes is not None and len(classes) != outputs:
            raise WeightsError(f"{where}: fc8 has {outputs} outputs, and classes.json {len(classes)} classes")
        tensors = {ours[name]: value for name, value in read_tensors(file, called=where).items()}
    numbers = {name: _numbers(value, name, where) for name, value in tensors.items()}
    sources = {our: name for name, our in ours.items()}
    return Found(found, outputs, Foreign(numbers, sources, preprocess=fields(preprocess), mean=mean, classes=classes))


@contextmanager
def _as_safetensors(path: Path, kind: Kind) -> Iterator[Path]:
    if kind == "safetensors":
        yield path
    else:
        with converted(path) as file:
            yield file


def _bare(names: Shapes) -> dict[str, str]:
    """Each name -> the name without what wrappers put before all of them."""
    bare = {name: name for name in names}
    while prefix := next((p for p in PREFIXES if bare and all(n.startswith(p) for n in bare.values())), None):
        bare = {name: short.removeprefix(prefix) for name, short in bare.items()}
    return bare


def _variant(found: Shapes, where: str, *, named: str | None, likely: str | None) -> tuple[Variant, int]:
    """The variant whose state has these names and shapes, of several the `likely` one; and the number of classes."""
    head = found.get("fc8.weight", ())
    classes = head[0] if len(head) == 2 and head[0] else 1
    candidates = [variant(named)] if named else list(VARIANTS.values())
    wrong = {one.name: _differences(found, shapes(one, classes)) for one in candidates}
    fitting = [one for one in candidates if not wrong[one.name]]
    fitting = [one for one in fitting if one.name == likely] or fitting
    if len(fitting) == 1:
        return fitting[0], classes
    if fitting:
        raise UsageError(
            f"{where}: its layers are those of {', '.join(one.name for one in fitting)} alike, which differ in what "
            "has no weights; say --variant"
        )
    nearest = min(wrong, key=lambda name: len(wrong[name]))
    expected = shapes(VARIANTS[nearest], classes)
    if not found.keys() & expected.keys():
        named_there = ", ".join(shown(name[:40]) for name in islice(found, MOST_NAMED))
        raise WeightsError(f"{where}: no AlexNet: its tensors are called {named_there or 'nothing: there are none'}")
    fits = f"does not fit variant {nearest}" if named else f"fits no variant; the nearest is {nearest}"
    raise WeightsError(f"{where}: {fits}: {listed(wrong[nearest], MOST_NAMED)}", wrong[nearest])


def _differences(found: Shapes, expected: Shapes) -> list[Misfit]:
    return [
        *(Misfit(name, shape, found[name]) for name, shape in expected.items() if found.get(name, shape) != shape),
        *(Misfit(name, shape, None) for name, shape in expected.items() if name not in found),
        *(Misfit(shown(name[:40]), None, shape) for name, shape in found.items() if name not in expected),
    ]


def _numbers(value: torch.Tensor, name: str, where: str) -> torch.Tensor:
    """The values as a network holds them: fp32, or the counts of batches."""
    if not value.ndim and value.dtype == torch.int64:
        return value
    if value.dtype not in FLOATS:
        raise WeightsError(f"{where}: {name} is {value.dtype}, expected floating point")
    value = value.to(torch.float32)
    if not torch.isfinite(value).all():
        bad = int((~torch.isfinite(value)).sum())
        misfits = [Misfit(name, "finite values", f"{bad} that are not")]
        raise WeightsError(f"{where}: {name} holds values that are not finite", misfits)
    return value


def read_mean(path: Path) -> tuple[NDArray[np.float32], Colour]:
    """A mean image (S, S, 3) in 0..255 and the order of its channels.

    Caffe's .binaryproto, its Python's .npy (3, S, S), or the 2012 program's batches.meta. WeightsError: the file holds
    no such image, or values that are not finite.
    """
    if path.suffix == ".binaryproto":
        return caffe.read_mean(path), "BGR"
    if path.suffix == ".npy":
        mean = read_npy(path)
        if not isinstance(mean, np.ndarray) or mean.ndim != 3 or len(mean) != 3:
            raise WeightsError(f"{shown(str(path))}: no mean image: expected an array (3, S, S)")
        with np.errstate(over="ignore"):  # of doubles: then they are not finite
            values = np.ascontiguousarray(mean.transpose(1, 2, 0), dtype=np.float32)
        if not np.isfinite(values).all():
            raise WeightsError(f"{shown(str(path))}: holds values that are not finite")
        return values, "BGR"
    return convnet.read_convnet_mean(path), "RGB"
