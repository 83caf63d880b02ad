"""Each exported file on real and made pictures, in a process in which this program cannot be imported."""

from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet.data.sources import open_data
from alexnet.errors import UsageError, WeightsError
from alexnet.evaluation import exported
from alexnet.evaluation.backends import some, some_stored
from alexnet.evaluation.exported import check
from alexnet.network.variants import VARIANTS
from alexnet.weights.export import SUFFIX, export
from alexnet.weights.run import Loaded
from tests.networks import lively, small
from tests.pictures import write_folder
from tests.weights.test_export import loaded

FORMATS = [name for name in SUFFIX if name not in ("safetensors", "torchvision", "caffe")]


def stored(given: Loaded, folder: Path, count: int = 6) -> torch.Tensor:
    samples = open_data(str(folder), val_fraction=0.0, seed=0).train
    return some_stored(samples, given, count=count, threads=1, bad_images="fail")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures") / "set", classes=2, each=6)


# a mean image in RGB by the file's user; a mean colour in BGR by the graph itself
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("name", "asked"), [("tiny", False), ("onnxzoo", True)])
def test_a_file_runs_where_this_program_is_not(name, asked, kind, folder, tmp_path):
    given = loaded(small(VARIANTS[name]))
    pictures = stored(given, folder)
    path, *_ = export(given, tmp_path / f"m{SUFFIX[kind]}", kind, pixels=asked, softmax=asked)
    found = check(given, path, kind, pictures, softmax=asked)
    assert found.top1 == 1.0 and found.count == len(pictures)
    assert found.largest_difference <= 1e-4 * found.largest_logit


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("name", ["caffe", "bn"])
def test_opencv_runs_a_caffe_export(name, asked, folder, tmp_path):
    given = loaded(small(VARIANTS[name]))
    pictures = stored(given, folder)
    path, *_ = export(given, tmp_path / "m.caffemodel", "caffe", softmax=asked)
    found = check(given, path, "caffe", pictures, softmax=asked)
    assert found.top1 == 1.0 and found.largest_difference <= 1e-4 * found.largest_logit
    if name == "caffe":  # whose mean image is in a file of its own
        path.with_suffix(".mean.binaryproto").unlink()
        with pytest.raises(WeightsError, match="does not run without this program: KeyError: 'mean'"):
            check(given, path, "caffe", pictures, softmax=asked)


def test_a_library_that_is_not_there_is_named(folder, tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text(exported.CHILD.read_text().replace("import cv2", "import no_such_library"))
    monkeypatch.setattr(exported, "CHILD", child)
    given = loaded(small(VARIANTS["caffe"]))
    path, *_ = export(given, tmp_path / "m.caffemodel", "caffe")
    with pytest.raises(UsageError, match=r"no_such_library is not installed \(pip install 'alexnet"):
        check(given, path, "caffe", stored(given, folder), softmax=False)


def test_the_program_is_not_there(tmp_path, monkeypatch, folder):
    child = tmp_path / "child.py"
    source = exported.CHILD.read_text()
    mark = "    folder = Path(sys.argv[3])\n"
    assert mark in source
    given = loaded(VARIANTS["tiny"])
    (path,) = export(given, tmp_path / "m.onnx", "onnx")
    child.write_text(source.replace(mark, f"    import alexnet.network\n{mark}"))
    monkeypatch.setattr(exported, "CHILD", child)
    with pytest.raises(WeightsError, match="does not run without this program: ImportError: alexnet is not here"):
        check(given, path, "onnx", stored(given, folder), softmax=False)


def test_another_preparation_is_seen(folder, tmp_path):
    given = loaded(VARIANTS["tiny"])
    (path,) = export(given, tmp_path / "m.onnx", "onnx")
    assert given.mean is not None
    given.mean = np.ascontiguousarray(given.mean[..., ::-1]) + 20
    found = check(given, path, "onnx", stored(given, folder), softmax=False)
    assert found.largest_difference > 0.01 * found.largest_logit


def test_int8_agrees_and_says_how_far(folder, tmp_path):
    given = loaded(VARIANTS["tiny"])
    samples = open_data(str(folder), val_fraction=0.0, seed=0).train
    for kind in ("onnx", "openvino"):
        path, *_ = export(
            given, tmp_path / f"m{SUFFIX[kind]}", kind,
            calibration=lambda: some(samples, given, count=8, threads=1, bad_images="fail"),
        )  # fmt: skip
        found = check(given, path, kind, stored(given, folder), softmax=False)
        assert 1e-6 < found.largest_difference / found.largest_logit < 0.2


def test_what_does_not_run_is_said_on_one_line(folder, tmp_path):
    given = loaded(VARIANTS["tiny"])
    pictures = stored(given, folder)
    with pytest.raises(UsageError, match="--format safetensors has weights and no network"):
        check(given, tmp_path / "m.safetensors", "safetensors", pictures, softmax=False)
    broken = tmp_path / "m.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(WeightsError, match=f"{broken}: does not run without this program: ") as caught:
        check(given, broken, "onnx", pictures, softmax=False)
    assert "\n" not in str(caught.value)
    (path,) = export(given, tmp_path / "m.onnx", "onnx")
    given.model = lively(VARIANTS["tiny"], 5)
    with pytest.raises(WeightsError, match=r"gives \(6, 7\), expected \(6, 5\)"):
        check(given, path, "onnx", pictures, softmax=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*FORMATS, "torchvision"])
def test_photographs(kind, flowers, tmp_path):
    given = loaded(VARIANTS["torchvision"])
    pictures = stored(given, flowers / "val", count=32)
    path, *_ = export(given, tmp_path / f"m{SUFFIX[kind]}", kind)
    found = check(given, path, kind, pictures, softmax=False)
    assert found.top1 == 1.0 and found.count == 32 and found.largest_difference <= 1e-4 * found.largest_logit
