"""Another program's run of a file: what it is given of it, and what its agreement proves."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from alexnet.evaluation.oracle import compared
from alexnet.network.variants import TORCHVISION, VARIANTS
from alexnet.weights import onnx as onnx_room
from alexnet.weights.export import export
from alexnet.weights.foreign import Foreign
from alexnet.weights.onnx import graph
from alexnet.weights.run import Loaded, open_run
from alexnet.weights.torchvision import plain_name, their_names
from tests.networks import images, lively, small
from tests.weights.test_export import loaded
from tests.weights.test_onnx import products

LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]


def opened(made: ModelProto, folder: Path) -> tuple[Loaded, Path]:
    path = folder / "x.onnx"
    path.write_bytes(made.SerializeToString())
    return open_run(path), path


def off_the_way(made: ModelProto) -> None:
    """What no logit needs: products of more than any memory, the first of all nodes."""
    shape = numpy_helper.from_array(np.array([1 << 20, 1 << 20]), "vast.shape")
    made.graph.initializer.append(shape)
    value = helper.make_tensor("", TensorProto.FLOAT, [1], [1.0])
    vast = helper.make_node("ConstantOfShape", ["vast.shape"], ["vast"], value=value)
    nodes = [vast, *(helper.make_node("Gemm", ["vast", "vast"], [f"product{n}"]) for n in range(3)), *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)


def sparse(made: ModelProto) -> None:
    """The same, as a sparse tensor of one value."""
    one, first = (
        helper.make_tensor("vast", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("i", TensorProto.INT64, [1], [0]),
    )
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(one, first, [1 << 20, 1 << 20]))


@pytest.mark.parametrize("name", ["tiny", "convnet", "onnxzoo"])
@pytest.mark.parametrize("change", [lambda made: None, products, off_the_way, sparse])
def test_onnx_runtime_is_given_the_nodes_that_were_read(change, name, tmp_path, monkeypatch):
    table = small(VARIANTS[name])
    monkeypatch.setitem(onnx_room.VARIANTS, name, table)
    made = graph(lively(table))
    change(made)
    run, path = opened(made, tmp_path)
    notes = list(run.notes)
    found = compared(run, path, "onnx", images(table, 1))
    who, differences, why = found
    assert run.notes == notes and why is None
    assert who == "ONNX Runtime" and list(differences) == LAYERS and max(differences.values()) <= 1e-4


def test_a_shape_that_other_nodes_work_out_is_not_compared(tmp_path):
    made = graph(lively(VARIANTS["tiny"]))
    nodes, flat = list(made.graph.node), next(node for node in made.graph.node if node.op_type == "Flatten")
    shape = [helper.make_node("Shape", [made.graph.input[0].name], ["shape"])]
    flat.op_type, _ = "Reshape", flat.attribute.pop()
    flat.input.append("shape")
    del made.graph.node[:]
    made.graph.node.extend([*shape, *nodes])
    run, path = opened(made, tmp_path)
    notes = list(run.notes)
    found = compared(run, path, "onnx", images(VARIANTS["tiny"], 1))
    assert found.who is None and "works out a shape" in found.why and run.notes == notes


def test_why_nothing_is_compared_is_said(tmp_path, monkeypatch):
    given = loaded(VARIANTS["tiny"])
    x = images(VARIANTS["tiny"], 1)
    (path,) = export(given, tmp_path / "m.onnx", "onnx", pixels=True, softmax=True)
    assert "prepares its pictures itself" in compared(open_run(path), path, "onnx", x).why
    (path,) = export(given, tmp_path / "m.safetensors", "safetensors")
    assert "no other program is known" in compared(open_run(path), path, "safetensors", x).why
    run, path = opened(graph(given.model), tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = compared(run, path, "onnx", x)
    assert found == (None, {}, "ONNX Runtime, which runs such a file, is not installed")


def test_what_onnx_runtime_does_not_run_is_said(tmp_path):
    made = graph(lively(VARIANTS["tiny"]))
    run, path = opened(made, tmp_path)
    pool = next(node for node in made.graph.node if node.op_type == "Flatten")
    pool.attribute[0].i = 9  # no map has so many axes
    path.write_bytes(made.SerializeToString())
    assert compared(run, path, "onnx", images(VARIANTS["tiny"], 1)).why == "ONNX Runtime does not run it"
    assert run.notes[-1].startswith(f"{path}: ONNX Runtime does not run it: ")


@pytest.mark.parametrize(
    ("theirs", "plain"),
    [
        ("features.0.weight", "features.0.weight"),
        ("module.model.features.module.3.bias", "features.3.bias"),
        ("conv1.weight", None),
        ("features.0.weight_orig", None),
    ],
)
def test_torchvisions_own_names(theirs, plain):
    assert plain_name(theirs) == plain


def test_torchvision_is_given_the_tensors_by_the_files_names():
    """A table of names that exchanged two layers would be seen, which only the file's own names show."""
    given = loaded(TORCHVISION)
    state = given.model.state_dict()
    names = their_names(state)
    x = images(TORCHVISION, 1)
    for wrong in (False, True):
        sources = {ours: f"module.{theirs}" for ours, theirs in names.items()}
        if wrong:
            sources["fc6.bias"], sources["fc7.bias"] = sources["fc7.bias"], sources["fc6.bias"]
        run = replace(given, given=Foreign(state, sources), notes=[])
        found = compared(run, Path("x.pth"), "pth", x)
        assert found.who == "torchvision"
        seen = {name for name, value in found.differences.items() if value > 1e-3}
        assert ("fc6" in seen) == wrong and "conv5" not in seen and len(run.notes) == wrong
