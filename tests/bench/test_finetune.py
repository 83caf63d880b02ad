"""Fine-tuning beside training from scratch: the same pictures for both, and a table of what they reached."""

import json
from pathlib import Path

import pytest

from tests.bench import script
from tests.pictures import write_folder


@pytest.fixture
def finetune(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    return script("finetune")


def test_pictures_are_drawn_once_and_are_the_same_for_both(finetune, tmp_path):
    folder = write_folder(tmp_path / "set", classes=2, each=12)
    classes = ["class0", "class1"]
    one = finetune.some(folder, tmp_path / "one", each=5, seed=0, classes=classes)
    other = finetune.some(folder, tmp_path / "other", each=5, seed=0, classes=classes)
    third = finetune.some(folder, tmp_path / "third", each=5, seed=1, classes=classes)
    names = [sorted(str(path.relative_to(place)) for path in place.rglob("*.*")) for place in (one, other, third)]
    assert names[0] == names[1] != names[2] and len(names[0]) == 10
    whole = finetune.some(folder, tmp_path / "whole", each=None, seed=0, classes=classes[:1])
    assert len(list(whole.rglob("*.*"))) == 12 and [path.name for path in whole.iterdir()] == ["class0"]
    assert finetune.some(folder, one, each=3, seed=2, classes=classes) == one and len(list(one.rglob("*.*"))) == 10


def test_photographs_and_no_drawings(finetune, tmp_path):
    for name, count in (("food/fruit", 9), ("food/fruit/cartoon", 4), ("animals/birds", 3), ("plants/flowers", 20)):
        (tmp_path / "package" / name).mkdir(parents=True)
        for n in range(count):
            (tmp_path / "package" / name / f"{n}.png").touch()
    made = finetune.stamps(tmp_path / "package", tmp_path / "classes")
    assert [(path.name, len(list(path.iterdir()))) for path in made.iterdir()] == [("fruit", 9)]


def test_every_arm_of_a_question_is_trained_judged_and_told(finetune, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(finetune, "SIZES", (4,))
    train, val = write_folder(tmp_path / "train", each=12), write_folder(tmp_path / "val", each=6, seed=1)
    said: list[list[str]] = []

    def alexnet(*words):
        said.append([str(word) for word in words])
        run = Path(said[-1][said[-1].index("--run") + 1]) if words[0] == "train" else Path(said[-1][1]).parent
        if words[0] == "train":
            run.mkdir(parents=True)
            return json.dumps({"last": {"step": 3}, "seconds": 1.5})
        return json.dumps({"top1": 0.5})

    monkeypatch.setattr(finetune, "alexnet", alexnet)
    monkeypatch.setattr(finetune, "right", lambda run, views: {f"{n}": "scratch" not in run.name for n in range(18)})
    arguments = finetune.argparse.Namespace(out=tmp_path / "out", seeds=[0], pictures=640)
    rows = finetune.rows_of("stamps", tmp_path / "base", train, val, arguments)
    assert [row["arm"] for row in rows] == list(finetune.ARMS)
    trainings = [words for words in said if words[0] == "train"]
    assert len({words[1] for words in trainings}) == 1, "the same pictures"
    assert [words[words.index("--max-steps") + 1] for words in trainings] == ["20", "10", "20"], "the same time"
    assert [("--weights" in words) for words in trainings] == [False, True, True]
    assert rows[1]["mcnemar"][:2] == (18, 0) and rows[0]["mcnemar"] is None and rows[1]["pictures"] == 12
    assert "only it right 18, only scratch 0" in capsys.readouterr().out
    before = len(said)
    finetune.rows_of("stamps", tmp_path / "base", train, val, arguments)
    assert len(said) == before, "what stands is not run again"
