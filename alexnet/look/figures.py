"""How every figure is drawn and written: one style, no display, and the same bytes each time."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from numpy.typing import NDArray

from .. import files
from ..data.classes import WNID, Classes
from ..errors import UsageError
from ..weights.run import Run, run_of, under_runs

WIDTH: Final = 9.0  # inches: a page's
MOST_SIDE, MOST_PIXELS = 65_535, 200_000_000  # of a PNG: more is beyond matplotlib, or memory
# Okabe and Ito's colours, told apart by every eye; the first is one's own, the second what is true.
BLUE, ORANGE, GREEN, PINK, SKY, AMBER, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"
)  # fmt: skip
CYCLE: Final = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY, BLACK)
INK, FAINT, PALE = "#222222", "#6b6b6b", "#d9d9d9"
# DejaVu comes with matplotlib; what it lacks is looked for in these, where they are installed
FONTS: Final = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans", "Unifont")
STYLE: Final = {
    "axes.edgecolor": FAINT,
    "axes.grid": False,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.facecolor": "white",
    "font.size": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",  # a reader without the font sees the same
    "svg.hashsalt": "alexnet",
    "text.color": INK,
    "text.parse_math": False,  # a name with two dollars is a name
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8,
}


@contextmanager
def style() -> Iterator[None]:
    """Within the block figures are ours: nothing of a matplotlibrc, nothing left of it afterwards."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a script that no font here has
        matplotlib.rcdefaults()
        there = set(fontManager.get_font_names())
        matplotlib.rcParams.update({**STYLE, "font.family": [name for name in FONTS if name in there]})
        yield


def write_figure(figure: Figure, path: Path, *, dpi: int) -> None:
    """Puts a figure at `path` as PNG, of `dpi` pixels an inch, or SVG; within `style`.

    UsageError: another ending, too many pixels, or no such folder.
    """
    kind = ending(path)
    width, height = (round(inches * dpi) for inches in figure.get_size_inches())
    if kind == "png" and (max(width, height) > MOST_SIDE or width * height > MOST_PIXELS):
        raise UsageError(
            f"{path}: {width:,} x {height:,} pixels are too many; draw less, or lower --dpi, or write .svg"
        )
    stream = io.BytesIO()
    # what says when, or by which version, would make other bytes of the same figure
    nothing = dict.fromkeys(["Software"] if kind == "png" else ["Date", "Creator"])
    figure.savefig(stream, format=kind, dpi=dpi, metadata=nothing)
    try:
        path.parent.mkdir(exist_ok=True)  # and no more: a run folder that is gone is not made again
        files.write(path, stream.getvalue())
    except OSError as reason:
        raise UsageError(f"{path}: cannot be written ({reason.strerror})") from None


def ending(path: Path) -> str:
    """png or svg, which a file is by the ending of its name. UsageError: neither."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise UsageError(f"{path}: expected a name that ends in .png or .svg")
    return kind


def run_folder(where: str, what: str) -> Run:
    """The run that RUN belongs to. UsageError: it is no run's, and `what` is to be had from one alone."""
    run = run_of(where)
    if run is None:
        raise UsageError(f"{where}: not a run folder, and {what} only a run has{under_runs(where)}")
    return run


def place_of(where: str, kind: str) -> Path:
    """Where a figure goes unasked: figures/KIND.png of the run, or KIND-NAME.png here for what is no run's."""
    run = run_of(where)
    return Path(f"{kind}-{Path(where).stem}.png") if run is None else run.folder / "figures" / f"{kind}.png"


def short(text: str, most: int) -> str:
    """Outside words on one line of `most` characters: what is cut is an ellipsis, what moves a cursor is escaped."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return plain if len(plain) <= most else f"{plain[: most - 1].rstrip()}…"


def named(classes: Classes, label: int, most: int) -> str:
    """A class for a figure: its words, of a wnid's synonyms the first."""
    words = classes.words[label]
    return short(words.partition(",")[0] if WNID.fullmatch(classes.keys[label]) else words, most)


def bare(axes: Axes) -> Axes:
    """Axes without ticks and frame, for a picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    return axes


def picture(axes: Axes, image: NDArray[np.uint8], *, frame: str | None = None, wide: float = 1.5) -> None:
    """Shows uint8 (h, w, 3) in whole pixels' colours, framed or not."""
    bare(axes).imshow(image, interpolation="nearest" if len(image) < 100 else "antialiased", aspect="equal")
    if frame is not None:
        for side in axes.spines.values():
            side.set(visible=True, color=frame, linewidth=wide)
