"""Predictions are read back as they were written; what is no such table is refused by name."""

import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexnet.errors import BadImage, DataError
from alexnet.evaluation.predictions import read_predictions, write_predictions
from tests.evaluation.test_score import random_answers
from tests.strangers import hole


@pytest.mark.parametrize(("count", "classes"), [(40, 12), (7, 2)])
def test_what_was_written_is_read(tmp_path, count, classes):
    given = replace(random_answers(count, classes), bad={3: BadImage("3.jpg", "broken")})
    write_predictions(tmp_path / "val.parquet", given)
    read = read_predictions(tmp_path / "val.parquet")
    p, k = given.probabilities, min(5, classes)
    assert read.keys == given.keys and read.labels.tolist() == given.labels.tolist() and len(read) == count
    assert read.top.shape == (count, k) and np.array_equal(read.top[:, 0], p.argmax(1))
    assert np.array_equal(read.probability, -np.sort(-p, 1)[:, :k])
    assert np.allclose(read.loss, -np.log(p[np.arange(count), given.labels]))
    assert read.bad.tolist() == [row == 3 for row in range(count)]
    assert np.array_equal(read.right(), given.ranks() < 1) and np.array_equal(read.right(5), given.ranks() < 5)


def test_a_file_that_is_no_such_table_is_named(tmp_path):
    path = tmp_path / "val.parquet"
    with pytest.raises(DataError, match=r"val\.parquet: missing"):
        read_predictions(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"val\.parquet: cannot be read"):
        read_predictions(path)
    write_predictions(path, random_answers(9, 6))
    whole = pq.read_table(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"val\.parquet: cannot be read"):
        read_predictions(path)
    five = pa.FixedSizeListArray.from_arrays(pa.array(np.full(45, -1, np.int32)), 5)
    nan = pa.FixedSizeListArray.from_arrays(pa.array(np.full(45, np.nan, np.float32)), 5)
    four = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(36, np.int32)), 4)
    for name, column in {
        "key": pa.array(range(9)),
        "label": pa.array([0.5] * 9),
        "top5": five,
        "probability": nan,
        "loss": pa.array([None] * 9, pa.float32()),
        "bad": pa.array(["no"] * 9),
    }.items():
        pq.write_table(whole.set_column(whole.schema.get_field_index(name), name, column), path)
        with pytest.raises(DataError, match=r"val\.parquet: cannot be read as predictions"):
            read_predictions(path)
    pq.write_table(whole.set_column(2, "top5", four), path)
    with pytest.raises(DataError, match="go together"):
        read_predictions(path)
    pq.write_table(whole.drop_columns(["loss", "bad"]), path)
    with pytest.raises(DataError, match="no column loss, bad"):
        read_predictions(path)


@pytest.mark.parametrize(("make", "says"), [(os.mkfifo, "not a regular file"), (hole, "more than the limit")])
def test_no_file_is_waited_for_or_fills_the_memory(tmp_path, make, says):
    make(tmp_path / "val.parquet")
    with pytest.raises(DataError, match=rf"val\.parquet: cannot be read as predictions \(.*{says}"):
        read_predictions(tmp_path / "val.parquet")
