"""A model file run by another program, beside the network that was read from it, layer by layer."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.augment import Normalise, test_views
from ..data.decode import decoded_form
from ..data.samples import read_file, shown
from ..network.variants import TORCHVISIONS, Conv, Linear
from ..weights import caffe
from ..weights.recognise import Kind
from ..weights.run import Loaded
from ..weights.torchvision import their_names

ROUNDING = 1e-3  # of a layer's largest value: more than sums in another order make
Layers = dict[str, NDArray[np.float32]]
Oracle = Callable[[Loaded, Path, torch.Tensor], Layers]


class _NotRun(Exception):
    """The program is there, and does not take the file."""


def sample() -> Path:
    """A photograph that is always there: a flower, scikit-learn's."""
    return Path(str(files("sklearn"))) / "datasets" / "images" / "flower.jpg"


def seen(loaded: Loaded, picture: Path) -> torch.Tensor:
    """The centre view of a picture as the network takes it: (1, 3, s, s)."""
    image = decoded_form(read_file(picture), shown(str(picture)), loaded.preprocess.shaping)[0]
    normalise = Normalise(loaded.preprocess, loaded.mean, torch.device("cpu"))
    return test_views(torch.from_numpy(image)[None], normalise, views=1)


def compared(loaded: Loaded, path: Path, kind: Kind, x: torch.Tensor) -> tuple[str, dict[str, float]] | None:
    """The program that ran the file on `x` (B, 3, s, s), and of each of our layers that it names the largest
    difference, as a share of the layer's largest value. None: no program that runs such a file is installed.

    Where it does not run the file, or differs by more than rounding, `loaded.notes` says so.
    """
    found = ORACLES.get((kind, loaded.model.variant.name)) or ORACLES.get((kind, ""))
    if found is None:
        return None
    who, run = found
    try:
        theirs = run(loaded, path, x)
    except ImportError:
        return None
    except _NotRun as reason:
        loaded.notes.append(f"{loaded.where}: {who} does not run it: {shown(' '.join(str(reason).split())[:200])}")
        return None
    if not theirs:
        return None
    with torch.no_grad():
        ours = loaded.model.trace(x, list(theirs))
    largest = {name: float(value.abs().max()) or 1.0 for name, value in ours.items()}
    differences = {
        name: float(np.abs(ours[name].numpy() - value.reshape(ours[name].shape)).max()) / largest[name]
        for name, value in theirs.items()
    }
    wrong = next((name for name, value in differences.items() if not value <= ROUNDING), None)
    if wrong is not None:
        loaded.notes.append(f"{loaded.where}: {who} computes it otherwise from {wrong} on; one of the two is wrong")
    return who, differences


def by_opencv(loaded: Loaded, path: Path, x: torch.Tensor) -> Layers:
    """A .caffemodel by OpenCV's importer, with the network that the variant's rows describe."""
    import cv2

    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise ImportError("OpenCV 5 has no importer of Caffe's files")
    try:
        with TemporaryDirectory() as folder:
            prototxt = Path(folder) / "deploy.prototxt"
            prototxt.write_text(caffe.prototxt(loaded.model.variant, loaded.model.classes))
            net = cv2.dnn.readNetFromCaffe(str(prototxt), str(path))
        net.enableFusion(False)
        names = [name for name in net.getLayerNames() if name in {row.name for row in loaded.model.variant.layers}]
        net.setInput(x.numpy())
        values = net.forward(names)
    except cv2.error as reason:
        raise _NotRun(reason) from None
    return {name: np.asarray(value, np.float32) for name, value in zip(names, values, strict=True)}


def by_torchvision(loaded: Loaded, path: Path, x: torch.Tensor) -> Layers:
    """torchvision's own module with the file's tensors under its names."""
    from torchvision.models import alexnet

    model = alexnet(num_classes=loaded.model.classes).eval()
    state = loaded.model.state_dict()
    names = their_names(state)
    model.load_state_dict({names[name]: value for name, value in state.items()})
    found: Layers = {}
    with torch.no_grad():
        for group, modules in (("features", model.features), ("classifier", model.classifier)):
            for index, module in enumerate(modules):
                x = module(x)
                found[TORCHVISIONS[f"{group}.{index}"]] = x.clone().numpy()
            if group == "features":
                x = model.avgpool(x).flatten(1)
    return found


def by_onnxruntime(loaded: Loaded, path: Path, x: torch.Tensor) -> Layers:
    """The file's own graph by ONNX Runtime: what comes out of its convolutions and matrix products, in their order.

    Of a graph that is written otherwise, or prepares its pictures itself, nothing.
    """
    import onnxruntime
    from onnx import ModelProto, ValueInfoProto
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    made = ModelProto.FromString(path.read_bytes())
    products = [node.output[0] for node in made.graph.node if node.op_type in ("Conv", "Gemm")]
    rows = [row.name for row in loaded.model.variant.layers if isinstance(row, Conv | Linear)]
    known = {value.name for value in made.graph.initializer}
    (given,) = (value for value in made.graph.input if value.name not in known)
    if len(products) != len(rows) or given.type.tensor_type.elem_type != 1:
        return {}
    del made.graph.output[:]
    made.graph.output.extend(ValueInfoProto(name=name) for name in products)
    try:
        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        values = session.run(products, {given.name: x.numpy()})
    except (errors.Fail, errors.InvalidGraph, errors.InvalidArgument, errors.NotImplemented) as reason:
        raise _NotRun(reason) from None
    return {name: np.asarray(value, np.float32) for name, value in zip(rows, values, strict=True)}


ORACLES: dict[tuple[Kind, str], tuple[str, Oracle]] = {
    ("caffe", ""): ("OpenCV", by_opencv),
    ("pth", "torchvision"): ("torchvision", by_torchvision),
    ("safetensors", "torchvision"): ("torchvision", by_torchvision),
    ("onnx", ""): ("ONNX Runtime", by_onnxruntime),
}
