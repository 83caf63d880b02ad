"""Two representations of the same pictures, or two networks' answers to them, side by side."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.loader import BadImages
from ..data.samples import Samples
from ..data.sources import open_held_out
from ..errors import DataError, UsageError, none_decoded
from ..weights.run import Loaded, is_run, open_run
from .feature_files import NPY, Features, beside, is_features
from .judge import answered, check_sizes, known, own_samples
from .paired import mcnemar
from .score import wilson

Dissimilarity = Literal["correlation", "euclidean", "cosine"]
DISSIMILARITIES: tuple[Dissimilarity, ...] = get_args(Dissimilarity)
BLOCK = 1 << 22  # float64 values at a time
NONE = 1e-12  # of a row's squares: what is no more than this is rounding
LEAST_PICTURES = 3  # of two there is one dissimilarity, which correlates with nothing
MOST_PICTURES = 5000  # of which a layer's products, and its dissimilarities, are 200 MB each


@dataclass(frozen=True)
class Gram:
    """All that the comparisons need of rows (N, D): their inner products, float64 (N, N), their means (N,), and D."""

    products: NDArray[np.float64]
    means: NDArray[np.float64]
    values: int

    def centred(self) -> NDArray[np.float64]:
        """The inner products (N, N) when each column has its mean taken off."""
        down = self.products.mean(0)
        return self.products - down - down[:, None] + down.mean()

    def rdm(self, metric: Dissimilarity) -> NDArray[np.float64]:
        """The representational dissimilarity matrix's upper triangle, row by row: (N (N - 1) / 2,).

        "correlation": 1 - Pearson's r of two rows (Kriegeskorte, Mur and Bandettini 2008); "euclidean"; "cosine", which
        is 1 - cos. ValueError, with the row, where a row is constant, or for cosine zero: it correlates with none.
        """
        products = self.products
        if metric == "correlation":
            products = products - self.values * np.outer(self.means, self.means)
        squares = np.diag(products)
        upper = np.triu_indices(len(products), 1)
        if metric == "euclidean":
            return np.sqrt(np.maximum(0, squares[upper[0]] + squares[upper[1]] - 2 * products[upper]))
        empty = np.flatnonzero(squares <= NONE * np.diag(self.products))
        if len(empty):
            raise ValueError(int(empty[0]))
        lengths = np.sqrt(squares)
        return 1 - products[upper] / (lengths[upper[0]] * lengths[upper[1]])


def gram(values: NDArray[Any], rows: NDArray[np.int64]) -> Gram:
    """Of these rows of (N, D), a block of columns at a time."""
    step = max(1, BLOCK // max(1, len(rows)))
    products, sums = np.zeros((len(rows), len(rows))), np.zeros(len(rows))
    with np.errstate(invalid="ignore"):  # what is not finite is found in the products
        for i in range(0, values.shape[1], step):
            block = values[:, i : i + step][rows].astype(np.float64)
            products += block @ block.T
            sums += block.sum(1)
    return Gram(products, sums / values.shape[1], values.shape[1])


def pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Pearson's r of two lists (M,), of which none is constant."""
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b) / (math.sqrt(float(a @ a)) * math.sqrt(float(b @ b)))


def cka(a: Gram, b: Gram) -> float:
    """Linear centred kernel alignment of two representations of the same rows (Kornblith et al. 2019), 0..1."""
    k, l = a.centred(), b.centred()  # noqa: E741 the paper's names
    return float((k * l).sum()) / math.sqrt(float((k * k).sum())) / math.sqrt(float((l * l).sum()))


def compare_features(
    a: Features,
    b: Features,
    *,
    layers: Sequence[str] | None = None,
    metric: Dissimilarity = "correlation",
    pictures: int = 1000,
) -> dict[str, Any]:
    """Each layer of one file beside each of another, over the pictures that both have, matched by key.

    Of more than `pictures` these are taken evenly. The document of `compare --json`. UsageError: a layer that neither
    has, a number out of range. DataError: fewer than three pictures in both; a picture that correlates with none, or
    whose values are not finite.
    """
    if metric not in DISSIMILARITIES:
        raise UsageError(f"--metric {metric}: unknown; known are {', '.join(DISSIMILARITIES)}")
    if not LEAST_PICTURES <= pictures <= MOST_PICTURES:
        raise UsageError(f"--pictures {pictures}: must be at least {LEAST_PICTURES} and at most {MOST_PICTURES}")
    for layer in layers or ():
        if layer not in a.values and layer not in b.values:
            raise UsageError(f"--layers {layer}: in neither; {a.where} holds {', '.join(a.values)}, {b.where} "
                             f"{', '.join(b.values)}")  # fmt: skip
    there = {key: row for row, key in enumerate(b.keys)}
    both = [(row, there[key]) for row, key in enumerate(a.keys) if key in there]
    if len(both) < LEAST_PICTURES:
        raise DataError(f"{a.where} and {b.where}: {len(both)} pictures of the same name in both, of {len(a)} and "
                        f"{len(b)}; {LEAST_PICTURES} are needed")  # fmt: skip
    chosen = np.unique(np.linspace(0, len(both) - 1, min(pictures, len(both))).astype(np.int64))
    rows = np.array(both)[chosen]

    def looked_at(features: Features, rows: NDArray[np.int64]) -> dict[str, Any]:
        from scipy.stats import rankdata  # a second to import

        found: dict[str, Any] = {}
        for name in features.values:
            if layers is not None and name not in layers and not set(layers).isdisjoint(features.values):
                continue
            g = gram(features.matrix(name), rows)
            features.check_finite(name, np.diag(g.products)[:, None], rows)
            if np.trace(g.centred()) <= NONE * np.trace(g.products):
                raise DataError(f"{features.where}: {name}: all {len(rows)} pictures have the same values")
            try:
                triangle = g.rdm(metric)
            except ValueError as row:
                key = features.keys[int(rows[row.args[0]])]
                raise DataError(f"{features.where}: {name}: all values of {key} are alike, so that it has no {metric} "
                                f"with others; --metric euclidean has one") from None  # fmt: skip
            if not np.ptp(triangle):
                raise DataError(f"{features.where}: {name}: all pictures are as unlike as any two of them, which "
                                f"correlates with nothing")  # fmt: skip
            found[name] = g, triangle, rankdata(triangle)
        return found

    here, other = looked_at(a, rows[:, 0]), looked_at(b, rows[:, 1])
    return {
        "a": a.where,
        "b": b.where,
        "common": len(both),
        "count": len(rows),
        "metric": metric,
        "layers": [
            {
                "a": one,
                "b": another,
                "rdm_pearson": pearson(here[one][1], other[another][1]),
                "rdm_spearman": pearson(here[one][2], other[another][2]),
                "cka": cka(here[one][0], other[another][0]),
            }
            for one in here
            for another in other
        ],
    }


def held_out_of_both(a: Loaded, b: Loaded, data: str | None) -> tuple[Samples, str]:
    """The pictures that two runs may be compared on, and what they are to them: "held out", or "others".

    Those of `data`, or that `a` held out, or `b` where `a` knows none; of these, of each run that drew some to hold
    out, these only. UsageError: a run that was trained on them, or holds out other ones.
    """
    given = open_held_out(data) if data is not None else own_samples(b if a.data is None else a)
    knowing = [loaded for loaded in (a, b) if loaded.data is not None]
    told = [known(given, loaded) for loaded in knowing]
    kept = [set(part.keys()) for _, part in told]
    samples = given.take([row for row, key in enumerate(given.keys()) if all(key in keys for keys in kept)])
    for loaded, (found, _) in zip(knowing, told, strict=True):
        # what one holds out may be what the other was trained on, and no more
        trained = "trained on" in (found, known(samples, loaded)[0])
        if trained or (found == "others" and data is None):
            did = "was trained on these pictures" if trained else "holds out other pictures"
            raise UsageError(f"{loaded.where}: {did}; name --data that neither has seen")
    judged = "held out" if knowing and all(found == "held out" for found, _ in told) else "others"
    return samples, judged


def compare_runs(
    first: str,
    second: str,
    *,
    data: str | None = None,
    views: int = 1,
    batch_size: int = 64,
    device: torch.device | None = None,
    threads: int = 2,
    bad_images: BadImages = "error",
    seed: int = 0,
    variant: str | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Two runs on the pictures that both held out, or on `data`: the document of `compare --json`, and what to know.

    McNemar's test, how often their first classes agree, and the pictures that only one gets right. With `bad_images`
    "skip" a picture that cannot be decoded counts as wrong, and neither as agreement nor against it. DataError: there
    is no picture, or none can be decoded.
    """
    check_sizes(views=views, batch_size=batch_size, threads=threads)
    a = open_run(first, seed=seed, named=variant)
    b = open_run(second, seed=seed, classes=a.classes, named=variant)
    samples, pictures = held_out_of_both(a, b, data)
    count = len(samples)
    if not count:
        raise DataError("there is no picture to compare on")
    for loaded in (a, b):
        loaded.name_classes(samples.classes)
    samples = samples.as_classes(a.classes, data or first, partial=True)
    said = [
        answered(loaded, samples, where, views=views, batch_size=batch_size, device=device or torch.device("cpu"),
                 backend="torch", precision="fp32", threads=threads, bad_images=bad_images)[1]
        for loaded, where in ((a, first), (b, second))
    ]  # fmt: skip
    bad = said[0].bad | said[1].bad
    if len(bad) == count:
        raise none_decoded(count, next(iter(bad.values())))
    right = [answers.ranks() < 1 for answers in said]
    pair = mcnemar(*right)
    alike = said[0].probabilities.argmax(1) == said[1].probabilities.argmax(1)
    alike[list(bad)] = False  # of these nothing was said
    keys = np.array(said[0].keys, object)
    document = {
        **{
            name: {"run": where, "top1": int(hits.sum()) / count, "top1_interval": list(wilson(int(hits.sum()), count))}
            for name, where, hits in (("a", first, right[0]), ("b", second, right[1]))
        },
        "pictures": pictures,
        "count": count,
        "views": views,
        "bad_images": len(bad),
        "agreement": int(alike.sum()) / (count - len(bad)),
        **asdict(pair),
        "only_first_right": keys[right[0] & ~right[1]].tolist(),
        "only_second_right": keys[right[1] & ~right[0]].tolist(),
    }
    return document, [*a.notes, *b.notes]


def kind_of_pair(a: str, b: str) -> Literal["features", "runs"]:
    """What two names are. UsageError: one of each, or neither."""
    kinds = []
    for where in (a, b):
        path = Path(where)
        alone = path.suffix.lower() == NPY and not beside(path).is_file()  # another program's weights may be an .npy
        if is_features(path) and path.is_file() and not alone:
            kinds.append("features")
        elif is_run(where):
            kinds.append("runs")
        else:
            raise UsageError(f"{where}: neither a file of features that is there nor a run")
    if kinds[0] != kinds[1]:
        raise UsageError(f"{a} and {b}: a file of features and a run; two of one kind can be compared")
    return "features" if kinds[0] == "features" else "runs"
