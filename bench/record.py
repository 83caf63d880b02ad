"""What `alexnet bench` says, kept in bench/results.csv, and the table and figure of it in docs/.

    python bench/record.py [FOLDER]                          # run every bench here; `data` needs FOLDER's pictures
    python bench/record.py --from DOCUMENT --commit COMMIT   # keep a document of `bench --json` made elsewhere

Shown are, for each machine and each thing measured, the rows of its last run and of no other: ratios are of one run.
"""

import argparse
import csv
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from alexnet import files
from alexnet.cli.bench import What, readable

ROOT = Path(__file__).parents[1]
RESULTS, PAGE, FIGURE = "bench/results.csv", "docs/performance.md", "docs/floors.svg"
BEGIN, END = "<!-- results: bench/record.py writes what follows -->\n", "<!-- end of results -->\n"
COLUMNS = ("date", "commit", "machine", "versions", "what", "who", "unit", "median", "spread", "runs", "floor", "ratio")
VERSIONS = ("python", "torch", "torchvision", "numpy")
Result = dict[str, str]


def results_of(document: Any, *, commit: str, date: str) -> list[Result]:
    """The lines of results.csv that a document of `alexnet bench --json` makes."""
    try:
        machine = document["machine"]
        about = {
            "date": date,
            "commit": commit,
            "machine": f"{machine['device']}, {machine['threads']} threads",
            "versions": ", ".join(f"{name} {machine[name]}" for name in VERSIONS),
        }
        return [
            about | {key: "" if row[key] is None else str(row[key]) for key in COLUMNS[4:] if key != "runs"}
            | {"runs": " ".join(map(str, row["runs"]))}
            for row in document["rows"]
        ]  # fmt: skip
    except (KeyError, TypeError) as reason:
        sys.exit(f"no document of `alexnet bench --json`: {reason!r}")


def read(path: Path) -> list[Result]:
    """The lines of results.csv; none where there is no such file."""
    if not path.exists():
        return []
    lines = csv.DictReader(io.StringIO(path.read_text()), strict=True)
    if tuple(lines.fieldnames or ()) != COLUMNS:
        sys.exit(f"{path}: its columns are not {', '.join(COLUMNS)}")
    return list(lines)


def append(path: Path, results: Sequence[Result]) -> None:
    """Adds lines to results.csv."""
    out = io.StringIO()
    table = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows([*read(path), *results])
    files.write(path, out.getvalue())


def newest(results: Sequence[Result]) -> list[Result]:
    """Of each machine and each thing measured, the lines of its last run, in the order in which they came."""
    last: dict[tuple[str, str], str] = {}
    for one in results:
        key = one["machine"], one["what"]
        last[key] = max(last.get(key, ""), one["date"])
    return [one for one in results if one["date"] == last[one["machine"], one["what"]]]


def share(one: Result) -> float | None:
    """How much of the floor was reached: 1 is all that the machine's own best rate allows."""
    return float(one["floor"]) / float(one["median"]) if one["floor"] and float(one["median"]) else None


def table(results: Sequence[Result]) -> str:
    """The newest results for the page: a table a machine, and the figure where there is something to draw."""
    shown = newest(results)
    lines = [f"![Share of the machine's own best rate]({Path(FIGURE).name})", ""] if any(map(share, shown)) else []
    for machine in dict.fromkeys(one["machine"] for one in shown):
        lines += [f"### {machine}", "", "| what | who | median | spread | times ours | of the floor | runs | commit |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for one in shown:
            if one["machine"] == machine:
                reached, ratio = share(one), one["ratio"]
                cells = (
                    one["what"], one["who"], readable(float(one["median"]), one["unit"]),
                    f"{100 * float(one['spread']):.0f} %", f"{float(ratio):.2f}" if ratio else "",
                    "" if reached is None else f"{100 * reached:.0f} %", str(len(one["runs"].split())),
                    f"{one['commit']}, {one['date'][:10]}",
                )  # fmt: skip
                lines.append("| " + " | ".join(cells) + " |")
        said = dict.fromkeys(one["versions"] for one in shown if one["machine"] == machine)
        lines += ["", "; ".join(said) + ".", ""]
    return "\n".join(lines)


def draw(results: Sequence[Result], path: Path) -> None:
    """Bars of the share of the floor that ours and the peers reached, a panel a machine; the same bytes each time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = [one for one in newest(results) if share(one)]
    machines = list(dict.fromkeys(one["machine"] for one in drawn))
    if not drawn:
        return
    counts = [sum(one["machine"] == machine for one in drawn) for machine in machines]
    with pyplot.rc_context({"svg.hashsalt": "alexnet", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(
            len(machines), squeeze=False, figsize=(9, 0.28 * len(drawn) + 1.1 * len(machines)), layout="constrained",
            gridspec_kw={"height_ratios": counts},
        )  # fmt: skip
        for axis, machine in zip(axes[:, 0], machines, strict=True):
            mine = [one for one in drawn if one["machine"] == machine][::-1]
            colours = ["#3b6ea5" if one["who"] == "alexnet" else "#b8b8b8" for one in mine]
            axis.barh(range(len(mine)), [share(one) for one in mine], color=colours)
            axis.set_yticks(range(len(mine)), [f"{one['what']}: {one['who']}" for one in mine], fontsize=7)
            axis.set_xlim(0, 1)
            axis.set_title(machine, fontsize=9)
        axes[-1, 0].set_xlabel("share of the floor: least time by the machine's own best rate, over the median")
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    files.write(path, out.getvalue())


def redraw(root: Path) -> None:
    """Writes table and figure anew from results.csv."""
    results, page = read(root / RESULTS), root / PAGE
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        sys.exit(f"{page}: wants one line {BEGIN.strip()} and, behind it, one {END.strip()}")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    files.write(page, f"{before}{BEGIN}\n{table(results)}{END}{after}")
    draw(results, root / FIGURE)


def commit_here() -> str:
    """The commit that is measured, marked where the program differs from it."""
    git = ["git", "-C", str(ROOT)]
    short = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    changed = subprocess.run([*git, "status", "--porcelain", "alexnet"], capture_output=True, check=True).stdout
    return short.strip() + ("-changed" if changed else "")


def measured(what: str, data: Path | None) -> Any:
    """The document of one bench, run here."""
    given = [str(data)] if what == "data" else []
    command = [sys.executable, "-m", "alexnet", "bench", what, *given, "--peers", "--json"]
    print(" ".join(["alexnet", *command[3:]]), file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"alexnet bench {what}: ended with {done.returncode}; nothing of it is kept")
    return json.loads(done.stdout)


def main(arguments: Sequence[str], root: Path = ROOT) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="a folder of class folders; without it `data` is left out")
    parser.add_argument("--from", dest="document", type=Path, help="a document of `alexnet bench --json`, or -")
    parser.add_argument("--commit", help="what the document was made with")
    asked = parser.parse_args(arguments)
    if (asked.document is None) != (asked.commit is None) or (asked.document and asked.data):
        parser.error("--from and --commit belong together, and to no folder")
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if asked.document:
        text = sys.stdin.read() if str(asked.document) == "-" else asked.document.read_text()
        append(root / RESULTS, results_of(json.loads(text), commit=asked.commit, date=date))
    else:
        commit = commit_here()
        for what in get_args(What):
            if what == "data" and asked.data is None:
                print("no folder is named: `data` is left out", file=sys.stderr)
                continue
            append(root / RESULTS, results_of(measured(what, asked.data), commit=commit, date=date))
    redraw(root)


if __name__ == "__main__":
    main(sys.argv[1:])
