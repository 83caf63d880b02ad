"""The exact search of `alexnet neighbours` and faiss's exact index, in turn, on rows of random numbers.

python bench/search.py --rows 100000 --values 4096 --queries 1 100
"""

import argparse
import time
from statistics import median

import numpy as np

from alexnet.evaluation.neighbours import SEARCHES

REPEATS, K = 5, 6


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", type=int, default=100_000)
    p.add_argument("--values", type=int, default=4096)
    p.add_argument("--queries", type=int, nargs="+", default=[1, 100])
    a = p.parse_args()
    random = np.random.default_rng(0)
    among = random.random((a.rows, a.values), np.float32)
    for count in a.queries:
        queries = random.random((count, a.values), np.float32)
        took: dict[str, list[float]] = {name: [] for name in SEARCHES}
        found = {}
        for repeat in range(REPEATS):
            for name in sorted(SEARCHES, reverse=repeat % 2 == 1):
                begin = time.perf_counter()
                found[name], _ = SEARCHES[name](queries, [among], k=K)
                took[name].append(time.perf_counter() - begin)
        same = float((found["exact"] == found["faiss"]).mean())
        said = ", ".join(f"{name} {median(t):.2f} s ({min(t):.2f} to {max(t):.2f})" for name, t in took.items())
        print(f"{count} queries among {a.rows} x {a.values}: {said}; the same {100 * same:.2f} %")


if __name__ == "__main__":
    main()
