"""The command line: one file a verb. None imports torch before it runs: `--help` answers at once."""

import os
import re
import sys
import traceback
from importlib.metadata import version
from typing import IO, NoReturn

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter, UnusedCliTokensError
from rich.console import Console

from .. import errors
from . import bench, data, info, predict, train
from .eval import evaluate


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


app = App(
    name="alexnet",
    help="AlexNet as published: every variant exact, trained on your pictures, judged as the paper did, and used.\n\n"
    "RUN: a run folder, a checkpoint folder, a model file (.safetensors, .pth), `imagenet`, or a variant's name "
    "(untrained).\n"
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
app.command(bench.bench)
app.command(data.app)


class _Console(Console):
    """A console whose reader may go away (`| head`): it falls silent, and the work goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence(self.file)


def silence(stream: IO[str]) -> None:
    """Sends nowhere what is still written to a stream that nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def console_for(json_wanted: bool) -> Console:
    """Lines for a person: on stdout, or on stderr where stdout carries one JSON document. Names are no markup."""
    file = sys.stderr if json_wanted else sys.stdout
    return _Console(file=file, soft_wrap=True, markup=False, emoji=False, highlight=False)


def _fail(message: str, code: int) -> NoReturn:
    if os.environ.get("ALEXNET_DEBUG") == "1":
        traceback.print_exc()
    print(f"alexnet: {message}", file=sys.stderr)
    raise SystemExit(code)


def main(tokens: list[str] | None = None) -> None:
    """Runs a command; a user's mistake is one line on stderr and the exit code of `errors.py`."""
    try:
        try:
            app(tokens, exit_on_error=False, print_error=False)
        finally:
            sys.stdout.flush()  # a pipe that nobody reads is found out here, not in the interpreter's last moments
    except UnusedCliTokensError as reason:
        _fail(f"{' '.join(reason.unused_tokens or ())}: not expected here; see --help", errors.UsageError.code)
    except CycloptsError as reason:
        _fail(" ".join(str(reason).split()), errors.UsageError.code)
    except errors.AlexNetError as reason:
        _fail(str(reason), reason.code)
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError as reason:
        if reason.filename is None:
            raise
        _fail(f"{os.fsdecode(reason.filename)}: {reason.strerror}", errors.AlexNetError.code)
    except (MemoryError, RuntimeError) as reason:
        # torch has an error of its own for a GPU and none for the processor's memory
        full = (
            isinstance(reason, MemoryError)
            or "OutOfMemory" in type(reason).__name__
            or "allocate memory" in str(reason)
        )
        if not full:
            raise
        _fail("out of memory; lower --batch-size, or raise --accumulate", errors.AlexNetError.code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
