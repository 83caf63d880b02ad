"""Runs that are killed at random moments and started again by the same command."""

import hashlib
import json
import multiprocessing.context
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.faults import Row

STEPS, EVERY = 90, 6  # of a run, and steps a save
PICTURES = 24  # of each class


def some_pictures(source: Path, into: Path, *, each: int = PICTURES) -> Path:
    """Some real pictures of each class of a folder, copied."""
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        (into / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:each]:
            shutil.copy(path, into / folder.name)
    return into


def command(data: Path, run: Path, *more: str) -> list[str]:
    """What is typed to begin such a run, and again to go on."""
    return [
        "train", str(data), "--variant", "tiny", "--recipe", "fast", "--run", str(run), "--batch-size", "16",
        "--max-steps", str(STEPS), "--save-every", str(EVERY), "--device", "cpu",
        "--kernels", "plain", *more,
    ]  # fmt: skip


def begin(
    words: list[str], output: Path, *, before: Callable[[], None] = lambda: None
) -> multiprocessing.context.ForkProcess:
    """The command in a process of its own, forked from one that has only imported the program: a start costs little.

    `before` is called there first.
    """

    def child() -> None:
        os.setsid()
        target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(target, stream)
        from alexnet.cli import main
        from alexnet.training import loop

        loop.RECORD_EVERY = 1  # a line a step: what is lost is counted in steps
        before()
        main(words)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process


def digest(run: Path) -> dict[str, str]:
    """What must be equal at the end: weights, optimizer, conv1 by epoch, and what the log says of learning."""
    last = run / "checkpoints" / (run / "last").read_text().strip()
    made = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (last / "model.safetensors", last / "optimizer.safetensors", run / "kernels.npy")
    }
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in log:
        for name in [name for name in line if name.startswith(("seconds", "images_per"))]:
            del line[name]
    return {**made, "log": hashlib.sha256(json.dumps(log).encode()).hexdigest(), "step": last.name}


def unfinished(run: Path) -> bool:
    """Whether a save is under way, or was when its process ended: it stands under another name, or `last` does not
    name it yet.
    """
    folder = run / "checkpoints"
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    last = (run / "last").read_text().strip() if (run / "last").exists() else None
    newest = max((name for name in names if name.startswith("step-")), default=None)
    return any(name.startswith(".") for name in names) or newest != last


def steps_done(run: Path) -> int:
    """The last step that the log knows."""
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    steps = [json.loads(line)["step"] for line in lines if line.endswith(b"}")]
    return max(steps, default=0)


def saved_steps(run: Path) -> int:
    """The newest checkpoint's step."""
    names = [path.name for path in (run / "checkpoints").glob("step-*")]
    return max((int(name[5:13]) for name in names), default=0)


def one_run(words: list[str], place: Path, kills: int, seed: int) -> dict[str, int]:
    """A run killed so many times: how often within a save, the most steps lost, and starts that failed."""
    draw, run, output = random.Random(seed), place / "run", place / "output"
    within = lost = failed = killed = 0
    while killed < kills:
        child = begin(words, output)
        before, aimed = saved_steps(run), draw.random() < 0.7
        # it may get some saves further each time, but not to the end
        enough = min(before + draw.randrange(1, 2 * EVERY), STEPS - 2)
        deadline = time.monotonic() + 120
        while child.is_alive() and time.monotonic() < deadline:
            if (steps_done(run) >= enough or saved_steps(run) >= enough) and (not aimed or unfinished(run)):
                break
            time.sleep(0.0005)
        time.sleep(draw.uniform(0, 0.004 if aimed else 0.2))
        if not child.is_alive():
            child.join()
            if child.exitcode:
                failed += 1
                break
            killed = kills  # it came to its end; there is nothing left to kill
            break
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        killed += 1
        within += unfinished(run)
        lost = max(lost, steps_done(run) - saved_steps(run))
    child = begin(words, output)
    child.join()
    failed += child.exitcode != 0
    return {"within": within, "lost": lost, "failed": failed, "killed": killed}


def unbroken(place: Path, data: Path, *more: str) -> dict[str, str]:
    """The digest of a run that nothing disturbed; its cache is that of all that follow."""
    # once, for all that are forked; torch's compiler it imports itself when it makes an optimizer
    import torch._dynamo  # noqa: F401

    import alexnet.training.start  # noqa: F401

    os.environ["ALEXNET_CACHE"] = str(place / "cache")
    child = begin(command(data, place / "whole", *more), place / "output")
    child.join()
    if child.exitcode:
        raise RuntimeError((place / "output").read_text())
    return digest(place / "whole")


def kills(runs: int, each: int, source: Path, *more: str, seed: int = 0) -> Iterable[Row]:
    """`runs` runs on real pictures, killed `each` times; `more` options of the command."""
    from alexnet.training.loop import LATE

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = some_pictures(source, place / "pictures")
        whole = unbroken(place, data, *more)
        equal = 0
        total = dict.fromkeys(("within", "failed", "killed"), 0)
        lost = 0
        for number in range(runs):
            here = place / f"run-{number}"
            here.mkdir()
            seen = one_run(command(data, here / "run", *more), here, each, seed * 1000 + number)
            total = {name: total[name] + seen[name] for name in total}
            lost = max(lost, seen["lost"])
            equal += not seen["failed"] and digest(here / "run") == whole
            shutil.rmtree(here)
            print(f"kills: run {number + 1} of {runs}: {seen}", file=sys.stderr, flush=True)
        yield Row(
            "kill -9, the same command again", total["killed"],
            f"{runs} of {runs} runs equal the unbroken one, none helped", f"{equal} equal, {total['failed']} failed",
            equal == runs and not total["failed"],
        )  # fmt: skip
        yield Row("of these within a save", total["killed"], "half at least", f"{total['within']}",
                  2 * total["within"] >= total["killed"])  # fmt: skip
        yield Row("steps lost to a kill, at most", total["killed"],
                  f"an interval of {EVERY}, and a part of one in {LATE} while a save is written", f"{lost}",
                  lost <= EVERY + max(1, EVERY // LATE))  # fmt: skip
