"""The graph of every variant by ONNX Runtime, beside the module that it was made of; and graphs read back."""

import base64
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper, numpy_helper

from alexnet.errors import UsageError, WeightsError
from alexnet.network.build import AlexNet, build
from alexnet.network.variants import LRN, VARIANTS, AdaptivePool, BatchNorm, Conv, Linear, WithinMapLRN
from alexnet.weights import onnx as room
from alexnet.weights.onnx import LOGITS, graph, read_onnx, wrapped
from alexnet.weights.onnx_graph import MOST_BYTES
from alexnet.weights.run import preprocess_of
from tests.networks import apart, halves_swapped, images, lively, rows_before_channels, small

TOLERANCE = 1e-5  # of the largest logit
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"  # graphs whose weights are one number
ZOO = LIGHT / "light_bvlc_alexnet.onnx"


def ran(made: ModelProto | Path, given: np.ndarray, output: str = LOGITS) -> torch.Tensor:
    source = made if isinstance(made, Path) else made.SerializeToString()
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([output], {session.get_inputs()[0].name: given})[0])


def expected_of(net: AlexNet, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return net(x)


def initializers(made: ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in made.graph.initializer}


def nodes(made: ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in made.graph.node}


def set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    kept = [one for one in node.attribute if one.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def without_attribute(node: onnx.NodeProto, name: str) -> None:
    node.attribute.remove(next(one for one in node.attribute if one.name == name))


def put(tensor: TensorProto, value: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))


# What is wrong with a graph, where the variant has such a thing: each must be seen in the logits.
def swap_groups(made: ModelProto, net: AlexNet) -> None:
    put(initializers(made)["conv2.weight"], halves_swapped(net.state_dict()["conv2.weight"]).numpy())


def flatten_otherwise(made: ModelProto, net: AlexNet) -> None:
    maps = next(row.out for row in net.variant.layers[::-1] if isinstance(row, Conv))
    put(initializers(made)["fc6.weight"], rows_before_channels(net.state_dict()["fc6.weight"], maps).numpy())


def pad_before(made: ModelProto, net: AlexNet) -> None:
    """Zeros that stand behind a map put before it; where there are none, the last pooling's."""
    node = nodes(made)["conv1"]
    (pads,) = (list(one.ints) for one in node.attribute if one.name == "pads")
    if pads[0] != pads[2]:
        set_attribute(node, "pads", pads[2:] + pads[:2])
    else:
        set_attribute(nodes(made)["pool5"], "ceil_mode", 0)
        set_attribute(nodes(made)["pool5"], "pads", [1, 1, 0, 0])


FAULTS = [swap_groups, flatten_otherwise, pad_before]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_graph_is_its_network(name, whole):
    table = VARIANTS[name] if whole else small(VARIANTS[name])
    net, x = lively(table), images(table, 3)
    made = graph(net)
    onnx.checker.check_model(made)
    # no operation of our own; a normalization for each tower, or of a mean of squares
    assert {node.domain for node in made.graph.node} == {""}
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("LRN") == sum(row.towers for row in table.layers if isinstance(row, LRN))
    assert kinds.count("AveragePool") == sum(isinstance(row, WithinMapLRN) for row in table.layers)
    for count in (3, 1):
        expected = expected_of(net, x[:count])
        assert apart(ran(made, x[:count].numpy()), expected) <= TOLERANCE


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_in_a_graph_is_seen(fault, name):
    net = lively(small(VARIANTS[name]))
    made, x = graph(net), images(net.variant, 3)
    fault(made, net)
    seen = apart(ran(made, x.numpy()), expected_of(net, x)) > 1e-3
    assert seen or (fault is flatten_otherwise and name == "tiny")  # one pixel has one order


def test_a_wrong_alpha_is_seen():
    table = small(VARIANTS["paper"])
    net, x = lively(table), images(table, 3)
    row = next(row for row in table.layers if row.kind == "lrn")
    made = graph(net)
    for node in made.graph.node:
        if node.op_type == "LRN":
            set_attribute(node, "alpha", row.alpha)
    assert apart(ran(made, x.numpy()), expected_of(net, x)) > 100 * TOLERANCE


def test_the_names_are_those_of_the_layers():
    net = build("paper", 7, seed=0)
    made = graph(net).graph
    there = {name for node in made.node for name in node.output}
    rows = [row.name for row in net.variant.layers if row.kind != "dropout"]
    assert set(rows[:-1]) <= there and rows[-1] not in there and LOGITS in there
    assert {value.name for value in made.initializer} == set(net.state_dict())


def test_pooling_to_what_it_is_already_and_to_less():
    half = AdaptivePool("avgpool", 3, mark="")
    (node,) = room._nodes(half, "x", (8, 6, 6), {})
    assert node.op_type == "AveragePool" and [list(a.ints) for a in node.attribute] == [[2, 2], [2, 2]]
    assert room._nodes(half, "x", (8, 3, 3), {}) == []
    with pytest.raises(ValueError, match="do not part"):
        room._nodes(half, "x", (8, 7, 7), {})


def test_a_batch_normalization_without_scale_gets_ones_and_zeros():
    row = BatchNorm("bn", scale=False, momentum=0.1, eps=1e-5, mark="")
    constants: dict = {}
    (node,) = room._nodes(row, "x", (4, 2, 2), constants)
    assert list(node.input) == ["x", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"]
    assert constants["bn.weight"].tolist() == [1] * 4 and constants["bn.bias"].tolist() == [0] * 4


def written(folder: Path, made: ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


@pytest.fixture
def smalls(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every variant with few maps, as those that a graph may be of."""
    monkeypatch.setattr(room, "VARIANTS", {name: small(table) for name, table in VARIANTS.items()})
    yield


@pytest.mark.parametrize("name", VARIANTS)
def test_a_graph_read_back_is_the_network_bit_for_bit(name, smalls, tmp_path):
    net = lively(room.VARIANTS[name])
    given = read_onnx(written(tmp_path, graph(net)))
    assert given.likely == name and list(given.tensors) == list(given.sources) == list(net.state_dict())
    assert all(torch.equal(value, given.tensors[key]) for key, value in net.state_dict().items())
    assert given.classes is None and given.mean is None and given.preprocess == {}
    assert given.notes == (f"{tmp_path}/model.onnx: does not say how its pictures are prepared; taken as {name}'s",)


def rename(made: ModelProto) -> None:
    """Every tensor and node gets a number for its name."""
    names: dict[str, str] = {}

    def other(name: str) -> str:
        return names.setdefault(name, f"t{len(names)}") if name else name

    for node in made.graph.node:
        for given in (node.input, node.output):
            given[:] = [other(name) for name in given]
        node.name = ""
    for value in (*made.graph.initializer, *made.graph.input, *made.graph.output):
        value.name = other(value.name)


def half(made: ModelProto) -> None:
    for tensor in made.graph.initializer:
        put(tensor, numpy_helper.to_array(tensor).astype(np.float16))


def bfloat16(made: ModelProto) -> None:
    for tensor in made.graph.initializer:
        tensor.CopyFrom(
            helper.make_tensor(tensor.name, TensorProto.BFLOAT16, tensor.dims, numpy_helper.to_array(tensor))
        )


def doubles(made: ModelProto) -> None:
    for tensor in made.graph.initializer:
        put(tensor, numpy_helper.to_array(tensor).astype(np.float64))


def typed(made: ModelProto) -> None:
    """Values as a list of numbers instead of bytes."""
    for tensor in made.graph.initializer:
        values = numpy_helper.to_array(tensor).reshape(-1).tolist()
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT, tensor.dims, values))


def columns_first(made: ModelProto) -> None:
    for name in ("fc6", "fc7", "fc8"):
        set_attribute(nodes(made)[name], "transB", 0)
        tensor = initializers(made)[f"{name}.weight"]
        put(tensor, numpy_helper.to_array(tensor).T)


def products(made: ModelProto) -> None:
    """MatMul and Add, the bias first in one of them and with an axis of 1 in another."""
    columns_first(made)
    kept: list[onnx.NodeProto] = []
    for node in made.graph.node:
        if node.op_type != "Gemm":
            kept.append(node)
            continue
        x, weight, bias = node.input
        if node.name == "fc7":
            put(initializers(made)[bias], numpy_helper.to_array(initializers(made)[bias])[None])
        kept.append(helper.make_node("MatMul", [x, weight], [f"{node.name}.product"]))
        added = [f"{node.name}.product", bias]
        kept.append(helper.make_node("Add", added[::-1] if node.name == "fc6" else added, node.output))
    del made.graph.node[:]
    made.graph.node.extend(kept)


def constants(made: ModelProto) -> None:
    """Nodes for initializers, by another name; and a computed shape, as exporters write one."""
    kept = list(made.graph.node)
    made_of = [helper.make_node("Constant", [], [f"{t.name}.kept"], value=t) for t in made.graph.initializer]
    made_of += [helper.make_node("Identity", [f"{t.name}.kept"], [t.name]) for t in made.graph.initializer]
    del made.graph.initializer[:]
    at = next(i for i, node in enumerate(kept) if node.op_type == "Flatten")
    x = kept[at].input[0]
    kept[at : at + 1] = [
        helper.make_node("Shape", [x], ["shape"]),
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.array([0]))),
        helper.make_node("Constant", [], ["rest"], value=numpy_helper.from_array(np.array([-1]))),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Concat", ["batch", "rest"], ["flat.shape"], axis=0),
        helper.make_node("Reshape", [x, "flat.shape"], kept[at].output),
    ]
    del made.graph.node[:]
    made.graph.node.extend([*made_of, *kept])


def dropped(made: ModelProto) -> None:
    """What does nothing at test: dropout with its mask, averages of one pixel; and the softmax at the end."""
    kept: list[onnx.NodeProto] = []
    for node in made.graph.node:
        kept.append(node)
        if node.name in ("relu6", "pool5"):
            kind = "Dropout" if node.name == "relu6" else "AveragePool"
            more = {} if kind == "Dropout" else {"kernel_shape": [1, 1], "strides": [1, 1]}
            kept.append(
                helper.make_node(kind, [f"{node.name}.in"], [node.output[0], *(["mask"] if not more else [])], **more)
            )
            node.output[0] = f"{node.name}.in"
    kept.append(helper.make_node("Softmax", [LOGITS], ["p"]))
    made.graph.output[0].name = "p"
    del made.graph.node[:]
    made.graph.node.extend(kept)


@pytest.mark.parametrize(
    "change", [rename, half, bfloat16, doubles, typed, columns_first, products, constants, dropped]
)
def test_a_graph_in_other_words_is_the_same(change, tmp_path):
    net = lively(VARIANTS["tiny"])
    if change in (half, bfloat16):
        kind = torch.float16 if change is half else torch.bfloat16
        net.load_state_dict({name: value.to(kind).float() for name, value in net.state_dict().items()})
    made = graph(net)
    change(made)
    x = images(net.variant, 2)
    if change in (rename, typed, columns_first, products, constants, dropped):  # it says what it said
        output = ran(made, x.numpy(), made.graph.output[0].name)
        expected = expected_of(net, x)
        assert apart(output, expected.softmax(1) if change is dropped else expected) <= TOLERANCE
    given = read_onnx(written(tmp_path, made))
    assert given.likely == "tiny"
    assert all(torch.equal(value, given.tensors[key]) for key, value in net.state_dict().items())
    if change is columns_first:
        assert given.sources["fc6.weight"] == "fc6.weight: rows and columns exchanged"


def test_the_zoos_graph_is_read_with_its_constants(tmp_path):
    made = onnx.load(ZOO)
    shapes = {node.input[0]: node.output[0] for node in made.graph.node if node.op_type == "ConstantOfShape"}
    for tensor in made.graph.initializer:  # ten classes, for the time that it takes
        if shapes.get(tensor.name, "").startswith("fc8"):
            put(tensor, np.array([10, *numpy_helper.to_array(tensor)[1:]]))
    given = read_onnx(written(tmp_path, made))
    assert given.likely == "onnxzoo" and given.sources["conv1.weight"] == "conv1_w_0"
    assert given.tensors["fc8.weight"].shape == (10, 4096)
    assert all(bool((value == np.float32(0.02)).all()) for value in given.tensors.values())


CHANGES: list[tuple[str, Callable[[dict[str, onnx.NodeProto]], None], str]] = [
    ("groups", lambda n: set_attribute(n["r4"], "group", 1), "conv2: groups is 1, expected 2"),
    ("stride", lambda n: set_attribute(n["r0"], "strides", [2, 2]), "conv1: stride is 2×2, expected 4×4"),
    ("dilation", lambda n: set_attribute(n["r8"], "dilations", [2, 2]), "conv3: dilation is 2×2, expected 1×1"),
    ("kernel", lambda n: set_attribute(n["r8"], "kernel_shape", [5, 5]), "conv3: kernel is 5×5, expected 3×3"),
    ("padding", lambda n: set_attribute(n["r8"], "pads", [0, 0, 2, 2]), "conv3: pads before is 0×0, expected 1×1"),
    ("end of pool5", lambda n: set_attribute(n["r14"], "pads", [0] * 4), "pool5: pixels is 5×5, expected 6×6"),
    ("begin of pool5", lambda n: set_attribute(n["r14"], "pads", [1, 1, 0, 0]), "pool5: pads before is 1×1"),
    ("window of pool1", lambda n: set_attribute(n["r3"], "kernel_shape", [2, 2]), "pool1: kernel is 2×2"),
    ("alpha", lambda n: set_attribute(n["r2"], "alpha", 5e-4), "norm1: alpha is 0.0005, expected 0.0001"),
    ("k", lambda n: set_attribute(n["r2"], "bias", 2.0), "norm1: k is 2, expected 1"),
    ("beta", lambda n: set_attribute(n["r6"], "beta", 0.5), "norm2: beta is 0.5, expected 0.75"),
    ("size", lambda n: set_attribute(n["r6"], "size", 3), "norm2: size is 3, expected 5"),
    ("no size", lambda n: without_attribute(n["r6"], "size"), "norm2: size is 0, expected 5"),
    ("gain", lambda n: set_attribute(n["r24"], "alpha", 0.5), "fc8: alpha is 0.5, expected 1"),
    ("transposed", lambda n: set_attribute(n["r20"], "transA", 1), "fc7: transA is 1, expected 0"),
    ("matrix", lambda n: set_attribute(n["r16"], "transB", 0), "fc6: weight is 9216×4096, expected 4096×9216"),
    ("auto pad", lambda n: set_attribute(n["r0"], "auto_pad", "SAME_UPPER"), "no AlexNet: its windows"),
    ("no relu", lambda n: setattr(n["r1"], "op_type", "Sigmoid"), "no AlexNet: it has a node of Sigmoid"),
    ("no layer", lambda n: setattr(n["r9"], "op_type", "Identity"), "what comes after conv3 is conv relu conv, expected relu conv relu"),
    ("no bias", lambda n: n["r0"].input.pop(), "no constant for its bias"),
    ("no source", lambda n: n["r1"].input.__setitem__(0, "nowhere"), "no AlexNet: nothing makes nowhere"),
    ("a circle", lambda n: n["r1"].input.__setitem__(0, "r2"), "more than 200 nodes from its output to its input"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "match"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_a_number_that_is_no_variants_is_named(change, match, tmp_path):
    made = onnx.load(ZOO)
    change({node.output[0]: node for node in made.graph.node})
    path = written(tmp_path, made)
    with pytest.raises(WeightsError) as caught:
        read_onnx(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and match in said and "\n" not in said
    if " is " in match:
        assert "the nearest is onnxzoo" in said


def test_another_size_of_pictures_is_named(tmp_path):
    made = onnx.load(ZOO)
    made.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 227
    with pytest.raises(WeightsError, match=r"nearest is \w+: the size of its pictures is \(3, 227, 224\), expected "):
        read_onnx(written(tmp_path, made))
    for dim in made.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "any"
    with pytest.raises(WeightsError, match="a graph of caffe and onnxzoo alike"):
        read_onnx(written(tmp_path, made))


@pytest.mark.parametrize("path", sorted(set(LIGHT.glob("*.onnx")) - {ZOO}), ids=lambda path: path.stem)
def test_another_network_is_refused(path):
    with pytest.raises(WeightsError, match=f"{path.name}: (no AlexNet: |fits no variant; the nearest is )"):
        read_onnx(path)


def test_values_in_another_file_are_refused_and_it_is_not_opened(tmp_path, monkeypatch):
    def opened(*_: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr("onnx.external_data_helper.load_external_data_for_tensor", opened)
    for change in (lambda t: t.external_data.add(key="location", value="../../etc/passwd"),
                   lambda t: setattr(t, "data_location", TensorProto.EXTERNAL)):  # fmt: skip
        made = graph(lively(VARIANTS["tiny"]))
        change(initializers(made)["conv3.weight"])
        with pytest.raises(WeightsError, match="conv3.weight is kept in another file"):
            read_onnx(written(tmp_path, made))
        made = graph(lively(VARIANTS["tiny"]))
        constants(made)
        change(made.graph.node[0].attribute[0].t)
        with pytest.raises(WeightsError, match="is kept in another file"):
            read_onnx(written(tmp_path, made))


def changed(made: ModelProto, draw: random.Random) -> bytes:
    """Some of what the nodes say exchanged, left out or made impossible; or some bytes."""
    made = ModelProto.FromString(made.SerializeToString())
    for _ in range(draw.choice((1, 1, 2, 4))):
        nodes = list(made.graph.node)
        node, other = draw.choice(nodes), draw.choice(nodes)
        attribute = draw.choice(list(node.attribute)) if node.attribute else onnx.AttributeProto()
        match draw.randrange(10):
            case 0 if node.input:
                del node.input[draw.randrange(len(node.input))]
            case 1 if node.output:
                del node.output[draw.randrange(len(node.output))]
            case 2 if node.attribute:
                node.attribute.remove(attribute)
            case 3 if other.attribute:
                name = attribute.name
                attribute.CopyFrom(draw.choice(list(other.attribute)))
                attribute.name = name
            case 4:
                node.op_type = other.op_type
            case 5 if node.input:
                names = [name for one in nodes for name in one.output] + [t.name for t in made.graph.initializer]
                node.input[draw.randrange(len(node.input))] = draw.choice(names)
            case 6:
                node.op_type = draw.choice(
                    ["ConstantOfShape", "Identity", "Constant", "Concat", "Div", "Add", "Split", "Gemm"]
                )
            case 7 if attribute.ints:
                attribute.ints[0] = draw.choice([0, -1, 1 << 40])
            case 8 if made.graph.initializer:
                tensor = draw.choice(list(made.graph.initializer))
                tensor.dims[:] = [draw.choice([0, 1, -1, 1 << 40]) for _ in range(draw.randrange(6))]
            case _:
                content = bytearray(made.SerializeToString())
                content[draw.randrange(len(content))] = draw.randrange(256)
                try:
                    made = ModelProto.FromString(bytes(content))
                except DecodeError:
                    return bytes(content)
    return made.SerializeToString()


def fuzzed(count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many of so many changed graphs were read, and how many refused on one line."""
    tables = {}
    for name in ("tiny", "convnet", "bn", "onnxzoo"):
        rows = [
            replace(row, out=4) if isinstance(row, Linear) and row.out
            else replace(row, out=row.out // 2) if isinstance(row, Conv)
            else row
            for row in small(VARIANTS[name]).layers
        ]  # fmt: skip
        tables[name] = replace(small(VARIANTS[name]), layers=tuple(rows))
    monkeypatch.setattr(room, "VARIANTS", tables)
    good = [graph(lively(table)) for table in tables.values()]
    for change, made in zip((products, constants, dropped), good, strict=False):
        change(made)
    draw, outcomes = random.Random(0), [0, 0]
    for _ in range(count):
        (folder / "x.onnx").write_bytes(changed(draw.choice(good), draw))
        begin = time.thread_time()
        try:
            read_onnx(folder / "x.onnx")
        except WeightsError as reason:
            assert str(reason).isprintable()
            outcomes[1] += 1
        else:
            outcomes[0] += 1
        assert time.thread_time() - begin < 20  # of this thread, whatever the machine does besides: no work without end
    return outcomes


def test_changed_graphs_are_read_or_refused(tmp_path, monkeypatch):
    was_read, refused = fuzzed(300, tmp_path, monkeypatch)
    assert was_read > 10 and refused > 100


@pytest.mark.slow
def test_many_changed_graphs_are_read_or_refused(tmp_path, monkeypatch):
    was_read, refused = fuzzed(10_000, tmp_path, monkeypatch)
    assert was_read > 300 and refused > 3000


def test_a_constant_that_is_made_of_itself_is_refused(tmp_path):
    made = onnx.load(ZOO)
    for node in made.graph.node:
        if node.op_type == "ConstantOfShape":
            node.input[0] = node.output[0]
    with pytest.raises(WeightsError, match="no AlexNet: .* has no constant for its weight"):
        read_onnx(written(tmp_path, made))


def damage_dims(made: ModelProto) -> None:
    initializers(made)["conv2.weight"].dims[0] = 2**40


def damage_sign(made: ModelProto) -> None:
    initializers(made)["conv2.weight"].dims[0] = -32


def cut_values(made: ModelProto) -> None:
    tensor = initializers(made)["conv2.weight"]
    tensor.raw_data = tensor.raw_data[:-4]


def not_a_number(made: ModelProto) -> None:
    tensor = initializers(made)["conv2.weight"]
    put(tensor, np.full(tuple(tensor.dims), np.nan, np.float32))


def too_large(made: ModelProto) -> None:
    tensor = initializers(made)["conv2.weight"]
    put(tensor, np.full(tuple(tensor.dims), 1e300))


def integers(made: ModelProto) -> None:
    tensor = initializers(made)["conv2.weight"]
    put(tensor, np.ones(tuple(tensor.dims), np.int8))


def transposed(made: ModelProto) -> None:
    tensor = initializers(made)["fc6.weight"]
    put(tensor, numpy_helper.to_array(tensor).repeat(2, 1).T)


def endless(made: ModelProto) -> None:
    """A constant of 16 TB in a few bytes."""
    kept = [t for t in made.graph.initializer if t.name != "fc8.weight"]
    del made.graph.initializer[:]
    made.graph.initializer.extend([*kept, numpy_helper.from_array(np.array([2**30, 4096]), "shape")])
    value = numpy_helper.from_array(np.array([0.02], np.float32))
    made.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["fc8.weight"], value=value))


def two_inputs(made: ModelProto) -> None:
    made.graph.input.add().name = "more"


def int8(made: ModelProto) -> None:
    made.graph.node.append(helper.make_node("DequantizeLinear", [LOGITS, "s"], ["end"]))
    made.graph.output[0].name = "end"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (damage_dims, "conv2.weight: 4800 values for a tensor of "),
        (damage_sign, "conv2.weight: 4800 values for a tensor of "),
        (cut_values, "conv2.weight: 4799 values for a tensor of "),
        (not_a_number, "conv2.weight .conv2.weight. holds values that are not finite"),
        (too_large, "conv2.weight .conv2.weight. holds values that are not finite"),
        (integers, "conv2.weight: values of ONNX's kind 3, expected floating point"),
        (transposed, "the nearest is tiny: fc6: weight is 64×512, expected 512×32"),
        (endless, "fc8.weight: a tensor of .1073741824, 4096."),
        (two_inputs, "no AlexNet: 2 inputs and 1 outputs"),
        (int8, "in int8"),
    ],
)
def test_damaged_graphs_are_refused(change, match, tmp_path):
    made = graph(lively(VARIANTS["tiny"]))
    change(made)
    with pytest.raises(WeightsError, match=match):
        read_onnx(written(tmp_path, made))


def test_towers_whose_sizes_are_no_constant_are_refused(tmp_path):
    made = graph(lively(VARIANTS["tiny"]))
    split = nodes(made)["norm1.split"]
    split.input.append("sizes")
    made.graph.node.insert(0, helper.make_node("Shape", [split.input[0]], ["sizes"]))
    with pytest.raises(WeightsError, match="no AlexNet: norm1.split has no constant for its sizes"):
        read_onnx(written(tmp_path, made))


def test_a_mean_without_its_window_is_refused(tmp_path):
    made = graph(lively(small(VARIANTS["convnet"])))
    without_attribute(nodes(made)["wmnorm2.mean"], "kernel_shape")
    with pytest.raises(WeightsError, match="its normalization within a map has another window than ours"):
        read_onnx(written(tmp_path, made))


def test_damaged_files_are_refused(tmp_path, monkeypatch):
    whole = graph(lively(VARIANTS["tiny"])).SerializeToString()
    path = tmp_path / "model.onnx"
    for content in (
        b"",
        b"x",
        b"\xff" * 20,
        np.random.default_rng(0).bytes(1000),
        whole[:-1],
        whole[: len(whole) // 2],
        whole[:40],
        whole[1:],
    ):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="cannot be read as ONNX|no AlexNet"):
            read_onnx(path)
    # an empty node is two bytes, and some hundred in memory; here, in a graph of 2,000,000 bytes
    path.write_bytes(b"\x3a\x80\x89\x7a" + b"\x0a\x00" * 1_000_000)
    with monkeypatch.context() as patched:
        patched.setattr("onnx.ModelProto.FromString", lambda content: pytest.fail("was made in memory"), raising=True)
        with pytest.raises(WeightsError, match="more than 100000 fields that are no values of tensors"):
            read_onnx(path)
    path.write_bytes(b"\x3a\x86\x80\xc0\x02" + b"\x12\x80\x80\xc0\x02" + b"x" * (5 << 20) + b"\x00")  # a name of 5 MB
    with pytest.raises(WeightsError, match="more than 4 MB that are no values of tensors"):
        read_onnx(path)
    with path.open("wb") as stream:
        stream.truncate(MOST_BYTES + 1)
    with pytest.raises(WeightsError, match="no regular file of at most 1024 MB"):
        read_onnx(path)
    with pytest.raises(WeightsError, match="no regular file"):
        read_onnx(tmp_path)


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match="onnx is not installed"):
        read_onnx(tmp_path / "model.onnx")


def described(net: AlexNet) -> tuple[ModelProto, dict[str, str], np.ndarray]:
    preprocess = preprocess_of(net.variant)
    mean = np.random.default_rng(3).uniform(0, 255, (preprocess.stored, preprocess.stored, 3)).astype(np.float32)
    classes = [{"key": f"k{i}", "words": f"word {i}"} for i in range(net.classes)]
    said = {
        "classes.json": json.dumps(classes),
        "preprocess.json": json.dumps(room.fields(preprocess)),
        "mean": base64.b64encode(mean.tobytes()).decode(),
    }
    made = graph(net)
    wrapped(made, preprocess, mean, pixels=True, softmax=True)
    return made, said, mean


def with_texts(made: ModelProto, said: dict[str, str]) -> ModelProto:
    del made.metadata_props[:]
    helper.set_model_props(made, said)
    return made


def test_what_our_files_say_of_themselves_is_read(tmp_path):
    net = lively(VARIANTS["tiny"])
    made, said, mean = described(net)
    given = read_onnx(written(tmp_path, with_texts(made, said)))
    assert (
        given.classes is not None and given.classes.to_json() == json.loads(said["classes.json"]) and given.notes == ()
    )
    assert given.preprocess == room.fields(preprocess_of(net.variant))
    assert given.mean is not None and np.array_equal(given.mean, mean)
    assert all(torch.equal(value, given.tensors[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"classes.json": "[1]"}, "metadata cannot be read"),
        ({"classes.json": "[" * 100_000}, "metadata cannot be read"),
        ({"classes.json": '[{"key": "a", "words": "a"}]'}, "fc8 has 7 outputs, and classes.json 1 classes"),
        ({"preprocess.json": "{}"}, "metadata cannot be read .*side is missing"),
        ({"preprocess.json": None}, "its pictures are uint8, and its metadata do not say"),
        ({"mean": None}, "its pictures are uint8, and its metadata do not say"),
        ({"mean": "AAAA"}, "mean: 3 bytes, expected float32 .73, 73, 3."),
        ({"mean": "not base64"}, "metadata cannot be read"),
        ({"mean": base64.b64encode(np.full((73, 73, 3), np.nan, "<f4").tobytes()).decode()}, "not finite"),
        (
            {"mean": base64.b64encode(np.zeros((73, 73, 3), "<f4").tobytes()).decode()},
            "otherwise than its metadata say",
        ),
    ],
)
def test_what_a_file_says_of_itself_must_be_so(change, match, tmp_path):
    made, said, _ = described(lively(VARIANTS["tiny"]))
    said = {key: value for key, value in (said | change).items() if value is not None}
    with pytest.raises(WeightsError, match=match):
        read_onnx(written(tmp_path, with_texts(made, said)))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Iterator[tuple[Path, AlexNet, torch.Tensor, torch.Tensor]]:
    """The zoo's file with random weights; what we read it as; pictures, and the logits of ONNX Runtime for them."""
    made = onnx.load(ZOO)
    random = np.random.default_rng(5)
    shapes = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    for node in [node for node in made.graph.node if node.op_type == "ConstantOfShape"]:
        shape = tuple(shapes[node.input[0]])
        scale = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 1.0
        value = random.normal(0, scale, shape).astype(np.float32)
        made.graph.node.remove(node)
        made.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    path = written(tmp_path_factory.mktemp("zoo"), made)
    given = read_onnx(path)
    net = AlexNet(VARIANTS[str(given.likely)], 1000).eval()
    net.load_state_dict(given.tensors)
    made.graph.output.append(helper.make_tensor_value_info("r24", TensorProto.FLOAT, [1, 1000]))
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    x = images(net.variant, 2)
    theirs = np.concatenate([session.run(["r24"], {"data_0": x[i : i + 1].numpy()})[0] for i in range(2)])
    yield path, net, x, torch.from_numpy(theirs)
    path.unlink()


@torch.inference_mode()
def computed(net: AlexNet, x: torch.Tensor, *, end_of_pool5: bool = True) -> torch.Tensor:
    """The logits, layer by layer; without `end_of_pool5` its last windows are those within the map, and zeros behind."""
    for index, row in enumerate(net.variant.layers):
        if row.name == "pool5" and not end_of_pool5:
            x = F.pad(F.max_pool2d(x, 3, 2), (0, 1, 0, 1))
        else:
            x = net.layer(row, x, None, index, inplace=False)
    return x


@pytest.mark.slow
def test_the_zoos_file_by_onnx_runtime_and_by_us(zoo):
    _, net, x, theirs = zoo
    assert apart(computed(net, x), theirs) <= 1e-4
    assert float(theirs.std()) > 0.1 and not torch.equal(theirs[0].argsort(), theirs[1].argsort())


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["groups", "flatten", "end of pool5"])
def test_what_is_wrong_in_the_zoos_file_is_seen(zoo, fault):
    _, net, x, theirs = zoo
    state = dict(net.state_dict())
    if fault == "groups":
        state["conv4.weight"] = halves_swapped(state["conv4.weight"])
    if fault == "flatten":
        state["fc6.weight"] = rows_before_channels(state["fc6.weight"], 256)
    wrong = AlexNet(net.variant, 1000).eval()
    wrong.load_state_dict(state)
    assert apart(computed(wrong, x, end_of_pool5=fault != "end of pool5"), theirs) > 0.01
