"""Probes against scikit-learn used by hand, and a nearest-neighbour vote counted one by one."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from alexnet.data.classes import Classes
from alexnet.data.sources import open_data
from alexnet.errors import DataError, UsageError
from alexnet.evaluation import probe as probing
from alexnet.evaluation.feature_files import About, Features
from alexnet.evaluation.probe import pooled, probe
from alexnet.evaluation.score import wilson
from tests.pictures import write_folder


def features(values, labels, classes=("a", "b", "c"), where="f", views=1) -> Features:
    about = About("run", "tiny", "0" * 64, {}, {name: name for name in values}, {name: [*one.shape[1:]] for name, one in values.items()},
                  views, False, "float32", 64, "cpu", "set", "1" * 64, [])  # fmt: skip
    keys = [f"{where}{i}.jpg" for i in range(len(labels))]
    return Features(where, about, keys, np.asarray(labels), Classes(classes, classes), values)


def drawn(count: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three classes a little apart, in columns of very unlike scale."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    centres = np.random.default_rng(0).normal(size=(3, 20))
    x = centres[labels] + random.normal(size=(count, 20)) * 1.5
    scales = np.logspace(-3, 3, 20)
    return {
        "fc": (x * scales).astype(np.float32),
        "noise": random.normal(size=(count, 2, 3, 3)).astype(np.float32),
    }, labels


@pytest.fixture(scope="module")
def train() -> Features:
    return features(*drawn(240, 1), where="train")


@pytest.fixture(scope="module")
def judged() -> Features:
    return features(*drawn(80, 2), where="judged")


def scaled(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = x.reshape(len(x), -1).astype(np.float64), y.reshape(len(y), -1).astype(np.float64)
    return (x - x.mean(0)) / x.std(0), (y - x.mean(0)) / x.std(0)


def test_the_votes_of_neighbours_and_a_linear_classifier(train, judged):
    result = probe(train, judged, k=5)
    assert result["train"] == 240 and result["test"] == 80 and result["classes"] == 3 and result["k"] == 5
    assert result["split"] == {"train": "train", "test": "judged"}
    for row, name in zip(result["layers"], ("fc", "noise"), strict=True):
        x, y = scaled(train.values[name], judged.values[name])
        votes = 0
        for q, label in zip(y, judged.labels, strict=True):
            near = train.labels[np.argsort(((x - q) ** 2).sum(1), kind="stable")[:5]]
            votes += int(np.bincount(near, minlength=3).argmax() == label)
        assert row["knn"]["top1"] == pytest.approx(votes / 80) and row["knn"]["top1_interval"] == list(
            wilson(votes, 80)
        )
        hits = int((LogisticRegression(max_iter=5000, tol=1e-6).fit(x, train.labels).predict(y) == judged.labels).sum())
        assert row["linear"]["top1"] == pytest.approx(hits / 80, abs=0.026) and row["linear"]["converged"]
    assert result["layers"][0]["linear"]["top1"] > 0.6 > 0.5 > result["layers"][1]["linear"]["top1"]
    commonest = np.bincount(train.labels).argmax()
    assert result["commonest"] == pytest.approx((judged.labels == commonest).mean())
    assert [row["layer"] for row in probe(train, judged, layers=["noise"])["layers"]] == ["noise"]


def test_of_one_file_some_are_held_out_as_training_draws_them(train, tmp_path):
    result = probe(train, fraction=0.25, seed=3)
    assert result["test"] == 60 and result["train"] == 180 and result["split"] == {"val_fraction": 0.25, "seed": 3}
    assert probe(train, fraction=0.25, seed=3) == result
    folder = write_folder(tmp_path / "set", classes=3, each=10)
    data = open_data(folder, val_fraction=0.2, seed=7)
    keys = [*data.train.keys(), *data.val.keys()]
    labels = np.concatenate([data.train.label, data.val.label])
    random = np.random.default_rng(0)
    # a layer that knows which pictures training holds out: the probe learns the others, and errs on just these
    held = np.array([False] * len(data.train) + [True] * len(data.val))
    told = np.eye(3, dtype=np.float32)[np.where(held, (labels + 1) % 3, labels)]
    order = random.permutation(30)
    one = features({"fc": told[order]}, labels[order])
    found = probe(
        Features(one.where, one.about, [keys[i] for i in order], one.labels, one.classes, one.values), seed=7, k=1
    )
    assert found["test"] == 6 and found["layers"][0]["knn"]["top1"] == found["layers"][0]["linear"]["top1"] == 0


def test_pictures_of_both_files_are_counted(train, judged):
    assert probe(train, judged)["shared_names"] == probe(train)["shared_names"] == 0
    keys = [*train.keys[:7], *judged.keys[7:]]
    both = Features("both", judged.about, keys, judged.labels, judged.classes, judged.values)
    assert probe(train, both)["shared_names"] == 7


def test_classes_are_matched_by_name(train, judged):
    names = ("c", "a", "b")
    moved = Features(
        "moved", judged.about, judged.keys, np.array([1, 2, 0])[judged.labels], Classes(names, names), judged.values
    )
    assert probe(train, moved)["layers"] == probe(train, judged)["layers"]
    other = Features(
        "other", judged.about, judged.keys, judged.labels, Classes(("a", "b", "z"), ("a", "b", "z")), judged.values
    )
    with pytest.raises(DataError, match="other: its classes"):
        probe(train, other)


def test_large_maps_are_averaged_over_areas(monkeypatch):
    random = np.random.default_rng(0)
    maps = random.normal(size=(5, 96, 55, 55)).astype(np.float32)
    assert pooled(maps).shape == (5, 96, 10, 10)
    np.testing.assert_allclose(pooled(maps), F.adaptive_avg_pool2d(torch.from_numpy(maps), 10), atol=1e-6)
    first = maps[:, :, :6, :6].mean((2, 3))  # of 55 rows in ten areas the first has 5.5, so six
    np.testing.assert_allclose(pooled(maps)[:, :, 0, 0], first, atol=1e-5)
    for same in (maps[:, :, :10, :10], random.normal(size=(5, 20_000)).astype(np.float32), maps[:, :, :1, :1]):
        assert np.array_equal(pooled(same), same)
    monkeypatch.setattr(probing, "AT_A_TIME", 2)
    assert np.array_equal(
        pooled(maps.astype(np.float16)), F.adaptive_avg_pool2d(torch.from_numpy(maps.astype(np.float16)).float(), 10)
    )


def test_of_several_views_the_mean_is_probed(train):
    views = np.stack([train.values["fc"] - 1, train.values["fc"] + 1], 1)
    found = probe(features({"fc": views}, train.labels, where="train", views=2))["layers"][0]
    assert found["knn"]["top1"] == probe(train)["layers"][0]["knn"]["top1"] and found["shape"] == [20]


def test_a_mean_of_views_is_made_once(train, monkeypatch):
    single, asked = Features.single, []
    monkeypatch.setattr(Features, "single", lambda self, layer: asked.append(layer) or single(self, layer))
    probe(train)
    assert asked == ["fc", "noise"]


def test_a_solver_that_has_not_converged_says_so(train, judged, monkeypatch):
    monkeypatch.setattr(probing, "MOST_STEPS", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not probe(train, judged)["layers"][0]["linear"]["converged"]


def test_what_cannot_be_probed_says_so(train, judged):
    unlabelled = Features("u", judged.about, judged.keys, np.full(80, -1), judged.classes, judged.values)
    with pytest.raises(DataError, match="u: pictures without labels"):
        probe(train, unlabelled)
    with pytest.raises(UsageError, match="holds no layer fc9; it holds fc, noise"):
        probe(train, judged, layers=["fc9"])
    for options, says in (
        ({"k": 0}, "-k 0"),
        ({"k": 241}, "-k 241.*the 240 pictures"),
        ({"fraction": 1.5}, "val_fraction"),
    ):
        with pytest.raises(UsageError, match=says):
            probe(train, None if "fraction" in options else judged, **options)
    for value in (np.nan, np.inf):
        broken = {name: one.copy() for name, one in judged.values.items()}
        broken["noise"][7, 1, 2, 0] = value
        bad = Features("broken", judged.about, judged.keys, judged.labels, judged.classes, broken)
        for pair in ((train, bad), (bad, train), (bad,)):
            with pytest.raises(DataError, match="broken: noise: the values of judged7.jpg are not finite numbers"):
                probe(*pair)
    alike = Features("alike", train.about, train.keys, np.zeros(240, np.int64), train.classes, train.values)
    with pytest.raises(DataError, match="alike: pictures of one class only"):
        probe(alike, judged)
    with pytest.raises(DataError, match="too few pictures"):
        probe(features({"fc": np.eye(3, dtype=np.float32)}, [0, 1, 2]))
