"""Predictions are read back as they were written; what is no such table is refused by name."""

import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexnet.errors import BadImage, DataError
from alexnet.evaluation.predictions import Predictions, fitting, read_predictions, write_predictions
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


@pytest.mark.parametrize(
    ("labels", "first", "bad", "says"),
    [
        ([0, 5], [0, 1], [], "of other classes than the run's 5"),
        ([0, 1], [0, 5], [], "of other classes"),
        ([0, -1], [0, 1], [], "of other classes"),
        ([], [], [], "of no picture"),
        ([0, 1], [0, 1], [0, 1], "of no picture"),
    ],
)
def test_answers_of_other_classes_are_refused(labels, first, bad, says, tmp_path):
    count = len(labels)
    given = Predictions(
        [str(i) for i in range(count)], np.array(labels, np.int64), np.array(first, np.int64).reshape(count, 1),
        np.ones((count, 1), np.float32), np.zeros(count, np.float32), np.isin(np.arange(count), bad),
    )  # fmt: skip
    with pytest.raises(DataError, match=rf"run/val\.parquet: {says}"):
        fitting(given, 5, tmp_path / "run" / "val.parquet")
    if count and not bad:
        assert fitting(replace(given, labels=np.array([0, 1]), top=np.array([[4], [0]])), 5, tmp_path).keys == [
            "0",
            "1",
        ]


def test_a_file_is_not_read_that_unfolds_to_more_than_it_holds(tmp_path):
    path = tmp_path / "val.parquet"
    write_predictions(path, random_answers(9, 6))
    whole = pq.read_table(path)

    def refused(column: str, values: pa.Array, says: str, **options) -> None:
        columns = {name: values if name == column else pa.concat_arrays([whole[name].chunk(0)] * (len(values) // 9 + 1))[:len(values)]
                   for name in whole.column_names}  # fmt: skip
        pq.write_table(pa.table(columns), path, **options)
        with pytest.raises(DataError, match=rf"val\.parquet: cannot be read as predictions \(.*{says}"):
            read_predictions(path)

    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(500, np.int32)), pa.array(["x" * 100_000])).cast(
        pa.string()
    )
    refused("key", long, "key: names that are more than the file")
    refused("key", long, "Not yet implemented", use_dictionary=["loss"], column_encoding={"key": "DELTA_BYTE_ARRAY"})
    refused("key", pa.array(["a"] * 9), "compressed by ZSTD, expected SNAPPY", compression="zstd")
    refused("key", pa.array(["a"] * 90_000), "90000 rows in", write_statistics=False)
    refused("top5", pa.array([[]] * 9, pa.list_(pa.int32(), 0)), "top5: expected lists of 1 to 5")
    six = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(54, np.int32)), 6)
    refused("top5", six, "top5: expected lists of 1 to 5")
    refused("label", pa.array([None] * 9, pa.binary(1 << 20)), "label: fixed_size_binary")


def test_a_fault_without_words_is_named_too(tmp_path, monkeypatch):
    write_predictions(tmp_path / "val.parquet", random_answers(9, 6))

    def broken(*given, **options):
        raise pa.ArrowInvalid

    monkeypatch.setattr(pq, "ParquetFile", broken)
    with pytest.raises(DataError, match=r"val\.parquet: cannot be read as predictions \(ArrowInvalid\)"):
        read_predictions(tmp_path / "val.parquet")


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
    with pytest.raises(DataError, match=r"probability: .*\[5\], expected .*\[4\]"):
        read_predictions(path)
    pq.write_table(whole.drop_columns(["loss", "bad"]), path)
    with pytest.raises(DataError, match="no column loss, bad"):
        read_predictions(path)


@pytest.mark.parametrize(("make", "says"), [(os.mkfifo, "not a regular file"), (hole, "more than the limit")])
def test_no_file_is_waited_for_or_fills_the_memory(tmp_path, make, says):
    make(tmp_path / "val.parquet")
    with pytest.raises(DataError, match=rf"val\.parquet: cannot be read as predictions \(.*{says}"):
        read_predictions(tmp_path / "val.parquet")
