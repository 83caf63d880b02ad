"""From what a user asked to a job that runs: resolve, create or resume the run folder, measure, train."""

import bisect
import hashlib
import json
import math
import os
import resource
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from .. import files, stop
from ..data.augment import FEW as FEW_CROPS
from ..data.cache import cache_folder
from ..data.classes import Classes
from ..data.loader import BadImages, Batch, Decoded, batches
from ..data.preprocess import MEAN_FILE, Preprocess, to_json
from ..data.sources import Data, open_data
from ..data.stats import measure
from ..data.threads import workers_of
from ..errors import AlexNetError, BadImage, DataError, NumbersError, Stopped, UsageError, out_of_memory
from ..evaluation.score import answer
from ..look import report
from ..network.build import AlexNet, build
from ..network.capture import WARM
from ..network.cost import cost
from ..network.kernels import CHOICES, PLAIN, Kernels, fastest
from ..network.variants import BatchNorm, Conv, He, Linear, Variant, layer_name, variant
from ..ranks import (
    cores,
    device_of,
    has_numba,
    has_triton,
    memory,
    multiply_in,
    precision_of,
    processor,
    spare_memory,
)
from ..weights import checkpoint
from ..weights.checkpoint import KEEP, Checkpoint, Store
from ..weights.run import NO_MEAN, Loaded, Run, open_run, preprocess_of, run_named, stands_in
from . import loop
from .again import Difference, allow, differences, environment, exact_checkpoint, keep_changes
from .journal import BAD_IMAGES, TENSORBOARD, Journal
from .loop import Job
from .optim import optimizer
from .recipes import Recipe, changed, recipe

FEW = 50  # pictures a class below which fine-tuning does better
UNEVEN = 3.0  # largest class / smallest class that is worth a word
KEPT_BACK = 0.03  # of --max-time
MOST_STEPS = 99_999_999  # a checkpoint's name has eight digits
LAST_RESORT = 1.5  # times --max-time, when the clock itself stops the run
REPORT_EVERY, REPORT_SHARE = 60.0, 0.02  # seconds between two reports at least, and of the time at most
MEASURED_STEPS, MEASURED_SECONDS = 5, 3.0  # both, at least, after a few that are not counted


@dataclass(frozen=True)
class Asked:
    """What was asked of `train`; None where the user said nothing. Field names are the options' names."""

    data: str
    recipe: str = "fast"
    variant: str | None = None
    run: str | None = None
    device: str = "auto"
    workers: int | None = None
    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    dropout: float | None = None
    precision: str = "auto"
    accumulate: int = 1
    seed: int = 0
    max_time: float | None = None  # seconds
    val: str | None = None
    val_fraction: float = 0.2
    balance: bool = False
    weights: str | None = None
    kernels: str = "auto"
    bad_images: BadImages = "error"
    save_every: int = 1000
    keep: int = KEEP
    in_memory: str = "auto"
    on_nan: str = "stop"
    resume: tuple[str, str] | None = None  # ("exact", the checkpoint to go on from)
    allow_change: str | None = None  # names with commas between
    set: Sequence[str] = ()


def resolve(asked: Asked) -> tuple[Recipe, dict[str, str]]:
    """The recipe with all that was asked set, and the origin of each of its values."""
    base = recipe(asked.recipe)
    values: dict[str, Any] = {}
    origin = dict.fromkeys(asdict(base), f"recipe {base.name}")
    for name in ("variant", "epochs", "batch_size", "lr", "dropout"):
        value = getattr(asked, name)
        if value is not None:
            values[name], origin[name] = value, f"--{name.replace('_', '-')}"
    for pair in asked.set:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair}: expected key=value")
        values[name], origin[name] = value, "--set"
    made = changed(base, values)
    variant(made.variant)
    return made, origin


def from_weights(chosen: Recipe, origin: dict[str, str], *, weights: str, name: str) -> Recipe:
    """The recipe where weights of variant `name` are given: that variant, its pictures' scale, no initial values."""
    if origin["variant"].startswith("--") and chosen.variant != name:
        raise UsageError(f"--variant {chosen.variant}: --weights {weights} is of variant {name}")
    for field in ("scale", "init"):
        if origin[field] == "--set":
            raise UsageError(f"--set {field}: --weights {weights} brings its own")
    origin |= dict.fromkeys(("variant", "scale", "init"), f"--weights {weights}")
    return replace(chosen, variant=name, scale=None, init="variant")


def he(base: Variant) -> Variant:
    """`base` with initial values of He et al. (2015) and zero biases."""
    rows = tuple(replace(r, init=He(), bias=0.0) if isinstance(r, Conv | Linear) else r for r in base.layers)
    return replace(base, layers=rows)


def network(chosen: Recipe, classes: Classes, *, seed: int, given: Loaded | None) -> AlexNet:
    """The network to train: the variant with its initial values, or `given` weights, fc8's new or matched by class."""
    base = variant(chosen.variant)
    model = build(he(base) if chosen.init == "he" else base, classes=len(classes), seed=seed, dropout=chosen.dropout)
    if given is not None:
        kept = {name: value for name, value in given.model.state_dict().items() if not name.startswith("fc8.")}
        if not chosen.replace_head:
            try:
                label = torch.from_numpy(classes.match(given.classes, f"--weights {given.where}"))
            except DataError as reason:
                raise DataError(f"{reason}; --recipe finetune trains a new last layer") from None
            for name in ("fc8.weight", "fc8.bias"):
                value = given.model.state_dict()[name]
                kept[name] = torch.empty_like(value).index_copy_(0, label, value)  # their row i is our row label[i]
        model.load_state_dict({**model.state_dict(), **kept})
    known = sorted({name.split(".")[0] for name, _ in model.named_parameters()})
    for layer in chosen.freeze:
        if layer not in known:
            raise UsageError(f"freeze={layer}: has no weights; those that have are {', '.join(known)}")
    return model


def check_head(data: str, base: Variant, classes: int, device: torch.device) -> None:
    """DataError, with the arithmetic, where the last layer of so many classes is more than there is memory for."""
    fc8 = next(layer for layer in cost(base, classes).layers if layer.name == "fc8")
    need, there = 3 * 4 * fc8.parameters, memory(device)
    if need > there:
        raise DataError(
            f"{data}: {classes:,} classes: fc8 would hold {fc8.parameters // classes - 1} x {classes:,} weights of 4 "
            f"bytes, {4 * fc8.parameters / 1e9:.1f} GB, and as much again each for gradients and momentum, "
            f"{need / 1e9:.1f} GB in all; there are {there / 1e9:.1f} GB of memory"
        )


def say_of_data(data: Data, chosen: Recipe, console: Console, *, asked: Asked, epoch: int) -> None:
    """Counts and balance, and what would do better where the set is small."""
    counts = data.train.counts()
    val = f", {len(data.val)} to validate" if data.val is not None else ", none to validate"
    balanced = f"; balanced: {epoch} an epoch" if asked.balance else ""
    console.print(
        f"{asked.data}: {len(data.train)} pictures to train{val}, {len(counts)} classes "
        f"({counts.min()} to {counts.max()} pictures a class{balanced})"
    )
    if data.train.ignored:
        console.print("left out: " + ", ".join(f"{count} {reason}" for reason, count in data.train.ignored.items()))
    if counts.min() and counts.max() / counts.min() > UNEVEN and not asked.balance:
        small = data.train.classes.keys[int(counts.argmin())]
        console.print(
            f"uneven: {small} has {counts.min()} pictures, the largest class {counts.max()}; --balance repeats the "
            f"smaller classes"
        )
    if counts.min() < FEW and asked.data != "digits" and not (chosen.replace_head or asked.weights):
        tuned = preprocess_of(variant(recipe("finetune").variant)).shaping
        here = preprocess_of(variant(chosen.variant)).stored
        # who trains on smaller pictures has a reason, and a pack of other stored forms would be refused
        if here == tuned.stored and data.train.shaping in (None, tuned):
            console.print(
                f"a class has fewer than {FEW} pictures; fine-tuning given weights would do better:\n"
                f"  {_finetuning(asked)}"
            )


def _finetuning(asked: Asked) -> str:
    """The command that fine-tunes on the pictures that were asked for, held out as was asked, into a run of its own."""
    words = ["alexnet", "train", asked.data, "--recipe", "finetune", "--weights", "imagenet"]
    for name in ("val", "val_fraction", "seed", "bad_images"):
        value = getattr(asked, name)
        if value != getattr(Asked, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--balance"] if asked.balance else []
    words += ["--run", f"{asked.run}-finetune"] if asked.run else []
    return shlex.join(words)


# of what `asked` says beside the recipe, these are kept in recipe.json
OWN = ("accumulate", "seed", "balance", "val_fraction", "bad_images", "workers", "save_every", "keep", "on_nan",
       "weights", "max_time")  # fmt: skip


def resolved(
    asked: Asked, chosen: Recipe, origin: dict[str, str], *, workers: int, precision: str, steps: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """recipe.json: each value of a training, and where it comes from."""
    values = {key: {"value": value, "origin": origin[key]} for key, value in asdict(chosen).items()}
    for key in OWN:
        value = workers if key == "workers" else getattr(asked, key)
        given_by = "default" if getattr(asked, key) == getattr(Asked, key) else f"--{key.replace('_', '-')}"
        values[key] = {"value": value, "origin": given_by}
    values["precision"] = {"value": precision, "origin": "default" if asked.precision == "auto" else "--precision"}
    values["steps"] = steps
    return {
        k: {**v, "value": list(v["value"]) if isinstance(v["value"], tuple) else v["value"]} for k, v in values.items()
    }


def prepare(asked: Asked, console: Console) -> tuple[Job, Run, dict[str, Any]]:
    """A job ready to run, its folder created or taken up again; raises UsageError before anything is computed."""
    chosen, origin = resolve(asked)
    if not 1 <= asked.accumulate <= chosen.batch_size:
        raise UsageError(
            f"--accumulate {asked.accumulate}: a batch of {chosen.batch_size} has 1 to {chosen.batch_size} parts"
        )
    if asked.accumulate > 1 and any(isinstance(row, BatchNorm) for row in variant(chosen.variant).layers):
        raise UsageError(
            f"--accumulate: batch normalisation sees the parts of a batch, not the batch; use 1 with {chosen.variant}"
        )
    if asked.keep < 1:
        raise UsageError(f"--keep {asked.keep}: must be at least 1")
    if asked.on_nan not in ("stop", "rollback"):
        raise UsageError(f"--on-nan {asked.on_nan}: unknown; known are stop, rollback")
    if asked.in_memory not in ("auto", "no"):
        raise UsageError(f"--in-memory {asked.in_memory}: unknown; known are auto, no")
    if asked.save_every < 1:
        raise UsageError(f"--save-every {asked.save_every}: must be at least 1")
    if asked.workers is not None:
        workers_of(asked.workers)
    if asked.max_steps is not None and asked.max_steps < 1:
        raise UsageError(f"--max-steps {asked.max_steps}: must be at least 1")
    if asked.max_time is not None and not 0.0 < asked.max_time < math.inf:
        raise UsageError(f"--max-time: {asked.max_time} s: must be above 0, and finite")
    lengths = [name for name in ("epochs", "max_steps", "max_time") if getattr(asked, name) is not None]
    if len(lengths) > 1:
        raise UsageError(" and ".join(f"--{name.replace('_', '-')}" for name in lengths) + ": name one of them")
    if asked.kernels not in ("auto", "plain"):
        raise UsageError(f"--kernels {asked.kernels}: unknown; known are auto, plain")
    if not 0.0 <= asked.val_fraction < 1.0:
        raise UsageError(f"--val-fraction {asked.val_fraction}: must be in 0..1")
    if asked.val is not None and asked.val_fraction != Asked.val_fraction:
        raise UsageError("--val and --val-fraction: name one of them")
    device = device_of(asked.device)
    precision = precision_of(asked.precision, device)
    multiply_in(precision, device)
    given = None
    source = asked.weights or ("imagenet" if chosen.replace_head else None)
    run = run_named(asked.run) if asked.run else None
    if source and run is not None and run.begun():  # it has weights of its own
        chosen = from_weights(chosen, origin, weights=source, name=run.recipe()["variant"]["value"])
    elif source:
        given = open_run(source, named=asked.variant)
        for note in given.notes:
            if not note.endswith(NO_MEAN):  # here it is measured
                console.print(note)
        chosen = from_weights(chosen, origin, weights=source, name=given.model.variant.name)
    run = run or run_named(f"{Path(asked.data).resolve().name}-{chosen.name}-{chosen.variant}")
    again = run.begun()
    known = run.data() if again else None
    names = known["split"].get("val_names") if known else None
    data = open_data(asked.data, val=asked.val, val_fraction=asked.val_fraction, seed=asked.seed, val_names=names)
    threads = asked.workers if asked.workers is not None else min(8, cores())
    chosen = replace(chosen, freeze=tuple(layer_name(layer, variant(chosen.variant)) for layer in chosen.freeze))
    check_head(asked.data, variant(chosen.variant), len(data.train.classes), device)
    model = network(chosen, data.train.classes, seed=asked.seed, given=given)
    model = model.to(device).to(memory_format=torch.channels_last)
    if again:
        preprocess, mean = run.preprocess()
    else:
        preprocess = given.preprocess if given else preprocess_of(model.variant)
        # one that nobody knows, as an untrained variant's, is measured
        mean = given.mean if given and given.mean is not None and not stands_in(given.mean) else None
        if chosen.scale is not None:
            preprocess = replace(preprocess, scale=chosen.scale, std=(1.0, 1.0, 1.0))
    if data.train.shaping is not None and chosen.crop == "original":
        raise DataError(
            f"{asked.data}: a pack of stored forms, and recipe {chosen.name} crops from pictures as they were taken: "
            "name those, or --set crop=stored"
        )
    for part in (data.train, data.val):
        if part is not None:
            part.check_shaping(preprocess)

    job = Job(
        run=run,
        store=Store(run.folder, keep=asked.keep),
        recipe=chosen,
        model=model,
        rule=optimizer(model, chosen),
        train=data.train,
        val=data.val,
        preprocess=preprocess,
        mean=mean,
        stats=None,
        device=device,
        precision=precision,
        steps=0,
        seed=asked.seed,
        accumulate=asked.accumulate,
        threads=threads,
        bad_images=asked.bad_images,
        balance=asked.balance,
        decoded=None if asked.in_memory == "no" or data.train.raw else Decoded(len(data.train), spare_memory()),
        save_every=asked.save_every,
        going_on="run it again, without --resume, to go on" if asked.resume else Job.going_on,
    )
    job.steps = asked.max_steps or chosen.epochs * job.epoch_steps
    if job.steps > MOST_STEPS:
        raise UsageError(f"{'--max-steps' if asked.max_steps else 'epochs'}: {job.steps} updates; at most {MOST_STEPS}")
    steps = {"value": job.steps, "origin": "--max-steps" if asked.max_steps else origin["epochs"]}
    values = resolved(asked, chosen, origin, workers=threads, precision=precision, steps=steps)
    record = {
        "source": data.source,
        "split": data.split,
        "fingerprint": data.fingerprint,
        "train_fingerprint": data.train.fingerprint(),
        "content": data.train.content,
        "val_fingerprint": data.val.fingerprint() if data.val is not None else None,
        "val_sizes": data.val.size.tolist() if data.val is not None and "val_names" in data.split else [],
        "train": len(data.train),
        "val": len(data.val) if data.val is not None else 0,
    }
    classes = data.train.classes.to_json()
    changes: list[Difference] = []
    if again:
        changes = differences(run, values, record, classes, job, kernels=asked.kernels)
        allowed = [name.strip() for name in (asked.allow_change or "").split(",") if name.strip()]
        allow(changes, allowed, str(run.folder), known=values)
        if any(change.name == "kernels" for change in changes):
            choose_kernels(job, asked.kernels, console)
    else:
        say_of_data(data, chosen, console, asked=asked, epoch=len(job.table))
    return job, run, {"recipe": values, "data": record, "classes": classes, "begun": again, "changes": changes}


def colours(job: Job, console: Console) -> None:
    """Measures the mean image and the colours of the training split where the recipe or the variant needs them."""
    needs_mean = job.preprocess.mean == MEAN_FILE and job.mean is None
    if not (needs_mean or job.recipe.colour_noise):
        return
    begin = time.monotonic()
    job.stats = measure(
        job.train, job.preprocess, threads=max(1, job.threads), cache=cache_folder(), bad_images=job.bad_images
    )
    if needs_mean:
        mean = job.stats.mean if job.preprocess.colour == "RGB" else job.stats.mean[:, :, ::-1]
        job.mean = np.ascontiguousarray(mean, dtype=np.float32)
    passed = time.monotonic() - begin
    if passed > 1:
        console.print(f"mean image and colours of {job.stats.count} pictures: {passed:.0f} s")


def kernels_for(model: Variant, *, batch: int, precision: str, device: torch.device, console: Console) -> Kernels:
    """The kernels that are fastest here for a variant: measured once for a machine, kept in the cache."""
    machine = {
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": version("torch"),
        "numba": version("numba") if has_numba() else None,
        "triton": version("triton") if has_triton() else None,
        "device": device.type,
        "variant": model.name,
        "batch": batch,
        "precision": precision,
        "choices": list(CHOICES.items()),  # what is new, or measured in another order, is measured again
    }
    name = hashlib.sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / f"kernels-{name}.json"
    if path.exists():
        try:
            kept = files.read_json(path)
            chosen = Kernels.of(kept.get("kernels") if isinstance(kept, dict) else None, str(path))
            chosen.check(device, str(path))
            return chosen
        except (DataError, UsageError):  # damaged: measured again
            path.unlink()
    begin = time.monotonic()
    kernels, measured = fastest(model, batch=batch, precision=precision, device=device)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, {"kernels": kernels.to_json(), "seconds": measured, "machine": machine})
    except OSError as reason:
        raise UsageError(f"{path}: cannot be kept ({reason.strerror}); set ALEXNET_CACHE") from None
    said = "; ".join(
        f"{choice} {getattr(kernels, choice)} ("
        + ", ".join(f"{one} {1000 * seconds:.1f} ms" for one, seconds in times.items())
        + ")"
        for choice, times in measured.items()
    )
    if said:
        console.print(f"{model.name}: kernels measured in {time.monotonic() - begin:.0f} s: {said}")
    return kernels


def choose_kernels(job: Job, asked: str, console: Console) -> None:
    """Gives the network the kernels that were asked for."""
    if asked == "auto":
        batch = job.recipe.batch_size // job.accumulate
        kernels = kernels_for(
            job.model.variant, batch=batch, precision=job.precision, device=job.device, console=console
        )
        if job.accumulate > 1:  # the parts of a batch draw from the same numbers, and a graph draws on
            kernels = replace(kernels, step="launches")
        job.model.kernels = kernels if job.takes_copies else replace(kernels, update="torch")
    else:
        job.model.kernels = PLAIN


def warm(job: Job) -> None:
    """Has what the steps use compiled, or read from where it is kept, so that no step waits for it: by black pictures,
    as many as the compiled augmentation begins with, of which one goes through the network and back.
    """
    count, side = FEW_CROPS + 1 if job.recipe.batch_size > FEW_CROPS else 1, loop.preparer(job)[1]
    n, labels = np.arange(count), torch.zeros(count, dtype=torch.int64)
    black = Batch(torch.zeros(count, side, side, 3, dtype=torch.uint8), labels, n, n, 0, [], 0.0, 0.0)
    normalise = loop.Normalise(job.preprocess, job.mean, job.device)
    images = loop.views_of(job, black, normalise, loop.augment_of(job.recipe))
    job.model.eval()  # averages of batches stay as they are
    with torch.autocast(job.device.type, torch.bfloat16, enabled=job.precision == "bf16"):
        job.model(images[:1]).float().sum().backward()
    job.model.zero_grad(set_to_none=True)
    if job.copies():
        from .optim_cpu import update

        one, copy = torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16)
        update(one, one.clone(), copy, copy.clone(), rate=0.0, decay=0.0, momentum=0.0, nesterov=False)


@dataclass(frozen=True)
class Pace:
    """Seconds that a step, a validation and a save take."""

    step: float
    validation: float
    saving: float

    def seconds(self, steps: int, job: Job) -> float:
        """Of a run of so many steps: they end with a validation and a save, as each so many epochs do."""
        between = job.recipe.validate_epochs * job.epoch_steps
        validations = math.ceil(steps / between)
        saves = validations + (steps // job.save_every if job.save_every < between else 0)
        return steps * self.step + validations * self.validation + saves * self.saving

    def steps(self, seconds: float, job: Job) -> int:
        """How many fit into `seconds`; one, at the least."""
        most = int(min(seconds / self.step + 1, MOST_STEPS))
        return max(1, bisect.bisect_right(range(1, most + 1), seconds, key=lambda steps: self.seconds(steps, job)))

    def __str__(self) -> str:
        return f"{self.step:.3f} s a step, {self.validation:.1f} s a validation, {self.saving:.1f} s a save"


def measured_pace(job: Job) -> Pace:
    """Tried out: a few seconds of steps, a part of a validation, a save; the job and the disk are left as they were."""
    kept = {name: value.clone() for name, value in job.model.state_dict().items()}
    normalise = loop.Normalise(job.preprocess, job.mean, job.device)
    augment, (prepare_image, side) = loop.augment_of(job.recipe), loop.preparer(job)
    # more are on order than are taken: the decoders are as busy as they will be
    on_order = loop.order(job, 0, sys.maxsize)
    made = batches(job.train, on_order, prepare_image, side=side, threads=job.threads, bad_images="skip")
    took: list[float] = []
    first = WARM + 1 if job.model.kernels.step == "graph" else 2  # the capture is one of them
    while len(took) < first + MEASURED_STEPS or sum(took[first:]) < MEASURED_SECONDS:
        begin = time.monotonic()
        batch = next(made)
        if len(batch.labels):  # all of them may be bad pictures
            images = loop.views_of(job, batch, normalise, augment)
            loss, _ = loop.step(job, images, batch.labels.to(job.device), number=len(took), lr=job.recipe.lr * 1e-6)
            float(loss)
        took.append(time.monotonic() - begin)
        if stop.requested():
            made.close()
            raise Stopped(f"{job.run.folder}: stopped in the warm-up, before the first step; run it again to begin")
    made.close()
    step = float(np.mean(took[first:]))
    validation = 0.0
    if job.val is not None:
        some = job.val.take(np.arange(min(len(job.val), 2 * job.recipe.batch_size)))
        begin = time.monotonic()
        answer(job.model, some, job.preprocess, job.mean, batch_size=job.recipe.batch_size, device=job.device,
               precision=job.precision, threads=job.threads, bad_images="skip")  # fmt: skip
        validation = (time.monotonic() - begin) * len(job.val) / len(some)
    begin = time.monotonic()
    state = Checkpoint(job.model.state_dict(), checkpoint.optimizer_tensors(job.rule), {"step": 0})
    folder = job.run.folder.absolute()
    with TemporaryDirectory(
        prefix=".warm-up-", suffix=".tmp", dir=next(p for p in (folder, *folder.parents) if p.is_dir())
    ) as trial:
        store = Store(Path(trial))
        store.save(state)
        store.settle()
        store.close()
        saving = time.monotonic() - begin
    job.model.load_state_dict(kept)
    job.rule.state.clear()
    return Pace(step, validation, saving)


def _lasting(seconds: float) -> str:
    """A length of time for a person: 20 seconds, 2.5 minutes."""
    return f"{seconds:.3g} seconds" if seconds < 120 else f"{round(seconds / 60, 1):g} minutes"


def measured_steps(job: Job, seconds: float, console: Console) -> int:
    """How many steps fit into `seconds`, validation and saving included, by the pace measured."""
    pace = measured_pace(job)
    steps = pace.steps(seconds * (1 - KEPT_BACK), job)
    console.print(f"{pace}: {steps} steps ({steps / job.epoch_steps:.1f} epochs) fit into {_lasting(seconds)}")
    return steps


def dry_run(job: Job, console: Console, *, max_time: float | None) -> dict[str, Any]:
    """A few steps and two validation batches; what a whole run would take. No run folder is made."""
    pace = measured_pace(job)
    if max_time is not None:
        job.steps = pace.steps(max_time * (1 - KEPT_BACK), job)
    parameters = sum(p.nbytes for p in job.model.state_dict().values())
    moments = {"adam-tf1": 2}.get(job.recipe.optimizer, 1)
    estimate = {
        "steps": job.steps,
        "epochs": job.steps / job.epoch_steps,
        "seconds": pace.seconds(job.steps, job),
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "disk_bytes": (job.store.keep + 2) * parameters * (1 + moments),  # the best, and the one being written
    }
    console.print(
        f"{pace}\n"
        f"{estimate['steps']} steps, {estimate['epochs']:.1f} epochs: about {_lasting(estimate['seconds'])}, "
        f"{estimate['memory_bytes'] / 1e9:.1f} GB of memory, {estimate['disk_bytes'] / 1e9:.1f} GB on disk",
    )
    return estimate


def begin_run(run: Run, record: dict[str, Any], preprocess: Preprocess, mean: NDArray[np.float32] | None) -> None:
    """Writes what is fixed at the start, recipe.json last; what an earlier start left that saved nothing goes."""
    if run.exists():
        kept = (run.metrics, run.kernels, run.report, run.folder / loop.NOT_FINITE, run.folder / BAD_IMAGES)
        for path in kept:
            path.unlink(missing_ok=True)
        for path in (run.folder / TENSORBOARD, run.predictions.parent):
            if path.exists():
                shutil.rmtree(path)
    files.write_json(run.folder / "classes.json", record["classes"])
    files.write_json(run.folder / "data.json", record["data"])
    files.write_json(run.folder / "preprocess.json", to_json(preprocess))
    if preprocess.mean == MEAN_FILE:
        assert mean is not None
        files.write_array(run.folder / MEAN_FILE, mean)
    files.write_json(run.folder / "environment.json", record["environment"])
    files.write_json(run.folder / "recipe.json", record["recipe"])


def train(asked: Asked, console: Console, *, dry: bool = False) -> dict[str, Any]:
    """Trains, or goes on, as asked; returns the document of `train --json`.

    Raises the errors of `errors.py`; a run stopped by a signal raises Stopped with its state saved.
    """
    try:
        with stop.watch():
            job, run, record = prepare(asked, console)
            if dry:
                if record["begun"]:
                    raise UsageError(f"{run.folder}: --dry-run wants a --run that does not exist yet")
                colours(job, console)
                choose_kernels(job, asked.kernels, console)
                return dry_run(job, console, max_time=asked.max_time)
            run.create()
            with files.lock(run.folder / "lock") as note, closing(job.store):
                if note:
                    console.print(note)
                return _train(asked, job, run, record, console)
    except BadImage as bad:
        raise bad.with_hint() from bad
    except (MemoryError, RuntimeError) as reason:
        if not out_of_memory(reason):
            raise
        raise AlexNetError(_out_of_memory(resolve(asked)[0].batch_size, asked.accumulate)) from None


def _out_of_memory(size: int, parts: int) -> str:
    """What takes less than batches of `size` pictures that go through in so many parts, in words."""
    said = f"out of memory with batches of {size}: "
    if size == 1:
        return f"{said}a smaller --variant takes less; what was saved stands"
    said += f"--batch-size {size // 2} takes less"
    if 2 * parts <= size:
        said += f", and so does --accumulate {2 * parts}, which computes the same"
    return f"{said}; what was saved stands"


def _train(asked: Asked, job: Job, run: Run, record: dict[str, Any], console: Console) -> dict[str, Any]:
    try:
        finished = _begun(asked, job, run, record, console)
    except OSError as reason:  # no room, before the first step
        where = os.fsdecode(reason.filename) if reason.filename else run.folder
        raise UsageError(f"{where}: cannot be read or written ({reason.strerror})") from None
    if finished:
        return document(job, "done")
    warm(job)
    if asked.max_time is not None:
        job.deadline = time.monotonic() + asked.max_time * LAST_RESORT
    return document(job, _consumed(asked, job, console))


def _begun(asked: Asked, job: Job, run: Run, record: dict[str, Any], console: Console) -> bool:
    """Puts the job where it begins or goes on, and its files in order; whether it is finished already."""
    for folder in (run.folder, run.predictions.parent):
        files.sweep(folder)
    begun = run.begun()
    if begun != record["begun"]:
        raise UsageError(f"{run.folder}: another process has trained here since this one began; start it again")
    exact = exact_checkpoint(asked.resume, run, begun=begun)
    before = run.recipe()["steps"]["value"] if begun else job.steps
    colours(job, console)
    if not begun:
        choose_kernels(job, asked.kernels, console)
        if asked.max_time is not None:
            job.steps = measured_steps(job, asked.max_time, console)
            record["recipe"]["steps"] = {"value": job.steps, "origin": "--max-time"}
        record["environment"] = environment(job.device, job.threads, job.model.kernels)
        begin_run(run, record, job.preprocess, job.mean)
    notes = loop.resume(job, exact=exact) if begun else None
    for note in notes or ():
        console.print(note)
    if job.steps < job.state.step:
        raise UsageError(f"{run.folder}: has {job.state.step} steps already, more than the {job.steps} asked")
    finished = job.state.step == job.steps and not job.state.validation_due
    if begun:
        files.write_json(run.folder / "data.json", record["data"])  # the pictures may have moved
    if begun and not finished:
        files.write_json(run.folder / "recipe.json", record["recipe"])
        keep_changes(job, record)
    if finished:
        more = "" if asked.max_time else "; more --epochs or --max-steps would extend it"
        console.print(f"{run.folder}: finished at step {job.steps}{more}")
    elif begun:
        length = "" if job.steps == before else f" ({before} until now)"
        console.print(f"{run.folder}: goes on from step {job.state.step} of {job.steps}{length}")
        if record["changes"]:
            names = ", ".join(dict.fromkeys(change.name for change in record["changes"]))
            console.print(f"with other {names} than it was begun with: no longer bit for bit what it would have become")
    else:
        console.print(
            f"{run.folder}: recipe {job.recipe.name}, variant {job.recipe.variant}, {job.steps} steps of "
            f"{job.recipe.batch_size} ({job.steps / job.epoch_steps:.1f} epochs), {job.precision} on "
            f"{job.device.type}, {torch.get_num_threads()} threads, kernels: {job.model.kernels}",
        )
    if not finished and job.steps <= (warmup := job.recipe.warmup_steps):
        console.print(
            f"all {job.steps} steps are within the warm-up of {warmup}, in which the rate still grows: more --max-time "
            "or --max-steps, or --set warmup_steps=N, ends it"
        )
    return finished


@dataclass
class Reporting:
    """Writes the report of a run, now and then and at its end. The first that cannot be written is said: none ends it.

    It reads the run folder and changes nothing that the run computes with. Memory that ends is one of the reasons.
    """

    job: Job
    console: Console
    due: float = 0.0  # of time.monotonic()
    failed: bool = False

    def refresh(self) -> None:
        """A page of the run under way, if the last is old enough."""
        if time.monotonic() >= self.due:
            self.write(under_way=True)

    def write(self, *, under_way: bool) -> None:
        """A page of the run as it stands."""
        begin = time.monotonic()
        try:
            report.write(self.job.run, under_way=under_way, found=(self.job.train, self.job.val))
        except (OSError, MemoryError, AlexNetError) as reason:
            if not self.failed:
                why = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason
                why = "out of memory" if isinstance(reason, MemoryError) else why
                self.console.print(f"{self.job.run.report}: could not be written ({why}); the run goes on")
            self.failed = True
        now = time.monotonic()
        self.due = now + max(REPORT_EVERY, (now - begin) / REPORT_SHARE)


def _consumed(asked: Asked, job: Job, console: Console) -> str:
    """Runs the loop to its end, and writes what it yields; returns how it ended, as `train --json` says."""
    reporting = Reporting(job, console)
    if asked.on_nan == "rollback" and not job.run.begun():
        for item in loop.save_now(job):  # there is something to go back to from the first step on
            console.print(item["say"])
    stopped = "done"
    while True:
        colour, judged = job.preprocess.colour, False
        with Journal(job.run, step=job.state.step, steps=job.steps, colour=colour, console=console) as journal:
            if job.state.step == 0:
                journal.graph(job.model)
            try:
                for item in loop.run(job):
                    journal.write(item)
                    stopped = item.get("stopped", stopped)
                    if judged:  # the item behind a validation: its state is on the way to the disk
                        reporting.refresh()
                    judged = item.get("split") == "val"
                    if judged:
                        journal.kernels(job.model)
                reporting.write(under_way=False)
                return stopped
            except AlexNetError as reason:
                for item in loop.last_word(job):
                    journal.write(item)
                reporting.write(under_way=True)
                if isinstance(reason, Stopped):
                    reason.result = document(job, "signal")
                if not isinstance(reason, NumbersError) or asked.on_nan != "rollback":
                    raise
                numbers = reason
        back = loop.roll_back(job)  # the log is closed: what it still held is cut off with the rest
        if back is None:
            raise numbers
        console.print(f"{numbers}\n{back}")


def document(job: Job, stopped: str) -> dict[str, Any]:
    """What `train --json` prints."""
    state = job.state
    last = state.last or {"step": state.step, "top1": None, "top5": None, "loss": None}  # before the first validation
    return {
        "run": str(job.run.folder),
        "best": state.best or last,
        "last": last,
        "seconds": state.seconds,
        "images_per_second": state.images / state.seconds if state.seconds else 0.0,
        "stopped": stopped,
        "report": str(job.run.report) if job.run.report.exists() else None,
    }
