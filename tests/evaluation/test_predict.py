"""One picture, however it is handed over, gets one answer, and evaluation's."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import alexnet
from alexnet.errors import BadImage, UsageError
from alexnet.evaluation.judge import judge
from alexnet.training import start
from alexnet.training.start import Asked
from tests.pictures import write_folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("pictures") / "set", classes=3, each=16)
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(noise).save(folder / "class0" / "000.jpg")  # large enough to be decoded at 1/2
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        asked = Asked(data=str(pictures), run=str(folder), variant="tiny", kernels="plain", batch_size=12, epochs=3, workers=1,
                      precision="fp32")  # fmt: skip
        start.train(asked, Console(file=io.StringIO()))
    return folder


def numbers(predictions) -> list[tuple]:
    return [(p.index, p.label, p.probability) for p in predictions]


@pytest.mark.parametrize("name", ["class1/000.png", "class1/001.jpg"])
def test_however_it_is_handed_over(run, pictures, name):
    predictor, path = alexnet.load(run), pictures / name
    first = numbers(predictor.predict(path))
    assert numbers(predictor.predict(str(path))) == first
    assert numbers(predictor.predict(path.read_bytes())) == first
    with Image.open(path) as picture:
        assert numbers(predictor.predict(picture)) == first
        assert numbers(predictor.predict(np.asarray(picture.convert("RGB")))) == first
    assert numbers(alexnet.predict(run, path)) == first
    ((said, streamed),) = predictor.stream([("x", path.read_bytes())], 5)
    assert said == "x" and numbers(streamed) == first
    assert sum(p for *_, p in first) == pytest.approx(1, abs=1e-6)
    assert [p for *_, p in first] == sorted((p for *_, p in first), reverse=True)


def test_a_picture_that_lies_on_its_side_or_is_transparent(run, pictures, tmp_path):
    predictor = alexnet.load(run)
    with Image.open(pictures / "class1" / "000.png") as picture:
        tall = picture.convert("RGB").resize((80, 120))
        exif = Image.Exif()
        exif[0x0112] = 6
        tall.save(tmp_path / "side.png", exif=exif)
        clear = picture.convert("RGBA")
        clear.putalpha(Image.fromarray(np.tile(np.arange(80, dtype=np.uint8) * 3, (80, 1))))
        clear.save(tmp_path / "clear.png")
    for name in ("side.png", "clear.png"):
        with Image.open(tmp_path / name) as picture:
            assert numbers(predictor.predict(picture)) == numbers(predictor.predict(tmp_path / name)), name
    turned = np.rot90(np.asarray(tall), -1)  # orientation 6: a quarter turn to the right brings it upright
    assert numbers(predictor.predict(np.ascontiguousarray(turned))) == numbers(predictor.predict(tmp_path / "side.png"))
    assert numbers(predictor.predict(np.asarray(tall))) != numbers(predictor.predict(tmp_path / "side.png"))


@pytest.mark.parametrize("views", [1, 10])
def test_predictions_are_evaluations(run, pictures, views):
    answers = judge([str(run)], str(pictures), views=views).answers
    predictor = alexnet.load(run)
    paths = [pictures / key for key in answers.keys]
    assert np.abs(predictor.probabilities(paths, views=views) - answers.probabilities).max() < 1e-5
    large = pictures / "class0" / "000.jpg"
    assert large in paths
    with Image.open(large) as picture:  # what is decoded already is not reduced
        assert (predictor.probabilities([picture]) != predictor.probabilities([large])).any()
    found = predictor.predict(paths[7], 2, views=views)
    by_hand = np.argsort(-answers.probabilities[7])[:2]
    assert [p.index for p in found] == by_hand.tolist()
    words = [entry["words"] for entry in json.loads((run / "classes.json").read_text())]
    assert [p.label for p in found] == [words[i] for i in by_hand]


def test_a_stream_keeps_its_order_across_batches(run, pictures):
    predictor = alexnet.load(run)
    named = [(str(path), path.read_bytes()) for path in sorted(pictures.rglob("*.png"))[:7]]
    streamed = list(predictor.stream(iter(named), 1, batch=3))
    assert [name for name, _ in streamed] == [name for name, _ in named]
    alone = [predictor.predict(content, 1)[0] for _, content in named]
    assert [said[0].index for _, said in streamed] == [p.index for p in alone]


def test_more_asked_for_than_there_are(run, pictures):
    found = alexnet.load(run).predict(pictures / "class0" / "000.png", 100)
    assert sorted(p.index for p in found) == [0, 1, 2]


def test_what_cannot_be_seen_is_named(run, pictures, tmp_path):
    predictor = alexnet.load(run)
    with pytest.raises(BadImage) as caught:
        predictor.predict(tmp_path / "none.jpg")
    assert caught.value.path == str(tmp_path / "none.jpg") and "No such file" in caught.value.reason
    whole = (pictures / "class0" / "001.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadImage, match=r"cut\.jpg: damaged JPEG"):
        predictor.predict(tmp_path / "cut.jpg")
    with pytest.raises(BadImage, match=r"cut\.jpg"), Image.open(tmp_path / "cut.jpg") as picture:
        predictor.predict(picture)
    with pytest.raises(BadImage, match="not a regular file"):
        predictor.predict(tmp_path)
    for array in (np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), np.float32), np.zeros((5, 5, 4), np.uint8)):
        with pytest.raises(BadImage, match=r"uint8 \(h, w, 3\)"):
            predictor.predict(array)


def test_a_variants_name_is_an_untrained_network(pictures):
    path = pictures / "class0" / "000.png"
    found = alexnet.load("tiny").predict(path, 3)
    assert len(found) == 3 and all(0 < p.probability < 0.1 for p in found)
    assert numbers(alexnet.load("tiny", seed=0).predict(path, 3)) == numbers(found)
    assert numbers(alexnet.load("tiny", seed=1).predict(path, 3)) != numbers(found)
    with pytest.raises(UsageError, match="no variant of that name"):
        alexnet.load("tinny")
