"""The graph of every variant, by ONNX Runtime, beside the module that it was made of."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from alexnet.network.build import AlexNet, build
from alexnet.network.variants import VARIANTS, AdaptivePool, BatchNorm
from alexnet.weights import onnx as room
from alexnet.weights.onnx import IMAGES, LOGITS, graph

TOLERANCE = 1e-5  # of the largest logit


def lively(name: str) -> tuple[AlexNet, torch.Tensor]:
    """A network none of whose parameters is 0 or 1, and pictures that a normalization does not leave alone."""
    net = build(name, 7, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    side = net.variant.side
    return net, torch.randn(3, 3, side, side, generator=generator) * 100 * net.variant.scale


@pytest.mark.parametrize("name", VARIANTS)
def test_a_graph_is_its_network(name):
    net, images = lively(name)
    made = graph(net)
    onnx.checker.check_model(made)
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (3, 1):
        (logits,) = session.run([LOGITS], {IMAGES: images[:count].numpy()})
        with torch.inference_mode():
            expected = net(images[:count]).numpy()
        assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_a_wrong_alpha_is_seen(monkeypatch):
    net, images = lively("paper")
    with torch.inference_mode():
        expected = net(images).numpy()
    row = next(row for row in net.variant.layers if row.kind == "lrn")
    wrong = onnx.helper.make_node("LRN", ["x"], ["y"], size=row.size, alpha=row.alpha, beta=row.beta, bias=row.k)
    made = graph(net)
    for node in made.graph.node:
        if node.op_type == "LRN":
            del node.attribute[:]
            node.attribute.extend(wrong.attribute)
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run([LOGITS], {IMAGES: images.numpy()})
    assert np.abs(logits - expected).max() > TOLERANCE * np.abs(expected).max()


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
