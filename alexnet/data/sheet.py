"""What `check` found as one page: text and small pictures, nothing else to load and nothing that runs."""

import base64
import io
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import BadImage
from .check import FAULTS, REMARKS, Report, pixels_of
from .samples import shown

MOST_SHOWN: Final = 24  # pictures of a kind, and groups of pictures
MOST_NAMED: Final = 200  # names below them
MOST_CLASSES: Final = 1000
SIDE: Final = 112
STYLE: Final = """body{font:15px/1.4 sans-serif;margin:2em auto;max-width:75em;padding:0 1em}
h2{border-top:1px solid #ccc;padding-top:.6em}.fault{color:#a00}td,th{padding:0 1em 0 0;text-align:right}
td:first-child,th:first-child{text-align:left}figure{display:inline-block;width:130px;margin:4px;vertical-align:top}
figcaption{font-size:11px;overflow-wrap:anywhere}img,.none{width:112px;height:112px;object-fit:contain;background:#eee}
.none{color:#888;display:flex;align-items:center;justify-content:center;font-size:11px}
.group{border:1px solid #ccc;margin:6px 0}li{overflow-wrap:anywhere}"""


def sheet(report: Report, title: str) -> str:
    """The page, HTML: the classes, each kind of problem with its first pictures, the groups of equal pictures.

    Pictures that it shows, MOST_SHOWN of a kind at most, are read again.
    """
    found = report.found()
    page = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f"<h1>{escape(title)}</h1><p>{len(report):,} pictures: {len(report.train):,} to train on, "
        f"{len(report) - len(report.train):,} held out, of which {report.leaked:,} are among those to train on.</p>",
        "<table><tr><th>found<th>number<th>",
    ]
    meaning = FAULTS | REMARKS
    for kind, count in found.items():
        mark = "fault" if kind in FAULTS else "remark"
        page.append(f"<tr><td class={mark}>{escape(kind)}<td>{count:,}<td>{mark}: {escape(meaning[kind])}")
    page.append("</table>")
    for kind, count in found.items():
        of_kind = [problem for problem in report.problems if problem.kind == kind]
        mark = "fault" if kind in FAULTS else "remark"
        page.append(f"<h2 class={mark}>{escape(kind)} ({count:,})</h2><p>{escape(meaning[kind])}</p>")
        pictures = [problem for problem in of_kind if problem.row >= 0]
        page += [_figure(report, one.row, one.detail) for one in pictures[:MOST_SHOWN]]
        named = [one for one in of_kind if one.row < 0] + pictures[MOST_SHOWN:]
        page += ["<ul>", *(f"<li>{escape(one.path)}: {escape(one.detail)}" for one in named[:MOST_NAMED]), "</ul>"]
        if len(named) > MOST_NAMED:
            page.append(f"<p>and {len(named) - MOST_NAMED:,} more</p>")
    for name, groups in (("the same bytes", report.duplicates), ("alike", report.near)):
        if groups:
            page.append(f"<h2>{name} ({len(groups):,} groups)</h2>")
            for rows in groups[:MOST_SHOWN]:
                more = f"<p>and {len(rows) - 6:,} more</p>" if len(rows) > 6 else ""
                page.append(f"<div class=group>{''.join(_figure(report, row, '') for row in rows[:6])}{more}</div>")
    if left_out := report.left_out():
        page.append("<h2>left out</h2>")
        for reason, (count, names) in left_out.items():
            page.append(f"<p>{count:,} {escape(reason)}: {escape(', '.join(names))}</p>")
    page.append("<h2>classes</h2><table><tr><th>class<th>to train on<th>held out")
    for key, n, v in list(zip(report.keys, *report.counts, strict=True))[:MOST_CLASSES]:
        page.append(f"<tr><td>{escape(shown(key))}<td>{n:,}<td>{v:,}")
    if len(report.keys) > MOST_CLASSES:
        page.append(f"<tr><td>and {len(report.keys) - MOST_CLASSES:,} more")
    return "\n".join([*page, "</table></html>\n"])


def _figure(report: Report, row: int, detail: str) -> str:
    """One picture with its name."""
    try:
        samples, own = report.at(row)
        small = f'<img alt="" src="data:image/jpeg;base64,{_small(pixels_of(samples, samples.read(own)))}">'
    except BadImage:
        small = "<div class=none>cannot be shown</div>"
    said = f"<br>{escape(detail)}" if detail else ""
    return f"<figure>{small}<figcaption>{escape(report.path(row))}{said}</figcaption></figure>"


def _small(image: NDArray[np.uint8]) -> str:
    """A picture uint8 (h, w, 3) as a JPEG of SIDE pixels at most, in base64."""
    small, stream = Image.fromarray(image), io.BytesIO()
    small.thumbnail((SIDE, SIDE))
    small.save(stream, "JPEG", quality=70)
    return base64.b64encode(stream.getvalue()).decode("ascii")
