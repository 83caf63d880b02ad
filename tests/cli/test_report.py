"""`alexnet report` as it is typed."""

import json
from pathlib import Path

import pytest

from alexnet.data.sources import open_data
from alexnet.weights.run import Run
from tests.cli.test_cli import fails, works
from tests.look.folders import write_run
from tests.pictures import write_folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Run, Run]:
    pictures = write_folder(tmp_path_factory.mktemp("pictures"), classes=2, each=20, side=24)
    folder, data = tmp_path_factory.mktemp("runs"), open_data(str(pictures))
    return write_run(folder / "a", pictures, data=data), write_run(folder / "b", pictures, data=data, seed=1)


def test_a_report_goes_into_its_run(runs, capsys):
    said = works(["report", runs[0].folder], capsys)
    assert said.startswith(f"{runs[0].report}: ") and "open it in a browser" in said
    document = json.loads(works(["report", runs[0].folder, "--json", "--pictures", "3"], capsys))
    assert document["report"] == str(runs[0].report) and document["bytes"] == runs[0].report.stat().st_size
    assert document["pictures"] == 3 and document["pairs"] == []
    (one,) = document["runs"]
    assert one.keys() == {"run", "top1", "top1_interval", "top5", "count", "lacking"} and one["count"] == 8
    assert 0 <= one["top1_interval"][0] <= one["top1"] <= one["top1_interval"][1] <= 1 and one["top5"] is None


def test_several_are_compared(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = works(["report", *(run.folder for run in runs)], capsys)
    assert Path("comparison.html").exists() and "(McNemar)" in said
    document = json.loads(works(["report", *(run.folder for run in runs), "--out", "deep/er.html", "--json"], capsys))
    assert document["report"] == "deep/er.html" and (tmp_path / "deep" / "er.html").exists()
    (pair,) = document["pairs"]
    assert pair["both"] + pair["only_first"] + pair["only_second"] + pair["neither"] == 8 and 0 < pair["p"] <= 1


def test_what_is_missing_is_said(runs, tmp_path, capsys):
    for name in ("recipe.json", "classes.json", "data.json", "preprocess.json", "mean.npy"):
        (tmp_path / name).write_bytes((runs[0].folder / name).read_bytes())
    said = works(["report", tmp_path], capsys)
    assert "no environment: " in said and "no predictions: nothing was trained yet" in said
    assert "no log: nothing was trained yet" in said


@pytest.mark.parametrize(
    ("tokens", "code", "says"),
    [
        (["report"], 2, "RUNS"),
        (["report", "no-such-run"], 2, "no-such-run: not a run folder"),
        (["report", "tiny"], 2, "alexnet import"),
        (["report", "A", "--pictures", "-1"], 2, "--pictures -1"),
        (["report", "A", "--pictures", "2001"], 2, "--pictures 2001"),
        (["report", *["A"] * 9], 2, "9 runs"),
        (["report", "A", "--out", "picture.png"], 2, "--out picture.png: expected a name that ends in .html"),
        (["report", "A", "--out", "/dev/null/x.html"], 2, "alexnet: /dev/null/x.html: cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(runs, tokens, code, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    got, said = fails([str(runs[0].folder) if token == "A" else token for token in tokens], capsys)
    assert got == code and says in said and not list(tmp_path.iterdir())
