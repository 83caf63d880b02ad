"""A network as a file for other programs: ONNX, torch.export, safetensors, OpenVINO, torchvision, Caffe.

No file needs this program: normalizations are ONNX's LRN or plain operations of torch. Each says what a picture must
be and what its classes are called, in its metadata (`metadata.py`). Nothing is a pickle of ours: torchvision's weights
are safetensors too, under its names; what torch.export writes is its own format.
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from .. import files
from ..data.augment import Normalise
from ..data.preprocess import in_other_colour
from ..errors import UsageError
from ..network.build import AlexNet, Draw
from ..network.variants import LRN, Row, WithinMapLRN
from .caffe import write_caffe, write_mean
from .metadata import texts
from .onnx import graph, missing, quantised, wrapped
from .run import Loaded
from .torchvision import VARIANT, their_names

if TYPE_CHECKING:
    from onnx import ModelProto

Format = Literal["onnx", "torch-export", "safetensors", "openvino", "torchvision", "caffe"]
SUFFIX: dict[str, str] = {
    "onnx": ".onnx",
    "torch-export": ".pt2",
    "safetensors": ".safetensors",
    "openvino": ".xml",
    "torchvision": ".safetensors",
    "caffe": ".caffemodel",
}
WEIGHTS_ONLY = ("safetensors", "torchvision")
OUTSIDE = ("caffe",)  # whose nets take pictures that were prepared
OF = {"torchvision": VARIANT}  # a format of one variant only


def export(
    loaded: Loaded,
    path: Path,
    format: str,  # noqa: A002
    *,
    pixels: bool = False,
    softmax: bool = False,
    calibration: Callable[[], Tensor] | None = None,
) -> list[Path]:
    """Writes a network at test to `path` -> the files written.

    OpenVINO has its values in a .bin beside it; Caffe the net in words, the mean image and the labels, a line each.
    It takes `images` float32 (B, 3, side, side), prepared as its metadata say, or with `pixels` uint8 (B, side, side,
    3) RGB; any B. It gives `logits` (B, classes), or with `softmax` `probabilities`. `calibration`: pictures, as
    `images`, from whose ranges a file in int8 is made. UsageError: a format that is unknown or has not what is asked
    for; a name of another ending than the format's; a library that is not installed; a path that cannot be written.
    """
    if format not in get_args(Format):
        raise UsageError(f"--format {format}: unknown; known are {', '.join(get_args(Format))}")
    if format in WEIGHTS_ONLY and (pixels or softmax):
        raise UsageError(f"--format {format}: weights alone, so neither --uint8 nor --softmax goes with it")
    if format not in ("onnx", "openvino") and calibration is not None:
        raise UsageError(f"--format {format}: not with --int8; onnx and openvino have it")
    if format in OUTSIDE and pixels:
        raise UsageError(f"--format {format}: not with --uint8; there a picture is prepared before the net")
    if (name := loaded.model.variant.name) != (only := OF.get(format, name)):
        raise UsageError(f"--format {format}: only of variant {only}; {loaded.where} is of variant {name}")
    if path.suffix != (suffix := SUFFIX[format]):  # it may be a file of another kind, which would be lost
        raise UsageError(f"--out {path}: expected a name that ends in {suffix}, as a file of --format {format} has it")
    said = texts(loaded.model.variant, loaded.classes, loaded.preprocess, loaded.mean)
    try:
        match format:
            case "onnx":
                made = _onnx(loaded, pixels=pixels, softmax=softmax, calibration=calibration)
                for key, value in said.items():
                    made.metadata_props.add(key=key, value=value)
                files.write(path, made.SerializeToString())
            case "openvino":
                made = _onnx(loaded, pixels=pixels, softmax=softmax, calibration=calibration)
                return _openvino(made, said, path)
            case "torch-export":
                files.write(path, _program(loaded, said, pixels=pixels, softmax=softmax))
            case _ if format in OUTSIDE:
                return _caffe(loaded, path, softmax=softmax)
            case _:
                state = {name: value.contiguous() for name, value in loaded.model.state_dict().items()}
                names = their_names(state) if format in OF else {name: name for name in state}
                files.write(path, save({names[name]: value for name, value in state.items()}, said))
    except OSError as reason:
        raise UsageError(f"{path}: cannot be written ({reason.strerror})") from None
    return [path]


def _onnx(loaded: Loaded, *, pixels: bool, softmax: bool, calibration: Callable[[], Tensor] | None) -> "ModelProto":
    made = graph(loaded.model) if calibration is None else quantised(loaded.model, calibration())
    wrapped(made, loaded.preprocess, loaded.mean, pixels=pixels, softmax=softmax)
    made.producer_name = "alexnet"
    del made.metadata_props[:]
    return made


def _openvino(made: "ModelProto", said: dict[str, str], path: Path) -> list[Path]:
    """The .xml, with the metadata under `alexnet` in its rt_info, and the .bin."""
    try:
        import openvino as ov
    except ImportError:
        raise missing("openvino") from None
    model = ov.Core().read_model(made.SerializeToString(), b"")
    for key, value in said.items():
        model.set_rt_info(value, ["alexnet", key])
    values = path.with_suffix(".bin")
    with TemporaryDirectory(prefix="alexnet-openvino-") as folder:
        written = Path(folder) / path.with_suffix(".xml").name
        ov.save_model(model, written, compress_to_fp16=False)
        files.write(values, written.with_suffix(".bin").read_bytes())
        files.write(path, written.read_bytes())
    return [path, values]


def _caffe(loaded: Loaded, path: Path, *, softmax: bool) -> list[Path]:
    """What Caffe has: weights, the net in words with the metadata for comments, mean image, labels. All is BGR."""
    preprocess, mean = loaded.preprocess, loaded.mean
    if preprocess.colour == "RGB":
        preprocess = in_other_colour(preprocess)
        mean = None if mean is None else mean[..., ::-1]
    said = texts(loaded.model.variant, loaded.classes, preprocess, None)
    words = write_caffe(loaded.model, path, colour=loaded.preprocess.colour, softmax=softmax, said=said)
    labels = path.with_suffix(".labels.txt")
    files.write(labels, "".join(f"{key}\n" for key in loaded.classes.keys).encode())
    written = [path, words, labels]
    if mean is not None:
        written.append(path.with_suffix(".mean.binaryproto"))
        write_mean(mean, written[-1])
    return written


class _Plain(AlexNet):
    """The network with no operation of our own in it."""

    def layer(self, row: Row, x: Tensor, draw: Draw | None, index: int, *, inplace: bool) -> Tensor:
        match row:
            case LRN():
                alpha = row.alpha if row.divide else row.alpha * row.size  # torch divides by the size
                towers = x.chunk(row.towers, 1)
                return torch.cat([F.local_response_norm(t, row.size, alpha, row.beta, row.k) for t in towers], 1)
            case WithinMapLRN():
                mean = F.avg_pool2d(x * x, row.size, 1, row.size // 2, count_include_pad=True)
                return x / (row.k + row.alpha * mean) ** row.beta
            case _:
                return super().layer(row, x, draw, index, inplace=inplace)


class _Whole(nn.Module):
    """A network with what stands before and behind it in a file."""

    def __init__(self, net: AlexNet, normalise: Normalise | None, *, softmax: bool) -> None:
        super().__init__()
        self.net = net
        self.softmax, self.prepares = softmax, normalise is not None
        if normalise is not None:
            self.bgr, (mean, gain) = normalise.bgr, normalise.of_centre()
            self.register_buffer("mean", mean.clone())  # no views: each is written once
            self.register_buffer("gain", gain.clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, side, side), or uint8 (B, side, side, 3) -> (B, classes)."""
        if self.prepares:
            x = x.flip(3) if self.bgr else x
            x = ((x.float() - self.get_buffer("mean")) * self.get_buffer("gain")).permute(0, 3, 1, 2)
        logits = self.net(x)
        return logits.softmax(1) if self.softmax else logits


def _program(loaded: Loaded, said: dict[str, str], *, pixels: bool, softmax: bool) -> bytes:
    """What torch.export makes of it: plain operations of torch, the metadata as files beside the program."""
    model = loaded.model
    net = _Plain(model.variant, model.classes)
    net.load_state_dict({name: value.cpu() for name, value in model.state_dict().items()}, assign=True)
    normalise = Normalise(loaded.preprocess, loaded.mean, torch.device("cpu")) if pixels else None
    side = model.variant.side
    shape, dtype = ((2, side, side, 3), torch.uint8) if pixels else ((2, 3, side, side), torch.float32)
    program = torch.export.export(
        _Whole(net, normalise, softmax=softmax).eval(),
        (torch.zeros(shape, dtype=dtype),),
        dynamic_shapes=({0: torch.export.Dim("B")},),
    )
    stream = BytesIO()
    torch.export.save(program, stream, extra_files=said)
    return stream.getvalue()
