"""Activations against hooks on modules built here from torch's own layers; files that grow, stop and go on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import alexnet
from alexnet.data.classes import Classes
from alexnet.data.samples import Samples
from alexnet.data.sources import open_images, open_pictures, open_source
from alexnet.errors import BadImage, DataError, NumbersError, Stopped, UsageError
from alexnet.evaluation import features as featuring
from alexnet.evaluation.backends import some
from alexnet.evaluation.feature_files import read_features
from alexnet.evaluation.features import activations, extract, gather, layer_form
from alexnet.network.variants import (
    LRN,
    VARIANTS,
    AdaptivePool,
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    MaxPool,
    ReLU,
    Variant,
    WithinMapLRN,
)
from alexnet.weights.run import Loaded, _grey, preprocess_of
from alexnet.weights.torchvision import our_names
from tests.networks import apart, lively, small
from tests.pictures import write_folder

ROOT = Path(__file__).parent.parent.parent


class Towers(nn.Module):
    """torch's local response normalization, which divides alpha by the size, in each tower by itself."""

    def __init__(self, row: LRN) -> None:
        super().__init__()
        self.towers = row.towers
        alpha = row.alpha if row.divide else row.alpha * row.size
        self.norm = nn.LocalResponseNorm(row.size, alpha, row.beta, row.k)

    def forward(self, x):
        return torch.cat([self.norm(part) for part in x.chunk(self.towers, 1)], 1)


class WithinMap(nn.Module):
    def __init__(self, row: WithinMapLRN) -> None:
        super().__init__()
        self.row = row

    def forward(self, x):
        row = self.row
        mean = F.avg_pool2d(x * x, row.size, 1, row.size // 2, count_include_pad=True)
        return x / (row.k + row.alpha * mean) ** row.beta


class Flat(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1))


def module(variant: Variant, state: dict[str, torch.Tensor], classes: int) -> nn.Sequential:
    """The variant's layers as torch's modules, by their names, with these weights."""
    made = nn.Sequential()
    channels, side = 3, variant.side
    for row in variant.layers:
        match row:
            case Conv():
                pads = (row.pad.before, row.pad.after) * 2
                conv = nn.Conv2d(channels, row.out, row.kernel, row.stride, groups=row.groups)
                layer = nn.Sequential(nn.ZeroPad2d(pads), conv)
                channels = row.out
            case ReLU():
                layer = nn.ReLU()
            case LRN():
                layer = Towers(row)
            case WithinMapLRN():
                layer = WithinMap(row)
            case MaxPool():
                layer = nn.MaxPool2d(row.kernel, row.stride, ceil_mode=row.ceil)
            case AdaptivePool():
                layer = nn.AdaptiveAvgPool2d(row.side)
            case BatchNorm():
                layer = (nn.BatchNorm1d if side == 1 else nn.BatchNorm2d)(channels, row.eps, affine=row.scale)
            case Linear():
                layer = Flat(state[f"{row.name}.weight"].shape[1], classes if row.out is None else row.out)
                channels, side = classes if row.out is None else row.out, 1
            case Dropout():
                layer = nn.Dropout(row.p)
        kept = {
            name.removeprefix(f"{row.name}."): value for name, value in state.items() if name.startswith(f"{row.name}.")
        }
        inner = layer[1] if isinstance(row, Conv) else layer
        inner.load_state_dict(kept)
        made.add_module(row.name, layer)
    return made.eval()


def hooked(network: nn.Module, images: torch.Tensor, *, clone: bool = True) -> dict[str, torch.Tensor]:
    """The outputs of all modules, by their names, as their hooks saw them."""
    seen: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        return lambda module, given, out: seen.__setitem__(name, out.clone() if clone else out)

    handles = [layer.register_forward_hook(hook(name)) for name, layer in network.named_modules() if name]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return seen


def loaded_of(variant: Variant, classes: int = 7) -> Loaded:
    preprocess = preprocess_of(variant)
    names = tuple(str(i) for i in range(classes))
    return Loaded(variant.name, lively(variant, classes), preprocess, _grey(preprocess), Classes(names, names), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures") / "set", classes=3, each=7)


@pytest.fixture(scope="module")
def pictures(folder) -> Samples:
    return open_source(folder)


@pytest.fixture(scope="module")
def tiny() -> Loaded:
    return loaded_of(VARIANTS["tiny"])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_layer_and_form_is_what_a_hook_sees(name, pictures):
    variant = small(VARIANTS[name])
    loaded = loaded_of(variant)
    few = pictures.take([0, 9, 20])
    expected = hooked(
        module(variant, loaded.model.state_dict(), 7), some(few, loaded, count=3, threads=1, bad_images="error")
    )
    forms = [
        f"{row.name}:{form}" for row in variant.layers if isinstance(row, Conv | Linear)
        for form in featuring._forms(variant, row.name)
    ]  # fmt: skip
    asked = [*(row.name for row in variant.layers), *forms]
    (found,) = activations(loaded, few, asked, batch_size=3, threads=1)
    assert found.rows.tolist() == [0, 1, 2] and found.values.keys() == set(asked)
    for layer, values in found.values.items():
        there = expected[layer_form(layer, variant)]
        assert values.shape == (3, 1, *there.shape[1:]) and values.is_contiguous()
        assert apart(values[:, 0], there) < 1e-5, layer
    rows = [row.name for row in variant.layers if isinstance(row, Conv | Linear)][:-1]
    for layer in rows:
        before, after = found.values[f"{layer}:pre"], found.values[f"{layer}:relu"]
        assert before.min() < 0 <= after.min(), f"{layer}: a ReLU wrote over what it was given"


def test_torchvisions_own_module_by_its_own_names(pictures):
    from torchvision.models import alexnet as theirs

    module = theirs(weights=None, num_classes=7).eval()
    loaded = loaded_of(VARIANTS["torchvision"])
    state = module.state_dict()
    loaded.model.load_state_dict({ours: state[name] for name, ours in our_names(state).items()})
    few = pictures.take([3, 12])
    images = some(few, loaded, count=2, threads=1, bad_images="error")
    expected = hooked(module, images)
    names = [name for name in expected if name not in ("features", "avgpool", "classifier")]
    (found,) = activations(loaded, few, names, threads=1)
    for layer in names:  # their classifier's first layer, dropout, has the maps flattened already
        assert apart(found.values[layer].flatten(1), expected[layer].flatten(1)) < 1e-5, layer
    # their ReLUs write over the convolution's output: who keeps it without a copy has another layer
    assert not torch.equal(hooked(module, images, clone=False)["features.0"], expected["features.0"])


def test_names_of_every_world_and_their_forms():
    paper, bn, convnet = VARIANTS["paper"], VARIANTS["bn"], VARIANTS["convnet"]
    expected = {
        "conv5": "conv5", "conv5:pre": "conv5", "conv5:relu": "relu5", "conv5:pool": "pool5", "conv1:norm": "norm1",
        "conv1a:norm": "norm1", "conv2b:pool": "pool2", "fc2048a:relu": "relu6", "pool3b": "pool5", "features.0": "conv1",
        "features.10:relu": "relu5", "classifier.4": "fc7", "fc7:relu": "relu7", "drop7": "drop7", "fc8:pre": "fc8",
    }  # fmt: skip
    assert {name: layer_form(name, paper) for name in expected} == expected
    assert layer_form("conv1:relu", bn) == "relu1" and layer_form("conv2:norm", convnet) == "norm2"
    for name, says in {
        "conv9": "known: conv1, relu1", "conv3:norm": "conv3 has :pre, :relu", "fc8:relu": "fc8 has :pre",
        "relu5:pre": "has no forms", "conv5:": "conv5 has :pre, :relu, :pool", "conv5:after": "conv5 has", "": "known",
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=says):
            layer_form(name, paper)


def test_any_batch_gives_the_same_and_views_are_those_of_evaluation(tiny, pictures):
    whole = gather(tiny, pictures, ["conv2:norm", "fc7", "fc8"], views=10, batch_size=1000, threads=1)
    assert whole.values["conv2:norm"].shape == (21, 10, 32, 7, 7) and whole.values["fc7"].shape == (21, 10, 512)
    for size in (10, 25, 70):
        part = gather(tiny, pictures, ["conv2:norm", "fc7", "fc8"], views=10, batch_size=size, threads=2)
        for name, values in part.values.items():
            assert np.abs(values - whole.values[name]).max() <= 1e-5 * np.abs(whole.values[name]).max(), (size, name)
    mean = gather(tiny, pictures, ["fc8"], views=10, mean=True, batch_size=1000, threads=1)
    np.testing.assert_allclose(mean.values["fc8"], whole.values["fc8"].mean(1), rtol=1e-4, atol=1e-4)
    five = gather(tiny, pictures, ["fc8"], views=5, batch_size=1000, threads=1)
    np.testing.assert_allclose(five.values["fc8"], whole.values["fc8"][:, :5], rtol=1e-4, atol=1e-4)
    one = gather(tiny, pictures, ["fc8"], threads=1)
    np.testing.assert_allclose(one.values["fc8"], whole.values["fc8"][:, 2], rtol=1e-4, atol=1e-4)
    assert whole.keys == pictures.keys() and (whole.labels == pictures.label).all()


def test_activations_begin_where_they_are_told_to(tiny, pictures):
    some = [one.rows.tolist() for one in activations(tiny, pictures, ["conv1"], batch_size=8, threads=1, first=16)]
    assert some == [[16, 17, 18, 19, 20]]


def test_pictures_are_labelled_where_they_have_classes(folder, tmp_path):
    assert open_pictures([folder]).classes.keys == ("class0", "class1", "class2")
    flat = open_pictures([folder / "class1"])
    assert len(flat) == 7 and (flat.label == -1).all() and not len(flat.classes)
    one = next((folder / "class1").iterdir())
    assert len(open_pictures([one])) == 1 and len(open_pictures([one, folder / "class0"])) == 8
    (tmp_path / "list.txt").write_text(f"{one} a\n")
    assert open_pictures([tmp_path / "list.txt"]).classes.keys == ("a",)
    for inside, keys in ((folder, ("class0", "class1", "class2")), (folder / "class1", ())):
        tar = tmp_path / f"{len(keys)}.tar"
        subprocess.run(
            ["tar", "-cf", str(tar), "-C", str(inside), *sorted(p.name for p in inside.iterdir())], check=True
        )
        assert open_pictures([tar]).classes.keys == keys
    assert open_pictures(["digits"]).classes.keys[:2] == ("0", "1")
    with pytest.raises(DataError, match="nothing/here"):
        open_pictures(["nothing/here"])


def made(tiny: Loaded, pictures: Samples, out: Path, **options) -> Path:
    asked = {"source": "set", "batch_size": 4, "threads": 1, **options}
    extract(tiny, pictures, asked.pop("layers", ["conv1:relu", "fc7"]), out, **asked)
    return out


def test_a_file_holds_what_was_computed(tiny, pictures, tmp_path):
    found = read_features(made(tiny, pictures, tmp_path / "f.npz", views=5))
    expected = gather(tiny, pictures, ["conv1:relu", "fc7"], views=5, batch_size=4, threads=1)
    assert (
        found.keys == pictures.keys() and (found.labels == pictures.label).all() and found.classes == pictures.classes
    )
    for name in ("conv1:relu", "fc7"):
        assert np.array_equal(found.values[name], expected.values[name])
    assert found.about.layers == {"conv1:relu": "relu1", "fc7": "fc7"} and found.about.views == 5
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"], "nothing is left beside it"
    half = read_features(made(tiny, pictures, tmp_path / "g.npz", dtype="float16", views=5, mean=True))
    np.testing.assert_allclose(half.values["fc7"], expected.values["fc7"].mean(1), rtol=2e-3, atol=1e-2)
    assert half.values["fc7"].dtype == np.float16


def test_what_float16_cannot_hold_is_refused(tiny, pictures, tmp_path):
    large = loaded_of(VARIANTS["tiny"])
    with torch.no_grad():
        large.model.get_parameter("fc7.bias")[5] = 70_000
    with pytest.raises(NumbersError, match=r"class0/000.png: fc7: 7\d{4}(\.\d)? is too large for float16"):
        made(large, pictures, tmp_path / "f.npz", dtype="float16")
    made(large, pictures, tmp_path / "g.npz")
    with torch.no_grad():
        large.model.get_parameter("fc7.bias")[5] = float("nan")
    with pytest.raises(NumbersError, match="fc7: its values are not finite"):
        made(large, pictures, tmp_path / "h.npz")


def test_bad_pictures_are_named_or_left_out_and_listed(tiny, folder, tmp_path):
    copy = write_folder(tmp_path / "set", classes=3, each=7)
    for name in ("class0/000.png", "class2/006.png"):
        (copy / name).write_bytes(b"no picture")
    out = tmp_path / "f.npy"
    with pytest.raises(BadImage, match="class0/000.png"):
        made(tiny, open_source(copy), out, layers=["fc7"])
    made(tiny, open_source(copy), out, layers=["fc7"], bad_images="skip")
    found, whole = read_features(out), gather(tiny, open_source(folder), ["fc7"], batch_size=4, threads=1)
    good = [key not in ("class0/000.png", "class2/006.png") for key in whole.keys]
    assert found.keys == [key for key, there in zip(whole.keys, good, strict=True) if there]
    np.testing.assert_allclose(found.values["fc7"], whole.values["fc7"][good], rtol=1e-4, atol=1e-4)
    assert [one["path"] for one in found.about.bad] == [str(copy / "class0/000.png"), str(copy / "class2/006.png")]
    with pytest.raises(BadImage, match="class0/000.png"):
        made(tiny, open_source(copy), out, layers=["fc7"])
    for path in copy.rglob("*.*"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of 21 pictures can be decoded"):
        made(tiny, open_source(copy), tmp_path / "g.npy", layers=["fc7"], bad_images="skip")


@pytest.mark.parametrize("name", ["f.npy", "f.npz", "f.h5", "f.mat", "f.parquet"])
def test_what_was_stopped_goes_on_to_the_same_bytes(name, tiny, pictures, tmp_path, monkeypatch):
    layers = ["fc7"] if name.endswith(".npy") else ["conv1:relu", "fc7"]
    (tmp_path / "whole").mkdir()
    whole = made(tiny, pictures, tmp_path / "whole" / name, layers=layers)
    out, seen = tmp_path / name, 0
    monkeypatch.setattr(featuring, "BLOCK", 8)

    def progress(count: int) -> None:
        nonlocal seen
        seen += count
        if seen >= 9:
            monkeypatch.setattr("alexnet.stop._asked", True)

    with pytest.raises(Stopped, match="stopped after 12 of 21 pictures"):
        made(tiny, pictures, out, layers=layers, progress=progress)
    monkeypatch.setattr("alexnet.stop._asked", False)
    assert not out.exists() and json.loads((tmp_path / f".{name}.state").read_text())["done"] == 12
    for change in ({"dtype": "float16"}, {"views": 5}, {"batch_size": 5}, {"layers": ["fc8"]}):
        if "layers" in change or name != "f.mat" or "dtype" not in change:
            with pytest.raises(UsageError, match="name another file, or remove .*state to begin anew"):
                made(tiny, pictures, out, **{"layers": layers, **change})
    with pytest.raises(UsageError, match="of other pictures"):
        made(tiny, pictures.take([0, 1]), out, layers=layers)
    with pytest.raises(UsageError, match="of another network"):
        made(loaded_of(VARIANTS["tiny"], 8), pictures, out, layers=layers)
    done = []
    made(tiny, pictures, out, layers=layers, progress=done.append)
    assert done == [12, 4, 4, 1], "it went on, and did not begin anew"
    assert out.read_bytes() == whole.read_bytes()
    beside = {f"{name}.json"} if name.endswith(".npy") else set()
    assert {path.name for path in tmp_path.iterdir()} == {"whole", name} | beside
    if beside:
        assert (tmp_path / f"{name}.json").read_bytes() == (whole.parent / f"{name}.json").read_bytes()


def test_a_finished_file_is_left_alone_and_anothers_is_not_written_over(tiny, pictures, tmp_path):
    out = made(tiny, pictures, tmp_path / "f.npz")
    before, said = out.stat(), []
    made(tiny, pictures, out, progress=said.append)
    assert (out.stat().st_mtime_ns, out.stat().st_ino) == (before.st_mtime_ns, before.st_ino) and not said
    with pytest.raises(UsageError, match="features with dtype float32; name another file, or remove it"):
        made(tiny, pictures, out, dtype="float16")
    (tmp_path / "g.npz").write_bytes(b"something of mine")
    with pytest.raises(DataError, match="g.npz"):
        made(tiny, pictures, tmp_path / "g.npz")
    assert (tmp_path / "g.npz").read_bytes() == b"something of mine"


def test_a_state_without_its_values_begins_anew(tiny, pictures, tmp_path, monkeypatch):
    whole = made(tiny, pictures, tmp_path / "whole.npz").read_bytes()
    for harm in (
        lambda folder: (folder / ".f.npz.state").write_text("{"),
        lambda folder: (folder / "..f.npz.0.npy.part").write_bytes(b"short"),
        lambda folder: (folder / "..f.npz.1.npy.part").unlink(),
        lambda folder: (folder / ".f.npz.state").write_text('{"asked": 1}'),
    ):
        monkeypatch.setattr("alexnet.stop._asked", True)
        with pytest.raises(Stopped):
            made(tiny, pictures, tmp_path / "f.npz")
        monkeypatch.setattr("alexnet.stop._asked", False)
        harm(tmp_path)
        done = []
        made(tiny, pictures, tmp_path / "f.npz", progress=done.append)
        assert done[0] == 0 and (tmp_path / "f.npz").read_bytes() == whole
        (tmp_path / "f.npz").unlink()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layers": []}, "expected one or more"),
        ({"layers": ["fc7", "fc7"]}, "each once"),
        ({"layers": ["conv9"]}, "conv9"),
        ({"views": 3}, "--views 3"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"threads": -1}, "--workers -1"),
        ({"dtype": "float64"}, "--dtype float64"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for_is_refused(options, says, tiny, pictures, tmp_path):
    with pytest.raises(UsageError, match=says):
        made(tiny, pictures, tmp_path / "f.npz", **options)
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_are_refused(tiny, pictures, tmp_path, monkeypatch):
    for name, options, says in (
        ("f.txt", {}, "ends in .npy, .npz, .h5"),
        ("f.npy", {}, "holds one layer, not 2"),
        ("none/f.npz", {}, "there is no folder"),
        ("f.mat", {"dtype": "float16"}, "MATLAB has none"),
    ):
        with pytest.raises(UsageError, match=says):
            made(tiny, pictures, tmp_path / name, **options)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(UsageError, match=r"0.00 GB are free there"):
        made(tiny, pictures, tmp_path / "f.npz")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install 'alexnet\[features\]'"):
        made(tiny, pictures, tmp_path / "f.h5")
    assert not list(tmp_path.iterdir())


def test_two_at_once_do_not_write_one_file(tiny, pictures, tmp_path):
    from alexnet import files

    with files.lock(tmp_path / ".f.npz.lock"), pytest.raises(UsageError, match="in use by"):
        made(tiny, pictures, tmp_path / "f.npz")


def test_in_memory_from_python(folder, tiny):
    found = alexnet.features("tiny", folder, ["conv5:relu", "fc7"])
    loaded = alexnet.load("tiny")._loaded
    expected = gather(loaded, open_source(folder), ["fc7"], threads=1)
    np.testing.assert_allclose(found.values["fc7"], expected.values["fc7"], rtol=1e-5, atol=1e-6)
    assert found.values["conv5:relu"].shape == (21, 32, 3, 3) and found.classes.keys == ("class0", "class1", "class2")
    some = [folder / "class0" / "000.png", folder / "class1" / "000.png"]
    assert alexnet.features("tiny", some).keys == [str(path) for path in some]
    assert open_images(some).keys() == [str(path) for path in some]


CHILD = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from alexnet.data.sources import open_source
from alexnet.evaluation import features
from alexnet.weights.run import open_run

folder, out, when = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
features.BLOCK, seen = 8, 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def progress(count):
    global seen
    seen += count
    if when.isdigit() and seen >= int(when):
        die()

if when == "before":
    features.write_features = lambda *given: die()
if when == "within":
    from alexnet.evaluation import feature_files
    blocks = feature_files.Part.blocks
    feature_files.Part.blocks = lambda self, count, rows: die() if self.name == "fc7" else blocks(self, count, rows)
if when == "after":
    features.read_features = lambda *given: die()
layers = ["fc7"] if out.suffix == ".npy" else ["conv1:relu", "fc7"]
features.extract(open_run("tiny"), open_source(folder), layers, out, source="set", batch_size=4, threads=1, progress=progress)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["f.npy", "f.npz", "f.h5", "f.mat", "f.parquet"])
def test_what_was_killed_goes_on_to_the_same_bytes(name, folder, tmp_path):
    def child(out: Path, when: str) -> int:
        words = [sys.executable, "-c", CHILD, str(folder), str(out), when]
        return subprocess.run(words, check=False, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode

    (tmp_path / "whole").mkdir()
    assert child(tmp_path / "whole" / name, "never") == 0
    for when in ("2", "10", "5", "before", *([] if name == "f.npy" else ["within"]), "after"):
        assert child(tmp_path / name, when) == -signal.SIGKILL, when
    assert child(tmp_path / name, "never") == 0
    assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    left = {path.name for path in tmp_path.iterdir()} - {"whole", name, f"{name}.json"}
    assert not left


@pytest.mark.slow
def test_a_signal_ends_the_command_with_75_and_the_same_command_ends_it(folder, tmp_path):
    big = tmp_path / "set"
    for copy in range(60):
        for path in sorted(folder.rglob("*.*")):
            place = big / path.parent.name / f"{copy}-{path.name}"
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, place)
    command = [sys.executable, "-m", "alexnet", "features", "tiny", str(big), "--layers", "fc7", "--batch-size", "2",
               "--workers", "1", "--out"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    running = subprocess.Popen([*command, str(tmp_path / "f.npz")], env=environment, stderr=subprocess.PIPE, text=True)
    part, end = tmp_path / "..f.npz.0.npy.part", time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 1000) and time.monotonic() < end:
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 75 and "the same command goes on" in said, said
    done = json.loads((tmp_path / ".f.npz.state").read_text())["done"]
    assert 0 < done < 1260
    for name in ("f.npz", "g.npz"):
        subprocess.run([*command, str(tmp_path / name)], env=environment, check=True, capture_output=True)
    assert (tmp_path / "f.npz").read_bytes() == (tmp_path / "g.npz").read_bytes()


def test_a_variant_with_its_rows_in_another_order_has_other_forms():
    tiny = VARIANTS["tiny"]
    rows = [row for row in tiny.layers if row.name not in ("relu3", "norm1")]
    changed = replace(tiny, layers=tuple(rows))
    with pytest.raises(UsageError, match="conv3 has :pre$"):
        layer_form("conv3:relu", changed)
    with pytest.raises(UsageError, match="conv1 has :pre, :relu, :pool$"):
        layer_form("conv1:norm", changed)
