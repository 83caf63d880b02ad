"""The pictures whose features lie nearest, found exactly: matrix products, a block at a time."""

from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

Metric = Literal["euclidean", "cosine"]
METRICS: tuple[Metric, ...] = get_args(Metric)
BLOCK = 1 << 23  # float64 values at a time, 64 MiB
WITHIN = 1e-12  # of the squares that a distance is the difference of: what their sums are off by, and more


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
    if metric not in METRICS:
        raise UsageError(f"--metric {metric}: unknown; known are {', '.join(METRICS)}")
    if k < 1:
        raise UsageError(f"-k {k}: must be at least 1")
    indices, distances = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0))
    begin = 0
    for block in _parts(blocks):
        if block.shape[1:] != queries.shape[1:]:
            raise UsageError(f"features of {block.shape[1:]} to search, of {queries.shape[1:]} to search for")
        found = np.empty((len(queries), min(k, len(block))), np.int64), np.empty((len(queries), min(k, len(block))))
        rows = _rows(block, metric)
        step = max(1, BLOCK // max(rows.shape))
        for i in range(0, len(queries), step):
            part = slice(i, i + step)
            found[0][part], found[1][part] = _nearest(_rows(queries[part], metric), rows, k, metric)
        indices, distances = np.hstack([indices, found[0] + begin]), np.hstack([distances, found[1]])
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]  # what came earlier has the lower index
        indices, distances = np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)
        begin += len(block)
    return indices, distances.astype(np.float32)


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
    queries: NDArray[np.float64], rows: NDArray[np.float64], k: int, metric: Metric
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k nearest of some rows: a matrix product says which it may be, their own differences which it is."""
    k = min(k, len(rows))
    squares = np.einsum("ij,ij->i", rows, rows)
    product = queries @ rows.T
    indices, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
    for q, query in enumerate(queries):
        own = float(query @ query)
        rough = own + squares - 2 * product[q] if metric == "euclidean" else 1 - product[q]
        # the sums that a distance is the difference of are off by some last bits; equal rows must come out equal
        near = np.flatnonzero(rough <= np.partition(rough, k - 1)[k - 1] + WITHIN * (own + squares.max() + 1e-300))
        if metric == "euclidean":
            exact = np.linalg.norm(rows[near] - query, axis=1)
        else:
            exact = np.maximum(0, 1 - (rows[near] * query).sum(1))
        order = np.argsort(exact, kind="stable")[:k]
        indices[q], distances[q] = near[order], exact[order]
    return indices, distances
