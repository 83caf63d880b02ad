"""Crop, mirror, colour and mean in one pass over a picture, compiled for the processor by numba.

The same bits as plain torch (`augment.make`): the same operations on float32 in the same order, none of them joined
into one that rounds once where two round twice. Compiled at first use and kept on disk.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..network.lrn_cpu import as_array, narrow
from ..ranks import compiler, share
from .augment import LUMA, Cuts, Normalise

compiled = compiler(nogil=True, error_model="numpy")
ONE, TWO, THREE = np.uint64(1), np.uint64(2), np.uint64(3)


@cache
def _kernel(bf16: bool) -> Callable[..., None]:
    zero, most = np.float32(0), np.float32(255)

    @compiled
    def kernel(
        where: Any, light: Any, shift: Any, out: Any, images: Any, means: Any, gain: Any,
        thousandths: Any, bgr: Any, divisor: Any,
    ) -> None:  # fmt: skip
        side, run = out.shape[1], out.shape[2]
        # unsigned: a signed place may be negative, counted from the end, and such loops do not become vectors
        length, last = np.uint64(side), np.uint64(side - 1)
        pixels = np.empty(run, np.uint8)
        bits = np.empty(run, np.uint32)
        values = bits.view(np.float32)
        added = np.zeros(run, np.float32)
        for n in range(len(where)):
            image, top, begin, mirrored = where[n, 0], where[n, 1], 3 * where[n, 2], where[n, 3]
            mean, mean_top, mean_begin = where[n, 4], where[n, 5], 3 * where[n, 6]
            if shift.shape[1]:
                for k in range(length):
                    for c in range(THREE):
                        added[THREE * k + c] = shift[n, c]
            f = w0 = w1 = w2 = v = zero
            if light.shape[1]:
                total0, total1, total2 = 0, 0, 0
                for y in range(side):
                    row = images[image, top + y, begin : begin + run]
                    sum0, sum1, sum2 = np.int32(0), np.int32(0), np.int32(0)
                    for k in range(length):
                        sum0 += np.int32(row[THREE * k])
                        sum1 += np.int32(row[THREE * k + ONE])
                        sum2 += np.int32(row[THREE * k + TWO])
                    total0, total1, total2 = total0 + sum0, total1 + sum1, total2 + sum2
                grey = np.float32(LUMA[0] * total0 + LUMA[1] * total1 + LUMA[2] * total2) / thousandths
                f, w0, w1, w2, v = light[n, 0], light[n, 1], light[n, 2], light[n, 3], light[n, 4] * grey
            for y in range(side):
                row = images[image, top + y, begin : begin + run]
                if mirrored and bgr:
                    for k in range(np.uint64(run)):
                        pixels[k] = row[np.uint64(run - 1) - k]
                elif mirrored:
                    for k in range(length):
                        for c in range(THREE):
                            pixels[THREE * k + c] = row[THREE * (last - k) + c]
                elif bgr:
                    for k in range(length):
                        for c in range(THREE):
                            pixels[THREE * k + c] = row[THREE * k + TWO - c]
                else:
                    for j in range(run):
                        pixels[j] = row[j]
                for j in range(run):
                    values[j] = np.float32(pixels[j])
                if light.shape[1]:
                    for k in range(length):
                        at = THREE * k
                        r, g, b = values[at], values[at + ONE], values[at + TWO]
                        grey = r * w0 + g * w1 + b * w2 + v
                        values[at] = min(max(r * f + grey, zero), most)
                        values[at + ONE] = min(max(g * f + grey, zero), most)
                        values[at + TWO] = min(max(b * f + grey, zero), most)
                line = means[mean, mean_top + y if means.shape[1] > 1 else 0, mean_begin : mean_begin + run]
                for j in range(run):
                    values[j] = (values[j] + added[j] - line[j]) * gain[j]
                if divisor != np.float32(1):
                    for j in range(run):
                        values[j] = values[j] / divisor
                if bf16:
                    narrow(values, out[n, y])
                else:
                    given = out[n, y]
                    for j in range(run):
                        given[j] = values[j]

    return kernel


def make(images: Tensor, cuts: Cuts, normalise: Normalise, out: Tensor) -> None:
    """The crops of pictures uint8 (B, S, S, 3), contiguous -> out (N, s, s, 3), float32 or bfloat16."""
    none = np.zeros((len(cuts), 0), np.float32)
    light = none if cuts.light is None else cuts.light
    shift = none if cuts.shift is None else cuts.shift
    share(
        _kernel(out.dtype == torch.bfloat16),
        [cuts.where, light, shift, as_array(out.flatten(2))],
        images.flatten(2).numpy(), normalise.means.numpy(), normalise.gain.numpy(),
        np.float32(normalise.thousandths), normalise.bgr, np.float32(cuts.divisor),
        apart=True,
    )  # fmt: skip
