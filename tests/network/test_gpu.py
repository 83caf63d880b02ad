"""The kernels for a GPU: on one, or, where there is none, in Triton's interpreter; against torch's own, in float64."""

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet.data.classes import imagenet_classes
from alexnet.data.samples import Samples
from alexnet.network import maps
from alexnet.network.build import Draw, build
from alexnet.network.capture import WARM
from alexnet.network.kernels import PLAIN, unmeasured
from alexnet.network.lrn import lrn
from alexnet.network.maps import max_pool
from alexnet.network.variants import VARIANTS
from alexnet.training import loop
from alexnet.training.optim import optimizer
from alexnet.training.recipes import recipe
from alexnet.weights.checkpoint import Store
from alexnet.weights.run import Run, preprocess_of

GPU = torch.device("cuda" if torch.cuda.is_available() else "cpu")
on_a_gpu = pytest.mark.skipif(GPU.type == "cpu", reason="needs a GPU")
FORMS = [
    {"size": 5, "k": 2.0, "alpha": 1e-4, "beta": 0.75, "towers": 2, "channels": 96},
    {"size": 5, "k": 1.0, "alpha": 2e-2, "beta": 0.75, "towers": 1, "channels": 256},  # more than one tile a pixel
    {"size": 11, "k": 1.0, "alpha": 1e-2, "beta": 0.5, "towers": 1, "channels": 300},
    {"size": 3, "k": 0.7, "alpha": 0.1, "beta": 0.6, "towers": 3, "channels": 30},
    {"size": 1, "k": 1.0, "alpha": 0.5, "beta": 0.75, "towers": 1, "channels": 5},
]


@pytest.fixture(scope="module")
def rooms():
    """(lrn_gpu, maps_gpu): imported here, for the rest needs no Triton."""
    from alexnet.network import lrn_gpu, maps_gpu

    return lrn_gpu, maps_gpu


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.detach().double() - b.detach().double()).abs().max() / b.detach().double().abs().max())


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(GPU, dtype)
    return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalisation_equals_float64(rooms, form, dtype):
    """Within 1e-6 in float32; of bfloat16 within 2^-7: the interpreter cuts where a GPU rounds to the nearest."""
    form = dict(form)
    shape = (2, form.pop("channels"), 5, 7)
    x, g = random(*shape, dtype=dtype) * 3, random(*shape, seed=1, dtype=dtype)
    wide = x.double().requires_grad_()
    want = lrn(wide, **form, divide=False, kernel="torch")
    slope = torch.autograd.grad(want, wide, g.double())[0]
    a = form.pop("alpha")
    values, slopes = (t.permute(0, 2, 3, 1) for t in (x, g))
    y, dx = (torch.full_like(values, torch.nan) for _ in range(2))
    rooms[0].forward(values, y, a=a, **form)
    rooms[0].backward(values, slopes, dx, a=a, **form)
    near = 1e-6 if dtype == torch.float32 else 2**-7
    assert far(y.permute(0, 3, 1, 2), want) < near
    assert far(dx.permute(0, 3, 1, 2), slope) < near


@pytest.mark.parametrize(("channels", "towers", "parts"), [(12, 1, 1), (96, 2, 1), (96, 2, 2), (300, 1, 1)])
def test_bias_relu_and_normalisation_at_once(rooms, channels, towers, parts):
    """Within 1e-6 of the three one after another in float64; towers as maps of their own."""
    x, bias = random(2, channels, 5, 7).requires_grad_(), random(channels, seed=1).requires_grad_()
    wide, wide_bias = (t.detach().double().requires_grad_() for t in (x, bias))
    form = {"size": 5, "k": 2.0, "beta": 0.75, "towers": towers}
    want = lrn(F.relu(wide + wide_bias[:, None, None]), alpha=0.1, **form, divide=False, kernel="torch")
    got = rooms[0].bias_relu_lrn(x, bias, 5, 2.0, 0.1, 0.75, towers, parts)
    assert len(got) == parts and far(torch.cat(got, 1), want) < 1e-6
    g = random(*want.shape, seed=2)
    ours = torch.autograd.grad(got, (x, bias), g.chunk(parts, 1))
    for one, other in zip(ours, torch.autograd.grad(want, (wide, wide_bias), g.double()), strict=True):
        assert far(one, other) < 1e-6


@pytest.mark.parametrize(("H", "W", "side", "stride", "ceil"), [
    (11, 11, 3, 2, False), (8, 8, 3, 2, True), (7, 9, 2, 2, False), (9, 8, 3, 3, True), (6, 6, 3, 1, False),
])  # fmt: skip
def test_pooling_equals_torchs(H, W, side, stride, ceil):
    """Values bit for bit, many of them equal to their neighbours; gradients within 1e-6: sums in another order."""
    x = random(2, 70, H, W).round().requires_grad_()
    want = F.max_pool2d(x, side, stride, ceil_mode=ceil)
    got = max_pool(x, side=side, stride=stride, out=tuple(want.shape[2:]), kernel="triton")
    assert torch.equal(got, want) and got.is_contiguous(memory_format=torch.channels_last)
    g = random(*want.shape, seed=1)
    assert far(torch.autograd.grad(got, x, g)[0], torch.autograd.grad(want, x, g)[0]) < 1e-6


def test_bias_and_relu_equal_torchs(rooms):
    """Values and slopes bit for bit, biases' slopes within 1e-6."""
    x, bias = random(3, 130, 9, 11).requires_grad_(), random(130, seed=1).requires_grad_()
    want, got = F.relu(x + bias[:, None, None]), rooms[1].bias_relu(x, bias)
    g = random(*x.shape, seed=2)
    (dx, db), (ours, ours_b) = (torch.autograd.grad(y, (x, bias), g) for y in (want, got))
    assert torch.equal(got, want) and torch.equal(ours, dx) and far(ours_b, db) < 1e-6


def test_what_is_not_a_number_stays_so(rooms):
    x = random(1, 4, 6, 6)
    x[0, 1, 2, 2], x[0, 2, 3, 3] = torch.nan, torch.inf
    want = F.max_pool2d(x, 3, 2)
    got = max_pool(x, side=3, stride=2, out=(2, 2), kernel="triton")
    assert torch.equal(got.nan_to_num(7), want.nan_to_num(7))
    assert torch.equal(rooms[1].bias_relu(x, random(4) * 0).nan_to_num(7), F.relu(x).nan_to_num(7))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_the_operators_are_what_torch_expects(rooms):
    x, bias = random(2, 6, 7, 7).requires_grad_(), random(6).requires_grad_()
    for operator, given in (
        (rooms[0].bias_relu_lrn, (x, bias, 3, 2.0, 1e-2, 0.75, 2, 2)),
        (rooms[1].bias_relu, (x, bias)),
        (maps._max_pool, (x, 3, 2, 3, 3, "triton", False)),
    ):
        said = torch.library.opcheck(operator, given)
        assert set(said.values()) == {"SUCCESS"} and len(said) >= 4


def test_float64_is_refused(rooms):
    x, bias = random(1, 2, 3, 3).double(), random(2).double()
    for operator in (rooms[1].bias_relu, lambda x, bias: rooms[0].bias_relu_lrn(x, bias, 3, 1.0, 1.0, 0.75, 1, 1)):
        with pytest.raises(ValueError, match="float64"):
            operator(x, bias)


def test_no_images_are_no_images(rooms):
    """A part of a batch may be empty."""
    x, bias = random(0, 6, 7, 7).requires_grad_(), random(6).requires_grad_()
    for y in (
        torch.cat(rooms[0].bias_relu_lrn(x, bias, 3, 2.0, 1e-2, 0.75, 2, 2), 1),
        rooms[1].bias_relu(x, bias),
        max_pool(x, side=3, stride=2, out=(3, 3), kernel="triton"),
    ):
        assert y.shape[:2] == (0, 6)
        (dx,) = torch.autograd.grad(y.sum(), x)
        assert dx.shape == x.shape


@on_a_gpu
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_normalisation_is_the_operator_that_torch_expects():
    from alexnet.network import lrn as room

    for towers in (1, 2):
        x = random(2, 4, 3, 5).requires_grad_()
        said = torch.library.opcheck(room._lrn, (x, 3, 2.0, 1e-2, 0.75, towers, "triton", False))
        assert set(said.values()) == {"SUCCESS"} and len(said) >= 4


@on_a_gpu
@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_variant_equals_the_plain_way(name):
    """Logits within 1e-5 in float32 without TF32; slopes of the last layer, which no pool's or ReLU's turn reaches."""
    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "ieee"
    try:
        model = build(name, classes=5, seed=1).to(GPU).to(memory_format=torch.channels_last).train()
        side = model.variant.side
        images, found = random(2, 3, side, side, seed=2) * 50, []
        for kernels in (PLAIN, unmeasured(GPU), replace(unmeasured(GPU), conv1="blocks", towers="apart")):
            model.kernels = kernels
            model.zero_grad(set_to_none=True)
            logits = model(images, Draw(seed=3, step=5, total=2, offset=0))
            logits.square().sum().backward()
            found.append((logits.detach(), model.get_parameter("fc8.weight").grad.clone()))
        near = 1e-2 if name == "bn" else 1e-5  # the variance of two images' values may be next to nothing
        for logits, slope in found[1:]:
            assert far(logits, found[0][0]) < near and far(slope, found[0][1]) < 10 * near
    finally:
        torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision = before


def job_of(name: str, *, precision: str) -> loop.Job:
    """A training of a variant by recipe `fast`, of no pictures."""
    chosen = recipe("fast")
    model = build(name, classes=7, seed=0).to(GPU).to(memory_format=torch.channels_last)
    none = np.zeros(0, np.int64)
    nothing = Samples.build(Path(), [], label=none, classes=imagenet_classes(), size=none)
    return loop.Job(
        run=Run(Path()), store=Store(Path()), recipe=chosen, model=model, rule=optimizer(model, chosen), train=nothing,
        val=None, preprocess=preprocess_of(model.variant), mean=None, stats=None, device=GPU, precision=precision, steps=0,
    )  # fmt: skip


def some_batch(job: loop.Job, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    side = job.model.variant.side
    return random(size, 3, side, side, seed=seed) * 50, torch.arange(size, device=GPU) % 7


def test_its_job_takes_steps_without_a_gpu_too():
    """What the test below is made of is tried on every change; the test itself only where there is a GPU."""
    job = job_of("tiny", precision="fp32")
    losses = [float(loop.step(job, *some_batch(job, 4, 0), number=number, lr=1e-3)[0]) for number in range(4)]
    assert 0 < losses[-1] < losses[0]


@on_a_gpu
@pytest.mark.parametrize("name", ["paper", "torchvision", "bn"])
def test_a_graph_equals_its_launches(name):
    """Losses and weights bit for bit, dropout drawn, a smaller batch in between."""
    ended = []
    for step in ("launches", "graph"):
        gc.collect()
        job, losses = job_of(name, precision="bf16"), []
        job.model.kernels = replace(unmeasured(GPU), conv1="blocks", step=step)
        for number in range(WARM + 7):
            size = 12 if number in (WARM, WARM + 3) else 16  # where a capture would come, and after it
            loss, correct = loop.step(job, *some_batch(job, size, number), number=number, lr=1e-3)
            losses.append((float(loss), int(correct)))
        ended.append((losses, {name: value.clone() for name, value in job.model.state_dict().items()}))
    assert ended[0][0] == ended[1][0]
    assert all(torch.equal(value, ended[1][1][name]) for name, value in ended[0][1].items())
