"""A peer in a process of its own, which takes a step each time it is its turn."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from tempfile import TemporaryFile

import torch

from ..errors import AlexNetError


def losses(program: str, batch: int) -> Iterator[float]:
    """A step of `program` for each loss asked for: it is given the batch size and the threads, and waits meanwhile.

    AlexNetError: it failed, with the end of what it said.
    """
    command = [sys.executable, "-m", program, str(batch), str(torch.get_num_threads())]
    with (
        TemporaryFile() as noise,
        subprocess.Popen(  # noqa: S603
            command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise
        ) as child,
    ):
        assert child.stdin is not None and child.stdout is not None
        while True:
            with suppress(BrokenPipeError):  # then there is no answer either
                child.stdin.write(b"\n")
            answer = child.stdout.readline()
            if not answer:
                noise.seek(0)
                raise AlexNetError(f"{program} failed: {noise.read().decode().strip()[-300:]}")
            yield float(answer)
