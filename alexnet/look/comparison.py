"""The part of a report that sets runs beside each other: scores, paired tests, what only one gets right, classes."""

from collections.abc import Sequence
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..evaluation.mistakes import per_class
from ..evaluation.paired import Paired, mcnemar
from ..evaluation.score import wilson
from .drawing import share_bar
from .page import Cell, Column, Node, lacking, node, note, percent, table
from .record import Record
from .results import MOST_ROWS, Book, caption, gallery, headline_of

MOST_SHOWN: Final = 24  # pictures that only one run gets right


def same_pictures(first: Record, second: Record) -> tuple[NDArray[np.int64], NDArray[np.int64]] | str:
    """The rows of the same pictures among two runs' predictions, or in words why they cannot be paired."""
    one, other = first.predictions, second.predictions
    if one is None or other is None:
        which = first if one is None else second
        return f"{which.name}: {which.lacking['predictions']}"
    places = {key: row for row, key in enumerate(other.keys)}
    if len(places) != len(other) or len(set(one.keys)) != len(one):
        return "names that stand twice among the pictures"
    if places.keys() != set(one.keys):
        common = len(places.keys() & set(one.keys))
        return f"{first.name} and {second.name} were judged by other pictures ({common:,} are common to both)"
    rows = np.arange(len(one)), np.array([places[key] for key in one.keys])
    labels = [np.array(record.classes.keys, dtype=object)[said.labels]
              for record, said in ((first, one), (second, other))]  # fmt: skip
    if (labels[0] != labels[1][rows[1]]).any():
        return f"{first.name} and {second.name} have other labels for the same pictures"
    return rows


def paired(first: Record, second: Record) -> Paired | str:
    """McNemar's test of two runs, or in words why there is none."""
    rows = same_pictures(first, second)
    if isinstance(rows, str):
        return rows
    assert first.predictions is not None and second.predictions is not None
    return mcnemar(first.predictions.right()[rows[0]], second.predictions.right()[rows[1]])


def scores(records: Sequence[Record]) -> Node:
    """Every run's score with its interval."""
    columns = [Column("run"), Column("top-1", number=True), Column("95 % interval", number=True),
               Column("top-5", number=True), Column("loss", number=True), Column("pictures", number=True)]  # fmt: skip
    rows: list[list[Cell]] = []
    for record in records:
        found = headline_of(record)
        if found is None:
            rows.append([record.name, record.lacking.get("predictions", "–"), *["–"] * 4])
            continue
        low, high = wilson(found.correct1, found.count)
        rows.append([record.name, ([percent(found.top1), share_bar(found.top1, low=low, high=high)], found.top1),
                     (f"{100 * low:.1f} to {100 * high:.1f}", low),
                     percent(found.correct5 / found.count) if found.correct5 is not None else "–",
                     (f"{found.loss:.3f}", found.loss), (f"{found.count:,}", float(found.count))])  # fmt: skip
    return table("Scores", columns, rows, sorts=True)


def tests(records: Sequence[Record]) -> Node:
    """McNemar's test of each two runs on the same pictures."""
    columns = [Column("first"), Column("second"), Column("both right", number=True),
               Column("only the first", number=True), Column("only the second", number=True),
               Column("neither", number=True), Column("p", number=True)]  # fmt: skip
    rows: list[list[Cell]] = []
    absent: list[str] = []
    for first, second in combinations(records, 2):
        found = paired(first, second)
        if isinstance(found, str):
            absent.append(found)
            continue
        rows.append([first.name, second.name, f"{found.both:,}", f"{found.only_first:,}", f"{found.only_second:,}",
                     f"{found.neither:,}", f"{found.p:.2g}"])  # fmt: skip
    many = f" Of {len(rows)} such tests one in twenty is below 0.05 by chance." if len(rows) > 1 else ""
    return node(
        "div",
        table("McNemar’s test, exact and two-sided, on the same pictures", columns, rows) if rows else None,
        note("p is how often a difference as large or larger comes about by chance, were both equally good. It tells "
             f"of these two networks, not of what another seed would give.{many}") if rows else None,
        [lacking(words) for words in dict.fromkeys(absent)],
    )  # fmt: skip


def only_one(records: Sequence[Record], book: Book) -> Node | None:
    """For each run, the pictures that it alone gets right; None where the runs cannot be paired."""
    first = records[0]
    rows_of: list[NDArray[np.int64]] = []
    for record in records:
        rows = same_pictures(first, record)
        if isinstance(rows, str):
            return None
        rows_of.append(rows[1])
    right = []
    for record, rows in zip(records, rows_of, strict=True):
        assert record.predictions is not None
        right.append(record.predictions.right()[rows])
    count = np.sum(right, 0)
    parts = []
    for at, record in enumerate(records):
        alone = np.flatnonzero(right[at] & (count == 1))
        others = [(other, rows) for k, (other, rows) in enumerate(zip(records, rows_of, strict=True)) if k != at]
        head = node("h4", f"Only {record.name}: {len(alone):,}")
        if not len(alone):
            parts.append([head, node("p", "No picture.")])
            continue
        loss = np.zeros(len(alone))
        for other, rows in others:
            assert other.predictions is not None
            loss += other.predictions.loss[rows[alone]]
        alone = alone[np.argsort(-loss, kind="stable")][:MOST_SHOWN]
        own = rows_of[at][alone].tolist()
        captions = [
            "; ".join(f"{one.name}: {caption(one, rows[k])}" for one, rows in [(record, rows_of[at]), *others])
            for k in alone
        ]
        parts.append([head, gallery(record, own, book.put(record, own), captions, of=f"Only {record.name} is right")])
    return node("div", parts)


def by_class(records: Sequence[Record]) -> Node:
    """Each class's recall in every run, and how far the runs are apart."""
    there = [record for record in records if record.predictions is not None]
    if not there:
        return lacking("no run has predictions")
    columns = [Column("class"), *(Column(record.name, number=True) for record in there),
               Column("last − first" if len(there) == 2 else "largest − smallest", number=True)]  # fmt: skip
    found = []
    for record in there:
        assert record.predictions is not None
        figures = per_class(record.predictions, len(record.classes))
        found.append({key: one.recall for key, one in zip(record.classes.keys, figures, strict=True)})
    names = {key: name for record in there for key, name in zip(record.classes.keys, record.names, strict=True)}
    rows: list[list[Cell]] = []
    differences: list[float] = []
    for key, name in names.items():
        recalls = [one.get(key) for one in found]
        known = [recall for recall in recalls if recall is not None]
        apart = None
        if len(known) > 1:
            apart = known[1] - known[0] if len(there) == 2 else max(known) - min(known)
        differences.append(apart or 0.0)
        rows.append([name, *((percent(recall), -1.0 if recall is None else recall) for recall in recalls),
                     ("–" if apart is None else f"{100 * apart:+.1f}", apart or 0.0)])  # fmt: skip
    few = ""
    if len(rows) > MOST_ROWS:
        rows = [rows[at] for at in sorted(range(len(rows)), key=lambda at: -abs(differences[at]))[:MOST_ROWS]]
        few = f", the {MOST_ROWS:,} of {len(names):,} that are farthest apart"
    return table(f"Share right of each class’s pictures{few}", columns, rows, sorts=True)
