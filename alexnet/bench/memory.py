"""How much memory this process has, and had at most, as Linux counts it."""

from pathlib import Path

PEAK = Path("/proc/self/clear_refs")  # Linux: writing 5 sets the peak of the resident size back


def resident(name: str) -> int:
    """A line of the account of this process's memory, `VmRSS` or `VmHWM`, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
