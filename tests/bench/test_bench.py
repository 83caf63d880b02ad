"""What bench prints is what it measured: of small things here, since no test asserts a time."""

import gc
import json
import shutil
import subprocess
import sys
import tarfile

import pytest
import torch

from alexnet.bench import article, data, eager, infer, lrn, machine, rows, scale, startup, step
from alexnet.cli import main
from alexnet.errors import AlexNetError, DataError
from alexnet.network.build import build
from alexnet.network.cost import cost
from alexnet.network.kernels import PLAIN
from alexnet.network.variants import variant
from tests.pictures import write_folder

CPU = torch.device("cpu")
MACHINE = {"macs_per_second": {"fp32": 1e9, "bf16": 2e9}, "bytes_per_second": 1e9}


def test_the_document_by_hand():
    made = [rows.Row("x", "alexnet", "s", (2.0, 1.0, 4.0), 0.5), rows.Row("x", "peer", "s", (6.0, 5.0, 7.0), None),
            rows.Row("y", "peer", "s", (1.0,), None)]  # fmt: skip
    ours, theirs, alone = rows.document(made)
    assert ours == {"what": "x", "who": "alexnet", "unit": "s", "runs": [2.0, 1.0, 4.0], "median": 2.0, "spread": 1.5,
                    "ratio": 1.0, "floor": 0.5}  # fmt: skip
    assert theirs["ratio"] == 3.0 and theirs["floor"] is None and alone["ratio"] is None
    (nothing,) = rows.document([rows.Row("z", "alexnet", "bytes", (0.0, 0.0), None)])
    assert nothing["ratio"] is None and nothing["spread"] == 0


def test_contestants_take_turns():
    turns: list[str] = []
    pair = [rows.Contestant(who, lambda who=who: turns.append(who)) for who in "ab"]
    made = rows.timed("x", [*pair, rows.Contestant("c", lambda: turns.append("c"), None, "y")], repeats=3)
    assert "".join(turns) == "abcabcabcabc" and [len(row.runs) for row in made] == [3, 3, 3]
    assert [row.what for row in made] == ["x", "x", "y"]


def test_the_ceilings_are_those_of_a_product_and_a_copy(monkeypatch):
    monkeypatch.setattr(machine, "SIDE", {"cpu": 64})
    monkeypatch.setattr(machine, "once", lambda run: (run(), 0.5)[1])
    said = machine.describe(CPU)
    side = 64 if machine.fast_bf16(CPU) else 16
    assert said["macs_per_second"] == {"fp32": 64**3 / 0.5, "bf16": side**3 / 0.5}
    assert said["bytes_per_second"] == 2 * 4 * 8192 * 4 * 64 / 0.5
    assert json.loads(json.dumps(said)) == said


def test_both_normalise_alike():
    x, g = torch.randn(2, 10, 5, 5, requires_grad=True), torch.randn(2, 10, 5, 5)
    one = lrn.there_and_back(lambda x: lrn.ours(x, "torch"), x, g)
    other = lrn.there_and_back(lrn.theirs, x, g)
    assert (one - other).abs().max() < 1e-6 and (lrn.ours(x, "torch") - lrn.theirs(x)).abs().max() < 1e-6


def test_lrn(monkeypatch):
    monkeypatch.setattr(lrn, "SHAPES", ((2, 8, 5, 5),))
    found = lrn.rows(MACHINE, CPU, repeats=2, peers=True)
    assert {row.what for row in found} == {
        "LRN 2x8x5x5 fp32", "LRN 2x8x5x5 bf16", "LRN 2x8x5x5 fp32, growth of resident memory",
    }  # fmt: skip
    assert {"alexnet", lrn.TORCH} <= {row.who for row in found} and all(len(row.runs) == 2 for row in found)
    alone = lrn.rows(MACHINE, CPU, repeats=1, peers=False)
    assert lrn.TORCH not in {row.who for row in alone}
    assert next(row for row in found if row.what.endswith("fp32")).floor == pytest.approx(5 * 2 * 8 * 25 * 4 / 1e9)


@pytest.mark.skipif(not lrn.PEAK.exists(), reason="only Linux tells the peak of a process's memory apart")
def test_the_growth_of_memory_is_that_of_the_pass(monkeypatch):
    monkeypatch.setattr(lrn, "SHAPES", ((1, 8, 100, 100),))
    monkeypatch.setattr(lrn, "theirs", lambda x: (x + torch.ones(25, 1000, 1000).sum()).relu())
    held = torch.ones(50, 1000, 1000).sum()  # a peak of 200 MB before
    assert held and 90e6 < lrn.grown("theirs") < 140e6


def test_step(monkeypatch):
    monkeypatch.setattr(step, "TURNS", ({"tiny": "paper"},))
    monkeypatch.setattr(step, "SECONDS", {})
    (row,) = step.rows(MACHINE, CPU, batch=3, precision="fp32", kernels={"tiny": PLAIN}, repeats=1, peers=True)
    layers = step.cost(variant("tiny"), 1000).layers
    first, rest = layers[0].macs, sum(layer.macs for layer in layers[1:])
    assert first > 0 and row.floor == pytest.approx(3 * (2 * first + 3 * rest) / 1e9)
    images, labels = torch.randn(2, 3, 224, 224), torch.tensor([3, 5])
    for peer in (eager.eager(images, labels, "fp32"), eager.step(images, labels), step.tuned(images, labels, "fp32")):
        assert 0 < peer() < 100


def test_the_articles_step_by_others(monkeypatch):
    images, labels = torch.randn(2, 3, 224, 224), torch.tensor([3, 5])
    net = article.network()
    assert sum(value.numel() for value in net.parameters()) == cost(variant("article"), 1000).parameters == 76_009_832
    assert 0 < article.eager(images, labels, "fp32")() < 100
    monkeypatch.setattr(article, "PROGRAM", "alexnet.bench.nothing_of_the_kind")
    with pytest.raises(AlexNetError, match="nothing_of_the_kind"):
        article.tensorflow(images, labels, "fp32")()


def test_torchs_modules_are_the_articles_network():
    net, ours = article.network().eval(), build("article", classes=1000, seed=0).eval()
    own = dict(ours.named_parameters())
    layers = [module for module in net if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    names = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, layer in zip(names, layers, strict=True):
            layer.weight.copy_(own[f"{name}.weight"])
            layer.bias.copy_(own[f"{name}.bias"])
        one, other = net(images), ours(images)
    assert (one - other).abs().max() <= 1e-5 * other.abs().max()


@pytest.mark.slow
def test_tensorflow_takes_turns():
    labels = torch.tensor([3, 5])
    run = article.tensorflow(torch.zeros(2, 3, 224, 224), labels, "fp32")
    first, second = run(), run()
    assert first != second and all(5 < loss < 9 for loss in (first, second)), "near ln 1000, and no loss twice"


@pytest.mark.slow
def test_tensorflows_is_the_articles_network():
    said = "import tensorflow as tf; from alexnet.bench.tensorflow import network; print(network(tf).count_params())"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 76_009_832


LEFT_OPEN = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset's shards


@LEFT_OPEN
def test_data(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "PICTURES", 20)
    folder = write_folder(tmp_path / "set", classes=2, each=5, side=300)
    found = data.rows(folder, precision="fp32", repeats=1, peers=True)
    whos: dict[str, list[str]] = {}
    for row in found:
        whos.setdefault(row.what, []).append(row.who)
    name = "data, 20 pictures of set"
    assert list(whos) == [name, f"{name}, jpeg pack", f"{name}, raw pack"]
    assert all(who[0] == "alexnet" and who[1].startswith("ImageFolder, DataLoader of") for who in whos.values())
    assert [len(who) for who in whos.values()] == [2, 3, 2]
    assert whos[f"{name}, jpeg pack"][2].startswith("webdataset, WebLoader of")
    peer = [row.runs for row in found if row.who.startswith("ImageFolder")]
    assert len(peer) == 3 and len(set(peer)) == 1, "one measurement beside each of ours"
    assert len({row.runs for row in found if row.who == "alexnet"}) == 3
    shutil.copy(folder / "class0" / "000.png", folder / "class0" / ".hidden.png")  # a picture for ImageFolder alone
    with pytest.raises(DataError, match="20 pictures for us, 22 for ImageFolder"):
        data.rows(folder, precision="fp32", repeats=1, peers=True)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text("../set/class0/000.png a\n../set/class1/000.png b\n")
    with pytest.raises(DataError, match="no class folders"):
        data.rows(tmp_path / "lists" / "list.txt", precision="fp32", repeats=1, peers=True)
    (folder / "class0" / ".hidden.png").unlink()
    shutil.copytree(folder, tmp_path / "apart" / "train")
    shutil.copytree(folder, tmp_path / "apart" / "val")
    monkeypatch.setattr(data, "missing", lambda what: ["webdataset"])
    assert len(data.rows(tmp_path / "apart", precision="fp32", repeats=1, peers=True)) == 6
    gc.collect()


@LEFT_OPEN
def test_webdataset_reads_the_pack(tmp_path):
    folder, out = write_folder(tmp_path / "set", classes=2, each=5, side=300), tmp_path / "pack"
    opened = data.open_data(folder, val_fraction=0)
    data.pack(opened.train, None, out, form="jpeg", preprocess=data.preprocess_of(variant("torchvision")),
              source="", fingerprint="", threads=1)  # fmt: skip
    for workers in (0, 2):
        read = list(data.web_dataset(out, workers=workers, times=3))
        labels = torch.cat([torch.as_tensor(labels) for _, labels in read])
        assert labels.bincount().tolist() == [15, 15]
        assert {images.shape[1:] for images, _ in read} == {(3, 224, 224)}
        assert all(images.dtype == torch.float32 for images, _ in read)
    gc.collect()


def test_scale(monkeypatch):
    monkeypatch.setattr(scale, "PICTURES", 3000)
    monkeypatch.setattr(scale, "ORDERED", 10**5)
    monkeypatch.setattr(scale, "BLOCK", 1000)
    found = scale.rows(repeats=1, peers=True)
    whos: dict[str, list[str]] = {}
    for row in found:
        assert len(row.runs) == 1 and row.runs[0] >= 0
        whos.setdefault(row.what.removeprefix("scale, "), []).append(row.who)
    for kind, peer in (("tar", [scale.TARFILE]), ("list", []), ("folder", [scale.FOLDER])):
        for unit in ("", ", growth of resident memory") if lrn.PEAK.exists() else ("",):
            assert whos.pop(f"{kind} of 3,000, first opening{unit}") == ["alexnet", *peer]
            assert whos.pop(f"{kind} of 3,000, opening again{unit}") == ["alexnet", *peer]
            assert whos.pop(f"{kind} of 3,000, opening again, split to train{unit}") == ["alexnet"]
    assert list(whos) == ["order of 100,000, 1,000 of them", "order of 100,000, 1 of them"]
    assert all(who == ["alexnet", "torch.randperm of all"] for who in whos.values())


def test_what_scale_opens_is_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "PICTURES", 2345)
    scale.write_tar(tmp_path / "set.tar")
    scale.write_files(tmp_path / "set", tmp_path / "set.txt")
    of_tar, of_list, of_folder = (data.open_source(tmp_path / name) for name in ("set.tar", "set.txt", "set"))
    assert len(scale._tarfile(str(tmp_path / "set.tar"))) == len(scale._image_folder(str(tmp_path / "set"))) == 2345
    for samples in (of_tar, of_list, of_folder):
        assert (len(samples), len(samples.classes)) == (2345, 1000) and set(samples.counts()) == {2, 3}
    assert {key.removeprefix("set.tar/") for key in of_tar.keys()} == set(of_folder.keys()) == set(scale.names())  # noqa: SIM118
    assert [key.removeprefix("set/") for key in of_list.keys()] == scale.names()  # noqa: SIM118
    with tarfile.open(tmp_path / "set.tar") as tar:
        assert (tmp_path / "set.tar").stat().st_size == 1024 * 2346 and len(tar.getmembers()) == 2345


def test_peers_that_are_not_installed_are_named(monkeypatch, capsys):
    monkeypatch.setattr(rows, "PACKAGES", {"startup": ("no_such_package", "numpy")})
    monkeypatch.setattr(machine, "SIDE", {"cpu": 64})
    monkeypatch.setattr(startup, "rows", lambda repeats, peers: [])
    with pytest.raises(SystemExit) as caught:
        main(["bench", "startup", "--peers", "--json"])
    said = capsys.readouterr()
    assert not caught.value.code and json.loads(said.out)["rows"] == []
    assert said.err == "not installed: no_such_package: pip install 'alexnet[peers]'\n"


def test_the_verb_prints_one_document(monkeypatch, capsys):
    monkeypatch.setattr(machine, "SIDE", {"cpu": 64})
    monkeypatch.setattr(lrn, "SHAPES", ((2, 8, 5, 5),))
    monkeypatch.setattr(lrn, "memory", lambda repeats, peers: [])
    monkeypatch.setenv("COLUMNS", "140")
    with pytest.raises(SystemExit) as caught:
        main(["bench", "lrn", "--repeats", "1", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert not caught.value.code and set(said) == {"machine", "rows"} and len(said["rows"]) >= 2
    with pytest.raises(SystemExit):
        main(["bench", "lrn", "--repeats", "1"])
    assert "LRN 2x8x5x5 fp32" in capsys.readouterr().out


def test_several_calls_a_measurement(monkeypatch):
    clock, called = iter(range(0, 600, 6)), []
    monkeypatch.setattr(rows.time, "perf_counter", lambda: next(clock))
    (row,) = rows.timed("x", [rows.Contestant("a", lambda: called.append(1))], repeats=2, calls=3)
    assert row.runs == (2.0, 2.0) and len(called) == 9
    monkeypatch.setattr(rows.time, "perf_counter", lambda: 2.0 * len(called))
    (row,) = rows.timed("x", [rows.Contestant("a", lambda: called.append(1))], repeats=1, calls=2, seconds=7.0)
    assert row.runs == (2.0,) and len(called) == 17


def test_infer(monkeypatch):
    monkeypatch.setattr(infer, "CALLS", {2: 1})
    monkeypatch.setattr(infer, "SECONDS", {})
    found = infer.rows(MACHINE, CPU, precision="bf16", repeats=1, peers=True)
    assert {row.what for row in found} == {"inference, torchvision, batch 2"}
    assert {row.who for row in found} == {
        "alexnet", "alexnet, torch fp32", "alexnet, openvino bf16", "alexnet, openvino int8", "alexnet, onnxruntime fp32",
        "alexnet, onnxruntime int8", "torchvision, torch's defaults", "torchvision, bf16 channels-last",
        "ONNX Runtime, directly", "OpenVINO bf16, directly",
    }  # fmt: skip
    floors = {row.who: row.floor for row in found}
    assert floors["alexnet"] == pytest.approx(2 * 714188480 / 2e9) and floors["alexnet, openvino int8"] is None
    assert infer.choices("fp32", CPU)[:2] == [("torch", "fp32"), ("openvino", "fp32")]


def test_the_floor_of_torchs_defaults_on_a_gpu_is_that_of_tf32():
    assert [eager.precision_on(torch.device(kind)) for kind in ("cpu", "cuda")] == ["fp32", "tf32"]
    quick = {"macs_per_second": {"fp32": 1e9, "tf32": 8e9}, "bytes_per_second": 1e15}
    assert infer.floor(quick, 32, "fp32") == pytest.approx(8 * infer.floor(quick, 32, "tf32"))
    assert (
        infer.floor({**quick, "bytes_per_second": 1.0}, 1, "tf32") == 4 * cost(variant("torchvision"), 1000).parameters
    )


def test_peers_of_inference_compute_the_same():
    model, x = infer.build("torchvision", 10, seed=0).eval(), torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = model(x)
    content = infer.graph(model).SerializeToString()
    for run in (infer.onnxruntime(content), infer.openvino(content, "fp32")):
        assert torch.as_tensor(run(x)) == pytest.approx(expected, abs=1e-5 * float(expected.abs().max()))
