"""Local response normalization against a float64 loop, its own derivative, and three other programs."""

import threading
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.network import lrn as room
from alexnet.network.lrn import lrn, within_map

PAPER = {"size": 5, "k": 2.0, "alpha": 1e-4, "beta": 0.75, "divide": False, "towers": 2}
CONVNET = PAPER | {"divide": True}
CAFFE = CONVNET | {"k": 1.0, "towers": 1}
TENSORFLOW = {"size": 11, "k": 1.0, "alpha": 1.0, "beta": 0.5, "divide": False, "towers": 1}
ODD = {"size": 3, "k": 0.7, "alpha": 0.3, "beta": 0.6, "divide": True, "towers": 3}
ALONE = {"size": 1, "k": 1.0, "alpha": 0.5, "beta": 0.75, "divide": False, "towers": 1}
FORMS = [PAPER, CONVNET, CAFFE, TENSORFLOW, ODD, ALONE]
WITHIN = {"size": 5, "k": 1.0, "alpha": 1e-3, "beta": 0.75}

# Every kernel that this machine can run, asked for by name: "auto" would hide which one was tested.
over_kernels = pytest.mark.parametrize("kernel", ["torch", "numba"])


def far(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


def images(*shape: int, std: float = 30.0, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * std


def loop(x: np.ndarray, *, size, k, alpha, beta, divide, towers) -> np.ndarray:
    y, run = np.empty_like(x), x.shape[1] // towers
    for c in range(x.shape[1]):
        tower = c // run
        low, high = max(c - size // 2, tower * run), min(c + size // 2, tower * run + run - 1)
        total = sum(x[:, j] ** 2 for j in range(low, high + 1))
        y[:, c] = x[:, c] / (k + (alpha / size if divide else alpha) * total) ** beta
    return y


def loop_within(x: np.ndarray, *, size, k, alpha, beta) -> np.ndarray:
    y, h = np.empty_like(x), size // 2
    for i, j in np.ndindex(x.shape[2:]):
        part = x[:, :, max(i - h, 0) : i + h + 1, max(j - h, 0) : j + h + 1]
        y[:, :, i, j] = x[:, :, i, j] / (k + alpha / size**2 * (part**2).sum((2, 3))) ** beta
    return y


def slope(f, x: Tensor, g: Tensor) -> Tensor:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    return torch.autograd.grad(f(x), x, g)[0]


@over_kernels
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_a_float64_loop(form, layout, kernel):
    x = images(3, 12, 5, 7).to(memory_format=layout)
    y = lrn(x, **form, kernel=kernel)
    assert far(y, torch.from_numpy(loop(x.double().numpy(), **form))) < 1e-6
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, lrn(x.clone().requires_grad_(), **form, kernel=kernel))


@over_kernels
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_what_is_above_zero_equals_a_relu_before_it(form, dtype, kernel):
    """Bit for bit, forward and backward, values that are none among them."""
    x, g = images(2, 12, 5, 7).to(dtype), images(2, 12, 5, 7, std=1.0, seed=1).to(dtype)
    x[0, 3, 2, 2], x[1, 7, 4, 4], x[0, 5, 1, 1] = torch.nan, 0.0, -0.0
    ours, theirs = (lambda x: lrn(x, **form, kernel=kernel, relu=True), lambda x: lrn(x.relu(), **form, kernel=kernel))
    for a, b in ((ours(x), theirs(x)), (slope(ours, x, g), slope(theirs, x, g))):
        assert torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    assert not torch.equal(slope(ours, x, g).nan_to_num(7), slope(lambda x: lrn(x, **form), x, g).nan_to_num(7))


@over_kernels
def test_within_map_equals_a_float64_loop(kernel):
    for seed, shape in enumerate([(2, 8, 9, 6), (1, 3, 2, 2), (3, 1, 1, 7)]):
        x = images(*shape, std=60, seed=seed)
        y = within_map(x, **WITHIN, kernel=kernel)
        assert far(y, torch.from_numpy(loop_within(x.double().numpy(), **WITHIN))) < 1e-6


@pytest.mark.parametrize("form", [*FORMS, WITHIN])
def test_gradient(form):
    """The plain kernel's by finite differences in float64, then each kernel's against that."""
    f = lrn if "towers" in form else within_map
    x = images(1, 6, 2, 3, std=2.0).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: f(x, **form, kernel="torch"), x)
    x, g = images(3, 12, 5, 7), images(3, 12, 5, 7, std=1.0, seed=1)
    exact = slope(lambda x: f(x, **form), x.double(), g.double())
    for kernel in ("torch", "numba"):
        for layout in (torch.contiguous_format, torch.channels_last):
            ours = slope(lambda x, kernel=kernel: f(x, **form, kernel=kernel), x.to(memory_format=layout), g)
            assert far(ours, exact) < 1e-6


@over_kernels
@pytest.mark.parametrize("form", [PAPER, TENSORFLOW, ODD, WITHIN])
def test_bfloat16_sums_in_float32(form, kernel):
    form = form | {"kernel": kernel}
    f = lrn if "towers" in form else within_map
    x, g = images(2, 12, 5, 7).bfloat16(), images(2, 12, 5, 7, std=1.0, seed=1).bfloat16()
    y = f(x, **form)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, f(x.float(), **form).bfloat16())
    dx = slope(lambda x: f(x, **form), x, g)
    assert dx.dtype == torch.bfloat16
    assert torch.equal(dx, slope(lambda x: f(x, **form), x.float(), g.float()).bfloat16())


@over_kernels
def test_bfloat16_rounds_as_torch_does(kernel):
    """Ties to even, the largest values, and what is no number: with a window of one and alpha 0, y is x / k^beta."""
    bits = torch.arange(0, 1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    x = bits[torch.isfinite(bits) & (bits.abs() < 1e18)].reshape(1, 1, 1, -1)  # their squares are numbers too
    form = {"size": 1, "alpha": 0.0, "beta": 0.5, "divide": False, "towers": 1}
    for k in (1.0, 3.0, 0.7):
        y = lrn(x, k=k, **form, kernel=kernel)
        assert torch.equal(y, lrn(x.float(), k=k, **form, kernel=kernel).bfloat16())
    for odd in (torch.nan, torch.inf, -torch.inf):
        y = lrn(torch.full((1, 1, 1, 3), odd).bfloat16(), k=1.0, **form, kernel=kernel)
        assert torch.isnan(y).all()  # 0 times infinity


def everything(kernel: str) -> list[Tensor]:
    x, g = images(5, 12, 6, 5), images(5, 12, 6, 5, seed=1)
    across = PAPER | {"kernel": kernel}
    within = WITHIN | {"kernel": kernel}
    return [
        lrn(x, **across), slope(lambda x: lrn(x, **across), x, g), within_map(x, **within),
        slope(lambda x: within_map(x, **within), x, g),
    ]  # fmt: skip


@pytest.mark.parametrize("block", [1, 50, 190])  # of 150 rows of 14 places: one, three and thirteen at a time a thread
def test_blocks_change_nothing(monkeypatch, block):
    whole = everything("torch")
    monkeypatch.setattr(room, "BLOCK_VALUES", block)
    assert all(torch.equal(a, b) for a, b in zip(whole, everything("torch"), strict=True))


@over_kernels
def test_threads_change_nothing(kernel):
    before, whole = torch.get_num_threads(), everything(kernel)
    try:
        for threads in (1, 3, 7):
            torch.set_num_threads(threads)
            assert all(torch.equal(a, b) for a, b in zip(whole, everything(kernel), strict=True))
    finally:
        torch.set_num_threads(before)


@over_kernels
def test_four_callers_at_once(kernel):
    """From four threads of Python, forward and backward: each has its own answer, the same as alone."""
    alone, answers = everything(kernel), []

    def call() -> None:
        answers.extend(everything(kernel) for _ in range(20))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(answers) == 80
    assert all(torch.equal(a, b) for one in answers for a, b in zip(alone, one, strict=True))


def test_where_nothing_can_be_kept_on_disk_a_process_compiles_for_itself(monkeypatch):
    """The program's folder is read-only, and there is no home: numba knows no place for its cache, and would not begin."""
    from numba import njit
    from numba.core import caching

    from alexnet.network import lrn_cpu

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache function"):
        njit(cache=True)(lambda x: x)
    forward, _ = lrn_cpu._across.__wrapped__(3, 0.5, False, False)
    x = images(2, 4, 3, 5).contiguous(memory_format=torch.channels_last)
    rows = x.permute(0, 2, 3, 1).reshape(-1, 4).numpy()
    y = np.empty_like(rows)
    forward(rows, y, np.float32(1), np.float32(0.1))
    kept = lrn(x, size=3, k=1.0, alpha=0.1, beta=0.5, divide=False, towers=1, kernel="numba")
    assert np.array_equal(y, kept.permute(0, 2, 3, 1).reshape(-1, 4).numpy())


def test_where_the_disk_has_no_room_for_what_was_compiled_it_is_used_all_the_same(monkeypatch):
    """The place can be written to, and the program is kept nowhere: numba says so after it has compiled."""
    from numba.core import caching

    from alexnet.network import lrn_cpu

    kept = lrn(images(2, 4, 3, 5), size=3, k=1.0, alpha=0.1, beta=0.5, divide=False, towers=1, kernel="numba")
    raised = []

    def full(self, *given):
        raised.append(OSError(28, "No space left on device"))
        raise raised[-1]

    monkeypatch.setattr(caching.Cache, "load_overload", lambda self, *given: None)
    monkeypatch.setattr(caching.Cache, "save_overload", full)
    monkeypatch.setattr(lrn_cpu, "_across", cache(lrn_cpu._across.__wrapped__))
    seen = lrn(images(2, 4, 3, 5), size=3, k=1.0, alpha=0.1, beta=0.5, divide=False, towers=1, kernel="numba")
    assert raised and torch.equal(seen, kept)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@over_kernels
def test_the_operator_is_what_torch_expects_of_one(kernel):
    """Its schema, its fake, its autograd registration, and all of them under `torch.compile`'s tracing."""
    for towers in (2, 1, room.WITHIN):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = images(2, 4, 3, 5).to(memory_format=layout).requires_grad_()
            relu = kernel == "numba" and towers == 1  # numba's alone does it in the same pass
            said = torch.library.opcheck(room._lrn, (x, 3, 2.0, 1e-2, 0.75, towers, kernel, relu))
            assert set(said.values()) == {"SUCCESS"} and len(said) >= 4


@over_kernels
def test_the_compiler_sees_one_operator(kernel):
    seen = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> torch.fx.GraphModule:
        seen.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph

    form = PAPER | {"kernel": kernel}
    x, g = images(2, 12, 5, 7), images(2, 12, 5, 7, std=1.0, seed=1)
    compiled = torch.compile(lambda x: lrn(x, **form), backend=backend, fullgraph=True)
    assert torch.equal(compiled(x), lrn(x, **form))
    assert torch.equal(slope(compiled, x, g), slope(lambda x: lrn(x, **form), x, g))
    assert seen and {str(target) for target in seen} == {"alexnet.lrn.default"}


def test_which_kernel_is_meant(monkeypatch):
    x = images(1, 2, 3, 3)
    assert room.chosen("auto", x) == room.chosen("auto", x.bfloat16()) == "numba"
    assert room.chosen("auto", x.double()) == "torch" == room.chosen("torch", x)
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        room.chosen("numba", x.double())
    with pytest.raises(ValueError, match="known are auto, torch, numba"):
        lrn(x, **(PAPER | {"kernel": "fast"}))
    monkeypatch.setattr(room, "has_numba", lambda: False)
    assert room.chosen("auto", x) == "torch"


def test_torchs_own_with_its_divided_alpha():
    x, g = images(2, 96, 7, 7), images(2, 96, 7, 7, seed=1)
    for form, alpha in ((CAFFE, 1e-4), (PAPER | {"towers": 1}, 5e-4), (TENSORFLOW, 11.0)):
        n, k, beta = form["size"], form["k"], form["beta"]

        def theirs(x, n=n, alpha=alpha, beta=beta, k=k):
            return F.local_response_norm(x, n, alpha=alpha, beta=beta, k=k)

        assert far(lrn(x, **form), theirs(x)) < 1e-6
        assert far(slope(lambda x, form=form: lrn(x, **form), x, g), slope(theirs, x, g)) < 1e-5


def test_a_tower_ends_where_it_ends():
    x = images(2, 96, 5, 5)
    apart, across = lrn(x, **PAPER), lrn(x, **(PAPER | {"towers": 1}))
    assert torch.equal(apart[:, :48], lrn(x[:, :48], **(PAPER | {"towers": 1})))
    changed = (apart != across).any(0).flatten(1).any(1).nonzero().flatten()
    assert changed.tolist() == [46, 47, 48, 49]


def test_onnxruntime():
    import onnxruntime
    from onnx import TensorProto, helper

    node = helper.make_node("LRN", ["x"], ["y"], size=5, alpha=1e-4, beta=0.75, bias=2.0)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 16, 5, 5]) for name in "xy"]
    graph = helper.make_model(helper.make_graph([node], "lrn", ends[:1], ends[1:]), ir_version=9)
    graph.opset_import[0].version = 13
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    x = images(2, 16, 5, 5, std=100.0)
    (y,) = session.run(None, {"x": x.numpy()})
    assert far(lrn(x, **(CONVNET | {"towers": 1})), torch.from_numpy(y)) < 1e-6


@pytest.mark.parametrize("region", ["ACROSS_CHANNELS", "WITHIN_CHANNEL"])
def test_caffe_as_opencv_reads_it(region):
    import cv2

    # OpenCV ignores k: it always computes with Caffe's default of 1.
    alpha = 1e-4 if region == "ACROSS_CHANNELS" else 1e-3
    text = f"""
        name: "lrn" input: "data" input_dim: 2 input_dim: 16 input_dim: 9 input_dim: 9
        layer {{ name: "norm1" type: "LRN" bottom: "data" top: "norm1"
                lrn_param {{ local_size: 5 alpha: {alpha} beta: 0.75 norm_region: {region} }} }}"""
    net = cv2.dnn.readNetFromCaffe(bytearray(text.encode()))
    x = images(2, 16, 9, 9, std=100.0)
    net.setInput(x.numpy())
    y = torch.from_numpy(net.forward())
    ours = lrn(x, **CAFFE) if region == "ACROSS_CHANNELS" else within_map(x, **WITHIN)
    assert far(ours, y) < 1e-6


def test_refusals():
    x = images(1, 6, 3, 3)
    with pytest.raises(ValueError, match="odd"):
        lrn(x, **(PAPER | {"size": 4}))
    with pytest.raises(ValueError, match="odd"):
        within_map(x, **(WITHIN | {"size": 2}))
    with pytest.raises(ValueError, match="towers"):
        lrn(x, **(PAPER | {"towers": 4}))
    with pytest.raises(ValueError, match="more than 0"):
        lrn(x, **(PAPER | {"k": 0.0}))
    with pytest.raises(ValueError, match="B, C, H, W"):
        lrn(x[0], **PAPER)
    y = lrn(x.requires_grad_(), **PAPER)
    (dx,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):  # differentiable once
        torch.autograd.grad(dx.sum(), x)
