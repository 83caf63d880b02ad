"""A training step on a batch that is already there, beside other programs' steps of the same network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from ..data.classes import imagenet_classes
from ..data.samples import Samples
from ..network.build import build
from ..network.cost import cost
from ..network.kernels import Kernels
from ..network.variants import variant
from ..training import loop
from ..training.optim import optimizer
from ..training.recipes import recipe
from ..weights.checkpoint import Store
from ..weights.run import Run, preprocess_of
from . import article
from .eager import eager, precision_on
from .rows import OURS, Contestant, Row, missing, timed

TURNS = ({"torchvision": "torchvision", "paper": "paper"}, {"article": "article"})  # variant -> recipe; who takes turns


def floor(name: str, batch: int, macs_per_second: float) -> float:
    """Seconds that the multiply-adds of a step take at the machine's rate; no one asks for the pictures' gradient."""
    layers = cost(variant(name), 1000).layers
    total = sum(layer.macs for layer in layers)
    return batch * (3 * total - layers[0].macs) / macs_per_second


def ours(name: str, by: str, images: Tensor, labels: Tensor, precision: str, kernels: Kernels) -> Callable[[], object]:
    """Our step of a variant by a recipe, as training takes it."""
    chosen = recipe(by)
    model = build(name, classes=1000, seed=0).to(images.device).to(memory_format=torch.channels_last)
    model.kernels = kernels
    none = np.zeros(0, np.int64)
    nothing = Samples.build(Path(), [], label=none, classes=imagenet_classes(), size=none)
    job = loop.Job(
        run=Run(Path()), store=Store(Path()), recipe=chosen, model=model, rule=optimizer(model, chosen),
        train=nothing, val=None,
        preprocess=preprocess_of(model.variant), mean=None, stats=None, device=images.device, precision=precision,
        steps=0,
    )  # fmt: skip
    x = images.contiguous(memory_format=torch.channels_last)
    return lambda: loop.step(job, x, labels, number=0, lr=1e-6)


def tuned(images: Tensor, labels: Tensor, precision: str) -> Callable[[], object]:
    """torchvision's AlexNet, channels-last, with a fused optimizer, compiled in the default mode on a GPU."""
    plain = torchvision.models.alexnet(num_classes=1000).to(images.device).to(memory_format=torch.channels_last)
    model: Any = torch.compile(plain) if images.device.type == "cuda" else plain
    rule = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4, fused=True)
    x = images.contiguous(memory_format=torch.channels_last)

    def run() -> Tensor:
        rule.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        rule.step()
        return loss.detach()

    return run


DEFAULTS = "torchvision, torch's defaults"
WITH_TORCH = "torch's modules and defaults"
WITH_TENSORFLOW = "TensorFlow"  # the package without a GPU
PEERS = {
    "torchvision": {DEFAULTS: eager, "torchvision, tuned": tuned},
    "article": {WITH_TORCH: article.eager, WITH_TENSORFLOW: article.tensorflow},
}
CALLS = {"cpu": 2, "cuda": 20}  # steps at a stretch: on a GPU a launch takes as long to reach it as a step takes
SECONDS = {"cpu": 2.0}  # or as many as take so long: after other work the first takes a sixth longer than the next
PLAIN_PEERS = (DEFAULTS, WITH_TORCH, WITH_TENSORFLOW)  # fp32 whatever the precision


def rows(
    machine: dict[str, Any], device: torch.device, *, batch: int, precision: str, kernels: dict[str, Kernels],
    repeats: int, peers: bool,
) -> list[Row]:  # fmt: skip
    """A step of `batch` images: `torchvision` beside its peers and `paper`, then `article` beside its own."""
    labels = torch.randint(0, 1000, (batch,), device=device)
    calls, seconds = CALLS.get(device.type, 1), SECONDS.get(device.type, 0.0)
    found: list[Row] = []
    for together in TURNS:
        contestants: list[Contestant] = []
        for name, by in together.items():
            what = f"step, {name}, batch {batch}, {precision}"
            side = variant(name).side
            images = torch.randn(batch, 3, side, side, device=device)
            here = images.bfloat16() if precision == "bf16" else images  # as the data road gives them
            least = {rate: floor(name, batch, macs) for rate, macs in machine["macs_per_second"].items()}
            step = ours(name, by, here, labels, precision, kernels[name])
            contestants.append(Contestant(OURS, step, least[precision], what))
            for who, peer in PEERS.get(name, {}).items() if peers else ():
                if who == WITH_TENSORFLOW and (device.type != "cpu" or missing("step")):
                    continue
                plain = who in PLAIN_PEERS
                computes = precision_on(device) if plain else precision
                step = peer(images if plain else here, labels, precision)
                contestants.append(Contestant(who, step, least[computes], what))
        found += timed("step", contestants, repeats=repeats, calls=calls, seconds=seconds)
    return found
