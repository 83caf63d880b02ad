"""A network as an ONNX graph, straight from its variant's rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..network.build import AlexNet
from ..network.cost import Shape, out_shape
from ..network.variants import (
    LRN,
    AdaptivePool,
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    MaxPool,
    ReLU,
    Row,
    WithinMapLRN,
)

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

IMAGES, LOGITS = "images", "logits"  # the graph's input and output
OPSET, IR = 17, 8  # of 2022: every runtime in use reads them


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
