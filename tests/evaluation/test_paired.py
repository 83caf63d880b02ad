"""McNemar's exact test against a sum of binomial coefficients, and against statistics worked out by others."""

from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest

from alexnet.evaluation.paired import mcnemar


def pair(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    one = np.repeat([True, True, False, False], [both, first, second, neither])
    other = np.repeat([True, False, True, False], [both, first, second, neither])
    order = np.random.default_rng(both + first).permutation(len(one))
    return one[order], other[order]


@pytest.mark.parametrize(
    "counts", [(10, 0, 0, 3), (5, 1, 0, 2), (50, 9, 2, 4), (0, 2, 9, 0), (7, 6, 6, 1), (300, 41, 67, 80)]
)
def test_the_p_is_the_sum_of_what_is_no_likelier(counts):
    found = mcnemar(*pair(*counts))
    assert (found.both, found.only_first, found.only_second, found.neither) == counts
    b, c = counts[1:3]
    tail = sum(comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert found.p == pytest.approx(min(1.0, 2 * tail), rel=1e-9)
    if b + c:
        assert found.p == binomtest(c, b + c).pvalue, "which of the two is the first makes no difference"


def test_by_hand():
    # 1 of 10 that one alone got right: 2 (1 + 10) / 1024
    assert mcnemar(*pair(20, 9, 1, 5)).p == pytest.approx(22 / 1024)


def test_answers_to_other_pictures_are_refused():
    with pytest.raises(ValueError, match="pictures"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))
