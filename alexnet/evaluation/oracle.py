"""A model file run by another program, beside the network that was read from it, layer by layer."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.augment import Normalise, test_views
from ..data.decode import decoded_form
from ..data.samples import read_file, shown
from ..network.variants import TORCHVISIONS, Conv, Linear
from ..weights import caffe
from ..weights.onnx_graph import Graph
from ..weights.recognise import Kind
from ..weights.run import Loaded
from ..weights.torchvision import plain_name, their_names

if TYPE_CHECKING:
    from onnx import NodeProto

ROUNDING = 1e-3  # of a layer's largest value: more than sums in another order make
Layers = dict[str, NDArray[np.float32]]
Oracle = Callable[[Loaded, Path, torch.Tensor], Layers]


class Compared(NamedTuple):
    """The program that ran a file, and of each of our layers that it names the largest difference, as a share of the
    layer's largest value; or why there is none.
    """

    who: str | None
    differences: dict[str, float]
    why: str | None


class _NotRun(Exception):
    """The program is there, and does not take the file."""


class _NotAsked(Exception):
    """The program is there, and is not given such a file."""


def sample() -> Path:
    """A photograph that is always there: a flower, scikit-learn's."""
    return Path(str(files("sklearn"))) / "datasets" / "images" / "flower.jpg"


def seen(loaded: Loaded, picture: Path) -> torch.Tensor:
    """The centre view of a picture as the network takes it: (1, 3, s, s)."""
    image = decoded_form(read_file(picture), shown(str(picture)), loaded.preprocess.shaping)[0]
    normalise = Normalise(loaded.preprocess, loaded.mean, torch.device("cpu"))
    return test_views(torch.from_numpy(image)[None], normalise, views=1)


def compared(loaded: Loaded, path: Path, kind: Kind, x: torch.Tensor) -> Compared:
    """What another program makes of the file on `x` (B, 3, s, s), beside the network that was read from it.

    Where it does not run the file, or differs by more than rounding, `loaded.notes` says so.
    """
    found = ORACLES.get((kind, loaded.model.variant.name)) or ORACLES.get((kind, ""))
    if found is None:
        return Compared(None, {}, "no other program is known here that runs such a file")
    who, run = found
    try:
        theirs = run(loaded, path, x)
    except ModuleNotFoundError:
        return Compared(None, {}, f"{who}, which runs such a file, is not installed")
    except (ImportError, _NotAsked) as reason:
        return Compared(None, {}, str(reason))
    except _NotRun as reason:
        loaded.notes.append(f"{loaded.where}: {who} does not run it: {shown(' '.join(str(reason).split())[:200])}")
        return Compared(None, {}, f"{who} does not run it")
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
    return Compared(who, differences, None)


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
    """torchvision's own module with the file's tensors, by the names that they have in it; of a file with our names, by
    the table of names.
    """
    from torchvision.models import alexnet

    assert loaded.given is not None
    model = alexnet(num_classes=loaded.model.classes).eval()
    tensors, sources = loaded.given.tensors, loaded.given.sources
    names = their_names(tensors)
    model.load_state_dict({plain_name(sources[name]) or names[name]: value for name, value in tensors.items()})
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
    """The nodes of the file that were read, by ONNX Runtime: what its convolutions and matrix products make.

    Others could take any memory, so they are left out. Of a graph that prepares its pictures itself, or works out a
    shape by other nodes, it is given nothing.
    """
    import onnxruntime
    from onnx import ModelProto, ValueInfoProto
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    made = ModelProto.FromString(path.read_bytes())
    body, graph = made.graph, Graph(made.graph)
    if graph.pixels:
        raise _NotAsked("its graph prepares its pictures itself, and such a one ONNX Runtime is not given here")
    products = [step.output for step in graph.steps(graph.input) if step.kind in ("conv", "linear")]
    rows = [row.name for row in loaded.model.variant.layers if isinstance(row, Conv | Linear)]
    kept = [node for node in body.node if _is_read(node, graph.walked)]
    known = {"", graph.input, *graph.constants, *(name for node in kept for name in node.output)}
    if not all(name in known for node in kept for name in node.input):
        raise _NotAsked("its graph works out a shape by nodes that were not read, which ONNX Runtime is not given here")
    for part in (body.node, body.output, body.sparse_initializer, made.functions, made.training_info):
        del part[:]
    body.node.extend(kept)
    body.output.extend(ValueInfoProto(name=name) for name in products)
    try:
        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        values = session.run(products, {graph.input: x.numpy()})
    except (errors.Fail, errors.InvalidGraph, errors.InvalidArgument, errors.NotImplemented,
            errors.RuntimeException) as reason:  # fmt: skip
        raise _NotRun(reason) from None
    return {name: np.asarray(value, np.float32) for name, value in zip(rows, values, strict=True)}


def _is_read(node: "NodeProto", walked: set[str]) -> bool:
    """Whether a node is one of those that were read, or holds a tensor of the file, as their other inputs do."""
    holds = node.op_type == "Constant" and not any(one.HasField("sparse_tensor") for one in node.attribute)
    return node.domain in ("", "ai.onnx") and (holds or any(name in walked for name in node.output if name))


ORACLES: dict[tuple[Kind, str], tuple[str, Oracle]] = {
    ("caffe", ""): ("OpenCV", by_opencv),
    ("pth", "torchvision"): ("torchvision", by_torchvision),
    ("safetensors", "torchvision"): ("torchvision", by_torchvision),
    ("onnx", ""): ("ONNX Runtime", by_onnxruntime),
}
