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


PARTS = """
import os
import sys
import threading
import numpy as np
import torch
from alexnet import ranks
torch.set_num_threads(3)
torch.ones(1 << 22).add_(1)  # torch's threads are there
def count(x):
    who.add(threading.get_ident())
    x += 1
x = np.zeros(99_999, np.float32)
who = set()
for _ in range(200):
    ranks.share(count, [x])
assert (x == 200).all(), "a part was left out, or done twice"
class Odd(Exception):
    pass
def fails(x):
    raise Odd("no")
for _ in range(3):
    try:
        ranks.share(fails, [x])
    except Odd:
        continue
    sys.exit("the error was lost")
if os.fork() == 0:
    y = np.zeros(999, np.float32)
    ranks.share(count, [y])
    os._exit(0 if (y == 1).all() else 1)
_, status = os.wait()
assert status == 0
print(ranks._team() is not None, len(who), {thread.name[:6] for thread in threading.enumerate()})
"""


@pytest.mark.parametrize("system", ["Linux", "Other"])
def test_a_kernel_gets_each_part_once_wherever_its_threads_come_from(system):
    """From torch's own threads, or where those cannot be had from a pool; errors come out, and a fork goes on."""
    program = f"import platform\nplatform.system = lambda: {system!r}\n{PARTS}"
    said = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program], capture_output=True, text=True, timeout=120
    )
    assert said.returncode == 0, said.stderr
    team, threads, names = said.stdout.split(" ", 2)
    if system == "Linux" and platform.system() == "Linux":
        assert team == "True" and "kernel" not in names
    else:
        assert team == "False" and "kernel" in names
    assert 1 <= int(threads) <= (3 if team == "True" else 4)
