"""From runs and data as a user names them to a score."""

from dataclasses import dataclass
from pathlib import Path
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
    """A score, and what it is of; `held_out`: of the pictures that the runs held out of their training."""

    score: Score
    answers: Answers
    models: list[str]
    classes: list[str]
    held_out: bool

    def to_json(self) -> dict[str, Any]:
        """The document of `eval --json`."""
        return {**self.score.to_json(), "models": self.models, "held_out": self.held_out}

    def per_class(self) -> list[dict[str, Any]]:
        """Count and accuracy of each class that occurs."""
        return [
            {"class": name, "count": int(n), "correct": int(c), "top1": float(c / n)}
            for name, n, c in zip(self.classes, self.score.class_count, self.score.class_correct, strict=True)
            if n
        ]


def given_samples(loaded: Loaded, data: str | None) -> Samples:
    """The pictures to judge by: those of `data` (which it keeps apart for that, or all), or the run's held-out ones.

    A `data` of which the run was trained on a part is the run's own.
    """
    kept = loaded.data
    if data is not None:
        known = kept["source"] if kept is not None and "val_names" in kept["split"] else None
        if known not in (data, str(Path(data).resolve())):
            return open_held_out(data)
    if kept is None:
        raise UsageError(f"{loaded.where}: has no data of its own; name DATA")
    found = open_data(kept["source"], **kept["split"])
    if found.val is None:
        raise UsageError(f"{loaded.where}: was trained without a validation split; name DATA")
    if found.val.fingerprint() != kept["val_fingerprint"]:
        raise DataError(f"{kept['source']}: no longer holds the pictures that {loaded.where} held out; name other DATA")
    return found.val


def held_out_of(samples: Samples, loaded: Loaded) -> Samples | None:
    """Those of `samples` that the run drew to hold out, if all are there: the rest was trained on. None otherwise."""
    if loaded.data is None or "val_names" not in loaded.data["split"]:
        return None
    names = set(loaded.data["split"]["val_names"])
    found = samples.take(np.array([row for row, key in enumerate(samples.keys()) if key in names], np.int64))
    return found if found.fingerprint() == loaded.data["val_fingerprint"] else None  # other pictures may be called so


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

    The pictures are those that the first run held out. With `data`, those that it keeps to judge by, or all; where they
    hold the ones that a run drew to hold out, these only, for with the rest it was trained.
    NumbersError: a network whose answers are not finite.
    """
    if views not in (1, 5, 10):
        raise UsageError(f"--views {views}: must be 1, 5 or 10")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: must be at least 1")
    if threads < 0:
        raise UsageError(f"--workers {threads}: must be at least 0")
    first = open_run(runs[0], seed=seed)
    given = given_samples(first, data)
    own = held_out_of(given, first)
    samples = (given if own is None else own).as_classes(first.classes, data or runs[0], partial=True)
    said = []
    for where in runs:
        loaded = first if where == runs[0] else open_run(where, seed=seed, classes=first.classes)
        alike = loaded.data and first.data and loaded.data["val_fingerprint"] == first.data["val_fingerprint"]
        if loaded.data and not alike and (data is None or held_out_of(given, loaded) or own is not None):
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
        ordered = np.empty_like(answers.probabilities)
        ordered[:, order] = answers.probabilities
        said.append(Answers(ordered, answers.labels, answers.keys, answers.bad, answers.views))
    together = average(said) if len(said) > 1 else said[0]
    return Verdict(score(together), together, runs, list(first.classes.words), data is None or own is not None)
