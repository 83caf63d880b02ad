"""RDMs and CKA against SciPy and the formulas written out; two runs against a count by hand."""

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.spatial.distance import pdist
from scipy.stats import binomtest, pearsonr, spearmanr

from alexnet.data.classes import Classes
from alexnet.errors import BadImage, DataError, UsageError
from alexnet.evaluation import compare as comparing
from alexnet.evaluation.compare import cka, compare_features, compare_runs, gram, kind_of_pair
from alexnet.evaluation.feature_files import About, Features
from alexnet.evaluation.predict import load
from alexnet.evaluation.score import wilson
from alexnet.training import start
from alexnet.training.adopt import adopt
from alexnet.training.start import Asked
from alexnet.weights.run import Run, open_run
from tests.pictures import write_folder


def features(values: dict[str, np.ndarray], keys: list[str] | None = None, where: str = "a") -> Features:
    count = len(next(iter(values.values())))
    about = About("run", "tiny", "0" * 64, {}, {name: name for name in values}, {name: [*one.shape[1:]] for name, one in values.items()},
                  1, False, "float32", 64, "cpu", "set", "1" * 64, [])  # fmt: skip
    return Features(
        where, about, keys or [f"{i}.jpg" for i in range(count)], np.full(count, -1), Classes((), ()), values
    )


@pytest.fixture(scope="module")
def pair() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Two representations of 60 pictures that have something in common, far from zero and in float32."""
    random = np.random.default_rng(0)
    hidden = random.normal(size=(60, 9))

    def seen(width: int) -> np.ndarray:
        return (hidden @ random.normal(size=(9, width)) + random.normal(size=(60, width)) + 5).astype(np.float32)

    return {"conv": seen(48).reshape(60, 3, 4, 4), "fc": seen(31)}, {"fc": seen(70), "wide": seen(501)}


def kornblith(x: np.ndarray, y: np.ndarray) -> float:
    """By the features, not by the inner products of pictures."""
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(y.T @ x, "fro") ** 2 / (np.linalg.norm(x.T @ x, "fro") * np.linalg.norm(y.T @ y, "fro"))


@pytest.mark.parametrize("metric", ["correlation", "euclidean", "cosine"])
@pytest.mark.parametrize("block", [1 << 22, 700])
def test_rdm_and_cka_are_scipys_and_the_formulas(metric, block, pair, monkeypatch):
    monkeypatch.setattr(comparing, "BLOCK", block)
    result = compare_features(features(pair[0]), features(pair[1], where="b"), metric=metric)
    assert [(row["a"], row["b"]) for row in result["layers"]] == [
        ("conv", "fc"), ("conv", "wide"), ("fc", "fc"), ("fc", "wide"),
    ]  # fmt: skip
    assert (result["a"], result["b"], result["common"], result["count"]) == ("a", "b", 60, 60)
    for row in result["layers"]:
        x, y = (
            side[name].reshape(60, -1).astype(np.float64) for side, name in zip(pair, (row["a"], row["b"]), strict=True)
        )
        one, other = pdist(x, metric), pdist(y, metric)
        assert row["rdm_pearson"] == pytest.approx(pearsonr(one, other).statistic, abs=1e-6)
        assert row["rdm_spearman"] == pytest.approx(spearmanr(one, other).statistic, abs=1e-6)
        assert row["cka"] == pytest.approx(kornblith(x, y), abs=1e-6)
        np.testing.assert_allclose(gram(x, np.arange(60)).rdm(metric), one, atol=1e-6)
        assert 0.05 < row["cka"] < 0.99 and 0.05 < row["rdm_pearson"] < 0.99


def test_a_turned_and_scaled_representation_is_the_same_to_cka(pair):
    x = pair[0]["fc"].astype(np.float64)
    turned = np.linalg.qr(np.random.default_rng(2).normal(size=(31, 31)))[0]
    rows = np.arange(60)
    assert cka(gram(x, rows), gram(3 * x @ turned + 7, rows)) == pytest.approx(1, abs=1e-9)
    assert cka(gram(x, rows), gram(x**3, rows)) < 0.95


def test_pictures_are_matched_by_name_in_any_order(pair):
    keys = [f"{i}.jpg" for i in range(60)]
    order = np.random.default_rng(1).permutation(60)[:50]
    moved = features({name: one[order] for name, one in pair[1].items()}, [keys[i] for i in order], "b")
    result = compare_features(features(pair[0]), moved)
    rows = np.sort(order)
    assert result["common"] == result["count"] == 50
    x, y = pair[0]["fc"][rows].astype(np.float64), pair[1]["wide"][rows].astype(np.float64)
    assert result["layers"][3]["cka"] == pytest.approx(kornblith(x, y), abs=1e-6)
    fewer = compare_features(features(pair[0]), moved, pictures=20)
    assert (fewer["common"], fewer["count"]) == (50, 20)
    chosen = rows[np.unique(np.linspace(0, 49, 20).astype(int))]
    x, y = pair[0]["fc"][chosen].astype(np.float64), pair[1]["wide"][chosen].astype(np.float64)
    assert fewer["layers"][3]["rdm_spearman"] == pytest.approx(
        spearmanr(pdist(x, "correlation"), pdist(y, "correlation")).statistic, abs=1e-6
    )


def test_layers_are_chosen_by_name(pair):
    a, b = features(pair[0]), features(pair[1], where="b")
    assert [(row["a"], row["b"]) for row in compare_features(a, b, layers=["fc"])["layers"]] == [("fc", "fc")]
    assert [(row["a"], row["b"]) for row in compare_features(a, b, layers=["conv"])["layers"]] == [
        ("conv", "fc"), ("conv", "wide"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="--layers fc9: in neither; a holds conv, fc, b fc, wide"):
        compare_features(a, b, layers=["fc9"])


def test_what_cannot_be_compared_says_so(pair):
    a = features(pair[0])
    with pytest.raises(DataError, match="2 pictures of the same name in both, of 60 and 60"):
        compare_features(a, features(pair[1], [f"{i + 58}.jpg" for i in range(60)], "b"))
    dead = pair[1]["fc"].copy()
    dead[7] = 3.5
    with pytest.raises(DataError, match="b: fc: all values of 7.jpg are alike.* no correlation"):
        compare_features(a, features({"fc": dead}, where="b"))
    assert compare_features(a, features({"fc": dead}, where="b"), metric="euclidean")["count"] == 60
    dead[7] = 0
    with pytest.raises(DataError, match="7.jpg"):
        compare_features(a, features({"fc": dead}, where="b"), metric="cosine")
    same = np.repeat(pair[1]["fc"][:1], 60, 0)
    for metric in ("correlation", "euclidean", "cosine"):
        with pytest.raises(DataError, match="b: fc: all 60 pictures have the same values"):
            compare_features(a, features({"fc": same}, where="b"), metric=metric)
    for options, says in (
        ({"metric": "l1"}, "--metric l1"),
        ({"pictures": 2}, "--pictures 2"),
        ({"pictures": 5001}, "--pictures 5001: must be at least 3 and at most 5000"),
    ):
        with pytest.raises(UsageError, match=says):
            compare_features(a, a, **options)
    for value in (np.nan, np.inf, -np.inf):
        broken = pair[1]["fc"].copy()
        broken[7, 2] = value
        for metric in ("correlation", "euclidean", "cosine"):
            with pytest.raises(DataError, match="b: fc: the values of 7.jpg are not finite numbers"):
                compare_features(a, features({"fc": broken}, where="b"), metric=metric)
    one_hot = features({"fc": np.eye(60, dtype=np.float32)})
    with pytest.raises(DataError, match="a: fc: all pictures are as unlike"):
        compare_features(a, one_hot, metric="euclidean")


def train(data: Path, run: Path, **options) -> Path:
    base = Asked(
        data=str(data),
        run=str(run),
        variant="tiny",
        kernels="plain",
        batch_size=12,
        epochs=2,
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
def runs(tmp_path_factory, pictures) -> dict[str, Path]:
    """The same split twice, and another one."""
    place = tmp_path_factory.mktemp("runs")
    return {
        "a": train(pictures, place / "a"),
        "b": train(pictures, place / "b", lr=0.02, batch_size=6),
        "split": train(pictures, place / "split", seed=3),
    }


def by_hand(run: Path, pictures: Path, keys: list[str]) -> dict[str, str]:
    """The first class of each picture, one at a time."""
    predictor = load(run)
    return {key: predictor.predict(pictures / key, 1)[0].label for key in keys}


def test_two_runs_are_counted_by_hand(runs, pictures):
    keys = json.loads((runs["a"] / "data.json").read_text())["split"]["val_names"]
    result, notes = compare_runs(str(runs["a"]), str(runs["b"]), threads=1)
    first, second = (by_hand(runs[name], pictures, keys) for name in "ab")
    right = {
        name: {key for key in keys if said[key] == key.split("/")[0]} for name, said in (("a", first), ("b", second))
    }
    assert result["count"] == len(keys) == 12 and result["pictures"] == "held out" and not notes
    assert set(result["only_first_right"]) == right["a"] - right["b"]
    assert set(result["only_second_right"]) == right["b"] - right["a"]
    assert (result["both"], result["neither"]) == (len(right["a"] & right["b"]), 12 - len(right["a"] | right["b"]))
    one, other = result["only_first"], result["only_second"]
    assert (one, other) == (len(right["a"] - right["b"]), len(right["b"] - right["a"])) and one + other > 0
    assert result["p"] == pytest.approx(binomtest(one, one + other).pvalue)
    assert result["agreement"] == pytest.approx(sum(first[key] == second[key] for key in keys) / 12)
    assert result["a"]["top1"] == pytest.approx(len(right["a"]) / 12)
    assert result["b"]["top1_interval"] == list(wilson(len(right["b"]), 12))


def test_of_two_splits_only_what_both_held_out_counts(runs, pictures):
    held = {
        name: set(json.loads((runs[name] / "data.json").read_text())["split"]["val_names"]) for name in ("a", "split")
    }
    both = held["a"] & held["split"]
    assert 0 < len(both) < 12, "the splits show nothing"
    result, _ = compare_runs(str(runs["a"]), str(runs["split"]), threads=1)
    assert result["count"] == len(both) and result["pictures"] == "held out"
    assert set(result["only_first_right"]) | set(result["only_second_right"]) <= both
    whole, _ = compare_runs(str(runs["a"]), str(runs["split"]), data=str(pictures), threads=1)
    assert whole["count"] == len(both)


def test_pictures_that_neither_has_seen_and_those_that_one_was_trained_on(runs, pictures, tmp_path):
    unseen = write_folder(tmp_path / "unseen", classes=3, each=4, seed=9)
    result, _ = compare_runs(str(runs["a"]), str(runs["b"]), data=str(unseen), threads=1)
    assert result["count"] == 12 and result["pictures"] == "others"
    trained = tmp_path / "trained"
    held = json.loads((runs["a"] / "data.json").read_text())["split"]["val_names"]
    shutil.copytree(pictures, trained)
    for key in held:
        (trained / key).unlink()
    with pytest.raises(UsageError, match="was trained on these pictures; name --data"):
        compare_runs(str(runs["a"]), str(runs["b"]), data=str(trained), threads=1)
    elsewhere = train(write_folder(tmp_path / "elsewhere", classes=3, each=6, seed=4), tmp_path / "c", epochs=1)
    with pytest.raises(UsageError, match="holds out other pictures; name --data"):
        compare_runs(str(runs["a"]), str(elsewhere), threads=1)


def test_either_order_tells_what_a_run_was_trained_on(runs, pictures, tmp_path):
    """Of the whole folder the first holds out a part, the second was trained on all of it, the third on that part."""
    held = json.loads((runs["a"] / "data.json").read_text())["split"]["val_names"]
    for key in held:
        (tmp_path / "held" / key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures / key, tmp_path / "held" / key)
    for name, data in (("all", pictures), ("part", tmp_path / "held")):
        other = train(data, tmp_path / name, val_fraction=0, epochs=1)
        for pair in ((runs["a"], other), (other, runs["a"])):
            with pytest.raises(UsageError, match=f"{name}: was trained on these pictures; name --data"):
                compare_runs(*map(str, pair), data=str(pictures), threads=1)


def test_splits_that_hold_out_nothing_in_common_leave_nothing(runs, pictures, tmp_path):
    held = json.loads((runs["a"] / "data.json").read_text())["split"]["val_names"]
    apart = tmp_path / "apart"
    shutil.copytree(runs["b"], apart)
    said = json.loads((apart / "data.json").read_text())
    others = [path for path in sorted(pictures.rglob("*.png")) if path.relative_to(pictures).as_posix() not in held][
        :12
    ]
    said["split"]["val_names"] = [path.relative_to(pictures).as_posix() for path in others]
    said["val_sizes"] = [path.stat().st_size for path in others]
    (apart / "data.json").write_text(json.dumps(said))
    for pair in ((runs["a"], apart), (apart, runs["a"])):
        with pytest.raises(DataError, match="no picture to compare on"):
            compare_runs(*map(str, pair), data=str(pictures), threads=1)


def test_a_run_of_another_worlds_weights_is_compared_on_the_others_pictures(runs, pictures, tmp_path):
    loaded = open_run(runs["b"])
    adopt(loaded, Run(tmp_path / "imported"))
    assert json.loads((tmp_path / "imported" / "data.json").read_text()) == {}
    for pair in ((runs["a"], tmp_path / "imported"), (tmp_path / "imported", runs["a"])):
        result, _ = compare_runs(*map(str, pair), threads=1)
        assert result["count"] == 12 and result["pictures"] == "held out"
    expected, _ = compare_runs(str(runs["b"]), str(runs["a"]), threads=1)
    assert {name: result[name] for name in ("both", "only_first", "only_second", "agreement")} == {
        name: expected[name] for name in ("both", "only_first", "only_second", "agreement")
    }
    with pytest.raises(UsageError, match="name the pictures"):
        compare_runs(str(tmp_path / "imported"), str(tmp_path / "imported"), threads=1)


def test_pictures_that_cannot_be_decoded_are_wrong_and_no_agreement(runs, pictures, tmp_path):
    unseen = write_folder(tmp_path / "unseen", classes=3, each=4, seed=9)
    bad = ["class0/000.png", "class1/001.jpg", "class2/002.png"]
    keys = sorted(path.relative_to(unseen).as_posix() for path in unseen.rglob("*.*"))
    first, second = (by_hand(runs[name], unseen, [key for key in keys if key not in bad]) for name in "ab")
    for key in bad:
        (unseen / key).write_bytes(b"no picture")
    with pytest.raises(BadImage, match="class0/000.png"):
        compare_runs(str(runs["a"]), str(runs["b"]), data=str(unseen), threads=1)
    result, _ = compare_runs(str(runs["a"]), str(runs["b"]), data=str(unseen), threads=1, bad_images="skip")
    assert (result["count"], result["bad_images"]) == (12, 3) and result["neither"] >= 3
    assert result["agreement"] == pytest.approx(sum(first[key] == second[key] for key in first) / 9)
    assert result["a"]["top1"] == pytest.approx(sum(said == key.split("/")[0] for key, said in first.items()) / 12)
    for key in keys:
        (unseen / key).write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of 12 pictures can be decoded; the first: .*class0/000.png"):
        compare_runs(str(runs["a"]), str(runs["b"]), data=str(unseen), threads=1, bad_images="skip")


def test_scipys_statistics_are_imported_where_they_are_used():
    program = "import sys\nimport alexnet.evaluation.compare\nassert 'scipy.stats' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_two_names_are(runs, tmp_path):
    (tmp_path / "a.npz").write_bytes(b"")
    assert kind_of_pair(str(tmp_path / "a.npz"), str(tmp_path / "a.npz")) == "features"
    assert kind_of_pair(str(runs["a"]), "tiny") == "runs"
    for a, b, says in (
        (str(tmp_path / "a.npz"), str(runs["a"]), "two of one kind"),
        (str(tmp_path / "none.npz"), "tiny", "neither"),
        ("tiny", str(tmp_path), "neither"),
    ):
        with pytest.raises(UsageError, match=says):
            kind_of_pair(a, b)
    for options, says in (
        ({"views": 2}, "--views 2"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"threads": -1}, "--workers -1"),
    ):
        with pytest.raises(UsageError, match=says):
            compare_runs(str(runs["a"]), str(runs["b"]), **options)
