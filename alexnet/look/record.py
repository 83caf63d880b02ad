"""A run as its folder tells it, for who looks at it: what is there as values, what is not in words."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import files
from ..data.classes import Classes
from ..data.preprocess import Preprocess
from ..data.samples import Samples, shown
from ..errors import DataError, UsageError, WeightsError
from ..evaluation.predictions import Predictions, fitting, read_predictions
from ..network.variants import Variant, variant
from ..weights import checkpoint
from ..weights.run import Run
from .kernels import read_kernels
from .metrics import read_metrics

Line = dict[str, Any]  # of metrics.jsonl


@dataclass
class Record:
    """One run, number `at` of a page. What its folder lacks is None or empty, and `lacking` says why, by the field.

    `kernels`: conv1's, (O, 3, k, k), red first; `kernels_of` says of when they are. `bad`: pictures left out. `train`
    and `val` are its pictures, where they were looked for and are still those that it had.
    """

    run: Run
    name: str
    at: int
    recipe: dict[str, dict[str, Any]]
    variant: Variant
    classes: Classes
    preprocess: Preprocess
    environment: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    log: list[Line] = field(default_factory=list)
    predictions: Predictions | None = None
    kernels: NDArray[np.float32] | None = None
    kernels_of: str = ""
    bad: list[tuple[str, str]] = field(default_factory=list)
    changes: list[tuple[int, str, str, str]] = field(default_factory=list)
    train: Samples | None = None
    val: Samples | None = None
    lacking: dict[str, str] = field(default_factory=dict)

    def split(self, name: str) -> list[Line]:
        """The lines of metrics.jsonl of one split, in their order."""
        return [line for line in self.log if line["split"] == name]

    @cached_property
    def names(self) -> list[str]:
        """What each class is called: its words, with its key where several have the same."""
        several = {words for words, count in Counter(self.classes.words).items() if count > 1}
        return [f"{words} ({key})" if words in several else words
                for key, words in zip(self.classes.keys, self.classes.words, strict=True)]  # fmt: skip

    @property
    def pictures(self) -> str:
        """What tells its pictures from those of another run, and is the same where they are."""
        return str(self.data["fingerprint"]) if self.data is not None else str(self.run.folder)

    @property
    def imported(self) -> bool:
        """Whether another program trained it."""
        return self.recipe["steps"]["origin"] == "import"

    @property
    def step(self) -> int:
        """Updates done, as far as the log tells."""
        return int(self.log[-1]["step"]) if self.log else 0

    @property
    def steps(self) -> int:
        """Updates asked for."""
        return int(self.recipe["steps"]["value"])


def run_of(where: str) -> Run:
    """The run that a user names by its folder, a checkpoint in it, or its file `best` or `last`; else a UsageError."""
    path = Path(where)
    if Run.pointed(path) is not None:
        return Run(path.parent)
    if (path / "manifest.json").is_file() and Run(path.resolve().parent.parent).exists():
        return Run(path.resolve().parent.parent)
    for folder in (path, Path("runs") / where):
        if Run(folder).exists():
            return Run(folder)
    raise UsageError(f"{where}: not a run folder (it holds no recipe.json); `alexnet import` makes one of a model file")


def read(run: Run, *, name: str, at: int = 0, checkpoints: bool = True) -> Record:
    """What the folder of a run tells, called `name`. Without `checkpoints` none is opened: the kernels are its log's.

    UsageError: no run, or one whose recipe, classes or preprocessing cannot be read.
    """
    recipe, classes, preprocess = run.recipe(), run.classes(), run.preprocess()[0]
    steps = recipe["steps"]["value"]
    if type(steps) is not int or steps < 0:
        raise UsageError(f"{run.folder / 'recipe.json'}: steps: expected a number of updates")
    made = Record(run, name, at, recipe, variant(str(recipe["variant"]["value"])), classes, preprocess)
    with _lacking(made, "environment"):
        made.environment = run.json("environment.json")
    with _lacking(made, "data"):
        made.data = run.data()
        if made.data is None:
            made.lacking["data"] = "the run was imported, and does not say what pictures it was trained on"
    with _lacking(made, "log"):
        made.log = read_metrics(run)
        if not made.log:
            made.lacking["log"] = _why(made)
    with _lacking(made, "predictions"):
        if run.predictions.exists():
            made.predictions = fitting(read_predictions(run.predictions), len(classes), run.predictions)
        else:
            made.lacking["predictions"] = _why(made)
    with _lacking(made, "kernels"):
        _take_kernels(made, checkpoints=checkpoints)
    made.bad = [(str(line.get("path")), str(line.get("reason"))) for line in _lines(run.folder / "bad_images.jsonl")]
    with _lacking(made, "changes"):
        made.changes = _changes(run.folder / "changes.json")
    return made


@contextmanager
def _lacking(record: Record, name: str) -> Iterator[None]:
    """What cannot be read is lacking, and why is said where it would stand."""
    try:
        yield
    except (DataError, UsageError, WeightsError) as reason:
        record.lacking[name] = str(reason)


def _why(record: Record) -> str:
    """Why a run has no log or no answers."""
    if record.imported:
        return "the run was imported"
    return "nothing was validated" if record.log else "nothing was trained yet"


def _take_kernels(record: Record, *, checkpoints: bool) -> None:
    """conv1's kernels after the last whole epoch, else those of the best checkpoint."""
    run = record.run
    if run.kernels.exists():
        kept = read_kernels(run)
        whole = [epoch for epoch in range(len(kept)) if np.isfinite(kept[epoch]).all()]
        if whole:
            record.kernels, record.kernels_of = np.array(kept[whole[-1]]), f"after epoch {whole[-1] + 1}"
    folder = run.pointer("best") or run.pointer("last")
    if record.kernels is None and checkpoints and folder is not None:
        record.kernels = checkpoint.load(folder, training=False).model["conv1.weight"].float().numpy()
        record.kernels_of = "of the best checkpoint"
    if record.kernels is None:
        record.lacking["kernels"] = "they are kept after each epoch, and none is over yet"
        return
    shape = record.kernels.shape
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or not np.isfinite(record.kernels).all():
        record.kernels = None
        raise DataError(f"{run.folder}: its first layer has kernels of shape {shape}, expected (O, 3, k, k)")
    if record.preprocess.colour == "BGR":
        record.kernels = record.kernels[:, ::-1]


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; [] where there is none. A line that is no object is left out."""
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _changes(path: Path) -> list[tuple[int, str, str, str]]:
    """What a run went on with that it was not begun with: step, name, value there, value then. DataError: no such."""
    if not path.exists():
        return []
    kept = files.read_json(path)
    try:
        return [(int(one["step"]), shown(str(it["name"])), shown(str(it["there"])), shown(str(it["now"])))
                for one in kept for it in one["changes"]]  # fmt: skip
    except (LookupError, TypeError, ValueError):
        raise DataError(f"{path}: not what a run writes there") from None


def number(line: Line, name: str) -> float | None:
    """A number of a line of the log; None where it has none."""
    value = line.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
