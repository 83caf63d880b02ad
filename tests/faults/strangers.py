"""Model files of strangers: the malicious ones through the command itself, and good ones with seeded changes."""

import io
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save

from alexnet.errors import UsageError, WeightsError
from alexnet.network.build import build
from alexnet.weights import pth
from alexnet.weights.recognise import read_model
from alexnet.weights.unpickle import read_npy, read_pickle
from tests.faults import Row
from tests.strangers import CANARY, PTH

SECONDS = 5.0  # of a refusal, after the child's imports
HANG = 2.0  # seconds of one changed file


def pytorch_files(times: int, seed: int) -> list[Row]:
    """`times` of the malicious PyTorch files, drawn: exit code 4, one line, no canary, nothing left behind."""
    names = [str(name) for name in np.random.default_rng(seed).permutation(sorted(PTH))[:times]]
    wrong, slowest = list[str](), 0.0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            path, temporary = Path(folder) / "x.pth", Path(folder) / "temporary"
            temporary.mkdir()
            PTH[name](path)
            said, code = pth.child(path, temporary / "made")
            slowest = max(slowest, said.get("seconds", SECONDS if code == -signal.SIGXCPU else math.inf))
            command = [sys.executable, "-m", "alexnet", "info", str(path)]
            environment = os.environ | {"TMPDIR": str(temporary)}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            one_line = done.stderr.startswith(f"alexnet: {path}: not read: ") and done.stderr.count("\n") == 1
            left = sorted(p.name for p in Path(folder).iterdir()) != ["temporary", "x.pth"] or any(temporary.iterdir())
            if done.returncode != 4 or not one_line or left or (Path(folder) / CANARY).exists():
                wrong.append(name)
    seen = f"{len(names) - len(wrong)} of {len(names)}, slowest {slowest:.2f} s" + (
        f"; {', '.join(wrong)}" if wrong else ""
    )
    asked = f"code 4, one line, no canary, nothing left, within {SECONDS:.0f} s of the imports"
    return [Row("malicious PyTorch files", len(names), asked, seen, not wrong and slowest <= SECONDS)]


def changed(content: bytes, draw: np.random.Generator) -> bytes:
    """`content` with a few bytes exchanged, cut or doubled, most of them where its structure is: near the beginning."""
    made = bytearray(content)
    for _ in range(int(draw.integers(1, 5))):
        at = int(draw.integers(min(len(made), 3000) if draw.random() < 0.8 else len(made)))
        span = int(draw.integers(1, 40))
        match draw.integers(4):
            case 0:
                made[at] = draw.integers(256)
            case 1:
                del made[at : at + span]
            case 2:
                made[at:at] = made[at : at + span]
            case _:
                made[at : at + 8] = int(draw.integers(1 << 62)).to_bytes(8, "little")
        if not made:
            return b""
    return bytes(made)


def model_files(times: int, seed: int) -> list[Row]:
    """`times` changes to a file of each kind that is read in this process: a value, or one line."""
    state = {name: value.half() for name, value in build("tiny", classes=2).state_dict().items()}
    arrays = {name: [value.numpy()] for name, value in state.items() if "fc" not in name}
    objects = io.BytesIO()
    np.save(objects, np.array(arrays, object), allow_pickle=True)
    kinds: dict[str, tuple[bytes, Callable[[Path], Any]]] = {
        "safetensors": (save(state), lambda path: read_model(path, "safetensors")),
        "npy": (objects.getvalue(), read_npy),
        "pickle": (objects.getvalue()[128:], read_pickle),
    }
    return [_read_or_refused(what, content, read, times, seed) for what, (content, read) in kinds.items()]


def _read_or_refused(what: str, content: bytes, read: Callable[[Path], Any], times: int, seed: int) -> Row:
    draw, refused, slowest, wrong = np.random.default_rng(seed), 0, 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        for _ in range(times):
            path.write_bytes(changed(content, draw))
            begin = time.process_time()
            try:
                read(path)
            except (WeightsError, UsageError) as reason:
                refused += 1
                wrong += not str(reason).isprintable()
            slowest = max(slowest, time.process_time() - begin)
    seen = f"{refused} refused, {times - refused} read, {wrong} not on one line, slowest {slowest:.2f} s"
    return Row(
        f"changed {what} files",
        times,
        f"read or refused on one line, {HANG:.0f} s",
        seen,
        not wrong and slowest <= HANG,
    )
