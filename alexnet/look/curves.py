"""How a training went, and several beside each other."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ..errors import UsageError
from ..weights.run import Run
from .figures import CYCLE, FAINT, PALE, WIDTH, short
from .metrics import Log, read_metrics

POINTS: Final = 120  # of a training's line: more are averaged
DASHES: Final = (0, (2, 1))  # of what was measured in training
MOST: Final = 2 * len(CYCLE)
# what two runs may differ in and still be the same training, begun from another seed
ASIDE: Final = {"seed", "workers", "save_every", "keep", "on_nan", "bad_images"}


@dataclass(frozen=True)
class Trained:
    """A run and its log."""

    run: Run
    log: Log

    def values(self, split: str, what: str) -> NDArray[np.float64]:
        """(3, N): step, epoch, value; of a step that was logged twice, the later."""
        lines = np.stack([self.log.column(split, name)[::-1] for name in ("step", "epoch", what)])
        return lines[:, np.unique(lines[0], return_index=True)[1]]

    def best(self) -> float | None:
        """The least error of its validations; None: there was none."""
        return min((1 - self.log.column("val", "top1")).tolist(), default=None)


def draw_curves(runs: Sequence[Run]) -> Figure:
    """Loss and error over the epochs, of the training and of the held-out pictures, a colour a training.

    Runs that share all but the seed are one: their mean, and from the least to the most of them as a band. UsageError:
    a run without a log, or more than can be told apart.
    """
    runs = list({run.folder.resolve(): run for run in runs}.values())
    trainings = grouped([_read(run) for run in runs])
    if len(trainings) > MOST:
        raise UsageError(f"{len(trainings)} different trainings: {MOST} at most can be told apart")
    names = _names(runs)
    figure = Figure(figsize=(WIDTH, 3.7 + 0.19 * len(trainings)), layout="constrained")
    loss, error = figure.subplots(1, 2)
    handles: list[Line2D] = []
    for at, seeds in enumerate(trainings):
        colour, wide = CYCLE[at % len(CYCLE)], 1.8 if at < len(CYCLE) else 1.0
        for axes, what in ((loss, "loss"), (error, "top1")):
            _line(axes, seeds, "train", what, color=colour, linewidth=wide * 0.6, linestyle=DASHES, alpha=0.8)
            _line(axes, seeds, "val", what, color=colour, linewidth=wide, marker="o", markersize=2.6)
        if any((one.log.column("val", "top5") < 1).any() for one in seeds):
            _line(error, seeds, "val", "top5", color=colour, linewidth=wide * 0.7, linestyle="dashdot")
        handles.append(Line2D([], [], color=colour, linewidth=wide, label=_said(seeds, names)))
    for axes, title in ((loss, "loss"), (error, "error, %")):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(axis="y", color=PALE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    looks: list[dict[str, Any]] = [{"label": "held out", "marker": "o", "markersize": 2.6}]
    looks.append({"label": "in training", "linestyle": DASHES})
    if any(line.get_linestyle() == "-." for line in error.lines):
        looks.append({"label": "held out, top-5", "linestyle": "dashdot"})
    error.legend(handles=[Line2D([], [], color=FAINT, **look) for look in looks])
    figure.legend(handles=handles, loc="outside lower left", ncols=1)
    return figure


def grouped(trained: Sequence[Trained]) -> list[list[Trained]]:
    """The runs in lists, in their order: those of a list share all but the seed."""
    groups: dict[str, list[Trained]] = defaultdict(list)
    for one in trained:
        recipe, data = one.run.recipe(), one.run.json("data.json")
        values = [(name, entry["value"]) for name, entry in sorted(recipe.items()) if name not in ASIDE]
        groups[repr((values, data.get("source"), one.run.classes().keys))].append(one)
    return list(groups.values())


def together(seeds: Sequence[Trained], split: str, what: str) -> NDArray[np.float64]:
    """(4, N) of the steps that all have logged: epoch, mean, least and most; N = 0 where there are none."""
    each = [one.values(split, what) for one in seeds]
    steps = reduce(np.intersect1d, [step for step, _, _ in each])
    if not len(steps):
        return np.empty((4, 0))
    epochs = each[0][1][np.isin(each[0][0], steps)]
    values = np.stack([value[np.isin(step, steps)] for step, _, value in each])
    return np.stack([epochs, values.mean(0), values.min(0), values.max(0)])


def _read(run: Run) -> Trained:
    log = read_metrics(run)
    if not log.count("train") + log.count("val"):
        raise UsageError(f"{run.metrics}: missing or empty: nothing was trained here that could be drawn")
    return Trained(run, log)


def _line(axes: Axes, seeds: Sequence[Trained], split: str, what: str, **look: Any) -> None:
    values = together(seeds, split, what)
    if what.startswith("top"):  # of what is right: the error, in per cent
        values[1:] = 100 * (1 - values[1:])
    if values.shape[1] > POINTS:
        values = np.stack([part.mean(1) for part in np.array_split(values, POINTS, axis=1)], 1)
    if not values.shape[1]:
        return
    axes.plot(values[0], values[1], **look)
    if len(seeds) > 1:
        axes.fill_between(values[0], values[2], values[3], color=look["color"], alpha=0.15, linewidth=0)


def _names(runs: Sequence[Run]) -> dict[Path, str]:
    """The folders' names, or where two have the same their paths."""
    names = [run.folder.resolve().name for run in runs]
    return {
        run.folder: short(name if names.count(name) == 1 else str(run.folder), 40)
        for run, name in zip(runs, names, strict=True)
    }


def _said(seeds: Sequence[Trained], names: dict[Path, str]) -> str:
    """A line of the legend: who, and how good at best."""
    who = short(", ".join(names[one.run.folder] for one in seeds), 80)
    if len(seeds) > 1:
        who = f"{who}: mean of {len(seeds)} seeds, and from the least to the most"
    best = [value for one in seeds if (value := one.best()) is not None]
    return f"{who} (best error {100 * statistics.fmean(best):.1f} %)" if best else who
