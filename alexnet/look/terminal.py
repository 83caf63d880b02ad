"""Bars, and pictures inside a terminal: the sequences of kitty, iTerm2 and sixel, and who is known to draw which.

A terminal may print what it does not know. So kitty's and iTerm2's sequences go only to those that name themselves in
the environment, sixel only to one that has said that it draws it, and nothing to a multiplexer, which would keep the
letters and lose the picture. Sources: sw.kovidgoyal.net/kitty/graphics-protocol; iterm2.com/documentation-images.html;
DEC's VT330/VT340 manual, chapter 14; for DA1 and XTSMGRAPHICS xterm's ctlseqs.
"""

import base64
import fcntl
import io
import os
import re
import select
import struct
import sys
import termios
import time
import tty
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.cells import cell_len, set_cell_size

from ..errors import UsageError

Way = Literal["kitty", "iterm", "sixel"]
WAYS: Final[tuple[Way, ...]] = ("kitty", "iterm", "sixel")

BAR, LEAST_BAR = 32, 8  # cells
EIGHTHS: Final = " ▏▎▍▌▋▊▉"
ELLIPSIS: Final = "…"
COLOUR, PLAIN = "\x1b[36m", "\x1b[0m"

ROWS: Final = 10  # lines of a picture
LINE: Final = 20  # pixels of a line where the terminal does not say: a VT340's
PATIENCE: Final = 1.0  # seconds for an answer; every terminal in use gives one, some over slow lines
MOST_ANSWER: Final = 1024  # bytes
CHUNK: Final = 4096  # of base64 in one of kitty's sequences
SIXEL: Final = "4"  # in the answer to DA1
DA1, ATTRIBUTES = b"\x1b[c", rb"\x1b\[\?[0-9]+((?:;[0-9]+)*)c"
# behind the question stands DA1, which all answer: one that has no number of colours is not waited for
COLOURS, HAS_COLOURS = b"\x1b[?1;1;0S" + DA1, rb"(?:\x1b\[\?1;0;([0-9]{1,5})S)?.*" + ATTRIBUTES


@dataclass(frozen=True)
class Canvas:
    """A terminal that draws: how, its lines and columns, the pixels of a line, the colours that a sixel picture has."""

    way: Way
    lines: int = 24
    columns: int = 80
    line: int = LINE
    colours: int = 256

    def drawn(self, image: NDArray[np.uint8], *, rows: int = ROWS) -> str:
        """uint8 (h, w, 3) -> what draws it, `rows` lines high where it fits, with the line's end behind it."""
        height, width = image.shape[:2]
        # a line is about as high as two columns are wide; the prompt is to stay in sight
        rows = max(1, min(rows, self.lines - 2, self.columns * height // (2 * width)))
        picture = Image.fromarray(image)
        high = rows * self.line
        if high < height or self.way == "sixel":
            picture = picture.resize((max(1, round(width * high / height)), high), Image.Resampling.LANCZOS)
        if self.way == "sixel":
            return f"{sixels(picture, self.colours)}\n"
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        content = base64.b64encode(stream.getvalue()).decode()
        if self.way == "iterm":
            size = len(stream.getvalue())
            return f"\x1b]1337;File=inline=1;size={size};height={rows};preserveAspectRatio=1:{content}\x07\n"
        pieces = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
        heads = [f"a=T,f=100,q=2,r={rows},", *["q=2,"] * (len(pieces) - 1)]  # q=2: it is not to answer
        more = [1] * (len(pieces) - 1) + [0]
        parts = (f"\x1b_G{head}m={m};{piece}\x1b\\" for head, m, piece in zip(heads, more, pieces, strict=True))
        return "".join(parts) + "\n"


def canvas(asked: str) -> Canvas | None:
    """What stdout draws pictures on; None: nothing, which is so wherever stdout is no terminal.

    `asked`: "auto" by the environment and, where that leaves it open, by asking the terminal; "never"; or the way
    outright. UsageError for another word.
    """
    if asked not in ("auto", "never", *WAYS):
        raise UsageError(f"--draw {asked}: unknown; known are auto, never, {', '.join(WAYS)}")
    if asked == "never" or not sys.stdout.isatty():
        return None
    found = _named(os.environ) if asked == "auto" else asked
    if found is None:
        return None
    lines, columns, line = _size()
    if found in ("kitty", "iterm"):
        return Canvas("kitty" if found == "kitty" else "iterm", lines, columns, line)
    if found == "ask":
        said = _answer(DA1, ATTRIBUTES)
        if said is None or SIXEL not in said[1].decode().split(";"):
            return None
    said = _answer(COLOURS, HAS_COLOURS)
    colours = int(said[1]) if said is not None and said[1] else 256
    return Canvas("sixel", lines, columns, line, min(max(colours, 2), 256))


def _named(environment: Mapping[str, str]) -> Way | Literal["ask"] | None:
    """The way of the terminal that the environment names; "ask": it may have sixel; None: not to be drawn on.

    TERM goes with a terminal. The other variables are inherited by a terminal started from another: theirs is
    believed for a sequence that all xterms swallow unseen.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    between = any(environment.get(name) for name in ("TMUX", "STY", "ZELLIJ", "INSIDE_EMACS"))
    if between or term in ("", "dumb", "unknown", "linux") or term.startswith(("screen", "tmux", "eterm")):
        return None
    if term in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if term.startswith("xterm") and (program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2"):
        return "iterm"
    return "ask"


def _size() -> tuple[int, int, int]:
    """Lines, columns and the pixels of a line of stdout's terminal; what it does not say is taken as usual."""
    packed = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, bytes(8))
    lines, columns, _, high = struct.unpack("HHHH", packed)
    lines, columns = lines or 24, columns or 80
    line = high // lines
    return lines, columns, line if 4 <= line <= 200 else LINE


def _answer(question: bytes, expected: bytes) -> re.Match[bytes] | None:
    """What the terminal answers; None: nothing as expected in time, or it cannot be asked.

    It is asked where stdin and stdout are the same terminal, nobody has typed ahead, which would be lost, and this
    process is in front: one behind would be stopped. Its modes are put back in every case.
    """
    if not sys.stdin.isatty():
        return None
    keys, screen = sys.stdin.fileno(), sys.stdout.fileno()
    if not os.path.sameopenfile(keys, screen) or not _in_front(keys):
        return None
    before, said, found = termios.tcgetattr(keys), b"", None
    try:
        tty.setcbreak(keys, termios.TCSADRAIN)
        if select.select([keys], [], [], 0)[0]:
            return None
        os.write(screen, question)
        end = time.monotonic() + PATIENCE
        while found is None and len(said) < MOST_ANSWER and (left := end - time.monotonic()) > 0:
            if select.select([keys], [], [], left)[0]:
                said += (more := os.read(keys, MOST_ANSWER))
                if not more:
                    break
                found = re.search(expected, said, re.DOTALL)
    finally:
        # what is left of an answer that came late or is none is thrown away, or the shell would print it
        termios.tcsetattr(keys, termios.TCSADRAIN if found or not said else termios.TCSAFLUSH, before)
    return found


def _in_front(terminal: int) -> bool:
    """Whether this process may set the terminal's modes without being stopped."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return True  # not the terminal that controls this process, so that it stops nobody


def sixels(picture: Image.Image, colours: int) -> str:
    """A picture as DEC's sixel, of at most so many colours, dithered to them: six lines to a row of letters."""
    palette = picture.quantize(colours, method=Image.Quantize.MEDIANCUT)
    flat = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    index, (width, height) = np.asarray(flat), flat.size
    table = np.asarray(palette.getpalette("RGB"), np.uint8).reshape(-1, 3)
    parts = [f'\x1bP0;1;0q"1;1;{width};{height}']
    for colour in np.unique(index).tolist():
        r, g, b = (round(100 * int(part) / 255) for part in table[colour])
        parts.append(f"#{colour};2;{r};{g};{b}")
    for top in range(0, height, 6):
        band = index[top : top + 6]
        bit = (1 << np.arange(len(band)))[:, None]
        rows = [f"#{colour}{_runs(63 + ((band == colour) * bit).sum(0))}" for colour in np.unique(band).tolist()]
        parts += ["$".join(rows), "-"]  # $ goes back to the row's begin, - to the next
    return "".join(parts[:-1]) + "\x1b\\"


def _runs(codes: NDArray[np.int64]) -> str:
    """Sixels by their codes, repeated ones counted."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(codes)) + 1, [len(codes)]])
    runs = zip(codes[starts[:-1]].tolist(), np.diff(starts).tolist(), strict=True)
    return "".join(f"!{count}{chr(code)}" if count > 3 else chr(code) * count for code, count in runs)


def draws_blocks(encoding: str | None) -> bool:
    """Whether eighths of a cell may be printed: not in every encoding, nor on Linux's console, by its font."""
    try:
        (EIGHTHS + "█" + ELLIPSIS).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return os.environ.get("TERM") != "linux"


def bar(share: float, cells: int, *, blocks: bool) -> str:
    """A bar of 0..1 of so many cells, to an eighth of one with `blocks`, else to a whole one."""
    if not blocks:
        return "#" * round(share * cells)
    whole, eighths = divmod(round(share * cells * 8), 8)
    return "█" * whole + EIGHTHS[eighths].strip()


def bars(shares: Sequence[tuple[str, float]], *, width: int | None, blocks: bool, colour: bool) -> list[str]:
    """(label, 0..1) -> a line each: label, percent, bar. With `width`, a terminal's, no line is longer: bars give way
    first, then labels are cut. Labels are printable text.
    """
    longest, cells = max(cell_len(label) for label, _ in shares), BAR
    if width is not None:
        room = width - len("    100.0 %  ")
        if longest + LEAST_BAR > room:
            longest = max(1, min(longest, room - LEAST_BAR if room > 2 * LEAST_BAR else room + 2))
        cells = max(0, min(BAR, room - longest))
    lines = []
    for label, share in shares:
        shown = label
        if cell_len(label) > longest:
            end = ELLIPSIS if blocks else "..."
            shown = set_cell_size(label, max(0, longest - len(end))) + end
        drawn = bar(share, cells, blocks=blocks)
        drawn = f"{COLOUR}{drawn}{PLAIN}" if colour and drawn else drawn
        lines.append(f"  {set_cell_size(shown, longest)}  {100 * share:5.1f} %  {drawn}".rstrip())
    return lines
