"""Scores: top-1 and top-5 with their intervals, over the paper's views, of one network or several averaged."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import stop
from ..data.augment import Normalise, test_views
from ..data.loader import BadImages, Batch, Places, batches, stored
from ..data.preprocess import Preprocess
from ..data.samples import Samples
from ..errors import BadImage, DataError, Stopped, none_decoded
from ..network.build import AlexNet

Network = Callable[[torch.Tensor], torch.Tensor]  # images (B, 3, side, side) -> logits (B, classes)

Z95 = 1.959963984540054  # the normal quantile of a two-sided 95 % interval
LEAST = 1e-38  # about float32's least normal number: a probability of 0 has a loss too


@dataclass(frozen=True)
class Answers:
    """What networks said of samples: probabilities (N, classes), labels (N,), keys; rows of `bad` were not decoded."""

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    keys: list[str]
    bad: dict[int, BadImage]
    views: int

    def ranks(self) -> NDArray[np.int64]:
        """(N,) how many classes stand before the true one; a bad image or NaN: more than there are.

        Among equals the lower index is first. DEVIATES from [CODE12], which shares the credit among them.
        """
        p = self.probabilities
        true = p[np.arange(len(p)), self.labels][:, None]
        before = (p > true) | ((p == true) & (np.arange(p.shape[1])[None, :] < self.labels[:, None]))
        ranks = before.sum(1)
        ranks[np.isnan(true[:, 0])] = np.iinfo(np.int64).max  # nothing compares with NaN: it would be the first
        ranks[list(self.bad)] = np.iinfo(np.int64).max  # not the number of classes: of four, it would be in the top 5
        return ranks


@dataclass(frozen=True)
class Score:
    """Counts of one evaluation. A bad image counts as wrong; `loss` is the mean -log p of the decoded ones."""

    count: int
    correct1: int
    correct5: int
    loss: float
    views: int
    bad_images: int
    class_count: NDArray[np.int64]
    class_correct: NDArray[np.int64]

    @property
    def top1(self) -> float:
        """Share of images whose likeliest class is the true one."""
        return self.correct1 / self.count

    @property
    def top5(self) -> float:
        """Share of images whose true class is among the five likeliest."""
        return self.correct5 / self.count

    @property
    def mean_class_accuracy(self) -> float:
        """Mean over the classes that occur of their own top-1."""
        there = self.class_count > 0
        return float((self.class_correct[there] / self.class_count[there]).mean())

    def to_json(self) -> dict[str, Any]:
        """The document of `eval --json`, without the names of the models."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "top1_error": 1.0 - self.top1,
            "top5_error": 1.0 - self.top5,
            "top1_interval": list(wilson(self.correct1, self.count)),
            "top5_interval": list(wilson(self.correct5, self.count)),
            "mean_class_accuracy": self.mean_class_accuracy,
            "loss": self.loss,
            "count": self.count,
            "views": self.views,
            "bad_images": self.bad_images,
        }


def wilson(correct: int, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927)."""
    share, z2 = correct / count, Z95 * Z95
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return max(0.0, centre - half), 1.0 if correct == count else centre + half  # exactly: its last bit may differ


def probabilities(network: Network, images: torch.Tensor, normalise: Normalise, *, views: int) -> torch.Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, classes): the softmax averaged over the views (paper, section 4.1)."""
    logits = network(test_views(images, normalise, views=views))
    return logits.float().softmax(1).view(images.shape[0], views, -1).mean(1)


@torch.inference_mode()
def answer(
    model: AlexNet,
    samples: Samples,
    preprocess: Preprocess,
    mean: NDArray[np.float32] | None,
    *,
    views: int = 1,
    batch_size: int = 64,
    device: torch.device | None = None,
    precision: str = "fp32",
    threads: int = 2,
    bad_images: BadImages = "error",
    network: Network | None = None,
) -> Answers:
    """What `model` says of every sample, in the order of the table; `network` computes its logits in its place.

    Stopped where a signal asks for the end.
    """
    device = device or torch.device("cpu")

    def own(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return model(x)

    normalise = Normalise(preprocess, mean, device)
    rows = np.arange(len(samples))
    per_batch = max(1, batch_size // views)
    places = (Places(rows[i : i + per_batch], rows[i : i + per_batch]) for i in range(0, len(rows), per_batch))
    side = preprocess.stored
    out = np.full((len(samples), model.classes), 1.0 / model.classes, np.float32)
    bad: dict[int, BadImage] = {}
    training = model.training
    model.eval()
    try:
        batch: Batch
        for batch in batches(
            samples, places, stored(samples, preprocess), side=side, threads=threads, bad_images=bad_images
        ):
            if stop.requested():
                raise Stopped("stopped during an evaluation")
            bad.update(batch.bad)
            if len(batch.rows):
                images = batch.images.to(device, non_blocking=True)
                p = probabilities(network or own, images, normalise, views=views)
                out[batch.rows] = p.cpu().numpy()
    finally:
        model.train(training)
    return Answers(out, samples.label, samples.keys(), bad, views)


def average(answers: Sequence[Answers]) -> Answers:
    """Several networks' answers to the same samples as one: probabilities averaged, as the paper's ensembles."""
    first = answers[0]
    mean = np.stack([a.probabilities for a in answers]).mean(0, dtype=np.float64).astype(np.float32)
    return Answers(mean, first.labels, first.keys, first.bad, first.views)


def score(answers: Answers) -> Score:
    """Counts what is right."""
    if not len(answers.labels):
        raise DataError("there is no image to evaluate")
    if len(answers.bad) == len(answers.labels):
        raise none_decoded(len(answers.labels), next(iter(answers.bad.values())))
    ranks, labels = answers.ranks(), answers.labels
    decoded = np.ones(len(labels), bool)
    decoded[list(answers.bad)] = False
    p = answers.probabilities[np.arange(len(labels)), labels][decoded].astype(np.float64)
    classes = answers.probabilities.shape[1]
    return Score(
        count=len(labels),
        correct1=int((ranks < 1).sum()),
        correct5=int((ranks < 5).sum()),
        loss=float(-np.log(np.maximum(p, LEAST)).mean()),
        views=answers.views,
        bad_images=len(answers.bad),
        class_count=np.bincount(labels, minlength=classes),
        class_correct=np.bincount(labels[ranks < 1], minlength=classes),
    )
