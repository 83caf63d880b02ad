import numpy as np
import pytest
import torch
from scipy import stats

from alexnet.data.order import balanced, normal, nth, uniform

KEYS = 1000
SIGNIFICANT = 1e-4  # a fair order fails a test this rarely; the keys are fixed, so a pass stays a pass


def test_a_bijection_for_every_size_to_2000():
    for size in range(1, 2001):
        rows = nth(7, 3, np.arange(size), size=size)
        assert np.array_equal(np.sort(rows), np.arange(size)), size


def test_one_position_costs_what_it_costs_and_agrees():
    whole = nth(1, 2, np.arange(1_281_167), size=1_281_167)
    some = np.array([0, 5, 640_000, 1_281_166])
    assert np.array_equal(nth(1, 2, some, size=1_281_167), whole[some])
    assert len(np.unique(whole)) == len(whole)
    assert 0 <= nth(1, 2, np.array([10**8 - 1]), size=10**8)[0] < 10**8


def test_seed_and_epoch_change_the_order():
    n = np.arange(100)
    base = nth(0, 0, n, size=100)
    assert not np.array_equal(base, nth(0, 1, n, size=100))
    assert not np.array_equal(base, nth(1, 0, n, size=100))
    assert np.array_equal(base, nth(0, 0, n, size=100))


def orders(size: int) -> tuple[np.ndarray, np.ndarray]:
    ours = np.stack([nth(key, 0, np.arange(size), size=size) for key in range(KEYS)])
    theirs = np.stack(
        [torch.randperm(size, generator=torch.Generator().manual_seed(key)).numpy() for key in range(KEYS)]
    )
    return ours, theirs


def p_value(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue)


def position_counts(orders: np.ndarray) -> np.ndarray:
    """(size, size) how often position i held row j."""
    size = orders.shape[1]
    return np.stack([np.bincount(orders[:, i], minlength=size) for i in range(size)])


def displacements(orders: np.ndarray) -> np.ndarray:
    """(size,) how often a row came d places behind its own, around the circle."""
    size = orders.shape[1]
    return np.bincount(((orders - np.arange(size)) % size).ravel(), minlength=size)


def neighbours(orders: np.ndarray) -> np.ndarray:
    """(size,) how often the row after a row was d further, around the circle; 0 cannot be."""
    size = orders.shape[1]
    return np.bincount((np.diff(orders, axis=1) % size).ravel(), minlength=size)[1:]


@pytest.mark.parametrize("size", [5, 16, 37, 100, 257])
def test_as_uniform_as_randperm(size):
    for who, drawn in zip(("ours", "torch"), orders(size), strict=True):
        counts = position_counts(drawn)
        flat = p_value(counts.ravel(), np.ones(size * size))
        assert flat > SIGNIFICANT, (who, "position", flat)
        assert p_value(displacements(drawn), np.ones(size)) > SIGNIFICANT, (who, "displacement")
        assert p_value(neighbours(drawn), np.ones(size - 1)) > SIGNIFICANT, (who, "adjacent pairs")


def test_the_statistics_reject_a_poor_order():
    size = 37
    rolled = np.stack([np.roll(np.arange(size), key % size) for key in range(KEYS)])  # each position fair, pairs not
    assert p_value(neighbours(rolled), np.ones(size - 1)) < SIGNIFICANT
    half = np.stack(
        [np.concatenate([np.random.default_rng(k).permutation(18), 18 + np.arange(19)]) for k in range(KEYS)]
    )
    assert p_value(position_counts(half).ravel(), np.ones(size * size)) < SIGNIFICANT


def test_draws_are_a_function_of_seed_epoch_and_n():
    n = np.arange(1000)
    u = uniform(5, 2, n, count=4, purpose=1)
    assert np.array_equal(u[[17, 400]], uniform(5, 2, np.array([17, 400]), count=4, purpose=1))
    assert u.min() >= 0 and u.max() < 1
    for other in (uniform(6, 2, n, count=4, purpose=1), uniform(5, 3, n, count=4, purpose=1),
                  uniform(5, 2, n, count=4, purpose=2)):  # fmt: skip
        assert abs(np.corrcoef(u.ravel(), other.ravel())[0, 1]) < 0.07
    assert stats.kstest(u.ravel(), "uniform").pvalue > SIGNIFICANT
    assert np.abs(np.corrcoef(u.T) - np.eye(4)).max() < 0.15


def test_normal_draws():
    z = normal(0, 0, np.arange(5000), count=3, purpose=9)
    assert stats.kstest(z.ravel(), "norm").pvalue > SIGNIFICANT
    assert np.abs(np.corrcoef(z.T) - np.eye(3)).max() < 0.07


def test_balanced_repeats_smaller_classes():
    labels = np.array([0, 0, 0, 0, 1, 1, 3])
    rows = balanced(labels)
    assert np.array_equal(np.bincount(labels[rows]), [4, 4, 0, 4])
    assert set(rows.tolist()) == set(range(7))
