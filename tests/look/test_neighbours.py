"""Figure 4, right: the nearest against NumPy, the query itself not among them; and its left half."""

import numpy as np
import pytest
import torch

from alexnet.data.classes import Classes
from alexnet.data.sources import open_source
from alexnet.errors import DataError
from alexnet.look.figures import style
from alexnet.look.neighbours import draw_neighbours, nearest_pictures
from alexnet.look.pictures import stored_forms
from alexnet.look.predictions import draw_predictions, said_of
from alexnet.network.variants import TINY
from alexnet.weights.run import open_run
from tests.look.words import crowded, said
from tests.networks import lively
from tests.pictures import write_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = write_folder(tmp_path_factory.mktemp("pictures"), classes=3, each=8)
    (found / "class1" / "bad.png").write_bytes(b"no picture")
    return found


@pytest.fixture(scope="module")
def loaded():
    made = open_run("tiny")
    made.model.load_state_dict(lively(TINY, 1000).state_dict())
    return made


def features(loaded, samples, layer):
    from alexnet.data.augment import Normalise, test_views

    images = torch.from_numpy(stored_forms(samples, loaded))
    with torch.no_grad():
        x = test_views(images, Normalise(loaded.preprocess, loaded.mean, CPU), views=1)
        return loaded.model.trace(x, [layer])[layer].flatten(1).double().numpy()


@pytest.mark.parametrize(("layer", "name"), [("fc7", "fc7"), ("conv5:pool", "pool5")])
def test_the_nearest_are_numpys_without_the_query_itself(place, loaded, layer, name):
    among = open_source(place)
    good = [row for row in range(len(among)) if not among.key(row).endswith("bad.png")]
    queries = among.take([good[0], good[17]])
    found, bad = nearest_pictures(loaded, queries, among, layer=layer, k=6, device=CPU)
    assert [one.path.rpartition("/")[2] for one in bad] == ["bad.png"]
    values, asked = features(loaded, among.take(good), name), features(loaded, queries, name)
    for one, query, own in zip(found, asked, (good[0], good[17]), strict=True):
        distances = np.linalg.norm(values - query, axis=1)
        order = [at for at in np.argsort(distances, kind="stable") if good[at] != own][:6]
        assert one.rows == [good[at] for at in order]
        assert np.allclose(one.distances, distances[order], rtol=1e-4)


def test_fewer_than_asked_and_none_at_all(place, loaded, tmp_path):
    among = open_source(place).take([0, 1, 2])
    found, _ = nearest_pictures(loaded, among.take([0]), among, layer="fc7", k=6, device=CPU)
    assert sorted(found[0].rows) == [1, 2]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of 1 pictures can be decoded"):
        nearest_pictures(loaded, among, open_source(tmp_path), layer="fc7", k=6, device=CPU)


@pytest.mark.parametrize("count", [1, 3])
def test_neighbours_are_drawn_with_their_classes(place, loaded, count):
    among = open_source(place).as_classes(Classes.of(["class2", "class0", "class1"]), "x")
    queries = among.take(range(count))
    found, _ = nearest_pictures(loaded, queries, among, layer="fc7", k=6, device=CPU)
    with style():
        figure = draw_neighbours(found, queries, among, loaded, layer="fc7")
        assert crowded(figure) == []
    assert len(figure.axes) == 7 * count
    words = said(figure)
    assert "nearest of 25 by fc7, with their distances" in words
    expected = sum(
        [among.classes.words[among.label[row]] for row in (one.query, *one.rows)].count("class0") for one in found
    )
    assert words.count("class0") == expected > 0


CLASSES = Classes.of(["$a^{$", "the second class has a name that is far too long", "c", "d", "e", "f", "g"])


@pytest.mark.parametrize(("count", "classes"), [(1, 7), (3, 2), (8, 7), (9, 7)])
def test_predictions_show_the_five_likeliest_and_mark_the_true_one(count, classes):
    rng = np.random.default_rng(count)
    p = rng.dirichlet(np.ones(classes), count).astype(np.float32)
    p[0] = np.eye(classes)[1]  # certain
    labels = [1, *rng.integers(-1, classes, count - 1)]
    names = Classes(CLASSES.keys[:classes], CLASSES.words[:classes])
    keys = [f"folder/$picture_{i}$.jpg" for i in range(count)]
    with style():
        figure = draw_predictions(np.zeros((count, 73, 73, 3), np.uint8), p, labels, keys, names)
        assert crowded(figure) == []
    bars = min(5, classes)
    for at, panel in enumerate(figure.axes[1::2]):
        order = np.argsort(-p[at], kind="stable")[:bars]
        assert np.allclose([bar.get_width() for bar in panel.patches], p[at][order])
        colours = [bar.get_facecolor() for bar in panel.patches]
        marked = [one for one in range(bars) if colours.count(colours[one]) == 1 and order[one] == labels[at]]
        assert (labels[at] in order) == bool(marked)
        assert [text.get_text() for text in panel.texts[1::2]] == [f"{100 * p[at][one]:.0f} %" for one in order]
        assert panel.texts[0].get_text() in ("$a^{$", "the second class has a na…", "c", "d", "e", "f", "g")
    words = said(figure)
    assert all((f"$picture_{i}$.jpg" in words) == (label < 0) for i, label in enumerate(labels))


def test_what_is_said_is_the_verb_predicts(place):
    from alexnet.evaluation.predict import load

    loaded = open_run("tiny", seed=3)
    samples = open_source(place).take([0, 5, 12])
    predictor = load("tiny", seed=3)
    expected = predictor.probabilities([samples.read(row) for row in range(3)])
    assert np.abs(said_of(stored_forms(samples, loaded), loaded) - expected).max() < 1e-6
