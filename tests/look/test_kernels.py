"""The sheet of kernels: each in its place, in its colours, the towers apart."""

import numpy as np
import pytest

from alexnet import files
from alexnet.look.kernels import kernel_sheet, last_whole_epoch, towers_at, towers_of
from alexnet.network.variants import VARIANTS


def test_each_kernel_is_in_its_place_and_zero_is_grey():
    weights = np.zeros((96, 3, 11, 11), np.float32)
    weights[17, 0, 2, 3] = 0.01  # second row, second column: red, at its row 2 and column 3
    weights[50, 2, 0, 10] = -4.0  # the second tower's first row, third column: blue taken away
    sheet = kernel_sheet(weights, towers=2)
    assert sheet.dtype == np.uint8 and sheet.shape == (6 * 11 + 2 * (1 + 2 * 1) + 5 - 1 + 1, 16 * 12 + 1, 3)
    second = 3 * 12 + 5 - 1  # where the second tower's sheet begins
    colours = {
        tuple(at): sheet[tuple(at)].tolist() for at in np.argwhere((sheet != 255).any(2) & (sheet != 128).any(2))
    }
    assert colours == {(1 + 12 + 2, 1 + 12 + 3): [255, 128, 128], (second + 1, 1 + 24 + 10): [128, 128, 0]}
    assert (sheet[36 : 36 + 5] == 255).all() and (sheet[36 + 5, 1:12] == 128).all()  # five pixels between the towers
    assert (sheet == 128).all(2).sum() == 96 * 121 - 2


@pytest.mark.parametrize(
    ("count", "towers", "rows", "tiles"),
    [(96, 2, None, (6, 16)), (48, 1, None, (3, 16)), (64, 1, None, (4, 16)), (12, 2, None, (2, 6)), (37, 1, None, (3, 13)),
     (1, 1, None, (1, 1)), (96, 2, 12, (12, 8)), (96, 1, 6, (6, 16)), (96, 2, 1, (2, 48))],
)  # fmt: skip
def test_other_counts_have_few_rows_of_sixteen_at_most(count, towers, rows, tiles):
    sheet = kernel_sheet(np.ones((count, 3, 5, 5)), towers=towers, rows=rows)
    down, across = tiles
    assert sheet.shape[:2] == (down * 6 + 1 + (towers - 1) * 4, across * 6 + 1)
    assert (sheet[:, :, 0] != 0).all()


def test_a_kernel_is_stretched_by_itself():
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)) * np.array([1e-6, 1, 10, 1e6])[:, None, None, None]
    one = weights / np.abs(weights).max((1, 2, 3), keepdims=True)
    sheet = kernel_sheet(weights)
    for i, tile in enumerate(one):
        found = sheet[1:4, 1 + 4 * i : 4 + 4 * i].transpose(2, 0, 1) / 127.5 - 1
        assert np.abs(found - tile).max() <= 0.5 / 127.5 + 1e-9
    assert (sheet == kernel_sheet(3.0 * weights)).all()


@pytest.mark.parametrize("weights", [np.ones((4, 1, 3, 3)), np.ones((0, 3, 3, 3)), np.full((4, 3, 3, 3), np.nan)])
def test_what_is_no_kernel_is_refused(weights):
    with pytest.raises(ValueError, match="expected"):
        kernel_sheet(weights)


def test_towers_must_share_the_kernels():
    with pytest.raises(ValueError, match="as many in each"):
        kernel_sheet(np.ones((5, 3, 3, 3)), towers=2)


def test_the_towers_of_each_variant():
    two = {name for name, variant in VARIANTS.items() if towers_of(variant) == 2}
    assert two == {"paper", "convnet", "caffe", "caffenet", "onnxzoo", "bn", "tiny"}


def test_the_classes_stand_in_no_tower():
    for variant in VARIANTS.values():
        apart = {row.name: towers_at(variant, row.name) for row in variant.layers}
        assert apart.pop("fc8") == 1 and set(apart.values()) == {towers_of(variant)}


@pytest.mark.parametrize("piece", [1, 400, 1 << 24])
def test_the_last_epoch_that_is_known_whatever_the_block(piece, monkeypatch):
    monkeypatch.setattr(files, "PIECE", piece)
    kept = np.zeros((7, 2, 3, 2, 2), np.float32)
    assert last_whole_epoch(kept) == 6
    kept[5:, 0, 0, 0, 0] = np.nan
    assert last_whole_epoch(kept) == 4
    kept[:, 1] = np.nan
    assert last_whole_epoch(kept) is None
