"""Which sample comes n-th, and every random number of an image: pure functions of (seed, epoch, n), no state.

The order is a keyed permutation of range(size): a Feistel network with cycle walking (Black and Rogaway 2002,
"Ciphers with arbitrary finite domains"). The draws are splitmix64 (Steele, Lea, Flood 2014) of a key and a counter.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
# Halves of at least three bits: on a smaller domain few round functions exist and some orders would never come.
SMALLEST_HALF = 3


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Splitmix64's finaliser, elementwise: uint64 -> uint64, a bijection that looks random."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache(maxsize=1024)
def key(*words: int) -> NDArray[np.uint64]:
    """One uint64, as an array of one element, read-only, from any number of integers; their order counts."""
    folded = np.zeros(1, np.uint64)
    for word in words:
        folded = mix(folded ^ np.array([word & 0xFFFFFFFFFFFFFFFF], np.uint64))
    folded.flags.writeable = False
    return folded


def nth(seed: int, epoch: int, n: NDArray[np.int64], *, size: int) -> NDArray[np.int64]:
    """The rows at positions `n` of an epoch: int64, a bijection of range(size) for each (seed, epoch).

    The cost of a position does not depend on `size`.
    """
    half = max(SMALLEST_HALF, ((size - 1).bit_length() + 1) // 2)
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    keys = [key(seed, epoch, 1, turn) for turn in range(ROUNDS)]

    def encrypt(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = x >> shift, x & mask
        for round_key in keys:
            left, right = right, left ^ (mix(right ^ round_key) & mask)
        return (left << shift) | right

    rows = encrypt(n.astype(np.uint64))
    outside = np.flatnonzero(rows >= np.uint64(size))
    while outside.size:
        rows[outside] = encrypt(rows[outside])
        outside = outside[rows[outside] >= np.uint64(size)]
    return rows.astype(np.int64)


def uniform(seed: int, epoch: int, n: NDArray[np.int64], *, count: int, purpose: int) -> NDArray[np.float64]:
    """(len(n), count) numbers in [0, 1), 53 bits each, for the images at positions `n`; each purpose draws its own."""
    rows = mix(n.astype(np.uint64) ^ key(seed, epoch, 2, purpose))
    cells = mix(rows[:, None] ^ mix(np.arange(count, dtype=np.uint64))[None, :])
    return (cells >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(seed: int, epoch: int, n: NDArray[np.int64], *, count: int, purpose: int) -> NDArray[np.float64]:
    """(len(n), count) standard normal numbers (Box and Muller 1958) for the images at positions `n`."""
    u = uniform(seed, epoch, n, count=2 * count, purpose=purpose)
    return np.sqrt(-2.0 * np.log1p(-u[:, :count])) * np.cos(2.0 * np.pi * u[:, count:])


def balanced(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows in which every class that occurs comes equally often: those of smaller classes are repeated in turn."""
    counts = np.bincount(labels)
    most = int(counts.max())
    rows = [np.resize(np.flatnonzero(labels == label), most) for label in np.flatnonzero(counts)]
    return np.concatenate(rows).astype(np.int64)
