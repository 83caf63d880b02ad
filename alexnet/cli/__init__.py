"""The command line: one file a verb. None imports torch before it runs: `--help` answers at once."""

import os
import sys
from importlib.metadata import version
from typing import NoReturn

from cyclopts import App, CycloptsError
from rich.console import Console

from .. import errors
from . import data, info, predict, train
from .eval import evaluate

app = App(
    name="alexnet",
    help="AlexNet as published: every variant exact, trained on your pictures, judged as the paper did, and used.",
    help_epilogue="RUN: a run folder, a checkpoint folder, `imagenet`, or a variant's name (untrained). "
    "Start: alexnet train digits",
    help_format="plaintext",
    help_formatter="plain",
    version_flags=["--version"],
    version=lambda: version("alexnet"),
)

app.command(train.train)
app.command(evaluate, name="eval")
app.command(predict.predict)
app.command(info.info)
app.command(data.app)


class _Console(Console):
    """A console whose reader may go away (`| head`): it falls silent, and the work goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def console_for(json_wanted: bool) -> Console:
    """Lines for a person: on stdout, or on stderr where stdout carries one JSON document. Names are no markup."""
    file = sys.stderr if json_wanted else sys.stdout
    return _Console(file=file, soft_wrap=True, markup=False, emoji=False, highlight=False)


def _fail(message: str, code: int) -> NoReturn:
    print(f"alexnet: {message}", file=sys.stderr)
    raise SystemExit(code)


def main(tokens: list[str] | None = None) -> None:
    """Runs a command; a user's mistake is one line on stderr and the exit code of `errors.py`."""
    debug = os.environ.get("ALEXNET_DEBUG") == "1"
    try:
        try:
            app(tokens, exit_on_error=False, print_error=False)
        finally:
            sys.stdout.flush()  # a pipe that nobody reads is found out here, not in the interpreter's last moments
    except CycloptsError as reason:
        _fail(" ".join(str(reason).split()), errors.UsageError.code)
    except errors.AlexNetError as reason:
        if debug:
            raise
        _fail(str(reason), reason.code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: nothing more to say
    except OSError as reason:
        if debug or reason.filename is None:
            raise
        _fail(f"{os.fsdecode(reason.filename)}: {reason.strerror}", errors.AlexNetError.code)
    except (MemoryError, RuntimeError) as reason:
        # torch has an error of its own for a GPU and none for the processor's memory
        full = (
            isinstance(reason, MemoryError)
            or "OutOfMemory" in type(reason).__name__
            or "allocate memory" in str(reason)
        )
        if debug or not full:
            raise
        _fail("out of memory; lower --batch-size, or raise --accumulate", errors.AlexNetError.code)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
