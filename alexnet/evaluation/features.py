"""Activations of any layers, for every picture of a table, batch by batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import stop
from ..data.augment import Normalise, test_views
from ..data.loader import BadImages, Places, batches, stored
from ..data.samples import Samples
from ..errors import BadImage, Stopped, UsageError
from ..network.kernels import unmeasured
from ..network.variants import LRN, Conv, Linear, MaxPool, ReLU, Row, Variant, layer_name
from ..weights.run import Loaded

# What may stand behind a layer's name: the layer itself, or the row of this kind behind it.
FORMS: dict[str, type[Row]] = {"relu": ReLU, "norm": LRN, "pool": MaxPool}
PRE = "pre"


@dataclass(frozen=True)
class Activations:
    """Of one batch: `rows` (B,) of the table, those of bad pictures left out; float32 values, on the processor, by the
    names asked for: (B, views, C, H, W) or (B, views, C); and the bad pictures' rows, with what is wrong.
    """

    rows: NDArray[np.int64]
    values: dict[str, Tensor]
    bad: tuple[tuple[int, BadImage], ...]


def layer_form(name: str, variant: Variant) -> str:
    """The table's own name of a layer: "conv5" and "conv5:pre" -> "conv5", "conv5:relu" -> "relu5", "fc7" -> "fc7".

    Names are the table's, Caffe's, torchvision's (`features.0`) or the 2012 program's (`conv1a`). Behind that of a
    convolution or a fully connected layer may stand `:pre`, its own output, or `:relu`, `:norm` (local response
    normalization) or `:pool`, the output of the first such layer between it and the next one. UsageError, with what is
    known, for any other.
    """
    given, colon, form = name.partition(":")
    ours = layer_name(given, variant)
    if not colon:
        return ours
    forms = _forms(variant, ours)
    if form not in forms:
        known = ", ".join(f":{one}" for one in forms)
        has = f"has {known}" if known else "has no forms (a convolution and a fully connected layer have)"
        raise UsageError(f"{variant.name} has no layer {name!r}; {given} {has}")
    return forms[form]


def _forms(variant: Variant, layer: str) -> dict[str, str]:
    """Form -> the table's name of what it means behind a layer; empty where the layer has no weights to go behind."""
    rows = variant.layers
    at = next(index for index, row in enumerate(rows) if row.name == layer)
    if not isinstance(rows[at], Conv | Linear):
        return {}
    found = {PRE: layer}
    for row in rows[at + 1 :]:
        if isinstance(row, Conv | Linear):
            break
        for form, kind in FORMS.items():
            if isinstance(row, kind):
                found.setdefault(form, row.name)
    return found


def pictures_of_batch(batch_size: int, views: int) -> int:
    """How many pictures go through at once where `batch_size` views do."""
    return max(1, batch_size // views)


def activations(
    loaded: Loaded,
    samples: Samples,
    layers: Sequence[str],
    *,
    views: int = 1,
    batch_size: int = 64,
    device: torch.device | None = None,
    threads: int = 2,
    bad_images: BadImages = "error",
    first: int = 0,
) -> Iterator[Activations]:
    """What `layers`, named as `layer_form` knows them, are for each picture from row `first` on, in the table's order.

    One pass for all of them, in float32, which ends after the last; `batch_size` views at once. `views` are those of
    `test_views`. UsageError: an unknown layer. BadImage: the first bad picture, unless `bad_images` is "skip". Stopped:
    a signal asks for the end and more is asked for.
    """
    ours = {name: layer_form(name, loaded.model.variant) for name in layers}
    place = device or torch.device("cpu")
    model = loaded.model.to(place).eval()
    model.kernels = unmeasured(place)
    normalise = Normalise(loaded.preprocess, loaded.mean, place)
    rows, size = np.arange(first, len(samples)), pictures_of_batch(batch_size, views)
    places = (Places(rows[i : i + size], rows[i : i + size]) for i in range(0, len(rows), size))
    prepare = stored(samples, loaded.preprocess)
    side = loaded.preprocess.stored
    for batch in batches(samples, places, prepare, side=side, threads=threads, bad_images=bad_images):
        values: dict[str, Tensor] = {}
        if len(batch.rows):
            with torch.no_grad():
                images = test_views(batch.images.to(place, non_blocking=True), normalise, views=views)
                traced = model.trace(images, ours.values())
            values = {
                name: traced[layer].float().cpu().unflatten(0, (len(batch.rows), views)) for name, layer in ours.items()
            }
        yield Activations(batch.rows, values, tuple(batch.bad))
        if stop.requested():  # not before a batch: what was computed is handed over
            raise Stopped("stopped while features were computed")
