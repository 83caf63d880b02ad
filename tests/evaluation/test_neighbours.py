"""Neighbours against a search that computes every distance, one by one."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet.data.sources import open_images, open_source
from alexnet.errors import BadImage, DataError, UsageError
from alexnet.evaluation import neighbours as searching
from alexnet.evaluation.feature_files import read_features
from alexnet.evaluation.features import extract, gather
from alexnet.evaluation.neighbours import faiss_nearest_of, nearest, nearest_of, neighbours
from alexnet.weights.run import open_run
from tests.pictures import write_folder


def brute(queries: np.ndarray, among: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    q, x = queries.astype(np.float64), among.astype(np.float64)
    distances = np.empty((len(q), len(x)))
    for i in range(len(q)):
        for j in range(len(x)):
            if metric == "euclidean":
                distances[i, j] = np.sqrt(((q[i] - x[j]) ** 2).sum())
            else:
                lengths = np.sqrt((q[i] ** 2).sum()) * np.sqrt((x[j] ** 2).sum())
                distances[i, j] = 1 - (q[i] * x[j]).sum() / lengths if lengths else 1
    order = np.argsort(distances, 1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, 1)


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Rows far from zero, where a difference of squares loses its digits; some stand twice or thrice."""
    random = np.random.default_rng(0)
    among = (random.normal(size=(200, 40)) + 1000).astype(np.float32)
    among[[7, 50, 199]] = among[120]
    among[60:80] = among[59] + random.normal(size=(20, 40)).astype(np.float32) * 1e-3
    queries = np.concatenate([among[[120, 59, 3]], (random.normal(size=(20, 40)) + 1000).astype(np.float32)])
    return queries, among


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("block", [1 << 23, 1000, 1])
def test_neighbours_are_those_of_a_search_one_by_one(metric, block, rows, monkeypatch):
    monkeypatch.setattr(searching, "BLOCK", block)
    queries, among = rows
    indices, distances = nearest(queries, among, k=6, metric=metric)
    expected, far = brute(queries, among, 6, metric)
    assert indices.dtype == np.int64 and distances.dtype == np.float32 and indices.shape == distances.shape == (23, 6)
    assert (indices == expected).all()
    np.testing.assert_allclose(distances, far, rtol=1e-5, atol=1e-9)
    assert indices[0, :4].tolist() == [7, 50, 120, 199] and (distances[0, :4] == 0).all()


def test_rows_of_zeros_and_few_rows(rows):
    queries, among = rows
    zeros = np.zeros((1, 40), np.float32)
    indices, distances = nearest(
        np.concatenate([zeros, queries[:1]]), np.concatenate([zeros, among]), k=2, metric="cosine"
    )
    assert indices[0].tolist() == [0, 1] and (distances[0] == 1).all()
    indices, distances = nearest(zeros, np.concatenate([among[:2], zeros]), k=6)
    assert indices.shape == (1, 3) and indices[0, 0] == 2 and distances[0, 0] == 0
    assert nearest(zeros[:0], among, k=3)[0].shape == (0, 3)
    for wrong, says in (({"k": 0}, "-k 0"), ({"k": 1, "metric": "manhattan"}, "--metric manhattan")):
        with pytest.raises(UsageError, match=says):
            nearest(zeros, among, **wrong)
    with pytest.raises(UsageError, match=r"\(40,\) to search, of \(39,\)"):
        nearest(zeros[:, 1:], among, k=1)


def test_blocks_that_come_one_by_one_are_one_search(rows):
    queries, among = rows
    for cuts in ([3, 150], [1, 2, 3, 4], list(range(1, 200))):
        found = nearest_of(queries, np.split(among, cuts), k=6)
        assert all((one == other).all() for one, other in zip(found, nearest(queries, among, k=6), strict=True))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_faiss_finds_the_same(metric, monkeypatch):
    random = np.random.default_rng(1)
    among, queries = (random.normal(size=(n, 64)).astype(np.float32) for n in (500, 30))
    found = faiss_nearest_of(queries, np.split(among, [100, 101]), k=6, metric=metric)
    expected = nearest(queries, among, k=6, metric=metric)
    assert (found[0] == expected[0]).all()
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-5)
    assert faiss_nearest_of(queries, [among[:4]], k=6)[0].shape == (30, 4)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UsageError, match=r"pip install 'alexnet\[faiss\]'"):
        faiss_nearest_of(queries, [among], k=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures") / "set", classes=3, each=8)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("others") / "set", classes=3, each=1, seed=5)


def test_pictures_among_a_folder_and_among_its_features(folder, other, tmp_path):
    loaded, among, queries = open_run("tiny"), open_source(folder), open_images(other)
    for layers, name in ((["fc7"], "f.npy"), (["classifier.4", "conv5:relu"], "g.npz")):
        extract(loaded, among, layers, tmp_path / name, source="set", batch_size=24, threads=1)
    for layer in (None, "conv5:relu"):
        asked = layer or "fc7"
        q, x = (gather(loaded, one, [asked], batch_size=24, threads=1).matrix(asked) for one in (queries, among))
        expected, far = brute(q, x, 4, "euclidean")
        found, _ = neighbours(loaded, queries, among, layer=layer, k=4, batch_size=24, threads=1)
        assert [path for path, _ in found] == queries.keys()
        for (_, near), indices, distances in zip(found, expected, far, strict=True):
            assert [one.path for one in near] == [str(folder / among.keys()[i]) for i in indices]
            assert [one.label for one in near] == [f"class{among.label[i]}" for i in indices]
            np.testing.assert_allclose([one.distance for one in near], distances, rtol=1e-3)
        files = ["g.npz"] if layer else ["f.npy", "g.npz"]
        for index in ("exact", "faiss"):
            for name in files:
                there, _ = neighbours(loaded, queries, read_features(tmp_path / name), layer=layer, k=4, index=index,
                                      batch_size=24, threads=1)  # fmt: skip
                assert [[one.path for one in near] for _, near in there] == [
                    [str(Path(one.path).relative_to(folder)) for one in near] for _, near in found
                ]
    unlabelled, _ = neighbours(loaded, queries, open_images(folder), k=1, batch_size=24, threads=1)
    assert all(near[0].label is None for _, near in unlabelled)


def test_features_of_several_views_are_searched_by_their_mean(folder, other, tmp_path):
    loaded, among, queries = open_run("tiny"), open_source(folder), open_images(other)
    for name, mean in (("each.npz", False), ("mean.npz", True)):
        extract(loaded, among, ["fc7"], tmp_path / name, source="set", views=10, mean=mean, threads=1)
    found = [
        neighbours(loaded, queries, read_features(tmp_path / name), k=3, threads=1)[0]
        for name in ("each.npz", "mean.npz")
    ]
    assert [[one.path for one in near] for _, near in found[0]] == [[one.path for one in near] for _, near in found[1]]
    values = [gather(loaded, one, ["fc7"], views=10, threads=1).values["fc7"].mean(1) for one in (queries, among)]
    expected = brute(values[0], values[1], 3, "euclidean")[0]
    assert [[one.path for one in near] for _, near in found[0]] == [[among.keys()[i] for i in row] for row in expected]


def test_what_cannot_be_searched_is_refused(folder, other, tmp_path):
    loaded, among, queries = open_run("tiny"), open_source(folder), open_images(other)
    extract(loaded, among, ["fc6", "fc8"], tmp_path / "f.npz", source="set", threads=1)
    there = read_features(tmp_path / "f.npz")
    for options, says in (
        ({}, "holds no layer fc7; it holds fc6, fc8"),
        ({"layer": "fc6:relu"}, "holds no layer fc6:relu"),
        ({"layer": "fc9"}, "has no layer 'fc9'"),
        ({"k": 0}, "-k 0"),
        ({"index": "annoy"}, "--index annoy"),
        ({"metric": "manhattan"}, "--metric manhattan"),
    ):
        with pytest.raises(UsageError, match=says):
            neighbours(loaded, queries, there, threads=1, **options)
    other_scale = open_run("tiny")
    other_scale.preprocess = dataclasses.replace(loaded.preprocess, std=(2.0, 2.0, 2.0))
    for another in (open_run("tiny", seed=1), other_scale):
        with pytest.raises(UsageError, match="features of another network or preparation"):
            neighbours(another, queries, there, layer="fc6", threads=1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("index", ["exact", "faiss"])
def test_features_that_are_not_finite_are_named(value, index, folder, other, tmp_path, monkeypatch):
    monkeypatch.setattr(searching, "BLOCK", 512 * 5)
    loaded, queries = open_run("tiny"), open_images(other)
    extract(loaded, open_source(folder), ["fc7"], tmp_path / "f.npy", source="set", threads=1)
    np.lib.format.open_memmap(tmp_path / "f.npy", "r+")[17, 3] = value
    key = open_source(folder).keys()[17]
    with pytest.raises(DataError, match=rf"f\.npy: fc7: the values of {key} are not finite numbers"):
        neighbours(loaded, queries, read_features(tmp_path / "f.npy"), index=index, threads=1)


def test_a_bad_query_is_named_and_bad_ones_to_search_may_be_left_out(folder, other, tmp_path):
    loaded = open_run("tiny")
    shutil.copytree(folder, tmp_path / "set")
    (tmp_path / "set" / "class0" / "000.png").write_bytes(b"no picture")
    among, queries = open_source(tmp_path / "set"), open_images(other)
    with pytest.raises(BadImage, match="class0/000.png: .*; --bad-images skip leaves such pictures out"):
        neighbours(loaded, queries, among, threads=1)
    found, bad = neighbours(loaded, queries, among, k=30, bad_images="skip", threads=1)
    assert [one.path for one in bad] == [str(tmp_path / "set" / "class0" / "000.png")]
    paths = {one.path for one in found[0][1]}
    assert len(paths) == 23 and all(Path(path).read_bytes() != b"no picture" for path in paths)
    labels = {one.path: one.label for one in found[0][1]}
    assert all(Path(path).parent.name == label for path, label in labels.items())
    with pytest.raises(BadImage, match="class0/000.png") as caught:
        neighbours(loaded, open_images(tmp_path / "set"), open_source(folder), bad_images="skip", threads=1)
    assert "--bad-images" not in str(caught.value)
    for path in (tmp_path / "set").rglob("*.*"):
        path.write_bytes(b"no picture")
    for index in ("exact", "faiss"):
        with pytest.raises(DataError, match="none of 24 pictures can be decoded; the first: .*class0/000.png"):
            neighbours(loaded, queries, among, index=index, bad_images="skip", threads=1)


def test_a_search_does_not_need_faiss():
    program = "import sys\nimport alexnet.evaluation.neighbours\nassert 'faiss' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert {field.name for field in dataclasses.fields(searching.Neighbour)} == {"path", "label", "distance"}
