"""From runs and data as a user names them to a score."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from ..data.loader import BadImages
from ..data.samples import Samples
from ..data.sources import open_data, open_held_out
from ..data.threads import workers_of
from ..errors import DataError, NumbersError, UsageError
from ..network.kernels import unmeasured
from ..weights.run import Loaded, open_run
from .backends import CHECKED, Backend, backend_of, some
from .score import Answers, Score, answer, average, score

MOST_BATCH = 65_536  # views at once
# what the judged pictures were to the training of the runs
Pictures = Literal["held out", "trained on", "others"]


@dataclass(frozen=True)
class Verdict:
    """A score, and what it is of."""

    score: Score
    answers: Answers
    models: list[str]
    classes: list[str]
    pictures: Pictures
    backends: list[Backend]  # one a model
    notes: list[str]  # what a user should know of the models

    def to_json(self) -> dict[str, Any]:
        """The document of `eval --json`."""
        return {**self.score.to_json(), "models": self.models, "pictures": self.pictures,
                "backends": [one.to_json() for one in self.backends]}  # fmt: skip

    def per_class(self) -> list[dict[str, Any]]:
        """Count and accuracy of each class that occurs."""
        return [
            {"class": name, "count": int(n), "correct": int(c), "top1": float(c / n)}
            for name, n, c in zip(self.classes, self.score.class_count, self.score.class_correct, strict=True)
            if n
        ]


def check_sizes(*, views: int = 1, batch_size: int = 1, threads: int = 0) -> None:
    """UsageError: views of a picture, views at once or threads that decode, of which there cannot be so many."""
    if views not in (1, 5, 10):
        raise UsageError(f"--views {views}: must be 1, 5 or 10")
    if not 1 <= batch_size <= MOST_BATCH:
        raise UsageError(f"--batch-size {batch_size}: must be at least 1 and at most {MOST_BATCH}")
    workers_of(threads)


def own_samples(loaded: Loaded) -> Samples:
    """The pictures that a run held out, from where they were at its training."""
    kept = loaded.data
    if kept is None:
        raise UsageError(f"{loaded.where}: has no data of its own; name the pictures")
    if kept["val_fingerprint"] is None:
        raise UsageError(f"{loaded.where}: was trained without a validation split; name the pictures")
    _, val = own_data(kept)
    if val is None:
        raise DataError(
            f"{kept['source']}: no longer holds the pictures that {loaded.where} held out; name other pictures"
        )
    return val


def own_data(kept: dict[str, Any]) -> tuple[Samples | None, Samples | None]:
    """The pictures that a run's data.json speaks of, to train on and held out, from where they were at its training.

    None for a part that does not hold the same pictures any more, or was none. DataError: they are not there at all.
    """
    found = open_data(kept["source"], **kept["split"])
    train = found.train if found.train.fingerprint() == kept["train_fingerprint"] else None
    same = found.val is not None and found.val.fingerprint() == kept["val_fingerprint"]
    return train, found.val if same else None


def known(given: Samples, loaded: Loaded) -> tuple[Pictures, Samples]:
    """What a run knows of pictures, and those of them that it may be judged by.

    Of pictures that it drew some of to hold out, these, by name and size: the rest was trained on.
    """
    kept = loaded.data
    if kept is None:
        return "others", given
    fingerprint = given.fingerprint()
    if fingerprint == kept["val_fingerprint"]:
        return "held out", given
    if fingerprint == kept["train_fingerprint"]:
        return "trained on", given
    if given.content != kept.get("content", ""):  # rows of pixels are all of one size
        return "others", given
    sizes = dict(zip(kept["split"].get("val_names", ()), kept["val_sizes"], strict=True))
    rows = [row for row, key in enumerate(given.keys()) if sizes.get(key) == int(given.size[row])]
    return ("held out", given.take(rows)) if rows else ("others", given)


def answered(
    loaded: Loaded,
    samples: Samples,
    where: str,
    *,
    views: int,
    batch_size: int,
    device: torch.device,
    backend: str,
    precision: str,
    threads: int,
    bad_images: BadImages,
) -> tuple[Backend, Answers]:
    """What a run says of samples, its classes in the order of theirs, and what computed it.

    DataError: other classes. NumbersError: answers that are not finite.
    """
    order = samples.classes.match(loaded.classes, where)  # its label i is our label order[i]
    loaded.model.kernels = unmeasured(device)
    pictures_of = partial(some, samples, loaded, count=CHECKED, threads=threads, bad_images=bad_images)
    by, logits = backend_of(loaded, backend, precision=precision, device=device, pictures=pictures_of)
    answers = answer(
        loaded.model,
        samples,
        loaded.preprocess,
        loaded.mean,
        views=views,
        batch_size=batch_size,
        device=device,
        threads=threads,
        bad_images=bad_images,
        network=logits,
    )
    if not np.isfinite(answers.probabilities).all():
        raise NumbersError(f"{where}: its answers are not finite numbers; look at its weights, or use fp32")
    ordered = np.empty_like(answers.probabilities)
    ordered[:, order] = answers.probabilities
    return by, Answers(ordered, answers.labels, answers.keys, answers.bad, answers.views)


def judge(
    runs: list[str],
    data: str | None,
    *,
    views: int = 1,
    batch_size: int = 64,
    device: torch.device | None = None,
    backend: str = "torch",
    precision: str = "fp32",
    threads: int = 2,
    bad_images: BadImages = "error",
    seed: int = 0,
    variant: str | None = None,
) -> Verdict:
    """The score of one run, or of several with their probabilities averaged (the paper's ensembles).

    The pictures are those that the first run held out. With `data`, those that it keeps to judge by, or all; of
    pictures that the run drew some of to hold out, these only. `variant` tells what a model file's shapes do not.
    NumbersError: a network whose answers are not finite.
    """
    check_sizes(views=views, batch_size=batch_size, threads=threads)
    first = open_run(runs[0], seed=seed, named=variant)
    given = own_samples(first) if data is None else open_held_out(data)
    first.name_classes(given.classes)
    pictures, judged_by = known(given, first)
    samples = judged_by.as_classes(first.classes, data or runs[0], partial=True)
    said, backends, notes = list[Answers](), list[Backend](), list[str]()
    where_computed = device or torch.device("cpu")
    for where in runs:
        loaded = first if where == runs[0] else open_run(where, seed=seed, classes=first.classes, named=variant)
        if loaded is not first and loaded.data and first.data:
            its, part = known(given, loaded)
            alike = its == pictures and part.fingerprint() == judged_by.fingerprint()
            if not alike and (data is None or its != "others"):
                # what one holds out, the other may have been trained with
                raise UsageError(
                    f"{where}: was trained on another split than {runs[0]}; name DATA that neither has seen"
                )
        notes += loaded.notes
        by, answers = answered(
            loaded,
            samples,
            where,
            views=views,
            batch_size=batch_size,
            device=where_computed,
            backend=backend,
            precision=precision,
            threads=threads,
            bad_images=bad_images,
        )
        backends.append(by)
        said.append(answers)
    together = average(said) if len(said) > 1 else said[0]
    return Verdict(score(together), together, runs, list(first.classes.words), pictures, backends, notes)
