"""A clock that is set back and forth while a network learns changes nothing that is learned, and no duration."""

import io
import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from alexnet.training import loop, start
from alexnet.training.start import Asked
from tests.pictures import write_folder

YEAR = 365 * 24 * 3600.0


@pytest.fixture
def leaping(monkeypatch):
    """A wall clock that is a year ahead or behind, another way at each look; the times of files with it."""
    leap, ordinary, replacing = random.Random(0), time.time, Path.replace

    def stamped(path: Path, target: Path) -> Path:
        when = ordinary() + leap.choice((-YEAR, YEAR))
        os.utime(path, (when, when))
        return replacing(path, target)

    def leaps() -> None:
        monkeypatch.setattr(time, "time", lambda: ordinary() + leap.choice((-YEAR, YEAR)))
        monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * (ordinary() + leap.choice((-YEAR, YEAR)))))
        monkeypatch.setattr(Path, "replace", stamped)

    return leaps


def weights(run: Path) -> bytes:
    return (run / "checkpoints" / (run / "last").read_text().strip() / "model.safetensors").read_bytes()


def test_a_year_back_and_forth(tmp_path, monkeypatch, leaping):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    pictures, said = write_folder(tmp_path / "pictures", classes=2, each=15), io.StringIO()
    asked = Asked(
        data=str(pictures), run=str(tmp_path / "straight"), variant="tiny", kernels="plain", batch_size=6, epochs=2,
        workers=2, precision="fp32", save_every=2,
    )  # fmt: skip
    start.train(asked, Console(file=io.StringIO()))
    leaping()
    leapt = replace(asked, run=str(tmp_path / "leapt"))
    ordinary = loop.step

    def stopping(job, *given, number, **more):
        if number == 3:  # in the middle
            signal.raise_signal(signal.SIGTERM)
        return ordinary(job, *given, number=number, **more)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", stopping)
        with pytest.raises(start.Stopped):
            start.train(leapt, Console(file=said))
    assert 0 < int((tmp_path / "leapt" / "last").read_text().strip()[5:13]) < 8
    result = start.train(leapt, Console(file=said, width=200))
    assert result["last"]["step"] == 8 and 0 < result["seconds"] < 600 and result["images_per_second"] > 0
    assert weights(tmp_path / "leapt") == weights(tmp_path / "straight")
    records = [json.loads(line) for line in (tmp_path / "leapt" / "metrics.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in records]
    assert steps == sorted(steps) and max(steps) == 8
    durations = {name: value for record in records for name, value in record.items() if "second" in name}
    assert len(durations) >= 5 and all(0 <= value < 1e6 for value in durations.values())
    assert not any(word.startswith("-") and word[1:2].isdigit() for word in said.getvalue().split())
    assert start.train(leapt, Console(file=said))["last"]["step"] == 8  # what stands is found, whatever its time


def test_a_length_of_time_is_not_the_wall_clocks(tmp_path, monkeypatch, leaping):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    pictures = write_folder(tmp_path / "pictures", classes=2, each=12)
    leaping()
    asked = Asked(data=str(pictures), run=str(tmp_path / "run"), variant="tiny", kernels="plain", batch_size=6, workers=1,
                  precision="fp32", max_time=1.0)  # fmt: skip
    begin = time.monotonic()
    result = start.train(asked, Console(file=io.StringIO()))
    assert result["last"]["step"] >= 1 and time.monotonic() - begin < 60
