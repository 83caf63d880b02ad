"""The report as a file: what it says, that names stay text in it, what it says where parts are missing, its bounds."""

import itertools
import json
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet.data.classes import imagenet_classes
from alexnet.data.sources import open_data
from alexnet.errors import UsageError
from alexnet.evaluation.mistakes import likely_label_errors
from alexnet.evaluation.paired import mcnemar
from alexnet.evaluation.predictions import read_predictions
from alexnet.evaluation.score import wilson
from alexnet.look import album, course, paper, report, results
from alexnet.look.metrics import Log
from alexnet.look.record import Record, read, run_folder
from alexnet.network.variants import variant
from alexnet.training.adopt import adopt
from alexnet.weights.checkpoint import Checkpoint, Store
from alexnet.weights.run import Run, open_run
from tests.look.folders import EVIL, answers, strange_pictures, strange_run, write_run
from tests.pictures import write_folder
from tests.strangers import hole

PARTS = ("Score", "Curves", "First layer", "Can its probabilities be believed?", "What is taken for what",
         "The worst mistakes", "Likely label errors", "Each class", "Data sheet", "Recipe", "Where the time went",
         "Environment", "Beside the paper")  # fmt: skip


class Read(HTMLParser):
    """A page as a browser's parser sees it: each element with its attributes, and all text outside scripts."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.of: dict[str, list[str]] = {}
        self.feed(content.decode("utf-8"))
        self.close()
        self.data = json.loads(self.of["script"][0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)
        self.of.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in dict.fromkeys(self.open):
            self.of[tag][-1] += data
        if not set(self.open) & {"script", "style"}:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return strange_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures) -> Run:
    return strange_run(tmp_path_factory.mktemp("runs") / "first", pictures)


@pytest.fixture(scope="module")
def page(run) -> Read:
    return Read(report.report([run]).content)


def test_every_part_is_there_under_headings_in_order(page):
    assert [one for one in page.of["h3"] if one in PARTS] == list(PARTS) and len(page.of["h1"]) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert "Not shown" not in page.text
    for tag in ("header", "nav", "main", "footer"):
        assert len(page.all(tag)) == 1
    assert all("caption" in page.of for _ in page.all("table")) and len(page.of["caption"]) == len(page.all("table"))
    assert all(one.get("scope") for one in page.all("th")) and all(one.get("alt") for one in page.all("img"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_it_loads_nothing_and_says_so(page):
    policy = next(one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "srcset", "data"):
            where = attributes.get(name) or ""
            assert where == "" or where.startswith(("#", "data:image/png;base64,"))
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
    assert [one.get("type") for one in page.all("script")] == ["application/json", None]
    assert "url(" not in page.of["style"][0] and "@import" not in page.of["style"][0]


def test_names_that_are_html_stay_text(run, page):
    assert len(page.all("script")) == 2 and not [one for one in page.all("img") if one.get("src") == "x"]
    assert EVIL in page.text
    names = [picture[0] for picture in page.data["pictures"]] + [picture[1] for picture in page.data["pictures"]]
    assert EVIL in names and any("<img src=x" in name for name in names)
    raw = report.report([run]).content.decode()
    held = raw[raw.index('id="page-data">') + 15 :].partition("</script>")[0]
    assert "<" not in held and "\u2028" not in held and json.loads(held) == page.data
    assert raw.count("<script") == 2 and raw.count("</script>") == 2


def test_the_same_folder_gives_the_same_bytes(run, page):
    first = report.report([run]).content
    assert first == report.report([run]).content
    assert Read(first).data == page.data


def test_the_score_is_that_of_the_predictions(run, page):
    said = read_predictions(run.predictions)
    right, count = int(said.right().sum()), len(said)
    low, high = wilson(right, count)
    assert f"{100 * right / count:.1f}\u00a0%" in page.text and f"{right:,} of {count:,} held-out pictures" in page.text
    assert f"95 % interval {100 * low:.1f} to {100 * high:.1f}\u00a0%" in page.text
    document = report.report([run]).said
    assert document["runs"][0]["top1"] == right / count and document["runs"][0]["top1_interval"] == [low, high]
    assert document["pictures"] == len([one for one in page.data["pictures"] if one[2]]) > 0


def test_a_cell_of_the_confusion_opens_its_pictures(run, page):
    said = read_predictions(run.predictions)
    first = said.top[:, 0]
    buttons = {one["data-gallery"] for one in page.all("button") if "data-gallery" in one}
    assert buttons == set(page.data["galleries"])
    seen = 0
    for key, opened in page.data["galleries"].items():
        _, true, other = map(int, key.split("-"))
        rows = np.flatnonzero((said.labels == true) & (first == other))
        loss = said.loss[rows]
        expected = [said.keys[row] for row in rows[np.argsort(-loss, kind="stable")]][: results.MOST_OF_CELL]
        assert [page.data["pictures"][place][0] for place, _ in opened["items"]] == expected
        seen += len(rows)
    assert seen == len(said)


def test_the_csv_holds_the_likely_label_errors(run, page):
    said, keys = read_predictions(run.predictions), run.classes().keys
    found = likely_label_errors(said, 3)
    heads, *rows = page.data["saves"]["labels-0"]
    assert heads == ["path", "label", "looks_like", "probability_of_label", "probability"]
    assert [row[:3] for row in rows] == [
        [said.keys[row], keys[said.labels[row]], keys[k]] for row, k in zip(found.rows, found.looks_like, strict=True)
    ]
    assert rows, "no label looks wrong here"


@pytest.mark.parametrize("name", ["metrics.jsonl", "predictions/val.parquet", "kernels.npy", "environment.json"])
def test_a_part_whose_file_is_gone_or_damaged_says_so(run, name, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_bytes(b"{]\n")
    damaged = Read(report.report([Run(tmp_path / "run")]).content)
    assert "Not shown: " in damaged.text and name in damaged.text
    path.unlink()
    gone = report.report([Run(tmp_path / "run")])
    assert "Not shown: " in Read(gone.content).text and gone.said["runs"][0]["lacking"]


def test_pictures_that_are_gone_are_named(run, pictures, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    kept = json.loads((run.folder / "data.json").read_text())
    path = tmp_path / "run" / "data.json"
    path.write_text(json.dumps({**kept, "source": str(tmp_path / "nowhere")}))
    page = Read(report.report([Run(tmp_path / "run")]).content)
    assert "Not shown: the pictures themselves; " in page.text and "nowhere" in page.text
    assert not any(picture[2] for picture in page.data["pictures"]) and page.data["galleries"]
    path.write_text(json.dumps({**kept, "val_fingerprint": "0" * 64, "train_fingerprint": "0" * 64}))
    page = Read(report.report([Run(tmp_path / "run")]).content)
    assert "no longer holds the pictures" in page.text and not any(picture[2] for picture in page.data["pictures"])


def test_a_broken_picture_is_said_where_it_would_stand(pictures, tmp_path):
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    data = open_data(str(folder))
    broken = data.val.path(0)
    size = broken.stat().st_size
    broken.write_bytes(b"x" * size)
    run = write_run(tmp_path / "run", folder, data=data, said=answers(data, seed=0, bad=(0,)))
    (run.folder / "bad_images.jsonl").write_text(
        json.dumps({"path": "<b>x", "reason": "broken", "row": 0}) + '\n{"path": "cut sho'
    )
    page = Read(report.report([run]).content)
    assert "<b>x: broken" in page.text and "cut sho" not in page.text
    assert "1 pictures could not be decoded and count as wrong" in page.text
    small = album.small(data.val, 0)
    assert small.image == "" and "not a picture" in small.why


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (Path.mkdir, "cannot be read (not a regular file)"),
        (os.mkfifo, "cannot be read (not a regular file)"),
        (hole, "cannot be read (1,099,511,627,776 bytes, more than the limit"),
        (lambda path: path.write_bytes(b"no JSON\n"), "line 1: cannot be read as JSON"),
        (lambda path: path.write_bytes(b'{"path": 1, "reason": "x"}\n'), "line 1: expected a path and a reason"),
        (lambda path: path.write_bytes(b"[]\n"), "line 1: expected a path and a reason"),
    ],
)
def test_pictures_left_out_that_cannot_be_told_are_not_none(run, tmp_path, make, says):
    shutil.copytree(run.folder, tmp_path / "run")
    make(tmp_path / "run" / "bad_images.jsonl")
    made = report.report([Run(tmp_path / "run")])
    page = Read(made.content)
    assert "Could not be decoded" in page.of["h3"] and f"bad_images.jsonl: {says}" in page.text
    assert says in made.said["runs"][0]["lacking"]["bad_images"]


def test_kernels_that_cannot_be_shown_say_why(tmp_path):
    """Of a run without kernels.npy they are those of its checkpoint, which a stranger may have made."""
    run = Run(tmp_path / "run")
    adopt(open_run("tiny"), run)

    def kernels_of(tensors: dict[str, torch.Tensor]) -> Record:
        shutil.rmtree(run.checkpoints)
        store = Store(run.folder)
        store.save(Checkpoint(tensors, {}, {"step": 0}), best=False)
        store.settle()
        store.close()
        return read(run, name="x")

    whole = open_run("tiny").model.state_dict()
    (run.folder / "best").unlink()
    assert kernels_of(whole).kernels_of == "of the last checkpoint"
    for tensors, says in (
        ({"conv1.bias": whole["conv1.bias"]}, "step-00000000: holds no conv1.weight"),
        ({"conv1.weight": whole["conv1.weight"][:, :2]}, "of shape (12, 2, 11, 11), expected (12, 3, 11, 11)"),
        ({"conv1.weight": whole["conv1.weight"] * torch.nan}, "kernels that are not finite numbers"),
    ):
        record = kernels_of(tensors)
        assert record.kernels is None and says in record.lacking["kernels"]
        assert says in Read(report.report([run]).content).text
    np.save(run.kernels, np.zeros((2, 7, 3, 5, 5), np.float32), allow_pickle=False)
    assert "kernels.npy: its first layer has kernels of shape (7, 3, 5, 5)" in read(run, name="x").lacking["kernels"]


def test_a_run_that_was_imported_says_what_it_does_not_have(tmp_path):
    run = Run(tmp_path / "imported")
    adopt(open_run("tiny"), run)
    made = report.report([run])
    page = Read(made.content)
    assert page.text.count("Not shown: the run was imported.") >= 5
    assert page.text.count("Not shown: a score; the run was imported.") == 1
    assert "the run was imported, and does not say what pictures it was trained on" in page.text
    assert "of the best checkpoint" in page.text, "its kernels are in its weights"
    assert "imported: not known" in page.text and "how “alexnet train” would go on with it" in page.text
    assert made.said["runs"][0]["top1"] is None
    # and beside a run that has all
    assert len(page.of["h3"]) == len(PARTS)


def test_a_page_of_a_run_under_way_decodes_nothing(run, monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError("a picture was looked for")

    monkeypatch.setattr(report, "own_data", never)
    monkeypatch.setattr(album, "small", never)
    monkeypatch.setattr("alexnet.weights.checkpoint.load", never)
    page = Read(report.report([run], under_way=True).content)
    assert "they come at the end of the training" in page.text and len(page.of["h3"]) >= len(PARTS)


def test_what_has_not_begun_says_so(run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("recipe.json", "classes.json", "data.json", "preprocess.json", "environment.json", "mean.npy"):
        shutil.copy(run.folder / name, folder)
    page = Read(report.report([Run(folder)], under_way=True).content)
    assert "nothing was trained yet" in page.text and "0 of 40 updates so far" in page.text


def test_a_table_that_is_cut_says_so(run, page, monkeypatch):
    steps = [line["step"] for line in map(json.loads, run.metrics.read_text().splitlines()) if line["split"] == "val"]
    assert len(steps) > 1 and "Validations" in page.of["caption"]
    monkeypatch.setattr(course, "MOST_ROWS", 1)
    cut = Read(report.report([run]).content)
    assert f"Validations: the last 1 of {len(steps)}" in cut.of["caption"] and "Validations" not in cut.of["caption"]


def test_the_number_and_the_bytes_of_pictures_are_bounded(run, page, monkeypatch):
    few = Read(report.report([run], pictures=5).content)
    shown = [picture[0] for picture in few.data["pictures"] if picture[2]]
    said = read_predictions(run.predictions)
    wrong = np.flatnonzero(~said.right())
    assert shown == [said.keys[row] for row in wrong[np.argsort(-said.loss[wrong], kind="stable")][:5]]
    assert len(few.data["pictures"]) == len(page.data["pictures"])
    monkeypatch.setattr(album, "MOST_BYTES", 12_000)
    bounded = Read(report.report([run]).content)
    assert 0 < sum(len(picture[2]) for picture in bounded.data["pictures"]) <= 12_000
    none = Read(report.report([run], pictures=0).content)
    assert "none were asked for" in none.text and not any(picture[2] for picture in none.data["pictures"])


def test_many_classes_are_shown_by_their_most_confused_pairs(tmp_path):
    pictures = write_folder(tmp_path / "pictures", classes=25, each=10, side=16)
    run = write_run(tmp_path / "run", pictures)
    page = Read(report.report([run]).content)
    said = read_predictions(run.predictions)
    wrong = said.labels != said.top[:, 0]
    pairs = {(int(a), int(b)) for a, b in zip(said.labels[wrong], said.top[wrong, 0], strict=True)}
    assert {tuple(map(int, key.split("-")))[1:] for key in page.data["galleries"]} == pairs
    assert "Most confused pairs" in page.of["caption"] and "Find a class" in page.of["label"][0]
    assert "top-5" in page.text


def test_runs_beside_each_other(run, pictures, tmp_path):
    other = write_run(tmp_path / "second", pictures, seed=1, set=("lr=0.02",), data=open_data(str(pictures)))
    made = report.report([run, other])
    page = Read(made.content)
    one, two = (read_predictions(each.predictions) for each in (run, other))
    found = mcnemar(one.right(), two.right())
    (pair,) = made.said["pairs"]
    assert pair == {"runs": [str(run.folder), str(other.folder)], "both": found.both, "only_first": found.only_first,
                    "only_second": found.only_second, "neither": found.neither, "p": found.p}  # fmt: skip
    assert f"Only first: {found.only_first}" in page.of["h4"] and f"Only second: {found.only_second}" in page.of["h4"]
    assert found.only_first and found.only_second
    first = next(table for caption, table in zip(page.of["caption"], page.of["table"], strict=True)
                 if caption == "What differs between the recipes")  # fmt: skip
    assert "lr0.0150.02" in first and "seed01" in first and "momentum" not in first
    assert page.of["h1"] == ["2 runs"]


def test_runs_of_other_pictures_are_not_paired(run, tmp_path, pictures):
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    for path in sorted(folder.rglob("*.jpg"))[:6]:
        path.rename(path.with_name(f"other-{path.name}"))
    other = write_run(tmp_path / "second", folder, seed=2)
    made = report.report([run, other])
    assert made.said["pairs"] == [] and "were judged by other pictures" in Read(made.content).text


def test_two_runs_of_one_name_are_called_by_their_paths(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "first")
    page = Read(report.report([run, Run(tmp_path / "first")]).content)
    assert str(tmp_path / "first") in page.of["h4"]
    with pytest.raises(UsageError, match="9 runs"):
        report.report([run] * 9)


def test_what_is_no_run_is_refused(run, tmp_path, monkeypatch):
    assert run_folder(str(run.folder)).folder == run.folder
    with pytest.raises(UsageError, match="not a run folder"):
        run_folder(str(tmp_path))
    with pytest.raises(UsageError, match="alexnet import"):
        run_folder("tiny")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run.folder, Path("runs") / "mine")
    with pytest.raises(UsageError, match=r"^mine: not a run folder; runs/mine is one$"):
        run_folder("mine")


def test_the_paper_is_comparable_where_it_is(run):
    record = read(run, name="x")
    for _, rows in paper.results(record):
        assert {row.comparable for row in rows} == {"no"} and all(row.why for row in rows)
    record.classes = imagenet_classes()
    record.data = {**record.data, "val": 50_000}
    record.predictions = None
    whole = {"step": 90, "epoch": 90, "split": "val", "loss": 1.7, "top1": 0.593, "top5": 0.818, "count": 50_000}
    record.log = Log([whole])
    table = dict(paper.results(record))
    of = {row.what: row for row in table["Table 2: ILSVRC-2012"]}
    assert of["1 CNN, validation"].here == "40.7 / 18.2" == of["1 CNN, validation"].paper
    assert of["1 CNN, validation"].comparable == "in part" and "one view, not ten" in of["1 CNN, validation"].why
    assert of["second-best entry, test"].comparable == "no"
    assert {row.comparable for row in table["Table 1: ILSVRC-2010, test"]} == {"no"}
    record.data["val"] = 49_999
    assert {row.comparable for row in dict(paper.results(record))["Table 2: ILSVRC-2012"]} == {"no"}


@pytest.mark.parametrize(
    "odd",
    [{"count": 0.5}, {"count": 1e38}, {"count": -3}, {"top1": 7.0}, {"top1": 0.9, "top5": 0.2}, {"count": "8"}],
)
def test_a_log_with_an_odd_count_has_no_score(run, odd):
    record = read(run, name="x")
    record.predictions = None
    val = {"step": 9, "epoch": 1, "split": "val", "loss": 1.5, "top1": 0.5, "top5": 1.0, "count": 8}
    record.log = Log([val])
    found = results.headline_of(record)
    assert found is not None and (found.correct1, found.count) == (4, 8)
    record.log = Log([val | odd])
    assert results.headline_of(record) is None


def test_a_log_of_large_numbers_is_drawn(run, tmp_path, recwarn):
    copy = Run(tmp_path / "run")
    shutil.copytree(run.folder, copy.folder)
    train = {"step": 9, "epoch": 9e38, "split": "train", "loss": 9e38, "top1": 0.5, "lr": 9e38, "seconds": 9e38,
             "images_per_second": 9e38}  # fmt: skip
    copy.metrics.write_text("".join(json.dumps(train | {"step": step}) + "\n" for step in (1, 9e38)))
    assert report.report([copy]).content and not recwarn.list


def test_the_papers_own_network_is_the_papers(tmp_path):
    run = Run(tmp_path / "run")
    loaded = open_run("tiny")
    adopt(loaded, run)
    record = read(run, name="x", checkpoints=False)
    record.variant = variant("paper")
    record.classes = imagenet_classes()
    record.preprocess = replace(record.preprocess, side=224, stored=256)
    rows = {row.what: row for row in dict(paper.settings(record))["The network"]}
    assert rows["parameters"].here == "60,965,224" and rows["neurons"].here == "659,272"
    assert rows["neurons of conv1"].here == "290,400" and "55·48·96" in rows["neurons of conv1"].why
    assert all(row.same for row in rows.values()), [row for row in rows.values() if not row.same]
    record.variant = variant("torchvision")
    rows = {row.what: row for row in dict(paper.settings(record))["The network"]}
    assert not rows["towers"].same and rows["normalization"].here == "none" and not rows["neurons of conv2"].same
