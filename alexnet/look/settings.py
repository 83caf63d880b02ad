"""The parts of a report that tell what a run was made of: its recipe, its machine, its pictures."""

import shlex
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..data.samples import Samples, shown
from .album import Album
from .drawing import share_bar
from .page import Cell, Child, Column, Node, lacking, node, note, table
from .record import Record

SAMPLES: Final = 48  # pictures to train on that the sheet shows
MOST_CLASSES: Final = 1000
ABSENT: Final = "–"


def plain(value: Any) -> str:
    """A value of a JSON file as text for a person."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case list():
            return ", ".join(map(plain, value)) or "none"
        case dict():
            return ", ".join(f"{shown(str(name))} {plain(one)}" for name, one in value.items())
        case _:
            return shown(str(value))


def recipe(records: Sequence[Record]) -> Node:
    """Every value of the recipes, and where each comes from; what was changed on the way."""
    heads = [Column("setting")]
    for record in records:
        called = record.name if len(records) > 1 else "value"
        heads += [Column(called, prose=True), Column("from")]
    rows = [[shown(name), *(words for record in records for words in (value(record, name), origin(record, name)))]
            for name in _names(records)]  # fmt: skip
    changed = [
        node("li", f"{record.name}, step {step:,}: {name}: {now}, before {before}")
        for record in records
        for step, name, before, now in record.changes
    ]
    taken = [record.name for record in records if record.imported]
    remark = f"Imported: {', '.join(taken)}. Not how it was trained, but how “alexnet train” would go on with it."
    return node("div", note(remark) if taken else None, table("Recipe", heads, rows, sorts=True),
                [node("p", "Changed on the way:"), node("ul", changed)] if changed else None)  # fmt: skip


def differences(records: Sequence[Record]) -> Node:
    """The settings in which recipes differ, side by side."""
    apart = [name for name in _names(records) if len({value(record, name) for record in records}) > 1]
    if not apart:
        return node("p", "Nothing: the recipes are the same.")
    columns = [Column("setting"), *(Column(record.name) for record in records)]
    rows = [[shown(name), *(value(record, name) for record in records)] for name in apart]
    return table("What differs between the recipes", columns, rows)


def _names(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record.recipe))


def value(record: Record, name: str) -> str:
    """A setting of a run."""
    return plain(record.recipe[name]["value"]) if name in record.recipe else ABSENT


def origin(record: Record, name: str) -> str:
    """Where a setting of a run comes from."""
    return plain(record.recipe[name]["origin"]) if name in record.recipe else ABSENT


def environment(records: Sequence[Record]) -> Node:
    """Versions, machine, kernels, command line."""
    names = list(dict.fromkeys(name for record in records for name in record.environment))

    def of(record: Record, name: str) -> str:
        if name not in record.environment:
            return ABSENT
        one = record.environment[name]
        if name == "command" and isinstance(one, list):
            return shown(shlex.join(map(str, one)))
        return plain(one)

    absent = [lacking(f"of {record.name}, {record.lacking['environment']}") for record in records
              if "environment" in record.lacking]  # fmt: skip
    if not names:
        return node("div", absent)
    columns = [Column("what"), *(Column(record.name if len(records) > 1 else "value") for record in records)]
    rows = [[shown(name), *(of(record, name) for record in records)] for name in names]
    return node("div", table("Environment at the beginning", columns, rows), absent)


def data(record: Record, album: Album, *, most: int = SAMPLES) -> Node:
    """The data sheet: where the pictures are, how many, how even the classes, how large, and some of them."""
    kept = record.data
    if kept is None:
        return lacking(record.lacking.get("data", "data.json says nothing"))
    facts: list[tuple[str, Child]] = [
        ("source", shown(kept["source"])),
        ("to train on", f"{kept.get('train', 0):,}" if isinstance(kept.get("train"), int) else ABSENT),
        ("held out", f"{kept.get('val', 0):,}" if isinstance(kept.get("val"), int) else ABSENT),
        ("split", _split(kept["split"])),
        ("classes", f"{len(record.classes):,}"),
        ("prepared", f"stored at {record.preprocess.stored} px ({record.preprocess.resize} side, "
                     f"{record.preprocess.filter}), crops of {record.preprocess.side} px, {record.preprocess.colour}"),
        ("fingerprint", node("code", shown(kept["fingerprint"]))),
    ]  # fmt: skip
    sheet = node("dl", [node("div", node("dt", name), node("dd", value)) for name, value in facts], class_="sheet")
    if record.train is None:
        said = record.predictions
        counts = None if said is None else np.bincount(said.labels, minlength=len(record.classes))
        why = record.lacking.get("pictures", "the pictures were not looked for")
        return node("div", sheet, lacking(f"sizes and samples; {why}"),
                    None if counts is None else _balance(record, None, counts))  # fmt: skip
    counts = record.train.counts()
    held = record.val.counts() if record.val is not None else None
    rows = evenly(record.train, most)
    labels = [record.names[record.train.label[row]] for row in rows]
    places = album.put([record.train.key(row) for row in rows], labels, rows=rows, of=f"{record.pictures} train",
                       samples=record.train)  # fmt: skip
    sizes = np.array([size for place in places if (size := album.pictures[place].size) is not None])
    return node(
        "div",
        sheet,
        note(f"Of {len(sizes)} pictures, evenly chosen: width {_range(sizes[:, 1])}, height {_range(sizes[:, 0])}.")
        if len(sizes) else None,
        note(f"The largest class has {counts.max() / max(1, counts.min()):.1f} times the pictures of the smallest."),
        _balance(record, counts, held),
        node("h4", "Some of the pictures to train on"),
        node("ul", [node("li", node("p", name, class_="name"), data_picture=place)
                    for name, place in zip(labels, places, strict=True)], class_="gallery small",
             aria_label="Some of the pictures to train on"),
    )  # fmt: skip


def _split(split: dict[str, Any]) -> str:
    if not split:
        return "as the source keeps it"
    if "val" in split:
        return f"held out: {shown(str(split['val']))}"
    return f"{plain(split.get('val_fraction'))} of each class held out, seed {plain(split.get('seed'))}"


def _range(values: NDArray[np.int64]) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low} px" if low == high else f"{low} to {high} px (median {np.median(values):g})"


def evenly(samples: Samples, most: int) -> list[int]:
    """Rows of `most` pictures at most, of as many classes as there may be, from first to last within each."""
    classes = np.flatnonzero(samples.counts())
    taken = classes[np.linspace(0, len(classes) - 1, min(most, len(classes))).astype(np.int64)]
    each = most // max(1, len(taken))
    rows: list[int] = []
    for label in taken:
        own = np.flatnonzero(samples.label == label)
        rows += own[np.linspace(0, len(own) - 1, min(each, len(own))).astype(np.int64)].tolist()
    return rows


def _balance(record: Record, train: NDArray[np.int64] | None, held: NDArray[np.int64] | None) -> Node:
    """Pictures a class: to train on, held out."""
    there = [(name, counts) for name, counts in (("to train on", train), ("held out", held)) if counts is not None]
    columns = [Column("class"), *(Column(name, number=True) for name, _ in there), Column("balance")]
    drawn = there[0][1]
    rows: list[list[Cell]] = [
        [name, *((f"{counts[label]:,}", float(counts[label])) for _, counts in there),
         (share_bar(float(drawn[label] / max(1, drawn.max()))), float(drawn[label]))]
        for label, name in enumerate(record.names[:MOST_CLASSES])
    ]  # fmt: skip
    few = f", the first {MOST_CLASSES:,} of {len(record.names):,}" if len(record.names) > MOST_CLASSES else ""
    return table(f"Pictures in each class{few}", columns, rows, sorts=True)
