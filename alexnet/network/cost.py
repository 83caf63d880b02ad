"""What a variant costs, from its rows alone: shapes, parameters, multiply-adds, neurons, receptive fields."""

from dataclasses import dataclass, fields
from itertools import zip_longest
from math import prod
from typing import Any

from alexnet.network.variants import (
    AdaptivePool,
    BatchNorm,
    Conv,
    Linear,
    MaxPool,
    Row,
    Variant,
    WithinMapLRN,
)

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer for one image. `out` is (C, H, W); `receptive_field` is a side in pixels, at most the image's."""

    name: str
    kind: str
    out: Shape
    parameters: int
    macs: int
    neurons: int
    receptive_field: int


@dataclass(frozen=True, slots=True)
class Cost:
    """A whole network: learnable parameters; multiply-adds and neurons of convolutions and fully connected layers."""

    layers: tuple[LayerCost, ...]

    @property
    def parameters(self) -> int:
        """Learnable values; a batch normalisation's running averages are not."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds of one image's forward pass, biases not counted."""
        return sum(layer.macs for layer in self.layers)

    @property
    def neurons(self) -> int:
        """Outputs of convolutions and fully connected layers."""
        return sum(layer.neurons for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that two variants do differently: `what` of `layer` ("" for the input), and the mark behind each."""

    layer: str
    what: str
    here: str
    there: str
    mark_here: str
    mark_there: str


def out_shape(row: Row, shape: Shape, classes: int) -> Shape:
    """The (C, H, W) that a row makes of (C, H, W)."""
    C, H, W = shape
    match row:
        case Conv():
            H, W = (windows(n + row.pad.before + row.pad.after, row.kernel, row.stride, ceil=False) for n in (H, W))
            return row.out, H, W
        case MaxPool():
            H, W = (windows(n, row.kernel, row.stride, ceil=row.ceil) for n in (H, W))
            return C, H, W
        case AdaptivePool():
            return C, row.side, row.side
        case Linear():
            return classes if row.out is None else row.out, 1, 1
        case _:
            return shape


def shapes(variant: Variant, classes: int) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a network's state, by its name there; nothing is allocated."""
    found: dict[str, tuple[int, ...]] = {}
    shape: Shape = (3, variant.side, variant.side)
    for row in variant.layers:
        out = out_shape(row, shape, classes)
        match row:
            case Conv():
                found[f"{row.name}.weight"] = (row.out, shape[0] // row.groups, row.kernel, row.kernel)
                found[f"{row.name}.bias"] = (row.out,)
            case Linear():
                found[f"{row.name}.weight"] = (out[0], prod(shape))
                found[f"{row.name}.bias"] = (out[0],)
            case BatchNorm():
                learned = ("weight", "bias") if row.scale else ()
                found |= dict.fromkeys(
                    (f"{row.name}.{name}" for name in (*learned, "running_mean", "running_var")), shape[:1]
                )
                found[f"{row.name}.num_batches_tracked"] = ()
        shape = out
    return found


def cost(variant: Variant, classes: int) -> Cost:
    """What each layer of `variant` costs with `classes` classes, for one image."""
    layers = []
    shape: Shape = (3, variant.side, variant.side)
    field, jump = 1, 1  # of one value, and between two neighbours, in pixels of the image
    for row in variant.layers:
        out = out_shape(row, shape, classes)
        parameters = macs = 0
        match row:
            case Conv():
                weights = row.out * shape[0] // row.groups * row.kernel**2
                parameters, macs = weights + row.out, weights * out[1] * out[2]
                field, jump = field + (row.kernel - 1) * jump, jump * row.stride
            case MaxPool():
                field, jump = field + (row.kernel - 1) * jump, jump * row.stride
            case WithinMapLRN():
                field += (row.size - 1) * jump
            case AdaptivePool():
                stride = max(1, shape[1] // row.side)
                field, jump = field + (stride - 1) * jump, jump * stride
            case BatchNorm(scale=True):
                parameters = 2 * shape[0]
            case Linear():
                macs = prod(shape) * out[0]
                parameters = macs + out[0]
                field = variant.side
        neurons = prod(out) if isinstance(row, Conv | Linear) else 0
        layers.append(LayerCost(row.name, row.kind, out, parameters, macs, neurons, min(field, variant.side)))
        shape = out
    return Cost(tuple(layers))


def seen(variant: Variant, layer: str, y: int, x: int) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) in pixels of the network's input, the last two excluded: what the value at row y and
    column x of a layer's maps depends on, by the rows alone; what lies outside of the input is cut off.

    ValueError: no such layer, or a place outside of its maps.
    """
    shape: Shape = (3, variant.side, variant.side)
    before: list[tuple[Row, Shape]] = []
    for row in variant.layers:
        before.append((row, shape))
        shape = out_shape(row, shape, 1)
        if row.name == layer:
            break
    else:
        raise ValueError(f"{variant.name} has no layer {layer}")
    if not (0 <= y < shape[1] and 0 <= x < shape[2]):
        raise ValueError(f"{layer}: ({y}, {x}) is outside of its maps of {shape[1:]}")
    top, bottom, left, right = y, y, x, x
    for row, (_, H, W) in reversed(before):
        top, bottom = _reach(row, top, bottom, H)
        left, right = _reach(row, left, right, W)
    return top, left, bottom + 1, right + 1


def _reach(row: Row, first: int, last: int, n: int) -> tuple[int, int]:
    """The first and the last of a row's n inputs, along one side, that its outputs `first` to `last` depend on."""
    match row:
        case Conv():
            first, last = first * row.stride - row.pad.before, last * row.stride - row.pad.before + row.kernel - 1
        case MaxPool():
            first, last = first * row.stride, last * row.stride + row.kernel - 1
        case WithinMapLRN():
            first, last = first - row.size // 2, last + row.size // 2
        case AdaptivePool():
            first, last = first * n // row.side, -(-(last + 1) * n // row.side) - 1
        case Linear():
            first, last = 0, n - 1
    return max(first, 0), min(last, n - 1)


def describe(variant: Variant, classes: int) -> dict[str, Any]:
    """The document of `alexnet info VARIANT --json`."""
    whole = cost(variant, classes)
    return {
        "variant": variant.name,
        "parameters": whole.parameters,
        "macs": whole.macs,
        "neurons": whole.neurons,
        "input": [3, variant.side, variant.side],
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "out": list(layer.out),
                "parameters": layer.parameters,
                "macs": layer.macs,
                "receptive_field": layer.receptive_field,
            }
            for layer in whole.layers
        ],
    }


def difference(here: Variant, there: Variant) -> list[Difference]:
    """What differs between two variants, from the input to the logits, with the mark of each row."""
    found = [
        Difference("", name, _word(a), _word(b), here.source, there.source)
        for name in ("side", "colour", "scale", "mean", "mean_crop", "std", "resize")
        if (a := getattr(here, name)) != (b := getattr(there, name))
    ]
    for stage, other in zip_longest(_stages(here), _stages(there), fillvalue=()):
        ours, theirs = {row.name: row for row in stage}, {row.name: row for row in other}
        for name in [*ours, *(name for name in theirs if name not in ours)]:
            found += _row_difference(name, ours.get(name), theirs.get(name))
        a, b = [name for name in ours if name in theirs], [name for name in theirs if name in ours]
        if a != b:
            marks = (" ".join(dict.fromkeys(rows[n].mark for n in a[1:])) for rows in (ours, theirs))
            found.append(Difference(a[0], "order", " → ".join(a), " → ".join(b), *marks))
    return found


def words(row: Row) -> str:
    """A row's numbers in words, `kernel 3, stride 2`; its name, kind and mark left out."""
    return ", ".join(f"{what} {_word(getattr(row, what))}" for what in _numbers(row))


def _numbers(row: Row) -> list[str]:
    return [field.name for field in fields(row) if field.name not in ("name", "mark")]


def _word(value: object) -> str:
    match value:
        case None:
            return "classes"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case tuple():
            return ", ".join(_word(part) for part in value)
        case _:
            return str(value)


def _row_difference(name: str, a: Row | None, b: Row | None) -> list[Difference]:
    if a is None or b is None:
        here, there = (f"{row.kind}: {words(row)}".removesuffix(": ") if row else "absent" for row in (a, b))
        return [Difference(name, "layer", here, there, a.mark if a else "", b.mark if b else "")]
    return [
        Difference(name, what, _word(x), _word(y), a.mark, b.mark)
        for what in _numbers(a)
        if (x := getattr(a, what)) != (y := getattr(b, what))
    ]


def _stages(variant: Variant) -> list[tuple[Row, ...]]:
    """The rows in runs: what comes before conv1, then each convolution or fully connected layer with its followers."""
    runs: list[list[Row]] = [[]]
    for row in variant.layers:
        if isinstance(row, Conv | Linear):
            runs.append([])
        runs[-1].append(row)
    return [tuple(run) for run in runs]


def windows(n: int, kernel: int, stride: int, *, ceil: bool) -> int:
    """How many windows lie in n pixels; with `ceil` the last may hang over, if it starts inside."""
    if not ceil:
        return (n - kernel) // stride + 1
    count = -(-(n - kernel) // stride) + 1
    return count - 1 if (count - 1) * stride >= n else count
