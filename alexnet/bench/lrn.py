"""Local response normalization, forward and backward, beside torch's."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..network.lrn import chosen, lrn
from .memory import PEAK, resident
from .rows import OURS, Contestant, Row, timed

SHAPES = ((32, 96, 55, 55), (32, 256, 27, 27))  # what the paper's two see in a batch of 32
ON_A_GPU = 16  # times as many images: maps that its cache does not hold
PASSES = 5  # x read and y written; x and g read, dx written
PAPER: dict[str, Any] = {"size": 5, "k": 2.0, "alpha": 1e-4, "beta": 0.75, "divide": False, "towers": 1}
TORCH = "torch F.local_response_norm"


def ours(x: Tensor, kernel: str) -> Tensor:
    """The paper's normalization by one of our kernels."""
    return lrn(x, **PAPER, kernel=kernel)


def theirs(x: Tensor) -> Tensor:
    """The same by torch, which divides alpha by the size, and on the processor takes no bf16."""
    wide = x.float() if x.device.type == "cpu" else x
    return F.local_response_norm(wide, 5, alpha=5e-4, beta=0.75, k=2.0).to(x.dtype)


def there_and_back(normalised: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    """The gradient of x, (B, C, H, W)."""
    return torch.autograd.grad(normalised(x), x, g)[0]


def rows(machine: dict[str, Any], device: torch.device, *, repeats: int, peers: bool) -> list[Row]:
    """Each shape in fp32 and bf16: the compiled kernel where there is one, plain torch, and torch's own."""
    found: list[Row] = []
    # some calls at a stretch: the threads of who was measured before wait awake for some milliseconds
    many, calls = (ON_A_GPU, 20) if device.type == "cuda" else (1, 5)
    for images, *map_shape in SHAPES:
        shape = (images * many, *map_shape)
        for dtype in (torch.float32, torch.bfloat16):
            x, g = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
            x, g = (t.contiguous(memory_format=torch.channels_last) for t in (x, g))
            floor = PASSES * x.nbytes / machine["bytes_per_second"]
            x.requires_grad_()
            names = {OURS: "auto"} | ({"alexnet, torch only": "torch"} if chosen("auto", x) != "torch" else {})
            kernels = [
                Contestant(who, partial(there_and_back, partial(ours, kernel=kernel), x, g), floor)
                for who, kernel in names.items()
            ]
            flat = x.detach().contiguous().requires_grad_()  # the form it is faster in
            others = [Contestant(TORCH, partial(there_and_back, theirs, flat, g.contiguous()), floor)] if peers else []
            name = str(dtype).removeprefix("torch.").replace("float32", "fp32").replace("bfloat16", "bf16")
            found += timed(f"LRN {'x'.join(map(str, shape))} {name}", kernels + others, repeats=repeats, calls=calls)
    return found + (memory(repeats, peers=peers) if device.type == "cpu" and PEAK.exists() else [])


def memory(repeats: int, *, peers: bool) -> list[Row]:
    """How much the resident memory of a fresh process grows in one pass there and back, by who makes it."""
    what = f"LRN {'x'.join(map(str, SHAPES[0]))} fp32, growth of resident memory"
    names = {OURS: "ours"} | ({TORCH: "theirs"} if peers else {})
    grown: dict[str, list[float]] = {who: [] for who in names}
    for _ in range(repeats):
        for who, name in names.items():
            grown[who].append(_growth(name))
    return [Row(what, who, "bytes", tuple(runs), None) for who, runs in grown.items()]


def _growth(name: str) -> float:
    command = [sys.executable, "-c", f"from alexnet.bench.lrn import grown; print(grown({name!r}))"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # noqa: S603


def grown(name: str) -> int:
    """Bytes by which this process's resident size goes above what it was; a small pass before has loaded the code.

    Its peak is set back first: what `getrusage` calls the largest size is inherited from the process that started it.
    """
    of: Callable[[Tensor], Tensor] = partial(ours, kernel="auto") if name == "ours" else theirs
    sizes: Sequence[tuple[int, ...]] = ((2, *SHAPES[0][1:]), SHAPES[0])
    before = 0
    for size in sizes:
        x, g = torch.zeros(size).requires_grad_(), torch.zeros(size)
        if name == "ours":
            x, g = (t.detach().contiguous(memory_format=torch.channels_last) for t in (x, g))
            x.requires_grad_()
        PEAK.write_text("5")
        before = resident("VmRSS")
        there_and_back(of, x, g)
    return resident("VmHWM") - before
