"""Pictures that look alike: 64 bits of each picture, and which of a million such differ in a few."""

from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS: Final = 64
NEAR: Final = 4  # bits that may differ
# Of NEAR + 2 blocks, two at least are equal where NEAR bits or fewer differ: pictures are compared that share two.
BLOCKS: Final = NEAR + 2


def likeness(image: NDArray[np.uint8]) -> np.uint64:
    """The difference hash of a picture uint8 (h, w, 3): in 8 rows of 9 greys, whether each is lighter than the last.

    Krawetz, "Kind of Like That" (2013). It stays through another size, compression or brightness.
    """
    grey = np.asarray(Image.fromarray(image).convert("L").resize((9, 8), Image.Resampling.BILINEAR))
    return np.packbits(grey[:, 1:] > grey[:, :-1]).view(np.uint64)[0]


def alike(values: NDArray[np.uint64], between: Callable[[], None]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of the likenesses (n,) of pictures: the first picture that each differs from in NEAR bits or fewer, or itself,

    int64 (n,); and the number of the group, int64 (n,), within which a chain of such pairs leads from each to each.
    `between` is called now and then, and may raise to end it.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    distinct, first, which = np.unique(values, return_index=True, return_inverse=True)
    pairs = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    edges = np.linspace(0, BITS, BLOCKS + 1).astype(int)
    blocks = [(1 << int(b)) - (1 << int(a)) for a, b in pairwise(edges)]
    for one, other in combinations(blocks, 2):
        shared = distinct & np.uint64(one | other)
        order = np.argsort(shared, kind="stable")
        value, shared = distinct[order], shared[order]
        at, lag = np.arange(len(order)), 1
        while (at := at[at < len(order) - lag]).size and (at := at[shared[at] == shared[at + lag]]).size:
            between()
            near = at[np.bitwise_count(value[at] ^ value[at + lag]) <= NEAR]
            pairs.append((order[near], order[near + lag]))
            lag += 1
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    before = first[which]
    np.minimum.at(before, np.maximum(first[a], first[b]), np.minimum(first[a], first[b]))
    linked = coo_array((np.ones(len(a), bool), (a, b)), shape=(len(distinct), len(distinct)))
    return before, connected_components(linked, directed=False)[1][which].astype(np.int64)
