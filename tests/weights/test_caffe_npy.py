"""caffe-tensorflow's files, converted here as it converts, against a pass in NumPy whose maps lie as (y, x, c)."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from alexnet.errors import WeightsError
from alexnet.network.build import build
from alexnet.network.cost import shapes
from alexnet.network.variants import CAFFE, Conv, Linear, Pad
from alexnet.weights.caffe_npy import read_caffe_npy
from tests.strangers import CANARY, text
from tests.weights.python2 import Raw, npy

CLASSES = 10
WIDTHS = iter((16, 32, 48, 48, 32))
SMALL = dataclasses.replace(
    CAFFE,
    side=99,
    layers=tuple(
        dataclasses.replace(row, out=next(WIDTHS)) if isinstance(row, Conv)
        else dataclasses.replace(row, out=64) if isinstance(row, Linear) and row.out
        else row
        for row in CAFFE.layers
    ),
)  # fmt: skip


def caffe(variant, classes):
    """Caffe's blobs, drawn: (out, c, k, k), fc6's inputs as c, y, x."""
    draw = np.random.default_rng(0)
    blobs = {}
    for name, shape in shapes(variant, classes).items():
        std = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.5
        blobs.setdefault(name.partition(".")[0], []).append(draw.normal(0, std, shape).astype(np.float32))
    return blobs


def converted(blobs):
    """As DataReshaper of kaffe/core.py does: convolutions by (2, 3, 1, 0), fc6 as one of pool5's maps."""
    made = {}
    for name, (weight, bias) in blobs.items():
        if name == "fc6":
            maps = len(blobs["conv5"][1])
            side = math.isqrt(weight.shape[1] // maps)
            spatial = weight.reshape(len(weight), maps, side, side).transpose(2, 3, 1, 0)
            made[name] = [spatial.reshape(weight.shape[::-1]), bias]
        else:
            made[name] = [weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T, bias]
    return made


def conv(x, w, b, stride=1, pad=0, groups=1):
    """(h, w, c) with (k, k, c / groups, out) -> (h', w', out), as myalexnet_forward.py does it with TensorFlow."""
    k = len(w)
    x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    made = []
    for part, kernel in zip(np.split(x, groups, 2), np.split(w, groups, 3), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(part, (k, k), (0, 1))[::stride, ::stride]  # (h, w, c, k, k)
        made.append(np.tensordot(windows, kernel, ((3, 4, 2), (0, 1, 2))))
    return np.concatenate(made, 2) + b


def normed(x):
    """TensorFlow's, with radius 2, alpha 2e-5, beta .75 and bias 1, over all maps."""
    square = np.pad(x**2, ((0, 0), (0, 0), (2, 2)))
    return x * (1 + 2e-5 * sum(square[:, :, n : n + x.shape[2]] for n in range(5))) ** -0.75


def pooled(x):
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), (0, 1))[::2, ::2].max((3, 4))


def passed(layers, image):
    """One image (side, side, 3), blue first, in float64 -> activations (h, w, c) or (n,)."""
    w = {name: [part.astype(np.float64) for part in parts] for name, parts in layers.items()}
    had = {"conv1": conv(image, *w["conv1"], stride=4)}
    x = had["norm1"] = normed(np.maximum(had["conv1"], 0))
    x = had["conv2"] = conv(pooled(x), *w["conv2"], pad=2, groups=2)
    x = had["pool2"] = pooled(normed(np.maximum(x, 0)))
    x = had["conv3"] = conv(x, *w["conv3"], pad=1)
    x = had["conv4"] = conv(np.maximum(x, 0), *w["conv4"], pad=1, groups=2)
    x = had["conv5"] = conv(np.maximum(x, 0), *w["conv5"], pad=1, groups=2)
    x = had["pool5"] = pooled(np.maximum(x, 0))
    for name in ("fc6", "fc7", "fc8"):
        x = had[name] = np.maximum(x, 0).ravel() @ w[name][0] + w[name][1]
    return had


def differences(tensors, variant, layers):
    image = np.random.default_rng(1).uniform(-120, 130, (variant.side, variant.side, 3))
    model = build(variant, len(tensors["fc8.bias"])).double().eval()
    model.load_state_dict(tensors)
    expected = passed(layers, image)
    with torch.inference_mode():
        ours = model.trace(torch.from_numpy(image.transpose(2, 0, 1).copy())[None], list(expected))
    of_layers = {}
    for name, one in expected.items():
        ours_there = ours[name][0].numpy()
        ours_there = ours_there.transpose(1, 2, 0) if one.ndim == 3 else ours_there
        of_layers[name] = np.abs(ours_there - one).max() / np.abs(one).max()
    return of_layers


def written(path, layers):
    path.write_bytes(npy(layers))
    return path


def test_the_network_is_caffes(tmp_path):
    blobs = caffe(SMALL, CLASSES)
    layers = converted(blobs)
    found = read_caffe_npy(written(tmp_path / "x.npy", layers), variant=SMALL)
    assert found.likely == "caffe" and not found.preprocess and CAFFE.colour == "BGR"
    assert list(found.tensors) == list(found.sources) == list(shapes(SMALL, CLASSES))
    for name, (weight, bias) in blobs.items():
        assert np.array_equal(found.tensors[f"{name}.weight"], weight) and np.array_equal(
            found.tensors[f"{name}.bias"], bias
        )
    assert found.sources["conv2.weight"] == "conv2[0]: y, x, c, out to out, c, y, x"
    assert found.sources["fc6.weight"] == "fc6[0]: y, x, c, out to out, c, y, x"
    assert found.sources["fc7.weight"] == "fc7[0]: transposed" and found.sources["fc7.bias"] == "fc7[1]"
    of_layers = differences(found.tensors, SMALL, layers)
    assert max(of_layers.values()) < 1e-12, of_layers
    # as later files have them
    named = {name: {"weights": weights, "biases": biases} for name, (weights, biases) in layers.items()}
    again = read_caffe_npy(written(tmp_path / "y.npy", named), variant=SMALL)
    assert all(torch.equal(again.tensors[name], value) for name, value in found.tensors.items())


def fc6_as_it_lies(tensors, layers):
    """fc6's rows left as y, x, c."""
    return {"fc6.weight": torch.from_numpy(layers["fc6"][0].T.copy())}


FAULTS = {
    "fc6 flattened otherwise": (fc6_as_it_lies, None, "fc6"),
    "kernels mirrored": (lambda t, _: {"conv3.weight": t["conv3.weight"].transpose(2, 3)}, None, "conv3"),
    "groups exchanged": (lambda t, _: {"conv4.weight": torch.cat(t["conv4.weight"].chunk(2)[::-1])}, None, "conv4"),
    "red first": (lambda t, _: {"conv1.weight": t["conv1.weight"].flip(1)}, None, "conv1"),
    "padding on one side": (None, {"conv2": {"pad": Pad(0, 4)}}, "conv2"),
    "normalised by towers": (None, {"norm1": {"towers": 2}}, "norm1"),
    "another k": (None, {"norm1": {"k": 2.0}}, "norm1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_seen_in_its_layer(tmp_path, name):
    change, numbers, layer = FAULTS[name]
    layers = converted(caffe(SMALL, CLASSES))
    tensors = read_caffe_npy(written(tmp_path / "x.npy", layers), variant=SMALL).tensors
    rows = tuple(dataclasses.replace(row, **(numbers or {}).get(row.name, {})) for row in SMALL.layers)
    made = tensors | (change(tensors, layers) if change else {})
    of_layers = differences(made, dataclasses.replace(SMALL, layers=rows), layers)
    before = list(of_layers)[: list(of_layers).index(layer)]
    assert of_layers[layer] > 0.01 and of_layers["fc8"] > 0.003, of_layers
    assert all(of_layers[name] < 1e-12 for name in before), of_layers


@pytest.mark.slow
def test_the_whole_bvlc_alexnet(tmp_path):
    layers = converted(caffe(CAFFE, 1000))
    found = read_caffe_npy(written(tmp_path / "bvlc_alexnet.npy", layers))
    assert {name: tuple(value.shape) for name, value in found.tensors.items()} == shapes(CAFFE, 1000)
    of_layers = differences(found.tensors, CAFFE, layers)
    assert max(of_layers.values()) < 1e-12, of_layers
    for change, _, layer in (FAULTS["fc6 flattened otherwise"], FAULTS["groups exchanged"], FAULTS["red first"]):
        assert differences(found.tensors | change(found.tensors, layers), CAFFE, layers)[layer] > 0.1


def part(name, index, made):
    """One array of a layer exchanged for what `made` makes of it."""

    def change(layers):
        layers[name][index] = made(layers[name][index])

    return change


def spoilt(value):
    def made(array):
        array = array.copy()
        array.flat[5] = value
        return array

    return made


WRONG = {
    "a missing fc8": (lambda layers: layers.pop("fc8"), "fc8 is missing"),
    "a layer more": (lambda layers: layers.update(conv6=layers["conv5"]), "the layer conv6 is not known"),
    "a name of another world": (lambda layers: layers.update({"r\xe9s": []}), "the layer rés is not known"),
    "a number for a name": (lambda layers: layers.update({7: []}), "the layer 7 is not known"),
    "no biases": (lambda layers: layers["fc7"].pop(), "fc7 is no pair of weights and biases"),
    "weights alone": (lambda layers: layers.update(fc7={"weights": layers["fc7"][0]}), "fc7 is no pair"),
    "text": (part("fc7", 0, lambda _: "text"), "fc7 is no pair"),
    "a transposed fc6": (part("fc6", 0, np.transpose), r"fc6 is \(64, 128\) and \(64,\), expected \(128, 64\) and"),
    "another fc6": (part("fc6", 0, lambda w: w[:64]), r"fc6 is \(64, 64\)"),
    "no groups": (
        part("conv2", 0, lambda w: np.concatenate([w, w], 2)),
        r"conv2 is \(5, 5, 16, 32\) and .* \(5, 5, 8, 32\)",
    ),
    "Caffe's own axes": (part("conv3", 0, lambda w: w.transpose(3, 2, 0, 1)), r"conv3 is \(48, 32, 3, 3\)"),
    "biases of other shape": (
        part("conv3", 1, lambda b: b[None]),
        r"conv3 is .* and \(1, 48\), expected .* and \(48,\)",
    ),
    "no classes": (lambda layers: layers.update(fc8=[np.zeros((64, 0)), np.zeros(0)]), r"fc8 is \(64, 0\) and \(0,\)"),
    "whole numbers": (part("conv1", 1, lambda b: b.astype(np.int32)), "conv1 holds .* no floating point"),
    "no number": (part("fc6", 0, spoilt(np.nan)), "fc6 holds values that are not finite"),
    "infinite": (part("conv5", 0, spoilt(-np.inf)), "conv5 holds values that are not finite"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(tmp_path, name):
    change, says = WRONG[name]
    layers = converted(caffe(SMALL, CLASSES))
    change(layers)
    with pytest.raises(WeightsError, match=says) as caught:
        read_caffe_npy(written(tmp_path / "x.npy", layers), variant=SMALL)
    said = str(caught.value)
    assert caught.value.code == 4 and said.startswith(str(tmp_path / "x.npy")) and said.isprintable()


@pytest.mark.parametrize("value", [{}, [], 3, {"layers": {}}, np.zeros(3), {"Conv1": []}])
def test_another_file_is_refused(tmp_path, value):
    with pytest.raises(WeightsError, match="x.npy: no model of caffe-tensorflow"):
        read_caffe_npy(written(tmp_path / "x.npy", value))


@pytest.mark.parametrize(
    "content",
    [
        lambda c: b"cposix\nsystem\n(" + text(c) + b"tR",
        lambda c: b"coptions\nEvil\n(" + text(c) + b"tR",
        lambda c: b"c__builtin__\neval\n(" + text(f"__import__('os').system({c!r})") + b"tR",
        lambda c: b"(" + text(c) + b"iposix\nsystem\n",
        lambda _: b"(coptions\nOption\no",
        lambda _: b"]" * 200_000 + b"a" * 199_999,
    ],
)
def test_nothing_runs(tmp_path, content):
    canary = tmp_path / CANARY
    layers = converted(caffe(SMALL, CLASSES))
    layers["fc8"][1] = Raw(content(f"touch {canary}"))
    with pytest.raises(WeightsError, match="x.npy: not read: ") as caught:
        read_caffe_npy(written(tmp_path / "x.npy", layers), variant=SMALL)
    assert caught.value.code == 4 and str(caught.value).isprintable() and not canary.exists()
