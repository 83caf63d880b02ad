"""`alexnet explain`."""

import json as json_format
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

DPI = 150  # of a .png


def explain(
    run: str,
    image: Path,
    /,
    *,
    by: Literal["gradcam", "occlusion", "integrated-gradients", "guided"] = "gradcam",
    class_: Annotated[str | None, Parameter(name="--class")] = None,
    out: Path | None = None,
    layer: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    steps: int | None = None,
    device: str = "auto",
    seed: int = 0,
    variant: str | None = None,
    draw: str = "auto",
    json: bool = False,
) -> None:
    """What in a picture speaks for a class: a map over it, and how far to believe it.

    alexnet explain runs/flowers tulip.jpg
    alexnet explain runs/flowers tulip.jpg --by occlusion --class roses --out why.png

    Parameters:
        run: RUN
        image: a picture; the centre view of it is explained
        by: gradcam, occlusion, integrated-gradients or guided (backpropagation)
        class_: a class by its name or number; else the likeliest
        out: the figure, .png or .svg; else figures/explain-BY-IMAGE.png of the run
        layer: of gradcam, by any world's name: pool2, features.11; conv5:relu
        window: of occlusion, its side in pixels; a seventh of the view's
        stride: of occlusion, pixels to the next; half of the window
        steps: of integrated-gradients, from the mean picture to this one; 64
        device: auto, cpu, cuda or mps
        seed: of an untrained variant's weights
        variant: of a model file, where several have its shapes
        draw: the figure in the terminal: auto, never, kitty, iterm or sixel
        json: print one JSON document
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from ..data.decode import decoded_form
    from ..data.samples import read_file, shown
    from ..look import explain as explaining
    from ..look import figures, terminal
    from ..ranks import device_of, multiply_in
    from ..weights.run import open_run
    from . import say, visible

    canvas = terminal.canvas("never" if json else draw)  # asked before there is time to type ahead
    place = device_of(device)
    multiply_in("fp32", place)
    path = out or figures.place_of(run, f"explain-{by}-{image.stem}")
    loaded = open_run(run, seed=seed, named=variant)
    for note in loaded.notes:
        say(note)
    label = None if class_ is None else explaining.label_of(class_, loaded.classes)
    stored, _ = decoded_form(read_file(image), shown(str(image)), loaded.preprocess.shaping)
    found = explaining.explain(
        loaded, stored, by=by, label=label, layer=layer, window=window, stride=stride, steps=steps, device=place
    )
    words = loaded.classes.words
    with figures.style():
        figure = explaining.overlay(found, words[found.label])
        figures.write_figure(figure, path, dpi=DPI)
        if canvas is not None:
            drawn = FigureCanvasAgg(figure)
            drawn.draw()
            print(canvas.drawn(np.asarray(drawn.buffer_rgba())[:, :, :3], rows=14), end="")
    if json:
        named = {"path": shown(str(image)), "run": run, "variant": loaded.model.variant.name}
        print(json_format.dumps({**named, **found.to_json(loaded.classes), "figure": shown(str(path))}))
        return
    other = "" if found.label == found.likeliest else (
        f" (likeliest: {shown(words[found.likeliest])} {100 * found.likeliest_probability:.1f} %)"
    )  # fmt: skip
    print(visible(f"{image}: {shown(words[found.label])} {100 * found.probability:.1f} %{other}"))
    print("\n".join(explaining.described(found)))
    print(visible(str(path)))
