"""Where the records of a run go: metrics.jsonl, TensorBoard, the console."""

import json
import logging
import math
import sys
import warnings
from types import ModuleType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..network.build import AlexNet
from ..network.cost import cost
from ..weights.run import Run

Record = dict[str, Any]
BAD_IMAGES = "bad_images.jsonl"
TENSORBOARD = "tensorboard"


class Journal:
    """Consumes the loop's records. Use as a context manager; `console` is where lines for a person go."""

    def __init__(self, run: Run, *, step: int, steps: int, console: Console) -> None:
        self.run = run
        self.console = console
        self.steps = steps
        self.metrics = run.metrics.open("ab")
        self.bad_path = run.folder / BAD_IMAGES
        self.bad = set(self.bad_path.read_text("utf-8").splitlines()) if self.bad_path.exists() else set()
        # TensorBoard's own switch: where TensorFlow is installed it would load that, noise and all, beside torch
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
        # TensorBoard speaks through the root logger and warns about its own dependencies; neither is the user's
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter
        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        self.board = SummaryWriter(str(run.folder / TENSORBOARD), purge_step=step + 1 if step else None)
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
        self.metrics.close()
        self.board.close()

    def graph(self, model: AlexNet) -> None:
        """Draws the network in TensorBoard from its rows, a node a layer with its output's shape."""
        from tensorboard.compat.proto.event_pb2 import Event  # pyrefly: ignore[missing-module-attribute]
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
        assert self.board.file_writer is not None
        self.board.file_writer.add_event(Event(graph_def=graph.SerializeToString()))

    def kernels(self, model: AlexNet) -> None:
        """conv1's kernels as one image in TensorBoard."""
        self.board.add_image("conv1", kernel_sheet(model), self.run_step, dataformats="HWC")

    def write(self, record: Record) -> None:
        """One record: to the log, to TensorBoard, to the console."""
        if "say" in record:
            self.console.print(record["say"])
            return
        if "bad_image" in record:
            line = json.dumps(record["bad_image"], ensure_ascii=False)
            if line not in self.bad:
                self.bad.add(line)
                with self.bad_path.open("a", encoding="utf-8") as stream:
                    stream.write(line + "\n")
                self.console.print(f"bad image {record['bad_image']['path']}: {record['bad_image']['reason']}")
            return
        self.metrics.write((json.dumps(record, allow_nan=False) + "\n").encode())
        self.metrics.flush()
        self.run_step = step = record["step"]
        split = record["split"]
        if split == "layers":
            for kind, values in record.items():
                if isinstance(values, dict):
                    for layer, value in values.items():
                        self.board.add_scalar(f"{kind}/{layer}", value, step)
            return
        # the article's own tags, for what it logs: the loss and the accuracy of training
        tags = {"loss": "cross_entropy", "top1": "accuracy"} if split == "train" else {}
        for name, value in record.items():
            if name not in ("step", "split", "epoch", "count", "bad_images"):
                self.board.add_scalar(tags.get(name, f"{split}/{name}"), value, step)
        self.board.flush()
        if split == "train":
            brief = f"loss {record['loss']:.3f}  top-1 {100 * record['top1']:.1f} %"
            self.bar.update(self.task, completed=step, line=f"{brief}  {record['images_per_second']:.0f} images/s")
        line = self.line(record)
        if split == "val" or not self.console.is_terminal:
            self.console.print(line)

    def line(self, record: Record) -> str:
        """The record as one line for a person."""
        head = f"step {record['step']}/{self.steps}  epoch {record['epoch']:.2f}"
        line = f"{head}  {record['split']} loss {record['loss']:.3f}  top-1 {100 * record['top1']:.1f} %"
        if record["split"] == "val":
            return f"{line}  top-5 {100 * record['top5']:.1f} %  ({record['count']} images)"
        waiting = 100 * record["seconds_waiting"] / max(record["seconds"], 1e-9)
        speed = record["images_per_second"]
        return f"{line}  lr {record['lr']:.2g}  {speed:.1f} images/s  waiting for data {waiting:.0f} %"


def kernel_sheet(model: AlexNet) -> np.ndarray:
    """conv1's kernels, each stretched to 0..255 by itself, in a near-square sheet: uint8 (H, W, 3)."""
    w = model.get_parameter("conv1.weight").detach().float().cpu().numpy()  # (O, I, k, k)
    low, high = w.min((1, 2, 3), keepdims=True), w.max((1, 2, 3), keepdims=True)
    tiles = (255 * (w - low) / np.maximum(high - low, 1e-12)).astype(np.uint8).transpose(0, 2, 3, 1)
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    k = tiles.shape[1]
    sheet = np.zeros((rows * (k + 1) + 1, columns * (k + 1) + 1, 3), np.uint8)
    for i, tile in enumerate(tiles):
        y, x = (i // columns) * (k + 1) + 1, (i % columns) * (k + 1) + 1
        sheet[y : y + k, x : x + k] = tile
    return sheet
