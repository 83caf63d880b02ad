"""The loop: samples to updates to records. A generator; whoever consumes the records draws, logs and reports."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.func import functional_call

from .. import files, stop
from ..data.augment import Augment, Normalise, train_views
from ..data.loader import BadImages, Batch, Decoded, Places, Prepare, batches, original, stored
from ..data.order import balanced, nth
from ..data.preprocess import Preprocess
from ..data.samples import Samples, shown
from ..data.stats import Stats
from ..errors import AlexNetError, DataError, NumbersError, Stopped, WeightsError
from ..evaluation.predictions import write_predictions
from ..evaluation.score import answer, score
from ..network.build import AlexNet, Draw
from ..ranks import cores
from ..weights import checkpoint
from ..weights.checkpoint import Checkpoint, Store
from ..weights.run import Run, fit
from .graph import Graphed, Pass
from .optim import SGD, rate, set_rate
from .recipes import Recipe

RECORD_EVERY = 10  # steps a line of metrics.jsonl
LATE = 4  # a save may take one in so many parts of the interval to the next: the steps wait for one that takes longer
LAYERS_EVERY = 50  # steps a look at norms of gradients, activations and updates
LOOK_AT = 16  # images whose activations are looked at
WAITS = 0.1  # a smaller share of the time spent waiting for data is not worth a word
NOT_FINITE = "not_finite.json"
SAVES_FAILED = 3  # in a row end a run
BAD_IN_A_ROW = 32  # pictures without a good one between them are no stray ones: a disk is gone, or a folder
ROLLBACKS = 3  # of a run; each halves the rate
NAMED = 3  # pictures of a batch that a line names
STUCK_AFTER = 400  # steps after which a loss still at chance is reported; a shorter run's end

Record = dict[str, Any]


@dataclass
class State:
    """The plain values of a run that goes on: what state.json holds."""

    step: int = 0  # updates done
    validation_due: bool = False
    best: Record | None = None
    last: Record | None = None
    lr: float = 0.0  # of the last update
    drops: int = 0  # how often "plateau" has divided the rate
    waited: int = 0  # validations without a better one
    loss_sum: float = 0.0  # since the last line of metrics.jsonl
    correct: int = 0
    seen: int = 0
    stuck_said: bool = False
    seconds: float = 0.0
    images: int = 0
    metrics_bytes: int = 0
    rollbacks: int = 0  # how often numbers that were none have been answered with half the rate

    @classmethod
    def of(cls, values: dict[str, Any], where: str) -> "State":
        """From state.json, which anyone may have written. WeightsError: fields or values that a run does not write."""
        if set(values) != set(cls.__dataclass_fields__):
            raise WeightsError(f"{where}: its fields are not those of this program")
        for name, value in values.items():
            if not (
                _reached(value) if name in ("best", "last") else _like(value, cls.__dataclass_fields__[name].default)
            ):
                raise WeightsError(f"{where}: {name}: not what a run writes there")
        return cls(**values)


def _like(value: Any, default: Any) -> bool:
    """Whether a value of state.json is of its field's kind: a flag, a count, or a finite number."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int):
        return type(value) is int and value >= 0
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _reached(value: Any) -> bool:
    """Whether a value of state.json says what a validation gave, or that there was none."""
    if value is None:
        return True
    if not isinstance(value, dict) or not {"step", "top1", "top5"} <= set(value) or not _like(value["step"], 0):
        return False
    return all(one is None or _like(one, 0.0) for name, one in value.items() if name != "step")


@dataclass
class Job:
    """All that the loop needs, resolved; nothing here is asked of a user again."""

    run: Run
    store: Store
    recipe: Recipe
    model: AlexNet
    rule: torch.optim.Optimizer
    train: Samples
    val: Samples | None
    preprocess: Preprocess
    mean: NDArray[np.float32] | None
    stats: Stats | None
    device: torch.device
    precision: str
    steps: int
    seed: int = 0
    accumulate: int = 1
    threads: int = 2
    bad_images: BadImages = "error"
    balance: bool = False
    decoded: Decoded | None = None  # pictures held in memory
    save_every: int = 1000
    going_on: str = "run it again to go on"  # what a person does after a signal
    deadline: float = math.inf  # of time.monotonic(): the run ends there, its state saved
    saves_failed: int = 0  # in a row
    best_saved: Record | None = None  # the best whose checkpoint stands
    rows: NDArray[np.int64] | None = None  # of the last update's batch
    state: State = field(default_factory=State)

    @cached_property
    def passed(self) -> Pass:
        """The pass of a step, as the network's kernels say: launched kernel by kernel, or one graph."""
        launched = partial(there_and_back, self)
        return Graphed(launched, list(self.model.parameters())) if self.model.kernels.step == "graph" else launched

    @property
    def takes_copies(self) -> bool:
        """Whether an update can read gradients in bfloat16 and write copies: with momentum and of whole batches, for
        gradients of parts add up in float32.
        """
        whole = self.precision == "bf16" and self.accumulate == 1 and self.recipe.momentum > 0
        return whole and isinstance(self.rule, SGD)

    def copies(self) -> dict[str, torch.Tensor]:
        """The weights in bfloat16 that a pass goes through, if the update writes such."""
        written = self.model.kernels.update == "numba" and self.takes_copies
        return self.rule.copies(self.model) if written and isinstance(self.rule, SGD) else {}

    @cached_property
    def table(self) -> NDArray[np.int64]:
        """The rows of one epoch before they are shuffled."""
        return balanced(self.train.label) if self.balance else np.arange(len(self.train))

    @cached_property
    def epoch_steps(self) -> int:
        """Updates an epoch."""
        size, batch = len(self.table), self.recipe.batch_size
        return max(1, size // batch if self.recipe.drop_last else math.ceil(size / batch))


def order(job: Job, first: int, last: int) -> Iterator[Places]:
    """The places of the batches of steps first..last - 1."""
    table, epoch_steps, size = job.table, job.epoch_steps, job.recipe.batch_size
    for step in range(first, last):
        epoch, turn = divmod(step, epoch_steps)
        n = np.arange(turn * size, min((turn + 1) * size, len(table)))
        rows = nth(job.seed, epoch, n, size=len(table)) if job.recipe.shuffle else n
        yield Places(table[rows], n, epoch)


def preparer(job: Job) -> tuple[Prepare, int]:
    """How the recipe's images are prepared, and the side of what comes out."""
    if job.recipe.crop == "original":
        return original(job.train, job.preprocess, seed=job.seed, scale=job.recipe.crop_scale), job.preprocess.side
    return stored(job.train, job.preprocess), job.preprocess.stored


def augment_of(recipe: Recipe) -> Augment:
    """The recipe's augmentation of a batch."""
    return Augment(
        mirror=recipe.mirror,
        random_crop=recipe.random_crop,
        colour_noise=recipe.colour_noise,
        colour_rescale=recipe.colour_rescale,
        brightness=recipe.brightness,
        contrast=recipe.contrast,
        saturation=recipe.saturation,
    )


def views_of(job: Job, batch: Batch, normalise: Normalise, augment: Augment) -> torch.Tensor:
    """The batch as the network takes it: (B, 3, s, s) on the device, in the type that it multiplies in."""
    return train_views(
        batch.images.to(job.device, non_blocking=True),
        batch.n,
        normalise,
        augment,
        seed=job.seed,
        epoch=batch.epoch,
        eigenvalues=job.stats.eigenvalues if job.stats else None,
        eigenvectors=job.stats.eigenvectors if job.stats else None,
        dtype=torch.bfloat16 if job.precision == "bf16" else torch.float32,  # what autocast would make of it
    )


def loss_of(recipe: Recipe, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits (B, classes) float, labels (B,) -> the recipe's loss, a scalar summed over the batch."""
    if recipe.loss == "double-softmax-sum":  # [ARTICLE]: softmax of the softmax, summed over batch and classes
        return F.cross_entropy(logits.softmax(1), labels, reduction="sum")
    return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=recipe.label_smoothing)


def step(
    job: Job, images: torch.Tensor, labels: torch.Tensor, *, number: int, lr: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One update from float (B, 3, s, s) and int64 (B,) on the device -> summed loss and count of right answers.

    The batch goes through in `accumulate` parts; the dropout masks are those of the whole batch. Nothing is read back.
    """
    set_rate(job.rule, lr, velocity_holds_rate=job.recipe.optimizer == "sgd-2012")
    job.model.train()
    job.rule.zero_grad(set_to_none=True)
    loss_sum, correct = job.passed(images, labels, Draw(seed=job.seed, step=number, total=len(labels), offset=0))
    job.rule.step()
    return loss_sum, correct


def there_and_back(
    job: Job, images: torch.Tensor, labels: torch.Tensor, draw: Draw
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pass of a step, forward and backward: gradients added up, summed loss and count of right answers."""
    total = len(labels)
    # the article sums over the batch, everyone else takes the mean
    scale = 1.0 if job.recipe.loss == "double-softmax-sum" else 1.0 / total
    loss_sum = torch.zeros((), device=job.device)
    correct = torch.zeros((), dtype=torch.int64, device=job.device)
    begin, copies = 0, job.copies()
    for x, y in zip(images.tensor_split(job.accumulate), labels.tensor_split(job.accumulate), strict=True):
        with torch.autocast(job.device.type, torch.bfloat16, enabled=job.precision == "bf16"):
            logits = functional_call(job.model, copies, (x, replace(draw, offset=begin)))
        loss = loss_of(job.recipe, logits.float(), y)
        (loss * scale).backward()
        loss_sum += loss.detach()
        correct += (logits.detach().argmax(1) == y).sum()
        begin += len(y)
    return loss_sum, correct


@dataclass
class Spent:
    """Where time went since `begin`, in seconds: of the loop's, waiting for batches and augmenting them; of the
    loader's threads', reading and decoding. And the images that it went for.
    """

    begin: float = field(default_factory=time.monotonic)
    waiting: float = 0.0
    augment: float = 0.0
    read: float = 0.0
    decode: float = 0.0
    images: int = 0

    def add(self, *, waiting: float, augment: float, batch: Batch) -> None:
        """One batch more."""
        self.waiting += waiting
        self.augment += augment
        self.read += batch.seconds_read
        self.decode += batch.seconds_decode
        self.images += len(batch.rows)


def where_time_went(spent: Spent, job: Job) -> str:
    """A line for a person: the share of the time that was spent waiting for pictures, why, and what would help."""
    share = spent.waiting / max(time.monotonic() - spent.begin, 1e-9)
    work = {"disk": spent.read, "decode": spent.decode, "augment": spent.augment}
    total = max(sum(work.values()), 1e-9)
    parts = ", ".join(f"{name} {100 * seconds / total:.0f}" for name, seconds in work.items())
    line = f"first epoch: {100 * share:.0f} % of the time waiting for data: {parts}"
    if job.decoded is not None and job.decoded.held and job.state.step < job.steps:
        return f"{line} -> decoded pictures stay in memory ({job.decoded.bytes / 1e6:,.0f} MB) for later epochs"
    if share < WAITS:
        return line
    if spent.read > spent.decode:
        return f"{line} -> a faster disk, or more memory for its cache"
    if job.train.shaping is None and job.recipe.crop == "stored":
        return f"{line} -> `alexnet data pack`"
    return f"{line} -> --workers {cores()}" if job.threads < cores() else line


def run(job: Job) -> Iterator[Record]:
    """Trains from `job.state` to `job.steps`, yielding a record at each thing worth knowing; saves as it goes.

    A record is a line of metrics.jsonl (`split` train, val or layers), or has `say` (a line for the console).
    Raises Stopped when a signal has asked for the end and DataError where a picture cannot be had, both with the state
    saved, NumbersError when the loss or a weight is not finite, and WeightsError where the state cannot be saved: for
    the third time in a row, or at the end.
    """
    state, normalise = job.state, Normalise(job.preprocess, job.mean, job.device)
    augment, (prepare, side) = augment_of(job.recipe), preparer(job)
    made = batches(
        job.train,
        order(job, state.step, job.steps),
        prepare,
        side=side,
        threads=job.threads,
        bad_images=job.bad_images,
        pinned=job.device.type == "cuda",
        decoded=job.decoded,
    )
    resumed_seconds, begin = state.seconds, time.monotonic()
    line, epoch = Spent(), Spent()
    saved_at = first = state.step
    bad_in_a_row = 0

    def clock() -> None:
        state.seconds = resumed_seconds + time.monotonic() - begin

    try:
        while True:
            if state.validation_due:
                yield from validate(job, clock)
                saved_at = state.step
                line, epoch = Spent(), Spent()
            if state.step >= job.steps:
                yield from saved(job)
                return
            asked = time.monotonic()
            try:
                batch = next(made)
            except Stopped:
                yield from save_now(job)
                raise stopped(job, f"at step {state.step} of {job.steps}") from None
            except AlexNetError:
                yield from save_before_end(job, since=saved_at)
                raise
            got = time.monotonic()
            for row, reason in batch.bad:
                yield {"bad_image": {"path": reason.path, "reason": reason.reason, "row": row}}
            bad_in_a_row = 0 if len(batch.rows) else bad_in_a_row + len(batch.bad)
            if bad_in_a_row >= BAD_IN_A_ROW:
                yield from save_before_end(job, since=saved_at)
                raise DataError(
                    f"{batch.bad[-1][1]}; so it is with the {bad_in_a_row - 1} pictures before it, which are no stray "
                    "ones to leave out: look at their disk, or at `alexnet data check`"
                )
            number = state.step
            lr = rate(job.recipe, number, steps=job.steps, epoch_steps=job.epoch_steps, drops=state.drops)
            lr *= 0.5**state.rollbacks
            images = views_of(job, batch, normalise, augment)
            labels = batch.labels.to(job.device, non_blocking=True)
            for spent in (line, epoch):
                spent.add(waiting=got - asked, augment=time.monotonic() - got, batch=batch)
            look = number % LAYERS_EVERY == 0 and len(labels) > 0
            before = {n: p.detach().clone() for n, p in job.model.named_parameters()} if look else {}
            if len(labels):
                job.rows = batch.rows
                loss, correct = step(job, images, labels, number=number, lr=lr)
                value = float(loss)
                if not math.isfinite(value):
                    raise not_finite(job, f"the loss is {value}", step=number + 1, lr=lr)
                state.loss_sum += value
                state.correct += int(correct)
                state.seen += len(labels)
                state.images += len(labels)
            state.step += 1
            state.lr = lr
            if number == first:
                job.store.make_room(Checkpoint(job.model.state_dict(), checkpoint.optimizer_tensors(job.rule), {}))
            clock()
            if look:
                yield {**place(job), "split": "layers", **layers(job, images, before)}
                del before
            if state.step % RECORD_EVERY == 0 or state.step == job.steps:
                if state.seen:
                    passed = time.monotonic() - line.begin
                    record = {
                        **place(job),
                        "split": "train",
                        "loss": state.loss_sum / state.seen,
                        "top1": state.correct / state.seen,
                        "lr": lr,
                        "images_per_second": line.images / passed,
                        "seconds": passed,
                        "seconds_waiting": line.waiting,
                        "seconds_read": line.read,
                        "seconds_decode": line.decode,
                        "seconds_augment": line.augment,
                    }
                    yield record
                    yield from stuck(job, record)
                state.loss_sum, state.correct, state.seen = 0.0, 0, 0
                line = Spent()
            if state.step == min(job.epoch_steps, job.steps):
                yield {"say": where_time_went(epoch, job)}
            whole_epochs = job.recipe.validate_epochs * job.epoch_steps
            state.validation_due = state.step % whole_epochs == 0 or state.step == job.steps
            if state.step % job.epoch_steps == 0:
                yield from kept_beside(job, job.run.kernels, partial(keep_kernels, job))
            if stop.requested():
                yield {"say": f"stopping: saving step {state.step}"}
                yield from save_now(job)
                raise stopped(job, f"at step {state.step} of {job.steps}")
            if time.monotonic() > job.deadline:
                yield from save_now(job)
                yield {"say": f"stopped by the clock at step {state.step} of {job.steps}", "stopped": "max-time"}
                return
            asked = time.monotonic()
            if not job.store.busy() or state.step - saved_at >= max(1, job.save_every // LATE):
                yield from settled(job)
            if not state.validation_due and state.step - saved_at >= job.save_every:
                yield from save(job)
                saved_at = state.step
            for spent in (line, epoch):
                spent.begin += time.monotonic() - asked
    finally:
        made.close()


def place(job: Job) -> Record:
    """Where the run is: updates done, epochs done."""
    return {"step": job.state.step, "epoch": job.state.step / job.epoch_steps}


def validate(job: Job, clock: Any) -> Iterator[Record]:
    """Evaluates, keeps the best, lets "plateau" decide, saves; yields the validation's record.

    The best has the highest top-1, of several such the lowest loss; "plateau" waits for a higher top-1.
    """
    state = job.state
    if job.val is not None:
        try:
            answers = answer(
                job.model,
                job.val,
                job.preprocess,
                job.mean,
                batch_size=job.recipe.batch_size,
                device=job.device,
                precision=job.precision,
                threads=job.threads,
                bad_images=job.bad_images,
            )
            result = score(answers)
        except Stopped:
            yield from save_now(job)
            raise stopped(job, f"in the validation of step {state.step}") from None
        except AlexNetError:
            yield from save_before_end(job)
            raise
        for row, reason in answers.bad.items():
            yield {"bad_image": {"path": reason.path, "reason": reason.reason, "row": row}}
        if not math.isfinite(result.loss):
            raise not_finite(job, f"the validation loss is {result.loss}", step=state.step, lr=state.lr)
        yield from settled(job)  # the best so far is then one that stands
        clock()
        record = {
            **place(job),
            "split": "val",
            "loss": result.loss,
            "top1": result.top1,
            "top5": result.top5,
            "count": result.count,
            "bad_images": result.bad_images,
        }
        state.last = {"step": state.step, "top1": result.top1, "top5": result.top5, "loss": result.loss}
        improved = state.best is None or result.top1 > state.best["top1"]
        better = is_better(state.last, state.best)
        state.waited = 0 if improved else state.waited + 1
        if better:
            state.best = dict(state.last)
            path = job.run.predictions
            yield from kept_beside(job, path, partial(write_predictions, path, answers))
        if (
            not improved
            and job.recipe.schedule == "plateau"
            and state.waited > job.recipe.patience
            and state.drops < job.recipe.lr_drops
        ):
            state.drops += 1
            state.waited = 0
            yield {"say": f"validation stopped improving: the rate is divided ({state.drops} of {job.recipe.lr_drops})"}
        yield record
    else:
        better = True
        state.last = {"step": state.step, "top1": None, "top5": None, "loss": None}
    state.validation_due = False
    clock()
    yield from save(job, best=better)


def is_better(last: Record, best: Record | None) -> bool:
    """Whether a validation found more right answers, or as many and surer ones, than the best before it."""
    if best is None or last["top1"] != best["top1"]:
        return best is None or last["top1"] > best["top1"]
    return last["loss"] < best.get("loss", -math.inf)  # a best from before its loss was kept stays


def stopped(job: Job, where: str) -> Stopped:
    """The end that a signal asked for, its state saved."""
    return Stopped(f"{job.run.folder}: stopped {where}; {job.going_on}")


def save(job: Job, *, best: bool = False) -> Iterator[Record]:
    """Gives the state of this step to the store, which writes it beside the steps that follow; `best`: and names it so.

    NumbersError: a weight, or a value of the optimizer, is not finite, and nothing is written.
    """
    state, run = job.state, job.run
    weights, moments = job.model.state_dict(), checkpoint.optimizer_tensors(job.rule)
    for name, value in (*weights.items(), *((f"the optimizer's {name}", value) for name, value in moments.items())):
        if not all(math.isfinite(bound) for bound in torch.stack(value.aminmax()).tolist()):
            raise not_finite(job, f"{name} is not finite", step=state.step, lr=state.lr)
    yield from settled(job)
    if run.metrics.exists():
        # some disks say only here that they had no room
        yield from kept_beside(job, run.metrics, partial(files.sync, run.metrics))
        state.metrics_bytes = run.metrics.stat().st_size
    job.store.save(Checkpoint(weights, moments, asdict(state)), best=best)


def settled(job: Job) -> Iterator[Record]:
    """Says what became of the last save, where that was not said; the third failed one in a row is a WeightsError.

    A best that could not be saved is none: the one before it stands.
    """
    try:
        said = job.store.settle()
        if said is not None:
            job.saves_failed, job.best_saved = 0, job.state.best
        if said:
            yield {"say": said}
    except WeightsError as reason:
        job.saves_failed += 1
        job.state.best = job.best_saved
        if job.saves_failed == SAVES_FAILED:
            raise WeightsError(f"{reason}; {SAVES_FAILED} saves in a row have failed: the run ends") from None
        yield {"say": f"{reason}; the run goes on ({job.saves_failed} of {SAVES_FAILED} failed saves that end it)"}


def saved(job: Job) -> Iterator[Record]:
    """Waits until the last save stands; at the end of a run one that failed is a WeightsError."""
    yield from settled(job)
    state = job.state
    if job.saves_failed:
        last, best = state.last, job.val is None
        if not best and last is not None and is_better(last, state.best):
            state.best, best = dict(last), True
        yield from save_now(job, best=best)


def save_now(job: Job, *, best: bool = False) -> Iterator[Record]:
    """Saves the state of this step, and waits until it stands; a WeightsError where it cannot."""
    yield from save(job, best=best)
    if said := job.store.settle():
        yield {"say": said}
    job.saves_failed, job.best_saved = 0, job.state.best


def last_word(job: Job) -> Iterator[Record]:
    """Says what became of the save under way where something else ends the run."""
    try:
        yield from settled(job)
    except WeightsError as reason:
        yield {"say": str(reason)}


def save_before_end(job: Job, *, since: int = -1) -> Iterator[Record]:
    """Saves the state of this step where it is later than `since`, for something else ends the run: a save that fails
    is said, and no more.
    """
    try:
        if job.state.step > since:
            yield from save_now(job)
    except WeightsError as reason:
        yield {"say": str(reason)}


def kept_beside(job: Job, path: Path, write: Callable[[], None]) -> Iterator[Record]:
    """Writes a file of the run that no later step needs; where that fails, it is said and the run goes on."""
    try:
        write()
    except OSError as reason:
        yield {"say": f"{path}: could not be written ({reason.strerror}); the run goes on"}
    except DataError as reason:  # what stood there is damaged
        yield {"say": f"{reason}; the run goes on"}


def resume(job: Job, *, exact: Path | None = None) -> list[str] | None:
    """Puts the newest whole checkpoint's state into `job` and cuts the log back to it; None where there is none.

    Returned is what a person should know: of checkpoints that are broken and were set aside. `exact`: just this
    checkpoint, and later ones are set aside. WeightsError: all are broken, or `exact` is.
    """
    path, broken = (exact, ()) if exact else job.store.newest()
    if exact:
        checkpoint.verify(exact)
    if path is None:
        if broken:
            raise WeightsError("; ".join(str(reason) for reason in broken))
        return None
    state = load_into(job, path)
    notes = [f"{reason}; the one before it is taken" for reason in broken]
    for later in job.store.later(path):
        aside = job.store.set_aside(later, "later" if exact else "broken")
        notes.append(f"{later.name}: set aside as {aside}")
    job.state = state
    best = job.store.checkpoints / checkpoint.name(state.best["step"]) if state.best else path
    if not best.exists():  # someone has taken it away
        state.best, best = state.last, path
    job.best_saved = state.best
    job.store.point("last", path)
    job.store.point("best", best)
    return notes + cut_log(job.run, state.metrics_bytes)


def cut_log(run: Run, size: int) -> list[str]:
    """Cuts the log to its first `size` bytes, as they were at a save; of one that has fewer the whole lines stay, and
    that is said.
    """
    if not run.metrics.exists():
        return [f"{run.metrics}: missing; it begins anew"] if size else []
    with run.metrics.open("r+b") as stream:
        there = stream.seek(0, 2)  # its end
        if there >= size:
            stream.truncate(size)
            return []
        stream.seek(0)
        stream.truncate(sum(len(line) for line in stream if line.endswith(b"\n")))
    return [f"{run.metrics}: has {there} of the {size} bytes it had at the save; what it lacks is lost"]


def load_into(job: Job, path: Path) -> State:
    """The weights and the optimizer of a verified checkpoint into `job`; its plain values are returned."""
    kept = checkpoint.read(path)
    values = {name: value for name, value in kept.state.items() if name not in ("schema", "alexnet")}
    if kept.state["schema"] == 1:
        values.setdefault("rollbacks", 0)
    state = State.of(values, str(path / "state.json"))
    if checkpoint.name(state.step, judged=not state.validation_due) != path.name:
        raise WeightsError(f"{path / 'state.json'}: is of step {state.step}, which its folder's name is not")
    fit(job.model, kept.model, str(path))
    # before the momentum is put back: it belongs to this rate already
    set_rate(job.rule, state.lr, velocity_holds_rate=False)
    checkpoint.load_optimizer(job.rule, kept.optimizer)
    return state


def roll_back(job: Job) -> str | None:
    """Goes back to the newest whole checkpoint, from there on with half the rate; None: that was done often enough."""
    done = job.state.rollbacks
    try:
        if done == ROLLBACKS or resume(job) is None:
            return None
    except OSError as reason:
        raise WeightsError(f"{job.run.folder}: cannot go back to its last state ({reason.strerror})") from None
    job.state.rollbacks = done + 1
    return f"back to step {job.state.step}, and from there on with half the rate ({done + 1} of {ROLLBACKS} times)"


def layers(job: Job, images: torch.Tensor, before: dict[str, torch.Tensor]) -> Record:
    """Norms a layer: of the weights' gradients, of activations (root mean square), and update / weight."""
    gradients: dict[str, float] = {}
    updates: dict[str, float] = {}
    for name, parameter in job.model.named_parameters():
        gradient = job.rule.gradient(parameter) if isinstance(job.rule, SGD) else parameter.grad
        if name.endswith(".weight") and gradient is not None:
            layer = name.removesuffix(".weight")
            gradients[layer] = float(gradient.norm())
            change = (parameter.detach() - before[name]).norm()
            updates[layer] = float(change / before[name].norm().clamp_min(1e-12))
    job.model.eval()
    with torch.no_grad(), torch.autocast(job.device.type, torch.bfloat16, enabled=job.precision == "bf16"):
        traced = job.model.trace(images[:LOOK_AT])
    job.model.train()
    activations = {name: float(value.float().square().mean().sqrt()) for name, value in traced.items()}
    found = {"gradient_norm": gradients, "activation_rms": activations, "update_ratio": updates}
    for what, values in found.items():
        for layer, value in values.items():
            if not math.isfinite(value):
                found_at = f"{what} of {layer} is {value}"
                raise not_finite(job, found_at, step=job.state.step, lr=job.state.lr)
    return found


def not_finite(job: Job, what: str, *, step: int, lr: float) -> NumbersError:
    """The error of a number that is none, which names the pictures of its step; what is saved stays as it is."""
    job.store.wait()
    kept = next(reversed(checkpoint.found(job.store.checkpoints)), None)
    advice = f"{kept} is as it was; another --run with" if kept else "nothing was saved; try"
    text = f"step {step}: {what} at lr {lr:g}"
    if job.rows is not None:
        names = [shown(str(job.train.path(int(row)))) for row in job.rows]
        text += f"; its batch of {len(names)} pictures ({', '.join(names[:NAMED])}{', …' if names[NAMED:] else ''}"
        path = job.run.folder / NOT_FINITE
        try:
            files.write_json(path, {"step": step, "lr": lr, "what": what, "pictures": names})
            text += f"; all in {path})"
        except OSError:  # a full disk is not what this is about
            text += ")"
    return NumbersError(f"{text}; {advice} a lower --lr")


def stuck(job: Job, record: Record) -> Iterator[Record]:
    """Says once, late or at the end, that a training record's loss has not left chance, with the likely causes."""
    state = job.state
    chance = math.log(job.model.classes)
    if job.recipe.loss != "softmax" or state.stuck_said or state.step < min(STUCK_AFTER, job.steps):
        return
    if 0.99 * chance < record["loss"] < 1.05 * chance:
        state.stuck_said = state.step >= STUCK_AFTER  # a short run that is made longer may hear it again
        yield {
            "say": f"step {state.step}: the loss is {record['loss']:.3f}, still at chance (ln {job.model.classes} = "
            f"{chance:.3f}). Likely: too few steps, labels that do not go with the pictures, a rate too low or too "
            f"high (--lr {job.recipe.lr:g}), or initial values of std 0.01 that need more steps on a small set "
            f"(recipe fast uses He's)."
        }


def keep_kernels(job: Job) -> None:
    """Adds conv1's kernels (O, I, k, k) after this epoch to kernels.npy: float32 (epochs, O, I, k, k).

    Of an epoch after which the file could not be written it holds NaN.
    """
    path, epoch = job.run.kernels, job.state.step // job.epoch_steps
    now = job.model.get_parameter("conv1.weight").detach().float().cpu().contiguous().numpy()
    if not np.isfinite(now).all():
        raise not_finite(job, "a weight of conv1 is not finite", step=job.state.step, lr=job.state.lr)
    files.append_array(path, now, at=epoch - 1)
