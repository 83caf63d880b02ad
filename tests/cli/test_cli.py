import json
import subprocess
import sys

import pytest

from alexnet.cli import main
from tests.pictures import write_folder

VERBS = (["train"], ["eval"], ["predict"], ["info"], ["data", "stats"], ["data", "get"])


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("pictures"), classes=2, each=12)


def works(tokens, capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(token) for token in tokens])
    assert not ended.value.code
    return capsys.readouterr().out


def fails(tokens, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(token) for token in tokens])
    return ended.value.code, capsys.readouterr().err


def test_help_answers_without_torch():
    program = (
        "import sys\nfrom alexnet.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(verb[0] in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_fits_a_screen(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        main([*verb, "--help"])
        raise SystemExit(0)
    said = capsys.readouterr().out
    assert not ended.value.code
    assert len(said.splitlines()) <= 50
    assert f"alexnet {' '.join(verb)} " in said


@pytest.mark.parametrize(
    ("tokens", "code", "says"),
    [
        (["train", "no/such/folder"], 3, "no/such/folder"),
        (["train", "digits", "--recipe", "fost"], 2, "fost"),
        (["train", "digits", "--variant", "papper"], 2, "papper"),
        (["train", "digits", "--nonsense"], 2, "nonsense"),
        (["train", "digits", "--epochs", "many"], 2, "many"),
        (["trian"], 2, "trian"),
        (["eval", "no-such-run"], 2, "no-such-run"),
        (["predict", "tiny", "no-such.jpg"], 3, "no-such.jpg"),
        (["info", "papper"], 2, "papper"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(tokens, code, says, capsys):
    got, said = fails(tokens, capsys)
    assert got == code
    assert said.startswith("alexnet: ") and said.count("\n") == 1 and says in said


def test_a_corrupt_picture_is_named(pictures, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes((pictures / "class0" / "001.jpg").read_bytes()[:300])
    code, said = fails(["predict", "tiny", bad], capsys)
    assert code == 3 and "bad.jpg" in said and said.count("\n") == 1


def test_train_eval_predict_print_one_document_each(pictures, tmp_path, capsys):
    run = tmp_path / "run"
    asked = ["--variant", "tiny", "--run", run, "--epochs", "1", "--batch-size", "6", "--json"]
    trained = json.loads(works(["train", pictures, *asked], capsys))
    assert {"run", "best", "last", "seconds", "images_per_second", "stopped"} <= set(trained)
    judged = json.loads(works(["eval", run, "--json"], capsys))
    assert {
        "top1", "top5", "top1_error", "top5_error", "top1_interval", "mean_class_accuracy", "loss", "count", "views",
        "bad_images", "models",
    } <= set(judged)  # fmt: skip
    seen = json.loads(works(["predict", run, pictures / "class1", "--json", "-k", "1"], capsys))
    assert len(seen) == 12 and set(seen[0]) == {"path", "predictions"}
    assert set(seen[0]["predictions"][0]) == {"index", "label", "probability"}
    if judged["top1"] < 1:
        code, said = fails(["eval", run, "--min-top1", "1.0"], capsys)
        assert code == 6 and "below" in said
    last = run / "checkpoints" / (run / "last").read_text().strip() / "model.safetensors"
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    code, said = fails(["eval", last.parent], capsys)
    assert code == 4 and "model.safetensors" in said
