"""The confusion matrix against scikit-learn's; legible with five classes and with a thousand."""

import time

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from alexnet.data.classes import Classes, imagenet_classes
from alexnet.evaluation.predictions import Predictions
from alexnet.look.confusion import NAMED, Confused, coarse, confused, draw_confusion
from alexnet.look.figures import style
from tests.look.words import crowded, said


def predictions(labels, first, bad=()):
    labels, first = np.asarray(labels, np.int64), np.asarray(first, np.int64)
    n = len(labels)
    left_out = np.zeros(n, bool)
    left_out[list(bad)] = True
    return Predictions(
        [str(i) for i in range(n)],
        labels,
        first[:, None],
        np.ones((n, 1), np.float32),
        np.zeros(n, np.float32),
        left_out,
    )


def pairs(counts):
    true, said = np.nonzero(counts)
    return Confused(true, said, counts[true, said])


def dense(found, classes):
    made = np.zeros((classes, classes), np.int64)
    made[found.true, found.said] = found.count
    return made


def test_the_matrix_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels, first = rng.integers(0, 7, 500), rng.integers(0, 7, 500)
    found = dense(confused(predictions(labels, first), 7), 7)
    assert np.array_equal(found, confusion_matrix(labels, first, labels=range(7)))
    found = dense(confused(predictions(labels, first, bad=range(100)), 7), 7)
    assert np.array_equal(found, confusion_matrix(labels[100:], first[100:], labels=range(7)))


def test_every_number_stands_in_a_small_one():
    counts = np.array([[30, 2, 0], [1, 7, 9], [0, 0, 1200]])
    with style():
        figure = draw_confusion(pairs(counts), Classes.of(["a", "$b_{$", "<c>"]), bad=4)
        assert crowded(figure) == []
    words = said(figure)
    assert {"30", "2", "1", "7", "9", "1,200", "a  32", "$b_{$  17", "<c>  1,200"} <= set(words) and "0" not in words
    assert "1,249 pictures, 99.0 % right (4 not decoded)" in words
    assert [word for word in words if word.replace(",", "").isdigit()] == [
        "30",
        "2",
        "1",
        "7",
        "9",
        "1,200",
    ]  # in place
    (image,) = figure.axes[0].get_images()
    assert np.allclose(image.get_array(), counts / counts.sum(1, keepdims=True))


@pytest.mark.parametrize("count", [2, 7, 15, NAMED])
def test_names_have_room(count):
    names = Classes.of(f"the class of number {i}, whose name is long" for i in range(count))
    with style():
        figure = draw_confusion(pairs(np.full((count, count), 12)), names)
        assert crowded(figure) == [] and figure.get_size_inches()[0] < 9.6


def test_a_thousand_classes_are_a_picture_and_the_worst_by_name():
    counts = 25 * np.eye(1000, dtype=np.int64)
    counts[2, 3], counts[400, 401], counts[999, 0] = 20, 30, 10
    begin = time.monotonic()
    with style():
        figure = draw_confusion(pairs(counts), imagenet_classes())
        assert crowded(figure) == []
    assert time.monotonic() - begin < 5
    named = [word.strip() for word in said(figure) if "→" in word and "true" not in word]
    assert named == ["academic gown → accordion", "great white shark → tiger shark", "toilet tissue → tench"]
    assert [word for word in said(figure) if " of " in word][-3:] == ["30 of 55", "20 of 45", "10 of 35"]


def test_a_coarse_matrix_hides_no_confusion():
    counts = np.zeros((1001, 1001), np.int64)
    counts[np.arange(1001), np.arange(1001)] = 4
    counts[7, 993] = 1
    shown = coarse(pairs(counts), 1001, 250)
    assert shown.shape == (250, 250) and (np.diag(shown) > 0).all() and shown[1, 248] == pytest.approx(0.2)
    assert (shown > 0).sum() == 251
    assert np.array_equal(coarse(pairs(counts[:3, :3]), 3, 3), np.eye(3))


def test_twenty_thousand_classes_need_no_matrix():
    labels = np.arange(21_841).repeat(2)
    first = np.where(np.arange(len(labels)) % 7, labels, 0)
    with style():
        figure = draw_confusion(confused(predictions(labels, first), 21_841), Classes.of(map(str, range(21_841))))
        assert crowded(figure) == []
    assert "43,682 pictures, 85.7 % right" in said(figure)


def test_no_mistake_at_all_is_drawn_too():
    with style():
        assert crowded(draw_confusion(pairs(np.eye(60, dtype=np.int64)), Classes.of(map(str, range(60))))) == []
        assert crowded(draw_confusion(pairs(np.eye(2, dtype=np.int64)), Classes.of("ab"))) == []
