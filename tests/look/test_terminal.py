"""Terminals, played by the other end of a pseudo-terminal: who is drawn on, how, and that nobody gets garbage."""

import base64
import io
import os
import pty
import re
import select
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from unicodedata import east_asian_width

import numpy as np
import pytest
from PIL import Image

from alexnet.cli import main
from alexnet.errors import UsageError
from alexnet.look import terminal
from tests.pictures import picture

ROOT = Path(__file__).parent.parent.parent
DA1 = b"\x1b[c"
NAMES = ("TERM", "TERM_PROGRAM", "LC_TERMINAL", "TMUX", "STY", "ZELLIJ", "INSIDE_EMACS", "NO_COLOR", "COLUMNS", "LINES")
XTERM_WITH_SIXEL = {DA1: b"\x1b[?63;1;2;4;6;9;15;22c"}


class Played:
    """A terminal: it keeps what is written on it, and answers a question the way it was told to."""

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self.answers = answers
        self.screen = b""
        self.master, self.slave = pty.openpty()
        self.ended = threading.Event()
        self.player = threading.Thread(target=self.play)
        self.player.start()

    def play(self) -> None:
        asked = 0
        while not self.ended.is_set():
            if not select.select([self.master], [], [], 0.02)[0]:
                continue
            self.screen += os.read(self.master, 1 << 16)
            for question, answer in self.answers.items():
                at = self.screen.find(question, asked)
                if at >= 0:
                    asked = at + len(question)
                    os.write(self.master, answer)

    def shown(self) -> bytes:
        """What is on the screen once nothing more comes."""
        before = None
        while before != self.screen:
            before = self.screen
            time.sleep(0.06)
        return self.screen

    def typed(self) -> bytes:
        """What a shell would find typed."""
        modes = termios.tcgetattr(self.slave)
        modes[3] &= ~termios.ICANON
        termios.tcsetattr(self.slave, termios.TCSANOW, modes)
        return os.read(self.slave, 1000) if select.select([self.slave], [], [], 0.05)[0] else b""

    def close(self) -> None:
        self.ended.set()
        self.player.join()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def play(monkeypatch):
    """play(answers, **environment) -> a terminal that is stdin and stdout."""
    made = []

    def on(answers: dict[bytes, bytes], **environment: str) -> Played:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm-256color", **environment}.items():
            monkeypatch.setenv(name, value)
        played = Played(answers)
        streams = [os.fdopen(os.dup(played.slave), mode, encoding="utf-8") for mode in ("r", "w")]
        made.extend([played, *streams])
        monkeypatch.setattr(sys, "stdin", streams[0])
        monkeypatch.setattr(sys, "stdout", streams[1])
        return played

    monkeypatch.setattr(terminal, "PATIENCE", 0.4)
    yield on
    monkeypatch.undo()
    for one in reversed(made):
        one.close()


def asked(played: Played, word: str = "auto"):
    """What the canvas is, after which the terminal's modes are as before and nothing of an answer is left."""
    before = termios.tcgetattr(played.slave)
    found = terminal.canvas(word)
    assert termios.tcgetattr(played.slave) == before
    assert played.typed() == b""
    return found


@pytest.mark.parametrize(
    ("environment", "way"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux-0/default,1,0"}, None),
        ({"TERM": "screen-256color", "TERM_PROGRAM": "iTerm.app"}, None),
        ({"TERM": "tmux-256color"}, None),
        ({"TERM_PROGRAM": "WezTerm", "STY": "1.pts-0"}, None),
        ({"TERM_PROGRAM": "WezTerm", "ZELLIJ": "0"}, None),
        ({"TERM": "dumb"}, None),
        ({"TERM": "linux"}, None),
        ({"TERM": ""}, None),
        ({"TERM": "eterm-color", "INSIDE_EMACS": "29"}, None),
    ],
)
def test_what_the_environment_names_is_not_asked(environment, way, play):
    played = play(XTERM_WITH_SIXEL, **environment)
    found = asked(played)
    assert (found and found.way) == way
    assert played.shown() == b""


@pytest.mark.parametrize(
    ("answer", "draws"),
    [
        (b"\x1b[?63;1;2;4;6;9;15;22c", True),  # xterm as a VT340
        (b"\x1b[?62;4c", True),  # foot
        (b"\x1b[?62;22c", False),
        (b"\x1b[?1;2c", False),  # VTE, Apple's
        (b"\x1b[?4;6c", False),  # a VT132: the first number is what it is, not what it has
        (b"\x1b[?64;14;24c", False),
        (b"\x1b[?6c", False),
    ],
)
def test_a_terminal_that_is_asked_for_sixel(answer, draws, play):
    played = play({DA1: answer})
    found = asked(played)
    assert (found is not None) == draws
    assert not draws or found == terminal.Canvas("sixel", 24, 80, 20, 256)
    assert played.shown() == (DA1 + b"\x1b[?1;1;0S" + DA1 if draws else DA1)


@pytest.mark.parametrize("answers", [{}, {DA1: b"what?\r\n"}, {DA1: b"\x1b[?62;4"}, {DA1: b"x" * 3000}])
def test_no_answer_or_garbage_is_no_picture(answers, play):
    played = play(answers)
    begin = time.monotonic()
    assert asked(played) is None
    assert time.monotonic() - begin < 2
    assert played.shown() == DA1


def test_what_was_typed_ahead_stays(play):
    played = play(XTERM_WITH_SIXEL)
    os.write(played.master, b"ls")
    time.sleep(0.1)
    assert terminal.canvas("auto") is None
    assert played.typed() == b"ls"
    assert DA1 not in played.shown()


def test_a_keyboard_elsewhere_is_not_asked(play, monkeypatch, tmp_path):
    played = play(XTERM_WITH_SIXEL)
    other = Played({})
    try:
        for path in (tmp_path / "empty", os.ttyname(other.slave)):
            Path(path).touch()
            with Path(path).open() as stream, monkeypatch.context() as patch:
                patch.setattr(sys, "stdin", stream)
                assert terminal.canvas("auto") is None
        assert played.shown() == other.shown() == b""
    finally:
        other.close()


def test_colours_are_as_many_as_the_terminal_says(play):
    played = play({b"S" + DA1: b"\x1b[?1;0;16S\x1b[?63;4c", **XTERM_WITH_SIXEL})
    found = asked(played)
    assert found is not None and found.colours == 16
    pixels, _ = decoded(found.drawn(picture()))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) == 16


def test_what_is_no_terminal_gets_nothing(monkeypatch, play):
    play(XTERM_WITH_SIXEL, TERM="xterm-kitty")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    for word in ("auto", "never", *terminal.WAYS):
        assert terminal.canvas(word) is None
    with pytest.raises(UsageError, match="--draw always: unknown; known are auto, never, kitty, iterm, sixel"):
        terminal.canvas("always")


def test_a_way_named_outright_is_taken(play):
    played = play({}, TERM="screen")
    assert [getattr(asked(played, word), "way", None) for word in ("kitty", "iterm", "never")] == [
        "kitty",
        "iterm",
        None,
    ]
    assert played.shown() == b""
    assert asked(played, "sixel").colours == 256


CHILD = """
import fcntl, os, subprocess, sys, termios
if len(sys.argv) == 1:  # the shell of the session, its job in front or behind
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for group in (None, 0):
        subprocess.run([sys.executable, __file__, "job"], process_group=group, check=True)
else:
    from alexnet.look import terminal
    print(terminal.canvas("auto") is not None)
"""


def test_a_job_in_front_asks_and_one_behind_is_not_stopped(tmp_path):
    program = tmp_path / "child.py"
    program.write_text(CHILD)
    played = Played(XTERM_WITH_SIXEL)
    try:
        environment = {name: value for name, value in os.environ.items() if name not in NAMES}
        environment |= {"TERM": "xterm", "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, str(program)], stdin=played.slave, stdout=played.slave, timeout=60, check=True,
                       env=environment, start_new_session=True)  # fmt: skip
        assert re.findall(rb"True|False", played.shown()) == [b"True", b"False"]
        assert played.screen.count(DA1) == 2
    finally:
        played.close()


def decoded(sequence: str) -> tuple[np.ndarray, str]:
    """A sixel picture as a VT340 reads it: uint8 (h, w, 3), and what stands behind it."""
    head = re.match(r'\x1bP[0-9;]*q"1;1;(\d+);(\d+)', sequence)
    assert head is not None
    width, height = int(head[1]), int(head[2])
    pixels = np.zeros((height + 6, width, 3), np.uint8)
    set_ = np.zeros((height + 6, width), bool)
    colours, colour, x, y, at = {}, 0, 0, 0, head.end()
    while sequence[at] != "\x1b":
        found = re.compile(r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~])|(\$)|(-)").match(sequence, at)
        assert found is not None, sequence[at : at + 20]
        at = found.end()
        if found[1]:
            colours[int(found[1])] = [round(int(part) * 2.55) for part in found.group(2, 3, 4)]
        elif found[5]:
            colour = int(found[5])
        elif found[9]:
            x = 0
        elif found[10]:
            x, y = 0, y + 6
        else:
            count, letter = (int(found[6]), found[7]) if found[6] else (1, found[8])
            for bit in range(6):
                if (ord(letter) - 63) >> bit & 1:
                    pixels[y + bit, x : x + count] = colours[colour]
                    set_[y + bit, x : x + count] = True
            x += count
            assert x <= width
    assert sequence[at : at + 2] == "\x1b\\"
    assert set_[:height].all() and not set_[height:].any()
    return pixels[:height], sequence[at + 2 :]


def near(found: np.ndarray, expected: np.ndarray) -> float:
    """Mean difference of levels after a blur, which undoes the dithering."""
    a, b = (np.asarray(Image.fromarray(one).resize((12, 8), Image.Resampling.BOX), float) for one in (found, expected))
    return float(np.abs(a - b).mean())


def test_sixel_is_the_picture():
    image = picture(90, 130)
    found, rest = decoded(terminal.Canvas("sixel", line=10).drawn(image, rows=9))
    assert rest == "\n" and found.shape == (90, 130, 3)
    assert near(found, image) < 3 < near(found[::-1], image)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) > 200
    few, _ = decoded(terminal.Canvas("sixel", line=10, colours=4).drawn(image, rows=9))
    assert near(few, image) < 40
    grey = np.full((7, 5, 3), 51, np.uint8)
    assert (decoded(terminal.Canvas("sixel", line=7).drawn(grey, rows=1))[0] == 51).all()


def test_kitty_is_the_picture_in_pieces():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    sequence = terminal.Canvas("kitty").drawn(image, rows=5)
    parts = re.findall(r"\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\", sequence)
    assert "".join(f"\x1b_G{head};{piece}\x1b\\" for head, piece in parts) + "\n" == sequence
    assert parts[0][0] == "a=T,f=100,q=2,r=5,m=1"
    assert [head for head, _ in parts[1:]] == ["q=2,m=1"] * (len(parts) - 2) + ["q=2,m=0"] and len(parts) > 2
    assert all(len(piece) <= 4096 for _, piece in parts) and all(len(piece) % 4 == 0 for _, piece in parts)
    found = Image.open(io.BytesIO(base64.b64decode("".join(piece for _, piece in parts))))
    assert found.format == "PNG" and (np.asarray(found) == image).all()


def test_iterm_is_the_picture():
    image = picture()
    sequence = terminal.Canvas("iterm").drawn(image, rows=4)
    found = re.fullmatch(r"\x1b\]1337;File=inline=1;size=(\d+);height=4;preserveAspectRatio=1:(.*)\x07\n", sequence)
    assert found is not None
    content = base64.b64decode(found[2])
    assert len(content) == int(found[1]) and (np.asarray(Image.open(io.BytesIO(content))) == image).all()


def test_a_picture_fits_the_terminal():
    wide = np.zeros((100, 300, 3), np.uint8)
    for lines, columns, rows in ((24, 80, 10), (8, 80, 6), (24, 30, 5), (1, 1, 1)):
        assert f"r={rows}," in terminal.Canvas("kitty", lines=lines, columns=columns).drawn(wide)
    large = np.zeros((1000, 1000, 3), np.uint8)
    content = terminal.Canvas("iterm").drawn(large)
    assert Image.open(io.BytesIO(base64.b64decode(content[content.index(":") + 1 : -2]))).size == (200, 200)


SHARES = [("tulips", 0.7312), ("roses", 0.25), ("daisy", 0.0177), ("a dandelion, a long one", 0.0011), ("", 0.0)]


def test_bars_are_as_long_as_the_shares():
    lines = terminal.bars(SHARES, width=None, blocks=True, colour=False)
    assert lines[0] == f"  tulips{' ' * 17}   73.1 %  {'█' * 23}▍"  # 32 x 0.7312 = 23.4 cells, to an eighth
    assert (
        lines[1].endswith("   25.0 %  ████████") and lines[2].endswith("    1.8 %  ▋") and lines[4].endswith("  0.0 %")
    )
    eighths = {"█": 8, **{letter: n for n, letter in enumerate("▏▎▍▌▋▊▉", 1)}}
    for share in np.linspace(0, 1, 57):
        drawn = terminal.bar(float(share), 20, blocks=True)
        assert sum(eighths[letter] for letter in drawn) == round(160 * share)
        assert terminal.bar(float(share), 20, blocks=False) == "#" * round(20 * share)


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("width", [12, 14, 20, 27, 30, 37, 50, 80, 300])
def test_no_line_is_wider_than_the_terminal(width, blocks):
    def cells(line: str) -> int:
        return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in line)

    wide = [*SHARES, ("チューリップとバラ", 0.5)]
    lines = terminal.bars(wide, width=width, blocks=blocks, colour=False)
    assert all(cells(line) <= width for line in lines)
    assert all("%" in line for line in lines)
    if width >= 50:
        assert all(label in line for (label, _), line in zip(wide, lines, strict=True))
    if width >= 37:
        assert "█" * 4 in lines[0] or "#" * 4 in lines[0]


@pytest.mark.parametrize(
    ("encoding", "term", "there"),
    [("utf-8", "xterm", True), ("UTF8", None, True), ("ascii", "xterm", False), ("latin-1", "xterm", False),
     ("cp437", "xterm", False), (None, "xterm", False), ("utf-8", "linux", False), ("no-such", "xterm", False)],
)  # fmt: skip
def test_blocks_where_the_encoding_has_them(encoding, term, there, monkeypatch):
    monkeypatch.delenv("TERM", raising=False)
    if term:
        monkeypatch.setenv("TERM", term)
    assert terminal.draws_blocks(encoding) == there


def predicted(tmp_path: Path, *more: str) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(picture()).save(path)
    with pytest.raises(SystemExit) as caught:
        main(["predict", "tiny", str(path), "-k", "2", *more])
    assert not caught.value.code
    sys.stdout.flush()
    return path


def test_predict_in_a_terminal(play, tmp_path):
    played = play({}, TERM="xterm-kitty", COLUMNS="90")
    path = predicted(tmp_path)
    said = played.shown().decode()
    assert said.startswith("\x1b_Ga=T,f=100,q=2,r=10,m=0;") and said.count("\x1b_G") == 1
    lines = re.sub(r"\x1b_G.*?\x1b\\", "", said).split("\r\n")
    assert lines[1] == str(path) and len(lines) == 5 and lines[2].endswith("  0.2 %  \x1b[36m▏\x1b[0m")
    assert all(len(re.sub(r"\x1b\[\d+m", "", line)) <= 90 for line in lines[2:])


def test_predict_without_colour_or_pictures(play, tmp_path):
    played = play(XTERM_WITH_SIXEL, NO_COLOR="1")
    predicted(tmp_path, "--draw", "never")
    assert b"\x1b" not in played.shown() and b"0.2 %  \xe2\x96\x8f" in played.screen


@pytest.mark.parametrize("more", [(), ("--json",), ("--csv",), ("--draw", "kitty")])
def test_predict_into_a_file(more, play, tmp_path, monkeypatch):
    play(XTERM_WITH_SIXEL, TERM="xterm-kitty")
    with (tmp_path / "out").open("w", encoding="ascii", errors="backslashreplace") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        predicted(tmp_path, *more)
        stream.flush()
        said = (tmp_path / "out").read_text()
    assert said and "\x1b" not in said and "\\" not in said


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_a_document_in_a_terminal_is_that_alone(form, play, tmp_path):
    played = play(XTERM_WITH_SIXEL, TERM="xterm-kitty")
    predicted(tmp_path, form)
    assert b"\x1b" not in played.shown()


def test_a_name_moves_no_cursor(play, tmp_path, monkeypatch):
    played = play({}, TERM="xterm-kitty")
    folder = tmp_path / "\x1b[2J"
    folder.mkdir()
    predicted(folder, "--draw", "never")
    assert b"\x1b[2J" not in played.shown() and b"\\x1b[2J" in played.screen
