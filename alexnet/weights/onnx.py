"""A network as an ONNX graph, straight from its variant's rows; and a graph of anyone's as one of the variants.

A graph of others is read by `onnx_graph.py`; its own numbers must be those of a variant's rows.
"""

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.augment import Normalise
from ..data.preprocess import MEAN_FILE, Preprocess
from ..data.samples import shown
from ..errors import Misfit, UsageError, WeightsError, listed
from ..network.build import AlexNet
from ..network.cost import Shape, out_shape, shapes, windows
from ..network.variants import (
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
    WithinMapLRN,
)
from .foreign import Foreign
from .metadata import fields, read_texts
from .onnx_graph import MOST_BYTES, Constant, Graph, Step, weigh

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

IMAGES, LOGITS = "images", "logits"  # the graph's input and output
PIXELS, PROBABILITIES = "pixels", "probabilities"  # where the graph prepares its pictures, and ends with the softmax
OPSET, IR = 17, 8  # of 2022: every runtime in use reads them
MOST_NAMED = 4


def missing(library: str) -> UsageError:
    """What to say where a library that reads such files is not there."""
    return UsageError(f"{library} is not installed (pip install 'alexnet[backends]')")


def graph(model: AlexNet) -> "ModelProto":
    """The network at test: `images` float32 (B, 3, side, side), any B -> `logits` float32 (B, classes).

    Each activation has its layer's name, as each parameter has. UsageError where onnx is not installed.
    """
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise missing("onnx") from None
    side = model.variant.side
    nodes: list[NodeProto] = []
    constants: dict[str, NDArray[np.float32]] = {
        name: value.detach().float().cpu().numpy()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    x, shape = IMAGES, (3, side, side)
    first = next(row for row in model.variant.layers if isinstance(row, Linear))
    for row in model.variant.layers:
        if row is first:
            nodes.append(helper.make_node("Flatten", [x], ["flat"], "flat", axis=1))
            x = "flat"
        made = _nodes(row, x, shape, constants)
        nodes += made
        x = made[-1].output[0] if made else x
        shape = out_shape(row, shape, model.classes)
    nodes[-1].output[0] = LOGITS
    body = helper.make_graph(
        nodes,
        f"alexnet {model.variant.name}",
        [helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, ["B", 3, side, side])],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["B", model.classes])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


def _nodes(row: Row, x: str, shape: Shape, constants: dict[str, NDArray[np.float32]]) -> "list[NodeProto]":
    """What computes a row from the activation `x` of `shape`, the row's own last; `constants` gets what it needs."""
    from onnx.helper import make_node

    def node(kind: str, inputs: Sequence[str], part: str = "", **attributes: Any) -> "NodeProto":
        name = f"{row.name}.{part}" if part else row.name
        return make_node(kind, inputs, [name], name, **attributes)

    def named(part: str, value: float | Sequence[float]) -> str:
        constants[f"{row.name}.{part}"] = np.asarray(value, np.float32)
        return f"{row.name}.{part}"

    match row:
        case Conv():
            weights = [f"{row.name}.weight", f"{row.name}.bias"]
            pads = [row.pad.before] * 2 + [row.pad.after] * 2
            sides, strides = [row.kernel] * 2, [row.stride] * 2
            return [node("Conv", [x, *weights], kernel_shape=sides, strides=strides, pads=pads, group=row.groups)]
        case ReLU():
            return [node("Relu", [x])]
        case LRN():
            # ONNX divides alpha by the size
            alpha = row.alpha if row.divide else row.alpha * row.size
            rule: dict[str, Any] = {"size": row.size, "alpha": alpha, "beta": row.beta, "bias": row.k}
            if row.towers == 1:
                return [node("LRN", [x], **rule)]
            parts = [f"{row.name}.in{t}" for t in range(row.towers)]
            split = make_node("Split", [x], parts, f"{row.name}.split", axis=1)
            normed = [node("LRN", [part], f"out{t}", **rule) for t, part in enumerate(parts)]
            return [split, *normed, node("Concat", [n.output[0] for n in normed], axis=1)]
        case WithinMapLRN():
            half = row.size // 2
            square = node("Mul", [x, x], "square")
            # zeros outside are counted: the mean is the sum over size²
            mean = node("AveragePool", square.output, "mean", kernel_shape=[row.size] * 2, pads=[half] * 4,
                        count_include_pad=1)  # fmt: skip
            scaled = node("Mul", [mean.output[0], named("alpha", row.alpha)], "scaled")
            v = node("Add", [scaled.output[0], named("k", row.k)], "v")
            power = node("Pow", [v.output[0], named("beta", row.beta)], "power")
            return [square, mean, scaled, v, power, node("Div", [x, power.output[0]])]
        case MaxPool():
            sides, strides = [row.kernel] * 2, [row.stride] * 2
            return [node("MaxPool", [x], kernel_shape=sides, strides=strides, ceil_mode=int(row.ceil))]
        case AdaptivePool():
            kernel, rest = divmod(shape[1], row.side)
            if rest:
                raise ValueError(f"{row.name}: {shape[1]} pixels do not part into {row.side}")
            return [] if kernel == 1 else [node("AveragePool", [x], kernel_shape=[kernel] * 2, strides=[kernel] * 2)]
        case BatchNorm():
            affine = [f"{row.name}.weight", f"{row.name}.bias"]
            if not row.scale:
                affine = [named("weight", [1.0] * shape[0]), named("bias", [0.0] * shape[0])]
            averages = [f"{row.name}.running_mean", f"{row.name}.running_var"]
            return [node("BatchNormalization", [x, *affine, *averages], epsilon=row.eps)]
        case Linear():
            return [node("Gemm", [x, f"{row.name}.weight", f"{row.name}.bias"], transB=1)]
        case Dropout():
            return []


def wrapped(
    made: "ModelProto", preprocess: Preprocess, mean: NDArray[np.float32] | None, *, pixels: bool, softmax: bool
) -> None:
    """Adds to a graph of `graph`'s what prepares its pictures, and the softmax behind it.

    With `pixels` its input is `pixels` uint8 (B, side, side, 3) RGB; with `softmax` its output is `probabilities`.
    """
    from onnx import TensorProto, helper, numpy_helper

    body = made.graph
    if pixels:
        nodes, constants = _preparation(preprocess, mean)
        kept = [*nodes, *body.node]
        del body.node[:]
        body.node.extend(kept)
        body.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
        side = preprocess.side
        body.input[0].CopyFrom(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["B", side, side, 3]))
    if softmax:
        body.node.append(helper.make_node("Softmax", [LOGITS], [PROBABILITIES], PROBABILITIES, axis=1))
        body.output[0].name = PROBABILITIES


def _preparation(
    preprocess: Preprocess, mean: NDArray[np.float32] | None
) -> "tuple[list[NodeProto], dict[str, NDArray[Any]]]":
    """From `pixels` to `images`, as `Normalise` has it for the crop at the centre."""
    from onnx import TensorProto
    from onnx.helper import make_node

    normalise = Normalise(preprocess, mean, torch.device("cpu"))
    subtracted, gain = normalise.of_centre()
    constants: dict[str, NDArray[Any]] = {"pixels.mean": subtracted.numpy(), "pixels.gain": gain.numpy()}
    steps: list[tuple[str, list[str], dict[str, Any]]] = [("Cast", [], {"to": TensorProto.FLOAT})]
    if normalise.bgr:
        constants["pixels.order"] = np.array([2, 1, 0], np.int64)
        steps.append(("Gather", ["pixels.order"], {"axis": 3}))
    steps += [("Sub", ["pixels.mean"], {}), ("Mul", ["pixels.gain"], {}), ("Transpose", [], {"perm": [0, 3, 1, 2]})]
    names = [PIXELS, *(f"pixels.{kind.lower()}" for kind, _, _ in steps[:-1]), IMAGES]
    nodes = [
        make_node(kind, [x, *given], [y], y, **attributes)
        for (kind, given, attributes), x, y in zip(steps, names, names[1:], strict=False)
    ]
    return nodes, constants


def quantised(model: AlexNet, images: torch.Tensor) -> "ModelProto":
    """The network's graph with int8 weights, a scale each output, and uint8 activations of the ranges of `images`.

    Convolutions and fully connected layers are computed so; normalizations are not. UsageError where ONNX Runtime is
    not installed.
    """
    try:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ImportError:
        raise missing("onnxruntime") from None
    parts = iter(images.contiguous().split(8))

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:  # None at the end
            part = next(parts, None)
            return None if part is None else {IMAGES: part.numpy()}

    made = graph(model)
    # otherwise it would hint at a program that finds out shapes and joins batch normalizations
    made.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with TemporaryDirectory(prefix="alexnet-int8-") as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            made,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Relu", "MaxPool", "Flatten", "Gemm"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # without these instructions sums of two products overflow 16 bits
            reduce_range=not torch.cpu._is_vnni_supported(),
        )
        return onnx.load_model_from_string(path.read_bytes())


def read_onnx(path: Path) -> Foreign:
    """The AlexNet in an ONNX file: of the zoo, of torchvision's export, or ours; `likely` is the variant that it is.

    Its labels, preparation and mean image are read where ours have put them. WeightsError: damaged, of more than 1 GB,
    with values kept in other files; another network's graph; numbers, shapes or values that are no variant's.
    UsageError where onnx is not installed.
    """
    try:
        from google.protobuf.message import DecodeError
        from onnx import ModelProto
    except ImportError:
        raise missing("onnx") from None
    where = shown(str(path))
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise WeightsError(f"{where}: not read as ONNX: no regular file of at most {MOST_BYTES >> 20} MB")
        content = path.read_bytes()
        weigh(content)
        made = ModelProto.FromString(content)
    except OSError as reason:
        raise WeightsError(f"{where}: cannot be read ({reason.strerror or 'an input or output error'})") from None
    except (DecodeError, ValueError) as reason:
        raise WeightsError(f"{where}: cannot be read as ONNX ({' '.join(str(reason).split())})") from None
    del content
    said = {entry.key: entry.value for entry in made.metadata_props}
    preprocess, mean, classes = read_texts(said, path)
    try:
        graph = Graph(made.graph)
        begin, shape = graph.input, graph.shape
        if graph.pixels:
            begin, shape = _prepared(graph, preprocess, mean), (*shape[2:], *shape[:2])
        steps = graph.steps(begin)
        found, rows = _chosen(steps, shape)
        tensors, sources = _tensors(found, steps, rows)
        if classes is not None and len(classes) != rows:
            raise ValueError(f"fc8 has {rows} outputs, and classes.json {len(classes)} classes")
    except ValueError as reason:
        misfits = reason.misfits if isinstance(reason, _Unfit) else ()
        raise WeightsError(f"{where}: {shown(str(reason))}", misfits) from None
    notes = () if preprocess else (f"{where}: does not say how its pictures are prepared; taken as {found.name}'s",)
    return Foreign(
        tensors,
        sources,
        likely=found.name,
        preprocess=fields(preprocess),
        mean=mean,
        classes=classes,
        notes=notes,
    )


def _prepared(graph: Graph, preprocess: Preprocess | None, mean: NDArray[np.float32] | None) -> str:
    """What the network begins with, behind a preparation that must be the one of the metadata."""
    if preprocess is None or (preprocess.mean == MEAN_FILE and mean is None):
        raise ValueError("its pictures are uint8, and its metadata do not say how they are prepared")
    nodes, constants = _preparation(preprocess, mean)
    same = list(graph.graph.node[: len(nodes)]) == nodes and all(
        name in graph.constants and np.array_equal(graph.constants[name].values(), value)
        for name, value in constants.items()
    )
    if not same:
        raise ValueError("the graph prepares its pictures otherwise than its metadata say")
    return IMAGES


class _Unfit(ValueError):
    """A graph that is no variant's, and how it differs from the nearest."""

    def __init__(self, nearest: str, misfits: list[Misfit]) -> None:
        super().__init__(f"fits no variant; the nearest is {nearest}: {listed(misfits, MOST_NAMED)}")
        self.misfits = misfits


def _chosen(steps: list[Step], side: tuple[int, ...]) -> tuple[Variant, int]:
    """The variant whose rows have these numbers, and how many classes it tells apart."""
    kinds = [step.kind for step in steps]
    convolutions, linears = kinds.count("conv"), kinds.count("linear")
    if (convolutions, linears) != (5, 3):
        raise ValueError(
            f"no AlexNet: {convolutions} convolutions and {linears} fully connected layers, expected 5 and 3"
        )
    head = next(step for step in steps[::-1] if step.kind == "linear").tensors["bias"]
    classes = max(1, prod(head.shape))
    wrong = {one.name: _differences(one, steps, side, classes) for one in VARIANTS.values()}
    fitting = [name for name, (_, differences) in wrong.items() if not differences]
    if len(fitting) > 1:
        raise ValueError(f"a graph of {' and '.join(fitting)} alike: it does not say how large its pictures are")
    if fitting:
        return VARIANTS[fitting[0]], classes
    nearest = min(wrong, key=lambda name: (wrong[name][0], len(wrong[name][1])))
    raise _Unfit(nearest, wrong[nearest][1])


def _rows(variant: Variant, classes: int) -> Iterator[tuple[str, Row | None, Shape, Shape]]:
    """The rows that a graph has a step for, with what goes in and comes out; None: the maps become one vector."""
    shape: Shape = (3, variant.side, variant.side)
    flat = False
    for row in variant.layers:
        out = out_shape(row, shape, classes)
        if isinstance(row, Linear) and not flat:
            yield "flatten", None, shape, shape
            flat = True
        if not isinstance(row, Dropout | AdaptivePool):
            yield row.kind, row, shape, out
        shape = out


def _differences(variant: Variant, steps: list[Step], side: tuple[int, ...], classes: int) -> tuple[int, list[Misfit]]:
    """How far a graph is from a variant, beyond the numbers of its rows; and all that is otherwise."""
    far, found, square = 0, list[Misfit](), (3, variant.side, variant.side)
    if len(side) != 3 or any(a not in (0, b) for a, b in zip(side, square, strict=True)):
        far += 1
        found.append(Misfit("the size of its pictures", square, side))
    rows, states = list(_rows(variant, classes)), shapes(variant, classes)
    kinds, ours = [step.kind for step in steps], [kind for kind, *_ in rows]
    same = next((i for i, (a, b) in enumerate(zip(kinds, ours, strict=False)) if a != b), min(len(kinds), len(ours)))
    for step, (_, row, shape, out) in zip(steps[:same], rows[:same], strict=True):
        if row is None:
            continue
        there, here = _found(step, shape), _expected(row, out)
        for part, constant in step.tensors.items():
            there[part], here[part] = _as_ours(step, part, constant), states.get(f"{row.name}.{part}", shape[:1])
        found += [
            Misfit(f"{row.name}: {what}", _word(here[what]), _word(value))
            for what, value in there.items()
            if _word(value) != _word(here[what])
        ]
    if kinds != ours:
        before = next((row.name for _, row, *_ in rows[:same][::-1] if row is not None), "its pictures")
        then, expected = (" ".join(names[same : same + 3]) or "nothing" for names in (kinds, ours))
        found.insert(0, Misfit(f"what comes after {before}", expected, then))
    return far + max(len(kinds), len(ours)) - same, found


def _as_ours(step: Step, part: str, constant: Constant) -> tuple[int, ...]:
    """A constant's shape, as it is when it is read: biases without axes of 1, weights of a matrix (out, in)."""
    if part == "weight" and step.rows_first:
        return constant.shape[::-1]
    if part == "bias" and step.kind == "linear" and prod(constant.shape[:-1]) == 1:
        return constant.shape[-1:]
    return constant.shape


def _found(step: Step, shape: Shape) -> dict[str, Any]:
    """A step's numbers as they are compared; of pads, those before a map, and how many pixels all make of its width."""
    numbers = dict(step.numbers)
    if "pads" not in numbers:
        return numbers
    top, left, bottom, right = numbers.pop("pads")
    ceil = numbers.pop("ceil", False)
    kernel, stride = numbers["kernel"], numbers["stride"]
    made = [
        windows(n + a + b, k, s, ceil=ceil) if s > 0 else 0
        for n, a, b, k, s in zip(shape[1:], (top, left), (bottom, right), kernel, stride, strict=False)
    ]
    return numbers | {"pads before": [top, left], "pixels": made}


def _expected(row: Row, out: Shape) -> dict[str, Any]:
    """A row's numbers, in the words of `_found`."""
    square = {"dilation": [1, 1], "pixels": [*out[1:]]}
    match row:
        case Conv():
            sides, before = [row.kernel] * 2, [row.pad.before] * 2
            return square | {"kernel": sides, "stride": [row.stride] * 2, "pads before": before, "groups": row.groups}
        case MaxPool():
            return square | {"kernel": [row.kernel] * 2, "stride": [row.stride] * 2, "pads before": [0, 0]}
        case LRN():
            alpha = row.alpha if row.divide else row.alpha * row.size
            return {"size": row.size, "k": row.k, "alpha": alpha, "beta": row.beta, "towers": row.towers}
        case WithinMapLRN():
            return {"size": row.size, "k": row.k, "alpha": row.alpha, "beta": row.beta}
        case BatchNorm():
            return {"eps": row.eps}
        case Linear():
            return {"alpha": 1.0, "beta": 1.0, "transA": 0}
        case _:
            return {}


def _word(value: Any) -> str:
    """A number to five digits: a file has them in single precision."""
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value) if isinstance(value, int) else "×".join(map(str, value))


def _tensors(variant: Variant, steps: list[Step], classes: int) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The values by our names, and what they are called there. ValueError where they are not finite."""
    there, sources = dict[str, torch.Tensor](), dict[str, str]()
    rows = [row for _, row, *_ in _rows(variant, classes)]
    for row, step in zip(rows, steps, strict=True):
        for part, constant in step.tensors.items():
            assert row is not None
            name, turned = f"{row.name}.{part}", step.rows_first and part == "weight"
            with np.errstate(over="ignore"):  # of doubles: then they are not finite
                value = np.asarray(constant.values(), np.float32)
            value = value.T if turned else value.reshape(_as_ours(step, part, constant))
            if not np.isfinite(value).all():
                raise ValueError(f"{name} ({constant.name[:40]}) holds values that are not finite")
            if isinstance(row, BatchNorm) and not row.scale and part in ("weight", "bias"):
                if not (value == (part == "weight")).all():
                    raise ValueError(f"{row.name} has a {part} of its own, which {variant.name} has not")
                continue
            there[name] = torch.from_numpy(np.array(value, order="C"))  # a file's own bytes may not be written to
            sources[name] = f"{constant.name}: rows and columns exchanged" if turned else constant.name
    names = shapes(variant, classes)
    # how many batches a running average is of: of no account at test, so no graph has it
    tensors = {name: there[name] if name in there else torch.tensor(0) for name in names}
    return tensors, {name: sources.get(name, "not there: 0") for name in names}
