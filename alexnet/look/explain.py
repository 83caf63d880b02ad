"""What in a picture speaks for a class: four maps by captum, and numbers that say how far to believe them.

Zero stands for nothing wherever something is left out: of an input that is the mean the variant subtracts, the mean
picture of the training set or a colour, and black where a variant subtracts none.
"""

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.augment import Normalise, test_views
from ..data.classes import Classes
from ..errors import UsageError, did_you_mean
from ..evaluation.features import layer_form
from ..network.build import AlexNet
from ..network.cost import out_shape
from ..network.kernels import unmeasured
from ..network.variants import AdaptivePool, Conv, MaxPool, ReLU, Variant
from ..weights.run import Loaded
from .figures import WIDTH, picture, short
from .views import pictured

By = Literal["gradcam", "occlusion", "integrated-gradients", "guided"]
BY: Final[tuple[By, ...]] = get_args(By)
OWN: Final[dict[By, tuple[str, ...]]] = {  # what can be chosen of each
    "gradcam": ("layer",),
    "occlusion": ("window", "stride"),
    "integrated-gradients": ("steps",),
    "guided": (),
}

LAYER: Final = "conv5:relu"  # of gradcam
WINDOWS, STRIDES = 7, 2  # an occluding window is a seventh of the side, and moves by half of itself
STEPS: Final = 64  # of the integral from zero to the picture
BATCH: Final = 32  # inputs that go through at once
DELETED: Final = 0.2  # of the pixels
DRAWS: Final = 8  # of as many at random


class _Row(nn.Module):
    """One row of a network, computed by the network itself."""

    def __init__(self, net: AlexNet, index: int) -> None:
        super().__init__()
        self.row, self.index = net.variant.layers[index], index
        self.compute = net.layer  # a method, so that the network is no part of its own part

    def forward(self, x: Tensor) -> Tensor:
        """What the row makes of x, which stays as it is."""
        return self.compute(self.row, x, None, self.index, inplace=False)


def modules_of(net: AlexNet) -> nn.Sequential:
    """A network as a chain of modules by its rows' names, with its own weights: what captum can hook.

    The ReLUs are torch's, for guided backpropagation replaces their gradient; every other row is computed by the
    network, local response normalization too. Nothing is overwritten, and nothing is dropped.
    """
    chain: OrderedDict[str, nn.Module] = OrderedDict()
    for index, row in enumerate(net.eval().variant.layers):
        chain[row.name] = nn.ReLU() if isinstance(row, ReLU) else _Row(net, index)
    return nn.Sequential(chain).eval()


@dataclass(frozen=True)
class Explanation:
    """What speaks for class `label` in `image`, uint8 (s, s, 3), the centre view as the network sees it, undone.

    `map` float32 (s, s) is what each pixel adds to the class, by the method's own measure; negative where it speaks
    against it. `facts`: what the method says besides. `deletion`: the probability without the `DELETED` of the pixels
    that weigh most, without as many at random, and without as many in the middle; None where none weighs anything.
    """

    by: By
    label: int
    probability: float
    likeliest: int
    likeliest_probability: float
    image: NDArray[np.uint8]
    map: NDArray[np.float32]
    facts: dict[str, Any]
    deletion: dict[str, float] | None

    def to_json(self, classes: Classes) -> dict[str, Any]:
        """The document of `explain --json`, without what was asked for."""
        named = {
            name: {"index": label, "label": classes.words[label], "probability": p}
            for name, label, p in (
                ("class", self.label, self.probability),
                ("likeliest", self.likeliest, self.likeliest_probability),
            )
        }
        return {"by": self.by, **named, "map": weights(self.map), "method": self.facts, "deletion": self.deletion}


def explain(
    loaded: Loaded,
    stored: NDArray[np.uint8],
    *,
    by: By,
    label: int | None = None,
    layer: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    steps: int | None = None,
    device: torch.device | None = None,
) -> Explanation:
    """A picture's stored form, uint8 (S, S, 3) -> what speaks for class `label`, or for the likeliest.

    UsageError: an option of another method, a layer without maps, a window or stride that does not fit, or captum is
    not installed.
    """
    for name, value in (("layer", layer), ("window", window), ("stride", stride), ("steps", steps)):
        if value is not None and name not in OWN[by]:
            whose = next(other for other in BY if name in OWN[other])
            raise UsageError(f"--{name} {value}: not with --by {by}; it is an option of {whose}")
    place = device or torch.device("cpu")
    normalise = Normalise(loaded.preprocess, loaded.mean, place)
    net = loaded.model.to(place)
    net.kernels = unmeasured(place)
    chain = modules_of(net)
    images = torch.from_numpy(stored)[None].to(place)
    x, nothing = (test_views(one, normalise, views=1) for one in (images, torch.zeros_like(images)))  # (1, 3, s, s)
    p = probabilities(chain, x)[0]
    likeliest = int(p.argmax())
    label = likeliest if label is None else label
    found, facts = map_of(chain, net.variant, x, label, by=by, layer=layer, window=window, stride=stride, steps=steps)
    deletion = deleted(chain, x, found, label) if bool((found > 0).any()) else None
    return Explanation(
        by,
        label,
        float(p[label]),
        likeliest,
        float(p[likeliest]),
        pictured(x, nothing, normalise)[0],
        found.cpu().numpy(),
        facts,
        deletion,
    )


def map_of(
    chain: nn.Sequential,
    variant: Variant,
    x: Tensor,
    label: int,
    *,
    by: By,
    layer: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    steps: int | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """What each pixel of an input (1, 3, s, s) adds to a class, float32 (s, s), and what the method says besides."""
    if find_spec("captum") is None:
        raise UsageError("captum is not installed (pip install 'alexnet[explain]')")
    match by:
        case "gradcam":
            return gradcam(chain, variant, x, label, LAYER if layer is None else layer)
        case "occlusion":
            side = x.shape[-1]
            window = max(1, side // WINDOWS) if window is None else window
            stride = max(1, window // STRIDES) if stride is None else stride
            return occlusion(chain, x, label, window=window, stride=stride)
        case "integrated-gradients":
            return integrated_gradients(chain, x, label, steps=STEPS if steps is None else steps)
        case "guided":
            found = guided(chain, x, label)
            return found.abs().sum(0), {}


def gradcam(chain: nn.Sequential, variant: Variant, x: Tensor, label: int, layer: str) -> tuple[Tensor, dict[str, Any]]:
    """Selvaraju et al. 2017: a layer's maps, weighted by the mean gradient of the class's logit; what sums above 0.

    Each value stands over the middle of what it sees, and those between are interpolated.
    """
    from captum.attr import LayerGradCam

    name = layer_form(layer, variant)
    shape, first, step = (3, variant.side, variant.side), 0.0, 1
    for row in variant.layers:
        match row:
            case Conv():
                first, step = first + ((row.kernel - 1) / 2 - row.pad.before) * step, step * row.stride
            case MaxPool():
                first, step = first + (row.kernel - 1) / 2 * step, step * row.stride
            case AdaptivePool():
                stride = max(1, shape[1] // row.side)
                first, step = first + (stride - 1) / 2 * step, step * stride
        shape = out_shape(row, shape, 1)
        if row.name == name:
            break
    n, side = shape[1], variant.side
    if n == 1:
        raise UsageError(f"--layer {layer}: {name} of {variant.name} has no maps, which gradcam needs; take {LAYER}")
    cells = LayerGradCam(chain, chain.get_submodule(name)).attribute(x, target=label, relu_attributions=True)
    assert isinstance(cells, Tensor)  # a tuple for a layer of several outputs
    at = (2 * (torch.arange(side, device=x.device) - first) / step / (n - 1) - 1).clamp(-1, 1)
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), 2)[None]  # (1, s, s, 2) of x, y
    whole = F.grid_sample(cells.detach(), grid, align_corners=True)[0, 0]
    return whole, {"layer": name, "cells": n}


def occlusion(
    chain: nn.Sequential, x: Tensor, label: int, *, window: int, stride: int
) -> tuple[Tensor, dict[str, Any]]:
    """Zeiler and Fergus 2014: by how much the class's probability drops where a square window is put to zero.

    A pixel has the mean drop of the windows over it. Also said: the largest drop of one window, and where that lies.
    """
    from captum.attr import Occlusion

    side = x.shape[-1]
    if not 1 <= window <= side:
        raise UsageError(f"--window {window}: expected 1 to {side} pixels")
    if not 1 <= stride <= window:
        raise UsageError(f"--stride {stride}: expected 1 to {window} pixels, those of the window")
    largest, worst = 0.0, x
    whole = float(probabilities(chain, x)[0, label])

    def drops(images: Tensor) -> Tensor:
        nonlocal largest, worst
        p = probabilities(chain, images)
        low = int(p[:, label].argmin())
        if whole - float(p[low, label]) > largest:
            largest, worst = whole - float(p[low, label]), images[low : low + 1].clone()
        return p

    found = Occlusion(drops).attribute(
        x, sliding_window_shapes=(3, window, window), strides=(3, stride, stride), baselines=0, target=label,
        perturbations_per_eval=BATCH,
    )  # fmt: skip
    changed = (worst != x).any(1)[0].nonzero()
    at = changed.amin(0).flip(0).tolist() if len(changed) else None
    # over the three channels the drops are the same
    return found[0, 0], {"window": window, "stride": stride, "largest_drop": largest, "at": at}


def integrated_gradients(chain: nn.Sequential, x: Tensor, label: int, *, steps: int) -> tuple[Tensor, dict[str, Any]]:
    """Sundararajan, Taly and Yan 2017: what each pixel adds to the class's logit on the straight way from zero to x.

    Complete: the map sums to the difference of the logits at both ends, but for the `gap` of a sum of so many steps.
    """
    from captum.attr import IntegratedGradients

    if not 2 <= steps <= 10_000:
        raise UsageError(f"--steps {steps}: expected 2 to 10000")
    found = IntegratedGradients(chain).attribute(x, baselines=0, target=label, n_steps=steps, internal_batch_size=BATCH)
    with torch.no_grad():
        end, begin = chain(torch.cat([x, torch.zeros_like(x)]))[:, label].tolist()
    total = float(found.sum())
    facts = {"steps": steps, "logit": end, "logit_of_zero": begin, "sum": total, "gap": total - (end - begin)}
    return found[0].sum(0).detach(), facts


def guided(chain: nn.Sequential, x: Tensor, label: int) -> Tensor:
    """Springenberg et al. 2015: the gradient of the class's logit, cut to what is above 0 at each ReLU -> (3, s, s)."""
    from captum.attr import GuidedBackprop

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks on ReLU activations")
        return GuidedBackprop(chain).attribute(x.detach().clone().requires_grad_(), target=label)[0].detach()


@torch.no_grad()
def probabilities(chain: nn.Module, images: Tensor) -> Tensor:
    """(B, 3, s, s) -> (B, classes)."""
    return chain(images).softmax(1)


def most(values: Tensor, share: float) -> Tensor:
    """The `share` of the pixels of a map (s, s) that have most: bool (s, s); among equals those that come first."""
    order = values.flatten().argsort(descending=True, stable=True)
    chosen = torch.zeros_like(values, dtype=torch.bool)
    chosen.view(-1)[order[: round(share * len(order))]] = True
    return chosen


def scattered(side: int, share: float, *, draws: int, seed: int) -> Tensor:
    """As many pixels at random, bool (draws, side, side)."""
    noise = torch.rand(draws, side, side, generator=torch.Generator().manual_seed(seed))
    return torch.stack([most(one, share) for one in noise])


def middle(side: int, share: float) -> Tensor:
    """The square in the middle of about as many, bool (side, side)."""
    edge = round(side * (1 - share**0.5) / 2)
    chosen = torch.zeros(side, side, dtype=torch.bool)
    chosen[edge : side - edge, edge : side - edge] = True
    return chosen


def without(x: Tensor, chosen: Tensor) -> Tensor:
    """An input (1, 3, s, s) with the chosen pixels (N, s, s) put to zero: (N, 3, s, s)."""
    return x * ~chosen[:, None].to(x.device)


def deleted(chain: nn.Sequential, x: Tensor, values: Tensor, label: int) -> dict[str, float]:
    """The class's probability without the pixels that a map (s, s) has most of, and without others."""
    side = x.shape[-1]
    chosen = torch.stack([most(values, DELETED).cpu(), middle(side, DELETED)])
    chosen = torch.cat([chosen, scattered(side, DELETED, draws=DRAWS, seed=0)])
    p = probabilities(chain, without(x, chosen))[:, label].tolist()
    return {"share": DELETED, "most": p[0], "middle": p[1], "random": float(np.mean(p[2:]))}


def weights(values: NDArray[np.float32]) -> dict[str, Any]:
    """Where a map's weight, what it has above 0, lies: `ninths` of the view, rows of three; on what share of the pixels
    `half` of it lies; the pixel [x, y] that has most. `against`: the share of all that is below 0. None: no weight.
    """
    above, below = values.clip(0).astype(np.float64), (-values).clip(0).astype(np.float64)
    total, side = above.sum(), len(values)
    against = float(below.sum() / (total + below.sum())) if below.any() else 0.0
    if total == 0:
        return {"ninths": None, "half": None, "most": None, "against": against}
    edges = [0, side // 3, side - side // 3]
    ninths = np.add.reduceat(np.add.reduceat(above, edges, 0), edges, 1) / total
    running = np.cumsum(np.sort(above, axis=None)[::-1])
    half = (int(np.searchsorted(running, total / 2)) + 1) / side**2
    y, x = divmod(int(above.argmax()), side)
    return {"ninths": ninths.tolist(), "half": half, "most": [x, y], "against": against}


def label_of(asked: str, classes: Classes) -> int:
    """The label of the class of that key, those words or one of them (`tench` of `tench, Tinca tinca`), or that number.

    UsageError: no class, or several.
    """
    if asked in classes.keys:
        return classes.keys.index(asked)
    named = [i for i, words in enumerate(classes.words) if asked.lower() in (words.lower(), *words.lower().split(", "))]
    if len(named) == 1:
        return named[0]
    if named:
        raise UsageError(f"--class {asked}: several classes are called so; take one by its number: {named}")
    if asked.isdecimal() and int(asked) < len(classes):
        return int(asked)
    numbered = f"none of the {len(classes)} classes is called so, nor has a number 0 to {len(classes) - 1}"
    raise UsageError(f"--class {asked}: {numbered}{did_you_mean(asked, classes.words)}")


def described(one: Explanation) -> list[str]:
    """The same in lines for a person."""
    facts, where = one.facts, weights(one.map)
    match one.by:
        case "gradcam":
            lines = [f"Grad-CAM of {facts['layer']}, {facts['cells']} x {facts['cells']} cells"]
        case "occlusion":
            lines = [f"occlusion by {facts['window']} x {facts['window']} pixels every {facts['stride']}"]
            if facts["at"] is not None:
                x, y = facts["at"]
                lines[0] += f"; one at ({x}, {y}) takes the most: {100 * facts['largest_drop']:.1f} points"
        case "integrated-gradients":
            way = f"the logit goes from {facts['logit_of_zero']:.2f} to {facts['logit']:.2f}"
            lines = [
                f"integrated gradients in {facts['steps']} steps: {way}, the map sums to it but {facts['gap']:.2g}"
            ]
        case "guided":
            lines = ["guided backpropagation: the gradient's size, over the colours"]
    if where["ninths"] is None or one.deletion is None:
        return [*lines, "nothing in the picture speaks for this class"]
    x, y = where["most"]
    lines.append(
        f"weight by ninths of the view; half of it on {100 * where['half']:.1f} % of the pixels, most at ({x}, {y})"
    )
    lines += ["  " + "".join(f"{100 * part:6.1f} %" for part in row) for row in where["ninths"]]
    if where["against"]:
        lines.append(f"{100 * where['against']:.1f} % of the map speaks against the class")
    share, p = round(100 * one.deletion["share"]), {name: f"{100 * p:.1f} %" for name, p in one.deletion.items()}
    lines.append(
        f"without the {share} % of the pixels that weigh most: {p['most']}; "
        f"as many in the middle: {p['middle']}, at random: {p['random']}"
    )
    return lines


TITLES: Final[dict[By, str]] = {
    "gradcam": "Grad-CAM",
    "occlusion": "occlusion",
    "integrated-gradients": "integrated gradients",
    "guided": "guided backpropagation",
}
FOR, AGAINST = (0.85, 0.2, 0.0), (0.0, 0.4, 0.85)  # over a grey picture


def overlay(one: Explanation, name: str) -> Figure:
    """Three panels: the picture as the network sees it, the map over it in grey, the map; within `figures.style`.

    `name`: what the class is called. The overlay of a map that is fine as pixels is smoothed, for the eye alone.
    """
    from scipy.ndimage import gaussian_filter

    fine, signed = one.by in ("integrated-gradients", "guided"), bool((one.map < 0).any())
    smooth = gaussian_filter(one.map, len(one.map) / 80) if fine else one.map
    over, alone = _scaled(smooth, 1.0), _scaled(one.map, 0.995 if fine else 1.0)
    colours = np.where(over[:, :, None] > 0, FOR, AGAINST) if signed else colormaps["inferno"](over)[:, :, :3]
    grey = 0.25 + 0.75 * one.image.mean(2, keepdims=True) / 255
    opaque = 0.75 * np.abs(over)[:, :, None] ** (1.0 if signed else 0.7)
    map_ = colormaps["RdBu_r"]((alone + 1) / 2) if signed else colormaps["inferno"](alone)
    head = 0.25  # inches
    figure = Figure(figsize=(WIDTH, WIDTH / 3 + head))
    panels = (
        (one.image, "as the network sees it"),
        (255 * ((1 - opaque) * grey + opaque * colours), f"{short(name, 32)}: {100 * one.probability:.1f} %"),
        (255 * map_[:, :, :3], TITLES[one.by] + (": red is for it" if signed else "")),
    )
    for at, (pixels, title) in enumerate(panels):
        axes = figure.add_axes((at / 3 + 0.004, 0.004, 1 / 3 - 0.008, (WIDTH / 3 - 0.07) / (WIDTH / 3 + head)))
        picture(axes, pixels.astype(np.uint8))
        axes.set_title(title)
    return figure


def _scaled(values: NDArray[np.float32], top: float) -> NDArray[np.float32]:
    """A map as -1..1, of which 1 is the value that a share `top` of its pixels does not exceed in size."""
    limit = float(np.quantile(np.abs(values), top)) or 1.0
    return (values / limit).clip(-1, 1)
