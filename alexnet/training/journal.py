"""Where the records of a run go: metrics.jsonl, TensorBoard, the console."""

import errno
import io
import json
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..data.preprocess import Colour
from ..look.kernels import kernel_sheet, towers_of
from ..network.build import AlexNet
from ..network.cost import cost
from ..weights.run import Run

Record = dict[str, Any]
BAD_IMAGES = "bad_images.jsonl"
TENSORBOARD = "tensorboard"


class Journal:
    """Consumes the loop's records. Use as a context manager; `console` is where lines for a person go."""

    def __init__(self, run: Run, *, step: int, steps: int, colour: Colour, console: Console) -> None:
        self.run = run
        self.colour = colour  # in which order conv1 has it
        self.console = console
        self.steps = steps
        self.metrics = run.metrics.open("ab", buffering=0)
        self.unwritten = b""  # whole lines that found no room
        self.bad_path = run.folder / BAD_IMAGES
        known = self.bad_path.read_text("utf-8", "replace") if self.bad_path.exists() else ""
        self.bad = set(known.splitlines())
        self.board: Board | None = None
        try:
            self.board = Board(run.folder / TENSORBOARD, step=step)
        except OSError as reason:
            console.print(
                f"{run.folder / TENSORBOARD}: cannot be written ({reason.strerror}); TensorBoard gets nothing"
            )
        self.bar = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[line]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=steps, completed=step, line="")

    def __enter__(self) -> "Journal":
        self.bar.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self.bar.stop()
        if self.unwritten:
            self.log(b"")
        if self.unwritten:
            lost = self.unwritten.count(b"\n")
            self.console.print(f"{self.run.metrics}: {lost} lines could not be written, and are lost")
        self.metrics.close()
        if self.board is not None:
            self.board.close()

    def graph(self, model: AlexNet) -> None:
        """Draws the network in TensorBoard."""
        self.show(lambda board: board.graph(model))

    def kernels(self, model: AlexNet) -> None:
        """conv1's kernels as one image in TensorBoard."""
        weights = model.get_parameter("conv1.weight").detach().float().cpu().numpy()
        if self.colour == "BGR":
            weights = weights[:, ::-1]
        sheet = kernel_sheet(weights, towers=towers_of(model.variant))
        self.show(lambda board: board.image("conv1", sheet, self.run_step))

    def show(self, draw: Callable[["Board"], None]) -> None:
        """Something in TensorBoard; the first that finds no room is said, and ends it: the run has its other files."""
        if self.board is None:
            return
        try:
            draw(self.board)
        except OSError as reason:
            self.console.print(f"{self.board.path}: could not be written ({reason.strerror}); TensorBoard gets no more")
            self.board.close()
            self.board = None

    def write(self, record: Record) -> None:
        """One record: to the log, to TensorBoard, to the console."""
        if "say" in record:
            self.console.print(record["say"])
            return
        if "bad_image" in record:
            line = json.dumps(record["bad_image"], ensure_ascii=False)
            if line not in self.bad:
                self.bad.add(line)
                try:
                    with self.bad_path.open("a", encoding="utf-8") as stream:
                        stream.write(line + "\n")
                except OSError as reason:
                    self.console.print(f"{self.bad_path}: could not be written ({reason.strerror})")
                self.console.print(f"bad image {record['bad_image']['path']}: {record['bad_image']['reason']}")
            return
        self.log((json.dumps(record, allow_nan=False) + "\n").encode())
        self.run_step = step = record["step"]
        split = record["split"]
        if split == "layers":
            values = {
                f"{kind}/{layer}": value
                for kind, by_layer in record.items() if isinstance(by_layer, dict)
                for layer, value in by_layer.items()
            }  # fmt: skip
            self.show(lambda board: board.scalars(values, step))
            return
        # the article's own tags, for what it logs: the loss and the accuracy of training
        tags = {"loss": "cross_entropy", "top1": "accuracy"} if split == "train" else {}
        values = {
            tags.get(name, f"{split}/{name}"): value
            for name, value in record.items()
            if name not in ("step", "split", "epoch", "count", "bad_images")
        }
        self.show(lambda board: board.scalars(values, step))
        if split == "train":
            brief = f"loss {record['loss']:.3f}  top-1 {100 * record['top1']:.1f} %"
            self.bar.update(self.task, completed=step, line=f"{brief}  {record['images_per_second']:.0f} images/s")
        line = self.line(record)
        if split == "val" or not self.console.is_terminal:
            self.console.print(line)

    def log(self, line: bytes) -> None:
        """Adds a line to metrics.jsonl; where it finds no room, that is said, and it goes in before the next."""
        lines, self.unwritten = self.unwritten + line, b""
        end = os.fstat(self.metrics.fileno()).st_size
        try:
            if self.metrics.write(lines) == len(lines):
                return
            reason = os.strerror(errno.ENOSPC)
        except OSError as raised:
            reason = raised.strerror
        self.metrics.truncate(end)  # of a part of them
        self.unwritten = lines
        if len(lines) == len(line):  # the first
            self.console.print(f"{self.run.metrics}: could not be written ({reason}); kept until there is room")

    def line(self, record: Record) -> str:
        """The record as one line for a person."""
        head = f"step {record['step']}/{self.steps}  epoch {record['epoch']:.2f}"
        line = f"{head}  {record['split']} loss {record['loss']:.3f}  top-1 {100 * record['top1']:.1f} %"
        if record["split"] == "val":
            return f"{line}  top-5 {100 * record['top5']:.1f} %  ({record['count']} images)"
        waiting = 100 * record["seconds_waiting"] / max(record["seconds"], 1e-9)
        speed = record["images_per_second"]
        return f"{line}  lr {record['lr']:.2g}  {speed:.1f} images/s  waiting for data {waiting:.0f} %"


class Board:
    """A file of TensorBoard's events, written at once: a fault is raised where it happens, not later by a thread."""

    def __init__(self, folder: Path, *, step: int) -> None:
        # TensorBoard's own switch: where TensorFlow is installed it would load that, noise and all, beside torch
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
        # TensorBoard speaks through the root logger and warns about its own dependencies; neither is the user's
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from tensorboard.summary.writer.record_writer import RecordWriter
        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        folder.mkdir(exist_ok=True)
        # TensorBoard reads a run's files in the order of their names
        self.path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.file = self.path.open("wb", buffering=0)
        self.record_writer = RecordWriter
        try:
            self._begin(step)
        except OSError:
            self.file.close()
            self.path.unlink(missing_ok=True)
            raise

    def _begin(self, step: int) -> None:
        self.add(file_version="brain.Event:2")
        if step:  # what an ended process wrote behind it is not shown
            from tensorboard.compat.proto.event_pb2 import SessionLog  # pyrefly: ignore[missing-module-attribute]

            self.add(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, **fields: Any) -> None:
        """One event, whole; OSError where there is no room for it."""
        from tensorboard.compat.proto.event_pb2 import Event  # pyrefly: ignore[missing-module-attribute]

        record, end = io.BytesIO(), self.file.tell()
        self.record_writer(record).write(Event(wall_time=time.time(), **fields).SerializeToString())
        if self.file.write(record.getvalue()) != record.tell():
            self.file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Values by their tags."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyrefly: ignore[missing-module-attribute]

        self.add(step=step, summary=Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in values.items()]))

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """A picture, uint8 (H, W, 3)."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyrefly: ignore[missing-module-attribute]

        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        height, width, colours = pixels.shape
        image = Summary.Image(height=height, width=width, colorspace=colours, encoded_image_string=stream.getvalue())
        self.add(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)]))

    def graph(self, model: AlexNet) -> None:
        """The network drawn from its rows, a node a layer with its output's shape."""
        from tensorboard.compat.proto.graph_pb2 import GraphDef  # pyrefly: ignore[missing-module-attribute]
        from tensorboard.compat.proto.versions_pb2 import VersionDef  # pyrefly: ignore[missing-module-attribute]

        graph = GraphDef(versions=VersionDef(producer=22))
        graph.node.add(name="images", op="Placeholder")
        before = "images"
        for layer in cost(model.variant, model.classes).layers:
            node = graph.node.add(name=layer.name, op=layer.kind, input=[before])
            shape = node.attr["_output_shapes"].list.shape.add()
            for size in (-1, *layer.out):
                shape.dim.add(size=size)
            before = layer.name
        self.add(graph_def=graph.SerializeToString())

    def close(self) -> None:
        """Closes the file."""
        self.file.close()
