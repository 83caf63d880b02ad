"""The four maps against others written here, and what is said of them against counting."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import nn

from alexnet.cli import main
from alexnet.data.classes import Classes
from alexnet.errors import UsageError
from alexnet.look import explain
from alexnet.look.explain import BY
from alexnet.network.build import AlexNet
from alexnet.network.variants import CAFFE, PAPER, TINY, TORCHVISION, VARIANTS, ReLU
from alexnet.ranks import multiply_in
from alexnet.weights.run import open_run
from tests.networks import apart, images, lively, small
from tests.pictures import picture

over_variants = pytest.mark.parametrize("variant", [small(v) for v in VARIANTS.values()], ids=lambda v: v.name)
over_methods = pytest.mark.parametrize("by", BY)
QUICK = {"window": 16, "stride": 16, "steps": 16}  # of tiny's 64 pixels


def map_of(net: AlexNet, x: torch.Tensor, label: int, by: explain.By, **more) -> torch.Tensor:
    return explain.map_of(explain.modules_of(net), net.variant, x, label, by=by, **{**QUICK, **more})[0]


@pytest.fixture(scope="module")
def tiny() -> tuple[AlexNet, torch.Tensor]:
    return lively(TINY), images(TINY, 1)


@over_variants
def test_the_chain_is_the_network_row_by_row(variant):
    net, x = lively(variant), images(variant, 2)
    chain, had = explain.modules_of(net.train()), {}
    for name, module in chain.named_children():
        module.register_forward_hook(lambda _, given, made, name=name: had.update({name: made}))
    with torch.no_grad():
        logits = chain(x)
        assert apart(logits, net.eval()(x)) < 1e-6
        traced = net.trace(x)
    assert list(had) == list(traced)
    assert all(torch.equal(had[name], value) for name, value in traced.items())
    for one, row in zip(variant.layers, variant.layers[1:], strict=False):
        if isinstance(row, ReLU):  # what stands before a ReLU is left as it was
            assert (had[one.name] < 0).any(), one.name
    assert sum(isinstance(module, nn.ReLU) for module in chain.modules()) == 7
    assert not any(isinstance(module, AlexNet) for module in chain.modules())


class Guided(torch.autograd.Function):
    """A ReLU that lets back only what is above 0, and only where its input was."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, g):
        return g * (g > 0) * (ctx.saved_tensors[0] > 0)


def guided_by_hand(net: AlexNet, x: torch.Tensor, label: int) -> torch.Tensor:
    x = start = x.clone().requires_grad_()
    for index, row in enumerate(net.variant.layers):
        x = Guided.apply(x) if isinstance(row, ReLU) else net.layer(row, x, None, index, inplace=False)
    return torch.autograd.grad(x[0, label], start)[0]


@over_variants
def test_guided_backpropagation_by_hand(variant):
    net, x = lively(variant), images(variant, 1)
    found, expected = explain.guided(explain.modules_of(net), x, 3), guided_by_hand(net, x, 3)[0]
    assert apart(found, expected) < 1e-6
    x.requires_grad_()
    plain = torch.autograd.grad(net.trace(x, ["fc8"])["fc8"][0, 3], x)[0]
    assert apart(plain[0], expected) > 0.01, "it is not the plain gradient"
    assert torch.equal(map_of(net, x, 3, "guided"), found.abs().sum(0))


@pytest.mark.parametrize(
    ("variant", "first", "step"), [(PAPER, 17, 16), (CAFFE, 17, 16), (TORCHVISION, 15, 16), (TINY, 17, 16)],
    ids=lambda value: getattr(value, "name", str(value)),
)  # fmt: skip
def test_gradcam_by_hand(variant, first, step):
    """relu5's first cell sees conv1's first eleven pixels and what two poolings and three more kernels add to them."""
    net, x = lively(small(variant)), images(variant, 1)
    cells = net.trace(x, ["relu5"])["relu5"].detach().requires_grad_()
    y = cells
    for index, row in enumerate(net.variant.layers):
        if index > [one.name for one in net.variant.layers].index("relu5"):
            y = net.layer(row, y, None, index, inplace=False)
    for label in range(2, 7):
        slope = torch.autograd.grad(y[0, label], cells, retain_graph=True)[0]
        weight = slope.mean((2, 3), keepdim=True)
        coarse = (weight * cells).sum(1)[0].clamp(min=0).detach().double().numpy()
        places = first + step * np.arange(len(coarse))
        along = np.stack([np.interp(np.arange(variant.side), places, row) for row in coarse])
        expected = np.stack([np.interp(np.arange(variant.side), places, column) for column in along.T], 1)
        found, facts = explain.gradcam(explain.modules_of(net), net.variant, x, label, "conv5:relu")
        assert facts == {"layer": "relu5", "cells": len(coarse)}
        assert np.abs(found.numpy() - expected).max() <= 1e-5 * expected.max()
        if expected.any():
            return
    pytest.fail("no class has a map")


def test_gradcam_takes_any_layer_with_maps(tiny):
    net, x = tiny
    chain = explain.modules_of(net)
    for name, layer, cells in (("conv2:pool", "pool2", 3), ("features.0", "conv1", 15), ("conv1:norm", "norm1", 15)):
        _, facts = explain.gradcam(chain, TINY, x, 0, name)
        assert facts == {"layer": layer, "cells": cells}
    for name in ("fc6", "pool5"):
        with pytest.raises(UsageError, match="has no maps, which gradcam needs; take conv5:relu"):
            explain.gradcam(chain, TINY, x, 0, name)
    with pytest.raises(UsageError, match="no layer 'conv9'"):
        explain.gradcam(chain, TINY, x, 0, "conv9")


@pytest.mark.parametrize(("window", "stride"), [(16, 16), (20, 12), (64, 1)])
def test_occlusion_by_loops(tiny, window, stride):
    net, x = tiny
    side, label = 64, 2
    starts = [min(n * stride, side) for n in range(-(-(side - window) // stride) + 1)]
    with torch.no_grad():
        whole = net(x).softmax(1)[0, label]
        total, count, drops = torch.zeros(side, side), torch.zeros(side, side), {}
        for top in starts:
            for left in starts:
                part = x.clone()
                part[:, :, top : top + window, left : left + window] = 0
                drops[left, top] = float(whole - net(part).softmax(1)[0, label])
                total[top : top + window, left : left + window] += drops[left, top]
                count[top : top + window, left : left + window] += 1
    found, facts = explain.occlusion(explain.modules_of(net), x, label, window=window, stride=stride)
    assert (count > 0).all() and apart(found, total / count) < 1e-4
    worst = max(drops, key=drops.__getitem__)
    if drops[worst] > 0:
        assert facts["largest_drop"] == pytest.approx(drops[worst], rel=1e-4) and facts["at"] == list(worst)
    else:
        assert facts["largest_drop"] == 0 and facts["at"] is None
    assert (facts["window"], facts["stride"]) == (window, stride)


def test_an_occlusion_that_does_not_fit_is_refused(tiny):
    net, x = tiny
    for more, says in (({"window": 0}, "--window 0: expected 1 to 64"), ({"window": 65}, "--window 65"),
                       ({"stride": 17}, "--stride 17: expected 1 to 16"), ({"stride": 0}, "--stride 0")):  # fmt: skip
        with pytest.raises(UsageError, match=says):
            map_of(net, x, 0, "occlusion", **more)
    for steps in (1, 10_001):
        with pytest.raises(UsageError, match=f"--steps {steps}"):
            map_of(net, x, 0, "integrated-gradients", steps=steps)


def test_integrated_gradients_by_hand(tiny):
    net, x = tiny
    found, facts = explain.integrated_gradients(explain.modules_of(net), x, 1, steps=40)
    nodes, weight = np.polynomial.legendre.leggauss(40)
    slope = torch.zeros_like(x, dtype=torch.float64)
    for node, w in zip((nodes + 1) / 2, weight / 2, strict=True):
        at = (x * float(node)).requires_grad_()
        slope += float(w) * torch.autograd.grad(net.trace(at, ["fc8"])["fc8"][0, 1], at)[0]
    expected = (slope * x).sum(1)[0]
    assert apart(found.double(), expected) < 1e-4
    with torch.no_grad():
        end, begin = float(net(x)[0, 1]), float(net(torch.zeros_like(x))[0, 1])
    assert facts["logit"] == pytest.approx(end, rel=1e-4) and facts["logit_of_zero"] == pytest.approx(begin, rel=1e-4)
    assert facts["gap"] == pytest.approx(float(expected.sum()) - (end - begin), abs=1e-4 * abs(end))
    assert abs(facts["gap"]) < 0.05 * abs(end - begin), "what a sum of 40 values leaves of the whole"


@over_methods
def test_other_weights_are_another_map(tiny, by):
    """Adebayo et al. 2018: a map that stays as it is when the network learned nothing explains no network."""
    net, x = tiny
    first = map_of(net, x, 2, by).flatten()
    again = map_of(lively(TINY), x, 2, by).flatten()
    assert torch.equal(first, again)
    others = [map_of(lively(TINY, seed=seed), x, 2, by).flatten() for seed in range(2, 7)]
    assert np.mean([spearmanr(first, other).statistic for other in others]) < 0.5
    another = map_of(net, x, 5, by).flatten()
    assert spearmanr(first, another).statistic < (0.99 if by == "guided" else 0.9), "and so is another class"


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_what_is_shown_is_the_centre_view(colour):
    stored = np.random.default_rng(0).integers(0, 256, (73, 73, 3), np.uint8)
    mean = np.random.default_rng(1).uniform(90, 160, stored.shape).astype(np.float32)
    loaded = open_run("tiny")
    loaded.preprocess, loaded.mean = replace(loaded.preprocess, colour=colour), mean
    one = explain.explain(loaded, stored, by="guided")
    assert (one.image == stored[4:68, 4:68]).all()
    centre = stored[4:68, 4:68].astype(np.float32)[:, :, :: -1 if colour == "BGR" else 1] - mean[4:68, 4:68]
    x = torch.from_numpy(centre.transpose(2, 0, 1).copy())[None]
    assert apart(torch.from_numpy(one.map), guided_by_hand(loaded.model, x, one.label)[0].abs().sum(0)) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@over_methods
def test_a_gpu_explains_as_the_processor_does(by):
    stored = np.random.default_rng(0).integers(0, 256, (73, 73, 3), np.uint8)
    multiply_in("fp32", torch.device("cuda"))
    loaded = open_run("tiny")
    loaded.model.load_state_dict(lively(TINY, 1000).state_dict())
    one, other = (explain.explain(loaded, stored, by=by, label=3, device=torch.device(at)) for at in ("cpu", "cuda"))
    assert (one.image == other.image).all()
    assert apart(torch.from_numpy(other.map), torch.from_numpy(one.map)) < 1e-2


def test_where_the_weight_lies():
    values = np.zeros((10, 10), np.float32)
    values[0, 9], values[4:6, 4:6], values[9, 0] = 2, 1, -2
    said = explain.weights(values)
    assert said["ninths"] == [[0, 0, pytest.approx(1 / 3)], [0, pytest.approx(2 / 3), 0], [0, 0, 0]]
    assert said["most"] == [9, 0] and said["half"] == 0.02 and said["against"] == 0.25
    even = explain.weights(np.ones((9, 9), np.float32))
    assert np.allclose(even["ninths"], 1 / 9) and even["half"] == pytest.approx(0.5, abs=0.02) and even["against"] == 0
    nothing = explain.weights(-np.ones((9, 9), np.float32))
    assert nothing == {"ninths": None, "half": None, "most": None, "against": 1.0}


class Corner(nn.Module):
    """Two classes: the first speaks for the left upper quarter's brightness."""

    def forward(self, x):
        return torch.stack([x[:, :, :8, :8].mean((1, 2, 3)), torch.zeros(len(x))], 1)


def test_deletion_takes_what_is_marked():
    values, x = torch.zeros(16, 16), torch.full((1, 3, 16, 16), 4.0)
    values[:8, :8] = 1
    chosen = explain.most(values, 0.25)
    assert chosen.sum() == 64 and chosen[:8, :8].all()
    assert explain.most(values, 0.5).sum() == 128 and explain.most(values, 0.5)[:8].all(), "equals by their order"
    assert int(explain.middle(16, 0.25).sum()) == 64 and explain.middle(16, 0.25)[4:12, 4:12].all()
    noise = explain.scattered(16, 0.25, draws=3, seed=0)
    assert noise.sum((1, 2)).tolist() == [64] * 3 and not torch.equal(noise[0], noise[1])
    emptied = explain.without(x, torch.stack([chosen, ~chosen]))
    assert emptied.shape == (2, 3, 16, 16) and (emptied[0, :, :8, :8] == 0).all() and (emptied[0, :, 8:] == 4).all()
    assert (emptied[1] != emptied[0]).all() and (x == 4).all()
    found = explain.deleted(nn.Sequential(Corner()), x, values, 0)
    logit = 4 * (64 - 51) / 64  # of the quarter's 64 pixels, 20 % of the picture's 256 are gone
    assert found["share"] == 0.2 and found["most"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)
    assert found["most"] < found["middle"] and found["most"] < found["random"] < 1 / (1 + np.exp(-4))


def test_a_class_by_its_name_or_number():
    classes = Classes(
        ("n01", "n02", "n03", "3", "n05"), ("tench, Tinca tinca", "crane", "crane", "a three", "Great white, shark")
    )
    for asked, label in (("n02", 1), ("tench", 0), ("TINCA tinca", 0), ("tench, Tinca tinca", 0), ("0", 0), ("3", 3),
                         ("4", 4), ("great white", 4), ("2", 2)):  # fmt: skip
        assert explain.label_of(asked, classes) == label, asked
    with pytest.raises(
        UsageError, match=r"--class crane: several classes are called so; take one by its number: \[1, 2\]"
    ):
        explain.label_of("crane", classes)
    for asked in ("5", "-1", "tenhc, tinca tinca", "", "²"):
        with pytest.raises(UsageError, match="none of the 5 classes"):
            explain.label_of(asked, classes)
    with pytest.raises(UsageError, match="did you mean tulips"):
        explain.label_of("tulip", Classes.of(["tulips", "roses"]))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    Image.fromarray(picture(90, 120)).save("a.png")
    save_file(dict(lively(TINY, 3).state_dict()), "model.safetensors")
    return tmp_path


def said(capsys, *words: str, code: int = 0) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    printed = capsys.readouterr()
    assert (caught.value.code or 0) == code, printed.err
    return printed.err if code else printed.out


MORE = {"occlusion": ("--window", "16", "--stride", "16"), "integrated-gradients": ("--steps", "8")}


@over_methods
def test_a_run_of_another_worlds_weights_is_explained(folder, capsys, by):
    (folder / "names.txt").write_text("rose\n<script>$x$\nda\u200bisy\n")
    said(capsys, "import", "model.safetensors", "--run", "mine", "--classes", "names.txt")
    words = ("explain", "runs/mine", "a.png", "--by", by, *MORE.get(by, ()))
    document = json.loads(said(capsys, *words, "--class", "2", "--json"))
    assert document.keys() == {
        "path",
        "run",
        "variant",
        "by",
        "class",
        "likeliest",
        "map",
        "method",
        "deletion",
        "figure",
    }
    assert document["by"] == by and document["class"]["label"] == "da\u200bisy" and document["run"] == "runs/mine"
    answers = {
        one["index"]: one["probability"]
        for one in json.loads(said(capsys, "predict", "runs/mine", "a.png", "--json"))[0]["predictions"]
    }
    assert document["class"]["probability"] == pytest.approx(answers[2], abs=1e-5)
    assert document["likeliest"]["index"] == max(answers, key=answers.__getitem__)
    assert np.sum(document["map"]["ninths"]) == pytest.approx(1) and document["deletion"]["share"] == 0.2
    figure = folder / "runs" / "mine" / "figures" / f"explain-{by}-a.png"
    assert document["figure"] == str(figure.relative_to(folder))
    with Image.open(figure) as image:
        first = np.asarray(image)
    assert first.shape[1] > 2.5 * first.shape[0] and first.std() > 20
    text = said(capsys, *words, "--class", "2", "--out", "b.svg")
    lines = text.splitlines()
    assert lines[0].startswith("a.png: da\\u200bisy ") and lines[-1] == "b.svg" and (folder / "b.svg").exists()
    assert any("without the 20 % of the pixels that weigh most: " in line for line in lines)
    assert sum(line.count(" %") for line in lines[2:6]) >= 9
    said(capsys, *words, "--class", "2", "--out", "c.png")
    assert (folder / "c.png").read_bytes() == figure.read_bytes(), "the same bytes each time"


def test_it_multiplies_in_fp32(folder, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("alexnet.ranks.multiply_in", lambda *given: asked.append(given))
    said(capsys, "explain", "model.safetensors", "a.png", "--by", "guided", "--device", "cpu")
    assert asked == [("fp32", torch.device("cpu"))]


def test_a_class_for_which_nothing_speaks(folder, capsys):
    net = lively(TINY, 3)
    with torch.no_grad():
        net.get_parameter("fc8.weight").zero_()
    save_file(dict(net.state_dict()), "flat.safetensors")
    assert "nothing in the picture speaks for this class" in said(
        capsys, "explain", "flat.safetensors", "a.png", "--out", "x.png"
    )
    document = json.loads(said(capsys, "explain", "flat.safetensors", "a.png", "--out", "x.png", "--json"))
    assert document["deletion"] is None and document["map"]["ninths"] is None


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--by", "saliency"), 2, "saliency"),
        (("--class", "roses"), 2, "--class roses: none of the 1000 classes"),
        (("--layer", "fc7"), 2, "--layer fc7: fc7 of tiny has no maps"),
        (("--layer", "conv7"), 2, "no layer 'conv7'"),
        (("--by", "occlusion", "--steps", "8"), 2, "--steps 8: not with --by occlusion; it is an option of integrated"),
        (("--stride", "0"), 2, "--stride 0: not with --by gradcam; it is an option of occlusion"),
        (("--by", "guided", "--window", "9"), 2, "--window 9: not with --by guided; it is an option of occlusion"),
        (("--by", "guided", "--layer", "conv5:relu"), 2, "--layer conv5:relu: not with --by guided"),
        (("--by", "occlusion", "--window", "100"), 2, "--window 100: expected 1 to 64"),
        (("--out", "x.gif"), 2, "x.gif: expected a name that ends in .png or .svg"),
        (("--draw", "always"), 2, "--draw always"),
        (("--device", "tpu"), 2, "tpu"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line(folder, capsys, words, code, says):
    err = said(capsys, "explain", "tiny", "a.png", *words, code=code)
    assert err.startswith("alexnet: ") and err.count("\n") == 1 and says in err
    assert not list(folder.glob("*.gif")) and not (folder / "figures").exists()


def test_a_bad_picture_is_named(folder, capsys):
    (folder / "b.jpg").write_bytes(b"\xff\xd8 no picture")
    assert "b.jpg: " in said(capsys, "explain", "tiny", "b.jpg", code=3)
    assert "none.jpg: No such file" in said(capsys, "explain", "tiny", "none.jpg", code=3)


def test_without_captum_it_is_said_what_to_install(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    err = said(capsys, "explain", "tiny", "a.png", code=2)
    assert err == "alexnet: captum is not installed (pip install 'alexnet[explain]')\n"


@pytest.mark.slow
def test_a_caffe_model_is_explained(folder, capsys):
    """BGR, warped, a mean image of its own: what is shown is the picture all the same."""
    net = lively(CAFFE, 5)
    save_file(dict(net.state_dict()), "caffe.safetensors")
    said(capsys, "export", "caffe.safetensors", "--variant", "caffe", "--format", "caffe", "--out", "m.caffemodel")
    said(capsys, "import", "m.caffemodel", "--variant", "caffe", "--keep-bgr", "--run", "caffe")
    loaded = open_run("runs/caffe")
    assert loaded.preprocess.colour == "BGR"
    stored = np.array(picture(256, 256))
    for by in BY:
        few = {"occlusion": {"window": 64, "stride": 64}, "integrated-gradients": {"steps": 8}}
        one = explain.explain(loaded, stored, by=by, label=1, **few.get(by, {}))
        assert (one.image == stored[14:241, 14:241]).all() and one.map.shape == (227, 227) and one.map.any()
