"""Run as a program by `pth.py`, never imported: a PyTorch file -> a safetensors file, in a process with limits.

    pth_child.py FROM TO

Prints one JSON object: `seconds` after the imports, and `refused`, the reason, where there is one. It imports nothing
of ours: the folder that it lies in holds files called like the libraries that they speak of.
"""

import json
import os
import re
import resource
import sys
import time
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors.torch import save_file

BEGIN = time.monotonic()
MEMORY = 1 << 30  # bytes of addresses beyond what the libraries take, and of what is written
SECONDS = 5  # of the processor
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
MOST_WRAPPERS = 4


def limit() -> None:
    """Bounds what the rest of this process may take.

    Where the system does not say how many addresses are in use (all but Linux), memory stays unbounded.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    # the libraries' threads would each want addresses for a stack
    torch.set_num_threads(1)
    pages = Path("/proc/self/statm")
    limits = {
        resource.RLIMIT_CPU: int(used.ru_utime + used.ru_stime) + SECONDS,
        resource.RLIMIT_FSIZE: MEMORY,
        resource.RLIMIT_CORE: 0,
    }
    if pages.exists():
        limits[resource.RLIMIT_AS] = int(pages.read_text().split()[0]) * resource.getpagesize() + MEMORY
    for which, most in limits.items():
        hard = resource.getrlimit(which)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, hard if which == resource.RLIMIT_CPU else most))


def check_zip(path: str) -> None:
    """ValueError for a zip with members that are compressed, or larger together than the file: torch makes none."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    size = os.path.getsize(path)  # noqa: PTH202
    declared = sum(member.file_size for member in members)
    if declared > size:
        raise ValueError(f"its members say that they have {declared} bytes; the file has {size}")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("a compressed zip, which torch.save does not write")


def tensors(loaded: Any) -> dict[str, torch.Tensor]:
    """The tensors by name, out of the dictionaries that training programs wrap them in. ValueError: there are none."""
    for _ in range(MOST_WRAPPERS):
        inner = next(
            (loaded[w] for w in WRAPPERS if isinstance(loaded, dict) and isinstance(loaded.get(w), dict)), None
        )
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, dict) or not loaded:
        raise ValueError(f"holds {type(loaded).__name__}, expected tensors by name (a state_dict)")
    found = {}
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"holds {type(value).__name__} at {str(name)[:40]!r}, expected tensors by name")
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise ValueError(f"{name[:40]!r} is no plain tensor ({value.layout}, {value.dtype}, {value.device.type})")
        value = value.detach()
        alone = value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
        found[name] = value if alone else value.clone(memory_format=torch.contiguous_format)
    return found


def reason(fault: BaseException) -> str:
    """Why torch refuses, on one line and without its advice to trust the file."""
    text = str(fault)
    if asked := re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", text):
        return f"asks for {asked[1]}, which is no tensor"
    text = text.rpartition("WeightsUnpickler error: ")[2]
    for advice in ("In PyTorch 2", "Check the documentation"):
        text = text.partition(advice)[0]
    words = " ".join(text.split())
    said = f"{type(fault).__name__}: {words}" if words else type(fault).__name__
    return said if isinstance(fault, ValueError | MemoryError) else f"no file of torch.save, or a damaged one ({said})"


def refuse(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
    """Whatever goes wrong with a stranger's file is why it is refused."""
    print(json.dumps({"refused": reason(fault)[:300], "seconds": time.monotonic() - BEGIN}), flush=True)


if __name__ == "__main__":
    source, target = sys.argv[1:]
    sys.excepthook = refuse
    limit()
    check_zip(source)
    with open(source, "rb") as stream:  # noqa: PTH123
        made = tensors(torch.load(stream, map_location="cpu", weights_only=True))
    save_file(made, target)
    print(json.dumps({"seconds": time.monotonic() - BEGIN}))
