"""The module against independent ones: torchvision's, a tower-by-tower net, NumPy; dropout, tracing, initial values."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from alexnet.errors import UsageError
from alexnet.network import build as room
from alexnet.network.build import AlexNet, Draw, build
from alexnet.network.variants import ALIASES, VARIANTS


def far(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / b.abs().max())


def pictures(n: int, side: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_torchvision_is_torchvisions():
    ours = build("torchvision", seed=3, dropout=0.0)
    theirs = torchvision.models.alexnet(dropout=0.0)
    names = {ALIASES[name.rpartition(".")[0]] + "." + name.rpartition(".")[2]: name for name in theirs.state_dict()}
    theirs.load_state_dict({names[name]: value for name, value in ours.state_dict().items()})
    theirs_by_name = dict(theirs.named_parameters())
    for batch, (mode, shape) in enumerate(
        [(True, (2, 3, 224, 224)), (False, (3, 3, 224, 224)), (True, (1, 3, 97, 130))]
    ):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(batch))
        labels = torch.arange(len(images)) * 7 % 1000
        logits = []
        for net in (ours, theirs):
            net.train(mode).zero_grad()
            logits.append(net(images))
            F.cross_entropy(logits[-1], labels).backward()
        assert far(*logits) <= 1e-5
        for name, value in ours.named_parameters():
            assert far(value.grad, theirs_by_name[names[name]].grad) <= 1e-4


def towers(net: AlexNet, images: Tensor) -> Tensor:
    """Net 145 as two towers that meet where the program's config says."""
    state, halves = net.state_dict(), []

    def conv(x: Tensor, layer: str, tower: int, **how: int) -> Tensor:
        w, b = (state[f"{layer}.{part}"].chunk(2)[tower] for part in ("weight", "bias"))
        return F.conv2d(x, w, b, **how)

    for t in (0, 1):
        x = F.pad(images, (0, 3, 0, 3))
        x = F.local_response_norm(conv(x, "conv1", t, stride=4), 5, 1e-4, 0.75, 2.0)
        x = conv(F.max_pool2d(x, 3, 2).relu(), "conv2", t, padding=2).relu()
        x = F.local_response_norm(x, 5, 1e-4, 0.75, 2.0)
        x = x * (1 + 0.001 * F.avg_pool2d(x**2, 5, 1, 2)) ** -0.75
        halves.append(F.max_pool2d(x, 3, 2))
    both = torch.cat(halves, 1)
    fives = []
    for t in (0, 1):
        x = conv(conv(both, "conv3", t, padding=1).relu(), "conv4", t, padding=1).relu()
        fives.append(F.max_pool2d(conv(x, "conv5", t, padding=1), 3, 2).relu())
    x = torch.cat(fives, 1).flatten(1)
    for layer in ("fc6", "fc7"):
        x = F.linear(x, state[f"{layer}.weight"], state[f"{layer}.bias"]).relu()
    return F.linear(x, state["fc8.weight"], state["fc8.bias"])


def test_convnet_is_two_towers():
    net = build("convnet", 50, seed=1).eval()
    images = pictures(2, 224) * 60
    with torch.no_grad():
        assert far(net(images), towers(net, images)) < 1e-5


def test_article_conv1_by_hand():
    net = build("article", 1)
    images = pictures(1, 224)
    with torch.no_grad():
        net.conv1.bias.normal_()
        y = net.trace(images, ["conv1"])["conv1"][0].numpy()
    x = np.zeros((3, 224 + 7, 224 + 7))
    x[:, 3:-4, 3:-4] = images[0].numpy()
    w, b = (net.conv1.get_parameter(part).detach().double().numpy() for part in ("weight", "bias"))
    for i, j in [(0, 0), (0, 55), (55, 0), (55, 55), (27, 13)]:
        window = x[:, 4 * i : 4 * i + 11, 4 * j : 4 * j + 11]
        assert np.abs(y[:, i, j] - (w * window).sum((1, 2, 3)) - b).max() < 1e-5 * np.abs(y).max()


def test_initial_values_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    a, b, c = build("tiny", 10, seed=5), build("tiny", 10, seed=5), build("tiny", 10, seed=6)
    d = build("tiny", 3, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name])
        assert name.endswith("bias") or not torch.equal(value, c.state_dict()[name])
        assert name.startswith("fc8") or torch.equal(value, d.state_dict()[name])
    weights = [value for name, value in a.state_dict().items() if name.endswith("weight")]
    starts = {tuple(w.flatten()[:50].tolist()) for w in weights}
    assert len(starts) == len(weights)


def test_dropout_draws_for_the_whole_batch():
    before = torch.get_rng_state()
    x = torch.ones(12, 4096)
    whole = room._dropped(x, 0.5, Draw(1, 2, total=12, offset=0), 17)
    parts = [room._dropped(x[:n], 0.5, Draw(1, 2, 12, offset), 17) for offset, n in ((0, 3), (3, 1), (4, 8))]
    assert torch.equal(whole, torch.cat(parts))
    assert whole.unique().tolist() == [0.0, 2.0]
    assert abs(float(whole.mean()) - 1) < 0.02
    assert torch.equal(whole, room._dropped(x.bfloat16(), 0.5, Draw(1, 2, 12, 0), 17).float())
    others = [(Draw(1, 3, 12, 0), 17), (Draw(2, 2, 12, 0), 17), (Draw(2, 1, 12, 0), 17), (Draw(1, 2, 12, 0), 20)]
    for draw, layer in others:
        agreement = float((room._dropped(x, 0.5, draw, layer) == whole).float().mean())
        assert abs(agreement - 0.5) < 0.02
    with pytest.raises(ValueError, match="batch of 12"):
        room._dropped(x, 0.5, Draw(1, 2, 12, 1), 17)
    assert set(room._dropped(x, 0.2, Draw(1, 2, 12, 0), 17).unique().tolist()) == {0.0, 1.25}
    assert torch.equal(before, torch.get_rng_state())


def test_micro_batches_see_the_whole_batchs_dropout():
    net, images = build("tiny", 10), pictures(6, 64) * 60
    whole = net(images, Draw(0, 7, 6, 0))
    parts = torch.cat([net(images[n : n + 2], Draw(0, 7, 6, n)) for n in (0, 2, 4)])
    assert far(parts, whole) < 1e-6
    assert far(net(images, Draw(0, 8, 6, 0)), whole) > 1e-3
    torch.manual_seed(0)
    a = net(images)
    torch.manual_seed(0)
    assert torch.equal(a, net(images))
    assert far(net(images), a) > 1e-3
    net.eval()
    assert torch.equal(net(images, Draw(0, 7, 6, 0)), net(images))
    off = build("tiny", 10, dropout=0.0)
    assert torch.equal(off(images), net(images))


@pytest.mark.parametrize("name", ["tiny", "torchvision"])
@torch.no_grad()
def test_trace(name):
    net = build(name, 5).eval()
    images = pictures(2, net.variant.side)
    whole = net.trace(images)
    assert list(whole) == [row.name for row in net.variant.layers]
    assert torch.equal(whole["relu1"], whole["conv1"].relu())
    assert bool((whole["conv1"] < 0).any())
    assert far(net(images), whole["fc8"]) < 1e-6
    some = net.trace(images, ["classifier.6", "features.0", "conv1a", "pool5"])
    assert list(some) == ["classifier.6", "features.0", "conv1a", "pool5"]
    for theirs, ours in (("classifier.6", "fc8"), ("features.0", "conv1"), ("conv1a", "conv1"), ("pool5", "pool5")):
        assert torch.equal(some[theirs], whole[ours])
    net.fc8 = None  # what comes after the last layer asked for is not computed
    assert torch.equal(net.trace(images, ["fc7"])["fc7"], whole["fc7"])
    with pytest.raises(UsageError, match="known: conv1"):
        net.trace(images, ["conv9"])


def test_gradients_do_not_suffer_from_relus_in_place():
    net, images = build("tiny", 5, seed=2, dropout=0.0), pictures(3, 64) * 60
    slopes = []
    for logits in (net(images), net.trace(images)["fc8"]):
        net.zero_grad()
        logits.logsumexp(1).sum().backward()
        slopes.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*slopes, strict=True))


def test_bn_trains_and_keeps_averages():
    net = build("bn", 4)
    net(pictures(3, 227) * 60 + 120).sum().backward()
    assert float(net.bn0.running_mean.min()) > 11
    assert net.bn0.weight.grad is not None
    assert net.bn7.weight is None


def test_any_precision_and_layout():
    images = pictures(2, 64) * 60
    exact = build("tiny", 5).double().eval()(images.double())
    net = build("tiny", 5).eval()
    assert far(net(images), exact) < 1e-5
    net.to(memory_format=torch.channels_last)
    assert far(net(images.to(memory_format=torch.channels_last)), exact) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert far(net(images), exact) < 0.05


def test_torch_exports_it_with_any_batch():
    net = build("tiny", 5).eval()
    program = torch.export.export(net, (pictures(2, 64),), dynamic_shapes={"images": {0: torch.export.Dim("B")}})
    images = pictures(5, 64, seed=1)
    assert far(program.module()(images), net(images)) < 1e-5


def test_refusals():
    net = build(VARIANTS["tiny"], 2)
    for shape in [(1, 3, 224, 224), (3, 64, 64), (1, 1, 64, 64)]:
        with pytest.raises(ValueError, match=r"tiny expects images of \(3, 64, 64\)"):
            net(torch.zeros(shape))
    for wrong in ({"classes": 0}, {"dropout": 1.0}, {"dropout": -0.1}):
        with pytest.raises(UsageError):
            build("tiny", **wrong)
    with pytest.raises(UsageError, match="known: article"):
        build("lenet")
