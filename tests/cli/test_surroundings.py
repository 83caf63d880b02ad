"""What surrounds a command: names of any bytes, pipes that close, streams that are not there, terminals, locales, disks."""

import contextlib
import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet.cli import main
from alexnet.data.sources import open_data
from tests.pictures import encoded, picture, write_folder

ROOT = Path(__file__).parent.parent.parent
# a locale that knows ASCII only, a terminal that cannot draw, a build server's wish for colours
POOR = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict", "TERM": "dumb",
        "FORCE_COLOR": "1"}  # fmt: skip
NAMES = (
    b"caf\xe9.jpg",
    b"new\nline.jpg",
    b"\x1b[31mred\x1b[2J.png",
    b"a" * 251 + b".jpg",
    "\u05e9\u05dc\u05d5\u05dd \u202egpj.jpg".encode(),
    "\U0001f337.png".encode(),
    b"-rf.jpg",
    "\u00e9.jpg".encode(),
    "e\u0301.jpg".encode(),
    b"CON.jpg",
    b"back\\slash\\x41.jpg",
    b" '$(x)\"&.jpg",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """Two classes of pictures with names of all kinds, in a folder whose own name is no text either."""
    root = Path(os.fsdecode(os.fsencode(tmp_path_factory.mktemp("odd")) + b"/d\xe9\n\x1b[1m")) / "set"
    for k, label in enumerate(("a", "b")):
        (root / label).mkdir(parents=True)
        for i, name in enumerate(NAMES):
            kind = "PNG" if name.endswith(b"png") else "JPEG"
            (root / label / os.fsdecode(name)).write_bytes(encoded(picture(80 + i, 90 + 5 * k), kind))
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures"), classes=2, each=12)


def environment(cache: Path, **more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "ALEXNET_DEBUG")}
    return own | {"ALEXNET_CACHE": str(cache), "OMP_NUM_THREADS": "1"} | more


def trained(data: Path, run: Path, *more: object, steps: int = 2) -> list[str]:
    asked = ["train", data, "--variant", "tiny", "--kernels", "plain", "--run", run, "--max-steps", steps, "--batch-size", 4,
             "--workers", 1, "--precision", "fp32", *more]  # fmt: skip
    return [str(one) for one in asked]


def said(tokens: list[str], cache: Path, **more: str) -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "alexnet", *tokens], capture_output=True, check=False, cwd=ROOT, env=environment(cache, **more),
        timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def run(odd, cache, tmp_path_factory) -> Path:
    """A run on the odd names, begun and ended in the poor surroundings."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    code, out, err = said(trained(odd, folder, "--json"), cache, **POOR)
    assert code == 0 and b"Traceback" not in err, err
    assert os.fsencode(json.loads(out)["run"]) == os.fsencode(folder)
    assert b"\x1b" not in err and all(byte < 128 for byte in err)
    assert open_data(json.loads((folder / "data.json").read_bytes())["source"]).train.root == odd
    return folder


def bytes_of(key: str) -> bytes:
    """The bytes of a name from what stands in JSON for it (docs/data.md)."""
    return os.fsencode(
        re.sub(r"\\(?:x..|u....|U........|[\\nrt])", lambda m: m[0].encode().decode("unicode_escape"), key)
    )


@pytest.mark.parametrize("poor", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["ascii", "utf-8"])
def test_any_file_name_is_predicted_and_comes_back(run, odd, cache, poor):
    code, out, err = said(["predict", str(run), str(odd), "--json"], cache, **(POOR if poor else {}))
    assert code == 0 and not err, err
    found = json.loads(out)
    assert all(len(one["predictions"]) == 2 for one in found)
    there = {os.fsencode(odd / label) + b"/" + name for label in "ab" for name in NAMES}
    assert {bytes_of(one["path"]) for one in found} == there and len(found) == len(there)


@pytest.mark.parametrize("form", [(), pytest.param(("--csv",), marks=pytest.mark.slow)], ids=["bars", "csv"])
def test_any_file_name_is_printed(run, odd, cache, form):
    code, out, err = said(["predict", str(run), str(odd), *form], cache, **POOR)
    assert code == 0 and not err, err
    assert all(byte < 128 for byte in out) and b"\x1b" not in out
    if form:
        rows = list(csv.reader(io.StringIO(out.decode())))
        assert len(rows) == 1 + 2 * 2 * len(NAMES)
        assert {bytes_of(row[0]).rpartition(b"/")[2] for row in rows[1:]} == set(NAMES)
    else:
        assert b"#" in out and len(out.splitlines()) == 3 * 2 * len(NAMES)


@pytest.mark.slow
def test_any_file_name_is_judged_and_measured(run, odd, cache):
    code, out, err = said(["eval", str(run), "--json"], cache, **POOR)
    assert code == 0 and b"Traceback" not in err and json.loads(out)["count"] >= 2, err
    code, out, err = said(["data", "stats", str(odd), "--variant", "tiny"], cache, **POOR)
    assert code == 0 and not err and b"\x1b" not in out, err


def test_bad_pictures_of_any_name_are_named(run, odd, cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ALEXNET_CACHE", str(cache))
    for name in NAMES:
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / os.fsdecode(name)).write_bytes(b"no picture at all")
        with pytest.raises(SystemExit) as caught:
            main(["predict", str(run), f"{tmp_path}/a/{os.fsdecode(name)}"])
        err = capsys.readouterr().err
        assert caught.value.code == 3 and err.count("\n") == 1 and "\x1b" not in err
        path = err.removeprefix("alexnet: ").rpartition(": not a picture")[0]
        assert bytes_of(path) == os.fsencode(tmp_path) + b"/a/" + name


def test_a_name_in_an_error_moves_no_cursor(cache, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_CACHE", str(cache))
    for tokens in (
        ["predict", "tiny", "\x1b[2J.jpg"],
        ["eval", "\x1b[2J"],
        ["train", str(tmp_path), "--recipe", "\x1b[2J"],
    ):
        with pytest.raises(SystemExit):
            main(tokens)
        err = capsys.readouterr().err
        assert "\\x1b[2J" in err and "\x1b" not in err


# Streams. A verb of each kind on every change, the others in the slow tier: what each is run with, and where the line that a person wants is found.


SLOW = pytest.mark.slow
VERBS = pytest.mark.parametrize(
    "verb", ["info", "train", *(pytest.param(one, marks=SLOW) for one in ("predict", "eval", "stats"))]
)


def verbs(run: Path, pictures: Path, new: Path) -> dict[str, list[str]]:
    return {
        "info": ["info", "tiny"],
        "predict": ["predict", str(run), str(pictures)],
        "eval": ["eval", str(run), str(pictures)],
        "stats": ["data", "stats", str(pictures), "--variant", "tiny"],
        "train": trained(pictures, new),
    }


@pytest.fixture(scope="module")
def plain_run(pictures, cache, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    code, _, err = said(trained(pictures, folder), cache)
    assert code == 0, err
    return folder


@VERBS
def test_streams_that_are_not_there(plain_run, pictures, cache, tmp_path, verb):
    """No stdin, stdout or stderr at all: the files that are opened get their numbers, and nothing is printed into them."""
    tokens = verbs(plain_run, pictures, tmp_path / "new")[verb]
    command = 'exec "$@" <&- >&- 2>&-'
    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-m", "alexnet", *tokens], check=False, cwd=ROOT,
        env=environment(cache), timeout=120,
    )  # fmt: skip
    assert done.returncode == 0
    if verb == "train":
        assert (tmp_path / "new" / "last").read_text().startswith("step-00000002")
        for line in (tmp_path / "new" / "metrics.jsonl").read_text().splitlines():
            json.loads(line)


@VERBS
def test_readers_that_have_gone(plain_run, pictures, cache, tmp_path, verb):
    """stdout and stderr are pipes that nobody reads: the work is done, and its exit code is the right one."""
    tokens = verbs(plain_run, pictures, tmp_path / "new")[verb]
    ends = [os.pipe() for _ in range(2)]
    for read, _ in ends:
        os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "alexnet", *tokens], stdin=subprocess.DEVNULL, stdout=ends[0][1], stderr=ends[1][1],
            check=False, cwd=ROOT, env=environment(cache), timeout=120,
        )  # fmt: skip
    finally:
        for _, write in ends:
            os.close(write)
    assert done.returncode == 0
    if verb == "train":
        assert (tmp_path / "new" / "last").read_text().startswith("step-00000002")


@pytest.mark.parametrize(("tokens", "code"), [(["train", "no/such/folder"], 3), (["info", "no such"], 2)])
def test_a_mistake_keeps_its_exit_code_where_nobody_hears_of_it(cache, tokens, code):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "alexnet", *tokens], stdout=write, stderr=write, check=False, cwd=ROOT,
        env=environment(cache), timeout=60,
    )  # fmt: skip
    os.close(write)
    assert done.returncode == code


def on_a_terminal(tokens: list[str], cache: Path, **more: str) -> tuple[int, bytes]:
    """Exit code, and what a command draws on a terminal of its own."""
    main_end, its_end = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "alexnet", *tokens], stdin=its_end, stdout=its_end, stderr=its_end, cwd=ROOT,
        env=environment(cache, **more),
    ) as child:  # fmt: skip
        os.close(its_end)
        drawn = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while part := os.read(main_end, 1 << 16):
                drawn += part
    os.close(main_end)
    return child.returncode, drawn


@SLOW
def test_bars_are_drawn_on_a_terminal_that_can_and_nowhere_else(pictures, cache, tmp_path):
    code, drawn = on_a_terminal(trained(pictures, tmp_path / "drawn"), cache, TERM="xterm", COLUMNS="120")
    assert code == 0 and b"\x1b[" in drawn and b"2/2" in drawn
    code, drawn = on_a_terminal(trained(pictures, tmp_path / "dumb"), cache, TERM="dumb", COLUMNS="120")
    assert code == 0 and b"\x1b" not in drawn and b"step 2/2" in drawn
    code, out, err = said(trained(pictures, tmp_path / "log"), cache, FORCE_COLOR="1", TERM="xterm")
    assert code == 0 and b"\x1b" not in out + err and b"\r" not in out and b"step 2/2" in out


@SLOW
def test_a_terminal_that_is_closed_ends_no_training(pictures, cache, tmp_path):
    """As under nohup, or in a session that has lost its line: what is written to it is an error of the system's."""
    main_end, its_end = pty.openpty()
    tokens = trained(pictures, tmp_path / "run", steps=6)
    with subprocess.Popen(
        [sys.executable, "-m", "alexnet", *tokens], stdin=its_end, stdout=its_end, stderr=its_end, cwd=ROOT,
        env=environment(cache), start_new_session=True,
    ) as child:  # fmt: skip
        os.close(its_end)
        os.read(main_end, 1)
        os.close(main_end)
        child.wait(120)
    assert child.returncode == 0 and (tmp_path / "run" / "last").read_text().startswith("step-00000006")


@SLOW
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_under_the_output(pictures, plain_run, cache, tmp_path):
    with Path("/dev/full").open("wb") as full:
        for tokens, code, words in (
            (["info", "tiny", "--json"], 1, "No space left on device"),
            (["predict", str(plain_run), str(pictures), "--json"], 1, "No space left on device"),
            (trained(pictures, tmp_path / "run"), 0, "No space left on device; nothing more is printed"),
        ):
            done = subprocess.run(
                [sys.executable, "-m", "alexnet", *tokens], stdout=full, stderr=subprocess.PIPE, text=True, check=False,
                cwd=ROOT, env=environment(cache), timeout=120,
            )  # fmt: skip
            assert done.returncode == code and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert (tmp_path / "run" / "last").exists()


# A decoding thread that fails or hangs, from the outside


FAULTY = """
import sys, time
from functools import partial
from alexnet.cli import main
from alexnet.data.sources import open_data
from alexnet.data import loader, threads
from alexnet.training import loop

fault, name, *tokens = sys.argv[1:]
loop.batches = partial(loader.batches, patience=0.5)
threads.FAREWELL = 0.3
ordinary = loader.decoded_form
begin = time.monotonic()

def decoded_form(data, path, shaping):
    if data == named and time.monotonic() > begin:
        if fault == "hangs":
            time.sleep(600)
        raise MemoryError if fault == "memory" else AttributeError("no such thing")
    return ordinary(data, path, shaping)

named = open(name, "rb").read()
loader.decoded_form = decoded_form
main(tokens)
"""


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        pytest.param(
            "raises", 3, "decoding it failed, which is a fault of this program (AttributeError: no such thing)",
            marks=SLOW,
        ),
        pytest.param("memory", 1, "out of memory while it was decoded", marks=SLOW),
        ("hangs", 3, "reading and decoding it has taken 0.5 seconds and goes on"),
    ],
)  # fmt: skip
def test_a_decoding_thread_that_fails_or_hangs_ends_the_run(pictures, cache, tmp_path, fault, code, words):
    name = pictures / "class1" / "006.png"
    tokens = trained(pictures, tmp_path / "run", "--val-fraction", 0, steps=30)
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", FAULTY, fault, str(name), *tokens], capture_output=True, text=True, check=False, cwd=ROOT,
        env=environment(cache), timeout=100,
    )  # fmt: skip
    assert done.returncode == code and time.monotonic() - begin < 60
    assert done.stderr == f"alexnet: {name}: {words}{done.stderr[len(f'alexnet: {name}: {words}') :]}"
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr + done.stdout
