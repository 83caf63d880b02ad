"""A PyTorch file of a stranger -> a safetensors file, made by a process that was started for it and has limits.

`torch.load(weights_only=True)` builds tensors and nothing else, but it has been got round twice (CVE-2025-32434,
CVE-2026-24747). What such a file could do is bounded: `pth_child.py` may take 1 GB more than its libraries and 5 s of
the processor, and what it hands over is judged as any file of a stranger is.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..data.samples import shown
from ..errors import WeightsError

CHILD = Path(__file__).with_name("pth_child.py")
PATIENCE = 300  # seconds, of a slow disk too


@contextmanager
def converted(path: Path) -> Iterator[Path]:
    """A safetensors file of the tensors in a .pth or .pt, there while the block lasts.

    WeightsError, on one line, where the file asks for anything but tensors, is damaged, or wants more than the limits.
    """
    with tempfile.TemporaryDirectory(prefix="alexnet-") as folder:
        made = Path(folder) / "model.safetensors"
        said, code = child(path, made)
        if "refused" in said:
            raise WeightsError(f"{shown(str(path))}: not read: {shown(str(said['refused']))}")
        if code:
            raise WeightsError(f"{shown(str(path))}: not read: {_ended(code)}")
        yield made


def child(path: Path, made: Path) -> tuple[dict[str, Any], int]:
    """Runs the child on `path`; what it says, and its exit status."""
    # -P: nothing is imported from the folder that the user is in, nor from the child's own
    command = [sys.executable, "-P", str(CHILD), os.path.abspath(path), str(made)]  # noqa: PTH100
    try:
        done = subprocess.run(  # noqa: S603
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False, cwd=made.parent
        )
    except subprocess.TimeoutExpired:
        return {"refused": f"not done after {PATIENCE} s"}, 1
    if os.environ.get("ALEXNET_DEBUG") == "1":
        sys.stderr.write(done.stderr.decode(errors="replace"))
    try:
        return dict(json.loads(done.stdout)), done.returncode
    except (ValueError, TypeError, RecursionError):  # it said nothing, or was ended in the middle
        return {}, done.returncode


def _ended(code: int) -> str:
    if code == -signal.SIGXCPU:
        return "it takes more than the 5 s of processor time that a file may"
    if code < 0:
        return f"the process that read it was ended by signal {-code}"
    return "the process that read it could not begin"
