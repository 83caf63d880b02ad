"""Activations of any layers, for every picture of a table, batch by batch; and as a file that grows with them.

Until a file of features is whole, its values stand beside it, a hidden file a layer, and `.NAME.state` says how far
they have come. The same call goes on from there, and what it ends with is the unbroken one's, byte for byte.
"""

import dataclasses
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import files, stop
from ..data.augment import Normalise, test_views
from ..data.loader import BadImages, Places, batches, stored
from ..data.preprocess import to_json
from ..data.samples import Samples, shown
from ..errors import BadImage, DataError, NumbersError, Stopped, UsageError, none_decoded
from ..network.kernels import unmeasured
from ..network.variants import LRN, Conv, Linear, MaxPool, ReLU, Row, Variant, layer_name
from ..weights.run import Loaded
from .feature_files import (
    DTYPES,
    NPY,
    About,
    Dtype,
    Features,
    Index,
    Part,
    beside,
    matlab_names,
    read_features,
    suffix_of,
    write_features,
)
from .judge import check_sizes

# What may stand behind a layer's name: the layer itself, or the row of this kind behind it.
FORMS: dict[str, type[Row]] = {"relu": ReLU, "norm": LRN, "pool": MaxPool}
PRE = "pre"
BLOCK = 1024  # pictures between two states, and
BLOCK_BYTES = 1 << 28  # no more of their values than these
ANOTHER = ("run", "source", "bad")  # of what features say of themselves, what need not be the same to go on


@dataclass(frozen=True)
class Activations:
    """Of one batch: `rows` (B,) of the table, those of bad pictures left out; float32 values, on the processor, by the
    names asked for: (B, views, C, H, W) or (B, views, C); and the bad pictures' rows, with what is wrong.
    """

    rows: NDArray[np.int64]
    values: dict[str, Tensor]
    bad: tuple[tuple[int, BadImage], ...]


def layer_form(name: str, variant: Variant) -> str:
    """The table's own name of a layer: "conv5" and "conv5:pre" -> "conv5", "conv5:relu" -> "relu5", "fc7" -> "fc7".

    Names are the table's, Caffe's, torchvision's (`features.0`) or the 2012 program's (`conv1a`). Behind that of a
    convolution or a fully connected layer may stand `:pre`, its own output, or `:relu`, `:norm` (local response
    normalization) or `:pool`, the output of the first such layer between it and the next one. UsageError, with what is
    known, for any other.
    """
    given, colon, form = name.partition(":")
    ours = layer_name(given, variant)
    if not colon:
        return ours
    forms = _forms(variant, ours)
    if form not in forms:
        known = ", ".join(f":{one}" for one in forms)
        has = f"has {known}" if known else "has no forms (a convolution and a fully connected layer have)"
        raise UsageError(f"{variant.name} has no layer {name!r}; {given} {has}")
    return forms[form]


def _forms(variant: Variant, layer: str) -> dict[str, str]:
    """Form -> the table's name of what it means behind a layer; empty where the layer has no weights to go behind."""
    rows = variant.layers
    at = next(index for index, row in enumerate(rows) if row.name == layer)
    if not isinstance(rows[at], Conv | Linear):
        return {}
    found = {PRE: layer}
    for row in rows[at + 1 :]:
        if isinstance(row, Conv | Linear):
            break
        for form, kind in FORMS.items():
            if isinstance(row, kind):
                found.setdefault(form, row.name)
    return found


def pictures_of_batch(batch_size: int, views: int) -> int:
    """How many pictures go through at once where `batch_size` views do."""
    return max(1, batch_size // views)


def activations(
    loaded: Loaded,
    samples: Samples,
    layers: Sequence[str],
    *,
    views: int = 1,
    batch_size: int = 64,
    device: torch.device | None = None,
    threads: int = 2,
    bad_images: BadImages = "error",
    first: int = 0,
) -> Generator[Activations, None, None]:
    """What `layers`, named as `layer_form` knows them, are for each picture from row `first` on, in the table's order.

    One pass for all of them, in float32, which ends after the last; `batch_size` views at once. `views` are those of
    `test_views`. UsageError: an unknown layer. BadImage: the first bad picture, unless `bad_images` is "skip".
    NumbersError: a value that is not finite. Stopped: a signal asks for the end and more is asked for.
    """
    ours = {name: layer_form(name, loaded.model.variant) for name in layers}
    place = device or torch.device("cpu")
    model = loaded.model.to(place).eval()
    model.kernels = unmeasured(place)
    normalise = Normalise(loaded.preprocess, loaded.mean, place)
    rows, size = np.arange(first, len(samples)), pictures_of_batch(batch_size, views)
    places = (Places(rows[i : i + size], rows[i : i + size]) for i in range(0, len(rows), size))
    prepare = stored(samples, loaded.preprocess)
    side = loaded.preprocess.stored
    for batch in batches(samples, places, prepare, side=side, threads=threads, bad_images=bad_images):
        values: dict[str, Tensor] = {}
        if len(batch.rows):
            with torch.no_grad():
                images = test_views(batch.images.to(place, non_blocking=True), normalise, views=views)
                traced = model.trace(images, ours.values())
            shape = len(batch.rows), views
            values = {
                name: traced[layer].float().cpu().contiguous().unflatten(0, shape) for name, layer in ours.items()
            }
        for name, value in values.items():
            which = _not_finite(value)
            if which is not None:
                key = samples.key(int(batch.rows[which]))
                raise NumbersError(f"{key}: {name}: its values are not finite numbers")
        yield Activations(batch.rows, values, tuple(batch.bad))
        if stop.requested():  # not before a batch: what was computed is handed over
            raise Stopped("stopped while features were computed")


def asked_for(loaded: Loaded, layers: Sequence[str], *, views: int, batch_size: int, threads: int) -> dict[str, str]:
    """The table's own name of each layer, by the name asked for. UsageError: unknown, twice; a number out of range."""
    if len(set(layers)) < len(layers) or not layers:
        raise UsageError(f"--layers {','.join(layers)}: expected one or more names, each once")
    check_sizes(views=views, batch_size=batch_size, threads=threads)
    return {name: layer_form(name, loaded.model.variant) for name in layers}


def digest(loaded: Loaded) -> str:
    """SHA-256, in hex, of a network's weights and mean image."""
    found = hashlib.sha256()
    for name, value in sorted(loaded.model.state_dict().items()):
        found.update(f"{name} {tuple(value.shape)}\0".encode())
        found.update(value.cpu().contiguous().numpy().data)
    if loaded.mean is not None:
        found.update(np.ascontiguousarray(loaded.mean).data)
    return found.hexdigest()


def preparation(loaded: Loaded) -> dict[str, Any]:
    """How a network's pictures are prepared, as a file of features has it."""
    found: dict[str, Any] = json.loads(json.dumps(to_json(loaded.preprocess)))
    return found


def about(
    loaded: Loaded,
    samples: Samples,
    layers: dict[str, str],
    *,
    source: str,
    views: int,
    mean: bool,
    dtype: Dtype,
    batch_size: int,
    device: torch.device,
) -> About:
    """What will be said of features, before there are any."""
    side = loaded.preprocess.side
    with torch.no_grad():
        one = loaded.model.eval().trace(torch.zeros(1, 3, side, side, device=device), layers.values())
    each = [views] if views > 1 and not mean else []
    return About(
        run=shown(loaded.where),
        variant=loaded.model.variant.name,
        network=digest(loaded),
        preprocess=preparation(loaded),
        layers=layers,
        shapes={name: [*each, *one[layer].shape[1:]] for name, layer in layers.items()},
        views=views,
        mean=mean,
        dtype=dtype,
        batch_size=batch_size,
        device=device.type,
        source=shown(source),
        fingerprint=samples.fingerprint(),
        bad=[],
    )


def _array(said: About, one: Activations, name: str, samples: Samples) -> NDArray[Any]:
    """A batch's values of a layer as they are kept. NumbersError: too large for float16."""
    values = one.values[name]
    values = values if said.several else values.mean(1) if said.views > 1 else values[:, 0]
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(values.numpy().astype(said.dtype, copy=False))
    which = _not_finite(torch.from_numpy(array))
    if which is not None:
        why = f"{float(values[which].abs().max()):.6g} is too large for {said.dtype}; use --dtype float32"
        raise NumbersError(f"{samples.key(int(one.rows[which]))}: {name}: {why}")
    return array


def _not_finite(values: Tensor) -> int | None:
    """The first picture of (B, ...) whose values are not all finite."""
    finite = values.isfinite().flatten(1).all(1)
    return None if finite.all() else int(finite.int().argmin())


def gather(
    loaded: Loaded,
    samples: Samples,
    layers: Sequence[str],
    *,
    source: str = "",
    views: int = 1,
    mean: bool = False,
    batch_size: int = 64,
    device: torch.device | None = None,
    threads: int = 2,
    bad_images: BadImages = "error",
) -> Features:
    """The features of every picture, in memory; float32. Errors are those of `asked_for` and `activations`."""
    ours = asked_for(loaded, layers, views=views, batch_size=batch_size, threads=threads)
    place = device or torch.device("cpu")
    loaded.model.to(place)
    said = about(loaded, samples, ours, source=source, views=views, mean=mean, dtype="float32", batch_size=batch_size,
                 device=place)  # fmt: skip
    made = activations(loaded, samples, layers, views=views, batch_size=batch_size, device=place, threads=threads,
                       bad_images=bad_images)  # fmt: skip
    rows, blocks, bad = list[int](), {name: list[NDArray[Any]]() for name in layers}, list[dict[str, str]]()
    for one in made:
        bad += [{"path": reason.path, "reason": reason.reason} for _, reason in one.bad]
        rows += one.rows.tolist()
        for name in layers if len(one.rows) else ():
            blocks[name].append(_array(said, one, name, samples))
    if not rows:
        raise nothing_of(samples, *(f"{one['path']}: {one['reason']}" for one in bad[:1]))
    values = {name: np.concatenate(blocks.pop(name)) for name in layers}
    return Features(said.source, dataclasses.replace(said, bad=bad), [samples.key(row) for row in rows],
                    samples.label[rows], samples.classes, values)  # fmt: skip


def nothing_of(samples: Samples, *bad: object) -> DataError:
    """What to raise where there are features of none of the pictures; of those that are `bad`, the first is named."""
    return none_decoded(len(samples), bad[0]) if bad else DataError(f"{shown(str(samples.root))}: no pictures")


@dataclass
class _State:
    """How far a file has come: `done` rows of the table, of which `bad` were left out."""

    path: Path
    asked: dict[str, Any]
    done: int = 0
    bad: list[dict[str, Any]] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """Pictures whose values there are."""
        return self.done - len(self.bad)

    @classmethod
    def of(cls, out: Path, asked: dict[str, Any], parts: Sequence[Part], count: int) -> "_State":
        """What was kept of the same work if the values it speaks of are there, else the beginning."""
        path = out.with_name(f".{out.name}.state")
        beginning, state = cls(path, asked), cls(path, asked)
        if not path.exists():
            return beginning
        try:
            said = files.read_json(path)
            there, state.done, state.bad = said["asked"], int(said["done"]), list(said["bad"])
            known = all({"row", "path", "reason"} <= set(one) for one in state.bad)
        except (DataError, LookupError, TypeError, ValueError):
            return beginning
        _same(asked, there, out, f"; name another file, or remove {shown(str(path))} to begin anew")
        whole = known and 0 <= state.kept <= state.done <= count
        there = whole and all(files.grown(part.path) >= _length(part, state.kept) for part in parts)
        return state if there else beginning

    def keep(self) -> None:
        """Writes it; all that it speaks of is on the disk by now."""
        files.write_json(self.path, {"asked": self.asked, "done": self.done, "bad": self.bad})


def _length(part: Part, count: int) -> int:
    """Bytes of an .npy of so many rows."""
    return len(files.array_header((count, *part.shape), part.dtype)) + count * part.row


def _same(asked: dict[str, Any], there: Any, out: Path, hint: str) -> None:
    """UsageError: what is there of `out` is of something else than what is asked for."""
    words = {name: f"of another {name}" for name in ("schema", "network", "preprocess")}
    words |= {"fingerprint": "of other pictures", "layers": "of other layers"}
    for name, value in asked.items():
        found = there.get(name) if isinstance(there, dict) else None
        if found != value:
            raise UsageError(f"{shown(str(out))}: features {words.get(name, f'with {name} {found}')}{hint}")


def extract(
    loaded: Loaded,
    samples: Samples,
    layers: Sequence[str],
    out: Path,
    *,
    source: str,
    views: int = 1,
    mean: bool = False,
    dtype: Dtype = "float32",
    batch_size: int = 64,
    device: torch.device | None = None,
    threads: int = 2,
    bad_images: BadImages = "error",
    progress: Callable[[int], None] = lambda count: None,
) -> Features:
    """Writes the features of every picture into the file `out`, whose ending says of which kind; returns its index.

    With several `views` each is kept, or their `mean`. A file that is there and is this one is left as it is; one that
    was begun goes on. UsageError: `out` cannot be written, is of no known kind, or holds, or was begun with, something
    else. NumbersError: a value that is not finite, or too large for float16. BadImage: the first bad picture, unless
    `bad_images` is "skip", which lists them in the file. Stopped: a signal came; the same call goes on.
    """
    ours = asked_for(loaded, layers, views=views, batch_size=batch_size, threads=threads)
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype}: unknown; known are {', '.join(DTYPES)}")
    suffix = suffix_of(out, layers=len(layers), dtype=dtype)
    if suffix == ".mat":
        matlab_names(layers)
    if not out.parent.is_dir():
        raise UsageError(f"--out {shown(str(out))}: there is no folder {shown(str(out.parent))}")
    place = device or torch.device("cpu")
    loaded.model.to(place)
    said = about(loaded, samples, ours, source=source, views=views, mean=mean, dtype=dtype, batch_size=batch_size,
                 device=place)  # fmt: skip
    names = [out] if suffix == NPY else [out.with_name(f".{out.name}.{i}{NPY}") for i in range(len(layers))]
    parts = [
        Part(name, path, tuple(said.shapes[name]), np.dtype(dtype)) for name, path in zip(ours, names, strict=True)
    ]
    asked = {name: value for name, value in said.to_json().items() if name not in ANOTHER}
    state_file = out.with_name(f".{out.name}.state")
    try:
        with _locked(out.with_name(f".{out.name}.lock"), state_file):
            for path in (out, beside(out), state_file):
                files.sweep_unfinished(path)
            if not out.exists():
                state = _State.of(out, asked, parts, len(samples))
                _refuse(state.bad, bad_images)
                _room(out, parts, state, len(samples))
                progress(state.done)
                made = activations(loaded, samples, layers, views=views, batch_size=batch_size, device=place,
                                   threads=threads, bad_images=bad_images, first=state.done)  # fmt: skip
                with closing(made):
                    _grow(parts, state, made, said, samples, progress)
                bad = {one["row"] for one in state.bad}
                rows = [row for row in range(len(samples)) if row not in bad]
                if not rows:
                    raise nothing_of(samples, *(f"{one['path']}: {one['reason']}" for one in state.bad[:1]))
                left = [{"path": one["path"], "reason": one["reason"]} for one in state.bad]
                index = Index(dataclasses.replace(said, bad=left), [samples.key(row) for row in rows],
                              samples.label[rows], samples.classes)  # fmt: skip
                if suffix != NPY:
                    for part in parts:
                        files.finish(part.path)
                write_features(out, parts, index)
                files.finish(out)
            found = read_features(out, ())
            _same(asked, found.about.to_json(), out, "; name another file, or remove it")
            _refuse(found.about.bad, bad_images)
            for path in (state_file, *(names if suffix != NPY else ())):
                path.unlink(missing_ok=True)
    except OSError as reason:
        raise UsageError(f"{shown(str(out))}: cannot be written ({reason.strerror or reason})") from None
    return found


def _refuse(bad: list[dict[str, Any]], bad_images: BadImages) -> None:
    if bad and bad_images == "error":
        raise BadImage(bad[0]["path"], bad[0]["reason"])


def _room(out: Path, parts: Sequence[Part], state: _State, count: int) -> None:
    """UsageError: the disk has no room for what is to come. All but an .npy stands there twice for a moment."""
    need = sum(part.row for part in parts) * (count - state.done + (0 if parts[0].path == out else count))
    free = shutil.disk_usage(out.parent).free
    if need > free:
        raise UsageError(
            f"{shown(str(out))}: {need / 1e9:.2f} GB are needed, and {free / 1e9:.2f} GB are free there; "
            f"--dtype float16 takes half"
        )


@contextmanager
def _locked(lock: Path, state: Path) -> Generator[None]:
    """Holds `lock`, which goes in the end unless there is a state to go on from."""
    with files.lock(lock):
        try:
            yield
        finally:
            if not state.exists():
                lock.unlink(missing_ok=True)


def _grow(
    parts: Sequence[Part],
    state: _State,
    made: Generator[Activations, None, None],
    said: About,
    samples: Samples,
    progress: Callable[[int], None],
) -> None:
    """Puts the rest of the values behind those that are there, some batches between two states."""
    size = pictures_of_batch(said.batch_size, said.views)
    pictures = min(BLOCK, BLOCK_BYTES // sum(part.row for part in parts))
    while state.done < len(samples):
        with ExitStack() as opened:
            # an array's header is as long for any number of rows, and says how many in the end
            streams = [
                opened.enter_context(files.growing(part.path, _length(part, state.kept) if state.done else 0))
                for part in parts
            ]
            for part, stream in zip(parts, streams, strict=True):
                if not state.done:
                    stream.write(files.array_header((0, *part.shape), part.dtype))
            for one in itertools.islice(made, max(1, pictures // size)):
                for part, stream in zip(parts, streams, strict=True):
                    if len(one.rows):
                        stream.write(_array(said, one, part.name, samples).data)
                state.bad += [{"row": row, "path": bad.path, "reason": bad.reason} for row, bad in one.bad]
                state.done += len(one.rows) + len(one.bad)
                progress(len(one.rows) + len(one.bad))
                if stop.requested():
                    break
            if state.done == len(samples):
                for part, stream in zip(parts, streams, strict=True):
                    stream.seek(0)
                    stream.write(files.array_header((state.kept, *part.shape), part.dtype))
        state.keep()
        if stop.requested():
            raise Stopped(f"stopped after {state.done} of {len(samples)} pictures; the same command goes on")
