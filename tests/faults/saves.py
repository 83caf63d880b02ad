"""A save that ends at any one of its file operations, and a checkpoint that is damaged anywhere."""

import errno
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from alexnet.errors import WeightsError
from alexnet.weights import checkpoint
from alexnet.weights.checkpoint import Checkpoint, Store
from tests.faults import Row

OPERATIONS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")


class Crash(BaseException):
    """The end of the process, for a trial that wants to live on: from there on every operation raises it."""


def state_of(step: int, *, best: int | None = None) -> Checkpoint:
    """A small state whose tensors say which step they are of."""
    draw = torch.Generator().manual_seed(step)
    tensors = {"w": torch.randn(16, 9, generator=draw), "b": torch.randn(5, generator=draw)}
    return Checkpoint(
        tensors,
        {"0.0.momentum_buffer": torch.randn(16, 9, generator=draw)},
        {"step": step, "best": {"step": best or step}},
    )


def same(path: Path) -> bool:
    """Whether the checkpoint in `path` is that of the step it is named after, to the last bit."""
    kept, meant = checkpoint.load(path), state_of(int(path.name[5:13]))
    return all(
        torch.equal(value, found[name])
        for wanted, found in ((meant.model, kept.model), (meant.optimizer, kept.optimizer))
        for name, value in wanted.items()
    )


def save(run: Path, step: int, *, best: int | None = None) -> None:
    """Saves a step, the best or with an older one as its best; raises what went wrong."""
    with closing(Store(run)) as store:
        store.save(state_of(step, best=best), best=best is None)
        store.settle()


@contextmanager
def ending(at: int, end: Callable[[str, Any], Any]) -> Iterator[list[str]]:
    """Within the block the operations of `os` that change files are counted, and from number `at` on `end` is called
    in place of each; yielded are the names of those done.
    """
    done: list[str] = []

    def counted(name: str, ordinary: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*given: Any, **more: Any) -> Any:
            if name == "open" and not given[1] & (os.O_WRONLY | os.O_RDWR):
                return ordinary(*given, **more)  # reads nothing into being
            done.append(name)
            return end(name, given) if len(done) > at else ordinary(*given, **more)

        return operation

    ordinary = {name: getattr(os, name) for name in OPERATIONS}
    for name, function in ordinary.items():
        setattr(os, name, counted(name, function))
    try:
        yield done
    finally:
        for name, function in ordinary.items():
            setattr(os, name, function)


def crash(name: str, given: Any) -> Any:
    """The process is gone; half of what was to be written may be there."""
    raise Crash(name)


def die(name: str, given: Any) -> Any:
    """As `crash`, and the process is gone indeed."""
    os.kill(os.getpid(), signal.SIGKILL)


def full(name: str, given: Any) -> Any:
    """There is no room."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Half:
    """Half of a piece is written, and then the process is gone."""

    def __init__(self) -> None:
        self.write = os.write

    def __call__(self, name: str, given: Any) -> Any:
        if name == "write":
            self.write(given[0], bytes(given[1])[: len(given[1]) // 2])
        os.kill(os.getpid(), signal.SIGKILL)


def began(run: Path) -> None:
    """A run with three saves behind it, of which the first is the best: the fourth prunes."""
    run.mkdir()
    save(run, 10)
    for step in (20, 30):
        save(run, step, best=10)


def operations(seed: int = 0) -> list[Row]:
    """Each operation of a save, by a kill before it, a kill in its middle and an error of the disk."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        began(Path(place) / "run")
        with ending(1 << 30, die) as names:
            save(Path(place) / "run", 40)
        count = len(names)
    for what, end in (("killed before", die), ("killed within", Half()), ("no room at", full)):
        wrong = []
        for at in range(count):
            with tempfile.TemporaryDirectory() as place:
                run = Path(place) / "run"
                began(run)
                died = in_a_child(run, at, end)
                if died != (end is not full):
                    wrong.append(f"{at} ({names[at]}): the save ended otherwise than meant")
                wrong += [f"{at} ({names[at]}): {fault}" for fault in faults_after(run)]
        asked = "the newest whole checkpoint loads; the next save works"
        rows.append(Row(f"a save, {what} each operation", count, asked, "; ".join(wrong) or "always", not wrong))
    return rows


def in_a_child(run: Path, at: int, end: Callable[[str, Any], Any]) -> bool:
    """Saves step 40 in a child that ends at an operation; whether a signal ended it."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        with ending(at, end):
            try:
                save(run, 40)
            except WeightsError:
                os._exit(4)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def faults_after(run: Path) -> list[str]:
    """What is wrong with a run whose save of step 40 ended badly, and with its next save."""
    found = []
    with closing(Store(run)) as store:
        path, broken = store.newest()
    if path is None or broken:
        found.append(f"the newest is {path}, broken are {broken}")
    elif path.name not in ("step-00000030", "step-00000040") or not same(path):
        found.append(f"{path} is not what was saved")
    for which in checkpoint.POINTERS:
        named = checkpoint.pointer(run, which)
        if named is None or not same(named):
            found.append(f"`{which}` names {named}")
    save(run, 50)
    left = sorted(path.name for path in (run / "checkpoints").iterdir())
    if (
        left[-1] != "step-00000050"
        or any(name.startswith(".") for name in left)
        or not same(run / "checkpoints" / left[-1])
    ):
        found.append(f"after the next save there are {left}")
    return found


def damage(truncations: int, flips: int, seed: int = 0) -> list[Row]:
    """A checkpoint cut or with one bit turned: seen each time, and the one before it taken."""
    draw, rows = random.Random(seed), []
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        run.mkdir()
        save(run, 10)
        save(run, 20)
        newest = run / "checkpoints" / "step-00000020"
        whole = Path(place) / "whole"
        shutil.copytree(newest, whole)
        parts = sorted(whole.iterdir())
        sizes = [path.stat().st_size for path in parts]
        for what, times in (("cut short", truncations), ("one bit turned", flips)):
            seen = taken = 0
            for _ in range(times):
                part = draw.choices(parts, sizes)[0] if draw.random() < 0.5 else draw.choice(parts)
                content = bytearray(part.read_bytes())
                if what == "cut short":
                    content = content[: draw.randrange(len(content))]
                else:
                    bit = draw.randrange(8 * len(content))
                    content[bit // 8] ^= 1 << bit % 8
                (newest / part.name).write_bytes(content)
                with closing(Store(run)) as store:
                    path, broken = store.newest()
                seen += bool(broken)
                taken += path is not None and path.name == "step-00000010" and same(path)
                shutil.copy(part, newest / part.name)
            held = seen == taken == times
            rows.append(Row(f"a checkpoint, {what}", times, "all seen, the one before taken", f"{seen}, {taken}", held))
        if not same(newest):
            rows.append(Row("the checkpoint put together again", 1, "whole", "damaged", False))
    return rows
