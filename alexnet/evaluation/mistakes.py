"""What predictions tell of classes and labels: how each class fares, what is taken for what, what looks mislabelled."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .predictions import Predictions
from .score import wilson


@dataclass(frozen=True)
class ClassFigures:
    """One class: its pictures, how many of them were right, how often it was said, and what it was most taken for.

    `interval`: of the share right (Wilson, 95 %); None without pictures. `taken_for`: the class that the most of its
    other pictures were taken for, and how many; None where all are right.
    """

    count: int
    right: int
    said: int
    interval: tuple[float, float] | None
    taken_for: tuple[int, int] | None

    @property
    def recall(self) -> float | None:
        """The share of its pictures that were right."""
        return self.right / self.count if self.count else None

    @property
    def precision(self) -> float | None:
        """Of the pictures it was said of, the share that are its own."""
        return self.right / self.said if self.said else None


@dataclass(frozen=True, eq=False)
class Pair:
    """Pictures `rows` of class `true` of which `said` was said."""

    true: int
    said: int
    rows: NDArray[np.int64]


def pairs(predictions: Predictions) -> list[Pair]:
    """The pictures by true class and class said, the equal ones too; the pair with the most pictures first."""
    rows = np.flatnonzero(~predictions.bad & (predictions.labels >= 0))
    if not len(rows):
        return []
    both = np.stack([predictions.labels[rows], predictions.top[rows, 0]], 1)
    kinds, which = np.unique(both, axis=0, return_inverse=True)
    order = np.argsort(which.reshape(-1), kind="stable")
    parts = np.split(rows[order], np.cumsum(np.bincount(which.reshape(-1)))[:-1])
    found = [Pair(int(true), int(said), part) for (true, said), part in zip(kinds, parts, strict=True)]
    return sorted(found, key=lambda pair: -len(pair.rows))


def per_class(predictions: Predictions, classes: int) -> list[ClassFigures]:
    """The figures of each of `classes` classes, in their order. A picture that was not decoded is wrong."""
    labels, right = predictions.labels, predictions.right()
    count = np.bincount(labels[labels >= 0], minlength=classes)
    hits = np.bincount(labels[right], minlength=classes)
    said = np.bincount(predictions.top[~predictions.bad, 0], minlength=classes)
    taken: dict[int, tuple[int, int]] = {}
    for pair in pairs(predictions):
        if pair.true != pair.said:
            taken.setdefault(pair.true, (pair.said, len(pair.rows)))
    return [
        ClassFigures(int(n), int(c), int(s), wilson(int(c), int(n)) if n else None, taken.get(label))
        for label, (n, c, s) in enumerate(zip(count, hits, said, strict=True))
    ]


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """Pictures whose label looks wrong, the likeliest first: rows (M,), the classes that they look like (M,), and what
    the network gave those (M,) and the labels (M,).
    """

    rows: NDArray[np.int64]
    looks_like: NDArray[np.int64]
    probability: NDArray[np.float64]
    of_label: NDArray[np.float64]


def likely_label_errors(predictions: Predictions, classes: int) -> LabelErrors:
    """The pictures off the diagonal of the confident joint (Northcutt, Jiang and Chuang 2021, "Confident learning").

    A class is likely for a picture where its probability is at least the mean that the class gets from the pictures
    labelled so. A picture looks like the likeliest of these; it is named where that is neither its label nor nothing,
    and where the network does not say the label either. First come those whose label has the least beside the class
    said. Only the classes that the predictions keep are looked at.
    """
    own = np.exp(-predictions.loss.astype(np.float64))  # (N,) the label's probability
    there = ~predictions.bad & (predictions.labels >= 0)
    labels = predictions.labels[there]
    count = np.bincount(labels, minlength=classes)
    mean = np.bincount(labels, weights=own[there], minlength=classes) / np.maximum(count, 1)
    usual = np.where(count > 0, mean, np.inf)
    likely = predictions.probability >= usual[predictions.top]  # (N, k), the likeliest class first
    first = likely.argmax(1)
    looks = predictions.top[np.arange(len(predictions)), first]
    rows = np.flatnonzero(
        there & likely.any(1) & (looks != predictions.labels) & (predictions.top[:, 0] != predictions.labels)
    )
    margin = own[rows] - predictions.probability[rows, 0]
    rows = rows[np.argsort(margin, kind="stable")]
    given = predictions.probability[rows, first[rows]].astype(np.float64)
    return LabelErrors(rows, looks[rows], given, own[rows])
