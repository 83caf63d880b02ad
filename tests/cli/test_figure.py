"""`alexnet figure` as its users meet it: every kind of a run, of one that was imported, and what is refused."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from alexnet.cli import main
from alexnet.network.variants import TINY
from alexnet.weights.checkpoint import Checkpoint, Store
from alexnet.weights.run import open_run
from tests.networks import lively
from tests.pictures import write_folder

KINDS = ("network", "filters", "predictions", "neighbours", "curves", "views", "augment", "maps", "units", "confusion")
NAMES = ("$\\frac{", "<script>alert(1)")  # class names that are markup elsewhere


def ended(tokens: list, capsys) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(token) for token in tokens])
    return caught.value.code or 0, *capsys.readouterr()


def drawn(tokens: list, capsys) -> tuple[str, str]:
    """What a figure that was drawn says on stdout and stderr."""
    code, out, err = ended(["figure", *tokens], capsys)
    assert code == 0, err
    return out, err


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("pictures"), classes=2, each=15)
    for at, name in enumerate(NAMES):
        (folder / f"class{at}").rename(folder / name)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures) -> Path:
    """Two epochs of `tiny`, with colour noise."""
    where = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(SystemExit) as caught:
        main([str(token) for token in ("train", pictures, "--variant", "tiny", "--kernels", "plain", "--run", where, "--epochs", 2,
                                       "--batch-size", 6, "--workers", 1, "--set", "colour_noise=0.1", "--precision", "fp32")])  # fmt: skip
    assert not caught.value.code
    return where


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Path:
    """A model file of another program, made a run: it has no log, no answers, no kernels.npy, no pictures."""
    folder = tmp_path_factory.mktemp("imported")
    save_file(lively(TINY, 2).state_dict(), folder / "other.safetensors")
    with pytest.raises(SystemExit) as caught:
        main(["import", str(folder / "other.safetensors"), "--variant", "tiny", "--run", str(folder / "run")])
    assert not caught.value.code
    return folder / "run"


FILES = {  # what tells a figure from others of its kind
    "views": "views-000", "augment": "augment-000", "maps": "maps-conv1-relu-000", "units": "units-conv5-relu",
}  # fmt: skip


def arguments(kind: str, pictures: Path) -> list:
    return [pictures / NAMES[0] / "000.png"] if kind in ("views", "augment", "maps") else []


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_drawn_into_the_run(kind, run, pictures, capsys):
    out, err = drawn([kind, run, *arguments(kind, pictures)], capsys)
    path = run / "figures" / f"{FILES.get(kind, kind)}.png"
    assert out == f"{path}\n" and err == ""
    image = Image.open(io.BytesIO(path.read_bytes()))
    assert image.format == "PNG" and 300 < image.width < 2000 and np.ptp(np.asarray(image.convert("L"))) > 100


@pytest.mark.parametrize("kind", ["units", "neighbours", "predictions", "curves"])
def test_a_document_names_the_file_and_what_is_seen(kind, run, pictures, tmp_path, capsys):
    out, _ = drawn([kind, run, "--out", tmp_path / "a.svg", "--json"], capsys)
    said = json.loads(out)
    assert (said["kind"], said["file"], said["bytes"]) == (
        kind,
        str(tmp_path / "a.svg"),
        (tmp_path / "a.svg").stat().st_size,
    )
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml") and b"<script>" not in (
        tmp_path / "a.svg"
    ).read_bytes()
    if kind == "units":
        assert len(said["shown"][0]["pictures"]) == 6 and set(said["shown"][0]["pictures"][0]) == {
            "path",
            "value",
            "at",
            "box",
        }
    if kind == "neighbours":
        assert len(said["shown"]) == 5 and len(said["shown"][0]["neighbours"]) == 6
        assert {one["label"] for entry in said["shown"] for one in entry["neighbours"]} <= set(NAMES)
    if kind == "predictions":
        assert len(said["shown"]) == 6  # all that were held out


def test_a_variant_is_drawn_here(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert drawn(["network", "tiny"], capsys)[0] == "network-tiny.png\n"
    assert drawn(["filters", "tiny", "--dpi", "50"], capsys)[0] == "filters-tiny.png\n"
    assert {path.name for path in tmp_path.iterdir()} == {"network-tiny.png", "filters-tiny.png"}
    drawn(["network", "tiny", "--classes", 7, "--out", "a.svg"], capsys)
    save_file(lively(TINY, 2).state_dict(), "model.safetensors")
    drawn(["network", "model.safetensors", "--variant", "tiny", "--out", "b.svg"], capsys)


@pytest.mark.parametrize("classes", [1, 5])
def test_classes_stand_in_no_tower(classes, pictures, tmp_path, capsys):
    """Of a variant with two towers, whose classes need not be an even number."""
    path = tmp_path / "model.safetensors"
    save_file(lively(TINY, classes).state_dict(), path)
    drawn(["maps", path, pictures / NAMES[0] / "000.png", "--layer", "fc8", "--out", tmp_path / "a.png"], capsys)
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 300


def test_the_film_does_not_take_the_place_of_the_filters(run, capsys):
    out, _ = drawn(["filters", run, "--over-time"], capsys)
    assert out == f"{run / 'figures' / 'filters-over-time.png'}\n"


def test_the_film_is_of_the_kernels_that_were_kept(run, tmp_path, capsys):
    drawn(["filters", run, "--over-time", "--out", tmp_path / "a.png"], capsys)
    drawn(["filters", run, "--out", tmp_path / "b.png"], capsys)
    turned = tmp_path / "turned"
    shutil.copytree(run, turned)
    record = json.loads((turned / "preprocess.json").read_text())
    (turned / "preprocess.json").write_text(json.dumps(record | {"colour": "BGR"}))
    np.save(turned / "kernels.npy", np.load(run / "kernels.npy", allow_pickle=False)[:, :, ::-1], allow_pickle=False)
    drawn(["filters", turned, "--over-time", "--out", tmp_path / "c.png"], capsys)
    drawn(["filters", turned, "--out", tmp_path / "d.png"], capsys)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "c.png").read_bytes()  # both turned round: the same colours
    assert (tmp_path / "b.png").read_bytes() != (tmp_path / "d.png").read_bytes()  # the weights still as they were


def test_kernels_that_are_not_finite_are_refused(imported, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(imported, run)
    tensors = open_run(run).model.state_dict()
    tensors["conv1.weight"][3, 0, 0, 0] = np.nan
    store = Store(run)
    store.save(Checkpoint(tensors, {}, {"step": 1}), best=True)
    store.settle()
    store.close()
    code, _, err = ended(["figure", "filters", run], capsys)
    assert code == 4 and err == f"alexnet: {run}: conv1.weight holds values that are not finite\n"


def test_named_pictures_are_taken_and_bad_ones_said(run, pictures, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    out = ["--out", tmp_path / "a.png"]
    _, err = drawn(
        ["units", run, pictures, tmp_path / "bad.png", "--layer", "conv2:relu", "--unit", 3, "--unit", 4, *out], capsys
    )
    assert err.startswith("bad image") and "bad.png" in err
    drawn(["predictions", run, pictures, "--count", 3, "--seed", 1, *out], capsys)
    drawn(
        ["neighbours", run, pictures / NAMES[1] / "001.jpg", "--among", pictures, "-k", 2, "--layer", "pool5", *out],
        capsys,
    )
    drawn(["curves", run, run, *out], capsys)
    code, _, err = ended(["figure", "predictions", run, tmp_path / "bad.png", *out], capsys)
    assert code == 3 and "bad.png" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "kind", ["network", "filters", "predictions", "neighbours", "views", "augment", "maps", "units"]
)
def test_an_imported_run_has_the_figures_that_it_can_have(kind, imported, pictures, capsys):
    more = {"predictions": [pictures], "neighbours": [pictures, "--among", pictures], "units": [pictures]}
    drawn([kind, imported, *more.get(kind, arguments(kind, pictures))], capsys)
    assert (imported / "figures" / f"{FILES.get(kind, kind)}.png").is_file()


@pytest.mark.parametrize(
    ("tokens", "code", "says"),
    [
        (["curves"], 2, "run/metrics.jsonl: missing or empty"),
        (["confusion"], 3, "run/predictions/val.parquet: missing"),
        (["filters", "--over-time"], 2, "run/kernels.npy: missing"),
        (["predictions"], 2, "has no pictures of its own; name some"),
        (["units"], 2, "has no pictures of its own; name some"),
        (["neighbours"], 2, "has no pictures of its own; name some"),
    ],
)
def test_what_an_imported_run_lacks_is_said_in_one_line(tokens, code, says, imported, capsys):
    kind, *more = tokens
    found, out, err = ended(["figure", kind, imported, *more], capsys)
    assert (found, out) == (code, "") and says in err and err.startswith("alexnet: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("tokens", "code", "says"),
    [
        (["network", "papper"], 2, "did you mean paper?"),
        (["network", "tiny", "--classes", 0], 2, "--classes 0"),
        (["network", "tiny", "--variant", "paper"], 2, "--variant paper: tiny is of variant tiny"),
        (["network", "tiny", "--dpi", 5], 2, "--dpi 5: must be at least 30 and at most 1200"),
        (["network", "tiny", "--out", "a.pdf"], 2, "a.pdf: expected a name that ends in .png or .svg"),
        (["network", "tiny", "--out", "no/such/folder/a.png"], 2, "cannot be written"),
        (["curves", "tiny"], 2, "tiny: not a run folder, and a log only a run has"),
        (["confusion", "tiny"], 2, "tiny: not a run folder"),
        (["augment", "tiny", "PICTURE"], 2, "tiny: not a run folder, and a recipe only a run has"),
        (["filters", "tiny", "--over-time"], 2, "tiny: not a run folder, and kernels.npy only a run has"),
        (["views", "tiny", "FOLDER"], 2, "30 pictures, expected one"),
        (["views", "tiny", "no-such.png"], 3, "no-such.png"),
        (["maps", "tiny", "PICTURE", "--layer", "conv9"], 2, "conv9"),
        (["maps", "tiny", "--laier"], 2, "--laier: unknown option (a file of that name is ./--laier)"),
        (["units", "tiny", "FOLDER", "--unit", 40], 2, "--unit 40: conv5:relu has the units 0 to 31"),
        (["units", "tiny", "FOLDER", "--device", "tpu"], 2, "tpu"),
        (["predictions", "tiny", "FOLDER", "--count", 0], 2, "--count 0"),
        (["neighbours", "tiny", "PICTURE", "--among", "FOLDER", "-k", 0], 2, "-k 0"),
        (["neighbours", "tiny", "PICTURE"], 2, "has no training pictures of its own; name --among"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(tokens, code, says, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    there = {"FOLDER": pictures, "PICTURE": pictures / NAMES[0] / "000.png"}
    found, out, err = ended(["figure", *(there.get(token, token) for token in tokens)], capsys)
    assert (found, out) == (code, "") and says in err and err.startswith("alexnet: ") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
