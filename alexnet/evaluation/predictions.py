"""What a network said of each picture: a Parquet table, written at the best validation, read by what looks at it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .. import files
from ..errors import DataError
from .score import LEAST, Answers

KEPT: Final = 5  # classes a picture
MOST_ROWS: Final = 20_000_000
MOST_BYTES: Final = 1 << 31  # of a file; so many rows have as much, uncompressed
COLUMNS: Final = ("key", "label", "top5", "probability", "loss", "bad")


@dataclass(frozen=True, eq=False)
class Predictions:
    """Of N pictures: names, true classes `label` (N,), the k likeliest classes `top` (N, k) with their `probability`
    (N, k), likeliest first, the `loss` (N,), -log of the true class's probability, and `bad` (N,): not decoded.
    """

    keys: list[str]
    labels: NDArray[np.int64]
    top: NDArray[np.int64]
    probability: NDArray[np.float32]
    loss: NDArray[np.float32]
    bad: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.keys)

    def right(self, k: int = 1) -> NDArray[np.bool_]:
        """(N,) whether the true class is among the k likeliest; a picture that was not decoded is wrong."""
        return (self.top[:, :k] == self.labels[:, None]).any(1) & ~self.bad


def write_predictions(path: Path, answers: Answers) -> None:
    """key, label, the five likeliest classes and their probabilities, loss, bad: a Parquet table, written whole."""
    p = answers.probabilities
    k = min(KEPT, p.shape[1])
    order = np.argsort(-p, axis=1, kind="stable")[:, :k].astype(np.int32)
    top = np.take_along_axis(p, order, 1)
    loss = -np.log(np.maximum(p[np.arange(len(p)), np.maximum(answers.labels, 0)], LEAST)).astype(np.float32)
    table = pa.table(
        {
            "key": answers.keys,
            "label": answers.labels.astype(np.int32),
            "top5": pa.FixedSizeListArray.from_arrays(order.reshape(-1), k),
            "probability": pa.FixedSizeListArray.from_arrays(top.reshape(-1), k),
            "loss": loss,
            "bad": [row in answers.bad for row in range(len(p))],
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    path.parent.mkdir(exist_ok=True)  # and no more: a run folder that is gone is not made again
    files.write(path, sink.getvalue().to_pybytes())


def read_predictions(path: Path) -> Predictions:
    """What `write_predictions` wrote. DataError: missing, damaged, or not such a table; it names the file."""
    try:
        with files.bounded(path, MOST_BYTES) as stream, pq.ParquetFile(stream) as stored:
            rows = stored.metadata.num_rows
            if rows > MOST_ROWS:
                raise DataError(f"{path}: {rows:,} rows; at most {MOST_ROWS:,}")
            missing = [name for name in COLUMNS if name not in stored.schema_arrow.names]
            if missing:
                raise DataError(f"{path}: no column {', '.join(missing)}; not what `alexnet` writes")
            table = stored.read(columns=list(COLUMNS))
        made = _of_table(table)
    except FileNotFoundError:
        raise DataError(f"{path}: missing") from None
    except (OSError, ValueError, TypeError, pa.ArrowException) as reason:
        raise DataError(f"{path}: cannot be read as predictions ({str(reason).splitlines()[0][:200]})") from None
    return made


def _of_table(table: pa.Table) -> Predictions:
    """The columns as arrays. ValueError: they are not of their kinds, or their numbers cannot be."""
    keys = table["key"].to_pylist()
    if not all(isinstance(key, str) for key in keys):
        raise ValueError("key: not text")
    labels = _numbers(table["label"], "iu").astype(np.int64)
    loss = _numbers(table["loss"], "f").astype(np.float32)
    bad = _numbers(table["bad"], "b").astype(np.bool_)
    top, probability = _lists(table["top5"], "iu").astype(np.int64), _lists(table["probability"], "f")
    if top.shape != probability.shape or (top.size and (top.min() < 0 or labels.min() < -1)):
        raise ValueError("classes and probabilities that do not go together")
    if not (np.isfinite(loss).all() and np.isfinite(probability).all()):
        raise ValueError("a number that is none")
    return Predictions(keys, labels, top, probability.astype(np.float32), loss, bad)


def _numbers(column: pa.ChunkedArray, kinds: str) -> NDArray[np.generic]:
    """A column (N,) of numbers of one of NumPy's `kinds`. ValueError: of another, or with gaps."""
    values = column.to_numpy()
    if column.null_count or values.dtype.kind not in kinds or values.ndim != 1:
        raise ValueError(f"a column of {column.type}, where it holds others, or gaps")
    return values


def _lists(column: pa.ChunkedArray, kinds: str) -> NDArray[np.generic]:
    """A column of lists of one length: (N, k)."""
    if not pa.types.is_fixed_size_list(column.type) or column.null_count:
        raise ValueError(f"a column of {column.type}, expected lists of one length")
    whole = column.combine_chunks()
    flat = pa.chunked_array([whole.flatten()] if isinstance(whole, pa.Array) else [c.flatten() for c in whole.chunks])
    return _numbers(flat, kinds).reshape(len(column), column.type.list_size)
