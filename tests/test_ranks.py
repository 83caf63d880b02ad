"""What is set for a process: memory that is kept, one heap for its threads, vectors of the whole width."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding

from alexnet import ranks

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
import time
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
for bad in (0, 50_000, 99_998):  # in the first part, in the second, in the last
    x[:] = 0
    x[bad] = 7
    def fails(x):
        if (x == 7).any():
            raise Odd("no")
    try:
        ranks.share(fails, [x])
    except Odd:
        continue
    sys.exit("the error was lost")
def fails_at_once(number, frame):
    raise KeyboardInterrupt
import signal
signal.signal(signal.SIGALRM, fails_at_once)
lost = 0
for _ in range(300 if ranks._team() else 0):  # a pool's locks are not made for this
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        while True:
            ranks.share(count, [x])
            if signal.getitimer(signal.ITIMER_REAL)[0] == 0:
                time.sleep(0.1)
                lost += 1
                break
    except KeyboardInterrupt:
        pass
if os.fork() == 0:
    y = np.zeros(999, np.float32)
    ranks.share(count, [y])
    os._exit(0 if (y == 1).all() else 1)
_, status = os.wait()
assert status == 0
print(ranks._team() is not None, len(who), lost, {thread.name[:6] for thread in threading.enumerate()})
"""


@pytest.mark.parametrize("system", ["Linux", "Other"])
def test_a_kernel_gets_each_part_once_wherever_its_threads_come_from(system):
    """From torch's own threads, or where those cannot be had from a pool; errors come out, and a fork goes on."""
    program = f"import platform\nplatform.system = lambda: {system!r}\n{PARTS}"
    said = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program], capture_output=True, text=True, timeout=120
    )
    assert said.returncode == 0, said.stderr
    team, threads, lost, names = said.stdout.split(" ", 3)
    assert int(lost) == 0
    if system == "Linux" and platform.system() == "Linux":
        assert team == "True" and "kernel" not in names
    else:
        assert team == "False" and "kernel" in names
    assert 2 <= int(threads) <= (3 if team == "True" else 4)


@pytest.mark.parametrize("there", [True, False])
def test_spare_memory_is_a_quarter_or_half_of_what_is_free(there, monkeypatch):
    free = f"MemTotal: 8000 kB\n{'MemAvailable: 3 kB' if there else 'Other: 1 kB'}\n"
    own = Path.read_text
    meminfo = Path("/proc/meminfo")
    monkeypatch.setattr(Path, "read_text", lambda self: free if self == meminfo else own(self))
    monkeypatch.setattr(ranks, "memory", lambda device: 40_000)
    assert ranks.spare_memory() == (3 * 1024 // 2 if there else 10_000)


def test_the_smallest_limit_of_memory_counts(tmp_path):
    """Of a control group and those around it, in either of their two forms, as far as they can be seen."""
    proc, mounted = tmp_path / "cgroup", tmp_path / "fs"
    for path, said in {
        "memory.max": "max", "jobs/memory.max": "9000\n", "jobs/mine/memory.max": "max\n",
        "memory/memory.limit_in_bytes": "9223372036854771712", "memory/user/memory.limit_in_bytes": "7000",
    }.items():  # fmt: skip
        (mounted / path).parent.mkdir(parents=True, exist_ok=True)
        (mounted / path).write_text(said)
    for groups, found in {
        "0::/jobs/mine\n": [9000],
        "0::/\n": [],
        "0::/elsewhere/unseen\n": [],
        "9:memory:/user/unseen\n1:cpu,cpuacct:/user\n": [7000, 9223372036854771712],
        "": [],
    }.items():
        proc.write_text(groups)
        assert ranks._limits(proc, mounted) == found, groups
    assert ranks._limits(tmp_path / "none", mounted) == []


def test_a_limit_of_addresses_is_one_of_memory():
    program = "import torch\nfrom alexnet.ranks import memory\nprint(memory(torch.device('cpu')))"
    limited = f'ulimit -v 12000000; exec {sys.executable} -c "{program}"'
    said = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=True)
    assert int(said.stdout) <= 12_000_000 * 1024
