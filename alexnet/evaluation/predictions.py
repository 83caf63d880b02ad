"""What a network said of each picture: a Parquet table, written at the best validation, read by what looks at it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .. import files
from ..errors import DataError, one_line
from .feature_files import KEY, NAMES, check_table, names_of
from .score import LEAST, Answers

KEPT: Final = 5  # classes a picture
MOST_ROWS: Final = 20_000_000
MOST_BYTES: Final = 1 << 31  # of a file; so many rows have as much, uncompressed
PACKED: Final = 32  # letters that Snappy makes of a byte, and more
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
        with files.bounded(path, MOST_BYTES) as stream, pq.ParquetFile(stream, read_dictionary=[KEY]) as stored:
            size = path.stat().st_size
            rows = stored.metadata.num_rows
            if rows > MOST_ROWS:
                raise DataError(f"{path}: {rows:,} rows; at most {MOST_ROWS:,}")
            missing = [name for name in COLUMNS if name not in stored.schema_arrow.names]
            if missing:
                raise DataError(f"{path}: no column {', '.join(missing)}; not what `alexnet` writes")
            k = getattr(stored.schema_arrow.field("top5").type, "list_size", 0)
            if not 0 < k <= KEPT:
                raise ValueError(f"top5: expected lists of 1 to {KEPT}")
            kinds = {KEY: NAMES, "label": pa.int32(), "top5": pa.list_(pa.int32(), k),
                     "probability": pa.list_(pa.float32(), k), "loss": pa.float32(), "bad": pa.bool_()}  # fmt: skip
            check_table(stored, size, kinds, codec="SNAPPY")
            made = _of_table(stored.read(columns=list(COLUMNS)), k, PACKED * size)
    except FileNotFoundError:
        raise DataError(f"{path}: missing") from None
    except (OSError, ValueError, TypeError, pa.ArrowException) as reason:
        raise DataError(f"{path}: cannot be read as predictions ({one_line(reason)})") from None
    return made


def _of_table(table: pa.Table, k: int, most: int) -> Predictions:
    """The columns as arrays. ValueError: their numbers cannot be, or the names have more than `most` letters."""
    if any(column.null_count for column in table.columns):
        raise ValueError("columns with gaps")
    labels, loss, bad = (table[name].to_numpy() for name in ("label", "loss", "bad"))
    top, probability = (_flat(table[name]).reshape(len(table), k) for name in ("top5", "probability"))
    if top.size and (top.min() < 0 or labels.min() < -1):
        raise ValueError("classes that are none")
    if not (np.isfinite(loss).all() and np.isfinite(probability).all()):
        raise ValueError("a number that is none")
    return Predictions(
        names_of(table[KEY], most),
        labels.astype(np.int64),
        top.astype(np.int64),
        probability.astype(np.float32),
        loss,
        bad,
    )


def _flat(column: pa.ChunkedArray) -> NDArray[np.generic]:
    """The numbers of a column of lists, one behind the other. ValueError: one is missing."""
    flat = pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
    if flat.null_count:
        raise ValueError("lists with gaps")
    return flat.to_numpy()


def fitting(predictions: Predictions, classes: int, path: Path) -> Predictions:
    """The predictions of `path`. DataError: they are of no picture, or of other than so many classes."""
    if not len(predictions) or predictions.bad.all():
        raise DataError(f"{path}: of no picture")
    if predictions.top.max() >= classes or not 0 <= predictions.labels.min() <= predictions.labels.max() < classes:
        raise DataError(f"{path}: of other classes than the run's {classes}")
    return predictions
