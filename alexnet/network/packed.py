"""A network at test on the processor: weights laid out once as oneDNN multiplies them, ReLUs within the layers before.

One picture is mostly the reading of weights, and torch would lay them out anew at each call. The operators are those
that torch's own compiler makes of a frozen network.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.network.build import AlexNet
from alexnet.network.cost import Shape, out_shape
from alexnet.network.kernels import PLAIN, pooled
from alexnet.network.maps import empty_map, last
from alexnet.network.variants import BatchNorm, Conv, Linear, MaxPool, ReLU, Row

Step = Callable[[Tensor], Tensor]


@torch.inference_mode()
def packed(model: AlexNet, dtype: torch.dtype, *, batch: int) -> Step:
    """(B, 3, side, side) of `dtype`, channels-last -> logits (B, classes): `model`, in eval mode, but for rounding.

    Convolutions and fully connected layers have copies of its weights in `dtype`, laid out for batches of `batch`: of
    another size they give the same, perhaps more slowly. What has neither is the model's own.
    """
    rows = model.variant.layers
    steps: list[Step] = []
    shape: Shape = (3, model.variant.side, model.variant.side)
    joined = False  # whether this row is a ReLU that the step before has done
    below = True  # whether values may be below 0
    for index, row in enumerate(rows):
        then = "relu" if index + 1 < len(rows) and isinstance(rows[index + 1], ReLU) else "none"
        below = (below and not isinstance(row, ReLU)) or isinstance(row, Conv | Linear | BatchNorm)
        match row:
            case Conv():
                steps.append(_convolution(row, model, dtype, (batch, *shape), then))
            case Linear():
                steps.append(_linear(row, model, dtype, batch, then))
            case MaxPool():
                # of one picture, or in fp32, the network is no faster for a kernel of ours (docs/log.md)
                kernels = model.kernels if dtype == torch.bfloat16 and batch > 1 else PLAIN
                rectified = kernels.maps == "numba" and not below
                steps.append(partial(_rectified, row) if rectified else partial(pooled, row, kernels=kernels))
            case _ if not joined:
                steps.append(partial(_own, model, row, index))
            case _:
                pass
        joined = isinstance(row, Conv | Linear) and then == "relu"
        shape = out_shape(row, shape, model.classes)

    def run(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return run


def _own(model: AlexNet, row: Row, index: int, x: Tensor) -> Tensor:
    return model.layer(row, x, None, index, inplace=False)


def _rectified(row: MaxPool, x: Tensor) -> Tensor:
    """`pooled`, of values that are not below 0 in bfloat16: the same bits."""
    from .maps_cpu import max_pool_rectified

    _, height, width = out_shape(row, (x.shape[1], x.shape[2], x.shape[3]), 1)
    y = empty_map(x, *x.shape[:2], height, width)
    max_pool_rectified(last(x), last(y), side=row.kernel, stride=row.stride)
    return y


def _convolution(row: Conv, model: AlexNet, dtype: torch.dtype, given: tuple[int, int, int, int], then: str) -> Step:
    layer = model.get_submodule(row.name)
    weight, bias = (layer.get_parameter(part).detach().to(dtype) for part in ("weight", "bias"))
    before, after = row.pad.before, row.pad.after
    own = [before] * 2 if before == after else [0, 0]
    images, channels, *sides = given
    size = [images, channels, *(side if before == after else side + before + after for side in sides)]
    strides, ones = [row.stride] * 2, [1, 1]
    weight = torch.ops.mkldnn._reorder_convolution_weight(weight, own, strides, ones, row.groups, size)

    def run(x: Tensor) -> Tensor:
        if before != after:
            x = F.pad(x, (before, after) * 2)
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, own, strides, ones, row.groups, then, [], "")

    return run


def _linear(row: Linear, model: AlexNet, dtype: torch.dtype, batch: int, then: str) -> Step:
    layer = model.get_submodule(row.name)
    weight, bias = (layer.get_parameter(part).detach().to(dtype) for part in ("weight", "bias"))
    weight = torch.ops.mkldnn._reorder_linear_weight(weight, batch)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x.flatten(1), weight, bias, then, [], "")
