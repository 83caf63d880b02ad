"""The paper's figures beside a run's, and for each whether the two can be compared.

[K12]: Krizhevsky, Sutskever and Hinton, NIPS 2012; the errors are top-1 / top-5, in percent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ..data.classes import imagenet_classes
from ..data.preprocess import MEAN_FILE
from ..network.cost import cost, difference
from ..network.variants import LRN, Conv, Dropout, Linear, MaxPool, Variant, variant
from .course import lasting, seconds
from .kernels import towers_of
from .page import Cell, Column, Node, node, note, table
from .record import Record
from .results import headline_of
from .settings import plain

METHOD: Final = "another method"
VAL_2012: Final = 50_000  # pictures of ILSVRC-2012's validation set
CLASSES: Final = 1000

TABLE_1: Final = (
    ("sparse coding", "47.1 / 28.2", METHOD),
    ("SIFT and Fisher vectors", "45.7 / 25.7", METHOD),
    ("CNN, ten views", "37.5 / 17.0", "one view, not ten"),
    ("CNN, one view (footnote)", "39.0 / 18.3", ""),
)
TABLE_2: Final = (
    ("SIFT and Fisher vectors, test", "– / 26.2", METHOD),
    ("1 CNN, validation", "40.7 / 18.2", "one view, not ten"),
    ("5 CNNs averaged, validation", "38.1 / 16.4", "one network, not five; one view, not ten"),
    ("5 CNNs averaged, test", "– / 16.4", "one network, not five; one view, not ten; no test labels"),
    ("1 CNN trained on Fall 2011 first, validation", "39.0 / 16.6",
     "one convolution more, 15 million pictures first"),
    ("7 CNNs, 2 of them trained on Fall 2011 first, validation", "36.7 / 15.4",
     "seven networks, two as the row above"),
    ("7 CNNs, 2 of them trained on Fall 2011 first, test", "– / 15.3",
     "as the row above; no test labels"),
    ("second-best entry, test", "– / 26.2", METHOD),
)  # fmt: skip
FALL_2009: Final = (
    ("CNN with a sixth convolution", "67.4 / 40.9", "10,184 classes, 8.9 million pictures"),
    ("best published before", "78.1 / 60.9", METHOD),
)
# What a change made of the errors, in points.
CHANGES: Final = (
    ("two towers instead of one of half the kernels (3.2)", "−1.7 / −1.2"),
    ("local response normalization (3.3)", "−1.4 / −1.2"),
    ("the same for a four-layer network, CIFAR-10 (3.3)", "13 → 11, top-1"),
    ("overlapping pooling, 3 by 3 with stride 2 instead of 2 by 2 (3.4)", "−0.4 / −0.3"),
    ("colours moved along their principal axes (4.1)", "over −1, top-1"),
    ("one of the middle layers taken out (7)", "about +2, top-1"),
    ("ReLU instead of tanh: 25 % training error on CIFAR-10 (figure 1)", "six times sooner"),
    ("dropout: iterations to converge (4.2)", "about twice as many"),
)
NEURONS: Final = {"conv1": 253_440, "conv2": 186_624, "conv3": 64_896, "conv4": 64_896, "conv5": 43_264,
                  "fc6": 4096, "fc7": 4096, "fc8": 1000}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """One figure: the paper's, the run's, whether the two can be compared ("yes", "in part", "no"), and why not."""

    what: str
    paper: str
    here: str
    comparable: str
    why: Sequence[str]


def results(record: Record) -> list[tuple[str, list[Shown]]]:
    """The figures of the paper's tables and text that are results, by where they stand."""
    found = headline_of(record)
    ours = record.classes.keys == imagenet_classes().keys
    held_out = record.data.get("val") if record.data is not None else None
    errors = "–"
    if found is not None:
        five = "–" if found.correct5 is None else f"{100 * (1 - found.correct5 / found.count):.1f}"
        errors = f"{100 * (1 - found.top1):.1f} / {five}"
    base = [] if found is not None else ["no score"]
    base += [] if ours else ["other classes"]
    other = ["another network"] if difference(variant("paper"), record.variant) else []

    def shown(rows: Sequence[tuple[str, str, str]], *, here: bool) -> list[Shown]:
        made = []
        for what, paper, why in rows:
            away = [*base, *(["other pictures"] if ours and not here else []), *([METHOD] if why == METHOD else [])]
            some = [one for one in (why, *other) if one] if why != METHOD else list[str]()
            made.append(Shown(what, paper, errors, "no" if away else "in part" if some else "yes", away + some))
        return made

    return [
        ("Table 1: ILSVRC-2010, test", shown(TABLE_1, here=False)),
        ("Table 2: ILSVRC-2012", shown(TABLE_2, here=held_out == VAL_2012)),
        ("Section 6: ImageNet of Fall 2009", shown(FALL_2009, here=False)),
        ("In the text: what a change makes of the errors, in points", _changes(record)),
    ]


def reasons(record: Record) -> list[str]:
    """What the short reasons of `results` mean for this run."""
    made = []
    if record.classes.keys != imagenet_classes().keys:
        made.append(f"Other classes: {len(record.classes):,}, not ILSVRC’s 1,000.")
    else:
        made.append("Other pictures: the paper’s figures are of ILSVRC-2010’s test set, of ILSVRC-2012’s 50,000 "
                    "pictures to validate on and its test set, and of Fall 2009’s ImageNet.")  # fmt: skip
    changes = len(difference(variant("paper"), record.variant))
    if changes:
        name = record.variant.name
        made.append(f"Another network: {name} differs from the paper’s in {changes} things; “alexnet info paper --diff "
                    f"{name}” lists them.")  # fmt: skip
    made.append("One view here, ten there: “alexnet eval RUN --views 10” measures as the paper did.")
    return made


def _changes(record: Record) -> list[Shown]:
    layers, rule = record.variant.layers, record.recipe
    pools = [row for row in layers if isinstance(row, MaxPool)]
    overlapping = all(row.kernel > row.stride for row in pools)
    has = (
        "two towers" if towers_of(record.variant) == 2 else "one tower",
        "has it" if any(isinstance(row, LRN) for row in layers) else "has none",
        "–",
        "overlapping" if overlapping else "side by side",
        f"colour noise {plain(_of(rule, 'colour_noise'))}" if _of(rule, "colour_noise") else "has none",
        f"{sum(isinstance(row, Conv) for row in layers)} convolutions",
        "ReLU",
        f"dropout {plain(dropout(record))}",
    )
    why = "of two networks; train both, then “alexnet report A B”"
    return [Shown(what, paper, here, "no", [why]) for (what, paper), here in zip(CHANGES, has, strict=True)]


def _of(recipe: dict[str, dict[str, Any]], name: str) -> Any:
    return recipe[name]["value"] if name in recipe else None


def dropout(record: Record) -> float | None:
    """The share that the run drops in fc6 and fc7: the recipe's, or the variant's own."""
    own = [row.p for row in record.variant.layers if isinstance(row, Dropout)]
    said = _of(record.recipe, "dropout")
    return said if said is not None else next(iter(own), None)


@dataclass(frozen=True)
class Setting:
    """One of the paper's settings, and the run's; `same` is None where that is not a question of yes or no."""

    what: str
    paper: str
    here: str
    same: bool | None
    why: str = ""


def settings(record: Record) -> list[tuple[str, list[Setting]]]:
    """The paper's network and training, beside the run's."""
    model, rule = record.variant, record.recipe
    here, whole = cost(model, len(record.classes)), cost(model, CLASSES)
    neurons = {layer.name: layer.neurons for layer in here.layers}
    network = [
        Setting("parameters", "60 million", f"{here.parameters:,}", 59_500_000 <= whole.parameters < 61_500_000,
                "" if len(record.classes) == CLASSES else f"{whole.parameters:,} with 1,000 classes"),
        Setting("neurons", "650,000", f"{here.neurons:,}", 640_000 <= whole.neurons < 660_000,
                "the paper’s own list adds up to 622,312 with 253,440 for conv1, which has 290,400"),
        *(Setting(f"neurons of {name}", f"{count:,}", f"{neurons.get(name, 0):,}",
                  neurons.get(name) in ((count, 290_400) if name == "conv1" else (count,)),
                  "55·55·96 is 290,400; the figure’s caption has 55·48·96" if name == "conv1" else
                  "one a class" if name == "fc8" else "")
          for name, count in NEURONS.items()),
        Setting("input", "224 by 224, cut from 256", f"{record.preprocess.side} by {record.preprocess.side}, cut from "
                f"{record.preprocess.stored}", (record.preprocess.side, record.preprocess.stored) == (224, 256)),
        Setting("subtracted", "the mean image", "the mean image" if record.preprocess.mean == MEAN_FILE else
                plain(list(record.preprocess.mean)), record.preprocess.mean == MEAN_FILE),
        Setting("towers", "2", str(towers_of(model)), towers_of(model) == 2),
        Setting("normalization", "n 5, k 2, α 10⁻⁴, β 0.75", _lrn(model), _lrn(model) == "n 5, k 2, α 10⁻⁴, β 0.75"),
    ]  # fmt: skip
    drops = f"{plain(_of(rule, 'schedule'))}" + (
        f", {plain(_of(rule, 'lr_drops'))} times by {plain(_of(rule, 'lr_factor'))}" if _of(rule, "lr_drops") else ""
    )
    epochs = record.log.epoch if record.log else None
    spent = seconds(record)
    training = [
        _equal(rule, "batch size", "128", "batch_size", 128),
        _equal(rule, "momentum", "0.9", "momentum", 0.9),
        _equal(rule, "weight decay", "0.0005", "weight_decay", 5e-4),
        _equal(rule, "learning rate", "0.01", "lr", 0.01),
        Setting("its schedule", "a tenth, three times, when the validation stopped improving", drops,
                (_of(rule, "schedule"), _of(rule, "lr_drops")) == ("plateau", 3)),
        Setting("dropout in fc6 and fc7", "0.5", plain(dropout(record)), dropout(record) == 0.5),
        Setting("initial weights", "normal 0.01", _init(record), _init(record) == "normal 0.01"),
        Setting("initial biases", "1 in conv2, conv4, conv5, fc6, fc7; else 0", _biases(record),
                _biases(record) == "1 in conv2, conv4, conv5, fc6, fc7; else 0"),
        Setting("crops and mirror images", "random", "random" if _of(rule, "random_crop") and _of(rule, "mirror") else
                "not both", bool(_of(rule, "random_crop") and _of(rule, "mirror"))),
        _equal(rule, "colour noise", "0.1", "colour_noise", 0.1),
        Setting("passes over the pictures", "about 90", "–" if epochs is None else f"{epochs:.1f}",
                epochs is not None and 85 <= epochs <= 95),
        Setting("pictures to train on", "1.2 million", f"{record.data['train']:,}" if record.data is not None and
                isinstance(record.data.get("train"), int) else "–", None),
        Setting("machine", "two GTX 580 of 3 GB", plain(record.environment.get("device", "–")), None,
                plain(record.environment.get("processor", ""))),
        Setting("time", "five to six days", lasting(spent) if spent else "–", None),
    ]  # fmt: skip
    if record.imported:
        training = [replace(row, here="–", same=None, why="imported: not known") for row in training]
    return [("The network", network), ("The training", training)]


def _equal(recipe: dict[str, dict[str, Any]], what: str, paper: str, name: str, value: float) -> Setting:
    here = _of(recipe, name)
    return Setting(what, paper, plain(here), isinstance(here, int | float) and abs(here - value) < 1e-12)


def _lrn(model: Variant) -> str:
    rows = [row for row in model.layers if isinstance(row, LRN)]
    if not rows:
        return "none"
    row = rows[0]
    alpha = {1e-4: "10⁻⁴"}.get(row.alpha, f"{row.alpha:g}") + ("/n" if row.divide else "")
    return f"n {row.size}, k {row.k:g}, α {alpha}, β {row.beta:g}"


def _init(record: Record) -> str:
    if _of(record.recipe, "init") == "he":
        return "normal √(2/n)"
    rows = [row for row in record.variant.layers if isinstance(row, Conv | Linear)]
    return ", ".join(dict.fromkeys(str(row.init) for row in rows))


def _biases(record: Record) -> str:
    if _of(record.recipe, "init") == "he":
        return "0"
    rows = [row for row in record.variant.layers if isinstance(row, Conv | Linear)]
    ones = ", ".join(row.name for row in rows if row.bias == 1.0)
    rest = ", ".join(dict.fromkeys(plain(row.bias) for row in rows if row.bias != 1.0))
    return f"1 in {ones}; else {rest}" if ones else rest


def paper(record: Record) -> Node:
    """All of it as tables."""
    made = results(record)
    tables = []
    for where, rows in made:
        numbers = rows is not made[-1][1]
        columns = [Column("figure"), Column("paper", number=numbers), Column("this run", number=numbers),
                   Column("comparable?"), Column("why not, or only in part", prose=True)]  # fmt: skip
        cells: list[list[Cell]] = [
            [row.what, row.paper, row.here, _mark(row.comparable), "; ".join(row.why)] for row in rows
        ]
        tables.append(table(where, columns, cells))
    settings_columns = [
        Column("setting"),
        Column("paper", prose=True),
        Column("this run", prose=True),
        Column("the same?"),
        Column("remark", prose=True),
    ]
    for where, rows in settings(record):
        cells = [
            [row.what, row.paper, row.here, "" if row.same is None else _mark("yes" if row.same else "no"), row.why]
            for row in rows
        ]
        tables.append(table(where, settings_columns, cells))
    return node(
        "div",
        note("Krizhevsky, Sutskever and Hinton, “ImageNet Classification with Deep Convolutional Neural Networks”, "
             "NIPS 2012. Errors are top-1 / top-5 in percent."),
        node("ul", [node("li", one) for one in reasons(record)], class_="note"),
        tables,
    )  # fmt: skip


def _mark(verdict: str) -> Node:
    """A verdict as a word with a sign: it is not told by its colour alone."""
    sign = {"yes": "●", "in part": "◐", "no": "○"}[verdict]
    return node("span", node("span", sign, aria_hidden="true"), " ", verdict, class_=f"verdict {verdict.split()[-1]}")
