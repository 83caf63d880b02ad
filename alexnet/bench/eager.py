"""torchvision's AlexNet by the loop of its page, and a program of it: a process that torch's defaults are left to.

    python -m alexnet.bench.eager BATCH THREADS

Takes a step for each line it is sent, and answers with the loss; ends where its input does.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from .turns import losses

PROGRAM = "alexnet.bench.eager"


@contextmanager
def as_torch_comes() -> Iterator[None]:
    """cuDNN by torch's defaults: TF32 in convolutions, algorithms not tried."""
    cudnn: Any = torch.backends.cudnn
    kept = cudnn.conv.fp32_precision, cudnn.benchmark
    cudnn.conv.fp32_precision, cudnn.benchmark = "tf32", False
    try:
        yield
    finally:
        cudnn.conv.fp32_precision, cudnn.benchmark = kept


def precision_on(device: torch.device) -> str:
    """What torch's defaults multiply float32 in, for the floor: a GPU's convolutions in TF32."""
    return "tf32" if device.type == "cuda" else "fp32"


def step(images: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """Its step, in fp32."""
    model = torchvision.models.alexnet(num_classes=1000).to(images.device)
    rule = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4)
    return step_of(model, rule, images, labels)


def step_of(model: nn.Module, rule: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """A step of a network by torch's defaults -> the loss."""

    def run() -> Tensor:
        with as_torch_comes():
            loss = F.cross_entropy(model(images), labels)
            rule.zero_grad()
            loss.backward()
            rule.step()
            return loss.detach()

    return run


def eager(images: Tensor, labels: Tensor, precision: str) -> Callable[[], object]:
    """Its step whatever the precision; on the processor by a process whose memory is kept as the C library keeps it."""
    return partial(next, losses(PROGRAM, len(images))) if images.device.type == "cpu" else step(images, labels)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    size = int(sys.argv[1])
    taken = step(torch.randn(size, 3, 224, 224), torch.randint(0, 1000, (size,)))
    for _ in sys.stdin:
        print(float(taken()), flush=True)
