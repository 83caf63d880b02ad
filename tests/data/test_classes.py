import json

import numpy as np
import pytest
from torchvision.models import AlexNet_Weights

from alexnet.data.classes import Classes, imagenet_classes
from alexnet.errors import DataError


def test_imagenet_is_in_the_order_of_the_published_weights():
    classes = imagenet_classes()
    published = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    assert len(classes) == len(set(classes.keys)) == 1000
    assert list(classes.keys) == sorted(classes.keys)
    first = [words.split(", ")[0] for words in classes.words]
    # torchvision tells the two cranes and the two maillots apart by words of its own.
    differ = {
        label: (mine, theirs)
        for label, (mine, theirs) in enumerate(zip(first, published, strict=True))
        if mine != theirs
    }
    assert differ == {134: ("crane", "crane bird"), 639: ("maillot", "maillot tank suit")}
    assert classes.words[134] == classes.words[517] == "crane"
    assert (classes.keys[134], classes.keys[517]) == ("n02012849", "n03126707")
    assert (classes.words[638], classes.words[639]) == ("maillot", "maillot, tank suit")


def test_words_of_wnids_are_filled_in():
    classes = Classes.of(["n01440764", "my class", "n99999999"])
    assert classes.words == ("tench, Tinca tinca", "my class", "n99999999")


def test_json_and_back():
    classes = Classes(("a", "b", "ü"), ("A", "A", "U"))
    assert Classes.from_json(json.loads(json.dumps(classes.to_json()))) == classes


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({}, "expected a list"),
        ([], "expected a list"),
        (["a"], r"\[0\]: expected an object"),
        ([{"key": "a", "words": "a"}, {"key": 3, "words": "b"}], r"\[1\]\.key: expected text, got 3"),
        ([{"key": "a"}], r"\[0\]\.words: expected text, got None"),
        ([{"key": "a", "words": "a"}, {"key": "a", "words": "b"}], "'a' stands twice"),
        ([{"key": "", "words": "a"}], "must be UTF-8 text"),
    ],
)
def test_broken_json_names_the_field(value, field):
    with pytest.raises(DataError, match=rf"^run/classes\.json: .*{field}"):
        Classes.from_json(value, "run/classes.json")


@pytest.mark.parametrize("key", ["caf\udce9", "a\nb", "\x1b[31mred"])
def test_a_key_that_is_no_text_is_refused(key):
    with pytest.raises(DataError, match="rename it") as caught:
        Classes.of([key])
    assert str(caught.value).isprintable()


def test_match_goes_by_key():
    mine = Classes.of(["a", "b", "c"])
    assert mine.match(Classes.of(["c", "a", "b"]), "val").tolist() == [2, 0, 1]
    assert mine.match(Classes.of(["c", "a"]), "val", partial=True).tolist() == [2, 0]
    assert mine.match(mine, "val").dtype == np.int64


def test_match_prints_the_difference():
    mine = Classes.of(["a", "b", "c"])
    with pytest.raises(DataError, match=r"^val: its classes are not the 3 expected: missing b$") as caught:
        mine.match(Classes.of(["a", "c"]), "val")
    assert caught.value.code == 3
    with pytest.raises(DataError, match=r"unknown d; missing b$"):
        mine.match(Classes.of(["a", "c", "d"]), "val")
    with pytest.raises(DataError, match=r"unknown d; missing b$"):
        mine.match(Classes.of(["a", "c", "d"]), "val", partial=True)
    with pytest.raises(DataError, match=r"n01440764, .* and 990 more"):
        mine.match(imagenet_classes(), "val")
