"""A long run's memory, threads and open files; and how long a save of the whole network holds up the steps."""

import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from tests.faults import Row
from tests.faults.kills import begin, some_pictures

SETTLING = 1 / 3  # of the time, in which memory may still grow
MB_A_MINUTE = 1.0
SECONDS = 0.3


def looked_at(pid: int) -> tuple[float, int, int]:
    """Resident megabytes, threads and descriptors of a process."""
    said = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(said["VmRSS"].split()[0]) / 1024, int(said["Threads"]), len(list(Path(f"/proc/{pid}/fd").iterdir()))


def soak(minutes: float, source: Path, *, most: float = MB_A_MINUTE, seed: int = 0) -> Iterable[Row]:
    """`tiny` on real pictures for so long, saving and validating all the while; `most` megabytes a minute."""
    import alexnet.training.start  # noqa: F401  # before the fork

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["ALEXNET_CACHE"] = str(place / "cache")
        data = some_pictures(source, place / "pictures")
        words = ["train", str(data), "--variant", "tiny", "--run", str(place / "run"), "--batch-size", "16", "--epochs",
                 "1000000", "--save-every", "20", "--device", "cpu", "--kernels", "plain", "--lr", "0.001"]  # fmt: skip
        child = begin(words, place / "output")
        assert child.pid is not None
        begun, seen = time.monotonic(), []
        while (now := time.monotonic() - begun) < 60 * minutes and child.is_alive():
            if now > 60 * minutes * SETTLING:
                seen.append((now / 60, *looked_at(child.pid)))
            time.sleep(min(5.0, 60 * minutes / 60))
        alive = child.is_alive()
        child.terminate()
        child.join()
        times, memory, threads, files = zip(*seen, strict=True)
        slope = statistics.linear_regression(times, memory).slope
        # a save and a validation have threads and files of their own while they last: what stays is the least of many
        half = len(seen) // 2
        stay = all(min(count[half:]) <= min(count[:half]) for count in (threads, files))
        asked = f"memory rising less than {most:.0f} MB a minute, threads and files constant"
        said = (f"{slope:+.3f} MB a minute ({memory[0]:.0f} to {memory[-1]:.0f} MB), threads {min(threads)} to "
                f"{max(threads)}, files {min(files)} to {max(files)}, exit {child.exitcode}")  # fmt: skip
        yield Row(f"{minutes:g} minutes of training", len(seen), asked, said,
                  alive and slope < most and stay and child.exitcode == 75)  # fmt: skip


def stall(times: int, variant: str = "paper", seed: int = 0) -> Iterable[Row]:
    """How long `save` holds the caller up, in a fresh process, with the network's momentum."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        took, size = pool.apply(_stalls, (times, variant))
    worst, median = max(took), statistics.median(took)
    said = f"median {median:.3f} s, worst {worst:.3f} s, of {size / 1e6:.0f} MB"
    yield Row("a save of the whole network returns", times, f"within {SECONDS} s, the worst too", said,
              math.isfinite(worst) and worst <= SECONDS)  # fmt: skip


def _stalls(times: int, variant: str) -> tuple[list[float], int]:
    import torch

    from alexnet.network.build import build
    from alexnet.weights.checkpoint import Checkpoint, Store, optimizer_tensors, size

    model = build(variant, classes=1000, seed=0).to(memory_format=torch.channels_last)
    rule = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    rule.step()
    took = []
    with tempfile.TemporaryDirectory() as folder, closing(Store(Path(folder))) as store:
        begun = time.monotonic()
        store.make_room(Checkpoint(model.state_dict(), optimizer_tensors(rule), {}))
        took.append(time.monotonic() - begun)
        time.sleep(2)  # the steps before the first save
        for step in range(times):
            checkpoint = Checkpoint(model.state_dict(), optimizer_tensors(rule), {"step": step})
            begun = time.monotonic()
            store.save(checkpoint)
            took.append(time.monotonic() - begun)
            store.settle()
    return took, size(checkpoint)
