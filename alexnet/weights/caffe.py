"""Caffe's files: weights (.caffemodel), mean images (.binaryproto) and nets in words (.prototxt), read and written.

Layouts: caffe.proto (github.com/BVLC/caffe at 9b89154). The values of a .caffemodel are walked through here, within
bounds; what Google's library gets of such a file is the few bytes that describe a layer.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .. import files
from ..data.preprocess import Colour
from ..data.samples import shown
from ..errors import UsageError, WeightsError
from ..network.build import AlexNet
from ..network.cost import Shape, out_shape, shapes, words
from ..network.variants import (
    BN,
    LRN,
    VARIANTS,
    AdaptivePool,
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    MaxPool,
    ReLU,
    Row,
    Variant,
)
from .foreign import Foreign, other_colour
from .protobuf import fields_of, varint
from .tensors import MOST_AXES

MOST_BYTES = 1_000_000_000  # of a .caffemodel; the known ones have 244 million
MOST_TEXT_BYTES = 250_000  # of a .prototxt; bvlc_alexnet's has 7,000
MOST_LAYERS = 200
MOST_BLOBS = 4  # of a layer; a batch normalisation has 3
MOST_FIELDS = 500  # of a message
MOST_LAYER_BYTES = 1 << 16  # of a layer without its blobs
MOST_NAMED = 6
MOST_SHOWN = 40  # characters of a name

# caffe.proto, as far as it says what a net of ours computes: a field's name, number, type, and default or MANY. The
# pooling's sizes are single there; on the wire and in words this is the same. So are packed floats and bytes, which
# come and go without a Python number for each.
MANY = "many"
SIZES = ("kernel_size", "stride", "pad", "dilation")
# Of each kind of layer: what its settings are called in a LayerParameter, and their number there.
PARAMETERS = {
    "Convolution": ("convolution_param", 106), "Pooling": ("pooling_param", 121), "LRN": ("lrn_param", 118),
    "InnerProduct": ("inner_product_param", 117), "ReLU": ("relu_param", 123), "Dropout": ("dropout_param", 108),
    "BatchNorm": ("batch_norm_param", 139), "Scale": ("scale_param", 142),
}  # fmt: skip
MESSAGES: dict[str, tuple[tuple[Any, ...], ...]] = {
    "BlobShape": (("dim", 1, "int64", MANY),),
    "BlobProto": (
        ("num", 1, "int32"), ("channels", 2, "int32"), ("height", 3, "int32"), ("width", 4, "int32"),
        ("data", 5, "bytes"), ("shape", 7, "BlobShape"),
    ),
    "ConvolutionParameter": (
        ("num_output", 1, "uint32"), ("pad", 3, "uint32", MANY), ("kernel_size", 4, "uint32", MANY),
        ("group", 5, "uint32", "1"), ("stride", 6, "uint32", MANY), ("pad_h", 9, "uint32"), ("pad_w", 10, "uint32"),
        ("kernel_h", 11, "uint32"), ("kernel_w", 12, "uint32"), ("stride_h", 13, "uint32", "1"),
        ("stride_w", 14, "uint32", "1"), ("dilation", 18, "uint32", MANY),
    ),
    "PoolingParameter": (
        ("pool", 1, "PoolMethod"), ("kernel_size", 2, "uint32", MANY), ("stride", 3, "uint32", MANY),
        ("pad", 4, "uint32", MANY), ("kernel_h", 5, "uint32"), ("kernel_w", 6, "uint32"),
        ("stride_h", 7, "uint32", "1"), ("stride_w", 8, "uint32", "1"), ("pad_h", 9, "uint32"),
        ("pad_w", 10, "uint32"), ("global_pooling", 12, "bool"), ("round_mode", 13, "RoundMode"),
    ),
    "LRNParameter": (
        ("local_size", 1, "uint32", "5"), ("alpha", 2, "float", "1"), ("beta", 3, "float", "0.75"),
        ("norm_region", 4, "NormRegion"), ("k", 5, "float", "1"),
    ),
    "InnerProductParameter": (
        ("num_output", 1, "uint32"), ("axis", 5, "int32", "1"), ("transpose", 6, "bool"),
    ),
    "ReLUParameter": (("negative_slope", 1, "float"),),
    "DropoutParameter": (("dropout_ratio", 1, "float", "0.5"),),
    "BatchNormParameter": (("eps", 3, "float", "1e-5"),),
    "ScaleParameter": (("axis", 1, "int32", "1"), ("num_axes", 2, "int32", "1"), ("bias_term", 4, "bool")),
    "InputParameter": (("shape", 1, "BlobShape", MANY),),
    "LayerParameter": (
        ("name", 1, "string"), ("type", 2, "string"), ("bottom", 3, "string", MANY), ("top", 4, "string", MANY),
        ("blobs", 7, "BlobProto", MANY), ("input_param", 143, "InputParameter"),
        *((name, number, f"{kind}Parameter") for kind, (name, number) in PARAMETERS.items()),
    ),
    "V0LayerParameter": (),
    "V1LayerParameter": (
        ("layer", 1, "V0LayerParameter"), ("name", 4, "string"), ("type", 5, "V1Type"),
        ("convolution_param", 10, "ConvolutionParameter"), ("pooling_param", 19, "PoolingParameter"),
        ("lrn_param", 18, "LRNParameter"), ("inner_product_param", 17, "InnerProductParameter"),
        ("relu_param", 30, "ReLUParameter"),
    ),
    "NetParameter": (
        ("name", 1, "string"), ("layers", 2, "V1LayerParameter", MANY), ("layer", 100, "LayerParameter", MANY),
    ),
}  # fmt: skip
# The old layers' kinds: the number and what it is called now.
V1_TYPES = {
    "NONE": (0, ""), "ACCURACY": (1, "Accuracy"), "CONCAT": (3, "Concat"), "CONVOLUTION": (4, "Convolution"),
    "DATA": (5, "Data"), "DROPOUT": (6, "Dropout"), "FLATTEN": (8, "Flatten"), "HDF5_DATA": (9, "HDF5Data"),
    "IMAGE_DATA": (12, "ImageData"), "INNER_PRODUCT": (14, "InnerProduct"), "LRN": (15, "LRN"),
    "POOLING": (17, "Pooling"), "RELU": (18, "ReLU"), "SOFTMAX": (20, "Softmax"),
    "SOFTMAX_LOSS": (21, "SoftmaxWithLoss"), "SPLIT": (22, "Split"), "WINDOW_DATA": (24, "WindowData"),
    "MEMORY_DATA": (29, "MemoryData"), "DUMMY_DATA": (32, "DummyData"), "SLICE": (33, "Slice"),
    "SILENCE": (36, "Silence"),
}  # fmt: skip
ENUMS: dict[str, tuple[tuple[str, int], ...]] = {
    "PoolMethod": (("MAX", 0), ("AVE", 1), ("STOCHASTIC", 2)),
    "RoundMode": (("CEIL", 0), ("FLOOR", 1)),
    "NormRegion": (("ACROSS_CHANNELS", 0), ("WITHIN_CHANNEL", 1)),
    "V1Type": tuple((name, number) for name, (number, _) in V1_TYPES.items()),
}
NOW = dict(V1_TYPES.values())
# Kinds of layers that change no logit at test.
SILENT = {"Data", "ImageData", "HDF5Data", "WindowData", "MemoryData", "DummyData", "Input", "Split", "Silence",
          "Dropout", "Flatten", "Softmax", "SoftmaxWithLoss", "Accuracy"}  # fmt: skip
WEIGHTED = ("Convolution", "InnerProduct")
# The others are ours by what they are and the convolution or fully connected layer that they come after.
FOLLOWERS = {"ReLU": "relu", "LRN": "norm", "Pooling": "pool", "BatchNorm": "bn", "Scale": "scale"}


class _Layer(NamedTuple):
    said: Any  # a LayerParameter without blobs
    blobs: Sequence[memoryview] = ()


def read_caffemodel(path: Path) -> Foreign:
    """The weights of a .caffemodel, layers of the present (`layer`) or the older kind (`layers`), as it has them: BGR.

    `likely` is the variant that computes what the file says that its layers do; where none does, a note says how the
    nearest differs. WeightsError: no such file, or damaged; a layer whose values are not as many as its shape needs;
    two layers of one name; more than 1 GB, 200 layers, or what else no AlexNet has.
    """
    where = shown(str(path))
    layers = _net(path)
    tensors: dict[str, torch.Tensor] = {}
    sources: dict[str, str] = {}
    for ours, layer in _placed(layers):
        called = shown(layer.said.name[:MOST_SHOWN])
        try:
            found = _tensors(ours, layer)
        except ValueError as reason:
            raise WeightsError(f"{where}: {called}: {reason}") from None
        for name, (tensor, what) in found.items():
            if name in tensors:
                raise WeightsError(f"{where}: {called}: a second layer of {shown(name[:MOST_SHOWN])}")
            if not np.isfinite(tensor.numpy()).all():  # torch's wants as much memory again as the tensor has
                raise WeightsError(f"{where}: {called}: holds values that are not finite")
            tensors[name], sources[name] = tensor, f"{called}, {what}"
    order = {name: place for place, name in enumerate(shapes(BN, 1))}  # which has every layer that Caffe's have
    names = sorted(tensors, key=lambda name: order.get(name, len(order)))
    likely, notes = _likely(layers)
    return Foreign(
        tensors={name: tensors[name] for name in names},
        sources={name: sources[name] for name in names},
        likely=likely.name if likely else None,
        preprocess={"colour": "BGR"},
        notes=notes,
    )


def read_mean(path: Path) -> NDArray[np.float32]:
    """The mean image of a .binaryproto: float32 (S, S, 3), 0..255, BGR. WeightsError: the file holds no such image."""
    where = shown(str(path))
    try:
        mean = _squeezed(_blob(memoryview(_content(path, MOST_BYTES))), 3).numpy()
    except ValueError as reason:
        raise WeightsError(f"{where}: cannot be read as a mean image ({reason})") from None
    if mean.ndim != 3 or mean.shape[0] != 3 or mean.shape[1] != mean.shape[2]:
        raise WeightsError(f"{where}: a mean image of {mean.shape}, expected (3, S, S)")
    if not np.isfinite(mean).all():
        raise WeightsError(f"{where}: holds values that are not finite")
    return np.ascontiguousarray(mean.transpose(1, 2, 0))


def check_prototxt(path: Path, variant: Variant) -> None:
    """Whether a net in words computes what `variant` does, whatever it calls its layers and however it is trained.

    WeightsError: it differs (each difference is named), or it is no such net. UsageError: Caffe cannot compute this
    variant.
    """
    from google.protobuf import text_format

    where = shown(str(path))
    net = _messages()["NetParameter"]()
    try:
        text_format.Parse(_content(path, MOST_TEXT_BYTES).decode(), net, allow_unknown_field=True)
        layers = [_Layer(said) for said in (*map(_renewed, net.layers), *net.layer)]
        wrong = _differences(layers, variant)
    except (text_format.ParseError, ValueError, RecursionError) as reason:
        raise WeightsError(f"{where}: cannot be read as a prototxt ({_line(reason)})") from None
    if wrong:
        raise WeightsError(f"{where}: not the net {variant.name}: {_list(wrong)}")


def write_caffe(
    model: AlexNet, path: Path, *, colour: Colour, softmax: bool = False, said: Mapping[str, str] | None = None
) -> Path:
    """Writes the network as a .caffemodel, and beside it the net in words, whose path is returned.

    The net takes `data` (1, 3, side, side), ends in the logits or, with `softmax`, in `prob`, and each activation has
    its layer's name. `colour`: the order of the model's channels; the file's is BGR, as everywhere in Caffe. `said`:
    texts by name, of one line each, that stand as comments before the net in words. UsageError: a layer that Caffe has
    not, by name, or a `path` that is no .caffemodel.
    """
    if path.suffix != ".caffemodel":
        raise UsageError(f"{path}: expected a name that ends in .caffemodel")
    state, net = model.state_dict(), _deployed(model.variant, model.classes, softmax=softmax)
    comments = "".join(f"# {name}: {text}\n" for name, text in (said or {}).items())
    words = comments + prototxt(model.variant, model.classes, softmax=softmax)
    if colour == "RGB":
        state = other_colour(state)
    for ours, layer in _placed(_Layer(said) for said in net.layer):
        for values in _values(ours, layer.said.type, state):
            array = values.detach().float().cpu().numpy()
            blob = layer.said.blobs.add(data=array.tobytes())
            blob.shape.dim.extend(array.shape)
    files.write(path, net.SerializeToString())
    deploy = path.with_suffix(".prototxt")
    files.write(deploy, words)
    return deploy


def write_mean(mean: NDArray[np.float32], path: Path) -> None:
    """Writes a mean image, float32 (S, S, 3) BGR in 0..255, as a .binaryproto."""
    side = len(mean)
    blob = _messages()["BlobProto"](num=1, channels=3, height=side, width=side)
    blob.data = np.ascontiguousarray(mean.transpose(2, 0, 1), "<f4").tobytes()
    files.write(path, blob.SerializeToString())


def prototxt(variant: Variant, classes: int, *, softmax: bool = False) -> str:
    """The net in words, from `data` to the logits or `prob`. UsageError: a layer that Caffe has not, by name."""
    from google.protobuf import text_format

    return text_format.MessageToString(_deployed(variant, classes, softmax=softmax))


def _deployed(variant: Variant, classes: int, *, softmax: bool = False) -> Any:
    net = _messages()["NetParameter"](name=variant.name)
    data = net.layer.add(name="data", type="Input", top=["data"])
    data.input_param.shape.add(dim=[1, 3, variant.side, variant.side])
    net.layer.extend(layer.said for layer in _layers(variant, classes))
    for layer in net.layer:
        if layer.type == "Pooling":
            # that it rounds up goes without saying, and OpenCV does not know the word
            layer.pooling_param.ClearField("round_mode")
    if softmax:
        net.layer.add(name="prob", type="Softmax", bottom=[net.layer[-1].name], top=["prob"])
    return net


@cache
def _messages() -> dict[str, Any]:
    """The class of each message of MESSAGES."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    one, many = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL, descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for value, number in values:
            enum.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for called, number, kind, *rest in fields:
            field = message.field.add(name=called, number=number, label=many if rest == [MANY] else one)
            if kind in MESSAGES or kind in ENUMS:
                field.type_name = f".caffe.{kind}"
            else:
                field.type = field.Type.Value(f"TYPE_{kind.upper()}")
            if rest and rest != [MANY]:
                (field.default_value,) = rest
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in MESSAGES}


def _content(path: Path, most: int) -> bytes:
    where = shown(str(path))
    try:
        if not path.is_file():
            raise WeightsError(f"{where}: no such file")
        size = path.stat().st_size
        if size > most:
            raise WeightsError(f"{where}: {size} bytes; {most} are the most")
        with path.open("rb") as stream:
            return stream.read(size)
    except OSError as reason:
        raise WeightsError(f"{where}: cannot be read ({reason.strerror or 'an input or output error'})") from None


def _net(path: Path) -> list[_Layer]:
    """The layers of a .caffemodel, in its order; their values are parts of what was read, not looked at yet."""
    from google.protobuf.message import DecodeError

    where = shown(str(path))
    layers: list[_Layer] = []
    content = memoryview(_content(path, MOST_BYTES))
    try:
        for number, value, _ in fields_of(content, most=MOST_FIELDS):
            if number not in (2, 100):  # `layers` and `layer`
                continue
            if isinstance(value, int) or len(layers) == MOST_LAYERS:
                raise ValueError(f"a layer that is a number, or more than {MOST_LAYERS} layers")
            layers.append(_layer(value, old=number == 2))
    except (ValueError, DecodeError) as reason:
        raise WeightsError(f"{where}: cannot be read as a caffemodel ({_line(reason)})") from None
    if not layers:
        raise WeightsError(f"{where}: no caffemodel: it has no layers")
    return layers


def _layer(data: memoryview, *, old: bool) -> _Layer:
    blobs: list[memoryview] = []
    rest: list[memoryview] = []
    for number, value, whole in fields_of(data, most=MOST_FIELDS):
        if number != (6 if old else 7):
            rest.append(whole)
        elif isinstance(value, int) or len(blobs) == MOST_BLOBS:
            raise ValueError(f"a blob that is a number, or more than {MOST_BLOBS} in a layer")
        else:
            blobs.append(value)
    if sum(map(len, rest)) > MOST_LAYER_BYTES:
        raise ValueError(f"a layer of more than {MOST_LAYER_BYTES} bytes without its values")
    said = _messages()["V1LayerParameter" if old else "LayerParameter"].FromString(b"".join(rest))
    if not isinstance(said.name, str) or not isinstance(said.type, str | int):
        raise ValueError("a layer whose name or type is no text")
    return _Layer(_renewed(said) if old else said, blobs)


def _renewed(old: Any) -> Any:
    """A V1LayerParameter as a LayerParameter."""
    if old.HasField("layer"):
        raise ValueError("of Caffe's first kind (V0), which its own upgrade_net_proto_binary or _text makes new")
    said = _messages()["LayerParameter"](name=old.name, type=NOW[old.type])
    for name, _ in PARAMETERS.values():
        if name in old.DESCRIPTOR.fields_by_name and old.HasField(name):
            getattr(said, name).CopyFrom(getattr(old, name))
    return said


def _blob(data: memoryview) -> torch.Tensor:
    """A BlobProto's values in its shape, float32."""
    said: dict[int, list[int | memoryview]] = defaultdict(list)
    for number, value, _ in fields_of(data, most=MOST_FIELDS):
        said[number].append(value)
    # num, channels, height and width, in the files of the years before `shape`
    old = {n: value for n in (1, 2, 3, 4) for value in said[n] if isinstance(value, int)}
    shape = tuple(old.get(n, 0) for n in (1, 2, 3, 4)) if old else tuple(_sizes(said[7]))
    doubles, floats = (_lists(said[n]) for n in (8, 5))
    if said[12] and not any(map(len, doubles + floats)):
        raise ValueError("half precision by OpenCV's shrinkCaffeModel; only the file that it was made of is read")
    parts, kind = (doubles, torch.float64) if any(map(len, doubles)) else (floats, torch.float32)
    # a run is a copy already
    raw = parts[0] if len(parts) == 1 and not parts[0].readonly else bytearray().join(parts)
    if not 0 < len(shape) <= MOST_AXES or len(raw) != prod(shape) * kind.itemsize or not raw:
        raise ValueError(f"{len(raw)} bytes of values, not those of a shape of {shape[:MOST_AXES]} in {kind}")
    return torch.frombuffer(raw, dtype=kind).float().reshape(shape)


def _lists(values: Iterable[int | memoryview]) -> list[memoryview]:
    """The lists among what a field's number stands for; what is of another type there is no such field."""
    return [value for value in values if not isinstance(value, int)]


def _sizes(shapes: Iterable[int | memoryview]) -> Iterator[int]:
    """The numbers of BlobShapes, packed or not."""
    for shape in _lists(shapes):
        for number, value, _ in fields_of(shape, most=MOST_FIELDS):
            at = 0
            if number != 1:
                continue
            if isinstance(value, int):
                yield value
            elif len(value) > 10 * MOST_AXES:
                raise ValueError(f"a shape of more than {MOST_AXES} numbers")
            else:
                while at < len(value):
                    size, at = varint(value, at)
                    yield size


def _squeezed(tensor: torch.Tensor, axes: int) -> torch.Tensor:
    """Without the ones in front by which older files make all shapes four numbers."""
    while tensor.ndim > axes and tensor.shape[0] == 1:
        tensor = tensor[0]
    return tensor


def _placed(layers: Iterable[_Layer]) -> Iterator[tuple[str, _Layer]]:
    """The layers that change the logits, with our names: by what they are and where they stand, not by their own."""
    stage = "0"
    for layer in layers:
        kind, name = layer.said.type, layer.said.name
        if kind in FOLLOWERS:
            yield f"{FOLLOWERS[kind]}{stage}", layer
        elif kind not in SILENT:
            # one that is trained on other classes has another name, so that Caffe does not load the old values
            ours = "fc8" if name.startswith("fc8") else name
            stage = ours[-1:] if kind in WEIGHTED else stage
            yield ours, layer


def _tensors(ours: str, layer: _Layer) -> dict[str, tuple[torch.Tensor, str]]:
    """A layer's tensors by our names, with what they are there. ValueError: damaged, or not what its kind has."""
    kind = layer.said.type
    blobs: list[torch.Tensor] = []
    for place, data in enumerate(layer.blobs):
        try:
            blobs.append(_blob(data))
        except ValueError as reason:
            raise ValueError(f"blob {place}: {reason}") from None
    if not blobs:
        return {}
    if kind == "BatchNorm":
        if len(blobs) != 3 or blobs[2].numel() != 1:
            raise ValueError(f"blobs of {[tuple(b.shape) for b in blobs]}, expected mean, variance and one factor")
        factor = blobs[2].flatten()[0]
        by = torch.where(factor == 0, 0.0, 1 / factor)  # as Caffe does: nothing was averaged yet
        found = {
            f"{ours}.{name}": (_squeezed(blobs[place], 1) * by, f"blob {place} / {float(factor):g}")
            for place, name in enumerate(("running_mean", "running_var"))
        }
        return found | {f"{ours}.num_batches_tracked": (torch.tensor(0), "which does not count: 0")}
    if layer.said.inner_product_param.transpose:
        raise ValueError("its weights are stored transposed (inner_product_param), which is not read")
    if len(blobs) > 2:
        raise ValueError(f"{len(blobs)} blobs, expected a weight and a bias")
    if kind == "Scale":
        ours = ours.replace("scale", "bn")
    axes = {"Convolution": 4, "InnerProduct": 2, "Scale": 1}.get(kind, 4 if ours.startswith("conv") else 2)
    weight = _squeezed(blobs[0], axes)
    # numpy's zeros take no memory, however many a file asks for
    bias = _squeezed(blobs[1], 1) if len(blobs) > 1 else torch.from_numpy(np.zeros(len(weight), np.float32))
    return {
        f"{ours}.weight": (weight, _what(0, blobs[0], weight)),
        f"{ours}.bias": (bias, _what(1, blobs[1], bias) if len(blobs) > 1 else "which has none: zeros"),
    }


def _what(place: int, there: torch.Tensor, here: torch.Tensor) -> str:
    same = there.shape == here.shape
    return f"blob {place}" if same else f"blob {place}: {tuple(there.shape)} to {tuple(here.shape)}"


def _values(ours: str, kind: str, state: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The blobs of a layer."""
    if kind == "BatchNorm":
        return [state[f"{ours}.running_mean"], state[f"{ours}.running_var"], torch.ones(1)]
    if kind in (*WEIGHTED, "Scale"):
        if kind == "Scale":
            ours = ours.replace("scale", "bn")
        return [state[f"{ours}.weight"], state[f"{ours}.bias"]]
    return []


def _likely(layers: Sequence[_Layer]) -> tuple[Variant | None, tuple[str, ...]]:
    """The variant that computes what the layers say, and what is to be told where none does."""
    if not any(layer.said.type in FOLLOWERS for layer in layers):
        return None, ("the file does not say what its layers do; caffe and caffenet differ in nothing else",)
    wrong: list[tuple[Variant, list[str]]] = []
    for variant in VARIANTS.values():
        with suppress(UsageError):  # Caffe has no such net
            wrong.append((variant, _differences(layers, variant)))
    nearest, differences = min(wrong, key=lambda one: len(one[1]))
    if not differences:
        return nearest, ()
    return None, (f"its layers are those of no variant; the nearest is {nearest.name}: {_list(differences)}",)


def _differences(layers: Sequence[_Layer], variant: Variant) -> list[str]:
    """What the layers do otherwise than `variant`. UsageError: Caffe cannot compute it."""
    placed = [(ours, layer.said) for ours, layer in _placed(layers)]
    found = dict(placed)
    classes = found["fc8"].inner_product_param.num_output if "fc8" in found else 1
    expected = {ours: layer.said for ours, layer in _placed(_layers(variant, classes))}
    counts = Counter(name for name, _ in placed)
    wrong = [
        *(f"{shown(name[:MOST_SHOWN])} is there {count} times" for name, count in counts.items() if count > 1),
        *(f"{name} is missing" for name in expected if name not in found),
        *(f"{shown(name[:MOST_SHOWN])} is not of it" for name in found if name not in expected),
    ]
    both = [name for name in expected if name in found]
    for name in both:
        here, there = expected[name], found[name]
        if here.type != there.type:
            wrong.append(f"{name}: its type is {shown(there.type[:MOST_SHOWN])}, expected {here.type}")
            continue
        theirs, ours = _settings(there), _settings(here)
        if not here.pooling_param.HasField("round_mode"):
            ours.pop("round_mode", None)
        wrong += [
            f"{name}: {what} is {theirs[what]}, expected {one}" for what, one in ours.items() if theirs[what] != one
        ]
    order = zip(both, [name for name in found if name in expected], strict=True)
    return wrong + [f"{there} stands where {here} is expected" for here, there in order if here != there][:1]


def _settings(said: Any) -> dict[str, Any]:
    """What a layer does: sizes as (y, x), fractions with the six digits that float32 keeps."""
    found: dict[str, Any] = {}
    if said.type in PARAMETERS:
        settings = getattr(said, PARAMETERS[said.type][0])
        for field in settings.DESCRIPTOR.fields:
            value = getattr(settings, field.name)
            if field.enum_type:
                value = field.enum_type.values_by_number[value].name
            found[field.name] = f"{value:.6g}" if isinstance(value, float) else value
        for size in found.keys() & SIZES:
            axes = [found.pop(f"{size.removesuffix('_size')}_{axis}", 1) for axis in "hw"]
            sizes = list(found[size]) or axes
            found[size] = (sizes[0], sizes[-1])
    return found


def _layers(variant: Variant, classes: int) -> list[_Layer]:
    """The variant's rows as Caffe's layers, from `data` to the logits. UsageError: Caffe has no layer for a row."""
    made: list[_Layer] = []
    x, shape = "data", (3, variant.side, variant.side)
    for row in variant.layers:
        for said in _said(row, shape, classes, variant.name):
            said.bottom.append(x)
            said.top.append(said.name)
            made.append(_Layer(said))
            x = said.name
        shape = out_shape(row, shape, classes)
    return made


def _overhangs(row: MaxPool, shape: Shape, classes: int) -> bool:
    """Whether the rounding of the number of windows matters."""
    return out_shape(row, shape, classes) != out_shape(replace(row, ceil=not row.ceil), shape, classes)


def _said(row: Row, shape: Shape, classes: int, variant: str) -> list[Any]:
    def layer(kind: str, name: str = row.name, **settings: Any) -> Any:
        said = {PARAMETERS[kind][0]: settings} if settings else {}
        return _messages()["LayerParameter"](name=name, type=kind, **said)

    match row:
        case Conv() if row.pad.before == row.pad.after:
            sizes = {"kernel_size": [row.kernel], "stride": [row.stride], "pad": [row.pad.before]}
            return [layer("Convolution", num_output=row.out, group=row.groups, **sizes)]
        case ReLU():
            return [layer("ReLU")]
        case LRN(towers=1):
            # Caffe divides alpha by the size
            alpha = row.alpha if row.divide else row.alpha * row.size
            return [layer("LRN", local_size=row.size, alpha=alpha, beta=row.beta, k=row.k)]
        case MaxPool() if row.ceil or not _overhangs(row, shape, classes):
            rounding = {"round_mode": "CEIL"} if _overhangs(row, shape, classes) else {}
            return [layer("Pooling", pool="MAX", kernel_size=[row.kernel], stride=[row.stride], **rounding)]
        case AdaptivePool() if shape[1:] == (row.side, row.side):
            return []
        case BatchNorm(scale=False):
            return [layer("BatchNorm", eps=row.eps)]
        case BatchNorm():
            return [layer("BatchNorm", f"{row.name}/average", eps=row.eps), layer("Scale", bias_term=True)]
        case Linear():
            return [layer("InnerProduct", num_output=classes if row.out is None else row.out)]
        case Dropout():
            return [layer("Dropout", dropout_ratio=row.p)]
    raise UsageError(f"{variant}: {row.name}: Caffe has no such layer ({row.kind}: {words(row)})")


def _line(reason: BaseException) -> str:
    return shown(" ".join(str(reason).split())[:200])


def _list(wrong: Sequence[str]) -> str:
    more = f"; and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
    return "; ".join(wrong[:MOST_NAMED]) + more
