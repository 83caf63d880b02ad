"""A run taken up again: where it runs, what differs from how it was begun, and what of that is allowed and kept."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .. import files
from ..errors import UsageError, did_you_mean
from ..network.kernels import PLAIN, Kernels
from ..ranks import has_numba, has_triton, processor
from ..weights import checkpoint
from ..weights.run import Run
from .loop import Job

# may differ between the start of a run and its continuation; steps and epochs are looked at by themselves
FREE = ("workers", "save_every", "keep", "on_nan", "bad_images", "steps", "epochs", "source")
FIXED = ("variant", "optimizer")  # what the saved tensors belong to
MACHINE = ("processor", "cpu", "device", "torch", "numba", "triton")  # of environment.json: what sums depend on
BESIDE = ("classes", "data", "machine", "kernels")  # what may differ and is no setting
CHANGES = "changes.json"


@dataclass(frozen=True)
class Difference:
    """Something in which a run as it was begun differs from what is asked now; `name` is what allows it."""

    name: str
    there: str
    now: str


def differences(
    run: Run, values: dict[str, Any], record: dict[str, Any], classes: Any, job: Job, *, kernels: str
) -> list[Difference]:
    """In what a run as it was begun differs from what is asked now and from where it is asked.

    The job takes the threads and the kernels that the run was begun with, and with --max-time its steps.
    """
    old, there = run.recipe(), run.json("environment.json")
    if values["max_time"]["value"]:
        values["steps"] = old["steps"]
        job.steps = old["steps"]["value"]
    found = [
        Difference(name, str(old.get(name, {}).get("value")), f"{value['value']} ({value['origin']})")
        for name, value in values.items()
        if name not in FREE and old.get(name, {}).get("value") != value["value"]
    ]
    before = run.classes().to_json()
    if before != classes:
        found.append(Difference("classes", _classes(before), _classes(classes)))
    known = run.data()
    if known is not None and known["fingerprint"] != record["fingerprint"]:
        found.append(Difference("data", "the pictures it was begun with", "other pictures"))
    torch.set_num_threads(run.threads())
    path = str(run.folder / "environment.json")
    kept = Kernels.of(there.get("kernels"), path)
    here = environment(job.device, job.threads, kept)
    found += [
        Difference("machine", f"{name} {there[name]}", f"{name} {here[name]}")
        for name in MACHINE
        if name in there and there[name] != here[name]
    ]
    try:
        kept.check(job.device, path)
        job.model.kernels = kept
    except UsageError as reason:
        found.append(Difference("kernels", str(kept.to_json()), str(reason)))
    if kernels == "plain" and kept != PLAIN:
        pairs = zip(kept.to_json().items(), PLAIN.to_json().values(), strict=True)
        found += [Difference("kernels", f"{name} {there}", f"{plain} (--kernels plain)")
                  for (name, there), plain in pairs if there != plain]  # fmt: skip
    return found


def _classes(listed: Any) -> str:
    keys = [str(one["key"]) for one in listed]
    return f"{len(keys)}: {', '.join(keys[:4])}{', …' if keys[4:] else ''}"


def allow(changes: Sequence[Difference], allowed: Sequence[str], where: str, *, known: Collection[str]) -> None:
    """A UsageError with a table of the differences that are not allowed by name, or that no run can bear; or for a name
    that is none of the `known` ones of settings, nor of BESIDE.
    """
    for name in allowed:
        if name not in (names := {*known, *BESIDE}):
            raise UsageError(f"--allow-change {name}: no such setting{did_you_mean(name, names)}")
    fixed = [change for change in changes if change.name in FIXED or _grown(change)]
    refused = [change for change in changes if change.name not in allowed]
    if not fixed and not refused:
        return
    names = ",".join(dict.fromkeys(change.name for change in refused))
    advice = "no run can change these" if fixed else f"--allow-change {names} would go on all the same, not bit for bit"
    wide = max(len(change.name) for change in fixed or refused)
    rows = [f"  {change.name:{wide}}  {change.there} there, {change.now} asked" for change in fixed or refused]
    said = f"{where}: begun with other settings; name another --run, or give those it was begun with ({advice}):"
    raise UsageError("\n".join([said, *rows]))


def _grown(change: Difference) -> bool:
    """Whether the number of classes is another: fc8 would not fit."""
    return change.name == "classes" and change.there.partition(":")[0] != change.now.partition(":")[0]


def exact_checkpoint(resume: tuple[str, str] | None, run: Run, *, begun: bool) -> Path | None:
    """The checkpoint of this run that `--resume exact` names."""
    if resume is None:
        return None
    how, where = resume
    if how != "exact":
        raise UsageError(f"--resume {how}: expected exact and a checkpoint of the run")
    path = Run.pointed(Path(where)) or Path(where)
    if not begun or path.resolve().parent != run.checkpoints.resolve() or not checkpoint.NAME.fullmatch(path.name):
        raise UsageError(f"--resume exact {where}: not a checkpoint of {run.folder}")
    return run.checkpoints / path.name


def keep_changes(job: Job, record: dict[str, Any]) -> None:
    """Writes down what a run goes on with that it was not begun with: in changes.json, and in the files it concerns."""
    changes: list[Difference] = record["changes"]
    folder, names = job.run.folder, {change.name for change in changes}
    if not changes:
        return
    path = folder / CHANGES
    kept = files.read_json(path) if path.exists() else []
    files.write_json(path, [*kept, {"step": job.state.step, "changes": [asdict(change) for change in changes]}])
    if "classes" in names:
        files.write_json(folder / "classes.json", record["classes"])
    if names & {"machine", "kernels"}:
        files.write_json(folder / "environment.json", environment(job.device, job.threads, job.model.kernels))


def commit() -> str | None:
    """The commit of the checkout that runs; None where the package is installed."""
    top = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(top), "rev-parse", "--show-toplevel", "HEAD"]
    said = subprocess.run(git, capture_output=True, text=True, check=False) if shutil.which("git") else None  # noqa: S603
    if said is None or said.returncode:
        return None
    where, name = said.stdout.splitlines()
    return name if Path(where).resolve() == top else None  # an installed package may lie within a user's own checkout


def environment(device: torch.device, threads: int, kernels: Kernels) -> dict[str, Any]:
    """Versions, machine, threads, kernels, command line: environment.json."""
    return {
        "alexnet": version("alexnet"),
        "commit": commit(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "numpy", "pillow", "simplejpeg")},
        "machine": platform.machine(),
        "system": platform.platform(),
        "processor": processor(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "workers": threads,
        "numba": version("numba") if has_numba() else None,
        "triton": version("triton") if has_triton() else None,
        "kernels": kernels.to_json(),
        "command": sys.argv,
    }
