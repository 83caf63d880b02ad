"""What RUN may name, and what becomes of a folder that is not what it should be."""

import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from alexnet.data.classes import Classes, imagenet_classes
from alexnet.errors import AlexNetError, DataError, UsageError, WeightsError
from alexnet.network.build import build
from alexnet.training import start
from alexnet.training.start import Asked
from alexnet.weights.run import Run, is_run, open_run
from tests.pictures import write_folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    pictures = write_folder(tmp_path_factory.mktemp("pictures") / "set", classes=2, each=16)
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        asked = Asked(data=str(pictures), run=str(folder), variant="tiny", kernels="plain", batch_size=12, epochs=4, workers=1,
                      precision="fp32")  # fmt: skip
        start.train(asked, Console(file=io.StringIO()))
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def weights(model: torch.nn.Module, folder: Path) -> bool:
    """Whether the model holds what the checkpoint's file holds."""
    held = load_file(folder / "model.safetensors")
    return all(torch.equal(value, held[name]) for name, value in model.state_dict().items())


def test_a_run_folder_is_its_best_checkpoint(run):
    best, last = ((run / name).read_text().strip() for name in ("best", "last"))
    names = [path.name for path in (run / "checkpoints").iterdir()]
    another = next(name for name in names if name != best)
    assert {best, last} <= set(names)
    (run / "last").write_text(another + "\n")
    opened = open_run(run)
    assert weights(opened.model, run / "checkpoints" / best) and not weights(
        opened.model, run / "checkpoints" / another
    )
    assert not opened.model.training and opened.classes.keys == ("class0", "class1")
    assert opened.mean is not None and opened.mean.shape == (73, 73, 3)
    (run / "best").unlink()
    assert weights(open_run(run).model, run / "checkpoints" / another)
    (run / "last").unlink()
    with pytest.raises(UsageError, match="no checkpoint yet"):
        open_run(run)


def test_a_checkpoint_folder_is_itself(run, monkeypatch):
    for folder in (run / "checkpoints").iterdir():
        assert weights(open_run(folder).model, folder) and open_run(folder).classes.keys == ("class0", "class1")
    monkeypatch.chdir(folder.parent)
    assert weights(open_run(folder.name).model, folder)
    assert is_run(folder.name) and is_run(str(run)) and is_run("tiny") and not is_run("tinny")


def test_a_runs_file_best_or_last_is_the_checkpoint_that_it_names(run, tmp_path, monkeypatch):
    folders = sorted((run / "checkpoints").iterdir())
    for name, folder in (("best", folders[0]), ("last", folders[-1])):
        (run / name).write_text(f"{folder.name}\n")
        opened = open_run(run / name)
        assert weights(opened.model, folder) and opened.where == str(run) and opened.data is not None
        assert is_run(str(run / name))
    shutil.rmtree(folders[-1])
    with pytest.raises(WeightsError, match=folders[-1].name):
        open_run(run / "last")
    monkeypatch.chdir(run)
    assert weights(open_run("best").model, folders[0])
    (tmp_path / "last").write_text("step-00000001\n")  # in no run folder
    with pytest.raises(UsageError, match="not a run folder"):
        open_run(tmp_path / "last")
    assert not is_run(str(tmp_path / "last"))


def test_a_variants_name_is_its_own_initial_values():
    opened = open_run("tiny", seed=3)
    expected = build("tiny", classes=1000, seed=3).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in opened.model.state_dict().items())
    assert opened.classes == imagenet_classes() and opened.data is None
    assert open_run("tiny", classes=Classes.of(["a", "b"])).model.classes == 2


def test_what_is_no_run_is_a_usage_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").touch()
    for where, words in (("folder", "not a run folder"), ("file.txt", "not a run folder"), ("none", "no such run")):
        with pytest.raises(UsageError, match=words) as caught:
            open_run(where)
        assert caught.value.code == 2 and where in str(caught.value)


def test_a_damaged_checkpoint_is_code_4_and_named(run):
    best = run / "checkpoints" / (run / "best").read_text().strip()
    path = best / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for where in (run, best):
        with pytest.raises(WeightsError) as caught:
            open_run(where)
        assert caught.value.code == 4 and str(path.name) in str(caught.value)
    shutil.rmtree(best)
    with pytest.raises(WeightsError, match=f"{best.name}"):
        open_run(run)


@pytest.mark.parametrize("said", ["../../x", "step-00000001/../../../x", "/etc", "", "step-1", "step-00000001\nx"])
def test_a_pointer_that_leaves_the_folder_is_refused(run, said):
    (run / "best").write_text(said)
    with pytest.raises(WeightsError, match="is not the name of a checkpoint") as caught:
        open_run(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["recipe.json", "classes.json", "preprocess.json", "data.json", "mean.npy", "best"])
def test_a_pipe_or_a_hole_in_a_files_place_is_neither_waited_for_nor_read(run, name):
    for make in (os.mkfifo, lambda path: path.touch() or os.truncate(path, 1 << 40)):
        (run / name).unlink()
        make(run / name)
        with pytest.raises(AlexNetError) as caught:
            open_run(run)
        assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["recipe.json", "classes.json", "preprocess.json", "data.json", "mean.npy"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'"x"', b"\x93NUMPY\x01\0", None])
def test_a_damaged_file_of_the_run_is_one_line_that_names_it(run, name, content):
    if content is None and name == "recipe.json":
        pytest.raises(UsageError, open_run, (run / name).unlink() or run)
        return
    if content == b"{}" and name == "data.json":  # of an imported model nobody knows the pictures
        (run / name).write_bytes(content)
        assert open_run(run).data is None
        return
    (run / name).unlink() if content is None else (run / name).write_bytes(content)
    with pytest.raises(AlexNetError) as caught:
        open_run(run)
    assert name in str(caught.value) and "\n" not in str(caught.value) and caught.value.code == 2


def test_classes_that_do_not_fit_the_weights(run):
    classes = json.loads((run / "classes.json").read_text())
    (run / "classes.json").write_text(json.dumps([*classes, {"key": "more", "words": "more"}]))
    with pytest.raises(WeightsError, match=r"fc8 has 2 outputs, and .*classes\.json 3 classes"):
        open_run(run)


@pytest.mark.parametrize("value", [{"value": "tinny"}, {"value": 3}, {}, None])
def test_a_recipe_that_names_no_variant(run, value):
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["variant"] = value
    (run / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises((DataError, UsageError)) as caught:
        open_run(run)
    assert "variant" in str(caught.value)


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        Run(tmp_path / "file" / "run").create()
    run = Run(tmp_path / "a" / "b")
    run.create()
    assert run.folder.is_dir() and not list(run.folder.iterdir()) and not run.exists()
