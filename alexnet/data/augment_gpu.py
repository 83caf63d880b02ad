"""Crop, mirror, colour and mean in one pass over a picture, compiled for the accelerator by Triton.

The operations are those of plain torch (`augment.make`), in the same order and not joined into such as round once
where two round twice. With a light, a program makes a whole crop, whose grey it sums up first; without, a block of its
pixels.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .augment import Cuts, Normalise

BLOCK = 1024  # pixels at a time


@triton.jit
def _kernel(
    images: tl.tensor, out: tl.tensor, where: tl.tensor, light: tl.tensor, shift: tl.tensor, means: tl.tensor,
    gain: tl.tensor, constants: tl.tensor, size: tl.tensor, side: tl.tensor, mean_side: tl.tensor,
    luma0: tl.tensor, luma1: tl.tensor, luma2: tl.tensor,
    BGR: tl.constexpr, LIGHT: tl.constexpr, SHIFT: tl.constexpr, IMAGE: tl.constexpr, DIVIDED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Of one crop, (programs along 1) blocks of pixels; `constants`: thousandths, divisor; IMAGE: the mean is one."""
    n, part, parts = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    row = where + 7 * n
    image, top, left, mirrored = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
    mean, mean_top, mean_left = tl.load(row + 4), tl.load(row + 5), tl.load(row + 6)
    first = 2 if BGR else 0  # where a pixel has the channel that comes out first, and the step to the next
    step = -1 if BGR else 1
    corner = images + ((image.to(tl.int64) * size + top) * size + left) * 3 + first
    pixels = side * side
    f, w0, w1, w2, added = 0.0, 0.0, 0.0, 0.0, 0.0
    if LIGHT:
        sums = tl.zeros([BLOCK], tl.int32)
        for begin in range(0, pixels, BLOCK):
            at = begin + tl.arange(0, BLOCK)
            there = at < pixels
            pixel = corner + (at // side * size + at % side) * 3
            sums += luma0 * tl.load(pixel, there, 0).to(tl.int32)
            sums += luma1 * tl.load(pixel + step, there, 0).to(tl.int32)
            sums += luma2 * tl.load(pixel + 2 * step, there, 0).to(tl.int32)
        mean_grey = tl.div_rn(tl.sum(sums.to(tl.int64), 0).to(tl.float32), tl.load(constants))
        row = light + 5 * n
        f, w0, w1, w2 = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
        added = tl.load(row + 4) * mean_grey
    gain0, gain1, gain2 = tl.load(gain), tl.load(gain + 1), tl.load(gain + 2)
    for begin in range(part * BLOCK, pixels, parts * BLOCK):
        at = begin + tl.arange(0, BLOCK)
        there = at < pixels
        y, x = at // side, at % side
        pixel = corner + (y * size + tl.where(mirrored != 0, side - 1 - x, x)) * 3
        a = tl.load(pixel, there, 0).to(tl.float32)
        b = tl.load(pixel + step, there, 0).to(tl.float32)
        c = tl.load(pixel + 2 * step, there, 0).to(tl.float32)
        if LIGHT:
            grey = a * w0 + b * w1 + c * w2 + added
            a = tl.minimum(tl.maximum(a * f + grey, 0.0), 255.0)
            b = tl.minimum(tl.maximum(b * f + grey, 0.0), 255.0)
            c = tl.minimum(tl.maximum(c * f + grey, 0.0), 255.0)
        if SHIFT:
            a += tl.load(shift + 3 * n)
            b += tl.load(shift + 3 * n + 1)
            c += tl.load(shift + 3 * n + 2)
        line = means + tl.zeros([BLOCK], tl.int64)
        if IMAGE:
            line = means + (((mean * mean_side + mean_top + y) * mean_side) + mean_left + x) * 3
        a = (a - tl.load(line, there, 0.0)) * gain0
        b = (b - tl.load(line + 1, there, 0.0)) * gain1
        c = (c - tl.load(line + 2, there, 0.0)) * gain2
        if DIVIDED:
            divisor = tl.load(constants + 1)
            a, b, c = tl.div_rn(a, divisor), tl.div_rn(b, divisor), tl.div_rn(c, divisor)
        given = out + (n * pixels + at) * 3
        tl.store(given, a, there)
        tl.store(given + 1, b, there)
        tl.store(given + 2, c, there)


def make(images: Tensor, cuts: Cuts, normalise: Normalise, out: Tensor) -> None:
    """The crops of pictures uint8 (B, S, S, 3), contiguous -> out (N, s, s, 3), float32 or bfloat16."""
    if not len(cuts):
        return
    on, s = images.device, normalise.side
    gain, image = normalise.gain, normalise.means.shape[1] > 1
    light = gain if cuts.light is None else torch.from_numpy(cuts.light).to(on)
    shift = gain if cuts.shift is None else torch.from_numpy(cuts.shift).to(on)
    constants = torch.tensor([normalise.thousandths, cuts.divisor], dtype=torch.float32, device=on)
    parts = 1 if cuts.light is not None else triton.cdiv(s * s, BLOCK)
    kernel: Any = _kernel[(len(cuts), parts)]  # what a launch takes is not written in its type
    kernel(
        images, out, torch.from_numpy(cuts.where).to(on), light, shift, normalise.means, gain, constants,
        images.shape[1], s, normalise.means.shape[1], *normalise.luma,
        BGR=normalise.bgr, LIGHT=cuts.light is not None, SHIFT=cuts.shift is not None, IMAGE=image,
        DIVIDED=cuts.divisor != 1.0, BLOCK=BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
