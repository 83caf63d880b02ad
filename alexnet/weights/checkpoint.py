"""A run's state on disk: a checkpoint folder is whole and verified, or it is not there at all.

    step-00001200/   model.safetensors  optimizer.safetensors  state.json  manifest.json

A folder `step-00001200-unjudged` is the same before the validation that is due at that step.
The manifest holds the size and SHA-256 of the other three; the folder appears by one rename after all are durable.
Only then do `last` and `best`, files of the run's folder, name it, and only after that are older ones removed. A run
goes on from the newest that is whole, whatever these two say.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import files
from ..errors import DataError, WeightsError
from .tensors import TYPES, read_tensors

SCHEMA = 2  # 1 had no `rollbacks` in its state; it is read too
KEEP = 2
ROOM = 1.2  # times its size must be free before a checkpoint is begun
NAME = re.compile(r"step-(\d{8})(-unjudged)?")
PARTS = ("model.safetensors", "optimizer.safetensors", "state.json")
POINTERS = ("best", "last")
NAMES = {kind: called for called, kind in TYPES.items()}  # safetensors'


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on: tensors by name, and the plain values of state.json."""

    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    state: dict[str, Any]


def optimizer_tensors(rule: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's tensors as `group.parameter.name` -> tensor; a rule that has not stepped has none."""
    return {
        f"{g}.{p}.{name}": value
        for g, group in enumerate(rule.param_groups)
        for p, parameter in enumerate(group["params"])
        for name, value in rule.state.get(parameter, {}).items()
        if value is not None
    }


def load_optimizer(rule: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave; a tensor that fits no parameter is a WeightsError."""
    ready: list[tuple[torch.nn.Parameter, str, torch.Tensor]] = []
    for name, value in tensors.items():
        try:
            group, index, field = name.split(".")
            parameter = rule.param_groups[int(group)]["params"][int(index)]
        except (IndexError, ValueError):
            raise WeightsError(f"optimizer.safetensors: {name} belongs to no parameter of this network") from None
        if value.ndim and value.shape != parameter.shape:
            raise WeightsError(f"optimizer.safetensors: {name} is {tuple(value.shape)}, not {tuple(parameter.shape)}")
        if value.ndim:
            # the layout decides the order of later sums: a resumed step must equal the unbroken one bit for bit
            value = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        ready.append((parameter, field, value))
    rule.state.clear()
    for parameter, field, value in ready:
        rule.state[parameter][field] = value


def name(step: int, *, judged: bool = True) -> str:
    """The name of the folder that holds the state of `step`, before or after its validation."""
    return f"step-{step:08d}" + ("" if judged else "-unjudged")


def pointer(folder: Path, which: str) -> Path | None:
    """The checkpoint that a run folder's file `best` or `last` names; None where there is no such file."""
    path = folder / which
    if not path.exists():
        return None
    if not path.is_file():  # a pipe would be waited for
        raise WeightsError(f"{path}: not a regular file")
    with path.open("rb") as stream:
        said = stream.read(64).decode("utf-8", "replace").strip()  # a name has 22
    if not NAME.fullmatch(said):
        raise WeightsError(f"{path}: {said[:40]!r} is not the name of a checkpoint")
    return folder / "checkpoints" / said


def found(checkpoints: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; unfinished ones have other names."""
    if not checkpoints.is_dir():
        return []
    there = [path for path in checkpoints.iterdir() if path.is_dir() and NAME.fullmatch(path.name)]
    return sorted(there, key=lambda path: (path.name[:13], not path.name.endswith("-unjudged")))


class Store:
    """The checkpoints of one run, for whoever holds its lock: saved beside the caller's work, found, set aside, pruned.

    Kept are the newest `keep`, and of each of these the best that its state names.
    """

    def __init__(self, folder: Path, *, keep: int = KEEP) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.keep = keep
        self._staged: dict[str, torch.Tensor] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._room: Future[None] = self._pool.submit(lambda: None)
        self._writing: Future[str] | None = None

    def save(self, checkpoint: Checkpoint, *, best: bool = False) -> None:
        """Takes a copy of the tensors and returns; the copy is written meanwhile, once the save before is through.

        What goes wrong is raised by `settle`, as a WeightsError, and so it is here for the save before.
        """
        self.settle()
        self._room.result()
        model = {key: self._copy(f"model {key}", value) for key, value in checkpoint.model.items()}
        rule = {key: self._copy(f"rule {key}", value) for key, value in checkpoint.optimizer.items()}
        state = json.dumps(
            {"schema": SCHEMA, "alexnet": version("alexnet"), **checkpoint.state}, indent=1, allow_nan=False
        )
        self._writing = self._pool.submit(self._write, Checkpoint(model, rule, json.loads(state)), best)

    def make_room(self, checkpoint: Checkpoint) -> None:
        """Gets the memory for copies of such a state, beside the caller's work: the first save would wait for it."""
        parts = (("model", checkpoint.model), ("rule", checkpoint.optimizer))
        wanted = {f"{part} {key}": value for part, tensors in parts for key, value in tensors.items()}

        def get() -> None:
            for key, value in wanted.items():
                self._buffer(key, value).zero_()  # the system gives memory at its first use

        self._room = self._pool.submit(get)

    def _copy(self, key: str, value: torch.Tensor) -> torch.Tensor:
        """The tensor's values now, contiguous on the processor, in a buffer kept from save to save."""
        return self._buffer(key, value).copy_(value.detach())

    def _buffer(self, key: str, value: torch.Tensor) -> torch.Tensor:
        buffer = self._staged.get(key)
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            # numpy asks for large pages, which are there sooner: the first save is not to hold the steps up either
            there = torch.from_numpy(np.empty(max(value.nbytes, value.element_size()), np.uint8)).view(value.dtype)
            buffer = self._staged[key] = there[: value.numel()].reshape(value.shape)
        return buffer

    def busy(self) -> bool:
        """Whether a save is under way."""
        return self._writing is not None and not self._writing.done()

    def wait(self) -> None:
        """Waits for the save that is under way; what became of it is for `settle` to say."""
        if self._writing is not None:
            wait([self._writing])

    def settle(self) -> str | None:
        """Waits for the save that is under way -> what should be known of it, mostly nothing; None: there was none.

        A WeightsError where it failed.
        """
        writing, self._writing = self._writing, None
        return None if writing is None else writing.result()

    def close(self) -> None:
        """Waits for the save that is under way, however it ends, and for its thread."""
        self._pool.shutdown(wait=True)

    def newest(self) -> tuple[Path | None, list[WeightsError]]:
        """The newest checkpoint that is whole, None where none is; and what is wrong with those that are newer."""
        broken: list[WeightsError] = []
        for path in reversed(found(self.checkpoints)):
            try:
                verify(path)
            except WeightsError as reason:
                broken.append(reason)
            else:
                return path, broken
        return None, broken

    def later(self, than: Path) -> list[Path]:
        """The checkpoints newer than one of them."""
        there = found(self.checkpoints)
        return there[there.index(than) + 1 :]

    def set_aside(self, path: Path, why: str) -> Path:
        """Gives a checkpoint a name under which it is no longer found; nothing of it is removed."""
        there = (path.with_name(f"{why}-{path.name}{n}") for n in ("", *(f"-{i}" for i in range(1, 1000))))
        aside = next(one for one in there if not one.exists())
        path.rename(aside)
        files.sync(self.checkpoints)
        return aside

    def point(self, which: str, path: Path) -> None:
        """Lets the run's file `last` or `best` name a checkpoint that stands."""
        files.write(self.folder / which, path.name + "\n")

    def _write(self, checkpoint: Checkpoint, best: bool) -> str:
        path = self.checkpoints / name(
            checkpoint.state["step"], judged=not checkpoint.state.get("validation_due", False)
        )
        try:
            if not self._whole(path):
                self._write_new(path, checkpoint)
                verify(path)
            self.point("last", path)
            if best:
                self.point("best", path)
        except OSError as reason:
            needs = room(self.folder, checkpoint)
            raise WeightsError(f"{path}: could not be saved ({reason.strerror}); {needs}") from None
        try:
            self._prune()
        except (OSError, WeightsError) as reason:
            return f"{path}: saved; older ones cannot be removed ({reason})"
        return ""

    def _whole(self, path: Path) -> bool:
        """Whether this step is saved already: by a run that was taken up and stopped again before the next."""
        if not path.exists():
            return False
        try:
            verify(path)
        except WeightsError:
            self.set_aside(path, "broken")
            return False
        return True

    def _write_new(self, path: Path, checkpoint: Checkpoint) -> None:
        if shutil.disk_usage(self.folder).free < ROOM * size(checkpoint):
            raise WeightsError(f"{path}: could not be saved; {room(self.folder, checkpoint)}")
        if not self.checkpoints.exists():  # and not its parents: a run folder that is gone is not made again
            self.checkpoints.mkdir()
        new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        shutil.rmtree(new, ignore_errors=True)
        try:
            new.mkdir()
            parts = {
                "model.safetensors": _safetensors(checkpoint.model),
                "optimizer.safetensors": _safetensors(checkpoint.optimizer),
                "state.json": [json.dumps(checkpoint.state, indent=1, allow_nan=False).encode()],
            }
            manifest = {part: dict(zip(("bytes", "sha256"), files.write_new(new / part, pieces), strict=True))
                        for part, pieces in parts.items()}  # fmt: skip
            files.write_new(new / "manifest.json", [json.dumps(manifest, indent=1).encode()])
            files.sync(new)
            new.rename(path)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        files.sync(self.checkpoints)

    def _prune(self) -> None:
        """Removes what need not be kept, and what an ended process left unfinished."""
        there = found(self.checkpoints)
        newest = there[-self.keep :]
        named = pointer(self.folder, "best")
        kept = {path.name for path in newest} | {best_of(path) for path in newest} | {named.name if named else None}
        for path in there:
            if path.name not in kept:
                remove(path)
        for path in self.checkpoints.glob(".step-*.tmp"):
            shutil.rmtree(path)


def best_of(path: Path) -> str | None:
    """The name of the best checkpoint by the state that stands in `path`; None where it names none, or is damaged."""
    try:
        return name(files.read_json(path / "state.json")["best"]["step"])
    except (DataError, LookupError, TypeError, ValueError):
        return None


def size(checkpoint: Checkpoint) -> int:
    """Bytes of its tensors."""
    return sum(tensor.nbytes for part in (checkpoint.model, checkpoint.optimizer) for tensor in part.values())


def room(folder: Path, checkpoint: Checkpoint) -> str:
    """What a checkpoint needs and what is free, in words."""
    try:
        there = f"{shutil.disk_usage(folder).free / 1e6:.1f} MB are free"
    except OSError:
        there = "the folder is gone"
    return f"it needs {ROOM * size(checkpoint) / 1e6:.1f} MB, and {there}"


def _safetensors(tensors: dict[str, torch.Tensor]) -> Iterator[memoryview]:
    """The bytes of a safetensors file, from contiguous tensors on the processor, without a copy of them.

    The library's own writer would hold the interpreter's lock, and so the steps, while it does.
    """
    # wide types first, so that each tensor begins at a multiple of its type's size
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {}
    end = 0
    for key, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        header[key] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for _, tensor in ordered:
        if tensor.numel():
            yield tensor.reshape(-1).view(torch.uint8).numpy().data


def remove(path: Path) -> None:
    """Removes a checkpoint, if it is there; first its name goes, so that no half of it is ever found."""
    if path.exists():
        gone = path.with_name(f".{path.name}.gone.tmp")
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        shutil.rmtree(gone)


def verify(folder: Path) -> None:
    """A WeightsError naming the first file of the checkpoint that is missing, cut or changed."""
    try:
        manifest = files.read_json(folder / "manifest.json")
    except DataError as reason:
        raise WeightsError(str(reason)) from None
    for part in PARTS:
        path, said = folder / part, manifest.get(part) if isinstance(manifest, dict) else None
        said = said if isinstance(said, dict) else {}
        if not path.is_file():
            raise WeightsError(f"{path}: missing")
        try:
            same = path.stat().st_size == said.get("bytes") and files.sha256(path) == said.get("sha256")
        except OSError as reason:
            raise WeightsError(f"{path}: cannot be read ({reason.strerror})") from None
        if not same:
            raise WeightsError(f"{path}: changed or damaged since it was written (its manifest says otherwise)")


def load(folder: Path, *, training: bool = True) -> Checkpoint:
    """The verified checkpoint in `folder`; without `training` the optimizer's tensors are not read."""
    verify(folder)
    return read(folder, training=training)


def read(folder: Path, *, training: bool = True) -> Checkpoint:
    """What `load` gives of a checkpoint that is verified already."""
    try:
        state = files.read_json(folder / "state.json")
    except DataError as reason:
        raise WeightsError(str(reason)) from None
    if not isinstance(state, dict):
        raise WeightsError(f"{folder / 'state.json'}: expected a JSON object")
    schema, by = state.get("schema"), state.get("alexnet")
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        writer = f"alexnet {by!s:.40}" if by else "another program"
        raise WeightsError(f"{folder}: written by {writer} in schema {schema!s:.20}; this program reads 1 to {SCHEMA}")
    optimizer = read_tensors(folder / "optimizer.safetensors") if training else {}
    return Checkpoint(read_tensors(folder / "model.safetensors"), optimizer, state)
