"""uint8 batch -> float batch, on the batch's device: what training varies, and the views of evaluation.

A batch goes in as uint8 (B, S, S, 3) RGB and comes out as float32 (B, 3, s, s) in channels_last memory, prepared as
its `Preprocess` says: x = (pixels - mean) * scale / std.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .order import normal, uniform
from .preprocess import Preprocess

LUMA = (0.299, 0.587, 0.114)  # the greyscale of ITU-R BT.601, as torchvision and Pillow weigh it
CROP, COLOUR, LIGHT = 2, 3, 4  # purposes of draws; 1 is the crop of the full picture


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

    Both are in the order of the record's `colour`.
    """

    def __init__(self, preprocess: Preprocess, mean: NDArray[np.float32] | None, device: torch.device) -> None:
        self.side, self.stored = preprocess.side, preprocess.stored
        self.bgr = preprocess.colour == "BGR"
        self.aligned = preprocess.mean_crop == "aligned"
        plane = np.asarray(preprocess.mean, np.float32).reshape(1, 1, 3) if mean is None else mean
        self.mean = torch.from_numpy(np.ascontiguousarray(plane)).to(device)
        self.gain = torch.tensor([preprocess.scale / s for s in preprocess.std], dtype=torch.float32, device=device)

    def __call__(self, x: torch.Tensor, ys: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
        """Float (B, s, s, 3) RGB pixels -> (B, 3, s, s).

        Rows ys (B, s) and columns xs (B, s) say where in the stored form they were cut.
        """
        if self.bgr:
            x = x.flip(3)
        if self.mean.shape[0] == 1:
            mean = self.mean
        elif self.aligned:
            mean = self.mean[ys[:, :, None], xs[:, None, :]]
        else:
            edge = (self.mean.shape[0] - self.side) // 2
            mean = self.mean[edge : edge + self.side, edge : edge + self.side]
        return ((x - mean) * self.gain).permute(0, 3, 1, 2)


def cut(images: torch.Tensor, ys: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
    """uint8 (B, S, S, 3) at rows ys (B, s) and columns xs (B, s), falling for a mirror -> float (B, s, s, 3)."""
    index = torch.arange(images.shape[0], device=images.device)
    return images[index[:, None, None], ys[:, :, None], xs[:, None, :]].float()


def train_views(
    images: torch.Tensor,
    n: NDArray[np.int64],
    normalise: Normalise,
    augment: Augment,
    *,
    seed: int,
    epoch: int,
    eigenvalues: NDArray[np.float64] | None = None,
    eigenvectors: NDArray[np.float64] | None = None,
) -> torch.Tensor:
    """Random crop of side s, mirror, colour -> float (B, 3, s, s); each draw is a function of (seed, epoch, n) alone.

    `eigenvalues` (3,) and `eigenvectors` (3, 3, columns) of the RGB covariance in 0..255 units serve colour_noise.
    """
    device, (b, size), side = images.device, images.shape[:2], normalise.side
    u = uniform(seed, epoch, n, count=3, purpose=CROP)
    room = size - side + 1
    start = (u[:, :2] * room).astype(np.int64) if augment.random_crop else np.full((b, 2), (size - side) // 2)
    top, left = torch.from_numpy(start).to(device).unbind(1)
    mirrored = torch.from_numpy(u[:, 2] < 0.5).to(device) & augment.mirror
    run = torch.arange(side, device=device)
    ys = top[:, None] + run
    xs = left[:, None] + torch.where(mirrored[:, None], side - 1 - run, run)
    x = cut(images, ys, xs)  # (B, s, s, 3)
    if augment.brightness or augment.contrast or augment.saturation:
        x = light(x, uniform(seed, epoch, n, count=3, purpose=LIGHT), augment)
    if augment.colour_noise:
        if eigenvalues is None or eigenvectors is None:
            raise ValueError("colour noise needs the eigenvalues and eigenvectors of the colours")
        draws = normal(seed, epoch, n, count=3, purpose=COLOUR)
        shift = augment.colour_noise * (draws * np.sqrt(eigenvalues)) @ eigenvectors.T  # (B, 3)
        x = x + torch.from_numpy(shift.astype(np.float32)).to(device)[:, None, None, :]
    origin = (normalise.stored - size) // 2  # a crop of the full picture is taken for the stored form's centre
    x = normalise(x, ys + origin, xs + origin)
    return x / (1.0 + augment.colour_noise) if augment.colour_rescale else x


def light(x: torch.Tensor, u: NDArray[np.float64], augment: Augment) -> torch.Tensor:
    """Brightness, contrast about the picture's own grey, saturation: one 3 x 3 matrix and one shift an image."""
    factor = 1.0 + (2.0 * torch.from_numpy(u.astype(np.float32)).to(x.device) - 1.0) * torch.tensor(
        [augment.brightness, augment.contrast, augment.saturation], device=x.device
    )  # (B, 3)
    grey = torch.tensor(LUMA, device=x.device)
    mean = (x.mean((1, 2)) @ grey)[:, None]  # (B, 1)
    bright, contrast, colour = factor[:, 0, None], factor[:, 1, None], factor[:, 2, None]
    matrix = colour[:, :, None] * torch.eye(3, device=x.device) + (1 - colour)[:, :, None] * grey[:, None]  # (B, 3, 3)
    gain = (bright * contrast)[:, :, None]
    shift = bright * (1 - contrast) * mean  # (B, 1)
    b, h, w, _ = x.shape
    y = torch.baddbmm(shift[:, :, None].expand(b, h * w, 3), x.view(b, h * w, 3), matrix * gain)
    return y.clamp_(0.0, 255.0).view(b, h, w, 3)


def test_views(images: torch.Tensor, normalise: Normalise, *, views: int) -> torch.Tensor:
    """The paper's views (section 4.1) -> float (B * views, 3, s, s), those of one image together.

    1: the centre. 5: two upper corners' ends, the centre, two lower ones, in the 2012 program's order. 10: and their
    mirrors, in the same order.
    """
    size, side = images.shape[1], normalise.side
    edge, middle = size - side, (size - side) // 2
    corners = [(0, 0), (0, edge), (middle, middle), (edge, 0), (edge, edge)]
    starts = {1: [(middle, middle, False)], 5: [(*c, False) for c in corners]}
    starts[10] = starts[5] + [(*c, True) for c in corners]
    if views not in starts:
        raise ValueError(f"views must be 1, 5 or 10, not {views}")
    run = torch.arange(side, device=images.device)
    made = []
    for top, left, mirrored in starts[views]:
        ys = (top + run).expand(images.shape[0], side)
        xs = (left + (side - 1 - run if mirrored else run)).expand(images.shape[0], side)
        made.append(normalise(cut(images, ys, xs), ys, xs))
    if views == 1:
        return made[0]
    stacked = torch.stack(made, 1).flatten(0, 1)  # (B * views, 3, s, s)
    return stacked.contiguous(memory_format=torch.channels_last)


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
