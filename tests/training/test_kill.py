"""Runs killed outright and started again by the same command end as the unbroken one, bit for bit."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pictures import write_folder

STEPS, KILLS = 120, 5


def command(folder: Path, run: Path, precision: str, workers: int) -> list[str]:
    return [
        sys.executable, "-m", "alexnet", "train", str(folder), "--variant", "tiny", "--recipe", "fast",
        "--run", str(run), "--batch-size", "16", "--max-steps", str(STEPS), "--save-every", "7",
        "--precision", precision, "--workers", str(workers), "--device", "cpu",
    ]  # fmt: skip


def digest(run: Path) -> dict[str, str]:
    last = run / "checkpoints" / (run / "last").read_text().strip()
    assert last.name == f"step-{STEPS:08d}"
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (last / "model.safetensors", last / "optimizer.safetensors", run / "kernels.npy")
    }


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "ALEXNET_CACHE": str(cache), "OMP_NUM_THREADS": "2"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures"), classes=3, each=40)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, pictures):
    """precision -> the digest of a run that nothing disturbed."""
    made: dict[str, dict[str, str]] = {}
    # one cache for all: the kernels are measured once, and the run that is killed computes as the other did

    def of(precision: str) -> dict[str, str]:
        if precision not in made:
            folder = tmp_path_factory.mktemp(f"whole-{precision}")
            done = subprocess.run(
                command(pictures, folder / "run", precision, 2),
                env=environment(tmp_path_factory.getbasetemp() / "cache"), capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            made[precision] = digest(folder / "run")
        return made[precision]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_and_run_again_equals_unbroken(tmp_path, tmp_path_factory, pictures, unbroken, precision, workers):
    random.seed(f"{precision} {workers}")
    run, begun, killed = tmp_path / "run", 0, 0
    # a line of metrics.jsonl is 10 steps: each kill waits for some more of them, then a moment
    for kill in range(KILLS):
        child = subprocess.Popen(
            command(pictures, run, precision, workers), env=environment(tmp_path_factory.getbasetemp() / "cache"),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        target = (kill + 1) * STEPS // (KILLS + 1)
        metrics = run / "metrics.jsonl"
        end = time.monotonic() + 300
        while child.poll() is None and time.monotonic() < end:
            last = metrics.read_text().rpartition('{"step": ')[2].partition(",")[0] if metrics.exists() else ""
            begun = int(last) if last.isdigit() else 0
            if begun >= target:
                time.sleep(random.uniform(0, 0.3))
                break
            time.sleep(0.01)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            killed += 1
        child.wait()
    assert killed == KILLS, f"only {killed} of {KILLS} kills hit a living run"
    done = subprocess.run(
        command(pictures, run, precision, workers), env=environment(tmp_path_factory.getbasetemp() / "cache"), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert digest(run) == unbroken(precision)
