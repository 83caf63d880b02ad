"""What an ONNX graph does to its pictures, step by step: read backwards, from the output, by what its nodes do.

What nodes and tensors are called is of no account. Nothing is run, and no other file is opened.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..data.samples import shown
from .protobuf import fields_of

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

MOST_BYTES = 1 << 30  # of a file, and of a tensor
MOST_WORDS = 1 << 22  # bytes of a file that are no values of tensors: nodes, names, metadata
MOST_FIELDS = 100_000  # of a file: a graph of ours has a thousand
MOST_NODES = 200  # on the way from the output to the input
MOST_ALIASES = 4
# how many inputs a node has at least
INPUTS = {"Mul": 2, "Add": 2, "Pow": 2, "Div": 2, "MatMul": 2, "AveragePool": 1, "Split": 1, "LRN": 1, "Concat": 1,
          "Identity": 1, "ConstantOfShape": 1}  # fmt: skip


@dataclass
class Constant:
    """A tensor of a file before its values are read; `filled`: every value is the one of `proto`."""

    name: str
    shape: tuple[int, ...]
    proto: "TensorProto"
    filled: bool = False

    def values(self) -> NDArray[Any]:
        """As they are there."""
        from onnx import numpy_helper

        there = numpy_helper.to_array(self.proto)
        return np.full(self.shape, there.reshape(-1)[0]) if self.filled else there


@dataclass
class Step:
    """What some nodes of a graph do: the kind of a row, its numbers, its tensors by our names for them.

    `rows_first`: the weights are (in, out). `output`: what the graph calls that which it makes.
    """

    kind: str
    numbers: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Constant] = field(default_factory=dict)
    rows_first: bool = False
    output: str = ""


# field -> what lies in it, of ONNX's messages; values of tensors are fixed in size, so they take what they hold
INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor"},
    "tensor": {4: "values", 9: "values", 10: "values"},
}


def weigh(content: bytes) -> None:
    """ValueError where a file has more fields, or more beside its tensors' values, than a graph of an AlexNet needs.

    Read into objects, such bytes may take fifty times their size: two of them are an empty node.
    """
    parts = [(memoryview(content), "model")]
    spent = count = 0
    while parts:
        part, kind = parts.pop()
        for number, value, whole in fields_of(part, most=MOST_FIELDS):
            inside = INSIDE[kind].get(number)
            if inside is None or isinstance(value, int):
                spent += len(whole)
            else:
                spent += len(whole) - len(value)
                if inside != "values":
                    parts.append((value, inside))
            count += 1
            if spent > MOST_WORDS or count > MOST_FIELDS:
                most = f"{MOST_FIELDS} fields" if count > MOST_FIELDS else f"{MOST_WORDS >> 20} MB"
                raise ValueError(f"more than {most} that are no values of tensors")


class Graph:
    """A graph, its nodes by what they make, its constants by name. ValueError, in words, for what is no AlexNet's.

    `walked`: what is made by the nodes that `steps` has looked at, on the way or for a constant.
    """

    def __init__(self, graph: "GraphProto") -> None:
        from onnx import TensorProto

        attributes = [one.t for node in graph.node for one in node.attribute if one.HasField("t")]
        for tensor in [*graph.initializer, *attributes, *(s.values for s in graph.sparse_initializer)]:
            if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
                where = "another file (external data), and none is opened: export it with external_data=False"
                raise ValueError(f"{str(tensor.name)[:40]} is kept in {where}")
        for node in graph.node:
            called = [node.name, node.op_type, *node.input, *node.output]
            if not all(isinstance(one, str) for one in called) or len(node.input) < INPUTS.get(node.op_type, 0):
                raise ValueError(
                    f"no AlexNet: a node of {node.op_type[:40]!r} without its inputs, or whose name is no text"
                )
        if not all(isinstance(one.name, str) for one in (*graph.initializer, *graph.input, *graph.output)):
            raise ValueError("no AlexNet: a tensor whose name is no text")
        self.graph = graph
        self.made_by = {name: node for node in graph.node for name in node.output if name}
        self.walked: set[str] = set()
        self.constants = {tensor.name: Constant(tensor.name, _shape(tensor), tensor) for tensor in graph.initializer}
        inputs = [one for one in graph.input if one.name not in self.constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise ValueError(f"no AlexNet: {len(inputs)} inputs and {len(graph.output)} outputs, expected one of each")
        self.input = inputs[0].name
        kind = inputs[0].type.tensor_type
        self.pixels = kind.elem_type == TensorProto.UINT8
        self.shape = tuple(dim.dim_value for dim in kind.shape.dim[1:])  # 0 for what is open

    def steps(self, begin: str) -> list[Step]:
        """What is done, in order, to what is called `begin`."""
        found, x = list[Step](), self.graph.output[0].name
        for _ in range(MOST_NODES):
            if x == begin:
                return found[::-1]
            node = self.made_by.get(x)
            if node is None:
                raise ValueError(f"no AlexNet: nothing makes {x[:40]}")
            self.walked.update(node.output)
            made, (step, x) = x, self._step(node, last=not found)
            if step is not None:
                step.output = made
                found.append(step)
        raise ValueError(f"no AlexNet: more than {MOST_NODES} nodes from its output to its input")

    def _step(self, node: "NodeProto", *, last: bool) -> tuple[Step | None, str]:
        """What a node does, None for nothing at test, and what it does it to."""
        a = _attributes(node)
        x = node.input[0] if node.input else ""
        match node.op_type:
            case "Dropout" | "Identity":
                return None, x
            case "Softmax" if last:
                return None, x
            case "Relu":
                return Step("relu"), x
            case "Flatten" | "Reshape":  # order is kept, and what follows has a matrix of the same size
                return Step("flatten"), x
            case "Conv":
                tensors = self._tensors(node, "weight", "bias")
                sides, numbers = tensors["weight"].shape[2:], _windowed(a)
                numbers |= {"kernel": a.get("kernel_shape", list(sides)), "groups": a.get("group", 1)}
                return Step("conv", numbers, tensors), x
            case "MaxPool":
                return Step("max_pool", _windowed(a) | {"ceil": bool(a.get("ceil_mode", 0))}), x
            case "AveragePool":
                numbers = _windowed(a)
                nothing = numbers["kernel"] == numbers["stride"] == [1, 1] and not any(numbers["pads"])
                return None if nothing else Step("average_pool"), x
            case "LRN":
                return Step("lrn", _lrn(a) | {"towers": 1}), x
            case "Concat":
                return self._towers(node, a)
            case "Div":
                return self._within_map(node)
            case "BatchNormalization":
                tensors = self._tensors(node, "weight", "bias", "running_mean", "running_var")
                return Step("batch_norm", {"eps": a.get("epsilon", 1e-5)}, tensors), x
            case "Gemm":
                numbers = {
                    name: a.get(name, default) for name, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))
                }
                return Step("linear", numbers, self._tensors(node, "weight", "bias"), not a.get("transB", 0)), x
            case "Add":
                return self._product(node)
            case "QuantizeLinear" | "DequantizeLinear":
                raise ValueError("in int8, and read are floating-point weights: take what it was made of")
            case _:
                raise ValueError(f"no AlexNet: it has a node of {node.op_type[:40]}")

    def _product(self, node: "NodeProto") -> tuple[Step, str]:
        """MatMul and Add, a fully connected layer."""
        for x, bias in (node.input[:2], node.input[1::-1]):
            product = self.made_by.get(x)
            constant = self._constant(bias)
            if constant is not None and product is not None and product.op_type == "MatMul":
                self.walked.update(product.output)
                tensors = {**self._tensors(product, "weight"), "bias": constant}
                return Step(
                    "linear", {"alpha": 1.0, "beta": 1.0, "transA": 0}, tensors, rows_first=True
                ), product.input[0]
        raise ValueError("no AlexNet: it has a node of Add that is no layer's bias")

    def _towers(self, node: "NodeProto", a: Mapping[str, Any]) -> tuple[Step, str]:
        """Split, an LRN for each part, Concat."""
        norms = [self.made_by.get(name) for name in node.input]
        split = self.made_by.get(norms[0].input[0]) if norms and norms[0] is not None and norms[0].input else None
        numbers = [_lrn(_attributes(norm)) for norm in norms if norm is not None and norm.op_type == "LRN"]
        if split is None or split.op_type != "Split" or len(numbers) != len(norms):
            raise ValueError("no AlexNet: it has a node of Concat that joins no normalized towers")
        cut = _attributes(split)
        sizes = list(cut.get("split", []))
        if any(split.input[1:]):
            sizes = self._tensors(split, "sizes")["sizes"].values().reshape(-1).tolist()
        parts = [norm.input[0] for norm in norms if norm is not None]
        alike = len(set(sizes)) <= 1 and all(one == numbers[0] for one in numbers)
        if parts != list(split.output) or not alike or a.get("axis") != 1 or cut.get("axis", 0) != 1:
            raise ValueError("no AlexNet: its towers are not equal runs of channels, normalized alike")
        self.walked.update(parts, node.input)
        return Step("lrn", numbers[0] | {"towers": len(norms)}), split.input[0]

    def _within_map(self, node: "NodeProto") -> tuple[Step, str]:
        """x / (k + alpha * the mean of x² around it)^beta."""
        (x, at), numbers, pool = node.input, list[float](), node
        for kind in ("Pow", "Add", "Mul", "AveragePool"):
            made_by = self.made_by.get(at)
            if made_by is None or made_by.op_type != kind:
                raise ValueError("no AlexNet: it has a node of Div that is no normalization's")
            pool = made_by
            self.walked.update(pool.output)
            if kind != "AveragePool":
                numbers.append(self._scalar(pool.input[1]))
            at = pool.input[0]
        square = self.made_by.get(at)
        a = _attributes(pool)
        window = _windowed(a)
        size = next(iter(window["kernel"]), 0)
        if square is None or square.op_type != "Mul" or list(square.input) != [x, x]:
            raise ValueError("no AlexNet: it has a node of Div that is no normalization's")
        centred = window["kernel"] == [size] * 2 and window["pads"] == [size // 2] * 4 and window["stride"] == [1, 1]
        if not centred or a.get("count_include_pad", 0) != 1:
            raise ValueError("no AlexNet: its normalization within a map has another window than ours")
        self.walked.update(square.output)
        beta, k, alpha = numbers
        return Step("within_map_lrn", {"size": size, "k": k, "alpha": alpha, "beta": beta}), x

    def _scalar(self, name: str) -> float:
        constant = self._constant(name)
        if constant is None or prod(constant.shape) != 1:
            raise ValueError(f"no AlexNet: {name[:40]} is no number")
        return float(constant.values().reshape(-1)[0])

    def _tensors(self, node: "NodeProto", *names: str) -> dict[str, Constant]:
        """The constants that a node has behind its first input."""
        found = {}
        for name, called in zip(names, [*node.input[1:], *[""] * len(names)], strict=False):
            constant = self._constant(called)
            if constant is None:
                raise ValueError(f"no AlexNet: {node.name[:40] or node.op_type[:40]} has no constant for its {name}")
            found[name] = constant
        return found

    def _constant(self, name: str) -> Constant | None:
        """What the file itself gives for a name: an initializer, or a node's that needs nothing else."""
        node = self.made_by.get(name)
        for _ in range(MOST_ALIASES):  # names for names
            if name in self.constants or node is None or node.op_type != "Identity":
                break
            self.walked.update(node.output)
            name = node.input[0]
            node = self.made_by.get(name)
        if name in self.constants or node is None:
            return self.constants.get(name)
        a = _attributes(node)
        if node.op_type == "Constant" and "value" in a:
            return Constant(name, _shape(a["value"]), a["value"])
        if node.op_type != "ConstantOfShape":
            return None
        below = self.made_by.get(node.input[0])
        given = self._constant(node.input[0]) if below is None or below.op_type == "Constant" else None  # nor of itself
        if given is None:
            return None
        shape = tuple(given.values().reshape(-1).tolist())
        value = a.get("value")
        if not 0 < 4 * prod(shape) <= MOST_BYTES or min(shape) < 1:
            raise ValueError(f"{name[:40]}: a tensor of {shape}")
        if value is None or prod(_shape(value)) != 1:
            raise ValueError(f"{name[:40]}: filled with no number")
        self.walked.update(node.output)
        return Constant(name, shape, value, filled=True)


# the attributes that are looked at, by ONNX's names for their types
ATTRIBUTES = {
    "INTS": ("kernel_shape", "strides", "dilations", "pads", "split"),
    "INT": ("group", "ceil_mode", "transA", "transB", "axis", "size", "count_include_pad"),
    "FLOAT": ("alpha", "beta", "bias", "epsilon"),
    "STRING": ("auto_pad",),
    "TENSOR": ("value",),
}


def _attributes(node: "NodeProto") -> dict[str, Any]:
    """A node's attributes by name, each of the type that it has by ONNX's rules."""
    from onnx import AttributeProto
    from onnx.helper import get_attribute_value

    kinds = {name: AttributeProto.AttributeType.Value(kind) for kind, names in ATTRIBUTES.items() for name in names}
    there = [one for one in node.attribute if one.name in kinds]
    for one in there:
        if one.type != kinds[one.name]:
            raise ValueError(f"{node.name[:40] or node.op_type[:40]}: its {one.name} is of another type than ONNX's")
    return {one.name: get_attribute_value(one) for one in there}


def _shape(tensor: "TensorProto") -> tuple[int, ...]:
    """Its shape, whose values it holds, no more and no fewer."""
    from onnx import TensorProto

    # bytes of each value, and where those are that are no raw bytes
    kinds = {
        TensorProto.FLOAT: (4, tensor.float_data),
        TensorProto.DOUBLE: (8, tensor.double_data),
        TensorProto.FLOAT16: (2, tensor.int32_data),
        TensorProto.BFLOAT16: (2, tensor.int32_data),
        TensorProto.INT64: (8, tensor.int64_data),
    }
    shape, name = tuple(tensor.dims), shown(str(tensor.name)[:40])
    if tensor.data_type not in kinds:
        raise ValueError(f"{name}: values of ONNX's kind {tensor.data_type}, expected floating point")
    size, typed = kinds[tensor.data_type]
    there = len(tensor.raw_data) / size if tensor.HasField("raw_data") else len(typed)
    if min(shape, default=1) < 0 or there != prod(shape):
        raise ValueError(f"{name}: {there:g} values for a tensor of {shape}")
    return shape


def _windowed(a: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of windows over a map, what is not said as ONNX has it."""
    numbers = {
        "kernel": list(a.get("kernel_shape", [])),
        "stride": list(a.get("strides", [1, 1])),
        "dilation": list(a.get("dilations", [1, 1])),
        "pads": list(a.get("pads", [0, 0, 0, 0])),
    }
    if a.get("auto_pad", b"NOTSET") != b"NOTSET" or [len(one) for one in numbers.values()][1:] != [2, 2, 4]:
        raise ValueError("no AlexNet: its windows have other numbers than a stride of two and pads of four")
    return numbers


def _lrn(a: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a normalization; a size must be said, and where none is, it is 0."""
    rule = {"k": a.get("bias", 1.0), "alpha": a.get("alpha", 1e-4), "beta": a.get("beta", 0.75)}
    return {"size": a.get("size", 0), **rule}
