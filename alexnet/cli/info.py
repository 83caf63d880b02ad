"""`alexnet info RUN`: what a variant is and costs, or what two do differently."""

from json import dumps

from rich import box
from rich.table import Table
from rich.text import Text

from ..errors import UsageError
from ..network.cost import cost, describe, difference
from ..network.variants import VARIANTS, WORLDS, Variant
from ..network.variants import names as layer_names
from ..network.variants import variant as lookup


def info(
    run: str,
    /,
    *,
    classes: int | None = None,
    diff: str | None = None,
    names: bool = False,
    variant: str | None = None,
    json: bool = False,
) -> None:
    """A variant layer by layer: shapes, receptive fields, parameters, costs.

    alexnet info paper --diff caffe
    alexnet info convnet --names
    alexnet info model.pth

    Parameters:
        run: RUN, or a variant: article, paper, convnet, caffe, caffenet, half, onetower, torchvision, bn, onnxzoo, tiny
        classes: outputs of the last layer; 1000, or the RUN's
        diff: another variant: only what differs, number by number, and the sources
        names: what each layer is called in other programs
        variant: of a model file, where several have its shapes
        json: print one JSON document
    """
    if classes is not None and classes < 1:
        raise UsageError(f"--classes {classes}: must be at least 1")
    if names and (diff is not None or classes is not None):
        raise UsageError(f"--names: not with {'--diff' if diff is not None else '--classes'}")
    if run in VARIANTS and variant in (None, run):
        here, classes = lookup(run), classes or 1000
    else:
        from ..weights.run import open_run

        model = open_run(run, named=variant).model
        here, classes = model.variant, classes or model.classes
    if diff is not None:
        _print_difference(here, lookup(diff), json=json)
    elif names:
        _print_names(here, json=json)
    elif json:
        print(dumps(describe(here, classes)))
    else:
        _print_table(here, classes)


def _print_table(variant: Variant, classes: int) -> None:
    from . import console_for

    whole = cost(variant, classes)
    table = Table(box=box.SIMPLE_HEAD, title=Text(f"{variant.name}: {variant.source}"), title_justify="left")
    for name in ("layer", "kind"):
        table.add_column(name)
    for name in ("output", "sees px", "parameters", "multiply-adds"):
        table.add_column(name, justify="right")
    table.add_row("images", "", f"3×{variant.side}×{variant.side}", "", "", "")
    for layer in whole.layers:
        table.add_row(
            layer.name,
            layer.kind,
            "×".join(str(n) for n in layer.out if n > 1 or layer.out[1:] != (1, 1)),
            str(layer.receptive_field),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.macs:,}" if layer.macs else "",
        )
    table.add_section()
    table.add_row("all", "", "", "", f"{whole.parameters:,}", f"{whole.macs:,}")
    console = console_for(False)
    console.print(table, soft_wrap=False)
    console.print(f"{whole.neurons:,} neurons: the outputs of convolutions and fully connected layers.")


def _print_names(variant: Variant, *, json: bool) -> None:
    from . import console_for

    found = layer_names(variant)
    if json:
        print(
            dumps({"variant": variant.name, "names": [{"layer": layer, **worlds} for layer, worlds in found.items()]})
        )
        return
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("layer", "torchvision", "Caffe", "TensorFlow 1", "the 2012 program"):
        table.add_column(title)
    for layer, worlds in found.items():
        table.add_row(layer, *("\n".join(worlds[world]) for world in WORLDS))
    console = console_for(False)
    console.print(table, soft_wrap=False)
    console.print(
        "TensorFlow 1: the article's scopes; fc1/Variable are weights, fc1/Variable_1 biases, and\n"
        "without scopes Variable, Variable_1, ... in this order. caffe-tensorflow's .npy has Caffe's\n"
        "names. In ONNX names are of no account: a graph is read by what it does; ours has the names\n"
        "of the first column. Each of these names is understood wherever a layer is named."
    )


def _print_difference(here: Variant, there: Variant, *, json: bool) -> None:
    from . import console_for

    found = difference(here, there)
    if json:
        rows = [
            {
                "layer": one.layer,
                "what": one.what,
                here.name: {"value": one.here, "mark": one.mark_here},
                there.name: {"value": one.there, "mark": one.mark_there},
            }
            for one in found
        ]
        print(dumps({"variants": [here.name, there.name], "differences": rows}))
        return
    if not found:
        console_for(False).print(f"{here.name} and {there.name}: no difference")
        return
    table = Table(box=box.SIMPLE_HEAD, show_lines=True)
    for name in ("layer", "what", here.name, there.name):
        table.add_column(name)
    above: tuple[str, ...] = ()
    for one in found:
        marks = (one.layer, one.mark_here, one.mark_there)
        cells = (one.here, one.there) if marks == above else (f"{one.here}\n{marks[1]}", f"{one.there}\n{marks[2]}")
        table.add_row(one.layer or "images", one.what, *map(Text, cells))
        above = marks
    console_for(False).print(table, soft_wrap=False)
    console_for(False).print("[K12] the paper, [CODE12] its program; docs/fidelity.md explains every mark.")
