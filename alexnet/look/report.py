"""A page of a run, or of several beside each other: one file that loads nothing, out of run folders and pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from .. import files
from ..data.samples import Samples, shown
from ..errors import DataError, UsageError
from ..evaluation.judge import own_data
from ..evaluation.score import wilson
from ..weights.run import Run
from . import comparison, course, results, settings
from .album import Album
from .page import Child, Node, document, lacking, node
from .paper import paper
from .record import Record, read
from .results import Book

PICTURES: Final = 400  # with an image, of a page
MOST_RUNS: Final = 8
Found = tuple[Samples | None, Samples | None]  # to train on, held out


@dataclass(frozen=True)
class Page:
    """A report: the file's content, and what it says in numbers (`alexnet report --json`)."""

    content: bytes
    said: dict[str, Any]


def report(
    runs: Sequence[Run], *, pictures: int = PICTURES, under_way: bool = False, found: Found | None = None
) -> Page:
    """The report of runs: of several, a comparison. The same folders and pictures give the same bytes.

    `pictures`: how many have an image. `under_way`: of a run that goes on, quickly: no picture is looked for, and no
    checkpoint opened. `found`: the pictures of the one run, to train on and held out, where they are at hand.
    UsageError: a folder that is no run's, too many.
    """
    if not 1 <= len(runs) <= MOST_RUNS:
        raise UsageError(f"{len(runs)} runs; a report takes 1 to {MOST_RUNS}")
    records = [
        read(run, name=name, at=at, checkpoints=not under_way)
        for at, (run, name) in enumerate(zip(runs, _names(runs), strict=True))
    ]
    for record in records:
        if under_way:
            record.lacking["pictures"] = "they come at the end of the training, or with “alexnet report RUN”"
        elif pictures:
            _find_pictures(record, found)
        else:
            record.lacking["pictures"] = "none were asked for"
    book = Book(Album(pictures))
    return Page(_page(records, book), _said(records, book))


def write(run: Run, *, under_way: bool, found: Found) -> None:
    """Puts the report of a run into its folder, whole. OSError: it cannot be written."""
    files.write(run.report, report([run], under_way=under_way, found=found).content)


def _names(runs: Sequence[Run]) -> list[str]:
    """What the runs are called: their folders' names, or their whole paths where two have the same."""
    names = [shown(run.folder.resolve().name) for run in runs]
    return names if len(set(names)) == len(names) else [shown(str(run.folder)) for run in runs]


def _find_pictures(record: Record, found: Found | None) -> None:
    """Gives a record its pictures, where they still are what they were."""
    if record.data is None:
        record.lacking["pictures"] = record.lacking.get("data", "the run does not say where they are")
        return
    try:
        record.train, record.val = found or own_data(record.data)
    except (DataError, UsageError) as reason:
        record.lacking["pictures"] = str(reason)
        return
    if record.train is None or (record.val is None and record.data["val_fingerprint"] is not None):
        record.lacking["pictures"] = f"{record.data['source']} no longer holds the pictures that the run had"


def _page(records: Sequence[Record], book: Book) -> bytes:
    several = len(records) > 1

    def each(make: Callable[[Record], Child]) -> Child:
        """A part of every run, under its name where there are several."""
        made = [(record.name, part) for record in records if (part := make(record)) is not None]
        return [[node("h4", name) if several else None, part] for name, part in made]

    # the pictures that a person sees first get their images first
    mistakes = each(lambda record: results.worst(record, book))
    alone = comparison.only_one(records, book) if several else None
    labels = each(lambda record: results.label_errors(record, book))
    sheets = each(lambda record: settings.data(record, book.album))
    confusions = each(lambda record: results.confusions(record, book))
    bad = any(one.bad_images or "bad_images" in one.lacking for one in records)
    undecoded = [_part("Could not be decoded", each(results.undecoded))] if bad else []
    tabs: list[tuple[str, str, list[Node]]] = []
    if several:
        tabs.append(("comparison", "Comparison", [
            _part("Scores", comparison.scores(records)),
            _part("Is the difference chance?", comparison.tests(records)),
            _part("Pictures that only one gets right",
                  alone or lacking("the runs cannot be paired, as said above")),
            _part("Class by class", comparison.by_class(records)),
            _part("What differs between the recipes", settings.differences(records)),
        ]))  # fmt: skip
    tabs += [
        ("overview", "Overview", [
            _part("Score", each(results.headline)),
            _part("Curves", course.curves(records)),
            _part("First layer", each(course.kernels)),
            _part("Can its probabilities be believed?", each(results.probabilities)),
        ]),
        ("mistakes", "Mistakes", [
            _part("What is taken for what", confusions),
            _part("The worst mistakes", mistakes),
            _part("Likely label errors", labels),
            *undecoded,
        ]),
        ("classes", "Classes", [_part("Each class", each(results.classes))]),
        ("data", "Data", [_part("Data sheet", sheets)]),
        ("run", "Run", [
            _part("Recipe", settings.recipe(records)),
            _part("Where the time went", each(course.where_time_went)),
            _part("Environment", settings.environment(records)),
        ]),
        ("paper", "Paper", [_part("Beside the paper", each(paper))]),
    ]  # fmt: skip
    title = f"{len(records)} runs" if several else records[0].name
    named = [node("li", node("strong", record.name), ": ", _in_short(record)) for record in records]
    header = node("header", node("p", "alexnet report", class_="label"), node("h1", title),
                  node("ul", named) if several else node("p", _in_short(records[0])))  # fmt: skip
    links = [node("li", node("a", name, href=f"#{key}", id=f"tab-{key}")) for key, name, _ in tabs]
    nav = node("nav", node("ul", links), aria_label="Parts of the report")
    panels = [node("section", node("h2", name, class_="of-panel"), parts, id=key, class_="panel",
                   aria_labelledby=f"tab-{key}") for key, name, parts in tabs]  # fmt: skip
    scripted = node("noscript", node("p", "The pictures, sorting and tabs need JavaScript; all of it is in this file.",
                                     class_="lacking"))  # fmt: skip
    opened = node("dialog", node("div", node("h2", "Pictures", id="opened"), node("button", "Close", type="button",
                  class_="action"), class_="bar"), node("p", class_="note"), node("ul", class_="gallery"),
                  aria_labelledby="opened")  # fmt: skip
    body = [
        node("a", "Skip to the content", href="#content", class_="skip"),
        header, nav, node("main", scripted, panels, id="content", tabindex=-1),
        node("footer", node("p", "Written by “alexnet report” from the run folder and its pictures.")),
        opened,
    ]  # fmt: skip
    data = {"pictures": book.album.to_json(), "galleries": book.galleries, "saves": book.saves}
    return document(f"{title} – alexnet", body, data)


def _part(title: str, *children: Child) -> Node:
    return node("section", node("h3", title), *children, class_="part")


def _in_short(record: Record) -> str:
    """Variant, recipe, data and how far it is, in a line."""
    if record.imported:
        done = "imported"
    elif record.log.step >= record.steps:
        done = f"{record.steps:,} updates"
    else:
        done = f"{record.log.step:,} of {record.steps:,} updates so far"
    source = f" on {shown(Path(record.data['source']).name)}" if record.data is not None else ""
    named = settings.value(record, "name")
    return f"variant {record.variant.name}, recipe {named}{source}, {len(record.classes):,} classes, {done}"


def _said(records: Sequence[Record], book: Book) -> dict[str, Any]:
    """The document of `alexnet report --json`, without the file's name."""
    runs = []
    for record in records:
        one = results.headline_of(record)
        runs.append({
            "run": str(record.run.folder),
            "top1": one.top1 if one else None,
            "top1_interval": list(wilson(one.correct1, one.count)) if one else None,
            "top5": one.correct5 / one.count if one and one.correct5 is not None else None,
            "count": one.count if one else 0,
            "lacking": record.lacking,
        })  # fmt: skip
    pairs = []
    for first, second in combinations(records, 2):
        found = comparison.paired(first, second)
        if not isinstance(found, str):
            pairs.append({"runs": [str(first.run.folder), str(second.run.folder)], "both": found.both,
                          "only_first": found.only_first, "only_second": found.only_second, "neither": found.neither,
                          "p": found.p})  # fmt: skip
    shown = sum(bool(picture.image) for picture in book.album.pictures)
    return {"runs": runs, "pairs": pairs, "pictures": shown}
