"""A run as its folder tells it, for who looks at it: what is there as values, what is not in words."""

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
from ..network.variants import Conv, Variant, variant
from ..weights import checkpoint
from ..weights.run import Run, run_of, under_runs
from .kernels import last_whole_epoch, read_kernels
from .metrics import Log, read_lines, read_metrics


@dataclass
class Record:
    """One run, number `at` of a page. What its folder lacks is None or empty, and `lacking` says why, by the field.

    `kernels`: conv1's, (O, 3, k, k), red first; `kernels_of` says of when they are. `bad_images`: those left out.
    `train` and `val` are its pictures, where they were looked for and are still those that it had.
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
    log: Log = field(default_factory=Log)
    predictions: Predictions | None = None
    kernels: NDArray[np.float32] | None = None
    kernels_of: str = ""
    bad_images: list[tuple[str, str]] = field(default_factory=list)
    changes: list[tuple[int, str, str, str]] = field(default_factory=list)
    train: Samples | None = None
    val: Samples | None = None
    lacking: dict[str, str] = field(default_factory=dict)

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
    def steps(self) -> int:
        """Updates asked for."""
        return int(self.recipe["steps"]["value"])


def run_folder(where: str) -> Run:
    """The run that a user names, by its folder or what stands for it; else a UsageError that says how to have one."""
    run = run_of(where)
    if run is None:
        hint = under_runs(where) or "; `alexnet import` makes one of a model file"
        raise UsageError(f"{where}: not a run folder{hint}")
    return run


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
    with _lacking(made, "bad_images"):
        made.bad_images = [_bad_image(line, where) for where, line in read_lines(run.folder / "bad_images.jsonl")]
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
    """conv1's kernels after the last whole epoch, else those of the best checkpoint, or of the last where none is best.

    DataError: not the variant's, or not finite.
    """
    run = record.run
    kernels: NDArray[np.float32] | None = None
    where: Path | None = run.kernels
    if run.kernels.exists():
        kept = read_kernels(run)
        whole = last_whole_epoch(kept)
        if whole is not None:
            kernels, record.kernels_of = kept[whole], f"after epoch {whole + 1}"
    if kernels is None and checkpoints:
        best = run.pointer("best")
        where = best or run.pointer("last")
        if where is not None:
            found = checkpoint.load(where, training=False).model.get("conv1.weight")
            if found is None:
                raise DataError(f"{where}: holds no conv1.weight")
            kernels, record.kernels_of = found.float().numpy(), f"of the {'best' if best else 'last'} checkpoint"
    if kernels is None:
        record.lacking["kernels"] = "they are kept after each epoch, and none is over yet"
        return
    first = next(row for row in record.variant.layers if isinstance(row, Conv))
    expected = (first.out, 3, first.kernel, first.kernel)
    if kernels.shape != expected:
        raise DataError(f"{where}: its first layer has kernels of shape {kernels.shape}, expected {expected}")
    if not np.isfinite(kernels).all():
        raise DataError(f"{where}: its first layer has kernels that are not finite numbers")
    record.kernels = np.array(kernels[:, ::-1] if record.preprocess.colour == "BGR" else kernels)


def _bad_image(line: Any, where: str) -> tuple[str, str]:
    """The path and the reason of a line of bad_images.jsonl. UsageError: it has none."""
    match line:
        case {"path": str(path), "reason": str(reason)}:
            return path, reason
    raise UsageError(f"{where}: expected a path and a reason")


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
