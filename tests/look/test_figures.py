"""How figures are written: the same bytes whoever draws, whatever the user's own settings, and no word as markup."""

import io
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from alexnet.data.classes import Classes, imagenet_classes
from alexnet.errors import UsageError
from alexnet.look.figures import named, place_of, run_folder, short, style, write_figure
from alexnet.weights.run import run_of

ROOT = Path(__file__).parents[2]


def drawing(words: str = "said") -> Figure:
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([0, 1, 4], label=words)
    figure.axes[0].set_title(words)
    figure.legend()
    return figure


def written(path: Path) -> bytes:
    with style():
        write_figure(drawing(), path, dpi=100)
    return path.read_bytes()


def shown(path: Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


@pytest.mark.parametrize("ending", ["png", "svg", "PNG"])
def test_a_users_settings_change_no_byte_and_are_left_alone(tmp_path, ending):
    before = written(tmp_path / f"a.{ending}")
    hostile = {"font.size": 31.0, "font.family": ["monospace"], "axes.facecolor": "red", "savefig.bbox": "tight", "savefig.dpi": 20.0,
               "text.usetex": True, "svg.fonttype": "none", "svg.hashsalt": None, "path.simplify": False, "lines.linewidth": 9.0}  # fmt: skip
    with matplotlib.rc_context(hostile):
        kept = dict(matplotlib.rcParams)
        assert written(tmp_path / f"b.{ending}") == before
        assert dict(matplotlib.rcParams) == kept


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_neither_a_date_nor_a_version_is_written(tmp_path, ending):
    content = written(tmp_path / f"a.{ending}").lower()
    assert matplotlib.__version__.encode() not in content
    assert b"software" not in content and b"dc:date" not in content and b"time" not in content


# What a figure may depend on and must not: settings, the place, the hour's zone, the order of sets.
PROGRAM = """
import hashlib, sys, tempfile
from pathlib import Path
import numpy as np
from alexnet.data.classes import Classes
from alexnet.look.confusion import Confused, draw_confusion
from alexnet.look.figures import style, write_figure
from alexnet.look.network import draw_network
from alexnet.network.variants import TINY
folder = Path(tempfile.mkdtemp())
for ending in ("png", "svg"):
    for name, draw in (("a", lambda: draw_network(TINY, 5)),
                       ("b", lambda: draw_confusion(Confused(np.arange(2), np.arange(2), np.ones(2, int)), Classes.of(["$x$", "\\u4e2d"])))):
        with style():
            write_figure(draw(), folder / f"{name}.{ending}", dpi=100)
        print(hashlib.sha256((folder / f"{name}.{ending}").read_bytes()).hexdigest())
assert "matplotlib.pyplot" not in sys.modules
"""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path):
    (tmp_path / "matplotlibrc").write_text(
        "font.size: 31\ntext.usetex: True\nbackend: TkAgg\nfigure.dpi: 33\nsvg.fonttype: none\naxes.grid: True\n"
    )
    said = []
    for place, more in (
        (ROOT, {}),
        (tmp_path, {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LANG": "C", "DISPLAY": ":99"}),
    ):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, cwd=place, env=environment
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1] and said[0].count("\n") == 4


def test_what_is_written_is_a_picture(tmp_path):
    with style():
        write_figure(drawing(), tmp_path / "new" / "a.png", dpi=50)
    assert shown(tmp_path / "new" / "a.png").shape[:2] == (100, 150)


@pytest.mark.parametrize(
    ("name", "says"), [("a.jpg", "ends in .png or .svg"), ("a", "ends in"), ("no/such/a.png", "cannot be written")]
)
def test_another_ending_or_no_folder_is_refused(tmp_path, name, says):
    with style(), pytest.raises(UsageError, match=says):
        write_figure(drawing(), tmp_path / name, dpi=100)
    assert list(tmp_path.iterdir()) == []


def test_too_many_pixels_are_refused(tmp_path):
    for size in ((700, 1), (150, 150)):
        with (
            style(),
            pytest.raises(UsageError, match=r"pixels are too many; draw less, or lower --dpi, or write \.svg"),
        ):
            write_figure(Figure(figsize=size), tmp_path / "a.png", dpi=100)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["$\\frac{", "$x^2$", "a_b^c{", "\\alpha", "<script>", "%d {0}"])
def test_words_are_no_markup(tmp_path, words):
    with style():
        write_figure(drawing(words), tmp_path / "a.png", dpi=100)
        write_figure(drawing(words), tmp_path / "a.svg", dpi=100)
    plain = shown(tmp_path / "a.png")
    with style():
        matplotlib.rcParams["text.parse_math"] = True
        figure = drawing(words.replace("$", "\\$"))
        write_figure(figure, tmp_path / "b.png", dpi=100)
    assert np.array_equal(plain, shown(tmp_path / "b.png"))


def test_a_script_that_no_font_has_is_no_warning(tmp_path):
    with style():
        write_figure(drawing("\u16a0\u13a0\U0001f33c"), tmp_path / "a.png", dpi=100)
    assert (tmp_path / "a.png").stat().st_size > 0


def test_names_are_one_short_line():
    assert short("tulips", 6) == "tulips" and short("sunflowers", 6) == "sunfl…"
    assert short("a\nb\x1b[31m\u202e", 40) == "a\\nb\\x1b[31m\\u202e"
    assert short("$x$", 3) == "$x$"
    assert named(imagenet_classes(), 0, 20) == "tench" and named(Classes.of(["a, b"]), 0, 20) == "a, b"


def test_a_figure_goes_into_the_run_that_it_is_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "mine"
    checkpoint = run / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    for file in (
        run / "recipe.json",
        run / "best",
        checkpoint / "manifest.json",
        checkpoint / "model.safetensors",
        tmp_path / "m.pth",
    ):
        file.write_text("step-00000001\n" if file.name == "best" else "{}")
    for where in (run, run / "best", checkpoint, checkpoint / "model.safetensors"):
        found = run_of(str(where))
        assert found is not None and found.folder.resolve() == run
        assert place_of(str(where), "maps").resolve() == run / "figures" / "maps.png"
    (run / "mine.onnx").write_text("{}")
    assert run_of(run / "mine.onnx") is None and place_of("runs/mine/mine.onnx", "maps") == Path("maps-mine.png")
    assert place_of("paper", "network") == Path("network-paper.png") and place_of("m.pth", "maps") == Path("maps-m.png")
    assert run_folder("runs/mine", "a log").folder == Path("runs/mine")
    with pytest.raises(UsageError, match=r"^mine: not a run folder, and a log only a run has; runs/mine is one$"):
        run_folder("mine", "a log")
    with pytest.raises(UsageError, match=r"^m\.pth: not a run folder, and a log only a run has$"):
        run_folder("m.pth", "a log")
