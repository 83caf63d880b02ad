"""Exported files: what they hold, what reads them back, and what torchvision makes of them."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from alexnet.data.augment import Normalise
from alexnet.data.augment import test_views as views_of
from alexnet.data.classes import Classes
from alexnet.data.preprocess import to_json
from alexnet.errors import UsageError
from alexnet.network.build import AlexNet
from alexnet.network.variants import VARIANTS, Variant
from alexnet.weights import export as room
from alexnet.weights import onnx as onnx_room
from alexnet.weights.export import SUFFIX, export
from alexnet.weights.metadata import read_texts
from alexnet.weights.onnx import read_onnx
from alexnet.weights.recognise import read_model
from alexnet.weights.run import Loaded, preprocess_of
from alexnet.weights.tensors import read_metadata
from tests.networks import apart, images, lively, rows_before_channels, small
from tests.weights.test_onnx import expected_of, ran


def loaded(variant: Variant) -> Loaded:
    net, preprocess = lively(variant), preprocess_of(variant)
    mean = np.random.default_rng(3).uniform(90, 160, (preprocess.stored, preprocess.stored, 3)).astype(np.float32)
    classes = Classes.of(f"class {i}" for i in range(net.classes))
    return Loaded("run", net, preprocess, mean if preprocess.mean == "mean.npy" else None, classes, None)


def pixels_and_views(given: Loaded) -> tuple[torch.Tensor, torch.Tensor]:
    """The crops at the centre of random pictures, uint8 (B, side, side, 3); and what the road makes of them."""
    p = given.preprocess
    pictures = torch.randint(0, 256, (3, p.stored, p.stored, 3), generator=torch.Generator().manual_seed(0)).byte()
    edge = (p.stored - p.side) // 2
    crops = pictures[:, edge : edge + p.side, edge : edge + p.side].contiguous()
    return crops, views_of(pictures, Normalise(p, given.mean, torch.device("cpu")), views=1).contiguous()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_onnx_file_is_the_network(name, whole, tmp_path, monkeypatch):
    table = VARIANTS[name] if whole else small(VARIANTS[name])
    monkeypatch.setattr(onnx_room, "VARIANTS", {**VARIANTS, name: table})
    given = loaded(table)
    (path,) = export(given, tmp_path / "m.onnx", "onnx")
    crops, views = pixels_and_views(given)
    expected = expected_of(given.model, views)
    assert apart(ran(path, views.numpy()), expected) <= 1e-4
    back = read_onnx(path)
    assert back.likely == name and back.classes == given.classes and back.notes == ()
    assert back.preprocess == onnx_room.fields(given.preprocess)
    assert (back.mean is None and given.mean is None) or np.array_equal(back.mean, given.mean)
    assert all(torch.equal(value, back.tensors[key]) for key, value in given.model.state_dict().items())
    again = AlexNet(table, 7).eval()
    again.load_state_dict(back.tensors)
    (second,) = export(
        Loaded("run", again, given.preprocess, back.mean, given.classes, None), tmp_path / "n.onnx", "onnx"
    )
    assert second.read_bytes() == path.read_bytes()
    (path,) = export(given, path, "onnx", pixels=True, softmax=True)
    onnx.checker.check_model(path)
    assert apart(ran(path, crops.numpy(), "probabilities"), expected.softmax(1)) <= 1e-4
    back = read_onnx(path)
    assert back.likely == name
    assert all(torch.equal(value, back.tensors[key]) for key, value in given.model.state_dict().items())


# towers; a norm within a map; BGR, and a mean colour
FEW = ("tiny", "convnet", "onnxzoo")


@pytest.mark.parametrize("name", [one if one in FEW else pytest.param(one, marks=pytest.mark.slow) for one in VARIANTS])
def test_a_program_of_torch_has_plain_operations_only(name, tmp_path):
    given = loaded(small(VARIANTS[name]))
    crops, views = pixels_and_views(given)
    expected = expected_of(given.model, views)
    for pixels in (False, True):
        (path,) = export(given, tmp_path / "m.pt2", "torch-export", pixels=pixels, softmax=pixels)
        said = {"preprocess.json": ""}
        program = torch.export.load(path, extra_files=said)
        targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
        assert {target.namespace for target in targets if isinstance(target, torch._ops.OpOverload)} == {"aten"}
        assert json.loads(said["preprocess.json"]) == json.loads(json.dumps(to_json(given.preprocess)))
        run, x = program.module(), crops if pixels else views
        for count in (1, 3):
            wanted = expected[:count].softmax(1) if pixels else expected[:count]
            assert apart(run(x[:count]).detach(), wanted) <= 1e-4


def test_our_own_operation_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_Plain", AlexNet)
    (path,) = export(loaded(VARIANTS["tiny"]), tmp_path / "m.pt2", "torch-export")
    program = torch.export.load(path)
    assert "alexnet" in {getattr(node.target, "namespace", "") for node in program.graph.nodes}


@pytest.mark.parametrize("name", ["tiny", "bn"])
def test_safetensors_are_the_state_bit_for_bit(name, tmp_path):
    given = loaded(VARIANTS[name])
    (path,) = export(given, tmp_path / "m.safetensors", "safetensors")
    found = read_model(path, "safetensors")
    tensors = load_file(path)
    assert found.variant.name == name
    assert all(torch.equal(value, tensors[key]) for key, value in given.model.state_dict().items())
    preprocess, mean, classes = read_texts(read_metadata(path), path)
    assert (preprocess, classes) == (given.preprocess, given.classes)
    assert (mean is None and given.mean is None) or np.array_equal(mean, given.mean)


def test_the_largest_mean_image_fits_into_a_header(tmp_path):
    given = loaded(small(VARIANTS["caffe"]))
    (path,) = export(given, tmp_path / "m.safetensors", "safetensors")
    _, mean, _ = read_texts(read_metadata(path), path)
    assert mean is not None and np.array_equal(mean, given.mean)


def test_what_is_refused(tmp_path, monkeypatch):
    given = loaded(VARIANTS["tiny"])
    for kind, asked, match in [
        (
            "tflite",
            {},
            "--format tflite: unknown; known are onnx, torch-export, safetensors, openvino, torchvision, caffe",
        ),
        ("safetensors", {"pixels": True}, "weights alone, so neither --uint8 nor --softmax"),
        ("torchvision", {"softmax": True}, "weights alone, so neither --uint8 nor --softmax"),
        ("torch-export", {"calibration": lambda: images(VARIANTS["tiny"], 2)}, "not with --int8"),
        ("torchvision", {}, "run is of variant tiny"),
    ]:
        with pytest.raises(UsageError, match=match):
            export(given, tmp_path / "m", kind, **asked)
        assert not list(tmp_path.iterdir())
    for kind in set(SUFFIX) - set(room.OF):
        for name in ("picture.png", "m.bin", "m"):
            with pytest.raises(UsageError, match=f"^--out .*{name}: expected a name that ends in {SUFFIX[kind]}, "):
                export(given, tmp_path / name, kind)
            assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="cannot be written"):
        export(given, tmp_path / "nowhere" / "m.onnx", "onnx")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match="openvino is not installed"):
        export(given, tmp_path / "m.xml", "openvino")


def test_every_format_has_a_suffix():
    assert set(SUFFIX) == set(room.get_args(room.Format))


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """torchvision's own network, with random weights and biases."""
    from torchvision.models import alexnet

    net = alexnet(num_classes=7).eval()
    ours = lively(VARIANTS["torchvision"])
    names = room.their_names(ours.state_dict())
    net.load_state_dict({names[name]: value for name, value in ours.state_dict().items()})
    return net


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, "channels", "flatten", "padding"])
def test_our_file_is_torchvisions_network(fault, theirs, tmp_path):
    given = loaded(VARIANTS["torchvision"])
    (path,) = export(given, tmp_path / "m.safetensors", "torchvision")
    state = load_file(path)
    assert read_model(path, "safetensors").variant.name == "torchvision"
    if fault == "channels":
        state["features.3.weight"] = state["features.3.weight"].roll(96, 0)
    if fault == "flatten":
        state["classifier.1.weight"] = rows_before_channels(state["classifier.1.weight"], 256)
    net = type(theirs)(num_classes=7).eval()
    net.load_state_dict(state)
    if fault == "padding":
        net.features[0].padding = (0, 0)
    x = images(VARIANTS["torchvision"], 2)
    with torch.inference_mode():
        far = apart(net(x), given.model(x))
    assert far <= 1e-4 if fault is None else far > 0.01


@pytest.mark.slow
def test_torchvisions_own_export_is_read(theirs, tmp_path):
    path, x = tmp_path / "theirs.onnx", images(VARIANTS["torchvision"], 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's age: the newer one needs another package
        torch.onnx.export(theirs, (x,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "B"}})
    back = read_onnx(path)
    assert back.likely == "torchvision" and back.sources["conv1.weight"] == "features.0.weight"
    net = AlexNet(VARIANTS["torchvision"], 7).eval()
    net.load_state_dict(back.tensors)
    with torch.inference_mode():
        assert apart(net(x), theirs(x)) <= 1e-4
    names = room.their_names(back.tensors)
    assert all(torch.equal(theirs.state_dict()[names[name]], value) for name, value in back.tensors.items())


def test_an_export_of_torchvisions_is_read_small(tmp_path, monkeypatch):
    table = small(VARIANTS["torchvision"])
    monkeypatch.setattr(onnx_room, "VARIANTS", {"torchvision": table})
    net = lively(table)
    maps = [m for row in table.layers for m in _module(row, net)]
    flat = next(i for i, m in enumerate(maps) if isinstance(m, torch.nn.Linear)) - 1  # with the dropout before it
    whole = torch.nn.Sequential(*maps[:flat], torch.nn.Flatten(), *maps[flat:]).eval()
    path, x = tmp_path / "theirs.onnx", images(table, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(whole, (x,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "B"}})
    back = read_onnx(path)
    assert back.likely == "torchvision"
    assert all(torch.equal(value, back.tensors[key]) for key, value in net.state_dict().items())


def _module(row, net: AlexNet) -> list[torch.nn.Module]:
    match row.kind:
        case "conv" | "linear":
            return [net.get_submodule(row.name)]
        case "relu":
            return [torch.nn.ReLU()]
        case "max_pool":
            return [torch.nn.MaxPool2d(row.kernel, row.stride)]
        case "adaptive_pool":
            return [torch.nn.AdaptiveAvgPool2d(row.side)]
        case _:
            return [torch.nn.Dropout(row.p)]


def test_int8_has_the_preparation_and_the_softmax_too(tmp_path):
    given = loaded(VARIANTS["tiny"])
    crops, views = pixels_and_views(given)
    (path,) = export(given, tmp_path / "m.onnx", "onnx", pixels=True, softmax=True, calibration=lambda: views)
    assert {node.op_type for node in onnx.load(path).graph.node} >= {"DequantizeLinear", "Cast", "Softmax", "LRN"}
    found, expected = ran(path, crops.numpy(), "probabilities"), expected_of(given.model, views).softmax(1)
    assert float((found - expected).abs().max()) < 0.1
    assert path.stat().st_size < sum(p.nbytes for p in given.model.parameters()) / 2
    (plain,) = export(given, Path(tmp_path / "p.onnx"), "onnx", pixels=True, softmax=True)
    assert not torch.equal(ran(plain, crops.numpy(), "probabilities"), found)
