"""What every verb does to an image before the network sees it: one record, kept with the weights."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np

from ..errors import DataError, UsageError
from .cache import DAMAGE

Resize = Literal["shorter", "warp"]
Filter = Literal["bilinear", "bicubic", "lanczos", "box"]
Colour = Literal["RGB", "BGR"]
MeanCrop = Literal["centre", "aligned"]
Decode = Literal["full", "reduced"]

MOST_SIDE: Final = 4096  # pixels of a stored form; the largest of a variant is 256
MEAN_FILE: Final = "mean.npy"
# What a record says that was written before it had the field.
BEFORE: Final = {"decode": "full"}


class Shaping(NamedTuple):
    """What makes the stored form of a picture, each as in `Preprocess`."""

    stored: int
    resize: Resize
    filter: Filter
    exif: bool
    decode: Decode

    def __str__(self) -> str:
        return (
            f"{self.stored} px, resize {self.resize}, filter {self.filter}, exif {str(self.exif).lower()}, "
            f"decode {self.decode}"
        )


@dataclass(frozen=True)
class Preprocess:
    """From the pixels of a picture, 0..255, to the network's input: x = (pixels - mean) * scale / std.

    `side`: the network's input is (3, side, side). `stored`: S, the stored form is (S, S, 3). `resize`: "shorter"
    brings the shorter side to S and cuts the centre, "warp" brings both sides to S; with `filter`, antialiased.
    `exif`: whether the camera's orientation is applied. `decode`: "full", or "reduced": a JPEG far larger than S is
    decoded at 1/2 or 1/4 of its size before it is resized (`decode.decoded_form`). `colour`: the order of the input's
    channels, swapped before anything is subtracted; `mean` and `std` are in this order. `mean`: three values in
    0..255, or "mean.npy", a mean image (S, S, 3) beside this record. `mean_crop`: the part of the mean image
    subtracted from a crop: its centre always (as [CODE12] does), or the part "aligned" with the crop. `scale`
    multiplies; `std` divides what `scale` has made, (1, 1, 1) for none. UsageError: a value that is none of these.
    """

    side: int
    stored: int
    resize: Resize
    filter: Filter
    exif: bool
    decode: Decode
    colour: Colour
    scale: float
    mean: tuple[float, float, float] | Literal["mean.npy"]
    mean_crop: MeanCrop
    std: tuple[float, float, float]

    @property
    def shaping(self) -> Shaping:
        """The part that decides what the stored form of a picture is."""
        return Shaping(self.stored, self.resize, self.filter, self.exif, self.decode)

    def __post_init__(self) -> None:
        for name in ("side", "stored"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MOST_SIDE:
                raise UsageError(f"preprocess: {name} is {value!r}, expected a number of pixels, 1 to {MOST_SIDE}")
        if self.stored < self.side:
            raise UsageError(f"preprocess: stored is {self.stored}, smaller than side, {self.side}")
        for name, choices in (
            ("resize", Resize),
            ("filter", Filter),
            ("decode", Decode),
            ("colour", Colour),
            ("mean_crop", MeanCrop),
        ):
            if getattr(self, name) not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise UsageError(f"preprocess: {name} is {getattr(self, name)!r}, expected one of: {known}")
        if type(self.exif) is not bool:
            raise UsageError(f"preprocess: exif is {self.exif!r}, expected true or false")
        if not _is_finite(self.scale) or self.scale <= 0:
            raise UsageError(f"preprocess: scale is {self.scale!r}, expected a number above 0")
        if self.mean != MEAN_FILE and not _is_colour(self.mean):
            raise UsageError(f'preprocess: mean is {self.mean!r}, expected three numbers or "{MEAN_FILE}"')
        if not _is_colour(self.std) or min(self.std) <= 0:
            raise UsageError(f"preprocess: std is {self.std!r}, expected three numbers above 0")


def in_other_colour(record: Preprocess) -> Preprocess:
    """The same of images with their channels in the other order; a mean image is another file's to turn."""
    mean = record.mean if record.mean == MEAN_FILE else record.mean[::-1]
    colour: Colour = "BGR" if record.colour == "RGB" else "RGB"
    return dataclasses.replace(record, colour=colour, mean=mean, std=record.std[::-1])


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_colour(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(_is_finite(part) for part in value)


def stored_side(side: int) -> int:
    """The S of the stored form for a network of this `side`: the paper's 256 to 224, in proportion.

    227 is [CAFFE]'s crop from the same 256, so it is no scale of its own.
    """
    return 256 if side == 227 else round(side * 256 / 224)


def to_json(preprocess: Preprocess) -> dict[str, Any]:
    """The record as the object of preprocess.json."""
    return dataclasses.asdict(preprocess)


def from_json(value: Any, path: Path) -> Preprocess:
    """The record from the object read at `path`; UsageError names the file and the field that is not as expected."""
    if not isinstance(value, dict):
        raise UsageError(f"{path}: expected a JSON object, found {type(value).__name__}")
    value = BEFORE | value
    names = [field.name for field in dataclasses.fields(Preprocess)]
    missing = [name for name in names if name not in value]
    unknown = [name for name in value if name not in names]
    if missing or unknown:
        found = [f"{name} is missing" for name in missing] + [f"{name} is unknown" for name in unknown]
        raise UsageError(f"{path}: {'; '.join(found)}; the fields are {', '.join(names)}")
    fields: dict[str, Any] = {name: tuple(part) if isinstance(part, list) else part for name, part in value.items()}
    try:
        return Preprocess(**fields)
    except UsageError as reason:
        raise UsageError(f"{path}: {str(reason).removeprefix('preprocess: ')}") from None


def load_mean(folder: Path, *, stored: int) -> np.ndarray:
    """The mean image `folder`/mean.npy: float32 (stored, stored, 3), 0..255, channels in the record's `colour`.

    DataError: missing, not an array of numbers, of another shape, or not finite.
    """
    path, expected = folder / MEAN_FILE, (stored, stored, 3)
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ValueError("no regular file")
        with path.open("rb") as stream:
            np.lib.format.read_magic(stream)
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            if dtype.hasobject:
                raise ValueError("it holds objects")
            if dtype.kind != "f" or shape != expected:
                raise DataError(f"{path}: {dtype} {shape}, expected float32 {expected}")
            # nothing is made for values that are not there
            if path.stat().st_size - stream.tell() != math.prod(shape) * dtype.itemsize:
                raise ValueError("its bytes are not as many as its shape needs")
            stream.seek(0)
            mean = np.lib.format.read_array(stream, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: missing, and preprocess.json names it as the mean image") from None
    except DAMAGE as reason:
        raise DataError(f"{path}: cannot be read as an array of numbers ({' '.join(str(reason).split())})") from None
    if not np.isfinite(mean).all():
        raise DataError(f"{path}: holds values that are not finite")
    return mean.astype(np.float32)
