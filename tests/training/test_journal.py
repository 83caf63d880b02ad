"""What a run writes down: metrics.jsonl line by line, and TensorBoard's files read back by TensorBoard itself."""

import io
import json
import math
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from alexnet.cli import console_for
from alexnet.network.build import build
from alexnet.training import loop, start
from alexnet.training.journal import Board
from alexnet.training.start import Asked
from tests.pictures import write_folder

with warnings.catch_warnings():  # it warns about its own dependencies
    warnings.simplefilter("ignore")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.compat.proto.graph_pb2 import GraphDef

STEPS = 30
LAYERS = {"conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"}


class Killed(BaseException):
    """What no clean end follows."""


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures"), classes=2, each=20)


@pytest.fixture(scope="module")
def made(tmp_path_factory, pictures) -> Path:
    """A folder with two runs of the same command: `whole`, and `broken`, killed twice and run again."""
    folder = tmp_path_factory.mktemp("runs")
    ordinary = loop.step

    def asked(name: str) -> Asked:
        return Asked(data=str(pictures), run=str(folder / name), variant="tiny", kernels="plain", batch_size=8, max_steps=STEPS,
                     workers=1, precision="fp32")  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        start.train(asked("whole"), quiet())
        for fatal in (11, 22):  # each past a line of the log that no checkpoint holds

            def dying(job, *args, number, fatal=fatal, **kwargs):
                if number == fatal:
                    raise Killed
                return ordinary(job, *args, number=number, **kwargs)

            patch.setattr(loop, "step", dying)
            with pytest.raises(Killed):
                start.train(asked("broken"), quiet())
            time.sleep(1.1)  # TensorBoard orders its files by the second in their names
        patch.setattr(loop, "step", ordinary)
        start.train(asked("broken"), quiet())
    return folder


def board(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        events.Reload()
    return events


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["whole", "broken"])
def test_every_line_of_the_log_parses_and_holds_what_is_promised(made, name):
    content = (made / name / "metrics.jsonl").read_bytes()
    assert content.endswith(b"}\n")
    promised = {
        "train": {"step", "epoch", "split", "loss", "top1", "lr", "images_per_second", "seconds", "seconds_waiting",
                  "seconds_read", "seconds_decode", "seconds_augment"},
        "val": {"step", "epoch", "split", "loss", "top1", "top5", "count"},
        "layers": {"step", "epoch", "split", "gradient_norm", "activation_rms", "update_ratio"},
    }  # fmt: skip
    found = records(made / name)
    for record in found:
        assert promised[record["split"]] <= record.keys()
        assert record["epoch"] == record["step"] / 4  # 32 pictures to train, 8 a step
        if record["split"] != "layers":
            assert 0 <= record["top1"] <= 1 and math.isfinite(record["loss"])
    assert [r["step"] for r in found if r["split"] == "train"] == [10, 20, 30]
    assert [r["step"] for r in found if r["split"] == "val"][-1] == STEPS
    places = [(record["step"], record["split"]) for record in found]
    assert len(set(places)) == len(places), "a step stands twice in the log"
    assert [step for step, _ in places] == sorted(step for step, _ in places)


def test_a_broken_log_is_the_unbroken_one(made):
    def plain(record: dict) -> dict:
        return {k: v for k, v in record.items() if not k.startswith("seconds") and k != "images_per_second"}

    assert [plain(r) for r in records(made / "broken")] == [plain(r) for r in records(made / "whole")]


def test_tensorboard_has_the_articles_tags_and_ours(made):
    events, found = board(made / "whole"), records(made / "whole")
    tags = set(events.Tags()["scalars"])
    assert {"cross_entropy", "accuracy", "val/loss", "val/top1", "val/top5", "train/lr"} <= tags
    assert {f"update_ratio/{layer}" for layer in LAYERS} <= tags
    assert {f"gradient_norm/{layer}" for layer in LAYERS} <= tags
    assert "activation_rms/norm1" in tags
    for tag, split, key in (
        ("cross_entropy", "train", "loss"),
        ("accuracy", "train", "top1"),
        ("val/top1", "val", "top1"),
    ):
        logged = [(r["step"], r[key]) for r in found if r["split"] == split]
        drawn = [(e.step, e.value) for e in events.Scalars(tag)]
        assert [step for step, _ in drawn] == [step for step, _ in logged]
        assert [value for _, value in drawn] == pytest.approx([value for _, value in logged], rel=1e-6)


def test_the_graph_names_the_variants_layers(made):
    graph = GraphDef.FromString(board(made / "whole").Graph().SerializeToString())
    names = [node.name for node in graph.node]
    rows = [row.name for row in build("tiny", classes=2, seed=0).variant.layers]
    assert names == ["images", *rows]
    assert [list(node.input) for node in graph.node] == [[], *([name] for name in names[:-1])]
    shapes = {n.name: [d.size for d in n.attr["_output_shapes"].list.shape[0].dim] for n in graph.node[1:]}
    assert shapes["conv1"] == [-1, 12, 15, 15] and shapes["fc8"][:2] == [-1, 2]
    assert [node.name for node in board(made / "broken").Graph().node] == names


def test_conv1_is_drawn_at_each_validation(made):
    events = board(made / "whole")
    assert events.Tags()["images"] == ["conv1"]
    drawn = events.Images("conv1")
    assert [e.step for e in drawn] == [r["step"] for r in records(made / "whole") if r["split"] == "val"]
    picture = np.asarray(Image.open(io.BytesIO(drawn[-1].encoded_image_string)))
    assert picture.shape == (2 * (12 + 1) + 3, 6 * 12 + 1, 3)  # 12 kernels of 11 px, a row a tower, a line between


def test_no_step_is_drawn_twice_after_a_kill(made):
    whole, broken = board(made / "whole"), board(made / "broken")
    assert len(list((made / "broken" / "tensorboard").iterdir())) == 3
    assert whole.Tags()["scalars"] == broken.Tags()["scalars"]
    for tag in whole.Tags()["scalars"]:
        one, two = whole.Scalars(tag), broken.Scalars(tag)
        assert [e.step for e in one] == [e.step for e in two], tag
        if not tag.startswith("train/seconds") and tag != "train/images_per_second":
            assert [e.value for e in one] == [e.value for e in two], tag
    assert [e.step for e in whole.Images("conv1")] == [e.step for e in broken.Images("conv1")]


def test_an_event_for_which_there_is_no_room_leaves_no_half_of_it(tmp_path):
    """The disk takes a part of it and says nothing: what was drawn before can be read."""
    (tmp_path / "tensorboard").mkdir()
    drawn = Board(tmp_path / "tensorboard", step=0)
    drawn.scalars({"loss": 1.5}, 1)
    file, drawn.file = (
        drawn.file,
        SimpleNamespace(
            write=lambda content: file.write(content[:20]),
            tell=lambda: file.tell(),
            truncate=lambda end: file.truncate(end),
        ),
    )
    with pytest.raises(OSError, match="No space left on device"):
        drawn.scalars({"loss": 2.5}, 2)
    file.close()
    assert [(event.step, event.value) for event in board(tmp_path).Scalars("loss")] == [(1, 1.5)]
    content = drawn.path.read_bytes()
    at, events = 0, 0
    while at < len(content):  # a length, its checksum, so many bytes, theirs
        at, events = at + 16 + int.from_bytes(content[at : at + 8], "little"), events + 1
    assert (at, events) == (len(content), 2)


def test_lines_for_a_person_leave_stdout_to_the_document(capsys):
    console_for(True).print("for a person")
    console_for(False).print("shown")
    said = capsys.readouterr()
    assert said.err == "for a person\n" and said.out == "shown\n"


ALONE = """
import sys
from pathlib import Path
from rich.console import Console
from alexnet.training.journal import Journal
from alexnet.weights.run import Run
with Journal(Run(Path(sys.argv[1])), step=0, steps=1, colour="RGB", console=Console()) as journal:
    journal.board.scalars({"x": 1.0}, 0)
"""


def test_tensorflow_is_not_loaded_where_it_is_installed(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was loaded')")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path)], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert any((tmp_path / "tensorboard").iterdir())
