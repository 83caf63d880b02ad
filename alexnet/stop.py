"""The flag that every long loop reads: a first signal asks it to end well, a second one ends it at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked = False


def requested() -> bool:
    """Whether a signal has asked for the end."""
    return _asked


def _ask(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked:
        os._exit(130)
    _asked = True


@contextmanager
def watch() -> Iterator[None]:
    """Within the block SIGINT, SIGTERM, SIGUSR1 and SIGHUP set the flag; the second of them exits with 130.

    Under nohup SIGHUP stays ignored. Python hands signals to its main thread alone: in another one the block watches
    nothing.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked = False
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, _ask) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked = False  # what the same process does next was not asked to end
