"""What a model file of ours says of itself beside its tensors: texts by name, in whatever its format has for them.

`variant`: its name. `classes.json` and `preprocess.json`: as in a run folder. `mean`: the mean image, where
preprocess.json names one: float32 (S, S, 3), little-endian, in base64.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.classes import Classes
from ..data.preprocess import MEAN_FILE, Preprocess, from_json, to_json
from ..data.samples import shown
from ..errors import AlexNetError, WeightsError
from ..network.variants import Variant


def texts(
    variant: Variant, classes: Classes, preprocess: Preprocess, mean: NDArray[np.float32] | None
) -> dict[str, str]:
    """What is written into a file."""
    said = {
        "variant": variant.name,
        "classes.json": json.dumps(classes.to_json(), ensure_ascii=False),
        "preprocess.json": json.dumps(to_json(preprocess)),
    }
    if mean is not None and preprocess.mean == MEAN_FILE:
        said["mean"] = base64.b64encode(mean.astype("<f4").tobytes()).decode()
    return said


def read_texts(
    said: Mapping[str, str], path: Path
) -> tuple[Preprocess | None, NDArray[np.float32] | None, Classes | None]:
    """The preparation, its mean image and the classes, each None where the file is silent.

    WeightsError, naming the file at `path`: what stands there is no such thing.
    """
    preprocess, mean, classes = None, None, None
    try:
        if "classes.json" in said:
            classes = Classes.from_json(json.loads(said["classes.json"]))
        if "preprocess.json" in said:
            preprocess = from_json(json.loads(said["preprocess.json"]), Path("preprocess.json"))
            if preprocess.mean == MEAN_FILE and "mean" in said:
                mean = _mean(said["mean"], (preprocess.stored, preprocess.stored, 3))
    except (AlexNetError, ValueError, RecursionError) as reason:
        raise WeightsError(f"{shown(str(path))}: its metadata cannot be read ({reason})") from None
    return preprocess, mean, classes


def fields(preprocess: Preprocess | None) -> dict[str, Any]:
    """What `Foreign.preprocess` holds of a record."""
    return asdict(preprocess) if preprocess else {}


def _mean(text: str, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as reason:
        raise ValueError(f"mean: {reason}") from None
    if len(content) != 4 * prod(shape):
        raise ValueError(f"mean: {len(content)} bytes, expected float32 {shape}")
    mean = np.frombuffer(content, "<f4").astype(np.float32).reshape(shape)
    if not np.isfinite(mean).all():
        raise ValueError("mean: values that are not finite")
    return mean
