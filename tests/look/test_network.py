"""Figure 2: its numbers against the paper's and a real pass, and no word on another, for every variant."""

import re

import pytest
import torch

from alexnet.look.figures import style
from alexnet.look.network import columns_of, done, draw_network, size_of
from alexnet.network.build import build
from alexnet.network.cost import cost
from alexnet.network.variants import PAPER, TINY, VARIANTS
from tests.look.words import crowded, said

# [K12] figure 2 and section 3.5, a tower: written down from the paper; 290,400 is 55 x 55 x 96, where its caption errs
SIZES = ["224×224×3", "55×55×48", "27×27×48", "27×27×128", "13×13×128", "13×13×192", "13×13×192", "13×13×128", "6×6×128", "2,048",
         "2,048", "1,000"]  # fmt: skip
NEURONS = ["290,400", "186,624", "64,896", "64,896", "43,264", "4,096", "4,096", "1,000"]


def test_the_papers_numbers_stand_on_it():
    with style():
        words = said(draw_network(PAPER, 1000))
    shown = [word for word in words if re.fullmatch(r"\d+×\d+×\d+|[12],\d{3}", word)]
    twice = [size for size in SIZES[1:-1] for _ in range(2)]
    assert sorted(shown) == sorted([SIZES[0], *twice, "1,000", "1,000"])  # the last also as neurons
    assert [word for word in words if re.fullmatch(r"[\d,]{5,}", word) and word not in ("2,048",)][-8:] == NEURONS
    caption = " ".join(" ".join(words).split())
    assert "60,965,224 parameters · 724,406,816 multiply-adds · 659,272 neurons" in caption
    assert "figure 2 has 253,440 where conv1 has 290,400" in caption


def test_who_sees_whom_in_the_paper():
    columns = {one.name: one for one in columns_of(PAPER, cost(PAPER, 1000))}
    assert [name for name, one in columns.items() if one.crossing] == ["conv3", "fc6", "fc7", "fc8"]
    assert {name: one.towers for name, one in columns.items()} == {
        "image": 1, "conv1": 2, "pool1": 2, "conv2": 2, "pool2": 2, "conv3": 2, "conv4": 2, "conv5": 2, "pool5": 2, "fc6": 2, "fc7": 2,
        "fc8": 1,
    }  # fmt: skip
    assert done(columns["conv1"]) == ["11×11", "stride 4", "pad 0, 3"]
    assert done(columns["pool1"]) == ["max", "3×3", "stride 2"]
    assert done(columns["conv3"]) == ["3×3", "pad 1", "both towers"]
    assert columns["conv1"].after == ["ReLU", "LRN"] and columns["fc6"].after == ["ReLU", "dropout"]


def test_the_sizes_are_those_of_a_pass():
    made = build(TINY, classes=7).eval()
    traced = made.trace(torch.zeros(1, 3, 64, 64))
    for column in columns_of(TINY, cost(TINY, 7))[1:]:
        shape = traced[column.name].shape[1:]
        each = shape[0] // column.towers
        assert size_of(column) == (f"{shape[1]}×{shape[2]}×{each}" if len(shape) == 3 else f"{each:,}")


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("classes", [5, 21_841])
def test_no_word_lies_on_another(name, classes):
    with style():
        assert crowded(draw_network(VARIANTS[name], classes)) == []


@pytest.mark.parametrize("name", VARIANTS)
def test_every_layer_stands_on_it(name):
    variant = VARIANTS[name]
    columns = columns_of(variant, cost(variant, 1000))
    drawn = {one.name for one in columns}
    assert drawn - {"image"} == {row.name for row in variant.layers if re.match("conv|pool|fc", row.name)}
    after = sum(len(one.after) for one in columns)
    assert after == len([row for row in variant.layers if re.match("relu|norm|wmnorm|bn|drop", row.name)])
