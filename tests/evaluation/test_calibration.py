"""Calibration against scikit-learn's curve, and by hand."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from alexnet.evaluation.calibration import calibration


@pytest.mark.parametrize(("bins", "count"), [(15, 2000), (10, 500), (1, 40)])
def test_the_bins_are_those_of_scikit_learn(bins, count):
    draw = np.random.default_rng(bins)
    p = draw.uniform(0.2, 1, count)
    right = draw.random(count) < p**1.5
    found = calibration(p.astype(np.float32), right, bins=bins)
    shares, means = calibration_curve(right, p.astype(np.float32), n_bins=bins)
    there = found.count > 0
    assert np.allclose(found.right[there] / found.count[there], shares)
    assert np.allclose(found.total[there] / found.count[there], means)
    weight = found.count[there] / count
    assert found.ece == pytest.approx(float((weight * np.abs(shares - means)).sum()))
    assert found.largest == pytest.approx(float(np.abs(shares - means).max()))
    assert found.surplus == pytest.approx(p.mean() - right.mean(), abs=1e-6) and found.surplus > 0


def test_by_hand():
    # two bins: 0.4 wrong and 0.5 right in (0, 0.5], 0.9 right and 1.0 wrong in (0.5, 1]
    found = calibration(np.array([0.4, 0.5, 0.9, 1.0]), np.array([False, True, True, False]), bins=2)
    assert found.count.tolist() == [2, 2] and found.right.tolist() == [1, 1]
    assert found.ece == pytest.approx((2 * abs(0.5 - 0.45) + 2 * abs(0.5 - 0.95)) / 4)
    assert found.largest == pytest.approx(0.45) and found.surplus == pytest.approx(0.7 - 0.5)
    assert calibration(np.array([1.0, 1.0]), np.array([True, True])).ece == 0
    assert calibration(np.array([1.0, 1.0]), np.array([False, False])).ece == 1


def test_nothing_has_no_calibration():
    with pytest.raises(ValueError, match="0 probabilities"):
        calibration(np.zeros(0), np.zeros(0, bool))
