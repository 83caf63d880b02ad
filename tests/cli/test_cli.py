"""The command line as its users meet it: help, one JSON document, exit codes, one line for a mistake."""

import dataclasses
import inspect
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from alexnet.cli import app, main
from alexnet.cli.predict import plain
from alexnet.cli.train import train
from alexnet.data import samples
from alexnet.errors import AlexNetError
from alexnet.training.start import Asked
from tests.pictures import write_folder

ROOT = Path(__file__).parent.parent.parent
FIGURES = ("network", "filters", "predictions", "neighbours", "curves", "views", "augment", "maps", "units",
           "confusion")  # fmt: skip
VERBS = (["train"], ["eval"], ["predict"], ["info"], ["bench"], ["data", "check"], ["data", "stats"],
         ["data", "pack"], ["data", "get"], ["import"], ["export"], ["features"], ["neighbours"], ["compare"], ["probe"],
         ["report"], ["explain"], *(["figure", kind] for kind in FIGURES))  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("ALEXNET_DEBUG", raising=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two classes, the first of a name that a spreadsheet would compute."""
    folder = write_folder(tmp_path_factory.mktemp("pictures"), classes=2, each=15)
    (folder / "class0").rename(folder / "=1+1")
    return folder


def command(pictures: Path, run: Path, *more: object) -> list[str]:
    length = () if "--max-steps" in more else ("--epochs", 1)
    asked = ["train", pictures, "--variant", "tiny", "--kernels", "plain", "--run", run, *length, "--batch-size", 6, "--workers", 1,
             "--precision", "fp32", *more]  # fmt: skip
    return [str(one) for one in asked]


def ended(tokens: list, capsys) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(token) for token in tokens])
    out, err = capsys.readouterr()
    return caught.value.code or 0, out, err


def works(tokens: list, capsys) -> str:
    code, out, err = ended(tokens, capsys)
    assert code == 0, err
    return out


def fails(tokens: list, capsys) -> tuple[int, str]:
    """Exit code and the one line that says why."""
    code, _, err = ended(tokens, capsys)
    assert err.startswith("alexnet: ") and err.endswith("\n") and err.count("\n") == 1, err
    return code, err


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pictures) -> tuple[Path, str, str]:
    """A run, and what `train --json` said on stdout and stderr."""
    run, out, err = tmp_path_factory.mktemp("runs") / "run", io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as caught:
            main(command(pictures, run, "--json"))
    assert not caught.value.code, err.getvalue()
    return run, out.getvalue(), err.getvalue()


def test_help_answers_without_torch():
    program = (
        "import sys\nfrom alexnet.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"  {verb[0]}: " in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_fits_a_screen_and_shows_an_example(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = works([*verb, "--help"], capsys).splitlines()
    assert len(lines) <= 36 and max(map(len, lines)) <= 80
    assert any(line.startswith(f"alexnet {' '.join(verb)} ") for line in lines)


def test_the_verbs_are_those_tested_here():
    there = {name for name in app if not name.startswith("-")}
    assert there == {verb[0] for verb in VERBS}
    for group in ("data", "figure"):
        inside = {name for name in app[group] if not name.startswith("-")}
        assert inside == {verb[1] for verb in VERBS if verb[0] == group}


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_stands_in_the_documentation(verb):
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert any(f"alexnet {' '.join(verb)}" in page.read_text() for page in pages)


@pytest.mark.parametrize(
    ("tokens", "code", "says"),
    [
        (["train", "no/such/folder"], 3, "no/such/folder"),
        (["data", "stats", "no/such/folder"], 3, "no/such/folder"),
        (["predict", "tiny", "no-such.jpg"], 3, "no-such.jpg"),
        (["data", "get", "floers"], 3, "did you mean flowers?"),
        (["train", "digits", "--recipe", "fost"], 2, "fast; did you mean fast?\n"),
        (["train", "digits", "--variant", "papper"], 2, "tiny; did you mean paper?\n"),
        (["train", "digits", "--nonsense"], 2, "nonsense"),
        (["train", "digits", "more"], 2, "more: not expected here"),
        (["train", "digits", "--epochs", "1.5"], 2, "--epochs 1.5: expected a whole number"),
        (["train", "digits", "--seed=1e3"], 2, "--seed 1e3: expected a whole number"),
        (["train", "digits", "--val", "x", "--val-fraction", "0.5"], 2, "--val and --val-fraction"),
        (["eval", "tiny", "digits", "--save-predictions", "x.csv"], 2, "ends in .parquet"),
        (["train", "digits", "--epochs", "many"], 2, "many"),
        (["train", "digits", "--epochs"], 2, "--epochs"),
        (["train", "digits", "--epochs", "0"], 2, "epochs=0"),
        (["train", "digits", "--lr", "nan"], 2, "lr=nan"),
        (["train", "digits", "--set", "lr"], 2, "key=value"),
        (["train", "digits", "--set", "momentun=1"], 2, "did you mean momentum?\n"),
        (["train", "digits", "--set", "lr=fast"], 2, "expected float"),
        (["train", "digits", "--max-time", "20"], 2, "as in 20m"),
        (["train", "digits", "--max-time", "20m", "--epochs", "2"], 2, "--epochs and --max-time"),
        (["train", "digits", "--max-steps", "9", "--epochs", "2"], 2, "--epochs and --max-steps"),
        (["train", "digits", "--set", "schedule=step"], 2, "step_epochs"),
        (["train", "digits", "--set", "momentum=0"], 2, "nesterov"),
        (["train", "digits", "--set", "optimizer=adam-tf1"], 2, "momentum=0.9: optimizer adam-tf1 has none"),
        (["train", "digits", "--set", "freeze=conv1,relu1"], 2, "freeze=relu1: has no weights"),
        (["train", "digits", "--set", "freeze=conv1,conv2,conv3,conv4,conv5,fc6,fc7,fc8"], 2, "every layer is frozen"),
        (["train", "digits", "--weights", "tiny", "--variant", "paper"], 2, "is of variant tiny"),
        (["train", "digits", "--weights", "tiny", "--set", "scale=1"], 2, "--set scale"),
        (["train", "digits", "--bad-images", "keep"], 2, "keep"),
        (["train", "digits", "--device", "tpu"], 2, "tpu"),
        (["train", "digits", "--precision", "fp8"], 2, "fp8"),
        (["train", "digits", "--workers", "-1"], 2, "--workers -1"),
        (["train", "digits", "--save-every", "0"], 2, "--save-every 0"),
        (["train", "digits", "--workers", "1000000000"], 2, "--workers 1000000000"),
        (["train", "digits", "--batch-size", "1000000000"], 2, "batch_size=1000000000"),
        (["train", "digits", "--accumulate", "1000000000"], 2, "--accumulate 1000000000"),
        (["train", "digits", "--max-steps", "1" + 30 * "0"], 2, "--max-steps"),
        (["train", "digits", "--epochs", "1" + 30 * "0"], 2, "epochs=1000"),
        (["train", "digits", "--epochs", "1000000", "--batch-size", "1"], 2, "epochs: "),
        (["train", "digits", "--max-time", 400 * "9" + "d"], 2, "--max-time"),
        (["train", "digits", "--lr", "inf"], 2, "lr=inf"),
        (["train", "digits", "--lr=-inf"], 2, "lr=-inf"),
        (["train", "digits", "--lr", "1e300"], 2, "lr=1e+300"),
        (["train", "digits", "--set", "lr=1e999"], 2, "lr=inf"),
        (["train", "digits", "--set", "weight_decay=nan"], 2, "weight_decay=nan"),
        (["train", "digits", "--set", "bias_lr=1e308"], 2, "bias_lr=1e+308"),
        (["train", "digits", "--set", "step_epochs=-5"], 2, "step_epochs=-5"),
        (["train", "digits", "--set", "optimizer=!!python/object/apply:os.system [touch x]"], 2, "optimizer=!!python"),
        (["train", "digits", "--set", "variant={_target_: os.system}"], 2, "_target_"),
        (["train", "digits", "--set", "_target_=os.system"], 2, "--set _target_: unknown"),
        (["train", "digits", "--set", "freeze=__import__('os').system('touch x')"], 2, "__import__"),
        (["train", "digits", "--val-fraction", "nan"], 2, "--val-fraction nan"),
        (["train", "digits", "--kernels", "fast"], 2, "--kernels fast"),
        (["train", "digits", "--variant", "bn", "--accumulate", "2"], 2, "with bn"),
        (["trian"], 2, "trian"),
        (["data", "gets"], 2, "gets"),
        (["eval"], 2, "RUNS"),
        (["eval", "no-such-run"], 2, "tiny)\n"),
        (["eval", "Torchvison"], 2, "tiny); did you mean torchvision?\n"),
        (["eval", "imagnet", "digits"], 2, "did you mean imagenet?\n"),
        (["eval", "tiny"], 2, "name the pictures"),
        (["eval", "tiny", "--views", "3"], 2, "--views 3"),
        (["eval", "tiny", "--min-top1", "70"], 2, "--min-top1"),
        (["eval", "tiny", "digits", "--batch-size", "0"], 2, "--batch-size 0"),
        (["eval", "tiny", "digits", "--workers", "-1"], 2, "--workers -1"),
        (["eval", "tiny", "digits", "--workers", "1000000000"], 2, "--workers 1000000000"),
        (["eval", "tiny", "digits", "--batch-size", "1000000000"], 2, "--batch-size 1000000000"),
        (["eval", "tiny", "digits", "--min-top1", "nan"], 2, "--min-top1 nan"),
        (["eval", "tiny", "digits", "--variant", "paper"], 2, "--variant paper: tiny is of variant tiny"),
        (["predict", "tiny"], 2, "PICTURES"),
        (["predict", "tiny", "x.jpg", "-k", "0"], 2, "-k 0"),
        (["predict", "tiny", "x.jpg", "--jsno"], 2, "--jsno: unknown option"),
        (["predict", "tiny", "--jsno", "x.jpg"], 2, "--jsno: unknown option"),
        (["predict", "tiny", "x.jpg", "--json", "--csv"], 2, "one of them"),
        (["info"], 2, "requires an argument"),
        (["info", "papper"], 2, "did you mean paper?"),
        (["info", "resnet"], 2, "no variant of that name (article, paper, "),
        (["info", "tiny", "--variant", "paper"], 2, "--variant paper: tiny is of variant tiny"),
        (["info", "paper", "--diff", "papper"], 2, "papper"),
        (["info", "paper", "--classes", "0"], 2, "--classes 0"),
        (["info", "tiny", "--variant", "paper"], 2, "--variant paper: tiny is of variant tiny"),
        (["data", "stats", "digits", "--workers", "0"], 2, "--workers 0"),
        (["data", "stats", "digits", "--workers", "1000000000"], 2, "--workers 1000000000"),
        (["data", "pack", "digits", "out", "--workers", "1000000000"], 2, "--workers 1000000000"),
        (["data", "pack", "digits"], 2, "requires an argument"),
        (["data", "pack", "no/such/folder", "out"], 3, "no/such/folder"),
        (["data", "pack", "digits", "out", "--workers", "0"], 2, "--workers 0"),
        (["bench"], 2, "requires an argument"),
        (["bench", "lrm"], 2, "lrm"),
        (["bench", "lrn", "--repeats", "0"], 2, "--repeats 0"),
        (["bench", "step", "--batch-size", "0"], 2, "--batch-size 0"),
        (["bench", "lrn", "--batch-size", "4"], 2, "--batch-size: bench lrn"),
        (["data", "pack", ".", "./out"], 2, "lies in ."),
        (["bench", "data"], 2, "wants a folder"),
        (["bench", "lrn", "here"], 2, "takes no here"),
        (["bench", "data", "no/such/folder"], 3, "no/such/folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_an_exit_code(tokens, code, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    got, said = fails(tokens, capsys)
    assert got == code and says in said
    assert not list(tmp_path.iterdir()), "a mistake leaves nothing behind"


def test_debug_shows_where_it_happened(monkeypatch, capsys):
    monkeypatch.setenv("ALEXNET_DEBUG", "1")
    code, _, err = ended(["info", "papper"], capsys)
    assert code == 2 and "Traceback" in err and err.splitlines()[-1].startswith("alexnet: ")


def test_a_fault_of_the_programs_own_is_not_hidden(monkeypatch):
    monkeypatch.setattr("alexnet.cli.info.lookup", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["info", "paper"])


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (AlexNetError("x"), 1),
        (MemoryError(), 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 1),
        (PermissionError(13, "Permission denied", "/a/file"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=repr,
)
def test_other_ends(fault, code, monkeypatch, capsys):
    def ending(name: str) -> None:
        raise fault

    monkeypatch.setattr("alexnet.cli.info.lookup", ending)
    got, out, err = ended(["info", "paper"], capsys)
    assert got == code and not out and err.startswith("alexnet: ") and err.count("\n") == 1


def test_info_prints_one_document(capsys, monkeypatch):
    said = json.loads(works(["info", "tiny", "--classes", "10", "--json"], capsys))
    assert {"variant", "parameters", "macs", "neurons", "input", "layers"} <= said.keys()
    assert said["input"] == [3, 64, 64] and said["variant"] == "tiny"
    for layer in said["layers"]:
        assert {"name", "kind", "out", "parameters", "macs", "receptive_field"} <= layer.keys()
    assert sum(layer["parameters"] for layer in said["layers"]) == said["parameters"]
    different = json.loads(works(["info", "paper", "--diff", "caffe", "--json"], capsys))
    assert different["variants"] == ["paper", "caffe"] and different["differences"]
    monkeypatch.setenv("COLUMNS", "300")
    said = works(["info", "paper", "--diff", "caffe"], capsys)
    for once in (
        "[CAFFE] bvlc_alexnet",
        "[K12] 3.3: alpha times the sum",
    ):  # of a layer's rows the first has its source
        assert said.count(once) == 1
    assert said.count("conv2") == 1 and said.count("norm2") == 3 and said.count("[CAFFE] as norm1") == 1


def test_train_prints_one_document(trained):
    run, out, err = trained
    said = json.loads(out)
    assert {"run", "best", "last", "seconds", "images_per_second", "stopped"} <= said.keys()
    assert said["run"] == str(run) and said["stopped"] == "done"
    assert {"step", "top1", "top5"} <= said["best"].keys() and {"step", "top1", "top5"} <= said["last"].keys()
    assert 0 <= said["best"]["top1"] <= said["best"]["top5"] == 1
    assert "epoch" in err, "what is for a person is on stderr"


def test_eval_prints_one_document(trained, capsys):
    run, out, _ = trained
    said = json.loads(works(["eval", run, "--json"], capsys))
    assert {
        "top1", "top5", "top1_error", "top5_error", "top1_interval", "mean_class_accuracy", "loss", "count", "views",
        "bad_images", "models",
    } <= said.keys()  # fmt: skip
    assert said["count"] == 6 and said["views"] == 1 and said["models"] == [str(run)] and said["bad_images"] == 0
    assert said["top1"] == json.loads(out)["best"]["top1"] == pytest.approx(1 - said["top1_error"])
    low, high = said["top1_interval"]
    assert low <= said["top1"] <= high


def test_predict_prints_one_document(trained, pictures, capsys):
    said = json.loads(works(["predict", trained[0], pictures / "class1", "--json", "-k", "1"], capsys))
    assert len(said) == 15 and [one["path"] for one in said] == sorted(one["path"] for one in said)
    for one in said:
        assert one.keys() >= {"path", "predictions"} and len(one["predictions"]) == 1
        assert one["predictions"][0].keys() >= {"index", "label", "probability"}
        assert 0.5 <= one["predictions"][0]["probability"] <= 1 and one["predictions"][0]["label"] in ("=1+1", "class1")


def test_stats_prints_one_document(pictures, capsys):
    said = json.loads(works(["data", "stats", pictures, "--variant", "tiny", "--json"], capsys))
    assert said["train"] == 24 and said["val"] == 6 and len(said["classes"]) == 2 and len(said["mean"]) == 3
    assert said["height"] == [80, 80.0, 80] and said["stored"] == 73


def test_pack_prints_one_document_and_opens(pictures, tmp_path, capsys):
    out = tmp_path / "packed"
    said = json.loads(works(["data", "pack", pictures, out, "--form", "raw", "--variant", "tiny", "--verify", "--json"],
                            capsys))  # fmt: skip
    assert said == json.loads((out / "pack.json").read_text())
    assert said["sets"]["train"]["count"] == 24 and said["sets"]["val"]["count"] == 6
    assert "24 pictures in" in works(["data", "pack", pictures, out, "--form", "raw", "--variant", "tiny"], capsys)
    code, said = fails(["data", "pack", pictures, out, "--variant", "tiny"], capsys)
    assert code == 2 and "a pack of form raw" in said


def test_a_bad_picture_to_pack_or_to_train_on_names_the_way_out(pictures, tmp_path, capsys):
    shutil.copytree(pictures, tmp_path / "set")
    for path in (tmp_path / "set").rglob("*.jpg"):
        path.write_bytes(b"x" * 20)
    code, said = fails(["data", "pack", tmp_path / "set", tmp_path / "out", "--variant", "tiny"], capsys)
    assert code == 3 and said.endswith(".jpg: not a picture of a known kind, expected JPEG, PNG, WebP, GIF or BMP; "
                                       "--bad-images skip leaves such pictures out\n")  # fmt: skip
    tokens = command(tmp_path / "set", tmp_path / "run", "--recipe", "article", "--max-steps", 2)
    code, _, err = ended(tokens, capsys)
    assert code == 3 and err.endswith("; --bad-images skip leaves such pictures out\n")


def test_predict_from_standard_input_equals_the_file(trained, pictures, capsys, monkeypatch):
    picture = pictures / "class1" / "000.png"
    from_file = json.loads(works(["predict", trained[0], picture, "--json"], capsys))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(picture.read_bytes())))
    piped = json.loads(works(["predict", trained[0], "-", "--json"], capsys))
    assert piped == [{"path": "-", "predictions": from_file[0]["predictions"]}]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    code, said = fails(["predict", trained[0], "-"], capsys)
    assert code == 3 and "-: " in said
    monkeypatch.setattr(samples, "MOST_BYTES", 10)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(picture.read_bytes())))
    code, said = fails(["predict", trained[0], "-"], capsys)
    assert code == 3 and "-: more than the limit of 10 bytes" in said


def test_no_spreadsheet_computes_what_is_printed(trained, pictures, tmp_path, capsys, monkeypatch):
    for start in "=+-@":
        assert plain(f"{start}1+1") == f"'{start}1+1"
    assert plain("rose=1") == "rose=1"
    monkeypatch.chdir(tmp_path)
    shutil.copy(pictures / "class1" / "000.png", "=cmd.png")
    rows = [line.split(",") for line in works(["predict", trained[0], "=cmd.png", "--csv"], capsys).splitlines()]
    assert rows[0] == ["path", "rank", "index", "label", "probability"] and len(rows) == 3
    assert {row[3] for row in rows[1:]} == {"'=1+1", "class1"}
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row)


def test_a_corrupt_picture_is_named(trained, pictures, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes((pictures / "class1" / "001.jpg").read_bytes()[:300])
    code, said = fails(["predict", trained[0], bad], capsys)
    assert code == 3 and "bad.jpg" in said
    folder = tmp_path / "data" / "class1"
    folder.mkdir(parents=True)
    bad.rename(folder / "bad.jpg")
    code, said = fails(["eval", trained[0], folder.parent], capsys)
    assert code == 3 and "bad.jpg" in said


def test_a_bad_picture_among_others(trained, pictures, tmp_path, capsys):
    for name in ("000.png", "001.jpg", "003.jpg"):
        shutil.copy(pictures / "class1" / name, tmp_path / name)
    (tmp_path / "001.jpg").write_bytes(b"\xff\xd8 no picture")
    for form in ((), ("--json",), ("--csv",)):
        code, out, err = ended(["predict", trained[0], tmp_path, "-k", 1, *form], capsys)
        assert code == 3 and "000.png" in out and "003.jpg" in out
        first, last = err.splitlines()
        assert first.startswith("bad image ") and "001.jpg: " in first
        assert last == "alexnet: 1 of 3 pictures could not be decoded"
    code, out, _ = ended(["predict", trained[0], tmp_path, "-k", 1, "--json"], capsys)
    said = json.loads(out)
    assert [len(one["predictions"]) for one in said] == [1, 0, 1] and "error" in said[1] and "error" not in said[0]


def test_stats_names_the_bad_pictures(pictures, tmp_path, capsys):
    shutil.copytree(pictures, tmp_path / "set")
    for path in sorted((tmp_path / "set").rglob("*.jpg")):
        path.write_bytes(b"\xff\xd8 no picture")
    said = json.loads(works(["data", "stats", tmp_path / "set", "--variant", "tiny", "--json"], capsys))
    assert said["bad_images"] == len(said["bad"]) > 0
    assert all(one["path"].endswith(".jpg") and one["reason"] for one in said["bad"])
    shown = works(["data", "stats", tmp_path / "set", "--variant", "tiny"], capsys)
    assert all(f"bad, left out: {one['path']}: {one['reason']}" in shown for one in said["bad"])


def test_a_run_is_looked_for_where_train_puts_it(trained, tmp_path, capsys, monkeypatch):
    shutil.copytree(trained[0], tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    assert fails(["eval", "mine"], capsys)[1].endswith("; runs/mine is one\n")
    assert not fails(["eval", "yours"], capsys)[1].endswith("is one\n")


def test_a_damaged_checkpoint_is_named(trained, tmp_path, capsys):
    shutil.copytree(trained[0], tmp_path / "run")
    best = tmp_path / "run" / "checkpoints" / (tmp_path / "run" / "best").read_text().strip()
    content = bytearray((best / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (best / "model.safetensors").write_bytes(content)
    for where in (tmp_path / "run", best):
        code, said = fails(["eval", where], capsys)
        assert code == 4 and "model.safetensors" in said


def test_a_gate_missed_still_gives_the_result(trained, pictures, tmp_path, capsys):
    wrong = tmp_path / "data"  # each picture under the other's class, so that one of both sets is below the gate
    shutil.copytree(pictures / "=1+1", wrong / "class1")
    shutil.copytree(pictures / "class1", wrong / "=1+1")
    ends = {}
    right = tmp_path / "right"  # the same under other names than those trained on
    for name in ("=1+1", "class1"):
        for path in (pictures / name).iterdir():
            (right / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, right / name / f"again-{path.name}")
    for data in (wrong, right):
        code, out, err = ended(["eval", trained[0], data, "--min-top1", "0.51", "--json"], capsys)
        top1 = json.loads(out)["top1"]
        assert json.loads(out)["count"] == 30 and code == (0 if top1 >= 0.51 else 6)
        assert not err if code == 0 else err.startswith("alexnet: top-1 is") and err.count("\n") == 1
        ends[code] = top1
    assert 6 in ends
    assert works(["eval", trained[0], "--min-top1", "0"], capsys).startswith("top-1 accuracy")


def test_a_loss_that_is_no_number(pictures, tmp_path, capsys):
    code, said = fails(command(pictures, tmp_path / "run", "--lr", "1e9"), capsys)
    assert code == 5 and "step" in said and "--lr" in said


def test_a_refused_continuation_lists_what_differs(trained, pictures, capsys):
    code, _, err = ended(command(pictures, trained[0], "--lr", "0.5", "--seed", "3"), capsys)
    lines = err.splitlines()
    assert code == 2 and lines[0].startswith("alexnet: ") and "other settings" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["lr", "seed"]
    assert "0.5 (--lr) asked" in lines[1]


def test_a_signal_saves_and_the_same_command_goes_on(pictures, tmp_path, capsys):
    run = tmp_path / "run"
    asked = command(pictures, run, "--max-steps", 400, "--json")
    child = subprocess.Popen(
        [sys.executable, "-m", "alexnet", *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    end = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < end:
        if (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size > 1000:
            break
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 75, err
    said = json.loads(out)
    assert said["stopped"] == "signal" and said["run"] == str(run)
    assert err.splitlines()[-1].startswith("alexnet: ") and "run it again to go on" in err and "Traceback" not in err
    at = int((run / "last").read_text().strip().removeprefix("step-").removesuffix("-unjudged"))
    assert 0 < at < 400
    shorter = command(pictures, run, "--max-steps", at + 4, "--json")
    code, out, err = ended(shorter, capsys)
    assert code == 0 and f"goes on from step {at} of {at + 4}" in err
    assert json.loads(out)["last"]["step"] == at + 4 and json.loads(out)["stopped"] == "done"


def test_a_second_signal_ends_it_at_once():
    program = (
        "import signal\nfrom alexnet import stop\nwith stop.watch():\n"
        "    signal.raise_signal(signal.SIGTERM)\n    assert stop.requested()\n    print('saving', flush=True)\n"
        "    signal.raise_signal(signal.SIGINT)\n    print('never')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 130 and done.stdout == "saving\n" and not done.stderr


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
def test_a_reader_that_has_gone_is_no_fault(form):
    # unbuffered, nothing is left to fail in the interpreter's last moments
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "alexnet", "info", "paper", *form], stdout=write, stderr=subprocess.PIPE, text=True,
            check=False, env=buffered,
        )  # fmt: skip
    finally:
        os.close(write)
    assert done.stderr == "" and done.returncode == 0


def test_a_training_goes_on_when_its_reader_has_gone(pictures, tmp_path):
    run = tmp_path / "run"
    program = subprocess.Popen(
        [sys.executable, "-m", "alexnet", *command(pictures, run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=ROOT,
    )  # fmt: skip
    with program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.readline()
        program.stdout.close()
        said = program.stderr.read()
    assert program.returncode == 0 and "Traceback" not in said
    assert json.loads((run / "recipe.json").read_text())["steps"]["value"] == 4 and (run / "best").exists()


def test_names_are_printed_as_they_are(trained, pictures, tmp_path, capsys):
    """A class whose name a console would take for markup, or for a picture of a bee."""
    odd = tmp_path / "set"
    shutil.copytree(pictures / "class1", odd / "cat [tabby]")
    shutil.copytree(pictures / "=1+1", odd / "[bold]x :bee:")
    said = works(["data", "stats", odd, "--variant", "tiny"], capsys)
    assert "cat [tabby]" in said and "[bold]x :bee:" in said
    run = tmp_path / "run"
    works(command(odd, run), capsys)
    said = works(["eval", run, "--per-class"], capsys)
    assert "cat [tabby]" in said and "[bold]x :bee:" in said


def test_a_wrong_path_for_the_predictions_does_not_lose_the_result(trained, tmp_path, capsys):
    (tmp_path / "file").touch()
    code, out, err = ended(["eval", trained[0], "--save-predictions", tmp_path / "file" / "x.parquet"], capsys)
    assert code == 2 and out.startswith("top-1 accuracy") and err.startswith("alexnet: --save-predictions")


def test_nothing_but_bad_pictures_is_no_result(trained, tmp_path, capsys):
    for name in ("=1+1", "class1"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "x.jpg").write_bytes(b"no picture")
    code, said = fails(["eval", trained[0], tmp_path / "set", "--bad-images", "skip", "--json"], capsys)
    assert code == 3 and "none of 2 images" in said


def test_the_defaults_are_written_once():
    """`train`'s options say what the record that is kept says, or its origins would lie."""
    options = inspect.signature(train).parameters
    for field in dataclasses.fields(Asked):
        if field.name not in ("data", "set"):
            assert options[field.name].default == field.default, field.name
    assert not set(options) - {field.name for field in dataclasses.fields(Asked)} - {"dry_run", "json"}


@pytest.fixture
def ill(tmp_path) -> Path:
    """Two classes, one picture in both parts, one truncated, of a class whose name a spreadsheet would compute."""
    folder = write_folder(tmp_path / "ill", classes=2, each=8)
    (folder / "class0").rename(folder / "=1+1")
    broken = folder / "=1+1" / "000.png"
    broken.write_bytes(broken.read_bytes()[:900])
    for number in range(2, 8):  # the fifth of them that is held out holds one, whichever it is
        shutil.copy(folder / "class1" / "001.jpg", folder / "class1" / f"00{number}.jpg")
    return folder


def test_check_says_nothing_of_a_sound_set(tmp_path, capsys):
    write_folder(tmp_path / "sound", classes=2, each=6)
    said = works(["data", "check", tmp_path / "sound"], capsys)
    assert "12 pictures, 9 to train on, 3 held out" in said and said.endswith("nothing found\n")
    document = json.loads(works(["data", "check", tmp_path / "sound", "--json"], capsys))
    assert {name: document[name] for name in ("images", "problems", "duplicates", "faults", "leaked")} == {
        "images": 12, "problems": [], "duplicates": [], "faults": 0, "leaked": 0}  # fmt: skip
    assert [row["class"] for row in document["classes"]] == ["class0", "class1"]


def test_check_names_what_is_wrong_and_exits_with_3(ill, tmp_path, capsys):
    code, out, err = ended(["data", "check", ill, "--json", "--html", tmp_path / "page.html"], capsys)
    assert code == 3 and err.count("\nalexnet: ") == 1 and "1 truncated" in err
    document = json.loads(out)
    (broken,) = [one for one in document["problems"] if one["kind"] == "truncated"]
    assert broken["path"] == str(ill / "=1+1" / "000.png") and broken["fault"] and "damaged PNG" in broken["detail"]
    assert document["leaked"] >= 1 and len(document["duplicates"][0]["paths"]) == 7
    assert document["leaked_share"] == document["leaked"] / document["val"]
    page = (tmp_path / "page.html").read_text()
    assert "truncated (1)" in page and "data:image/jpeg;base64," in page
    code, out, _ = ended(["data", "check", ill], capsys)
    assert code == 3 and f"  {broken['path']}: damaged PNG" in out and "held-out pictures (" in out


def test_check_of_too_few_to_hold_some_out_is_of_one_set(tmp_path, capsys):
    write_folder(tmp_path / "few", classes=2, each=1)
    said = works(["data", "check", tmp_path / "few"], capsys)
    assert "too few pictures to hold some out, as a training would; checked as one set\n" in said
    assert "2 pictures, 2 to train on, 0 held out" in said
    assert json.loads(works(["data", "check", tmp_path / "few", "--json"], capsys))["images"] == 2


def test_check_writes_down_what_it_would_move_as_no_spreadsheet_computes(ill, capsys, monkeypatch):
    monkeypatch.chdir(ill)
    code, out, err = ended(["data", "check", ".", "--fix", "report", "--val-fraction", "0"], capsys)
    assert code == 3 and "ill-bad.csv: the 1 picture with a fault\n" in out and ".: 1 fault: 1 truncated" in err
    rows = (ill.parent / "ill-bad.csv").read_text().splitlines()
    assert rows[0] == "path,to,kind,detail" and rows[1].startswith(
        f"'=1+1/000.png,{ill}-bad/=1+1/000.png,truncated,damaged PNG"
    )
    assert len(rows) == 2


def test_check_moves_faulty_files_beside_the_data(ill, capsys):
    before = {path.read_bytes() for path in ill.rglob("*.*")}
    code, out, _ = ended(["data", "check", ill, "--fix", "move"], capsys)
    assert code == 3 and f"pictures moved into {ill}-bad, none deleted" in out
    bad = ill.parent / "ill-bad"
    assert (bad / "=1+1" / "000.png").is_file() and not (ill / "=1+1" / "000.png").exists()
    assert {path.read_bytes() for folder in (ill, bad) for path in folder.rglob("*.*")} == before
    assert fails(["data", "check", "digits", "--fix", "move"], capsys)[0] == 2
    listed = ill.parent / "list.txt"
    listed.write_text("ill/class1/000.png b\nill/class1/002.png a\nill/=1+1/001.jpg a\nill/=1+1/002.png b\n")
    code, said = fails(["data", "check", listed, "--fix", "move"], capsys)
    assert code == 2 and "list.txt is no folder of pictures" in said


def test_check_refuses_what_it_cannot_write_before_it_begins(ill, capsys):
    code, said = fails(["data", "check", ill, "--html", ill / "picture.jpg"], capsys)
    assert code == 2 and said.endswith("picture.jpg: expected a name that ends in .html\n")
    code, said = fails(["data", "check", ill, "--html", ill / "no" / "page.html"], capsys)
    assert code == 2 and "there is no folder" in said


def test_check_is_stopped_by_a_signal(ill, capsys, monkeypatch):
    from alexnet.data import check as checking

    def look(*asked):
        if (number := next(signals, None)) is not None:  # a second one would end this process
            os.kill(os.getpid(), number)
        return looked(*asked)

    signals, looked = iter([signal.SIGTERM]), checking._look
    monkeypatch.setattr("alexnet.stop._asked", False)  # and so again afterwards: other tests run in this process
    monkeypatch.setattr(checking, "_look", look)
    code, said = fails(["data", "check", ill], capsys)
    assert code == 75 and "stopped while checking" in said


def test_check_needs_no_torch():
    program = "import sys\nimport alexnet.data.check, alexnet.data.sheet, alexnet.data.sources\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
