"""Each variant's totals, shapes, initial values and names, against figures typed from the published sources."""

import re
import subprocess
import sys
from collections.abc import Iterator
from json import loads
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from alexnet.cli.info import info
from alexnet.errors import UsageError
from alexnet.network import fidelity
from alexnet.network.build import AlexNet, build
from alexnet.network.cost import cost, describe, difference
from alexnet.network.variants import VARIANTS, Conv, Linear, MaxPool, layer_name, names, variant

TOTALS = {  # parameters, multiply-adds
    "article": (76_009_832, 1_270_155_264),
    "paper": (60_965_224, 724_406_816),
    "convnet": (60_965_224, 724_406_816),
    "caffe": (60_965_224, 724_406_816),
    "caffenet": (60_965_224, 724_406_816),
    "half": (59_798_312, 391_514_384),
    "onetower": (61_100_840, 714_188_480),
    "torchvision": (61_100_840, 714_188_480),
    "bn": (60_965_230, 724_406_816),
    "onnxzoo": (60_965_224, 654_560_384),
    "tiny": (832_984, 2_285_764),
}

STATIONS = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5", "fc6", "fc7")
# Maps × pixels of the stations.
GEOMETRY = {
    "article": "96×56 96×28 256×28 256×14 384×14 384×14 256×14 256×7 4096 4096",
    "half": "48×55 48×27 128×27 128×13 192×13 192×13 256×13 256×6 4096 4096",
    "onetower": "64×55 64×27 192×27 192×13 384×13 256×13 256×13 256×6 4096 4096",
    "torchvision": "64×55 64×27 192×27 192×13 384×13 256×13 256×13 256×6 4096 4096",
    "onnxzoo": "96×54 96×26 256×26 256×12 384×12 384×12 256×12 256×6 4096 4096",
    "tiny": "12×15 12×7 32×7 32×3 48×3 48×3 32×3 32×1 512 512",
} | dict.fromkeys(
    ("paper", "convnet", "caffe", "caffenet", "bn"),
    "96×55 96×27 256×27 256×13 384×13 384×13 256×13 256×6 4096 4096",
)

RELU_LRN_POOL = "conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5"
DROP_AFTER = "fc6 relu6 drop6 fc7 relu7 drop7 fc8"
ORDER = {
    "caffenet": "conv1 relu1 pool1 norm1 conv2 relu2 pool2 norm2 conv3 relu3 conv4 relu4 conv5 relu5 pool5 "
    + DROP_AFTER,
    "convnet": "conv1 norm1 pool1 relu1 conv2 relu2 norm2 wmnorm2 pool2 conv3 relu3 conv4 relu4 conv5 pool5 relu5 "
    + DROP_AFTER,
    "half": "conv1 norm1 pool1 relu1 conv2 relu2 norm2 wmnorm2 pool2 conv3 relu3 conv4 relu4 conv5 pool5 relu5 "
    + DROP_AFTER,
    "onetower": "conv1 norm1 pool1 relu1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 pool5 relu5 "
    + DROP_AFTER,
    "torchvision": "conv1 relu1 pool1 conv2 relu2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5 avgpool "
    "drop6 fc6 relu6 drop7 fc7 relu7 fc8",
    "bn": "bn0 conv1 bn1 relu1 pool1 conv2 bn2 relu2 pool2 conv3 bn3 relu3 conv4 bn4 relu4 conv5 bn5 relu5 pool5 "
    "fc6 bn6 relu6 fc7 bn7 relu7 fc8",
} | dict.fromkeys(("article", "paper", "caffe", "onnxzoo", "tiny"), f"{RELU_LRN_POOL} {DROP_AFTER}")

# Standard deviations and biases of conv1 … fc8; the article's are of the truncated normal, 0.8796 of what it writes.
INITIAL = {
    "article": ([0.003927, 0.08978, 0.05498, 0.04489, 0.04489, 0.007854, 0.013744, 0.013744], [0] * 8),
    "paper": ([0.01] * 8, [0, 1, 0, 1, 1, 1, 1, 0]),
    "convnet": ([0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.005, 0.005], [0, 1, 0, 1, 1, 1, 1, 0]),
    "caffe": ([0.01] * 5 + [0.005, 0.005, 0.01], [0, 0.1, 0, 0.1, 0.1, 0.1, 0.1, 0]),
    "caffenet": ([0.01] * 5 + [0.005, 0.005, 0.01], [0, 1, 0, 1, 1, 1, 1, 0]),
    "half": ([0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.005, 0.005], [0, 1, 0, 1, 1, 1, 1, 0]),
    "onetower": ([0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.005, 0.005], [0, 1, 0, 1, 1, 1, 1, -7]),
    "torchvision": ([0.0303, 0.0144, 0.0139, 0.0098, 0.0120, 0.0060, 0.0090, 0.0090], None),
    "bn": ([(2 / n) ** 0.5 for n in (363, 1200, 2304, 1728, 1728, 9216, 4096, 4096)], [0] * 8),
    "onnxzoo": ([0.01] * 5 + [0.005, 0.005, 0.01], [0, 0.1, 0, 0.1, 0.1, 0.1, 0.1, 0]),
    "tiny": ([0.01] * 8, [0, 1, 0, 1, 1, 1, 1, 0]),
}


@pytest.fixture(scope="module", params=VARIANTS)
def net(request: pytest.FixtureRequest) -> Iterator[AlexNet]:
    yield build(request.param).eval()


def test_the_table_is_whole():
    assert set(VARIANTS) == set(TOTALS)
    for name, table in VARIANTS.items():
        assert table.name == name
        assert all(row.mark.startswith("[") for row in table.layers)
        assert [row.name for row in table.layers] == ORDER[name].split()


@pytest.mark.parametrize("name", TOTALS)
def test_totals_from_the_rows(name):
    whole = cost(variant(name), 1000)
    assert (whole.parameters, whole.macs) == TOTALS[name]
    assert cost(variant(name), 10).parameters == whole.parameters - 990 * (whole.layers[-4].out[0] + 1)


def test_neurons_and_receptive_fields():
    whole = cost(variant("paper"), 1000)
    assert [layer.neurons for layer in whole.layers if layer.neurons] == [
        *(290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000)
    ]
    assert whole.neurons == 659_272
    fields = {layer.name: layer.receptive_field for layer in whole.layers}
    assert [fields[name] for name in STATIONS] == [11, 19, 51, 67, 99, 131, 163, 195, 224, 224]
    assert fields["norm1"] == 11


def test_a_receptive_field_is_what_a_value_depends_on():
    table = variant("convnet")
    net = build(table, 1).eval()
    fields = {layer.name: layer.receptive_field for layer in cost(table, 1).layers}
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for name, x in net.trace(images, ["norm2", "wmnorm2", "pool2", "conv3"]).items():
        middle = x.shape[-1] // 2
        (slope,) = torch.autograd.grad(x[0, :, middle, middle].sum(), images, retain_graph=True)
        rows = slope[0].abs().sum((0, 2)).nonzero()
        assert int(rows.max() - rows.min()) + 1 == fields[name]


def test_shapes_parameters_and_work_of_the_module(net):
    table, name = net.variant, net.variant.name
    assert sum(p.numel() for p in net.parameters()) == TOTALS[name][0]
    images = torch.randn(1, 3, table.side, table.side)
    with torch.no_grad():
        had = net.trace(images)
        with FlopCounterMode(display=False) as counter:
            logits = net(images)
    assert counter.get_total_flops() == 2 * TOTALS[name][1]
    assert torch.equal(logits, had["fc8"])
    assert logits.shape == (1, 1000)
    for layer, shape in zip(STATIONS, GEOMETRY[name].split(), strict=True):
        C, *pixels = (int(n) for n in shape.split("×"))
        assert had[layer].shape == (1, C, *pixels * 2)
    flat = False
    for row, layer in zip(table.layers, cost(table, 1000).layers, strict=True):
        flat = flat or isinstance(row, Linear)
        assert had[row.name].shape == (1, *(layer.out[:1] if flat else layer.out))


def test_initial_values(net):
    stds, biases = INITIAL[net.variant.name]
    for n, row in enumerate(row for row in net.variant.layers if isinstance(row, Conv | Linear)):
        weight, bias = (net.get_parameter(f"{row.name}.{part}").detach() for part in ("weight", "bias"))
        few = 2 * weight.numel()
        assert abs(float(weight.std()) / stds[n] - 1) < 0.005 + 4 * few**-0.5
        assert abs(float(weight.mean())) < 5 * stds[n] * weight.numel() ** -0.5
        if biases is not None:
            assert torch.equal(bias, torch.full_like(bias, biases[n]))
        bound = float(torch.tensor(weight[0].numel() ** -0.5)) * (1 + 1e-6)
        if net.variant.name == "torchvision":
            assert 0.95 * bound < float(bias.abs().max()) <= bound
            assert 0.99 * bound < float(weight.abs().max()) <= bound
        elif net.variant.name == "article":
            assert 1.99 < float(weight.abs().max()) / (stds[n] / 0.8796) <= 2.001
        else:
            assert float(weight.abs().max()) > 3.5 * stds[n]


def test_state_names(net):
    names = [
        f"{row.name}.{part}"
        for row in net.variant.layers
        if isinstance(row, Conv | Linear)
        for part in ("weight", "bias")
    ]
    assert [name for name, _ in net.named_parameters() if not name.startswith("bn0")] == names
    norms = [f"bn{n}" for n in range(8)] if net.variant.name == "bn" else []
    averages = {f"{norm}.{part}" for norm in norms for part in ("running_mean", "running_var", "num_batches_tracked")}
    assert set(net.state_dict()) - set(names) == averages | ({"bn0.weight", "bn0.bias"} if norms else set())


def test_article_padding_is_tensorflows():
    conv, pool = (next(row for row in VARIANTS["article"].layers if isinstance(row, kind)) for kind in (Conv, MaxPool))
    total = (-(-224 // conv.stride) - 1) * conv.stride + conv.kernel - 224
    assert (conv.pad.before, conv.pad.after) == (total // 2, total - total // 2) == (3, 4)
    for n in (56, 28, 14):
        total = (-(-n // pool.stride) - 1) * pool.stride + pool.kernel - n
        assert (total // 2, total - total // 2) == (0, 1)
        x = torch.randn(1, 2, n, n) - 9
        padded = torch.nn.functional.pad(x, (0, 1, 0, 1), value=-torch.inf)
        both = (torch.max_pool2d(padded, 3, 2), torch.max_pool2d(x, 3, 2, ceil_mode=pool.ceil))
        assert torch.equal(*both)


def test_names_of_other_programs():
    known = {
        "features.0": "conv1", "features.12": "pool5", "classifier.1": "fc6", "classifier.6": "fc8", "conv1a": "conv1",
        "rnorm1b": "norm1", "pool1a_neuron": "relu1", "cnorm2a": "wmnorm2", "pool3b": "pool5", "fc2048a": "fc6",
        "fc2048b": "fc6", "fc2048ba": "fc7", "fc2048bb": "fc7", "hs2a": "drop7", "fc1000": "fc8", "conv5": "conv5",
        "fc1": "fc6", "fc3": "fc8",
    }  # fmt: skip
    for theirs, ours in known.items():
        assert layer_name(theirs, VARIANTS["convnet"]) == ours
    assert layer_name("fc4096ba", VARIANTS["half"]) == layer_name("fc4096b", VARIANTS["onetower"]) == "fc7"
    with pytest.raises(UsageError, match=r"torchvision has no layer 'norm1'; known: conv1, relu1, pool1"):
        layer_name("norm1", VARIANTS["torchvision"])
    with pytest.raises(UsageError, match="known: article, paper, convnet"):
        variant("alexnet")


def test_the_map_of_names():
    """Each name of the map is understood, as the layer beside it; and what the worlds call one by hand."""
    for table in VARIANTS.values():
        found = names(table)
        assert list(found) == [row.name for row in table.layers]
        for layer, worlds in found.items():
            assert list(worlds) == ["torchvision", "caffe", "tensorflow", "convnet"]
            assert all(layer_name(name, table) == layer for there in worlds.values() for name in there)
    assert names(VARIANTS["convnet"])["fc7"] == {
        "torchvision": ("classifier.4",), "caffe": ("fc7",), "tensorflow": ("fc2",), "convnet": ("fc2048ba", "fc2048bb"),
    }  # fmt: skip
    assert names(VARIANTS["half"])["fc6"]["convnet"] == ("fc4096a",)
    assert names(VARIANTS["onetower"])["relu7"]["convnet"] == ("fc4096b_neuron",)
    assert names(VARIANTS["onetower"])["norm2"] == {
        "torchvision": (), "caffe": ("norm2",), "tensorflow": (), "convnet": ("rnorm2",),
    }  # fmt: skip
    assert names(VARIANTS["convnet"])["wmnorm2"] == {
        "torchvision": (), "caffe": (), "tensorflow": (), "convnet": ("cnorm2a", "cnorm2b"),
    }  # fmt: skip
    assert names(VARIANTS["bn"])["bn0"]["caffe"] == ("data/bn", "data/scale")
    torchvisions = [name for layer in names(VARIANTS["torchvision"]).values() for name in layer["torchvision"]]
    assert torchvisions == [f"features.{n}" for n in range(13)] + [f"classifier.{n}" for n in range(7)]


def test_info_names(capsys):
    info("convnet", names=True, json=True)
    document = loads(capsys.readouterr().out)
    assert list(document) == ["variant", "names"] and document["variant"] == "convnet"
    assert document["names"][0] == {
        "layer": "conv1", "torchvision": ["features.0"], "caffe": ["conv1"], "tensorflow": ["conv1"],
        "convnet": ["conv1a", "conv1b"],
    }  # fmt: skip
    info("article", names=True)
    out = capsys.readouterr().out
    assert re.search(r"fc7 +classifier.4 +fc7 +fc2 +fc4096b", out) and "Variable_1" in out
    for wrong in ({"diff": "caffe"}, {"classes": 5}):
        with pytest.raises(UsageError, match="--names: not with"):
            info("convnet", names=True, **wrong)


# The traps between Caffe's network and the others, by hand from their sources: layer and what, there and here.
TRAPS = {
    "paper": {
        ("", "side"): ("227", "224"), ("", "colour"): ("BGR", "RGB"), ("", "mean_crop"): ("aligned", "centre"),
        ("", "resize"): ("warp", "shorter"), ("conv1", "pad"): ("0", "0 before, 3 after"),
        ("norm1", "k"): ("1", "2"), ("norm1", "divide"): ("yes", "no"), ("norm1", "towers"): ("1", "2"),
        ("conv2", "bias"): ("0.1", "1"), ("fc6", "init"): ("normal 0.005", "normal 0.01"),
    },
    "convnet": {
        ("", "side"): ("227", "224"), ("conv1", "pad"): ("0", "0 before, 3 after"), ("norm2", "towers"): ("1", "2"),
        ("norm1", "k"): ("1", "2"),
        ("conv1", "order"): ("conv1 → relu1 → norm1 → pool1", "conv1 → norm1 → pool1 → relu1"),
        ("wmnorm2", "layer"): ("absent", "within_map_lrn: size 5, k 1, alpha 0.001, beta 0.75"),
        ("conv3", "init"): ("normal 0.01", "normal 0.03"), ("", "mean_crop"): ("aligned", "centre"),
    },
    "torchvision": {
        ("", "side"): ("227", "224"), ("", "scale"): ("1", "0.00392157"), ("", "std"): ("1, 1, 1", "0.229, 0.224, 0.225"),
        ("conv1", "out"): ("96", "64"), ("conv1", "pad"): ("0", "2"), ("conv2", "out"): ("256", "192"),
        ("conv2", "groups"): ("2", "1"), ("conv4", "groups"): ("2", "1"), ("conv4", "out"): ("384", "256"),
        ("norm1", "layer"): ("lrn: size 5, k 1, alpha 0.0001, beta 0.75, divide yes, towers 1", "absent"),
        ("norm2", "layer"): ("lrn: size 5, k 1, alpha 0.0001, beta 0.75, divide yes, towers 1", "absent"),
    },
}  # fmt: skip


@pytest.mark.parametrize("other", TRAPS)
def test_the_traps_are_told(other, capsys):
    found = {(one.layer, one.what): (one.here, one.there) for one in difference(VARIANTS["caffe"], VARIANTS[other])}
    assert TRAPS[other].items() <= found.items()
    if other == "convnet":
        assert not {("norm1", "divide"), ("norm1", "alpha")} & found.keys(), "both divide the same alpha"
    info("caffe", diff=other)
    out = " ".join(capsys.readouterr().out.split())
    for (layer, what), (here, there) in TRAPS[other].items():
        if max(len(here), len(there)) < 20:  # longer ones are broken over lines
            assert re.search(rf"{layer or 'images'} {what} {re.escape(here)} .*{re.escape(there)}", out), (layer, what)


def test_difference():
    here, there = VARIANTS["caffe"], VARIANTS["caffenet"]
    found = {(one.layer, one.what): (one.here, one.there) for one in difference(here, there)}
    assert found == {
        **{(layer, "bias"): ("0.1", "1") for layer in ("conv2", "conv4", "conv5", "fc6", "fc7")},
        **{
            (f"conv{n}", "order"): (f"conv{n} → relu{n} → norm{n} → pool{n}", f"conv{n} → relu{n} → pool{n} → norm{n}")
            for n in (1, 2)
        },
    }
    assert not difference(here, here)
    found = {(one.layer, one.what): one for one in difference(VARIANTS["paper"], VARIANTS["convnet"])}
    assert found["norm1", "divide"].mark_here.startswith("[K12] 3.3")
    assert found["wmnorm2", "layer"].here == "absent"
    assert found["conv3", "init"].there == "normal 0.03"
    for a in VARIANTS.values():
        for b in VARIANTS.values():
            assert bool(difference(a, b)) == (a is not b)


def test_info_json(capsys):
    for name in VARIANTS:
        info(name, json=True)
        document = loads(capsys.readouterr().out)
        assert document == describe(VARIANTS[name], 1000)
        assert list(document) == ["variant", "parameters", "macs", "neurons", "input", "layers"]
        assert (document["parameters"], document["macs"]) == TOTALS[name]
        for layer in document["layers"]:
            assert list(layer) == ["name", "kind", "out", "parameters", "macs", "receptive_field"]
    info("caffe", diff="caffenet", json=True)
    rows = loads(capsys.readouterr().out)["differences"]
    assert {"value": "0.1", "mark": "[CAFFE]"} in [row["caffe"] for row in rows]


def test_info_tables(capsys):
    info("paper", classes=10)
    out = capsys.readouterr().out
    assert "650,000" in out
    assert "658,282 neurons" in out
    info("paper", diff="convnet")
    out = capsys.readouterr().out
    assert "[CODE12] cnorm2" in out
    with pytest.raises(UsageError):
        info("paper", diff="lenet")


def test_the_table_is_read_without_torch():
    code = "from alexnet.cli.info import info; import sys; info('paper', json=True); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)


def test_fidelity_page_is_fresh():
    page = fidelity.page()
    assert (Path(__file__).parents[2] / "docs" / "fidelity.md").read_text(encoding="utf-8") == page
    deviations = page.split("## DEVIATES")[1].count("\n- ")
    marks = [m for v in VARIANTS.values() for m in (v.source, *(row.mark for row in v.layers)) if "DEVIATES" in m]
    assert deviations >= 5
    assert all(mark.split("DEVIATES")[1].strip(": .") in page.split("## DEVIATES")[1] for mark in marks)
