"""ReLU, normalization and pool as one operator, against the three one after the other and against torch in float64."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from alexnet.network import lrn_pool
from alexnet.network.build import build
from alexnet.network.kernels import PLAIN
from alexnet.network.lrn import lrn
from alexnet.network.lrn_pool import relu_lrn_pool
from alexnet.network.maps import max_pool

FORM = {"size": 5, "k": 2.0, "alpha": 0.02, "beta": 0.75, "divide": True}
POOLS = [(11, 11, 3, 2, (5, 5)), (8, 10, 3, 2, (4, 5)), (7, 9, 2, 2, (3, 4))]  # the second reaches beyond its map


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    values = 5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("H", "W", "side", "stride", "out"), POOLS)
@pytest.mark.parametrize("changed", [{}, {"beta": 0.5, "divide": False}, {"size": 3, "beta": 0.6}])
@pytest.mark.parametrize(("channels", "towers"), [(96, 1), (96, 2), (256, 2), (64, 1), (192, 1), (40, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_operator_has_the_bits_of_three(H, W, side, stride, out, changed, channels, towers, dtype):
    """Of the widths that the networks have: a vector and what is left over from vectors may round apart."""
    form = {**FORM, **changed, "towers": towers}
    x = random(3, channels, H, W, dtype=dtype)
    x[1, 3, 4, 4], x[1, 7, 4, 4] = 0, -0.0
    x.requires_grad_()
    made = relu_lrn_pool(x, **form, side=side, stride=stride, out=out)
    normalised = lrn(x, **form, kernel="numba", relu=True)
    want = max_pool(normalised, side=side, stride=stride, out=out, kernel="numba")
    g = random(*want.shape, seed=1, dtype=dtype)
    assert torch.equal(made, want) and made.is_contiguous(memory_format=torch.channels_last)
    ours, theirs = (torch.autograd.grad(y, x, g)[0] for y in (made, want))
    assert torch.equal(ours, theirs) and ours.is_contiguous(memory_format=torch.channels_last)


def test_not_a_number_is_none_in_either():
    x = random(2, 96, 7, 7)
    x[0, 3, 1, 1], x[0, 40, 2, 5], x[1, 8, 3, 3] = torch.nan, torch.inf, -torch.inf
    x.requires_grad_()
    made = relu_lrn_pool(x, **FORM, towers=1, side=3, stride=2, out=(3, 3))
    want = max_pool(lrn(x, **FORM, towers=1, kernel="numba", relu=True), side=3, stride=2, out=(3, 3), kernel="numba")
    ours, theirs = (torch.autograd.grad(y.sum(), x)[0] for y in (made, want))
    for a, b in ((made, want), (ours, theirs)):
        assert torch.isnan(a).any() and torch.equal(torch.isnan(a), torch.isnan(b))
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


def test_neither_form_nor_threads_change_a_bit():
    x, had, found = random(5, 96, 9, 9), torch.get_num_threads(), []
    try:
        for threads, form in ((1, torch.channels_last), (2, torch.contiguous_format), (3, torch.channels_last)):
            torch.set_num_threads(threads)
            given = x.contiguous(memory_format=form).requires_grad_()
            made = relu_lrn_pool(given, **FORM, towers=2, side=3, stride=2, out=(4, 4))
            found.append((made, torch.autograd.grad(made.square().sum(), given)[0]))
    finally:
        torch.set_num_threads(had)
    assert all(torch.equal(a, b) for one in found[1:] for a, b in zip(one, found[0], strict=True))


def test_torchs_own_operators_in_float64_agree():
    x = random(2, 12, 9, 9).requires_grad_()
    made = relu_lrn_pool(x, **FORM, towers=1, side=3, stride=2, out=(4, 4))
    wide = x.detach().double().requires_grad_()
    want = F.max_pool2d(F.local_response_norm(wide.relu(), 5, alpha=0.02, beta=0.75, k=2.0), 3, 2)
    g = random(*want.shape, seed=1)
    torch.testing.assert_close(made.double(), want, rtol=1e-5, atol=1e-6)
    ours, theirs = torch.autograd.grad(made, x, g)[0], torch.autograd.grad(want, wide, g.double())[0]
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "times"), [("paper", 2), ("convnet", 0), ("caffenet", 0)])
@pytest.mark.parametrize("towers", ["grouped", "apart"])
def test_the_network_takes_it_where_both_kernels_are_numbas(name, times, towers, monkeypatch):
    """Where ReLU, normalization and pool stand in this order, and there is an image for each thread. convnet has its
    first ReLU behind the pool, and another normalization before the second pool; CaffeNet has the pools first.
    """
    calls = []
    made = lrn_pool.relu_lrn_pool
    monkeypatch.setattr(
        "alexnet.network.kernels.relu_lrn_pool", lambda x, **form: calls.append(form) or made(x, **form)
    )
    model = build(name, classes=5, seed=1).to(memory_format=torch.channels_last)
    images = random(torch.get_num_threads(), 3, model.variant.side, model.variant.side)
    with torch.no_grad():
        for kernels in (PLAIN, replace(PLAIN, lrn="numba"), replace(PLAIN, maps="numba")):
            model.kernels = kernels
            model(images)
        assert not calls
        model.kernels = replace(PLAIN, lrn="numba", maps="numba", towers=towers)
        model(images)
    wanted = times * (2 if towers == "apart" else 1)  # of each tower its own
    assert len(calls) == wanted
    torch.set_num_threads(len(images) + 1)
    try:
        with torch.no_grad():
            model(images)
    finally:
        torch.set_num_threads(len(images))
    assert len(calls) == wanted


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_it_is_the_operator_that_torch_expects():
    x = random(2, 6, 7, 7).requires_grad_()
    said = torch.library.opcheck(lrn_pool._relu_lrn_pool, (x, 5, 2.0, 0.1, 0.75, 1, 3, 2, 3, 3))
    assert set(said.values()) == {"SUCCESS"} and len(said) >= 4


def test_no_images_are_no_images():
    x = random(0, 6, 7, 7).requires_grad_()
    y = relu_lrn_pool(x, **FORM, towers=1, side=3, stride=2, out=(3, 3))
    assert y.shape == (0, 6, 3, 3) and torch.autograd.grad(y.sum(), x)[0].shape == x.shape


def test_what_it_cannot_take():
    x, asked = random(1, 6, 7, 7), {**FORM, "towers": 1, "side": 3, "stride": 2, "out": (3, 3)}
    for changed in ({"size": 4}, {"k": 0.0}, {"towers": 4}, {"side": 16}, {"out": (9, 3)}):
        with pytest.raises(ValueError, match=r"size 4|k 0|4 towers|side 16|no \(9, 3\) windows"):
            relu_lrn_pool(x, **{**asked, **changed})
    with pytest.raises(ValueError, match="float64"):
        relu_lrn_pool(x.double(), **asked)
