"""A run folder: the whole truth of a run. Opened, created and checked here; it holds no pickle."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import files
from ..data.classes import Classes, imagenet_classes
from ..data.preprocess import MEAN_FILE, Colour, Preprocess, from_json, in_other_colour, load_mean, stored_side
from ..errors import DataError, UsageError, WeightsError, did_you_mean
from ..network.build import AlexNet, build
from ..network.variants import VARIANTS, Variant, variant
from . import checkpoint
from .foreign import Foreign, other_colour
from .recognise import Kind, kind_of, read_model
from .torchvision import VARIANT as PUBLISHED
from .torchvision import published

NO_MEAN = "brings no mean image; mid grey stands for it"
GREY = 127.5
PROBE = 4096  # bytes: a full disk takes an empty file
MOST_THREADS = 1024
SPLIT: dict[str, Any] = {"val": str, "val_fraction": int | float, "seed": int, "val_names": list}  # of data.json


@dataclass
class Loaded:
    """A network ready for use, and all that its pictures and answers need."""

    where: str
    model: AlexNet
    preprocess: Preprocess
    mean: NDArray[np.float32] | None  # (S, S, 3) where `preprocess.mean` names the file
    classes: Classes
    data: dict[str, Any] | None  # data.json of the run, where there is one
    numbered: bool = False  # the classes have no names of their own
    given: Foreign | None = None  # what a model file gave
    notes: list[str] = field(default_factory=list)  # what a user should know of it

    def take_mean(self, mean: NDArray[np.float32], colour: Colour) -> None:
        """Takes a mean image (S, S, 3) of that order of channels. WeightsError: it is of another size."""
        side = self.preprocess.stored
        if mean.shape != (side, side, 3):
            raise WeightsError(f"{self.where}: a mean image of {mean.shape}, expected {(side, side, 3)}")
        self.mean = mean if colour == self.preprocess.colour else np.ascontiguousarray(mean[:, :, ::-1])
        self.preprocess = replace(self.preprocess, mean=MEAN_FILE)
        self.notes = [note for note in self.notes if not note.endswith(NO_MEAN)]

    def take_rgb(self) -> None:
        """Turns conv1's input channels and the mean round, where they are BGR: the answers stay."""
        if self.preprocess.colour == "RGB":
            return
        self.model.load_state_dict(other_colour(self.model.state_dict()))
        self.preprocess = in_other_colour(self.preprocess)
        if self.mean is not None:
            self.mean = np.ascontiguousarray(self.mean[:, :, ::-1])

    def name_classes(self, classes: Classes) -> None:
        """Takes the names of as many classes for its numbered ones, in their order, and notes it."""
        if self.numbered and len(classes) == len(self.classes):
            self.classes, self.numbered = classes, False
            self.notes.append(
                f"{self.where}: its classes have no names; taken for those of the pictures, in their order"
            )


class Run:
    """The folder of one run. Names are fixed; what each file holds is said in docs/run-folder.md."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.metrics = folder / "metrics.jsonl"
        self.predictions = folder / "predictions" / "val.parquet"
        self.kernels = folder / "kernels.npy"
        self.report = folder / "report.html"

    def exists(self) -> bool:
        """Whether a training was started here."""
        return (self.folder / "recipe.json").exists()

    def begun(self) -> bool:
        """Whether there is a state to go on from; a start from which nothing was saved has none.

        UsageError: a folder that someone has taken a part away from.
        """
        there = bool(checkpoint.found(self.checkpoints))
        if there and not self.exists():
            raise UsageError(f"{self.folder}: has checkpoints but no recipe.json")
        if not there and self.pointer("last") is not None:
            raise UsageError(f"{self.folder}: `last` names a checkpoint, and none is there")
        return there

    def create(self) -> None:
        """Makes the folder and proves that it can be written; a UsageError where it cannot."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / ".probe"
            files.write(probe, bytes(PROBE))
            probe.unlink()
        except OSError as reason:
            raise UsageError(f"{self.folder}: cannot be written ({reason.strerror})") from None

    def json(self, name: str) -> dict[str, Any]:
        """The object of one of its JSON files."""
        with _unusable():
            value = files.read_json(self.folder / name)
        if not isinstance(value, dict):
            raise UsageError(f"{self.folder / name}: expected a JSON object, found {type(value).__name__}")
        return value

    def recipe(self) -> dict[str, dict[str, Any]]:
        """The resolved recipe: name -> {"value", "origin"}."""
        value = self.json("recipe.json")
        for name, entry in value.items():
            if not isinstance(entry, dict) or not {"value", "origin"} <= set(entry):
                raise UsageError(f"{self.folder / 'recipe.json'}: {name}: expected a value and an origin")
        for name in ("variant", "dropout", "steps"):
            if name not in value:
                raise UsageError(f"{self.folder / 'recipe.json'}: names no {name}")
        return value

    def data(self) -> dict[str, Any] | None:
        """Where the pictures came from: {"source", "split", "fingerprint", …}; None: nobody knows (it was imported)."""
        value, path = self.json("data.json"), self.folder / "data.json"
        if not value:
            return None
        for name, kind in (
            ("source", str),
            ("split", dict),
            ("fingerprint", str),
            ("train_fingerprint", str),
            ("val_fingerprint", str | None),
            ("val_sizes", list),
        ):
            if name not in value or not isinstance(value[name], kind):
                raise UsageError(f"{path}: {name}: expected {getattr(kind, '__name__', kind)}")
        for name, part in value["split"].items():
            if not isinstance(part, SPLIT.get(name, ())):
                raise UsageError(f"{path}: split: {name}: not what a run writes there")
        return value

    def threads(self) -> int:
        """How many threads computed."""
        threads = self.json("environment.json").get("threads")
        if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
            raise UsageError(f"{self.folder / 'environment.json'}: threads: expected a number, 1 to {MOST_THREADS}")
        return threads

    def pointer(self, name: str) -> Path | None:
        """The checkpoint folder that `best` or `last` names; None where none is named yet."""
        return checkpoint.pointer(self.folder, name)

    @classmethod
    def pointed(cls, path: Path) -> Path | None:
        """The checkpoint folder that a run's own file `best` or `last`, at `path`, names; None for any other path."""
        run = cls(path.parent)
        return run.pointer(path.name) if path.name in checkpoint.POINTERS and path.is_file() and run.exists() else None

    def classes(self) -> Classes:
        """The classes fixed at training time."""
        path = self.folder / "classes.json"
        with _unusable():
            return Classes.from_json(files.read_json(path), str(path))

    def preprocess(self) -> tuple[Preprocess, NDArray[np.float32] | None]:
        """What the run does to every picture, and its mean image where it has one."""
        record = from_json(self.json("preprocess.json"), self.folder / "preprocess.json")
        with _unusable():
            return record, load_mean(self.folder, stored=record.stored) if record.mean == MEAN_FILE else None


@contextmanager
def _unusable() -> Iterator[None]:
    """What is wrong with a run folder's own files is no fault of the data."""
    try:
        yield
    except DataError as reason:
        raise UsageError(str(reason)) from None


def run_named(name: str) -> Run:
    """The run folder called `name` under runs/, or at the path `name`. UsageError: a name that is no text."""
    if any("\udc80" <= c <= "\udcff" for c in name):  # how Python writes a byte that its locale does not know
        raise UsageError(f"{name}: not text in this locale, and TensorBoard wants that of a path; name another --run")
    return Run(Path(name) if "/" in name else Path("runs") / name)


def preprocess_of(model: Variant) -> Preprocess:
    """The record a variant's own source gives; a mean image is named "mean.npy" and comes with the data."""
    # the table has the mean in the scaled pixels' units, the record in 0..255
    red, green, blue = (0.0, 0.0, 0.0) if model.mean == "image" else model.mean
    return Preprocess(
        side=model.side,
        stored=stored_side(model.side),
        resize=model.resize,
        filter="bilinear",
        exif=True,
        decode="reduced",
        colour=model.colour,
        scale=model.scale,
        mean=MEAN_FILE if model.mean == "image" else (red / model.scale, green / model.scale, blue / model.scale),
        mean_crop=model.mean_crop,
        std=model.std,
    )


def fit(model: AlexNet, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Loads `tensors`, all or none: a missing, extra or wrongly shaped one is a WeightsError that names it."""
    expected = model.state_dict()
    wrong = [f"{name} is missing" for name in expected if name not in tensors]
    wrong += [f"{name} is not known" for name in tensors if name not in expected]
    wrong += [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if wrong:
        raise WeightsError(f"{where}: does not fit variant {model.variant.name}: {'; '.join(wrong[:4])}")
    model.load_state_dict(tensors)


def _from_run(run: Run, folder: Path) -> Loaded:
    classes = run.classes()
    preprocess, mean = run.preprocess()
    recipe = run.recipe()
    name, dropout = recipe["variant"]["value"], recipe["dropout"]["value"]
    if not isinstance(name, str) or not isinstance(dropout, int | float | None):
        raise UsageError(
            f"{run.folder / 'recipe.json'}: variant {name!r}, dropout {dropout!r}: expected a name, a share"
        )
    tensors = checkpoint.load(folder, training=False).model
    rows = len(tensors["fc8.bias"]) if "fc8.bias" in tensors else 0
    if rows != len(classes):  # seen before a network of so many is built
        raise WeightsError(
            f"{folder}: fc8 has {rows} outputs, and {run.folder / 'classes.json'} {len(classes)} classes"
        )
    model = build(name, classes=len(classes), seed=0, dropout=dropout)
    fit(model, tensors, str(folder))
    data = run.data()
    # of an imported model whose classes had no names
    numbered = data is None and classes.keys == _numbers(len(classes))
    return Loaded(str(run.folder), model.eval(), preprocess, mean, classes, data, numbered)


def _numbers(count: int) -> tuple[str, ...]:
    """What classes without names are called."""
    return tuple(map(str, range(count)))


def _from_file(path: Path, kind: Kind, where: str, *, named: str | None, classes: Classes | None) -> Loaded:
    """A model file. What it does not say is its variant's own, or said in `notes`."""
    found = read_model(path, kind, named=named)
    given = found.given
    model = AlexNet(found.variant, found.classes)
    fit(model, given.tensors, where)
    preprocess = preprocess_of(found.variant)
    if given.preprocess.get("colour", preprocess.colour) != preprocess.colour:
        preprocess = in_other_colour(preprocess)  # its numbers too are then in that order
    preprocess = replace(preprocess, **given.preprocess)
    if preprocess.side != found.variant.side:
        there, here = preprocess.side, found.variant.side
        raise WeightsError(f"{where}: its pictures are of {there} pixels, expected the {here} of {found.variant.name}")
    mean = given.mean if given.mean is not None else _grey(preprocess)
    loaded = Loaded(where, model.eval(), preprocess, mean, imagenet_classes(), None, given=given, notes=[*given.notes])
    if mean is not None and given.mean is None:
        loaded.notes.append(f"{where}: {NO_MEAN}")
    if given.classes is not None and len(given.classes) == found.classes:
        loaded.classes = given.classes
    elif found.classes != len(loaded.classes):
        loaded.classes = Classes.of(_numbers(found.classes))
        loaded.numbered = True
        if classes is not None:
            loaded.name_classes(classes)
    return loaded


def _grey(preprocess: Preprocess) -> NDArray[np.float32] | None:
    """What stands for the mean of pictures that nobody saw, where a mean image is wanted."""
    side = preprocess.stored
    return np.full((side, side, 3), GREY, np.float32) if preprocess.mean == MEAN_FILE else None


def stands_in(mean: NDArray[np.float32]) -> bool:
    """Whether a mean image is what stands for one that nobody knows."""
    return bool((mean == GREY).all())


def open_run(where: str | Path, *, seed: int = 0, classes: Classes | None = None, named: str | None = None) -> Loaded:
    """What RUN names: a run folder (its best checkpoint), a checkpoint folder, a run's file `best` or `last`, a model
    file, `imagenet`, or a variant, untrained.

    `classes` are taken where it has none of its own, `named` is the variant that it must be of. Raises UsageError for a
    name that is none of these and for another variant, WeightsError for weights that do not verify or do not fit.
    """
    opened = _opened(where, seed=seed, classes=classes, named=named)
    if named is not None and opened.model.variant.name != named:
        raise UsageError(f"--variant {named}: {where} is of variant {opened.model.variant.name}")
    return opened


def run_of(where: str | Path) -> Run | None:
    """The run that a path belongs to: its folder, a checkpoint's or that one's model, its file `best` or `last`.

    None where it is no run's.
    """
    found = _run_and_checkpoint(where)
    return found[0] if found is not None and found[0].exists() else None


def under_runs(where: str | Path, *others: str) -> str:
    """What else may have been meant, to end a message with: `; runs/mine is one` for mine; of names that are near, one
    of `others` or a run's under runs/; empty where there is none.
    """
    if (under := run_named(str(where))).exists():
        return f"; {under.folder} is one"
    runs = [path.name for path in Path("runs").glob("*") if os.access(path / "recipe.json", os.R_OK)]
    name = str(where).removeprefix("runs/")
    return did_you_mean(name, others) or did_you_mean(name, runs, under="runs/")


def _run_and_checkpoint(where: str | Path) -> tuple[Run, Path | None] | None:
    """The run that a path belongs to, and the checkpoint's folder where it names one; None where it is no run's."""
    path = Path(where)
    if path.name == checkpoint.PARTS[0] and (path.parent / "manifest.json").is_file():
        path = path.parent
    pointed = Run.pointed(path)
    if pointed is not None:
        return Run(path.parent), pointed
    if (path / "manifest.json").is_file():
        return Run(path.resolve().parent.parent), path
    return (Run(path), None) if Run(path).exists() else None


def _opened(where: str | Path, *, seed: int, classes: Classes | None, named: str | None) -> Loaded:
    path = Path(where)
    found = _run_and_checkpoint(path)
    if found is not None:
        run, folder = found
        folder = folder or run.pointer("best") or run.pointer("last")
        if folder is None:
            raise UsageError(f"{path}: this run has no checkpoint yet; let `alexnet train` go on")
        try:
            return _from_run(run, folder)
        except WeightsError as reason:
            last = run.pointer("last")
            other = f"; {run.folder / 'last'} is another" if last is not None and last != folder else ""
            raise WeightsError(f"{reason}{other}") from None
    if where == "imagenet":
        return _from_file(published(), "pth", where, named=PUBLISHED, classes=None)
    if str(where) in VARIANTS:
        known = classes or imagenet_classes()
        model = build(str(where), classes=len(known), seed=seed)
        preprocess = preprocess_of(variant(str(where)))
        return Loaded(str(where), model.eval(), preprocess, _grey(preprocess), known, None)
    kind = kind_of(path)
    if kind is not None:
        return _from_file(path, kind, str(where), named=named, classes=classes)
    if path.exists():
        raise UsageError(f"{path}: not a run folder (it holds no recipe.json), nor a model file that is read: "
                         "safetensors, PyTorch, ONNX, Caffe, TensorFlow, caffe-tensorflow, cuda-convnet")  # fmt: skip
    hint = under_runs(where, "imagenet", *VARIANTS)
    if "/" in str(where) or path.suffix:
        raise UsageError(f"{where}: no such run folder or file{hint}")
    raise UsageError(f"{where}: no such run folder or file, and no variant of that name ({', '.join(VARIANTS)}){hint}")


def is_run(where: str) -> bool:
    """Whether `where` is something that `open_run` would open."""
    named = where == "imagenet" or where in VARIANTS
    return named or _run_and_checkpoint(where) is not None or kind_of(Path(where)) is not None
