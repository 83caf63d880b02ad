"""A file of caffe-tensorflow, as bvlc_alexnet.npy is -> Caffe's network.

It is a pickled dictionary: of each layer [weights, biases], in later files a dictionary of the two. The converter kept
Caffe's channels, blue first, and put the axes as TensorFlow has them: y, x, c, out, where a grouped convolution has
the c of one group, and all its outputs. fc6's rows are y, x, c too, as TensorFlow flattens maps
(github.com/ethereon/caffe-tensorflow, kaffe/core.py, DataReshaper).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.samples import shown
from ..errors import Misfit, WeightsError
from ..network.cost import Shape, out_shape
from ..network.variants import CAFFE, Conv, Linear, Variant
from .foreign import Foreign
from .unpickle import read_npy

NOTES = ("the mean image is not in it, but in Caffe's imagenet_mean.binaryproto",)


def read_caffe_npy(path: Path, *, variant: Variant = CAFFE) -> Foreign:
    """The network in a .npy file, which has the layers of `variant`; channels blue first.

    WeightsError: no such file; a layer that is missing, not known, or of another shape; values that are not finite.
    """
    where, found = shown(str(path)), read_npy(path)
    rows = {row.name for row in variant.layers if isinstance(row, Conv | Linear)}
    if not isinstance(found, dict) or not rows & found.keys():
        raise WeightsError(f"{where}: no model of caffe-tensorflow: it holds no layers by name, as conv1 and fc8")
    if unknown := sorted(str(name) for name in found.keys() - rows):
        raise WeightsError(f"{where}: the layer {shown(unknown[0][:40])} is not known; {variant.name} has no such")
    tensors, sources = dict[str, torch.Tensor](), dict[str, str]()
    shape: Shape = (3, variant.side, variant.side)
    for row in variant.layers:
        if not isinstance(row, Conv | Linear):
            shape = out_shape(row, shape, 0)
            continue
        weights, biases = _parts(found.get(row.name), row.name, where)
        out = out_shape(row, shape, max(1, biases.size))
        C, H, W = shape
        expected = (H * W * C, out[0])
        if isinstance(row, Conv):
            H, W = row.kernel, row.kernel
            expected = (H, W, C // row.groups, out[0])
        if weights.shape != expected or biases.shape != out[:1]:
            there, here = f"{weights.shape} and {biases.shape}", f"{expected} and {out[:1]}"
            raise WeightsError(f"{where}: {row.name} is {there}, expected {here}", [Misfit(row.name, here, there)])
        # (H, W, c, out) -> (out, c, H, W); a layer behind another's outputs has H = W = 1
        weight = weights.reshape(H, W, -1, out[0]).transpose(3, 2, 0, 1)
        tensors[f"{row.name}.weight"] = torch.from_numpy(
            np.ascontiguousarray(weight if isinstance(row, Conv) else weight.reshape(out[0], -1))
        )
        tensors[f"{row.name}.bias"] = torch.from_numpy(biases)
        sources[f"{row.name}.weight"] = f"{row.name}[0]: " + (
            "transposed" if W == 1 else "y, x, c, out to out, c, y, x"
        )
        sources[f"{row.name}.bias"] = f"{row.name}[1]"
        shape = out
    return Foreign(tensors, sources, variant.name, notes=NOTES)


def _parts(layer: Any, name: str, where: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A layer's weights and biases."""
    match layer:
        case [np.ndarray() as weights, np.ndarray() as biases]:
            pass
        case {"weights": np.ndarray() as weights, "biases": np.ndarray() as biases}:
            pass
        case _:
            raise WeightsError(f"{where}: {name} is {'missing' if layer is None else 'no pair of weights and biases'}")
    if not all(part.dtype.kind == "f" and np.isfinite(part).all() for part in (weights, biases)):
        raise WeightsError(f"{where}: {name} holds values that are not finite, or no floating point")
    return weights.astype(np.float32), biases.astype(np.float32)
