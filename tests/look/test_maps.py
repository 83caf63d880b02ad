"""The sheet of a layer's maps: each in its place, all by one scale."""

import numpy as np
import pytest
from matplotlib import colormaps

from alexnet.look.figures import style
from alexnet.look.maps import draw_maps
from tests.look.words import crowded, said

SAW = np.zeros((64, 64, 3), np.uint8)


def sheet(values, towers):
    with style():
        figure = draw_maps(values, SAW, layer="conv1:relu", towers=towers)
        assert crowded(figure) == []
    return np.asarray(figure.axes[1].get_images()[0].get_array()), figure


def test_maps_share_one_scale_that_one_spark_does_not_change():
    values = np.zeros((8, 20, 20), np.float32)
    values[5, 2, 3] = 100.0
    values[6], values[7] = 2.0, 1.0
    found, figure = sheet(values, 2)
    dark, middle, bright = (list(colormaps["magma"](x, bytes=True)[:3]) for x in (0.0, 0.5, 1.0))
    assert [int((found == colour).all(2).sum()) for colour in (dark, middle, bright)] == [6 * 400 - 1, 400, 401]
    assert "conv1:relu: 8 maps of 20×20" in said(figure)


def test_below_zero_is_blue_and_above_red():
    values = np.zeros((2, 4, 4), np.float32)
    values[0], values[1] = -3.0, 3.0
    found, _ = sheet(values, 1)
    coloured = found[(found != 255).any(2)].astype(int)
    assert {tuple(one) for one in coloured} == {
        tuple(int(v) for v in colormaps["RdBu_r"](x, bytes=True)[:3]) for x in (0.0, 1.0)
    }


@pytest.mark.parametrize(("units", "towers"), [(512, 2), (4096, 2), (4096, 1), (5, 1)])
def test_units_are_squares_in_their_order(units, towers):
    values = np.zeros(units, np.float32)
    values[units // 2] = 1.0
    values[: units // 8] = 0.5
    found, figure = sheet(values, towers)
    assert f"conv1:relu: {units} units" in said(figure)
    white = (found == 255).all(2)
    assert (~white).sum() == units


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_layer_that_is_all_alike_is_drawn(value):
    assert sheet(np.full((3, 2, 2), value, np.float32), 1)[0].shape[2] == 3
