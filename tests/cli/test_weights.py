"""`alexnet import` and `alexnet export`, as they are typed."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from alexnet.cli import main
from alexnet.network.build import build
from alexnet.weights import checkpoint
from alexnet.weights.run import Run, open_run
from tests.pictures import write_folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    return tmp_path


def said(capsys, *words: str, code: int = 0) -> dict:
    """What a command prints with --json; of one that fails its line, the last."""
    with pytest.raises(SystemExit) as caught:
        main([*words, *(() if code else ("--json",))])
    printed = capsys.readouterr()
    assert caught.value.code == code, printed.err
    return {"error": f"{printed.err.strip().splitlines()[-1]}\n"} if code else json.loads(printed.out)


def test_a_model_becomes_a_run_and_a_file_again(folder, capsys):
    model = build("tiny", classes=3, seed=1)
    save_file(dict(model.state_dict()), folder / "model.safetensors")
    made = said(capsys, "import", "model.safetensors", "--run", "mine")
    assert (made["run"], made["variant"], made["kind"]) == ("runs/mine", "tiny", "safetensors")
    assert [one["name"] for one in made["layers"]] == list(model.state_dict())
    first = made["layers"][0]
    assert first["shape"] == [*model.get_parameter("conv1.weight").shape] and first["source"] == "conv1.weight"
    assert first["norm"] == pytest.approx(float(model.get_parameter("conv1.weight").detach().norm()))
    assert json.loads((folder / "runs" / "mine" / "data.json").read_text()) == {}
    for name, value in open_run("runs/mine").model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    out = said(capsys, "export", "runs/mine", "--format", "safetensors", "--out", "again.safetensors")
    assert out["bytes"] == (folder / "again.safetensors").stat().st_size and out["format"] == "safetensors"
    again = load_file(folder / "again.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_an_imported_model_trains_on_and_is_judged(folder, capsys):
    save_file(dict(build("tiny", classes=3, seed=1).state_dict()), folder / "model.safetensors")
    write_folder(folder / "set", classes=3, each=12)
    made = said(capsys, "import", "model.safetensors", "--classes", "set")
    assert [one["key"] for one in json.loads((Run(folder / made["run"]).folder / "classes.json").read_text())] == [
        "class0", "class1", "class2",
    ]  # fmt: skip
    assert said(capsys, "eval", made["run"], "set")["count"] == 36
    words = (
        "train",
        "set",
        "--weights",
        made["run"],
        "--recipe",
        "finetune",
        "--max-steps",
        "1",
        "--run",
        "tuned",
        "--workers",
        "1",
    )
    assert said(capsys, *words)["last"]["step"] == 1
    picture = next((folder / "set" / "class1").iterdir())
    assert len(said(capsys, "predict", "runs/tuned", str(picture))[0]["predictions"]) == 3


def test_an_import_that_could_not_save_is_no_run_and_is_done_again(folder, capsys, monkeypatch):
    save_file(dict(build("tiny", classes=3, seed=1).state_dict()), folder / "model.safetensors")
    with monkeypatch.context() as full:
        full.setattr(checkpoint, "ROOM", 1e12)
        error = said(capsys, "import", "model.safetensors", "--run", "mine", code=2)["error"]
    assert "could not be saved" in error and (folder / "runs" / "mine" / "recipe.json").exists()
    assert said(capsys, "import", "model.safetensors", "--run", "mine")["run"] == "runs/mine"
    assert open_run("runs/mine").classes.keys == ("0", "1", "2")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_mean_image_of_no_numbers_is_refused_and_nothing_is_written(value, folder, capsys):
    save_file(dict(build("tiny", classes=3, seed=1).state_dict()), folder / "model.safetensors")
    mean = np.full((3, 73, 73), 100.0)
    mean[1, 2, 3] = value
    np.save(folder / "mean.npy", mean, allow_pickle=False)
    words = ("import", "model.safetensors", "--mean", "mean.npy", "--run", "mine")
    assert said(capsys, *words, code=4)["error"] == "alexnet: mean.npy: holds values that are not finite\n"
    assert not (folder / "runs").exists()


def test_a_mark_before_the_names_of_classes_is_no_part_of_the_first(folder, capsys):
    save_file(dict(build("tiny", classes=3, seed=1).state_dict()), folder / "model.safetensors")
    (folder / "names.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\nc\n")
    said(capsys, "import", "model.safetensors", "--classes", "names.txt", "--run", "mine")
    assert open_run("runs/mine").classes.keys == ("a", "b", "c")
    with (folder / "names.txt").open("wb") as stream:
        stream.truncate((16 << 20) + 1)
    words = ("import", "model.safetensors", "--classes", "names.txt", "--run", "other")
    line = "alexnet: --classes names.txt: 16,777,217 bytes, more than the limit of 16,777,216\n"
    assert said(capsys, *words, code=2)["error"] == line and not (folder / "runs" / "other").exists()


def test_another_file_or_folder_is_refused_and_nothing_is_written(folder, capsys):
    save_file(dict(build("tiny", classes=3, seed=1).state_dict()), folder / "model.safetensors")
    said(capsys, "import", "model.safetensors", "--run", "mine")
    assert "there is a run already" in said(capsys, "import", "model.safetensors", "--run", "mine", code=2)["error"]
    assert "not a model file" in said(capsys, "import", "tiny", code=2)["error"]
    (folder / "names.txt").write_text("a\nb\n")
    words = ("import", "model.safetensors", "--classes", "names.txt", "--run", "x")
    assert "names.txt: 2, and model.safetensors has 3 outputs" in said(capsys, *words, code=2)["error"]
    state = dict(build("tiny", classes=3, seed=1).state_dict())
    state["fc6.weight"] = state["fc6.weight"].T.contiguous()
    save_file(state, folder / "turned.safetensors")
    error = said(capsys, "import", "turned.safetensors", "--run", "turned", code=4)["error"]
    assert "turned.safetensors" in error and "fc6.weight" in error and error.count("\n") == 1
    state["fc6.weight"] = torch.full_like(state["fc6.weight"].T.contiguous(), np.nan)
    save_file(state, folder / "nan.safetensors")
    assert "fc6.weight" in said(capsys, "import", "nan.safetensors", "--run", "nan", code=4)["error"]
    assert sorted(path.name for path in (folder / "runs").iterdir()) == ["mine"]


def test_bgr_becomes_rgb_and_the_answers_stay(folder):
    run = open_run("caffenet", seed=3)
    rng = np.random.default_rng(0)
    mean = rng.uniform(0, 255, (256, 256, 3)).astype(np.float32)
    run.take_mean(mean, "BGR")
    from alexnet.evaluation.oracle import sample, seen

    with torch.no_grad():
        before = run.model(seen(run, sample()))
        run.take_rgb()
        after = run.model(seen(run, sample()))
    assert run.preprocess.colour == "RGB" and np.array_equal(run.mean, mean[:, :, ::-1])
    assert torch.allclose(before, after, atol=1e-4 * float(before.abs().max()))


def test_an_export_says_what_it_cannot(folder, capsys):
    for words, line in (
        (("--format", "torchvision"), "is of variant tiny"),
        (("--format", "caffe", "--uint8"), "--format caffe: not with --uint8"),
        (("--format", "caffe", "--int8"), "--format caffe: not with --int8"),
        (("--format", "caffe"), "tiny: conv1: Caffe has no such layer"),
        (("--format", "keras"), "--format keras: unknown"),
        (("--out", "no/such.onnx"), "there is no folder no"),
        (("--out", "picture.png"), "--out picture.png: expected a name that ends in .onnx"),
    ):
        assert line in said(capsys, "export", "tiny", *words, code=2)["error"]
    assert not [path for path in folder.iterdir() if path.name != "cache"]
