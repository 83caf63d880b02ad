"""What a run meets and outlives: numbers that are none, settings that changed, disks that are full, memory that ends."""

import json
import math
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet import files, stop
from alexnet.data.samples import Samples
from alexnet.errors import (
    AlexNetError,
    BadImage,
    DataError,
    NumbersError,
    Stopped,
    UsageError,
    WeightsError,
    out_of_memory,
)
from alexnet.network import kernels
from alexnet.network.kernels import PLAIN
from alexnet.training import loop, start
from alexnet.training.journal import Journal
from alexnet.weights.checkpoint import Store
from alexnet.weights.run import Run, open_run
from tests.checkpoints import forge
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
    assert message.startswith(f"step 6: the loss is nan at lr {said['lr']:g}; its batch of 12 pictures (")
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
    forge(path, {**state, "schema": 1})
    result = start.train(asked(pictures, run, epochs=2), quiet())
    assert result["last"]["step"] == 8
    assert digest(run)["model.safetensors"] == digest(tmp_path / "whole")["model.safetensors"]


FORGED = {"step": ["4", -1, True], "validation_due": [1], "best": [7, {"step": 4}, {"step": [], "top1": 0.5, "top5": 0.5},
          {"step": 4, "top1": "0.5", "top5": 0.5}], "lr": ["0.1", None, 10**400, math.nan], "seconds": [[1.0]],
          "rollbacks": [0.5], "drops": [{}]}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_no_value_of_another_kind_is_taken_for_a_state(name):
    good = asdict(loop.State())
    assert loop.State.of(good, "x") == loop.State()
    for value in FORGED[name]:
        with pytest.raises(WeightsError, match=f"^x: {name}: not what a run writes there$"):
            loop.State.of({**good, name: value}, "x")
    with pytest.raises(WeightsError, match="^x: its fields are not those"):
        loop.State.of({key: value for key, value in good.items() if key != name}, "x")


def test_a_forged_state_is_said_in_a_line(pictures, tmp_path, once):
    run = shutil.copytree(once, tmp_path / "run")
    path = run / "checkpoints" / "step-00000004"
    state = json.loads((path / "state.json").read_text())
    for wrong in ({**state, "step": 3}, {**state, "seen": "many"}, math.nan):  # what Python writes of that is no JSON
        forge(path, wrong)
        with pytest.raises(WeightsError) as caught:
            start.train(asked(pictures, run, epochs=2), quiet())
        assert caught.value.code == 4 and str(caught.value).startswith(f"{path / 'state.json'}: ")


@pytest.fixture(scope="module")
def once(pictures, tmp_path_factory) -> Path:
    """A run of one epoch, four steps."""
    run = tmp_path_factory.mktemp("once") / "run"
    start.train(asked(pictures, run, epochs=1), quiet())
    return run


def failing(monkeypatch, *steps: int, times: int = 1) -> None:
    """A disk that has no room for the checkpoints of these steps, so many times each."""
    ordinary, left = Store._write_new, dict.fromkeys(steps, times)

    def write_new(store, path, checkpoint):
        step = checkpoint.state["step"]
        if left.get(step, 0):
            left[step] -= 1
            raise OSError(28, "No space left on device")
        ordinary(store, path, checkpoint)

    monkeypatch.setattr(Store, "_write_new", write_new)


def judged(monkeypatch, *right: int) -> None:
    """Validations that find so many right, in turn."""
    ordinary, given = loop.score, iter(right)
    monkeypatch.setattr(loop, "score", lambda answers: replace(ordinary(answers), correct1=next(given)))


def state_of(path: Path) -> dict:
    return json.loads((path / "state.json").read_text())


def test_steps_wait_for_a_save_that_takes_long(pictures, tmp_path, monkeypatch):
    """Else a kill could cost two intervals: a save may take a quarter of one."""
    ordinary_step, ordinary_write, done, late = loop.step, Store._write_new, [0], []

    def step(*values, number, **more):
        done.append(number + 1)
        return ordinary_step(*values, number=number, **more)

    def write_new(store, path, checkpoint):
        saved, deadline = checkpoint.state["step"], time.monotonic() + 60
        while saved < 24 and done[-1] < saved + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)  # a third would be done in it
        late.append((saved, done[-1]))
        ordinary_write(store, path, checkpoint)

    monkeypatch.setattr(loop, "step", step)
    monkeypatch.setattr(Store, "_write_new", write_new)
    start.train(asked(pictures, tmp_path / "run", epochs=6, save_every=8, set=("validate_epochs=6",)), quiet())
    assert late == [(8, 10), (16, 18), (24, 24)]


def stopped_at(monkeypatch, pictures: Path, run: Path, step: int) -> None:
    """A run that a signal stopped at this step."""
    ordinary, seen = stop.requested, [0]
    real = loop.step

    def counted(*values, number, **more):
        seen[0] = number + 1
        return real(*values, number=number, **more)

    monkeypatch.setattr(loop, "step", counted)
    monkeypatch.setattr(stop, "requested", lambda: seen[0] >= step)
    with pytest.raises(Stopped):
        start.train(asked(pictures, run, epochs=4, **EVERY), quiet())
    monkeypatch.setattr(stop, "requested", ordinary)
    monkeypatch.setattr(loop, "step", real)


def test_a_terminal_that_is_gone_stops_a_run_with_its_state_saved(pictures, tmp_path):
    run, log = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    words = ["train", str(pictures), "--variant", "tiny", "--run", str(run), "--batch-size", "8", "--max-steps", "100000",
             "--kernels", "plain", "--set", "validate_epochs=100000"]  # fmt: skip
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
        os.execv(sys.executable, [sys.executable, "-m", "alexnet", *words])
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        os.read(terminal, 4096)  # lest it waits for someone to read
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 75
    assert (run / "last").exists()


@pytest.mark.parametrize("left", [0, 150, None])
def test_a_log_that_was_cut_short_is_said_and_stays_readable(pictures, tmp_path, monkeypatch, left):
    run, console = tmp_path / "run", quiet()
    stopped_at(monkeypatch, pictures, run, 9)
    path = run / "metrics.jsonl"
    size = path.stat().st_size
    if left is None:
        path.unlink()
    else:
        os.truncate(path, left)
    start.train(asked(pictures, run, epochs=4, **EVERY), console)
    says = "missing; it begins anew" if left is None else f"has {left} of the {size} bytes it had at the save"
    assert f"metrics.jsonl: {says}" in " ".join(console.file.getvalue().split())
    assert {line["step"] for line in lines(run)} >= {12, 16}


def test_epochs_that_were_cut_off_are_not_zeros(pictures, tmp_path, monkeypatch):
    run = tmp_path / "run"
    stopped_at(monkeypatch, pictures, run, 9)
    whole = np.load(run / "kernels.npy", allow_pickle=False)
    assert whole.shape[0] == 2
    os.truncate(run / "kernels.npy", (run / "kernels.npy").stat().st_size - 10)
    start.train(asked(pictures, run, epochs=4, **EVERY), quiet())
    kernels = np.load(run / "kernels.npy", allow_pickle=False)
    assert kernels.shape[0] == 4 and np.array_equal(kernels[0], whole[0])
    assert np.isnan(kernels[1]).all() and np.isfinite(kernels[2:]).all()


def test_a_change_that_is_no_setting_is_refused(pictures, tmp_path, monkeypatch):
    run = tmp_path / "run"
    stopped_at(monkeypatch, pictures, run, 5)
    with pytest.raises(UsageError, match=r"^--allow-change lrr: no such setting; did you mean lr\?$"):
        start.train(asked(pictures, run, epochs=4, allow_change="lr,lrr", **EVERY), quiet())
    start.train(asked(pictures, run, epochs=4, allow_change="lr, machine,data", **EVERY), quiet())


def test_a_best_that_is_damaged_points_at_the_last(pictures, tmp_path, monkeypatch):
    run = tmp_path / "run"
    judged(monkeypatch, 4, 9, 5, 3)
    start.train(asked(pictures, run, epochs=4, **EVERY), quiet())
    damaged = run / "checkpoints" / "step-00000008" / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"changed or damaged .*; {re.escape(str(run / 'last'))} is another$"):
        open_run(run)
    assert open_run(run / "last").model is not None


def test_a_best_that_could_not_be_saved_is_none(pictures, tmp_path, monkeypatch):
    run, console = tmp_path / "run", quiet()
    judged(monkeypatch, 4, 9, 5, 3)
    failing(monkeypatch, 8)
    result = start.train(asked(pictures, run, epochs=4, **EVERY), console)
    assert "step-00000008: could not be saved (No space left on device)" in console.file.getvalue()
    assert result["best"]["step"] == 12 and result["best"]["top1"] == 5 / 12
    assert (run / "best").read_text().strip() == "step-00000012" and (
        run / "last"
    ).read_text().strip() == "step-00000016"
    assert state_of(run / "checkpoints" / "step-00000016")["best"]["step"] == 12


def test_the_last_state_is_tried_again_and_is_the_best_if_it_was(pictures, tmp_path, monkeypatch):
    run = tmp_path / "run"
    judged(monkeypatch, 4, 9)
    failing(monkeypatch, 8)
    result = start.train(asked(pictures, run, epochs=2, **EVERY), quiet())
    assert result["best"]["step"] == 8 and (run / "best").read_text().strip() == "step-00000008"
    assert state_of(run / "checkpoints" / "step-00000008")["best"]["top1"] == 9 / 12


def test_a_failed_save_is_said_though_something_else_ends_the_run(pictures, tmp_path, monkeypatch):
    console = quiet()
    failing(monkeypatch, 5, times=2)
    once_not_a_number(monkeypatch, 5)
    with pytest.raises(NumbersError):
        start.train(asked(pictures, tmp_path / "run", save_every=5, set=("validate_epochs=9",)), console)
    assert "step-00000005: could not be saved (No space left on device)" in console.file.getvalue()


def test_a_save_that_cannot_remove_older_ones_stands(pictures, tmp_path, monkeypatch):
    console = quiet()

    def cannot(store):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Store, "_prune", cannot)
    start.train(asked(pictures, tmp_path / "run", **EVERY), console)
    said = console.file.getvalue()
    assert said.count("saved; older ones cannot be removed ([Errno 5] Input/output error)") == 3


def test_an_optimizer_that_is_no_number_is_not_saved(pictures, tmp_path, monkeypatch):
    run, ordinary = tmp_path / "run", loop.step

    def step(job, *given, number, lr):
        made = ordinary(job, *given, number=number, lr=lr)
        if number == 7:
            job.rule.state[job.model.get_parameter("fc8.bias")]["momentum_buffer"][0] = math.inf
        return made

    monkeypatch.setattr(loop, "step", step)
    with pytest.raises(
        NumbersError, match=r"step 8: the optimizer's .*momentum_buffer is not finite at lr .*12 pictures"
    ):
        start.train(asked(pictures, run, **EVERY), quiet())
    assert (run / "last").read_text().strip() == "step-00000004"


def test_a_state_that_cannot_be_read_is_passed_over(pictures, tmp_path, once, monkeypatch):
    run, ordinary = shutil.copytree(once, tmp_path / "run"), files.sha256
    start.train(asked(pictures, run, epochs=2), quiet())

    def worn(path, **more):
        if path.parent.name == "step-00000008":
            raise OSError(5, "Input/output error", str(path))
        return ordinary(path, **more)

    monkeypatch.setattr(files, "sha256", worn)
    found, broken = Store(run).newest()
    assert found == run / "checkpoints" / "step-00000004"
    assert [str(reason) for reason in broken] == [
        f"{run / 'checkpoints' / 'step-00000008' / 'model.safetensors'}: cannot be read (Input/output error)"
    ]


def test_what_ended_processes_left_is_swept_up(pictures, tmp_path, once):
    run = shutil.copytree(once, tmp_path / "run")
    (run / ".last.4711.tmp").write_text("step")
    (run / "predictions" / ".val.parquet.4711.tmp").write_text("PAR1")
    (run / ".warm-up-abc.tmp" / "checkpoints").mkdir(parents=True)
    start.train(asked(pictures, run, epochs=2), quiet())
    assert not [path for path in run.rglob(".*") if path.name.endswith(".tmp")]


def test_half_a_character_in_the_list_of_bad_pictures_stops_nothing(pictures, tmp_path, once):
    run = shutil.copytree(once, tmp_path / "run")
    (run / "bad_images.jsonl").write_bytes('{"path": "é"}\n{"path": "é'.encode()[:-1])
    assert start.train(asked(pictures, run, epochs=2), quiet())["last"]["step"] == 8


def test_pictures_that_are_all_gone_are_no_bad_images_to_skip(pictures, tmp_path, monkeypatch):
    """A disk that is taken away in the middle: a run that skips bad pictures does not go through its epochs without any."""
    data, run, console, read = shutil.copytree(pictures, tmp_path / "data"), tmp_path / "run", quiet(), Samples.read
    wanted = asked(data, run, bad_images="skip", in_memory="no", set=("validate_epochs=9",))
    gone = threading.Event()

    def reads(samples, row):
        if gone.is_set():
            raise BadImage(str(samples.path(row)), "Input/output error")
        return read(samples, row)

    ordinary = loop.step

    def step(job, *given, number, lr):
        if number == 5:
            gone.set()
        return ordinary(job, *given, number=number, lr=lr)

    monkeypatch.setattr(Samples, "read", reads)
    monkeypatch.setattr(loop, "step", step)
    with pytest.raises(DataError, match=r"Input/output error; so it is with the \d+ pictures before it") as caught:
        start.train(wanted, console)
    assert caught.value.code == 3 and str(data) in str(caught.value) and not isinstance(caught.value, BadImage)
    assert 6 <= int((run / "last").read_text().strip()[5:13]) < 12
    monkeypatch.undo()
    assert start.train(wanted, quiet())["last"]["step"] == 12


def test_a_batch_of_bad_pictures_among_good_ones_is_passed_over(pictures, tmp_path, monkeypatch):
    data, run = shutil.copytree(pictures, tmp_path / "data"), tmp_path / "run"
    wanted = asked(data, run, epochs=1, bad_images="skip", set=("scale=0.1", "colour_noise=0.0"))
    job, _, _ = start.prepare(replace(wanted, run=str(tmp_path / "x")), quiet())
    rows = list(loop.order(job, 0, 4))[2].rows
    for row in rows:
        job.train.path(int(row)).write_bytes(b"no picture")
    result = start.train(wanted, quiet())
    assert result["last"]["step"] == 4 and len((run / "bad_images.jsonl").read_text().splitlines()) == len(rows) == 12


def test_a_log_that_cannot_be_made_durable_is_said_and_the_run_goes_on(pictures, tmp_path, monkeypatch):
    """Some disks take what is written, and say only then that they had no room for it."""
    run, console, ordinary = tmp_path / "run", quiet(), files.sync

    def sync(path):
        if path.name == "metrics.jsonl":
            raise OSError(28, "No space left on device")
        ordinary(path)

    monkeypatch.setattr(files, "sync", sync)
    assert start.train(asked(pictures, run, **EVERY), console)["stopped"] == "done"
    said = "metrics.jsonl: could not be written (No space left on device); the run goes on"
    assert console.file.getvalue().count(said) == 3 and (run / "last").read_text() == "step-00000012\n"


def test_a_signal_is_heeded_while_a_source_is_opened(pictures, tmp_path, monkeypatch):
    """Of ImageNet's tar, that may take minutes from a disk."""
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(pictures, "set")
    names = sorted(path.relative_to(pictures) for path in pictures.rglob("*.png"))
    (tmp_path / "list.txt").write_text("".join(f"{pictures / name} {name.parent}\n" for name in names))
    monkeypatch.setattr(stop, "requested", lambda: True)
    for data in (pictures, tmp_path / "set.tar", tmp_path / "list.txt"):
        with pytest.raises(
            Stopped, match=r"^stopped while .*(class0|set\.tar|list\.txt) was (opened|looked through); "
        ) as caught:
            start.train(asked(data, tmp_path / "run"), quiet())
        assert caught.value.code == 75 and not (tmp_path / "run").exists()
    answers = iter([False] * 3)  # within the first folder
    monkeypatch.setattr(stop, "requested", lambda: next(answers, True))
    with pytest.raises(Stopped, match="^stopped while .*class0 was looked through; "):
        start.train(asked(pictures, tmp_path / "run"), quiet())


def test_a_signal_is_heeded_while_kernels_are_measured(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    ordinary = kernels._seconds

    def measured(*given):
        if not stop.requested():  # a second one ends the process
            signal.raise_signal(signal.SIGTERM)
        return ordinary(*given)

    monkeypatch.setattr(kernels, "_seconds", measured)
    wanted = asked(pictures, tmp_path / "run", kernels="auto", epochs=1)
    with pytest.raises(Stopped, match="stopped while kernels were measured") as caught:
        start.train(wanted, quiet())
    assert caught.value.code == 75 and not (tmp_path / "run" / "recipe.json").exists()
    monkeypatch.setattr(kernels, "_seconds", ordinary)
    assert start.train(wanted, quiet())["stopped"] == "done"


def test_a_signal_after_resume_exact_says_how_to_go_on(pictures, tmp_path, once, monkeypatch):
    run, step, done = shutil.copytree(once, tmp_path / "run"), loop.step, list[int]()

    def counted(*given, number, **more):
        done.append(number)
        return step(*given, number=number, **more)

    monkeypatch.setattr(loop, "step", counted)
    monkeypatch.setattr(stop, "requested", lambda: bool(done))  # not while the pictures are looked for
    with pytest.raises(Stopped, match="stopped at step 5 of 8; run it again, without --resume, to go on"):
        start.train(asked(pictures, run, epochs=2, resume=("exact", str(run / "last"))), quiet())
    done.clear()
    with pytest.raises(Stopped, match="stopped at step 6 of 8; run it again to go on"):
        start.train(asked(pictures, run, epochs=2), quiet())


def test_a_signal_is_heeded_while_a_picture_hangs(pictures, tmp_path, once, monkeypatch):
    run, read, go_on = shutil.copytree(once, tmp_path / "run"), Samples.read, threading.Event()
    begun: list[float] = []

    def hangs(samples, row):
        if not begun:
            begun.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)
            go_on.wait(60)
        return read(samples, row)

    monkeypatch.setattr(Samples, "read", hangs)
    with pytest.raises(Stopped, match="stopped at step 4 of 8; run it again to go on"):
        start.train(asked(pictures, run, epochs=2), quiet())
    passed = time.monotonic() - begun[0]
    go_on.set()
    assert passed < 30, "not the patience of 120 s"
    monkeypatch.undo()
    assert start.train(asked(pictures, run, epochs=2), quiet())["last"]["step"] == 8


def test_no_room_at_the_start_is_said_before_the_first_step(pictures, tmp_path, once, monkeypatch):
    run = shutil.copytree(once, tmp_path / "run")

    def full(path, pieces):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_new", full)
    with pytest.raises(UsageError, match=r"run: cannot be written \(No space left on device\)"):
        start.train(asked(pictures, run, epochs=2), quiet())
    monkeypatch.setattr(Run, "create", lambda run: None)
    with pytest.raises(UsageError, match=r"cannot be read or written \(No space left on device\)"):
        start.train(asked(pictures, run, epochs=2), quiet())


def test_lines_of_the_log_that_never_found_room_are_counted(tmp_path):
    run, console = Run(tmp_path), quiet()

    class Full:
        def __init__(self, file) -> None:
            self.file = file

        def write(self, content):
            raise OSError(28, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

    with Journal(run, step=0, steps=3, colour="RGB", console=console) as journal:
        journal.metrics = Full(journal.metrics)
        for step in (1, 2):
            journal.write({"step": step, "epoch": 0.0, "split": "layers"})
    assert "metrics.jsonl: 2 lines could not be written, and are lost" in console.file.getvalue()


def test_more_are_kept_where_asked(pictures, tmp_path):
    run = tmp_path / "run"
    start.train(asked(pictures, run, epochs=1, save_every=1, keep=3), quiet())
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [f"step-0000000{n}" for n in (2, 3, 4)]
    with pytest.raises(UsageError, match="--keep 0: must be at least 1"):
        start.train(asked(pictures, tmp_path / "x", keep=0), quiet())


def test_lines_of_the_log_that_wait_for_room_are_undone_with_their_steps(pictures, tmp_path, monkeypatch):
    """The disk is full from step 6 to the NaN of step 8, and has room again when the run goes back to step 4."""
    ordinary, taken, full = Journal.log, loop.step, []

    class Full:
        def __init__(self, file) -> None:
            self.file = file

        def write(self, content):
            if full == [5, 6]:
                raise OSError(28, "No space left on device")
            return self.file.write(content)

        def __getattr__(self, name):
            return getattr(self.file, name)

    def log(self, line):
        if not isinstance(self.metrics, Full):
            self.metrics = Full(self.metrics)
        ordinary(self, line)

    def step(job, *given, number, lr):
        loss, correct = taken(job, *given, number=number, lr=lr)
        if number in (5, 6, 7) and 7 not in full:
            full[:] = [5, 6] if number < 7 else [7]
        return (loss * math.nan if number == 7 and full == [7] and not job.state.rollbacks else loss), correct

    monkeypatch.setattr(loop, "step", step)
    monkeypatch.setattr(Journal, "log", log)
    monkeypatch.setattr(loop, "RECORD_EVERY", 1)
    run, console = tmp_path / "run", quiet()
    start.train(asked(pictures, run, on_nan="rollback", **EVERY), console)
    said = console.file.getvalue()
    assert "kept until there is room" in said and "back to step 4" in said
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


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

    with Journal(run, step=0, steps=3, colour="RGB", console=console) as journal:
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


@pytest.mark.parametrize(
    ("size", "parts", "said"),
    [(128, 1, "--batch-size 64 takes less, and so does --accumulate 2, which computes the same"),
     (10, 4, "--batch-size 5 takes less, and so does --accumulate 8, which computes the same"),
     (10, 8, "--batch-size 5 takes less"), (1, 1, "a smaller --variant takes less")],
)  # fmt: skip
def test_what_takes_less_memory_is_something_that_can_be_asked_for(size, parts, said):
    assert start._out_of_memory(size, parts) == f"out of memory with batches of {size}: {said}; what was saved stands"


LITTLE = """
import resource, sys
import alexnet.training.start
from alexnet.cli import main
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[1]), resource.RLIM_INFINITY))
main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("raised", "is_memory"),
    [(MemoryError(), True), (torch.OutOfMemoryError("CUDA out of memory."), True),
     (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), True),
     (RuntimeError("could not create a primitive"), True),
     (RuntimeError("could not create a primitive descriptor for a convolution forward propagation primitive"), False),
     (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False)],
)  # fmt: skip
def test_what_is_raised_where_memory_ends(raised, is_memory):
    assert out_of_memory(raised) == is_memory


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
