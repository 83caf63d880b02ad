"""The page of a run that trains: written as it goes and at its end, and nothing to the numbers."""

import signal
from pathlib import Path

import pytest

from alexnet.errors import Stopped
from alexnet.look import report
from alexnet.training import loop, start
from alexnet.weights.run import Run
from tests.pictures import write_folder
from tests.training.test_train import asked, digest, lines, quiet


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures"), classes=3, each=24)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))


def test_a_training_ends_in_a_page(pictures, tmp_path):
    result = start.train(asked(pictures, tmp_path / "run"), quiet())
    page = tmp_path / "run" / "report.html"
    assert result["report"] == str(page)
    assert page.read_bytes() == report.report([Run(tmp_path / "run")]).content, "its folder tells another story"
    assert b"data:image" in page.read_bytes() and b"/9j/" in page.read_bytes(), "no picture is in it"
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_a_training_without_a_validation_says_so(pictures, tmp_path):
    start.train(asked(pictures, tmp_path / "run", val_fraction=0.0), quiet())
    text = (tmp_path / "run" / "report.html").read_text()
    assert "Not shown: nothing was validated." in text and "no longer holds" not in text
    assert "/9j/" in text, "the pictures that it was trained on are not shown"


def test_a_page_that_cannot_be_written_is_said_once_and_changes_nothing(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "REPORT_EVERY", 0.0)
    monkeypatch.setattr(start, "REPORT_SHARE", 1e9)
    start.train(asked(pictures, tmp_path / "a"), quiet())
    (tmp_path / "b" / "report.html").mkdir(parents=True)
    console = quiet()
    result = start.train(asked(pictures, tmp_path / "b"), console)
    assert result["stopped"] == "done"
    assert console.file.getvalue().count("report.html: could not be written") == 1
    assert digest(tmp_path / "a") == digest(tmp_path / "b") and lines(tmp_path / "a") == lines(tmp_path / "b")
    assert not list((tmp_path / "b").glob(".*.tmp"))


@pytest.mark.parametrize(("every", "share", "pages"), [(0.0, 1e9, 2), (1e9, 1e9, 1), (0.0, 1e-9, 1)])
def test_it_is_written_anew_after_validations_but_not_too_often(pictures, tmp_path, monkeypatch, every, share, pages):
    monkeypatch.setattr(start, "REPORT_EVERY", every)
    monkeypatch.setattr(start, "REPORT_SHARE", share)
    said, ordinary = list[bool](), report.write

    def writing(run, *, under_way, found):
        said.append(under_way)
        ordinary(run, under_way=under_way, found=found)
        text = run.report.read_text()
        assert ("so far" in text) is under_way or run.metrics.read_text().count('"val"') == 3

    monkeypatch.setattr(report, "write", writing)
    start.train(asked(pictures, tmp_path / "run", recipe="paper"), quiet())  # three validations, one at the end
    assert said == [True] * pages + [False]


def test_a_run_that_is_stopped_leaves_a_page_of_how_far_it_came(pictures, tmp_path, monkeypatch):
    ordinary = loop.step

    def stopping(job, *args, number, **kwargs):
        if number == 5:
            signal.raise_signal(signal.SIGTERM)
        return ordinary(job, *args, number=number, **kwargs)

    monkeypatch.setattr(loop, "step", stopping)
    with pytest.raises(Stopped) as caught:
        start.train(asked(pictures, tmp_path / "run", recipe="paper"), quiet())
    assert caught.value.result is not None
    assert "of 12 updates so far" in (tmp_path / "run" / "report.html").read_text()


def test_a_start_that_saved_nothing_leaves_no_page_to_the_next(pictures, tmp_path, monkeypatch):
    run = tmp_path / "run"
    start.train(asked(pictures, run, epochs=1), quiet())
    for path in run.glob("checkpoints/*"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    for name in ("best", "last"):
        (run / name).unlink()
    (run / "report.html").write_text("of another start")
    monkeypatch.setattr(start.Reporting, "write", lambda self, *, under_way: None)
    start.train(asked(pictures, run, epochs=1), quiet())
    assert not (run / "report.html").exists()
