"""What was measured is kept as it was said, and shown the same each time."""

import json
from pathlib import Path

import pytest

from tests.bench import script


@pytest.fixture(scope="module")
def record():
    return script("record")


@pytest.fixture
def root(tmp_path, record):
    (tmp_path / "docs").mkdir()
    (tmp_path / "bench").mkdir()
    (tmp_path / record.PAGE).write_text(f"before\n{record.BEGIN}old\n{record.END}after\n")
    return tmp_path


def document(*rows, device: str = "a processor"):
    machine = {"device": device, "threads": 2, "python": "3.11", "torch": "2.14", "torchvision": "0.29", "numpy": "2.4"}
    return {"machine": machine, "rows": list(rows)}


def row(what: str, who: str, *runs: float, ratio: float | None = 1.0, floor: float | None = None, unit: str = "s"):
    return {"what": what, "who": who, "unit": unit, "runs": list(runs), "median": sorted(runs)[len(runs) // 2],
            "spread": 0.25, "ratio": ratio, "floor": floor}  # fmt: skip


def keep(record, root: Path, made: dict, commit: str) -> None:
    path = root / "document.json"
    path.write_text(json.dumps(made))
    record.main(["--from", str(path), "--commit", commit], root)


def test_a_document_is_kept_and_shown(record, root):
    made = document(row("x", "alexnet", 2.0, 1.0, 4.0, floor=0.5), row("x", "peer, of 2", 6.0, ratio=3.0),
                    row("memory", "alexnet", 5e6, unit="bytes", ratio=None))  # fmt: skip
    keep(record, root, made, "abc")
    kept = record.read(root / record.RESULTS)
    assert [one["who"] for one in kept] == ["alexnet", "peer, of 2", "alexnet"]
    assert (kept[0]["machine"], kept[0]["commit"], kept[0]["runs"]) == ("a processor, 2 threads", "abc", "2.0 1.0 4.0")
    assert (kept[0]["floor"], kept[1]["floor"], kept[2]["ratio"]) == ("0.5", "", "")
    page = (root / record.PAGE).read_text()
    date = kept[0]["date"][:10]
    assert page.startswith("before\n<!-- results") and page.endswith("<!-- end of results -->\nafter\n")
    assert "old" not in page
    assert f"| x | alexnet | 2.00 s | 25 % | 1.00 | 25 % | 3 | abc, {date} |\n" in page
    assert f"| x | peer, of 2 | 6.00 s | 25 % | 3.00 |  | 1 | abc, {date} |\n" in page
    assert "| memory | alexnet | 5 MB |" in page and "python 3.11, torch 2.14, torchvision 0.29, numpy 2.4." in page
    drawn = (root / record.FIGURE).read_text()
    assert "x: alexnet" in drawn and "peer" not in drawn, "what has a floor is drawn"


def test_the_last_run_of_each_thing_is_shown_and_none_is_lost(record, root):
    results = [record.results_of(document(*rows, device=device), commit=commit, date=date) for date, commit, device, rows in (
        ("2026-01-01T00:00:00Z", "one", "a", [row("x", "alexnet", 1.0), row("x", "peer of 1", 2.0), row("y", "alexnet", 3.0)]),
        ("2026-01-02T00:00:00Z", "two", "a", [row("x", "alexnet", 4.0)]),
        ("2026-01-02T00:00:00Z", "two", "b", [row("x", "alexnet", 5.0)]),
    )]  # fmt: skip
    for some in results:
        record.append(root / record.RESULTS, some)
    kept = record.read(root / record.RESULTS)
    assert len(kept) == 5
    shown = [(one["machine"][0], one["what"], one["who"], float(one["median"])) for one in record.newest(kept)]
    assert shown == [("a", "y", "alexnet", 3.0), ("a", "x", "alexnet", 4.0), ("b", "x", "alexnet", 5.0)]


def test_drawn_twice_it_is_the_same(record, root):
    keep(record, root, document(row("x", "alexnet", 2.0, floor=0.5)), "abc")
    page, drawn = (root / record.PAGE).read_bytes(), (root / record.FIGURE).read_bytes()
    record.redraw(root)
    assert (root / record.PAGE).read_bytes() == page and (root / record.FIGURE).read_bytes() == drawn


def test_without_a_floor_nothing_is_drawn(record, root):
    keep(record, root, document(row("x", "alexnet", 2.0)), "abc")
    assert not (root / record.FIGURE).exists() and "![" not in (root / record.PAGE).read_text()


@pytest.mark.parametrize("text", ["none of them\n", "END BEGIN", "BEGIN BEGIN END"])
def test_a_page_without_its_two_marks_is_refused(record, root, text):
    text = text.replace("BEGIN", record.BEGIN).replace("END", record.END)
    (root / record.PAGE).write_text(text)
    with pytest.raises(SystemExit, match="wants one line <!-- results"):
        record.redraw(root)
    assert (root / record.PAGE).read_text() == text


@pytest.mark.parametrize("made", [{}, {"machine": {}, "rows": []}, {"machine": 3}, []])
def test_no_document_of_a_bench(record, root, made):
    with pytest.raises(SystemExit, match="no document of `alexnet bench --json`"):
        keep(record, root, made, "abc")
    assert not (root / record.RESULTS).exists()


def test_other_columns_are_not_written_over(record, root):
    (root / record.RESULTS).write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit, match="its columns are not date, commit"):
        keep(record, root, document(row("x", "alexnet", 2.0)), "abc")
    assert (root / record.RESULTS).read_text() == "a,b\n1,2\n"


def test_a_document_wants_its_commit(record, root, capsys):
    with pytest.raises(SystemExit):
        record.main(["--from", "x.json"], root)
    assert "--from and --commit belong together" in capsys.readouterr().err


def test_every_bench_is_run_and_kept(record, root, monkeypatch, capsys):
    ran = []

    def measured(what, data):
        ran.append((what, data))
        return document(row(what, "alexnet", 2.0))

    monkeypatch.setattr(record, "measured", measured)
    record.main([], root)
    assert "data" not in [what for what, _ in ran] and "`data` is left out" in capsys.readouterr().err
    record.main(["pictures"], root)
    assert ("data", Path("pictures")) in ran and {"lrn", "step", "startup", "scale"} <= {what for what, _ in ran}
    kept = record.read(root / record.RESULTS)
    assert len(kept) == len(ran) and all(one["commit"] for one in kept)


def test_the_page_here_has_its_marks(record):
    page = (record.ROOT / record.PAGE).read_text()
    assert page.count(record.BEGIN) == page.count(record.END) == 1
    shown = page.partition(record.BEGIN)[2].partition(record.END)[0]
    assert shown.strip() == record.table(record.read(record.ROOT / record.RESULTS)).strip()
