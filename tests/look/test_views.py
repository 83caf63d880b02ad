"""What a network sees, taken back to pixels: the crops themselves, and training's own draws."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from alexnet.data.augment import COLOUR
from alexnet.data.order import normal
from alexnet.data.preprocess import MEAN_FILE
from alexnet.data.sources import open_data, open_images
from alexnet.data.stats import measure
from alexnet.errors import UsageError
from alexnet.look.figures import style
from alexnet.look.views import draw_augment, draw_views, drawn, in_words, varied, views_of
from alexnet.training.recipes import PAPER, RECIPES
from alexnet.weights.run import Loaded, open_run
from tests.look.runs import folder
from tests.look.words import crowded, said
from tests.pictures import picture, write_folder

S, s = 73, 64


def image(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (S, S, 3), dtype=np.uint8)


def loaded(**changes) -> Loaded:
    """`tiny` as if its record said other things; its mean image is random."""
    made = open_run("tiny")
    made.preprocess = replace(made.preprocess, **changes)
    made.mean = (
        np.random.default_rng(1).uniform(90, 160, (S, S, 3)).astype(np.float32)
        if made.preprocess.mean == MEAN_FILE
        else None
    )
    return made


RECORDS = [{}, {"mean_crop": "aligned"}, {"colour": "BGR", "mean_crop": "aligned"}, {"scale": 1 / 64},
           {"mean": (120.0, 110.0, 100.0), "std": (0.2, 0.3, 0.25), "scale": 1 / 255, "colour": "BGR"}]  # fmt: skip


@pytest.mark.parametrize("record", RECORDS)
def test_the_views_are_the_crops(record):
    pixels, edge = image(), S - s
    places = [(0, 0), (0, edge), (edge // 2, edge // 2), (edge, 0), (edge, edge)]
    crops = [pixels[y : y + s, x : x + s] for y, x in places]
    found = views_of(pixels, loaded(**record))
    assert np.array_equal(found, np.stack([*crops, *(crop[:, ::-1] for crop in crops)]))


@pytest.mark.parametrize("side", [(73, 64), (256, 224), (256, 227)])
def test_each_box_is_where_its_view_lies(side):
    size, small = side
    pixels = np.zeros((size, size, 3), np.uint8)
    with style():
        figure = draw_views(pixels, np.zeros((10, small, small, 3), np.uint8))
        assert crowded(figure) == []
    boxes = [one for one in figure.axes[0].patches if isinstance(one, Rectangle)]
    edge = size - small
    for box, (y, x) in zip(boxes, [(0, 0), (0, edge), (edge // 2, edge // 2), (edge, 0), (edge, edge)], strict=True):
        assert abs(box.get_y() + 0.5 - y) < 0.03 * size and abs(box.get_x() + 0.5 - x) < 0.03 * size
        assert abs(box.get_width() - small) < 0.05 * size and box.get_width() == box.get_height()
    assert len(figure.axes) == 11


def samples(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "one.png")
    return open_images(str(tmp_path / "one.png"))


@pytest.mark.parametrize("record", RECORDS)
def test_what_training_draws_is_a_crop_or_its_mirror(tmp_path, record):
    pixels = image()
    run = folder(tmp_path / "run", **dict.fromkeys(("brightness", "contrast", "saturation"), 0.0))
    found = drawn(samples(tmp_path, pixels), loaded(**record), run, 24)
    assert found.shape == (24, s, s, 3)
    crops = {crop.tobytes(): (y, x, m) for y in range(S - s + 1) for x in range(S - s + 1) for m in (1, -1)
             for crop in [pixels[y : y + s, x : x + s][:, ::m]]}  # fmt: skip
    places = [crops[one.tobytes()] for one in found]
    assert len(set(places)) > 15 and {m for *_, m in places} == {1, -1}


def test_the_light_is_drawn_as_the_recipe_says(tmp_path):
    grey = np.full((S, S, 3), 100, np.uint8)
    run = folder(tmp_path / "run", brightness=0.2, contrast=0.0, saturation=0.0)
    levels = drawn(samples(tmp_path, grey), loaded(), run, 50)[:, 0, 0, 0].astype(int)
    assert 80 <= levels.min() < 88 and 112 < levels.max() <= 120


def test_colour_noise_is_the_trainings_own(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    source = write_folder(tmp_path / "pictures", classes=2, each=6)
    data = open_data(source)
    run = folder(
        tmp_path / "run",
        **{name: getattr(PAPER, name) for name in asdict(PAPER) if name not in ("name", "source")} | {"seed": 5},
    )
    one = loaded(mean=(120.0, 120.0, 120.0))
    one.data = {"source": data.source, "split": data.split}
    grey = np.full((S, S, 3), 200, np.uint8)
    found = drawn(samples(tmp_path, grey), one, run, 30)[:, 10, 10].astype(float)
    stats = measure(data.train, one.preprocess, threads=1, cache=None)
    draws = normal(5, 0, np.arange(30), count=3, purpose=COLOUR)
    shift = 0.1 * (draws * np.sqrt(stats.eigenvalues)) @ stats.eigenvectors.T
    expected = np.clip((200 + shift - 120) / 1.1 + 120, 0, 255)  # [CODE12] divides by 1.1 what is fed
    assert np.abs(found - expected).max() <= 0.5 + 1e-3
    assert np.ptp(found[:, 0]) > 3
    one.data = None
    with pytest.raises(UsageError, match=r"run/data\.json: names no training pictures"):
        drawn(samples(tmp_path, grey), one, run, 2)


def test_crops_of_the_original_are_drawn_too(tmp_path):
    run = folder(tmp_path / "run", crop="original", crop_scale=0.08, brightness=0.0, contrast=0.0, saturation=0.0)
    found = drawn(samples(tmp_path, picture(300, 400)), loaded(), run, 8)
    assert found.shape == (8, s, s, 3) and len({one.tobytes() for one in found}) == 8


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_is_put_into_words(tmp_path, recipe):
    run = folder(
        tmp_path / "run", **{name: value for name, value in asdict(recipe).items() if name not in ("name", "source")}
    )
    a = varied(run).augment
    assert (a.mirror, a.random_crop, a.colour_noise, a.saturation) == (
        recipe.mirror,
        recipe.random_crop,
        recipe.colour_noise,
        recipe.saturation,
    )
    with style():
        figure = draw_augment(image(), np.stack([image()[:s, :s]] * 11), in_words(run))
        assert crowded(figure) == []
    words = " ".join(said(figure)).replace("\n", " ")
    assert ("colour noise 0.1·√λ" in words) == bool(recipe.colour_noise)
    assert ("saturation ±20\N{NO-BREAK SPACE}%" in words) == bool(recipe.saturation)


@pytest.mark.parametrize(
    ("name", "value"), [("mirror", 1), ("colour_noise", "much"), ("seed", None), ("crop", 3), ("saturation", True)]
)
def test_a_recipe_that_is_none_is_named(tmp_path, name, value):
    run = folder(tmp_path / "run", **{name: value})
    with pytest.raises(UsageError, match=rf"recipe\.json: {name}: "):
        varied(run)
