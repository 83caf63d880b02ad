"""What excites a unit: receptive fields against gradients, the best pictures against a search one by one."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet.data.sources import open_source
from alexnet.errors import DataError, UsageError
from alexnet.look.figures import style
from alexnet.look.units import OUTSIDE, Excited, draw_units, lively, most_exciting, part_seen
from alexnet.network.cost import cost, seen
from alexnet.network.variants import TINY, VARIANTS, AdaptivePool, Conv, Linear, MaxPool, WithinMapLRN
from alexnet.weights.run import open_run
from tests.look.words import crowded, said
from tests.networks import images
from tests.networks import lively as lively_network
from tests.pictures import write_folder

CPU = torch.device("cpu")


def positive(variant, layer, x):
    """A network of one channel and one dimension, (1, 1, side), that sees along a side as the variant does.

    All weights are 1, and sums stand for maxima, whose gradient would see one value.
    """
    for row in variant.layers:
        match row:
            case Conv():
                x = F.conv1d(
                    F.pad(x, (row.pad.before, row.pad.after)),
                    torch.ones(1, 1, row.kernel, dtype=x.dtype),
                    stride=row.stride,
                )
            case MaxPool():
                size = F.max_pool1d(x, row.kernel, row.stride, ceil_mode=row.ceil).shape[2]
                x = F.conv1d(F.pad(x, (0, row.kernel)), torch.ones(1, 1, row.kernel, dtype=x.dtype), stride=row.stride)[
                    :, :, :size
                ]
            case WithinMapLRN():
                x = F.avg_pool1d(x, row.size, 1, row.size // 2)
            case AdaptivePool():
                x = F.adaptive_avg_pool1d(x, row.side)
            case Linear():
                x = x.sum(2, keepdim=True)
        x = x / x.detach().max()  # sums of sums would leave the range
        if row.name == layer:
            return x
    raise AssertionError(layer)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_field_is_the_support_of_the_gradient(name):
    variant = VARIANTS[name]
    for layer in cost(variant, 1).layers:
        x = torch.ones(1, 1, variant.side, dtype=torch.float64, requires_grad=True)
        out = positive(variant, layer.name, x)
        assert out.shape[2] == layer.out[1] == layer.out[2]
        n, ends = out.shape[2], {}
        for at in sorted({0, 1, 2, n // 2, n - 3, n - 2, n - 1} & set(range(n))):
            (gradient,) = torch.autograd.grad(out[0, 0, at], x, retain_graph=True)
            pixels = gradient[0, 0].nonzero()
            ends[at] = int(pixels.min()), int(pixels.max()) + 1
            assert len(pixels) == ends[at][1] - ends[at][0]  # without a gap
        for y, x_at in itertools.product(ends, ends):
            (top, bottom), (left, right) = ends[y], ends[x_at]
            assert seen(variant, layer.name, y, x_at) == (top, left, bottom, right), (layer.name, y, x_at)


def test_known_fields():
    paper = VARIANTS["paper"]
    assert seen(paper, "conv1", 0, 0) == (0, 0, 11, 11)
    assert seen(paper, "conv1", 54, 54) == (216, 216, 224, 224)  # the last window hangs over by three pixels
    assert seen(paper, "conv2", 13, 13) == (13 * 8 - 16, 13 * 8 - 16, 13 * 8 - 16 + 51, 13 * 8 - 16 + 51)
    assert seen(paper, "fc7", 0, 0) == (0, 0, 224, 224)
    for wrong in (("conv9", 0, 0), ("conv1", 55, 0), ("conv1", 0, -1)):
        with pytest.raises(ValueError, match="conv"):
            seen(paper, *wrong)


@pytest.mark.parametrize("layer", ["conv1", "norm1", "pool2", "conv3", "relu5"])
def test_nothing_outside_of_a_field_is_seen_and_all_inside_may_be(layer):
    net = lively_network(TINY)
    x = images(TINY, 1)
    before = net.trace(x, [layer])[layer][0]
    _, H, W = before.shape
    for y, at in {(0, 0), (H - 1, 0), (H // 2, W // 2)}:
        top, left, bottom, right = seen(TINY, layer, y, at)
        other = images(TINY, 2)[1:]
        outside = other.clone()
        outside[..., top:bottom, left:right] = x[..., top:bottom, left:right]
        assert torch.allclose(net.trace(outside, [layer])[layer][0, :, y, at], before[:, y, at], rtol=1e-4, atol=1e-4)
        inside = x.clone()
        inside[..., top:bottom, left:right] = other[..., top:bottom, left:right]
        assert not torch.allclose(net.trace(inside, [layer])[layer][0, :, y, at], before[:, y, at], rtol=1e-2)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    place = write_folder(tmp_path_factory.mktemp("pictures"), classes=2, each=12)
    (place / "class0" / "bad.png").write_bytes(b"no picture")
    return open_source(place)


@pytest.fixture(scope="module")
def loaded():
    made = open_run("tiny")
    made.model.load_state_dict(lively_network(TINY, 1000).state_dict())
    return made


@pytest.mark.parametrize(("layer", "name"), [("conv2:relu", "relu2"), ("fc7:relu", "relu7")])
def test_the_best_are_those_of_a_search_one_by_one(samples, loaded, layer, name):
    from alexnet.data.augment import Normalise, test_views
    from alexnet.data.loader import pixels

    found, bad = most_exciting(loaded, samples, layer, [3, 0], device=CPU)
    assert list(found) == [3, 0] and [one.path.rpartition("/")[2] for one in bad] == ["bad.png"]
    normalise = Normalise(loaded.preprocess, loaded.mean, CPU)
    strengths = {}
    for row in range(len(samples)):
        if not samples.key(row).endswith("bad.png"):
            image = torch.from_numpy(pixels(samples, row, loaded.preprocess))[None]
            with torch.no_grad():
                strengths[row] = loaded.model.trace(test_views(image, normalise, views=1), [name])[name][0]
    for unit, best in found.items():
        most = {row: float(maps[unit].max()) for row, maps in strengths.items()}
        order = sorted(most, key=lambda row: -most[row])[:9]
        assert [one.row for one in best] == order
        for one in best:
            assert one.value == pytest.approx(most[one.row], rel=1e-4)
            if strengths[one.row].ndim == 3:
                y, x = divmod(int(strengths[one.row][unit].argmax()), strengths[one.row].shape[2])
                assert one.at == (y, x)
                assert one.box == tuple(4 + edge for edge in seen(TINY, name, y, x))  # 73 px stored, 64 seen
            else:
                assert one.at == (0, 0) and one.box == (4, 4, 68, 68)


def test_unknown_units_and_layers_are_refused(samples, loaded, tmp_path):
    with pytest.raises(UsageError, match="--unit 32: conv5 has the units 0 to 31"):
        most_exciting(loaded, samples, "conv5", [0, 32], device=CPU)
    with pytest.raises(UsageError, match="conv9"):
        most_exciting(loaded, samples, "conv9", [], device=CPU)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of 1 pictures can be decoded"):
        most_exciting(loaded, open_source(tmp_path), "conv5", [], device=CPU)


def test_units_are_chosen_of_those_that_anything_excites():
    strongest = torch.zeros(40)
    strongest[10:32] = 1
    assert lively(strongest) == [10, 14, 18, 23, 27, 31]
    assert lively(torch.zeros(4)) == [0, 1, 2, 3] and lively(torch.eye(3)[1]) == [1]


def test_a_part_lies_in_its_field_as_in_the_picture():
    image = np.arange(20 * 20 * 3, dtype=np.uint64).reshape(20, 20, 3).astype(np.uint8)
    upper = part_seen(image, Excited(0, 1.0, (0, 0), (2, 5, 7, 12)), field=7, edge=2)
    assert np.array_equal(upper[2:], image[2:7, 5:12]) and (upper[:2] == OUTSIDE).all()
    lower = part_seen(image, Excited(0, 1.0, (0, 0), (13, 2, 18, 8)), field=7, edge=2)
    assert (
        np.array_equal(lower[:5, 1:], image[13:18, 2:8])
        and (lower[5:] == OUTSIDE).all()
        and (lower[:, 0] == OUTSIDE).all()
    )


@pytest.mark.parametrize("units", [[], [5]])
def test_the_parts_are_drawn(samples, loaded, units):
    found, _ = most_exciting(loaded, samples, "conv2:relu", units, device=CPU)
    with style():
        figure = draw_units(found, samples, loaded, "conv2:relu")
        assert crowded(figure) == []
    assert len(figure.axes) == 9 * len(found)
    words = [" ".join(one.split()) for one in said(figure)]
    assert "conv2:relu: what excites a unit most in 25 pictures, cut to the 51×51 pixels it sees" in words
    assert {f"unit {unit}, tower {1 + (unit > 15)}" for unit in found} <= set(words)


def test_a_class_is_of_no_tower(samples, loaded):
    found, _ = most_exciting(loaded, samples, "fc8", [7, 900], device=CPU)
    with style():
        figure = draw_units(found, samples, loaded, "fc8")
    assert {"unit 7", "unit 900"} <= set(said(figure))
