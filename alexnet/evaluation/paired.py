"""Two networks on the same pictures: who was right where, and whether the difference may be chance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Paired:
    """How many pictures both, one alone, or neither got right; `p` of McNemar's test that none is the better."""

    both: int
    only_first: int
    only_second: int
    neither: int
    p: float


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Paired:
    """Whether each was right of the same pictures, (N,) each -> the four counts and the two-sided exact p.

    Of the pictures that one alone got right, each is as likely to be either's where none is the better (McNemar 1947,
    with the binomial distribution itself). Where there are none, p is 1. ValueError: of different lengths.
    """
    from scipy.stats import binomtest  # a second to import

    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"answers to {first.shape} and {second.shape} pictures")
    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(binomtest(one, one + other).pvalue) if one + other else 1.0
    return Paired(int((first & second).sum()), one, other, int((~first & ~second).sum()), p)
