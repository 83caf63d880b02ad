"""Every way of computing a network against the plain one, forward and gradient, all variants."""

import json
from dataclasses import replace

import pytest
import torch

from alexnet.errors import UsageError
from alexnet.network.build import Draw, build
from alexnet.network.kernels import CHOICES, PLAIN, Kernels, fastest
from alexnet.network.variants import VARIANTS, variant

OTHERS = [
    replace(PLAIN, lrn="numba"),
    replace(PLAIN, maps="numba"),
    replace(PLAIN, lrn="numba", maps="numba", conv1="blocks", towers="apart"),
    replace(PLAIN, conv1="blocks"),
    replace(PLAIN, towers="apart"),
]


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-30))


def answers(model, kernels: Kernels, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits in training, and every gradient of a loss of them."""
    model.kernels = kernels
    model.zero_grad(set_to_none=True)
    logits = model(images, Draw(seed=3, step=5, total=len(images), offset=0))
    logits.square().sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_choice_equals_the_plain_one(name):
    """Logits within 1e-5 in float32, where sums are added in another order; gradients within 1e-9 in float64.

    In float32 a gradient may jump: a rounding turns which of two near equal values is the largest of a pool, or the
    sign of a ReLU's. numba's kernels have no float64: their gradients are tested by themselves (test_lrn.py, test_maps.py,
    test_lrn_pool.py).
    """
    model = build(name, classes=5, seed=1).to(memory_format=torch.channels_last).train()
    side = model.variant.side
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2)) * 50
    images = images.to(memory_format=torch.channels_last)
    logits, _ = answers(model, PLAIN, images)
    near = 1e-3 if name == "bn" else 1e-5  # the variance of two images' values may be next to nothing
    for kernels in OTHERS:
        assert far(answers(model, kernels, images)[0], logits) < near, kernels
    model, images = model.double(), images.double()
    logits, gradients = answers(model, PLAIN, images)
    for kernels in OTHERS[3:]:
        ours, theirs = answers(model, kernels, images)
        assert far(ours, logits) < 1e-9, kernels
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())  # a bias before bn has none
        for parameter, gradient in gradients.items():
            assert float((theirs[parameter] - gradient).abs().max()) < 1e-9 * largest, (kernels, parameter)


@pytest.mark.parametrize("name", ["tiny", pytest.param("article", marks=pytest.mark.slow)])
def test_every_choice_in_bf16_is_as_near_to_fp32_as_the_plain_one(name):
    """As training computes it: logits, and the gradient of fc8, which no pool's or ReLU's turn reaches, within 3 %."""
    model = build(name, classes=5, seed=1, dropout=0.0).to(memory_format=torch.channels_last).train()
    side = model.variant.side
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2)) * 50
    images = images.to(memory_format=torch.channels_last)
    logits, gradients = answers(model, PLAIN, images)
    for kernels in (PLAIN, *OTHERS):
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = answers(model, kernels, images)
        assert ours.dtype == torch.bfloat16
        assert far(ours, logits) < 0.03 and far(theirs["fc8.weight"], gradients["fc8.weight"]) < 0.06, kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "kernels"), [
    ("torchvision", PLAIN),  # the pool before the ReLU
    ("torchvision", replace(PLAIN, maps="numba")),
    ("paper", replace(PLAIN, lrn="numba", maps="numba")),  # ReLU, normalization and pool at once
])  # fmt: skip
def test_rows_at_once_are_the_rows_one_by_one(name, kernels, dtype):
    """The network, which takes some together or in another order, against its rows: every bit, forward and gradient."""
    model = build(name, classes=5, seed=1, dropout=0.0).to(dtype).to(memory_format=torch.channels_last)
    model.kernels = kernels
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2)).to(dtype)
    found = []
    for run in (model, lambda x: model.trace(x, ["fc8"])["fc8"]):
        model.zero_grad(set_to_none=True)
        logits = run(images.to(memory_format=torch.channels_last))
        logits.float().square().sum().backward()
        found.append([logits.detach(), *(p.grad.clone() for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_measurement_names_what_it_measured():
    made, measured = fastest(variant("paper"), batch=1, precision="fp32", device=torch.device("cpu"))
    assert set(measured) == {"lrn", "conv1", "towers", "maps"}  # the rest is for a GPU
    for choice, seconds in measured.items():
        assert set(seconds) == set(CHOICES[choice]) - {"triton"} and min(seconds.values()) > 0
        assert getattr(made, choice) == min(seconds, key=seconds.__getitem__)
    made, measured = fastest(variant("torchvision"), batch=1, precision="fp32", device=torch.device("cpu"))
    assert set(measured) == {"conv1", "maps"} and (made.lrn, made.towers) == (PLAIN.lrn, PLAIN.towers)


def test_kernels_are_read_with_care(monkeypatch):
    for kernels in (PLAIN, *OTHERS):
        assert Kernels.of(json.loads(json.dumps(kernels.to_json())), "x") == kernels
    for wrong in (None, [], {}, {"lrn": "torch"}, {**PLAIN.to_json(), "more": "x"}, {**PLAIN.to_json(), "lrn": "fast"}):
        with pytest.raises(UsageError, match="kernels"):
            Kernels.of(wrong, "environment.json")
    older = {name: one for name, one in PLAIN.to_json().items() if name not in ("maps", "step")}
    assert Kernels.of(older, "x") == PLAIN
    monkeypatch.setattr("alexnet.network.kernels.has_numba", lambda: False)
    for kernels in OTHERS[:2]:
        with pytest.raises(UsageError, match="numba is not installed"):
            Kernels.of(kernels.to_json(), "environment.json").check(torch.device("cpu"), "environment.json")
