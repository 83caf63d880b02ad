"""An update with momentum compiled for the processor by numba, for weights that are multiplied in bfloat16."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..network.lrn_cpu import as_array, rounded, widened
from ..ranks import compiler, share

# without multiply-adds in one: vectors, and the values left over from them, are to round alike
compiled = compiler(nogil=True, error_model="numpy")


@compiled
def _update(w: Any, m: Any, copy: Any, g: Any, rate: Any, decay: Any, momentum: Any, nesterov: Any) -> None:
    for i in range(len(w)):
        d = widened(g[i]) + decay * w[i]
        v = momentum * m[i] + d
        m[i] = v
        if nesterov:
            v = d + momentum * v
        v = w[i] - rate * v
        w[i] = v
        copy[i] = rounded(v)


def update(
    weight: Tensor, velocity: Tensor, copy: Tensor, gradient: Tensor, *, rate: float, decay: float, momentum: float,
    nesterov: bool,
) -> None:  # fmt: skip
    """Writes weight and velocity, float32, and copy, the weight in bfloat16; all of one shape and layout, without gaps.

    gradient, bfloat16: velocity = momentum * velocity + gradient + decay * weight, weight -= rate * velocity.
    """
    if gradient.stride() != copy.stride():
        gradient = torch.empty_like(copy).copy_(gradient)
    flat = [as_array(x.detach().as_strided((x.numel(),), (1,))) for x in (weight, velocity, copy, gradient)]
    share(_update, flat, np.float32(rate), np.float32(decay), np.float32(momentum), nesterov)
