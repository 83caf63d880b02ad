"""How much of the classes a layer tells: the nearest neighbours' vote, and a linear classifier, on features."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ..data.samples import UNLABELLED
from ..data.sources import held_out
from ..errors import DataError, UsageError
from .feature_files import Features
from .score import wilson

MOST_VALUES = 10_000  # a picture: larger maps are averaged over areas (Zhang, Isola and Efros 2016 have about 9,000)
MOST_STEPS = 1000  # of the solver
AT_A_TIME = 256  # pictures


def pooled(values: NDArray[Any]) -> NDArray[np.float32]:
    """Maps (N, C, H, W) of more than `MOST_VALUES` -> (N, C, s, s), the largest s of no more, each an area's mean.

    Other values come out as they are.
    """
    channels, *sides = values.shape[1:]
    side = max(1, int((MOST_VALUES / channels) ** 0.5))
    small = sides and values[0].size > MOST_VALUES and side < sides[0]
    out = np.empty((len(values), channels, side, side) if small else values.shape, np.float32)
    for i in range(0, len(values), AT_A_TIME):
        block = np.array(values[i : i + AT_A_TIME], np.float32)
        out[i : i + AT_A_TIME] = F.adaptive_avg_pool2d(torch.from_numpy(block), side).numpy() if small else block
    return out


def probe(
    train: Features,
    test: Features | None = None,
    *,
    layers: Sequence[str] | None = None,
    k: int = 5,
    fraction: float = 0.2,
    seed: int = 0,
) -> dict[str, Any]:
    """The accuracy of k-NN and of logistic regression on each layer: the document of `probe --json`.

    Trained on `train` and judged on `test`; without it `fraction` of each class of `train` is held out, drawn as
    `data/sources.py` draws. Every value is brought to mean 0 and variance 1 over the pictures trained on. UsageError: a
    number out of range, a layer that is not in both. DataError: pictures without labels, or whose values are not
    finite, a class that `train` lacks.
    """
    for features in (train, *([test] if test is not None else [])):
        if (features.labels == UNLABELLED).any():
            raise DataError(f"{features.where}: pictures without labels; a probe needs them")
    names = list(layers or train.values)
    for name in names:
        for features in (train, test or train):
            if name not in features.values:
                raise UsageError(f"{features.where}: holds no layer {name}; it holds {', '.join(features.values)}")
    split: dict[str, Any] = {"val_fraction": fraction, "seed": seed}
    if test is None:
        counts = np.bincount(train.labels, minlength=len(train.classes))
        chosen = held_out(train.keys, train.labels, counts, fraction=fraction, seed=seed)
        there, here = train.labels[~chosen], train.labels[chosen]
    else:
        chosen, there = np.zeros(len(train), bool), train.labels
        here = train.classes.match(test.classes, test.where, partial=True)[test.labels]
        split = {"train": train.where, "test": test.where}
    if not len(here):
        raise DataError(f"{train.where}: too few pictures to hold some out")
    if len(np.unique(there)) < 2:
        raise DataError(f"{train.where}: pictures of one class only; a probe needs two or more")
    if not 1 <= k <= len(there):
        raise UsageError(f"-k {k}: must be at least 1 and at most the {len(there)} pictures trained on")
    shared = len(set(train.keys) & set(test.keys)) if test is not None else 0
    commonest = int((here == np.bincount(there).argmax()).sum())
    rows = []
    for name in names:
        single = train.single(name)
        values = pooled(single)
        train.check_finite(name, values, range(len(train)))
        other = values[chosen]
        if test is not None:
            other = pooled(test.single(name))
            test.check_finite(name, other, range(len(test)))
        rows.append({"layer": name, "shape": list(single.shape[1:]), "probed": list(values.shape[1:]),
                     **_judged(values[~chosen], there, other, here, k)})  # fmt: skip
    return {
        "split": split, "train": len(there), "test": len(here), "shared_names": shared,
        "classes": len(np.unique(there)), "k": k, "commonest": commonest / len(here), "layers": rows,
    }  # fmt: skip


def _judged(
    train: NDArray[np.float32], there: NDArray[np.int64], test: NDArray[np.float32], here: NDArray[np.int64], k: int
) -> dict[str, Any]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train.reshape(len(train), -1))
    x, y = scaler.transform(train.reshape(len(train), -1)), scaler.transform(test.reshape(len(test), -1))
    near = KNeighborsClassifier(k).fit(x, there)
    linear = LogisticRegression(max_iter=MOST_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is said in the result
        linear.fit(x, there)
    found: dict[str, Any] = {}
    for name, model in (("knn", near), ("linear", linear)):
        correct = int((model.predict(y) == here).sum())
        found[name] = {"top1": correct / len(here), "top1_interval": list(wilson(correct, len(here)))}
    found["linear"]["converged"] = bool((np.asarray(linear.n_iter_) < MOST_STEPS).all())
    return found
