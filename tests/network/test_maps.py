"""Max-pooling compiled for the processor, against torch's own and against sums in NumPy; blocks against slices."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet.network import maps
from alexnet.network.maps import in_blocks, max_pool
from alexnet.network.maps_cpu import max_pool_rectified

FORMS = [(11, 11, 3, 2, False), (8, 8, 3, 2, True), (7, 9, 2, 2, False), (9, 8, 3, 3, True), (6, 6, 3, 1, False)]
DTYPES = [torch.float32, torch.bfloat16]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return values.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("H", "W", "side", "stride", "ceil"), FORMS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pooling_equals_torchs(H, W, side, stride, ceil, relu, dtype):
    """Values bit for bit, many of them equal to their neighbours; slopes are those of torch in float64, rounded once."""
    x = random(5, 70, H, W, dtype=dtype).round().requires_grad_()
    wide = x.detach().double().requires_grad_()
    want = F.max_pool2d(wide, side, stride, ceil_mode=ceil)
    want = F.relu(want) if relu else want
    got = max_pool(x, side=side, stride=stride, out=tuple(want.shape[2:]), kernel="numba", relu=relu)
    assert torch.equal(got.double(), want) and got.is_contiguous(memory_format=torch.channels_last)
    g = random(*want.shape, seed=1, dtype=dtype)
    ours, slope = torch.autograd.grad(got, x, g)[0], torch.autograd.grad(want, wide, g.double())[0]
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours, slope.to(dtype), rtol=2**-8 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)


def test_slopes_by_hand():
    """Windows that share a pixel both give it theirs; of equals the first has it all; a ReLU lets none through below 0."""
    x = torch.tensor([[1.0, 5, 5, 5, 2], [0, 5, 0, 0, 0], [0, 0, 0, 0, 9]]).reshape(1, 1, 3, 5).requires_grad_()
    y = max_pool(x, side=3, stride=2, out=(1, 2), kernel="numba", relu=True)
    assert y.flatten().tolist() == [5, 9]
    (dx,) = torch.autograd.grad(y, x, torch.tensor([2.0, 3]).reshape(1, 1, 1, 2))
    want = np.zeros((3, 5))
    want[0, 1], want[2, 4] = 2, 3
    assert np.array_equal(dx[0, 0].numpy(), want)
    x = torch.full((1, 1, 1, 5), -1.0).requires_grad_()
    with torch.no_grad():
        x[..., 2] = 4
    y = max_pool(x, side=3, stride=2, out=(1, 2), kernel="numba", relu=True)
    assert torch.autograd.grad(y, x, torch.tensor([2.0, 3]).reshape(1, 1, 1, 2))[0].flatten().tolist() == [
        0,
        0,
        5,
        0,
        0,
    ]
    x = -torch.ones(1, 2, 3, 3).requires_grad_()
    y = max_pool(x, side=3, stride=2, out=(1, 1), kernel="numba", relu=True)
    assert not y.any() and not torch.autograd.grad(y.sum(), x)[0].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_a_number_stays_so(dtype):
    x = random(1, 4, 6, 6, dtype=dtype)
    x[0, 1, 2, 2], x[0, 2, 3, 3], x[0, 3, 0, 0] = torch.nan, torch.inf, -torch.nan
    for relu in (False, True):
        want = F.max_pool2d(x, 3, 2)
        want = F.relu(want) if relu else want
        got = max_pool(x, side=3, stride=2, out=(2, 2), kernel="numba", relu=relu)
        assert (
            torch.equal(got.nan_to_num(7), want.nan_to_num(7)) and got[0, 1].isnan().any() and got[0, 3].isnan().any()
        )


@pytest.mark.parametrize(("H", "W", "side", "stride", "ceil"), FORMS)
def test_pooling_of_what_is_not_below_zero(H, W, side, stride, ceil):
    x = F.relu(random(3, 70, H, W, dtype=torch.bfloat16).round())
    x[0, :5, :2, :2] = -0.0
    x[0, 5, 2, 2], x[0, 6, 2, 2], x[0, 7, 3, 3] = torch.nan, -torch.nan, torch.inf
    want = F.max_pool2d(x, side, stride, ceil_mode=ceil)
    got = torch.empty_like(want, memory_format=torch.channels_last)
    max_pool_rectified(maps.last(x), maps.last(got), side=side, stride=stride)
    assert torch.equal(got.nan_to_num(7), want.nan_to_num(7)) and got[0, 5].isnan().any() and got[0, 6].isnan().any()


def test_any_number_of_threads_gives_the_same_bytes():
    x, g = random(7, 40, 13, 13, dtype=torch.bfloat16).requires_grad_(), random(7, 40, 6, 6, dtype=torch.bfloat16)
    had, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            y = max_pool(x, side=3, stride=2, out=(6, 6), kernel="numba")
            found.append((y, torch.autograd.grad(y, x, g)[0]))
    finally:
        torch.set_num_threads(had)
    assert all(torch.equal(a, b) for one in found[1:] for a, b in zip(one, found[0], strict=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_pooling_is_the_operator_that_torch_expects():
    for relu in (False, True):
        x = random(2, 6, 7, 7).requires_grad_()
        said = torch.library.opcheck(maps._max_pool, (x, 3, 2, 3, 3, "numba", relu))
        assert set(said.values()) == {"SUCCESS"} and len(said) >= 4


def test_no_images_are_no_images():
    x = random(0, 6, 7, 7).requires_grad_()
    y = max_pool(x, side=3, stride=2, out=(3, 3), kernel="numba")
    assert y.shape == (0, 6, 3, 3) and torch.autograd.grad(y.sum(), x)[0].shape == x.shape


def test_not_a_number_in_a_window_beyond_the_map_has_its_slope():
    x = torch.zeros(1, 1, 4, 4)
    x[..., 3, 3] = torch.nan
    x.requires_grad_()
    y = max_pool(x, side=3, stride=2, out=(2, 2), kernel="numba")
    assert y[0, 0, 1, 1].isnan() and float(torch.autograd.grad(y, x, torch.ones_like(y))[0][0, 0, 3, 3]) == 1


def test_what_a_kernel_cannot_take_is_refused():
    for x in (random(1, 2, 5, 5).double(), random(1, 2, 5, 5).half(), random(1, 2, 5, 5).to("meta")):
        with pytest.raises(ValueError, match=f"numba: does not take {x.dtype} on {x.device}"):
            max_pool(x, side=3, stride=2, out=(2, 2), kernel="numba")
    edge = random(1, 1, 5, 5)
    assert max_pool(edge, side=3, stride=2, out=(3, 2), kernel="numba").shape[2:] == (3, 2)  # begins within the map
    for x, out in ((edge, (4, 2)), (random(1, 1, 2, 2), (0, 0)), (torch.empty(1, 1, 0, 4), (1, 1))):
        with pytest.raises(ValueError, match="have no"):
            max_pool(x, side=3, stride=2, out=out, kernel="numba")
    with pytest.raises(ValueError, match="has no ReLU"):
        max_pool(random(1, 1, 5, 5), side=3, stride=2, out=(2, 2), kernel="triton", relu=True)
    with pytest.raises(ValueError, match="side 16"):
        max_pool(random(1, 1, 20, 20), side=16, stride=2, out=(3, 3), kernel="numba")


@pytest.mark.parametrize(("H", "W", "before", "out"), [
    (20, 20, 0, (5, 5)),  # a picture's pixels and no others
    (21, 18, 3, (6, 7)),  # zeros on every side
    (23, 30, 2, (4, 5)),  # the picture goes on behind the last block
    (1, 2, 3, (2, 1)),
    (7, 9, 9, (5, 6)),  # blocks of nothing but zeros
])  # fmt: skip
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("kernel", ["torch", "numba"])
def test_blocks_are_the_pictures_pixels(H, W, before, out, dtype, kernel):
    """Each block cut by hand from a picture with zeros around it; a slope goes back to its pixel; batches of any form."""
    x = random(3, 3, H, W, dtype=dtype).requires_grad_()
    got = in_blocks(x, before=before, out=out, kernel=kernel)
    assert got.shape == (3, 48, *out) and got.is_contiguous(memory_format=torch.channels_last)
    around = np.zeros((3, 100, 100, 3))
    around[:, before : before + H, before : before + W] = x.detach().double().permute(0, 2, 3, 1)
    for i in range(out[0]):
        for j in range(out[1]):
            block = around[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            assert np.array_equal(got[:, :, i, j].detach().double(), block.reshape(3, 48)), (i, j)
    marks = torch.arange(got.numel(), dtype=torch.float64).reshape(got.shape) % 251  # in any of the dtypes
    (dx,) = torch.autograd.grad(got, x, marks.to(dtype))
    there = np.zeros((3, 4 * out[0], 4 * out[1], 3))
    for i in range(out[0]):
        for j in range(out[1]):
            there[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = marks[:, :, i, j].reshape(3, 4, 4, 3)
    want = np.zeros((3, H, W, 3))
    inner = there[:, before : before + H, before : before + W]
    want[:, : inner.shape[1], : inner.shape[2]] = inner
    assert np.array_equal(dx.double().permute(0, 2, 3, 1), want)
    plain = x.detach().contiguous()  # a colour behind the other
    assert torch.equal(in_blocks(plain, before=before, out=out, kernel=kernel), got)
    assert in_blocks(x[:0], before=before, out=out, kernel=kernel).shape == (0, 48, *out)


def test_blocks_of_what_is_no_picture():
    for x, kernel in ((random(1, 4, 8, 8), "numba"), (random(1, 3, 8, 8)[0], "torch"), (random(1, 3, 8, 8), "triton")):
        with pytest.raises(ValueError, match=r"\(B, 3, H, W\)|kernel triton: makes no blocks on cpu"):
            in_blocks(x, before=0, out=(2, 2), kernel=kernel)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_blocks_are_the_operator_that_torch_expects():
    said = torch.library.opcheck(maps._blocks, (random(2, 3, 9, 11).requires_grad_(), 2, 3, 4))
    assert set(said.values()) == {"SUCCESS"} and len(said) >= 4
