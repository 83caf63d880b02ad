"""Figures of classes against scikit-learn, label errors against confident learning written out over all classes."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from alexnet.errors import BadImage
from alexnet.evaluation.mistakes import likely_label_errors, pairs, per_class
from alexnet.evaluation.predictions import Predictions, read_predictions, write_predictions
from alexnet.evaluation.score import Answers, wilson
from tests.evaluation.test_score import random_answers


def kept(given: Answers, folder) -> Predictions:
    write_predictions(folder / "val.parquet", given)
    return read_predictions(folder / "val.parquet")


@pytest.mark.parametrize("classes", [5, 12])
def test_against_scikit_learn(tmp_path, classes):
    given = random_answers(300, classes)
    said, first = kept(given, tmp_path), given.probabilities.argmax(1)
    matrix = confusion_matrix(given.labels, first, labels=range(classes))
    found = pairs(said)
    dense = np.zeros((classes, classes), int)
    for pair in found:
        dense[pair.true, pair.said] = len(pair.rows)
        assert (given.labels[pair.rows] == pair.true).all() and (first[pair.rows] == pair.said).all()
        assert (np.diff(pair.rows) > 0).all()
    assert np.array_equal(dense, matrix)
    sizes = [len(pair.rows) for pair in found]
    assert sizes == sorted(sizes, reverse=True)
    precision, recall, _, count = precision_recall_fscore_support(
        given.labels, first, labels=range(classes), zero_division=np.nan
    )
    for label, one in enumerate(per_class(said, classes)):
        assert one.count == count[label] and one.recall == pytest.approx(recall[label])
        assert one.precision == pytest.approx(precision[label]) and one.said == (first == label).sum()
        assert one.interval == wilson(one.right, one.count)
        wrong = matrix[label].copy()
        wrong[label] = 0
        assert one.taken_for is not None and one.taken_for[1] == wrong.max() == wrong[one.taken_for[0]]


def test_a_class_that_is_absent_or_never_said_has_no_share(tmp_path):
    p = np.array([[0.9, 0.05, 0.05], [0.8, 0.1, 0.1]], np.float32)
    given = Answers(p, np.array([0, 1]), ["a", "b"], {}, 1)
    first, second, third = per_class(kept(given, tmp_path), 3)
    assert first.recall == 1 and first.precision == 0.5 and first.taken_for is None
    assert second.recall == 0 and second.precision is None and second.taken_for == (0, 1)
    assert third.recall is None and third.interval is None and third.taken_for is None


def test_a_picture_that_was_not_decoded_is_wrong_and_in_no_pair(tmp_path):
    given = replace(random_answers(30, 5), bad={4: BadImage("4.jpg", "broken")})
    said = kept(given, tmp_path)
    assert sum(len(pair.rows) for pair in pairs(said)) == 29
    figures = per_class(said, 5)
    assert sum(one.count for one in figures) == 30 and sum(one.said for one in figures) == 29
    assert 4 not in likely_label_errors(said, 5).rows


def confident(p: np.ndarray, labels: np.ndarray) -> dict[int, int]:
    """The off-diagonal of the confident joint, picture by picture, of those that the network says otherwise."""
    usual = [p[labels == k, k].mean() if (labels == k).any() else np.inf for k in range(p.shape[1])]
    found = {}
    for row, (own, label) in enumerate(zip(p, labels, strict=True)):
        likely = [k for k in range(len(own)) if own[k] >= usual[k]]
        if likely:
            looks = max(likely, key=lambda k: (own[k], -k))
            if looks != label and own.argmax() != label:
                found[row] = looks
    return found


@pytest.mark.parametrize("seed", range(4))
def test_label_errors_are_those_of_the_confident_joint(tmp_path, seed):
    given = random_answers(300, 5, seed)
    sharp = given.probabilities ** np.linspace(0.4, 4, 5)[given.labels][:, None]  # classes of unequal skill
    given = replace(given, probabilities=(sharp / sharp.sum(1, keepdims=True)).astype(np.float32))
    p = given.probabilities.astype(np.float64)
    found = likely_label_errors(kept(given, tmp_path), 5)
    assert dict(zip(found.rows.tolist(), found.looks_like.tolist(), strict=True)) == confident(p, given.labels)
    assert len(found.rows) > 10
    usual = np.array([p[given.labels == k, k].mean() for k in range(5)])
    sure = (p.argmax(1) == given.labels) & ((p >= usual) & (np.arange(5) != given.labels[:, None])).any(1)
    assert (sure & (p[np.arange(300), given.labels] < usual[given.labels])).any(), "none that only the answer clears"
    own = p[found.rows, given.labels[found.rows]]
    assert np.allclose(found.of_label, own, rtol=1e-5)
    assert np.allclose(found.probability, p[found.rows, found.looks_like])
    margin = own - p[found.rows].max(1)
    assert (np.diff(margin) > -1e-6).all(), "the likeliest is not the first"


def test_labels_that_were_exchanged_are_found(tmp_path):
    draw = np.random.default_rng(0)
    true = draw.integers(0, 20, 2000)
    logits = draw.normal(size=(2000, 20)) + 8 * np.eye(20)[true]  # a good network
    p = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    labels, wrong = true.copy(), draw.choice(2000, 60, replace=False)
    labels[wrong] = (true[wrong] + draw.integers(1, 20, 60)) % 20
    found = likely_label_errors(kept(Answers(p, labels, [str(row) for row in range(2000)], {}, 1), tmp_path), 20)
    assert len(set(found.rows.tolist()) & set(wrong.tolist())) >= 50
    assert set(found.rows[:50].tolist()) <= set(wrong.tolist())
    assert (found.looks_like[:50] == true[found.rows[:50]]).all()
