"""The article's network by other programs: in torch's own modules, and in the TensorFlow of today."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .eager import step_of
from .turns import losses

PROGRAM = "alexnet.bench.tensorflow"


def network() -> nn.Sequential:
    """The network as one writes it in torch, in torch's initial values: images (B, 3, 224, 224) -> logits (B, 1000)."""
    return nn.Sequential(
        nn.ZeroPad2d((3, 4, 3, 4)),  # TensorFlow's SAME
        nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(), nn.LocalResponseNorm(11, alpha=11.0, beta=0.5, k=1.0),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(), nn.LocalResponseNorm(11, alpha=11.0, beta=0.5, k=1.0),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(3, stride=2, ceil_mode=True), nn.Flatten(),
        nn.Linear(12544, 4096), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4096, 1000),
    )  # fmt: skip


def eager(images: Tensor, labels: Tensor, precision: str) -> Callable[[], object]:
    """Its step by torch's defaults, with torch's Adam: fp32 whatever the precision."""
    model = network().to(images.device)
    return step_of(model, torch.optim.Adam(model.parameters(), lr=1e-6), images, labels)


def tensorflow(images: Tensor, labels: Tensor, precision: str) -> Callable[[], object]:
    """Its step in TensorFlow, on as many pictures, by as many threads, in a process of its own that waits meanwhile."""
    return partial(next, losses(PROGRAM, len(images)))
