"""AlexNet as published: every variant exact, trained, judged and used.

alexnet.build("paper")                      a variant's network with its own initial values
alexnet.train("flowers", recipe="fast")     a run folder
alexnet.evaluate("runs/x")                  its score
alexnet.load("runs/x").predict("cat.jpg")   named probabilities
alexnet.features("runs/x", "pictures")      activations of any layers
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluation.feature_files import Features
    from .evaluation.predict import Prediction, Predictor
    from .network.build import AlexNet

__all__ = ["build", "evaluate", "features", "load", "predict", "train"]


# torch is imported when a function needs it: the command line answers `--help` without.


def build(variant: str, classes: int = 1000, seed: int = 0) -> "AlexNet":
    """The network of a variant, (B, 3, side, side) -> logits (B, classes), with that variant's own initial values."""
    from .network import build as network

    return network.build(variant, classes=classes, seed=seed)


def load(run: str | Path, *, device: str = "cpu", seed: int = 0, variant: str | None = None) -> "Predictor":
    """A run folder, a checkpoint folder, a model file, `imagenet` or a variant's name, ready to predict.

    `variant` tells which it is where a model file's shapes are those of several.
    """
    from .evaluation import predict

    return predict.load(run, device=device, seed=seed, variant=variant)


def predict(run: str | Path, picture: str | Path, k: int = 5) -> "list[Prediction]":
    """The k likeliest classes of one picture."""
    return load(run).predict(picture, k)


def train(data: str | Path, *, quiet: bool = False, **options: Any) -> dict[str, Any]:
    """Trains on `data`, or goes on; returns the document of `train --json`.

    The options are those of `alexnet train --help`; `help(alexnet.training.start.Asked)` lists them with their types
    and defaults. Anything else is a TypeError.
    """
    from rich.console import Console

    from .training import start

    console = Console(quiet=quiet, soft_wrap=True, markup=False, emoji=False, highlight=False)
    return start.train(start.Asked(data=str(data), **options), console)


def evaluate(run: str | Path, data: str | Path | None = None, *, views: int = 1) -> dict[str, Any]:
    """The score of a run, on what it held out or on `data`: the document of `eval --json`, on the processor in fp32."""
    from .evaluation import judge

    return judge.judge([str(run)], str(data) if data is not None else None, views=views).to_json()


def features(
    run: str | Path, images: str | Path | Sequence[str | Path] | None = None, layers: Sequence[str] = ("fc7",), *,
    views: int = 1, mean: bool = False,
) -> "Features":  # fmt: skip
    """Activations of any layers, by any world's names, of a run's held-out pictures or of `images`, in memory.

    `.values["fc7"]` is float32 (N, ...), with several views (N, views, ...) or their mean; `.keys`, `.labels` and
    `.classes` say of which pictures.
    """
    from .data.sources import open_pictures
    from .evaluation import features as featuring
    from .evaluation.judge import own_samples
    from .weights.run import open_run

    loaded = open_run(run)
    named = [images] if isinstance(images, str | Path) else images
    samples = own_samples(loaded) if named is None else open_pictures(named)
    return featuring.gather(loaded, samples, list(layers), source=str(images or run), views=views, mean=mean)
