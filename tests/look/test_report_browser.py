"""The report in a browser: nothing logged, nothing fetched, everything by keyboard, and what axe-core finds."""

import csv
import io
import json
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.data.sources import open_data
from alexnet.look import report
from alexnet.weights.run import Run
from tests.look.browser import Page, browser, program
from tests.look.folders import EVIL, answers, strange_pictures, strange_run, write_run

pytestmark = pytest.mark.slow

AXE = Path(__file__).parent / "axe" / "node_modules" / "axe-core" / "axe.min.js"
TABS = ("comparison", "overview", "mistakes", "classes", "data", "run", "paper")
PHONE, DESK = (360, 740), (1280, 900)
# what a person can act on, and has before their eyes
REACHABLE = """[...document.querySelectorAll('a[href], button, input, summary, [tabindex="0"]')].filter((one) =>
  one.checkVisibility({visibilityProperty: true}) && one.tabIndex >= 0 && !one.closest('dialog:not([open])'))"""


def wanted(there: bool, what: str) -> None:
    if not there and os.environ.get("CI") == "true":
        pytest.fail(f"no {what}: with CI=true nothing is skipped")
    if not there:
        pytest.skip(f"no {what}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Run, Run]:
    pictures, folder = strange_pictures(tmp_path_factory.mktemp("pictures")), tmp_path_factory.mktemp("runs")
    return strange_run(folder / "first", pictures), write_run(folder / EVIL.replace("/", "|"), pictures, seed=1)


@pytest.fixture(scope="module")
def single(runs, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(report.report(runs[:1]).content)
    return path


@pytest.fixture(scope="module")
def double(runs, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "comparison.html"
    path.write_bytes(report.report(runs).content)
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    wanted(program() is not None, "chromium")
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def tabs(path: Path) -> tuple[str, ...]:
    return TABS if path.name == "comparison.html" else TABS[1:]


@pytest.mark.parametrize("which", ["single", "double"])
def test_nothing_is_logged_and_nothing_fetched(which, page, request):
    path = request.getfixturevalue(which)
    page.size(*DESK)
    page.open(path)
    for tab in tabs(path):
        page.js(f"document.getElementById('tab-{tab}').click()")
        assert page.js(f"document.getElementById('panel-{tab}').checkVisibility()")
        assert page.js("[...document.querySelectorAll('.panel')].filter((one) => one.checkVisibility()).length") == 1
        assert page.js("[...document.querySelectorAll('.panel:not([hidden]) img')].every((one) => one.alt && one.src)")
        page.js("Promise.all([...document.querySelectorAll('.panel:not([hidden]) img')].map((one) => one.decode()))")
    for button in range(page.js("document.querySelectorAll('button').length")):
        page.js(f"document.querySelectorAll('button')[{button}].click()")
        page.js("document.querySelector('dialog').close()")
    assert page.complaints() == [] and page.asked_for() == []
    assert page.js("document.images.length") > 50


def test_what_is_logged_or_fetched_is_seen(page, single, tmp_path):
    page.open(single)
    page.js("fetch('http://127.0.0.1:9/').catch(() => 0)")
    assert any("Content Security Policy" in one for one in page.complaints())
    page.js("console.error('x')")
    assert any('"x"' in one for one in page.complaints())
    (tmp_path / "x.html").write_text("<img src='y.png'><script>setTimeout(() => { throw 1 })</script>")
    page.open(tmp_path / "x.html")
    time.sleep(0.2)
    assert page.asked_for() == [f"file://{tmp_path}/y.png"] and page.complaints()


def test_names_that_are_html_stay_text(page, double):
    page.open(double)
    for tab in TABS:
        page.js(f"document.getElementById('tab-{tab}').click()")
    assert page.js("document.scripts.length") == 2
    assert page.js("[...document.images].every((one) => one.src.startsWith('data:image/'))")
    text = page.js("document.body.textContent")
    assert text.count(EVIL) > 10 and text.count("<img src=x onerror=alert(1)>") > 10
    assert page.js("document.querySelectorAll('[onerror]').length") == 0


def test_a_cell_opens_its_pictures_by_mouse_and_by_keyboard(page, single):
    page.size(*DESK)
    page.open(single, tab="#mistakes")
    galleries = json.loads(page.js("JSON.stringify(data.galleries)"))
    assert len(galleries) == page.js("document.querySelectorAll('.matrix button').length") > 3
    for key, gallery in galleries.items():
        page.js(f"document.querySelector('[data-gallery=\"{key}\"]').focus()")
        page.key("Enter")
        assert page.js("document.querySelector('dialog').open"), "Enter opens no pictures"
        assert page.js("document.querySelector('dialog h2').textContent") == gallery["title"]
        assert page.js("document.querySelectorAll('dialog li').length") == len(gallery["items"])
        page.js("Promise.all([...document.querySelectorAll('dialog img')].map((one) => one.decode()))")
        assert page.js("document.querySelectorAll('dialog img').length") == len(gallery["items"])
        shown = page.js("[...document.querySelectorAll('dialog li p:last-child')].map((one) => one.textContent)")
        assert shown == [caption for _, caption in gallery["items"]]
        page.key("Escape")
        assert not page.js("document.querySelector('dialog').open")
        assert page.js("document.activeElement.dataset.gallery") == key, "the focus does not come back"
    x, y = page.js("(() => { const box = document.querySelector('.matrix button').getBoundingClientRect();"
                   "return [box.x + 5, box.y + 5]; })()")  # fmt: skip
    for kind in ("mousePressed", "mouseReleased"):
        page.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    assert page.js("document.querySelector('dialog').open")
    page.js("document.querySelector('dialog button').click()")
    assert not page.js("document.querySelector('dialog').open")


@pytest.mark.parametrize("which", ["single", "double"])
def test_every_head_sorts_both_ways(which, page, request):
    page.open(request.getfixturevalue(which))
    heads = page.js("document.querySelectorAll('table.sorts th button').length")
    assert heads > 10
    for at in range(heads):
        ways = []
        for _ in range(2):
            found = page.js(f"""(() => {{
              const button = document.querySelectorAll('table.sorts th button')[{at}], head = button.parentElement;
              button.click();
              const cells = [...head.closest('table').tBodies[0].rows].map((row) => row.cells[head.cellIndex]);
              return {{sort: head.getAttribute('aria-sort'),
                       others: [...head.parentElement.children].filter((one) => one.ariaSort !== 'none').length,
                       keys: cells.map((one) => one.dataset.key === undefined ? one.textContent : Number(one.dataset.key))}};
            }})()""")
            assert found["others"] == 1
            ways.append((found["sort"], found["keys"]))
        assert {way for way, _ in ways} == {"ascending", "descending"}
        for way, keys in ways:
            if all(isinstance(key, int | float) for key in keys):
                assert keys == sorted(keys, reverse=way == "descending")
        assert sorted(map(str, ways[0][1])) == sorted(map(str, ways[1][1]))
        if len(set(map(str, ways[0][1]))) > 1:
            assert ways[0][1] != ways[1][1], "the same order both ways"


def test_a_class_is_found(page, tmp_path):
    pictures = strange_pictures(tmp_path / "pictures")
    for label in range(30):
        (pictures / f"more{label}").mkdir()
        for name in ("000.png", "002.png", "004.png"):
            (pictures / f"more{label}" / name).write_bytes((pictures / "class0" / "002.png").read_bytes())
    path = tmp_path / "report.html"
    path.write_bytes(report.report([write_run(tmp_path / "run", pictures)]).content)
    page.open(path, tab="#classes")
    page.js("(() => { const field = document.querySelector('#panel-classes input'); field.value = 'MORE2';"
            "field.dispatchEvent(new Event('input')); })()")  # fmt: skip
    rows = page.js("[...document.querySelectorAll('#panel-classes tbody tr')].map((one) =>"
                   "[one.hidden, one.cells[0].textContent, one.textContent])")  # fmt: skip
    assert all(hidden == ("more2" not in text) for hidden, _, text in rows)
    seen = [name for hidden, name, _ in rows if not hidden]
    assert {"more2", *(f"more2{k}" for k in range(10))} <= set(seen) and len(seen) < len(rows) == 33
    assert page.js("document.querySelector('#panel-classes output').textContent") == f"{len(seen)} of 33"


@pytest.mark.parametrize("which", ["single", "double"])
def test_the_keyboard_reaches_everything_and_is_seen(which, page, request):
    path = request.getfixturevalue(which)
    page.size(*DESK)
    for tab in tabs(path):
        page.open(path, tab=f"#{tab}")
        there = page.js(f"(window.reachable = {REACHABLE}).length")
        reached: set[int] = set()
        for _ in range(there + 5):
            page.key("Tab")
            at, outline = page.js("[window.reachable.indexOf(document.activeElement),"
                                  "parseFloat(getComputedStyle(document.activeElement).outlineWidth)]")  # fmt: skip
            if at >= 0:
                reached.add(at)
                assert outline >= 2, page.js("document.activeElement.outerHTML.slice(0, 200)")
        missed = [page.js(f"window.reachable[{at}].outerHTML.slice(0, 200)") for at in set(range(there)) - reached]
        assert missed == [], tab
    page.js("document.querySelector('.skip').click()")
    assert page.js("document.getElementById('panel-paper').checkVisibility()"), "the way to the content leads elsewhere"
    page.open(path)
    page.js("document.querySelector('nav a').focus()")
    for key, expected in (("ArrowRight", 1), ("End", -1), ("ArrowRight", 0), ("ArrowLeft", -1), ("Home", 0)):
        page.key(key)
        name = tabs(path)[expected]
        assert page.js("document.activeElement.id") == f"tab-{name}" and page.js("location.hash") == f"#{name}"
        assert page.js(f"document.getElementById('panel-{name}').checkVisibility()")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("which", ["single", "double"])
def test_axe_finds_nothing_serious(which, dark, page, request):
    wanted(AXE.exists(), "axe-core: npm ci --prefix tests/look/axe")
    path = request.getfixturevalue(which)
    for size in (PHONE, DESK):
        page.size(*size, dark=dark)
        page.open(path)
        page.js(AXE.read_text() + "; 0")
        for tab in tabs(path):
            page.js(f"document.getElementById('tab-{tab}').click();"
                    "document.querySelectorAll('details').forEach((one) => { one.open = true; })")  # fmt: skip
            assert axe(page) == [], (tab, size)
        page.js("document.querySelector('[data-gallery]').click()")
        assert axe(page) == [], ("dialog", size)


def axe(page: Page) -> list[str]:
    """The serious and critical violations of what is to be seen, each with its first element."""
    found, passed = page.js(
        "axe.run().then((found) => [found.violations.filter((one) => ['serious', 'critical'].includes(one.impact))"
        ".map((one) => [one.id, one.nodes[0].html, one.nodes[0].failureSummary]), found.passes.length])"
    )
    assert passed > 10
    return [" ".join(one) for one in found]


def test_axe_sees_what_is_wrong(page, tmp_path):
    wanted(AXE.exists(), "axe-core: npm ci --prefix tests/look/axe")
    (tmp_path / "x.html").write_text(
        "<!doctype html><html lang=en><title>x</title><h1>x</h1><p style='color:#999;background:#fff'>pale"
        "<img src='data:,'><button></button>" + "<p>more</p>" * 20
    )
    page.open(tmp_path / "x.html")
    page.js(AXE.read_text() + "; 0")
    assert {one.split()[0] for one in axe(page)} >= {"color-contrast", "image-alt", "button-name"}


@pytest.mark.parametrize("which", ["single", "double"])
def test_no_part_is_wider_than_a_telephone(which, page, request):
    path = request.getfixturevalue(which)
    page.size(*PHONE)
    for tab in tabs(path):
        page.open(path, tab=f"#{tab}")
        assert page.js("document.documentElement.scrollWidth") <= PHONE[0], tab


def test_the_csv_that_is_saved_computes_nothing(page, single, tmp_path):
    page.ask("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.open(single, tab="#mistakes")
    page.js("document.querySelector('[data-save]').click()")
    path = tmp_path / "label-errors.csv"
    for _ in range(100):
        if path.exists() and path.stat().st_size:
            break
        time.sleep(0.1)
    rows = list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))
    given = json.loads(page.js("JSON.stringify(data.saves['labels-0'])"))
    assert len(rows) == len(given) > 3 and {len(row) for row in rows} == {5}
    assert rows == [[f"'{one}" if one.startswith("=") else one for one in row] for row in given]
    assert any("'=1+1" in row for row in rows), "no such name is among them"
    escaped = page.js("""['=a', '+a', '-a', '@a', '\\ta', '\\ra', 'a=', 'a"b', 'a,b', 'a\\nb'].map(cell)""")
    assert escaped == ["'=a", "'+a", "'-a", "'@a", "'\ta", '"\'\ra"', "a=", '"a""b"', '"a,b"', '"a\nb"']


def test_fifty_thousand_pictures_of_a_thousand_classes(page, tmp_path, capsys):
    """As many as ImageNet's: 400 of them are shown, and the file is small enough to send. Prints how long it takes."""
    draw = np.random.default_rng(0)
    kinds = []
    for _ in range(8):
        stream = io.BytesIO()
        coarse = draw.integers(0, 255, (32, 32, 3), np.uint8)  # as much detail as a photograph has
        Image.fromarray(coarse).resize((160, 128), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=75)
        kinds.append(stream.getvalue())
    archive = tmp_path / "pictures.tar"
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        for part, each in (("train", 1), ("val", 50)):
            for label in range(1000):
                for n in range(each):
                    content = kinds[(label + n) % len(kinds)]
                    member = tarfile.TarInfo(
                        f"{part}/n{10_000_000 + label}/ILSVRC2012_{part}_{50 * label + n:08d}.JPEG"
                    )
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    data = open_data(str(archive))
    run = write_run(tmp_path / "run", archive, data=data, said=answers(data, seed=0, sure=3.0))
    begin = time.monotonic()
    made = report.report([run])
    seconds = time.monotonic() - begin
    path = tmp_path / "report.html"
    path.write_bytes(made.content)
    page.size(*DESK)
    opened = page.open(path)
    painted = page.js("performance.timing.loadEventEnd - performance.timing.navigationStart") / 1000
    with capsys.disabled():
        print(f"\n50,000 pictures, 1,000 classes: {len(made.content) / 1e6:.1f} MB, written in {seconds:.1f} s, "
              f"opened in {opened:.2f} s (load event after {painted:.2f} s)")  # fmt: skip
    assert len(made.content) < 15_000_000 and made.said["runs"][0]["count"] == 50_000
    assert made.said["pictures"] == report.PICTURES
    for tab in TABS[1:]:
        page.js(f"document.getElementById('tab-{tab}').click()")
    page.js("document.querySelector('[data-gallery]').click()")
    assert page.js("document.querySelectorAll('dialog img').length") > 0
    assert page.complaints() == [] and page.asked_for() == []
