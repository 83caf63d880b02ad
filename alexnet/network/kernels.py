"""How a network is computed, where there is a choice: the same numbers within rounding, at unlike speeds.

`PLAIN` is what torch does when told nothing. `fastest` measures the alternatives on this machine for one variant, batch
size and precision, each the way training uses it, forward and backward.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet import stop
from alexnet.errors import Stopped, UsageError
from alexnet.network.capture import WARM, captured
from alexnet.network.cost import Shape, out_shape
from alexnet.network.lrn import lrn, within_map
from alexnet.network.lrn_pool import relu_lrn_pool
from alexnet.network.maps import in_blocks, max_pool
from alexnet.network.variants import LRN, Conv, MaxPool, ReLU, Row, Variant, WithinMapLRN
from alexnet.ranks import has_numba, has_triton

CHOICES: dict[str, tuple[str, ...]] = {  # in the order of measuring: conv1's blocks are made as `maps` says
    "lrn": ("torch", "numba", "triton"),  # plain torch; compiled for the processor; for a GPU
    # pooling, by which it is chosen: torch's; for the processor, with the ReLU behind it or a normalization by numba
    # before it, and conv1's blocks; for a GPU, with a pass for bias and ReLU
    "maps": ("torch", "numba", "triton"),
    "conv1": ("direct", "blocks"),  # as it stands; 4 x 4 pixels as 48 channels, then 3 x 3 with stride 1
    "towers": ("grouped", "apart"),  # one convolution of two groups; two convolutions
    "step": ("launches", "graph"),  # kernel by kernel; forward and backward as one CUDA graph
    "update": ("torch", "numba"),  # torch's; where bf16 is multiplied, with gradients and copies in bf16 (optim.py)
}
# what is for one kind of device only
DEVICES = {
    ("lrn", "numba"): "cpu",
    ("lrn", "triton"): "cuda",
    ("maps", "numba"): "cpu",
    ("maps", "triton"): "cuda",
    ("step", "graph"): "cuda",
    ("update", "numba"): "cpu",
}
REPEATS = 5  # of each alternative, in turn; the least counts, which other work on the machine makes no smaller
MOST_IMAGES = {"cpu": 32, "cuda": 512}  # what is faster for so many is taken to be so for more


LATER = {"maps", "step", "update"}  # choices that the first runs did not have


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """One of `CHOICES` for each. UsageError: a value that is none of them."""

    lrn: str
    conv1: str
    towers: str
    maps: str
    step: str
    update: str

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"kernels: {name} is {getattr(self, name)!r}, expected one of: {', '.join(allowed)}")

    @classmethod
    def of(cls, value: Any, where: str) -> "Kernels":
        """From the object in environment.json; UsageError names `where`. What older ones had no choice of was plain."""
        names = {field.name for field in fields(cls)}
        if not isinstance(value, dict) or not names - LATER <= set(value) <= names:
            raise UsageError(f"{where}: kernels: expected {', '.join(sorted(names))}, found {value!r}")
        return cls(**{**PLAIN.to_json(), **value})

    def check(self, device: torch.device, where: str) -> None:
        """UsageError naming `where`: a kernel is not installed here, or not for the device."""
        if "numba" in (self.lrn, self.maps, self.update) and not has_numba():
            raise UsageError(f"{where}: kernels: numba: numba is not installed here (pip install 'alexnet[fast]')")
        if "triton" in (self.lrn, self.maps) and not has_triton():
            raise UsageError(f"{where}: kernels: triton: Triton is not installed here (pip install triton)")
        for (choice, one), kind in DEVICES.items():
            if getattr(self, choice) == one and kind != device.type:
                raise UsageError(f"{where}: kernels: {choice} {one}: not for {device.type}; use --device {kind}")

    def to_json(self) -> dict[str, str]:
        """What environment.json holds."""
        return asdict(self)

    def __str__(self) -> str:
        """For a person; of the later choices, what is not the plain one."""
        said = self.to_json().items()
        return ", ".join(f"{name} {one}" for name, one in said if name not in LATER or one != getattr(PLAIN, name))


PLAIN = Kernels(lrn="torch", conv1="direct", towers="grouped", maps="torch", step="launches", update="torch")


def unmeasured(device: torch.device) -> Kernels:
    """What is compiled for the device where that is installed, else `PLAIN`: for work of many batches.

    On the processor it takes float32 and bfloat16, and is a ValueError of other values.
    """
    return replace(PLAIN, lrn=_here("lrn", device)[-1], maps=_here("maps", device)[-1])


def _here(choice: str, device: torch.device) -> list[str]:
    """The alternatives of a choice that this machine has for a device, the plain one first."""
    installed = {"numba": has_numba, "triton": has_triton}
    return [
        one for one in CHOICES[choice]
        if DEVICES.get((choice, one), device.type) == device.type and installed.get(one, lambda: True)()
    ]  # fmt: skip


def behind(variant: Variant, index: int, kernels: Kernels) -> tuple[Row, ...]:
    """The rows that are computed with the `index`-th, a convolution: a ReLU behind it, and what is behind that where
    they are quicker at once.

    That is an LRN by a compiled kernel, with the pool behind it where both are numba's; or, on the processor, a pool:
    it comes before the ReLU, which then has a quarter of the values, and everything that comes out, forward and
    backward, is the same.
    """
    rows = variant.layers[index + 1 : index + 4]
    if not rows or not isinstance(rows[0], ReLU):
        return ()
    match rows[1:]:
        case (LRN(towers=towers), *more) if kernels.lrn == "numba" or kernels.lrn == kernels.maps == "triton":
            if parts(variant, index, kernels) not in (1, towers):
                return rows[:1]
            pooled = bool(more) and isinstance(more[0], MaxPool)
            return rows if pooled and kernels.lrn == kernels.maps == "numba" else rows[:2]
        case (MaxPool(), *_) if kernels.maps != "triton":
            return rows[:2]
        case _:
            return rows[:1]


def parts(variant: Variant, index: int, kernels: Kernels) -> int:
    """How many towers, each a map of its own, the `index`-th row, a convolution, makes."""
    row = variant.layers[index]
    if kernels.towers == "grouped":
        return 1
    if isinstance(row, Conv) and row.groups > 1:
        return row.groups
    for row in variant.layers[index + 1 :]:
        if isinstance(row, Conv):
            return row.groups
        if not (isinstance(row, MaxPool | ReLU) or (isinstance(row, LRN) and row.towers > 1)):
            break
    return 1


def convolved(
    row: Conv, xs: Sequence[Tensor], weight: Tensor, bias: Tensor, kernels: Kernels, *, behind: Sequence[Row] = (),
    parts: int = 1,
) -> list[Tensor]:  # fmt: skip
    """The convolution of a row, and what is `behind` it: maps (B, C, H, W) -> `parts` maps (B, out / parts, H', W').

    `xs` is one map or its towers, the runs of its channels.
    """
    stride, before, after, groups = row.stride, row.pad.before, row.pad.after, row.groups
    if len(xs) not in (1, groups) or (len(xs) > 1 and parts == 1):
        xs = [torch.cat(list(xs), 1)]
    if groups > 1 and parts > 1:
        xs, groups = xs if len(xs) > 1 else xs[0].chunk(parts, 1), 1
    if kernels.conv1 == "blocks" and _is_first(row):
        blocks, weight = _first_in_blocks(row, xs[0], weight, kernels)
        xs, stride, before = [blocks], 1, 0
    elif before != after:
        xs, before = [F.pad(x, (before, after) * 2) for x in xs], 0
    then = behind[1] if len(behind) > 1 else None
    # of one map, a GPU's normalization makes the parts
    pieces = 1 if isinstance(then, LRN) and kernels.lrn == "triton" and len(xs) == 1 else parts
    layers = zip(list(xs) * (pieces // len(xs)), _parted(weight, pieces), _parted(bias, pieces), strict=True)
    if not behind:
        return [F.conv2d(x, w, b, stride, before, 1, groups) for x, w, b in layers]
    if kernels.maps != "triton":
        ys = [F.conv2d(x, w, b, stride, before, 1, groups) for x, w, b in layers]
        if isinstance(then, LRN):
            alone = replace(then, towers=then.towers // parts)
            if isinstance(behind[-1], MaxPool):
                return [_normalised_and_pooled(alone, behind[-1], y, kernels) for y in ys]
            return [normalised(alone, y, kernels, relu=True) for y in ys]
        if isinstance(then, MaxPool):
            return [pooled(then, y, kernels, relu=True) for y in ys]
        return [F.relu(y, inplace=True) for y in ys]
    bare = [(F.conv2d(x, w, None, stride, before, 1, groups), b) for x, w, b in layers]
    if then is None:
        from .maps_gpu import bias_relu

        return [bias_relu(y, b) for y, b in bare]
    from .lrn_gpu import bias_relu_lrn

    assert isinstance(then, LRN)
    a = then.alpha / then.size if then.divide else then.alpha
    form = then.size, then.k, a, then.beta, then.towers // pieces, parts // pieces
    return [z for y, b in bare for z in bias_relu_lrn(y, b, *form)]


def _parted(x: Tensor, parts: int) -> Sequence[Tensor]:
    return [x] if parts == 1 else x.chunk(parts)


def pooled(row: MaxPool, x: Tensor, kernels: Kernels, *, relu: bool = False) -> Tensor:
    """The pooling of a row, and with `relu` max(…, 0): (B, C, H, W) -> (B, C, H', W')."""
    if kernels.maps == "torch":
        y = F.max_pool2d(x, row.kernel, row.stride, ceil_mode=row.ceil)
        return F.relu(y, inplace=True) if relu else y
    _, height, width = out_shape(row, (x.shape[1], x.shape[2], x.shape[3]), 1)
    return max_pool(x, side=row.kernel, stride=row.stride, out=(height, width), kernel=kernels.maps, relu=relu)


def _normalised_and_pooled(row: LRN, pool: MaxPool, x: Tensor, kernels: Kernels) -> Tensor:
    """`pooled` of `normalised` of max(x, 0), by numba's kernels: at once where there is an image for each thread."""
    if len(x) < torch.get_num_threads():
        return pooled(pool, normalised(row, x, kernels, relu=True), kernels)
    _, height, width = out_shape(pool, (x.shape[1], x.shape[2], x.shape[3]), 1)
    return relu_lrn_pool(
        x, size=row.size, k=row.k, alpha=row.alpha, beta=row.beta, divide=row.divide, towers=row.towers,
        side=pool.kernel, stride=pool.stride, out=(height, width),
    )  # fmt: skip


def _is_first(row: Conv) -> bool:
    """Whether a row is AlexNet's first: 11 x 11 pixels every 4."""
    return (row.kernel, row.stride, row.groups) == (11, 4, 1)


def _first_in_blocks(row: Conv, x: Tensor, weight: Tensor, kernels: Kernels) -> tuple[Tensor, Tensor]:
    """Pictures and weights of the first layer as blocks of 4 x 4 pixels, to be convolved with stride 1.

    The weights get a twelfth row and column of zeros.
    """
    h, w = ((n + row.pad.before + row.pad.after - 11) // 4 + 3 for n in x.shape[2:])  # in blocks
    kernel = "numba" if kernels.maps == "numba" else "torch"
    wide = F.pad(weight, (0, 1, 0, 1)).reshape(-1, 3, 3, 4, 3, 4).permute(0, 3, 5, 1, 2, 4).reshape(-1, 48, 3, 3)
    return in_blocks(x, before=row.pad.before, out=(h, w), kernel=kernel), wide


def fastest(
    variant: Variant, *, batch: int, precision: str, device: torch.device
) -> tuple[Kernels, dict[str, dict[str, float]]]:
    """The faster of each choice here, and what was measured: seconds a batch, the least, by choice and alternative.

    A choice that the variant does not have, or of which this machine has one alternative, is `PLAIN`'s. Stopped: a
    signal has asked for the end.
    """
    images = max(1, min(batch, MOST_IMAGES.get(device.type, batch)))  # accumulated parts may be empty
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    made, measured = PLAIN, dict[str, dict[str, float]]()
    for choice in CHOICES:
        alternatives = _here(choice, device)
        # not measured: a graph is the same kernels without their launches, an update the same with fewer bytes
        if choice == "step" or (choice == "update" and precision == "bf16"):
            made = replace(made, **{choice: alternatives[-1]})
        if choice in ("step", "update") or len(alternatives) == 1:
            continue
        # held until they are measured: what a graph reads must stay where it is
        launched = {one: _layers(variant, replace(made, **{choice: one}), choice, images, dtype, device)
                    for one in alternatives}  # fmt: skip
        if not launched[alternatives[0]]:
            continue
        runs = launched
        if device.type == "cuda":
            runs = {one: [_graph_of(layer) for layer in layers] for one, layers in launched.items()}
        seconds: dict[str, list[float]] = {one: [] for one in alternatives}
        for repeat in range(REPEATS + 1):
            for one, layers in runs.items():
                if stop.requested():
                    raise Stopped("stopped while kernels were measured, before the first step; run it again to begin")
                passed = sum(_seconds(layer, device) for layer in layers)
                if repeat:  # the first compiles, and fills caches
                    seconds[one].append(passed)
        measured[choice] = {one: min(times) for one, times in seconds.items()}
        made = replace(made, **{choice: min(alternatives, key=lambda one: measured[choice][one])})
    return made, measured


def _graph_of(run: Callable[[], object]) -> Callable[[], object]:
    """`run` as a CUDA graph, as a step is one: of a layer alone, the launches would take longer than the work."""
    for _ in range(WARM):
        run()
    graph = torch.cuda.CUDAGraph()
    with captured(graph):
        run()
    return graph.replay


def _layers(
    variant: Variant, kernels: Kernels, choice: str, images: int, dtype: torch.dtype, device: torch.device
) -> list[Callable[[], object]]:
    """Forward and backward of each layer that the choice is about, on random values."""
    found: list[Callable[[], object]] = []
    shape: Shape = (3, variant.side, variant.side)
    for row in variant.layers:
        out = out_shape(row, shape, 2)
        match row:
            case Conv():
                if (choice == "conv1" and _is_first(row)) or (choice == "towers" and row.groups > 1):
                    size = (row.out, shape[0] // row.groups, row.kernel, row.kernel)
                    found.append(_convolution(row, kernels, (images, *shape), size, (images, *out), dtype, device))
            case MaxPool():
                if choice == "maps":
                    found.append(_pooling(row, kernels, (images, *shape), (images, *out), dtype, device))
            case LRN() | WithinMapLRN():
                if choice == "lrn":
                    found.append(_normalisation(row, kernels, (images, *shape), dtype, device))
            case _:
                pass
        shape = out
    return found


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    values = torch.empty(shape, device=device).normal_(generator=torch.Generator(device).manual_seed(0))
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


def _convolution(
    row: Conv, kernels: Kernels, shape: tuple[int, ...], size: tuple[int, ...], out: tuple[int, ...],
    dtype: torch.dtype, device: torch.device,
) -> Callable[[], object]:  # fmt: skip
    towers = row.groups if kernels.towers == "apart" else 1

    def maps(shape: tuple[int, ...]) -> list[Tensor]:
        return [_random((shape[0], shape[1] // towers, *shape[2:]), dtype, device) for _ in range(towers)]

    xs, gs, weight = maps(shape), maps(out), _random(size, dtype, device).requires_grad_()
    bias = torch.zeros(row.out, dtype=dtype, device=device, requires_grad=True)
    wanted = [weight, bias]
    if not _is_first(row):  # no one asks for the pictures' gradient
        wanted += [x.requires_grad_() for x in xs]
    return lambda: torch.autograd.grad(convolved(row, xs, weight, bias, kernels, parts=towers), wanted, gs)


def _pooling(
    row: MaxPool, kernels: Kernels, shape: tuple[int, ...], out: tuple[int, ...], dtype: torch.dtype,
    device: torch.device,
) -> Callable[[], object]:  # fmt: skip
    x, g = _random(shape, dtype, device).requires_grad_(), _random(out, dtype, device)
    return lambda: torch.autograd.grad(pooled(row, x, kernels), x, g)


def _normalisation(
    row: LRN | WithinMapLRN, kernels: Kernels, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Callable[[], object]:
    x, g = _random(shape, dtype, device).requires_grad_(), _random(shape, dtype, device)
    return lambda: torch.autograd.grad(normalised(row, x, kernels), x, g)


def normalised(row: LRN | WithinMapLRN, x: Tensor, kernels: Kernels, *, relu: bool = False) -> Tensor:
    """The normalization of a row, with `relu`, of an LRN, of max(x, 0): (B, C, H, W) -> the same."""
    if isinstance(row, WithinMapLRN):
        kernel = "torch" if kernels.lrn == "triton" else kernels.lrn  # there is none for windows of pixels
        return within_map(x, size=row.size, k=row.k, alpha=row.alpha, beta=row.beta, kernel=kernel)
    return lrn(
        x, size=row.size, k=row.k, alpha=row.alpha, beta=row.beta, divide=row.divide, towers=row.towers,
        kernel=kernels.lrn, relu=relu,
    )  # fmt: skip


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin
