"""What a run meets and outlives: numbers that are none, settings that changed, disks that are full, memory that ends."""

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet import files
from alexnet.errors import AlexNetError, NumbersError, UsageError, WeightsError
from alexnet.network.kernels import PLAIN
from alexnet.training import loop, start
from alexnet.training.journal import Journal
from alexnet.weights.run import Run
from tests.pictures import write_folder
from tests.training.test_train import asked, digest, lines, quiet

EVERY = {"set": ("validate_epochs=1",)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures"), classes=3, each=20)


def once_not_a_number(monkeypatch, at: int) -> None:
    """The loss of one step is NaN, the first time that this step is done."""
    ordinary, left = loop.step, [at]

    def step(job, *given, number, lr):
        loss, correct = ordinary(job, *given, number=number, lr=lr)
        if number in left:
            left.remove(number)
            return loss * math.nan, correct
        return loss, correct

    monkeypatch.setattr(loop, "step", step)


def test_a_loss_that_is_none_names_the_step_the_rate_and_the_pictures(pictures, tmp_path, monkeypatch):
    run = tmp_path / "run"
    once_not_a_number(monkeypatch, 5)
    with pytest.raises(NumbersError) as caught:
        start.train(asked(pictures, run, **EVERY), quiet())
    said = json.loads((run / "not_finite.json").read_text())
    job, _, _ = start.prepare(asked(pictures, run, **EVERY), quiet())
    batch = next(loop.order(job, 5, 6))
    assert said["pictures"] == [str(job.train.path(int(row))) for row in batch.rows] and said["step"] == 6
    message = str(caught.value)
    assert message.startswith(f"step 6: the loss is nan at lr {said['lr']:g}, in a batch of 12 pictures (")
    assert all(name in message for name in said["pictures"][:3]) and said["pictures"][3] not in message
    assert "step-00000004 is as it was" in message and str(run / "not_finite.json") in message


def test_rollback_goes_on_from_the_last_good_state_with_half_the_rate(pictures, tmp_path, monkeypatch):
    run, console = tmp_path / "run", quiet()
    once_not_a_number(monkeypatch, 6)
    result = start.train(asked(pictures, run, on_nan="rollback", **EVERY), console)
    assert (
        result["stopped"] == "done"
        and "back to step 4, and from there on with half the rate (1 of 3 times)" in console.file.getvalue()
    )
    monkeypatch.undo()
    start.train(asked(pictures, tmp_path / "whole", **EVERY), quiet())
    for ours, theirs in zip(lines(run), lines(tmp_path / "whole"), strict=True):
        if ours["split"] == "train":
            assert ours["lr"] == pytest.approx(theirs["lr"] * (1 if ours["step"] <= 4 else 0.5))
    state = json.loads((run / "checkpoints" / (run / "last").read_text().strip() / "state.json").read_text())
    assert state["rollbacks"] == 1


def test_rollback_tries_three_times_and_from_the_first_step_on(pictures, tmp_path, monkeypatch):
    run, console = tmp_path / "run", quiet()
    with pytest.raises(NumbersError, match="step 1: "):
        start.train(asked(pictures, run, lr=1e20, on_nan="rollback"), console)
    assert [f"back to step 0, and from there on with half the rate ({n} of 3" in console.file.getvalue() for n in (1, 2, 3, 4)] == [
        True, True, True, False,
    ]  # fmt: skip
    kept = load_weights(run)
    assert all(torch.isfinite(value).all() for value in kept.values())


def load_weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "checkpoints" / (run / "last").read_text().strip() / "model.safetensors")


def test_weights_that_are_none_are_not_saved(pictures, tmp_path, monkeypatch):
    """NaN comes into a weight that the loss does not feel: the save finds it."""
    run, ordinary = tmp_path / "run", loop.step

    def step(job, *given, number, lr):
        made = ordinary(job, *given, number=number, lr=lr)
        if number == 6:
            job.model.get_parameter("fc8.bias").data[0] = math.inf
        return made

    monkeypatch.setattr(loop, "step", step)
    monkeypatch.setattr(loop, "STUCK_AFTER", math.inf)
    with pytest.raises(NumbersError, match=r"fc8\.bias is not finite|the loss is"):
        start.train(asked(pictures, run, save_every=3, **EVERY), quiet())
    assert torch.isfinite(load_weights(run)["fc8.bias"]).all()


def test_a_changed_setting_is_allowed_by_name_and_written_down(pictures, tmp_path):
    run, console = tmp_path / "run", quiet()
    start.train(asked(pictures, run, epochs=1), quiet())
    changed = asked(pictures, run, epochs=2, lr=0.001, seed=4)
    with pytest.raises(UsageError, match=r"--allow-change lr,seed would go on") as caught:
        start.train(changed, quiet())
    assert caught.value.code == 2
    with pytest.raises(UsageError, match=r"\n  seed  0 there, 4 \(--seed\) asked$"):
        start.train(replace(changed, allow_change="lr"), quiet())
    start.train(replace(changed, allow_change="lr,seed"), console)
    assert "with other lr, seed than it was begun with: no longer bit for bit" in console.file.getvalue()
    (kept,) = json.loads((run / "changes.json").read_text())
    assert kept["step"] == 4 and [change["name"] for change in kept["changes"]] == ["lr", "seed"]
    assert json.loads((run / "recipe.json").read_text())["lr"]["value"] == 0.001
    later = quiet()
    start.train(replace(changed, epochs=3), later)  # now it is the run's own
    assert "no longer" not in later.file.getvalue()


def test_what_no_run_can_change(pictures, tmp_path):
    run = tmp_path / "run"
    start.train(asked(pictures, run, epochs=1), quiet())
    for other in ({"variant": "half"}, {"set": ("optimizer=sgd-2012",)}):
        with pytest.raises(UsageError, match="no run can change these"):
            start.train(asked(pictures, run, epochs=2, allow_change="variant,optimizer,dropout", **other), quiet())
    more = write_folder(tmp_path / "more", classes=4, each=20)
    with pytest.raises((UsageError, AlexNetError)) as caught:
        start.train(asked(more, run, epochs=2, allow_change="classes,data"), quiet())
    assert caught.value.code in (2, 3)


def test_other_pictures_are_allowed_by_name(pictures, tmp_path):
    run = tmp_path / "run"
    start.train(asked(pictures, run, epochs=1), quiet())
    other = write_folder(tmp_path / "other", classes=3, each=20, seed=9)  # the same names
    with pytest.raises(UsageError, match=r"--allow-change data would"):
        start.train(asked(other, run, epochs=2), quiet())
    start.train(asked(other, run, epochs=2, allow_change="data"), quiet())
    assert json.loads((run / "data.json").read_text())["source"] == str(other)


def test_another_machine_is_said_and_allowed_by_name(pictures, tmp_path):
    run, console = tmp_path / "run", quiet()
    start.train(asked(pictures, run, epochs=1), quiet())
    path = run / "environment.json"
    there = json.loads(path.read_text())
    files.write_json(path, {**there, "torch": "1.0.0", "processor": "another"})
    with pytest.raises(UsageError) as caught:
        start.train(asked(pictures, run, epochs=2), quiet())
    text = str(caught.value)
    assert "\n  machine  processor another there, processor " in text and "torch 1.0.0 there" in text
    start.train(asked(pictures, run, epochs=2, allow_change="machine"), console)
    assert "with other machine than" in console.file.getvalue()
    assert json.loads(path.read_text())["torch"] == there["torch"]


def test_kernels_that_cannot_be_had_are_chosen_anew_where_allowed(pictures, tmp_path, monkeypatch):
    run = tmp_path / "run"
    start.train(asked(pictures, run, epochs=1), quiet())
    path = run / "environment.json"
    files.write_json(path, {**json.loads(path.read_text()), "kernels": {**PLAIN.to_json(), "lrn": "triton"}})
    with pytest.raises(UsageError, match=r"\n  kernels  "):
        start.train(asked(pictures, run, epochs=2), quiet())
    start.train(asked(pictures, run, epochs=2, allow_change="kernels"), quiet())
    assert json.loads(path.read_text())["kernels"] == PLAIN.to_json()


def test_plain_kernels_are_taken_where_that_is_allowed(pictures, tmp_path):
    run = tmp_path / "run"
    start.train(asked(pictures, run, epochs=1), quiet())
    path = run / "environment.json"
    files.write_json(path, {**json.loads(path.read_text()), "kernels": {**PLAIN.to_json(), "conv1": "blocks"}})
    with pytest.raises(UsageError, match=r"kernels  conv1 blocks there, direct \(--kernels plain\) asked"):
        start.train(asked(pictures, run, epochs=2), quiet())
    start.train(asked(pictures, run, epochs=2, allow_change="kernels"), quiet())
    assert json.loads(path.read_text())["kernels"] == PLAIN.to_json()
    start.train(asked(pictures, run, epochs=3), quiet())  # it is the run's own now


def damaged(path: Path) -> Path:
    part = path / "model.safetensors"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    return part


def test_a_broken_newest_state_falls_back_and_ends_the_same(pictures, tmp_path):
    run, console = tmp_path / "run", quiet()
    start.train(asked(pictures, tmp_path / "whole", epochs=2, **EVERY), quiet())
    start.train(asked(pictures, run, epochs=2, **EVERY), quiet())
    part = damaged(run / "checkpoints" / "step-00000008")
    start.train(asked(pictures, run, epochs=2, **EVERY), console)
    said = console.file.getvalue()
    assert f"{part}: changed or damaged since it was written" in said and "goes on from step 4 of 8" in said
    assert digest(run) == digest(tmp_path / "whole") and lines(run) == lines(tmp_path / "whole")
    for path in (run / "checkpoints").glob("step-*"):
        damaged(path)
    with pytest.raises(WeightsError, match=r"step-00000008.*changed or damaged.*step-00000004.*changed or damaged"):
        start.train(asked(pictures, run, epochs=2, **EVERY), quiet())
    assert sorted(path.name for path in (run / "checkpoints").glob("step-*")) == ["step-00000004", "step-00000008"]


def test_resume_exact_takes_no_other(pictures, tmp_path):
    run, console = tmp_path / "run", quiet()
    start.train(asked(pictures, run, epochs=2, **EVERY), quiet())
    before = digest(run)
    older = run / "checkpoints" / "step-00000004"
    start.train(asked(pictures, run, epochs=2, resume=("exact", str(older)), **EVERY), console)
    said = console.file.getvalue()
    assert "goes on from step 4 of 8" in said and "step-00000008: set aside as" in said
    assert (run / "checkpoints" / "later-step-00000008").is_dir() and digest(run) == before
    part = damaged(run / "checkpoints" / "step-00000008")
    with pytest.raises(WeightsError, match="changed or damaged") as caught:
        start.train(asked(pictures, run, epochs=3, resume=("exact", str(run / "last")), **EVERY), quiet())
    assert caught.value.code == 4 and str(part) in str(caught.value) and part.exists()
    for wrong in (("exact", str(tmp_path)), ("newest", str(older))):
        with pytest.raises(UsageError, match="--resume"):
            start.train(asked(pictures, run, epochs=3, resume=wrong, **EVERY), quiet())
    with pytest.raises(UsageError, match="not a checkpoint of"):
        start.train(asked(pictures, tmp_path / "new", resume=("exact", str(older))), quiet())


def test_a_state_of_the_schema_before_is_read(pictures, tmp_path):
    run = tmp_path / "run"
    start.train(asked(pictures, tmp_path / "whole", epochs=2), quiet())
    start.train(asked(pictures, run, epochs=1), quiet())
    (path,) = (run / "checkpoints").iterdir()
    state = json.loads((path / "state.json").read_text())
    del state["rollbacks"], state["alexnet"]
    content = json.dumps({**state, "schema": 1}).encode()
    (path / "state.json").write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["state.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))
    result = start.train(asked(pictures, run, epochs=2), quiet())
    assert result["last"]["step"] == 8
    assert digest(run)["model.safetensors"] == digest(tmp_path / "whole")["model.safetensors"]


def test_more_are_kept_where_asked(pictures, tmp_path):
    run = tmp_path / "run"
    start.train(asked(pictures, run, epochs=1, save_every=1, keep=3), quiet())
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [f"step-0000000{n}" for n in (2, 3, 4)]
    with pytest.raises(UsageError, match="--keep 0: must be at least 1"):
        start.train(asked(pictures, tmp_path / "x", keep=0), quiet())


def test_a_full_disk_costs_no_line_of_the_log(tmp_path, monkeypatch):
    """The file takes a part of a line, then nothing, then all again."""
    run, console = Run(tmp_path), quiet()

    class Full:
        def __init__(self, file) -> None:
            self.file, self.room = file, [10, 0]

        def write(self, content):
            if self.room:
                some = self.room.pop(0)
                self.file.write(content[:some])
                if not some:
                    raise OSError(28, "No space left on device")
                return some
            return self.file.write(content)

        def __getattr__(self, name):
            return getattr(self.file, name)

    with Journal(run, step=0, steps=3, console=console) as journal:
        journal.metrics = Full(journal.metrics)
        for step in (1, 2, 3):
            journal.write({"step": step, "epoch": 0.0, "split": "layers"})
            text = run.metrics.read_text()
            assert text == "" or text.endswith("}\n")
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 2, 3]
    said = console.file.getvalue()
    assert said.count("metrics.jsonl: could not be written (No space left on device); kept until there is room") == 1


def test_epochs_whose_kernels_found_no_room_are_not_a_number(pictures, tmp_path, monkeypatch):
    ordinary, failed = files.append_array, []

    def full(path, array, *, at):
        if not failed:
            failed.append(path)
            raise OSError(28, "No space left on device", str(path))
        return ordinary(path, array, at=at)

    monkeypatch.setattr(files, "append_array", full)
    console = quiet()
    start.train(asked(pictures, tmp_path / "run", epochs=3), console)
    assert "kernels.npy: could not be written (No space left on device); the run goes on" in console.file.getvalue()
    kept = np.load(tmp_path / "run" / "kernels.npy", allow_pickle=False)
    assert len(kept) == 3 and np.isnan(kept[0]).all() and np.isfinite(kept[1:]).all()


LITTLE = """
import resource, sys
import alexnet.training.start
from alexnet.cli import main
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[1]), resource.RLIM_INFINITY))
main(sys.argv[2:])
"""


def test_memory_that_ends_says_what_to_lower(pictures, tmp_path):
    words = ["train", str(pictures), "--variant", "torchvision", "--run", str(tmp_path / "run"), "--batch-size", "512",
             "--max-steps", "2", "--kernels", "plain", "--workers", "1"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", LITTLE, str(3 << 29), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "alexnet: out of memory with batches of 512: --batch-size 256 takes less, and so does --accumulate 2, which computes "
        "the same; what was saved stands"
    )
