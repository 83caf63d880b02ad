"""uint8 batch -> float batch, on the batch's device: what training varies, and the views of evaluation.

A batch goes in as uint8 (B, S, S, 3) RGB and comes out as float (B, 3, s, s) in channels_last memory, prepared as its
`Preprocess` says: x = (pixels - mean) * scale / std. Sums are float32, rounded once to the type asked for.

What is done to each picture is drawn first, as a few numbers a picture (`Cuts`), and then applied, by one of three:
plain torch, which is the definition and stands here; a kernel compiled for the processor (`augment_cpu.py`), where
numba is installed; one for the accelerator (`augment_gpu.py`), where Triton is. On the processor both give
the same bits.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..ranks import has_numba, has_triton
from .order import normal, uniform
from .preprocess import Preprocess

LUMA = (299, 587, 114)  # thousandths: the greyscale of ITU-R BT.601, as torchvision and Pillow weigh it
CROP, COLOUR, LIGHT = 2, 3, 4  # purposes of draws; 1 is the crop of the full picture
AT_A_TIME = 4  # pictures that plain torch works on together on a processor: more leave its cache
FEW = 20  # crops that are made before the compiled kernel is loaded; the bits are the same


@dataclass(frozen=True)
class Augment:
    """What training varies. Plain numbers: 0 or False leaves a thing alone."""

    mirror: bool = True
    random_crop: bool = True  # False: the centre
    colour_noise: float = 0.0  # std of each component's factor: 0.1 * sqrt(eigenvalue) as the 2012 program
    colour_rescale: bool = False  # the 2012 program divides by 1 + colour_noise afterwards
    brightness: float = 0.0  # factor in 1 +- this
    contrast: float = 0.0
    saturation: float = 0.0


class Normalise:
    """A `Preprocess` and its mean on a device; `mean` is float32 (S, S, 3) where the record says "mean.npy", else None.

    All is in the order of the record's `colour`. `means`: float32 (2, M, M * 3), the mean image and its mirror image,
    M = S or, where its centre serves all crops, M = s; (1, 1, s * 3) where the mean is a colour. `gain`: (s * 3,).
    """

    def __init__(self, preprocess: Preprocess, mean: NDArray[np.float32] | None, device: torch.device) -> None:
        self.side, self.stored = preprocess.side, preprocess.stored
        self.bgr = preprocess.colour == "BGR"
        self.luma = LUMA[::-1] if self.bgr else LUMA
        self.thousandths = sum(LUMA) * self.side**2  # of a crop's sum, weighed so, its mean
        self.aligned = mean is not None and preprocess.mean_crop == "aligned"
        s = self.side
        if mean is None:
            means = np.tile(np.asarray(preprocess.mean, np.float32), s).reshape(1, 1, 3 * s)
        else:
            edge = 0 if self.aligned else (len(mean) - s) // 2
            part = mean if self.aligned else mean[edge : edge + s, edge : edge + s]
            means = np.stack([part, part[:, ::-1]]).reshape(2, len(part), -1)
        gain = np.tile(np.array([preprocess.scale / one for one in preprocess.std], np.float32), s)
        self.means, self.gain = torch.from_numpy(means).to(device), torch.from_numpy(gain).to(device)

    def of_centre(self) -> tuple[Tensor, Tensor]:
        """What is subtracted from the crop at the centre, (s, s, 3) or (1, s, 3), and its factor (3,)."""
        s, edge = self.side, (self.stored - self.side) // 2 if self.aligned else 0
        part = self.means[0, edge : edge + s, 3 * edge : 3 * (edge + s)]
        return part.reshape(-1, s, 3), self.gain[:3]


@dataclass(frozen=True)
class Cuts:
    """How N crops are made of a batch of pictures: numbers alone, a row a crop, the same on every device.

    `where` int32 (N, 7): the picture, the crop's top and left, 1 to mirror it; which mean, and its top and left.
    `light` float32 (N, 5): a pixel's factor, its channels' weights in the grey that is added, that of the crop's grey.
    `shift` float32 (N, 3): the colour that is added. None: there is none. `divisor` divides in the end.
    """

    where: NDArray[np.int32]
    light: NDArray[np.float32] | None = None
    shift: NDArray[np.float32] | None = None
    divisor: float = 1.0

    def __len__(self) -> int:
        return len(self.where)


def places(
    images: Tensor, of: NDArray[np.int64], start: NDArray[np.int64], mirrored: NDArray[np.bool_], normalise: Normalise
) -> NDArray[np.int32]:
    """`Cuts.where` of crops that begin at `start` (N, 2), in the pictures `of` (N,) of a batch."""
    mean = np.zeros((len(of), 3), np.int64)
    if normalise.aligned:
        origin = (normalise.stored - images.shape[1]) // 2  # a crop of the full picture is taken for the centre
        mean[:, 0] = mirrored
        mean[:, 1:] = start + origin
        mean[mirrored, 2] = normalise.stored - normalise.side - mean[mirrored, 2]  # in the mirror image
    return np.column_stack([of, start, mirrored, mean]).astype(np.int32)


def train_views(
    images: Tensor,
    n: NDArray[np.int64],
    normalise: Normalise,
    augment: Augment,
    *,
    seed: int,
    epoch: int,
    eigenvalues: NDArray[np.float64] | None = None,
    eigenvectors: NDArray[np.float64] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Random crop of side s, mirror, colour -> (B, 3, s, s) of `dtype`; each draw is a function of (seed, epoch, n).

    `eigenvalues` (3,) and `eigenvectors` (3, 3, columns) of the RGB covariance in 0..255 units serve colour_noise.
    """
    (b, size), side = images.shape[:2], normalise.side
    u = uniform(seed, epoch, n, count=3, purpose=CROP)
    room = size - side + 1
    start = (u[:, :2] * room).astype(np.int64) if augment.random_crop else np.full((b, 2), (size - side) // 2)
    where = places(images, np.arange(b), start, (u[:, 2] < 0.5) & augment.mirror, normalise)
    light = shift = None
    if augment.brightness or augment.contrast or augment.saturation:
        light = light_of(uniform(seed, epoch, n, count=3, purpose=LIGHT), augment, normalise)
    if augment.colour_noise:
        if eigenvalues is None or eigenvectors is None:
            raise ValueError("colour noise needs the eigenvalues and eigenvectors of the colours")
        draws = normal(seed, epoch, n, count=3, purpose=COLOUR)
        shift = (augment.colour_noise * (draws * np.sqrt(eigenvalues)) @ eigenvectors.T).astype(np.float32)  # (B, 3)
        shift = np.ascontiguousarray(shift[:, ::-1]) if normalise.bgr else shift
    divisor = 1.0 + augment.colour_noise if augment.colour_rescale else 1.0
    return made(images, Cuts(where, light, shift, divisor), normalise, dtype)


def light_of(u: NDArray[np.float64], augment: Augment, normalise: Normalise) -> NDArray[np.float32]:
    """`Cuts.light` for draws (N, 3) in [0, 1): brightness, contrast about the crop's own grey, saturation.

    All three are linear: x * f + w . x + v * grey, grey being the mean over the crop, and clamped to 0..255 at the end.
    """
    bright, contrast, colour = 1.0 + (2.0 * u.T - 1.0) * np.array(
        [[augment.brightness], [augment.contrast], [augment.saturation]]
    )
    luma = np.array(normalise.luma) / sum(LUMA)
    gain = bright * contrast
    weights = (gain * (1.0 - colour))[:, None] * luma
    return np.column_stack([gain * colour, weights, bright * (1.0 - contrast)]).astype(np.float32)


def test_views(images: Tensor, normalise: Normalise, *, views: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The paper's views (section 4.1) -> (B * views, 3, s, s) of `dtype`, those of one image together.

    1: the centre. 5: two upper corners' ends, the centre, two lower ones, in the 2012 program's order. 10: and their
    mirrors, in the same order.
    """
    b, size = images.shape[:2]
    starts, mirrors = zip(*views_at(size, normalise.side, views), strict=True)
    start, mirrored = np.tile(starts, (b, 1)), np.tile(mirrors, b)
    return made(images, Cuts(places(images, np.arange(b).repeat(views), start, mirrored, normalise)), normalise, dtype)


def views_at(size: int, side: int, views: int) -> list[tuple[tuple[int, int], bool]]:
    """Where the views lie, crops of `side` in a picture of `size` pixels: ((top, left), mirrored) of each."""
    edge, middle = size - side, (size - side) // 2
    corners = [(0, 0), (0, edge), (middle, middle), (edge, 0), (edge, edge)]
    starts = {1: [(middle, middle)], 5: corners, 10: corners + corners}
    if views not in starts:
        raise ValueError(f"views must be 1, 5 or 10, not {views}")
    return [(start, turn >= len(corners)) for turn, start in enumerate(starts[views])]


def made(images: Tensor, cuts: Cuts, normalise: Normalise, dtype: torch.dtype) -> Tensor:
    """The crops (N, 3, s, s), by the quickest of what is installed for the device."""
    s = normalise.side
    out = torch.empty((len(cuts), s, s, 3), dtype=dtype, device=images.device)
    images, compiled = images.contiguous(), dtype in (torch.float32, torch.bfloat16)
    if compiled and images.device.type == "cpu" and len(cuts) > FEW and has_numba():
        from . import augment_cpu

        augment_cpu.make(images, cuts, normalise, out)
    elif compiled and images.device.type == "cuda" and has_triton():
        from . import augment_gpu

        augment_gpu.make(images, cuts, normalise, out)
    else:
        make(images, cuts, normalise, out)
    return out.permute(0, 3, 1, 2)


def make(images: Tensor, cuts: Cuts, normalise: Normalise, out: Tensor) -> None:
    """The crops of pictures uint8 (B, S, S, 3) -> out (N, s, s, 3), in plain torch: what all others must equal."""
    s, step = normalise.side, AT_A_TIME if images.device.type == "cpu" else max(1, len(cuts))
    for first in range(0, len(cuts), step):
        part = slice(first, first + step)
        where = cuts.where[part].tolist()
        crops = [(images[i, y : y + s, x : x + s], mirrored) for i, y, x, mirrored, *_ in where]
        whole = torch.stack([crop.flip(1) if mirrored else crop for crop, mirrored in crops])  # (n, s, s, 3)
        if normalise.bgr:
            whole = whole.flip(3)
        values = whole.float()
        if cuts.light is not None:
            values = lit(whole, values, torch.from_numpy(cuts.light[part]).to(images.device), normalise)
        if cuts.shift is not None:
            values += torch.from_numpy(cuts.shift[part]).to(images.device)[:, None, None, :]
        values = values.view(-1, s, 3 * s)
        if normalise.aligned:
            values -= torch.stack([normalise.means[m, y : y + s, 3 * x : 3 * (x + s)] for *_, m, y, x in where])
        else:
            values -= normalise.means[0]
        values *= normalise.gain
        if cuts.divisor != 1.0:
            values /= cuts.divisor
        out[part] = values.view(-1, s, s, 3)


def lit(whole: Tensor, values: Tensor, light: Tensor, normalise: Normalise) -> Tensor:
    """Crops uint8 (n, s, s, 3), and the same as float, in the `Cuts.light` (n, 5) -> float (n, s, s, 3).

    The crop's grey is a sum of whole numbers: it is the same in whatever order it is added.
    """
    luma = torch.tensor(normalise.luma, device=values.device)
    thousandths = (whole.sum((1, 2), dtype=torch.int64) * luma).sum(1).float()
    grey = thousandths / torch.tensor(float(normalise.thousandths), device=values.device)  # (n,)
    f, *w, v = (column[:, None, None] for column in light.unbind(1))
    r, g, b = values.unbind(3)
    added = (r * w[0] + g * w[1] + b * w[2] + v * grey[:, None, None])[..., None]
    return values.mul_(f[..., None]).add_(added).clamp_(0.0, 255.0)


def resized_box(
    height: int, width: int, u: NDArray[np.float64], *, smallest: float, aspect: float = 4 / 3
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random-resized-crop (Szegedy et al. 2015): `smallest`..1 of the area.

    Ten tries take four numbers of `u` (40,) each, as torchvision's RandomResizedCrop; then the largest centred box
    whose shape is allowed.
    """
    for area, shape, y, x in u.reshape(10, 4):
        target = height * width * (smallest + (1.0 - smallest) * area)
        ratio = float(np.exp((2.0 * shape - 1.0) * np.log(aspect)))
        w, h = round((target * ratio) ** 0.5), round((target / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
    w, h = min(width, round(height * aspect)), min(height, round(width * aspect))
    return (height - h) // 2, (width - w) // 2, max(h, 1), max(w, 1)
