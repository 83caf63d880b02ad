"""The log read back: whole lines in their order, and a word for each that is none."""

import json
import os
from pathlib import Path

import pytest

from alexnet.errors import UsageError
from alexnet.look.metrics import read_metrics
from alexnet.weights.run import Run
from tests.strangers import hole

TRAIN = {"step": 10, "epoch": 0.5, "split": "train", "loss": 1.5, "top1": 0.25, "lr": 0.01, "seconds": 2.0}
VAL = {"step": 20, "epoch": 1, "split": "val", "loss": 1.25, "top1": 0.5, "top5": 1.0, "count": 8}
LAYERS = {"step": 1, "epoch": 0.05, "split": "layers", "gradient_norm": {"conv1": 0.1}}


def written(folder, *lines: object, end: str = "\n") -> Run:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text(text + end)
    return Run(folder)


def test_lines_come_back_in_their_order(tmp_path):
    assert read_metrics(written(tmp_path, LAYERS, TRAIN, VAL)) == [LAYERS, TRAIN, VAL]


@pytest.mark.parametrize("cut", [1, 7, len(json.dumps(VAL))])
def test_a_last_line_cut_short_is_left_out(tmp_path, cut):
    assert read_metrics(written(tmp_path, TRAIN, json.dumps(VAL)[:cut], end="")) == [TRAIN]


def test_a_run_without_a_log_has_no_lines(tmp_path):
    assert read_metrics(Run(tmp_path)) == []
    assert read_metrics(written(tmp_path, end="")) == []


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
