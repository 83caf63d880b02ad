"""From runs and data as a user names them to a score."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.loader import BadImages
from ..data.samples import Samples
from ..data.sources import open_data, open_held_out
from ..errors import DataError, NumbersError, UsageError
from ..weights.run import Loaded, open_run
from .score import Answers, Score, answer, average, score


@dataclass(frozen=True)
class Verdict:
    """A score, and what it is of."""

    score: Score
    answers: Answers
    models: list[str]
    classes: list[str]

    def to_json(self) -> dict[str, Any]:
        """The document of `eval --json`."""
        return {**self.score.to_json(), "models": self.models}

    def per_class(self) -> list[dict[str, Any]]:
        """Count and accuracy of each class that occurs."""
        return [
            {"class": name, "count": int(n), "correct": int(c), "top1": float(c / n)}
            for name, n, c in zip(self.classes, self.score.class_count, self.score.class_correct, strict=True)
            if n
        ]


def samples_for(loaded: Loaded, data: str | None) -> Samples:
    """The samples to judge on, labelled by key as the network is: those of `data`, or the run's own validation split.

    Of a `data` that keeps some to judge by, those.
    """
    if data is not None:
        return open_held_out(data).as_classes(loaded.classes, data, partial=True)
    if loaded.data is None:
        raise UsageError(f"{loaded.where}: has no data of its own; name DATA")
    kept = loaded.data
    found = open_data(kept["source"], **kept["split"])
    if found.fingerprint != kept["fingerprint"]:
        raise DataError(f"{kept['source']}: no longer the pictures this run was trained with; name DATA")
    if found.val is None:
        raise UsageError(f"{loaded.where}: was trained without a validation split; name DATA")
    return found.val.as_classes(loaded.classes, kept["source"], partial=True)


def judge(
    runs: list[str],
    data: str | None,
    *,
    views: int = 1,
    batch_size: int = 64,
    device: torch.device | None = None,
    precision: str = "fp32",
    threads: int = 2,
    bad_images: BadImages = "error",
    seed: int = 0,
) -> Verdict:
    """The score of one run, or of several with their probabilities averaged (the paper's ensembles).

    NumbersError: a network whose answers are not finite.
    """
    if views not in (1, 5, 10):
        raise UsageError(f"--views {views}: must be 1, 5 or 10")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: must be at least 1")
    if threads < 0:
        raise UsageError(f"--workers {threads}: must be at least 0")
    first = open_run(runs[0], seed=seed)
    samples = samples_for(first, data)
    said = []
    for where in runs:
        loaded = first if where == runs[0] else open_run(where, seed=seed, classes=first.classes)
        if data is None and loaded.data and first.data and loaded.data["fingerprint"] != first.data["fingerprint"]:
            # what one holds out, the other may have been trained with
            raise UsageError(f"{where}: was trained on another split than {runs[0]}; name DATA that neither has seen")
        order = first.classes.match(loaded.classes, where)  # its label i is our label order[i]
        loaded.model.to(device or torch.device("cpu")).to(memory_format=torch.channels_last)
        answers = answer(
            loaded.model,
            samples,
            loaded.preprocess,
            loaded.mean,
            views=views,
            batch_size=batch_size,
            device=device,
            precision=precision,
            threads=threads,
            bad_images=bad_images,
        )
        if not np.isfinite(answers.probabilities).all():
            raise NumbersError(f"{where}: its answers are not finite numbers; look at its weights, or use fp32")
        own = np.empty_like(answers.probabilities)
        own[:, order] = answers.probabilities
        said.append(Answers(own, answers.labels, answers.keys, answers.bad, answers.views))
    together = average(said) if len(said) > 1 else said[0]
    return Verdict(score(together), together, runs, list(first.classes.words))
