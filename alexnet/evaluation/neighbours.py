"""The pictures whose features lie nearest, found exactly: matrix products, a block at a time."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.loader import BadImages
from ..data.samples import UNLABELLED, Samples, shown
from ..errors import BadImage, UsageError
from ..weights.run import Loaded
from .feature_files import Features
from .features import activations, digest, gather, layer_form, nothing_of, preparation

Metric = Literal["euclidean", "cosine"]
METRICS: tuple[Metric, ...] = get_args(Metric)
Index = Literal["exact", "faiss"]
INDICES: tuple[Index, ...] = get_args(Index)
LAYER = "fc7"
BLOCK = 1 << 23  # float64 values at a time, 64 MiB
WITHIN = 1e-12  # of the squares that a distance is the difference of: what their sums are off by, and more
TINY = 1e-300


def nearest(
    queries: NDArray[np.float32], among: NDArray[np.float32], *, k: int, metric: Metric = "euclidean"
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows (Q, D) and (N, D) -> the k nearest rows of `among` to each query: indices and distances (Q, k).

    The nearest comes first, of rows equally near the lower index; where N < k there are N. A cosine distance is
    1 - cos, and 1 where a row is all zeros. UsageError: rows of other lengths, an unknown metric, k below 1.
    """
    step = max(1, BLOCK // max(1, among.shape[1]))
    return nearest_of(queries, (among[i : i + step] for i in range(0, len(among), step)), k=k, metric=metric)


def nearest_of(
    queries: NDArray[np.float32], blocks: Iterable[NDArray[np.float32]], *, k: int, metric: Metric = "euclidean"
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """As `nearest`, of rows that come in blocks (n, D), each of which is forgotten after it was looked at."""
    check_search(k=k, metric=metric)
    indices, distances = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0))
    begin = 0
    for block in _parts(blocks):
        if block.shape[1:] != queries.shape[1:]:
            raise UsageError(f"features of {block.shape[1:]} to search, of {queries.shape[1:]} to search for")
        # the k-th so far: what is farther need not be looked at closely
        most = distances[:, -1] if distances.shape[1] == k else np.full(len(queries), np.inf)
        found = np.empty((len(queries), min(k, len(block))), np.int64), np.empty((len(queries), min(k, len(block))))
        rows = _rows(block, metric)
        step = max(1, BLOCK // max(rows.shape))
        for i in range(0, len(queries), step):
            part = slice(i, i + step)
            found[0][part], found[1][part] = _nearest(_rows(queries[part], metric), rows, most[part], k, metric)
        indices, distances = np.hstack([indices, found[0] + begin]), np.hstack([distances, found[1]])
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]  # what came earlier has the lower index
        indices, distances = np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)
        begin += len(block)
    return indices, distances.astype(np.float32)


def check_search(*, k: int, metric: Metric = "euclidean") -> None:
    """UsageError: an unknown metric, k below 1."""
    if metric not in METRICS:
        raise UsageError(f"--metric {metric}: unknown; known are {', '.join(METRICS)}")
    if k < 1:
        raise UsageError(f"-k {k}: must be at least 1")


def _parts(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    for block in blocks:
        step = max(1, BLOCK // max(1, block.shape[1]))
        for i in range(0, len(block), step):
            yield block[i : i + step]


def _rows(values: NDArray[np.float32], metric: Metric) -> NDArray[np.float64]:
    """The rows as float64, for cosine of length 1; a row of zeros stays one."""
    rows = np.asarray(values, np.float64)
    if metric == "euclidean":
        return rows
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths == 0, 1, lengths)


def _nearest(
    queries: NDArray[np.float64], rows: NDArray[np.float64], most: NDArray[np.float64], k: int, metric: Metric
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k nearest of some rows, no farther than `most`: a matrix product says which it may be, their own differences
    which it is. Where they are fewer the rest is infinitely far.
    """
    k = min(k, len(rows))
    squares = np.einsum("ij,ij->i", rows, rows)
    product = queries @ rows.T
    indices, distances = np.zeros((len(queries), k), np.int64), np.full((len(queries), k), np.inf)
    for q, query in enumerate(queries):
        own = float(query @ query)
        rough = own + squares - 2 * product[q] if metric == "euclidean" else 1 - product[q]
        known = float(most[q]) ** 2 if metric == "euclidean" else float(most[q])
        # the sums that a distance is the difference of are off by some last bits; equal rows must come out equal
        bound = min(known, float(np.partition(rough, k - 1)[k - 1])) + WITHIN * (own + float(squares.max()) + TINY)
        near = np.flatnonzero(rough <= bound)
        if metric == "euclidean":
            exact = np.linalg.norm(rows[near] - query, axis=1)
        else:
            exact = np.maximum(0, 1 - (rows[near] * query).sum(1))
        order = np.argsort(exact, kind="stable")[:k]
        indices[q, : len(order)], distances[q, : len(order)] = near[order], exact[order]
    return indices, distances


def faiss_nearest_of(
    queries: NDArray[np.float32], blocks: Iterable[NDArray[np.float32]], *, k: int, metric: Metric = "euclidean"
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """As `nearest_of`, by an exact index of faiss, which is made here and keeps all blocks in memory, in float32.

    Of rows equally near, which comes first is faiss's. UsageError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise UsageError("faiss is not installed (pip install 'alexnet[faiss]')") from None
    index: Any = None
    for block in _parts(blocks):
        rows = _rows(block, metric).astype(np.float32)
        if index is None:
            index = faiss.IndexFlatL2(rows.shape[1]) if metric == "euclidean" else faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
    if index is None:
        return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    distances, indices = index.search(_rows(queries, metric).astype(np.float32), min(k, index.ntotal))
    found = np.sqrt(np.maximum(distances, 0)) if metric == "euclidean" else np.maximum(0, 1 - distances)
    return indices.astype(np.int64), found.astype(np.float32)


SEARCHES: dict[Index, Callable[..., tuple[NDArray[np.int64], NDArray[np.float32]]]] = {
    "exact": nearest_of,
    "faiss": faiss_nearest_of,
}


@dataclass(frozen=True)
class Neighbour:
    """A picture that was found: its path or key, its class in words where it has one, and how far it is."""

    path: str
    label: str | None
    distance: float


def neighbours(
    loaded: Loaded,
    queries: Samples,
    among: Features | Samples,
    *,
    layer: str | None = None,
    k: int = 6,
    metric: Metric = "euclidean",
    index: Index = "exact",
    batch_size: int = 64,
    device: torch.device | None = None,
    threads: int = 2,
    bad_images: BadImages = "error",
) -> tuple[list[tuple[str, list[Neighbour]]], list[BadImage]]:
    """For each query its key and the k nearest pictures, nearest first; and the pictures that could not be decoded.

    `among`: features of the same network, or pictures whose features are computed, and forgotten, here. `layer`: the
    only one of a file of features, else fc7. UsageError: features of another network or preparation, or without the
    layer. A bad query is a BadImage, and one of `among` unless `bad_images` is "skip". DataError: none of `among` can
    be decoded, or the features of one are not finite.
    """
    if index not in INDICES:
        raise UsageError(f"--index {index}: unknown; known are {', '.join(INDICES)}")
    check_search(k=k, metric=metric)
    name = chosen = layer or LAYER
    if isinstance(among, Features):
        name, chosen = _layer_of(among, layer, loaded)
    views = among.about.views if isinstance(among, Features) else 1
    asked = gather(loaded, queries, [chosen], views=views, mean=True, batch_size=batch_size, device=device,
                   threads=threads)  # fmt: skip
    bad = list[BadImage]()
    if isinstance(among, Features):
        rows, distances = SEARCHES[index](asked.matrix(chosen), _kept(among, name), k=k, metric=metric)
    else:
        rows, distances, bad = nearest_rows(loaded, asked.matrix(chosen), among, layer=chosen, k=k, metric=metric,
                                            index=index, batch_size=batch_size, device=device, threads=threads,
                                            bad_images=bad_images)  # fmt: skip

    def named(row: int) -> tuple[str, str | None]:
        label, words = int(among.labels[row] if isinstance(among, Features) else among.label[row]), among.classes.words
        path = among.keys[row] if isinstance(among, Features) else shown(str(among.path(row)))
        return path, None if label == UNLABELLED else words[label]

    found = [
        (key, [Neighbour(*named(int(row)), float(d)) for row, d in zip(near, far, strict=True)])
        for key, near, far in zip(asked.keys, rows, distances, strict=True)
    ]
    return found, bad


def nearest_rows(
    loaded: Loaded,
    queries: NDArray[np.float32],
    among: Samples,
    *,
    layer: str,
    k: int,
    metric: Metric = "euclidean",
    index: Index = "exact",
    batch_size: int = 64,
    device: torch.device | None = None,
    threads: int = 2,
    bad_images: BadImages = "error",
) -> tuple[NDArray[np.int64], NDArray[np.float32], list[BadImage]]:
    """Features (Q, D) of a layer -> the rows of the k nearest pictures (Q, k) and their distances, as `nearest` has
    them; and the pictures that could not be decoded.

    BadImage: the first of these, unless `bad_images` is "skip". DataError: none could be.
    """
    rows, bad = list[int](), list[BadImage]()

    def computed() -> Iterator[NDArray[np.float32]]:
        for one in activations(loaded, among, [layer], batch_size=batch_size, device=device, threads=threads,
                               bad_images=bad_images):  # fmt: skip
            rows.extend(one.rows.tolist())
            bad.extend(reason for _, reason in one.bad)
            if len(one.rows):
                yield one.values[layer].reshape(len(one.rows), -1).numpy()

    try:
        at, distances = SEARCHES[index](queries, computed(), k=k, metric=metric)
    except BadImage as reason:
        raise reason.with_hint() from reason
    if not rows:
        raise nothing_of(among, *bad[:1])
    return np.array(rows)[at], distances, bad


def _kept(features: Features, layer: str) -> Iterator[NDArray[np.float32]]:
    """The rows of a file's layer, a block at a time, each looked at before it is used."""
    begin = 0
    for block in _parts([features.matrix(layer)]):
        features.check_finite(layer, block, range(begin, begin + len(block)))
        yield block
        begin += len(block)


def _layer_of(features: Features, layer: str | None, loaded: Loaded) -> tuple[str, str]:
    """The layer to search in, as the file calls it and as the table does."""
    said = features.about
    if (said.network, said.preprocess) != (digest(loaded), preparation(loaded)):
        raise UsageError(
            f"{features.where}: features of another network or preparation ({said.run}) than {loaded.where}"
        )
    if layer is None and len(said.layers) == 1:
        layer = next(iter(said.layers))
    ours = layer_form(layer or LAYER, loaded.model.variant)
    for name, there in said.layers.items():
        if there == ours and name in features.values:
            return name, ours
    raise UsageError(f"{features.where}: holds no layer {layer or LAYER}; it holds {', '.join(said.layers)} (--layer)")
