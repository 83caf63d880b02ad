"""Memory that is kept changes nothing but the pages that are asked for anew."""

import os
import subprocess
import sys

import pytest

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
    binding = pytest.importorskip("llvmlite.binding")
    features = binding.get_host_cpu_features()
    if not features.get("avx512f"):
        pytest.skip("a processor without vectors of 512 bits")
    assert "zmm" in assembly()
    own = ",".join(f"{'+' if value else '-'}{name}" for name, value in features.items())
    assert "zmm" not in assembly(NUMBA_CPU_FEATURES=f"{own},+prefer-256-bit")
