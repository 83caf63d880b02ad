"""The parts of a report that tell how good a run is: its score, its probabilities, its mistakes, its classes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final

import numpy as np

from ..evaluation.calibration import calibration
from ..evaluation.mistakes import Pair, likely_label_errors, pairs, per_class
from ..evaluation.predictions import Predictions
from ..evaluation.score import wilson
from .album import Album
from .drawing import reliability, share_bar
from .page import Cell, Column, Node, behind, lacking, node, note, percent, table
from .record import Record

MATRIX: Final = 20  # classes whose confusions are one table; of more, the pairs
FEW: Final = 8  # classes whose names stand beside each other over a matrix
MOST_PAIRS: Final = 200
MOST_OF_CELL: Final = 24  # pictures that a cell opens
MOST_ROWS: Final = 2000  # classes of a table
MOST_SHOWN: Final = 24  # worst mistakes, and likely label errors with their pictures
MOST_LISTED: Final = 100  # in a table
MOST_SAVED: Final = 5_000  # likely label errors in the CSV
MOST_COUNTED: Final = 2**53  # beyond it a float is no count
MOST_NAMED: Final = 50  # pictures that could not be decoded


@dataclass
class Book:
    """What a page's script needs beside the tree: the pictures, the galleries that buttons open, the tables to save."""

    album: Album
    galleries: dict[str, dict[str, Any]] = field(default_factory=dict)
    saves: dict[str, list[list[str]]] = field(default_factory=dict)

    def put(self, record: Record, rows: Iterable[int]) -> list[int]:
        """The places in the album of held-out pictures, by their rows among the predictions."""
        said, taken = _said(record), list(rows)
        return self.album.put([said.keys[row] for row in taken], [record.names[said.labels[row]] for row in taken],
                              rows=taken, of=f"{record.pictures} val", samples=record.val)  # fmt: skip


@dataclass(frozen=True)
class Headline:
    """Right answers of `count` pictures, at the best of so many validations, at `step`."""

    count: int
    correct1: int
    correct5: int | None
    loss: float
    step: int | None
    validations: int
    bad: int

    @property
    def top1(self) -> float:
        """Share right."""
        return self.correct1 / self.count


def _said(record: Record) -> Predictions:
    assert record.predictions is not None
    return record.predictions


def best_line(record: Record) -> dict[str, float] | None:
    """The log's numbers of the best validation: the highest top-1, of several such the lowest loss, then the first."""
    if not record.log.count("val"):
        return None
    of = {name: record.log.column("val", name) for name in ("step", "loss", "top1", "top5", "count")}
    at = np.lexsort((of["loss"], -of["top1"]))[0]
    return {name: float(column[at]) for name, column in of.items()}


def headline_of(record: Record) -> Headline | None:
    """The run's score, from its predictions, or its log where it has none."""
    best, validations = best_line(record), record.log.count("val")
    if record.predictions is not None:
        said = record.predictions
        right = int(said.right().sum())
        step = int(best["step"]) if best and abs(best["top1"] - right / len(said)) < 1e-6 else None
        return Headline(len(said), right, int(said.right(5).sum()) if len(record.classes) > 5 else None,
                        float(said.loss[~said.bad].mean()), step, validations, int(said.bad.sum()))  # fmt: skip
    count = best["count"] if best else 0.0
    if best is None or not (0 < count < MOST_COUNTED and count.is_integer() and 0 <= best["top1"] <= best["top5"] <= 1):
        return None
    correct = [round(best[name] * count) for name in ("top1", "top5")]
    if not 0 <= correct[0] <= correct[1] <= count:
        return None
    five = correct[1] if len(record.classes) > 5 else None
    return Headline(int(count), correct[0], five, best["loss"], int(best["step"]), validations, 0)


def headline(record: Record) -> Node:
    """The score in large letters, with its interval and what it is of."""
    found = headline_of(record)
    if found is None:
        return lacking(f"a score; {record.lacking.get('predictions', 'nothing was validated')}")
    low, high = wilson(found.correct1, found.count)
    chosen = "" if found.validations < 2 else (
        f" The best of {found.validations} validations, chosen by these same pictures: a little too good. Judge it by "
        "others with “alexnet eval”."
    )  # fmt: skip
    facts: list[tuple[str, str, str]] = []
    if found.correct5 is not None:
        a, b = wilson(found.correct5, found.count)
        facts.append(("top-5", percent(found.correct5 / found.count), f"{100 * a:.1f} to {100 * b:.1f}"))
    if record.predictions is not None:
        there = [one.recall for one in per_class(record.predictions, len(record.classes)) if one.recall is not None]
        facts.append(("mean of the classes", percent(sum(there) / len(there)), f"{len(there)} classes"))
        decoded = ~record.predictions.bad
        of = calibration(record.predictions.probability[decoded, 0], record.predictions.right()[decoded])
        facts.append(("calibration error", percent(of.ece), "too sure" if of.surplus > 0 else "too modest"))
        apart = [pair for pair in pairs(record.predictions) if pair.true != pair.said]
        if apart:
            names = f"{record.names[apart[0].true]} as {record.names[apart[0].said]}"
            facts.append(("most frequent mistake", names, f"{len(apart[0].rows):,} pictures"))
    facts.append(("loss", f"{found.loss:.3f}", "mean −log p"))
    return node(
        "div",
        node("div", node("p", "top-1 accuracy", class_="label"), node("p", percent(found.top1), class_="big"),
             share_bar(found.top1, low=low, high=high),
             node("p", f"95 % interval {100 * low:.1f} to {100 * high:.1f}\u00a0%"),
             node("p", f"{found.correct1:,} of {found.count:,} held-out pictures", class_="quiet"), class_="score"),
        node("dl", [node("div", node("dt", name), node("dd", node("strong", value), " ", node("span", more)))
                    for name, value, more in facts], class_="facts"),
        note(
            "One view of each picture"
            + (f", the checkpoint of step {found.step:,}." if found.step is not None else ".")
            + (f" {found.bad:,} pictures could not be decoded and count as wrong." if found.bad else "")
            + chosen + " The interval is Wilson’s; it tells of the number of pictures, not of another training."
        ),
        class_="headline",
    )  # fmt: skip


def probabilities(record: Record) -> Node:
    """Whether its probabilities can be believed: the reliability curve, the error, the table behind it."""
    if record.predictions is None:
        return lacking(record.lacking["predictions"])
    said = record.predictions
    found = calibration(said.probability[~said.bad, 0], said.right()[~said.bad])
    bins, rows = len(found.count), list[list[Cell]]()
    for b in range(bins):
        n, c = int(found.count[b]), int(found.right[b])
        if n:
            low, high = wilson(c, n)
            rows.append([(f"{100 * b / bins:.0f} to {100 * (b + 1) / bins:.0f}\u00a0%", float(b)), (f"{n:,}", float(n)),
                         (percent(found.total[b] / n), found.total[b] / n), (percent(c / n), c / n),
                         f"{100 * low:.0f} to {100 * high:.0f}"])  # fmt: skip
    columns = [Column("said with"), Column("answers", number=True), Column("mean probability", number=True),
               Column("right", number=True), Column("95 % interval", number=True)]  # fmt: skip
    far = "surer than it is right" if found.surplus > 0 else "right more often than it says"
    return node(
        "div",
        reliability("Right, %, of the answers given with a probability", found),
        node("div",
             node("p", node("strong", percent(found.ece)), " expected calibration error: on average an answer’s "
                  f"probability is so far from the share of such answers that are right ({bins} bins of equal width)."),
             node("p", f"It is {far} by {100 * abs(found.surplus):.1f} points on the whole; the worst bin is "
                  f"{100 * found.largest:.1f} points off."),
             behind("The numbers behind it", table("Reliability", columns, rows))),
        class_="beside",
    )  # fmt: skip


def caption(record: Record, row: int) -> str:
    """What was said of a picture, and how much its own class got."""
    said = _said(record)
    first, p = record.names[said.top[row, 0]], float(said.probability[row, 0])
    if said.top[row, 0] == said.labels[row]:
        return f"{first}, {percent(p, 0)}"
    return f"taken for {first}, {percent(p, 0)}; its own class {_small(float(np.exp(-said.loss[row])))}"


def _small(share: float) -> str:
    """A share that may be far below a hundredth."""
    return percent(share, 0 if share >= 0.01 else 2)


def gallery(record: Record, rows: Sequence[int], places: Sequence[int], captions: Sequence[str], *, of: str) -> Node:
    """Pictures in a row, each with its name and a caption; the script puts the images in."""
    said = _said(record)
    return node("ul", [
        node("li", node("p", said.keys[row], class_="name"), node("p", words), data_picture=place)
        for row, place, words in zip(rows, places, captions, strict=True)
    ], class_="gallery", aria_label=of)  # fmt: skip


def worst(record: Record, book: Book) -> Node:
    """The mistakes of the highest loss."""
    if record.predictions is None:
        return lacking(record.lacking["predictions"])
    said = record.predictions
    wrong = np.flatnonzero(~said.right() & ~said.bad)
    if not len(wrong):
        return node("p", "No mistake: every picture was right.")
    rows = wrong[np.argsort(-said.loss[wrong], kind="stable")][:MOST_SHOWN].tolist()
    return node("div", note(f"Of {len(wrong):,} mistakes the {len(rows)} whose own class was given the least."),
                gallery(record, rows, book.put(record, rows), [caption(record, row) for row in rows],
                        of="Worst mistakes"), _without_images(record))  # fmt: skip


def _without_images(record: Record) -> Node | None:
    """Why pictures are named and not shown."""
    if record.val is not None:
        return None
    return lacking(f"the pictures themselves; {record.lacking.get('pictures', 'they were not looked for')}")


def label_errors(record: Record, book: Book) -> Node:
    """Pictures whose label looks wrong, to look at, and to save as a table."""
    if record.predictions is None:
        return lacking(record.lacking["predictions"])
    said, names = record.predictions, record.names
    found = likely_label_errors(said, len(record.classes))
    if not len(found.rows):
        return node("p", "None: where it is sure of another class, it is no surer than it usually is of that class.")
    rows = found.rows[:MOST_SHOWN].tolist()
    captions = [
        f"labelled {names[said.labels[row]]}, {_small(own)}; looks like {names[k]}, {percent(p, 0)}"
        for row, k, p, own in zip(rows, found.looks_like, found.probability, found.of_label, strict=False)
    ]
    whole = list(zip(found.rows, found.looks_like, found.probability, found.of_label, strict=True))
    keys = record.classes.keys
    heads = ["path", "label", "looks_like", "probability_of_label", "probability"]
    book.saves[f"labels-{record.at}"] = [heads] + [
        [said.keys[row], keys[said.labels[row]], keys[k], f"{own:.6f}", f"{p:.6f}"]
        for row, k, p, own in whole[:MOST_SAVED]
    ]
    listed = table("Likely label errors", [Column("picture"), Column("label"), Column("looks like"),
                   Column("label’s probability", number=True), Column("probability", number=True)],
                   [[said.keys[row], names[said.labels[row]], names[k], (percent(own), float(own)),
                     (percent(p), float(p))]
                    for row, k, p, own in whole[:MOST_LISTED]], sorts=True)  # fmt: skip
    more = f" (the first {MOST_LISTED} of {len(found.rows):,})" if len(found.rows) > MOST_LISTED else ""
    return node(
        "div",
        note(f"{len(found.rows):,} of {len(said):,} pictures, by confident learning (Northcutt and others, 2021): "
             "another class is likelier than it usually is for pictures labelled so. Look before you believe it: a "
             "network as right as this one is wrong about some."),
        node("p", node("button", "Save as CSV", type="button", class_="action", data_save=f"labels-{record.at}",
                       data_name="label-errors.csv")),
        gallery(record, rows, book.put(record, rows), captions, of="Likely label errors"),
        _without_images(record),
        behind(f"As a table{more}", listed),
    )  # fmt: skip


def confusions(record: Record, book: Book) -> Node:
    """What is taken for what: a table of the classes, or of the most confused pairs; a cell opens its pictures."""
    if record.predictions is None:
        return lacking(record.lacking["predictions"])
    said, names = record.predictions, record.names
    found = pairs(said)
    apart = [pair for pair in found if pair.true != pair.said]
    shown = found if len(names) <= MATRIX else apart[:MOST_PAIRS]
    counts = np.bincount(said.labels, minlength=len(names))
    _open(record, book, shown)
    if len(names) > MATRIX:
        columns = [Column("true class"), Column("taken for"), Column("pictures", number=True),
                   Column("of the class", number=True)]  # fmt: skip
        rows = [[names[pair.true], names[pair.said],
                 (_button(record, pair), float(len(pair.rows))),
                 (percent(len(pair.rows) / counts[pair.true]), len(pair.rows) / counts[pair.true])]
                for pair in shown]  # fmt: skip
        if not rows:
            return node("p", "No mistake: every picture was right.")
        more = f", the {MOST_PAIRS} most frequent of {len(apart):,}" if len(apart) > MOST_PAIRS else ""
        return node("div", note(f"Pairs of classes that are confused{more}. A number opens its pictures."),
                    table("Most confused pairs", columns, rows, sorts=True, find="Find a class"))  # fmt: skip
    cells = {(pair.true, pair.said): pair for pair in shown}
    head = node("tr", node("td"), [node("th", node("span", name), scope="col") for name in names])
    body = node("tbody")
    for true, name in enumerate(names):
        line = node("tr", node("th", name, scope="row"))
        for other in range(len(names)):
            pair = cells.get((true, other))
            if pair is None:
                line.add(node("td", node("span", "0", class_="zero")))
                continue
            heat = min(9, int(10 * len(pair.rows) / counts[true]))
            line.add(node("td", _button(record, pair),
                             class_=f"heat{heat}{' right' if true == other else ''}"))  # fmt: skip
        body.add(line)
    words = "True class in rows, class said in columns"
    kind = "matrix many" if len(names) > FEW else "matrix"
    made = node("table", node("caption", words), node("thead", head), body, class_=kind)
    return node("div", note("A row is what was said of a class’s pictures. A number opens its pictures, the least sure "
                            "of their own class first; the shade is the share of the row."),
                node("div", made, class_="scroll", tabindex=0, role="region", aria_label=words))  # fmt: skip


def _button(record: Record, pair: Pair) -> Node:
    words = f"{len(pair.rows):,}"
    return node("button", words, type="button", data_gallery=_opened_by(record, pair),
                aria_label=f"{words} pictures: {_called(pair, record.names)}")  # fmt: skip


def _opened_by(record: Record, pair: Pair) -> str:
    """What a gallery is known by in the page."""
    return f"{record.at}-{pair.true}-{pair.said}"


def _called(pair: Pair, names: Sequence[str]) -> str:
    true, said = names[pair.true], names[pair.said]
    return f"{true}, right" if pair.true == pair.said else f"{true} taken for {said}"


def _open(record: Record, book: Book, shown: Sequence[Pair]) -> None:
    """Makes the gallery of each pair; images go first to the first pictures of every pair, mistakes before the rest."""
    said, names = _said(record), record.names
    rows_of = [pair.rows[np.argsort(-said.loss[pair.rows], kind="stable")][:MOST_OF_CELL].tolist() for pair in shown]
    for wrong in (True, False):
        own = [rows for pair, rows in zip(shown, rows_of, strict=True) if (pair.true != pair.said) is wrong]
        book.put(record, [row for turn in zip_longest(*own) for row in turn if row is not None])
    for pair, rows in zip(shown, rows_of, strict=True):
        places = book.put(record, rows)
        more = len(pair.rows) - len(rows)
        book.galleries[_opened_by(record, pair)] = {
            "title": _called(pair, names),
            "note": f"{len(pair.rows):,} pictures" + (f", of which {len(rows)} are here" if more else ""),
            "items": [[place, caption(record, row)] for place, row in zip(places, rows, strict=True)],
        }


def classes(record: Record) -> Node:
    """Each class: its pictures, the share right, how often it is right where it is said, what it is taken for."""
    if record.predictions is None:
        return lacking(record.lacking["predictions"])
    names = record.names
    columns = [Column("class"), Column("pictures", number=True), Column("right", number=True),
               Column("recall", number=True), Column("95 % interval", number=True),
               Column("precision", number=True),
               Column("most often taken for")]  # fmt: skip
    found = list(zip(names, per_class(record.predictions, len(names)), strict=True))
    if len(found) > MOST_ROWS:
        found = sorted(found, key=lambda one: 2.0 if one[1].recall is None else one[1].recall)[:MOST_ROWS]
    rows = list[list[Cell]]()
    for name, one in found:
        low, high = one.interval or (0.0, 0.0)
        taken = f"{names[one.taken_for[0]]} ({one.taken_for[1]:,})" if one.taken_for else ""
        rows.append([
            name, (f"{one.count:,}", float(one.count)), (f"{one.right:,}", float(one.right)),
            ([percent(one.recall), share_bar(one.recall or 0.0, low=low, high=high)],
             -1.0 if one.recall is None else one.recall),
            (f"{100 * low:.0f} to {100 * high:.0f}" if one.interval else "–", low),
            (percent(one.precision), -1.0 if one.precision is None else one.precision),
            (taken, float(one.taken_for[1]) if one.taken_for else 0.0),
        ])  # fmt: skip
    find = "Find a class" if len(names) > MATRIX else None
    few = f" The {MOST_ROWS:,} of {len(names):,} with the lowest recall." if len(names) > MOST_ROWS else ""
    return node("div", note("Recall is the share of a class’s pictures that were right, precision the share right of "
                            f"those it was said of. A head sorts.{few}"),
                table("Classes", columns, rows, sorts=True, find=find))  # fmt: skip


def undecoded(record: Record) -> Node | None:
    """The pictures that could not be decoded, by name; None where there are none."""
    if "bad_images" in record.lacking:
        return lacking(record.lacking["bad_images"])
    bad = record.bad_images
    if not bad:
        return None
    return node("div", node("ul", [node("li", f"{path}: {reason}") for path, reason in bad[:MOST_NAMED]]),
                note(f"and {len(bad) - MOST_NAMED:,} more, in bad_images.jsonl")
                if len(bad) > MOST_NAMED else None)  # fmt: skip
