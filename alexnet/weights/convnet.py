"""A checkpoint of the 2012 program, or of its successor cuda-convnet2 -> the network of ours that it is.

It is a pickle of Python 2, {"model_state": {"layers": …, …}, "op": the options given}. A layer says what it takes its
inputs from, and has a matrix for each of them: a column for each output, rows that lie as c, y, x. Nothing of the
wiring is taken for granted: each input is followed down to the layer that it comes from, and what lies between, and
the numbers of each, must be what our table of the network says. So the second tower's fc7, whose inputs are (b, a),
comes out right because the file says so.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.samples import shown
from ..errors import Misfit, WeightsError
from ..network.cost import Shape, out_shape
from ..network.variants import (
    ALIASES,
    CONVNET,
    HALF,
    LRN,
    ONETOWER,
    Conv,
    Dropout,
    Linear,
    MaxPool,
    ReLU,
    Row,
    WithinMapLRN,
)
from .foreign import Foreign
from .unpickle import read_pickle

# the momenta, what every batch came to, and what would make a tree of the graph
LEFT_OUT = ("op", "inputLayers", "weightsInc", "biasesInc", "train_outputs", "test_outputs")
OPTIONS = [
    (module, name)
    for module in ("options", "python_util.options")
    for name in ("OptionsParser", "Option", "OptionExpression", "ListOptionParser", "IntegerOptionParser",
                 "BooleanOptionParser", "StringOptionParser", "FloatOptionParser", "RangeOptionParser")
]  # fmt: skip
# the network by what its first convolution is called, a name for each tower
NETS = {("conv1a", "conv1b"): CONVNET, ("conv1a",): HALF, ("conv1",): ONETOWER}
UNSCALED = ("hs", "dropout2")  # dropout that leaves what it keeps as it is, and multiplies all by `keep` at test
MOST_CLASSES = 1 << 20
MOST_NAMED = 8
NOTES = (
    "the mean image is not in it, but in batches.meta beside its data",
    "its momentum is not read",
)
Fields = dict[str, Any]


class _Matrix(NamedTuple):
    source: str
    values: NDArray[np.float32]


def read_convnet(path: Path) -> Foreign:
    """The network in a checkpoint, or in the newest of a folder `ConvNet__…` of them.

    Net 145 becomes `convnet`, its towers merged; 145-half `half`; cuda-convnet2's net of one tower `onetower`.
    WeightsError: no such pickle; none of these nets; a layer that is missing, or wired, counted or shaped otherwise, by
    its name there and ours; values that are not finite.
    """
    net = _Net(_newest(path) if path.is_dir() else path)
    first = net.called("conv1")
    if first not in NETS:
        raise WeightsError(f"{net.where}: no AlexNet of cuda-convnet: its layers are {net.named()}")
    variant = NETS[first]
    tensors, sources = dict[str, torch.Tensor](), dict[str, str]()
    shape: Shape = (3, variant.side, variant.side)
    below, between = ("data",), list[Fields]()
    for row in variant.layers:
        if not isinstance(row, Conv | Linear):
            shape = out_shape(row, shape, 0)
            between.append(_fields(row, shape, shape))
            continue
        names = net.called(row.name)
        if len(names) != (1 if row is variant.layers[-1] else len(first)):
            raise WeightsError(
                f"{net.where}: {row.name} is {', '.join(names) or 'missing'}, expected one in each tower"
            )
        out = out_shape(row, shape, net.classes(names[0]))
        kernel = (row.kernel, row.kernel) if isinstance(row, Conv) else ()
        inputs = math.prod((shape[0], *kernel) if kernel else shape) // len(below)
        outputs = out[0] // len(names)
        towers, biases = list[list[_Matrix]](), list[NDArray[np.float32]]()
        for tower, name in enumerate(names):
            net.check(name, _fields(row, shape, out))
            sees = below[tower : tower + 1] if isinstance(row, Conv) and row.groups > 1 else below
            towers.append(net.matrices(name, sees, between, (inputs, outputs)))
            biases.append(net.numbers(name, "biases", (outputs, 1) if kernel else (1, outputs)))
        weight = merged([[matrix.values for matrix in tower] for tower in towers], kernel)
        tensors[f"{row.name}.weight"] = torch.from_numpy(weight)
        tensors[f"{row.name}.bias"] = torch.from_numpy(np.concatenate(biases, axis=None))
        read = "; ".join(", ".join(matrix.source for matrix in tower) for tower in towers)
        sources[f"{row.name}.weight"] = f"{read}: {'c, y, x, out to out, c, y, x' if kernel else 'transposed'}"
        sources[f"{row.name}.bias"] = "; ".join(names)
        below, between, shape = names, list[Fields](), out
    return Foreign(tensors, sources, variant.name, notes=NOTES)


def merged(towers: Sequence[Sequence[NDArray[np.float32]]], kernel: tuple[int, ...]) -> NDArray[np.float32]:
    """Each tower's matrices (inputs, outputs), in the order of what they see -> one layer's weight.

    Its outputs are the first tower's, then the second's; its inputs those of one matrix, then of the next; with a
    `kernel` of (k, k) it is (outputs, c, k, k), else (outputs, inputs).
    """
    each = [[matrix.T.reshape(matrix.shape[1], -1, *kernel) for matrix in tower] for tower in towers]
    return np.concatenate([np.concatenate(tower, axis=1) for tower in each])


def read_convnet_mean(path: Path) -> NDArray[np.float32]:
    """The mean image in cuda-convnet's `batches.meta`: float32 (S, S, 3) RGB, 0..255.

    WeightsError: no such pickle, or its `data_mean` is no square image of three colours.
    """
    found, where = read_pickle(path), shown(str(path))
    mean = found.get("data_mean") if isinstance(found, dict) else None
    if not isinstance(mean, np.ndarray) or mean.dtype.kind != "f":
        raise WeightsError(f"{where}: no batches.meta of cuda-convnet: no array of numbers is its data_mean")
    side = math.isqrt(mean.size // 3)
    if not mean.size or mean.size != 3 * side**2 or mean.size != max(mean.shape):
        raise WeightsError(f"{where}: data_mean is {mean.shape}, expected a square image's c, y, x as (3·S·S, 1)")
    if not (mean.min() >= 0 and mean.max() <= 255):
        raise WeightsError(f"{where}: data_mean holds values that are not in 0..255")
    return np.ascontiguousarray(mean.reshape(3, side, side).transpose(1, 2, 0), np.float32)


def _newest(folder: Path) -> Path:
    """The checkpoint of the last epoch and batch, which its name gives."""
    where = shown(str(folder))
    try:
        names = [entry.name for entry in folder.iterdir() if re.fullmatch(r"[0-9]+\.[0-9]+", entry.name)]
    except OSError as reason:
        raise WeightsError(f"{where}: {reason.strerror}") from None
    if not names:
        raise WeightsError(f"{where}: a folder without a checkpoint of cuda-convnet, which are called EPOCH.BATCH")
    return folder / max(names, key=lambda name: [int(part) for part in name.split(".")])


def _fields(row: Row, shape: Shape, out: Shape) -> Fields:
    """What a layer of theirs says of itself if it is this row, from `shape` to `out`; scales are stored divided."""
    match row:
        case Conv():
            return {"type": "conv", "filterSize": row.kernel, "stride": row.stride, "padding": -row.pad.before,
                    "groups": 1, "imgSize": shape[1], "modulesX": out[1]}  # fmt: skip
        case ReLU():
            return {"type": "neuron", "neuron": "relu"}
        case LRN():
            scale = row.alpha / row.size
            return {"type": "cmrnorm", "size": row.size, "scale": scale, "pow": row.beta, "minDiv": row.k}
        case WithinMapLRN():
            return {"type": "rnorm", "size": row.size, "scale": row.alpha / row.size**2, "pow": row.beta}
        case MaxPool():
            return {"type": "pool", "pool": "max", "sizeX": row.kernel, "stride": row.stride, "start": 0,
                    "outputsX": out[1]}  # fmt: skip
        case Dropout():
            return {"type": "dropout", "keep": 1 - row.p}
        case _:
            return {"type": "fc"}


def _said(value: Any) -> float | str | None:
    """A field as `_fields` has it, its numbers rounded: of a list with one for each input, the one."""
    match value:
        case [int() as first, *rest] if all(type(one) is int and one == first for one in rest):
            return _said(first)
        case {"type": str() as kind}:
            return kind
        case str():
            return "dropout" if value in UNSCALED else value
        case float() | int() if abs(value) < 1 << 32:
            return float(f"{value:.6g}")
    return None


def _called(name: str) -> str:
    """A layer's name there and, where it is another, ours: `conv1a (conv1)`."""
    ours = ALIASES.get(name, name)
    return f"{shown(name[:40])}{f' ({ours})' if ours != name else ''}"


class _Net:
    """The layers of a checkpoint by name, of which nothing is believed."""

    def __init__(self, path: Path) -> None:
        self.where = shown(str(path))
        found = read_pickle(path, left_out=LEFT_OUT, stepped_over=OPTIONS)
        for key in ("model_state", "layers"):
            found = found.get(key) if isinstance(found, dict) else None
        layers = [*found.values()] if isinstance(found, dict) else found
        if not isinstance(layers, list) or not all(
            isinstance(layer, dict) and isinstance(layer.get("name"), str) for layer in layers
        ):
            raise WeightsError(f"{self.where}: no checkpoint of cuda-convnet: no layers by name in its model_state")
        self.order: list[str] = [layer["name"] for layer in layers]
        self.layers: dict[str, Fields] = dict(zip(self.order, layers, strict=True))

    def wrong(self, name: str, why: str) -> WeightsError:
        """What to say of the layer `name`."""
        return WeightsError(f"{self.where}: {_called(name)}: {why}")

    def misfit(self, name: str, what: str, expected: object, found: object) -> WeightsError:
        """The same of something that is otherwise than expected."""
        are = "are" if what in ("weights", "biases") else "is"
        return WeightsError(
            f"{self.where}: {_called(name)}: its {what} {are} {found}, expected {expected}",
            [Misfit(f"{_called(name)}: {what}", expected, found)],
        )

    def named(self) -> str:
        """The names of the first layers, to end a message with."""
        return ", ".join(shown(name[:40]) for name in self.order[:MOST_NAMED]) or "none"

    def called(self, ours: str) -> tuple[str, ...]:
        """What our layer is called, a name for each tower."""
        return tuple(sorted(name for name in self.layers if ALIASES.get(name, name) == ours))

    def check(self, name: str, expected: Fields) -> None:
        """Refuses a layer that says anything else of itself."""
        if name not in self.layers:
            raise self.wrong(name, "missing, and taken as an input")
        for field, value in expected.items():
            found = _said(self.layers[name].get(field))
            if found != _said(value):
                raise self.misfit(name, field, value, shown(str(found)[:40]))

    def classes(self, name: str) -> int:
        """How many outputs a layer says that it has."""
        found = self.layers[name].get("outputs")
        if not isinstance(found, int) or not 0 < found <= MOST_CLASSES:
            raise self.wrong(name, f"its outputs are no number of 1 to {MOST_CLASSES}")
        return found

    def inputs(self, name: str) -> list[str]:
        """What a layer takes its inputs from; the program's first version has numbers for the names."""
        given = self.layers[name].get("inputs")
        if not isinstance(given, list) or not given:
            raise self.wrong(name, "no list of its inputs")
        named = [self.order[one] if isinstance(one, int) and one in range(len(self.order)) else one for one in given]
        if not all(isinstance(one, str) for one in named):
            raise self.wrong(name, "its inputs are no layers")
        return named

    def matrices(
        self, name: str, sees: Sequence[str], between: Sequence[Fields], shape: tuple[int, int]
    ) -> list[_Matrix]:
        """A layer's matrices in the order of `sees`, times what dropout keeps where it scales at test.

        Each input must come from another of `sees`, and through what `between` says, the last of it nearest.
        """
        inputs, found = self.inputs(name), dict[str, _Matrix]()
        if len(inputs) != len(sees):
            raise self.wrong(name, f"{len(inputs)} inputs, expected {len(sees)}")
        for index, at in enumerate(inputs):
            source, values = f"{name}[{index}]", self.numbers(name, "weights", shape, index)
            for expected in reversed(between):
                self.check(at, expected)
                if self.layers[at]["type"] in UNSCALED:
                    source, values = f"{source} · {expected['keep']:g}", values * np.float32(expected["keep"])
                at = self.inputs(at)[0]
            if at not in sees or at in found:
                raise self.wrong(name, f"its input {index} comes from {shown(at[:40])}, expected {' and '.join(sees)}")
            found[at] = _Matrix(source, values)
        return [found[one] for one in sees]

    def numbers(self, name: str, key: str, shape: tuple[int, int], index: int | None = None) -> NDArray[np.float32]:
        """A layer's array, or the array at `index` of a list of them, which must have this shape, as float32."""
        found = self.layers[name].get(key)
        if index is not None:
            found = found[index] if isinstance(found, list) and index < len(found) else None
        if not isinstance(found, np.ndarray) or found.dtype.kind != "f" or found.shape != shape:
            what = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else "no array"
            raise self.misfit(name, key, f"float32 {shape}", what)
        if not np.isfinite(found).all():
            raise self.wrong(name, f"its {key} hold values that are not finite")
        return found.astype(np.float32, copy=False)
