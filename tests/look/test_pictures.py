"""Which pictures a figure shows, and of which class they are."""

import numpy as np
import pytest
from PIL import Image

from alexnet.data.classes import Classes
from alexnet.data.sources import open_source
from alexnet.errors import BadImage, UsageError
from alexnet.look.pictures import few, pictures_of, stored_forms, trained_on
from alexnet.weights.run import open_run
from tests.pictures import write_folder


@pytest.fixture(scope="module")
def loaded():
    made = open_run("tiny", classes=Classes.of(["class1", "class0", "class2"]))
    made.classes = Classes.of(["class1", "class0", "class2"])
    return made


def test_a_named_picture_is_of_the_class_of_its_folder(tmp_path, loaded):
    write_folder(tmp_path, classes=2, each=2)
    (tmp_path / "other").mkdir()
    Image.new("RGB", (80, 80)).save(tmp_path / "other" / "a.png")
    found = pictures_of(
        loaded, [str(tmp_path / "class0"), str(tmp_path / "class1" / "001.jpg"), str(tmp_path / "other" / "a.png")]
    )
    assert found.label.tolist() == [1, 1, 0, -1]
    assert pictures_of(loaded, [str(tmp_path)]).label.tolist() == [1, 1, 0, 0, -1]


def test_a_model_has_none_of_its_own(loaded):
    with pytest.raises(UsageError, match="^tiny: has no pictures of its own; name some$"):
        pictures_of(loaded, [])
    with pytest.raises(UsageError, match="^tiny: has no training pictures of its own; name --among$"):
        trained_on(loaded)


def test_a_few_are_drawn_by_the_seed_in_order(tmp_path):
    samples = open_source(write_folder(tmp_path, classes=2, each=20, side=8))
    drawn = [few(samples, 6, seed=seed).keys() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 6 and drawn[0] == sorted(drawn[0])
    assert few(samples, 40, seed=0) is samples
    for count in (0, -1, 101):
        with pytest.raises(UsageError, match=f"--count {count}: must be at least 1 and at most 100"):
            few(samples, count, seed=0)


def test_what_cannot_be_decoded_is_named(tmp_path, loaded):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(BadImage, match=r"a\.png"):
        stored_forms(pictures_of(loaded, [str(tmp_path / "a.png")]), loaded)
    Image.new("RGB", (300, 90), (9, 8, 7)).save(tmp_path / "a.png")
    found = stored_forms(pictures_of(loaded, [str(tmp_path / "a.png")]), loaded)
    assert found.shape == (1, 73, 73, 3) and (found == [9, 8, 7]).all() and found.dtype == np.uint8
