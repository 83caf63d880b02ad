"""Each world's models through the commands: in, judged, trained on and out again; and what is refused leaves nothing."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from alexnet.cli import main
from alexnet.evaluation.oracle import sample
from alexnet.network.build import build
from alexnet.network.variants import TORCHVISIONS, VARIANTS
from alexnet.weights import convnet, recognise
from alexnet.weights.caffe import check_prototxt
from alexnet.weights.caffe_npy import read_caffe_npy
from alexnet.weights.onnx import graph
from alexnet.weights.recognise import kind_of
from alexnet.weights.run import open_run
from alexnet.weights.tensorflow import SCOPED
from alexnet.weights.tensors import read_metadata
from tests.networks import lively, small
from tests.pictures import write_folder
from tests.strangers import PTH, text
from tests.weights import test_caffe as caffes
from tests.weights import test_caffe_npy as npys
from tests.weights import test_convnet as convnets
from tests.weights import test_tensorflow_checkpoint as tensorflows
from tests.weights.python2 import Raw, npy

CLASSES = 7
Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def narrow(monkeypatch, tmp_path) -> Iterator[None]:
    """Every variant with an eighth of its maps, but torchvision's, which torchvision runs; in a folder of its own."""
    for name, table in VARIANTS.items():
        monkeypatch.setitem(VARIANTS, name, table if name == "torchvision" else small(table))
    for first, table in convnet.NETS.items():
        monkeypatch.setitem(convnet.NETS, first, small(table))
    monkeypatch.setitem(recognise.READERS, "npy", partial(read_caffe_npy, variant=VARIANTS["caffe"]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    yield


def said(capsys, *words: str, code: int = 0) -> dict:
    """What a command prints with --json; of one that fails its line, and the table before it."""
    with pytest.raises(SystemExit) as caught:
        main([*words, *(() if code else ("--json",))])
    printed = capsys.readouterr()
    assert caught.value.code == code, printed.err
    table, _, line = printed.err.strip().rpartition("\n")
    return {"line": line, "table": table, "out": printed.out} if code else json.loads(printed.out)


def state_of(name: str) -> Tensors:
    return lively(VARIANTS[name], CLASSES).state_dict()


def torchvisions(path: Path) -> Tensors:
    """As a training program leaves it: wrapped twice, its convolutions shared by several GPUs, in half precision."""
    state = {name: value.half().float() for name, value in state_of("torchvision").items()}
    theirs = {ours: there for there, ours in TORCHVISIONS.items()}
    names = {name: theirs[name.split(".")[0]].replace("features.", "features.module.") for name in state}
    given = {f"{names[name]}.{name.split('.')[1]}": value.half() for name, value in state.items()}
    torch.save({"state_dict": given, "epoch": 3}, path)
    return state


def safetensors(path: Path) -> Tensors:
    save_file(state_of("torchvision"), path)
    return state_of("torchvision")


def caffe(path: Path, *, name: str = "caffe", form: str = "new") -> Tensors:
    state = state_of(name)
    path.write_bytes(caffes.encoded(caffes.net(name, caffes.widths_of(VARIANTS[name])), caffes.blobs_of(state), form))
    return state


def caffe_npy(path: Path) -> Tensors:
    blobs: dict[str, list] = {}
    for name, value in state_of("caffe").items():
        blobs.setdefault(name.partition(".")[0], []).append(value.numpy())
    path.write_bytes(npy(npys.converted(blobs)))
    return state_of("caffe")


def tensorflow(path: Path) -> Tensors:
    state, tensors = state_of("article"), {}
    maps = len(state["conv5.bias"])
    for ours, theirs in SCOPED.items():
        value = state[ours]
        if ours == "fc6.weight":  # c, y, x to y, x, c
            value = value.view(len(value), maps, 7, 7).permute(0, 2, 3, 1).reshape(value.shape)
        value = value.permute(2, 3, 1, 0) if value.ndim == 4 else value.T if value.ndim == 2 else value
        tensors[theirs] = value.contiguous().numpy()
    pairs, data = tensorflows.listed(tensors)
    Path(f"{path}.index").write_bytes(tensorflows.table(pairs))
    Path(f"{path}.data-00000-of-00001").write_bytes(data)
    return state


def program(path: Path) -> Tensors:
    """Whose tensors the towers' matrices become is test_convnet's; here, that the reader's are the run's."""
    layers = convnets.net145(224, (6, 16, 24, 24, 16), 32, CLASSES)
    path.write_bytes(convnets.checkpoint(layers))
    return convnet.read_convnet(path).tensors


def zoo(path: Path) -> Tensors:
    net = lively(VARIANTS["onnxzoo"], CLASSES)
    path.write_bytes(graph(net).SerializeToString())
    return net.state_dict()


# what the file is called, what writes it, its kind and variant; who runs it
WORLDS: dict[str, tuple[str, Callable[[Path], Tensors], str, str, str | None]] = {
    "torchvision": ("model.bin", torchvisions, "pth", "torchvision", "torchvision"),
    "safetensors": ("model", safetensors, "safetensors", "torchvision", "torchvision"),
    "caffe": ("bvlc_alexnet.caffemodel", caffe, "caffe", "caffe", "OpenCV"),
    "caffenet, old": ("x.caffemodel", partial(caffe, name="caffenet", form="old"), "caffe", "caffenet", "OpenCV"),
    "caffe-tensorflow": ("bvlc_alexnet.npy", caffe_npy, "npy", "caffe", None),
    "the article": ("model1.ckpt", tensorflow, "tensorflow", "article", None),
    "the 2012 program": ("90.1261", program, "convnet", "convnet", None),
    "onnx": ("zoo.pb", zoo, "onnx", "onnxzoo", "ONNX Runtime"),
}


def turned(state: Tensors) -> Tensors:
    """For RGB instead of BGR."""
    return state | {"conv1.weight": state["conv1.weight"].flip(1)}


SLOW = (
    "torchvision",
    "safetensors",
    "caffenet, old",
    "caffe-tensorflow",
    "the 2012 program",
)  # the first two have 244 MB


@pytest.mark.parametrize(
    "world", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in WORLDS]
)
def test_a_model_of_each_world_is_a_run(world, capsys, tmp_path):
    name, write, kind, variant, who = WORLDS[world]
    state = write(tmp_path / name)
    more = ("--variant", "torchvision") if world == "safetensors" else ()
    made = said(capsys, "import", name, "--run", "mine", *more)
    assert (made["kind"], made["variant"], made["run"]) == (kind, variant, "runs/mine")
    assert made["compared_with"] == who
    assert not made["differences"] or made["largest_difference"] <= 1e-4
    assert made["picture"] == str(sample()) and len(made["predictions"]) == 5
    loaded = open_run("runs/mine")
    expected = turned(state) if VARIANTS[variant].colour == "BGR" else state
    assert all(torch.equal(value, expected[name]) for name, value in loaded.model.state_dict().items())
    assert loaded.preprocess.colour == "RGB" and loaded.data is None
    assert [row["shape"] for row in made["layers"]] == [list(value.shape) for value in expected.values()]
    # the file itself and its run give the same answers
    answers = said(capsys, "predict", name, str(sample()), *more)[0]["predictions"]
    assert [one["index"] for one in answers] == [one["index"] for one in made["predictions"]]
    folder = write_folder(tmp_path / "set", classes=CLASSES, each=4)
    judged = said(capsys, "eval", "runs/mine", "set")
    assert judged["count"] == 4 * CLASSES
    assert said(capsys, "eval", name, "set", *more)["loss"] == pytest.approx(judged["loss"], rel=1e-4)
    words = (
        "--recipe",
        "finetune",
        "--weights",
        "runs/mine",
        "--max-steps",
        "1",
        "--batch-size",
        "8",
        "--run",
        "tuned",
    )
    words = (*words, "--workers", "1", "--kernels", "plain", "--set", "freeze=conv1,fc6")
    assert said(capsys, "train", str(folder), *words)["last"]["step"] == 1
    tuned = open_run("runs/tuned")
    assert tuned.classes.keys == tuple(f"class{k}" for k in range(CLASSES))
    after = tuned.model.state_dict()
    for layer in ("conv1", "fc6"):
        assert torch.equal(after[f"{layer}.weight"], expected[f"{layer}.weight"])
    assert not torch.equal(after["conv2.weight"], expected["conv2.weight"])
    assert tuned.preprocess.mean == loaded.preprocess.mean


def test_caffes_options(capsys, tmp_path):
    state = caffe(tmp_path / "x.caffemodel")
    words = caffes.words(caffes.net("caffe", caffes.widths_of(VARIANTS["caffe"])), 227)
    (tmp_path / "x.prototxt").write_text(words)
    mean = np.random.default_rng(0).uniform(80, 140, (3, 256, 256)).astype("f4")
    (tmp_path / "mean.binaryproto").write_bytes(caffes.blob(mean))
    (tmp_path / "names.txt").write_text("".join(f"n{k}\n" for k in range(CLASSES)))
    options = ("--prototxt", "x.prototxt", "--mean", "mean.binaryproto", "--classes", "names.txt")
    picture = write_folder(tmp_path / "set", classes=1, each=1) / "class0" / "000.png"
    made = said(capsys, "import", "x.caffemodel", *options, "--run", "rgb", "--on", str(picture))
    assert made["notes"] == [] and made["picture"] == str(picture)
    assert made["predictions"][0]["label"] in [f"n{k}" for k in range(CLASSES)]
    as_it_is = said(capsys, "import", "x.caffemodel", *options, "--run", "bgr", "--keep-bgr", "--on", str(picture))
    for one, other in zip(made["predictions"], as_it_is["predictions"], strict=True):
        assert one["label"] == other["label"] and one["probability"] == pytest.approx(other["probability"], rel=1e-3)
    bgr, rgb = open_run("runs/bgr"), open_run("runs/rgb")
    assert (bgr.preprocess.colour, rgb.preprocess.colour) == ("BGR", "RGB")
    assert torch.equal(bgr.model.state_dict()["conv1.weight"], state["conv1.weight"])
    assert bgr.mean is not None and rgb.mean is not None
    assert np.array_equal(bgr.mean, mean.transpose(1, 2, 0)) and np.array_equal(rgb.mean, bgr.mean[..., ::-1])
    # another net in words
    (tmp_path / "other.prototxt").write_text(words.replace("group: 2", "group: 1", 1))
    failed = said(capsys, "import", "x.caffemodel", "--prototxt", "other.prototxt", "--run", "x", code=4)
    assert failed["line"].endswith("not the net caffe: conv2: group is 1, expected 2")
    assert not (tmp_path / "runs" / "x").exists()


def test_a_known_mean_stays_and_an_unknown_one_is_measured(capsys, tmp_path):
    folder = write_folder(tmp_path / "set", classes=2, each=8)
    save_file(build("tiny", classes=2, seed=1).state_dict(), tmp_path / "x.safetensors")
    mean = np.random.default_rng(0).uniform(80, 140, (3, 73, 73)).astype("f4")
    np.save(tmp_path / "mean.npy", mean, allow_pickle=False)
    said(capsys, "import", "x.safetensors", "--mean", "mean.npy", "--run", "known", "--keep-bgr")
    said(capsys, "import", "x.safetensors", "--run", "unknown")
    words = ("--recipe", "finetune", "--max-steps", "1", "--batch-size", "8", "--workers", "1", "--kernels", "plain")
    for run in ("known", "unknown"):
        said(capsys, "train", str(folder), *words, "--weights", f"runs/{run}", "--run", f"{run}-tuned")
    known, unknown = open_run("runs/known-tuned").mean, open_run("runs/unknown-tuned").mean
    assert known is not None and np.array_equal(known, mean.transpose(1, 2, 0)[..., ::-1])
    assert unknown is not None and unknown.std() > 1  # of those pictures


def test_info_of_a_file_that_several_variants_fit_and_of_one_that_is_a_prefix(capsys, tmp_path):
    save_file(state_of("paper"), tmp_path / "x.safetensors")
    assert said(capsys, "info", "x.safetensors", code=2)["line"].endswith("no weights; say --variant")
    for name in ("paper", "caffe"):
        assert said(capsys, "info", "x.safetensors", "--variant", name)["variant"] == name
    tensorflow(tmp_path / "model1.ckpt")
    assert said(capsys, "info", "model1.ckpt")["variant"] == "article"


# Round trips.


@pytest.mark.parametrize(
    ("form", "variant", "file"),
    [
        pytest.param("torchvision", "torchvision", "out.safetensors", marks=pytest.mark.slow),
        ("safetensors", "caffe", "out.safetensors"),
        ("caffe", "caffenet", "out.caffemodel"),
        ("caffe", "bn", "out.caffemodel"),
        ("onnx", "convnet", "out.onnx"),
        ("onnx", "caffe", "out.onnx"),
    ],
)
def test_in_out_and_in_again_is_the_same(form, variant, file, capsys, tmp_path):
    state = state_of(variant)
    save_file(state, tmp_path / "x.safetensors")
    (tmp_path / "names.txt").write_text("".join(f"kind {k}\n" for k in range(CLASSES)))
    options = []
    if VARIANTS[variant].mean == "image":
        mean = np.random.default_rng(0).uniform(80, 140, (3, 256, 256)).astype("f4")
        np.save(tmp_path / "mean.npy", mean, allow_pickle=False)
        options = ["--mean", "mean.npy"]
    first = said(
        capsys, "import", "x.safetensors", "--variant", variant, "--classes", "names.txt", *options, "--run", "first"
    )
    out = said(capsys, "export", "runs/first", "--format", form, "--out", file)
    assert out["bytes"] == sum((tmp_path / one).stat().st_size for one in out["files"])
    back = []
    if form == "caffe":  # Caffe's own files have these apart
        back = ["--classes", "out.labels.txt", "--prototxt", "out.prototxt"]
        back += ["--mean", "out.mean.binaryproto"] if options else []
    again = said(capsys, "import", file, *back, "--run", "again")
    assert again["variant"] == variant == first["variant"]
    one, two = open_run("runs/first"), open_run("runs/again")
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[name]), name
    assert one.classes == two.classes and one.preprocess == two.preprocess
    assert (one.mean is None and two.mean is None) or np.array_equal(one.mean, two.mean)
    said(capsys, "export", "runs/again", "--format", form, "--out", f"again{Path(file).suffix}")
    files = [tmp_path / file, tmp_path / f"again{Path(file).suffix}"]
    if file.endswith(".safetensors"):  # whose library writes the metadata in any order
        assert read_metadata(files[0]) == read_metadata(files[1])
        tensors = [load_file(path) for path in files]
        assert list(tensors[0]) == list(tensors[1])
        assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
    else:
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_caffe_export_is_run_by_opencv(capsys, tmp_path):
    caffe(tmp_path / "x.caffemodel")
    pictures = write_folder(tmp_path / "set", classes=2, each=4)
    said(capsys, "import", "x.caffemodel", "--run", "mine")
    for words in ((), ("--softmax",)):
        out = said(capsys, "export", "runs/mine", "--format", "caffe", "--out", "y.caffemodel", "--check",
                   "--pictures", str(pictures), *words)  # fmt: skip
        assert out["top1_agreement"] == 1.0 and out["largest_difference"] < 1e-3
        assert out["files"] == [f"y.{end}" for end in ("caffemodel", "prototxt", "labels.txt", "mean.binaryproto")]
    assert (tmp_path / "y.labels.txt").read_text() == "".join(f"{k}\n" for k in range(CLASSES))
    check_prototxt(tmp_path / "y.prototxt", VARIANTS["caffe"])
    comments = [line for line in (tmp_path / "y.prototxt").read_text().splitlines() if line.startswith("# ")]
    assert [line.split(": ")[0] for line in comments] == ["# variant", "# classes.json", "# preprocess.json"]
    assert '"colour": "BGR"' in comments[2]


def test_what_comes_out_with_the_preparation_in_it_is_a_run_too(capsys, tmp_path):
    zoo(tmp_path / "x.onnx")
    pictures = write_folder(tmp_path / "set", classes=CLASSES, each=4)
    said(capsys, "import", "x.onnx", "--classes", "set", "--run", "mine")
    out = said(capsys, "export", "runs/mine", "--out", "y.onnx", "--uint8", "--softmax", "--check", "--pictures", "set")
    assert out["top1_agreement"] == 1.0
    picture = str(pictures / "class3" / "001.jpg")
    answers = [said(capsys, "predict", run, picture)[0]["predictions"] for run in ("runs/mine", "y.onnx")]
    assert answers[0] == answers[1] and {one["label"] for one in answers[0]} <= {f"class{k}" for k in range(CLASSES)}
    judged = [said(capsys, "eval", run, "set") for run in ("runs/mine", "y.onnx")]
    assert judged[0]["loss"] == judged[1]["loss"] and judged[0]["count"] == 4 * CLASSES


# What is refused.


def state_with(**changes: torch.Tensor | None) -> Tensors:
    state = {name: value.clone() for name, value in state_of("tiny").items()}
    for name, value in changes.items():
        name = name.replace("_", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


def st(**changes: torch.Tensor | None) -> Callable[[Path], None]:
    return lambda path: save_file(state_with(**changes), path)


def pth(**changes: torch.Tensor | None) -> Callable[[Path], None]:
    return lambda path: torch.save(state_with(**changes), path)


def damaged(
    write: Callable[[Path], object], change: Callable[[bytes], bytes], suffix: str = ""
) -> Callable[[Path], None]:
    def made(path: Path) -> None:
        write(path)
        at = Path(f"{path}{suffix}")
        at.write_bytes(change(at.read_bytes()))

    return made


def without_shard(path: Path) -> None:
    tensorflow(path)
    Path(f"{path}.data-00000-of-00001").unlink()


def listed_otherwise(**how: object) -> Callable[[Path], None]:
    def made(path: Path) -> None:
        pairs, data = tensorflows.listed(tensorflows.article(), **{k: v for k, v in how.items() if k == "header"})
        Path(f"{path}.index").write_bytes(tensorflows.table(pairs, **{k: v for k, v in how.items() if k != "header"}))
        Path(f"{path}.data-00000-of-00001").write_bytes(data)

    return made


def traversing(path: Path) -> None:
    """A tensor whose name is a path: the files' names are made here and never read."""
    pairs, data = tensorflows.listed({"../../../etc/passwd": np.zeros(3, np.float32)})
    Path(f"{path}.index").write_bytes(tensorflows.table(pairs))
    Path(f"{path}.data-00000-of-00001").write_bytes(data)


def caffe_without(layer: str) -> Callable[[Path], None]:
    def made(path: Path) -> None:
        blobs = {name: values for name, values in caffes.blobs_of(state_of("caffe")).items() if name != layer}
        path.write_bytes(caffes.encoded(caffes.net("caffe", caffes.widths_of(VARIANTS["caffe"])), blobs))

    return made


def caffe_otherwise(path: Path) -> None:
    """A fully connected layer the other way round."""
    blobs = caffes.blobs_of(state_of("caffe"))
    blobs["fc6"][0] = np.ascontiguousarray(blobs["fc6"][0].T)
    path.write_bytes(caffes.encoded(caffes.net("caffe", caffes.widths_of(VARIANTS["caffe"])), blobs))


def external(path: Path) -> None:
    made = graph(lively(VARIANTS["tiny"], CLASSES))
    made.graph.initializer[0].external_data.add(key="location", value="../../etc/passwd")
    path.write_bytes(made.SerializeToString())


def other_graph(path: Path) -> None:
    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_squeezenet.onnx"
    path.write_bytes(light.read_bytes())


def graph_without(path: Path) -> None:
    """Whose layers have other numbers."""
    made = graph(lively(VARIANTS["tiny"], CLASSES))
    node = next(node for node in made.graph.node if node.name == "conv2")
    for one in node.attribute:
        if one.name == "group":
            one.i = 1
    path.write_bytes(made.SerializeToString())


def evil_npy(path: Path) -> None:
    call = b"cposix\nsystem\n(" + text(f"touch {path.parent / 'canary'}") + b"tR"
    path.write_bytes(npy(Raw(call)))


def header(content: dict | bytes) -> Callable[[Path], None]:
    def made(path: Path) -> None:
        said = content if isinstance(content, bytes) else json.dumps(content).encode()
        path.write_bytes(len(said).to_bytes(8, "little") + said)

    return made


def entry(shape: list[int], begin: int, end: int) -> dict:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


NAN = torch.full((512, 512), float("nan"))
# what is wrong: the file's name, what writes it, what the line says, and what the table shows, if there is one
WRONG: dict[str, tuple[str, Callable[[Path], None], str, str]] = {
    # M1, M2: pickles, and what a .pth may hold
    "M1: a call among tensors": ("x.pth", PTH["among_tensors"], "asks for posix.system", ""),
    "M1: a zip that says 1 TB": ("x.pth", PTH["terabyte"], "not read: ", ""),
    "M2: a layer missing": ("x.pth", pth(conv3_bias=None), "conv3.bias is missing", "conv3.bias"),
    "M2: a layer too many": ("x.pth", pth(fc9_bias=torch.zeros(4)), "fc9.bias is not known", "(4,)"),
    "M2: another number of classes": ("x.pth", pth(fc8_bias=torch.zeros(4)), "fc8.bias is (4,), expected (7,)", "(7,)"),
    "M2: a transposed fc6": ("x.pth", pth(fc6_weight=torch.zeros(32, 512)), "fc6.weight is (32, 512), expected", "(512, 32)"),
    "M2: NaN": ("x.pth", pth(fc7_weight=NAN), "fc7.weight holds values that are not finite", "262144"),
    "another network": ("x.safetensors", lambda path: save_file({"layer1.0.conv1.weight": torch.zeros(2)}, path), "no AlexNet: its tensors", ""),
    # M3: Caffe
    "M3: fc8 missing": ("x.caffemodel", caffe_without("fc8"), "fc8.weight is missing; fc8.bias is missing", "fc8.weight"),
    "M3: a transposed fc6": ("x.caffemodel", caffe_otherwise, "fc6.weight is", "fc6.weight"),
    "M3: a length of 3 GB": ("x.caffemodel", lambda path: path.write_bytes(caffes.WRONG["a length of 3 GB"][0]), "a field ends at byte", ""),
    "M3: 10,000 groups": ("x.caffemodel", lambda path: path.write_bytes(caffes.WRONG["nested groups"][0]), "wire type 3", ""),
    "M3: cut short": ("x.caffemodel", damaged(caffe, lambda content: content[:-100]), "cut short", ""),
    # M4: TensorFlow
    "M4: a shard missing": ("model1.ckpt", without_shard, "model1.ckpt.data-00000-of-00001 is missing", ""),
    "M4: another checksum": ("model1.ckpt", damaged(tensorflow, lambda c: c[:99] + bytes([c[99] ^ 1]) + c[100:], ".data-00000-of-00001"), "not those of its checksum", ""),
    "M4: Snappy": ("model1.ckpt", listed_otherwise(compression=1), "compressed, as by Snappy", ""),
    "M4: a name that is a path": ("model1.ckpt", traversing, "not of the article's program", ""),
    "M4: big-endian": ("model1.ckpt", listed_otherwise(header=b"\x08\x01\x10\x01"), "big-endian", ""),
    "M4: another shape": ("model1.ckpt", listed_otherwise(), "conv1.weight is", "conv1.weight"),
    # M5: pickled arrays
    "M5: a call": ("x.npy", evil_npy, "not read: ", ""),
    # M7: ONNX
    "M7: values elsewhere": ("x.onnx", external, "kept in another file (external data), and none is opened", ""),
    "M7: another network": ("x.onnx", other_graph, "no AlexNet: ", ""),
    "M7: other groups": ("x.onnx", graph_without, "conv2: groups is 1, expected 2", "conv2: groups"),
    # M8: safetensors
    "M8: a header of 2^63": ("x.safetensors", lambda path: path.write_bytes((1 << 63).to_bytes(8, "little") + b"{}"), "a header of", ""),
    "M8: overlapping": ("x.safetensors", header({"a": entry([0], 0, 0), "b": entry([1], 2, 6)}), "begins at byte", ""),
    "M8: a shape that overflows": ("x.safetensors", header({"a": entry([4194305, 4194305, 211106198978564], 0, 4)}), "not what its shape needs", ""),
    "M8: 100,000 tensors": ("x.safetensors", header({str(n): entry([0], 0, 0) for n in range(50_000)}), "the most", ""),
}  # fmt: skip


def everything(folder: Path) -> list[tuple[str, bytes | None]]:
    return [
        (str(path.relative_to(folder)), path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    ]


@pytest.mark.parametrize(
    "what",
    # a process of its own for each .pth
    [pytest.param(what, marks=pytest.mark.slow) if WRONG[what][0] == "x.pth" else what for what in WRONG],
)
def test_a_wrong_file_is_code_4_and_leaves_nothing(what, capsys, tmp_path):
    name, write, line, row = WRONG[what]
    write(tmp_path / name)
    before = everything(tmp_path)
    # a header that says nothing of its kind is told by its name
    assert kind_of(Path(name)) is not None
    failed = said(capsys, "import", name, "--run", "mine", code=4)
    assert failed["line"].startswith(f"alexnet: {name}: ") and line in failed["line"], failed["line"]
    assert failed["out"] == "" and len(failed["line"]) < 600
    if row:
        assert "expected" in failed["table"] and row in failed["table"], failed["table"]
    else:
        assert failed["table"] == ""
    assert everything(tmp_path) == before


def test_the_table_has_all_that_does_not_fit(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    state = state_of("tiny")
    save_file({name: value for name, value in state.items() if not name.startswith("conv")}, tmp_path / "x.safetensors")
    table = said(capsys, "import", "x.safetensors", code=4)["table"]
    for n in range(1, 6):
        assert f"conv{n}.weight" in table and f"conv{n}.bias" in table
    assert table.count(" - ") == 10  # not found


def test_nothing_is_fetched_offline(capsys, tmp_path, monkeypatch):
    import socket

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("ALEXNET_OFFLINE", "0")

    def connected(*_: object, **__: object) -> None:
        raise AssertionError("connected")

    monkeypatch.setattr(socket, "create_connection", connected)
    monkeypatch.setattr(socket, "getaddrinfo", connected)
    for words, code in (
        (("predict", "imagenet", str(sample())), 4),
        (("export", "imagenet"), 4),
        (("info", "imagenet"), 4),
        (("train", "digits", "--recipe", "finetune"), 4),
        (("data", "get", "flowers"), 3),
    ):
        assert "nothing is fetched (--offline)" in said(capsys, *words, "--offline", code=code)["line"]
        monkeypatch.setenv("ALEXNET_OFFLINE", "0")
    with pytest.raises(AssertionError, match="connected"):  # so it is that which keeps it from the network
        main(["predict", "imagenet", str(sample())])
