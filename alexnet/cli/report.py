"""`alexnet report`."""

import json as json_format
from pathlib import Path

from ..errors import UsageError

MOST_PICTURES = 2000


def report(
    runs: list[str],
    /,
    *,
    out: Path | None = None,
    pictures: int = 400,
    json: bool = False,
) -> None:
    """A run as one HTML file to open, or several runs compared.

    alexnet report runs/flowers
    alexnet report runs/flowers runs/other --out both.html

    It loads nothing from anywhere: send it as it is. A training writes it too.

    Parameters:
        runs: RUN [RUN ...], run folders
        out: the .html to write; RUN/report.html, of several comparison.html
        pictures: how many are shown, 0 to 2000; the rest is named
        json: print one JSON document
    """
    from .. import files
    from ..look import report as looking
    from ..look.record import run_folder
    from . import console_for

    if not 0 <= pictures <= MOST_PICTURES:
        raise UsageError(f"--pictures {pictures}: must be 0 to {MOST_PICTURES}")
    if out is not None and out.suffix != ".html":  # it may be a file of another kind, which would be lost
        raise UsageError(f"--out {out}: expected a name that ends in .html")
    folders = [run_folder(where) for where in runs]
    path = out or (folders[0].report if len(folders) == 1 else Path("comparison.html"))
    page = looking.report(folders, pictures=pictures)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, page.content)
    except OSError as reason:
        raise UsageError(f"{path}: cannot be written ({reason.strerror})") from None
    if json:
        print(json_format.dumps({"report": str(path), "bytes": len(page.content), **page.said}))
        return
    console = console_for(False)
    for run in page.said["runs"]:
        for part, why in run["lacking"].items():
            console.print(f"{run['run']}: no {part}: {why}")
    for pair in page.said["pairs"]:
        console.print(
            f"{pair['runs'][0]} and {pair['runs'][1]}: only the first right {pair['only_first']}, only the second "
            f"{pair['only_second']}, p = {pair['p']:.2g} (McNemar)"
        )
    console.print(f"{path}: {len(page.content) / 1e6:.1f} MB, {page.said['pictures']} pictures; open it in a browser")
