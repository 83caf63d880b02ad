"""Runs and data as a user names them, judged."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from alexnet.errors import DataError, NumbersError, UsageError
from alexnet.evaluation.judge import judge
from alexnet.evaluation.predict import load
from alexnet.training import start
from alexnet.training.start import Asked
from alexnet.weights import checkpoint
from tests.checkpoints import put
from tests.pictures import write_folder


def train(data: Path, run: Path, **options) -> Path:
    base = Asked(
        data=str(data),
        run=str(run),
        variant="tiny",
        kernels="plain",
        batch_size=12,
        epochs=4,
        workers=1,
        precision="fp32",
    )
    start.train(replace(base, **options), Console(file=io.StringIO()))
    return run


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures") / "set", classes=3, each=20)


@pytest.fixture(scope="module")
def unseen(tmp_path_factory) -> Path:
    """Other pictures under the same names."""
    return write_folder(tmp_path_factory.mktemp("unseen") / "set", classes=3, each=20, seed=7)


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures) -> Path:
    return train(pictures, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def other(tmp_path_factory, pictures) -> Path:
    return train(pictures, tmp_path_factory.mktemp("runs") / "other", lr=0.005, batch_size=6)


def permuted(run: Path, folder: Path, order: list[int]) -> Path:
    """The same network with its classes in another order: classes.json and fc8's rows moved alike."""
    shutil.copytree(run, folder)
    classes = json.loads((folder / "classes.json").read_text())
    (folder / "classes.json").write_text(json.dumps([classes[i] for i in order]))
    best = folder / "checkpoints" / (folder / "best").read_text().strip()
    kept = checkpoint.load(best)
    for name in ("fc8.weight", "fc8.bias"):
        kept.model[name] = kept.model[name][order].contiguous()
    shutil.rmtree(best)
    put(folder, kept, best=True)
    return folder


def by_hand(run: Path, pictures: Path) -> tuple[int, int]:
    """(right, all) of the pictures of a folder, one at a time; classes by their words."""
    predictor, right, count = load(run), 0, 0
    for path in sorted(pictures.rglob("*.*g")):
        right += predictor.predict(path, 1)[0].label == path.parent.name
        count += 1
    return right, count


def test_a_run_is_judged_on_its_own_validation_pictures(run, pictures):
    verdict = judge([str(run)], None)
    state = json.loads((run / "checkpoints" / (run / "best").read_text().strip() / "state.json").read_text())
    assert verdict.score.top1 == state["best"]["top1"] and verdict.score.count == 12
    held = json.loads((run / "data.json").read_text())["split"]["val_names"]
    assert sorted(verdict.answers.keys) == sorted(held)
    document = verdict.to_json()
    assert set(document) >= {
        "top1", "top5", "top1_error", "top5_error", "top1_interval", "mean_class_accuracy", "loss", "count", "views",
        "bad_images", "models",
    }  # fmt: skip
    assert document["models"] == [str(run)]
    assert [row["count"] for row in verdict.per_class()] == [4, 4, 4]


def test_a_folder_is_judged_by_its_own_names(run, unseen):
    right, count = by_hand(run, unseen)
    found = judge([str(run)], str(unseen))
    assert (found.score.correct1, found.score.count) == (right, count) == (found.score.correct1, 60)
    assert count / 3 < right, "the network has learnt nothing, so this shows nothing"


def test_a_class_that_data_lacks_moves_no_label(run, unseen, tmp_path):
    for name in ("class1", "class2"):
        shutil.copytree(unseen / name, tmp_path / "part" / name)
    right, count = by_hand(run, tmp_path / "part")
    found = judge([str(run)], str(tmp_path / "part")).score
    assert (found.correct1, found.count) == (right, count) and found.class_count.tolist() == [0, 20, 20]


def test_a_list_in_any_order_gives_the_same(run, unseen, tmp_path):
    rows = [(path, path.parent.name) for path in sorted(unseen.rglob("*.*g"))]
    np.random.default_rng(0).shuffle(rows)
    (tmp_path / "list.csv").write_text("label,path\n" + "".join(f"{label},{path}\n" for path, label in rows))
    a, b = judge([str(run)], str(unseen)).score, judge([str(run)], str(tmp_path / "list.csv")).score
    assert (a.correct1, a.class_correct.tolist()) == (b.correct1, b.class_correct.tolist())


def test_classes_in_another_order_are_matched_by_key(run, unseen, tmp_path):
    moved = permuted(run, tmp_path / "moved", [2, 0, 1])
    a, b = judge([str(run)], str(unseen)), judge([str(moved)], str(unseen))
    assert b.answers.labels.tolist() != a.answers.labels.tolist() and b.classes == ["class2", "class0", "class1"]
    assert a.score.correct1 == b.score.correct1
    assert np.abs(a.answers.probabilities[:, [2, 0, 1]] - b.answers.probabilities).max() < 1e-6


def test_a_class_that_the_run_does_not_know_is_a_data_error(run, pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "set")
    (tmp_path / "set" / "class1").rename(tmp_path / "set" / "renamed")
    with pytest.raises(DataError, match="unknown renamed") as caught:
        judge([str(run)], str(tmp_path / "set"))
    assert caught.value.code == 3 and str(tmp_path / "set") in str(caught.value)


def test_of_a_folder_with_train_and_val_the_latter(run, unseen, tmp_path):
    for part, name in (("train", "class0"), ("train", "class1"), ("val", "class2"), ("val", "class1")):
        shutil.copytree(unseen / name, tmp_path / "set" / part / name)
    found = judge([str(run)], str(tmp_path / "set"))
    assert found.answers.keys == judge([str(run)], str(tmp_path / "set" / "val")).answers.keys
    assert found.score.class_count.tolist() == [0, 20, 20]


def test_an_ensemble_averages_by_class_not_by_position(run, other, pictures, tmp_path):
    one, two = (judge([str(each)], None).answers.probabilities for each in (run, other))
    assert np.abs(one - two).max() > 0.01
    found = judge([str(run), str(other)], None)
    assert np.abs(found.answers.probabilities - (one.astype(float) + two) / 2).max() < 1e-6
    assert found.to_json()["models"] == [str(run), str(other)]
    moved = permuted(other, tmp_path / "moved", [1, 2, 0])
    again = judge([str(run), str(moved)], None)
    assert np.abs(found.answers.probabilities - again.answers.probabilities).max() < 1e-6
    # and with itself in another order a network is what it was
    itself = judge([str(run), str(permuted(run, tmp_path / "itself", [2, 1, 0]))], None)
    assert np.abs(itself.answers.probabilities - one).max() < 1e-6


def test_an_ensemble_is_not_judged_on_what_one_of_it_was_trained_with(run, pictures, unseen, tmp_path):
    stranger = train(pictures, tmp_path / "stranger", epochs=1, seed=1)  # which holds out others
    elsewhere = shutil.copytree(pictures, tmp_path / "elsewhere")
    for data in (None, str(pictures), str(elsewhere)):
        with pytest.raises(UsageError, match="another split"):
            judge([str(run), str(stranger)], data)
    found = judge([str(run), str(stranger)], str(unseen))
    assert found.score.count == 60 and found.pictures == "others"


def test_runs_of_other_classes_make_no_ensemble(run, unseen, tmp_path):
    stranger = train(write_folder(tmp_path / "set", classes=2, each=12), tmp_path / "stranger", epochs=1)
    with pytest.raises(DataError, match="missing class2"):
        judge([str(run), str(stranger)], str(unseen))


def test_an_untrained_variant_takes_the_classes_of_the_first(run):
    found = judge([str(run), "tiny"], None)
    assert found.answers.probabilities.shape == (12, 3)


def test_a_network_whose_answers_are_no_numbers_has_no_score(run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "broken")
    best = broken / "checkpoints" / (broken / "best").read_text().strip()
    kept = checkpoint.load(best)
    kept.model["fc8.bias"][1] = float("inf")  # the softmax is NaN in every class
    shutil.rmtree(best)
    put(broken, kept, best=True)
    with pytest.raises(NumbersError, match="not finite numbers") as caught:
        judge([str(run), str(broken)], None)
    assert str(broken) in str(caught.value) and str(run) + ":" not in str(caught.value)


def test_a_moved_run_still_finds_its_pictures(run, tmp_path):
    shutil.copytree(run, tmp_path / "elsewhere" / "run")
    moved = judge([str(tmp_path / "elsewhere" / "run")], None)
    assert np.array_equal(moved.answers.probabilities, judge([str(run)], None).answers.probabilities)


def test_nothing_that_was_trained_on_is_judged(run, pictures, unseen, tmp_path):
    """Where DATA holds pictures that were held out, at their old place or another, these are judged and no others."""
    own = judge([str(run)], None)
    assert own.pictures == "held out" and own.score.count == 12
    grown = shutil.copytree(pictures, tmp_path / "grown")
    (grown / "class0" / "new.png").write_bytes((unseen / "class0" / "000.png").read_bytes())
    for data in (pictures, grown):
        found = judge([str(run)], str(data))
        assert found.pictures == "held out", data
        assert np.array_equal(found.answers.probabilities, own.answers.probabilities), data
    shrunk = shutil.copytree(pictures, tmp_path / "shrunk")
    shutil.rmtree(shrunk / "class1")
    gone = next(key for key in own.answers.keys if key.startswith("class0/"))
    (shrunk / gone).unlink()
    found = judge([str(run)], str(shrunk))
    assert found.pictures == "held out" and found.answers.keys == [
        key for key in own.answers.keys if not key.startswith("class1/") and key != gone
    ]


def test_pictures_that_were_trained_on_are_called_so(pictures, unseen, tmp_path):
    every = train(pictures, tmp_path / "every", epochs=1, val_fraction=0)
    assert judge([str(every)], str(pictures)).pictures == "trained on"
    apart = train(pictures, tmp_path / "apart", epochs=1, val=str(unseen))
    for data, said in ((None, "held out"), (unseen, "held out"), (pictures, "trained on")):
        found = judge([str(apart)], data and str(data))
        assert (found.pictures, found.score.count) == (said, 60), data
    with pytest.raises(UsageError, match="another split"):
        judge([str(every), str(train(pictures, tmp_path / "drawn", epochs=1))], str(pictures))


def test_held_out_pictures_that_have_changed_are_refused(tmp_path):
    folder = write_folder(tmp_path / "set", classes=2, each=12)
    run = train(folder, tmp_path / "run", epochs=1)
    held = json.loads((run / "data.json").read_text())["split"]["val_names"]
    trained_on = next(path for path in sorted(folder.rglob("*.png")) if str(path.relative_to(folder)) not in held)
    trained_on.write_bytes(trained_on.read_bytes() + b" ")
    assert judge([str(run)], None).score.count == len(held)
    (folder / held[0]).write_bytes((folder / held[0]).read_bytes() + b" ")
    with pytest.raises(DataError, match="no longer holds the pictures"):
        judge([str(run)], None)
    assert judge([str(run)], str(folder)).answers.keys == held[1:]
    (folder / held[0]).unlink()
    with pytest.raises(DataError, match=f"1 of the {len(held)} held-out images are gone, the first {held[0]}"):
        judge([str(run)], None)


def test_half_held_out(pictures, tmp_path):
    run = train(pictures, tmp_path / "run", epochs=1, val_fraction=0.5)
    assert judge([str(run)], None).score.count == 30


def test_nothing_held_out(pictures, tmp_path):
    run = train(pictures, tmp_path / "run", epochs=2, val_fraction=0)
    assert (run / "best").read_text() == (run / "last").read_text() == "step-00000010\n"
    assert json.loads((run / "data.json").read_text())["val"] == 0
    assert not (run / "predictions").exists()
    with pytest.raises(UsageError, match="without a validation split"):
        judge([str(run)], None)
    assert judge([str(run)], str(pictures)).score.count == 60
    result = start.train(
        Asked(data=str(pictures), run=str(run), variant="tiny", kernels="plain", batch_size=12, epochs=2, workers=1, precision="fp32",
              val_fraction=0),
        Console(file=io.StringIO()),
    )  # fmt: skip
    assert result["best"] == result["last"] == {"step": 10, "top1": None, "top5": None, "loss": None}


def test_what_has_no_pictures_of_its_own_says_so(pictures):
    with pytest.raises(UsageError, match="name the pictures"):
        judge(["tiny"], None)
    with pytest.raises(UsageError, match="views 3"):
        judge(["tiny"], str(pictures), views=3)


def test_bf16_is_near_fp32(run):
    full, half = judge([str(run)], None), judge([str(run)], None, precision="bf16")
    difference = np.abs(full.answers.probabilities - half.answers.probabilities).max()
    assert 0 < difference < 0.05 and half.answers.probabilities.dtype == np.float32
    assert not torch.is_autocast_enabled("cpu")
