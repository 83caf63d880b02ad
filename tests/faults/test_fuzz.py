"""A hundredth of the fuzz, and that it would see what it looks for."""

import numpy as np
import pytest

from alexnet.data.decode import decode
from tests.faults import fuzz

FAULTY = """
import os, signal, sys, time
from alexnet.errors import AlexNetError
from tests.faults import fuzz

def raises(folder): raise ZeroDivisionError("by zero")
def dies(folder): os.kill(os.getpid(), signal.SIGSEGV)
def names_nothing(folder): raise AlexNetError("broken")
def is_slow(folder):
    end = time.process_time() + 0.4
    while time.process_time() < end: pass
def hangs(folder):
    while True: pass
def fills_memory(folder): bytearray(1 << 30)
def prints(folder): print("x", file=sys.stderr)

fuzz.MOST_SECONDS = 0.3
fuzz.KINDS = {name: lambda folder, fault=fault: (lambda rng: fault(folder) if rng.integers(2) else None)
              for name, fault in list(globals().items()) if callable(fault)}
fuzz.main()
"""


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raises", "ZeroDivisionError: by zero"),
        ("dies", "SIGSEGV"),
        ("names_nothing", "an error that names no file: broken"),
        ("is_slow", "0.4 s"),
        ("hangs", "hangs: "),
        ("fills_memory", "MemoryError"),
        ("prints", "printed: x"),
    ],
)
def test_a_fault_is_seen_and_can_be_repeated(monkeypatch, capsys, fault, words):
    monkeypatch.setattr(fuzz, "MOST_SECONDS", 0.3)
    row = fuzz.tried(fault, 8, 5, program=("-c", FAULTY))
    assert not row.held and words in row.seen and " faults, the first: seed 5, case " in row.seen
    first, last, seed = capsys.readouterr().err.splitlines()[1].split()[-3:]
    assert (int(last), seed) == (int(first) + 1, "5")
    again = np.random.default_rng([fuzz.zlib.crc32(fault.encode()), 5, int(first)])
    assert again.integers(2) or fault == "prints"


def test_a_case_is_a_function_of_its_seed():
    kinds = fuzz.seeds()
    for content in kinds.values():
        one, two = (fuzz.mutated(content, np.random.default_rng(3)) for _ in range(2))
        assert one == two


def test_the_seeds_can_be_read_and_most_mutations_differ_from_them():
    rng = np.random.default_rng(0)
    for name, content in fuzz.seeds().items():
        assert decode(content, name).shape[2] == 3
        assert sum(fuzz.mutated(content, rng) != content for _ in range(50)) > 45


@pytest.mark.slow
def test_mutated_pictures():
    assert all(row.held for row in fuzz.images(1000, 1))


@pytest.mark.slow
def test_mutated_containers():
    assert all(row.held for row in fuzz.containers(100, 1))
