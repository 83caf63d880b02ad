"""Each backend beside torch in fp32, what is said of it, and what is refused."""

import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import alexnet
from alexnet.cli import main
from alexnet.errors import DataError, UsageError
from alexnet.evaluation import backends
from alexnet.evaluation.backends import Agreement, backend, device_for, precision_for, some
from alexnet.evaluation.judge import judge
from alexnet.evaluation.predict import load
from alexnet.network import maps_cpu
from alexnet.network.build import build
from alexnet.network.packed import packed
from alexnet.network.variants import VARIANTS, MaxPool
from alexnet.training import start
from alexnet.training.start import Asked
from alexnet.weights.run import open_run
from tests.pictures import write_folder

CPU = torch.device("cpu")
# of the largest logit; int8 and bf16 as measured on noise with some room
TOLERANCES = {
    ("torch", "fp32"): 1e-5, ("torch", "bf16"): 0.02, ("openvino", "fp32"): 1e-5, ("openvino", "bf16"): 0.02,
    ("openvino", "int8"): 0.1, ("onnxruntime", "fp32"): 1e-5, ("onnxruntime", "int8"): 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures") / "set", classes=3, each=16)


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        asked = Asked(data=str(pictures), run=str(folder), variant="tiny", kernels="plain", batch_size=12, epochs=3,
                      workers=1, precision="fp32")  # fmt: skip
        start.train(asked, Console(file=io.StringIO()))
    return folder


def images(name: str, count: int) -> torch.Tensor:
    side = VARIANTS[name].side
    return (
        torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(count)) * 100 * VARIANTS[name].scale
    )


@pytest.mark.parametrize("name", ["tiny", "torchvision"])
@pytest.mark.parametrize(("who", "precision"), TOLERANCES)
def test_a_backend_computes_the_network(name, who, precision):
    net, seen = build(name, 10, seed=1), images(name, 16)
    made, logits = backend(
        net, who, precision=precision, device=CPU, pictures=lambda: seen, calibration=lambda: (seen, "noise")
    )
    assert (made.name, made.precision, made.refused) == (who, precision, False)
    assert (made.agreement is None) == ((who, precision) == ("torch", "fp32"))
    kept = None
    for count in (9, 5, 1):  # 9 as part of 16
        given = images(name, count)
        for x in (given, given.contiguous(memory_format=torch.channels_last)):
            found = logits(x)
            with torch.inference_mode():
                expected = net(x)
            assert found.dtype == torch.float32 and found.shape == (count, 10)
            assert float((found - expected).abs().max() / expected.abs().max()) <= TOLERANCES[who, precision]
        if kept is not None:
            assert torch.equal(*kept)  # a later call leaves an earlier answer alone
        kept = found, found.clone()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("batch", [1, 16])
def test_packed_weights_change_no_more_than_rounding(name, dtype, tolerance, batch):
    net, x = build(name, 10, seed=1).eval(), images(name, 2)
    with torch.inference_mode():
        expected = net(x)
        logits = packed(net, dtype, batch=batch)(x.to(dtype, memory_format=torch.channels_last)).float()
    assert float((logits - expected).abs().max() / expected.abs().max()) <= tolerance


@pytest.mark.parametrize("name", VARIANTS)
def test_pools_of_many_pictures_change_no_bit(name, monkeypatch):
    net, x = build(name, 10, seed=1).eval(), images(name, 2).bfloat16().contiguous(memory_format=torch.channels_last)
    counted = []
    own = maps_cpu.max_pool_rectified
    monkeypatch.setattr(maps_cpu, "max_pool_rectified", lambda *given, **form: counted.append(own(*given, **form)))
    with torch.inference_mode():
        expected = packed(net, torch.bfloat16, batch=16)(x)
        net.kernels = replace(net.kernels, maps="numba")
        assert torch.equal(packed(net, torch.bfloat16, batch=16)(x), expected)
        pools = sum(isinstance(row, MaxPool) for row in net.variant.layers)
        if name in ("convnet", "half", "onetower"):
            pools -= 2  # pool1 and pool5 come before their ReLU
        assert len(counted) == pools
        for dtype, batch in ((torch.float32, 16), (torch.bfloat16, 1)):  # where it is no faster
            packed(net, dtype, batch=batch)(x.to(dtype))
        assert len(counted) == pools


def test_openvino_keeps_few_sizes_and_takes_any(monkeypatch):
    openvino = pytest.importorskip("openvino")
    made = []
    own = openvino.Core.compile_model

    def compile_model(core, model, *rest):
        made.append(model.inputs[0].shape[0])
        return own(core, model, *rest)

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    net = build("tiny", 10, seed=1)
    _, logits = backend(net, "openvino", precision="fp32", device=CPU, pictures=lambda: images("tiny", 2),
                        calibration=lambda: (images("tiny", 2), "noise"))  # fmt: skip
    for count in (3, 4, 5, 2, 3, 1, 0):
        given = images("tiny", count)
        with torch.inference_mode():
            assert torch.allclose(logits(given), net(given), rtol=1e-4, atol=1e-4)
    assert made == [2, 3, 4, 5, 2, 1]  # 3 fills more than half of 5; 5 took the place of 3 and 4, which took that of 2


def test_agreement_by_hand():
    reference = torch.tensor([[1.0, 2.0], [4.0, 3.0]])
    found = Agreement.of(torch.tensor([[1.0, 2.5], [3.0, 3.5]]), reference)
    assert found == Agreement(top1=0.5, largest_difference=1.0, largest_logit=4.0, count=2)
    assert not found.within and Agreement(1, backends.WITHIN, 1.0, 1).within
    assert not Agreement.of(reference * torch.nan, reference).within


def test_bf16_that_is_too_far_off_is_fp32_and_says_so(monkeypatch):
    monkeypatch.setattr(backends, "WITHIN", 1e-6)
    net, seen = build("tiny", 10, seed=1), images("tiny", 4)
    for who in ("torch", "openvino"):
        made, logits = backend(
            net, who, precision="bf16", device=CPU, pictures=lambda: seen, calibration=lambda: (seen, "")
        )
        assert made.refused and made.precision == "fp32" and "so fp32 is used" in str(made)
        assert made.agreement is not None and made.agreement.largest_difference > 1e-6 * made.agreement.largest_logit
        with torch.inference_mode():
            expected = net(seen)
        assert float((logits(seen) - expected).abs().max() / expected.abs().max()) < 1e-5


def test_what_is_refused(monkeypatch):
    assert precision_for("onnxruntime", "auto", CPU) == "fp32" and precision_for("openvino", "int8", CPU) == "int8"
    assert device_for("openvino", "auto") == CPU
    for ask, match in [
        (lambda: precision_for("torch", "int8", CPU), "int8: not with the backend torch"),
        (lambda: precision_for("onnxruntime", "bf16", CPU), "fp32 or int8"),
        (lambda: precision_for("torch", "fp8", CPU), "fp8"),
        (lambda: device_for("tensorrt", "auto"), "known are torch, openvino, onnxruntime"),
        (lambda: device_for("openvino", "cuda"), "computes on the processor"),
    ]:
        with pytest.raises(UsageError, match=match):
            ask()
    net, seen = build("tiny", 10, seed=1), images("tiny", 2)
    for library, who, precision in [
        ("openvino", "openvino", "fp32"), ("onnx", "openvino", "fp32"), ("onnxruntime", "onnxruntime", "fp32"),
        ("onnxruntime", "openvino", "int8"),
    ]:  # fmt: skip
        with monkeypatch.context() as patch:
            for module in [m for m in sys.modules if m.partition(".")[0] == library]:
                patch.delitem(sys.modules, module)
            patch.setitem(sys.modules, library, None)
            with pytest.raises(UsageError, match=rf"{library} is not installed .*alexnet\[backends\]"):
                backend(net, who, precision=precision, device=CPU, pictures=lambda: seen,
                        calibration=lambda: (seen, ""))  # fmt: skip


def test_a_run_is_calibrated_on_its_own_training(run, pictures, tmp_path):
    verdict = judge([str(run)], None, backend="onnxruntime", precision="int8")
    (made,) = verdict.backends
    assert made.calibrated is not None and made.calibrated.endswith("pictures of its training")
    reference = judge([str(run)], None)
    assert abs(verdict.score.top1 - reference.score.top1) <= 0.25
    assert np.abs(verdict.answers.probabilities - reference.answers.probabilities).max() > 0
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    said = json.loads((moved / "data.json").read_text())
    (moved / "data.json").write_text(json.dumps({**said, "train_fingerprint": "0" * 64}))
    (made,) = judge([str(moved)], None, backend="openvino", precision="int8").backends
    assert made.calibrated is not None and made.calibrated.endswith("of the pictures given")


def test_some_of_the_pictures(run, pictures, tmp_path):
    loaded = open_run(run)
    folder = tmp_path / "set"
    shutil.copytree(pictures, folder)
    from alexnet.data.sources import open_source

    samples = open_source(folder)
    found = some(samples, loaded, count=7, threads=0, bad_images="error")
    assert found.shape == (7, 3, 64, 64) and len({float(image.sum()) for image in found}) == 7
    assert len(some(samples, loaded, count=1000, threads=0, bad_images="error")) == len(samples)
    for path in folder.rglob("*.*"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of 7 images looked at"):
        some(open_source(folder), loaded, count=7, threads=0, bad_images="skip")


@pytest.mark.parametrize(("who", "precision"), [(w, p) for w, p in TOLERANCES if p != "bf16"])
def test_predictions_by_each_backend(run, pictures, who, precision):
    path = pictures / "class1" / "000.png"
    reference = {p.index: p.probability for p in alexnet.load(run).predict(path)}
    predictor = load(run, backend=who, precision=precision)
    found = {p.index: p.probability for p in predictor.predict(path)}
    assert predictor.backend is not None and predictor.backend.precision == precision
    assert max(abs(found[i] - reference[i]) for i in found) < (0.2 if precision == "int8" else 1e-4)


def test_the_verbs_say_it_on_stderr(run, pictures, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["eval", str(run), "--backend", "openvino", "--precision", "int8", "--json"])
    said = capsys.readouterr()
    (entry,) = json.loads(said.out)["backends"]
    assert not caught.value.code and "openvino, int8: beside torch in fp32 the same first class for" in said.err
    assert (entry["backend"], entry["precision"]) == ("openvino", "int8") and 0 <= entry["agreement"]["top1"] <= 1
    path = str(pictures / "class0" / "000.png")
    with pytest.raises(SystemExit):
        main(["predict", str(run), path, "--backend", "onnxruntime"])
    assert "onnxruntime, fp32: beside torch in fp32 the same first class for 1 of 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["predict", str(run), path])
    assert "beside" not in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["predict", str(run), path, "--precision", "int8"])
    assert caught.value.code == 2 and "--precision int8: not with the backend torch" in capsys.readouterr().err


def test_the_judged_batch_leaves_nothing_behind(run, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    judge([str(run)], None, backend="openvino", precision="int8")
    assert list(tmp_path.iterdir()) == []
