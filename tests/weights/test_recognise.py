"""Model files as RUN: what is recognised, and what becomes of a file that is not what it should be."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
import torchvision
from safetensors.torch import save_file

import alexnet
from alexnet.data.classes import Classes, imagenet_classes
from alexnet.errors import AlexNetError, UsageError, WeightsError
from alexnet.evaluation.judge import judge
from alexnet.network.build import AlexNet, build
from alexnet.network.cost import shapes
from alexnet.network.variants import VARIANTS
from alexnet.weights import pth, recognise
from alexnet.weights.export import export
from alexnet.weights.onnx import graph
from alexnet.weights.recognise import kind_of, read_model
from alexnet.weights.run import is_run, open_run, preprocess_of
from tests.networks import lively, small
from tests.pictures import write_folder
from tests.strangers import CANARY, PTH
from tests.weights import test_caffe as caffes
from tests.weights.test_export import loaded


@pytest.fixture(scope="module")
def tiny() -> AlexNet:
    return build("tiny", classes=5, seed=1).eval()


def saved(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file({name: value.clone() for name, value in tensors.items()}, path)
    return path


def equal(model: AlexNet, tensors: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, tensors[name].float()) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", VARIANTS)
def test_the_shapes_of_a_variant_are_those_of_its_state(name):
    state = AlexNet(VARIANTS[name], 7).state_dict()
    assert shapes(VARIANTS[name], 7) == {key: tuple(value.shape) for key, value in state.items()}


# the variants that a state of each shape may be of
ALIKE = [
    {"paper", "convnet", "caffe", "caffenet", "onnxzoo"},
    {"onetower", "torchvision"},
    {"half"},
    {"article"},
    {"bn"},
    {"tiny"},
]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_told_by_its_shapes(name):
    there = shapes(VARIANTS[name], 7)
    alike = next(group for group in ALIKE if name in group)
    if len(alike) == 1:
        assert recognise._variant(there, "x", named=None, likely=None) == (VARIANTS[name], 7)
    else:
        with pytest.raises(UsageError, match=f"x: .*{name}.* alike.* --variant"):
            recognise._variant(there, "x", named=None, likely=None)
    assert recognise._variant(there, "x", named=name, likely=None) == (VARIANTS[name], 7)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "_orig_mod."])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_prefixes_and_precisions(tiny, tmp_path, prefix, kind):
    given = {name: value.to(kind) for name, value in tiny.state_dict().items()}
    path = saved(tmp_path / "x.safetensors", {prefix + name: value for name, value in given.items()})
    opened = open_run(path)
    assert opened.model.variant.name == "tiny" and equal(opened.model, given) and not opened.model.training
    assert all(value.dtype == torch.float32 for value in opened.model.state_dict().values())
    assert opened.preprocess == preprocess_of(VARIANTS["tiny"]) and opened.data is None
    assert opened.classes.keys == ("0", "1", "2", "3", "4") and opened.numbered
    assert [note for note in opened.notes if "mean image" in note]
    assert is_run(str(path)) and kind_of(path) == "safetensors"


def test_torchvisions_names_are_torchvisions_network(tmp_path):
    theirs = torchvision.models.alexnet(weights=None, num_classes=3).eval()
    opened = open_run(saved(tmp_path / "x.safetensors", theirs.state_dict()))
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        assert torch.allclose(opened.model(images), theirs(images), rtol=1e-4, atol=1e-4)
    assert opened.model.variant.name == "torchvision" and not opened.notes
    assert open_run(tmp_path / "x.safetensors", named="onetower").model.variant.name == "onetower"


@pytest.mark.parametrize("before", ["", "module."])
@pytest.mark.parametrize("within", ["", "module."])
def test_torchvisions_names_however_it_was_shared_out(before, within):
    """`features` alone was shared by several GPUs in the first programs, all of the network in others."""
    with torch.device("meta"):
        theirs = torchvision.models.alexnet(weights=None, num_classes=3).state_dict()
    shared = {before + name.replace("features.", f"features.{within}"): name for name in theirs}
    found = recognise._bare({name: tuple(theirs[short].shape) for name, short in shared.items()})
    ours = recognise.torchvision.our_names(found.values())
    assert len(ours) == 16 and sorted(ours.values()) == sorted(shapes(VARIANTS["torchvision"], 3))
    back = recognise.torchvision.their_names(ours.values())
    assert all(back[ours[found[name]]] == short for name, short in shared.items())


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["features.module.", "module.features.module."])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_shared_out_pytorch_file(prefix, kind, tmp_path):
    theirs = torchvision.models.alexnet(weights=None, num_classes=3).eval().to(kind)
    before = "module." if prefix.startswith("module.") else ""
    state = {
        (prefix + name.removeprefix("features.") if name.startswith("features.") else before + name): value
        for name, value in theirs.state_dict().items()
    }
    torch.save({"state_dict": state, "arch": "alexnet", "best_acc1": torch.tensor(56.5)}, tmp_path / "x.pth.tar")
    assert kind_of(tmp_path / "x.pth.tar") == "pth"
    opened = open_run(tmp_path / "x.pth.tar")
    assert opened.model.variant.name == "torchvision"
    names = recognise.torchvision.their_names(opened.model.state_dict())
    for name, value in opened.model.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[names[name]].float())


@pytest.mark.parametrize("name", ["paper", "convnet", "caffenet", "onnxzoo"])
def test_a_file_of_ours_says_what_it_is(name, tmp_path, monkeypatch):
    """Its variant among those of the same shapes, its classes with their words, its preparation and its mean image."""
    monkeypatch.setattr(recognise, "VARIANTS", {key: small(table) for key, table in VARIANTS.items()})
    monkeypatch.setitem(VARIANTS, name, small(VARIANTS[name]))
    given = loaded(VARIANTS[name])
    given.classes = Classes(("a", "b", "c", "d", "e", "f", "g"), tuple(f"word {n}" for n in range(7)))
    given.preprocess = replace(given.preprocess, exif=False, filter="bicubic")
    (path,) = export(given, tmp_path / "x.safetensors", "safetensors")
    opened = open_run(path)
    assert opened.model.variant.name == name and equal(opened.model, given.model.state_dict())
    assert opened.classes == given.classes and not opened.numbered and opened.notes == []
    assert opened.preprocess == given.preprocess
    assert (opened.mean is None and given.mean is None) or torch.equal(*map(torch.tensor, (opened.mean, given.mean)))
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])["__metadata__"]
    for key, value, says in (
        ("classes.json", '[{"key": "a", "words": "a"}]', "fc8 has 7 outputs, and classes.json 1 classes"),
        ("preprocess.json", "{}", "its metadata cannot be read"),
        (
            "preprocess.json",
            json.dumps(json.loads(header["preprocess.json"]) | {"side": 64}),
            "its pictures are of 64 pix",
        ),
        ("mean", "AAAA", "its metadata cannot be read") if "mean" in header else ("variant", "tiny", "alike"),
    ):
        save_file(given.model.state_dict(), path, header | {key: value})
        with pytest.raises(AlexNetError, match=says):
            open_run(path)


def test_a_kind_is_told_by_the_content(tmp_path):
    for name, content, expected in (
        ("a.bin", graph(lively(VARIANTS["tiny"])).SerializeToString(), "onnx"),
        (
            "b.bin",
            (Path(onnx.__file__).parent / "backend/test/data/light/light_bvlc_alexnet.onnx").read_bytes(),
            "onnx",
        ),
        (
            "c.bin",
            caffes.encoded(caffes.net("caffe", caffes.FULL), caffes.few(caffes.net("caffe", caffes.FULL))),
            "caffe",
        ),
        ("d.bin", caffes.encoded(caffes.net("caffe", caffes.FULL), {}, "old"), "caffe"),
        ("e.onnx", caffes.of_conv1(caffes.ONE), "caffe"),
        ("f.bin", caffes.blob(torch.ones(3, 4, 4).numpy(), "old"), None),  # a mean image
        ("g.txt", b"\n\x20words, and no number of them\n", None),
        ("h.bin", b"\n", None),
        ("i.caffemodel", b"\x12", "caffe"),
    ):
        (tmp_path / name).write_bytes(content)
        assert kind_of(tmp_path / name) == expected, name


def test_a_thousand_classes_are_imagenets(tmp_path):
    path = saved(tmp_path / "x.safetensors", build("tiny", classes=1000).state_dict())
    opened = open_run(path)
    assert opened.classes == imagenet_classes() and not opened.numbered


@pytest.mark.slow  # 244 MB
def test_the_published_weights_come_by_the_same_door(tmp_path, monkeypatch):
    theirs = torchvision.models.alexnet(weights=None).state_dict()
    torch.save(theirs, tmp_path / "x.pth")
    monkeypatch.setattr("alexnet.weights.run.published", lambda: tmp_path / "x.pth")
    opened = open_run("imagenet")
    assert opened.where == "imagenet" and opened.classes == imagenet_classes() and not opened.notes
    assert torch.equal(opened.model.get_parameter("fc8.bias"), theirs["classifier.6.bias"])


def test_published_weights_that_are_not_the_published_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"other")
    with pytest.raises(WeightsError, match="alexnet-owt-7be5be79.pth: not the file that torchvision published"):
        open_run("imagenet")


@pytest.mark.parametrize(
    ("wrap", "legacy"),
    [(lambda state: {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, False),
     (lambda state: {"model": {"state_dict": state}, "optimizer": {"state": {0: {"v": torch.zeros(3)}}}}, True)],
    ids=["zip", "legacy"],
)  # fmt: skip
def test_a_pytorch_file(tiny, tmp_path, monkeypatch, wrap, legacy):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    torch.save(wrap(tiny.state_dict()), tmp_path / "x.bin", _use_new_zipfile_serialization=not legacy)
    for name in ("torch.py", "safetensors.py", "json.py"):  # what the user's folder holds is not imported
        (tmp_path / name).write_text(f"open({str(tmp_path / CANARY)!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    opened = open_run("x.bin")
    assert not (tmp_path / CANARY).exists()
    assert equal(opened.model, tiny.state_dict()) and kind_of(tmp_path / "x.bin") == "pth"
    assert not list((tmp_path / "temporary").iterdir())


def test_the_file_of_a_checkpoint_is_the_checkpoint(tmp_path):
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "manifest.json").write_text("{}")
    saved(tmp_path / "step" / "model.safetensors", build("tiny", classes=2).state_dict())
    with pytest.raises(Exception, match="classes.json"):  # which a run has, and a model file has not
        open_run(tmp_path / "step" / "model.safetensors")


WRONG = {
    "a shape": (lambda s: s | {"conv2.weight": s["conv2.weight"][:, :5].clone()},
                "the nearest is tiny: conv2.weight is (32, 5, 5, 5), expected (32, 6, 5, 5)"),
    "two exchanged": (lambda s: s | {"fc6.weight": s["fc7.weight"], "fc7.weight": s["fc6.weight"]},
                      "fc6.weight is (512, 512), expected (512, 32); fc7.weight is (512, 32), expected (512, 512)"),
    "missing": (lambda s: {n: v for n, v in s.items() if n != "conv3.bias"}, "conv3.bias is missing"),
    "no last layer": (lambda s: {n: v for n, v in s.items() if "fc8" not in n}, "fc8.weight is missing; fc8.bias is"),
    "extra": (lambda s: s | {"fc9.weight": torch.zeros(2)}, "fc9.weight is not known"),
    "much": (lambda s: {n: v for n, v in s.items() if n.startswith("conv1")}, "; and 10 more"),
    "classes that differ": (lambda s: s | {"fc8.bias": torch.zeros(4)}, "fc8.bias is (4,), expected (5,)"),
    "a last layer that is a point": (lambda s: s | {"fc8.weight": torch.tensor(1.0)}, "fc8.weight is ()"),
    "a last layer of none": (lambda s: s | {"fc8.weight": torch.zeros(0, 512)}, "fc8.weight is (0, 512)"),
    "not a number": (lambda s: s | {"conv1.bias": torch.full((12,), float("nan"))}, "conv1.bias holds values that are not"),
    "too large for fp32": (lambda s: s | {"conv1.bias": torch.full((12,), 1e300, dtype=torch.float64)}, "not finite"),
    "whole numbers": (lambda s: s | {"conv1.bias": torch.zeros(12, dtype=torch.int32)}, "conv1.bias is torch.int32"),
    "another network": (lambda s: {"layer1.0.conv1.weight": torch.zeros(2)}, "no AlexNet: its tensors are called layer1"),
    "nothing": (lambda s: {}, "nothing: there are none"),
    "both names": (lambda s: s | {"features.0.weight": s["conv1.weight"]}, "two tensors are one layer's"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_does_not_fit_is_one_line(tiny, tmp_path, name):
    change, says = WRONG[name]
    path = saved(tmp_path / "x.safetensors", change(tiny.state_dict()))
    with pytest.raises(WeightsError) as caught:
        open_run(path)
    said = str(caught.value)
    assert caught.value.code == 4 and said.startswith(f"{path}: ") and says in said and "\n" not in said
    assert len(said) < 500


def test_a_variant_that_is_named_is_held_to(tiny, tmp_path):
    path = saved(tmp_path / "x.safetensors", tiny.state_dict())
    with pytest.raises(WeightsError, match="does not fit variant paper: conv1.weight is"):
        open_run(path, named="paper")
    with pytest.raises(UsageError, match="did you mean paper"):
        open_run(path, named="papper")
    with pytest.raises(UsageError, match="--variant paper: tiny is of variant tiny"):
        open_run("tiny", named="paper")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("flower", r"no variant of that name \(.*\); did you mean runs/flowers\?$"),
        ("runs/flower", r"^runs/flower: no such run folder or file; did you mean runs/flowers\?$"),
        ("papper", r"\); did you mean paper\?$"),
        ("flowers", r"\); runs/flowers is one$"),
        ("zebra.pth", r"^zebra\.pth: no such run folder or file$"),
        ("empty", r"onnxzoo, tiny\)$"),  # runs/empty is no run
    ],
)
def test_what_may_have_been_meant_is_said(tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    for name in ("flowers", "empty"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "flowers" / "recipe.json").write_text("{}")
    with pytest.raises(UsageError, match=says):
        open_run(given)


def test_nothing_is_read_before_the_shapes_fit(tiny, tmp_path, monkeypatch):
    path = saved(tmp_path / "x.safetensors", tiny.state_dict() | {"fc9.weight": torch.zeros(2)})
    monkeypatch.setattr(recognise, "read_tensors", None)
    monkeypatch.setattr("alexnet.weights.run.AlexNet", None)
    with pytest.raises(WeightsError, match="fc9.weight is not known"):
        open_run(path)


def test_other_files_are_no_models(tmp_path):
    for name, content in (
        ("x.txt", b"a b"),
        ("x.jpg", b"\xff\xd8\xff"),
        ("x", b""),
        ("x.zip", b"PK\x03\x04" + bytes(90)),
    ):
        (tmp_path / name).write_bytes(content)
        assert kind_of(tmp_path / name) is None and not is_run(str(tmp_path / name))
        with pytest.raises(UsageError, match="nor a model file"):
            open_run(tmp_path / name)
    assert kind_of(tmp_path) is None and kind_of(tmp_path / "none.pth") is None
    os.mkfifo(tmp_path / "pipe.pth")
    assert kind_of(tmp_path / "pipe.pth") is None
    (tmp_path / "x.PTH").write_bytes(b"")
    assert kind_of(tmp_path / "x.PTH") == "pth"


def test_eval_takes_numbered_classes_for_those_of_the_pictures(tmp_path):
    pictures = write_folder(tmp_path / "set", classes=3, each=4)
    path = saved(tmp_path / "x.safetensors", build("tiny", classes=3, seed=2).state_dict())
    verdict = judge([str(path), str(path)], str(pictures))
    assert verdict.classes == ["class0", "class1", "class2"] and verdict.score.count > 0
    assert [note for note in verdict.notes if "its classes have no names" in note]
    saved(path, build("tiny", classes=4).state_dict())
    with pytest.raises(Exception, match="its classes are not the 4 expected"):
        judge([str(path)], str(pictures))


def test_names_are_taken_for_numbers_only():
    opened = open_run("tiny", classes=Classes.of(["a", "b"]))
    opened.name_classes(Classes.of(["c", "d"]))
    assert opened.classes.keys == ("a", "b") and not opened.notes


def test_the_verbs_read_a_model_file(tiny, tmp_path, capsys):
    from alexnet.cli import main

    picture = next(write_folder(tmp_path / "set", classes=2, each=2).rglob("*.*"))
    path = saved(tmp_path / "x.safetensors", tiny.state_dict())
    pytest.raises(SystemExit, main, ["predict", str(path), str(picture), "--json"])
    said = capsys.readouterr()
    assert len(json.loads(said.out)[0]["predictions"]) == 5 and "mid grey stands for it" in said.err
    assert alexnet.load(path).predict(picture)[0].label in "01234"
    pytest.raises(SystemExit, main, ["info", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["parameters"] == sum(p.numel() for p in tiny.parameters())


FAST = ("among_tensors", "terabyte")


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in PTH if name not in FAST)]
)
def test_a_file_that_bites_is_refused_and_nothing_runs(tmp_path, monkeypatch, name):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = tmp_path / "x.pth"
    PTH[name](path)
    took: list[float] = []

    def child(*given):
        said, code = run_child(*given)
        took.append(said.get("seconds", pth.PATIENCE))
        return said, code

    run_child = pth.child
    monkeypatch.setattr(pth, "child", child)
    begin = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        read_model(path, "pth")
    said = str(caught.value)
    assert caught.value.code == 4 and said.startswith(f"{path}: not read: ") and said.isprintable() and len(said) < 600
    assert not re.search("weights_only=False|set to `False`|safe_globals|trust", said), "no advice to trust it"
    assert took[0] < 5 or ("processor time" in said and time.monotonic() - begin < 15)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["temporary", "x.pth"], "a canary, or something left"
    assert not list((tmp_path / "temporary").iterdir())


def test_the_canary_sings(tmp_path):
    """What the files hold does run where a pickle is loaded."""
    PTH["legacy"](tmp_path / "x.pth")
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.pth")], check=True)
    assert (tmp_path / CANARY).exists()
