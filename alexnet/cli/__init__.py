"""The command line: one file a verb. None imports torch before it runs: `--help` answers at once."""

import errno
import os
import re
import sys
import traceback
from importlib.metadata import version
from io import TextIOWrapper
from typing import Any, Final, NoReturn, TextIO, cast

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter, UnusedCliTokensError
from rich.console import Console

from .. import errors
from ..data.cache import OFFLINE
from . import (
    bench,
    compare,
    data,
    explain,
    exporting,
    features,
    figure,
    importing,
    info,
    neighbours,
    predict,
    probe,
    report,
    train,
)
from .eval import evaluate

# Before torch is loaded, which reads both once (docs/log.md has what they give). The threads of GNU's OpenMP wait awake
# for more work, on cores that kernels of our own and decoders want: less than a millisecond of it lets one small layer
# follow another. And maps lie on large pages, of which the processor knows all at once.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def whole_numbers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuses 1.5 where a whole number is wanted, which cyclopts would round."""
    for argument in arguments:
        if argument.hint in (int, int | None):
            for token in argument.tokens:
                if not re.fullmatch(r"[+-]?\d+", token.value):
                    raise errors.UsageError(f"{token.keyword} {token.value}: expected a whole number")


def _shown(default: object) -> object:
    """What help says of a default: of a flag nothing."""
    return None if default is None or default is False else default


FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the system's words for no more room

app = App(
    name="alexnet",
    help="AlexNet as published: every variant exact, trained on your pictures, judged as the paper did, and used.\n\n"
    "RUN: a run folder, a checkpoint folder, a model file (.safetensors, .pth, .onnx, .caffemodel, ...), `imagenet`, "
    "or a variant's name (untrained).\n"
    "--offline, with any verb: nothing is fetched.\n"
    "Start: alexnet train digits",
    # a flag has no --no- twin; choices stand in the descriptions
    default_parameter=Parameter(negative="", show_choices=False, show_default=_shown),
    config=whole_numbers,
    suppress_keyboard_interrupt=False,
    help_format="plaintext",
    help_formatter="plain",
    version_flags=["--version"],
    version=lambda: version("alexnet"),
)

app.command(train.train)
app.command(evaluate, name="eval")
app.command(predict.predict)
app.command(info.info)
app.command(report.report)
app.command(bench.bench)
app.command(data.app)
app.command(figure.app)
app.command(explain.explain)
app.command(importing.import_model, name="import")
app.command(exporting.export_model, name="export")
app.command(features.features)
app.command(neighbours.neighbours)
app.command(compare.compare)
app.command(probe.probe)


def visible(text: str) -> str:
    """`text` in which a stranger's name moves no cursor: what a terminal obeys is escaped, lines end where they do."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def counted(count: int, thing: str) -> str:
    """`1 fault`, `2 faults`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


class _Console(Console):
    """A console on which names are no markup, and no orders."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(visible(one) if isinstance(one, str) else one for one in objects), **options)


class _Lines:
    """A stream whose reader may go away (`| head`) or whose disk may fill: it falls silent, and the work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.encoding = stream.encoding

    def write(self, text: str) -> int:
        """`text`, as far as somebody takes it."""
        try:
            return self.stream.write(text)
        except OSError as reason:
            self._lost(reason)
            return len(text)

    def flush(self) -> None:
        """What was written, as far as somebody takes it."""
        try:
            self.stream.flush()
        except OSError as reason:
            self._lost(reason)

    def _lost(self, reason: OSError) -> None:
        silence(self.stream)
        if not isinstance(reason, BrokenPipeError) and self.stream is not sys.stderr:
            say(f"alexnet: standard output: {reason.strerror}; nothing more is printed")

    def isatty(self) -> bool:
        """Whether it is a terminal that draws."""
        return self.stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")

    def fileno(self) -> int:
        """Its descriptor."""
        return self.stream.fileno()


def silence(stream: TextIO) -> None:
    """Sends nowhere what is still written to a stream that nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def say(line: str) -> None:
    """A line for a person on stderr, whatever has become of it."""
    lines = _Lines(sys.stderr)
    lines.write(f"{visible(line)}\n")
    lines.flush()


def console_for(json_wanted: bool) -> Console:
    """Lines for a person: on stdout, or on stderr where stdout carries one JSON document."""
    lines = _Lines(sys.stderr if json_wanted else sys.stdout)
    # whether it is a terminal the stream says, not FORCE_COLOR: bars have no place in the log of a build
    return _Console(
        file=cast(TextIO, lines),
        force_terminal=lines.isatty(),
        soft_wrap=True,
        markup=False,
        emoji=False,
        highlight=False,
    )


def _streams() -> None:
    """Opens on nothing what was closed of the three streams, or a file of a run would get its number, and what is
    printed; what a stream's encoding lacks is printed as Python escapes it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 for the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, code: int) -> NoReturn:
    if os.environ.get("ALEXNET_DEBUG") == "1":
        traceback.print_exc()
    say(f"alexnet: {message}")
    raise SystemExit(code)


def _flush() -> None:
    """Empties stdout: what nobody takes is found out here, not in the interpreter's last moments."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError as reason:
        silence(sys.stdout)
        _fail(f"standard output: {reason.strerror}", errors.AlexNetError.code)


def main(tokens: list[str] | None = None) -> None:
    """Runs a command; a user's mistake is one line on stderr and the exit code of `errors.py`."""
    _streams()
    words = sys.argv[1:] if tokens is None else tokens
    if "--offline" in words:
        os.environ[OFFLINE] = "1"  # for the processes that this one starts, too
    try:
        try:
            app([word for word in words if word != "--offline"], exit_on_error=False, print_error=False)
        finally:
            _flush()
    except UnusedCliTokensError as reason:
        _fail(f"{' '.join(reason.unused_tokens or ())}: not expected here; see --help", errors.UsageError.code)
    except CycloptsError as reason:
        _fail(" ".join(str(reason).split()), errors.UsageError.code)
    except errors.AlexNetError as reason:
        _fail(str(reason), reason.code)
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError as reason:
        if reason.filename is None and reason.errno not in FULL:
            raise
        if reason.filename is None:
            silence(sys.stdout)  # it may be this that is full
            _fail(f"cannot write: {reason.strerror}", errors.AlexNetError.code)
        _fail(f"{os.fsdecode(reason.filename)}: {reason.strerror}", errors.AlexNetError.code)
    except (MemoryError, RuntimeError) as reason:
        if not errors.out_of_memory(reason):
            raise
        _fail("out of memory; a smaller --batch-size, where the command has one, takes less", errors.AlexNetError.code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
