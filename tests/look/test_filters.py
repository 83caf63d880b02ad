"""Figure 3 and its film: the sheet that is shown, the kernels and epochs that are chosen, files that are none."""

import os

import numpy as np
import pytest

from alexnet.errors import UsageError
from alexnet.look.figures import style
from alexnet.look.filters import draw_film, draw_filters
from alexnet.look.kernels import kernel_sheet, read_kernels
from alexnet.weights.run import Run
from tests.look.words import crowded, said
from tests.strangers import hole


def kernels(count=12, k=5, epochs=None, seed=0):
    shape = (count, 3, k, k) if epochs is None else (epochs, count, 3, k, k)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sheet_of(figure):
    (axes,) = figure.axes
    (image,) = axes.get_images()
    return np.asarray(image.get_array())


@pytest.mark.parametrize(("count", "towers"), [(96, 2), (48, 1), (12, 2), (1, 1)])
def test_the_sheet_is_shown_as_it_is(count, towers):
    weights = kernels(count)
    with style():
        figure = draw_filters(weights, towers=towers)
        assert crowded(figure) == []
    assert np.array_equal(sheet_of(figure), kernel_sheet(weights, towers=towers))
    assert f"conv1: {count} kernels of 5×5×3; grey is 0, each stretched by itself" in said(figure)
    assert [word for word in said(figure) if "tower" in word] == (["tower 1", "tower 2"] if towers == 2 else [])


def test_the_film_shows_the_strongest_of_each_tower_epoch_by_epoch():
    film = kernels(count=40, epochs=30) * 0.1
    film[-1, [3, 5, 7, 9, 11, 13, 15, 17]] *= 50  # of the first tower
    film[-1, 20:28] *= 50  # of the second
    with style():
        figure = draw_film(film, towers=2)
        assert crowded(figure) == []
    labels = [int(word) for word in said(figure) if word.isdigit()]
    assert labels == [1, 4, 7, 11, 14, 17, 20, 24, 27, 30]
    sheet = sheet_of(figure)
    assert sheet.shape[0] == 10 * 7
    for row, epoch in enumerate(labels):
        strip = sheet[row * 7 : row * 7 + 7]
        assert np.array_equal(strip[:, : 8 * 6 + 1], kernel_sheet(film[epoch - 1, 3:18:2], rows=1))
        assert np.array_equal(strip[:, -(8 * 6 + 1) :], kernel_sheet(film[epoch - 1, 20:28], rows=1))


def test_epochs_that_were_not_written_are_left_out():
    film = kernels(epochs=5)
    film[1:3] = np.nan
    with style():
        figure = draw_film(film, towers=1)
    assert [word for word in said(figure) if word.isdigit()] == ["1", "4", "5"]
    with style(), pytest.raises(UsageError, match="no epoch"):
        draw_film(np.full_like(film, np.nan), towers=1)


def test_kernels_are_read_from_the_run(tmp_path):
    np.save(tmp_path / "kernels.npy", kernels(epochs=2), allow_pickle=False)
    assert np.array_equal(read_kernels(Run(tmp_path)), kernels(epochs=2))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "missing; a training writes it"),
        (b"", "cannot be read"),
        (b"\x93NUMPY\x01\x00v\x00{", "cannot be read"),
        (b"PK\x03\x04", "cannot be read"),
        (b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"-" * 9000, "cannot be read"),
        (os.mkfifo, "cannot be read as an array of numbers (not a regular file)"),
        (hole, "cannot be read as an array of numbers (1,099,511,627,776 bytes, more than the limit"),
        (kernels(), "expected float32"),
        (kernels(epochs=2).astype(np.float64), "expected float32"),
        (kernels(epochs=2)[:, :, :2], "expected"),
        (kernels(epochs=2)[..., :3], "expected"),
        (kernels(epochs=2)[:0], "expected"),
    ],
)
def test_files_that_are_none_are_named(tmp_path, content, says):
    path = tmp_path / "kernels.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif callable(content):
        content(path)
    elif content is not None:
        np.save(path, content, allow_pickle=False)
    with pytest.raises(UsageError) as caught:
        read_kernels(Run(tmp_path))
    assert str(caught.value).startswith(f"{path}: ") and says in str(caught.value) and "\n" not in str(caught.value)
