"""What is set for a process: memory that is kept, one heap for its threads, vectors of the whole width."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding

PROGRAM = """
import resource
import torch
from alexnet.ranks import keep_memory
if {keep}:
    keep_memory()
def used():
    for _ in range(20):
        torch.ones(8 << 20)
used()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
used()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, keep: bool) -> int:
    """Pages that a process was given while it filled twenty arrays of 32 MiB for the second time."""
    said = subprocess.run([sys.executable, "-c", PROGRAM.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(said.stdout)


def test_memory_that_is_kept_is_not_asked_for_again():
    assert faults(keep=True) < faults(keep=False) / 5


SCALED = """
import numpy as np
from alexnet.ranks import compiler

def scaled(x):
    for i in range(len(x)):
        x[i] *= np.float32(3)

compiled = compiler()(scaled)
compiled(np.ones(64, np.float32))
print(*compiled.inspect_asm().values())
"""


def assembly(**environment: str) -> str:
    there = {name: value for name, value in os.environ.items() if name != "NUMBA_CPU_FEATURES"}
    words = [sys.executable, "-c", SCALED]
    return subprocess.run(words, env=there | environment, check=True, capture_output=True, text=True).stdout


def test_compiled_kernels_use_whole_vectors():
    """Of 512 bits where the processor has them; LLVM would take 256 on Intel's."""
    features = binding.get_host_cpu_features()
    wide = "zmm" if features.get("avx512f") else "ymm"
    if not features.get("avx"):
        assert platform.machine() not in ("x86_64", "AMD64"), "a processor that this test does not know"
        return
    assert wide in assembly()
    own = ",".join(f"{'+' if value else '-'}{name}" for name, value in features.items())
    assert "zmm" not in assembly(NUMBA_CPU_FEATURES=f"{own},+prefer-256-bit")


HEAPS = """
import ctypes
import threading
from pathlib import Path
from alexnet.ranks import keep_memory
if {keep}:
    keep_memory()
here, over = threading.Barrier(9), threading.Barrier(9)
def work():
    kept = bytearray(1_000_000)
    here.wait()
    over.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
here.wait()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(libc.fopen(b"{path}", b"w"))
libc.malloc_info(0, stream)
libc.fclose(stream)
over.wait()
"""


def heaps(path: Path, *, keep: bool) -> int:
    """Heaps of a process with eight threads that hold memory."""
    subprocess.run([sys.executable, "-c", HEAPS.format(keep=keep, path=path)], check=True)
    return path.read_text().count("<heap ")


def test_threads_share_one_heap(tmp_path):
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc has the switch")
    many = heaps(tmp_path / "many", keep=False)
    assert many >= 8 and heaps(tmp_path / "one", keep=True) <= many - 6
