"""What each layer of a run tells of the classes of a set: probes, and the neighbours of the paper's figure 4.

DATA holds train/ and val/. For each layer, from conv1 to fc7: k-NN and a linear classifier, trained on train/ and
judged on val/ (`alexnet probe`); and the precision at 6, of the six pictures of train/ nearest to each of val/ the
share of its class (`alexnet neighbours`). The last also for `pixels`, the centre crop that the network is given.

    python bench/layers.py RUN DATA [--layers conv1:relu,fc7 ...]
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from alexnet.data.loader import Places, batches, stored
from alexnet.data.samples import Samples
from alexnet.data.sources import open_source
from alexnet.evaluation.feature_files import Features, read_features
from alexnet.evaluation.features import extract
from alexnet.evaluation.neighbours import Metric, nearest_of
from alexnet.evaluation.probe import probe
from alexnet.weights.run import Loaded, open_run

PIXELS = "pixels"  # what goes in, as a layer
LAYERS = f"{PIXELS},conv1:relu,conv2:relu,conv3:relu,conv4:relu,conv5:relu,fc6,fc6:relu,fc7,fc7:relu"
K, BATCH = 6, 64
METRICS: Final[tuple[Metric, ...]] = ("euclidean", "cosine")


def pixels(loaded: Loaded, samples: Samples) -> Iterator[NDArray[np.float32]]:
    """The crops that the network sees, 0..255, a batch at a time."""
    p = loaded.preprocess
    edge, rows = (p.stored - p.side) // 2, np.arange(len(samples))
    places = (Places(rows[i : i + BATCH], rows[i : i + BATCH]) for i in range(0, len(rows), BATCH))
    for batch in batches(samples, places, stored(samples, p), side=p.stored, threads=2):
        crops = batch.images[:, edge : edge + p.side, edge : edge + p.side].float()
        yield crops.reshape(len(crops), -1).numpy()


def precision(
    queries: NDArray[np.float32], blocks: Iterator[NDArray[np.float32]], here: NDArray[np.int64],
    there: NDArray[np.int64], metric: Metric,
) -> dict[str, float]:  # fmt: skip
    indices, _ = nearest_of(queries, blocks, k=K, metric=metric)
    shares = (there[indices] == here[:, None]).mean(1)
    half = 1.96 * shares.std(ddof=1) / len(shares) ** 0.5
    return {"precision": float(shares.mean()), "low": float(shares.mean() - half), "high": float(shares.mean() + half)}


def searched(train: Features, test: Features, layer: str, there: NDArray[np.int64], metric: Metric) -> dict[str, float]:
    values = train.matrix(layer)
    blocks = (np.asarray(values[i : i + BATCH]) for i in range(0, len(values), BATCH))
    return precision(np.asarray(test.matrix(layer)), blocks, test.labels, there, metric)


def shown(found: dict[str, float]) -> str:
    return f"{100 * found['precision']:.1f} % [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def said(near: dict[Metric, dict[str, float]]) -> str:
    return f"precision at {K} " + ", ".join(f"{metric} {shown(found)}" for metric, found in near.items())


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run")
    p.add_argument("data", type=Path)
    p.add_argument("--layers", default=LAYERS)
    a = p.parse_args()
    loaded = open_run(a.run)
    sets = {name: open_source(a.data / name) for name in ("train", "val")}
    here, there = sets["val"].label, sets["train"].label
    result: list[dict[str, object]] = []
    for layer in a.layers.split(","):
        if layer == PIXELS:
            queries = np.concatenate(list(pixels(loaded, sets["val"])))
            near = {
                metric: precision(queries, pixels(loaded, sets["train"]), here, there, metric) for metric in METRICS
            }
            print(f"{PIXELS}: {said(near)}", flush=True)
            result.append({"layer": PIXELS, "near": near})
            continue
        with tempfile.TemporaryDirectory() as place:
            features = {}
            for name, samples in sets.items():
                extract(loaded, samples, [layer], Path(place) / f"{name}.npy", source=name)
                features[name] = read_features(Path(place) / f"{name}.npy")
            near = {metric: searched(features["train"], features["val"], layer, there, metric) for metric in METRICS}
            row = probe(features["train"], features["val"])["layers"][0]
        parts = [f"{name} {100 * row[name]['top1']:.1f} % [{100 * row[name]['top1_interval'][0]:.1f}, "
                 f"{100 * row[name]['top1_interval'][1]:.1f}]" for name in ("knn", "linear")]  # fmt: skip
        where = " x ".join(map(str, row["probed"]))
        print(f"{layer}: {', '.join(parts)} (of {where}); {said(near)}", flush=True)
        result.append({**row, "near": near})
    print(json.dumps(result))


if __name__ == "__main__":
    main()
