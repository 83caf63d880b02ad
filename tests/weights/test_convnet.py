"""Checkpoints of the 2012 program, written here as it wrote them, read as one network; against its two towers in NumPy."""

import dataclasses
import itertools
import math
import struct

import numpy as np
import pytest
import torch

from alexnet.errors import WeightsError
from alexnet.network.build import build
from alexnet.network.cost import shapes
from alexnet.network.variants import CONVNET, Conv, Linear, Pad
from alexnet.weights import convnet
from alexnet.weights.convnet import merged, read_convnet, read_convnet_mean
from tests.strangers import CANARY, text
from tests.weights.python2 import Class, Instance, Raw, dumps

SIDE, CLASSES = 96, 10
MAPS, HIDDEN = (8, 16, 24, 24, 16), 32  # of one tower


class Parser:
    """A net's layers as the program's parser leaves them; a neuron is a layer of its own, and what follows sees that."""

    def __init__(self, side):
        self.random, self.layers = np.random.default_rng(0), {}
        self.shapes = {}  # of each layer: maps and their side
        self.last = {}  # a layer's neuron
        self.add("data", "data", (3, side), dataIdx=0)
        self.add("labels", "data", (1, 1), dataIdx=1)

    def add(self, name, kind, shape, inputs=(), *, relu=False, **fields):
        self.shapes[name] = self.shapes[f"{name}_neuron"] = shape
        layer = {"name": name, "type": kind, "outputs": shape[0] * shape[1] ** 2, "gpu": 0, "usesActs": True, **fields}
        if inputs:
            seen = [self.last.get(one, one) for one in inputs]
            layer |= {
                "inputs": seen,
                "inputLayers": [self.layers[one] for one in seen],
                "neuron": "relu" if relu else "",
            }
        self.layers[name] = layer
        if relu:
            self.add(f"{name}_neuron", "neuron", shape, [name], src_layer=name)
            self.layers[f"{name}_neuron"]["neuron"] = {"type": "relu", "params": {}, "usesActs": True}
            self.last[name] = f"{name}_neuron"

    def weights(self, rows, columns, n, order):
        def drawn(rows, columns, std):
            return np.asarray(self.random.normal(0, std, (rows, columns)), np.float32, order=order)

        bias = (1, columns) if order == "F" else (columns, 1)
        return {
            "weights": [drawn(rows, columns, math.sqrt(2 / (rows * n))) for _ in range(n)],
            "weightsInc": [drawn(rows, columns, 1.0) for _ in range(n)],
            "biases": drawn(*bias, 0.5),
            "biasesInc": drawn(*bias, 1.0),
            "epsW": [0.001] * n,
            "epsB": 0.02,
        }

    def conv(self, name, inputs, filters, kernel, stride, pad, *, relu):
        channels, size = self.shapes[inputs[0]]
        modules = 1 + math.ceil((2 * pad + size - kernel) / stride)
        each = {"channels": channels, "filterChannels": channels, "filterSize": kernel, "stride": stride,
                "padding": -pad, "groups": 1, "imgSize": size}  # fmt: skip
        self.add(name, "conv", (filters, modules), inputs, relu=relu, filters=filters, modulesX=modules,
                 sharedBiases=True, **{key: [value] * len(inputs) for key, value in each.items()},
                 **self.weights(channels * kernel**2, filters, len(inputs), "C"))  # fmt: skip

    def fc(self, name, inputs, outputs, *, relu):
        maps, size = self.shapes[inputs[0]]
        self.add(name, "fc", (outputs, 1), inputs, relu=relu, **self.weights(maps * size**2, outputs, len(inputs), "F"))

    def pool(self, name, below, *, relu):
        maps, size = self.shapes[below]
        across = math.ceil((size - 3) / 2) + 1
        fields = {"pool": "max", "sizeX": 3, "stride": 2, "start": 0, "outputsX": across, "channels": maps}
        self.add(name, "pool", (maps, across), [below], relu=relu, **fields)

    def norm(self, name, below):
        self.add(name, "cmrnorm", self.shapes[below], [below], size=5, scale=0.0001 / 5, pow=0.75, minDiv=2.0)

    def head(self, below):
        self.add("probs", "softmax", self.shapes[below], [below])
        self.add("logprob", "cost.logreg", (0, 0), ["labels", "probs"], coeff=1.0, topk=5)


def net145(side=SIDE, maps=MAPS, hidden=HIDDEN, classes=CLASSES, towers="ab"):
    """Net 145; with one tower the wiring of 145-half, whose names are others above the convolutions."""
    net = Parser(side)
    wide = {"ab": "fc2048", "a": "fc4096"}[towers]
    for t in towers:
        net.conv(f"conv1{t}", ["data"], maps[0], 11, 4, 0, relu=False)
        net.norm(f"rnorm1{t}", f"conv1{t}")
        net.pool(f"pool1{t}", f"rnorm1{t}", relu=True)
        net.conv(f"conv2{t}", [f"pool1{t}"], maps[1], 5, 1, 2, relu=True)
        net.norm(f"rnorm2{t}", f"conv2{t}")
        fields = {"size": 5, "scale": 0.001 / 25, "pow": 0.75}
        net.add(f"cnorm2{t}", "rnorm", net.shapes[f"rnorm2{t}"], [f"rnorm2{t}"], **fields)
        net.pool(f"pool2{t}", f"cnorm2{t}", relu=False)
    for t in towers:
        net.conv(f"conv3{t}", [f"pool2{t}" for t in towers], maps[2], 3, 1, 1, relu=True)
        net.conv(f"conv4{t}", [f"conv3{t}"], maps[3], 3, 1, 1, relu=True)
        net.conv(f"conv5{t}", [f"conv4{t}"], maps[4], 3, 1, 1, relu=False)
        net.pool(f"pool3{t}", f"conv5{t}", relu=True)
    for t in towers:
        net.fc(f"{wide}{t}", [f"pool3{t}" for t in towers], hidden, relu=True)
        net.add(f"hs1{t}", "hs", (hidden, 1), [f"{wide}{t}"], keep=0.5, enable=True)
    for t in towers:
        # the program's own file has them so
        net.fc(f"{wide}b{t}", [f"hs1{one}" for one in (towers if t == "a" else towers[::-1])], hidden, relu=True)
        net.add(f"hs2{t}", "hs", (hidden, 1), [f"{wide}b{t}"], keep=0.5, enable=True)
    net.fc("fc1000", [f"hs2{t}" for t in towers], classes, relu=False)
    net.head("fc1000")
    return net.layers


def net223(side=SIDE, maps=MAPS, hidden=HIDDEN, classes=CLASSES):
    """cuda-convnet2's net of one tower."""
    net = Parser(side)
    net.conv("conv1", ["data"], maps[0], 11, 4, 0, relu=False)
    net.norm("rnorm1", "conv1")
    net.pool("pool1", "rnorm1", relu=True)
    net.conv("conv2", ["pool1"], maps[1], 5, 1, 2, relu=True)
    net.norm("rnorm2", "conv2")
    net.pool("pool2", "rnorm2", relu=False)
    for n, below in ((3, "pool2"), (4, "conv3"), (5, "conv4")):
        net.conv(f"conv{n}", [below], maps[n - 1], 3, 1, 1, relu=n < 5)
    net.pool("pool3", "conv5", relu=True)
    net.fc("fc4096a", ["pool3"], hidden, relu=True)
    net.add("dropout1", "dropout2", (hidden, 1), ["fc4096a"], keep=0.5, enable=True)
    net.fc("fc4096b", ["dropout1"], hidden, relu=True)
    net.add("dropout2", "dropout2", (hidden, 1), ["fc4096b"], keep=0.5, enable=True)
    net.fc("fc1000", ["dropout2"], classes, relu=False)
    net.head("fc1000")
    return net.layers


def options(module="options"):
    """The options of a run: old-style instances, that name classes and hold one another."""
    integer, option = Class(module, "IntegerOptionParser"), Class(module, "Option")
    listed = Instance(Class(module, "ListOptionParser"), {"parsers": integer, "sepchar": ","})
    half = Instance(Class(module, "OptionExpression"), {"expr": "mini / 2"})
    given = {
        "minibatch_size": Instance(option, {"letter": "mini", "parser": integer, "value": 128, "excuses": []}),
        "gpu": Instance(option, {"letter": "gpu", "parser": listed, "value": [0, 1], "default": half}),
    }
    return Instance(Class(module, "OptionsParser"), {"options": given})


def checkpoint(layers, module="options"):
    state = {"layers": layers, "epoch": 90, "batchnum": 1261}
    state["train_outputs"] = [({"logprob": [900.0 + n, 50.0, 20.0]}, 128) for n in range(50)]
    state["test_outputs"] = [({"logprob": [900.0, 50.0, 20.0]}, 128)]
    return dumps({"model_state": state, "op": options(module)})


def small(variant, side=SIDE, maps=MAPS, hidden=HIDDEN, towers=2):
    """The variant with other widths."""
    wide = iter(maps)
    rows = [
        dataclasses.replace(row, out=next(wide) * towers) if isinstance(row, Conv)
        else dataclasses.replace(row, out=hidden * towers) if isinstance(row, Linear) and row.out
        else row
        for row in variant.layers
    ]  # fmt: skip
    return dataclasses.replace(variant, side=side, layers=tuple(rows))


@pytest.fixture
def narrow(monkeypatch):
    """The reader knows the narrow nets of this file in the wide ones' place."""
    nets = {first: small(one, towers=len(first)) for first, one in convnet.NETS.items()}
    monkeypatch.setattr(convnet, "NETS", nets)
    return nets


def written(path, layers, module="options"):
    path.write_bytes(checkpoint(layers, module))
    return path


def conv(x, w, b, stride, before, after):
    """(C, H, W), rows c, y, x and a column a filter -> (F, h, w)."""
    k = math.isqrt(w.shape[0] // len(x))
    x = np.pad(x, ((0, 0), (before, after), (before, after)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), (1, 2))[:, ::stride, ::stride]
    C, h, width = windows.shape[:3]
    columns = windows.transpose(0, 3, 4, 1, 2).reshape(C * k * k, h * width)
    return (w.T @ columns + b).reshape(-1, h, width)


def normed(x):
    """x / (2 + 2e-5 · sum over five maps)^.75."""
    square = np.pad(x**2, ((2, 2), (0, 0), (0, 0)))
    return x * (2 + 0.0001 / 5 * sum(square[n : n + len(x)] for n in range(5))) ** -0.75


def normed_within(x):
    """x / (1 + 4e-5 · sum over five by five pixels)^.75."""
    square = np.pad(x**2, ((0, 0), (2, 2), (2, 2)))
    total = sum(square[:, y : y + x.shape[1], n : n + x.shape[2]] for y in range(5) for n in range(5))
    return x * (1 + 0.001 / 25 * total) ** -0.75


def pooled(x):
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((3, 4))


def two_towers(layers, image):
    """Net 145 on one image (3, S, S), in float64, at test; each tower on its own arrays -> activations by our names."""

    def w(name):
        return [one.astype(np.float64) for one in layers[name]["weights"]]

    def b(name):
        return layers[name]["biases"].astype(np.float64)

    had = {}

    def both(name, a, b):
        had[name] = np.concatenate([a, b])
        return {"a": a, "b": b}

    x = both("conv1", *(conv(image, *w(f"conv1{t}"), b(f"conv1{t}"), 4, 0, 3) for t in "ab"))
    x = both("norm1", *(normed(x[t]) for t in "ab"))
    x = both("pool1", *(pooled(x[t]) for t in "ab"))
    x = both("relu1", *(np.maximum(x[t], 0) for t in "ab"))
    x = both("conv2", *(conv(x[t], *w(f"conv2{t}"), b(f"conv2{t}"), 1, 2, 2) for t in "ab"))
    x = both("norm2", *(normed(np.maximum(x[t], 0)) for t in "ab"))
    x = both("wmnorm2", *(normed_within(x[t]) for t in "ab"))
    x = both("pool2", *(pooled(x[t]) for t in "ab"))
    seen = {t: zip(w(f"conv3{t}"), (x["a"], x["b"]), strict=True) for t in "ab"}
    x = both("conv3", *(sum(conv(one, m, 0, 1, 1, 1) for m, one in seen[t]) + b(f"conv3{t}")[..., None] for t in "ab"))
    x = both("conv4", *(conv(np.maximum(x[t], 0), *w(f"conv4{t}"), b(f"conv4{t}"), 1, 1, 1) for t in "ab"))
    x = both("conv5", *(conv(np.maximum(x[t], 0), *w(f"conv5{t}"), b(f"conv5{t}"), 1, 1, 1) for t in "ab"))
    x = both("pool5", *(pooled(x[t]) for t in "ab"))
    a, z = (np.maximum(x[t], 0).ravel() for t in "ab")
    x = both("fc6", *((a @ w(f"fc2048{t}")[0] + z @ w(f"fc2048{t}")[1] + b(f"fc2048{t}"))[0] for t in "ab"))
    a, z = (np.maximum(x[t], 0) * 0.5 for t in "ab")
    fc7 = {"a": (a, z), "b": (z, a)}
    x = both("fc7", *((fc7[t][0] @ w(f"fc2048b{t}")[0] + fc7[t][1] @ w(f"fc2048b{t}")[1] + b(f"fc2048b{t}"))[0]
                      for t in "ab"))  # fmt: skip
    a, z = (np.maximum(x[t], 0) * 0.5 for t in "ab")
    had["fc8"] = (a @ w("fc1000")[0] + z @ w("fc1000")[1] + b("fc1000"))[0]
    return had


def differences(tensors, variant, layers):
    """The largest difference of each layer from the two towers in NumPy, as a part of its largest value."""
    image = np.random.default_rng(1).uniform(-120, 130, (3, variant.side, variant.side))
    model = build(variant, len(tensors["fc8.bias"])).double().eval()
    model.load_state_dict(tensors)
    expected = two_towers(layers, image)
    with torch.inference_mode():
        ours = model.trace(torch.from_numpy(image)[None], list(expected))
    return {name: np.abs(ours[name][0].numpy() - one).max() / np.abs(one).max() for name, one in expected.items()}


def test_the_towers_become_one_network(tmp_path, narrow):
    layers = net145()
    found = read_convnet(written(tmp_path / "90.1261", layers))
    variant = narrow["conv1a", "conv1b"]
    assert found.likely == "convnet" and not found.preprocess and not found.moments and found.mean is None
    assert {name: tuple(value.shape) for name, value in found.tensors.items()} == shapes(variant, CLASSES)
    assert list(found.tensors) == list(found.sources) == list(shapes(variant, CLASSES))
    assert all(value.dtype == torch.float32 for value in found.tensors.values())
    assert found.sources["conv3.weight"].startswith("conv3a[0], conv3a[1]; conv3b[0], conv3b[1]: c, y, x")
    swapped = "fc2048ba[0] · 0.5, fc2048ba[1] · 0.5; fc2048bb[1] · 0.5, fc2048bb[0] · 0.5: transposed"
    assert found.sources["fc7.weight"] == swapped
    of_layers = differences(found.tensors, variant, layers)
    assert max(of_layers.values()) < 1e-12, of_layers


def unswapped(tensors, layers):
    """Both towers' fc7 as if they saw (a, b)."""
    at_b = [matrix * np.float32(0.5) for matrix in layers["fc2048bb"]["weights"]]
    half = len(tensors["fc7.weight"]) // 2
    return {"fc7.weight": torch.cat([tensors["fc7.weight"][:half], torch.from_numpy(np.concatenate(at_b).T.copy())])}


def exchanged(name):
    """Groups b then a."""
    return lambda tensors, _: {name: torch.cat(tensors[name].chunk(2)[::-1])}


def flattened_otherwise(tensors, _):
    """fc6's inputs as y, x, c."""
    weight = tensors["fc6.weight"]
    return {"fc6.weight": weight.reshape(len(weight), 32, 2, 2).permute(0, 2, 3, 1).reshape(weight.shape)}


def kernels_otherwise(tensors, _):
    """Rows as y, x, c."""
    weight = tensors["conv1.weight"]
    return {"conv1.weight": weight.reshape(len(weight), 11, 11, 3).permute(0, 3, 1, 2)}


def rows(**given):
    """The variant with other numbers in some rows."""
    return lambda variant: dataclasses.replace(
        variant,
        layers=tuple(dataclasses.replace(row, **given.get(row.name, {})) for row in variant.layers),
    )


def relu_first(variant):
    """As the paper says: a ReLU before the first normalisation."""
    relu = next(row for row in variant.layers if row.name == "relu1")
    first, *rest = variant.layers
    return dataclasses.replace(variant, layers=(first, dataclasses.replace(relu, name="relu0"), *rest))


FAULTS = {
    "fc7 not swapped": (unswapped, None, "fc7"),
    "fc7 not halved": (lambda t, _: {"fc7.weight": t["fc7.weight"] * 2}, None, "fc7"),
    "fc8 not halved": (lambda t, _: {"fc8.weight": t["fc8.weight"] * 2}, None, "fc8"),
    "conv2's groups exchanged": (exchanged("conv2.weight"), None, "conv2"),
    "conv4's groups exchanged": (exchanged("conv4.weight"), None, "conv4"),
    "conv3's inputs exchanged": (lambda t, _: {"conv3.weight": t["conv3.weight"].roll(16, 1)}, None, "conv3"),
    "fc6 flattened otherwise": (flattened_otherwise, None, "fc6"),
    "kernels' rows otherwise": (kernels_otherwise, None, "conv1"),
    "conv1's padding on the other side": (None, rows(conv1={"pad": Pad(3, 0)}), "conv1"),
    "normalised across the towers": (None, rows(norm1={"towers": 1}), "norm1"),
    "alpha not divided": (None, rows(norm1={"divide": False}), "norm1"),
    "ReLU before the normalisation": (None, relu_first, "norm1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_seen_in_its_layer(tmp_path, narrow, name):
    change, rewire, layer = FAULTS[name]
    layers = net145()
    tensors = read_convnet(written(tmp_path / "90.1261", layers)).tensors
    variant = narrow["conv1a", "conv1b"]
    made = tensors | (change(tensors, layers) if change else {})
    of_layers = differences(made, rewire(variant) if rewire else variant, layers)
    before = list(of_layers)[: list(of_layers).index(layer)]
    assert of_layers[layer] > 0.01 and of_layers["fc8"] > 0.003, of_layers
    assert all(of_layers[name] < 1e-12 for name in before), of_layers


@pytest.mark.slow
def test_the_whole_net_145(tmp_path):
    layers = net145(224, (48, 128, 192, 192, 128), 2048, 1000)
    found = read_convnet(written(tmp_path / "90.1261", layers))
    assert {name: tuple(value.shape) for name, value in found.tensors.items()} == shapes(CONVNET, 1000)
    of_layers = differences(found.tensors, CONVNET, layers)
    assert max(of_layers.values()) < 1e-12, of_layers
    for change, at_least in ((unswapped, 0.1), (exchanged("conv5.weight"), 0.1)):
        assert differences(found.tensors | change(found.tensors, layers), CONVNET, layers)["fc8"] > at_least


def test_merging_on_arrays():
    """Two towers of two inputs of two channels: where each value of each matrix must be found."""
    towers = [[np.arange(8, dtype=np.float32).reshape(4, 2) + 100 * t + 10 * i for i in range(2)] for t in range(2)]
    assert merged(towers, ()).tolist() == [
        [0, 2, 4, 6, 10, 12, 14, 16],
        [1, 3, 5, 7, 11, 13, 15, 17],
        [100, 102, 104, 106, 110, 112, 114, 116],
        [101, 103, 105, 107, 111, 113, 115, 117],
    ]
    kernel = [[np.arange(16, dtype=np.float32).reshape(8, 2) + 100 * t] for t in range(2)]
    weight = merged(kernel, (2, 2))  # (4, 2, 2, 2)
    assert weight.shape == (4, 2, 2, 2)
    assert weight[3, 1].tolist() == [[109, 111], [113, 115]] and weight[0, 0].tolist() == [[0, 2], [4, 6]]


def test_nets_of_one_tower(tmp_path, narrow):
    half = net145(towers="a")
    found = read_convnet(written(tmp_path / "1.1", half))
    assert found.likely == "half" and found.sources["fc7.weight"] == "fc4096ba[0] · 0.5: transposed"
    assert {n: tuple(value.shape) for n, value in found.tensors.items()} == shapes(narrow["conv1a",], CLASSES)
    one = net223()
    found = read_convnet(written(tmp_path / "1.2", one, "python_util.options"))
    assert found.likely == "onetower" and found.sources["fc8.weight"] == "fc1000[0] · 0.5: transposed"
    assert {n: tuple(value.shape) for n, value in found.tensors.items()} == shapes(narrow["conv1",], CLASSES)
    # its other dropout scales in training, as ours does
    one["dropout1"]["type"] = "dropout"
    found = read_convnet(written(tmp_path / "1.3", one, "python_util.options"))
    assert found.sources["fc7.weight"] == "fc4096b[0]: transposed"
    assert torch.equal(found.tensors["fc7.weight"], torch.from_numpy(one["fc4096b"]["weights"][0].T.copy()))


def test_a_list_of_layers_whose_inputs_are_numbers(tmp_path, narrow):
    """As cuda-convnet's first version had them."""
    layers = net145()
    expected = read_convnet(written(tmp_path / "1.1", layers)).tensors
    order = list(layers)
    for layer in layers.values():
        if "inputs" in layer:
            layer["inputs"] = [order.index(one) for one in layer["inputs"]]
    found = read_convnet(written(tmp_path / "1.2", [*layers.values()]))
    assert all(torch.equal(found.tensors[name], value) for name, value in expected.items())


def test_the_newest_of_a_folder(tmp_path, narrow):
    folder = tmp_path / "ConvNet__2012-09-13_20.06.11"
    folder.mkdir()
    for name, value in (("9.900", 1), ("10.20", 2), ("10.3", 3), ("tmpA1", 4), ("11.x", 5)):
        layers = net223()
        layers["conv1"]["biases"][:] = value
        written(folder / name, layers)
    assert set(read_convnet(folder).tensors["conv1.bias"].tolist()) == {2}
    for name in ("9.900", "10.20", "10.3"):
        (folder / name).unlink()
    with pytest.raises(WeightsError, match="ConvNet__.*EPOCH.BATCH"):
        read_convnet(folder)


def changed(layer, **fields):
    def change(layers):
        layers[layer] |= fields

    return change


def renamed(layers):
    layers["conv9"] = layers.pop("conv1a") | {"name": "conv9"}


def exchange_towers(layers):
    """conv2 of each tower sees the other: a network, but none of ours."""
    layers["conv2a"]["inputs"], layers["conv2b"]["inputs"] = layers["conv2b"]["inputs"], layers["conv2a"]["inputs"]


def transposed(layers):
    layers["fc2048a"]["weights"][1] = layers["fc2048a"]["weights"][1].T


def apart(layers):
    """As net 150: no tower sees the other."""
    layers["conv3b"] |= {"inputs": ["pool2b"], "weights": layers["conv3b"]["weights"][:1]}


def no_number(layers):
    layers["conv4b"]["weights"][0][3, 5] = np.nan


def without_norm(layers):
    """As net 148."""
    layers["pool1a"]["inputs"] = ["conv1a"]


WRONG = {
    "another geometry of pooling, as net 147": (changed("pool1b", sizeX=2), r"pool1b \(pool1\): its sizeX is 2.0, exp"),
    "no normalisation": (without_norm, r"conv1a \(conv1\): its type is conv, expected cmrnorm"),
    "another alpha": (changed("rnorm2a", scale=1e-4), r"rnorm2a \(norm2\): its scale is 0.0001, expected 2e-05"),
    "another k": (changed("rnorm2a", minDiv=1.0), r"rnorm2a \(norm2\): its minDiv is 1.0, expected 2.0"),
    "another neuron": (changed("conv3b_neuron", neuron={"type": "tanh"}), r"\(relu3\): its neuron is tanh, exp"),
    "another padding": (changed("conv5a", padding=[0]), r"conv5a \(conv5\): its padding is 0.0, expected -1"),
    "another side": (changed("conv1a", imgSize=[99]), r"conv1a \(conv1\): its imgSize is 99.0, expected 96"),
    "paddings that differ": (changed("conv3a", padding=[-1, -2]), r"conv3a \(conv3\): its padding is None"),
    "another share kept": (changed("hs2a", keep=0.7), r"hs2a \(drop7\): its keep is 0.7, expected 0.5"),
    "towers exchanged": (exchange_towers, r"conv2a \(conv2\): its input 0 comes from conv1b, expected conv1a"),
    "one input twice": (changed("fc1000", inputs=["hs2a", "hs2a"]), r"fc1000 \(fc8\): its input 1 comes from fc2048ba"),
    "towers apart": (apart, r"conv3b \(conv3\): 1 inputs, expected 2"),
    "a transposed fc6": (
        transposed,
        r"fc2048a \(fc6\): its weights are float32 \(32, 64\), expected float32 \(64, 32\)",
    ),
    "one tower's layer missing": (lambda layers: layers.pop("conv4b"), "conv4 is conv4a, expected one in each tower"),
    "a layer missing": (lambda layers: layers.pop("fc1000"), "fc8 is missing"),
    "an input missing": (lambda layers: layers.pop("rnorm1b"), r"rnorm1b \(norm1\): missing"),
    "another network": (renamed, "no AlexNet of cuda-convnet: its layers are data, labels, rnorm1a"),
    "no weights": (changed("conv2b", weights=None), r"conv2b \(conv2\): its weights are no array"),
    "too few matrices": (changed("conv3b", weights=[]), r"conv3b \(conv3\): its weights are no array"),
    "unshared biases": (changed("conv2b", biases=np.zeros((16 * 121, 1), np.float32)), r"conv2b .*biases are float32"),
    "whole numbers": (changed("conv2b", biases=np.zeros((16, 1), np.int32)), r"conv2b \(conv2\): its biases are int32"),
    "no number": (no_number, r"conv4b \(conv4\): its weights hold values that are not finite"),
    "infinite": (changed("fc1000", biases=np.full((1, 10), np.inf, np.float32)), r"fc1000 \(fc8\): its biases hold"),
    "no inputs": (changed("conv2a", inputs=None), r"conv2a \(conv2\): no list of its inputs"),
    "inputs that are no layers": (changed("conv2a", inputs=[[1]]), r"conv2a \(conv2\): its inputs are no layers"),
    "an array for an input": (changed("conv2a", inputs=[np.zeros(3)]), r"conv2a \(conv2\): its inputs are no layers"),
    "a circle": (changed("pool1a_neuron", inputs=["pool1a_neuron"]), r"\(relu1\): its type is neuron, expected pool"),
    "a type that is none": (changed("conv2a", type=[1, 2]), r"conv2a \(conv2\): its type is None, expected conv"),
    "a huge number": (changed("conv2a", stride=2.0**70), r"conv2a \(conv2\): its stride is None, expected 1"),
    "no classes": (changed("fc1000", outputs=-1), r"fc1000 \(fc8\): its outputs are no number of"),
    "a name that is not its": (changed("conv2a", name=5), "no checkpoint of cuda-convnet"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(tmp_path, narrow, name):
    change, says = WRONG[name]
    layers = net145()
    change(layers)
    with pytest.raises(WeightsError, match=says) as caught:
        read_convnet(written(tmp_path / "90.1261", layers))
    said = str(caught.value)
    assert caught.value.code == 4 and said.startswith(str(tmp_path / "90.1261")) and said.isprintable()
    assert len(said) < 400


@pytest.mark.parametrize("value", [{}, [], 3, {"model_state": 3}, {"model_state": {"layers": "conv1"}},
                                   {"model_state": {"layers": {"conv1": 3}}}, {"model_state": {"layers": [{}, 1]}}])  # fmt: skip
def test_another_pickle_is_refused(tmp_path, value):
    (tmp_path / "x").write_bytes(dumps(value))
    with pytest.raises(WeightsError, match="x: no checkpoint of cuda-convnet"):
        read_convnet(tmp_path / "x")


def test_no_layers(tmp_path):
    (tmp_path / "x").write_bytes(dumps({"model_state": {"layers": {}}}))
    with pytest.raises(WeightsError, match="no AlexNet of cuda-convnet: its layers are none"):
        read_convnet(tmp_path / "x")


def test_the_mean_image(tmp_path):
    """data_mean is a column of c, y, x, Fortran's order kept."""
    image = np.random.default_rng(0).uniform(90, 140, (3, 8, 8)).astype(np.float32)
    meta = {"data_mean": np.asfortranarray(image.reshape(-1, 1)), "label_names": ["tench", "goldfish"], "num_vis": 192}
    (tmp_path / "batches.meta").write_bytes(dumps(meta))
    mean = read_convnet_mean(tmp_path / "batches.meta")
    assert mean.dtype == np.float32 and mean.flags.c_contiguous and np.array_equal(mean, image.transpose(1, 2, 0))
    for wrong, says in (
        (image.reshape(-1, 1)[:-3], "square image"),
        (image.reshape(8, 8, 3), "square image"),
        (np.zeros((0, 1), np.float32), "square image"),
        (image.reshape(-1, 1) - 100, "not in 0..255"),
        (image.reshape(-1, 1) * np.float32("nan"), "not in 0..255"),
        (np.zeros((192, 1), np.uint8), "no array of numbers"),
        ([1.0], "no array of numbers"),
    ):
        (tmp_path / "batches.meta").write_bytes(dumps({"data_mean": wrong}))
        with pytest.raises(WeightsError, match=f"batches.meta: .*{says}"):
            read_convnet_mean(tmp_path / "batches.meta")
    (tmp_path / "x").write_bytes(dumps([image]))
    with pytest.raises(WeightsError, match="no batches.meta"):
        read_convnet_mean(tmp_path / "x")


EVIL = {
    "a call under a name of theirs": lambda c: b"coptions\nEvil\n(" + text(c) + b"tR",
    "a call of one of their classes": lambda c: b"coptions\nOption\n(" + text(c) + b"tR",
    "a call of the system": lambda c: b"cposix\nsystem\n(" + text(c) + b"tR",
    "a call of a builtin": lambda c: b"c__builtin__\neval\n(" + text(f"__import__('os').system({c!r})") + b"tR",
    "an instance of the system's": lambda c: b"(cposix\nsystem\n" + text(c) + b"o",
    "an instance by name": lambda c: b"(" + text(c) + b"iposix\nsystem\n",
    "a name through theirs": lambda c: b"coptions\nos.system\n(" + text(c) + b"tR",
    "state that is a call": lambda c: b"(coptions\nOption\no}" + text("x") + b"cposix\nsystem\n(" + text(c) + b"tRsb",
    "a name of another module": lambda _: b"cutil\nunpickle\n",
    "a new-style object": lambda _: b"coptions\nOption\n)\x81",
}


def put(layers, where, value):
    """A checkpoint with a value in one of its places."""
    op = options()
    if where == "op":
        op.state["options"]["gpu"].state["value"] = value
    else:
        layers["fc1000"][where] = value
    return dumps({"model_state": {"layers": layers}, "op": op})


@pytest.mark.parametrize("where", ["op", "inputLayers", "weights", "comment"])
@pytest.mark.parametrize("name", EVIL)
def test_nothing_runs(tmp_path, narrow, name, where):
    canary = tmp_path / CANARY
    (tmp_path / "90.1261").write_bytes(put(net223(), where, Raw(EVIL[name](f"touch {canary}"))))
    with pytest.raises(WeightsError, match="90.1261: not read: ") as caught:
        read_convnet(tmp_path / "90.1261")
    assert caught.value.code == 4 and str(caught.value).isprintable() and not canary.exists()
    with pytest.raises(WeightsError):
        read_convnet_mean(tmp_path / "90.1261")
    assert not canary.exists()


def laughs(times):
    """Lists of ten times the list before, that has gone from the stack."""
    at = [struct.pack("<I", 900 + n) for n in range(times)]
    return b"]r" + at[0] + b"".join(b"0](" + (b"j" + a) * 10 + b"er" + b for a, b in itertools.pairwise(at))


BOMBS = {"deep": b"]" * 200_000 + b"a" * 199_999, "a deep tuple": b")" + b"\x85" * 200_000, "laughs": laughs(20)}


@pytest.mark.parametrize("name", BOMBS)
def test_what_is_too_deep_or_too_often(tmp_path, narrow, name):
    """Refused where it would be looked at; where nothing looks it is dropped."""
    layers = net223()
    (tmp_path / "90.1261").write_bytes(put(layers, "comment", Raw(BOMBS[name])))
    with pytest.raises(WeightsError, match="90.1261: not read: values within values, too deep or too often") as caught:
        read_convnet(tmp_path / "90.1261")
    assert caught.value.code == 4
    for where in ("op", "inputLayers"):
        (tmp_path / "90.1261").write_bytes(put(net223(), where, Raw(BOMBS[name])))
        assert read_convnet(tmp_path / "90.1261").likely == "onetower"


ODD = [None, True, -1, 0, 1 << 30, float("nan"), "", "conv1a", b"\xff", [], [[]], [0, "x"], {}, {"type": []}, (1, 2),
       np.zeros((0, 3)), np.zeros(3, np.float32), np.array("x", object), [np.zeros((2, 2), ">f8")], {"name": {}}]  # fmt: skip


def test_whatever_stands_in_a_field_is_read_or_refused(tmp_path, narrow):
    """Seeded: any of a layer's words exchanged for what it cannot be."""
    draw, refused, reads = np.random.default_rng(7), 0, 0
    for _ in range(400):
        layers = net145()
        layer = layers[str(draw.choice(list(layers)))]
        layer[str(draw.choice(list(layer)))] = ODD[draw.integers(len(ODD))]
        try:
            read_convnet(written(tmp_path / "90.1261", layers))
            reads += 1
        except WeightsError as reason:
            refused += 1
            assert str(reason).isprintable() and "\n" not in str(reason)
    assert refused > 100 and reads > 100


def test_any_change_is_read_or_refused(tmp_path, narrow):
    """Seeded: bytes exchanged, cut and doubled."""
    draw, content, refused = np.random.default_rng(7), checkpoint(net145()), 0
    for _ in range(100):
        made = bytearray(content)
        for at in draw.integers(0, len(made), 4):
            made[at : at + draw.integers(2)] = made[at : at + draw.integers(30)]
        (tmp_path / "90.1261").write_bytes(made)
        try:
            read_convnet(tmp_path / "90.1261")
        except WeightsError as reason:
            refused += 1
            assert str(reason).isprintable()
    assert refused > 30
