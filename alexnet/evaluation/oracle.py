"""A model file run by another program, beside the network that was read from it, layer by layer."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.augment import Normalise, test_views
from ..data.decode import decoded_form
from ..data.samples import read_file, shown
from ..network.variants import ALIASES, Conv, Linear
from ..weights import caffe
from ..weights.recognise import Kind
from ..weights.run import Loaded

Layers = dict[str, NDArray[np.float32]]
Oracle = Callable[[Loaded, Path, torch.Tensor], Layers]


def seen(loaded: Loaded, picture: Path | None) -> torch.Tensor:
    """The centre view of a picture, or where there is none of noise, as the network takes it: (1, 3, s, s)."""
    side = loaded.preprocess.stored
    if picture is None:
        image = np.random.default_rng(0).integers(256, size=(side, side, 3)).astype(np.uint8)
    else:
        image = decoded_form(read_file(picture), shown(str(picture)), loaded.preprocess.shaping)[0]
    normalise = Normalise(loaded.preprocess, loaded.mean, torch.device("cpu"))
    return test_views(torch.from_numpy(image)[None], normalise, views=1)


def compared(loaded: Loaded, path: Path, kind: Kind, x: torch.Tensor) -> tuple[str, dict[str, float]] | None:
    """The program that ran the file on `x` (B, 3, s, s), and of each of our layers that it names the largest
    difference, as a share of the layer's largest value. None: no program that runs such a file is installed.
    """
    found = ORACLES.get((kind, loaded.model.variant.name)) or ORACLES.get((kind, ""))
    if found is None:
        return None
    who, run = found
    try:
        theirs = run(loaded, path, x)
    except ImportError:
        return None
    if not theirs:
        return None
    with torch.no_grad():
        ours = loaded.model.trace(x, list(theirs))
    largest = {name: float(value.abs().max()) or 1.0 for name, value in ours.items()}
    return who, {
        name: float(np.abs(ours[name].numpy() - value.reshape(ours[name].shape)).max()) / largest[name]
        for name, value in theirs.items()
    }


def by_opencv(loaded: Loaded, path: Path, x: torch.Tensor) -> Layers:
    """A .caffemodel by OpenCV's importer, with the network that the variant's rows describe."""
    import cv2

    with TemporaryDirectory() as folder:
        prototxt = Path(folder) / "deploy.prototxt"
        prototxt.write_text(caffe.prototxt(loaded.model.variant, loaded.model.classes))
        net = cv2.dnn.readNetFromCaffe(str(prototxt), str(path))
    net.enableFusion(False)
    names = [name for name in net.getLayerNames() if name in {row.name for row in loaded.model.variant.layers}]
    net.setInput(x.numpy())
    return {name: np.asarray(value, np.float32) for name, value in zip(names, net.forward(names), strict=True)}


def by_torchvision(loaded: Loaded, path: Path, x: torch.Tensor) -> Layers:
    """torchvision's own module with the file's tensors under its names."""
    from torchvision.models import alexnet

    model = alexnet(num_classes=loaded.model.classes).eval()
    theirs = {ours: there for there, ours in ALIASES.items() if there.startswith(("features.", "classifier."))}
    state = loaded.model.state_dict()
    model.load_state_dict(
        {f"{theirs[name.split('.')[0]]}.{name.split('.')[1]}": value for name, value in state.items()}
    )
    found: Layers = {}
    with torch.no_grad():
        for group, modules in (("features", model.features), ("classifier", model.classifier)):
            for index, module in enumerate(modules):
                x = module(x)
                found[ALIASES[f"{group}.{index}"]] = x.clone().numpy()
            if group == "features":
                x = model.avgpool(x).flatten(1)
    return found


def by_onnxruntime(loaded: Loaded, path: Path, x: torch.Tensor) -> Layers:
    """The file's own graph by ONNX Runtime: what comes out of its convolutions and matrix products, in their order.

    Of a graph that is written otherwise, or prepares its pictures itself, nothing.
    """
    import onnxruntime
    from onnx import ModelProto, ValueInfoProto

    made = ModelProto.FromString(path.read_bytes())
    products = [node.output[0] for node in made.graph.node if node.op_type in ("Conv", "Gemm")]
    rows = [row.name for row in loaded.model.variant.layers if isinstance(row, Conv | Linear)]
    known = {value.name for value in made.graph.initializer}
    (given,) = (value for value in made.graph.input if value.name not in known)
    if len(products) != len(rows) or given.type.tensor_type.elem_type != 1:
        return {}
    del made.graph.output[:]
    made.graph.output.extend(ValueInfoProto(name=name) for name in products)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(products, {given.name: x.numpy()})
    return {name: np.asarray(value, np.float32) for name, value in zip(rows, values, strict=True)}


ORACLES: dict[tuple[Kind, str], tuple[str, Oracle]] = {
    ("caffe", ""): ("OpenCV", by_opencv),
    ("pth", "torchvision"): ("torchvision", by_torchvision),
    ("safetensors", "torchvision"): ("torchvision", by_torchvision),
    ("onnx", ""): ("ONNX Runtime", by_onnxruntime),
}
