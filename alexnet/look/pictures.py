"""The pictures of a figure: those that a run held out, or those that are named, and which class each truly is."""

import dataclasses
from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..data.loader import pixels
from ..data.samples import UNLABELLED, Samples
from ..data.sources import open_data, open_pictures
from ..errors import UsageError
from ..evaluation.judge import own_samples
from ..weights.run import Loaded

MOST: Final = 100  # pictures of a figure


def pictures_of(loaded: Loaded, named: Sequence[str]) -> Samples:
    """The named pictures, or, if none are, those that the run held out; labelled by the run's classes.

    The class of a named picture is that of its source, or has the name of the folder that it lies in as its key; -1
    where it is none of the run's. UsageError and DataError: as `own_samples` and `open_pictures`.
    """
    if not named and loaded.data is None:
        raise UsageError(f"{loaded.where}: has no pictures of its own; name some")
    if not named:
        return own_samples(loaded).as_classes(loaded.classes, loaded.where, partial=True)
    found = open_pictures(named)
    known = {key: label for label, key in enumerate(loaded.classes.keys)}
    keys = [
        found.classes.keys[label] if label >= 0 else PurePath(found.name(row)).parent.name
        for row, label in enumerate(found.label.tolist())
    ]
    labels = np.array([known.get(key, UNLABELLED) for key in keys], np.int64)
    return dataclasses.replace(found, classes=loaded.classes, label=labels)


def trained_on(loaded: Loaded) -> Samples:
    """The pictures that a run was trained on, labelled by its classes. UsageError: it names none."""
    kept = loaded.data
    if kept is None:
        raise UsageError(f"{loaded.where}: has no training pictures of its own; name --among")
    return open_data(kept["source"], **kept["split"]).train.as_classes(loaded.classes, loaded.where, partial=True)


def few(samples: Samples, count: int, *, seed: int) -> Samples:
    """`count` of the samples, drawn by `seed`, in the table's order; all if there are no more.

    UsageError: a count below 1 or above MOST.
    """
    if not 1 <= count <= MOST:
        raise UsageError(f"--count {count}: must be at least 1 and at most {MOST}")
    if len(samples) <= count:
        return samples
    return samples.take(np.sort(np.random.default_rng(seed).choice(len(samples), count, replace=False)))


def stored_forms(samples: Samples, loaded: Loaded) -> NDArray[np.uint8]:
    """The samples as the road stores them: uint8 (N, S, S, 3). BadImage: the first that cannot be decoded."""
    samples.check_shaping(loaded.preprocess)
    return np.stack([pixels(samples, row, loaded.preprocess) for row in range(len(samples))])
