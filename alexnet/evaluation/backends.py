"""torch, OpenVINO and ONNX Runtime behind one function: float images to logits."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ..data.augment import Normalise, test_views
from ..data.loader import BadImages, Places, batches, stored
from ..data.samples import Samples
from ..data.sources import open_data
from ..errors import AlexNetError, DataError, UsageError
from ..network.build import AlexNet
from ..network.packed import packed
from ..ranks import device_of, multiply_in, precision_of
from ..weights.onnx import IMAGES, LOGITS, graph, missing, quantised
from ..weights.run import Loaded
from .score import Network

BackendName = Literal["torch", "openvino", "onnxruntime"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
WITHIN = 0.02  # of the largest logit: farther from fp32 than this, bf16 is not used
CHECKED = 32  # pictures that a backend is compared on
MANY = 16  # images for which torch's weights are laid out otherwise than for one (docs/log.md)
CALIBRATION = 64  # pictures from which int8 has the ranges of its activations


@dataclass(frozen=True)
class Agreement:
    """Logits beside those of torch in fp32, over `count` images: the share with the same first class, and how far."""

    top1: float
    largest_difference: float
    largest_logit: float
    count: int

    @classmethod
    def of(cls, logits: Tensor, reference: Tensor) -> "Agreement":
        """From two of (B, classes)."""
        same = (logits.argmax(1) == reference.argmax(1)).float().mean()
        far, most = (logits - reference).abs().max(), reference.abs().max()
        return cls(float(same), float(far), float(most), len(logits))

    @property
    def within(self) -> bool:
        """Whether the largest difference is at most `WITHIN` of the largest logit."""
        return self.largest_difference <= WITHIN * self.largest_logit


@dataclass(frozen=True)
class Backend:
    """What computes logits, and in which precision.

    `agreement`: that of what was asked for, None where that is the reference itself; `refused`: bf16, and too far off.
    """

    name: str
    precision: str
    agreement: Agreement | None
    refused: bool
    calibrated: str | None

    def to_json(self) -> dict[str, Any]:
        """What `eval --json` says of it."""
        return {
            "backend": self.name,
            "precision": self.precision,
            "refused": self.refused,
            "calibrated": self.calibrated,
            "agreement": None if self.agreement is None else asdict(self.agreement),
        }

    def __str__(self) -> str:
        a = self.agreement
        if a is None:
            return f"{self.name}, {self.precision}"
        share = a.largest_difference / a.largest_logit if a.largest_logit else 0.0
        return (
            f"{self.name}, {'bf16' if self.refused else self.precision}: beside torch in fp32 the same first class for "
            f"{round(a.top1 * a.count)} of {a.count} views, logits at most {a.largest_difference:.3g} apart "
            f"({100 * share:.2g} % of the largest)"
            + (f"; calibrated on {self.calibrated}" if self.calibrated else "")
            + (f"; more than {100 * WITHIN:g} %, so fp32 is used" if self.refused else "")
        )


def device_for(backend: str, name: str) -> torch.device:
    """What --device means for a backend: the others than torch compute on the processor."""
    if backend not in BACKENDS:
        raise UsageError(f"--backend {backend}: unknown; known are {', '.join(BACKENDS)}")
    if backend == "torch":
        return device_of(name)
    if name not in ("auto", "cpu"):
        raise UsageError(f"--device {name}: the backend {backend} computes on the processor")
    return torch.device("cpu")


def precision_for(backend: str, name: str, device: torch.device) -> str:
    """auto | fp32 | bf16 | int8 -> what the backend computes in; UsageError for what it has not."""
    if name == "int8" and backend != "torch":
        return name
    if name == "int8":
        raise UsageError("--precision int8: not with the backend torch; take --backend openvino or onnxruntime")
    if backend == "onnxruntime" and name == "bf16":
        raise UsageError("--precision bf16: the backend onnxruntime computes in fp32 or int8")
    return "fp32" if backend == "onnxruntime" and name == "auto" else precision_of(name, device)


def backend(
    model: AlexNet,
    name: str,
    *,
    precision: str,
    device: torch.device,
    pictures: Callable[[], Tensor],
    calibration: Callable[[], tuple[Tensor, str]],
) -> tuple[Backend, Network]:
    """`model`, which is moved to the device, computed by `name`: float (B, 3, side, side) there -> logits (B, classes).

    `pictures`, float (B, 3, side, side), are what it is compared on with torch in fp32; bf16 that is not within
    `WITHIN` is fp32. `calibration` gives int8 its pictures, and says which they are. UsageError: a library that is not
    installed.
    """
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    if name == "torch" and precision == "fp32":
        return Backend(name, precision, None, refused=False, calibrated=None), _torch(model, device, precision)
    calibrated = None
    if precision == "int8":
        images, calibrated = calibration()
        run = _of_bytes(name, quantised(model, images).SerializeToString(), precision)
    else:
        run = _of(model, name, precision, device)
    seen = pictures().to(device)
    multiply_in("fp32", device)  # the reference is, whatever is asked for
    with torch.inference_mode():
        reference = model(seen)
    multiply_in(precision, device)
    agreement = Agreement.of(run(seen), reference)
    refused = precision == "bf16" and not agreement.within
    if refused:
        precision, run = "fp32", _of(model, name, "fp32", device)
    return Backend(name, precision, agreement, refused, calibrated), run


def _of(model: AlexNet, name: str, precision: str, device: torch.device) -> Network:
    if name == "torch":
        return _torch(model, device, precision)
    return _of_bytes(name, graph(model).SerializeToString(), precision)


def _of_bytes(name: str, content: bytes, precision: str) -> Network:
    return _openvino(content, precision) if name == "openvino" else _onnxruntime(content)


def _torch(model: AlexNet, device: torch.device, precision: str) -> Network:
    """On the processor with packed weights; elsewhere bf16 is the weights cast once, averages of batches excepted."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        return _packed(model, dtype)
    if dtype == torch.float32:
        net = model
    else:
        net = deepcopy(model)
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.to(dtype)

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        return net(images.to(dtype, memory_format=torch.channels_last)).float()

    return run


def _packed(model: AlexNet, dtype: torch.dtype) -> Network:
    """With weights laid out for one image, and for many from the first batch of `MANY` or more on."""
    nets = {1: packed(model, dtype, batch=1)}

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        batch = MANY if len(images) >= MANY else 1
        if batch not in nets:
            nets[batch] = packed(model, dtype, batch=batch)
        return nets[batch](images.to(dtype, memory_format=torch.channels_last)).float()

    return run


def _openvino(content: bytes, precision: str) -> Network:
    """An ONNX file's content, compiled for the processor. Pictures are taken as they lie: channels last.

    It is compiled for each size of a batch, but for one that fills more than half of another's, since for any size the
    maps would be turned round and back (docs/log.md). Each has its own copy of the weights; one that a later one can
    stand for is dropped.
    """
    try:
        import openvino as ov
        from openvino.preprocess import PrePostProcessor
    except ImportError:
        raise missing("openvino") from None
    core = ov.Core()
    read = PrePostProcessor(core.read_model(content, b""))
    read.input().tensor().set_layout(ov.Layout("NHWC"))
    read.input().model().set_layout(ov.Layout("NCHW"))
    model = read.build()
    hint = precision if precision != "int8" else precision_of("auto", torch.device("cpu"))  # of what int8 leaves alone
    options = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[hint],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,
    }
    requests: dict[int, Any] = {}  # by the size of a batch

    def run(images: Tensor) -> Tensor:
        count = len(images)
        size = min((one for one in requests if count <= one < 2 * count), default=max(count, 1))
        if size not in requests:
            for served in [one for one in requests if one <= size < 2 * one]:
                del requests[served]
            fixed = model.clone()
            fixed.reshape([size, *fixed.inputs[0].partial_shape[1:]])
            requests[size] = core.compile_model(fixed, "CPU", options).create_infer_request()
        given = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
        if count < size:
            given = np.concatenate([given, np.zeros((size - count, *given.shape[1:]), given.dtype)])
        requests[size].infer([given], share_inputs=True)
        return torch.from_numpy(requests[size].get_output_tensor().data[:count].copy())

    return run


def _onnxruntime(content: bytes) -> Network:
    try:
        import onnxruntime as ort
    except ImportError:
        raise missing("onnxruntime") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        # laid out by numpy: torch's threads would go on waiting for more work, on the cores that are needed here
        return torch.from_numpy(session.run([LOGITS], {IMAGES: np.ascontiguousarray(images.numpy())})[0])

    return run


def some(samples: Samples, loaded: Loaded, *, count: int, threads: int, bad_images: BadImages) -> Tensor:
    """The centre views of up to `count` pictures, evenly from the whole table: float (B, 3, side, side).

    DataError where none of them can be decoded.
    """
    pictures = some_stored(samples, loaded, count=count, threads=threads, bad_images=bad_images)
    return test_views(pictures, Normalise(loaded.preprocess, loaded.mean, torch.device("cpu")), views=1)


def some_stored(samples: Samples, loaded: Loaded, *, count: int, threads: int, bad_images: BadImages) -> Tensor:
    """The same pictures in their stored form: uint8 (B, S, S, 3)."""
    rows = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(np.int64))
    (batch,) = batches(
        samples,
        [Places(rows, rows)],
        stored(samples, loaded.preprocess),
        side=loaded.preprocess.stored,
        threads=threads,
        bad_images=bad_images,
    )
    if not len(batch.rows):
        raise DataError(f"none of {len(rows)} images looked at can be decoded; the first: {batch.bad[0][1]}")
    return batch.images


def own_calibration(loaded: Loaded) -> tuple[Tensor, str] | None:
    """Pictures that the run was trained on, and what they are; None where it has none, or they are not there."""
    kept = loaded.data
    if kept is None:
        return None
    try:
        train = open_data(kept["source"], **kept["split"]).train
    except AlexNetError:  # moved or gone
        return None
    if train.fingerprint() != kept["train_fingerprint"]:
        return None
    images = some(train, loaded, count=CALIBRATION, threads=torch.get_num_threads(), bad_images="skip")
    return images, f"{len(images)} pictures of its training"


def backend_of(
    loaded: Loaded,
    name: str,
    *,
    precision: str,
    device: torch.device,
    pictures: Callable[[], Tensor],
) -> tuple[Backend, Network]:
    """`backend` for a run: int8 is calibrated on pictures of its training or, without them, on `pictures`."""

    def calibration() -> tuple[Tensor, str]:
        own = own_calibration(loaded)
        if own is not None:
            return own
        given = pictures()
        return given, f"{len(given)} of the pictures given"

    return backend(loaded.model, name, precision=precision, device=device, pictures=pictures, calibration=calibration)
