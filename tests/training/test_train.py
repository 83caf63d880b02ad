import hashlib
import io
import itertools
import json
import math
import shutil
import signal
import subprocess
import threading
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from alexnet import stop
from alexnet.data import augment_cpu
from alexnet.data.augment import Augment
from alexnet.data.loader import Decoded, batches
from alexnet.data.pack import pack
from alexnet.data.sources import open_data
from alexnet.errors import BadImage, DataError, NumbersError, Stopped, UsageError
from alexnet.network import lrn_cpu
from alexnet.network.build import build
from alexnet.network.kernels import PLAIN
from alexnet.network.variants import variant
from alexnet.training import again, loop, optim_cpu, start
from alexnet.training.recipes import recipe
from alexnet.training.start import Asked
from alexnet.weights import checkpoint
from alexnet.weights.checkpoint import Store
from alexnet.weights.onnx import graph
from alexnet.weights.run import preprocess_of
from tests.checkpoints import put
from tests.pictures import write_folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures"), classes=3, each=24)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def asked(pictures: Path, run: Path, **options) -> Asked:
    base = Asked(
        data=str(pictures),
        run=str(run),
        variant="tiny",
        kernels="plain",
        batch_size=12,
        epochs=3,
        workers=2,
        precision="fp32",
    )
    return replace(base, **options)


def digest(run: Path) -> dict[str, str]:
    last = run / "checkpoints" / (run / "last").read_text().strip()
    paths = [last / "model.safetensors", last / "optimizer.safetensors", run / "kernels.npy"]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def lines(run: Path) -> list[dict]:
    timed = ("images_per_second", "seconds", "seconds_waiting", "seconds_read", "seconds_decode", "seconds_augment")
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in timed} for line in found]


def test_a_run_folder_holds_what_it_promises(pictures, tmp_path):
    run = tmp_path / "run"
    result = start.train(asked(pictures, run), quiet())
    assert result["stopped"] == "done" and result["last"]["step"] == 12
    for name in ("recipe", "classes", "data", "preprocess", "environment"):
        json.loads((run / f"{name}.json").read_text())
    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["batch_size"] == {"value": 12, "origin": "--batch-size"}
    assert recipe["momentum"]["origin"] == "recipe fast"
    assert np.load(run / "kernels.npy", allow_pickle=False).shape[0] == 3
    assert {line["split"] for line in lines(run)} == {"train", "val", "layers"}
    assert not list(run.rglob("*.pt")) and not list(run.rglob("*.pkl"))
    assert len(list((run / "checkpoints").iterdir())) <= 3


def test_two_identical_commands_give_identical_bytes(pictures, tmp_path):
    for name in "ab":
        start.train(asked(pictures, tmp_path / name), quiet())
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    other = start.train(asked(pictures, tmp_path / "c", seed=1), quiet())
    assert other["stopped"] == "done" and digest(tmp_path / "c") != digest(tmp_path / "a")


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_the_number_of_threads_changes_nothing(pictures, tmp_path, workers):
    start.train(asked(pictures, tmp_path / "a", workers=2, epochs=1), quiet())
    start.train(asked(pictures, tmp_path / "b", workers=workers, epochs=1), quiet())
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


@pytest.mark.parametrize(
    ("recipe", "update"),
    [("fast", "torch"), ("paper", "torch"), ("article", "torch"), ("torchvision", "torch"), ("fast", "numba")],
)
def test_stopped_and_resumed_equals_unbroken(pictures, tmp_path, monkeypatch, recipe, update):
    for each in (start, again):
        monkeypatch.setattr(each, "PLAIN", replace(PLAIN, update=update))
    wanted = {"recipe": recipe, "save_every": 3, "precision": "bf16" if update == "numba" else "fp32"}
    updated: list[torch.Tensor] = []
    own = optim_cpu.update
    monkeypatch.setattr(optim_cpu, "update", lambda w, *rest, **how: updated.append(w) or own(w, *rest, **how))
    start.train(asked(pictures, tmp_path / "whole", **wanted), quiet())
    ordinary = loop.step
    stops = iter([2, 5, 9])  # mid-epoch, at an edge's eve, in the last epoch
    at = next(stops)

    def stopping(job, *args, number, **kwargs):
        if number == at:
            signal.raise_signal(signal.SIGTERM)
        return ordinary(job, *args, number=number, **kwargs)

    monkeypatch.setattr(loop, "step", stopping)
    for following, workers in ((5, 0), (9, 4), (None, 1)):  # and at other numbers of decoding threads
        with pytest.raises(Stopped):
            start.train(asked(pictures, tmp_path / "broken", workers=workers, **wanted), quiet())
        at = following
    result = start.train(asked(pictures, tmp_path / "broken", **wanted), quiet())
    assert result["stopped"] == "done"
    assert digest(tmp_path / "whole") == digest(tmp_path / "broken")
    assert lines(tmp_path / "whole") == lines(tmp_path / "broken")
    assert bool(updated) == (update == "numba")
    said = json.loads((tmp_path / "broken" / "environment.json").read_text())
    assert said["kernels"]["update"] == update


@pytest.mark.parametrize(
    "options",
    [{"accumulate": 2}, {"recipe": "article"}, {"set": ("momentum=0.0", "nesterov=false")}, {"precision": "fp32"}],
)
def test_torch_updates_what_our_kernel_does_not(pictures, tmp_path, monkeypatch, options):
    """Parts of a batch, whose gradients add up in float32, Adam, no momentum, float32: and the record says so."""
    monkeypatch.setattr(start, "kernels_for", lambda *of, **how: replace(PLAIN, update="numba"))
    monkeypatch.setattr(optim_cpu, "update", None)
    wanted = {"precision": "bf16", "kernels": "auto", "max_steps": 2, "epochs": None, **options}
    start.train(asked(pictures, tmp_path / "run", **wanted), quiet())
    said = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert said["kernels"]["update"] == "torch"


def test_stopped_in_the_validation_resumes_with_it(pictures, tmp_path, monkeypatch):
    start.train(asked(pictures, tmp_path / "whole"), quiet())
    ordinary = loop.answer

    def stopping(*args, **kwargs):
        monkeypatch.setattr(loop, "answer", ordinary)
        signal.raise_signal(signal.SIGTERM)
        return ordinary(*args, **kwargs)

    monkeypatch.setattr(loop, "answer", stopping)
    with pytest.raises(Stopped, match="validation"):
        start.train(asked(pictures, tmp_path / "broken"), quiet())
    assert (tmp_path / "broken" / "last").read_text() == "step-00000008-unjudged\n"
    start.train(asked(pictures, tmp_path / "broken"), quiet())
    assert digest(tmp_path / "whole") == digest(tmp_path / "broken")
    assert lines(tmp_path / "whole") == lines(tmp_path / "broken")


def test_a_run_stopped_in_its_last_validation_is_finished_by_the_next(pictures, tmp_path, monkeypatch):
    ordinary, wanted = loop.answer, asked(pictures, tmp_path / "run", epochs=1)

    def stopping(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        return ordinary(*args, **kwargs)

    monkeypatch.setattr(loop, "answer", stopping)
    with pytest.raises(Stopped, match="validation"):
        start.train(wanted, quiet())
    monkeypatch.setattr(loop, "answer", ordinary)
    result = start.train(wanted, quiet())
    assert result["last"]["step"] == 4 and result["last"]["top1"] is not None
    monkeypatch.setattr(loop, "answer", None)  # a third time there is nothing left to do
    assert start.train(wanted, quiet()) == result


def test_a_run_goes_on_from_a_checkpoint_that_nothing_names_yet(pictures, tmp_path, monkeypatch):
    """Killed between a checkpoint's rename and `last`: the newest that is whole counts."""
    ordinary, run = Store.point, tmp_path / "run"
    start.train(asked(pictures, tmp_path / "whole", set=("validate_epochs=1",)), quiet())

    def dying(self, which, path):
        if path.name == "step-00000008":
            raise KeyboardInterrupt
        return ordinary(self, which, path)

    monkeypatch.setattr(Store, "point", dying)
    with pytest.raises(KeyboardInterrupt):
        start.train(asked(pictures, run, set=("validate_epochs=1",)), quiet())
    assert (run / "last").read_text() == "step-00000004\n"
    monkeypatch.setattr(Store, "point", ordinary)
    console = quiet()
    start.train(asked(pictures, run, set=("validate_epochs=1",)), console)
    assert "goes on from step 8 of" in console.file.getvalue()
    assert digest(run) == digest(tmp_path / "whole") and lines(run) == lines(tmp_path / "whole")


def test_the_best_of_an_older_state_is_there_where_the_newer_is_lost(pictures, tmp_path, monkeypatch):
    ordinary, run = loop.score, tmp_path / "run"
    right = iter([9, 8, 11, 7])  # of those held out
    monkeypatch.setattr(loop, "score", lambda answers: replace(ordinary(answers), correct1=next(right)))
    start.train(asked(pictures, run, set=("validate_epochs=1",)), quiet())
    names = ["step-00000004", "step-00000008", "step-00000012"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == names
    damaged = run / "checkpoints" / "step-00000012" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    console = quiet()
    result = start.train(asked(pictures, run, set=("validate_epochs=1",)), console)
    said = console.file.getvalue()
    assert f"{damaged}: changed or damaged" in said and "goes on from step 8 of 12" in said
    assert (run / "checkpoints" / "broken-step-00000012").is_dir(), "nothing is thrown away unseen"
    assert result["best"]["step"] == 4 and (run / "best").read_text() == "step-00000004\n"
    assert (run / "checkpoints" / "step-00000004").is_dir()


def test_of_as_many_right_answers_the_lower_loss_is_the_best(pictures, tmp_path, monkeypatch):
    ordinary, run = loop.score, tmp_path / "run"
    found = iter({"correct1": right, "loss": loss} for right, loss in ((9, 0.5), (9, 0.6), (9, 0.4), (8, 0.1)))
    monkeypatch.setattr(loop, "score", lambda answers: replace(ordinary(answers), **next(found)))
    wanted = asked(
        pictures,
        run,
        epochs=4,
        set=("validate_epochs=1", "schedule=plateau", "patience=1", "lr_drops=1", "lr_factor=0.1"),
    )
    result = start.train(wanted, quiet())
    assert (result["best"]["step"], result["best"]["loss"]) == (12, 0.4)
    assert (result["last"]["step"], result["last"]["loss"]) == (16, 0.1)
    assert (run / "best").read_text() == "step-00000012\n"
    state = json.loads((run / "checkpoints" / "step-00000016" / "state.json").read_text())
    assert (state["drops"], state["waited"]) == (
        1,
        1,
    )  # a lower loss is no better accuracy: the rate did not wait for it


def test_a_best_from_before_its_loss_was_kept(pictures, tmp_path, monkeypatch):
    ordinary, run = loop.score, tmp_path / "run"
    found = iter({"correct1": right, "loss": loss} for right, loss in ((9, 0.5), (9, 0.4), (10, 0.9)))
    monkeypatch.setattr(loop, "score", lambda answers: replace(ordinary(answers), **next(found)))
    start.train(asked(pictures, run, epochs=1, set=("validate_epochs=1",)), quiet())
    (step,) = (run / "checkpoints").iterdir()
    state = json.loads((step / "state.json").read_text())
    for name in ("best", "last"):
        del state[name]["loss"]
    content = json.dumps(state).encode()
    (step / "state.json").write_bytes(content)
    manifest = json.loads((step / "manifest.json").read_text())
    manifest["state.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (step / "manifest.json").write_text(json.dumps(manifest))
    result = start.train(asked(pictures, run, epochs=2, set=("validate_epochs=1",)), quiet())
    assert result["best"]["step"] == 4 and result["last"]["loss"] == 0.4
    result = start.train(asked(pictures, run, epochs=3, set=("validate_epochs=1",)), quiet())
    assert result["best"] == result["last"] and result["best"]["loss"] == 0.9


def test_parts_of_a_batch_are_the_batch(pictures, tmp_path):
    for name, parts in (("one", 1), ("three", 3)):
        start.train(asked(pictures, tmp_path / name, epochs=1, accumulate=parts), quiet())
    last = "checkpoints/step-00000004/model.safetensors"
    one, three = load_file(tmp_path / "one" / last), load_file(tmp_path / "three" / last)
    for name, value in one.items():
        assert (value - three[name]).abs().max() <= 1e-4 * value.abs().max(), name


def test_the_rest_of_an_epoch_may_have_fewer_pictures_than_parts(pictures, tmp_path):
    """57 pictures to train on: batches of 12, and one of 9 in twelve parts, three of which are empty."""
    for name, parts in (("one", 1), ("twelve", 12)):
        wanted = asked(pictures, tmp_path / name, epochs=1, accumulate=parts, set=("drop_last=false",))
        assert start.train(wanted, quiet())["last"]["step"] == 5
    last = "checkpoints/step-00000005/model.safetensors"
    one, twelve = load_file(tmp_path / "one" / last), load_file(tmp_path / "twelve" / last)
    for name, value in one.items():
        assert (value - twelve[name]).abs().max() <= 1e-4 * value.abs().max(), name


def test_a_finished_run_answers_and_can_be_extended(pictures, tmp_path):
    run = tmp_path / "run"
    first = start.train(asked(pictures, run, epochs=1, recipe="paper"), quiet())
    before = digest(run)
    assert start.train(asked(pictures, run, epochs=1, recipe="paper"), quiet())["last"] == first["last"]
    assert digest(run) == before
    more = start.train(asked(pictures, run, epochs=2, recipe="paper"), quiet())
    assert more["last"]["step"] == 2 * first["last"]["step"]


def test_other_settings_or_pictures_are_refused(pictures, tmp_path):
    run = tmp_path / "run"
    start.train(asked(pictures, run, epochs=1), quiet())
    with pytest.raises(UsageError, match=r"--allow-change lr would.*\n  lr  0\.015 there, 0\.5 \(--lr\) asked"):
        start.train(asked(pictures, run, epochs=1, lr=0.5), quiet())
    other = write_folder(tmp_path / "other", classes=3, each=24, seed=9)  # the same names
    with pytest.raises(UsageError, match="other pictures"):
        start.train(asked(other, run, epochs=1), quiet())
    fewer = write_folder(tmp_path / "fewer", classes=3, each=4)
    with pytest.raises(DataError, match="held-out images are gone"):
        start.train(asked(fewer, run, epochs=1), quiet())


def test_a_loss_that_is_not_finite_stops_before_anything_is_overwritten(pictures, tmp_path, monkeypatch):
    run, ordinary = tmp_path / "run", loop.rate
    monkeypatch.setattr(loop, "rate", lambda recipe, step, **rest: 1e9 if step > 4 else ordinary(recipe, step, **rest))
    with pytest.raises(NumbersError, match=r"step [67]: .*step-00000004 is as it was; another --run with a lower --lr"):
        start.train(asked(pictures, run, set=("validate_epochs=1",)), quiet())
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000004"]
    kept = load_file(run / "checkpoints" / "step-00000004" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values())
    assert np.isfinite(np.load(run / "kernels.npy", allow_pickle=False)).all()


def test_a_start_that_saved_nothing_is_none(pictures, tmp_path):
    """What the message says can be done: the same --run with a lower rate. Of the first try nothing is left."""
    run = tmp_path / "run"
    with pytest.raises(NumbersError, match="nothing was saved; try a lower --lr"):
        start.train(asked(pictures, run, lr=1e20), quiet())
    assert (run / "recipe.json").exists() and (run / "metrics.jsonl").exists()
    (run / "predictions").mkdir()
    left = {path for path in run.rglob("*") if path.is_file()}
    start.train(asked(pictures, run), quiet())
    start.train(asked(pictures, tmp_path / "other"), quiet())
    assert digest(run) == digest(tmp_path / "other") and lines(run) == lines(tmp_path / "other")
    assert not [path for path in left & set(run.rglob("*")) if path.parent.name == "tensorboard"]


def test_files_of_no_run_are_left_alone(pictures, tmp_path):
    (tmp_path / "kernels.npy").write_bytes(b"someone's own")
    with pytest.raises(NumbersError):
        start.train(asked(pictures, tmp_path, lr=1e20), quiet())
    assert (tmp_path / "kernels.npy").read_bytes() == b"someone's own"


@pytest.mark.parametrize("name", ["recipe.json", "checkpoints"])
def test_half_a_run_is_none(pictures, tmp_path, name):
    run = tmp_path / "run"
    start.train(asked(pictures, run, epochs=1), quiet())
    (run / name).rename(tmp_path / name)
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    with pytest.raises(UsageError, match=f"{name}|`last` names a checkpoint"):
        start.train(asked(pictures, run, epochs=1), quiet())
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before


def test_another_process_that_trained_meanwhile_is_noticed(pictures, tmp_path, monkeypatch):
    run, ordinary = tmp_path / "run", start.prepare

    def slow(*args):
        prepared = ordinary(*args)
        monkeypatch.setattr(start, "prepare", ordinary)
        start.train(asked(pictures, run, epochs=1), quiet())
        return prepared

    monkeypatch.setattr(start, "prepare", slow)
    with pytest.raises(UsageError, match="another process has trained here"):
        start.train(asked(pictures, run, epochs=1), quiet())


def test_a_short_run_that_learned_nothing_says_so(pictures, tmp_path):
    console = quiet()
    start.train(
        asked(pictures, tmp_path / "run", lr=1e-9, dropout=0.0, epochs=None, max_steps=5, recipe="paper"), console
    )
    assert "step 5: the loss is" in console.file.getvalue() and "still at chance" in console.file.getvalue()


@pytest.mark.parametrize(("warmup", "says"), [(2, False), (3, True), (4, True)])
def test_a_run_that_ends_within_the_warm_up_says_so(pictures, tmp_path, warmup, says):
    console = quiet()
    start.train(asked(pictures, tmp_path / "run", epochs=None, max_steps=3, set=(f"warmup_steps={warmup}",)), console)
    said = console.file.getvalue()
    assert said.count(f"all 3 steps are within the warm-up of {warmup}, ") == says


def test_a_loss_at_chance_is_reported(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "STUCK_AFTER", 10)
    console = quiet()
    start.train(asked(pictures, tmp_path / "run", lr=1e-9, epochs=None, max_steps=20, recipe="paper"), console)
    said = console.file.getvalue()
    assert "still at chance" in said and said.count("still at chance") == 1


def test_bad_images(pictures, tmp_path):
    folder = write_folder(tmp_path / "data", classes=2, each=12)
    bad = folder / "class0" / "003.jpg"
    bad.write_bytes(bad.read_bytes()[:400])
    with pytest.raises(BadImage, match=r"003\.jpg"):
        start.train(asked(folder, tmp_path / "a", epochs=1), quiet())
    start.train(asked(folder, tmp_path / "b", epochs=2, bad_images="skip"), quiet())
    listed = [json.loads(line) for line in (tmp_path / "b" / "bad_images.jsonl").read_text().splitlines()]
    assert len(listed) == 1 and listed[0]["path"].endswith("003.jpg")


def test_a_bad_held_out_picture_loses_nothing(pictures, tmp_path):
    folder, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(pictures, folder)
    job, _, _ = start.prepare(asked(folder, run), quiet())
    held = job.val.path(0)
    held.write_bytes(b"\xff\xd8 no picture")
    start.train(asked(folder, tmp_path / "whole", bad_images="skip"), quiet())
    with pytest.raises(BadImage, match=f"{held.name}: .* --bad-images skip"):
        start.train(asked(folder, run), quiet())
    assert (run / "last").read_text() == "step-00000008-unjudged\n"
    console = quiet()
    start.train(asked(folder, run, bad_images="skip"), console)
    assert "goes on from step 8" in console.file.getvalue() and f"bad image {held}" in console.file.getvalue()
    assert digest(run) == digest(tmp_path / "whole") and lines(run) == lines(tmp_path / "whole")
    assert json.loads((run / "recipe.json").read_text())["bad_images"]["value"] == "skip"


def test_held_out_pictures_that_are_all_bad_lose_nothing(pictures, tmp_path):
    folder, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(pictures, folder)
    job, _, _ = start.prepare(asked(folder, run), quiet())
    for row in range(len(job.val)):
        job.val.path(row).write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(DataError, match="none of"):
        start.train(asked(folder, run, bad_images="skip"), quiet())
    assert (run / "last").read_text() == "step-00000008-unjudged\n"


def test_a_bad_picture_found_while_training_loses_nothing(pictures, tmp_path):
    base, folder, run = tmp_path / "base", tmp_path / "data", tmp_path / "run"
    start.train(asked(pictures, base, epochs=1), quiet())
    shutil.copytree(pictures, folder)
    wanted = asked(folder, run, weights=str(base), variant=None)  # whose mean image is there, so that none is measured
    job, _, _ = start.prepare(wanted, quiet())
    third = next(itertools.islice(loop.order(job, 0, 4), 2, None)).rows[0]
    job.train.path(int(third)).write_bytes(b"\xff\xd8 no picture")
    skipping = replace(wanted, bad_images="skip")
    start.train(replace(skipping, run=str(tmp_path / "whole")), quiet())
    with pytest.raises(BadImage, match="--bad-images skip"):
        start.train(wanted, quiet())
    assert (run / "last").read_text() == "step-00000002\n"
    start.train(skipping, quiet())
    assert digest(run) == digest(tmp_path / "whole") and lines(run) == lines(tmp_path / "whole")


def test_pictures_may_move(pictures, tmp_path):
    run, moved = tmp_path / "run", tmp_path / "moved"
    start.train(asked(pictures, run, epochs=1), quiet())
    shutil.copytree(pictures, moved)
    console = quiet()
    start.train(asked(moved, run, epochs=2), console)
    assert json.loads((run / "data.json").read_text())["source"] == str(moved)
    again = shutil.copytree(moved, tmp_path / "again")
    start.train(asked(again, run, epochs=2), quiet())  # finished, and knows where they are
    assert json.loads((run / "data.json").read_text())["source"] == str(again)
    assert "goes on from step 4 of 8 (4 until now)" in console.file.getvalue()


def test_max_time_becomes_steps_and_is_kept(pictures, tmp_path, monkeypatch):
    run, ticks = tmp_path / "run", itertools.count()
    # a clock on which each thing measured takes a second: steps, the validation of its 15 pictures, a save
    monkeypatch.setattr(start, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    monkeypatch.setattr(start, "LAST_RESORT", math.inf)  # the loop's own clock is the real one
    result = start.train(asked(pictures, run, epochs=None, max_time=20.0), quiet())
    steps = json.loads((run / "recipe.json").read_text())["steps"]
    # 3 % kept back: of 19.4 s, eight steps, a validation and a save, then seven steps, a validation and a save
    by_hand = 8 + 7
    assert steps == {"value": by_hand, "origin": "--max-time"} and result["last"]["step"] == by_hand
    again = start.train(asked(pictures, run, epochs=None, max_time=20.0), quiet())
    assert again["last"] == result["last"]
    for other in ({"max_time": 40.0}, {"epochs": 2}):
        with pytest.raises(UsageError, match=r"max_time  +20\.0 there"):
            start.train(asked(pictures, run, **{"epochs": None, **other}), quiet())
    assert json.loads((run / "recipe.json").read_text())["max_time"]["value"] == 20.0


def test_a_run_stopped_by_the_clock_before_a_validation_says_so(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "LAST_RESORT", 0.0)
    result = start.train(asked(pictures, tmp_path / "run", epochs=None, max_time=3600.0), quiet())
    assert result["stopped"] == "max-time" and result["last"] == {"step": 1, "top1": None, "top5": None, "loss": None}
    assert result["best"] == result["last"]


def test_the_warm_up_leaves_the_job_as_it_was(pictures, tmp_path):
    job, _, _ = start.prepare(asked(pictures, tmp_path / "run"), quiet())
    job.run.create()
    start.colours(job, quiet())
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    pace = start.measured_pace(job)
    assert 0 < pace.step < 10 and pace.validation > 0 and pace.saving > 0
    assert all(torch.equal(before[name], value) for name, value in job.model.state_dict().items())
    assert not job.rule.state and not list(job.run.folder.iterdir())


def test_a_dry_run_leaves_nothing(pictures, tmp_path):
    run = tmp_path / "run"
    estimate = start.train(asked(pictures, run), quiet(), dry=True)
    assert not run.exists() and estimate["steps"] == 12 and estimate["seconds"] > 0
    timed = start.train(asked(pictures, run, epochs=None, max_time=3600.0), quiet(), dry=True)
    assert timed["steps"] > 12 and 0.9 * 3600 < timed["seconds"] <= 3600 and not run.exists()


def test_what_fits_into_a_time_takes_it(pictures, tmp_path):
    job, _, _ = start.prepare(asked(pictures, tmp_path / "run", save_every=50), quiet())
    pace = start.Pace(step=2.0, validation=30.0, saving=4.0)
    # epochs of 4 steps, validated every other one: 8 steps take 16 s, then 30 s and 4 s, at the end of fewer too
    assert pace.seconds(80, job) == pytest.approx(10 * (16 + 34)) and pace.seconds(3, job) == pytest.approx(6 + 34)
    assert [pace.steps(s, job) for s in (1, 39.9, 40, 50, 99, 500.1)] == [1, 2, 3, 8, 15, 80]
    job.save_every = 3  # two saves more
    assert pace.seconds(8, job) == pytest.approx(16 + 34 + 2 * 4)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(20.0, "20 seconds"), (119.0, "119 seconds"), (0.5, "0.5 seconds"), (120.0, "2 minutes"), (150.0, "2.5 minutes"),
     (1200.0, "20 minutes"), (86400.0, "1440 minutes")],
)  # fmt: skip
def test_a_time_is_said_as_it_was_asked(pictures, tmp_path, monkeypatch, seconds, words):
    monkeypatch.setattr(start, "measured_pace", lambda job: start.Pace(step=1.0, validation=0.0, saving=0.0))
    job, _, _ = start.prepare(asked(pictures, tmp_path / "run"), quiet())
    console = quiet()
    start.measured_steps(job, seconds, console)
    assert console.file.getvalue().rstrip().endswith(f" fit into {words}")


def said_of(where: Path, run: Path, **options) -> str:
    console = quiet()
    start.prepare(asked(where, run, **{"recipe": "paper", "variant": None, **options}), console)
    return console.file.getvalue()


def test_few_pictures_are_better_fine_tuned_and_the_command_is_said(pictures, tmp_path):
    few = f"alexnet train {pictures} --recipe finetune --weights imagenet"
    assert f"  {few} --run {tmp_path / 'run'}-finetune\n" in said_of(pictures, tmp_path / "run")
    options = {"val_fraction": 0.3, "seed": 4, "bad_images": "skip", "balance": True}
    assert f"{few} --val-fraction 0.3 --seed 4 --bad-images skip --balance --run" in said_of(
        pictures, tmp_path / "run", **options
    )
    shutil.copytree(pictures, tmp_path / "other ones")
    said = said_of(pictures, tmp_path / "run", val=str(tmp_path / "other ones"))
    assert f"{few} --val '{tmp_path / 'other ones'}' --run" in said


def test_fine_tuning_is_not_named_where_it_would_not_go(pictures, tmp_path):
    assert "fine-tuning" not in said_of(pictures, tmp_path / "run", variant="tiny")
    data = open_data(str(pictures))
    for weights, hinted in ((None, True), ("runs/base", False)):
        console = quiet()
        start.say_of_data(data, recipe("paper"), console, asked=Asked(str(pictures), weights=weights), epoch=57)
        assert ("fine-tuning" in console.file.getvalue()) == hinted
    for name, hinted in (("paper", True), ("caffe", False)):
        pack(data.train, data.val, tmp_path / name, form="raw", preprocess=preprocess_of(variant(name)),
             source=data.source, fingerprint=data.fingerprint)  # fmt: skip
        assert ("fine-tuning" in said_of(tmp_path / name, tmp_path / "run", variant=name)) == hinted


def test_a_dry_run_touches_no_folder_that_is_there(pictures, tmp_path):
    before = sorted((path, path.stat().st_mtime_ns) for path in pictures.rglob("*"))
    start.train(asked(pictures, pictures), quiet(), dry=True)  # --run names the pictures themselves
    assert sorted((path, path.stat().st_mtime_ns) for path in pictures.rglob("*")) == before
    start.train(asked(pictures, tmp_path / "run", epochs=1), quiet())
    with pytest.raises(UsageError, match="does not exist yet"):
        start.train(asked(pictures, tmp_path / "run"), quiet(), dry=True)
    assert (tmp_path / "run" / "best").exists()


def test_given_weights_are_matched_by_class(pictures, tmp_path):
    """Classes in another order: the network answers as before, and its pictures keep their own scale."""
    run = tmp_path / "base"
    start.train(asked(pictures, run, epochs=2), quiet())
    order = [2, 0, 1]
    kept = checkpoint.load(run / "checkpoints" / (run / "best").read_text().strip())
    moved = {name: value[order] if name.startswith("fc8.") else value for name, value in kept.model.items()}
    other = tmp_path / "other"
    shutil.copytree(run, other)
    shutil.rmtree(other / "checkpoints")
    put(other, checkpoint.Checkpoint(moved, kept.optimizer, kept.state), best=True)
    classes = json.loads((run / "classes.json").read_text())
    (other / "classes.json").write_text(json.dumps([classes[i] for i in order]))
    recipe = {"recipe": "paper", "variant": None}
    job, _, record = start.prepare(asked(pictures, tmp_path / "x", weights=str(other), **recipe), quiet())
    assert torch.equal(job.model.state_dict()["fc8.weight"], kept.model["fc8.weight"])
    assert torch.equal(job.model.state_dict()["fc8.bias"], kept.model["fc8.bias"])
    assert job.preprocess.scale == 1 / 64 and record["recipe"]["scale"]["origin"] == f"--weights {other}"


def test_what_is_to_be_known_of_given_weights_is_said(pictures, tmp_path):
    path, console = tmp_path / "x.onnx", quiet()
    path.write_bytes(graph(build("tiny", classes=3, seed=1)).SerializeToString())
    job, _, _ = start.prepare(asked(pictures, tmp_path / "x", recipe="finetune", weights=str(path)), console)
    assert f"{path}: does not say how its pictures are prepared; taken as tiny's\n" in console.file.getvalue()
    assert job.mean is None and "mid grey" not in console.file.getvalue()  # the mean is measured


def test_the_recipes_scale_takes_the_place_of_the_variants(pictures, tmp_path):
    job, _, _ = start.prepare(asked(pictures, tmp_path / "x", variant="torchvision"), quiet())
    assert job.preprocess.scale == 1 / 64 and job.preprocess.std == (1.0, 1.0, 1.0)
    start.colours(job, quiet())
    places = loop.order(job, 0, 1)
    batch = next(batches(job.train, places, loop.preparer(job)[0], side=job.preprocess.stored, threads=0))
    x = loop.views_of(job, batch, loop.Normalise(job.preprocess, job.mean, job.device), Augment())
    assert 0.3 < float(x.std()) < 2, "He's values want inputs of about unit variance"


def test_a_finetuned_run_goes_on_without_its_base(pictures, tmp_path, monkeypatch):
    base = tmp_path / "base"
    start.train(asked(pictures, base, epochs=1), quiet())
    tuned = asked(pictures, tmp_path / "tuned", recipe="finetune", variant=None, weights=str(base))
    start.train(replace(tuned, epochs=1), quiet())
    shutil.rmtree(base)
    result = start.train(replace(tuned, epochs=2), quiet())
    assert result["last"]["step"] == 8 and result["stopped"] == "done"
    with pytest.raises(UsageError, match="no such run folder"):
        start.train(replace(tuned, run=str(tmp_path / "new")), quiet())


def test_kernels_are_measured_once_and_kept_with_the_run(pictures, tmp_path, monkeypatch):
    calls, slow = [], replace(PLAIN, lrn="numba", conv1="blocks", towers="apart")

    def measuring(variant, **given):
        calls.append(given)
        return slow, {"lrn": {"torch": 2.0, "numba": 1.0}}

    monkeypatch.setattr(start, "fastest", measuring)
    console = quiet()
    first = start.train(asked(pictures, tmp_path / "a", epochs=1, kernels="auto"), console)
    assert "lrn numba (torch 2000.0 ms, numba 1000.0 ms)" in console.file.getvalue()
    for _ in range(2):  # measured or kept, the run says which it has
        assert "threads, kernels: lrn numba, conv1 blocks, towers apart\n" in console.file.getvalue()
        console = quiet()
        start.train(asked(pictures, tmp_path / "b", epochs=1, kernels="auto"), console)
    assert len(calls) == 1 and calls[0]["batch"] == 12, "the cache answers for the same machine, variant and batch"
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    for run in ("a", "b"):
        assert json.loads((tmp_path / run / "environment.json").read_text())["kernels"] == slow.to_json()
    start.train(asked(pictures, tmp_path / "plain", epochs=1), quiet())
    assert digest(tmp_path / "plain") != digest(tmp_path / "a"), "sums are added in another order"
    # a run goes on with its own, whatever a measurement would say now
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(start, "fastest", None)
    more = start.train(asked(pictures, tmp_path / "a", epochs=2, kernels="auto"), quiet())
    assert more["last"]["step"] == 2 * first["last"]["step"]
    with pytest.raises(UsageError, match=r"kernels  lrn numba there, torch \(--kernels plain\) asked"):
        start.train(asked(pictures, tmp_path / "a", epochs=2), quiet())
    monkeypatch.setattr("alexnet.network.kernels.has_numba", lambda: False)
    with pytest.raises(UsageError, match="numba is not installed"):
        start.train(asked(pictures, tmp_path / "a", epochs=2, kernels="auto"), quiet())


def test_no_step_compiles(pictures, tmp_path, monkeypatch):
    """Neither the first, nor one after the kernels were chosen in another process: what is compiled is so before."""
    across, augmenting = (
        cache(lrn_cpu._across.__wrapped__),
        cache(augment_cpu._kernel.__wrapped__),
    )  # nothing compiled yet
    kernels: list[tuple] = []
    monkeypatch.setattr(lrn_cpu, "_across", lambda *of: kernels.append(across(*of)) or across(*of))
    monkeypatch.setattr(augment_cpu, "_kernel", lambda *of: kernels.append((augmenting(*of),)) or augmenting(*of))
    wanted = asked(pictures, tmp_path / "run", batch_size=24, kernels="auto")
    job, _, _ = start.prepare(wanted, quiet())
    job.model.kernels = replace(PLAIN, lrn="numba")
    start.colours(job, quiet())

    def compiled() -> dict[int, int]:
        return {id(kernel): len(kernel.signatures) for pair in kernels for kernel in pair}

    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    start.warm(job)
    made = compiled()
    assert len(made) == 3 and set(made.values()) == {1}, "forward and back, and the augmentation"
    assert not job.rule.state and all(parameter.grad is None for parameter in job.model.parameters())
    assert all(torch.equal(before[name], value) for name, value in job.model.state_dict().items())
    batch = next(
        batches(job.train, loop.order(job, 0, 1), loop.preparer(job)[0], side=job.preprocess.stored, threads=1)
    )
    x = loop.views_of(job, batch, loop.Normalise(job.preprocess, job.mean, job.device), loop.augment_of(job.recipe))
    calls = len(kernels)
    loop.step(job, x, batch.labels, number=0, lr=0.01)
    assert len(kernels) > calls and compiled() == made


def test_the_commit_is_the_programs_own(tmp_path, monkeypatch):
    """An installed package may lie in a virtual environment inside a user's own checkout."""
    place = tmp_path / "user" / "venv" / "alexnet" / "training"
    place.mkdir(parents=True)
    git = ["git", "-C", str(tmp_path / "user"), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git[:3], "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    monkeypatch.setattr(again, "__file__", str(place / "start.py"))
    assert again.commit() is None
    (tmp_path / "user" / "training").mkdir()
    monkeypatch.setattr(again, "__file__", str(tmp_path / "user" / "alexnet" / "training" / "start.py"))
    said = subprocess.run([*git[:3], "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert again.commit() == said.stdout.strip()


def test_freeze_and_finetune(pictures, tmp_path):
    start.train(asked(pictures, tmp_path / "base", epochs=1), quiet())
    other = write_folder(tmp_path / "other", classes=2, each=12, seed=5)
    tuned = asked(other, tmp_path / "tuned", recipe="finetune", variant=None, weights=str(tmp_path / "base"), epochs=1,
                  set=("freeze=features.0,conv2a",))  # fmt: skip
    start.train(tuned, quiet())
    record = json.loads((tmp_path / "tuned" / "recipe.json").read_text())
    assert record["freeze"]["value"] == ["conv1", "conv2"], "torchvision's name and the 2012 program's are known"
    base = load_file(next((tmp_path / "base" / "checkpoints").iterdir()) / "model.safetensors")
    new = load_file(next((tmp_path / "tuned" / "checkpoints").iterdir()) / "model.safetensors")
    assert new["fc8.weight"].shape[0] == 2
    assert torch.equal(base["conv1.weight"], new["conv1.weight"]) and torch.equal(base["conv2.bias"], new["conv2.bias"])
    assert not torch.equal(base["conv3.weight"], new["conv3.weight"])
    with pytest.raises(UsageError, match="no layer 'conv9'"):
        start.train(replace(tuned, run=str(tmp_path / "x"), set=("freeze=conv9",)), quiet())


def test_imbalance_is_said(tmp_path):
    folder = write_folder(tmp_path / "data", classes=2, each=8)
    for i in range(20):
        (folder / "class1" / f"more{i}.png").write_bytes((folder / "class1" / "000.png").read_bytes())
    console = quiet()
    start.train(asked(folder, tmp_path / "run", epochs=1), console, dry=True)
    assert "uneven: class0 has" in console.file.getvalue() and "--balance" in console.file.getvalue()


def test_balance_makes_epochs_even(tmp_path):
    folder = write_folder(tmp_path / "data", classes=2, each=10)
    for name in ("000.png", "001.jpg", "002.png", "003.jpg", "004.png"):
        (folder / "class0" / name).unlink()
    console = quiet()
    job, _, _ = start.prepare(asked(folder, tmp_path / "run", balance=True), console)
    assert np.ptp(np.bincount(job.train.label[job.table])) == 0
    assert f"balanced: {len(job.table)} an epoch" in console.file.getvalue()


def test_the_articles_printed_loss():
    logits = torch.randn(7, 1000, dtype=torch.float64)
    labels = torch.arange(7)
    printed = loop.loss_of(start.recipe("article-printed"), logits, labels)
    y = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    twice = np.exp(y) / np.exp(y).sum(1, keepdims=True)
    onehot = np.eye(1000)[labels.numpy()]
    assert float(printed) == pytest.approx(float(np.mean(-np.sum(onehot * np.log(twice)))), rel=1e-12)
    uniform = loop.loss_of(start.recipe("article-printed"), torch.zeros(1, 1000, dtype=torch.float64), labels[:1])
    assert float(uniform) == pytest.approx(6.907755, abs=1e-6)  # ln 1000


def test_he_values_replace_the_variants():
    table = start.he(start.variant("tiny"))
    net = build(table, classes=10, seed=0)
    weight = net.get_parameter("fc6.weight").detach()
    assert float(weight.std()) == pytest.approx((2 / weight.shape[1]) ** 0.5, rel=0.05)
    assert float(net.get_parameter("conv2.bias").detach().abs().max()) == 0.0


def test_a_damaged_measurement_of_kernels_is_made_again(tmp_path):
    def measured():
        return start.kernels_for(
            start.variant("tiny"), batch=2, precision="fp32", device=torch.device("cpu"), console=quiet()
        )

    made = measured()
    (path,) = (tmp_path / "cache").glob("kernels-*.json")
    for damage in (b"", b"[]", b'{"kernels": {"lrn": "x"}}'):
        path.write_bytes(damage)
        assert (
            type(measured()) is type(made) and json.loads(path.read_text())["kernels"].keys() == made.to_json().keys()
        )


@pytest.mark.parametrize(
    ("waiting", "read", "shaping", "crop", "threads", "held", "advice"),
    [
        (62, 8, None, "stored", 1, 0, " -> `alexnet data pack`"),
        (62, 8, "a pack", "stored", 1, 0, " -> --workers 2"),
        (62, 8, None, "original", 1, 0, " -> --workers 2"),
        (62, 8, None, "original", 2, 0, ""),
        (62, 90, None, "stored", 1, 0, " -> a faster disk, or more memory for its cache"),
        (9, 8, None, "stored", 1, 0, ""),
        (62, 8, None, "stored", 1, 2, " -> decoded pictures stay in memory (200 MB) for later epochs"),
        (62, 8, None, "stored", 1, None, " -> `alexnet data pack`"),
    ],
)
def test_where_the_time_went(monkeypatch, waiting, read, shaping, crop, threads, held, advice):
    monkeypatch.setattr(loop.time, "monotonic", lambda: 1100.0)
    monkeypatch.setattr(loop, "cores", lambda: 2)
    spent = loop.Spent(begin=1000.0, waiting=waiting, read=read, decode=81, augment=11)
    decoded = None if held is None else Decoded(3, limit=10**9)
    for row in range(held or 0):
        decoded.add(row, np.zeros(10**8, np.uint8))
    job = SimpleNamespace(
        train=SimpleNamespace(shaping=shaping), recipe=SimpleNamespace(crop=crop), threads=threads, decoded=decoded,
        state=loop.State(step=4), steps=5,
    )  # fmt: skip
    total = read + 92
    assert loop.where_time_went(spent, job) == (
        f"first epoch: {waiting} % of the time waiting for data: disk {100 * read / total:.0f}, "
        f"decode {8100 / total:.0f}, augment {1100 / total:.0f}{advice}"
    )
    if held:  # there is no later epoch
        job.steps = 4
        assert "memory" not in loop.where_time_went(spent, job)


def test_the_first_epochs_end_says_where_the_time_went(pictures, tmp_path):
    said = io.StringIO()
    start.train(asked(pictures, tmp_path / "run", epochs=3), Console(file=said, width=200))
    assert said.getvalue().count("of the time waiting for data: disk ") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_the_flag_is_for_its_block(number):
    """What comes after a training that a signal stopped, an evaluation in the same notebook, was not asked to end."""
    before = signal.signal(number, signal.default_int_handler)
    try:
        for _ in range(2):
            with stop.watch():
                assert not stop.requested()
                signal.raise_signal(number)
                assert stop.requested()
            assert not stop.requested() and signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_a_hangup_that_is_ignored_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop.watch():
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_than_the_main_one_may_train(pictures, tmp_path):
    """Python lets it set no signals; what the main one has set stays."""
    results, before = [], signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(
        target=lambda: results.append(start.train(asked(pictures, tmp_path / "run", epochs=1), quiet()))
    )
    thread.start()
    thread.join()
    assert [result["stopped"] for result in results] == ["done"] and signal.getsignal(signal.SIGTERM) is before
