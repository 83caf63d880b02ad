"""Every error a user can meet, each with its exit code. The message is one line: what, where, what to do."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple


class AlexNetError(Exception):
    """A fault that a user can act on; the command line prints it as one line and exits with `code`."""

    code = 1


class Misfit(NamedTuple):
    """Something of a model file that is not as the variant has it; None: not there, or none is known."""

    what: str
    expected: object | None
    found: object | None

    def words(self) -> str:
        """As a message has it."""
        if self.found is None:
            return f"{self.what} is missing"
        return (
            f"{self.what} is not known"
            if self.expected is None
            else f"{self.what} is {self.found}, expected {self.expected}"
        )


def out_of_memory(reason: BaseException) -> bool:
    """Whether this is what torch or Python raises where memory ends.

    torch has a kind of its own for a GPU alone. oneDNN, where what it has planned finds no room, says that it cannot
    create the primitive; what it cannot do at all has no primitive descriptor, and other words.
    """
    words = str(reason)
    if isinstance(reason, MemoryError) or "OutOfMemory" in type(reason).__name__:
        return True
    return "allocate memory" in words or words == "could not create a primitive"


def one_line(reason: BaseException) -> str:
    """What is said of a fault, in 200 letters at most; its kind, where a library has no words for it."""
    words = str(reason.strerror or reason) if isinstance(reason, OSError) else str(reason)
    return " ".join(words.split())[:200] or type(reason).__name__


def did_you_mean(name: str, known: Iterable[str], *, under: str = "") -> str:
    """`; did you mean paper?` for papper, to end a message with, and `under` before the name; empty where none of the
    known names is near.
    """
    near = get_close_matches(name.lower(), known, n=1)
    return f"; did you mean {under}{near[0]}?" if near else ""


class UsageError(AlexNetError):
    """A wrong option, configuration or run folder."""

    code = 2


class DataError(AlexNetError):
    """A data set that cannot be used."""

    code = 3


class BadImage(DataError):
    """One image that cannot be decoded: `path` names it, `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def with_hint(self) -> "BadImage":
        """The same, with what to do, for a command that has the option."""
        return BadImage(self.path, f"{self.reason}; --bad-images skip leaves such pictures out")


def none_decoded(count: int, first: object) -> DataError:
    """What to raise where not one of so many pictures can be decoded; `first` says which and why."""
    return DataError(f"none of {count} pictures can be decoded; the first: {first}")


class TooLarge(BadImage):
    """One image that is over a limit, and was refused before a pixel of it was read."""


class WeightsError(AlexNetError):
    """Weights or a checkpoint that cannot be read, or that do not fit.

    `misfits`: all that does not fit, where the message names the first of it: what, expected, found.
    """

    code = 4

    def __init__(self, message: str, misfits: Sequence[Misfit] = ()) -> None:
        super().__init__(message)
        self.misfits = misfits


def listed(misfits: Sequence[Misfit], most: int) -> str:
    """The first misfits in words, to end a message with: `conv1.weight is (1,), expected (2,); and 3 more`."""
    said = [one.words() for one in misfits[:most]]
    return "; ".join(said) + (f"; and {len(misfits) - most} more" if len(misfits) > most else "")


class NumbersError(AlexNetError):
    """A loss or a weight that is not finite."""

    code = 5


class GateMissed(AlexNetError):
    """A result below the one asked for (`--min-top1`)."""

    code = 6


class Stopped(AlexNetError):
    """Stopped by a signal with the state saved; the same command goes on. `result`: what a training had reached."""

    code = 75
    result: dict[str, Any] | None = None
