"""The log read back: whole lines in their order, and a word for each that is none."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from alexnet.errors import UsageError
from alexnet.look.metrics import Log, read_metrics
from alexnet.weights.run import Run
from tests.strangers import hole

TRAIN = {"step": 10, "epoch": 0.5, "split": "train", "loss": 1.5, "top1": 0.25, "lr": 0.01, "seconds": 2.0}
VAL = {"step": 20, "epoch": 1, "split": "val", "loss": 1.25, "top1": 0.5, "top5": 1.0, "count": 8}
LAYERS = {"step": 1, "epoch": 0.05, "split": "layers", "gradient_norm": {"conv1": 0.1}}


def written(folder, *lines: object, end: str = "\n") -> Run:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text(text + end)
    return Run(folder)


def columns(log: Log, split: str, *names: str) -> list[list[float]]:
    return [log.column(split, name).tolist() for name in names]


def test_numbers_come_back_in_their_order(tmp_path):
    log = read_metrics(written(tmp_path, LAYERS, TRAIN, VAL, TRAIN | {"step": 30, "loss": 1}))
    assert columns(log, "train", "step", "loss") == [[10, 30], [1.5, 1]]
    assert columns(log, "val", *VAL.keys() - {"split"}) == [[VAL[name]] for name in VAL.keys() - {"split"}]
    assert columns(log, "layers", "step", "epoch") == [[1], [0.05]]
    assert [log.count(split) for split in ("train", "val", "layers")] == [2, 1, 1] and len(log) == 4
    assert (log.step, log.epoch) == (30, 0.5)


def test_what_a_line_lacks_is_no_number(tmp_path):
    odd: list[object] = ["2", None, True, float("inf"), float("-inf"), float("nan"), 10**400, [1.0], {"a": 1}]
    log = read_metrics(written(tmp_path, TRAIN, *(TRAIN | {"seconds": value} for value in odd), TRAIN | {"count": 3}))
    seconds = log.column("train", "seconds")
    assert seconds[0] == seconds[-1] == 2.0 and np.isnan(seconds[1:-1]).all()
    late = log.column("train", "count")
    assert np.isnan(late[:-1]).all() and late[-1] == 3
    assert np.isnan(log.column("train", "nothing")).all() and log.column("val", "loss").shape == (0,)


def test_names_that_nobody_reads_take_nothing(tmp_path):
    lines = [TRAIN | {f"name{at}": at} for at in range(2000)]
    run = written(tmp_path, *lines)
    tracemalloc.start()
    log = read_metrics(run)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.isnan(log.column("train", "name7")).all() and most < 1_000_000


def test_a_long_log_takes_eight_bytes_a_number(tmp_path):
    run = written(tmp_path, *(TRAIN | {"step": step} for step in range(20_000)))
    tracemalloc.start()
    log = read_metrics(run)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    numbers = len(TRAIN) - 1
    assert len(log) == 20_000 and held < 1.3 * 8 * numbers * len(log) and most < 1.6 * 8 * numbers * len(log) + 100_000


@pytest.mark.parametrize("cut", [1, 7, len(json.dumps(VAL))])
def test_a_last_line_cut_short_is_left_out(tmp_path, cut):
    assert read_metrics(written(tmp_path, TRAIN, json.dumps(VAL)[:cut], end="")).count("val") == 0
    assert read_metrics(Run(tmp_path)).count("train") == 1


def test_a_run_without_a_log_has_no_lines(tmp_path):
    assert not read_metrics(Run(tmp_path))
    assert not read_metrics(written(tmp_path, end=""))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("\xff", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ("[1]", "split: expected"),
        (json.dumps(TRAIN | {"split": "test"}), "split: expected"),
        (json.dumps(TRAIN | {"split": ["val"]}), "split: expected"),
        (json.dumps({k: v for k, v in TRAIN.items() if k != "lr"}), "lr: expected a finite number"),
        (json.dumps(VAL | {"top1": "0.5"}), "top1: expected a finite number"),
        (json.dumps(VAL | {"step": True}), "step: expected a finite number"),
        (json.dumps(VAL | {"loss": float("nan")}), "loss: expected a finite number"),
        (json.dumps(VAL | {"loss": float("inf")}), "loss: expected a finite number"),
        (json.dumps(VAL | {"epoch": 10**400}), "epoch: expected a finite number"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, line, says):
    with pytest.raises(UsageError) as caught:
        read_metrics(written(tmp_path, TRAIN, line, VAL))
    assert str(caught.value).startswith(f"{tmp_path / 'metrics.jsonl'}: line 2: {says}")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (Path.mkdir, "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (hole, "1,099,511,627,776 bytes, more than"),
    ],
)
def test_a_log_that_cannot_be_read_is_named(tmp_path, make, says):
    make(tmp_path / "metrics.jsonl")
    with pytest.raises(UsageError, match=rf"metrics\.jsonl: cannot be read \({says}"):
        read_metrics(Run(tmp_path))
