"""Whether the maps of `alexnet explain` mark what the network goes by: a picture is deleted there, and elsewhere.

Of each picture the fifth that weighs most in a map is put to the mean, and the probability of the class that the
network had named is asked again: it should drop by more than without as many pixels at random, than without the square
in the middle, and than without those that the next picture's map marks, the same kind of shape in another place.
Pictures are taken evenly from all that the run held out. Intervals are Student's, 95 %, over the pictures; differences
are paired.

Beside it, how much of a map stays when the network has learned nothing: Spearman's rank correlation with the map of
the same network whose last layer, or whose every layer, is drawn anew (Adebayo et al. 2018).

    python bench/deletion.py RUN DATA
"""

import argparse
import time

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr, t

from alexnet.data.augment import Normalise, test_views
from alexnet.data.decode import decoded_form
from alexnet.data.sources import open_held_out
from alexnet.evaluation.judge import known
from alexnet.look import explain
from alexnet.network.build import build
from alexnet.network.kernels import unmeasured
from alexnet.weights.run import open_run

RANDOMISED = 20  # pictures


def interval(values: NDArray[np.float64]) -> str:
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    mean = float(values.mean())
    return f"{100 * mean:5.1f} [{100 * (mean - half):.1f}, {100 * (mean + half):.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--by", nargs="+", choices=explain.BY, default=explain.BY)
    asked = parser.parse_args()
    loaded = open_run(asked.run)
    which, samples = known(open_held_out(asked.data), loaded)
    rows = np.linspace(0, len(samples) - 1, asked.pictures).round().astype(int)
    normalise = Normalise(loaded.preprocess, loaded.mean, torch.device("cpu"))
    net, variant = loaded.model, loaded.model.variant
    net.kernels = unmeasured(torch.device("cpu"))
    chain = explain.modules_of(net)
    stored = [decoded_form(samples.read(row), samples.key(row), loaded.preprocess.shaping)[0] for row in rows]
    inputs = [test_views(torch.from_numpy(one)[None], normalise, views=1) for one in stored]
    p = torch.cat([explain.probabilities(chain, x) for x in inputs])
    labels = p.argmax(1).tolist()
    named = p.max(1).values.double().numpy()
    right = np.mean(np.array(labels) == loaded.classes.match(samples.classes, asked.data)[samples.label[rows]])
    print(f"{asked.run}, {variant.name}: {len(rows)} pictures of {asked.data} ({which}), {100 * right:.0f} % right")
    print(f"probability of the class named, %: {interval(named)}")

    def left(x: torch.Tensor, label: int, chosen: torch.Tensor) -> float:
        return float(explain.probabilities(chain, explain.without(x, chosen))[:, label].mean())

    side, share = variant.side, explain.DELETED
    plain = {
        "at random": explain.scattered(side, share, draws=explain.DRAWS, seed=0),
        "the middle": explain.middle(side, share)[None],
    }
    drops = {
        name: named - [left(x, label, chosen) for x, label in zip(inputs, labels, strict=True)]
        for name, chosen in plain.items()
    }
    for name, values in drops.items():
        print(f"without {100 * share:.0f} % {name}: it drops by {interval(values)} points")
    redrawn = {name: build(variant, net.classes, seed=1) for name in ("fc8", "every layer")}
    rest = {name: value for name, value in net.state_dict().items() if not name.startswith("fc8.")}
    for one in redrawn.values():
        one.kernels = net.kernels
    redrawn["fc8"].load_state_dict({**redrawn["fc8"].state_dict(), **rest})
    others = {name: explain.modules_of(one) for name, one in redrawn.items()}
    for by in asked.by:
        begin = time.perf_counter()
        maps = [explain.map_of(chain, variant, x, label, by=by)[0] for x, label in zip(inputs, labels, strict=True)]
        took = (time.perf_counter() - begin) / len(maps)
        chosen = [explain.most(one, share)[None] for one in maps]
        triples = list(zip(inputs, labels, chosen, chosen[1:] + chosen[:1], strict=True))
        drop = named - [left(x, label, own) for x, label, own, _ in triples]
        elsewhere = named - [left(x, label, other) for x, label, _, other in triples]
        print(f"{by}, {took:.2f} s a picture: without the {100 * share:.0f} % it marks {interval(drop)} points")
        for name, values in {**drops, "the next picture's": elsewhere}.items():
            print(f"    more than {name}: {interval(drop - values)}")
        for name, other in others.items():
            again = zip(inputs[:RANDOMISED], labels, maps, strict=False)
            rho = [
                spearmanr(one.flatten(), explain.map_of(other, variant, x, label, by=by)[0].flatten()).statistic
                for x, label, one in again
            ]
            print(f"    rank correlation with {name} redrawn, {len(rho)} pictures: {np.nanmean(rho):.2f}")


if __name__ == "__main__":
    main()
