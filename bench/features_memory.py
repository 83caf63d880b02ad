"""Resident memory of `alexnet features` while the pictures go through it.

The pictures of FOLDER, as often as it takes, make one tar of COUNT members. The command runs as a process of its own;
its memory is read from /proc ten times a second, and how far it is from the state it keeps. Linux only.

    python bench/features_memory.py FLOWERS/train --count 20000 --run tiny --layers conv5:relu,fc7
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


def tar_of(folder: Path, count: int, path: Path) -> None:
    pictures = sorted(p for p in folder.rglob("*") if p.is_file())
    with tarfile.open(path, "w") as tar:
        for number, picture in zip(range(count), itertools.cycle(pictures), strict=False):
            tar.add(picture, f"{picture.parent.name}/{number:06d}-{picture.name}")


def watched(command: list[str], state: Path) -> tuple[dict[int, float], float]:
    """Pictures done -> the most MB resident while the next ones were under way; and the seconds."""
    begin, most = time.monotonic(), dict[int, float]()
    with subprocess.Popen(command) as running:
        while running.poll() is None:
            try:
                resident = int(Path(f"/proc/{running.pid}/statm").read_text().split()[1]) * PAGE / 1e6
                done = json.loads(state.read_text())["done"] if state.exists() else 0
            except (OSError, ValueError, IndexError):  # it ended, or the state was just being replaced
                continue
            most[done] = max(most.get(done, 0), resident)
            time.sleep(0.1)
    if running.returncode:
        raise SystemExit(f"the command ended with {running.returncode}")
    return most, time.monotonic() - begin


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("--count", type=int, default=20_000)
    p.add_argument("--run", default="tiny")
    p.add_argument("--layers", default="conv5:relu,fc7")
    p.add_argument("--kinds", nargs="+", default=["npz", "h5", "mat", "parquet"])
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as place:
        tar = Path(place) / "pictures.tar"
        tar_of(a.folder, a.count, tar)
        for kind in a.kinds:
            out = Path(place) / f"f.{kind}"
            command = [
                sys.executable,
                "-m",
                "alexnet",
                "features",
                a.run,
                str(tar),
                "--layers",
                a.layers,
                "--out",
                str(out),
            ]
            most, seconds = watched(command, out.with_name(f".{out.name}.state"))
            print(
                f".{kind}: {out.stat().st_size / 1e6:.1f} MB, {a.count / seconds:.0f} pictures a second; resident MB:"
            )
            print("  " + ", ".join(f"{done}: {size:.0f}" for done, size in sorted(most.items())))
            middle = [size for done, size in most.items() if 0 < done < a.count]
            between, last = f"{min(middle):.0f} to {max(middle):.0f}", f"{most[a.count]:.0f}"
            print(f"  from the first state to the last {between}; put together {last}")
            out.unlink()


if __name__ == "__main__":
    main()
