"""Scores against scikit-learn and scipy, the ten views against a loop by hand."""

import math
import os
import signal
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, log_loss, top_k_accuracy_score

from alexnet import stop
from alexnet.data.sources import open_source
from alexnet.errors import BadImage, DataError, Stopped
from alexnet.evaluation.predictions import write_predictions
from alexnet.evaluation.score import Answers, answer, average, score, wilson
from alexnet.network.build import build
from alexnet.weights.run import preprocess_of

SIDE, STORED = 64, 73


def answers(probabilities, labels, *, bad=()) -> Answers:
    p = np.asarray(probabilities, np.float32)
    reasons = {row: BadImage(f"{row}.jpg", "broken") for row in bad}
    return Answers(p, np.asarray(labels, np.int64), [f"{row}.jpg" for row in range(len(p))], reasons, 1)


def random_answers(count: int, classes: int, seed: int = 0) -> Answers:
    draw = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), draw.integers(0, classes, count - classes)])
    logits = draw.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]
    return answers(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels)


@pytest.mark.parametrize(
    ("correct", "count"), [(0, 1), (1, 1), (0, 40), (40, 40), (1, 7), (367, 459), (50_000, 99_999)]
)
def test_the_interval_is_wilsons(correct, count):
    theirs = binomtest(correct, count).proportion_ci(0.95, method="wilson")
    assert wilson(correct, count) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize("classes", [6, 30])
def test_against_scikit_learn(classes):
    given = random_answers(400, classes)
    found, every = score(given), np.arange(classes)
    p, y = given.probabilities.astype(np.float64), given.labels
    assert found.top1 == pytest.approx(top_k_accuracy_score(y, p, k=1, labels=every))
    assert found.top5 == pytest.approx(top_k_accuracy_score(y, p, k=5, labels=every))
    assert found.mean_class_accuracy == pytest.approx(balanced_accuracy_score(y, p.argmax(1)))
    assert found.loss == pytest.approx(log_loss(y, p / p.sum(1, keepdims=True), labels=every), rel=1e-5)
    assert 0.05 < found.top1 < found.top5 < 1
    document = found.to_json()
    assert document["top1_error"] == 1 - document["top1"] and document["top5_error"] == 1 - document["top5"]
    assert document["top1_interval"] == list(wilson(found.correct1, 400))


def test_a_class_that_does_not_occur_has_no_accuracy():
    # class 0: one of two right; class 2: one of one; class 1 never occurs
    found = score(answers([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]], [0, 0, 2]))
    assert found.mean_class_accuracy == pytest.approx((0.5 + 1.0) / 2)
    assert found.class_count.tolist() == [2, 0, 1] and found.class_correct.tolist() == [1, 0, 1]


def test_among_equals_the_lower_index_is_first():
    flat = np.full((7, 7), 1 / 7)
    given = answers(flat, range(7))
    assert given.ranks().tolist() == [0, 1, 2, 3, 4, 5, 6]
    found = score(given)
    assert found.correct1 == 1 and found.correct5 == 5
    # a network that says nothing is at chance over evenly many pictures, not always right and not always wrong
    assert score(answers(np.full((70, 7), 1 / 7), np.arange(70) % 7)).top1 == pytest.approx(1 / 7)


def test_a_bad_image_is_wrong_and_counted():
    p = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]
    whole, found = score(answers(p, [0, 0, 1])), score(answers(p, [0, 0, 1], bad=[1]))
    assert whole.correct1 == 3 and found.correct1 == 2 and found.correct5 == 2
    assert found.count == 3 and found.bad_images == 1 and found.top1 == pytest.approx(2 / 3)
    assert found.loss == pytest.approx(-(math.log(0.9) + math.log(0.7)) / 2)
    with pytest.raises(DataError, match="none of 3 pictures"):
        score(answers(p, [0, 0, 1], bad=[0, 1, 2]))


def test_an_answer_that_is_no_number_is_wrong():
    found = score(answers([[math.nan] * 3, [math.nan] * 3, [0.2, 0.7, 0.1]], [0, 2, 1]))
    assert found.correct1 == 1 and found.correct5 == 1 and found.class_correct.tolist() == [0, 1, 0]
    assert math.isnan(found.loss)


def test_an_ensemble_is_the_mean_of_softmaxes():
    logits = np.random.default_rng(0).normal(size=(3, 50, 8)) * 3
    labels = np.arange(50) % 8
    softmaxes = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    found = average([answers(p, labels) for p in softmaxes])
    assert np.abs(found.probabilities - softmaxes.mean(0)).max() < 1e-6
    # not the softmax of the mean logit, which says something else of some pictures
    assert (found.probabilities.argmax(1) != logits.mean(0).argmax(1)).any()
    assert np.array_equal(found.probabilities.argmax(1), softmaxes.mean(0).argmax(1))


def test_nothing_to_evaluate_is_a_data_error():
    with pytest.raises(DataError, match="no image"):
        score(answers(np.zeros((0, 3)), []))


def test_predictions_are_read_back(tmp_path):
    given = replace(random_answers(40, 12), bad={3: BadImage("3.jpg", "broken")})
    with pytest.raises(FileNotFoundError):  # a run folder that is gone is not made again
        write_predictions(tmp_path / "gone" / "deep" / "val.parquet", given)
    assert not (tmp_path / "gone").exists()
    write_predictions(tmp_path / "deep" / "val.parquet", given)
    table = pq.read_table(tmp_path / "deep" / "val.parquet").to_pydict()
    assert set(table) >= {"key", "label", "top5", "probability", "loss"}
    assert table["key"] == given.keys and table["label"] == given.labels.tolist()
    p = given.probabilities
    for row in range(40):
        by_hand = sorted(range(12), key=lambda k: (-p[row, k], k))[:5]
        assert table["top5"][row] == by_hand
        assert table["probability"][row] == [p[row, k] for k in by_hand]
        assert table["loss"][row] == pytest.approx(-math.log(p[row, given.labels[row]]), rel=1e-5)
    assert table["bad"] == [row == 3 for row in range(40)]
    write_predictions(tmp_path / "two.parquet", random_answers(5, 2))
    assert len(pq.read_table(tmp_path / "two.parquet")["top5"][0]) == 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures in their stored form already: what the network is given, a test can cut itself."""
    root = tmp_path_factory.mktemp("pictures")
    for k in range(3):
        (root / f"c{k}").mkdir()
        for i in range(5):
            noise = np.random.default_rng(7 * k + i).integers(0, 256, (STORED, STORED, 3), np.uint8)
            Image.fromarray(noise).save(root / f"c{k}" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def network():
    """A network of large weights, whose answers differ from picture to picture; its record and mean image."""
    model = build("tiny", classes=3, seed=1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("weight"):
                value.mul_(8)
    mean = np.random.default_rng(3).uniform(90, 160, (STORED, STORED, 3)).astype(np.float32)
    return model.eval(), preprocess_of(model.variant), mean


def test_ten_views_are_the_mean_of_ten_softmaxes(folder, network):
    model, record, mean = network
    samples = open_source(folder)
    found = {views: answer(model, samples, record, mean, views=views) for views in (1, 5, 10)}
    e, m = STORED - SIDE, (STORED - SIDE) // 2
    corners = [(m, m), (0, 0), (0, e), (e, 0), (e, e)]
    for row in range(len(samples)):
        pixels = np.asarray(Image.open(samples.path(row))).astype(np.float32)
        said = {True: [], False: []}
        for mirrored in (False, True):
            for y, x in corners:
                crop = pixels[y : y + SIDE, x : x + SIDE]
                crop = (crop[:, ::-1] if mirrored else crop) - mean[m : m + SIDE, m : m + SIDE]
                with torch.no_grad():
                    logits = model(torch.from_numpy(crop.transpose(2, 0, 1).copy())[None])[0].double().numpy()
                said[mirrored].append(np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum())
        for views, by_hand in (
            (1, said[False][0]),
            (5, np.mean(said[False], 0)),
            (10, np.mean(said[False] + said[True], 0)),
        ):
            assert np.abs(found[views].probabilities[row] - by_hand).max() < 1e-5, (row, views)
    assert np.abs(found[1].probabilities - found[10].probabilities).max() > 1e-3, "the views make no difference here"
    assert np.ptp(found[1].probabilities, axis=0).max() > 1e-3, "the pictures make no difference here"


def test_the_batch_size_and_threads_change_no_score(folder, network):
    model, record, mean = network
    samples = open_source(folder)
    first = answer(model, samples, record, mean)
    for size, threads in ((1, 0), (4, 3), (1000, 1)):
        other = answer(model, samples, record, mean, batch_size=size, threads=threads)
        assert np.abs(first.probabilities - other.probabilities).max() < 1e-5
        assert np.array_equal(first.ranks(), other.ranks()) and first.keys == other.keys
        a, b = score(first), score(other)
        assert (a.correct1, a.correct5, a.count) == (b.correct1, b.correct5, b.count)
        assert a.loss == pytest.approx(b.loss, rel=1e-5)


def test_bad_images_in_an_evaluation(folder, network, tmp_path):
    model, record, mean = network
    for k in range(3):
        (tmp_path / f"c{k}").mkdir()
        for i in range(2):
            cut = 50 if (k, i) == (1, 0) else None
            (tmp_path / f"c{k}" / f"{i}.png").write_bytes((folder / f"c{k}" / f"{i}.png").read_bytes()[:cut])
    samples = open_source(tmp_path)
    with pytest.raises(BadImage, match=r"c1/0\.png"):
        answer(model, samples, record, mean)
    found = answer(model, samples, record, mean, bad_images="skip", batch_size=2)
    assert list(found.bad) == [2] and score(found).count == 6 and score(found).class_correct[1] <= 1
    whole = answer(model, open_source(folder), record, mean)
    assert np.abs(found.probabilities[3] - whole.probabilities[6]).max() < 1e-5, "the rows behind have moved"


def test_the_model_is_left_as_it_was(folder, network):
    model, record, mean = network
    for training in (True, False):
        model.train(training)
        answer(model, open_source(folder), record, mean)
        assert model.training is training
    model.eval()


def test_a_signal_ends_it(folder, network):
    with stop.watch(), pytest.raises(Stopped):
        os.kill(os.getpid(), signal.SIGTERM)
        answer(network[0], open_source(folder), network[1], network[2])


def test_stored_forms_of_another_kind_are_refused(folder, network):
    ours = network[1].shaping
    for other in (ours._replace(stored=32), ours._replace(filter="box"), ours._replace(exif=not ours.exif)):
        with pytest.raises(DataError, match="a pack of stored forms"):
            answer(network[0], replace(open_source(folder), shaping=other), network[1], network[2])
