"""The parts of a report that tell how a training went: its curves, its first layer, its time."""

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from .drawing import COLOURS, Line, chart, parts_bar
from .kernels import kernel_sheet, towers_of
from .page import Column, Node, behind, lacking, node, note, percent, png, table
from .record import Record

MOST_WIDE: Final = 640  # pixels of the sheet of kernels
MOST_ROWS: Final = 200  # of the table behind the curves

# where the loop's time goes, as metrics.jsonl counts it; the rest is the network's
SPENT: Final = (("seconds_waiting", "waiting for pictures"), ("seconds_augment", "augmenting them"))
THREADS: Final = (("seconds_read", "reading"), ("seconds_decode", "decoding"))


def curves(records: Sequence[Record]) -> Node:
    """Loss, top-1 and rate over the epochs: of one run those of training and validation, of several each its own."""
    there = [record for record in records if record.log]
    if not there:
        return lacking(records[0].lacking.get("log", "the log is empty"))
    several = len(records) > 1
    drawings = []
    for title, name, share in (("Loss", "loss", False), ("Top-1 accuracy", "top1", True)):
        lines = [
            line
            for at, record in enumerate(records)
            for split, words in (("train", "training"), ("val", "held-out"))
            if (line := _line(record, split, name, words, at if several else None)) is not None
        ]
        if lines:
            drawings.append(chart(title, lines, across="epochs", share=share))
    of_all = [_line(one, "train", "lr", "learning rate", at if several else None) for at, one in enumerate(records)]
    if rates := [line for line in of_all if line is not None]:
        drawings.append(chart("Learning rate", rates, across="epochs"))
    absent = [f"of {record.name}, {record.lacking.get('log', 'the log is empty')}" for record in records
              if not record.log]  # fmt: skip
    return node(
        "div",
        node("div", drawings, class_="charts"),
        note("Training is measured on pictures as they are trained on, augmented and with dropout; the mean since the "
             "line before."),
        [lacking(words) for words in absent],
        [behind(f"The validations as a table{f': {record.name}' if several else ''}", _validations(record))
         for record in there if record.log.count("val")],
    )  # fmt: skip


def _line(record: Record, split: str, name: str, words: str, at: int | None) -> Line | None:
    """The values of one name over the epochs; None where there are none."""
    points = np.stack([record.log.column(split, "epoch"), record.log.column(split, name)], 1)
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        return None
    held_out = split == "val"
    called = words if at is None else f"{record.name}, {words}"
    kind = ("quiet" if split == "train" and name != "lr" else "accent") if at is None else f"colour{at % COLOURS}"
    if at is not None and not held_out and name != "lr":
        kind += " thin"
    return Line(called, points[:, 0], points[:, 1], kind, dots=held_out and len(points) <= 40)


def _validations(record: Record) -> Node:
    log = record.log
    count = log.count("val")
    caption = "Validations" if count <= MOST_ROWS else f"Validations: the last {MOST_ROWS} of {count}"
    shown, steps = log.column("val", "step")[-MOST_ROWS:], log.column("train", "step")
    there = np.isin(steps, shown)
    rates = dict(zip(steps[there].tolist(), log.column("train", "lr")[there].tolist(), strict=True))
    columns = [Column(name, number=True) for name in ("step", "epoch", "loss", "top-1", "top-5", "rate")]
    lines = zip(*(log.column("val", name)[-MOST_ROWS:].tolist() for name in ("step", "epoch", "loss", "top1", "top5")),
                strict=True)  # fmt: skip
    return table(caption, columns, [
        [f"{int(step):,}", f"{epoch:.2f}", f"{loss:.4f}", percent(top1), percent(top5),
         f"{rates[step]:.3g}" if step in rates else "–"]
        for step, epoch, loss, top1, top5 in lines
    ])  # fmt: skip


def kernels(record: Record) -> Node:
    """conv1's kernels as figure 3 of the paper shows them."""
    if record.kernels is None:
        return lacking(record.lacking["kernels"])
    towers = towers_of(record.variant)
    sheet, stream = kernel_sheet(record.kernels, towers=towers), io.BytesIO()
    Image.fromarray(sheet).save(stream, "PNG", optimize=True)
    count, _, side, _ = record.kernels.shape
    larger = max(1, min(6, MOST_WIDE // sheet.shape[1]))
    apart = ", one tower above the other" if towers > 1 else ""
    return node(
        "figure",
        node("img", src=png(stream.getvalue()), width=larger * sheet.shape[1], height=larger * sheet.shape[0],
             alt=f"{count} kernels of {side} by {side} pixels{apart}"),
        node("figcaption", f"The {count} kernels of conv1, {side}×{side}×3, {record.kernels_of}{apart}; each stretched "
             "by itself, grey is 0. Figure 3 of the paper."),
        class_="kernels",
    )  # fmt: skip


def seconds(record: Record) -> float:
    """Of training, as far as its log tells: validations and saves are not in it."""
    return total(record, "seconds")


def total(record: Record, name: str) -> float:
    """The sum of a name over the lines of training."""
    return float(np.nansum(record.log.column("train", name)))


def lasting(spent: float) -> str:
    """Seconds for a person."""
    if spent < 120:
        return f"{spent:.1f} s"
    return f"{spent / 60:.1f} min" if spent < 7200 else f"{spent / 3600:.1f} h"


def where_time_went(record: Record) -> Node:
    """Where the time went: of the loop, waiting, augmenting, the network; beside it, of the threads that decode."""
    whole = seconds(record)
    if whole <= 0:
        return lacking(record.lacking.get("log", "the log tells of no time"))
    parts = [(words, min(max(total(record, name) / whole, 0.0), 1.0)) for name, words in SPENT]
    parts.append(("the network: forward, backward, update", max(0.0, 1 - sum(share for _, share in parts))))
    rows = [[[node("svg", node("rect", width=10, height=10, class_=f"part part{n}"), viewBox="0 0 10 10", width=10,
                   height=10, aria_hidden="true"), " ", words], lasting(share * whole), percent(share)]
            for n, (words, share) in enumerate(parts)]  # fmt: skip
    beside = [[f"{words}, by threads, meanwhile", lasting(total(record, name)), "beside it"] for name, words in THREADS]
    spent, speed = record.log.column("train", "seconds"), record.log.column("train", "images_per_second")
    with np.errstate(over="ignore"):
        images = float(np.nansum(spent * speed))
    columns = [Column("what"), Column("time", number=True), Column("share", number=True)]
    return node("div", parts_bar(parts), table("Where the time went", columns, [*rows, *beside]),
                note(f"{lasting(whole)} of training, {images / whole:,.1f} pictures a second; validations and saves "
                     "are not counted."))  # fmt: skip
