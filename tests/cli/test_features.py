"""`alexnet features`, `neighbours`, `compare` and `probe`, as they are typed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from alexnet.cli import main
from alexnet.evaluation.feature_files import read_features
from alexnet.network.build import build
from tests.pictures import write_folder


def ended(*words: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Pictures, a run trained on them, and one of the same weights that came as a model file."""
    folder = tmp_path_factory.mktemp("place")
    write_folder(folder / "set", classes=3, each=8)
    (folder / "set" / "class0" / "000.png").rename(folder / "set" / "class0" / "=a.png")
    save_file(dict(build("tiny", classes=3, seed=1).state_dict()), folder / "model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ALEXNET_CACHE", str(folder / "cache"))
        assert ended("train", "set", "--variant", "tiny", "--kernels", "plain", "--run", "mine", "--epochs", 1,
                     "--batch-size", 6, "--workers", 1, "--precision", "fp32") == 0  # fmt: skip
        assert ended("import", "model.safetensors", "--run", "theirs", "--classes", "set") == 0
    return folder


@pytest.fixture(autouse=True)
def _here(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setenv("ALEXNET_CACHE", str(place / "cache"))
    capsys.readouterr()


def said(capsys, *words: object) -> dict | list:
    """The one document of a command."""
    code = ended(*words, "--json")
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def fails(capsys, *words: object) -> tuple[int, str]:
    code = ended(*words)
    out, err = capsys.readouterr()
    assert not out and err.startswith("alexnet: ") and err.count("\n") == 1, err
    return code, err


def test_features_of_what_a_run_held_out(capsys):
    found = said(
        capsys, "features", "runs/mine", "--layers", "conv5:relu,fc7,features.0", "--out", "own.npz", "--workers", 1
    )
    assert (found["file"], found["index"], found["count"], found["bad_images"]) == ("own.npz", None, 5, 0)
    assert found["layers"] == [
        {"name": "conv5:relu", "layer": "relu5", "shape": [32, 3, 3]},
        {"name": "fc7", "layer": "fc7", "shape": [512]},
        {"name": "features.0", "layer": "conv1", "shape": [12, 15, 15]},
    ]
    assert found["bytes"] == Path("own.npz").stat().st_size
    held = json.loads(Path("runs/mine/data.json").read_text())["split"]["val_names"]
    assert sorted(read_features(Path("own.npz")).keys) == sorted(held)


@pytest.mark.parametrize("run", ["runs/theirs", "model.safetensors", "tiny"])
def test_every_verb_takes_a_network_of_another_world(run, capsys, tmp_path):
    """Nothing is known of its pictures: they are named."""
    out = tmp_path / "f.npy"
    found = said(
        capsys, "features", run, "set", "--out", out, "--workers", 1, *(["--variant", "tiny"] if "model" in run else [])
    )
    assert found["index"] == f"{out}.json" and found["count"] == 24
    near = said(capsys, "neighbours", run, "set/class1/000.png", "--among", out, "-k", 2)
    assert near[0].keys() == {"path", "neighbours"} and near[0]["path"] == "set/class1/000.png"
    assert [one.keys() for one in near[0]["neighbours"]] == [{"path", "label", "distance"}] * 2
    assert near[0]["neighbours"][0]["path"] == "class1/000.png" and near[0]["neighbours"][0]["label"] == "class1"
    alike = said(capsys, "compare", out, out)
    assert alike["layers"][0]["cka"] == pytest.approx(1) and alike["count"] == 24
    probed = said(capsys, "probe", out, "--val-fraction", "0.25")
    assert (probed["train"], probed["test"]) == (18, 6)
    assert probed["layers"][0].keys() == {"layer", "shape", "probed", "knn", "linear"}
    if run != "tiny":
        code, err = fails(capsys, "features", run, "--out", tmp_path / "g.npy")
        assert code == 2 and "has no data of its own" in err
        pair = said(capsys, "compare", run, "runs/mine")
        assert pair["count"] == 5 and pair["pictures"] == "held out"
        assert {"agreement", "both", "only_first", "only_second", "neither", "p", "only_first_right"} <= pair.keys()


def test_neighbours_of_pictures_among_a_folder(capsys):
    found = said(
        capsys,
        "neighbours",
        "runs/mine",
        "set/class0",
        "--among",
        "set",
        "-k",
        3,
        "--metric",
        "cosine",
        "--layer",
        "conv5:relu",
    )
    assert len(found) == 8
    for one in found:
        paths = [near["path"] for near in one["neighbours"]]
        assert one["path"] == paths[0] and all(Path(path).is_file() for path in paths) and len(paths) == 3
        distances = [near["distance"] for near in one["neighbours"]]
        assert distances == sorted(distances) and distances[0] < 1e-5
    assert said(capsys, "neighbours", "runs/mine", "set/class0", "--among", "set", "-k", 3, "--metric", "cosine", "--layer", "conv5:relu",
                "--index", "faiss")[2]["neighbours"][1]["path"] == found[2]["neighbours"][1]["path"]  # fmt: skip


def test_what_a_person_sees(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        write_folder(tmp_path / "set" / name, classes=1, each=2)
    (tmp_path / "set" / "outside.png").write_bytes(b"x")
    (tmp_path / "set" / "a" / "class0" / "000.png").write_bytes(b"x")
    assert (
        ended("features", "tiny", tmp_path / "set", "--out", tmp_path / "f.npy", "--bad-images", "skip", "--views", 10)
        == 0
    )
    out, err = capsys.readouterr()
    assert "f.npy: 3 pictures, " in out and "  fc7: 3 x 10 x 512" in out and "f.npy.json: their names" in out
    assert "left out, outside the class folders: 1, as outside.png" in err and "bad image, left out: " in err
    code, err = fails(capsys, "features", "tiny", tmp_path / "set" / "a", "--out", tmp_path / "g.npy")
    assert code == 3 and err.endswith("; --bad-images skip leaves such pictures out\n")
    assert ended("features", "runs/mine", "set", "--layers", "conv1,fc7", "--out", tmp_path / "h.npz") == 0
    assert ended("neighbours", "runs/mine", "set/class1/000.png", "--among", tmp_path / "h.npz", "-k", 1) == 0
    assert ended("compare", tmp_path / "h.npz", tmp_path / "h.npz", "--pictures", 10) == 0
    assert ended("compare", "runs/mine", "runs/theirs") == 0
    assert ended("probe", tmp_path / "h.npz") == 0
    assert ended("probe", "--train", tmp_path / "h.npz", "--test", tmp_path / "h.npz") == 0
    out, _ = capsys.readouterr()
    for words in ("class1/000.png  (class1)", "24 pictures in both, 10 of them taken; RDMs of correlation", "5 pictures held out by both",
                  "24 of the pictures to judge by are among those to train on by name",
                  "p = ", "(McNemar, exact)", "19 pictures to train on, 5 to judge by (0.2 of each class held out, seed 0), 3 classes"):  # fmt: skip
        assert words in out, words


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("features tiny set --layers conv9 --out f.npy", 2, "no layer 'conv9'; known: conv1"),
        ("features tiny set --layers conv3:norm --out f.npy", 2, "conv3 has :pre, :relu"),
        ("features tiny set --layers fc6,fc7 --out f.npy", 2, "holds one layer, not 2"),
        ("features tiny set --out f.txt", 2, "ends in .npy"),
        ("features tiny set --out none/f.npy", 2, "there is no folder none"),
        ("features tiny set", 2, "--out"),
        ("features tiny set --views 2 --out f.npy", 2, "--views 2"),
        ("features tiny set --dtype float64 --out f.npy", 2, "float64"),
        ("features tiny set --batch-size 0 --out f.npy", 2, "--batch-size 0"),
        ("features tiny set --workers -1 --out f.npy", 2, "--workers -1"),
        ("features tiny nothing --out f.npy", 3, "nothing"),
        ("features tiny set --jsno --out f.npy", 2, "--jsno: unknown option"),
        ("features papper set --out f.npy", 2, "did you mean paper?"),
        ("features tiny --out f.npy", 2, "has no data of its own"),
        ("neighbours tiny set/class1/000.png", 2, "--among"),
        ("neighbours tiny set/class1/000.png --among nothing", 3, "nothing"),
        ("neighbours tiny set/class1/none.png --among set", 3, "none.png"),
        ("neighbours tiny set/class1/000.png --among set -k 0", 2, "-k 0"),
        ("neighbours tiny set/class1/000.png --among set --metric l1", 2, "l1"),
        ("compare tiny nothing", 2, "nothing: neither"),
        ("compare own.npz tiny", 2, "two of one kind"),
        ("compare tiny tiny --layers fc7", 2, "--layers: of two files"),
        ("compare tiny tiny --pictures 100 --metric cosine", 2, "--metric, --pictures: of two files of features; two runs take --data, --views"),
        ("compare broken.npz broken.npz --views 1", 2, "--views: of two runs; two files of features take --layers, --metric, --pictures"),
        ("compare broken.npz broken.npz --bad-images skip --batch-size 64 --variant tiny --device cpu --workers 2 --seed 0", 2,
         "--batch-size, --device, --workers, --bad-images, --seed, --variant: of two runs"),
        ("compare runs/mine runs/theirs --data bad --workers 1 --device cpu", 3, "; --bad-images skip leaves such pictures out"),
        ("compare broken.npz broken.npz", 3, "broken.npz"),
        ("probe", 2, "name one file"),
        ("probe broken.npz --train a.npz --test b.npz", 2, "name one file"),
        ("probe --train broken.npz", 2, "name one file"),
        ("probe broken.npz", 3, "broken.npz"),
        ("probe none.npz", 3, "none.npz: no such file"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_an_exit_code(words, code, says, capsys):
    Path("broken.npz").write_bytes(b"PK\x03\x04 no zip")
    Path("own.npz").touch()
    if "bad" in words.split() and not Path("bad").exists():
        write_folder(Path("bad"), classes=3, each=1)
        (Path("bad") / "class0" / "000.png").write_bytes(b"x")
    before = {path.name for path in Path().iterdir()}
    got, line = fails(capsys, *words.split())
    assert got == code and says in line
    assert {path.name for path in Path().iterdir()} == before, "a mistake leaves nothing behind"


def test_bad_pictures_are_said_of_neighbours_and_of_two_runs(capsys, tmp_path):
    write_folder(tmp_path / "set", classes=3, each=2, seed=4)
    (tmp_path / "set" / "class1" / "000.png").write_bytes(b"x")
    words = ["neighbours", "runs/mine", "set/class1/000.png", "--among", tmp_path / "set", "--bad-images", "skip"]
    for more in ([], ["--json"]):
        assert ended(*words, *more) == 0
        assert f"bad image {tmp_path}/set/class1/000.png: " in capsys.readouterr().err
    assert ended("compare", "runs/mine", "runs/theirs", "--data", tmp_path / "set", "--bad-images", "skip") == 0
    assert "6 pictures, 1 bad picture counted as wrong\n" in capsys.readouterr().out


def test_the_end_of_memory_names_no_option_that_a_command_lacks(capsys, monkeypatch):
    def full(*given: object) -> None:
        raise MemoryError

    monkeypatch.setattr("alexnet.evaluation.feature_files.read_features", full)
    code, line = fails(capsys, "probe", "f.npz")
    assert code == 1 and "out of memory" in line and "where the command has one" in line and "--accumulate" not in line


def test_extras_are_named_where_they_are_missing(capsys, monkeypatch, tmp_path):
    for library, words, extra in (
        ("h5py", ["features", "tiny", "set", "--out", tmp_path / "f.h5"], "features"),
        ("h5py", ["features", "tiny", "set", "--out", tmp_path / "f.mat"], "features"),
        ("faiss", ["neighbours", "tiny", "set/class1/000.png", "--among", "set", "--index", "faiss"], "faiss"),
    ):
        monkeypatch.setitem(sys.modules, library, None)
        code, line = fails(capsys, *words)
        assert code == 2 and f"{library} is not installed (pip install 'alexnet[{extra}]')" in line
    assert ended("features", "tiny", "set", "--out", tmp_path / "f.parquet") == 0


def test_the_same_command_again_is_done_at_once(capsys, tmp_path):
    words = ["features", "runs/mine", "set", "--out", tmp_path / "f.npz"]
    first, before = said(capsys, *words), (tmp_path / "f.npz").stat()
    assert said(capsys, *words) == first and (tmp_path / "f.npz").stat() == before
    code, line = fails(capsys, *words, "--dtype", "float16")
    assert code == 2 and "name another file, or remove it" in line
    values = np.load(tmp_path / "f.npz", allow_pickle=False)["fc7"]
    assert values.shape == (24, 512) and values.std() > 0
