"""A run's state on disk: a checkpoint folder is whole and verified, or it is not there at all.

    step-00001200/   model.safetensors  optimizer.safetensors  state.json  manifest.json

A folder `step-00001200-unjudged` is the same before the validation that is due at that step.
The manifest holds the size and SHA-256 of the other three; the folder appears by one rename after all are durable.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .. import files
from ..errors import DataError, WeightsError
from .tensors import read_tensors

SCHEMA = 1
NAME = re.compile(r"step-(\d{8})(-unjudged)?")
PARTS = ("model.safetensors", "optimizer.safetensors", "state.json")


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on: tensors by name, and the plain values of state.json."""

    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    state: dict[str, Any]


def _cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


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


def save(folder: Path, checkpoint: Checkpoint) -> str:
    """Writes `checkpoint` under `folder`, named after its step; returns that name. A whole one is left as it is."""
    path = folder / name(checkpoint.state["step"], judged=not checkpoint.state.get("validation_due", False))
    if path.exists():
        try:
            verify(path)
            return path.name
        except WeightsError:
            remove(path)
    need = sum(t.nbytes for part in (checkpoint.model, checkpoint.optimizer) for t in part.values())
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < need * 1.05:
        raise WeightsError(f"{folder}: a checkpoint needs {need / 1e6:.0f} MB and {free / 1e6:.0f} MB are free")
    with files.new_folder(path) as new:
        save_file(_cpu(checkpoint.model), new / "model.safetensors")
        save_file(_cpu(checkpoint.optimizer), new / "optimizer.safetensors")
        (new / "state.json").write_text(json.dumps({"schema": SCHEMA, **checkpoint.state}, indent=1, allow_nan=False))
        manifest = {part: {"bytes": (new / part).stat().st_size, "sha256": files.sha256(new / part)} for part in PARTS}
        (new / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return path.name


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
        if path.stat().st_size != said.get("bytes") or files.sha256(path) != said.get("sha256"):
            raise WeightsError(f"{path}: changed or damaged since it was written (its manifest says otherwise)")


def load(folder: Path, *, training: bool = True) -> Checkpoint:
    """The verified checkpoint in `folder`; without `training` the optimizer's tensors are not read."""
    verify(folder)
    state = files.read_json(folder / "state.json")
    if state.get("schema") != SCHEMA:
        raise WeightsError(f"{folder}: written in schema {state.get('schema')}; this program reads {SCHEMA}")
    optimizer = read_tensors(folder / "optimizer.safetensors") if training else {}
    return Checkpoint(read_tensors(folder / "model.safetensors"), optimizer, state)


def found(folder: Path) -> list[Path]:
    """The checkpoint folders under `folder`, oldest step first; unfinished ones have other names."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and NAME.fullmatch(path.name))


def prune(folder: Path, keep: set[str]) -> None:
    """Removes the checkpoints whose names are not in `keep`, and what an ended process left unfinished."""
    for path in found(folder):
        if path.name not in keep:
            remove(path)
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path)
