"""Whether a network's probabilities can be believed: of the answers given with 70 %, are 70 % right?"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 15  # as Guo et al. 2017


@dataclass(frozen=True, eq=False)
class Calibration:
    """Answers in B bins of equal width by the probability they were given with; bin b is from b / B, without it, to
    (b + 1) / B. Each (B,): how many answers, how many of them right, and the sum of their probabilities.
    """

    count: NDArray[np.int64]
    right: NDArray[np.int64]
    total: NDArray[np.float64]

    @property
    def ece(self) -> float:
        """The expected calibration error (Naeini et al. 2015): the answers' mean |share right − mean probability|."""
        return float(np.abs(self.right - self.total).sum() / self.count.sum())

    @property
    def largest(self) -> float:
        """The largest |share right − mean probability| of a bin that holds an answer."""
        there = self.count > 0
        return float((np.abs(self.right - self.total)[there] / self.count[there]).max())

    @property
    def surplus(self) -> float:
        """Mean probability − share right, over all answers: above 0 where a network is too sure of itself."""
        return float((self.total.sum() - self.right.sum()) / self.count.sum())


def calibration(probability: NDArray[np.floating], right: NDArray[np.bool_], *, bins: int = BINS) -> Calibration:
    """The probability (N,) of each answer and whether it was right (N,) -> the answers in bins. ValueError: none."""
    if not len(probability) or probability.shape != right.shape:
        raise ValueError(f"{len(probability)} probabilities of {len(right)} answers")
    p = probability.astype(np.float64)
    at = np.clip(np.ceil(p * bins).astype(np.int64) - 1, 0, bins - 1)
    return Calibration(
        count=np.bincount(at, minlength=bins),
        right=np.bincount(at[right], minlength=bins),
        total=np.bincount(at, weights=p, minlength=bins).astype(np.float64),
    )
