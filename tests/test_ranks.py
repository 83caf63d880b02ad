"""Memory that is kept changes nothing but the pages that are asked for anew."""

import subprocess
import sys

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
