"""Inference of one image and of a batch: our backends; torchvision's AlexNet, and the runtimes called directly."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torchvision
from torch import Tensor

from ..evaluation.backends import backend
from ..network.build import AlexNet, build
from ..network.cost import cost
from ..network.kernels import unmeasured
from ..network.variants import variant
from ..ranks import multiply_in
from ..weights.onnx import IMAGES, graph
from .eager import as_torch_comes, precision_on
from .rows import OURS, Contestant, Row, timed

NAME = "torchvision"
CALLS = {1: 50, 32: 12}  # batch -> calls of one measurement: some tenths of a second
SECONDS = {"cpu": 1.0}  # or as many as take so long: the first after other work takes twice as long as the next
BYTES = {"fp32": 4, "tf32": 4, "bf16": 2}  # of a weight
Run = Callable[[Tensor], object]


def floor(machine: dict[str, Any], batch: int, precision: str) -> float | None:
    """Seconds for the multiply-adds of a batch, or for reading each weight once, whichever is more; int8: no rate."""
    if precision not in BYTES:
        return None
    costs = cost(variant(NAME), 1000)
    sums = batch * costs.macs / machine["macs_per_second"][precision]
    return max(sums, costs.parameters * BYTES[precision] / machine["bytes_per_second"])


def choices(precision: str, device: torch.device) -> list[tuple[str, str]]:
    """The backends that are installed and their precisions, the first that of torch."""
    found = [("torch", precision)] + ([("torch", "fp32")] if precision != "fp32" else [])
    if device.type == "cpu":
        for name in ("openvino", "onnxruntime"):
            if all(find_spec(library) for library in ("onnx", name)):
                found += [(name, precision if name == "openvino" else "fp32")]
                found += [(name, "int8")] if find_spec("onnxruntime") else []
    return found


def eager(device: torch.device) -> Run:
    """torchvision's AlexNet by torch's defaults."""
    return torch.inference_mode()(as_torch_comes()(torchvision.models.alexnet(num_classes=1000).eval().to(device)))


def tuned(device: torch.device) -> Run:
    """The same with its weights cast to bf16, channels-last."""
    model = torchvision.models.alexnet(num_classes=1000).eval().to(device, torch.bfloat16)
    model = model.to(memory_format=torch.channels_last)
    return torch.inference_mode()(lambda x: model(x.to(torch.bfloat16, memory_format=torch.channels_last)).float())


def onnxruntime(content: bytes) -> Run:
    """ONNX Runtime with its defaults."""
    import onnxruntime as ort

    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {IMAGES: x.numpy()})[0]


def openvino(content: bytes, precision: str) -> Run:
    """OpenVINO with its defaults in a precision."""
    import openvino as ov

    core = ov.Core()
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    compiled = core.compile_model(core.read_model(content, b""), "CPU", {"INFERENCE_PRECISION_HINT": hint})
    return lambda x: compiled([x.numpy()])[0]


def direct(model: AlexNet, device: torch.device, precision: str) -> dict[str, tuple[Run, str]]:
    """The peers that are installed, each with the precision it computes in."""
    found = {"torchvision, torch's defaults": (eager(device), precision_on(device))}
    if precision == "bf16":
        found["torchvision, bf16 channels-last"] = (tuned(device), "bf16")
    if device.type == "cpu" and find_spec("onnx"):
        content = graph(model).SerializeToString()
        if find_spec("onnxruntime"):
            found["ONNX Runtime, directly"] = (onnxruntime(content), "fp32")
        if find_spec("openvino"):
            found[f"OpenVINO {precision}, directly"] = (openvino(content, precision), precision)
    return found


def _in(precision: str, device: torch.device, run: Run, x: Tensor) -> object:
    """A run in its own precision, which is the process's, and was that of the contestant before."""
    multiply_in(precision, device)
    return run(x)


def rows(machine: dict[str, Any], device: torch.device, *, precision: str, repeats: int, peers: bool) -> list[Row]:
    """One image and 32: ours with each backend that is installed, then the peers."""
    model = build(NAME, classes=1000, seed=0)
    model.kernels = unmeasured(device)
    side = model.variant.side
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(16, 3, side, side, generator=generator)
    runs: dict[str, tuple[Run, str]] = {}
    for index, (name, computes) in enumerate(choices(precision, device)):
        by, logits = backend(model, name, precision=computes, device=device, pictures=lambda: seen,
                             calibration=lambda: (seen, "noise"))  # fmt: skip
        who = OURS if index == 0 else f"{OURS}, {name} {computes}"
        runs[who] = (partial(_in, by.precision, device, logits), by.precision)
    others = direct(deepcopy(model).cpu(), device, precision) if peers else {}
    found: list[Row] = []
    for batch, calls in CALLS.items():
        flat = torch.randn(batch, 3, side, side, generator=generator).to(device)
        lying = flat.contiguous(memory_format=torch.channels_last)  # as our views of pictures lie
        contestants = [
            Contestant(who, partial(run, x), floor(machine, batch, computes))
            for x, group in ((lying, runs), (flat, others))
            for who, (run, computes) in group.items()
        ]
        seconds = SECONDS.get(device.type, 0.0)
        what = f"inference, {NAME}, batch {batch}"
        found += timed(what, contestants, repeats=repeats, calls=calls, seconds=seconds)
    return found
