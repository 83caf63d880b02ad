"""A model of another world as its file gives it, under our names: what the reader of each world returns."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.classes import Classes


@dataclass
class Foreign:
    """`tensors` by our names and in our order: convolutions (out, in / groups, k, k), fully connected layers (out, in)
    with `in` as (C, y, x), biases (out,); for the channels of `preprocess`.

    `sources`: of each tensor what it is called there, and what was done to it ("fc1/Variable: y, x, c to c, y, x").
    `likely`: the variant that this world means, where several have these shapes. `preprocess`: the fields of
    data.preprocess.Preprocess that its world says otherwise than the variant; `mean`: its mean image, float32
    (S, S, 3) in 0..255. `moments`: the optimizer's tensors, by its own name for them and the parameter's; after `step`
    updates. `classes`: where the file names them. `notes`: what a user should know of it, a line each.
    """

    tensors: dict[str, torch.Tensor]
    sources: dict[str, str]
    likely: str | None = None
    preprocess: dict[str, Any] = field(default_factory=dict)
    mean: NDArray[np.float32] | None = None
    moments: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    step: int = 0
    classes: Classes | None = None
    notes: tuple[str, ...] = ()


def other_colour(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of the network that computes the same of images with their channels in the other order."""
    axes = _of_colours(tensors)
    return {name: value.flip(axes[name]) if name in axes else value for name, value in tensors.items()}


def _of_colours(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """Of the tensors that meet the image's channels, which axis that is: conv1's, and what comes before it."""
    bn0 = {name: 0 for name, value in tensors.items() if name.startswith("bn0.") and value.ndim}
    return {"conv1.weight": 1} | bn0
