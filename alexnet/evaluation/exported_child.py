"""Run as a program by `exported.py`, never imported: an exported file on pictures, without this program.

    exported_child.py FILE FORMAT FOLDER

Reads `pictures.npy` in FOLDER, uint8 (B, S, S, 3) RGB, prepares them as the file's metadata say, and writes
`outputs.npy` there, float32 (B, classes). What it does is all that another program has to do.
"""

import base64
import json
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Run = Callable[[NDArray[Any]], NDArray[np.float32]]


class Absent(MetaPathFinder):
    """This program cannot be imported, wherever it is installed."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """ImportError for this program, nothing for any other."""
        if fullname.partition(".")[0] == "alexnet":
            raise ImportError("alexnet is not here")


def opened(path: Path, kind: str) -> tuple[Run, bool, dict[str, str]]:
    """The file as something that is called with a batch; whether it takes uint8; its metadata."""
    if kind == "onnx":
        import onnxruntime as ort

        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        (given,), said = session.get_inputs(), session.get_modelmeta().custom_metadata_map
        return lambda x: np.asarray(session.run(None, {given.name: x})[0]), given.type == "tensor(uint8)", said
    if kind == "openvino":
        import openvino as ov

        model = ov.Core().read_model(path)
        compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        said = {key: value.astype(str) for key, value in model.get_rt_info(["alexnet"]).astype(dict).items()}
        return lambda x: compiled(x)[0], model.input().element_type == ov.Type.u8, said
    if path.suffix == ".caffemodel":
        import cv2

        words = path.with_suffix(".prototxt")
        comments = (line[2:].partition(": ") for line in words.read_text("utf-8").split("\n") if line[:2] == "# ")
        said = {name: text for name, _, text in comments}
        if path.with_suffix(".mean.binaryproto").exists():
            said["mean"] = base64.b64encode(mean_of(path.with_suffix(".mean.binaryproto"))).decode()
        caffe = cv2.dnn.readNetFromCaffe(str(words), str(path))
        caffe.enableFusion(False)

        def run(x: NDArray[Any]) -> NDArray[np.float32]:
            caffe.setInput(x)
            return np.asarray(caffe.forward(), np.float32)

        return run, False, said
    import torch

    if kind == "torch-export":
        said = {"preprocess.json": ""}  # with a name there, it reads all
        program = torch.export.load(path, extra_files=said)
        (given,) = (node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
        net, pixels = program.module(), given.meta["val"].dtype == torch.uint8
    else:
        from safetensors import safe_open
        from torchvision.models import alexnet

        with safe_open(path, "pt") as file:
            said = file.metadata()
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        net, pixels = alexnet(num_classes=len(json.loads(said["classes.json"]))), False
        net.load_state_dict(state)
        net.eval()
    return lambda x: net(torch.from_numpy(x)).detach().numpy(), pixels, said


def mean_of(path: Path) -> bytes:
    """The mean image of a .binaryproto: its last field is the values (3, S, S), and they are turned to (S, S, 3)."""
    content = path.read_bytes()
    side = int((len(content) / 12) ** 0.5)  # what stands before the values is less than another row
    values = np.frombuffer(content[-12 * side * side :], "<f4").reshape(3, side, side)
    return np.ascontiguousarray(values.transpose(1, 2, 0)).tobytes()


def prepared(pictures: NDArray[np.uint8], said: dict[str, str], *, pixels: bool) -> NDArray[Any]:
    """The crops at the centre, as the file's metadata have it."""
    rule = json.loads(said["preprocess.json"])
    side, edge = rule["side"], (rule["stored"] - rule["side"]) // 2
    centre = slice(edge, edge + side)
    crops = pictures[:, centre, centre]
    if pixels:
        return np.ascontiguousarray(crops)
    if rule["mean"] == "mean.npy":
        mean = np.frombuffer(base64.b64decode(said["mean"]), "<f4").reshape(rule["stored"], rule["stored"], 3)
        mean = mean[centre, centre]
    else:
        mean = np.array(rule["mean"], np.float32)
    x = crops[..., ::-1] if rule["colour"] == "BGR" else crops
    x = (x - mean) * (rule["scale"] / np.array(rule["std"])).astype(np.float32)
    return np.ascontiguousarray(x.astype(np.float32).transpose(0, 3, 1, 2))


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent())
    run, pixels, said = opened(Path(sys.argv[1]), sys.argv[2])
    folder = Path(sys.argv[3])
    pictures = np.load(folder / "pictures.npy", allow_pickle=False)
    np.save(folder / "outputs.npy", run(prepared(pictures, said, pixels=pixels)), allow_pickle=False)
