"""HTML as a tree: what is text stays text, whatever it holds. One document out of a tree, its style and its script."""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any, Final

Attribute = str | int | float | bool | None
VOID: Final = ("br", "img", "input", "meta")  # elements that have no end
RAW: Final = ("script", "style")  # elements whose text is not escaped; what they may hold is checked


class Node:
    """An element: its tag, its attributes, its children, which are elements and texts."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag = tag
        self.attributes = attributes
        self.children: list[Node | str] = []

    def add(self, *children: "Child") -> None:
        """Puts children behind the others, in their order; None is no child."""
        for child in children:
            if isinstance(child, Node | str):
                self.children.append(child)
            elif child is not None:
                self.add(*child)

    def write(self, out: list[str]) -> None:
        """Adds it to `out` as HTML: every attribute and every text is escaped."""
        out.append(f"<{self.tag}")
        out += [f' {name}="{escape(value)}"' for name, value in self.attributes.items()]
        out.append(">")
        if self.tag in VOID:
            return
        for child in self.children:
            if isinstance(child, Node):
                child.write(out)
            elif self.tag in RAW:
                if "</" in child.lower() or "<!--" in child:
                    raise ValueError(f"a {self.tag} that holds its own end")
                out.append(child)
            else:
                out.append(escape(child, quote=False))
        out.append(f"</{self.tag}>")


Child = Node | str | None | Iterable[Any]  # the latter of children again


def node(tag: str, *children: Child, **attributes: Attribute) -> Node:
    """An element with its children.

    `class_` is class, `aria_label` is aria-label; None and False leave an attribute out.
    """
    made = Node(tag, {
        name.rstrip("_").replace("_", "-"): "" if value is True else _text(value)
        for name, value in attributes.items()
        if value is not None and value is not False
    })  # fmt: skip
    made.add(*children)
    return made


def _text(value: str | float) -> str:
    """A number with no more digits than a drawing needs."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def percent(share: float | None, digits: int = 1) -> str:
    """0.7721 -> 77.2 %; a dash for None."""
    return "–" if share is None else f"{100 * share:.{digits}f}\u00a0%"


class Column:
    """A column of a table: its head, and whether it holds numbers, or sentences."""

    def __init__(self, head: str, *, number: bool = False, prose: bool = False) -> None:
        self.head = head
        self.kind = "number" if number else "prose" if prose else None


Cell = Child | tuple[Child, float | None]  # what is shown, and what it sorts by


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, sorts: bool = False,
          find: str | None = None) -> Node:  # fmt: skip
    """A table whose first column names its rows. `sorts`: by a click on a head. `find`: what a field above it seeks.

    It scrolls sideways by itself where the page is too narrow.
    """
    heads = []
    for column in columns:
        words: Child = node("button", column.head, type="button") if sorts else column.head
        heads.append(node("th", words, scope="col", class_=column.kind,
                          aria_sort="none" if sorts else None))  # fmt: skip
    body = node("tbody")
    for row in rows:
        line = node("tr")
        for at, (column, cell) in enumerate(zip(columns, row, strict=True)):
            shown, key = cell if isinstance(cell, tuple) else (cell, None)
            line.add(node("td" if at else "th", shown, scope=None if at else "row",
                             class_=column.kind,
                             data_key=None if key is None else f"{key:.9g}"))  # fmt: skip
        body.add(line)
    made = node("table", node("caption", caption), node("thead", node("tr", heads)), body,
                class_="sorts" if sorts else None)  # fmt: skip
    scrolls = node("div", made, class_="scroll", tabindex=0, role="region", aria_label=caption)
    if find is None:
        return scrolls
    return node("div", node("label", find, " ", node("input", type="search", autocomplete="off"), class_="find"),
                scrolls, class_="findable")  # fmt: skip


def behind(summary: str, *children: Child) -> Node:
    """What is there on demand."""
    return node("details", node("summary", summary), *children)


def lacking(words: str) -> Node:
    """Why a part, or a piece of one, is not there."""
    return node("p", f"Not shown: {words}.", class_="lacking")


def note(*children: Child) -> Node:
    """A remark in small letters."""
    return node("p", *children, class_="note")


def png(content: bytes) -> str:
    """A PNG file as an image's address."""
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


def document(title: str, body: Iterable[Node], data: Any) -> bytes:
    """The whole file, UTF-8: nothing in it is loaded from elsewhere, and no other script or style runs in it.

    `data` is what the script reads, as JSON.
    """
    style, script = (files("alexnet.look").joinpath(name).read_text("utf-8") for name in ("report.css", "report.js"))
    allowed = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # in a script, `<` would end it or begin a comment; json escapes U+2028 itself
    kept = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node("meta", **{"http-equiv": "Content-Security-Policy"}, content=allowed),
        node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        node("meta", name="color-scheme", content="light dark"),
        node("meta", name="referrer", content="no-referrer"),
        node("title", title),
        node("style", style),
    )
    whole = node("html", head, node("body", body, node("script", kept, type="application/json", id="page-data"),
                                    node("script", script)), lang="en")  # fmt: skip
    out = ["<!doctype html>\n"]
    whole.write(out)
    return "".join(out).encode("utf-8", "backslashreplace")  # a byte of a path that is no text


def _hash(text: str) -> str:
    """What a content security policy knows an inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
